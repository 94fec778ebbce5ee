// Package terminal talks to the person at the keyboard: secrets without echo,
// questions, typed confirmations, progress. It goes to the terminal itself and
// not through standard input and output, so that those may be redirected.
//
// Secrets are bytes throughout. What is typed at a hidden prompt passes
// through golang.org/x/term, which builds the line in a growing slice: parts
// of it may stay in the heap until the program ends.
package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"

	"hsmbackup/internal/harmless"
	"hsmbackup/internal/secret"
)

// Errors to match on.
var (
	// ErrNone: there is no terminal to ask at.
	ErrNone = errors.New("no terminal")
	// ErrMismatch: what was typed is not what had to be typed.
	ErrMismatch = errors.New("not what had to be typed")
	// ErrNoAnswer: the input ended before there was an answer.
	ErrNoAnswer = errors.New("no answer")
)

// Terminal is the controlling terminal of this process, opened anew for each
// question. The zero value is ready to use.
type Terminal struct{}

// Available tells whether there is a terminal to ask at.
func (Terminal) Available() bool {
	in, out, err := open()
	if err != nil {
		return false
	}
	closeBoth(in, out)
	return true
}

// IsTerminal tells whether a file is a terminal.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// open opens the terminal for reading and writing: /dev/tty, on Windows the
// console. Where there is no controlling terminal, standard input will do if
// it is one.
func open() (in, out *os.File, err error) {
	if runtime.GOOS == "windows" {
		in, err := os.OpenFile("CONIN$", os.O_RDWR, 0)
		if err != nil {
			return nil, nil, ErrNone
		}
		out, err := os.OpenFile("CONOUT$", os.O_WRONLY, 0)
		if err != nil {
			in.Close()
			return nil, nil, ErrNone
		}
		return in, out, nil
	}
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		return tty, tty, nil
	}
	if IsTerminal(os.Stdin) && IsTerminal(os.Stderr) {
		return os.Stdin, os.Stderr, nil
	}
	return nil, nil, ErrNone
}

func closeBoth(in, out *os.File) {
	if in != os.Stdin {
		in.Close()
	}
	if out != os.Stderr && out != in {
		out.Close()
	}
}

// ReadSecret asks for a line that is not shown while it is typed. When ctx
// ends, the terminal shows what is typed again and the context's error is
// returned. It wraps ErrNone without a terminal, ErrNoAnswer when the input
// ends; on Unix the end of input (Ctrl-D) is passed over, and Ctrl-C ends.
func (Terminal) ReadSecret(ctx context.Context, prompt string) (*secret.Bytes, error) {
	in, out, err := open()
	if err != nil {
		return nil, err
	}
	fd := int(in.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		closeBoth(in, out)
		return nil, fmt.Errorf("%w: %v", ErrNone, err)
	}
	fmt.Fprint(out, Printable(prompt)+" ")
	type answer struct {
		line []byte
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		typed <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		// The read goes on behind this, so the files stay open: the program
		// is about to end.
		_ = term.Restore(fd, state)
		fmt.Fprintln(out)
		return nil, ctx.Err()
	case a := <-typed:
		fmt.Fprintln(out)
		closeBoth(in, out)
		if a.err != nil {
			clear(a.line)
			if errors.Is(a.err, io.EOF) {
				return nil, ErrNoAnswer
			}
			return nil, fmt.Errorf("terminal: %v", a.err)
		}
		return secret.New(a.line), nil
	}
}

// ReadLine asks for a line that is shown. Errors are those of ReadSecret; the
// end of input is always ErrNoAnswer.
func (Terminal) ReadLine(ctx context.Context, prompt string) (string, error) {
	in, out, err := open()
	if err != nil {
		return "", err
	}
	fmt.Fprint(out, Printable(prompt)+" ")
	type answer struct {
		line string
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		line, err := readLine(in)
		typed <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(out)
		return "", ctx.Err()
	case a := <-typed:
		closeBoth(in, out)
		return a.line, a.err
	}
}

// maxLine bounds what is read as one line.
const maxLine = 4096

// readLine reads byte by byte, so that nothing of the next answer is taken.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxLine {
		n, err := r.Read(b[:])
		if n == 1 {
			if b[0] == '\n' {
				return string(bytes.TrimRight(line, "\r")), nil
			}
			line = append(line, b[0])
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return "", ErrNoAnswer
			}
			return "", fmt.Errorf("terminal: %v", err)
		}
	}
	return "", fmt.Errorf("terminal: a line of more than %d characters", maxLine)
}

// Ask asks a question that yes or y answers with yes, and anything else with
// no.
func (t Terminal) Ask(ctx context.Context, question string) (bool, error) {
	line, err := t.ReadLine(ctx, question+" [y/N]")
	if err != nil {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// TypeBack has a word typed, such as a token's serial, to confirm something
// that cannot be undone. Anything else wraps ErrMismatch.
func (t Terminal) TypeBack(ctx context.Context, prompt, want string) error {
	line, err := t.ReadLine(ctx, prompt)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(line); got != want {
		return fmt.Errorf("%q is %w: %s", Printable(got), ErrMismatch, want)
	}
	return nil
}

// Printable is harmless.Text.
func Printable(s string) string { return harmless.Text(s) }
