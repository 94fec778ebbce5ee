// Package console is what all verbs of the command line share: what is said to
// people and to scripts, and with which exit code a run ends. It knows no token
// and no catalog.
//
// Rules for everything that is said:
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
package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"hsmbackup/internal/harmless"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/terminal"
)

// Terminal is where people are asked.
type Terminal interface {
	Available() bool
	ReadSecret(ctx context.Context, prompt string) (*secret.Bytes, error)
	ReadLine(ctx context.Context, prompt string) (string, error)
	Ask(ctx context.Context, question string) (bool, error)
	TypeBack(ctx context.Context, prompt, want string) error
	Screen(ctx context.Context, text []byte, prompt string) (*secret.Bytes, error)
}

// Console is where one run of the program reads and writes.
type Console struct {
	Stdin    io.Reader
	Stdout   *Output
	Stderr   io.Writer
	TTY      Terminal
	Progress *terminal.Progress

	// JSON and Yes are what the flags of these names said.
	JSON, Yes bool
	// Explain knows errors of packages that this one does not know; it may be nil.
	Explain Explain
}

// New is the console of this process.
func New(explain Explain) *Console {
	return &Console{Stdin: os.Stdin, Stdout: standardOutput(), Stderr: os.Stderr,
		TTY: terminal.Terminal{}, Progress: terminal.NewProgress(os.Stderr), Explain: explain}
}

// Printf writes a line of the result.
func (c *Console) Printf(format string, args ...any) {
	fmt.Fprintln(c.Stdout, harmless.Sprintf(format, args...))
}

// Note writes a line to stderr.
func (c *Console) Note(format string, args ...any) {
	c.Progress.Close()
	// Errors that were joined have a line each.
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	fmt.Fprintf(c.Stderr, "hsmbackup: %s\n", harmless.Text(text))
}

// Next says on stderr what to do next.
func (c *Console) Next(format string, args ...any) {
	fmt.Fprintf(c.Stderr, "hint: %s\n", harmless.Text(fmt.Sprintf(format, args...)))
}

// Document writes the one JSON document of --json.
func (c *Console) Document(v any) error {
	var doc bytes.Buffer
	e := json.NewEncoder(&doc)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := c.Stdout.Write(harmless.JSON(doc.Bytes()))
	return err
}

// Table writes rows in aligned columns, each cell printable.
func (c *Console) Table(rows [][]string) {
	w := tabwriter.NewWriter(c.Stdout, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			r[i] = harmless.Text(narrow(cell))
		}
		// tabwriter would pad the last column with blanks as well.
		fmt.Fprintln(w, strings.TrimRight(strings.Join(r, "\t"), "\t"))
	}
	_ = w.Flush() // errors are remembered by Output
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

// Steps shows progress of work that counts in small numbers.
func (c *Console) Steps(what string, done, total int) {
	c.Progress.Set(what, int64(done), int64(total))
}

// Ask asks a question that is neither a secret nor a serial. No is an error.
func (c *Console) Ask(ctx context.Context, question string) error {
	if c.Yes {
		return nil
	}
	c.Progress.Close()
	ok, err := c.TTY.Ask(ctx, question)
	switch {
	case errors.Is(err, terminal.ErrNone):
		return Usagef("give --yes", "there is no terminal to ask: %s", question)
	case err != nil:
		return err
	case !ok:
		return Failf("declined", "", "not confirmed, nothing was changed")
	}
	return nil
}

// TypeSerial has a token's serial typed, or another word of the kind named that
// stands for it. what says what is about to happen.
func (c *Console) TypeSerial(ctx context.Context, what, kind, word string) error {
	c.Progress.Close()
	err := c.TTY.TypeBack(ctx, fmt.Sprintf("%s Type its %s, %s, to go on:", what, kind, word), word)
	switch {
	case errors.Is(err, terminal.ErrNone):
		return Usagef("give --confirm "+harmless.Word(word),
			"this needs the token's serial as confirmation, and there is no terminal to ask for it")
	case errors.Is(err, terminal.ErrMismatch):
		return Refusef("confirm-mismatch", "", "%s; nothing was changed", err)
	}
	return err
}

// Describe is what is said of an error, and its exit code.
func (c *Console) Describe(err error, changed bool) Failure { return Describe(err, changed, c.Explain) }

// End reports how a run ended, unless that is part of the result already
// printed, and gives its exit code. changed tells that something is not as it
// was; args is the command line.
func (c *Console) End(ctx context.Context, err error, changed bool, args []string) int {
	c.Progress.Close()
	if c.Stdout.nowhere && c.Stdout.used {
		c.Note("standard output is closed or leads nowhere: the result was not shown")
	}
	if err = c.Stdout.lost(err, changed); err == nil {
		return ExitOK
	}
	printed := IsOutcome(err)
	f := c.Describe(err, changed)
	if ctx.Err() != nil && f.Exit == ExitFailed && !printed {
		// Whatever failed, failed because of the signal.
		f = c.Describe(context.Canceled, changed)
	}
	// A flag that could not be read may stand before --json.
	if c.JSON = c.JSON || slices.Contains(args, "--json"); c.JSON && !printed {
		_ = c.Document(jsonFailure{jsonError{f.Code, f.Message, strings.Join(f.Hints, "\n")}})
	}
	c.Note("%s", f.Message)
	for _, h := range f.Hints {
		c.Next("%s", h)
	}
	return f.Exit
}

// jsonFailure is the document of a run that failed.
type jsonFailure struct {
	Error jsonError `json:"error"`
}

type jsonError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}
