// Package p11 uses keys of a token through a PKCS#11 module, the way OpenSSH
// and other programs do. That a key answers the SmartCard-HSM's own commands
// does not show that these programs find it: they go by its description, its
// ID and the usage that is written there.
//
// The module is a foreign library. It is loaded into the process and may crash
// it, keep what it is told, and never return: whoever has something to lose
// calls Use in a process of its own. The PIN reaches the module as a Go string
// that cannot be wiped, and the module makes copies of its own: they end with
// the process.
//
// Without cgo no module can be loaded: Use is ErrNotBuilt then.
package p11

import (
	"errors"

	"hsmbackup/internal/pubkey"
)

// Errors to match on. Their texts say what to do.
var (
	// ErrNotBuilt: this build cannot load modules.
	ErrNotBuilt = errors.New("this hsmbackup was built without PKCS#11: use one that was built with cgo")
	// ErrNoModule: there is no module in the usual places.
	ErrNoModule = errors.New("no PKCS#11 module of OpenSC was found")
	// ErrModule: the file is no module that this computer can load, or it does
	// not work.
	ErrModule = errors.New("this PKCS#11 module does not work")
	// ErrNoToken: the module does not show the token.
	ErrNoToken = errors.New("the PKCS#11 module does not show the token")
	// ErrPIN: the module may not be given the PIN, or did not take it.
	ErrPIN = errors.New("no login through the PKCS#11 module")
)

// Key is a key to be found and used.
type Key struct {
	// ID is the CKA_ID.
	ID []byte
	// Public is what its answers are checked against.
	Public *pubkey.Key
}

// Result is how the use of a key went.
type Result struct {
	// Way is the mechanism that it answered by, such as SHA256-RSA-PKCS.
	Way string
	// Reason says why it could not be used; empty if it was, and its answer was
	// the right one.
	Reason string
}
