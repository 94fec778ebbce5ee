package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Hash is a SHA-256. Its text form, in JSON too, is 64 hex digits, written in
// lower case.
type Hash [sha256.Size]byte

// HashOf is the SHA-256 of b.
func HashOf(b []byte) Hash { return sha256.Sum256(b) }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero tells whether the hash is not set.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: exactly 64 hex digits.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("hash of %d characters, want %d", len(text), hex.EncodedLen(len(h)))
	}
	var got Hash
	if _, err := hex.Decode(got[:], text); err != nil {
		return fmt.Errorf("hash: %v", err)
	}
	*h = got
	return nil
}

// hexBytes is a short value that stands as hex in JSON. With the omitzero
// option nil is left out and an empty value stays "".
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) {
	return []byte(hex.EncodeToString(b)), nil
}

func (b *hexBytes) UnmarshalText(text []byte) error {
	v := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(v, text); err != nil {
		return fmt.Errorf("hex value: %v", err)
	}
	*b = v
	return nil
}
