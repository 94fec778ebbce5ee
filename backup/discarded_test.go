package backup

import (
	"testing"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// A note that keys were given up keeps none away that the snapshot brings back:
// neither is the emptied token called whole, nor its successor.
func TestFault14NoteOfKeysGivenUp(t *testing.T) {
	begin := func() (*softtoken.Token, *store.Catalog, UpdateOptions) {
		token, _, cat, share := readyForUpdate(t)
		if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
			t.Fatalf("emptied: %s, %v", phase, err)
		}
		list, err := Updates(cat)
		if err != nil || len(list) != 1 {
			t.Fatalf("%d updates, %v", len(list), err)
		}
		list[0].Discarded = []int{1, 7}
		if err := list[0].put(cat); err != nil {
			t.Fatal(err)
		}
		return token, cat, UpdateOptions{}
	}
	holds := func(what string, token *softtoken.Token) {
		t.Helper()
		inv, err := Take(t.Context(), login(t, token))
		if err != nil || len(inv.Keys) != 2 {
			t.Errorf("%s: %d of 2 keys are back, %v", what, len(inv.Keys), err)
		}
	}

	token, cat, o := begin()
	if err := token.Update("3.6", "SOFT0400001"); err != nil {
		t.Fatal(err)
	}
	if phase, err := updateRun(t, token, cat, newShare(t, 1), o); err != nil || phase != UpdateFinished {
		t.Errorf("the successor: %s, %v", phase, err)
	}
	holds("on the successor", token)

	token, cat, o = begin()
	j, _, err := updateJob(token, cat, newShare(t, 1), o)
	if err != nil {
		t.Fatal(err)
	}
	j.Abort = true
	if r, err := j.Run(t.Context()); err != nil || r.Phase != UpdatePutBack {
		t.Errorf("given up: %s, %v", r.Phase, err)
	}
	holds("given up", token)
}

// A note that names a snapshot of before brings nothing back by it: keys made
// since would be missing, and what came back called all.
func TestFault14NoteOfAnOlderSnapshot(t *testing.T) {
	token, card, cat, share := readyForUpdate(t)
	old, err := Run(t.Context(), card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	generate(t, card, 3, "P-256", "three", []byte{3})
	if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
		t.Fatalf("emptied: %s, %v", phase, err)
	}
	list, err := Updates(cat)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d updates, %v", len(list), err)
	}
	list[0].Snapshot, list[0].Hash = old.Snapshot.ID, old.Snapshot.Hash
	if err := list[0].put(cat); err != nil {
		t.Fatal(err)
	}
	j, _, err := updateJob(token, cat, share, UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j.Abort = true
	if _, err := j.Run(t.Context()); fail.ClassOf(err) != fail.Damaged {
		t.Errorf("given up: %v", err)
	}
	if err := token.Update("3.6", "SOFT0400001"); err != nil {
		t.Fatal(err)
	}
	if _, err := updateRun(t, token, cat, share, UpdateOptions{}); err == nil {
		t.Error("the successor was brought to the older snapshot")
	}
	if u, err := Settle(cat, "SOFT0200001"); err != nil || u.Snapshot == old.Snapshot.ID {
		t.Errorf("settled, it names the older snapshot: %v", err)
	}
}

// A note that an update has copied the catalog is no copy.
func TestFault14NoteOfACopy(t *testing.T) {
	token, card, cat, share := readyForUpdate(t)
	r, err := Run(t.Context(), card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	inv, err := Take(t.Context(), card)
	if err != nil {
		t.Fatal(err)
	}
	u := &Update{
		Serial: inv.Serial, Firmware: inv.Firmware, Snapshot: r.Snapshot.ID, Hash: r.Snapshot.Hash, Phase: UpdateEmptying,
		Files: inv.files(), Copy: "/nowhere/catalog.db", Seq: r.Head.Seq, Began: r.Snapshot.Taken,
	}
	if err := u.put(cat); err != nil {
		t.Fatal(err)
	}
	j, _, err := updateJob(token, cat, share, UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	j.Begin = false
	_, err = j.Run(t.Context())
	refusedWith(t, "without a copy", "no-copy", err)
	if after, err := Take(t.Context(), login(t, token)); err != nil || !after.same(inv) {
		t.Errorf("something was deleted: %+v, %v", after, err)
	}
	if j, _, err = updateJob(token, cat, share, UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	j.Begin = true
	if r, err := j.Run(t.Context()); err != nil || r.Phase != UpdateEmptied || len(read(t, cat).Copies) != 1 {
		t.Errorf("with --copy-to: %+v, %v", r, err)
	}
}
