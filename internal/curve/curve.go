// Package curve knows the elliptic curves that a SmartCard-HSM can hold: their
// names, domain parameters and arithmetic (fact sheet §5.3, §6.5).
//
// The NIST curves from P-224 on are Go's own and constant time. brainpool,
// secp256k1 and the others come from libraries or generic code that is not: they
// serve public operations, offline checks and the software token.
package curve

//lint:file-ignore SA1019 the one place that does arithmetic on curves which only the deprecated elliptic.Curve interface can carry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"github.com/ProtonMail/go-crypto/brainpool"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// Curve is one named curve. All are of cofactor 1. The numbers must not be
// changed.
type Curve struct {
	// Name is what the product prints: P-256, brainpoolP256r1, secp256k1.
	Name string
	OID  asn1.ObjectIdentifier
	// Bits is the size of the field.
	Bits               int
	P, A, B, Gx, Gy, N *big.Int

	arithmetic elliptic.Curve
	aliases    []string
}

// ErrPoint is wrapped when bytes or coordinates are no point of the curve.
var ErrPoint = errors.New("not a point on the curve")

var all = append([]*Curve{
	define("P-192", p192(), "1.2.840.10045.3.1.1", "prime192v1", "secp192r1"),
	define("P-256", elliptic.P256(), "1.2.840.10045.3.1.7", "prime256v1", "secp256r1"),
	define("P-384", elliptic.P384(), "1.3.132.0.34", "secp384r1"),
	define("P-521", elliptic.P521(), "1.3.132.0.35", "secp521r1"),
	define("brainpoolP256r1", brainpool.P256r1(), "1.3.36.3.3.2.8.1.1.7"),
	define("brainpoolP256t1", brainpool.P256t1(), "1.3.36.3.3.2.8.1.1.8"),
	define("brainpoolP384r1", brainpool.P384r1(), "1.3.36.3.3.2.8.1.1.11"),
	define("brainpoolP384t1", brainpool.P384t1(), "1.3.36.3.3.2.8.1.1.12"),
	define("brainpoolP512r1", brainpool.P512r1(), "1.3.36.3.3.2.8.1.1.13"),
	define("brainpoolP512t1", brainpool.P512t1(), "1.3.36.3.3.2.8.1.1.14"),
	define("secp256k1", secp256k1.S256(), "1.3.132.0.10"),
	define("P-224", elliptic.P224(), "1.3.132.0.33", "secp224r1"),
}, generics...)

func define(name string, e elliptic.Curve, oid string, aliases ...string) *Curve {
	p := e.Params()
	c := &Curve{Name: name, Bits: p.BitSize, P: p.P, Gx: p.Gx, Gy: p.Gy, N: p.N, arithmetic: e, aliases: aliases}
	for _, part := range strings.Split(oid, ".") {
		n := 0
		for _, d := range part {
			n = n*10 + int(d-'0')
		}
		c.OID = append(c.OID, n)
	}
	// elliptic.CurveParams has no a, and brainpool's has no b. Two points give
	// both: y² - x³ = a·x + b holds for G and for 2·G.
	rest := func(x, y *big.Int) *big.Int {
		x3 := new(big.Int).Exp(x, big.NewInt(3), p.P)
		return new(big.Int).Sub(new(big.Int).Mul(y, y), x3)
	}
	x2, y2 := e.Double(p.Gx, p.Gy)
	slope := new(big.Int).ModInverse(new(big.Int).Sub(p.Gx, x2), p.P)
	c.A = slope.Mul(slope, new(big.Int).Sub(rest(p.Gx, p.Gy), rest(x2, y2)))
	c.A.Mod(c.A, p.P)
	c.B = new(big.Int).Sub(rest(p.Gx, p.Gy), new(big.Int).Mul(c.A, p.Gx))
	c.B.Mod(c.B, p.P)
	return c
}

// p192 is NIST P-192 (FIPS 186-4 D.1.2.1), which Go leaves out. a = -3, so the
// generic arithmetic of CurveParams is right.
func p192() elliptic.Curve {
	n := func(hex string) *big.Int {
		v, _ := new(big.Int).SetString(hex, 16)
		return v
	}
	return &elliptic.CurveParams{
		Name: "P-192", BitSize: 192,
		P:  n("fffffffffffffffffffffffffffffffeffffffffffffffff"),
		N:  n("ffffffffffffffffffffffff99def836146bc9b1b4d22831"),
		B:  n("64210519e59c80e70fa7e9ab72243049feb8deecc146b9b1"),
		Gx: n("188da80eb03090f67cbf20eb43a18800f4ff0afd82ff1012"),
		Gy: n("07192b95ffc8da78631011ed6b24cdd573f977a11e794811"),
	}
}

// All gives every curve.
func All() []*Curve { return append([]*Curve(nil), all...) }

// ByName finds a curve by its name or by the one OpenSC and OpenSSL use
// (prime256v1, secp384r1); nil if there is none.
func ByName(name string) *Curve {
	for _, c := range all {
		if strings.EqualFold(c.Name, name) {
			return c
		}
		for _, a := range c.aliases {
			if strings.EqualFold(a, name) {
				return c
			}
		}
	}
	return nil
}

// ByOID finds a curve by its object identifier; nil if there is none.
func ByOID(oid asn1.ObjectIdentifier) *Curve {
	for _, c := range all {
		if c.OID.Equal(oid) {
			return c
		}
	}
	return nil
}

// ByDomain finds a curve by its prime and, if a is not nil, its coefficient a.
// Without a, brainpool's r1 is taken rather than t1, which shares its prime.
func ByDomain(p, a *big.Int) *Curve {
	for _, c := range all {
		if c.P.Cmp(p) == 0 && (a == nil || c.A.Cmp(a) == 0) {
			return c
		}
	}
	return nil
}

// FieldBytes is the length of a coordinate in bytes; for these curves it is
// that of a scalar too.
func (c *Curve) FieldBytes() int { return (c.Bits + 7) / 8 }

// IsOnCurve tells whether (x, y) is a point of the curve other than infinity.
func (c *Curve) IsOnCurve(x, y *big.Int) bool {
	if x == nil || y == nil || x.Sign() < 0 || y.Sign() < 0 || x.Cmp(c.P) >= 0 || y.Cmp(c.P) >= 0 {
		return false
	}
	return c.arithmetic.IsOnCurve(x, y)
}

// ScalarBaseMult gives d·G.
func (c *Curve) ScalarBaseMult(d []byte) (x, y *big.Int) { return c.arithmetic.ScalarBaseMult(d) }

// ScalarMult gives d·(x, y). The point must be on the curve.
func (c *Curve) ScalarMult(x, y *big.Int, d []byte) (*big.Int, *big.Int) {
	return c.arithmetic.ScalarMult(x, y, d)
}

// ValidScalar tells whether 0 < d < n.
func (c *Curve) ValidScalar(d []byte) bool {
	v := new(big.Int).SetBytes(d)
	ok := v.Sign() > 0 && v.Cmp(c.N) < 0
	wipe(v)
	return ok
}

// GenerateKey makes a private scalar of FieldBytes bytes and its point.
func (c *Curve) GenerateKey(rand io.Reader) (d []byte, x, y *big.Int, err error) {
	d = make([]byte, c.FieldBytes())
	for {
		if _, err := io.ReadFull(rand, d); err != nil {
			return nil, nil, nil, err
		}
		if excess := len(d)*8 - c.N.BitLen(); excess > 0 {
			d[0] &= 0xFF >> excess
		}
		if c.ValidScalar(d) { // of n near 2^k rejection is rare; brainpool rejects a third
			x, y = c.ScalarBaseMult(d)
			return d, x, y, nil
		}
	}
}

// Sign makes an ECDSA signature of a digest; one longer than the order is cut
// as FIPS 186 says.
func (c *Curve) Sign(rand io.Reader, d, digest []byte) (r, s *big.Int, err error) {
	if !c.ValidScalar(d) {
		return nil, nil, errors.New("private scalar out of range")
	}
	key := &ecdsa.PrivateKey{PublicKey: ecdsa.PublicKey{Curve: c.arithmetic}, D: new(big.Int).SetBytes(d)}
	defer wipe(key.D)
	switch c.arithmetic {
	case elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521(): // Go's own insist on the point
		key.X, key.Y = c.ScalarBaseMult(d)
	}
	return ecdsa.Sign(rand, key, digest)
}

// Verify checks an ECDSA signature of a digest.
func (c *Curve) Verify(x, y *big.Int, digest []byte, r, s *big.Int) bool {
	if !c.IsOnCurve(x, y) || r.Sign() <= 0 || s.Sign() <= 0 {
		return false
	}
	return ecdsa.Verify(&ecdsa.PublicKey{Curve: c.arithmetic, X: x, Y: y}, digest, r, s)
}

// Marshal gives the uncompressed point, 04 ‖ x ‖ y at full field length.
func (c *Curve) Marshal(x, y *big.Int) []byte {
	n := c.FieldBytes()
	out := make([]byte, 1+2*n)
	out[0] = 4
	x.FillBytes(out[1 : 1+n])
	y.FillBytes(out[1+n:])
	return out
}

// Unmarshal reads an uncompressed point and checks that it is on the curve;
// otherwise it wraps ErrPoint.
func (c *Curve) Unmarshal(b []byte) (x, y *big.Int, err error) {
	n := c.FieldBytes()
	if len(b) != 1+2*n || b[0] != 4 {
		return nil, nil, fmt.Errorf("%w %s: %d bytes, want 04 and %d", ErrPoint, c.Name, len(b), 2*n)
	}
	x, y = new(big.Int).SetBytes(b[1:1+n]), new(big.Int).SetBytes(b[1+n:])
	if !c.IsOnCurve(x, y) {
		return nil, nil, fmt.Errorf("%w %s", ErrPoint, c.Name)
	}
	return x, y, nil
}

// wipe clears the words of a secret number.
func wipe(v *big.Int) {
	clear(v.Bits())
	v.SetInt64(0)
}
