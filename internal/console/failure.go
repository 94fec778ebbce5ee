package console

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"hsmbackup/internal/terminal"
)

// The exit codes. They are an interface: scripts depend on them.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitIncomplete  = 3
	ExitChanged     = 4
	ExitDamaged     = 5
	ExitRefused     = 6
	ExitInterrupted = 130
)

// ExitStatus is the table at the end of every help text.
const ExitStatus = `EXIT STATUS
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

// Failure is an error with all that is said of it.
type Failure struct {
	Exit    int
	Code    string // for --json
	Message string
	Hints   []string
	Err     error
}

func (f *Failure) Error() string { return f.Message }
func (f *Failure) Unwrap() error { return f.Err }

// Hint adds what to do next, one thing a line.
func (f *Failure) Hint(text string) {
	if text != "" {
		f.Hints = append(f.Hints, strings.Split(text, "\n")...)
	}
}

func newFailure(exit int, code, hint, format string, args []any) *Failure {
	f := &Failure{Exit: exit, Code: code, Message: fmt.Sprintf(format, args...)}
	f.Hint(hint)
	return f
}

// Usagef is a command line that cannot be carried out, with the remedy.
func Usagef(hint, format string, args ...any) error {
	return newFailure(ExitUsage, "usage", hint, format, args)
}

// Failf is a failure that left everything as it was, with what to do.
func Failf(code, hint, format string, args ...any) error {
	return newFailure(ExitFailed, code, hint, format, args)
}

// Refusef is a refusal by a guard.
func Refusef(code, hint, format string, args ...any) error {
	return newFailure(ExitRefused, code, hint, format, args)
}

// Explain turns an error that this package knows nothing of into what is said
// of it; nil if it does not know it either.
type Explain func(error) *Failure

// Describe is the one place where an error becomes an exit code. changed tells
// that something is not as it was.
func Describe(err error, changed bool, explain Explain) Failure {
	f := *say(err, explain)
	if changed && (f.Exit == ExitFailed || f.Exit == ExitInterrupted) {
		f.Exit = ExitChanged
		if len(f.Hints) == 0 {
			f.Hints = []string{"run the same command again: it goes on from here"}
		}
	}
	return f
}

func say(err error, explain Explain) *Failure {
	f := &Failure{Exit: ExitFailed, Code: "failed", Message: err.Error(), Err: err}
	var (
		own  *Failure
		done *Outcome
		path *fs.PathError
	)
	switch {
	case errors.As(err, &own):
		f.Exit, f.Code, f.Hints = own.Exit, own.Code, own.Hints
		return f
	case errors.As(err, &done):
		f.Exit, f.Code, f.Hints = done.Exit, "", done.Hints
		return f
	}
	if explain != nil {
		if known := explain(err); known != nil {
			return known
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		f.Exit, f.Code, f.Message = ExitInterrupted, "interrupted", "interrupted"
	case errors.Is(err, syscall.ENOSPC):
		f.Code = "disk-full"
		f.Hint("free some space and run the same command again")
	case errors.Is(err, terminal.ErrNoAnswer):
		f.Code = "no-answer"
	case errors.As(err, &path):
		f.Code = "file"
		f.Message = path.Path + ": " + Cause(path.Err)
		if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(path.Path) {
			if dir, err := os.Getwd(); err == nil {
				f.Hint("it was looked for in " + dir)
			}
		}
	}
	return f
}

// Cause is the system's text for an error of a file, without the name of the
// call.
func Cause(err error) string {
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
