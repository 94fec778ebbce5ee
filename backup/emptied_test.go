package backup

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

func refusedWith(t *testing.T, when, code string, err error) {
	t.Helper()
	var job *Error
	if !errors.As(err, &job) || job.Class != Refused || job.Code != code {
		t.Errorf("%s: %v", when, err)
	}
}

// An emptied token is worth no snapshot: it would be the newest, and what restores
// from the newest would restore nothing.
func TestNoSnapshotOfEmptied(t *testing.T) {
	ctx := context.Background()
	token, _, cat, share := readyForUpdate(t)
	if _, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	full := mustSnapshot(t, cat, "SOFT0200001")
	_, err := Run(ctx, login(t, token), cat, Options{})
	refusedWith(t, "a backup of the emptied token", "under-update", err)
	if newest := mustSnapshot(t, cat, "SOFT0200001"); newest.ID != full.ID || len(newest.Keys) != 2 {
		t.Errorf("the newest snapshot is %s now, with %d keys", newest.ID, len(newest.Keys))
	}
}

// The catalog went while the token was emptied, and its copy of before knows
// nothing of it: what is left of the token is not taken for all of it.
func TestUpdateOfHalfAToken(t *testing.T) {
	ctx := context.Background()
	_, card, cat, _ := readyForUpdate(t)
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []schsm.FID{schsm.KeyFile(1), schsm.DescriptionFile(1), schsm.CertificateFile(1)} {
		if err := card.DeleteFileIfThere(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	_, err := PrepareUpdate(ctx, card, cat, UpdateOptions{ShareAge: DefaultShareAge})
	refusedWith(t, "a token of which half is gone", "keys-gone", err)
	if err == nil || !strings.Contains(err.Error(), "key 1") || strings.Contains(err.Error(), "key 7") {
		t.Errorf("it should name key 1 alone: %v", err)
	}
	// A backup takes note that the key is gone for good.
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := PrepareUpdate(ctx, card, cat, UpdateOptions{ShareAge: DefaultShareAge}); err != nil {
		t.Errorf("after a backup: %v", err)
	}
}

// Of a recovery key that the token made up nobody has shares, whatever is typed.
func TestNoSharesOfRandomKey(t *testing.T) {
	ctx := context.Background()
	for _, recorded := range []bool{true, false} {
		cat := newCatalog(t)
		_, card := newToken(t, "3.5", "SOFT0200001")
		into := cat
		if !recorded { // by another tool
			into = nil
		}
		if _, _, err := Initialise(ctx, card, into, SetUp{
			Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PIN: userPIN(), SOPIN: soPIN()},
			Sets:           []DomainSet{{}}, Trust: Trust{SoftFile: true}, Origin: "init", MinSOTries: DefaultSOFloor,
		}); err != nil {
			t.Fatal(err)
		}
		inv, err := Take(ctx, card)
		if err != nil {
			t.Fatal(err)
		}
		refusedWith(t, "the KCV of a random key", "random-key", RecordSharesChecked(cat, inv, kcvOf(t, card)))
		seen, err := cat.SharesSeen()
		if s, ok := seen[store.KCV(kcvOf(t, card))]; err != nil || ok && !s.Random {
			t.Errorf("and yet it is noted: %+v, %v", s, err)
		}
	}
}

// By a clock that was set back every proof is of today, and shares that were seen
// a year ago are seen of late.
func TestUpdateWithClockSetBack(t *testing.T) {
	_, card, cat, _ := readyForUpdate(t)
	before := time.Now().Add(-24 * time.Hour)
	_, err := PrepareUpdate(context.Background(), card, cat, UpdateOptions{ShareAge: DefaultShareAge, Now: func() time.Time { return before }})
	refusedWith(t, "a clock that stands a day back", "clock", err)
}
