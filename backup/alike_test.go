package backup

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/tokentest"
	"hsmbackup/store"
)

// alike describes a key as scsh does, without its reference, so that two keys
// can have the same description.
func alike(t testing.TB, card *schsm.Card, reference byte, kind pkcs15.Kind, bits int, label string) {
	t.Helper()
	d := pkcs15.KeyDescription{Kind: kind, Label: label, ID: []byte{7}, Bits: bits, Usage: pkcs15.DefaultUsage(kind)}
	write(t, card, schsm.DescriptionFile(reference), d.Encode())
}

// write writes a file anew.
func write(t testing.TB, card *schsm.Card, f schsm.FID, content []byte) {
	t.Helper()
	if err := card.DeleteFileIfThere(context.Background(), f); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(context.Background(), f, content); err != nil {
		t.Fatal(err)
	}
}

func aesKey(t testing.TB, card *schsm.Card, reference byte, label string) {
	t.Helper()
	if err := card.GenerateAES(context.Background(), reference, 256, []byte{0x10, 0x11, 0x92}); err != nil {
		t.Fatal(err)
	}
	alike(t, card, reference, pkcs15.AES, 256, label)
}

func remove(t testing.TB, card *schsm.Card, files ...schsm.FID) {
	t.Helper()
	for _, f := range files {
		if err := card.DeleteFileIfThere(context.Background(), f); err != nil {
			t.Fatal(err)
		}
	}
}

func mustRun(t testing.TB, card *schsm.Card, cat *store.Catalog) *Report {
	t.Helper()
	r, err := Run(context.Background(), card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantCoverage(t testing.TB, when string, card *schsm.Card, cat *store.Catalog, want ...Coverage) {
	t.Helper()
	list := coverageOf(t, card, cat)
	if len(list) != len(want) {
		t.Fatalf("%s: %d keys", when, len(list))
	}
	for i, c := range list {
		if c.Coverage != want[i] {
			t.Errorf("%s: key %d is %s (%s), want %s", when, c.Key.Reference, c.Coverage, c.Reason, want[i])
		}
	}
}

// A key that bears the certificate of another is never taken for that one: not
// for covered, and the other's key blob is not kept in the place of its own.
func TestCertificateOfAnotherKey(t *testing.T) {
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "web", []byte{7})
	alike(t, card, 1, pkcs15.EC, 256, "web")
	m := tokentest.New(t, 1)
	certificate := m.Certificate(coverageOf(t, card, nil)[0].Key.Public)
	write(t, card, schsm.CertificateFile(1), certificate)
	mustRun(t, card, cat)
	wantCoverage(t, "one key", card, cat, Covered)

	// A second key, to all looks the same; its own request is overwritten.
	generate(t, card, 2, "P-256", "web", []byte{7})
	second := coverageOf(t, card, nil)[1].Key.Public
	alike(t, card, 2, pkcs15.EC, 256, "web")
	write(t, card, schsm.CertificateFile(2), certificate)
	wantCoverage(t, "a second that looks the same", card, cat, Covered, Missing)
	r := mustRun(t, card, cat)
	wantCoverage(t, "both backed up", card, cat, Covered, Covered)
	if a, b := r.Snapshot.Keys[0], r.Snapshot.Keys[1]; bytes.Equal(a.Blob, b.Blob) || len(b.PublicKey) > 0 {
		t.Fatalf("the second was taken for the first: %+v", b)
	}
	// And in the place of the first.
	remove(t, card, schsm.KeyFile(1), schsm.CertificateFile(1), schsm.DescriptionFile(1))
	generate(t, card, 1, "P-256", "web", []byte{7})
	third := coverageOf(t, card, nil)[0].Key.Public
	alike(t, card, 1, pkcs15.EC, 256, "web")
	write(t, card, schsm.CertificateFile(1), certificate)
	r = mustRun(t, card, cat)

	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{third.SPKI(), second.SPKI()} {
		blob, err := dkek.ParseBlob(r.Snapshot.Keys[i].Blob)
		if err != nil {
			t.Fatal(err)
		}
		private, err := key.Open(blob)
		if err != nil {
			t.Fatal(err)
		}
		if public, err := private.Public(); err != nil || !bytes.Equal(public.SPKI(), want) {
			t.Errorf("key %d: the blob in the snapshot is another key's (%v)", i+1, err)
		}
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	if report := restoreAll(t, spare, cat, r.Snapshot); !report.Complete() {
		t.Errorf("%+v", report.Keys)
	}
}

// Keys without a public key are known by their place and description: on the
// token that they were restored to, by the place they were restored to.
func TestAESAlike(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	aesKey(t, card, 1, "disk")
	aesKey(t, card, 2, "disk")
	s := mustRun(t, card, cat).Snapshot
	wantCoverage(t, "two alike", card, cat, Covered, Covered)
	aesKey(t, card, 3, "disk")
	wantCoverage(t, "a third", card, cat, Covered, Covered, Missing)

	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	o := RestoreOptions{Keys: []byte{1}, At: map[byte]byte{1: 5}, Journal: cat.Journal()}
	p, err := MakePlan(ctx, spare, s, o)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Restore(ctx, spare, cat, p, o); err != nil || !r.Keys[0].OK {
		t.Fatalf("%+v, %v", r, err)
	}
	aesKey(t, spare, 1, "disk")
	wantCoverage(t, "restored as 5, and a new one", spare, cat, Missing, Missing)
	mustRun(t, spare, cat)
	wantCoverage(t, "and backed up", spare, cat, Covered, Covered)
}

// The same key on several tokens: only what a restore of this one would take
// counts, and no snapshot of another.
func TestSameKeyElsewhere(t *testing.T) {
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	s := mustRun(t, card, cat).Snapshot
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	restoreAll(t, spare, cat, s)
	wantCoverage(t, "restored", spare, cat, Missing)
	mustRun(t, spare, cat)
	wantCoverage(t, "backed up", spare, cat, Covered)
	d := pkcs15.KeyDescription{Kind: pkcs15.EC, Label: "renamed", ID: []byte{9}, Bits: 256, Reference: 1, Usage: pkcs15.DefaultUsage(pkcs15.EC)}
	write(t, card, schsm.DescriptionFile(1), d.Encode())
	mustRun(t, card, cat)
	wantCoverage(t, "renamed on the other token", spare, cat, Covered)
	wantCoverage(t, "renamed", card, cat, Covered)
}

// A reason that holds no longer is none; a request that has gone is named.
func TestReasonsOfCoverage(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	share := newShare(t, 1)
	_, card := newToken(t, "3.5", "SOFT0200001")
	setUp := SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: 2}, Sets: []DomainSet{{Number: 0, Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}, Origin: "init"}
	if _, _, err := Initialise(ctx, card, cat, setUp); err != nil {
		t.Fatal(err)
	}
	generateIn(t, card, 1, 1, "one")
	generateIn(t, card, 2, 0, "two")
	mustRun(t, card, cat)
	wantCoverage(t, "a domain without DKEK", card, cat, NotExportable, Covered)
	if _, err := card.CreateDomain(ctx, 1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadShares(ctx, card, 1, []*dkek.Share{newShare(t, 50)}, dkek.KCV{}); err != nil {
		t.Fatal(err)
	}
	wantCoverage(t, "with a DKEK since", card, cat, Missing, Covered)
	if c := coverageOf(t, card, cat)[0]; !strings.Contains(c.Reason, reasonNoDomain) {
		t.Errorf("%s", c.Reason)
	}
	mustRun(t, card, cat)
	wantCoverage(t, "it was made without", card, cat, NotExportable, Covered)
	remove(t, card, schsm.CertificateFile(2))
	if c := coverageOf(t, card, cat)[1]; c.Coverage != Stale || !strings.Contains(c.Reason, "certificate has changed") {
		t.Errorf("it answers as it did: %s: %s", c.Coverage, c.Reason)
	}
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	if c := Cover(inv, read(t, cat), nil)[1]; c.Coverage != Stale || !strings.Contains(c.Reason, "gone") {
		t.Errorf("%s: %s", c.Coverage, c.Reason)
	}
}

// What was accepted was accepted of one key: an AES key made in its place later
// is another, if only by its label.
func TestAcceptedAES(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	if _, _, err := Initialise(ctx, card, cat, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), NoDKEK: true}}); err != nil {
		t.Fatal(err)
	}
	aesKey(t, card, 1, "disk")
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(inv, cat, "disk", "a cache"); err != nil {
		t.Fatal(err)
	}
	wantCoverage(t, "accepted", card, cat, Accepted)
	remove(t, card, schsm.KeyFile(1))
	aesKey(t, card, 1, "archive")
	wantCoverage(t, "another", card, cat, NotExportable)
	if v := mustRun(t, card, cat); v.Complete() {
		t.Error("called complete")
	}
	if v, err := Check(cat, nil, 0); err != nil || v.Snapshots[0].Keys[0].Accepted {
		t.Errorf("%+v, %v", v, err)
	}
}

// A use counter does not come back: it is said of the key wherever it is listed.
func TestCounterNoted(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	uses := uint32(5)
	if _, err := card.Generate(ctx, 1, cvc.KeySpec{CAR: "UTCA00001", CHR: "SOFT020000100001", Curve: curve.ByName("P-256"), Counter: &uses}); err != nil {
		t.Fatal(err)
	}
	r, err := Run(ctx, card, cat, Options{SpendUse: func(Key) bool { return true }})
	if err != nil || len(r.Keys[0].Notes) != 1 || !strings.Contains(r.Keys[0].Notes[0], "5 uses") {
		t.Fatalf("%+v, %v", r.Keys, err)
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	p, err := MakePlan(ctx, spare, r.Snapshot, RestoreOptions{})
	if err != nil || len(p.Items[0].Notes) != 1 || !strings.Contains(p.Items[0].Notes[0], "without limit") {
		t.Errorf("%+v, %v", p.Items, err)
	}
}

// One key on the token is one key of the snapshot, not two.
func TestTwoCopiesOneKey(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "first", []byte{1})
	blob, err := card.Wrap(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Unwrap(ctx, 2, blob); err != nil {
		t.Fatal(err)
	}
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	d := pkcs15.KeyDescription{Kind: pkcs15.EC, Label: "second", ID: []byte{2}, Bits: 256, Reference: 2, Usage: pkcs15.DefaultUsage(pkcs15.EC)}
	write(t, card, schsm.DescriptionFile(2), d.Encode())
	write(t, card, schsm.CertificateFile(2), inv.at(1).certificate)
	s := mustRun(t, card, cat).Snapshot

	// Only the second is on the other token, elsewhere.
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	o := RestoreOptions{Keys: []byte{2}, At: map[byte]byte{2: 7}, Journal: cat.Journal()}
	p, err := MakePlan(ctx, spare, s, o)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Restore(ctx, spare, cat, p, o); err != nil || !r.Keys[0].OK {
		t.Fatalf("%+v, %v", r, err)
	}
	r := restoreAll(t, spare, cat, s)
	for i, want := range []struct {
		action Action
		at     byte
	}{{New, 1}, {Same, 7}} {
		if item := r.Plan.Items[i]; item.Action != want.action || item.Reference != want.at || !r.Keys[i].OK {
			t.Errorf("key %d: %s at %d (%s), %+v", i+1, item.Action, item.Reference, item.Reason, r.Keys[i])
		}
	}
	if !r.Complete() {
		t.Error("not complete")
	}
	// Named otherwise since: it is there, but not as it was.
	write(t, spare, schsm.DescriptionFile(7), (&pkcs15.KeyDescription{Kind: pkcs15.EC, Label: "third", ID: []byte{2}, Bits: 256, Reference: 2, Usage: 1}).Encode())
	if p, err := MakePlan(ctx, spare, s, RestoreOptions{}); err != nil || p.Items[1].Action != Conflict || !strings.Contains(p.Items[1].Reason, "as key 7") {
		t.Errorf("%+v, %v", p.Items, err)
	}
	// A key that is named twice is still one.
	if p, err := MakePlan(ctx, spare, s, RestoreOptions{Keys: []byte{1, 1}}); err != nil || len(p.Items) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// A description that belongs to nothing does not take the place of a key's.
func TestOrphanInPlaceOfKey(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	orphan := (&pkcs15.KeyDescription{Kind: pkcs15.RSA, Label: "orphan", ID: []byte{5}, Bits: 2048, Reference: 5, Usage: 1}).Encode()
	write(t, card, schsm.DescriptionFile(5), orphan)
	s := mustRun(t, card, cat).Snapshot
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	o := RestoreOptions{At: map[byte]byte{1: 5}, Journal: cat.Journal()}
	for range 2 {
		p, err := MakePlan(ctx, spare, s, o)
		if err != nil || p.Fits() || p.Files[0].Action != Conflict {
			t.Fatalf("%+v, %v", p, err)
		}
		r, err := Restore(ctx, spare, cat, p, o)
		if err != nil || !r.Keys[0].OK || r.Complete() {
			t.Fatalf("%+v, %v", r, err)
		}
		if inv, err := Take(ctx, spare); err != nil || inv.Keys[0].Label != "one" {
			t.Errorf("%+v, %v", inv.Keys, err)
		}
	}
	// Nor does it of one that was there before.
	_, other := newToken(t, "3.6", "SOFT0400002")
	initToken(t, other, cat, share)
	generate(t, other, 5, "P-256", "there before", []byte{5})
	r := restoreAll(t, other, cat, s)
	if inv, err := Take(ctx, other); err != nil || r.Complete() || !r.Keys[0].OK || inv.at(5).key.Label != "there before" {
		t.Errorf("%+v, %+v, %v", inv.Keys, r.Files, err)
	}
}

// A key that somebody made where an interrupted restore was about to is not
// taken for the restore's, whatever the journal says, and not deleted.
func TestJournalOfAnotherKey(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	aesKey(t, card, 1, "disk")
	s := mustRun(t, card, cat).Snapshot
	for name, blob := range map[string]store.Hash{"the same": store.HashOf(s.Keys[0].Blob), "another": {1}} {
		_, spare := newToken(t, "3.6", "SOFT0400001")
		initToken(t, spare, cat, share)
		r := restorer{serial: "SOFT0400001"}
		if err := cat.Journal().Put(r.note(1), restoreNote{s.ID, 1, blob}); err != nil {
			t.Fatal(err)
		}
		if err := spare.GenerateAES(ctx, 1, 256, []byte{0x10, 0x11, 0x92}); err != nil {
			t.Fatal(err)
		}
		report := restoreAll(t, spare, cat, s)
		if inv, err := Take(ctx, spare); err != nil || len(inv.Keys) != 1 || report.Keys[0].OK {
			t.Errorf("%s: %+v, %+v, %v", name, inv.Keys, report.Keys, err)
		}
		if err := cat.Journal().Delete(r.note(1)); err != nil {
			t.Fatal(err)
		}
	}
}
