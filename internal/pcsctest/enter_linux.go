package pcsctest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// marker is an environment variable that holds the mount namespace which a
// test binary came from when it runs itself anew. It being set is not enough
// to mount anything: the namespace must be another one by now.
const marker = "HSMBACKUP_PCSCTEST_FROM"

// insideFile exists in the private /run. It tells a program that was started
// with an empty environment that it is inside already.
const insideFile = "/run/hsmbackup-pcsctest"

// errOutside is why there are no namespaces to run in, nil inside them. Start
// reports it: tests of the same package that need no pcscd still run.
var errOutside = errors.New("TestMain does not call pcsctest.Main")

// Main is for TestMain: it enters the namespaces, runs the tests, stops pcscd,
// and exits with the tests' code.
func Main(m *testing.M) {
	Enter()
	code := m.Run()
	daemon.stop()
	os.Exit(code)
}

// Enter runs the test binary anew inside its namespaces, with the same
// arguments; inside, it returns. It is for a TestMain that hands m to another
// package; pcscd ends with the process.
func Enter() {
	errOutside = enter()
}

func enter() error {
	if _, err := os.Stat(insideFile); err == nil {
		return nil
	}
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if from := os.Getenv(marker); from != "" && from != here {
		return furnish()
	}
	prefix, err := namespaces()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env := append(os.Environ(), marker+"="+here)
	if prefix[0] == "sudo" {
		// sudo keeps variables but not these.
		keep := []string{"env", marker + "=" + here}
		for _, name := range []string{"PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR"} {
			if v, ok := os.LookupEnv(name); ok {
				keep = append(keep, name+"="+v)
			}
		}
		prefix = append([]string{"sudo", "-n", "-E"}, append(keep, prefix[3:]...)...)
	}
	program, err := lookPath(prefix[0])
	if err != nil {
		return err
	}
	// This process becomes the one inside: exit code, signals and coverage need
	// no passing on.
	argv := append(append(prefix, "--", self), os.Args[1:]...)
	return fmt.Errorf("%s: %w", program, syscall.Exec(program, argv, env))
}

// namespaces finds a way into new namespaces that this machine allows, by
// trying what will be done there.
func namespaces() ([]string, error) {
	for _, tool := range []string{"unshare", "mount", "ip"} {
		if _, err := lookPath(tool); err != nil {
			return nil, err
		}
	}
	ways := [][]string{{"unshare", "-Urmn"}}
	if os.Geteuid() == 0 {
		ways = append(ways, []string{"unshare", "-mn"})
	} else if _, err := lookPath("sudo"); err == nil {
		ways = append(ways, []string{"sudo", "-n", "-E", "unshare", "-mn"})
	}
	var said []string
	for _, way := range ways {
		program, err := lookPath(way[0])
		if err != nil {
			return nil, err
		}
		try := append(way[1:len(way):len(way)], "--", "sh", "-c", "mount -t tmpfs tmpfs /run && ip link set lo up")
		cmd := exec.Command(program, try...)
		cmd.Env = append(os.Environ(), "PATH="+path(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err == nil {
			return way, nil
		}
		first, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		said = append(said, fmt.Sprintf("%s: %s", strings.Join(way, " "), first))
	}
	return nil, fmt.Errorf("a private pcscd needs Linux namespaces, which this machine refuses (%s): run as root, or allow them (sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)", strings.Join(said, "; "))
}

// furnish makes the namespaces fit to live in.
func furnish() error {
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir("/run/pcscd", 0o755); err != nil {
		return err
	}
	ip, err := lookPath("ip")
	if err != nil {
		return err
	}
	if out, err := exec.Command(ip, "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %v: %s", err, out)
	}
	return os.WriteFile(insideFile, nil, 0o600)
}
