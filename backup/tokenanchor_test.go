package backup

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// anchored is a token with a key, backed up with an anchor on it.
func anchored(t *testing.T) (*softtoken.Token, *schsm.Card, *store.Catalog, *Report) {
	t.Helper()
	cat := createCatalog(t)
	token, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "one", []byte{1})
	if err := card.WriteFile(context.Background(), 0xCF00, []byte("the user's")); err != nil {
		t.Fatal(err)
	}
	return token, card, cat, backUp(t, card, cat, Options{AnchorToken: true})
}

func backUp(t *testing.T, card *schsm.Card, cat *store.Catalog, o Options) *Report {
	t.Helper()
	r, err := Run(context.Background(), card, cat, o)
	if err != nil || !r.Complete() {
		t.Fatalf("%+v, %v", r, err)
	}
	return r
}

func look(t *testing.T, card *schsm.Card) *Inventory {
	t.Helper()
	inv, err := Take(context.Background(), card)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// The object is these bytes and no more, other programs see it under its label,
// and nothing of ours takes it for the user's.
func TestTokenAnchor(t *testing.T) {
	ctx := context.Background()
	_, card, cat, r := anchored(t)
	inv := look(t, card)
	a := inv.Anchor
	if a == nil || !a.fits(read(t, cat)) || a.Seq != r.Head.Seq-1 || len(inv.Files) != 1 {
		t.Fatalf("%+v, files %v", a, inv.Files)
	}
	content, err := card.ReadFile(ctx, a.file)
	if err != nil || len(content) != 49 || !bytes.Equal(content[1:9], []byte{0, 0, 0, 0, 0, 0, 0, byte(a.Seq)}) || !bytes.Equal(content[9:41], a.Hash[:]) {
		t.Errorf("%x, %v", content, err)
	}
	b, err := card.ReadFile(ctx, descriptionOf(a.file))
	d, err2 := pkcs15.ParseDataDescription(b)
	if err != nil || err2 != nil || d.Label != "hsmbackup anchor" || d.Application != "hsmbackup" || d.Path != uint16(a.file) {
		t.Errorf("%+v, %v, %v", d, err, err2)
	}
	// As docs/format.md spells it out.
	want := "302d30160c1068736d6261636b757020616e63686f7203020640300b0c0968736d6261636b7570a10630040402cfff"
	if got := fmt.Sprintf("%x", b); got != want {
		t.Errorf("description %s, want %s", got, want)
	}
	for _, s := range read(t, cat).Snapshots {
		if len(s.Files) != 1 {
			t.Errorf("snapshot %s keeps %v", s.ID, s.Files)
		}
	}
	v, err := Check(cat, nil, 0, CompareTokens(inv))
	if err != nil || v.Anchored != AnchoredToken || v.Since != 1 || !v.OK() || len(v.Doubts) > 0 {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err = VerifyRoundTrip(ctx, card, cat, latest(t, cat), Options{}); err != nil || v.Anchored != AnchoredToken || !v.OK() {
		t.Errorf("%+v, %v", v, err)
	}
	// The next one takes its place; a backup without it leaves it.
	backUp(t, card, cat, Options{})
	if is := look(t, card).Anchor; is.Seq != a.Seq {
		t.Errorf("%+v", is)
	}
	backUp(t, card, cat, Options{AnchorToken: true})
	if is := look(t, card).Anchor; is.Seq <= a.Seq || is.file != a.file || len(look(t, card).Files) != 1 {
		t.Errorf("%+v", is)
	}
	// A restore of the token onto another brings the user's file and no anchor.
	_, other := newToken(t, "3.6", "SOFT0200002")
	initToken(t, other, cat, newShare(t, 1))
	if r := restoreAll(t, other, cat, read(t, cat).Newest("SOFT0200001")); len(r.Files) != 1 {
		t.Errorf("%+v", r.Files)
	}
	if inv := look(t, other); inv.Anchor != nil || len(inv.Files) != 1 {
		t.Errorf("%+v, %v", inv.Anchor, inv.Files)
	}
}

// An older copy of the catalog, or another one, does not fit, and writes nothing.
func TestTokenAnchorOfANewerCatalog(t *testing.T) {
	ctx := context.Background()
	_, card, cat, _ := anchored(t)
	if err := cat.Close(); err != nil {
		t.Fatal(err)
	}
	old, err := store.Create(filepath.Join(scratch(t), "other.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	before := read(t, old).Head.Seq
	if _, err := Run(ctx, card, old, Options{AnchorToken: true}); fail.ClassOf(err) != fail.Refused || read(t, old).Head.Seq != before {
		t.Errorf("%v", err)
	}
	v, err := Check(old, nil, 0, CompareTokens(look(t, card)))
	if err != nil || len(v.Findings) != 1 || v.Anchored != NotAnchored {
		t.Errorf("%+v, %v", v, err)
	}
}

// Torn or gone is doubtful, and what only looks like one is the user's.
func TestTokenAnchorTornOrGone(t *testing.T) {
	ctx := context.Background()
	for name, damage := range map[string]func(card *schsm.Card, a *TokenAnchor) error{
		"gone": func(card *schsm.Card, a *TokenAnchor) error {
			if err := card.DeleteFile(ctx, descriptionOf(a.file)); err != nil {
				return err
			}
			return card.DeleteFile(ctx, a.file)
		},
		"without its description": func(card *schsm.Card, a *TokenAnchor) error { return card.DeleteFile(ctx, descriptionOf(a.file)) },
		"half of it":              func(card *schsm.Card, a *TokenAnchor) error { return card.WriteFile(ctx, a.file, make([]byte, 20)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, card, cat, _ := anchored(t)
			if err := damage(card, look(t, card).Anchor); err != nil {
				t.Fatal(err)
			}
			v, err := Check(cat, nil, 0, CompareTokens(look(t, card)))
			if err != nil || len(v.Doubts) != 1 || v.Anchored != NotAnchored || v.Damaged() {
				t.Errorf("%+v, %v", v, err)
			}
			backUp(t, card, cat, Options{AnchorToken: true})
			if v, err := Check(cat, nil, 0, CompareTokens(look(t, card))); err != nil || len(v.Doubts) != 0 || v.Anchored != AnchoredToken {
				t.Errorf("written anew: %+v, %v", v, err)
			}
		})
	}
}

// What has the label and other bytes, or the bytes and another label, is kept and
// brought back like any file.
func TestTokenAnchorLookalikes(t *testing.T) {
	ctx := context.Background()
	cat := createCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "one", []byte{1})
	named := (&pkcs15.ObjectDescription{Label: "mine", Application: "hsmbackup", Path: 0xCF02}).EncodeData()
	for f, content := range map[schsm.FID][]byte{
		0xC901: anchorDescription(0xCF01), 0xCF01: []byte("other bytes under that label"),
		0xC902: named, 0xCF02: encodeAnchor(7, store.HashOf(nil)),
	} {
		if err := card.WriteFile(ctx, f, content); err != nil {
			t.Fatal(err)
		}
	}
	if r := backUp(t, card, cat, Options{AnchorToken: true}); len(r.Snapshot.Files) != 4 {
		t.Errorf("%v", r.Snapshot.Files)
	}
	inv := look(t, card)
	if inv.Anchor == nil || len(inv.Files) != 4 {
		t.Errorf("%+v, %v", inv.Anchor, inv.Files)
	}
	if v, err := Check(cat, nil, 0, CompareTokens(inv)); err != nil || v.Anchored != AnchoredToken || len(v.Doubts) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// It takes the PIN to write.
func TestTokenAnchorWantsThePIN(t *testing.T) {
	ctx := context.Background()
	token, card, cat, _ := anchored(t)
	inv := look(t, card)
	card = openCard(t, token) // nobody is logged in
	if err := card.WriteFile(ctx, inv.Anchor.file, encodeAnchor(1, store.Hash{})); err == nil {
		t.Error("written without the PIN")
	}
	if a := look(t, card).Anchor; a == nil || a.Hash != inv.Anchor.Hash || !a.fits(read(t, cat)) {
		t.Errorf("%+v", a)
	}
}

// A firmware update deletes it after everything else, and the token that comes
// back carries it again.
func TestTokenAnchorGoesThroughAnUpdate(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	token, card, cat, _ := anchored(t)
	share := newShare(t, 1)
	ready, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcvOf(t, card)})
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := CopyCatalog(cat, filepath.Join(scratch(t), "copy.db"), true)
	if err != nil {
		t.Fatal(err)
	}
	u, err := BeginUpdate(cat, ready, c)
	if err != nil {
		t.Fatal(err)
	}
	last := func(_ string, done, total int) {
		if done == total-1 {
			cancel()
		}
	}
	if err := EmptyToken(ctx, card, cat, u, ready.Warrant, last); fail.ClassOf(err) != fail.Changed {
		t.Fatal(err)
	}
	card = openCard(t, token)
	if inv := look(t, card); inv.Anchor == nil || len(inv.files()) > 1 {
		t.Errorf("before the last deletion: %+v, %v", inv.Anchor, inv.files())
	}
	if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
		t.Fatal(phase, err)
	}
	if a, had := read(t, cat).TokenAnchors["SOFT0200001"]; !had || a.Seq != 0 {
		t.Errorf("%+v", a)
	}
	if err := token.Update("3.6", "SOFT0400001"); err != nil {
		t.Fatal(err)
	}
	if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != "finished" {
		t.Fatal(phase, err)
	}
	inv := look(t, openCard(t, token))
	if v, err := Check(cat, nil, 0, CompareTokens(inv)); err != nil || v.Anchored != AnchoredToken || len(v.Doubts) != 0 || len(inv.Files) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
}
