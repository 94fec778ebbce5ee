package cli

import (
	"context"
	"errors"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/console"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/p11"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// classExit maps the classes of package backup.
var classExit = map[fail.Class]int{
	fail.Failed:  console.ExitFailed,
	fail.Refused: console.ExitRefused,
	fail.Changed: console.ExitChanged,
	fail.Damaged: console.ExitDamaged,
	fail.Misused: console.ExitUsage,
}

// Describe is what is said of an error, and its exit code. changed tells that a
// token or the catalog is not as it was.
func Describe(err error, changed bool) console.Failure {
	return console.Describe(err, changed || schsm.InDoubt(err), explain)
}

// explain knows the errors of tokens, recovery keys and catalogs.
func explain(err error) *console.Failure {
	f := &console.Failure{Exit: console.ExitFailed, Message: err.Error(), Err: err}
	var (
		job    *fail.Error
		pin    *schsm.PINError
		status *apdu.StatusError
	)
	switch {
	case errors.As(err, &job) && job.Class != fail.Failed:
		f.Exit, f.Code = classExit[job.Class], job.Code
		f.Hint(job.Hint)
	case errors.Is(err, context.Canceled):
		return nil // whatever was done then, it was interrupted
	case errors.As(err, &job):
		f.Code = job.Code
		f.Hint(job.Hint)

	case errors.As(err, &pin) && pin.Name == "SO-PIN":
		f.Code = "wrong-so-pin"
		f.Hint("an SO-PIN can never be unblocked; make sure of it before trying again")
	case errors.As(err, &pin):
		f.Code = "wrong-pin"
		f.Hint("the PIN was sent once and is not sent again; make sure of it before trying again")
	case errors.Is(err, schsm.ErrLastTry):
		f.Exit, f.Code = console.ExitRefused, "last-pin-try"
		f.Hint("give --confirm SERIAL to spend it all the same; a blocked PIN can be unblocked with the SO-PIN if the token was initialised that way")
	case errors.Is(err, schsm.ErrPINLength):
		f.Code = "pin-length"
	case errors.Is(err, schsm.ErrNewPIN), errors.Is(err, schsm.ErrPINControl):
		f.Code = "pin-format"
	case errors.Is(err, schsm.ErrSOPINFormat):
		f.Code = "so-pin-format"
	case errors.Is(err, apdu.ErrBlocked):
		f.Code = "pin-blocked"
		f.Message = strings.TrimSuffix(f.Message, ": "+apdu.ErrBlocked.Error())
		f.Hint(unblockHint)
	case errors.Is(err, schsm.ErrOtherToken):
		f.Exit, f.Code = console.ExitRefused, "other-token"
	case errors.Is(err, schsm.ErrNotGenuine):
		f.Exit, f.Code = console.ExitRefused, "not-genuine"
	case errors.Is(err, schsm.ErrNotSmartCardHSM):
		f.Code = "not-a-smartcard-hsm"
	case errors.Is(err, schsm.ErrUnwrapRefused):
		f.Code = "unwrap-refused"
	case errors.Is(err, schsm.ErrTooLong):
		f.Code = "too-long"
	case errors.Is(err, schsm.ErrNoExtended):
		f.Code = "no-extended"
		f.Hint(doctorHint)
	case errors.Is(err, apdu.ErrGone):
		f.Code = "token-gone"
		f.Hint("plug the token in and run the same command again")
	case errors.Is(err, apdu.ErrNoMemory):
		f.Code = "token-full"

	case errors.Is(err, dkek.ErrWrongPassword):
		f.Code = "wrong-password"
		f.Hint("if the password is right, the file is damaged: try another copy of it")
	case errors.Is(err, dkek.ErrWeakPassword):
		f.Code = "weak-password"
	case errors.Is(err, dkek.ErrDuplicateShare):
		f.Code = "duplicate-share"
		f.Hint("give each share once; all of them are needed")
	case errors.Is(err, dkek.ErrZeroKey):
		f.Code = "zero-key"
	case errors.Is(err, dkek.ErrMD5Forbidden):
		f.Code = "md5-forbidden"
	case errors.Is(err, dkek.ErrOtherKey):
		f.Exit, f.Code = console.ExitIncomplete, "other-key"
	case errors.Is(err, dkek.ErrTampered), errors.Is(err, dkek.ErrMismatch), errors.Is(err, dkek.ErrFormat):
		f.Exit, f.Code = console.ExitDamaged, "damaged"

	case errors.Is(err, store.ErrLocked):
		f.Code = "catalog-locked"
		f.Hint("wait until the other hsmbackup has ended, then run this again")
	case errors.Is(err, store.ErrNewer):
		f.Code = "catalog-newer"
		f.Hint("use the hsmbackup that wrote it, or a newer one")
	case errors.Is(err, store.ErrDamaged):
		f.Exit, f.Code = console.ExitDamaged, "catalog-damaged"
		f.Hint(damagedHint)
	case errors.Is(err, store.ErrReadOnly):
		f.Code = "catalog-read-only"
	case errors.Is(err, store.ErrFull):
		f.Code = "disk-full"
		f.Hint("free some space and run the same command again")
	case errors.Is(err, store.ErrNoSnapshot):
		f.Code = "no-such-snapshot"
		f.Hint("`hsmbackup list` shows what there is")
	case errors.Is(err, store.ErrAmbiguous):
		f.Exit, f.Code = console.ExitRefused, "ambiguous-snapshot"
		f.Hint("`hsmbackup list` shows what there is; type more of it")

	case p11.Code(err) != "":
		f.Code = p11.Code(err)
		if errors.Is(err, p11.ErrPIN) {
			f.Hint("`hsmbackup status` shows how many tries are left")
		}

	case errors.Is(err, pcsc.ErrNoService):
		f.Code = "no-pcsc"
		f.Hint(doctorHint)
	case errors.Is(err, pcsc.ErrNotBuilt):
		f.Code = "built-without-pcsc"
	case errors.Is(err, pcsc.ErrHeld):
		f.Code = "token-held"
		f.Hint(doctorHint)
	case errors.Is(err, pcsc.ErrDenied):
		f.Code = "pcsc-denied"
		f.Hint(doctorHint)
	case errors.Is(err, pcsc.ErrNoReader), errors.Is(err, pcsc.ErrNoToken):
		f.Code = "no-token"

	case errors.As(err, &status):
		f.Code = "token-refused"
		if status.SW == apdu.MemoryFailure {
			f.Hint("the token could not write: of a software token, there may be no space left where its file is")
		}
	default:
		return nil
	}
	return f
}

const doctorHint = "`hsmbackup doctor` says what is in the way, with a line to type"

const unblockHint = "`pkcs15-tool --unblock-pin` sets a new one with the SO-PIN, if the token was initialised that way (`hsmbackup status` shows its options)"

const damagedHint = "`hsmbackup check` lists all that does not check out; keep the file, and go on with a copy of it"
