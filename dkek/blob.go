package dkek

import (
	"bytes"
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"hsmbackup/internal/cmac"
	"hsmbackup/internal/pkcs15"
)

// BlobType is the key type byte of a blob (fact sheet §6.5).
type BlobType byte

// The types. Which of the RSA forms a token writes depends on its firmware.
const (
	BlobRSA    BlobType = 0x05 // d, n, e
	BlobRSACRT BlobType = 0x06 // dP, dQ, p, qInv, q, n, e
	BlobEC     BlobType = 0x0C
	BlobAES    BlobType = 0x0F
)

// Kind is the sort of key; 0 for a type that is none of the constants.
func (t BlobType) Kind() pkcs15.Kind {
	switch t {
	case BlobRSA, BlobRSACRT:
		return pkcs15.RSA
	case BlobEC:
		return pkcs15.EC
	case BlobAES:
		return pkcs15.AES
	}
	return 0
}

func (t BlobType) String() string {
	switch t {
	case BlobRSACRT:
		return "RSA (CRT)"
	default:
		return t.Kind().String()
	}
}

// Default algorithm identifiers in a blob's header, by key type (fact sheet
// §6.5): TA-RSA-v1-5-SHA-256, TA-ECDSA-SHA-256, AES. Readers do not insist,
// because some firmware wrote another one for AES.
var (
	algorithmRSA = []byte{0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x01, 0x02}
	algorithmEC  = []byte{0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x02, 0x03}
	algorithmAES = []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01}
)

// maxBlob bounds what is read as a blob; the largest a token can make, RSA-4096
// of type 06, has 1867 bytes.
const maxBlob = 1 << 14

// Blob is the answer of WRAP, read as far as that goes without the key. Nothing
// in it is to be trusted before Authenticate.
type Blob struct {
	// Raw is the whole blob.
	Raw []byte
	// KCV names the DKEK that it is under.
	KCV  KCV
	Type BlobType
	// Algorithm is the content of an OID.
	Algorithm []byte
	// Algorithms is the list of what the key may do (fact sheet §2.9); nil means
	// everything.
	Algorithms []byte
	// AccessConditions and KeyOID are empty in all blobs seen.
	AccessConditions, KeyOID []byte
	// Ciphertext is a multiple of 16 bytes; MAC authenticates all before it.
	Ciphertext, MAC []byte
}

// ParseBlob reads header and sizes; it needs no key and keeps nothing of b.
// The error wraps ErrFormat.
func ParseBlob(b []byte) (*Blob, error) {
	if len(b) > maxBlob {
		return nil, fail(ErrFormat, "key blob: %d bytes are more than any token writes", len(b))
	}
	if len(b) < len(KCV{})+1 {
		return nil, fail(ErrFormat, "key blob: cut off after %d bytes, within its header", len(b))
	}
	blob := &Blob{Raw: bytes.Clone(b)}
	rest := blob.Raw
	copy(blob.KCV[:], rest)
	blob.Type = BlobType(rest[8])
	if blob.Type.Kind() == 0 {
		return nil, fail(ErrFormat, "key blob: key type %02X is none of 05, 06, 0C, 0F", byte(blob.Type))
	}
	rest = rest[9:]
	for _, field := range []*[]byte{&blob.Algorithm, &blob.Algorithms, &blob.AccessConditions, &blob.KeyOID} {
		var ok bool
		if *field, rest, ok = cutLV16(rest); !ok {
			return nil, fail(ErrFormat, "key blob: cut off or altered within its header")
		}
	}
	n := len(rest) - cmac.Size
	if n < aes.BlockSize || n%aes.BlockSize != 0 {
		return nil, fail(ErrFormat, "key blob: %d bytes after the header are not whole blocks and an authentication code: cut off or with something attached", len(rest))
	}
	blob.Ciphertext, blob.MAC = rest[:n:n], rest[n:]
	return blob, nil
}

// cutLV16 takes a value with a two-byte length off the front of b. An empty
// one is nil.
func cutLV16(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if len(b) < n {
		return nil, nil, false
	}
	if n > 0 {
		value = b[:n:n]
	}
	return value, b[n:], true
}

func appendLV16(dst, value []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(value)))
	return append(dst, value...)
}

// Authenticate checks that the blob is under this key, and whole. Errors wrap
// ErrOtherKey (and are an *OtherKeyError) or ErrTampered.
func (k *Key) Authenticate(b *Blob) error {
	if len(k.Bytes()) != Size {
		return errWiped
	}
	if b == nil || len(b.Raw) < len(KCV{})+cmac.Size {
		return fail(ErrFormat, "key blob: empty")
	}
	under := KCV(b.Raw[:len(KCV{})])
	if own := k.KCV(); under != own {
		return &OtherKeyError{Blob: under, Key: own}
	}
	body, mac := b.Raw[:len(b.Raw)-cmac.Size], b.Raw[len(b.Raw)-cmac.Size:]
	key := k.authenticationKey()
	defer key.Wipe()
	want, err := cmac.Sum(key.Bytes(), body)
	if err != nil {
		return fmt.Errorf("key blob: %w", err)
	}
	if subtle.ConstantTimeCompare(want[:], mac) != 1 {
		return fail(ErrTampered, "key blob: its authentication code does not fit: it was altered or damaged after the token wrote it; use another copy")
	}
	return nil
}

// errWiped is about a programming error that must not pass as a weak key.
var errWiped = fail(ErrFormat, "the recovery key is no longer in memory")
