package dkek

import (
	"errors"
	"fmt"
)

// What went wrong, for errors.Is.
var (
	// ErrFormat: bytes that are not what they should be; the message says where.
	ErrFormat = errors.New("not in the expected format")
	// ErrCurve: a whole and authentic key on a curve that is not known here, so
	// that it cannot be checked further. It matches ErrFormat too.
	ErrCurve = fmt.Errorf("%w: curve not known", ErrFormat)
	// ErrWrongPassword: a share file does not open with the password.
	ErrWrongPassword = errors.New("wrong password")
	// ErrWeakPassword: CheckPassword refuses.
	ErrWeakPassword = errors.New("password too weak")
	// ErrMD5Forbidden: the Go runtime was told to allow FIPS 140-3 algorithms
	// only, and share files need MD5.
	ErrMD5Forbidden = errors.New("MD5 is not allowed")
	// ErrDuplicateShare: the same share given twice would cancel itself.
	ErrDuplicateShare = errors.New("the same share twice")
	// ErrZeroKey: shares that make the all-zero key, which everyone knows.
	ErrZeroKey = errors.New("recovery key of zeros")
	// ErrOtherKey: a blob under another DKEK than this one.
	ErrOtherKey = errors.New("under another recovery key")
	// ErrTampered: a blob whose authentication code does not fit.
	ErrTampered = errors.New("altered or damaged")
	// ErrMismatch: things that should belong to one key do not.
	ErrMismatch = errors.New("does not match")
)

// problem is a message for people that callers can match by its kind.
type problem struct {
	kind error
	text string
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.kind }

func fail(kind error, format string, args ...any) error {
	return &problem{kind, fmt.Sprintf(format, args...)}
}

// OtherKeyError says which key a blob is under and which one was tried. It
// matches ErrOtherKey.
type OtherKeyError struct {
	Blob, Key KCV
}

func (e *OtherKeyError) Error() string {
	return fmt.Sprintf("blob is under the recovery key with KCV %s, the shares give %s: bring the shares of %s", e.Blob, e.Key, e.Blob)
}

// Unwrap gives ErrOtherKey.
func (e *OtherKeyError) Unwrap() error { return ErrOtherKey }
