package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever ends the program while a part is on the screen takes it off there, and
// the hand-out is undone, as far as it can be. Ctrl-Z does not end it, nor leave
// it there.
func TestScreenIsWiped(t *testing.T) {
	const line = "exec hsmbackup dkek create --split 2/2 --custodian alice --custodian bob"
	for name, end := range map[string]func(r *terminalRun) error{
		"Ctrl-C":  func(r *terminalRun) error { _, err := r.master.WriteString("\x03"); return err },
		"Ctrl-\\": func(r *terminalRun) error { _, err := r.master.WriteString("\x1c"); return err },
		"SIGTERM": func(r *terminalRun) error { return r.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGHUP":  func(r *terminalRun) error { return r.cmd.Process.Signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			at := newStage(t)
			r := startOnTerminal(t, line, at.dir, at.env)
			r.await("Enter shows it:", -1)
			stops := ignoresStop(t, r.cmd.Process.Pid)
			from := len(r.output())
			r.typeLine("", "")
			r.await("then it is typed back.", from)
			if stops || !ignoresStop(t, r.cmd.Process.Pid) {
				t.Error("Ctrl-Z is to do nothing while a part is shown, and only then")
			}
			if err := end(r); err != nil {
				t.Fatal(err)
			}
			code, out := r.end(), r.output()
			if on, off := bytes.LastIndex(out, []byte("\033[?1049h")), bytes.LastIndex(out, []byte("\033[2J\033[H\033[?1049l")); on < 0 || off < on {
				t.Errorf("the part is still on the screen:\n%s", newScreen(out).text())
			}
			if text := newScreen(out).text(); code != exitInterrupted || !strings.Contains(text, "whatever alice wrote down of it is to be destroyed") {
				t.Errorf("exit %d\n%s", code, text)
			}
		})
	}
}

// ignoresStop tells whether Ctrl-Z does nothing to a process.
func ignoresStop(t *testing.T, pid int) bool {
	t.Helper()
	status := string(mustRead(t, fmt.Sprintf("/proc/%d/status", pid)))
	_, mask, _ := strings.Cut(status, "SigIgn:")
	mask, _, _ = strings.Cut(strings.TrimSpace(mask), "\n")
	n, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		t.Fatalf("%q: %v", mask, err)
	}
	return n>>(unix.SIGTSTP-1)&1 != 0
}
