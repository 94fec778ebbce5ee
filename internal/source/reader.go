package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"hsmbackup/internal/console"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/terminal"
)

// Reader reads secrets for one run of the program. It keeps what was read: a
// descriptor or a command gives its secret only once, and what was in the
// environment is dropped there.
type Reader struct {
	Console *console.Console
	// LookupEnv, UnsetEnv and Environ are those of the process.
	LookupEnv func(string) (string, bool)
	UnsetEnv  func(string) error
	Environ   func() []string

	kept   map[string]*secret.Bytes
	warned map[string]bool
}

// NewReader reads from this process's environment.
func NewReader(c *console.Console) *Reader {
	return &Reader{Console: c, LookupEnv: os.LookupEnv, UnsetEnv: os.Unsetenv, Environ: os.Environ}
}

func (r *Reader) keep(s Source, b *secret.Bytes) {
	if r.kept == nil {
		r.kept = map[string]*secret.Bytes{}
	}
	r.kept[s.key()] = b
}

// Wipe forgets what was read.
func (r *Reader) Wipe() {
	for _, b := range r.kept {
		b.Wipe()
	}
	r.kept = nil
}

// DropEnvironment reads secrets that are in the environment and drops them
// there, before anything else is started that would inherit them.
func (r *Reader) DropEnvironment(list ...Source) {
	for _, s := range list {
		if s.Kind != "env" {
			continue
		}
		if value, ok := r.LookupEnv(s.Arg); ok && r.kept[s.key()] == nil {
			r.keep(s, secret.New([]byte(value)))
		}
		_ = r.UnsetEnv(s.Arg) // fails only for names that no environment has
	}
}

// Read reads a secret. what names it for people, such as "PIN of DENK0404144";
// twice asks a second time at a prompt, for secrets that are new. What check,
// which may be nil, refuses does not have to be typed a second time. The caller
// wipes what it gets.
func (r *Reader) Read(ctx context.Context, s Source, what string, twice bool,
	check func(*secret.Bytes) error) (*secret.Bytes, error) {
	if check == nil {
		check = func(*secret.Bytes) error { return nil }
	}
	if s.Typed() {
		return r.prompt(ctx, s, what, twice, check)
	}
	b, err := r.untyped(ctx, s, what)
	if err != nil {
		return nil, err
	}
	if err := check(b); err != nil {
		b.Wipe()
		return nil, err
	}
	return b, nil
}

// untyped reads a secret that is not typed.
func (r *Reader) untyped(ctx context.Context, s Source, what string) (*secret.Bytes, error) {
	if b := r.kept[s.key()]; b != nil {
		return b.Clone(), nil
	}
	var b *secret.Bytes
	var err error
	switch s.Kind {
	case "env":
		return nil, console.Failf("no-secret", "a shell passes on only what is exported: export "+s.Arg,
			"%s env:%s: there is no such variable in the environment", s.Flag, s.Arg)
	case "file":
		b, err = r.fromFile(s)
	case "fd":
		b, err = r.fromDescriptor(s)
	case "cmd":
		b, err = r.fromCommand(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	if b.Len() == 0 {
		return nil, console.Failf("no-secret", "", "%s: nothing in the first line that %s gives", what, s.Name())
	}
	r.keep(s, b)
	return b.Clone(), nil
}

func (r *Reader) prompt(ctx context.Context, s Source, what string, twice bool,
	check func(*secret.Bytes) error) (*secret.Bytes, error) {
	r.Console.Progress.Close()
	ask := func(prompt string) (*secret.Bytes, error) {
		b, err := r.Console.TTY.ReadSecret(ctx, prompt)
		if errors.Is(err, terminal.ErrNone) {
			return nil, console.Usagef("give "+s.Flag+" env:NAME, file:PATH, fd:N or cmd:COMMAND", "there is no terminal to ask for the %s", what)
		}
		if err == nil && b.Len() == 0 {
			return nil, console.Failf("no-secret", "", "no %s was typed", what)
		}
		return b, err
	}
	first, err := ask(what + ":")
	if err == nil {
		if err = check(first); err != nil {
			first.Wipe()
			return nil, err
		}
	}
	if err != nil || !twice {
		return first, err
	}
	second, err := ask(what + " again:")
	if err != nil {
		first.Wipe()
		return nil, err
	}
	defer second.Wipe()
	if !first.Equal(second) {
		first.Wipe()
		return nil, console.Failf("typed-differently", "run the same command again",
			"%s: the two entries differ, nothing was changed", what)
	}
	return first, nil
}

func (r *Reader) fromFile(s Source) (*secret.Bytes, error) {
	f, err := os.Open(s.Arg)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		r.WarnMode(s.Arg, info)
	}
	return firstLine(f, s)
}

// WarnMode says once of a file with a secret in it that others can read it.
func (r *Reader) WarnMode(path string, info fs.FileInfo) {
	if !info.Mode().IsRegular() || runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 || r.warned[path] {
		return
	}
	r.Console.Note("warning: others on this computer can read %s (mode %04o)", path, info.Mode().Perm())
	r.Console.Next("chmod 600 %s", path)
	if r.warned == nil {
		r.warned = map[string]bool{}
	}
	r.warned[path] = true
}

func (r *Reader) fromDescriptor(s Source) (*secret.Bytes, error) {
	n, err := strconv.Atoi(s.Arg)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return firstLine(r.Console.Stdin, s)
	}
	if runtime.GOOS == "windows" {
		return nil, console.Usagef("", "%s: on Windows fd:0 is the only descriptor that is inherited", s.Name())
	}
	f := os.NewFile(uintptr(n), s.Name())
	if f == nil {
		return nil, noDescriptor(s)
	}
	defer f.Close()
	if _, err := f.Stat(); err != nil {
		return nil, noDescriptor(s)
	}
	return firstLine(f, s)
}

func noDescriptor(s Source) error {
	hint := fmt.Sprintf("the shell opens one for a command: hsmbackup … %s fd:%s %s<FILE", s.Flag, s.Arg, s.Arg)
	return console.Failf("no-secret", hint, "%s: no such file descriptor is open", s.Name())
}

func (r *Reader) fromCommand(ctx context.Context, s Source) (*secret.Bytes, error) {
	shell, option := "sh", "-c"
	if runtime.GOOS == "windows" {
		shell, option = filepath.Join(os.Getenv("SystemRoot"), "System32", "cmd.exe"), "/c"
	}
	cmd := exec.CommandContext(ctx, shell, option, s.Arg)
	cmd.Env = r.Environ()
	cmd.Stderr = r.Console.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, console.Failf("no-secret", "", "%s: cannot run %s", s.Name(), shell)
	}
	// What the command started may hold the pipe longer than the command lives.
	defer context.AfterFunc(ctx, func() { _ = out.Close() })()
	b, err := firstLine(out, s)
	_, _ = io.Copy(io.Discard, out) // so that the command does not die of a closed pipe
	if waitErr := cmd.Wait(); waitErr != nil {
		b.Wipe()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, console.Failf("no-secret", "", "%s: the command failed (%v)", s.Name(), waitErr)
	}
	return b, err
}

// maxSecret bounds a line that holds a secret.
const maxSecret = 4096

// firstLine reads the first line without its line end and the byte order mark that
// Windows' editors put before it. It reads byte by byte:
// what follows is not ours.
func firstLine(r io.Reader, s Source) (*secret.Bytes, error) {
	line := make([]byte, 0, maxSecret) // never grows: no copies are left behind
	for {
		// A view of the next free byte.
		n, err := r.Read(line[len(line) : len(line)+1])
		if n == 1 {
			line = line[:len(line)+1]
			if line[len(line)-1] == '\n' {
				line = line[:len(line)-1]
				break
			}
			if len(line) == maxSecret {
				clear(line)
				return nil, console.Failf("no-secret", "", "%s: its first line has more than %d bytes", s.Name(), maxSecret)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			clear(line)
			return nil, err
		}
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	all := line[:cap(line)]
	defer clear(all)
	if bytes.IndexByte(line, 0) >= 0 || bytes.HasPrefix(line, []byte{0xFF, 0xFE}) || bytes.HasPrefix(line, []byte{0xFE, 0xFF}) {
		return nil, console.Failf("no-secret", "save it as UTF-8, or as plain text", "%s is text in UTF-16: nothing of it was used", s.Name())
	}
	return secret.New(bytes.TrimPrefix(line, []byte{0xEF, 0xBB, 0xBF})), nil
}
