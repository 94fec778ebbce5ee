package dkek

import (
	"bytes"
	"fmt"

	"hsmbackup/internal/secret"
)

// Size is the length of a share and of the DKEK in bytes (fact sheet §6.1).
const Size = 32

// redacted is what secrets print as.
const redacted = "[secret]"

// Share is one of the XOR components of a DKEK: all of them are needed.
type Share struct{ b *secret.Bytes }

// NewShare makes a random share.
func NewShare() *Share { return &Share{secret.Random(Size)} }

// ShareFromBytes takes ownership of 32 bytes and clears them. A share of zeros
// is refused with ErrFormat: it adds nothing to a key, so it can only be damage.
func ShareFromBytes(b []byte) (*Share, error) {
	if len(b) != Size {
		return nil, fail(ErrFormat, "share has %d bytes, %d expected", len(b), Size)
	}
	if bytes.Equal(b, make([]byte, Size)) {
		return nil, fail(ErrFormat, "share is all zeros: it was damaged or never written")
	}
	return &Share{secret.New(b)}, nil
}

// Bytes is a view of the share, valid until Wipe; this is what goes to a token.
func (s *Share) Bytes() []byte {
	if s == nil {
		return nil
	}
	return s.b.Bytes()
}

// Equal compares in constant time.
func (s *Share) Equal(o *Share) bool {
	return s != nil && o != nil && s.b.Equal(o.b)
}

// Wipe clears the share. It may be called again, and on nil.
func (s *Share) Wipe() {
	if s != nil {
		s.b.Wipe()
	}
}

// WipeShares wipes all of a list.
func WipeShares(shares []*Share) {
	for _, s := range shares {
		s.Wipe()
	}
}

// Format never gives the secret.
func (s Share) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }
