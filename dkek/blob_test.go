package dkek

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pkcs15"
)

var rsaBits = []int{1024, 2048, 3072, 4096}

// generatedRSA is made once: RSA-4096 takes a while.
var generatedRSA = sync.OnceValues(func() ([]*rsa.PrivateKey, error) {
	keys := make([]*rsa.PrivateKey, len(rsaBits))
	for i, bits := range rsaBits {
		var err error
		if keys[i], err = rsa.GenerateKey(rand.Reader, bits); err != nil {
			return nil, err
		}
	}
	return keys, nil
})

func goRSA(t testing.TB) []*rsa.PrivateKey {
	t.Helper()
	keys, err := generatedRSA()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// rsaKeys gives fresh copies, one for each size of rsaBits.
func rsaKeys(t testing.TB) []*PrivateKey {
	t.Helper()
	var all []*PrivateKey
	for _, key := range goRSA(t) {
		p, err := NewRSA(key)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func ecKey(t testing.TB, c *curve.Curve) *PrivateKey {
	t.Helper()
	d, x, y, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewEC(c, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, px, py := p.EC(); px.Cmp(x) != 0 || py.Cmp(y) != 0 {
		t.Fatalf("%s: another point", c.Name)
	}
	return p
}

func aesKey(t testing.TB, n int) *PrivateKey {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.Read(b)
	p, err := NewAES(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func testKey(t testing.TB) *Key {
	t.Helper()
	k, err := Combine(share(t, 0xA5), share(t, 0xE1))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func open(k *Key, blob []byte) (*PrivateKey, error) {
	b, err := ParseBlob(blob)
	if err != nil {
		return nil, err
	}
	return k.Open(b)
}

// same compares the secrets of two keys.
func same(t testing.TB, a, b *PrivateKey) bool {
	t.Helper()
	if a.Kind() != b.Kind() || a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case pkcs15.RSA:
		x, err := a.RSA()
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.RSA()
		if err != nil {
			t.Fatal(err)
		}
		// d may differ by the order of the group
		digest := sha256.Sum256([]byte("same"))
		sig, err := rsa.SignPKCS1v15(nil, x, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return x.PublicKey.Equal(&y.PublicKey) && rsa.VerifyPKCS1v15(&y.PublicKey, crypto.SHA256, digest[:], sig) == nil &&
			new(big.Int).Mul(y.Primes[0], y.Primes[1]).Cmp(x.N) == 0
	case pkcs15.EC:
		c1, d1, x1, y1 := a.EC()
		c2, d2, x2, y2 := b.EC()
		return c1 == c2 && bytes.Equal(d1, d2) && x1.Cmp(x2) == 0 && y1.Cmp(y2) == 0
	default:
		return bytes.Equal(a.AES(), b.AES())
	}
}

// Every type survives sealing and opening, in the sizes of fact sheet §6.5.
func TestSeal(t *testing.T) {
	type sample struct {
		key  *PrivateKey
		crt  bool
		want int
	}
	samples := map[string]sample{}
	for i, p := range rsaKeys(t) {
		samples[p.Type()] = sample{p, false, []int{331, 587, 843, 1099}[i]}
		samples[p.Type()+" CRT"] = sample{p, true, []int{523, 971, 1419, 1867}[i]}
	}
	ecSizes := map[int]int{192: 299, 224: 331, 256: 363, 320: 443, 384: 507, 512: 651, 521: 667}
	for _, c := range curve.All() {
		samples[c.Name] = sample{ecKey(t, c), false, ecSizes[c.Bits]}
	}
	for bytes, size := range map[int]int{16: 73, 24: 89, 32: 89} {
		p := aesKey(t, bytes)
		samples[p.Type()] = sample{p, false, size}
	}
	if len(samples) < 8+8+3 {
		t.Fatalf("only %d samples", len(samples))
	}
	k := testKey(t)
	list := []byte{0x10, 0x11, 0x18, 0x99, 0x92}
	for name, s := range samples {
		t.Run(name, func(t *testing.T) {
			plain, err := k.Seal(s.key, SealOptions{CRT: s.crt})
			if err != nil {
				t.Fatal(err)
			}
			if len(plain) != s.want {
				t.Errorf("blob of %d bytes, want %d", len(plain), s.want)
			}
			listed, err := k.Seal(s.key, SealOptions{Algorithms: list, CRT: s.crt})
			if err != nil {
				t.Fatal(err)
			}
			if len(listed) != s.want+len(list) {
				t.Errorf("blob with list of %d bytes, want %d", len(listed), s.want+len(list))
			}
			for _, blob := range [][]byte{plain, listed} {
				b, err := ParseBlob(blob)
				if err != nil {
					t.Fatal(err)
				}
				if b.KCV != k.KCV() || b.Type.Kind() != s.key.Kind() || (b.Type == BlobRSACRT) != s.crt ||
					len(b.AccessConditions)+len(b.KeyOID) != 0 || !bytes.Equal(b.Raw, blob) {
					t.Errorf("header reads as %+v", b)
				}
				p, err := k.Open(b)
				if err != nil {
					t.Fatal(err)
				}
				match, pub, err := MatchKey(p, nil, nil)
				if err != nil || match != MatchSelf {
					t.Fatalf("%s: %v", match, err)
				}
				if want, _ := s.key.Public(); pub != nil && !pub.Equal(want) {
					t.Error("another public key")
				}
				if (pub == nil) != (p.Kind() == pkcs15.AES) {
					t.Error("public key of AES, or none of another")
				}
				if !same(t, s.key, p) {
					t.Error("another key")
				}
			}
			if b, _ := ParseBlob(listed); !bytes.Equal(b.Algorithms, list) {
				t.Errorf("list %x", b.Algorithms)
			}
			again, err := k.Seal(s.key, SealOptions{CRT: s.crt})
			if err != nil || bytes.Equal(again, plain) {
				t.Error("two blobs are equal: the random bytes are missing")
			}
		})
	}
}

func TestSealReject(t *testing.T) {
	k := testKey(t)
	if _, err := k.Seal(aesKey(t, 16), SealOptions{Algorithms: make([]byte, 17)}); !errors.Is(err, ErrFormat) {
		t.Errorf("a list of 17: %v", err)
	}
	if _, err := k.Seal(nil, SealOptions{}); !errors.Is(err, ErrFormat) {
		t.Errorf("no key: %v", err)
	}
	for _, p := range []*PrivateKey{rsaKeys(t)[0], ecKey(t, curve.ByName("P-256")), aesKey(t, 16)} {
		kind := p.Kind()
		p.Wipe()
		if _, err := k.Seal(p, SealOptions{}); !errors.Is(err, ErrFormat) {
			t.Errorf("a wiped %s key: %v", kind, err)
		}
	}
	if _, err := k.Seal(&PrivateKey{}, SealOptions{}); !errors.Is(err, ErrFormat) {
		t.Errorf("the zero key object: %v", err)
	}
}

// plainBlob wraps components as they are, for shapes that Seal does not write.
func plainBlob(t testing.TB, k *Key, kind BlobType, size int, tail []byte, components ...[]byte) []byte {
	t.Helper()
	plain := binary.BigEndian.AppendUint16([]byte("8 random"), uint16(size))
	for _, c := range components {
		if kind == BlobAES {
			plain = append(plain, c...)
		} else {
			plain = appendLV16(plain, c)
		}
	}
	plain = append(plain, tail...)
	for len(plain)%16 != 0 {
		plain = append(plain, 0)
	}
	blob, err := k.wrap(kind, algorithmEC, nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func strip(b []byte) []byte { return bytes.TrimLeft(b, "\x00") }

// The imitation's shape: leading zeros stripped, a (and more) empty, no
// padding when aligned.
func TestOpenImitation(t *testing.T) {
	k := testKey(t)
	for _, c := range curve.All() {
		for _, d := range []*big.Int{big.NewInt(1), big.NewInt(0xABCDEF), new(big.Int).Sub(c.N, big.NewInt(1))} {
			want, err := NewEC(c, d.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			_, full, x, y := want.EC()
			a := c.A.Bytes()
			if !strings.HasPrefix(c.Name, "brainpool") {
				a = nil
			}
			blob := plainBlob(t, k, BlobEC, 8*c.FieldBytes(), nil, a, c.B.Bytes(), c.P.Bytes(), c.N.Bytes(), c.Marshal(c.Gx, c.Gy), strip(full), c.Marshal(x, y))
			got, err := open(k, blob)
			if err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
			if !same(t, want, got) || got.Check() != nil {
				t.Errorf("%s: another key", c.Name)
			}
		}
	}
	// AES-192 ends within a block; AES with nothing behind it but noise.
	for _, n := range []int{16, 24, 32} {
		p := aesKey(t, n)
		got, err := open(k, plainBlob(t, k, BlobAES, n, nil, p.AES()))
		if err != nil || !same(t, p, got) {
			t.Errorf("AES of %d bytes: %v", n, err)
		}
	}
	// RSA whose d is short.
	key := goRSA(t)[0]
	got, err := open(k, plainBlob(t, k, BlobRSA, 1024, nil, strip(key.D.Bytes()), key.N.Bytes(), []byte{0, 1, 0, 1}))
	if err != nil || got.Check() != nil {
		t.Errorf("RSA: %v", err)
	}
}

// Authentic blobs that make no sense: no panic, an error, never a key that
// passes Check.
func TestOpenReject(t *testing.T) {
	k := testKey(t)
	c := curve.ByName("P-256")
	key := ecKey(t, c)
	_, d, x, y := key.EC()
	field := func(v *big.Int) []byte { return v.FillBytes(make([]byte, 32)) }
	ec := func(change func(v [][]byte)) []byte {
		v := [][]byte{field(c.A), field(c.B), field(c.P), field(c.N), c.Marshal(c.Gx, c.Gy), bytes.Clone(d), c.Marshal(x, y)}
		change(v)
		return plainBlob(t, k, BlobEC, 256, nil, v...)
	}
	r, err := rsaKeys(t)[0].RSA()
	if err != nil {
		t.Fatal(err)
	}
	e := []byte{1, 0, 1}
	crt := func(change func(v []*big.Int)) []byte {
		v := []*big.Int{r.Precomputed.Dp, r.Precomputed.Dq, r.Primes[0], r.Precomputed.Qinv, r.Primes[1], r.N, big.NewInt(65537)}
		change(v)
		var b [][]byte
		for _, n := range v {
			b = append(b, n.Bytes())
		}
		return plainBlob(t, k, BlobRSACRT, 1024, nil, b...)
	}
	plus := func(v *big.Int, n int64) *big.Int { return new(big.Int).Add(v, big.NewInt(n)) }
	otherN := goRSA(t)[1].N
	for name, blob := range map[string][]byte{
		"unknown curve":         ec(func(v [][]byte) { v[2] = field(plus(c.P, 2)) }),
		"a of another curve":    ec(func(v [][]byte) { v[0] = field(big.NewInt(5)) }),
		"b of another curve":    ec(func(v [][]byte) { v[1] = field(big.NewInt(5)) }),
		"order of another":      ec(func(v [][]byte) { v[3] = field(plus(c.N, 2)) }),
		"generator of another":  ec(func(v [][]byte) { v[4] = c.Marshal(x, y) }),
		"empty generator":       ec(func(v [][]byte) { v[4] = nil }),
		"d zero":                ec(func(v [][]byte) { v[5] = make([]byte, 32) }),
		"d empty":               ec(func(v [][]byte) { v[5] = nil }),
		"d is n":                ec(func(v [][]byte) { v[5] = c.N.Bytes() }),
		"d too long":            ec(func(v [][]byte) { v[5] = append([]byte{1}, v[5]...) }),
		"d of another point":    ec(func(v [][]byte) { v[5][31] ^= 1 }),
		"point of another d":    ec(func(v [][]byte) { v[6] = c.Marshal(c.Gx, c.Gy) }),
		"point off the curve":   ec(func(v [][]byte) { v[6][64] ^= 1 }),
		"no point":              ec(func(v [][]byte) { v[6] = nil }),
		"EC size":               plainBlob(t, k, BlobEC, 384, nil, field(c.A), field(c.B), field(c.P), field(c.N), c.Marshal(c.Gx, c.Gy), d, c.Marshal(x, y)),
		"EC, six values":        plainBlob(t, k, BlobEC, 256, []byte{0xFF, 0xFF, 0, 0, 0, 0}, field(c.A), field(c.B), field(c.P), field(c.N), c.Marshal(c.Gx, c.Gy), d),
		"EC as RSA":             plainBlob(t, k, BlobRSA, 256, nil, field(c.A), field(c.B), field(c.P)),
		"RSA size":              plainBlob(t, k, BlobRSA, 2048, nil, r.D.Bytes(), r.N.Bytes(), e),
		"RSA other n":           plainBlob(t, k, BlobRSA, 2048, nil, r.D.Bytes(), otherN.Bytes(), e),
		"RSA other d":           plainBlob(t, k, BlobRSA, 1024, nil, plus(r.D, 2).Bytes(), r.N.Bytes(), e),
		"RSA even d":            plainBlob(t, k, BlobRSA, 1024, nil, plus(r.D, 1).Bytes(), r.N.Bytes(), e),
		"RSA d zero":            plainBlob(t, k, BlobRSA, 1024, nil, nil, r.N.Bytes(), e),
		"RSA d one":             plainBlob(t, k, BlobRSA, 1024, nil, []byte{1}, r.N.Bytes(), e),
		"RSA d is n":            plainBlob(t, k, BlobRSA, 1024, nil, r.N.Bytes(), r.N.Bytes(), e),
		"RSA no n":              plainBlob(t, k, BlobRSA, 0, nil, []byte{1}, nil, e),
		"RSA even n":            plainBlob(t, k, BlobRSA, 1024, nil, r.D.Bytes(), plus(r.N, 1).Bytes(), e),
		"RSA e zero":            plainBlob(t, k, BlobRSA, 1024, nil, r.D.Bytes(), r.N.Bytes(), nil),
		"RSA e other":           plainBlob(t, k, BlobRSA, 1024, nil, r.D.Bytes(), r.N.Bytes(), []byte{3}),
		"RSA e huge":            plainBlob(t, k, BlobRSA, 1024, nil, r.D.Bytes(), r.N.Bytes(), r.N.Bytes()),
		"RSA cut":               plainBlob(t, k, BlobRSA, 1024, []byte{0xFF, 0xFF}, r.D.Bytes(), r.N.Bytes()),
		"RSA nothing":           plainBlob(t, k, BlobRSA, 1024, make([]byte, 6)),
		"CRT dP":                crt(func(v []*big.Int) { v[0] = plus(v[0], 2) }),
		"CRT dQ":                crt(func(v []*big.Int) { v[1] = plus(v[1], 2) }),
		"CRT p":                 crt(func(v []*big.Int) { v[2] = plus(v[2], 2) }),
		"CRT qInv":              crt(func(v []*big.Int) { v[3] = plus(v[3], 1) }),
		"CRT q":                 crt(func(v []*big.Int) { v[4] = plus(v[4], 2) }),
		"CRT p and q swapped":   crt(func(v []*big.Int) { v[2], v[4] = v[4], v[2] }),
		"CRT p is n, q is 1":    crt(func(v []*big.Int) { v[2], v[4] = v[5], big.NewInt(1) }),
		"CRT p and q zero":      crt(func(v []*big.Int) { v[2], v[4] = new(big.Int), new(big.Int) }),
		"CRT e shares a factor": crt(func(v []*big.Int) { v[6] = new(big.Int).Sub(r.Primes[0], big.NewInt(1)) }),
		"AES of 15 bytes":       plainBlob(t, k, BlobAES, 15, nil, make([]byte, 15)),
		"AES of 0 bytes":        plainBlob(t, k, BlobAES, 0, make([]byte, 6)),
		"AES cut":               plainBlob(t, k, BlobAES, 32, nil, make([]byte, 16)),
		"AES of 64 kB":          plainBlob(t, k, BlobAES, 0xFFFF, nil, make([]byte, 16)),
	} {
		p, err := open(k, blob)
		if err == nil {
			if err = p.Check(); errors.Is(err, ErrMismatch) && p.Kind() == pkcs15.RSA {
				if _, err := p.RSA(); !errors.Is(err, ErrMismatch) {
					t.Errorf("%s: RSA gives a key: %v", name, err)
				}
			}
			if _, _, err2 := MatchKey(p, nil, nil); !errors.Is(err2, ErrMismatch) {
				t.Errorf("%s: matched: %v", name, err2)
			}
		}
		if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, blob := range map[string][]byte{
		"EC":  ec(func([][]byte) {}),
		"CRT": crt(func([]*big.Int) {}),
	} {
		if p, err := open(k, blob); err != nil || p.Check() != nil {
			t.Errorf("%s unchanged does not open: %v", name, err)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	k := testKey(t)
	blob, err := k.Seal(aesKey(t, 16), SealOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Combine(share(t, 7))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Authenticate(b); err != nil {
		t.Fatal(err)
	}
	err = other.Authenticate(b)
	var names *OtherKeyError
	if !errors.Is(err, ErrOtherKey) || !errors.As(err, &names) || names.Blob != k.KCV() || names.Key != other.KCV() ||
		!strings.Contains(err.Error(), k.KCV().String()) || !strings.Contains(err.Error(), other.KCV().String()) {
		t.Errorf("another key: %v", err)
	}
	// the KCV alone does not let a blob pass
	forged := bytes.Clone(blob)
	kcv := other.KCV()
	copy(forged, kcv[:])
	if _, err := open(other, forged); !errors.Is(err, ErrTampered) {
		t.Errorf("forged KCV: %v", err)
	}
	// what counts is Raw, not the fields
	b.Type, b.Ciphertext = BlobEC, nil
	if p, err := k.Open(b); err != nil || p.Type() != "AES-128" {
		t.Errorf("fields count: %v", err)
	}
	for _, bad := range []*Blob{nil, {}, {Raw: blob[:20]}} {
		if err := k.Authenticate(bad); err == nil {
			t.Error("an empty blob is authentic")
		}
		if _, err := k.Open(bad); err == nil {
			t.Error("an empty blob opens")
		}
	}
}

// Every single bit of every kind of blob counts.
func TestEveryBit(t *testing.T) {
	k := testKey(t)
	for _, p := range []*PrivateKey{rsaKeys(t)[0], ecKey(t, curve.ByName("P-256")), aesKey(t, 32)} {
		blob, err := k.Seal(p, SealOptions{Algorithms: []byte{0x92}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(blob) * 8 {
			blob[i/8] ^= 1 << (i % 8)
			if b, err := ParseBlob(blob); err == nil {
				if err := k.Authenticate(b); !errors.Is(err, ErrTampered) && !errors.Is(err, ErrOtherKey) {
					t.Fatalf("%s: bit %d of byte %d may change: %v", p.Type(), i%8, i/8, err)
				}
			} else if !errors.Is(err, ErrFormat) {
				t.Fatalf("bit %d: %v", i, err)
			}
			blob[i/8] ^= 1 << (i % 8)
		}
		for n := range blob {
			if _, err := open(k, blob[:n]); err == nil {
				t.Fatalf("%s: opens cut to %d bytes", p.Type(), n)
			}
		}
		if _, err := open(k, append(bytes.Clone(blob), make([]byte, 16)...)); err == nil {
			t.Errorf("%s: opens with 16 bytes more", p.Type())
		}
		if _, err := open(k, blob); err != nil {
			t.Errorf("%s: the blob itself: %v", p.Type(), err)
		}
	}
}

func TestParseBlobReject(t *testing.T) {
	k := testKey(t)
	good, err := k.Seal(aesKey(t, 16), SealOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"8 bytes":         good[:8],
		"9 bytes":         good[:9],
		"unknown type":    change(8, 7),
		"type 0":          change(8, 0),
		"endless OID":     change(9, 0xFF),
		"OID too long":    change(10, 0x60),
		"no ciphertext":   good[:25+16],
		"one byte less":   good[:len(good)-1],
		"one byte more":   append(bytes.Clone(good), 0),
		"far too long":    append(bytes.Clone(good), make([]byte, maxBlob)...),
		"share file":      vector(t, "a.pbe"),
		"a container":     vector(t, "a-p256.bin"),
		"only zero bytes": make([]byte, 363),
		"only FF":         bytes.Repeat([]byte{0xFF}, 363),
		"headless":        good[8:],
		"doubled":         append(bytes.Clone(good), good...),
		"7 bytes of KCV":  append(make([]byte, 7), good[8:]...),
	} {
		if _, err := ParseBlob(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConstructorsReject(t *testing.T) {
	c := curve.ByName("P-256")
	for name, d := range map[string][]byte{"empty": nil, "zero": make([]byte, 32), "n": c.N.Bytes(), "long": bytes.Repeat([]byte{1}, 33)} {
		if _, err := NewEC(c, d); !errors.Is(err, ErrFormat) {
			t.Errorf("EC %s: %v", name, err)
		}
	}
	if _, err := NewEC(nil, []byte{1}); !errors.Is(err, ErrFormat) {
		t.Error("EC without a curve")
	}
	for _, n := range []int{0, 8, 15, 33, 64} {
		if _, err := NewAES(make([]byte, n)); !errors.Is(err, ErrFormat) {
			t.Errorf("AES of %d bytes: %v", n, err)
		}
	}
	key := goRSA(t)[0]
	alter := func(f func(k *rsa.PrivateKey)) *rsa.PrivateKey {
		k := &rsa.PrivateKey{PublicKey: key.PublicKey, D: key.D, Primes: []*big.Int{key.Primes[0], key.Primes[1]}}
		f(k)
		return k
	}
	for name, k := range map[string]*rsa.PrivateKey{
		"nil":          nil,
		"empty":        {},
		"no primes":    alter(func(k *rsa.PrivateKey) { k.Primes = nil }),
		"three primes": alter(func(k *rsa.PrivateKey) { k.Primes = append(k.Primes, big.NewInt(3)) }),
		"nil prime":    alter(func(k *rsa.PrivateKey) { k.Primes[1] = nil }),
		"small e":      alter(func(k *rsa.PrivateKey) { k.E = 1 }),
		"other d":      alter(func(k *rsa.PrivateKey) { k.D = new(big.Int).Add(k.D, big.NewInt(2)) }),
		"negative d":   alter(func(k *rsa.PrivateKey) { k.D = new(big.Int).Neg(k.D) }),
		"large d":      alter(func(k *rsa.PrivateKey) { k.D = new(big.Int).Add(k.D, k.N) }),
		"negative primes": alter(func(k *rsa.PrivateKey) {
			k.Primes = []*big.Int{new(big.Int).Neg(k.Primes[0]), new(big.Int).Neg(k.Primes[1])}
		}),
	} {
		if _, err := NewRSA(k); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrMismatch) {
			t.Errorf("RSA %s: %v", name, err)
		}
	}
	if _, err := aesKey(t, 16).RSA(); !errors.Is(err, ErrMismatch) {
		t.Error("AES as RSA")
	}
	if c, d, _, _ := aesKey(t, 16).EC(); c != nil || d != nil {
		t.Error("AES as EC")
	}
	if ecKey(t, c).AES() != nil {
		t.Error("EC as AES")
	}
}

// Constructors clear what they were given.
func TestConstructorsClear(t *testing.T) {
	d, a, s, k := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{1}, 32)
	_, err1 := NewEC(curve.ByName("P-256"), d)
	_, err2 := NewAES(a)
	_, err3 := ShareFromBytes(s)
	_, err4 := KeyFromBytes(k)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	for i, b := range [][]byte{d, a, s, k} {
		if !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("constructor %d leaves a copy behind", i)
		}
	}
}

// Small d, d just below n, zeros in front: lengths stay what they are.
func TestSealScalarsProperty(t *testing.T) {
	k := testKey(t)
	curves := curve.All()
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(curves).Draw(t, "curve")
		d := rapid.SliceOfN(rapid.Byte(), 1, c.FieldBytes()).Draw(t, "d")
		if !c.ValidScalar(d) {
			t.Skip("out of range")
		}
		p, err := NewEC(c, bytes.Clone(d))
		if err != nil {
			t.Fatal(err)
		}
		list := rapid.SliceOfN(rapid.Byte(), 0, maxAlgorithms).Draw(t, "list")
		blob, err := k.Seal(p, SealOptions{Algorithms: list})
		if err != nil {
			t.Fatal(err)
		}
		want := map[int]int{192: 299, 224: 331, 256: 363, 320: 443, 384: 507, 512: 651, 521: 667}[c.Bits] + len(list)
		if len(blob) != want {
			t.Fatalf("%d bytes, want %d", len(blob), want)
		}
		got, err := open(k, blob)
		if err != nil || got.Check() != nil {
			t.Fatal(err)
		}
		if _, back, _, _ := got.EC(); len(back) != c.FieldBytes() || !bytes.Equal(strip(back), strip(d)) {
			t.Fatal("another number")
		}
	})
}

func TestBlobTypeNames(t *testing.T) {
	if got := fmt.Sprint(BlobRSA, BlobRSACRT, BlobEC, BlobAES, BlobType(9)); got != "RSA RSA (CRT) EC AES unknown" {
		t.Error(got)
	}
}

func FuzzParseBlob(f *testing.F) {
	for _, g := range goldenKeys {
		if c, err := ParseContainer(vector(f, g.file)); err == nil {
			f.Add(c.Blob)
		}
	}
	k := testKey(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := ParseBlob(raw)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		again := append(bytes.Clone(b.KCV[:]), byte(b.Type))
		for _, v := range [][]byte{b.Algorithm, b.Algorithms, b.AccessConditions, b.KeyOID} {
			again = appendLV16(again, v)
		}
		again = append(append(again, b.Ciphertext...), b.MAC...)
		if !bytes.Equal(again, raw) {
			t.Fatal("does not encode to what it was")
		}
		if _, err := k.Open(b); err == nil {
			t.Fatal("opens under a key it was not made with")
		}
		// the same under the right authentication: the plaintext parsers
		if sealed, err := k.wrap(b.Type, b.Algorithm, b.Algorithms, b.Ciphertext); err == nil {
			if p, err := open(k, sealed); err == nil {
				_, _, _ = MatchKey(p, nil, nil)
			}
		}
	})
}

// BenchmarkCheckRSA4096 finds the primes again from n, e and d.
func BenchmarkCheckRSA4096(b *testing.B) {
	k := testKey(b)
	blob, err := k.Seal(rsaKeys(b)[3], SealOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, err := open(k, blob)
		if err != nil || p.Check() != nil {
			b.Fatal(err)
		}
	}
}
