package main

import (
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
	"strings"

	"hsmbackup/internal/secret"
	"hsmbackup/internal/terminal"
)

// secretReader asks for a line that is not shown.
type secretReader interface {
	ReadSecret(ctx context.Context, prompt string) (*secret.Bytes, error)
}

// source says where a secret is read: prompt, env:NAME, file:PATH, fd:N or
// cmd:COMMAND. The zero value is prompt.
type source struct {
	flag string // whose value it is, for messages: "--pin"
	kind string
	arg  string
}

// sources is the list for messages.
const sources = "prompt, env:NAME, file:PATH, fd:N or cmd:COMMAND"

// parseSource reads the value of a flag. A value that is none of the sources
// is taken for the secret itself and refused; it is not repeated.
func parseSource(flag, value string) (source, error) {
	s := source{flag: flag, kind: "prompt"}
	kind, arg, colon := strings.Cut(value, ":")
	switch {
	case value == "", value == "prompt":
		return s, nil
	case colon && arg != "" && (kind == "env" || kind == "file" || kind == "cmd"):
		s.kind, s.arg = kind, arg
		return s, nil
	case colon && kind == "fd":
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 {
			return s, usagef("", "%s fd:N takes the number of an open file descriptor", flag)
		}
		s.kind, s.arg = kind, arg
		return s, nil
	}
	return s, usagef("give "+sources, "%s says where to read the secret, not the secret itself: arguments are seen by everyone on this computer and stay in the shell's history", flag)
}

// secrets keeps what was read: a descriptor or a command gives its secret only
// once, and what was in the environment is dropped there.
type secrets struct {
	kept   map[string]*secret.Bytes
	warned map[string]bool
}

func (s *secrets) keep(key string, b *secret.Bytes) {
	if s.kept == nil {
		s.kept = map[string]*secret.Bytes{}
	}
	s.kept[key] = b
}

func (s *secrets) wipe() {
	for _, b := range s.kept {
		b.Wipe()
	}
	s.kept = nil
}

// dropEnvironment reads secrets that are in the environment and drops them
// there, before anything else is started that would inherit them.
func (a *app) dropEnvironment(list ...source) {
	for _, s := range list {
		if s.kind != "env" {
			continue
		}
		key := s.kind + ":" + s.arg
		if value, ok := a.lookupEnv(s.arg); ok && a.secrets.kept[key] == nil {
			a.secrets.keep(key, secret.New([]byte(value)))
		}
		_ = a.unsetEnv(s.arg) // fails only for names that no environment has
	}
}

// readSecret reads a secret. what names it for people, such as "PIN of
// DENK0404144"; twice asks a second time at a prompt, for secrets that are new.
// The caller wipes what it gets.
func (a *app) readSecret(ctx context.Context, s source, what string, twice bool) (*secret.Bytes, error) {
	return a.readChecked(ctx, s, what, twice, func(*secret.Bytes) error { return nil })
}

// readChecked is readSecret for a secret whose form is known: what cannot be one
// is refused before it has to be typed a second time.
func (a *app) readChecked(ctx context.Context, s source, what string, twice bool, check func(*secret.Bytes) error) (*secret.Bytes, error) {
	if s.kind == "prompt" {
		return a.promptSecret(ctx, s, what, twice, check)
	}
	b, err := a.readSource(ctx, s, what)
	if err != nil {
		return nil, err
	}
	if err := check(b); err != nil {
		b.Wipe()
		return nil, err
	}
	return b, nil
}

// readSource reads a secret that is not typed.
func (a *app) readSource(ctx context.Context, s source, what string) (*secret.Bytes, error) {
	key := s.kind + ":" + s.arg
	if b := a.secrets.kept[key]; b != nil {
		return b.Clone(), nil
	}
	var b *secret.Bytes
	var err error
	switch s.kind {
	case "env":
		return nil, failf("no-secret", "a shell passes on only what is exported: export "+s.arg, "%s env:%s: there is no such variable in the environment", s.flag, s.arg)
	case "file":
		b, err = a.secretFromFile(s)
	case "fd":
		b, err = a.secretFromDescriptor(s)
	case "cmd":
		b, err = a.secretFromCommand(ctx, s)
	}
	if err != nil {
		return nil, err
	}
	if b.Len() == 0 {
		return nil, failf("no-secret", "", "%s: nothing in the first line that %s gives", what, s.name())
	}
	a.secrets.keep(key, b)
	return b.Clone(), nil
}

// name is the source without what a command line may hold.
func (s source) name() string {
	if s.kind == "cmd" {
		return s.flag + " cmd:…"
	}
	return fmt.Sprintf("%s %s:%s", s.flag, s.kind, s.arg)
}

func (a *app) promptSecret(ctx context.Context, s source, what string, twice bool, check func(*secret.Bytes) error) (*secret.Bytes, error) {
	a.progress.Close()
	ask := func(prompt string) (*secret.Bytes, error) {
		b, err := a.tty.ReadSecret(ctx, prompt)
		if errors.Is(err, terminal.ErrNone) {
			return nil, usagef("give "+s.flag+" env:NAME, file:PATH, fd:N or cmd:COMMAND", "there is no terminal to ask for the %s", what)
		}
		if err == nil && b.Len() == 0 {
			return nil, failf("no-secret", "", "no %s was typed", what)
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
		return nil, failf("typed-differently", "run the same command again", "%s: the two entries differ, nothing was changed", what)
	}
	return first, nil
}

func (a *app) secretFromFile(s source) (*secret.Bytes, error) {
	f, err := os.Open(s.arg)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		a.warnMode(s.arg, info)
	}
	return firstLine(f, s)
}

// warnMode says once of a file with a secret in it that others can read it.
func (a *app) warnMode(path string, info fs.FileInfo) {
	if !info.Mode().IsRegular() || runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 || a.secrets.warned[path] {
		return
	}
	a.note("warning: others on this computer can read %s (mode %04o)", path, info.Mode().Perm())
	a.next("chmod 600 %s", path)
	if a.secrets.warned == nil {
		a.secrets.warned = map[string]bool{}
	}
	a.secrets.warned[path] = true
}

func (a *app) secretFromDescriptor(s source) (*secret.Bytes, error) {
	n, err := strconv.Atoi(s.arg)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return firstLine(a.stdin, s)
	}
	if runtime.GOOS == "windows" {
		return nil, usagef("", "%s: on Windows fd:0 is the only descriptor that is inherited", s.name())
	}
	f := os.NewFile(uintptr(n), s.name())
	if f == nil {
		return nil, noDescriptor(s)
	}
	defer f.Close()
	if _, err := f.Stat(); err != nil {
		return nil, noDescriptor(s)
	}
	return firstLine(f, s)
}

func noDescriptor(s source) error {
	return failf("no-secret", fmt.Sprintf("the shell opens one for a command: hsmbackup … %s fd:%s %s<FILE", s.flag, s.arg, s.arg), "%s: no such file descriptor is open", s.name())
}

func (a *app) secretFromCommand(ctx context.Context, s source) (*secret.Bytes, error) {
	shell, option := "sh", "-c"
	if runtime.GOOS == "windows" {
		shell, option = filepath.Join(os.Getenv("SystemRoot"), "System32", "cmd.exe"), "/c"
	}
	cmd := exec.CommandContext(ctx, shell, option, s.arg)
	cmd.Env = a.environ()
	cmd.Stderr = a.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, failf("no-secret", "", "%s: cannot run %s", s.name(), shell)
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
		return nil, failf("no-secret", "", "%s: the command failed (%v)", s.name(), waitErr)
	}
	return b, err
}

// maxSecret bounds a line that holds a secret.
const maxSecret = 4096

// firstLine reads the first line without its line end. It reads byte by byte:
// what follows is not ours.
func firstLine(r io.Reader, s source) (*secret.Bytes, error) {
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
				return nil, failf("no-secret", "", "%s: its first line has more than %d bytes", s.name(), maxSecret)
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
	b := secret.New(line)
	clear(all)
	return b, nil
}
