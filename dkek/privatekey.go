package dkek

import (
	"bytes"
	"crypto/rsa"
	"fmt"
	"math/big"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/secret"
)

// PrivateKey is a key out of a blob, or on its way into one. It is not safe
// for concurrent use: RSA primes are worked out when first needed.
type PrivateKey struct {
	kind pkcs15.Kind

	// RSA. d is nil in a key that came with CRT numbers, the others are nil in
	// one that came without, until complete.
	e                        int
	n, d, p, q, dP, dQ, qInv *big.Int
	checked                  bool

	// EC: the scalar at full field length, the point as it was read.
	curve  *curve.Curve
	scalar *secret.Bytes
	x, y   *big.Int

	// AES
	key *secret.Bytes
}

// NewRSA copies a key of two primes. The error wraps ErrMismatch if its
// numbers do not agree, ErrFormat if no token could hold it.
func NewRSA(key *rsa.PrivateKey) (*PrivateKey, error) {
	if key == nil || key.N == nil || key.D == nil {
		return nil, fail(ErrFormat, "no RSA key")
	}
	if len(key.Primes) != 2 || key.Primes[0] == nil || key.Primes[1] == nil {
		return nil, fail(ErrFormat, "RSA key of %d primes: tokens hold keys of two", len(key.Primes))
	}
	if _, err := pubkey.NewRSA(key.N, key.E); err != nil {
		return nil, fail(ErrFormat, "RSA key: %v", err)
	}
	p := &PrivateKey{kind: pkcs15.RSA, e: key.E,
		n: new(big.Int).Set(key.N), d: new(big.Int).Set(key.D),
		p: new(big.Int).Set(key.Primes[0]), q: new(big.Int).Set(key.Primes[1])}
	if err := p.Check(); err != nil {
		p.Wipe()
		return nil, err
	}
	return p, nil
}

// NewEC takes ownership of the scalar and clears it. It may be shorter than
// the field. The error wraps ErrFormat if it is not between 0 and the order.
func NewEC(c *curve.Curve, d []byte) (*PrivateKey, error) {
	if c == nil {
		return nil, fail(ErrFormat, "EC key on no known curve")
	}
	scalar, err := fixedScalar(c, d)
	clear(d)
	if err != nil {
		return nil, err
	}
	x, y := c.ScalarBaseMult(scalar.Bytes())
	return &PrivateKey{kind: pkcs15.EC, curve: c, scalar: scalar, x: x, y: y}, nil
}

// fixedScalar brings d to field length and checks its range.
func fixedScalar(c *curve.Curve, d []byte) (*secret.Bytes, error) {
	d = bytes.TrimLeft(d, "\x00")
	if len(d) > c.FieldBytes() || !c.ValidScalar(d) {
		return nil, fail(ErrFormat, "EC key: private number out of range for %s", c.Name)
	}
	full := make([]byte, c.FieldBytes())
	copy(full[len(full)-len(d):], d)
	return secret.New(full), nil
}

// NewAES takes ownership of 16, 24 or 32 bytes and clears them.
func NewAES(key []byte) (*PrivateKey, error) {
	switch len(key) {
	case 16, 24, 32:
		return &PrivateKey{kind: pkcs15.AES, key: secret.New(key)}, nil
	}
	clear(key)
	return nil, fail(ErrFormat, "AES key of %d bytes: 16, 24 or 32 expected", len(key))
}

// Kind is the sort of key.
func (p *PrivateKey) Kind() pkcs15.Kind { return p.kind }

// Type names the key as the product prints it: RSA-2048, P-256, AES-128.
func (p *PrivateKey) Type() string {
	switch p.kind {
	case pkcs15.RSA:
		return pubkey.RSAType(p.n.BitLen())
	case pkcs15.EC:
		return p.curve.Name
	default:
		return pubkey.AESType(8 * p.key.Len())
	}
}

// Public gives the public half as the blob has it; Check tells whether it is
// the private key's. It is nil for AES.
func (p *PrivateKey) Public() (*pubkey.Key, error) {
	switch p.kind {
	case pkcs15.RSA:
		return pubkey.NewRSA(new(big.Int).Set(p.n), p.e)
	case pkcs15.EC:
		return pubkey.NewEC(p.curve, p.x, p.y)
	default:
		return nil, nil
	}
}

// Check tells whether the key agrees with itself: of RSA that n is the product
// of two primes, that e and d undo each other, and any CRT numbers; of EC that
// the point is the private number times the generator; of AES the length. The
// error wraps ErrMismatch. RSA-4096 takes about a tenth of a second.
func (p *PrivateKey) Check() error {
	switch p.kind {
	case pkcs15.RSA:
		return p.completeRSA()
	case pkcs15.EC:
		if p.scalar.Len() == 0 {
			return errKeyWiped
		}
		x, y := p.curve.ScalarBaseMult(p.scalar.Bytes())
		if x.Cmp(p.x) != 0 || y.Cmp(p.y) != 0 {
			return fail(ErrMismatch, "the private key and the public point beside it do not belong together")
		}
	default:
		if p.key.Len() == 0 {
			return errKeyWiped
		}
	}
	return nil
}

var errKeyWiped = fail(ErrFormat, "the private key is no longer in memory")

// RSA gives the key to Go's crypto, complete and checked. Errors are those of
// Check; a key of another kind gives ErrMismatch. What it copies is the
// caller's to drop.
func (p *PrivateKey) RSA() (*rsa.PrivateKey, error) {
	if p.kind != pkcs15.RSA {
		return nil, fail(ErrMismatch, "%s is no RSA key", p.Type())
	}
	if err := p.completeRSA(); err != nil {
		return nil, err
	}
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Set(p.n), E: p.e},
		D:         new(big.Int).Set(p.d),
		Primes:    []*big.Int{new(big.Int).Set(p.p), new(big.Int).Set(p.q)},
	}
	key.Precompute()
	if err := key.Validate(); err != nil {
		return nil, fail(ErrMismatch, "RSA key: %v", err)
	}
	return key, nil
}

// EC gives the curve, a view of the private number at full field length, valid
// until Wipe, and the point. The curve is nil for a key of another kind.
func (p *PrivateKey) EC() (c *curve.Curve, d []byte, x, y *big.Int) {
	return p.curve, p.scalar.Bytes(), p.x, p.y
}

// AES is a view of the key, valid until Wipe; nil for a key of another kind.
func (p *PrivateKey) AES() []byte { return p.key.Bytes() }

// Wipe clears the key. It may be called again, and on nil. Type and Public
// still answer for RSA and EC.
func (p *PrivateKey) Wipe() {
	if p == nil {
		return
	}
	for _, v := range []**big.Int{&p.d, &p.p, &p.q, &p.dP, &p.dQ, &p.qInv} {
		wipeInt(*v)
		*v = nil
	}
	p.checked = false
	p.scalar.Wipe()
	p.key.Wipe()
}

// wipeInt clears the words of a secret number, if any.
func wipeInt(v *big.Int) {
	if v != nil {
		clear(v.Bits())
		v.SetInt64(0)
	}
}

// Format never gives the secret.
func (p PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }
