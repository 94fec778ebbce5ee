package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// The units are what systemd takes, and leave the service no way to harm.
func TestUnits(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // systemd is Linux
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range []string{"hsmbackup-check.service", "hsmbackup-check.timer"} {
		unit, err := os.ReadFile(filepath.Join("..", "..", "packaging", "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// It need not be installed here.
		unit = bytes.ReplaceAll(unit, []byte("/usr/local/bin/hsmbackup"), []byte(self))
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, unit, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
	service, err := os.ReadFile(filepath.Join(dir, "hsmbackup-check.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"DynamicUser=yes", "PrivateNetwork=yes"} {
		if !bytes.Contains(service, []byte("\n"+line+"\n")) {
			t.Errorf("%s is missing", line)
		}
	}
	broken := bytes.Replace(service, []byte("Type=oneshot"), []byte("Type=nonsense\nExecStat=/x"), 1)
	if err := os.WriteFile(filepath.Join(dir, "hsmbackup-check.service"), broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err == nil && len(bytes.TrimSpace(out)) == 0 {
		t.Error("systemd-analyze takes anything")
	}
}
