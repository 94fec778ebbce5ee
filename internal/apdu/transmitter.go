package apdu

import (
	"context"
	"errors"
)

// Errors of a Transmitter. They speak of the way to the token; what the token
// itself answers is a StatusError.
var (
	// ErrReset: another program reset the token since the last command, so
	// login and selection are gone. The command was not carried out.
	ErrReset = errors.New("the token was reset by another program")
	// ErrGone: the token was pulled, or its reader went away. Whether the last
	// command was carried out is not known.
	ErrGone = errors.New("the token is gone from its reader")
)

// Transmitter carries commands to one token: a reader over PC/SC, a software
// token in process, or something that puts faults between the two.
type Transmitter interface {
	// Transmit sends one command and gives the answer with its status word.
	// Errors wrap ErrReset or ErrGone where that is what happened.
	Transmit(ctx context.Context, command []byte) ([]byte, error)
	// Begin keeps other programs off the token until End. It is held for a few
	// commands only, never over a prompt or a key derivation: Windows resets a
	// card whose transaction idles for five seconds. It wraps ErrReset when
	// the token was reset since the last End; the transaction is then held.
	Begin(ctx context.Context) error
	End() error
	// MaxCommand is the longest command APDU in bytes that the way carries, 0
	// if that is not known.
	MaxCommand() int
}
