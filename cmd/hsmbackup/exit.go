package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/p11"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// The exit codes. They are an interface: scripts depend on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitIncomplete  = 3
	exitChanged     = 4
	exitDamaged     = 5
	exitRefused     = 6
	exitInterrupted = 130
)

// exitStatus is the table at the end of every help text.
const exitStatus = `EXIT STATUS
  0    done, and all of it
  1    failed; nothing was changed
  2    wrong use
  3    done, but incomplete: something is not covered, not proven, or stale
  4    failed, and a token or the catalog was changed: run again, it goes on from there
  5    damage found: something stored does not check out
  6    refused by a guard: wrong or ambiguous token, PIN or SO-PIN floor,
       no proven backup, token not genuine
  130  interrupted; if something had been changed, 4 instead
`

// failure is an error with all that is said of it.
type failure struct {
	exit    int
	code    string // for --json
	message string
	hints   []string
	err     error
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.err }

// usagef is a command line that cannot be carried out, with the remedy.
func usagef(hint, format string, args ...any) error {
	f := &failure{exit: exitUsage, code: "usage", message: fmt.Sprintf(format, args...)}
	if hint != "" {
		f.hints = []string{hint}
	}
	return f
}

// failf is a failure that left everything as it was, with what to do.
func failf(code, hint, format string, args ...any) error {
	f := &failure{exit: exitFailed, code: code, message: fmt.Sprintf(format, args...)}
	if hint != "" {
		f.hints = []string{hint}
	}
	return f
}

// refusef is a refusal by a guard.
func refusef(code, hint, format string, args ...any) error {
	f := failf(code, hint, format, args...).(*failure)
	f.exit = exitRefused
	return f
}

// outcome is a job that was done and whose result was printed, but that is
// incomplete or has found damage.
type outcome struct {
	exit    int
	message string
	hints   []string
}

func (o *outcome) Error() string { return o.message }

func isOutcome(err error) bool {
	var o *outcome
	return errors.As(err, &o)
}

// classExit maps the classes of package backup.
var classExit = map[backup.Class]int{
	backup.Failed:  exitFailed,
	backup.Refused: exitRefused,
	backup.Changed: exitChanged,
	backup.Damaged: exitDamaged,
}

// describe is the one place where an error becomes an exit code. changed tells
// that a token or the catalog is not as it was.
func describe(err error, changed bool) failure {
	f := explain(err)
	changed = changed || schsm.InDoubt(err)
	if changed && (f.exit == exitFailed || f.exit == exitInterrupted) {
		f.exit = exitChanged
		if len(f.hints) == 0 {
			f.hints = []string{"run the same command again: it goes on from here"}
		}
	}
	return f
}

func explain(err error) failure {
	f := failure{exit: exitFailed, message: err.Error(), err: err}
	hint := func(text string) { f.hints = append(f.hints, text) }
	var (
		own    *failure
		done   *outcome
		job    *backup.Error
		pin    *schsm.PINError
		path   *fs.PathError
		status *apdu.StatusError
	)
	switch {
	case errors.As(err, &own):
		f.exit, f.code, f.hints = own.exit, own.code, own.hints
	case errors.As(err, &done):
		f.exit, f.hints = done.exit, done.hints
	case errors.As(err, &job) && job.Class != backup.Failed:
		f.exit, f.code = classExit[job.Class], job.Code
		if job.Hint != "" {
			hint(job.Hint)
		}
	case errors.Is(err, context.Canceled):
		f.exit, f.code, f.message = exitInterrupted, "interrupted", "interrupted"
	case errors.As(err, &job):
		f.code = job.Code
		if job.Hint != "" {
			hint(job.Hint)
		}

	case errors.As(err, &pin) && pin.Name == "SO-PIN":
		f.code = "wrong-so-pin"
		hint("an SO-PIN can never be unblocked; make sure of it before trying again")
	case errors.As(err, &pin):
		f.code = "wrong-pin"
		hint("the PIN was sent once and is not sent again; make sure of it before trying again")
	case errors.Is(err, schsm.ErrLastTry):
		f.exit, f.code = exitRefused, "last-pin-try"
		hint("give --confirm SERIAL to spend it all the same; a blocked PIN can be unblocked with the SO-PIN if the token was initialised that way")
	case errors.Is(err, schsm.ErrPINLength):
		f.code = "pin-length"
	case errors.Is(err, schsm.ErrSOPINFormat):
		f.code = "so-pin-format"
	case errors.Is(err, apdu.ErrBlocked):
		f.code = "pin-blocked"
		f.message = strings.TrimSuffix(f.message, ": "+apdu.ErrBlocked.Error())
		hint(unblockHint)
	case errors.Is(err, schsm.ErrOtherToken):
		f.exit, f.code = exitRefused, "other-token"
	case errors.Is(err, schsm.ErrNotGenuine):
		f.exit, f.code = exitRefused, "not-genuine"
	case errors.Is(err, schsm.ErrNotSmartCardHSM):
		f.code = "not-a-smartcard-hsm"
	case errors.Is(err, schsm.ErrUnwrapRefused):
		f.code = "unwrap-refused"
	case errors.Is(err, schsm.ErrTooLong):
		f.code = "too-long"
	case errors.Is(err, schsm.ErrNoExtended):
		f.code = "no-extended"
		hint(doctorHint)
	case errors.Is(err, apdu.ErrGone):
		f.code = "token-gone"
		hint("plug the token in and run the same command again")
	case errors.Is(err, apdu.ErrNoMemory):
		f.code = "token-full"

	case errors.Is(err, dkek.ErrWrongPassword):
		f.code = "wrong-password"
		hint("if the password is right, the file is damaged: try another copy of it")
	case errors.Is(err, dkek.ErrWeakPassword):
		f.code = "weak-password"
	case errors.Is(err, dkek.ErrDuplicateShare):
		f.code = "duplicate-share"
		hint("give each share once; all of them are needed")
	case errors.Is(err, dkek.ErrZeroKey):
		f.code = "zero-key"
	case errors.Is(err, dkek.ErrMD5Forbidden):
		f.code = "md5-forbidden"
	case errors.Is(err, dkek.ErrOtherKey):
		f.exit, f.code = exitIncomplete, "other-key"
	case errors.Is(err, dkek.ErrTampered), errors.Is(err, dkek.ErrMismatch), errors.Is(err, dkek.ErrFormat):
		f.exit, f.code = exitDamaged, "damaged"

	case errors.Is(err, store.ErrLocked):
		f.code = "catalog-locked"
		hint("wait until the other hsmbackup has ended, then run this again")
	case errors.Is(err, store.ErrNewer):
		f.code = "catalog-newer"
		hint("use the hsmbackup that wrote it, or a newer one")
	case errors.Is(err, store.ErrDamaged):
		f.exit, f.code = exitDamaged, "catalog-damaged"
		hint("`hsmbackup check` lists all that does not check out; keep the file, and go on with a copy of it")
	case errors.Is(err, store.ErrReadOnly):
		f.code = "catalog-read-only"
	case errors.Is(err, store.ErrFull), errors.Is(err, syscall.ENOSPC):
		f.code = "disk-full"
		hint("free some space and run the same command again")
	case errors.Is(err, store.ErrNoSnapshot):
		f.code = "no-such-snapshot"
		hint("`hsmbackup list` shows what there is")
	case errors.Is(err, store.ErrAmbiguous):
		f.exit, f.code = exitRefused, "ambiguous-snapshot"
		hint("`hsmbackup list` shows what there is; type more of it")

	case p11Code(err) != "":
		f.code = p11Code(err)
		if errors.Is(err, p11.ErrPIN) {
			hint("`hsmbackup status` shows how many tries are left")
		}

	case errors.Is(err, pcsc.ErrNoService):
		f.code = "no-pcsc"
		hint(doctorHint)
	case errors.Is(err, pcsc.ErrNotBuilt):
		f.code = "built-without-pcsc"
	case errors.Is(err, pcsc.ErrHeld):
		f.code = "token-held"
		hint(doctorHint)
	case errors.Is(err, pcsc.ErrDenied):
		f.code = "pcsc-denied"
		hint(doctorHint)
	case errors.Is(err, pcsc.ErrNoReader), errors.Is(err, pcsc.ErrNoToken):
		f.code = "no-token"

	case errors.Is(err, terminal.ErrNoAnswer):
		f.code = "no-answer"
	case errors.As(err, &status):
		f.code = "token-refused"
		if status.SW == apdu.MemoryFailure {
			hint("the token could not write: of a software token, there may be no space left where its file is")
		}
	case errors.As(err, &path):
		f.code = "file"
		f.message = path.Path + ": " + cause(path.Err)
		if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(path.Path) {
			if dir, err := os.Getwd(); err == nil {
				hint("it was looked for in " + dir)
			}
		}
	default:
		f.code = "failed"
	}
	return f
}

const doctorHint = "`hsmbackup doctor` says what is in the way, with a line to type"

const unblockHint = "`pkcs15-tool --unblock-pin` sets a new one with the SO-PIN, if the token was initialised that way (`hsmbackup status` shows its options)"

// cause is the system's text for an error of a file, without the name of the
// call.
func cause(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file"
	case errors.Is(err, fs.ErrExist):
		return "exists already, and nothing is ever overwritten"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	}
	return strings.ToLower(err.Error())
}
