package backup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/forge"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// seenWithout is what status says: nobody is logged in.
func seenWithout(t testing.TB, card *schsm.Card, cat *store.Catalog) []KeyCoverage {
	t.Helper()
	inv, err := Take(context.Background(), card)
	if err != nil {
		t.Fatal(err)
	}
	return Cover(inv, read(t, cat), nil)
}

// anew deletes an AES key and makes another in its place, described alike.
func anew(t testing.TB, card *schsm.Card, reference byte, label string) {
	t.Helper()
	remove(t, card, schsm.KeyFile(reference), schsm.DescriptionFile(reference))
	aesKey(t, card, reference, label)
}

// An AES key that was deleted and made anew with the same label, ID and reference
// is another key: no look says covered, a login finds out, no wipe takes it, and
// a backup exports it.
func TestFault02KeyMadeAnew(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	aesKey(t, card, 1, "disk")
	first := mustRun(t, card, cat).Snapshot.Keys[0]
	wantCoverage(t, "backed up", card, cat, Covered)
	anew(t, card, 1, "disk")
	if c := seenWithout(t, card, cat)[0]; c.Coverage != Unasked || c.Asked.IsZero() {
		t.Errorf("nothing of it that can be read has changed: %s, asked %v", c.Coverage, c.Asked)
	}
	wantCoverage(t, "made anew", card, cat, Stale)
	refusedWith(t, "a wipe of the new key", "not-covered", guardWipe(t, card, cat, share))

	// Nor does it go for the sake of another key, or with the rest of the token.
	_, other, _ := twoKeys(t)
	o := RestoreOptions{Keys: []byte{1}, Replace: []byte{1}, Journal: cat.Journal(), Catalog: cat, Replacing: Replacing{Shares: []*dkek.Share{share}}}
	p, err := MakePlan(ctx, card, other, o)
	if err != nil || p.Items[0].Action != WouldReplace {
		t.Fatalf("%+v, %v", p.Items, err)
	}
	if r, err := Restore(ctx, card, nil, p, o); err != nil || r.Keys[0].OK || !strings.Contains(r.Keys[0].Reason, string(Stale)) {
		t.Errorf("replaced: %+v, %v", r.Keys, err)
	}
	if undescribed(t, card) != 0 {
		t.Error("and a copy is left")
	}

	r := mustRun(t, card, cat)
	if !r.Complete() || slices.Equal(r.Snapshot.Keys[0].CheckValue, first.CheckValue) {
		t.Errorf("the next backup: %+v", r.Keys)
	}
	if err := guardWipe(t, card, cat, share); err != nil {
		t.Errorf("backed up: %v", err)
	}
}

// What a look without a login found once holds until something that can be read
// changes, or a run finds that the key answers otherwise.
func TestFault02ALookIsNoProof(t *testing.T) {
	ctx := context.Background()
	cat, _, card := initialised(t)
	aesKey(t, card, 1, "disk")
	mustRun(t, card, cat)
	now := time.Now()
	k := seenWithout(t, card, cat)[0]
	for age, want := range map[time.Duration]bool{0: true, 39 * 24 * time.Hour: true, 41 * 24 * time.Hour: false, -48 * time.Hour: false} {
		if got := k.DoneWithin(now.Add(age), DefaultAskedWithin); got != want {
			t.Errorf("asked %v ago: done is %v", age, got)
		}
	}
	if err := card.WriteFile(ctx, schsm.CertificateFile(1), []byte{0x30, 3, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if c := seenWithout(t, card, cat)[0]; c.Coverage != Stale {
		t.Errorf("a certificate came: %s", c.Coverage)
	}
	remove(t, card, schsm.CertificateFile(1))
	anew(t, card, 1, "disk")
	if _, err := VerifyRoundTrip(ctx, card, cat, latest(t, cat), Options{}); err != nil {
		t.Fatal(err)
	}
	if c := seenWithout(t, card, cat)[0]; c.Coverage != Stale || !strings.Contains(c.Reason, "another key") {
		t.Errorf("after a run that asked it: %s (%s)", c.Coverage, c.Reason)
	}
}

// A proof that failed takes covered back until a later one succeeds; one that could
// not be tried says nothing.
func TestFault03FailedProof(t *testing.T) {
	ctx := context.Background()
	cat := createCatalog(t)
	share := newShare(t, 1)
	_, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	s := mustRun(t, card, cat).Snapshot
	proof := func(p store.Proof) {
		t.Helper()
		p.Snapshot, p.Reference, p.Blob, p.Kind = s.ID, 1, store.HashOf(s.Keys[0].Blob), store.ProofRoundTrip
		if err := cat.RecordProofs([]store.Proof{p}); err != nil {
			t.Fatal(err)
		}
	}
	proof(store.Proof{Untried: true, Reason: "no room"})
	wantCoverage(t, "not tried", card, cat, Covered)
	proof(store.Proof{Reason: "it answers like another key"})
	wantCoverage(t, "failed", card, cat, Unproven)
	proof(store.Proof{OK: true})
	wantCoverage(t, "and later good", card, cat, Covered)

	// What a drill found of a blob that was spoilt in the catalog counts too.
	cat = reopened(t, cat, func(c *forge.Catalog) { spoilBlob(c) })
	v, err := Drill(ctx, cat, latest(t, cat), []*dkek.Share{share}, DrillOptions{NewToken: memory})
	if err != nil || v.OK() {
		t.Fatalf("%+v, %v", v, err)
	}
	wantCoverage(t, "a drill found it spoilt", card, cat, Unproven)
	refusedWith(t, "a wipe of it", "not-covered", guardWipe(t, card, cat, share))
}

// spoilBlob turns a bit of the first blob over, with all hashes made to fit, and has
// every proof of it be of the spoilt one, dated ahead.
func spoilBlob(c *forge.Catalog) {
	k := forge.Keys(c.Newest())[0]
	blob := c.Body(k["blob"])
	old := forge.Hash(blob)
	blob[len(blob)-9] ^= 1
	k["blob"] = c.Refer(blob)
	for _, e := range c.Log {
		forge.Strings(e.Body, func(_, s string) string {
			if s == old {
				return forge.Hash(blob)
			}
			return s
		})
	}
	c.Append("proof", time.Now().Add(24*time.Hour), forge.Object{"proofs": []forge.Object{{
		"snapshot": "000000000000", "reference": 1, "blob": forge.Hash(blob), "kind": store.ProofRoundTrip, "ok": true, "token": "SOFT0200001"}}})
}

// What the PIN protects is compared by its content; a key that was unwrapped under
// another's description and request answers for itself.
func TestFault04ChangedUnderTheSameName(t *testing.T) {
	ctx := context.Background()
	_, card, cat, share := readyForUpdate(t)
	mustRun(t, card, cat)
	if err := guardWipe(t, card, cat, share); err != nil {
		t.Fatalf("all of it is in a snapshot: %v", err)
	}
	write(t, card, 0xCD01, []byte("another combination"))
	err := guardWipe(t, card, cat, share)
	refusedWith(t, "a protected object that changed", "not-covered", err)
	if err == nil || !strings.Contains(err.Error(), "CD01: the newest snapshot has another content") {
		t.Errorf("%v", err)
	}
	// Typed, nothing opens what is sealed: it cannot be compared.
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	_, err = SetUp{Holding: Holding{SharesChecked: kcvOf(t, card)}}.leave(ctx, card, cat, inv)
	refusedWith(t, "sealed, and no share at hand", "not-covered", err)

	cat = newCatalog(t)
	_, card = newToken(t, "3.5", "SOFT0200002")
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	generate(t, card, 2, "P-256", "two", []byte{2})
	s := mustRun(t, card, cat).Snapshot
	remove(t, card, schsm.KeyFile(1))
	if err := card.Unwrap(ctx, 1, s.Keys[1].Blob); err != nil {
		t.Fatal(err)
	}
	if c := seenWithout(t, card, cat)[0]; c.Coverage == Covered {
		t.Error("a look says covered")
	}
	wantCoverage(t, "another key under the old request", card, cat, Stale, Covered)
	refusedWith(t, "a wipe", "not-covered", guardWipe(t, card, cat, share))
}

// A KCV that was typed counts for the job that it was typed to, and for nothing
// later; it is recorded when something goes on it, as what it is.
func TestFault06TypedCountsOnce(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	share := newShare(t, 1)
	_, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, nil, share) // nobody is told of the shares
	generate(t, card, 1, "P-256", "one", []byte{1})
	kcv := kcvOf(t, card)
	ready, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcv})
	if err != nil || !slices.Equal(ready.Typed, []store.KCV{kcv}) {
		t.Fatalf("%+v, %v", ready, err)
	}
	typed := func() int {
		n := 0
		for _, e := range read(t, cat).Entries {
			if e.Kind == store.KindSharesChecked {
				n++
			}
		}
		return n
	}
	if typed() != 0 {
		t.Error("recorded before anything goes")
	}
	wantCoverage(t, "without it", card, cat, NoShare)
	refusedWith(t, "a wipe without it", "not-covered", guardWipe(t, card, cat))
	c, _, err := CopyCatalog(cat, t.TempDir()+"/", true)
	if err != nil {
		t.Fatal(err)
	}
	u, err := BeginUpdate(cat, ready, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := EmptyToken(ctx, card, cat, u, ready.Warrant, nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := read(t, cat).Shares[kcv]; ok || typed() != 1 {
		t.Errorf("%d records of what was typed, and shares are seen: %v", typed(), ok)
	}
}

// Whatever somebody writes into a catalog that a blob is proven, and when: it is
// opened in this run, and a spoilt one costs no key.
func TestFault13ForgedProofs(t *testing.T) {
	ctx := context.Background()
	cat := createCatalog(t)
	share := newShare(t, 1)
	_, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	mustRun(t, card, cat)
	cat = reopened(t, cat, func(c *forge.Catalog) { spoilBlob(c) })
	_, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcvOf(t, card)})
	refusedWith(t, "an update", "not-covered", err)
	set := SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}}
	_, _, err = Initialise(ctx, card, cat, set)
	refusedWith(t, "a wipe", "not-covered", err)
	if _, err := card.Key(ctx, 1); err != nil {
		t.Errorf("the key is gone: %v", err)
	}
}

// Notes in the journal are hints where to look: no key goes on them.
func TestFault14ForgedNotes(t *testing.T) {
	ctx := context.Background()
	share := newShare(t, 1)
	cat := createCatalog(t)
	token, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	s := mustRun(t, card, cat).Snapshot
	generate(t, card, 9, "P-256", "new", []byte{9}) // in no snapshot
	keep := func(when string) {
		t.Helper()
		card := login(t, token)
		for _, n := range []byte{1, 9} {
			if _, err := card.Key(ctx, n); err != nil {
				t.Errorf("%s: key %d is gone: %v", when, n, err)
			}
		}
	}
	cat = reopened(t, cat, func(c *forge.Catalog) {
		c.Journal["firmware-update/SOFT0200001"] = forge.Object{
			"serial": "SOFT0200001", "firmware": "3.5", "snapshot": s.ID, "hash": s.Hash.String(), "phase": "emptying",
			"files": []int{0xCC01, 0xC401, 0xCE01, 0xCC09, 0xC409, 0xCE09}, "deleted": 0, "discarded": []int{1, 9}, "copy": "", "seq": 1, "began": time.Now()}
		c.Journal["replace/SOFT0200001/1"] = forge.Object{
			"snapshot": s.ID, "reference": 1, "blob": store.HashOf(s.Keys[0].Blob).String(), "helper": 9, "step": "place"}
	})
	if _, err := updateRun(t, token, cat, share, UpdateOptions{}); err == nil {
		t.Error("an emptying that nobody began is gone on with")
	}
	keep("an emptying, all discarded")
	_, other, _ := twoKeys(t)
	card = login(t, token)
	for _, from := range []*store.Snapshot{s, other} {
		o := RestoreOptions{Keys: []byte{1}, Replace: []byte{1}, Journal: cat.Journal(), Catalog: cat}
		p, err := MakePlan(ctx, card, from, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(ctx, card, nil, p, o); err != nil && fail.ClassOf(err) != fail.Refused {
			t.Fatal(err)
		}
		keep("a replacement that nobody began")
	}
}

// Covered is what a restore of this token brings back: what another token's
// snapshot has, or an older one of this, is not.
func TestFault20OnlyTheNewest(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	share := newShare(t, 1)
	_, other := newToken(t, "3.5", "SOFT0200002")
	initToken(t, other, cat, share)
	generate(t, other, 1, "P-256", "brought", []byte{1})
	theirs := mustRun(t, other, cat).Snapshot
	_, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	older := mustRun(t, card, cat).Snapshot
	remove(t, card, schsm.KeyFile(1), schsm.DescriptionFile(1), schsm.CertificateFile(1))
	generate(t, card, 2, "P-256", "two", []byte{2})
	mustRun(t, card, cat)
	for from, at := range map[*store.Snapshot]byte{theirs: 5, older: 6} {
		o := RestoreOptions{Keys: []byte{1}, At: map[byte]byte{1: at}, Journal: cat.Journal()}
		p, err := MakePlan(ctx, card, from, o)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := Restore(ctx, card, cat, p, o); err != nil || !r.Keys[0].OK {
			t.Fatalf("%+v, %v", r.Keys, err)
		}
	}
	wantCoverage(t, "brought over, and back", card, cat, Covered, Missing, Missing)
	refusedWith(t, "a wipe", "not-covered", guardWipe(t, card, cat, share))
	if r := mustRun(t, card, cat); !r.Complete() {
		t.Errorf("%+v", r.Keys)
	}
	if err := guardWipe(t, card, cat, share); err != nil {
		t.Errorf("backed up: %v", err)
	}
}

// An emptying that was cut off asks what is left: a key that was made anew
// meanwhile, to all that can be read the same, stays.
func TestFault21ResumedEmptying(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	share := newShare(t, 1)
	token, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, share)
	aesKey(t, card, 1, "first")
	aesKey(t, card, 2, "disk")
	ready, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcvOf(t, card)})
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := CopyCatalog(cat, t.TempDir()+"/", true)
	if err != nil {
		t.Fatal(err)
	}
	u, err := BeginUpdate(cat, ready, c)
	if err != nil {
		t.Fatal(err)
	}
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	err = EmptyToken(stop, card, cat, u, ready.Warrant, func(what string, done, _ int) {
		if done == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	card = login(t, token)
	anew(t, card, 2, "disk")
	token.Reset()
	_, err = updateRun(t, token, cat, share, UpdateOptions{})
	refusedWith(t, "the key that was made anew", "not-covered", err)
	if _, err := login(t, token).Key(ctx, 2); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// A key that was made where an old replacement had its helper is somebody's.
func TestFault22StaleReplacement(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	_, card := inTheWay(t, cat, true)
	generate(t, card, 255, "P-256", "somebody's", []byte{8})
	remove(t, card, schsm.DescriptionFile(255), schsm.CertificateFile(255)) // as a raw UNWRAP leaves one
	if err := cat.Journal().Put("replace/SOFT0400001/1", map[string]any{
		"snapshot": s.ID, "reference": 1, "blob": store.HashOf(s.Keys[0].Blob), "helper": 255, "step": "place"}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, card, cat)
	o := RestoreOptions{Keys: []byte{1}, Replace: []byte{1}, Journal: cat.Journal(), Catalog: cat, Replacing: Replacing{SharesChecked: kcvOf(t, card)}}
	p, err := MakePlan(ctx, card, s, o)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Restore(ctx, card, cat, p, o); err != nil || !r.Keys[0].OK {
		t.Errorf("%+v, %v", r.Keys, err)
	}
	if _, err := card.Key(ctx, 255); err != nil {
		t.Errorf("somebody's key is gone: %v", err)
	}
}

// verify says which copy it deletes, and deletes none that is not one.
func TestFault25VerifySaysWhatItDeletes(t *testing.T) {
	ctx := context.Background()
	cat, _, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	s := mustRun(t, card, cat).Snapshot
	if err := card.Unwrap(ctx, 200, s.Keys[0].Blob); err != nil {
		t.Fatal(err)
	}
	generate(t, card, 201, "P-256", "raw", []byte{3})
	remove(t, card, schsm.DescriptionFile(201), schsm.CertificateFile(201))
	v, err := VerifyRoundTrip(ctx, card, cat, latest(t, cat), Options{})
	if err != nil || len(v.Cleaned) != 1 || !strings.Contains(v.Cleaned[0], "key 200, a copy of") {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := card.Key(ctx, 201); err != nil {
		t.Errorf("a key that is no copy is gone: %v", err)
	}
}

// A key with a list that is on a token of firmware 3.1 already has been taken.
func TestFault25ListedKeyThatIsThere(t *testing.T) {
	cat := newCatalog(t)
	_, card := newToken(t, "3.1", "SOFT0200001")
	initToken(t, card, cat, newShare(t, 1))
	aesKey(t, card, 1, "disk")
	s := mustRun(t, card, cat).Snapshot
	p, err := MakePlan(context.Background(), card, s, RestoreOptions{})
	if err != nil || p.Items[0].Action != Same {
		t.Errorf("%+v, %v", p.Items, err)
	}
	remove(t, card, schsm.KeyFile(1), schsm.DescriptionFile(1))
	if p, err = MakePlan(context.Background(), card, s, RestoreOptions{}); err != nil || p.Items[0].Action != DoesNotFit {
		t.Errorf("gone: %+v, %v", p.Items, err)
	}
}
