package pcsctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Cmd is a program to run to its end.
type Cmd struct {
	Name  string // found on PATH and in the sbin folders
	Args  []string
	Stdin []byte
	// Env is added to the environment of the test.
	Env []string
	// Dir is the working directory, the test's own if empty.
	Dir string
	// Timeout is 2 minutes if zero.
	Timeout time.Duration
}

// Result is what a program said. Tools of OpenSC exit with 0 on some failures:
// look at all three.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a program, with messages in English. A program that is missing,
// does not start, is killed, or does not end in time fails the test; an exit
// code does not.
func Run(tb testing.TB, c Cmd) Result {
	tb.Helper()
	program, err := lookPath(c.Name)
	if err != nil {
		tb.Fatalf("pcsctest: %v", err)
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, c.Args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Stdin = bytes.NewReader(c.Stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+path())
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.Dir = c.Dir
	// Its children, too, end in time, and those it leaves behind do not hold
	// up the test by holding on to its output.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		tb.Fatalf("%s does not end within %v\nstdout: %s\nstderr: %s", c.Name, c.Timeout, r.Stdout, r.Stderr)
	case err != nil && (!errors.As(err, &exit) || r.Code < 0) && !errors.Is(err, exec.ErrWaitDelay):
		tb.Fatalf("%s: %v\nstdout: %s\nstderr: %s", c.Name, err, r.Stdout, r.Stderr)
	}
	return r
}

// Module is the path of OpenSC's PKCS#11 module.
func Module(tb testing.TB) string {
	tb.Helper()
	for _, pattern := range []string{"/usr/lib/*/opensc-pkcs11.so", "/usr/lib/*/pkcs11/opensc-pkcs11.so", "/usr/lib/opensc-pkcs11.so", "/usr/lib64/opensc-pkcs11.so", "/usr/lib64/pkcs11/opensc-pkcs11.so"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			tb.Fatal(err)
		}
		if len(found) > 0 {
			return found[0]
		}
	}
	tb.Fatal("pcsctest: opensc-pkcs11.so is not installed: run make deps")
	return ""
}

// path is PATH with the folders of daemons, which a user's PATH may lack.
func path() string {
	return os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
}

// lookPath gives the absolute path of a program: sshd insists on one.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return filepath.Abs(name)
	}
	for _, dir := range filepath.SplitList(path()) {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); filepath.IsAbs(p) && err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run make deps", name)
}
