package backup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/forge"
	"hsmbackup/store"
)

// What docs/threat-model.md says, where no other test shows it.

// Whoever may write the catalog can put a recipient of their own into it. Nothing
// is sealed to that: what this computer derived from the shares counts, and one
// that never had them leaves out what the PIN protects, and says what to type.
func TestForgedRecipient(t *testing.T) {
	ctx := context.Background()
	cat := createCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	if err := card.WriteFile(ctx, 0xCD05, []byte("the safe's combination")); err != nil {
		t.Fatal(err)
	}
	key, stranger := keyOf(t, share), keyOf(t, newShare(t, 2))
	kcv := key.KCV().String()
	own, theirs := recipientOfKey(t, key), recipientOfKey(t, stranger)
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	cat = reopened(t, cat, func(c *forge.Catalog) {
		c.Append("share-seen", time.Now(), forge.Object{"kcv": kcv, "software": true, "origin": "dkek check", "random": false, "recipient": theirs})
	})
	// kept takes a backup and gives the protected file, nil if it was left out.
	kept := func(o Options) ([]byte, string) {
		t.Helper()
		r, err := Run(ctx, card, cat, o)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Snapshot.Files) == 1 && r.Snapshot.Files[0].Sealed {
			return r.Snapshot.Files[0].Content, ""
		}
		if r.Complete() || len(r.Snapshot.Missing) != 1 {
			t.Fatalf("neither kept nor missing: %+v", r.Snapshot)
		}
		return nil, r.Snapshot.Missing[0].Reason
	}
	sealedTo := func(k *dkek.Key, o Options) {
		t.Helper()
		content, why := kept(o)
		if _, err := k.OpenData(content); err != nil {
			t.Errorf("%v (%s)", err, why)
		}
	}
	sealedTo(key, Options{}) // by the computer that had the shares

	// Another computer has only the catalog's word.
	elsewhere := func() {
		t.Helper()
		if err := cat.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if cat, err = store.Open(cat.Path(), true, store.OnMachine(store.MachineAt(filepath.Join(scratch(t), "recipients.json")))); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cat.Close() })
	}
	elsewhere()
	if content, why := kept(Options{}); content != nil || !strings.Contains(why, "dkek check SHARE") || !strings.Contains(why, "--recipient") {
		t.Errorf("%x, %q", content, why)
	}
	words := RecipientHash(own)
	if _, err := Run(ctx, card, cat, Options{Recipient: Recipient{Prefix: words[:], Bits: 66}}); fail.ClassOf(err) != fail.Refused {
		t.Errorf("words that the catalog's recipient does not fit: %v", err)
	}
	sealedTo(key, Options{Recipient: Recipient{Text: own}}) // from the sheet
	sealedTo(key, Options{})                                // and kept in mind
	elsewhere()
	if err := RecordShares(cat, key, true, "test"); err != nil {
		t.Fatal(err)
	}
	sealedTo(key, Options{})
	elsewhere()
	sealedTo(key, Options{Recipient: Recipient{Prefix: words[:], Bits: 66}}) // the catalog has it again

	// Typed wrong it shows when the shares are here.
	elsewhere()
	sealedTo(stranger, Options{Recipient: Recipient{Text: theirs}})
	v, err := VerifyOffline(ctx, cat, read(t, cat).Latest(), key, Options{})
	if err != nil || !v.Damaged() || !slices.ContainsFunc(v.Findings, func(f store.Finding) bool { return strings.Contains(f.Where, "data object") }) {
		t.Errorf("%+v, %v", v, err)
	}
}

func recipientOfKey(t testing.TB, key *dkek.Key) string {
	t.Helper()
	r, err := key.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	return r
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
