package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hsmbackup/internal/console"
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
			from := len(r.output())
			r.typeLine("", "")
			r.await("then it is typed back.", from)
			// In a group without a shell nothing but the program itself can stop.
			if !catchesStop(t, r.cmd.Process.Pid) {
				t.Error("Ctrl-Z would leave the part on the screen")
			}
			if err := end(r); err != nil {
				t.Fatal(err)
			}
			code, out := r.end(), r.output()
			if on, off := bytes.LastIndex(out, []byte("\033[?1049h")), bytes.LastIndex(out, []byte("\033[2J\033[H\033[?1049l")); on < 0 || off < on {
				t.Errorf("the part is still on the screen:\n%s", newScreen(out).text())
			}
			if text := newScreen(out).text(); code != console.ExitInterrupted || !strings.Contains(text, "whatever alice wrote down of it is to be destroyed") {
				t.Errorf("exit %d\n%s", code, text)
			}
		})
	}
}

// Where no secret is shown any more, Ctrl-Z stops the program as ever.
func TestStopsAfterScreen(t *testing.T) {
	at := newStage(t)
	r := startOnTerminal(t, "exec hsmbackup dkek create --out new.pbe", at.dir, at.env)
	r.await("it goes off the screen.", -1)
	r.typeLine("", "")
	for limit := time.Now().Add(patience); statusOf(t, r.cmd.Process.Pid, "State:") != "T"; time.Sleep(time.Millisecond) {
		if err := r.cmd.Process.Signal(unix.SIGTSTP); err != nil || time.Now().After(limit) {
			t.Fatalf("it was not stopped (%v):\n%s", err, newScreen(r.output()).text())
		}
	}
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGCONT} {
		if err := r.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	if code := r.end(); code != console.ExitInterrupted {
		t.Errorf("exit %d:\n%s", code, newScreen(r.output()).text())
	}
}

// catchesStop tells whether a process sees to Ctrl-Z itself.
func catchesStop(t *testing.T, pid int) bool {
	t.Helper()
	mask, err := strconv.ParseUint(statusOf(t, pid, "SigCgt:"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return mask>>(unix.SIGTSTP-1)&1 != 0
}

// statusOf gives the first word of a line of /proc/PID/status.
func statusOf(t *testing.T, pid int, line string) string {
	t.Helper()
	_, text, _ := strings.Cut(string(mustRead(t, fmt.Sprintf("/proc/%d/status", pid))), "\n"+line)
	return strings.Fields(text)[0]
}
