package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"hsmbackup/internal/secret"
)

// The alternate screen is not kept in what a terminal lets people scroll back
// to (xterm's private mode 1049; terminals without it show the text in place,
// and it is cleared there).
const (
	enterScreen = "\033[?1049h\033[2J\033[H"
	clearScreen = "\033[2J\033[H"
	leaveScreen = clearScreen + "\033[?1049l"
)

// Screen shows a text with a secret in it on the terminal's alternate screen,
// asks, reads one line, and wipes the screen before it gives the terminal back,
// also when ctx ends; meanwhile Ctrl-Z does nothing, which would leave the secret
// there. What is typed is shown while it is typed. The text and the
// line are the caller's to wipe. Errors are those of ReadLine.
//
// A terminal that logs its output, such as one run under script(1) or a screen
// recorder, is out of reach.
func (Terminal) Screen(ctx context.Context, text []byte, prompt string) (*secret.Bytes, error) {
	in, out, err := open()
	if err != nil {
		return nil, err
	}
	defer ignoreStop()()
	for _, b := range [][]byte{[]byte(enterScreen), text, []byte("\n" + Printable(prompt) + " ")} {
		if _, err := out.Write(b); err != nil {
			closeBoth(in, out)
			return nil, fmt.Errorf("terminal: %v", err)
		}
	}
	type answer struct {
		line *secret.Bytes
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		line, err := readSecretLine(in)
		typed <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		// The read goes on behind this, so the files stay open: the program
		// is about to end.
		fmt.Fprint(out, leaveScreen)
		return nil, ctx.Err()
	case a := <-typed:
		fmt.Fprint(out, leaveScreen)
		closeBoth(in, out)
		return a.line, a.err
	}
}

// readSecretLine is readLine for what must not stay behind.
func readSecretLine(r io.Reader) (*secret.Bytes, error) {
	line := make([]byte, 0, maxLine) // never grows: no copies are left behind
	defer func() { clear(line[:cap(line)]) }()
	for len(line) < maxLine {
		// A view of the next free byte.
		n, err := r.Read(line[len(line) : len(line)+1])
		if n == 1 {
			if line = line[:len(line)+1]; line[len(line)-1] == '\n' {
				return secret.New(bytes.TrimRight(line, "\r\n")), nil
			}
			continue
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed):
			return nil, ErrNoAnswer
		case err != nil:
			return nil, fmt.Errorf("terminal: %v", err)
		}
	}
	return nil, fmt.Errorf("terminal: a line of more than %d characters", maxLine)
}
