package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hsmbackup/backup"
)

func someAges(now time.Time) []backup.Ages {
	return []backup.Ages{
		{Serial: "DENK0404144", Backup: now.Add(-time.Hour), Check: now, Proof: now.Add(-time.Hour), ShareSeen: now.Add(-48 * time.Hour), Copies: 2,
			Keys: map[backup.Coverage]int{backup.Covered: 2, backup.NotExportable: 1}},
		{Serial: "SOFT\"0\\1\n", Backup: now.Add(time.Hour), Keys: map[backup.Coverage]int{}},
	}
}

// promtool of Debian's package, which packaging/deps.sh unpacks.
func promtool(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	return filepath.Join(cache, "hsmbackup", "prometheus", "usr", "bin", "promtool")
}

func checkMetrics(t *testing.T, content []byte) (string, error) {
	t.Helper()
	cmd := exec.Command(promtool(t), "check", "metrics")
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestMetrics(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	got := metrics(someAges(now), map[string]time.Time{"DENK0404144": now.Add(-time.Minute)}, 1, now)
	for _, line := range []string{
		`hsmbackup_backup_age_seconds{serial="DENK0404144"} 3600`,
		`hsmbackup_check_age_seconds{serial="DENK0404144"} 0`,
		`hsmbackup_share_seen_age_seconds{serial="DENK0404144"} 172800`,
		`hsmbackup_drill_age_seconds{serial="DENK0404144"} +Inf`,
		`hsmbackup_backup_age_seconds{serial="SOFT_0_1_"} 0`, // a clock that went back is no negative age
		`hsmbackup_copies{serial="DENK0404144"} 2`,
		`hsmbackup_keys{serial="DENK0404144",coverage="covered"} 2`,
		`hsmbackup_keys{serial="DENK0404144",coverage="stale"} 0`,
		`hsmbackup_rollcall_age_seconds{serial="DENK0404144"} 60`,
		`hsmbackup_findings 1`,
	} {
		if !strings.Contains("\n"+string(got), "\n"+line+"\n") {
			t.Errorf("%q is missing in\n%s", line, got)
		}
	}
	if strings.Contains(string(got), `rollcall_age_seconds{serial="SOFT`) {
		t.Error("a token whose recovery key nobody split has no roll-call")
	}
	if runtime.GOOS != "linux" {
		return // promtool is a part of packaging/deps.sh, and that is for Debian
	}
	if out, err := checkMetrics(t, got); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	if out, err := checkMetrics(t, append(got, "hsmbackup_keys{coverage=} 1\n"...)); err == nil {
		t.Errorf("promtool takes anything: %s", out)
	}
}

// Whoever reads the file sees the old one or the new one, and a failure leaves
// the old one and nothing beside it.
func TestWriteMetrics(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hsmbackup.prom")
	for _, content := range []string{"a 1\n", "b 2\n"} {
		if err := replaceFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("%q, %v", got, err)
		}
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	taken := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(taken, []byte("a 1\n"), 0o644); err == nil {
		t.Error("a folder was replaced")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}

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
