package store

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

type note struct {
	Reference int    `json:"reference"`
	Step      string `json:"step"`
}

func TestJournal(t *testing.T) {
	c := newCatalog(t)
	path := filepath.Join(t.TempDir(), "folder", "journal.db")
	own, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for name, j := range map[string]*Journal{"in the catalog": c.Journal(), "of its own": own} {
		t.Run(name, func(t *testing.T) {
			var got note
			if found, err := j.Get("a", &got); found || err != nil {
				t.Errorf("empty journal: %v, %v", found, err)
			}
			for _, k := range []string{"trip/2", "trip/10", "restore/1"} {
				if err := j.Put(k, note{1, k}); err != nil {
					t.Fatal(err)
				}
			}
			if err := j.Put("trip/2", note{2, "again"}); err != nil {
				t.Fatal(err)
			}
			if found, err := j.Get("trip/2", &got); !found || err != nil || got != (note{2, "again"}) {
				t.Errorf("%v, %v, %+v", found, err, got)
			}
			for prefix, want := range map[string][]string{
				"": {"restore/1", "trip/10", "trip/2"}, "trip/": {"trip/10", "trip/2"}, "trip/2": {"trip/2"}, "x": nil, "trip0": nil,
			} {
				if keys, err := j.Keys(prefix); err != nil || !slices.Equal(keys, want) {
					t.Errorf("%q: %q, %v", prefix, keys, err)
				}
			}
			for range 2 {
				if err := j.Delete("trip/2"); err != nil {
					t.Fatal(err)
				}
			}
			if found, err := j.Get("trip/2", &got); found || err != nil {
				t.Errorf("deleted: %v, %v", found, err)
			}
			if err := j.Put("", 1); err == nil {
				t.Error("empty key")
			}
			if err := j.Put("x", make(chan int)); err == nil {
				t.Error("no JSON")
			}
			if found, err := j.Get("restore/1", new(int)); found || !errors.Is(err, ErrDamaged) {
				t.Errorf("of another type: %v, %v", found, err)
			}
		})
	}
	requireClean(t, c)
	if err := c.Journal().Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(); err != nil {
		t.Errorf("closing the journal closed the catalog: %v", err)
	}
	if _, err := OpenJournal(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second opening: %v", err)
	}
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	if own, err = OpenJournal(path); err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if keys, err := own.Keys(""); err != nil || !slices.Equal(keys, []string{"restore/1", "trip/10"}) {
		t.Errorf("after opening again: %q, %v", keys, err)
	}
}

func TestOpenJournalReject(t *testing.T) {
	catalog := filled(t)
	before := fileHash(t, catalog)
	if _, err := OpenJournal(catalog); !errors.Is(err, ErrDamaged) {
		t.Errorf("a catalog: %v", err)
	}
	if after := fileHash(t, catalog); after != before {
		t.Error("the catalog changed")
	}
	text := filepath.Join(t.TempDir(), "text")
	os.WriteFile(text, []byte("my notes"), 0o600)
	if _, err := OpenJournal(text); !errors.Is(err, ErrDamaged) {
		t.Errorf("a text: %v", err)
	}
	if b, _ := os.ReadFile(text); string(b) != "my notes" {
		t.Error("the text changed")
	}
}

// A value under another key than its own is as bad as a changed one.
func TestJournalDamage(t *testing.T) {
	path := filled(t)
	raw(t, path, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketJournal))
		return b.Put([]byte("restore/DENK0100001/2"), b.Get([]byte("restore/DENK0100001/1")))
	})
	c := reopen(t, path, false)
	var v any
	if found, err := c.Journal().Get("restore/DENK0100001/2", &v); found || !errors.Is(err, ErrDamaged) {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := c.Journal().Get("restore/DENK0100001/1", &v); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
}
