package softtoken

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/tlv"
)

var message = []byte("a message of no importance")

func sum(h crypto.Hash, m []byte) []byte {
	w := h.New()
	w.Write(m)
	return w.Sum(nil)
}

// verifyECDSA signs with every algorithm and checks.
func (c card) verifyECDSA(reference byte, k *pubkey.Key) {
	c.Helper()
	for algorithm, h := range map[byte]crypto.Hash{0x71: crypto.SHA1, 0x72: crypto.SHA224, 0x73: crypto.SHA256, 0x74: crypto.SHA384, 0x75: crypto.SHA512} {
		if err := k.Verify(h, sum(h, message), c.do(apdu.OK, useCommand(0x68, reference, algorithm, message))); err != nil {
			c.Errorf("algorithm %02X: %v", algorithm, err)
		}
	}
	digest := sha1.Sum(message) // the longest that fits any curve
	sig := c.do(apdu.OK, useCommand(0x68, reference, 0x70, digest[:]))
	var der struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &der); err != nil || len(rest) != 0 {
		c.Errorf("signature is no DER: %X", sig)
	}
	if err := k.Verify(crypto.SHA1, digest[:], sig); err != nil {
		c.Error(err)
	}
}

func (c card) verifyECDH(reference byte, k *pubkey.Key) {
	c.Helper()
	d, x, y, err := k.Curve.GenerateKey(rand.Reader)
	if err != nil {
		c.Fatal(err)
	}
	point := k.Curve.Marshal(x, y)
	want := k.Curve.Marshal(k.Curve.ScalarMult(k.X, k.Y, d))
	if got := c.do(apdu.OK, useCommand(0x62, reference, 0x80, point)); !bytes.Equal(got, want) {
		c.Errorf("ECDH: %X, want %X", got, want)
	}
	point[len(point)-1] ^= 1
	c.do(apdu.WrongData, useCommand(0x62, reference, 0x80, point))
	c.do(apdu.WrongLength, useCommand(0x62, reference, 0x80, point[1:]))
}

func (c card) verifyRSA(reference byte, k *rsa.PublicKey) {
	c.Helper()
	check := func(what string, err error) {
		c.Helper()
		if err != nil {
			c.Errorf("RSA %s: %v", what, err)
		}
	}
	sign := func(algorithm byte, input []byte) []byte {
		c.Helper()
		return c.do(apdu.OK, useCommand(0x68, reference, algorithm, input))
	}
	for algorithm, h := range map[byte]crypto.Hash{0x31: crypto.SHA1, 0x32: crypto.SHA224, 0x33: crypto.SHA256, 0x34: crypto.SHA384, 0x35: crypto.SHA512} {
		check("PKCS#1", rsa.VerifyPKCS1v15(k, h, sum(h, message), sign(algorithm, message)))
	}
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
	for algorithm, h := range map[byte]crypto.Hash{0x41: crypto.SHA1, 0x43: crypto.SHA256, 0x44: crypto.SHA384, 0x45: crypto.SHA512} {
		if k.Size() < 2*h.Size()+2 {
			c.do(apdu.WrongLength, useCommand(0x68, reference, algorithm, message))
			continue
		}
		check("PSS", rsa.VerifyPSS(k, h, sum(h, message), sign(algorithm, message), pss))
		check("PSS of a hash", rsa.VerifyPSS(k, h, sum(h, message), sign(0x40, sum(h, message)), pss))
	}
	digest := sha256.Sum256(message)
	info := append(unhex(c, "3031300d060960864801650304020105000420"), digest[:]...)
	want := sign(0x30, info)
	check("PKCS#1 of a DigestInfo", rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], want))
	// What OpenSC sends as P2=20: the whole block.
	block := append([]byte{0, 1}, bytes.Repeat([]byte{0xFF}, k.Size()-3-len(info))...)
	block = append(append(block, 0), info...)
	if got := sign(0x20, block); !bytes.Equal(got, want) {
		c.Error("raw signature differs from PKCS#1")
	}
	secret := []byte("a secret")
	padded := append([]byte{0, 2}, bytes.Repeat([]byte{0x77}, k.Size()-3-len(secret))...)
	padded = append(append(padded, 0), secret...)
	sealed := fill(new(big.Int).Exp(new(big.Int).SetBytes(padded), big.NewInt(int64(k.E)), k.N), k.Size())
	if plain := c.do(apdu.OK, useCommand(0x62, reference, 0x21, sealed)); !bytes.Equal(plain, padded) {
		c.Errorf("raw decryption: %X", plain)
	}
	for _, x := range []struct {
		ins, algorithm byte
		input          []byte
		sw             apdu.SW
	}{
		{0x68, 0x20, block[1:], apdu.WrongLength}, {0x68, 0x20, append(block, 0), apdu.WrongLength},
		{0x68, 0x20, k.N.Bytes(), apdu.WrongData}, {0x68, 0x30, block[10:], apdu.WrongLength},
		{0x62, 0x21, sealed[1:], apdu.WrongLength}, {0x62, 0x21, k.N.Bytes(), apdu.WrongData},
		{0x68, 0x40, digest[1:], apdu.WrongLength}, {0x68, 0x21, sealed, apdu.NotSupported},
		{0x68, 0x42, message, apdu.NotSupported}, {0x68, 0x73, message, apdu.NotSupported},
		{0x62, 0x20, block, apdu.NotSupported}, {0x62, 0x80, sealed, apdu.NotSupported},
		{0x78, 0x10, sealed, apdu.NotSupported},
	} {
		c.do(x.sw, useCommand(x.ins, reference, x.algorithm, x.input))
	}
}

func (c card) verifyAES(reference byte, key []byte) {
	c.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		c.Fatal(err)
	}
	plain := bytes.Repeat([]byte("0123456789abcdef"), 3)
	want := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(want, plain)
	got := c.do(apdu.OK, useCommand(0x78, reference, 0x10, plain))
	if !bytes.Equal(got, want) {
		c.Errorf("AES encrypt: %X, want %X", got, want)
	}
	if back := c.do(apdu.OK, useCommand(0x78, reference, 0x11, got)); !bytes.Equal(back, plain) {
		c.Errorf("AES decrypt: %X", back)
	}
	mac, err := cmac.Sum(key, message)
	if got := c.do(apdu.OK, useCommand(0x78, reference, 0x18, message)); err != nil || !bytes.Equal(got, mac[:]) {
		c.Errorf("CMAC: %X, want %X", got, mac)
	}
	c.do(apdu.WrongLength, useCommand(0x78, reference, 0x10, plain[1:]))
	c.do(apdu.WrongLength, useCommand(0x78, reference, 0x11, plain[1:]))
	c.do(apdu.NotSupported, useCommand(0x78, reference, 0x99, plain))
	c.do(apdu.NotSupported, useCommand(0x68, reference, 0x10, plain))
	c.do(apdu.NotSupported, useCommand(0x62, reference, 0x11, plain))
}

func (c card) verifySample(reference byte, s sample) {
	c.Helper()
	switch {
	case s.public == nil:
		c.verifyAES(reference, s.aes)
	case s.public.RSA != nil:
		c.verifyRSA(reference, s.public.RSA)
	default:
		c.verifyECDSA(reference, s.public)
		c.verifyECDH(reference, s.public)
		c.do(apdu.NotSupported, useCommand(0x68, reference, 0x33, message))
		c.do(apdu.NotSupported, useCommand(0x62, reference, 0x21, message))
		c.do(apdu.WrongLength, useCommand(0x68, reference, 0x70, make([]byte, s.public.Curve.FieldBytes()+1)))
	}
}

// Every key type: made by one token, exported, imported by another of the same
// DKEK under another reference, and there used with every algorithm. The large
// keys were checked against their request when they were made.
func TestEveryKey(t *testing.T) {
	all := samples(t)
	if len(all) != 4+len(curve.All())+3 {
		t.Fatalf("%d kinds of keys", len(all))
	}
	sizes := map[string]int{ // fact sheet §6.5
		"RSA-1024": 331, "RSA-2048": 587, "RSA-3072": 843, "RSA-4096": 1099, "P-192": 299, "P-256": 363, "P-384": 507, "P-521": 667,
		"brainpoolP256r1": 363, "brainpoolP384r1": 507, "brainpoolP512r1": 651, "secp256k1": 363, "AES-128": 78, "AES-192": 94, "AES-256": 94,
	}
	c := ready(t, Options{Serial: "SOFT0400002", Firmware: "4.1"})
	for i, name := range sortedNames(all) {
		s := all[name]
		if want := sizes[name]; want != 0 && len(s.blob) != want {
			t.Errorf("%s: blob of %d bytes, want %d", name, len(s.blob), want)
		}
		ref := byte(100 + i)
		c.unwrap(ref, s.blob)
		t.Run(name, func(t *testing.T) { card{t, c.Token}.verifySample(ref, s) })
		// Exported again, it is another blob of the same length.
		again := c.ok("80 72 %02X 92 000000", ref)
		if bytes.Equal(again, s.blob) || len(again) != len(s.blob) {
			t.Errorf("%s: exported again, %d bytes", name, len(again))
		}
	}
	// UNWRAP made the key objects and nothing else.
	for fid := range c.state.Files {
		t.Errorf("UNWRAP made %04X", fid)
	}
}

// A key used where it was made, without any transport.
func TestMadeAndUsed(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("")
	c.login()
	c.verifyRSA(1, rsaPublic(c.generate(1, spec(nil, 1024))))
	for i, cv := range []string{"P-256", "P-521", "secp256k1", "brainpoolP384t1"} {
		k := c.generate(byte(2+i), spec(curve.ByName(cv), 0))
		if k.Curve.Name != cv {
			t.Errorf("%s was made, %s asked for", k.Curve.Name, cv)
		}
		c.verifyECDSA(byte(2+i), k)
		c.verifyECDH(byte(2+i), k)
	}
	c.ok("80 48 10 B2 00")
	c.verifyAES(0x10, c.state.Keys[0x10].Private)
}

// RSA-4096 has a request of 1188 bytes, as traced (fact sheet §2.7).
func TestRequestLength(t *testing.T) {
	c := ready(t, Options{Serial: "SOFT0200001"})
	r, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	// Only the lengths count: a modulus of 512 bytes and a signature as long.
	n := new(big.Int).SetBytes(bytes.Repeat([]byte{0xFF}, 512))
	inner, err := cvc.Build(cvc.Template{CAR: "UTCA00001", CHR: "ESPICOHSM0100001", Key: &pubkey.Key{RSA: &rsa.PublicKey{N: n, E: r.E}}},
		func([]byte) ([]byte, error) { return make([]byte, 512), nil })
	if err != nil {
		t.Fatal(err)
	}
	request, err := cvc.BuildRequest(inner, c.state.deviceCHR(), plainSigner(deviceCurve, c.state.DeviceKey))
	if err != nil || len(request) != 1188 {
		t.Errorf("%d bytes, %v", len(request), err)
	}
}

func TestGenerateReject(t *testing.T) {
	c := ready(t, Options{})
	p256 := spec(curve.ByName("P-256"), 0)
	c.generate(1, p256)
	good := generateCommand(2, p256)
	change := func(f func(*apdu.Command)) apdu.Command {
		cmd := good
		f(&cmd)
		return cmd
	}
	withKey := func(fields ...[]byte) apdu.Command {
		return change(func(c *apdu.Command) {
			c.Data = bytes.Join([][]byte{tlv.Encode(0x5F29, []byte{0}), tlv.Encode(0x42, []byte("UTCA00001")), tlv.Encode(0x7F49, fields...), tlv.Encode(0x5F20, []byte("CHR0000000000001"))}, nil)
		})
	}
	cv := curve.ByName("P-256")
	oid := tlv.Encode(6, unhex(t, "04007F00070202020203"))
	p, a, b := tlv.Encode(0x81, cv.P.Bytes()), tlv.Encode(0x82, cv.A.Bytes()), tlv.Encode(0x83, cv.B.Bytes())
	g, n, h := tlv.Encode(0x84, cv.Marshal(cv.Gx, cv.Gy)), tlv.Encode(0x85, cv.N.Bytes()), tlv.Encode(0x87, []byte{1})
	k1 := curve.ByName("secp256k1")
	p1, g1, n1 := tlv.Encode(0x81, k1.P.Bytes()), tlv.Encode(0x84, k1.Marshal(k1.Gx, k1.Gy)), tlv.Encode(0x85, k1.N.Bytes())
	before := c.snapshot()
	for _, x := range []struct {
		name string
		cmd  apdu.Command
		sw   apdu.SW
	}{
		{"the device key", change(func(c *apdu.Command) { c.P1 = 0 }), apdu.WrongParameters},
		{"taken", change(func(c *apdu.Command) { c.P1 = 1 }), apdu.Conditions},
		{"signed by another key", change(func(c *apdu.Command) { c.P2 = 1 }), apdu.WrongParameters},
		{"no Le", change(func(c *apdu.Command) { c.Le = apdu.NoLe }), apdu.WrongLength},
		{"short Le", change(func(c *apdu.Command) { c.Le = 256 }), apdu.WrongLength},
		{"Le of OpenSC's buffer", change(func(c *apdu.Command) { c.Le = 1200 }), apdu.WrongLength},
		{"no data", change(func(c *apdu.Command) { c.Data = nil }), apdu.WrongLength},
		{"half a TLV", change(func(c *apdu.Command) { c.Data = c.Data[:len(c.Data)-1] }), apdu.WrongData},
		{"no key", withKey(), apdu.WrongData},
		{"no a", withKey(oid, p, b, g, n, h), apdu.WrongData},
		{"no b", withKey(oid, p, a, g, n, h), apdu.WrongData},
		{"no G", withKey(oid, p, a, b, n, h), apdu.WrongData},
		{"no n", withKey(oid, p, a, b, g, h), apdu.WrongData},
		{"no p", withKey(oid, a, b, g, n, h), apdu.WrongData},
		{"short a", withKey(oid, p1, tlv.Encode(0x82, []byte{0}), tlv.Encode(0x83, []byte{7}), g1, n1, h), apdu.WrongData},
		{"long a", withKey(oid, p, tlv.Encode(0x82, []byte{0}, cv.A.Bytes()), b, g, n, h), apdu.WrongData},
		{"another a", withKey(oid, p, tlv.Encode(0x82, cv.B.Bytes()), b, g, n, h), apdu.WrongData},
		{"RSA-512", generateCommand(2, spec(nil, 512)), apdu.WrongData},
		{"RSA-2047", generateCommand(2, spec(nil, 2047)), apdu.WrongData},
		{"RSA-8192", generateCommand(2, spec(nil, 8192)), apdu.WrongData},
		{"RSA with e=3", generateCommand(2, cvc.KeySpec{CAR: "UTCA00001", CHR: "C", RSABits: 1024, RSAExponent: 3}), apdu.WrongData},
		{"17 algorithms", generateCommand(2, cvc.KeySpec{Curve: cv, Algorithms: make([]byte, 17)}), apdu.WrongData},
		{"CHR of 17 characters", generateCommand(2, cvc.KeySpec{Curve: cv, CHR: "12345678901234567"}), apdu.WrongData},
	} {
		raw, err := x.cmd.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if _, sw := c.transmit(raw); sw != x.sw {
			t.Errorf("%s: %04X, want %04X", x.name, uint16(sw), uint16(x.sw))
		}
	}
	c.run([]step{
		{"AES at a taken reference", "804801B0 00", 0x6985, ""},
		{"AES as the device key", "804800B0 00", 0x6A86, ""},
		{"AES of 512 bits", "804802B3 00", 0x6A86, ""},
		{"AES of 64 bits", "804802AF 00", 0x6A86, ""},
		{"AES, 17 algorithms", "804802B0 13 9111 0000000000000000000000000000000000", 0x6A80, ""},
		{"AES, counter of three bytes", "804802B0 05 9003000000", 0x6A80, ""},
		{"AES, an unknown tag", "804802B0 03 930101", 0x6A80, ""},
		{"AES, half a TLV", "804802B0 01 91", 0x6A80, ""},
		{"AES, domain of two bytes", "804802B0 04 92020000", 0x6A80, ""},
	})
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("a refusal changed the token")
	}
	c.ok(selectAID)
	c.do(apdu.NotAuthorised, good)
	c.want(apdu.NotAuthorised, "804802B0 00")

	old := newCard(t, Options{Firmware: "2.6"})
	old.initialise("")
	old.login()
	old.do(apdu.WrongData, generateCommand(1, spec(nil, 4096)))
	old.do(apdu.WrongData, generateCommand(1, spec(nil, 3072)))
	old.run([]step{{"no AES before 3.x", "804801B0 00", 0x6D00, ""}})
	old.generate(1, spec(nil, 1024))
}

// The names that the caller leaves out are the token's own.
func TestGenerateDefaults(t *testing.T) {
	c := newCard(t, Options{Serial: "SOFT0200001"})
	c.initialise("")
	c.login()
	want := spec(curve.ByName("P-256"), 0)
	cmd := generateCommand(1, want)
	cmd.Data = tlv.Encode(0x7F49, func() []byte { l, _ := tlv.ParseAll(cmd.Data); e, _ := l.Find(0x7F49); return e.Value }())
	answer := c.do(apdu.OK, cmd)
	want.CAR, want.CHR = "SOFT020000100000", "SOFT020000100001"
	c.checkRequest(1, answer, want)
	c.ok("00E4020002CC01") // the request stays, and makes way for the next
	c.generate(1, spec(curve.ByName("P-384"), 0))
}

func TestUseReject(t *testing.T) {
	c := ready(t, Options{})
	c.unwrap(1, samples(t)["P-256"].blob)
	c.unwrap(2, samples(t)["RSA-2048"].blob)
	digest := sha256.Sum256(message)
	hash := fmt.Sprintf("%X", digest[:])
	c.run([]step{
		{"no such key", "80680970 20" + hash + "00", 0x6A88, ""},
		{"the device key is not for users", "80680070 20" + hash + "00", 0x6A88, ""},
		{"no data", "80680170 00", 0x6700, ""},
		{"no Le", "80680170 20" + hash, 0x6700, ""},
		{"Le too small", "80680170 20" + hash + "20", 0x6700, ""},
		{"Le too small for RSA", "80680233 20" + hash + "FF", 0x6700, ""},
		{"Le 00 is 256", "80680233 20" + hash + "00", 0x9000, "*"},
		{"no such algorithm", "80680199 20" + hash + "00", 0x6A81, ""},
		{"WRAP is none", "80680192 20" + hash + "00", 0x6A81, ""},
		{"logged out", selectAID, 0x9000, "*"},
		{"sign", "80680170 20" + hash + "00", 0x6982, ""},
		{"decipher", "80620180 20" + hash + "00", 0x6982, ""},
		{"AES", "80780110 20" + hash + "00", 0x6982, ""},
	})
}

// The list of allowed algorithms and the use counter (fact sheet §7.1).
func TestListAndCounter(t *testing.T) {
	c := ready(t, Options{})
	two := uint32(2)
	s := spec(curve.ByName("P-256"), 0)
	s.Algorithms, s.Counter = []byte{0x73, 0x80}, &two
	k := c.generate(1, s)
	point := k.Curve.Marshal(k.X, k.Y)
	digest := sha256.Sum256(message)
	left := func(n uint32) {
		t.Helper()
		if got := *c.state.Keys[1].Counter; got != n {
			t.Errorf("%d uses left, want %d", got, n)
		}
	}
	c.do(apdu.NotSupported, useCommand(0x68, 1, 0x70, digest[:]))
	c.do(apdu.NotSupported, useCommand(0x68, 1, 0x74, message))
	c.do(apdu.WrongData, useCommand(0x62, 1, 0x80, append([]byte{5}, point[1:]...)))
	c.do(apdu.WrongLength, useCommand(0x62, 1, 0x80, point[1:]))
	left(2) // refusals cost nothing
	c.want(apdu.Conditions, "80720192 000000")
	if err := k.Verify(crypto.SHA256, digest[:], c.do(apdu.OK, useCommand(0x68, 1, 0x73, message))); err != nil {
		t.Error(err)
	}
	left(1)
	c.do(apdu.OK, useCommand(0x62, 1, 0x80, point))
	left(0)
	c.do(apdu.NotUsable, useCommand(0x62, 1, 0x80, point))
	c.do(apdu.NotUsable, useCommand(0x68, 1, 0x73, message))
	c.run([]step{
		{"FCP", "00A40000 02 CC01 00", 0x9000, "62 1D 81020000 820101 8302CC01 8A0105 A50D 900400000000 91027380 920100"},
		{"AES, counter 1", "804802B0 0C 9001 10 900400000001 920100", 0x6A80, ""}, // 90 of one byte
		{"AES, counter 1", "804802B0 0C 910110 900400000001 920100", 0x9000, ""},
		{"use", "80780210 10 00000000000000000000000000000000 00", 0x9000, "*"},
		{"not allowed", "80780218 10 00000000000000000000000000000000 00", 0x6A81, ""},
		{"used up", "80780210 10 00000000000000000000000000000000 00", 0x6984, ""},
	})
	// The list travels with the blob, the counter does not.
	s.Algorithms = []byte{0x73, 0x92}
	c.generate(3, s)
	blob := c.ok("80720392 000000")
	c.unwrap(4, blob)
	c.do(apdu.NotSupported, useCommand(0x68, 4, 0x74, message))
	for range 3 {
		c.do(apdu.OK, useCommand(0x68, 4, 0x73, message))
	}
	if got := c.state.Keys[4].Counter; got != nil {
		t.Errorf("the unwrapped key counts from %d", *got)
	}
}

// Keys that Go's own crypto can check need no arithmetic of ours at all.
func TestAgainstStandardLibrary(t *testing.T) {
	c := ready(t, Options{})
	for i, name := range []string{"P-256", "P-384", "P-521"} {
		s := samples(t)[name]
		c.unwrap(byte(i+1), s.blob)
		pub, err := x509.ParsePKIXPublicKey(s.public.SPKI())
		if err != nil {
			t.Fatal(err)
		}
		digest := sha512.Sum512(message)
		sig := c.do(apdu.OK, useCommand(0x68, byte(i+1), 0x75, message))
		if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig) {
			t.Errorf("%s: the signature does not verify", name)
		}
	}
}
