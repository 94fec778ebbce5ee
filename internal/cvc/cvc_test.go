package cvc

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pubkey"
)

// golden reads a hex file; testdata/README.md says where each comes from.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRealChain(t *testing.T) {
	ef := golden(t, "DENK0404144.2f02.hex")
	chain, err := ParseChain(ef)
	if err != nil {
		t.Fatal(err)
	}
	if s := chain.Serial(); s != "DENK0404144" {
		t.Errorf("serial %s", s)
	}
	root, err := chain.Verify(VendorRoots())
	if err != nil || root.Kind != RootProduction {
		t.Fatalf("%v, %v", root, err)
	}
	if from := chain.Device.From; !from.Equal(time.Date(2026, 5, 28, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("from %s", from)
	}
	if to := chain.Device.To; !to.Equal(time.Date(2031, 5, 27, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("to %s", to)
	}
	if chain.Issuer.CHR != "DEDINK0400001" || chain.Issuer.Role != RoleIssuer {
		t.Errorf("issuer %s, role %02X", chain.Issuer.CHR, chain.Issuer.Role)
	}
	rootCertificate, err := Parse(golden(t, "DESRCACC100001.hex"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := rootCertificate.PublicKey(nil)
	if err != nil || !key.Equal(root.Key) || rootCertificate.Role != RoleRoot {
		t.Errorf("the pinned point is not that of the root certificate (%v)", err)
	}
	if err := rootCertificate.Verify(key); err != nil {
		t.Error(err)
	}

	request, err := ParseRequest(golden(t, "DENK0404144.ce01.hex"))
	if err != nil {
		t.Fatal(err)
	}
	device, err := chain.DeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := request.VerifyInner(); err != nil {
		t.Error(err)
	}
	if err := request.VerifyOuter(device); err != nil {
		t.Error(err)
	}
	if request.OuterCAR != chain.Device.CHR {
		t.Errorf("outer CAR %s", request.OuterCAR)
	}
	if k, err := request.PublicKey(); err != nil || k.Type() != "secp256k1" {
		t.Errorf("key %v, %v", k, err)
	}
	if err := request.VerifyOuter(key); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another device's signature: %v", err)
	}
}

// Any changed byte of a real chain is found: it no longer parses, or it is no
// longer trusted, or it is another serial.
func TestEveryChangedByte(t *testing.T) {
	ef := golden(t, "DENK0404144.2f02.hex")
	for i := range ef {
		for _, flip := range []byte{0x01, 0x80} {
			b := bytes.Clone(ef)
			b[i] ^= flip
			chain, err := ParseChain(b)
			if err != nil {
				continue
			}
			if _, err := chain.Verify(VendorRoots()); err == nil {
				t.Errorf("byte %d changed by %02X is not noticed", i, flip)
			}
		}
	}
	for i := range ef {
		if chain, err := ParseChain(ef[:i]); err == nil {
			if _, err := chain.Verify(VendorRoots()); err == nil {
				t.Errorf("cut at %d is trusted", i)
			}
		}
	}
}

// signer gives a plain ECDSA signer and its key.
func signer(t testing.TB, c *curve.Curve) (*pubkey.Key, func([]byte) ([]byte, error)) {
	t.Helper()
	d, x, y, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &pubkey.Key{Curve: c, X: x, Y: y}, func(m []byte) ([]byte, error) {
		digest := sha256.Sum256(m)
		r, s, err := c.Sign(rand.Reader, d, digest[:])
		if err != nil {
			return nil, err
		}
		n := c.FieldBytes()
		return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...), nil
	}
}

func TestBuild(t *testing.T) {
	bp := curve.ByName("brainpoolP256r1")
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	rootKey, rootSign := signer(t, bp)
	issuerKey, issuerSign := signer(t, bp)
	deviceKey, deviceSign := signer(t, bp)
	build := func(tm Template, sign func([]byte) ([]byte, error)) []byte {
		t.Helper()
		b, err := Build(tm, sign)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	issuer := build(Template{CAR: "SOFTROOT00001", CHR: "SOFTCA00001", Key: issuerKey, Inherited: true, Role: RoleIssuer, From: now, To: now.AddDate(5, 0, 0)}, rootSign)
	device := build(Template{CAR: "SOFTCA00001", CHR: "SOFT020000100000", Key: deviceKey, Inherited: true, From: now, To: now.AddDate(5, 0, 0)}, issuerSign)
	roots := append(VendorRoots(), Root{CHR: "SOFTROOT00001", Key: rootKey, Kind: RootSoftware})
	chain, err := ParseChain(append(bytes.Clone(device), issuer...))
	if err != nil {
		t.Fatal(err)
	}
	if root, err := chain.Verify(roots); err != nil || root.Kind != RootSoftware || chain.Serial() != "SOFT0200001" || !chain.Device.From.Equal(now) {
		t.Errorf("%v %v %s", root, err, chain.Serial())
	}
	if _, err := chain.Verify(VendorRoots()); !errors.Is(err, ErrUntrusted) {
		t.Errorf("trusted without its root: %v", err)
	}
	for _, c := range curve.All() {
		key, sign := signer(t, c)
		inner := build(Template{CAR: "UTCA00001", CHR: "SOFT020000100001", Key: key}, sign)
		raw, err := BuildRequest(inner, "SOFT020000100000", deviceSign)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRequest(append(bytes.Clone(raw), 1, 2, 3))
		if err != nil || !bytes.Equal(r.Raw, raw) {
			t.Fatalf("%s: %v", c.Name, err)
		}
		if k, err := r.PublicKey(); err != nil || !k.Equal(key) {
			t.Errorf("%s: %v", c.Name, err)
		}
		if err := r.VerifyInner(); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if err := r.VerifyOuter(deviceKey); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

// Signatures alone make no chain: a device vouches for no other device, an
// issuer is no device, and each certificate names the one above it.
func TestChainReject(t *testing.T) {
	bp := curve.ByName("brainpoolP256r1")
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	rootKey, rootSign := signer(t, bp)
	issuerKey, issuerSign := signer(t, bp)
	deviceKey, _ := signer(t, bp)
	roots := []Root{{CHR: "SOFTROOT00001", Key: rootKey, Kind: RootSoftware}}
	for name, c := range map[string]struct {
		named           string // by the device certificate
		issuer, device  byte   // roles
		want            string
		withoutAnIssuer bool
	}{
		"as it should be":       {named: "SOFTCA00001", issuer: RoleIssuer, device: RoleDevice},
		"issued by a device":    {named: "SOFTCA00001", issuer: RoleDevice, device: RoleDevice, want: "roles"},
		"an issuer as a device": {named: "SOFTCA00001", issuer: RoleIssuer, device: RoleIssuer, want: "roles"},
		"another issuer named":  {named: "SOFTCA00002", issuer: RoleIssuer, device: RoleDevice, want: "names issuer SOFTCA00002"},
		"without an issuer":     {named: "SOFTCA00001", issuer: RoleIssuer, device: RoleDevice, want: "no issuer", withoutAnIssuer: true},
	} {
		issuer, err := Build(Template{CAR: "SOFTROOT00001", CHR: "SOFTCA00001", Key: issuerKey, Inherited: true, Role: c.issuer, From: now, To: now}, rootSign)
		if err != nil {
			t.Fatal(err)
		}
		device, err := Build(Template{CAR: c.named, CHR: "SOFT020000100000", Key: deviceKey, Inherited: true, Role: c.device, From: now, To: now}, issuerSign)
		if err != nil {
			t.Fatal(err)
		}
		if c.withoutAnIssuer {
			issuer = nil
		}
		chain, err := ParseChain(append(device, issuer...))
		if err != nil {
			t.Fatal(err)
		}
		_, err = chain.Verify(roots)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeySpec(t *testing.T) {
	// Traced from OpenSC 0.23 (fact sheet §2.7), RSA-1024.
	traced, _ := hex.DecodeString("5F2901004209" + hex.EncodeToString([]byte("UTCA00001")) + "7F4915060A04007F00070202020102820301000102020400" + "5F2010" + hex.EncodeToString([]byte("ESPICOHSM0100001")))
	spec := KeySpec{CAR: "UTCA00001", CHR: "ESPICOHSM0100001", RSABits: 1024, RSAExponent: 65537}
	if !bytes.Equal(spec.Encode(), traced) {
		t.Errorf("%X", spec.Encode())
	}
	counter, domain := uint32(7), byte(2)
	for _, s := range []KeySpec{spec,
		{CAR: "A", CHR: "B", Curve: curve.ByName("brainpoolP384r1"), Counter: &counter, Algorithms: []byte{0x70, 0x92}, Domain: &domain, OuterCAR: "C"},
		{CAR: "A", CHR: "B", Curve: curve.ByName("P-521")}} {
		got, err := ParseKeySpec(s.Encode())
		if err != nil || !bytes.Equal(got.Encode(), s.Encode()) {
			t.Errorf("%+v becomes %+v, %v", s, got, err)
		}
	}
	for _, b := range [][]byte{nil, {0x7F}, {0x42, 1, 'A'}, {0x7F, 0x49, 0}, append(bytes.Clone(traced), 0x90, 1, 0), append(bytes.Clone(traced), 0x92, 0)} {
		if s, err := ParseKeySpec(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%X is taken as %+v", b, s)
		}
	}
}

func TestReject(t *testing.T) {
	for _, b := range [][]byte{nil, {0x30, 0}, {0x7F, 0x21, 0}, {0x67, 0}, golden(t, "DENK0404144.ce01.hex")[:200]} {
		if _, err := Parse(b); !errors.Is(err, ErrFormat) {
			t.Errorf("Parse takes %X", b)
		}
		if _, err := ParseRequest(b); !errors.Is(err, ErrFormat) {
			t.Errorf("ParseRequest takes %X", b)
		}
		if _, err := ParseChain(b); !errors.Is(err, ErrFormat) {
			t.Errorf("ParseChain takes %X", b)
		}
	}
	for _, d := range [][]byte{{2, 6, 1, 3, 0, 1}, {2, 6, 0, 2, 3, 1}, {2, 6, 0, 1, 0, 10}, {2, 6}} {
		if at, ok := parseDate(d); ok {
			t.Errorf("%v is taken as %s", d, at)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(golden(f, "DENK0404144.2f02.hex"))
	f.Add(golden(f, "DENK0404144.ce01.hex"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseChain(b); err == nil {
			_ = c.Serial()
			_, _ = c.DeviceKey()
			_, _ = c.Verify(VendorRoots())
		}
		if r, err := ParseRequest(b); err == nil {
			_, _ = r.PublicKey()
			_ = r.VerifyInner()
		}
		_, _ = ParseKeySpec(b)
	})
}

// A reference is shown to people: nothing in it moves their cursor.
func TestReferencesAreText(t *testing.T) {
	key, sign := signer(t, curve.ByName("P-256"))
	raw, err := Build(Template{CAR: "UTCA\x1b[2J", CHR: "SOFT\n0200001é", Key: key}, sign)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(raw)
	if err != nil || c.CAR != "UTCA?[2J" || c.CHR != "SOFT?0200001??" {
		t.Errorf("%+v, %v", c, err)
	}
}
