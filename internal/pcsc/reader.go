// Package pcsc reaches tokens over PC/SC: pcscd on Linux and BSD, the systems'
// own services on macOS and Windows.
//
// A build without cgo has no PC/SC, except on Windows: there everything here
// returns ErrNotBuilt.
package pcsc

import (
	"errors"
	"fmt"
	"runtime"
)

// Reader is one reader as the service sees it.
type Reader struct {
	// Name is the service's name for it. It ends in numbers that may change
	// when the reader is plugged in again.
	Name string
	// Present tells whether a token is in it.
	Present bool
	// ATR is the token's answer to reset, nil without a token, or if the token
	// does not answer.
	ATR []byte
}

// Errors that callers match. What Readers and Connect return wraps them and
// says what to do about it on this operating system.
var (
	// ErrNoService: pcscd, or the service of the system, is not running.
	ErrNoService = errors.New("no PC/SC service is running")
	// ErrNoReader: the reader asked for is not there.
	ErrNoReader = errors.New("no such reader")
	// ErrNoToken: the reader is there and empty.
	ErrNoToken = errors.New("no token in the reader")
	// ErrHeld: another program keeps the token to itself.
	ErrHeld = errors.New("another program keeps the token to itself")
	// ErrDenied: the service runs, but not for this user.
	ErrDenied = errors.New("access denied by the PC/SC service")
	// ErrNotBuilt: this program was built without PC/SC.
	ErrNotBuilt = errors.New("this hsmbackup was built without PC/SC: it works on files and software tokens only; for tokens in a reader build with cgo (CGO_ENABLED=1, gcc, libpcsclite-dev)")
)

// serviceHint says what to do about ErrNoService.
func serviceHint(goos string) string {
	switch goos {
	case "windows":
		return "plug in the token, then start the service Smart Card (SCardSvr)"
	case "darwin":
		return "plug in the token; macOS starts the service by itself then"
	case "linux":
		return "install pcscd and start it (apt install pcscd; systemctl start pcscd.socket)"
	default:
		return "install pcsc-lite and ccid, and start pcscd"
	}
}

func noService() error {
	return fmt.Errorf("%w: %s", ErrNoService, serviceHint(runtime.GOOS))
}
