package main

// Rules for everything that is said to people:
//
//   - Results go to stdout, and only results: they may be piped on.
//   - Questions and secrets go to the terminal itself, never through stdin and
//     stdout. A question that cannot be asked is an error that names the flag
//     that answers it.
//   - Everything else goes to stderr: one line "hsmbackup: …", in lower case
//     and without a full stop, then "hint: …" lines that say what to do next.
//   - What cannot be undone is confirmed by typing the token's serial.
//   - Progress is shown on a terminal only.
//   - What comes from a token or a file is shown with its control characters
//     replaced.
//   - With --json there is one document on stdout, errors too.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"hsmbackup/internal/terminal"
)

// prompter is the terminal as the program needs it.
type prompter interface {
	Available() bool
	secretReader
	ReadLine(ctx context.Context, prompt string) (string, error)
	Ask(ctx context.Context, question string) (bool, error)
	TypeBack(ctx context.Context, prompt, want string) error
	Show(text []byte) error
}

// app is one run of the program: where it reads and writes, what the flags
// said, and what has to be known when it ends.
type app struct {
	stdin    io.Reader
	stdout   *output
	stderr   io.Writer
	tty      prompter
	progress *terminal.Progress

	lookupEnv func(string) (string, bool)
	unsetEnv  func(string) error
	environ   func() []string
	now       func() time.Time

	flags   sharedFlags
	secrets secrets
	// changed: a token or the catalog is not as it was before.
	changed bool
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: &output{w: os.Stdout}, stderr: os.Stderr,
		tty: terminal.Terminal{}, progress: terminal.NewProgress(os.Stderr),
		lookupEnv: os.LookupEnv, unsetEnv: os.Unsetenv, environ: os.Environ, now: time.Now,
	}
}

// run carries out one command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	defer a.secrets.wipe()
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	a.progress.Close()
	if err == nil && a.stdout.err != nil {
		err = fmt.Errorf("standard output: %w", a.stdout.err)
	}
	if err == nil {
		return exitOK
	}
	f := describe(err, a.changed)
	if ctx.Err() != nil && f.exit == exitFailed && !isOutcome(err) {
		// Whatever failed, failed because of the signal.
		f = describe(context.Canceled, a.changed)
	}
	// A flag that could not be read may stand before --json.
	for _, arg := range args {
		a.flags.json = a.flags.json || arg == "--json"
	}
	a.report(f, isOutcome(err))
	return f.exit
}

// report says what went wrong, unless that is part of the result already
// printed.
func (a *app) report(f failure, printed bool) {
	if a.flags.json && !printed {
		_ = a.document(struct {
			Error jsonError `json:"error"`
		}{jsonError{f.code, f.message, strings.Join(f.hints, "\n")}})
	}
	a.note("%s", f.message)
	for _, h := range f.hints {
		fmt.Fprintf(a.stderr, "hint: %s\n", terminal.Printable(h))
	}
}

// output is stdout; it remembers that a write failed, so that a result cut
// short by a full disk is no success.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	o.err = err
	return n, err
}

// printf writes a line of the result.
func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.stdout, format+"\n", args...)
}

// note writes a line to stderr.
func (a *app) note(format string, args ...any) {
	a.progress.Close()
	// Errors that were joined have a line each.
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	fmt.Fprintf(a.stderr, "hsmbackup: %s\n", terminal.Printable(text))
}

// next says on stderr what to do next.
func (a *app) next(format string, args ...any) {
	fmt.Fprintf(a.stderr, "hint: %s\n", terminal.Printable(fmt.Sprintf(format, args...)))
}

// document writes the one JSON document of --json.
func (a *app) document(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table writes rows in aligned columns, each cell printable.
func (a *app) table(rows [][]string) {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			r[i] = terminal.Printable(cell)
		}
		// tabwriter would pad the last column with blanks as well.
		fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	_ = w.Flush() // errors are remembered by output
}

// steps shows progress of work that counts in small numbers.
func (a *app) steps(what string, done, total int) {
	a.progress.Set(what, int64(done), int64(total))
}

// ask asks a question that is neither a secret nor a serial. No is an error.
func (a *app) ask(ctx context.Context, question string) error {
	if a.flags.yes {
		return nil
	}
	a.progress.Close()
	ok, err := a.tty.Ask(ctx, question)
	switch {
	case errors.Is(err, terminal.ErrNone):
		return usagef("give --yes", "there is no terminal to ask: %s", question)
	case err != nil:
		return err
	case !ok:
		return &failure{exit: exitFailed, code: "declined", message: "not confirmed, nothing was changed"}
	}
	return nil
}

// confirm has the token's serial typed, of a token without one its reader's
// name, or compares --confirm with it. what says what is about to happen.
func (a *app) confirm(ctx context.Context, t *token, what string) error {
	word, kind := t.serial, "serial"
	if word == "" {
		word, kind = t.reader, "reader's name"
	}
	if a.flags.confirm != "" {
		if a.flags.confirm != word && !sameSerial(a.flags.confirm, t.serial) {
			return &failure{exit: exitRefused, code: "confirm-mismatch",
				message: fmt.Sprintf("--confirm %s is another token than %s, nothing was changed", a.flags.confirm, word)}
		}
		return nil
	}
	a.progress.Close()
	err := a.tty.TypeBack(ctx, fmt.Sprintf("%s Type its %s, %s, to go on:", what, kind, word), word)
	switch {
	case errors.Is(err, terminal.ErrNone):
		return usagef("give --confirm "+shellQuoted(word), "this needs the token's serial as confirmation, and there is no terminal to ask for it")
	case errors.Is(err, terminal.ErrMismatch):
		return &failure{exit: exitRefused, code: "confirm-mismatch", message: err.Error() + "; nothing was changed"}
	}
	return err
}
