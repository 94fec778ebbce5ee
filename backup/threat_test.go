package backup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/store"
)

// What docs/threat-model.md says, where no other test shows it.

// Whoever may write the catalog can put a recipient of their own into it, and
// the next backup seals to them what the PIN protects. With the recovery key it
// shows, and is put right.
func TestForgedRecipient(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	share, theirs := newShare(t, 1), newShare(t, 2)
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	if err := card.WriteFile(ctx, 0xCD05, []byte("the safe's combination")); err != nil {
		t.Fatal(err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := dkek.Combine(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if err := RecordShares(cat, key, true, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	recipient, err := stranger.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Append(store.ShareSeen{KCV: key.KCV().String(), Software: true, Origin: "test", Recipient: recipient}); err != nil {
		t.Fatal(err)
	}
	// sealed takes a backup and gives its protected file.
	sealed := func() (*store.Snapshot, []byte) {
		r, err := Run(ctx, card, cat, Options{})
		if err != nil || len(r.Snapshot.Files) != 1 || !r.Snapshot.Files[0].Sealed {
			t.Fatalf("%+v, %v", r, err)
		}
		return r.Snapshot, r.Snapshot.Files[0].Content
	}
	s, content := sealed()
	if _, err := stranger.OpenData(content); err != nil {
		t.Errorf("the stranger cannot open it, and the threat model says so: %v", err)
	}
	if v, err := Check(cat, nil, 0); err != nil || !v.OK() {
		t.Errorf("a check finds it, and the threat model says that it does not: %+v, %v", v, err)
	}
	if v, err := VerifyOffline(ctx, cat, []*store.Snapshot{s}, key, Options{}); err != nil || v.OK() || len(v.Findings) != 2 {
		t.Errorf("opened with the recovery key: %+v, %v", v, err)
	}
	// Whenever shares are at hand the recipient is theirs again.
	if err := RecordShares(cat, key, true, "test"); err != nil {
		t.Fatal(err)
	}
	if _, content = sealed(); len(content) > 0 {
		if _, err := stranger.OpenData(content); err == nil {
			t.Error("the stranger's recipient is still in use")
		}
		if _, err := key.OpenData(content); err != nil {
			t.Error(err)
		}
	}
	if v, err := VerifyOffline(ctx, cat, []*store.Snapshot{s}, key, Options{}); err != nil || v.OK() || len(v.Findings) != 1 {
		t.Errorf("the backup that went astray: %+v, %v", v, err)
	}
}

// An old copy is whole, and the recovery key anchors it: only the words of a
// newer head tell.
func TestOldCopy(t *testing.T) {
	ctx := context.Background()
	cat, s, key := twoKeys(t)
	if err := RecordShares(cat, key, true, "test"); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(cat.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Check(cat, nil, 0); err != nil {
		t.Fatal(err)
	}
	head := read(t, cat).Head
	path := filepath.Join(scratch(t), "old.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := store.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if v, err := VerifyOffline(ctx, old, []*store.Snapshot{s}, key, Options{}); err != nil || !v.OK() || v.Anchored != AnchoredDKEK {
		t.Errorf("with the recovery key: %+v, %v", v, err)
	}
	v, err := Check(old, head.Hash[:], 66)
	if err != nil || len(v.Findings) != 1 || !strings.Contains(v.Findings[0].What, "older copy") {
		t.Errorf("with the head: %+v, %v", v, err)
	}
}
