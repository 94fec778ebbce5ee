//go:build !cgo && !windows

package pcsc

import (
	"errors"
	"testing"

	"hsmbackup/internal/apdu"
)

var _ apdu.Transmitter = (*Conn)(nil)

func TestNotBuilt(t *testing.T) {
	if r, err := Readers(t.Context()); r != nil || !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Readers: %v, %v", r, err)
	}
	if c, err := Connect(t.Context(), "R"); c != nil || !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Connect: %v, %v", c, err)
	}
}
