package backup

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hsmbackup/internal/forge"
	"hsmbackup/store"
)

// A name that leads out of the folder is written nowhere: neither from a catalog
// nor from an export that was forged, nor from a snapshot that came another way.
func TestFault17NothingOutsideTheFolder(t *testing.T) {
	const evil = "../../x/y"
	outside := func(t *testing.T, dir string) {
		t.Helper()
		for _, name := range under(t, filepath.Dir(filepath.Dir(dir))) {
			if strings.HasSuffix(name, "x/y") {
				t.Errorf("%s was written", name)
			}
		}
	}
	t.Run("catalog", func(t *testing.T) {
		cat, _, _ := twoKeys(t)
		path := cat.Path()
		if err := cat.Close(); err != nil {
			t.Fatal(err)
		}
		path = forge.Copy(t, path, func(c *forge.Catalog) {
			c.Version = 2
			c.Newest()["attachments"] = []any{
				forge.Object{"name": evil, "added": "2026-03-01T12:00:00Z", "content": c.Refer([]byte("evil"))},
				forge.Object{"name": "good", "added": "2026-03-01T12:00:00Z", "content": c.Refer([]byte("good"))},
			}
		})
		forged, err := store.Open(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer forged.Close()
		list := read(t, forged).Snapshots
		if len(list) != 1 {
			t.Fatalf("%d snapshots", len(list))
		}
		dir, r := mustExport(t, list[0], ExportOptions{})
		outside(t, dir)
		if !slices.Contains(r.Files, "attachments/good") {
			t.Errorf("what is beside it is lost: %v", r.Files)
		}
	})
	t.Run("export", func(t *testing.T) {
		dir, _ := exported(t)
		path := filepath.Join(dir, exportManifestName)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var m forge.Object
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		content := m["token"].(forge.Object)["token_info"]
		m["attachments"] = []any{forge.Object{"name": evil, "added": "2026-03-01T12:00:00Z", "content": content}}
		if raw, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, found, err := ReadExport(dir)
		if err != nil || len(found) == 0 || len(s.Attachments) != 0 {
			t.Fatalf("%v, %v, %+v", err, found, s.Attachments)
		}
	})
	t.Run("written by itself", func(t *testing.T) {
		s := exampleSnapshot(t)
		s.Attachments = []store.Attachment{{Name: evil, Content: []byte("evil")}}
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := Export(dir, s, ExportOptions{}); err == nil {
			t.Error("it is no error")
		}
		outside(t, dir)
	})
}

// A note of the journal whose names could be lines for a shell is damage, and is
// neither shown nor gone on from.
func TestFault17JournalNotes(t *testing.T) {
	cat, s, _ := twoKeys(t)
	note := forge.Object{"serial": "$(touch x)", "firmware": "3.5", "snapshot": s.ID, "hash": s.Hash.String(), "phase": "emptied", "files": []any{}, "deleted": 0, "copy": "/c", "seq": 1, "began": "2026-03-01T12:00:00Z"}
	cat = reopened(t, cat, func(c *forge.Catalog) { c.Journal[updateNotes+"x"] = note })
	if list, err := Updates(cat); !errors.Is(err, store.ErrDamaged) || len(list) > 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := (&Update{Serial: "../x", Snapshot: s.ID}).put(cat); err == nil {
		t.Error("such a note is written")
	}
}
