//go:build !cgo && !windows

package pcsc

import "context"

// Readers returns ErrNotBuilt.
func Readers(context.Context) ([]Reader, error) { return nil, ErrNotBuilt }

// Conn stands for a connection, which this build cannot make.
type Conn struct{}

// Connect returns ErrNotBuilt.
func Connect(context.Context, string) (*Conn, error) { return nil, ErrNotBuilt }

// Transmit returns ErrNotBuilt.
func (*Conn) Transmit(context.Context, []byte) ([]byte, error) { return nil, ErrNotBuilt }

// Begin returns ErrNotBuilt.
func (*Conn) Begin(context.Context) error { return ErrNotBuilt }

// End returns ErrNotBuilt.
func (*Conn) End() error { return ErrNotBuilt }

// MaxCommand is 0, unknown.
func (*Conn) MaxCommand() int { return 0 }

// Reader is empty.
func (*Conn) Reader() string { return "" }

// ATR is nil.
func (*Conn) ATR() []byte { return nil }

// Close does nothing.
func (*Conn) Close() error { return nil }
