package report

import (
	"strings"
	"testing"

	"hsmbackup/backup"
	"hsmbackup/store"
)

func TestCovered(t *testing.T) {
	key := func(reference byte, c backup.Coverage, reason string) backup.KeyCoverage {
		return backup.KeyCoverage{Key: backup.Key{Reference: reference}, Coverage: c, Reason: reason}
	}
	keys := []backup.KeyCoverage{
		key(1, backup.Covered, ""), key(2, backup.Accepted, ""), key(3, backup.Unproven, ""), key(4, backup.Unproven, ""),
		key(5, backup.NoShare, "the recovery key is random"), key(6, backup.NoShare, "the recovery key is random"),
	}
	if got, want := Restorable(keys), "1 of 6 keys restorable, 1 accepted as not exportable"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	got := Incomplete(keys, []store.Gap{{What: "a file"}})
	if !strings.Contains(got, "key 3") || !strings.HasSuffix(got, "and 4 more") {
		t.Errorf("%q", got)
	}
	if got := Incomplete(keys[:2], nil); got != "" {
		t.Errorf("nothing is left, and it says %q", got)
	}
	// Each remedy is said once.
	if hints := Remedies(keys); len(hints) != 2 || hints[1] != MadeUpRemedy {
		t.Errorf("%q", hints)
	}
	s := &store.Snapshot{Keys: []store.Key{{}, {Reason: "no DKEK"}}}
	if got := StoredKeys(s); got != "2 keys, 1 not exported" {
		t.Errorf("%q", got)
	}
}

// What an entry records is said in words, and of a kind that is not known the
// body stands as it is.
func TestEntryTexts(t *testing.T) {
	entry := func(kind, body string) store.Entry { return store.Entry{Kind: kind, Body: []byte(body)} }
	for i, text := range EntryTexts([]store.Entry{
		entry(store.KindSnapshot, `{"id":"abc","serial":""}`),
		entry(store.KindPartSet, `{"set":"s1","needed":1,"custodians":[{"name":"alice"}]}`),
		entry(store.KindRollCall, `{"set":"s1","index":1,"origin":"call"}`),
		entry(store.KindRollCall, `{"set":"s2","index":3,"origin":"call"}`),
		entry("something-new", `{"x":1}`),
		entry(store.KindSnapshot, `[]`),
	}) {
		want := []string{
			"abc of adopted files", "set s1: any 1 of 1 parts, of alice", "alice, part 1 of set s1, has it (call)",
			"the custodian of part 3 of set s2, has it (call)", `{"x":1}`, `[]`,
		}[i]
		if text != want {
			t.Errorf("%q, want %q", text, want)
		}
	}
}
