package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// The exit codes are an interface: this is their table.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err     error
		exit    int // when nothing was changed
		changed int // when something was
		code    string
	}{
		{console.Usagef("", "x"), 2, 2, "usage"},
		{console.Refusef("guard", "", "x"), 6, 6, "guard"},
		{console.Failf("no", "", "x"), 1, 4, "no"},
		{&fail.Error{Class: fail.Failed, Code: "a"}, 1, 4, "a"},
		{&fail.Error{Class: fail.Refused, Code: "a"}, 6, 6, "a"},
		{&fail.Error{Class: fail.Changed, Code: "a"}, 4, 4, "a"},
		{&fail.Error{Class: fail.Damaged, Code: "a"}, 5, 5, "a"},
		{context.Canceled, 130, 4, "interrupted"},
		{fmt.Errorf("x: %w", context.Canceled), 130, 4, "interrupted"},
		{&fail.Error{Class: fail.Failed, Err: context.Canceled}, 130, 4, "interrupted"},
		{&fail.Error{Class: fail.Changed, Code: "cut", Err: context.Canceled}, 4, 4, "cut"},
		{&schsm.PINError{Name: "PIN", Tries: 2}, 1, 4, "wrong-pin"},
		{&schsm.PINError{Name: "SO-PIN", Tries: 2}, 1, 4, "wrong-so-pin"},
		{schsm.ErrLastTry, 6, 6, "last-pin-try"},
		{schsm.ErrPINLength, 1, 4, "pin-length"},
		{schsm.ErrSOPINFormat, 1, 4, "so-pin-format"},
		{fmt.Errorf("x: %w", apdu.ErrBlocked), 1, 4, "pin-blocked"},
		{&apdu.StatusError{SW: apdu.Blocked}, 1, 4, "pin-blocked"},
		{schsm.ErrOtherToken, 6, 6, "other-token"},
		{schsm.ErrNotGenuine, 6, 6, "not-genuine"},
		{schsm.ErrNotSmartCardHSM, 1, 4, "not-a-smartcard-hsm"},
		{apdu.ErrGone, 1, 4, "token-gone"},
		{&apdu.StatusError{SW: apdu.NoMemory}, 1, 4, "token-full"},
		{&apdu.StatusError{SW: apdu.Internal}, 1, 4, "token-refused"},
		{&apdu.StatusError{SW: apdu.Internal, Doubt: true}, 4, 4, "token-refused"},
		{dkek.ErrWrongPassword, 1, 4, "wrong-password"},
		{dkek.ErrDuplicateShare, 1, 4, "duplicate-share"},
		{dkek.ErrZeroKey, 1, 4, "zero-key"},
		{dkek.ErrOtherKey, 3, 3, "other-key"},
		{dkek.ErrTampered, 5, 5, "damaged"},
		{dkek.ErrFormat, 5, 5, "damaged"},
		{store.ErrLocked, 1, 4, "catalog-locked"},
		{store.ErrNewer, 1, 4, "catalog-newer"},
		{store.ErrDamaged, 5, 5, "catalog-damaged"},
		{store.ErrReadOnly, 1, 4, "catalog-read-only"},
		{store.ErrFull, 1, 4, "disk-full"},
		{store.ErrNoSnapshot, 1, 4, "no-such-snapshot"},
		{store.ErrAmbiguous, 6, 6, "ambiguous-snapshot"},
		{pcsc.ErrNoService, 1, 4, "no-pcsc"},
		{pcsc.ErrNotBuilt, 1, 4, "built-without-pcsc"},
		{&fs.PathError{Op: "write", Path: "f", Err: syscall.ENOSPC}, 1, 4, "disk-full"},
		{&fs.PathError{Op: "open", Path: "f", Err: fs.ErrNotExist}, 1, 4, "file"},
		{errors.New("x"), 1, 4, "failed"},
		{&console.Outcome{Exit: console.ExitIncomplete}, 3, 3, ""},
		{&console.Outcome{Exit: console.ExitDamaged}, 5, 5, ""},
	} {
		if f := cli.Describe(c.err, false); f.Exit != c.exit || f.Code != c.code {
			t.Errorf("%v: exit %d, code %q, want %d, %q", c.err, f.Exit, f.Code, c.exit, c.code)
		}
		if f := cli.Describe(c.err, true); f.Exit != c.changed {
			t.Errorf("%v, after a change: exit %d, want %d", c.err, f.Exit, c.changed)
		}
	}
}
