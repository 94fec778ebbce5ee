package dkek

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/big"

	"hsmbackup/internal/cmac"
	"hsmbackup/internal/pkcs15"
)

// maxAlgorithms is the longest list a token takes (fact sheet §2.7).
const maxAlgorithms = 16

// SealOptions are the choices a token makes when it writes a blob.
type SealOptions struct {
	// Algorithms is the list of what the key may do (fact sheet §2.9), at most
	// 16 bytes; empty means everything.
	Algorithms []byte
	// CRT writes RSA as type 06 (firmware 2.0) rather than 05 (3.4 and later).
	CRT bool
}

// Seal writes a key blob as real tokens do: fixed lengths, padding always,
// fresh random bytes (fact sheet §6.5). An RSA key is checked first, with the
// errors of Check; ErrFormat if the list is too long.
func (k *Key) Seal(p *PrivateKey, o SealOptions) ([]byte, error) {
	if len(k.Bytes()) != Size {
		return nil, errWiped
	}
	if p == nil {
		return nil, errKeyWiped
	}
	if len(o.Algorithms) > maxAlgorithms {
		return nil, fail(ErrFormat, "algorithm list of %d bytes: a token takes %d", len(o.Algorithms), maxAlgorithms)
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	var (
		kind       BlobType
		oid        []byte
		size       int
		components [][]byte
	)
	switch p.kind {
	case pkcs15.RSA:
		kind, oid, size = BlobRSA, algorithmRSA, p.n.BitLen()
		length := (size + 7) / 8
		n, e := p.n.Bytes(), big.NewInt(int64(p.e)).Bytes()
		if o.CRT {
			kind = BlobRSACRT
			half := max((length+1)/2, byteLen(p.p), byteLen(p.q))
			for _, v := range []*big.Int{p.dP, p.dQ, p.p, p.qInv, p.q} {
				components = append(components, v.FillBytes(make([]byte, half)))
			}
			components = append(components, n, e)
		} else {
			components = [][]byte{p.d.FillBytes(make([]byte, max(length, byteLen(p.d)))), n, e}
		}
	case pkcs15.EC:
		c := p.curve
		kind, oid, size = BlobEC, algorithmEC, 8*c.FieldBytes()
		fixed := func(v *big.Int) []byte { return v.FillBytes(make([]byte, c.FieldBytes())) }
		components = [][]byte{fixed(c.A), fixed(c.B), fixed(c.P), fixed(c.N), c.Marshal(c.Gx, c.Gy),
			bytes.Clone(p.scalar.Bytes()), c.Marshal(p.x, p.y)}
	default:
		kind, oid, size = BlobAES, algorithmAES, p.key.Len()
	}
	defer func() {
		for _, c := range components {
			clear(c)
		}
	}()

	plain := make([]byte, randomPrefix, maxBlob) // never grows: nothing secret stays behind in an old array
	defer func() { clear(plain) }()
	_, _ = rand.Read(plain) // never fails since Go 1.24
	plain = binary.BigEndian.AppendUint16(plain, uint16(size))
	if kind == BlobAES {
		plain = append(plain, p.key.Bytes()...)
	}
	for _, c := range components {
		plain = appendLV16(plain, c)
	}
	plain = append(plain, 0x80) // ISO 9797-1 method 2
	for len(plain)%aes.BlockSize != 0 {
		plain = append(plain, 0)
	}
	return k.wrap(kind, oid, o.Algorithms, plain)
}

// wrap puts the header before a padded plaintext, encrypts and authenticates.
func (k *Key) wrap(kind BlobType, oid, algorithms, plain []byte) ([]byte, error) {
	kcv := k.KCV()
	blob := append(kcv[:], byte(kind))
	blob = appendLV16(blob, oid)
	blob = appendLV16(blob, algorithms)
	blob = append(blob, 0, 0, 0, 0) // no access conditions, no key OID
	encryption, authentication := k.encryptionKey(), k.authenticationKey()
	defer encryption.Wipe()
	defer authentication.Wipe()
	block, err := aes.NewCipher(encryption.Bytes())
	if err != nil {
		return nil, fmt.Errorf("key blob: %w", err)
	}
	sealed := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(sealed, plain)
	blob = append(blob, sealed...)
	mac, err := cmac.Sum(authentication.Bytes(), blob)
	if err != nil {
		return nil, fmt.Errorf("key blob: %w", err)
	}
	return append(blob, mac[:]...), nil
}

func byteLen(v *big.Int) int { return (v.BitLen() + 7) / 8 }
