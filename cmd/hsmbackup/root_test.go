package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"hsmbackup/internal/console"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/terminal"
)

// runIn runs a command line without a process.
func runIn(t *testing.T, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	return runApp(t, newApp(), args...)
}

// runApp is runIn for a program that a test has prepared.
func runApp(t *testing.T, a *app, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	a.redirect(&out, &errs, noTerminal{})
	exit = a.run(context.Background(), args)
	return exit, out.String(), errs.String()
}

// redirect has the program read nothing, write to buffers and ask at tty.
func (a *app) redirect(out, errs io.Writer, tty console.Terminal) {
	a.Stdin, a.Stdout, a.Stderr = strings.NewReader(""), &console.Output{W: out}, errs
	a.TTY, a.Progress = tty, nil
}

// noTerminal is what a program without a terminal sees.
type noTerminal struct{}

func (noTerminal) Available() bool { return false }
func (noTerminal) ReadSecret(context.Context, string) (*secret.Bytes, error) {
	return nil, terminal.ErrNone
}
func (noTerminal) ReadLine(context.Context, string) (string, error) { return "", terminal.ErrNone }
func (noTerminal) Ask(context.Context, string) (bool, error)        { return false, terminal.ErrNone }
func (noTerminal) TypeBack(context.Context, string, string) error   { return terminal.ErrNone }
func (noTerminal) Screen(context.Context, []byte, string) (*secret.Bytes, error) {
	return nil, terminal.ErrNone
}

// every calls f for each command of ours.
func every(cmd *cobra.Command, f func(*cobra.Command)) {
	if hasSharedFlags(cmd) {
		f(cmd)
	}
	for _, c := range cmd.Commands() {
		every(c, f)
	}
}

// Help goes to stdout, exits with 0, begins with examples, ends with the exit
// codes, and offers only flags that the command takes.
func TestHelp(t *testing.T) {
	n := 0
	every(newRoot(newApp()), func(cmd *cobra.Command) {
		n++
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		exit, stdout, stderr := runIn(t, args...)
		if exit != 0 || stderr != "" {
			t.Errorf("%s --help: exit %d, stderr %q", cmd.CommandPath(), exit, stderr)
		}
		examples, description, end := strings.Index(stdout, "\nEXAMPLES\n"), strings.Index(stdout, "\nDESCRIPTION\n"), strings.Index(stdout, console.ExitStatus)
		if examples < 0 || description < examples || end < description || !strings.HasSuffix(stdout, console.ExitStatus) {
			t.Errorf("%s --help: sections missing or out of order:\n%s", cmd.CommandPath(), stdout)
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: %q", cmd.CommandPath(), cmd.Short)
		}
		for _, line := range strings.Split(stdout, "\n") {
			if strings.Contains(line, "--share FILE") && !strings.Contains(line, "hsmbackup") && !isUsed(cmd, useShare) && cmd.HasParent() && !strings.Contains(cmd.Example+cmd.Long, line) {
				t.Errorf("%s offers a flag that it has no use for: %s", cmd.CommandPath(), line)
			}
		}
		for _, flag := range strings.Fields(cmd.Annotations[annotation]) {
			if !strings.Contains(stdout, "--"+flag) {
				t.Errorf("%s --help does not name --%s", cmd.CommandPath(), flag)
			}
		}
	})
	if n < 20 {
		t.Errorf("only %d commands", n)
	}
}

// Every flag is named with what it takes, and every example begins with a
// command that exists.
func TestExamples(t *testing.T) {
	root := newRoot(newApp())
	every(root, func(cmd *cobra.Command) {
		for _, line := range strings.Split(cmd.Example, "\n") {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "   ") // a remark
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "hsmbackup" {
				continue
			}
			found, _, err := root.Find(words[1:])
			if err != nil || len(words) > 1 && !strings.HasPrefix(words[1], "-") && found == root {
				t.Errorf("%s: example %q", cmd.CommandPath(), line)
			}
			for _, w := range words {
				name, ok := strings.CutPrefix(w, "--")
				if !ok {
					continue
				}
				name, _, _ = strings.Cut(name, "=")
				if found.Flags().Lookup(name) == nil && found.InheritedFlags().Lookup(name) == nil {
					t.Errorf("%s: example %q: no flag --%s", cmd.CommandPath(), line, name)
				}
				if f := found.InheritedFlags().Lookup(name); f != nil && !isUsed(found, name) {
					t.Errorf("%s: example %q: --%s is not used", cmd.CommandPath(), line, name)
				}
			}
		}
	})
}
