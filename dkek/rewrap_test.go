package dkek

import (
	"bytes"
	"crypto/aes"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"hsmbackup/internal/cmac"
	"hsmbackup/internal/curve"
)

// otherKey is what blobs are sealed anew under.
func otherKey(t testing.TB) *Key {
	t.Helper()
	s := NewShare()
	defer s.Wipe()
	k, err := Combine(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

// rewrapped seals a blob anew and checks that it is under the new key only, with
// the same private key in the same form.
func rewrapped(t testing.TB, from, to *Key, blob []byte) []byte {
	t.Helper()
	before := bytes.Clone(blob)
	sealed, err := Rewrap(from, to, blob)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(blob, before) {
		t.Fatal("the old blob was changed")
	}
	old, err := ParseBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseBlob(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if b.KCV != to.KCV() || b.Type != old.Type || !bytes.Equal(b.Algorithms, old.Algorithms) {
		t.Fatalf("KCV %s, type %s, list %x", b.KCV, b.Type, b.Algorithms)
	}
	want, err := from.Open(old)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Wipe()
	got, err := to.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Wipe()
	if err := got.Check(); err != nil || !same(t, want, got) {
		t.Fatalf("another key: %v", err)
	}
	if _, err := from.Open(b); !errors.Is(err, ErrOtherKey) {
		t.Fatalf("the old key opens it: %v", err)
	}
	return sealed
}

// Every type and size, with a list and without, in every form of RSA.
func TestRewrap(t *testing.T) {
	from, to := testKey(t), otherKey(t)
	keys := rsaKeys(t)
	if testing.Short() {
		keys = keys[:2] // the larger ones are the same again
	}
	keys = append(keys, aesKey(t, 16), aesKey(t, 24), aesKey(t, 32))
	for _, c := range curve.All() {
		keys = append(keys, ecKey(t, c))
	}
	small, err := NewEC(curve.ByName("P-256"), []byte{1}) // leading zeros
	if err != nil {
		t.Fatal(err)
	}
	keys = append(keys, small)
	for _, p := range keys {
		for _, o := range []SealOptions{{}, {CRT: true}, {Algorithms: []byte{0x10, 0x11, 0x18, 0x99, 0x92}}, {Algorithms: bytes.Repeat([]byte{0x50}, maxAlgorithms), CRT: true}} {
			t.Run(fmt.Sprintf("%s/%v/%d", p.Type(), o.CRT, len(o.Algorithms)), func(t *testing.T) {
				blob, err := from.Seal(p, o)
				if err != nil {
					t.Fatal(err)
				}
				sealed := rewrapped(t, from, to, blob)
				if len(sealed) != len(blob) {
					t.Errorf("%d bytes, were %d", len(sealed), len(blob))
				}
				if len(blob) > 1000 {
					return // to check a large RSA key takes a while
				}
				again, err := Rewrap(from, to, blob)
				if err != nil || bytes.Equal(again, sealed) {
					t.Errorf("sealed twice to the same: %v", err)
				}
				back := rewrapped(t, to, from, sealed)
				if len(back) != len(blob) || bytes.Equal(back, blob) {
					t.Error("back again it is the old one")
				}
				if blob, err := Rewrap(to, from, blob); blob != nil || !errors.Is(err, ErrOtherKey) {
					t.Errorf("with the keys exchanged: %v", err)
				}
			})
		}
	}
}

// The imitation's form, without leading zeros and with curve fields left out,
// becomes that of real tokens.
func TestRewrapImitation(t *testing.T) {
	from, to := testKey(t), otherKey(t)
	c := curve.ByName("P-256")
	p := ecKey(t, c)
	_, d, x, y := p.EC()
	blob := plainBlob(t, from, BlobEC, c.Bits, nil, nil, nil, c.P.Bytes(), c.N.Bytes(), c.Marshal(c.Gx, c.Gy), strip(d), c.Marshal(x, y))
	sealed := rewrapped(t, from, to, blob)
	real, err := to.Seal(p, SealOptions{})
	if err != nil || len(sealed) != len(real) {
		t.Errorf("%d bytes, a token writes %d: %v", len(sealed), len(real), err)
	}
}

// What sc-hsm-tool wrote, under a new key.
func TestRewrapGolden(t *testing.T) {
	to := otherKey(t)
	for _, g := range goldenKeys {
		t.Run(g.file, func(t *testing.T) {
			c, _, _ := openGolden(t, g)
			sealed := rewrapped(t, golden(t, g.shares...), to, c.Blob)
			c.Blob = sealed
			again, err := ParseContainer(c.Encode())
			if err != nil || !bytes.Equal(again.Blob, sealed) || !bytes.Equal(again.Description, c.Description) || !bytes.Equal(again.Certificate, c.Certificate) {
				t.Fatalf("in its container: %v", err)
			}
			p, err := open(to, again.Blob)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Wipe()
			if match, _, err := MatchKey(p, again.Description, again.Certificate); err != nil || match != g.match {
				t.Errorf("matched %q, want %q: %v", match, g.match, err)
			}
		})
	}
}

func TestRewrapReject(t *testing.T) {
	from, to := testKey(t), otherKey(t)
	blob, err := from.Seal(ecKey(t, curve.ByName("P-256")), SealOptions{})
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(blob)
	flipped[len(flipped)-30] ^= 1
	wiped := otherKey(t)
	wiped.Wipe()
	// withField is a blob with something in one of the fields that no token
	// writes, authentic all the same.
	withField := func(access, oid []byte) []byte {
		kcv := from.KCV()
		b := append(kcv[:], byte(BlobAES))
		for _, f := range [][]byte{algorithmAES, nil, access, oid} {
			b = appendLV16(b, f)
		}
		b = append(b, make([]byte, 2*aes.BlockSize)...)
		key := from.authenticationKey()
		defer key.Wipe()
		mac, err := cmac.Sum(key.Bytes(), b)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, mac[:]...)
	}
	// A key that does not agree with itself is not sealed anew.
	c := curve.ByName("P-256")
	p, q := ecKey(t, c), ecKey(t, c)
	_, d, _, _ := p.EC()
	_, _, x, y := q.EC()
	wrongPoint := plainBlob(t, from, BlobEC, c.Bits, nil, c.A.Bytes(), c.B.Bytes(), c.P.Bytes(), c.N.Bytes(), c.Marshal(c.Gx, c.Gy), d, c.Marshal(x, y))
	r := goRSA(t)[0]
	wrongD := plainBlob(t, from, BlobRSA, 1024, nil, new(big.Int).Sub(r.D, big.NewInt(2)).Bytes(), r.N.Bytes(), big.NewInt(int64(r.E)).Bytes())
	for _, k := range []struct {
		name     string
		from, to *Key
		blob     []byte
		is       error
	}{
		{"under another key", to, from, blob, ErrOtherKey},
		{"altered", from, to, flipped, ErrTampered},
		{"cut", from, to, blob[:len(blob)-16], ErrTampered},
		{"no blob", from, to, []byte("Salted__"), ErrFormat},
		{"nothing", from, to, nil, ErrFormat},
		{"a container", from, to, vector(t, "a-p256.bin"), ErrFormat},
		{"from a wiped key", wiped, to, blob, ErrFormat},
		{"to a wiped key", from, wiped, blob, ErrFormat},
		{"from no key", nil, to, blob, ErrFormat},
		{"to no key", from, nil, blob, ErrFormat},
		{"access conditions", from, to, withField([]byte{1}, nil), ErrFormat},
		{"an OID of its own", from, to, withField(nil, []byte{0x2A}), ErrFormat},
		{"point of another key", from, to, wrongPoint, ErrMismatch},
		{"wrong exponent", from, to, wrongD, ErrMismatch},
	} {
		sealed, err := Rewrap(k.from, k.to, k.blob)
		if sealed != nil || !errors.Is(err, k.is) {
			t.Errorf("%s: %v", k.name, err)
		}
		if err != nil && strings.Contains(err.Error(), fmt.Sprintf("%x", d)) {
			t.Errorf("%s: the message has the key", k.name)
		}
	}
}

// Every byte of a blob counts before anything is sealed.
func TestRewrapEveryByte(t *testing.T) {
	from, to := testKey(t), otherKey(t)
	blob, err := from.Seal(aesKey(t, 32), SealOptions{Algorithms: []byte{0x10, 0x92}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 0x20
		if sealed, err := Rewrap(from, to, bad); sealed != nil || err == nil {
			t.Fatalf("byte %d: passes", i)
		}
	}
}
