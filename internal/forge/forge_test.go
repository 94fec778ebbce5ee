package forge_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hsmbackup/internal/forge"
	"hsmbackup/store"
)

// golden is a copy of a catalog that has one of everything.
func golden(t *testing.T) (path string) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/catalog/v2.db")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "catalog.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// read gives what a catalog holds; nothing in it may be found wrong.
func read(t *testing.T, path string) ([]*store.Snapshot, store.Entry) {
	t.Helper()
	c, err := store.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if found, err := c.Verify(); err != nil || len(found) > 0 {
		t.Fatalf("damage %v, error %v", found, err)
	}
	s, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s.Snapshots, s.Head
}

// What is not changed is what it was, byte for byte.
func TestUnchanged(t *testing.T) {
	path := golden(t)
	before, head := read(t, path)
	after, same := read(t, forge.Copy(t, path, func(*forge.Catalog) {}))
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("snapshots (- before, + after):\n%s", d)
	}
	if head.Hash != same.Hash {
		t.Errorf("head %s, then %s", head.Hash, same.Hash)
	}
}

// What is changed is what someone wanted, and nothing shows it.
func TestChanged(t *testing.T) {
	path := golden(t)
	before, _ := read(t, path)
	forge.Rewrite(t, path, func(c *forge.Catalog) {
		c.Anchors = nil
		k := forge.Keys(c.Newest())[0]
		k["label"] = "another"
		k["blob"] = c.Refer([]byte("not the blob"))
		c.Append("check", time.Now(), map[string]bool{"ok": true})
		c.Add(forge.Clone(c.Newest()), time.Now())
	})
	after, head := read(t, path)
	if len(after) != len(before)+1 || head.Kind != store.KindSnapshot {
		t.Fatalf("%d snapshots, then %d; the last entry is of kind %s", len(before), len(after), head.Kind)
	}
	for _, s := range after[len(before)-1:] {
		if k := s.Keys[0]; k.Label != "another" || string(k.Blob) != "not the blob" {
			t.Errorf("key %q with the blob %q", k.Label, k.Blob)
		}
	}
}
