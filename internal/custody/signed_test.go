package custody

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// handedOut makes a set with a MAC, in files.
func handedOut(t *testing.T, cat *store.Catalog) (*dkek.Key, *HandedOut, []*dkek.Part) {
	t.Helper()
	t.Chdir(t.TempDir())
	share := dkek.NewShare()
	r, said, err := handOut(t, aHandOut(shareKCV(t, share)), cat, share)
	if err != nil {
		t.Fatal(err, said)
	}
	var parts []*dkek.Part
	for _, p := range r.Custodians {
		text, part := partIn(t, p.File)
		if !strings.Contains(text, "\n# words of the set: "+r.Words+"\n") {
			t.Errorf("%s lacks the words %q:\n%s", p.File, r.Words, text)
		}
		parts = append(parts, part)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	return key, r, parts
}

// callAll calls the roll and records the answers of parts.
func callAll(t *testing.T, cat *store.Catalog, parts ...*dkek.Part) Place {
	t.Helper()
	call, err := Call(cat, new(nobody), cat.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if _, err := RecordAnswer(cat, p.Answer(call.challenge), nil, cat.Now()); err != nil {
			t.Fatal(err)
		}
	}
	return call.Place()
}

func anchored(t *testing.T, cat *store.Catalog, setWords string, key *dkek.Key) *backup.Verification {
	t.Helper()
	var list []string
	if setWords != "" {
		list = strings.Fields(setWords)
	}
	v, err := backup.Check(cat, nil, 0, func(v *backup.Verification, s *store.State) { Anchor(v, s, list, key) })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// As many custodians as bring the key together sign what lay there: an anchor
// where the words of the set or the recovery key vouch for their keys.
func TestCustodiansAnchor(t *testing.T) {
	cat := newCatalog(t)
	key, r, parts := handedOut(t, cat)
	place := callAll(t, cat, parts[2])
	if v := anchored(t, cat, r.Words, nil); v.Anchored != backup.NotAnchored || v.Unsigned == "" || len(v.Signed) != 0 {
		t.Errorf("one of two needed: %+v", v)
	}
	later := callAll(t, cat, parts[0], parts[2])
	if later.Entry <= place.Entry {
		t.Errorf("%v, then %v", place, later)
	}
	v := anchored(t, cat, "", nil)
	if v.Anchored != backup.NotAnchored || len(v.Signed) != 1 || !strings.HasSuffix(v.Signed[0], "by keys that only this catalog names") || v.Damaged() {
		t.Errorf("%+v", v)
	}
	if strings.Contains(v.Signed[0], "true") || !strings.Contains(v.Signed[0], "is what lay there on "+later.Day) {
		t.Errorf("%q", v.Signed)
	}
	for name, v := range map[string]*backup.Verification{"words": anchored(t, cat, r.Words, nil), "key": anchored(t, cat, "", key)} {
		if v.Anchored != backup.AnchoredCustodians || v.Damaged() || v.Unsigned != "" || v.Since < 2 {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := anchored(t, cat, "zoo zoo zoo zoo zoo zoo", nil); v.Anchored != backup.NotAnchored || !v.Damaged() {
		t.Errorf("words of no set: %+v", v)
	}
	other, err := dkek.Combine(dkek.NewShare())
	if err != nil {
		t.Fatal(err)
	}
	if v := anchored(t, cat, "", other); v.Anchored != backup.NotAnchored || v.Damaged() {
		t.Errorf("another recovery key: %+v", v)
	}
}

// An answer to a challenge of the first version signs no place: it is read, and
// counts as answered, and is no anchor.
func TestOldChallenge(t *testing.T) {
	const old = "hsmcall15zs69gay5kn2029f4246etdw4uqqq5tuprmdpz" // of 2027-02-11
	day := time.Date(2027, 2, 11, 12, 0, 0, 0, time.UTC)
	cat := catalogAt(t, func() time.Time { return day })
	_, r, parts := handedOut(t, cat)
	if err := cat.Journal().Put(callNotes+old, OpenCall{Challenge: old}); err != nil {
		t.Fatal(err)
	}
	c, err := dkek.ParseChallenge([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if _, err := RecordAnswer(cat, p.Answer(c), nil, day); err != nil {
			t.Fatal(err)
		}
	}
	// As an older program recorded it.
	if err := cat.Append(store.RollCall{Set: r.Set, Index: 1, Origin: "roll-call"}); err != nil {
		t.Fatal(err)
	}
	if s := Keepers(read(t, cat), day)[0]; s.Recent != 3 {
		t.Errorf("%+v", s)
	}
	if v := anchored(t, cat, r.Words, nil); v.Anchored != backup.NotAnchored || v.Unsigned == "" || v.Damaged() || len(v.Signed) != 0 {
		t.Errorf("%+v", v)
	}
	desk := new(nobody)
	o := Opener{Desk: desk}
	list, err := o.Answer(t.Context(), old, []Given{{File: r.Custodians[0].File}}, day)
	if err != nil || list[0].Entry != 0 || list[0].Head != "" || !strings.Contains(desk.said.String(), "names no entry") {
		t.Errorf("%+v, %v\n%s", list, err, desk.said.String())
	}
}

// What custodians sign must lie in the log, before the answer.
func TestSignedElsewhere(t *testing.T) {
	cat := newCatalog(t)
	_, r, parts := handedOut(t, cat)
	head := read(t, cat).Head
	challenge := func(entry uint64, hash store.Hash) *dkek.Challenge {
		c, err := dkek.NewChallenge(cat.Now(), entry, hash)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, c := range map[string]*dkek.Challenge{
		"another hash":  challenge(head.Seq, store.Hash{1}),
		"not there":     challenge(head.Seq+100, head.Hash),
		"another entry": challenge(head.Seq-1, head.Hash),
	} {
		if err := cat.Journal().Put(callNotes+c.Text(), OpenCall{Challenge: c.Text()}); err != nil {
			t.Fatal(err)
		}
		if _, err := RecordAnswer(cat, parts[0].Answer(c), nil, cat.Now()); codeOf(err) != "other-log" || !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := read(t, cat).Head; after.Seq != head.Seq {
		t.Errorf("%d entries were left", after.Seq-head.Seq)
	}
	// Written into the file all the same, they count for nothing, and are found.
	forged := newCatalog(t)
	for _, set := range read(t, cat).PartSets {
		if err := forged.Append(set); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range parts {
		c := challenge(head.Seq, head.Hash)
		answer := p.Answer(c).Text()
		if i == 2 {
			c = challenge(2, read(t, forged).Entries[1].Hash) // there, but not what was signed
		}
		if err := forged.Append(store.RollCall{Set: r.Set, Index: i + 1, Origin: "roll-call", Challenge: c.Text(), Answer: answer}); err != nil {
			t.Fatal(err)
		}
	}
	if v := anchored(t, forged, r.Words, nil); v.Anchored != backup.NotAnchored || len(v.Findings) != 3 {
		t.Errorf("%+v", v)
	}
	if s := Keepers(read(t, forged), forged.Now())[0]; s.Recent != 0 {
		t.Errorf("forged answers count: %+v", s)
	}
}

// A custodian's own clock must agree with the day of a challenge, within two days.
func TestAnswerOnAnotherDay(t *testing.T) {
	cat := newCatalog(t)
	_, r, _ := handedOut(t, cat)
	now := time.Date(2027, 3, 10, 23, 0, 0, 0, time.UTC)
	c, err := dkek.NewChallenge(now, 7, store.Hash{9})
	if err != nil {
		t.Fatal(err)
	}
	for days := -4; days <= 4; days++ {
		desk := new(nobody)
		o := Opener{Desk: desk}
		list, err := o.Answer(t.Context(), c.Text(), []Given{{File: r.Custodians[1].File}}, now.AddDate(0, 0, days))
		if days < -2 || days > 2 {
			if codeOf(err) != "other-day" || fail.ClassOf(err) != fail.Refused {
				t.Errorf("%d days off: %v", days, err)
			}
			continue
		}
		if err != nil || list[0].Entry != 7 || list[0].Day != "2027-03-10" || len(strings.Fields(list[0].Head)) != 6 {
			t.Errorf("%d days off: %+v, %v", days, list, err)
		}
		if said := desk.said.String(); !strings.Contains(said, "set "+r.Set+" answers a challenge of 2027-03-10, entry 7: "+list[0].Head) || !strings.Contains(said, "what lay there that day") {
			t.Errorf("%s", said)
		}
	}
}

// Nobody is asked to sign a catalog in which a check finds damage.
func TestNoCallOnDamage(t *testing.T) {
	dir := t.TempDir()
	cat := newCatalog(t)
	_, r, parts := handedOut(t, cat)
	state := read(t, cat)
	bad, err := dkek.NewChallenge(cat.Now(), 1, store.Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	// A copy that is damaged.
	copied := dir + "/copy.db"
	e, err := cat.CopyTo(copied)
	if err == nil {
		err = cat.Append(store.Copy{Path: copied, Seq: e.Seq, Head: e.Hash})
	}
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := bytes.ReplaceAll(whole, []byte(`"kind":"part-set"`), []byte(`"kind":"part-sex"`))
	if err := os.WriteFile(copied, spoilt, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, cat *store.Catalog) {
		t.Helper()
		if _, err := Call(cat, new(nobody), cat.Now()); codeOf(err) != "catalog-damaged" || fail.ClassOf(err) != fail.Damaged {
			t.Errorf("%s: a challenge: %v", name, err)
		}
		roll := &Roll{Cat: cat, Now: cat.Now(), Desk: new(nobody)}
		if _, _, err := roll.TakePart(parts[0]); codeOf(err) != "catalog-damaged" {
			t.Errorf("%s: a part at hand: %v", name, err)
		}
	}
	refused("a copy", cat)
	if err := os.WriteFile(copied, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Call(cat, new(nobody), cat.Now()); err != nil {
		t.Error(err)
	}
	// An answer that signs another log.
	forged := newCatalog(t)
	if err := errors.Join(forged.Append(state.PartSets[0]),
		forged.Append(store.RollCall{Set: r.Set, Index: 1, Origin: "roll-call", Challenge: bad.Text(), Answer: parts[0].Answer(bad).Text()})); err != nil {
		t.Fatal(err)
	}
	refused("an answer", forged)
}

// Issue 9, fault 12, of roll-calls: what was answered while the clock ran ahead is
// not of today for as long as the clock was ahead, and neither is the set new. An
// answer whose day the custodian signed keeps that day.
func TestFault12RollCall(t *testing.T) {
	const year = 365 * 24 * time.Hour
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	ahead := now
	cat := catalogAt(t, func() time.Time { return ahead })
	_, r, parts := handedOut(t, cat)
	call, err := Call(cat, new(nobody), now)
	if err != nil {
		t.Fatal(err)
	}
	ahead = now.Add(3 * year)
	if err := cat.Append(store.RollCall{Set: r.Set, Index: 1, Origin: "use"}); err != nil {
		t.Fatal(err)
	}
	if _, err := RecordAnswer(cat, parts[1].Answer(call.challenge), nil, now); err != nil {
		t.Fatal(err)
	}
	set := read(t, cat).PartSets[0]
	set.Set = "0000000f"
	if err := cat.Append(set); err != nil {
		t.Fatal(err)
	}
	keepers := func(at time.Time) []KeptSet {
		ahead = at
		state, err := cat.Reread()
		if err != nil {
			t.Fatal(err)
		}
		return Keepers(state, at)
	}
	look := func(at time.Time) KeptSet { return keepers(at)[0] }
	if s := look(now.Add(time.Minute)); s.Recent != 1 || !s.Keepers[0].Undated || !s.Keepers[0].Answered.IsZero() || s.Keepers[1].Answered.Format(time.DateOnly) != "2026-11-25" {
		t.Errorf("%+v", s)
	}
	if keepers(now.Add(year))[1].Fresh {
		t.Error("a set of the future is new for years")
	}
	ahead = now.Add(time.Hour) // the clock was set right
	if err := cat.Append(store.RollCall{Set: r.Set, Index: 3, Origin: "use"}); err != nil {
		t.Fatal(err)
	}
	if s := look(now.Add(3*year + time.Hour)); s.Recent != 0 || !s.Keepers[0].Undated {
		t.Errorf("years later it is of yesterday: %+v", s)
	}
}

// forge puts the commitments of somebody else's parts into the registration of a
// set, in a catalog that is whole otherwise.
func forge(t *testing.T, cat *store.Catalog, change func(*store.PartSet)) *store.Catalog {
	t.Helper()
	forged := newCatalog(t)
	for _, set := range read(t, cat).PartSets {
		set.Custodians = slices.Clone(set.Custodians)
		for i := range set.Custodians {
			set.Custodians[i].Commitment = bytes.Clone(set.Custodians[i].Commitment)
		}
		change(&set)
		if err := forged.Append(set); err != nil {
			t.Fatal(err)
		}
	}
	return forged
}

// Issue 9, fault 18: forged commitments made genuine parts "not the one that was
// handed out", with no way round. The parts tell by themselves that they are right;
// the catalog is damaged, and the job goes on.
func TestFault18ForgedCommitments(t *testing.T) {
	cat := newCatalog(t)
	key, r, _ := handedOut(t, cat)
	theirs := register(t, newCatalog(t), dkek.NewShare(), 2, "eve", "mallory", "trudy")
	for name, change := range map[string]func(*store.PartSet){
		"all commitments": func(s *store.PartSet) {
			for i := range s.Custodians {
				s.Custodians[i].Commitment = theirs[i].Commitment()
			}
		},
		"two swapped": func(s *store.PartSet) {
			s.Custodians[0].Commitment, s.Custodians[1].Commitment = s.Custodians[1].Commitment, s.Custodians[0].Commitment
		},
		"needed":      func(s *store.PartSet) { s.Needed = 3 },
		"another KCV": func(s *store.PartSet) { s.KCV = "0123456789ABCDEF" },
	} {
		forged := forge(t, cat, change)
		desk := new(nobody)
		o := &Opener{Desk: desk}
		m, err := o.Gather(t.Context(), forged, []Given{readGiven(r.Custodians[0].File), readGiven(r.Custodians[1].File)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, shares, err := m.OpenKey(t.Context(), forged)
		if err != nil || got.KCV() != key.KCV() {
			t.Fatalf("%s: %v", name, err)
		}
		got.Wipe()
		dkek.WipeShares(shares)
		m.Wipe()
		if said := desk.said.String(); !strings.Contains(said, "DAMAGED: part set "+r.Set) {
			t.Errorf("%s: nobody is told:\n%s", name, said)
		}
		if calls := read(t, forged).RollCalls; name == "all commitments" && len(calls) != 0 {
			t.Errorf("%s: %+v", name, calls)
		}
		// One part alone is good by its own checks, and the doubt is said.
		alone := new(nobody)
		c, _, err := (&Opener{Desk: alone}).Check(t.Context(), forged, []Given{readGiven(r.Custodians[0].File)})
		if err != nil || !c.Shares[0].OK || !strings.Contains(alone.said.String(), "this part or the catalog was changed") {
			t.Errorf("%s: %+v, %v\n%s", name, c, err, alone.said.String())
		}
		// Without parts, the recovery key still vouches for what was registered.
		if v := anchored(t, forged, "", key); name != "another KCV" && !v.Damaged() {
			t.Errorf("%s: the MAC fits: %+v", name, v)
		}
		if v := anchored(t, forged, r.Words, nil); !v.Damaged() || v.Anchored != backup.NotAnchored {
			t.Errorf("%s: the words fit: %+v", name, v)
		}
	}
	// The forger's own custodians answer: that is no anchor for anybody.
	forged := newCatalog(t)
	theirs = register(t, forged, dkek.NewShare(), 2, "alice", "bob", "carol")
	callAll(t, forged, theirs...)
	for _, v := range []*backup.Verification{anchored(t, forged, "", nil), anchored(t, forged, r.Words, nil), anchored(t, forged, "", key)} {
		if v.Anchored != backup.NotAnchored || len(v.Signed) != 1 || !strings.Contains(v.Signed[0], "by keys that only this catalog names") {
			t.Errorf("%+v", v)
		}
	}
}

// readGiven is a file with a part, read.
func readGiven(path string) Given {
	g := Given{File: path}
	g.read()
	return g
}

// An answer that names the very entry that it stands in, or a later one, was made
// up: nobody could sign it before it was there.
func TestSignedLater(t *testing.T) {
	cat := newCatalog(t)
	_, r, parts := handedOut(t, cat)
	state := read(t, cat)
	c, err := dkek.NewChallenge(cat.Now(), state.Head.Seq, state.Head.Hash)
	if err != nil {
		t.Fatal(err)
	}
	call := store.RollCall{Set: r.Set, Index: 1, Challenge: c.Text(), Answer: parts[0].Answer(c).Text()}
	for seq, good := range map[uint64]bool{state.Head.Seq - 1: false, state.Head.Seq: false, state.Head.Seq + 1: true} {
		call.Seq = seq
		if s, err := signed(state, &call); (err == nil) != good || (s != nil) != good {
			t.Errorf("as entry %d, of entry %d: %+v, %v", seq, c.Entry, s, err)
		}
	}
}
