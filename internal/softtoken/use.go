package softtoken

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"   // the token hashes with it
	_ "crypto/sha256" // likewise
	_ "crypto/sha512" // likewise
	"encoding/asn1"
	"math/big"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/pkcs15"
)

// hashes that the token computes itself, by the low digit of the algorithm.
var hashes = map[byte]crypto.Hash{1: crypto.SHA1, 2: crypto.SHA224, 3: crypto.SHA256, 4: crypto.SHA384, 5: crypto.SHA512}

func digest(h crypto.Hash, message []byte) []byte {
	w := h.New()
	_, _ = w.Write(message) // a hash never fails
	return w.Sum(nil)
}

// sign is SIGN (fact sheet §2.9).
func (t *Token) sign(c apdu.Command) answer {
	k, a := t.usable(c)
	if k == nil {
		return a
	}
	return t.use(c, k, k.sign(c))
}

func (k *key) sign(c apdu.Command) answer {
	switch {
	case k.Kind == pkcs15.RSA && c.P2 >= 0x20 && c.P2 < 0x50:
		r, err := k.rsa()
		if err != nil {
			return status(apdu.Internal)
		}
		return signRSA(r, c.P2, c.Data)
	case k.Kind == pkcs15.EC && c.P2 >= 0x70 && c.P2 <= 0x75:
		cv := curve.ByName(k.Curve)
		hash := c.Data
		if c.P2 == 0x70 {
			if len(hash) > cv.FieldBytes() {
				return status(apdu.WrongLength)
			}
		} else {
			hash = digest(hashes[c.P2&0x0F], c.Data)
		}
		rr, ss, err := cv.Sign(rand.Reader, k.Private, hash)
		if err != nil {
			return status(apdu.Internal)
		}
		der, err := asn1.Marshal(struct{ R, S *big.Int }{rr, ss})
		if err != nil {
			return status(apdu.Internal)
		}
		return ok(der...)
	}
	return status(apdu.NotSupported)
}

func signRSA(r *rsa.PrivateKey, algorithm byte, input []byte) answer {
	var sig []byte
	var err error
	switch algorithm {
	case 0x20:
		return rawRSA(r, input)
	case 0x30: // a DigestInfo, or anything else that fits
		sig, err = rsa.SignPKCS1v15(nil, r, crypto.Hash(0), input)
	case 0x31, 0x32, 0x33, 0x34, 0x35:
		h := hashes[algorithm&0x0F]
		sig, err = rsa.SignPKCS1v15(nil, r, h, digest(h, input))
	case 0x40:
		h := map[int]crypto.Hash{20: crypto.SHA1, 28: crypto.SHA224, 32: crypto.SHA256, 48: crypto.SHA384, 64: crypto.SHA512}[len(input)]
		if h == 0 {
			return status(apdu.WrongLength)
		}
		sig, err = rsa.SignPSS(rand.Reader, r, h, input, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case 0x41, 0x43, 0x44, 0x45:
		h := hashes[algorithm&0x0F]
		sig, err = rsa.SignPSS(rand.Reader, r, h, digest(h, input), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	default:
		return status(apdu.NotSupported)
	}
	if err != nil { // the input does not fit the modulus
		return status(apdu.WrongLength)
	}
	return ok(sig...)
}

// rawRSA is m^d mod n over a whole block, by the Chinese remainder theorem.
func rawRSA(r *rsa.PrivateKey, block []byte) answer {
	n := (r.N.BitLen() + 7) / 8
	if len(block) != n {
		return status(apdu.WrongLength)
	}
	m := new(big.Int).SetBytes(block)
	if m.Cmp(r.N) >= 0 {
		return status(apdu.WrongData)
	}
	r.Precompute()
	p, q := r.Primes[0], r.Primes[1]
	m1 := new(big.Int).Exp(m, r.Precomputed.Dp, p)
	m2 := new(big.Int).Exp(m, r.Precomputed.Dq, q)
	h := m1.Sub(m1, m2)
	h.Mul(h, r.Precomputed.Qinv).Mod(h, p)
	return ok(fill(h.Mul(h, q).Add(h, m2), n)...)
}

// decipher is DECIPHER: raw RSA, or ECDH.
func (t *Token) decipher(c apdu.Command) answer {
	k, a := t.usable(c)
	if k == nil {
		return a
	}
	return t.use(c, k, k.decipher(c))
}

func (k *key) decipher(c apdu.Command) answer {
	switch {
	case k.Kind == pkcs15.RSA && c.P2 == 0x21:
		r, err := k.rsa()
		if err != nil {
			return status(apdu.Internal)
		}
		return rawRSA(r, c.Data)
	case k.Kind == pkcs15.EC && c.P2 == 0x80:
		cv := curve.ByName(k.Curve)
		if len(c.Data) != 1+2*cv.FieldBytes() {
			return status(apdu.WrongLength)
		}
		x, y, err := cv.Unmarshal(c.Data)
		if err != nil {
			return status(apdu.WrongData)
		}
		return ok(cv.Marshal(cv.ScalarMult(x, y, k.Private))...)
	}
	return status(apdu.NotSupported)
}

// symmetric is the use of an AES key.
func (t *Token) symmetric(c apdu.Command) answer {
	k, a := t.usable(c)
	if k == nil {
		return a
	}
	return t.use(c, k, k.symmetric(c))
}

func (k *key) symmetric(c apdu.Command) answer {
	if k.Kind != pkcs15.AES {
		return status(apdu.NotSupported)
	}
	block, err := aes.NewCipher(k.Private)
	if err != nil {
		return status(apdu.Internal)
	}
	out := make([]byte, len(c.Data))
	iv := make([]byte, aes.BlockSize)
	switch c.P2 {
	case 0x10, 0x11:
		if len(c.Data)%aes.BlockSize != 0 {
			return status(apdu.WrongLength)
		}
		if c.P2 == 0x10 {
			cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, c.Data)
		} else {
			cipher.NewCBCDecrypter(block, iv).CryptBlocks(out, c.Data)
		}
		return ok(out...)
	case 0x18:
		mac, err := cmac.Sum(k.Private, c.Data)
		if err != nil {
			return status(apdu.Internal)
		}
		return ok(mac[:]...)
	}
	return status(apdu.NotSupported)
}
