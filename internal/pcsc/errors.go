//go:build cgo || windows

package pcsc

import (
	"errors"
	"fmt"

	"github.com/ebfe/scard"

	"hsmbackup/internal/apdu"
)

// Codes that scard has no name for.
const (
	errUnsupportedFeature scard.Error = 0x80100022 // pcsc-lite 1.9 and Windows
	errWindowsNoReader    scard.Error = 0x16       // ERROR_BAD_COMMAND: the reader was pulled
	errWindowsFailure     scard.Error = 0x1F       // ERROR_GEN_FAILURE, likewise
)

// translate turns a code of PC/SC into a line that is the same on every
// operating system; scard's own texts come from the system. what says what was
// being done, such as `reader "X"`.
func translate(what string, err error) error {
	var code scard.Error
	if err == nil || !errors.As(err, &code) {
		return err
	}
	switch code {
	case scard.ErrNoService, scard.ErrServiceStopped:
		return fmt.Errorf("%s: %w", what, noService())
	case scard.ErrNoReadersAvailable, scard.ErrUnknownReader, scard.ErrReaderUnavailable:
		return fmt.Errorf("%s: %w: plug it in", what, ErrNoReader)
	case scard.ErrNoSmartcard, scard.ErrRemovedCard:
		return fmt.Errorf("%s: %w", what, ErrNoToken)
	case scard.ErrSharingViolation:
		return fmt.Errorf("%s: %w; end it (GnuPG: gpgconf --kill scdaemon)", what, ErrHeld)
	case scard.ErrSecurityViolation, scard.ErrNoAccess:
		return fmt.Errorf("%s: %w; run as root, or allow this user in polkit (org.debian.pcsc-lite)", what, ErrDenied)
	case scard.ErrUnresponsiveCard, scard.ErrUnpoweredCard:
		return fmt.Errorf("%s: the token does not answer; pull it, wait a moment, plug it in again", what)
	case scard.ErrProtoMismatch, scard.ErrUnsupportedCard, scard.ErrCardUnsupported, scard.ErrInvalidAtr:
		return fmt.Errorf("%s: reader and token cannot agree on a protocol", what)
	case scard.ErrCommError, scard.ErrNotTransacted, scard.ErrTimeout, scard.ErrCommDataLost,
		errWindowsNoReader, errWindowsFailure:
		return fmt.Errorf("%s: no answer from the token (PC/SC %08X); whether the command was carried out is not known", what, uint32(code))
	case scard.ErrServerTooBusy, scard.ErrNoMemory:
		return fmt.Errorf("%s: the PC/SC service has too much to do; try again", what)
	case scard.ErrShutdown, scard.ErrSystemCancelled:
		return fmt.Errorf("%s: the PC/SC service is shutting down", what)
	case scard.ErrUnexpected, errUnsupportedFeature:
		return fmt.Errorf("%s: the reader's driver does not support this (PC/SC %08X)", what, uint32(code))
	default:
		return fmt.Errorf("%s: PC/SC error %08X", what, uint32(code))
	}
}

// gone tells the codes that mean, within a connection, that the token or its
// reader is not there any more.
func gone(err error) bool {
	var code scard.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case scard.ErrRemovedCard, scard.ErrNoSmartcard, scard.ErrReaderUnavailable, scard.ErrUnknownReader,
		scard.ErrNoReadersAvailable, scard.ErrInvalidHandle, scard.ErrNoService, scard.ErrServiceStopped,
		scard.ErrShutdown, errWindowsNoReader:
		return true
	}
	return false
}

// goneError wraps apdu.ErrGone with what is known of the cause.
func goneError(what string, err error) error {
	var code scard.Error
	if errors.As(err, &code) && (code == scard.ErrNoService || code == scard.ErrServiceStopped || code == scard.ErrInvalidHandle) {
		return fmt.Errorf("%s: %w (the PC/SC service ended)", what, apdu.ErrGone)
	}
	return fmt.Errorf("%s: %w", what, apdu.ErrGone)
}

// unanswered tells the codes of an exchange that broke off: the token may have
// been pulled, or may still be at work after the reader gave up on it.
func unanswered(err error) bool {
	var code scard.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case scard.ErrCommError, scard.ErrNotTransacted, scard.ErrTimeout, scard.ErrCommDataLost,
		scard.ErrUnresponsiveCard, scard.ErrUnpoweredCard, errWindowsFailure:
		return true
	}
	return false
}

// wasReset tells whether another program reset the token.
func wasReset(err error) bool { return errors.Is(err, scard.ErrResetCard) }
