package custody

import (
	"context"
	"fmt"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

// Desk is where people are shown something and type something.
type Desk interface {
	// Available tells whether there is anybody.
	Available() bool
	// Screen shows a text where nothing is kept, with a line to type below it,
	// and wipes both.
	Screen(ctx context.Context, text []byte, prompt string) (*secret.Bytes, error)
	// ReadLine asks for what is no secret. io.EOF: nobody answers any more.
	ReadLine(ctx context.Context, prompt string) (string, error)
	// Note says something beside the job, Next what to do about it or after it.
	Note(format string, args ...any)
	Next(format string, args ...any)
	// Damaged says what is wrong with the catalog. The job goes on, and it ends as
	// one that found damage.
	Damaged(f store.Finding)
	// Words are what is said of an error that ends nothing.
	Words(err error) string
	// Derivation shows how far a key derivation is; Derived ends it.
	Derivation(what string) dkek.Progress
	Derived()
	// Readable says of a file with a secret in it if others can read it.
	Readable(path string)
}

func failf(code, hint, format string, args ...any) error {
	return &fail.Error{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func refusef(code, hint, format string, args ...any) error {
	return &fail.Error{Class: fail.Refused, Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// usagef is about what was asked for, and cannot be.
func usagef(hint, format string, args ...any) error {
	return &fail.Error{Class: fail.Misused, Code: "usage", Message: fmt.Sprintf(format, args...), Hint: hint}
}

// because names what is behind an error, for errors.Is.
func because(err, behind error) error {
	err.(*fail.Error).Err = behind
	return err
}

func hinted(err error, hint string) error {
	err.(*fail.Error).Hint = hint
	return err
}
