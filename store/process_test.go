//go:build unix

package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Other processes are this test binary with childJob set: what two of them do
// to one file, what a kill leaves behind, and what a user without rights or
// without space gets to see.
const childJob, childPath = "STORE_TEST_CHILD", "STORE_TEST_PATH"

func TestMain(m *testing.M) {
	job, ok := children[os.Getenv(childJob)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := job(os.Getenv(childPath)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var children = map[string]func(path string) error{
	"hold":       childHold,
	"write":      childWrite,
	"unentitled": childUnentitled,
	"full":       childFull,
}

func child(t *testing.T, job, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childJob+"="+job, childPath+"="+path)
	return cmd
}

func runChild(t *testing.T, job, path string) {
	t.Helper()
	out, err := child(t, job, path).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", job, err, out)
	}
}

// childHold keeps the catalog open until stdin ends.
func childHold(path string) error {
	c, err := Open(path, true)
	if err != nil {
		return err
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
	return c.Close()
}

func TestSecondProcess(t *testing.T) {
	path := filled(t)
	before := fileHash(t, path)
	cmd := child(t, "hold", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "open\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	for _, writable := range []bool{true, false} {
		if _, err := Open(path, writable); !errors.Is(err, ErrLocked) {
			t.Errorf("writable %v: %v", writable, err)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	requireClean(t, reopen(t, path, true))
	if after := fileHash(t, path); after != before {
		t.Error("the file changed")
	}
}

// childWrite adds snapshots for ever and says which are done.
func childWrite(path string) error {
	c, err := Open(path, true)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		s := sampleSnapshot(fmt.Sprintf("DENK%07d", i), strings.Repeat("x", 5000*(i%7)))
		s.Token.Certificate = fmt.Append(nil, time.Now())
		if err := c.AddSnapshot(context.Background(), s); err != nil {
			return err
		}
		fmt.Println(s.ID)
	}
}

// Killed at any moment: the file is whole, and has every snapshot that was
// reported as done.
func TestKilled(t *testing.T) {
	path := filled(t)
	done := map[string]bool{}
	for round := range 12 {
		cmd := child(t, "write", path)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+17*round) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		for line := range strings.Lines(out.String()) {
			if strings.HasSuffix(line, "\n") {
				done[strings.TrimSpace(line)] = true
			}
		}
		c := reopen(t, path, true)
		requireClean(t, c)
		list := read(t, c).Snapshots
		there := map[string]bool{}
		for _, s := range list {
			there[s.ID] = true
		}
		for id := range done {
			if !there[id] {
				t.Fatalf("round %d: snapshot %s was reported and is lost", round, id)
			}
		}
		c.Close()
	}
	if len(done) == 0 {
		t.Fatal("no snapshot was made")
	}
}

// A user who may read one catalog and not write it, nor its folder, and may
// not even read another.
func TestUnentitled(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"readable.db": 0o444, "private.db": 0} {
		b, err := os.ReadFile(filled(t))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)
	runChild(t, "unentitled", dir)
}

func childUnentitled(dir string) error {
	if os.Getuid() == 0 {
		if err := syscall.Setuid(65534); err != nil { // nobody
			return err
		}
	}
	readable, private := filepath.Join(dir, "readable.db"), filepath.Join(dir, "private.db")
	if _, err := Open(readable, true); !errors.Is(err, ErrReadOnly) || !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("to write: %w", err)
	}
	c, err := Open(readable, false)
	if err != nil {
		return err
	}
	defer c.Close()
	if found, err := c.Verify(); err != nil || len(found) != 0 {
		return fmt.Errorf("verify: %v, %v", found, err)
	}
	if err := c.Append(Checked{}); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("append: %w", err)
	}
	for _, writable := range []bool{false, true} {
		if _, err := Open(private, writable); !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("private: %w", err)
		}
	}
	if _, err := Create(filepath.Join(dir, "new.db")); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("create: %w", err)
	}
	if _, err := Create(filepath.Join(dir, "folder", "new.db")); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("create with folder: %w", err)
	}
	if _, err := Create(readable); !errors.Is(err, ErrExists) {
		return fmt.Errorf("create over: %w", err)
	}
	if _, err := OpenJournal(filepath.Join(dir, "journal.db")); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("journal: %w", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 2 {
		return fmt.Errorf("left behind: %v, %v", names, err)
	}
	return nil
}

// No room: the limit on file sizes stands for a full disk, since a test
// cannot count on being allowed to mount a small one.
func TestDiskFull(t *testing.T) { runChild(t, "full", filled(t)) }

// set is for limits that are signed on FreeBSD and unsigned elsewhere.
func set[T int64 | uint64](limit *T, v int64) { *limit = T(v) }

func childFull(path string) error {
	c, err := Open(path, true)
	if err != nil {
		return err
	}
	defer c.Close()
	before, err := readState(c)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	old := limit
	set(&limit.Cur, info.Size()+4096)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	big := sampleSnapshot("BIG", strings.Repeat("x", 1<<20))
	if err := c.AddSnapshot(context.Background(), big); !errors.Is(err, ErrFull) {
		return fmt.Errorf("snapshot: %w", err)
	}
	if big.ID != "" {
		return errors.New("the snapshot got an id")
	}
	if err := c.Journal().Put("big", strings.Repeat("x", 1<<20)); !errors.Is(err, ErrFull) {
		return fmt.Errorf("journal: %w", err)
	}
	set(&limit.Cur, 8192)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	other := filepath.Join(filepath.Dir(path), "other.db")
	if _, err := Create(other); !errors.Is(err, ErrFull) {
		return fmt.Errorf("create: %w", err)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		return fmt.Errorf("left behind: %v, %v", names, err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	after, err := readState(c)
	if err != nil {
		return err
	}
	if fmt.Sprintf("%+v", after.Log) != fmt.Sprintf("%+v", before.Log) || len(after.Snapshots) != len(before.Snapshots) || len(after.Journal) != len(before.Journal) {
		return errors.New("something was recorded")
	}
	if found, err := c.Verify(); err != nil || len(found) != 0 {
		return fmt.Errorf("verify: %v, %v", found, err)
	}
	// With room again it goes on.
	if err := c.AddSnapshot(context.Background(), big); err != nil {
		return err
	}
	if found, err := c.Verify(); err != nil || len(found) != 0 {
		return fmt.Errorf("verify after: %v, %v", found, err)
	}
	return nil
}
