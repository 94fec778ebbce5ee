package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminalRun is a command on a pseudo-terminal of its own: what it prints to
// stdout, to stderr and to the terminal comes in the order in which a person
// sees it.
type terminalRun struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	done   chan struct{} // closed when nobody has the terminal open any more

	mu      sync.Mutex
	printed []byte
	grown   chan struct{} // has an element when printed has grown
}

// patience bounds the wait for a prompt: a program that hangs ends the test
// with what it has said so far, instead of go test's limit with nothing.
const patience = 2 * time.Minute

// startOnTerminal runs a line of shell.
func startOnTerminal(t *testing.T, line, dir string, env []string) *terminalRun {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 160})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	r := &terminalRun{t: t, cmd: exec.Command("sh", "-c", line), master: master, done: make(chan struct{}), grown: make(chan struct{}, 1)}
	r.cmd.Dir, r.cmd.Env = dir, env
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = slave, slave, slave
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go r.read()
	return r
}

func (r *terminalRun) read() {
	defer close(r.done)
	b := make([]byte, 4096)
	for {
		n, err := r.master.Read(b)
		r.add(b[:n])
		if err != nil {
			return // EIO: the last of the program's side was closed
		}
	}
}

func (r *terminalRun) add(b []byte) {
	r.mu.Lock()
	r.printed = append(r.printed, b...)
	r.mu.Unlock()
	select {
	case r.grown <- struct{}{}:
	default:
	}
}

func (r *terminalRun) output() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.printed...)
}

// await waits until the terminal shows a prompt behind from, a place in the
// output: the last line ends with it and a blank.
func (r *terminalRun) await(prompt string, from int) {
	r.t.Helper()
	limit := time.After(patience)
	for {
		out := r.output()
		if len(out) > from && utf8.Valid(out) && strings.HasSuffix(newScreen(out).last(), prompt+" ") {
			return
		}
		select {
		case <-r.grown:
			continue
		case <-r.done:
			r.t.Fatalf("ended without asking %q:\n%s", prompt, newScreen(r.output()).text())
		case <-limit:
			r.t.Fatalf("did not ask %q:\n%s", prompt, newScreen(out).text())
		}
	}
}

// typeLine types an answer. A hidden one is typed when the terminal does not
// show it, and its name is put into the output where a person's fingers were.
func (r *terminalRun) typeLine(answer, hidden string) {
	r.t.Helper()
	if hidden != "" {
		for limit := time.Now().Add(patience); r.echoes(); time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				r.t.Fatalf("the terminal would show %s:\n%s", hidden, newScreen(r.output()).text())
			}
		}
		r.add([]byte(hidden))
	}
	if _, err := r.master.WriteString(answer + "\n"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *terminalRun) echoes() bool {
	state, err := unix.IoctlGetTermios(int(r.master.Fd()), unix.TCGETS)
	if err != nil {
		r.t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// end waits for the end of the command and gives its exit code.
func (r *terminalRun) end() int {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("does not end:\n%s", newScreen(r.output()).text())
	}
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// screen is what a terminal shows after some output: enough of one for bars of
// progress that are drawn and taken away again. What was on the alternate
// screen stands in a frame, at the place where it covered the rest.
type screen struct {
	lines    [][]rune
	row, col int
	covered  *screen // the main screen, while this is the alternate one
}

func newScreen(output []byte) *screen {
	s := &screen{}
	for rest := string(output); rest != ""; {
		if body, ok := strings.CutPrefix(rest, "\033["); ok {
			if end := strings.IndexFunc(body, func(r rune) bool { return r >= '@' && r <= '~' }); end >= 0 {
				s = s.control(body[:end], body[end])
				rest = body[end+1:]
				continue
			}
		}
		r, n := utf8.DecodeRuneInString(rest)
		rest = rest[n:]
		switch r {
		case '\r':
			s.col = 0
		case '\n':
			s.row++
		case '\033':
			return s // cut off in the middle of a sequence
		default:
			s.put(r)
		}
	}
	return s
}

func (s *screen) put(r rune) {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, nil)
	}
	line := s.lines[s.row]
	for len(line) <= s.col {
		line = append(line, ' ')
	}
	line[s.col] = r
	s.lines[s.row] = line
	s.col++
}

// control obeys a sequence. One that it does not know is left on the screen,
// where it is seen.
func (s *screen) control(arg string, final byte) *screen {
	n := 1
	_, _ = fmt.Sscanf(arg, "%d", &n)
	switch {
	case arg == "?1049" && final == 'h':
		return &screen{covered: s}
	case arg == "?1049" && final == 'l' && s.covered != nil:
		s.frame()
		return s.covered
	case arg == "2" && final == 'J' && s.covered != nil:
		s.frame()
	case arg == "" && final == 'H':
		s.row, s.col = 0, 0
	case final == 'A':
		s.row = max(0, s.row-n)
	case arg == "" && final == 'J':
		s.lines = s.lines[:min(len(s.lines), s.row+1)]
		s.cut()
	case arg == "" && final == 'K':
		s.cut()
	case final == 'm', arg == "?25":
		// Colours; the cursor, shown or not.
	default:
		for _, r := range "␛[" + arg + string(final) {
			s.put(r)
		}
	}
	return s
}

// cut takes away what stands behind the cursor.
func (s *screen) cut() {
	if s.row < len(s.lines) {
		s.lines[s.row] = s.lines[s.row][:min(len(s.lines[s.row]), s.col)]
	}
}

// frame writes what the alternate screen shows to the main one, and clears it.
func (s *screen) frame() {
	text := s.text()
	s.lines, s.row, s.col = nil, 0, 0
	if text == "" {
		return
	}
	m := s.covered
	if m.col > 0 {
		m.row, m.col = m.row+1, 0
	}
	for line := range strings.Lines("┌───\n" + text) {
		if !strings.HasPrefix(line, "┌") {
			line = strings.TrimRight("│ "+line, " \n")
		}
		m.print(strings.TrimSuffix(line, "\n"))
	}
	m.print("└───")
}

func (s *screen) print(line string) {
	for _, r := range line {
		s.put(r)
	}
	s.row, s.col = s.row+1, 0
}

// last is the line with the cursor, with the blanks at its end.
func (s *screen) last() string {
	if s.row >= len(s.lines) {
		return ""
	}
	return string(s.lines[s.row])
}

// text is all that was seen, without blanks at the ends of lines.
func (s *screen) text() string {
	var b strings.Builder
	for _, line := range s.lines {
		b.WriteString(strings.TrimRight(string(line), " ") + "\n")
	}
	if text := strings.TrimRight(b.String(), "\n"); text != "" {
		return text + "\n"
	}
	return ""
}
