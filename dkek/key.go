package dkek

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"

	"hsmbackup/internal/secret"
)

// KCV is the key check value of a DKEK: the first 8 bytes of its SHA-256 (fact
// sheet §6.1). It is public and names the key.
type KCV [8]byte

// zeroKeyKCV is the KCV of 32 zero bytes, which is what a share imported twice
// leaves on a token.
var zeroKeyKCV = KCV{0x66, 0x68, 0x7A, 0xAD, 0xF8, 0x62, 0xBD, 0x77}

// String is upper-case hex, as the tools print it.
func (v KCV) String() string { return fmt.Sprintf("%X", v[:]) }

// IsZero tells whether no KCV is known: tokens answer zeros while shares are
// missing, some also before login (fact sheet §2.6).
func (v KCV) IsZero() bool { return v == KCV{} }

// IsZeroKey tells whether this is the KCV of the all-zero key: whatever is
// wrapped under it is open to everyone.
func (v KCV) IsZeroKey() bool { return v == zeroKeyKCV }

// ParseKCV reads 16 hex digits of either case, also with colons or blanks
// between them. The error wraps ErrFormat.
func ParseKCV(s string) (v KCV, err error) {
	b, err := hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(s))
	if err != nil || len(b) != len(v) {
		return v, fail(ErrFormat, "%q is no KCV: 16 hex digits expected", s)
	}
	return KCV(b), nil
}

// Key is a DKEK.
type Key struct{ b *secret.Bytes }

// Combine makes the DKEK from all its shares, in any order, by XOR. No token
// and no share file notices a wrong set; the KCV tells. The same share twice
// gives ErrDuplicateShare with the two positions, counted from 1; a result of
// zeros gives ErrZeroKey.
func Combine(shares ...*Share) (*Key, error) {
	if len(shares) == 0 {
		return nil, fail(ErrFormat, "no share given")
	}
	for i, s := range shares {
		if len(s.Bytes()) != Size {
			return nil, fail(ErrFormat, "share %d is empty", i+1)
		}
		for j, o := range shares[:i] {
			if s.Equal(o) {
				return nil, fail(ErrDuplicateShare, "shares %d and %d are the same: a share given twice cancels itself, give each once", j+1, i+1)
			}
		}
	}
	sum := make([]byte, Size)
	for _, s := range shares {
		subtle.XORBytes(sum, sum, s.Bytes())
	}
	k := &Key{secret.New(sum)}
	if k.KCV().IsZeroKey() {
		k.Wipe()
		return nil, fail(ErrZeroKey, "the shares cancel each other to a key of zeros (KCV %s), which protects nothing: check which shares belong together", zeroKeyKCV)
	}
	return k, nil
}

// KeyFromBytes takes ownership of 32 bytes and clears them. It checks nothing
// but the length: a token takes what it is given, the all-zero key included.
// People's shares go through Combine.
func KeyFromBytes(b []byte) (*Key, error) {
	if len(b) != Size {
		return nil, fail(ErrFormat, "recovery key has %d bytes, %d expected", len(b), Size)
	}
	return &Key{secret.New(b)}, nil
}

// Bytes is a view of the key, valid until Wipe.
func (k *Key) Bytes() []byte {
	if k == nil {
		return nil
	}
	return k.b.Bytes()
}

// KCV names the key; it is zero after Wipe.
func (k *Key) KCV() (v KCV) {
	if len(k.Bytes()) != Size {
		return v
	}
	sum := sha256.Sum256(k.Bytes())
	copy(v[:], sum[:])
	clear(sum[:])
	_ = sha256.Sum256(sum[:]) // it keeps its input on the stack: this takes the place of that
	return v
}

// AnchorKey is the key of the catalog's anchor: HMAC-SHA256 under the DKEK of
// the text "hsmbackup anchor key v1". Whoever holds it can neither open blobs
// nor learn the DKEK. 32 bytes, which the caller clears; nil after Wipe.
func (k *Key) AnchorKey() []byte { return k.named("hsmbackup anchor key v1") }

// SetKey is, in the same way, the key of what vouches for a set of parts: of the
// text "hsmbackup part set key v1".
func (k *Key) SetKey() []byte { return k.named("hsmbackup part set key v1") }

// named derives the key of a name.
func (k *Key) named(name string) []byte {
	if len(k.Bytes()) != Size {
		return nil
	}
	h := hmac.New(sha256.New, k.Bytes())
	h.Write([]byte(name))
	return h.Sum(nil)
}

// derive gives SHA-256(DKEK ‖ n as four bytes): 1 is the key that encrypts
// blobs, 2 the one that authenticates them (fact sheet §6.1).
func (k *Key) derive(n byte) *secret.Bytes {
	var in [Size + 4]byte
	copy(in[:], k.Bytes())
	in[len(in)-1] = n
	sum := sha256.Sum256(in[:])
	clear(in[:])
	_ = sha256.Sum256(in[:]) // as in KCV
	return secret.New(sum[:])
}

func (k *Key) encryptionKey() *secret.Bytes     { return k.derive(1) }
func (k *Key) authenticationKey() *secret.Bytes { return k.derive(2) }

// Wipe clears the key. It may be called again, and on nil.
func (k *Key) Wipe() {
	if k != nil {
		k.b.Wipe()
	}
}

// Format never gives the secret.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }
