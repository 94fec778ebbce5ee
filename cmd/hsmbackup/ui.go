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
	"io/fs"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/terminal"
)

// prompter is the terminal as the program needs it.
type prompter interface {
	Available() bool
	secretReader
	ReadLine(ctx context.Context, prompt string) (string, error)
	Ask(ctx context.Context, question string) (bool, error)
	TypeBack(ctx context.Context, prompt, want string) error
	Screen(ctx context.Context, text []byte, prompt string) (*secret.Bytes, error)
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
	// openCard begins to talk to a token; beforeWrite is called before a catalog or
	// a journal changes. Tests put their faults there.
	openCard    func(context.Context, apdu.Transmitter) (*schsm.Card, error)
	beforeWrite func()
	// osRelease is the file that tells Linux within Windows.
	osRelease string
	// roots are those that a token's certificate must lead to before it gets a
	// share; nil is the vendor's, and only a test has others.
	roots []cvc.Root

	flags   sharedFlags
	secrets secrets
	// gathered is what --share brought, once it was looked at.
	gathered *material
	// changed: a token or the catalog is not as it was before.
	changed bool
	// confirmed: --confirm has answered a question.
	confirmed bool
	// testOnlyStep is called before each step of a set-up.
	testOnlyStep func(name string)
	// helpless is why there is no help for what --help was asked for.
	helpless error
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: &output{w: os.Stdout, nowhere: leadsNowhere(os.Stdout)}, stderr: os.Stderr,
		tty: terminal.Terminal{}, progress: terminal.NewProgress(os.Stderr),
		lookupEnv: os.LookupEnv, unsetEnv: os.Unsetenv, environ: os.Environ, now: time.Now, openCard: schsm.Open, osRelease: "/proc/sys/kernel/osrelease",
	}
}

// run carries out one command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	defer a.secrets.wipe()
	defer func() { a.gathered.wipe() }()
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	a.progress.Close()
	if err == nil {
		err = a.helpless
	}
	if a.stdout.nowhere && a.stdout.used {
		a.note("standard output is closed or leads nowhere: the result was not shown")
	}
	if err = a.lostOutput(err); err == nil {
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

// lostOutput adds to how a command ended that its result could not be written.
func (a *app) lostOutput(err error) error {
	lost := a.stdout.err
	if lost == nil {
		return err
	}
	why := cause(lost)
	var path *fs.PathError
	if errors.As(lost, &path) {
		why = cause(path.Err)
	}
	f := &failure{exit: exitFailed, code: "output-lost", message: "the result could not be written to standard output: " + why, err: lost}
	if a.changed {
		f.hints = []string{"the work itself is done; only what would have been printed is lost"}
	}
	var done *outcome
	switch {
	case errors.As(err, &done):
		f.message = done.message + "; and " + f.message
		f.hints = append(f.hints, done.hints...)
		if f.exit = done.exit; a.changed {
			f.exit = exitChanged
		}
	case err != nil && !errors.Is(err, lost):
		return err // something else went wrong, and that is reported
	}
	return f
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
	// nowhere: what is written is thrown away without an error; used: something
	// was written.
	nowhere, used bool
}

// leadsNowhere tells whether the program was started with its standard output
// closed. The Go runtime opens the null device in its place, for reading too,
// which a shell's >/dev/null does not.
func leadsNowhere(f *os.File) bool {
	if runtime.GOOS == "windows" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	null, err := os.Stat(os.DevNull)
	if err != nil || !os.SameFile(info, null) {
		return false
	}
	_, err = f.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	o.used = true
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
			r[i] = terminal.Printable(narrow(cell))
		}
		// tabwriter would pad the last column with blanks as well.
		fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	_ = w.Flush() // errors are remembered by output
}

// maxCell is how many characters of a label or an ID a table shows: the longest
// ID that OpenSC gives by itself is whole.
const maxCell = 44

// narrow cuts a label or an ID that would push the columns behind it off the
// screen. Whole they are in --json.
func narrow(cell string) string {
	if !strings.HasPrefix(cell, `"`) && !strings.HasPrefix(cell, "ID ") {
		return cell
	}
	if r := []rune(cell); len(r) > maxCell {
		return string(r[:maxCell-1]) + "…"
	}
	return cell
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
	word, _ := t.word()
	if a.flags.confirm != "" {
		if a.flags.confirm != word && !sameSerial(a.flags.confirm, t.serial) {
			return &failure{exit: exitRefused, code: "confirm-mismatch",
				message: fmt.Sprintf("--confirm %s is another token than %s, nothing was changed", a.flags.confirm, word)}
		}
		a.confirmed = true
		return nil
	}
	return a.typeSerial(ctx, t, what)
}

// typeSerial is confirm at the terminal, whatever --confirm says.
func (a *app) typeSerial(ctx context.Context, t *token, what string) error {
	word, kind := t.word()
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
