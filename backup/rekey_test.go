package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/forge"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

func keyOf(t testing.TB, shares ...*dkek.Share) *dkek.Key {
	t.Helper()
	key, err := dkek.Combine(shares...)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func latest(t testing.TB, cat *store.Catalog) []*store.Snapshot {
	t.Helper()
	list := read(t, cat).Latest()
	return list
}

func rekey(t testing.TB, cat *store.Catalog, list []*store.Snapshot, from, to *dkek.Key) *RekeyReport {
	t.Helper()
	r, err := Rekey(context.Background(), cat, list, from, to, RekeyOptions{Program: "hsmbackup test", Why: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The whole life of a re-keyed backup: everything of the old snapshot is in the
// new one under the new recovery key, a token with the new one gets it back, and
// one with the old one is told what happened.
func TestRekey(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	oldShare, newShares := newShare(t, 1), []*dkek.Share{newShare(t, 50), newShare(t, 90)}
	initToken(t, card, cat, oldShare)
	generate(t, card, 1, "RSA-1024", "one", []byte{1})
	generate(t, card, 2, "brainpoolP256r1", "two", []byte{2})
	generateAES(t, card, 3, "three")
	if err := card.WriteFile(ctx, 0xCD01, []byte("only with the PIN")); err != nil {
		t.Fatal(err)
	}
	before, err := Run(ctx, card, cat, Options{})
	if err != nil || !before.Complete() {
		t.Fatalf("%+v, %v", before, err)
	}
	from, to := keyOf(t, oldShare), keyOf(t, newShares...)
	for i, kcv := range []string{"", from.KCV().String(), to.KCV().String()} {
		set := store.PartSet{Set: []string{"0000000d", "0000001d", "0000002d"}[i], Share: 1, Shares: 1, Needed: 2, KCV: kcv}
		for n, name := range []string{"alice", "bob"} {
			set.Custodians = append(set.Custodians, store.Custodian{Index: n + 1, Name: name, Commitment: make([]byte, 32)})
		}
		if err := cat.Append(set); err != nil {
			t.Fatal(err)
		}
	}

	if err := cat.Append(store.RetiredSet{Set: "0000000d", Reason: "of no KCV"}); err != nil {
		t.Fatal(err)
	}
	o := RekeyOptions{Shares: 2, Program: "hsmbackup test", Why: "routine"}
	r, err := Rekey(ctx, cat, latest(t, cat), from, to, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Snapshots) != 1 || !r.Snapshots[0].Done() || r.Snapshots[0].Before || r.OldKCV != from.KCV().String() || r.KCV != to.KCV().String() {
		t.Fatalf("%+v", r)
	}
	if len(r.Retired) != 0 || !slices.Equal(r.Kept, []string{"0000001d"}) || len(r.Holders) != 1 || r.Holders[0].Serial != "SOFT0200001" {
		t.Errorf("retired %q, kept %q for %v: the token has the old recovery key", r.Retired, r.Kept, r.Holders)
	}
	sets := read(t, cat).PartSets
	if !sets[1].Retired.IsZero() || !sets[2].Retired.IsZero() {
		t.Errorf("%+v, %v", sets, err)
	}
	stored, err := read(t, cat).Find("SOFT0200001")
	if err != nil {
		t.Fatal(err)
	}
	if stored.Hash != r.Snapshots[0].New.Hash || stored.Rekeyed == nil || stored.Rekeyed.From != before.Snapshot.Hash || !stored.Taken.Equal(before.Snapshot.Taken) {
		t.Errorf("%+v", stored.Rekeyed)
	}
	if d := stored.Token.Domains; len(d) != 1 || d[0].KCV != r.KCV || d[0].Shares != 2 {
		t.Errorf("%+v", d)
	}
	for i, k := range stored.Keys {
		was := before.Snapshot.Keys[i]
		if bytes.Equal(k.Blob, was.Blob) || k.KCV != r.KCV || !openStored(&k, to).OK || openStored(&k, from).OK {
			t.Errorf("key %d is not under the new recovery key", k.Reference)
		}
		if k.Label != was.Label || !bytes.Equal(k.PublicKey, was.PublicKey) || !bytes.Equal(k.Description, was.Description) || !bytes.Equal(k.Certificate, was.Certificate) || !bytes.Equal(k.CheckValue, was.CheckValue) {
			t.Errorf("key %d is not what it was", k.Reference)
		}
	}
	if d := Diff(before.Snapshot, stored); len(d) == 0 {
		t.Error("no difference is shown, not even the recovery key")
	}
	for _, f := range stored.Files {
		content, err := to.OpenData(f.Content)
		if !f.Sealed || err != nil || string(content) != "only with the PIN" {
			t.Errorf("file %s: %q, %v", f.FID, content, err)
		}
	}
	if old, err := read(t, cat).Find(before.Snapshot.ID); err != nil || old.Rekeyed != nil || !bytes.Equal(old.Keys[0].Blob, before.Snapshot.Keys[0].Blob) {
		t.Errorf("the old snapshot: %+v, %v", old, err)
	}
	if v, err := VerifyOffline(ctx, cat, latest(t, cat), to, Options{}); err != nil || !v.OK() || v.Anchored != NotAnchored || v.NewAnchor == 0 {
		t.Errorf("%+v, %v", v, err)
	}
	if a := agesOf(t, cat); a.Keys[Unasked] != 3 || a.Proof.IsZero() || a.ShareSeen.IsZero() {
		t.Errorf("%+v", a)
	}

	// A second run finds it all done.
	for _, list := range [][]*store.Snapshot{latest(t, cat), {before.Snapshot}, {before.Snapshot, stored}} {
		again, err := Rekey(ctx, cat, list, from, to, o)
		if err != nil || len(again.Snapshots) != 1 || !again.Snapshots[0].Before || !again.Snapshots[0].Done() || again.Snapshots[0].New.Hash != stored.Hash {
			t.Errorf("%+v, %v", again, err)
		}
	}
	all := read(t, cat).Snapshots
	if len(all) != 2 {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
	if proofs := read(t, cat).Proofs; len(proofs) != 9 { // round trip, opened by Rekey, by VerifyOffline
		t.Errorf("%d proofs, %v", len(proofs), err)
	}

	// A fresh token with the new recovery key.
	_, spare := newToken(t, "3.6", "SOFT0400001")
	if _, _, err := Initialise(ctx, spare, cat, SetUp{
		Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 2, Load: newShares}}, Trust: Trust{SoftFile: true}, Origin: "restore",
	}); err != nil {
		t.Fatal(err)
	}
	open, done := DataOpener(stored.Token.Domains, newShares)
	defer done()
	options := RestoreOptions{OpenData: open}
	p, err := MakePlan(ctx, spare, stored, options)
	if err != nil {
		t.Fatal(err)
	}
	if report, err := Restore(ctx, spare, cat, p, options); err != nil || !report.Complete() {
		t.Errorf("%+v, %v", report, err)
	}
	inv, err := Take(ctx, spare)
	if err != nil {
		t.Fatal(err)
	}
	if keys := coverageOf(t, spare, cat); keys[0].Coverage != Missing {
		t.Errorf("a snapshot of another token is none of this one: %+v", keys)
	}
	if b := BehindRekey(inv, read(t, cat)); b != nil {
		t.Errorf("%+v, %v", b, err)
	}

	// Another one with the old recovery key.
	_, old := newToken(t, "3.5", "SOFT0200009")
	initToken(t, old, cat, oldShare)
	p, err = MakePlan(ctx, old, stored, RestoreOptions{})
	if err != nil || len(p.Problems) != 1 || p.Problems[0].Code != "kcv-mismatch" ||
		!strings.Contains(p.Problems[0].Message, "the backup was re-keyed on "+time.Now().UTC().Format(time.DateOnly)+": its keys are under the recovery key "+r.KCV+", the token still has the old one, "+r.OldKCV) ||
		!strings.Contains(p.Problems[0].Hint, "--from "+before.Snapshot.ID) {
		t.Errorf("%+v, %v", p.Problems, err)
	}

	// The token itself: covered as before, behind, and a backup of it is under
	// the old recovery key again.
	if inv, err = Take(ctx, card); err != nil {
		t.Fatal(err)
	}
	if keys := coverageOf(t, card, cat); !Complete(keys) {
		t.Errorf("%+v, %v", keys, err)
	}
	if b := BehindRekey(inv, read(t, cat)); b == nil || !b.Newest || b.Snapshot.Hash != stored.Hash {
		t.Errorf("%+v, %v", b, err)
	}
	// It may be wiped for the new one, whose shares are at hand; not for any other.
	if err := guardWipe(t, card, cat, newShares...); err != nil {
		t.Errorf("%v", err)
	}
	refusedWith(t, "with other shares", "not-covered", guardWipe(t, card, cat, newShare(t, 7)))
	if s := AsBackedUp(read(t, cat), inv, stored); s.Hash != before.Snapshot.Hash {
		t.Errorf("%+v, %v", s, err)
	}
	if v, err := VerifyRoundTrip(ctx, card, cat, []*store.Snapshot{stored}, Options{}); err != nil || v.OK() || v.Damaged() || !strings.Contains(v.Snapshots[0].Keys[0].Reason, "re-keyed on") {
		t.Errorf("%+v, %v", v, err)
	}
	after, err := Run(ctx, card, cat, Options{})
	if err != nil || !after.Complete() || after.Behind == nil || after.Behind.Newest || after.Snapshot.Keys[0].KCV != r.OldKCV {
		t.Errorf("%+v, %v", after, err)
	}
	if s := latest(t, cat); s[0].Hash != after.Snapshot.Hash {
		t.Error("the newest backup is not the newest snapshot")
	}
	if s := Under(read(t, cat), "SOFT0200001", r.KCV); s.Hash != stored.Hash {
		t.Errorf("%+v, %v", s, err)
	}
	// Back to the old one, and the token is not behind any more.
	if back := rekey(t, cat, []*store.Snapshot{stored}, to, from); !back.Snapshots[0].Done() {
		t.Errorf("%+v", back)
	}
}

// What cannot be re-keyed is named, and left out where it was under the old
// recovery key; the old snapshot has it still.
func TestRekeyLeaves(t *testing.T) {
	ctx := context.Background()
	cat, good, from := twoKeys(t)
	to, third := keyOf(t, newShare(t, 50)), keyOf(t, newShare(t, 120))
	s := cloneKeys(good)
	s.Keys = append(s.Keys, cloneKeys(good).Keys...)
	s.Keys = append(s.Keys, cloneKeys(good).Keys...)
	for i := range s.Keys {
		s.Keys[i].Reference = i + 1
	}
	s.Token.Serial = "SOFT0200002"
	s.Keys[1].Blob = withConditions(t, from, s.Keys[1].Blob)
	s.Keys[2].Blob[100] ^= 1
	s.Keys[3].Blob, s.Keys[3].KCV = seal(t, third, openBlob(t, from, s.Keys[3].Blob)), third.KCV().String()
	s.Keys[4].Blob, s.Keys[4].Reason, s.Keys[4].KCV = nil, reasonXKEK, ""
	s.Keys[5].Blob = s.Keys[0].Blob // of another key
	sealed := func(key *dkek.Key, content string) []byte {
		recipient, err := key.Recipient()
		if err != nil {
			t.Fatal(err)
		}
		b, err := dkek.SealData(recipient, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	broken := sealed(from, "broken")
	broken[len(broken)-1] ^= 1
	s.Files = []store.File{{FID: "ca01", Content: []byte("open")}, {FID: "cd01", Content: sealed(from, "ours"), Sealed: true},
		{FID: "cd02", Content: sealed(third, "not ours"), Sealed: true}, {FID: "cd03", Content: broken, Sealed: true}}
	if err := cat.AddSnapshot(ctx, s); err != nil {
		t.Fatal(err)
	}
	r := rekey(t, cat, []*store.Snapshot{s}, from, to)
	got := r.Snapshots[0]
	for i, c := range []struct {
		ok, damage, blob bool
		kcv, says        string
	}{
		{true, false, true, r.KCV, ""},
		{false, false, false, r.KCV, "access conditions"},
		{false, true, false, r.KCV, "authentication code does not fit"},
		{false, false, true, third.KCV().String(), "under the recovery key " + third.KCV().String()},
		{false, false, false, "", "not exported: XKEK"},
		{false, true, false, r.KCV, "the blob holds"},
	} {
		p, k := got.Keys[i], got.New.Keys[i]
		if p.OK != c.ok || p.Damage != c.damage || !strings.Contains(p.Reason, c.says) || (len(k.Blob) > 0) != c.blob || k.KCV != c.kcv {
			t.Errorf("key %d: %+v, stored under %q with a blob of %d bytes, reason %q", i+1, p, k.KCV, len(k.Blob), k.Reason)
		}
		if !c.blob && c.kcv != "" && !strings.Contains(k.Reason, "not re-keyed from snapshot "+s.ID) {
			t.Errorf("key %d: %q", i+1, k.Reason)
		}
	}
	if got.Done() || len(got.Left) != 2 || len(got.New.Files) != 3 || len(r.Retired) != 0 {
		t.Errorf("%+v, files %+v", got.Left, got.New.Files)
	}
	if content, err := to.OpenData(got.New.Files[1].Content); err != nil || string(content) != "ours" {
		t.Errorf("%q, %v", content, err)
	}
	if content, err := third.OpenData(got.New.Files[2].Content); err != nil || string(content) != "not ours" {
		t.Errorf("%q, %v", content, err)
	}
	// Run again, it says the same and adds nothing.
	again := rekey(t, cat, latest(t, cat), from, to)
	for _, x := range again.Snapshots {
		if x.From.Token.Serial == s.Token.Serial && (!x.Before || x.New.Hash != got.New.Hash || x.Done() || x.Keys[1].OK) {
			t.Errorf("%+v", x)
		}
	}

	// Nothing at all under these shares: nothing is recorded.
	head := read(t, cat).Head
	none := rekey(t, cat, []*store.Snapshot{good}, keyOf(t, newShare(t, 200)), to)
	if after := read(t, cat).Head; after.Seq != head.Seq || none.Any() || none.Snapshots[0].New != nil || none.Snapshots[0].Keys[0].OK {
		t.Errorf("%+v", none)
	}
	if _, err := Rekey(ctx, cat, latest(t, cat), from, from, RekeyOptions{}); codeOf(err) != "same-key" {
		t.Errorf("%v", err)
	}
}

// withConditions gives a blob access conditions of its own, as no token seen
// writes them, with a good authentication code.
func withConditions(t testing.TB, key *dkek.Key, blob []byte) []byte {
	t.Helper()
	b, err := dkek.ParseBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	out := append(b.KCV[:], byte(b.Type))
	for _, field := range [][]byte{b.Algorithm, b.Algorithms, {1, 2, 3}, nil} {
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(field))), field...)
	}
	out = append(out, b.Ciphertext...)
	mac := sha256.Sum256(append(bytes.Clone(key.Bytes()), 0, 0, 0, 2))
	sum, err := cmac.Sum(mac[:], out)
	if err != nil {
		t.Fatal(err)
	}
	return append(out, sum[:]...)
}

// Damage that can be made up for is: what is lost beside a blob comes back from
// the blob.
func TestRekeyMakesUp(t *testing.T) {
	_, good, from := twoKeys(t)
	to := keyOf(t, newShare(t, 50))
	j := rekeying{from: from, to: to, oldKCV: from.KCV().String(), kcv: to.KCV().String()}
	for name, spoil := range map[string]func(k *store.Key){
		"public key":                 func(k *store.Key) { k.PublicKey = nil },
		"certificate":                func(k *store.Key) { k.Certificate = nil },
		"description":                func(k *store.Key) { k.Description = nil },
		"certificate and public key": func(k *store.Key) { k.Certificate, k.PublicKey = nil, nil },
	} {
		k := cloneKeys(good).Keys[0]
		public := bytes.Clone(k.PublicKey)
		spoil(&k)
		k.Damage = name + ": test"
		next, p := j.key(good, k)
		if !p.OK || !bytes.Equal(next.PublicKey, public) || next.Damage != "" || !openStored(&next, to).OK {
			t.Errorf("%s: %+v", name, p)
		}
	}
	k := cloneKeys(good).Keys[0]
	k.Blob, k.Damage = nil, "blob: test"
	if next, p := j.key(good, k); p.OK || !p.Damage || next.Reason == "" {
		t.Errorf("%+v", p)
	}
}

// ending is a context that ends after so many looks at it.
type ending struct {
	context.Context
	left int
}

func (e *ending) Err() error {
	if e.left--; e.left < 0 {
		return context.Canceled
	}
	return nil
}

// Interrupted anywhere, it is run again and finishes: one new snapshot for each,
// each key proven.
func TestRekeyInterrupted(t *testing.T) {
	points := 0
	for n := 0; ; n++ {
		cat, _, from := twoKeys(t)
		_, card := newToken(t, "3.5", "SOFT0200002")
		initToken(t, card, cat, newShare(t, 1))
		generate(t, card, 1, "P-256", "three", []byte{1})
		if _, err := Run(context.Background(), card, cat, Options{}); err != nil {
			t.Fatal(err)
		}
		to := keyOf(t, newShare(t, 50))
		names := latest(t, cat)
		_, err := Rekey(&ending{context.Background(), n}, cat, names, from, to, RekeyOptions{})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d looks: %v", n, err)
		}
		if all := read(t, cat).Snapshots; len(all) > 2 && err != nil && fail.ClassOf(err) != fail.Changed {
			t.Errorf("after %d looks: %d snapshots, %v", n, len(all), err)
		}
		r := rekey(t, cat, latest(t, cat), from, to)
		all := read(t, cat).Snapshots
		if len(all) != 4 || len(r.Snapshots) != 2 || !r.Snapshots[0].Done() || !r.Snapshots[1].Done() {
			t.Errorf("after %d looks and again: %d snapshots, %+v", n, len(all), r)
		}
		v, verifyErr := VerifyOffline(context.Background(), cat, latest(t, cat), to, Options{})
		if verifyErr != nil || !v.OK() {
			t.Errorf("after %d looks: %+v, %v", n, v, verifyErr)
		}
		if err == nil {
			break
		}
		points++
	}
	if points < 5 {
		t.Errorf("interrupted at %d places only", points)
	}
}

// One of several key domains: the others keep what they have.
func TestRekeyOneDomain(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	a, b, next := newShare(t, 1), newShare(t, 50), newShare(t, 100)
	if _, _, err := Initialise(ctx, card, cat, SetUp{
		Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: 2},
		Sets:           []DomainSet{{Number: 0, Shares: 1, Load: []*dkek.Share{a}}, {Number: 1, Shares: 1, Load: []*dkek.Share{b}}},
		Trust:          Trust{SoftFile: true}, Origin: "init",
	}); err != nil {
		t.Fatal(err)
	}
	generateIn(t, card, 1, 0, "zero")
	generateIn(t, card, 2, 1, "one")
	was, err := Run(ctx, card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := rekey(t, cat, latest(t, cat), keyOf(t, a), keyOf(t, next))
	s := r.Snapshots[0]
	if s.Done() || !s.Keys[0].OK || s.Keys[1].OK || !bytes.Equal(s.New.Keys[1].Blob, was.Snapshot.Keys[1].Blob) {
		t.Fatalf("%+v", s)
	}
	if d := s.New.Token.Domains; d[0].KCV != r.KCV || d[1].KCV != keyOf(t, b).KCV().String() {
		t.Errorf("%+v", d)
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	sets, err := SetsFor(s.New, []*dkek.Share{b, next})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Initialise(ctx, spare, cat, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: 2}, Sets: sets, Trust: Trust{SoftFile: true}, Origin: "restore"}); err != nil {
		t.Fatal(err)
	}
	if report := restoreAll(t, spare, cat, s.New); !report.Complete() {
		t.Errorf("%+v", report.Keys)
	}
}

// What was made of an older snapshot does not take the newest one's place, and
// an adopted one's does take its own.
func TestRekeyedOrder(t *testing.T) {
	ctx := context.Background()
	cat, first, from := twoKeys(t)
	add := func(change func(s *store.Snapshot)) *store.Snapshot {
		t.Helper()
		s := cloneKeys(first)
		change(s)
		if err := cat.AddSnapshot(ctx, s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	second := add(func(s *store.Snapshot) { s.Keys = s.Keys[:1] })
	adopted := add(func(s *store.Snapshot) { s.Adopted, s.Token, s.Keys = true, store.Token{}, s.Keys[1:] })
	to := keyOf(t, newShare(t, 50))
	rekey(t, cat, []*store.Snapshot{first}, from, to)
	if s, err := read(t, cat).Find("SOFT0200001"); err != nil || s.Hash != second.Hash {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := read(t, cat).Find("latest"); err != nil || s.Hash != adopted.Hash {
		t.Errorf("%+v, %v", s, err)
	}
	r := rekey(t, cat, latest(t, cat), from, to)
	if len(r.Snapshots) != 2 || r.Snapshots[0].From.Hash != second.Hash || r.Snapshots[1].From.Hash != adopted.Hash || !r.Snapshots[1].New.Adopted {
		t.Fatalf("%+v", r)
	}
	list := latest(t, cat)
	if len(list) != 2 || list[0].Hash != r.Snapshots[0].New.Hash || list[1].Hash != r.Snapshots[1].New.Hash {
		t.Errorf("%+v", list)
	}
	if s, err := read(t, cat).Find("SOFT0200001"); err != nil || s.Hash != r.Snapshots[0].New.Hash {
		t.Errorf("%+v, %v", s, err)
	}
}

// Nothing is built upon a catalog that was changed since it was anchored.
func TestRekeyWantsTheAnchor(t *testing.T) {
	cat, s, from := twoKeys(t)
	cat = reopened(t, cat, func(c *forge.Catalog) { c.Anchors[from.KCV().String()]["mac"] = forge.Hash([]byte("of somebody else")) })
	if _, err := Rekey(context.Background(), cat, []*store.Snapshot{s}, from, keyOf(t, newShare(t, 50)), RekeyOptions{}); fail.ClassOf(err) != fail.Damaged {
		t.Errorf("%v", err)
	}
}

func codeOf(err error) string {
	var e *fail.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Issue 9, fault 11: `dkek rekey` called the set of the old recovery key retired,
// "nothing needs it any more", while tokens still had that key: whoever then
// destroyed the parts lost the next key that such a token made. It stays in use
// until no token has it, or may have it, and the tokens are named.
func TestFault11RetiredWhileTokensHaveTheKey(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	oldShare, anotherShare := newShare(t, 1), newShare(t, 50)
	from, to := keyOf(t, oldShare), keyOf(t, anotherShare)
	cards := map[string]*schsm.Card{}
	for i, serial := range []string{"SOFT0200001", "SOFT0200002"} {
		_, card := newToken(t, "3.5", serial)
		initToken(t, card, cat, oldShare)
		generate(t, card, 1, "prime256v1", "key", []byte{byte(i)})
		if r, err := Run(ctx, card, cat, Options{}); err != nil || !r.Complete() {
			t.Fatalf("%+v, %v", r, err)
		}
		cards[serial] = card
	}
	set := store.PartSet{Set: "0000001d", Share: 1, Shares: 1, Needed: 2, KCV: from.KCV().String()}
	for n, name := range []string{"alice", "bob"} {
		set.Custodians = append(set.Custodians, store.Custodian{Index: n + 1, Name: name, Commitment: make([]byte, 32)})
	}
	if err := cat.Append(set); err != nil {
		t.Fatal(err)
	}
	again := func(step string, want ...string) {
		t.Helper()
		r := rekey(t, cat, latest(t, cat), from, to)
		var got []string
		for _, h := range r.Holders {
			got = append(got, h.Serial)
		}
		slices.Sort(got)
		kept, retired := []string{set.Set}, []string(nil)
		if len(want) == 0 {
			kept, retired = nil, []string{set.Set}
		}
		if !slices.Equal(got, want) || !slices.Equal(r.Kept, kept) || !slices.Equal(r.Retired, retired) {
			t.Fatalf("%s: still had by %q, want %q; kept %q, retired %q: %v", step, got, want, r.Kept, r.Retired, r.Holders)
		}
		if after := read(t, cat).PartSets[0]; after.Retired.IsZero() != (len(want) > 0) {
			t.Fatalf("%s: retired %v", step, after.Retired)
		}
	}
	again("re-keyed", "SOFT0200001", "SOFT0200002")
	// The fault itself: a new key, made under the old recovery key.
	generate(t, cards["SOFT0200001"], 2, "prime256v1", "next", []byte{9})
	if _, err := Run(ctx, cards["SOFT0200001"], cat, Options{}); err != nil {
		t.Fatal(err)
	}
	again("with a new key", "SOFT0200001", "SOFT0200002")
	anew := func(serial string) {
		t.Helper()
		card := cards[serial]
		newest := read(t, cat).Newest(serial)
		initToken(t, card, cat, anotherShare)
		if r := restoreAll(t, card, cat, newest); !r.Complete() {
			t.Fatalf("%+v", r)
		}
		if r, err := Run(ctx, card, cat, Options{}); err != nil || !r.Complete() {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	anew("SOFT0200001")
	again("one token is set up anew", "SOFT0200002")
	// One that waits for shares may get the old ones.
	if err := cat.Append(store.Ceremony{Job: "init", Token: "SOFT0200003", Outcome: "1 share of 1 missing"}); err != nil {
		t.Fatal(err)
	}
	anew("SOFT0200002")
	again("one waits for shares", "SOFT0200003")
	if err := cat.Append(store.Ceremony{Job: "load", Token: "SOFT0200003", KCV: from.KCV().String(), Outcome: "done"}); err != nil {
		t.Fatal(err)
	}
	again("it got the old ones", "SOFT0200003")
	if err := cat.Append(store.Ceremony{Job: "init", Token: "SOFT0200003", KCV: to.KCV().String(), Outcome: "done"}); err != nil {
		t.Fatal(err)
	}
	again("no token has it")
}
