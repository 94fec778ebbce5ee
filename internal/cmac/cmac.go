// Package cmac computes AES-CMAC (RFC 4493, NIST SP 800-38B) with 128- to
// 256-bit keys. Key blobs are authenticated with it (fact sheet §6.5); the
// standard library has none.
package cmac

import (
	"crypto/aes"
	"crypto/subtle"
)

// Size is the length of a MAC in bytes.
const Size = aes.BlockSize

// Sum gives the MAC of msg. The key has 16, 24 or 32 bytes; any other length
// is an error.
func Sum(key, msg []byte) ([Size]byte, error) {
	var mac [Size]byte
	block, err := aes.NewCipher(key)
	if err != nil {
		return mac, err
	}
	var sub [Size]byte
	block.Encrypt(sub[:], sub[:])
	double(&sub)
	for len(msg) > Size {
		subtle.XORBytes(mac[:], mac[:], msg[:Size])
		block.Encrypt(mac[:], mac[:])
		msg = msg[Size:]
	}
	var last [Size]byte
	copy(last[:], msg)
	if len(msg) < Size {
		last[len(msg)] = 0x80
		double(&sub)
	}
	subtle.XORBytes(mac[:], mac[:], last[:])
	subtle.XORBytes(mac[:], mac[:], sub[:])
	block.Encrypt(mac[:], mac[:])
	clear(sub[:])
	clear(last[:])
	return mac, nil
}

// double multiplies by x in GF(2^128), RFC 4493 §2.3.
func double(b *[Size]byte) {
	carry := b[0] >> 7
	for i := range Size - 1 {
		b[i] = b[i]<<1 | b[i+1]>>7
	}
	b[Size-1] = b[Size-1]<<1 ^ carry*0x87
}
