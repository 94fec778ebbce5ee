package curve

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"math/big"
	"testing"
)

// a and b are derived; these are the published values (RFC 5639, SEC 2, fact
// sheet §5.4).
func TestCoefficients(t *testing.T) {
	for name, want := range map[string]string{
		"brainpoolP256r1": "7d5a0975fc2c3057eef67530417affe7fb8055c126dc5c6ce94a4b44f330b5d9",
		"secp256k1":       "0",
		"P-256":           "ffffffff00000001000000000000000000000000fffffffffffffffffffffffc",
		"P-192":           "fffffffffffffffffffffffffffffffefffffffffffffffc",
	} {
		if got := ByName(name).A.Text(16); got != want {
			t.Errorf("%s: a = %s", name, got)
		}
	}
	if got := ByName("brainpoolP256r1").B.Text(16); got != "26dc5c6ce94a4b44f330b5d9bbd77cbf958416295cf7e1ce6bccdc18ff8c07b6" {
		t.Errorf("brainpoolP256r1: b = %s", got)
	}
}

func TestEveryCurve(t *testing.T) {
	digest := sha256.Sum256([]byte("test"))
	for _, c := range All() {
		t.Run(c.Name, func(t *testing.T) {
			if !c.IsOnCurve(c.Gx, c.Gy) {
				t.Fatal("the base point is not on the curve")
			}
			d, x, y, err := c.GenerateKey(rand.Reader)
			if err != nil || len(d) != c.FieldBytes() {
				t.Fatal(err)
			}
			r, s, err := c.Sign(rand.Reader, d, digest[:])
			if err != nil || !c.Verify(x, y, digest[:], r, s) {
				t.Fatalf("own signature does not verify: %v", err)
			}
			if c.Verify(x, y, make([]byte, 32), r, s) {
				t.Error("a signature of something else verifies")
			}
			x2, y2, err := c.Unmarshal(c.Marshal(x, y))
			if err != nil || x2.Cmp(x) != 0 || y2.Cmp(y) != 0 {
				t.Errorf("point does not survive: %v", err)
			}
			d2, bx, by, _ := c.GenerateKey(rand.Reader)
			s1, _ := c.ScalarMult(bx, by, d)
			s2, _ := c.ScalarMult(x, y, d2)
			if s1.Cmp(s2) != 0 {
				t.Error("the two sides of ECDH differ")
			}
			if ByOID(c.OID) != c || ByDomain(c.P, c.A) != c || ByName(c.Name) != c {
				t.Error("not found by its own names")
			}
			// (n-1)·G = -G
			nx, ny := c.ScalarBaseMult(new(big.Int).Sub(c.N, big.NewInt(1)).FillBytes(make([]byte, c.FieldBytes())))
			if nx.Cmp(c.Gx) != 0 || new(big.Int).Add(ny, c.Gy).Cmp(c.P) != 0 {
				t.Error("(n-1)·G is not -G")
			}
		})
	}
}

func TestReject(t *testing.T) {
	c := ByName("prime256v1")
	p := c.Marshal(c.Gx, c.Gy)
	p[40] ^= 1
	for _, b := range [][]byte{nil, {4}, p, bytes.Repeat([]byte{0xFF}, 65), append([]byte{2}, p[1:]...), c.Marshal(new(big.Int), new(big.Int))} {
		if _, _, err := c.Unmarshal(b); !errors.Is(err, ErrPoint) {
			t.Errorf("%X is taken as a point", b)
		}
	}
	if _, _, err := c.Sign(rand.Reader, make([]byte, 32), make([]byte, 32)); err == nil {
		t.Error("signs with the scalar 0")
	}
	if c.Verify(big.NewInt(1), big.NewInt(1), nil, big.NewInt(1), big.NewInt(1)) {
		t.Error("verifies with a point off the curve")
	}
	if ByName("nonsense") != nil || ByDomain(big.NewInt(7), nil) != nil {
		t.Error("finds a curve that is none")
	}
	if got := ByDomain(ByName("brainpoolP384t1").P, nil); got.Name != "brainpoolP384r1" {
		t.Errorf("by prime alone: %s", got.Name)
	}
}
