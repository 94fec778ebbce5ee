package backup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

func refusedWith(t *testing.T, when, code string, err error) {
	t.Helper()
	var job *fail.Error
	if !errors.As(err, &job) || job.Class != fail.Refused || job.Code != code {
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
	_, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcvOf(t, card)})
	refusedWith(t, "a token of which half is gone", "keys-gone", err)
	if err == nil || !strings.Contains(err.Error(), "key 1") || strings.Contains(err.Error(), "key 7") {
		t.Errorf("it should name key 1 alone: %v", err)
	}
	// A backup takes note that the key is gone for good.
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcvOf(t, card)}); err != nil {
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
		refusedWith(t, "the KCV of a random key", "random-key", CheckTypedKCV(inv, read(t, cat), kcvOf(t, card)))
		seen := read(t, cat).Shares
		if s, ok := seen[store.KCV(kcvOf(t, card))]; ok && !s.Random {
			t.Errorf("and yet it is noted: %+v, %v", s, err)
		}
	}
}

// Something changes the token while it is emptied: what the snapshot does not hold
// stays, and so does the key that it belongs to.
func TestChangedWhileEmptied(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		what    string
		file    schsm.FID
		deleted int // none of the key's own
		code    string
	}{
		{"a description", schsm.DescriptionFile(1), 0, "token-changed"},
		{"a request", schsm.CertificateFile(1), 0, "token-changed"},
		{"a certificate", 0xCA01, -1, "token-changed"},
		{"another data object", 0xCD02, -1, "token-changed"},
	} {
		_, card, cat, _ := readyForUpdate(t)
		ready, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcvOf(t, card)})
		if err != nil {
			t.Fatal(err)
		}
		copied, _, err := CopyCatalog(cat, filepath.Join(filepath.Dir(cat.Path()), "copy.db"), true)
		if err != nil {
			t.Fatal(err)
		}
		u, err := BeginUpdate(cat, ready, copied)
		if err != nil {
			t.Fatal(err)
		}
		done := false
		err = EmptyToken(ctx, card, cat, u, ready.Warrant, func(string, int, int) {
			if done {
				return
			}
			done = true
			if err := card.DeleteFileIfThere(ctx, c.file); err != nil {
				t.Fatal(err)
			}
			if err := card.WriteFile(ctx, c.file, []byte("something else")); err != nil {
				t.Fatal(err)
			}
		})
		var job *fail.Error
		if !errors.As(err, &job) || job.Code != c.code || c.deleted >= 0 && u.Deleted != c.deleted {
			t.Errorf("%s: %v, %d deletions", c.what, err, u.Deleted)
		}
		if b, err := card.ReadFile(ctx, c.file); err != nil || string(b) != "something else" {
			t.Errorf("%s: it holds %q, %v", c.what, b, err)
		}
	}
}

// A place that is taken is noticed before the token is proven and copied.
func TestCopyPlaceTaken(t *testing.T) {
	_, _, cat, _ := readyForUpdate(t)
	taken := filepath.Join(t.TempDir(), "taken")
	if err := os.WriteFile(taken, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, "a file of somebody", "copy-exists", CheckCopyPlace(cat, taken, true))
}

// A wipe loses what the PIN protects, as nobody who is not logged in can compare
// it, and a key that was accepted as one that cannot leave.
func TestGuardWipeOfWhatIsNotSeen(t *testing.T) {
	ctx := context.Background()
	token, card, cat, share := readyForUpdate(t)
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := guardWipe(t, card, cat, share); err != nil {
		t.Fatalf("all of it is in a snapshot: %v", err)
	}
	write(t, card, 0xCD09, []byte("new"))
	refusedWith(t, "protected data that is in no snapshot", "not-covered", guardWipe(t, card, cat, share))

	card = login(t, token)
	if err := card.GenerateAES(ctx, 9, 128, []byte{0x10, 0x11}); err != nil { // without 92
		t.Fatal(err)
	}
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(inv, cat, "9", "it is meant to stay"); err != nil {
		t.Fatal(err)
	}
	err = guardWipe(t, card, cat, share)
	refusedWith(t, "an accepted key", "not-covered", err)
	if err == nil || !strings.Contains(err.Error(), "lost for good") {
		t.Errorf("it does not say that it would be lost: %v", err)
	}
}

// What is in the way is looked at again right before it goes: by then it may be
// something that no backup covers.
func TestReplaceLooksAgain(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	_, card := inTheWay(t, cat, true)
	o := RestoreOptions{Keys: []byte{1}, Replace: []byte{1}, Journal: cat.Journal(), Catalog: cat, Replacing: Replacing{SharesChecked: kcvOf(t, card)}}
	p, err := MakePlan(ctx, card, s, o)
	if err != nil || p.Items[0].Action != WouldReplace {
		t.Fatalf("%+v, %v", p.Items, err)
	}
	old := coverageOf(t, card, cat)[0].Key
	done := false
	o.Progress = func(string, int, int) {
		if done {
			return
		}
		done = true
		if err := card.WriteFile(ctx, schsm.CertificateFile(1), []byte("a certificate that came since")); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Restore(ctx, card, cat, p, o)
	if err != nil || r.Keys[0].OK || !strings.Contains(r.Keys[0].Reason, "not replaced") {
		t.Errorf("%+v, %v", r.Keys, err)
	}
	if b, err := card.ReadFile(ctx, schsm.DescriptionFile(1)); err != nil || !bytes.Equal(b, old.Description) {
		t.Errorf("the key in the way is gone: %v", err)
	}
}
