// Package secret holds bytes that must not outlive their use: PINs, passwords,
// shares, DKEKs, private keys. They are wiped, never printed, and, where the
// operating system allows it, neither swapped nor dumped.
//
// The Go runtime may move or copy what it manages, so New copies into memory
// of its own and clears what it was given. What a library copies cannot be
// reached from here.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
)

// Bytes is a secret. The zero value and nil are empty secrets. It is not safe
// for use while another goroutine wipes it.
type Bytes struct {
	b []byte
	// free returns locked memory; nil where the memory is the Go runtime's.
	free func([]byte)
}

// New takes ownership of b: it copies it and clears the original.
func New(b []byte) *Bytes {
	s := alloc(len(b))
	copy(s.b, b)
	clear(b)
	return s
}

// Random gives n random bytes from the operating system.
func Random(n int) *Bytes {
	s := alloc(n)
	_, _ = rand.Read(s.b) // never fails since Go 1.24: it crashes the program instead
	return s
}

// alloc gives n zero bytes, locked where possible.
func alloc(n int) *Bytes {
	if n == 0 {
		return &Bytes{}
	}
	if b, free := lockedPages(n); b != nil {
		return &Bytes{b: b[:n:n], free: free}
	}
	return &Bytes{b: make([]byte, n)}
}

// Bytes gives a view of the secret, valid until Wipe.
func (s *Bytes) Bytes() []byte {
	if s == nil {
		return nil
	}
	return s.b
}

// Len is the number of bytes.
func (s *Bytes) Len() int { return len(s.Bytes()) }

// Clone gives a copy that is wiped on its own.
func (s *Bytes) Clone() *Bytes {
	c := alloc(s.Len())
	copy(c.b, s.Bytes())
	return c
}

// Equal compares in constant time.
func (s *Bytes) Equal(o *Bytes) bool {
	return subtle.ConstantTimeCompare(s.Bytes(), o.Bytes()) == 1
}

// Wipe clears the secret and forgets it. It may be called again, and on nil.
func (s *Bytes) Wipe() {
	if s == nil {
		return
	}
	clear(s.b)
	if s.free != nil {
		s.free(s.b[:cap(s.b)])
	}
	s.b, s.free = nil, nil
}

const redacted = "[secret]"

// String never gives the secret.
func (s *Bytes) String() string { return redacted }

// GoString never gives the secret.
func (s *Bytes) GoString() string { return redacted }

// Format never gives the secret, whatever the verb.
func (s *Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON refuses: a secret has no place in a document.
func (s *Bytes) MarshalJSON() ([]byte, error) {
	return nil, errors.New("secret: not for JSON")
}
