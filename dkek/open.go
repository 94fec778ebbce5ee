package dkek

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/big"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
)

// randomPrefix is the number of random bytes before the plaintext, which make
// each export of a key another blob.
const randomPrefix = 8

// Open authenticates the blob and decrypts it; errors wrap those of
// Authenticate, or ErrFormat for an authentic blob of a shape not known. Both
// shapes of fact sheet §6.5 are read, the real token's with fixed lengths and
// the imitation's without leading zeros. Whether the key agrees with itself is
// for Check, whether it is the one expected for MatchKey.
func (k *Key) Open(b *Blob) (*PrivateKey, error) {
	if err := k.Authenticate(b); err != nil {
		return nil, err
	}
	// From here on only what was authenticated counts, not the fields.
	b, err := ParseBlob(b.Raw)
	if err != nil {
		return nil, err
	}
	key := k.encryptionKey()
	defer key.Wipe()
	block, err := aes.NewCipher(key.Bytes())
	if err != nil {
		return nil, fmt.Errorf("key blob: %w", err)
	}
	plain := make([]byte, len(b.Ciphertext))
	defer clear(plain)
	cipher.NewCBCDecrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(plain, b.Ciphertext)
	size := int(binary.BigEndian.Uint16(plain[randomPrefix:]))
	// The components say where they end. What follows is padding of one kind or
	// another, or none.
	body := plain[randomPrefix+2:]
	switch b.Type {
	case BlobRSA:
		return openRSA(size, body)
	case BlobRSACRT:
		return openRSACRT(size, body)
	case BlobEC:
		return openEC(size, body)
	default:
		if len(body) < size {
			return nil, fail(ErrFormat, "key blob: AES key cut off")
		}
		return NewAES(bytes.Clone(body[:size]))
	}
}

// components cuts n values off a plaintext.
func components(body []byte, n int) ([][]byte, error) {
	values := make([][]byte, n)
	for i := range values {
		var ok bool
		if values[i], body, ok = cutLV16(body); !ok {
			return nil, fail(ErrFormat, "key blob: it ends within component %d of %d", i+1, n)
		}
	}
	return values, nil
}

func number(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

// openRSA reads type 05: d, n, e.
func openRSA(size int, body []byte) (*PrivateKey, error) {
	c, err := components(body, 3)
	if err != nil {
		return nil, err
	}
	p, err := rsaKey(size, c[1], c[2])
	if err != nil {
		return nil, err
	}
	p.d = number(c[0])
	if p.d.Sign() == 0 || p.d.Cmp(p.n) >= 0 {
		p.Wipe()
		return nil, fail(ErrFormat, "key blob: RSA private exponent out of range")
	}
	return p, nil
}

// openRSACRT reads type 06: dP, dQ, p, qInv, q, n, e.
func openRSACRT(size int, body []byte) (*PrivateKey, error) {
	c, err := components(body, 7)
	if err != nil {
		return nil, err
	}
	p, err := rsaKey(size, c[5], c[6])
	if err != nil {
		return nil, err
	}
	p.dP, p.dQ, p.p, p.qInv, p.q = number(c[0]), number(c[1]), number(c[2]), number(c[3]), number(c[4])
	return p, nil
}

// rsaKey starts a key from its public numbers and the size in the blob.
func rsaKey(size int, n, exponent []byte) (*PrivateKey, error) {
	e := number(exponent)
	if e.BitLen() > 31 {
		return nil, fail(ErrFormat, "key blob: RSA public exponent of %d bits", e.BitLen())
	}
	p := &PrivateKey{kind: pkcs15.RSA, n: number(n), e: int(e.Int64())}
	if _, err := pubkey.NewRSA(p.n, p.e); err != nil {
		return nil, fail(ErrFormat, "key blob: %v", err)
	}
	if p.n.BitLen() != size {
		return nil, fail(ErrFormat, "key blob: says %d bits, but its RSA modulus has %d", size, p.n.BitLen())
	}
	return p, nil
}

// openEC reads type 0C: a, b, p, n, G, d, Q. The curve goes by p and a; an
// empty a means that only p is known. Whatever else is given must agree.
func openEC(size int, body []byte) (*PrivateKey, error) {
	v, err := components(body, 7)
	if err != nil {
		return nil, err
	}
	prime := number(v[2])
	var a *big.Int
	if len(v[0]) > 0 {
		a = number(v[0])
	}
	c := curve.ByDomain(prime, a)
	if c == nil {
		return nil, fail(ErrCurve, "key blob: EC key on a %d-bit curve that is not known here; it is whole, but cannot be checked further", prime.BitLen())
	}
	if (size+7)/8 != c.FieldBytes() {
		return nil, fail(ErrFormat, "key blob: says %d bits, but its curve is %s", size, c.Name)
	}
	gx, gy, err := c.Unmarshal(v[4])
	if err != nil || gx.Cmp(c.Gx) != 0 || gy.Cmp(c.Gy) != 0 || number(v[3]).Cmp(c.N) != 0 ||
		len(v[1]) > 0 && number(v[1]).Cmp(c.B) != 0 {
		return nil, fail(ErrFormat, "key blob: its curve parameters are not those of %s", c.Name)
	}
	x, y, err := c.Unmarshal(v[6])
	if err != nil {
		return nil, fail(ErrFormat, "key blob: public point: %v", err)
	}
	scalar, err := fixedScalar(c, v[5])
	if err != nil {
		return nil, err
	}
	return &PrivateKey{kind: pkcs15.EC, curve: c, scalar: scalar, x: x, y: y}, nil
}
