package report

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
	got := Metrics(someAges(now), map[string]time.Time{"DENK0404144": now.Add(-time.Minute)}, 1, now)
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
