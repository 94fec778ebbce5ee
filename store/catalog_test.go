package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "catalog.db")
	c, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Path() != path || !c.Writable() {
		t.Errorf("path %q, writable %v", c.Path(), c.Writable())
	}
	if runtime.GOOS != "windows" {
		for p, want := range map[string]fs.FileMode{path: 0o600, dir: 0o700, filepath.Dir(dir): 0o700} {
			info, err := os.Stat(p)
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v; want %v", p, info.Mode(), err, want)
			}
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	log := read(t, c).Entries
	if len(log) != 1 || log[0].Kind != KindCreated || !strings.HasPrefix(string(log[0].Body), `{"format":1,"random":"`) || !log[0].Previous.IsZero() {
		t.Errorf("log %+v, %v", log, err)
	}
	if !strings.HasPrefix(log[0].Program, "hsmbackup") || time.Since(log[0].Time) > time.Minute {
		t.Errorf("entry %+v", log[0])
	}
	if list := read(t, c).Snapshots; len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	requireClean(t, c)
}

func TestCreateNeverReplaces(t *testing.T) {
	for name, publisher := range map[string]func(temp, path string) error{"link": publish, "rename": publishByRename} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, temp := filepath.Join(dir, "c"), filepath.Join(dir, "t")
			os.WriteFile(path, []byte("mine"), 0o600)
			os.WriteFile(temp, []byte("new"), 0o600)
			if err := publisher(temp, path); !errors.Is(err, ErrExists) {
				t.Fatalf("error %v", err)
			}
			if b, _ := os.ReadFile(path); string(b) != "mine" {
				t.Fatalf("replaced by %q", b)
			}
			os.Remove(path)
			if err := publisher(temp, path); err != nil {
				t.Fatal(err)
			}
			if b, _ := os.ReadFile(path); string(b) != "new" {
				t.Fatalf("published %q", b)
			}
			if _, err := os.Stat(temp); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("temporary name stays: %v", err)
			}
		})
	}
	path := filled(t)
	before := fileHash(t, path)
	if _, err := Create(path); !errors.Is(err, ErrExists) {
		t.Fatalf("error %v", err)
	}
	if after := fileHash(t, path); after != before {
		t.Fatal("Create changed what was there")
	}
}

// Somebody else makes the file between the first look and the publication.
func TestCreateLosesRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	err := create(path, "test", time.Now, nil, func(name string) error {
		if name == "publish" {
			return os.WriteFile(path, []byte("first"), 0o600)
		}
		return nil
	})
	if !errors.Is(err, ErrExists) {
		t.Fatalf("error %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "first" {
		t.Fatalf("replaced by %q", b)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Fatalf("left behind: %v", names)
	}
}

// A power cut at each step: the catalog is whole or not there, and the next
// attempt succeeds or says that it exists.
func TestCreateCutShort(t *testing.T) {
	cut := errors.New("power cut")
	var steps []string
	if err := create(filepath.Join(t.TempDir(), "c"), "test", time.Now, nil, func(name string) error {
		steps = append(steps, name)
		return nil
	}); err != nil || len(steps) < 5 {
		t.Fatal(steps, err)
	}
	for _, at := range steps {
		path := filepath.Join(t.TempDir(), "c.db")
		err := create(path, "test", time.Now, nil, func(name string) error {
			if name == at {
				return cut
			}
			return nil
		})
		if !errors.Is(err, cut) {
			t.Fatalf("%s: %v", at, err)
		}
		c, err := Open(path, true)
		if errors.Is(err, fs.ErrNotExist) {
			c, err = Create(path)
		} else if at != "sync folder" {
			t.Errorf("%s: something is there already", at)
		}
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		requireClean(t, c)
		c.Close()
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := filepath.Join(dir, "foreign.db")
	raw(t, foreign, func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("somebody"))
		return err
	})
	empty := filepath.Join(dir, "emptyformat.db")
	raw(t, empty, func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte(bucketFormat))
		return err
	})
	journal := filepath.Join(dir, "journal.db")
	j, err := OpenJournal(journal)
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	versioned := func(name string, version int) string {
		path := filepath.Join(dir, name)
		if err := create(path, "test", time.Now, nil, nil); err != nil {
			t.Fatal(err)
		}
		raw(t, path, func(tx *bolt.Tx) error {
			return putChecked(tx.Bucket([]byte(bucketFormat)), bucketFormat, keyFormat, format{kindCatalog, version})
		})
		return path
	}
	for _, c := range []struct {
		path string
		want error
		text string
	}{
		{filepath.Join(dir, "none"), fs.ErrNotExist, ""},
		{filepath.Join(dir, "no", "folder"), fs.ErrNotExist, ""},
		{dir, ErrDamaged, "regular file"},
		{write("empty", ""), ErrDamaged, "empty"},
		{write("short", "x"), ErrDamaged, "not a catalog"},
		{write("text", strings.Repeat("some text\n", 5000)), ErrDamaged, "not a catalog"},
		{write("zeros", strings.Repeat("\x00", 32768)), ErrDamaged, "not a catalog"},
		{foreign, ErrDamaged, "not a catalog of hsmbackup"},
		{empty, ErrDamaged, "no format version"},
		{journal, ErrDamaged, "a journal, not a catalog"},
		{versioned("newer", 4), ErrNewer, "format 4, this program knows up to 3"},
		{versioned("zero", 0), ErrDamaged, "format 0"},
	} {
		for _, writable := range []bool{false, true} {
			got, err := Open(c.path, writable)
			if err == nil {
				got.Close()
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("%s, writable %v: %v", c.path, writable, err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("Open made a file")
	}
}

// Looking changes no byte, nor does opening for writing before something is
// written.
func TestOpenLeavesFileAlone(t *testing.T) {
	path := filled(t)
	before := fileHash(t, path)
	info, _ := os.Stat(path)
	for _, writable := range []bool{false, true} {
		c := reopen(t, path, writable)
		requireClean(t, c)
		mustState(t, c)
		for _, name := range []string{"latest", "DENK0100001", "none"} {
			read(t, c).Find(name)
		}
		read(t, c).EntryByHashPrefix(make([]byte, 9), 66)
		c.Journal().Get("x", new(int))
		if writable {
			// refused before anything is written
			c.AddSnapshot(context.Background(), &Snapshot{Keys: []Key{{Reference: 300}}})
			c.Append(Created{})
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if after := fileHash(t, path); after != before {
			t.Errorf("writable %v: %s, before %s", writable, after, before)
		}
		if now, _ := os.Stat(path); !now.ModTime().Equal(info.ModTime()) {
			t.Errorf("writable %v: modified at %v", writable, now.ModTime())
		}
	}
}

func TestReadOnlyRefusesWrites(t *testing.T) {
	path := filled(t)
	c := reopen(t, path, false)
	if c.Writable() {
		t.Error("writable")
	}
	for what, err := range map[string]error{
		"append":   c.Append(Checked{}),
		"snapshot": c.AddSnapshot(context.Background(), sampleSnapshot("X", "")),
		"proofs":   c.RecordProofs([]Proof{{Blob: Hash{1}}}),
		"share":    c.Append(ShareSeen{KCV: sampleKCV}),
		"accepted": c.Append(Accepted{Reference: 1}),
		"anchor":   c.SetAnchor(sampleKCV, sampleKey),
		"put":      c.Journal().Put("a", 1),
		"delete":   c.Journal().Delete("a"),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLocks(t *testing.T) {
	path := filled(t)
	r1, r2 := reopen(t, path, false), reopen(t, path, false)
	start := time.Now()
	if _, err := Open(path, true); !errors.Is(err, ErrLocked) {
		t.Errorf("writer beside readers: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("waited %v", d)
	}
	r1.Close()
	r2.Close()
	w := reopen(t, path, true)
	for _, writable := range []bool{false, true} {
		if _, err := Open(path, writable); !errors.Is(err, ErrLocked) {
			t.Errorf("beside a writer, writable %v: %v", writable, err)
		}
	}
	w.Close()
	reopen(t, path, true)
}

func TestClosed(t *testing.T) {
	c := newCatalog(t)
	fill(t, c)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Read(); err == nil {
		t.Error("log of a closed catalog")
	}
	if _, err := c.Verify(); err == nil {
		t.Error("closed catalog verified")
	}
	if err := c.AddSnapshot(context.Background(), sampleSnapshot("X", "")); err == nil {
		t.Error("snapshot into a closed catalog")
	}
}

// A file that is cut short while it is open is a fault in mapped memory, not
// a crash.
func TestCutShortWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("Windows does not cut a mapped file short")
		return
	}
	path := filled(t)
	for _, size := range []int64{0, 4096, 8192, 3*4096 + 17} {
		copied := copyTo(t, path)
		c := reopen(t, copied, false)
		if err := os.Truncate(copied, size); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: snapshots: %v", size, err)
		}
		found, err := c.Verify()
		if err == nil && len(found) == 0 {
			t.Errorf("%d bytes: not found", size)
		}
	}
}

func TestGuard(t *testing.T) {
	if err := new(file).guard(func() error { panic("page 7 has the wrong kind") }); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "page 7") {
		t.Errorf("error %v", err)
	}
	c := newCatalog(t)
	if err := c.update(func(*bolt.Tx) error { panic("within a write") }); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v", err)
	}
	done := make(chan error)
	go func() { done <- c.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for a lock")
	}
}
