package custody

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// newCatalog makes one that must be whole when the test ends.
func newCatalog(t testing.TB) *store.Catalog {
	t.Helper()
	return catalogAt(t, time.Now)
}

// catalogAt is newCatalog with a clock.
func catalogAt(t testing.TB, now func() time.Time) *store.Catalog {
	t.Helper()
	cat, err := store.Create(filepath.Join(t.TempDir(), "c.db"), store.Clock(now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if findings, err := cat.Verify(); err != nil || len(findings) > 0 {
			t.Errorf("the catalog is damaged: %v, %v", findings, err)
		}
		_ = cat.Close()
	})
	return cat
}

// register splits a share and registers its parts.
func register(t testing.TB, cat *store.Catalog, share *dkek.Share, needed int, names ...string) []*dkek.Part {
	t.Helper()
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: needed, Total: len(names)})
	if err != nil {
		t.Fatal(err)
	}
	set := store.PartSet{Set: parts[0].Set, Share: 1, Shares: 1, Needed: needed}
	for i, p := range parts {
		set.Custodians = append(set.Custodians, store.Custodian{Index: i + 1, Name: names[i], Commitment: p.Commitment()})
	}
	if err := cat.Append(set); err != nil {
		t.Fatal(err)
	}
	return parts
}

func codeOf(err error) string {
	var e *fail.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// One more than needed, and never more than there are, must have answered
// within a year, in whatever way.
func TestKeepers(t *testing.T) {
	cat := newCatalog(t)
	now := time.Now()
	if sets := Keepers(read(t, nil), now); len(sets) != 0 {
		t.Errorf("%+v", sets)
	}
	for _, c := range []struct {
		needed, total, wanted int
	}{{2, 2, 2}, {2, 3, 3}, {3, 5, 4}, {5, 5, 5}} {
		names := strings.Fields("a b c d e")[:c.total]
		parts := register(t, cat, dkek.NewShare(), c.needed, names...)
		look := func(at time.Time) KeptSet {
			t.Helper()
			sets := Keepers(read(t, cat), at)
			return sets[len(sets)-1]
		}
		for i := range c.wanted {
			if s := look(now); s.Wanted != c.wanted || s.Recent != i || !s.AtRisk() || s.Stale() || !look(now.Add(handOutTime+time.Hour)).Stale() {
				t.Errorf("%d of %d after %d answers: %+v", c.needed, c.total, i, s)
			}
			// The last ones first, and one of them twice.
			for range 1 + i%2 {
				if err := cat.Append(store.RollCall{Set: parts[0].Set, Index: c.total - i, Origin: "hand-out"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if s := look(now); s.Recent != c.wanted || s.AtRisk() || s.Keepers[c.total-1].Origin != "hand-out" {
			t.Errorf("%d of %d: %+v", c.needed, c.total, s)
		}
		if s := look(now.Add(answerGood - time.Hour)); s.AtRisk() {
			t.Error("a year is not over yet")
		}
		if s := look(now.Add(answerGood + time.Hour)); !s.AtRisk() || !s.Stale() || s.Recent != 0 {
			t.Error("a year is over")
		}
		if err := cat.Append(store.RetiredSet{Set: parts[0].Set, Reason: "test"}); err != nil {
			t.Fatal(err)
		}
		if s := look(now.Add(2 * answerGood)); s.AtRisk() || s.InUse() {
			t.Error("nobody is called of a retired set")
		}
	}
}

// An answer counts if it was made to a challenge of this catalog, with the part
// that was given out; all others are refused, by what is wrong with them, and
// leave nothing.
func TestRecordAnswer(t *testing.T) {
	cat := newCatalog(t)
	now := time.Now()
	parts := register(t, cat, dkek.NewShare(), 2, "alice", "bob", "carol")
	stranger := register(t, newCatalog(t), dkek.NewShare(), 2, "alice", "bob")[0]
	call, err := Call(cat, new(nobody), now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newCall(read(t, cat), now)
	if err != nil {
		t.Fatal(err)
	}
	// The same part with another content: what a custodian who lost theirs might
	// make up.
	forged := register(t, newCatalog(t), dkek.NewShare(), 2, "alice", "bob", "carol")[1].Answer(call.challenge)
	forged.Set = parts[1].Set
	head := read(t, cat).Head
	for _, c := range []struct {
		name, code string
		answer     *dkek.Answer
		only       []string
		at         time.Time
	}{
		{"another challenge", "wrong-answer", parts[1].Answer(other.challenge), nil, now},
		{"another set", "unknown-set", stranger.Answer(call.challenge), nil, now},
		{"another custodian", "other-custodian", parts[0].Answer(call.challenge), []string{"bob", "carol"}, now},
		{"a signature of another key", "wrong-answer", forged, nil, now},
		{"too late", "challenge-expired", parts[1].Answer(call.challenge), nil, now.Add(challengeGood + 24*time.Hour)},
	} {
		if got, err := RecordAnswer(cat, c.answer, c.only, c.at); codeOf(err) != c.code {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	if after := read(t, cat).Head; after.Seq != head.Seq {
		t.Errorf("refused answers left %d entries, %v", after.Seq-head.Seq, err)
	}
	answer := parts[1].Answer(call.challenge)
	for i, before := range []bool{false, true, true} {
		got, err := RecordAnswer(cat, answer, []string{"bob"}, now.Add(29*24*time.Hour))
		if err != nil || got.Before != before || got.Keeper.Name != "bob" {
			t.Errorf("time %d: %+v, %v", i, got, err)
		}
	}
	calls := read(t, cat).RollCalls
	if len(calls) != 1 || calls[0].Index != 2 || calls[0].Origin != "roll-call" {
		t.Errorf("%+v, %v", calls, err)
	}
	// A later challenge does not end the one before.
	if _, err := Call(cat, new(nobody), now); err != nil {
		t.Fatal(err)
	}
	if _, err := RecordAnswer(cat, parts[2].Answer(call.challenge), nil, now); err != nil {
		t.Error(err)
	}
	if err := cat.Append(store.RetiredSet{Set: parts[0].Set, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := RecordAnswer(cat, parts[0].Answer(call.challenge), nil, now); codeOf(err) != "retired-set" {
		t.Errorf("%v", err)
	}
	// Long past, they are forgotten.
	if _, err := Call(cat, new(nobody), now.Add(challengeKept+48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if open, err := openCalls(cat); err != nil || len(open) != 1 {
		t.Errorf("%d challenges, %v", len(open), err)
	}
}

func TestAnswerWith(t *testing.T) {
	cat := newCatalog(t)
	now := time.Now()
	parts := register(t, cat, dkek.NewShare(), 2, "alice", "bob")
	if got, err := AnswerWith(cat, parts[0], nil, now); err != nil || got.Keeper.Name != "alice" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := AnswerWith(cat, parts[0], []string{"bob"}, now); codeOf(err) != "other-custodian" {
		t.Errorf("%v", err)
	}
	// A part that is not what was registered under its name.
	replaced := newCatalog(t)
	set := read(t, cat).PartSets
	set[0].Custodians[0].Commitment = set[0].Custodians[1].Commitment
	if err := replaced.Append(set[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := AnswerWith(replaced, parts[0], nil, now); codeOf(err) != "wrong-part" {
		t.Errorf("%v", err)
	}
	if calls := read(t, replaced).RollCalls; len(calls) != 0 {
		t.Errorf("%+v", calls)
	}
}

func TestCalled(t *testing.T) {
	kept := func(set string, retired bool, names ...string) KeptSet {
		s := KeptSet{PartSet: store.PartSet{Set: set}}
		for _, n := range names {
			s.Keepers = append(s.Keepers, Keeper{Custodian: store.Custodian{Name: n}})
		}
		if retired {
			s.Retired = time.Unix(1, 0)
		}
		return s
	}
	sets := []KeptSet{kept("old", true, "alice", "zoe"), kept("one", false, "alice", "bob"), kept("two", false, "alice", "carol")}
	for _, c := range []struct {
		names      string
		want, code string
	}{{"", "one two", ""}, {"alice", "one two", ""}, {"carol", "two", ""}, {"bob carol", "one two", ""}, {"zoe", "", "unknown-custodian"}, {"bob dave", "", "unknown-custodian"}} {
		list, err := Called(sets, strings.Fields(c.names))
		var got []string
		for _, s := range list {
			got = append(got, s.Set)
		}
		if strings.Join(got, " ") != c.want || codeOf(err) != c.code {
			t.Errorf("%q: %q, %v", c.names, got, err)
		}
	}
	if _, err := Called(sets[:1], nil); codeOf(err) != "no-parts" {
		t.Errorf("%v", err)
	}
}

// One more than needed must have answered, of a set in use for a recovery key of
// the snapshot.
func TestLastCall(t *testing.T) {
	cat := newCatalog(t)
	const kcv = "0123456789ABCDEF"
	set := store.PartSet{Set: "00c0ffee", Share: 1, Shares: 1, Needed: 2, KCV: kcv}
	for i, name := range []string{"alice", "bob", "carol", "dave"} {
		set.Custodians = append(set.Custodians, store.Custodian{Index: i + 1, Name: name, Commitment: make([]byte, 32)})
	}
	if err := cat.Append(set); err != nil {
		t.Fatal(err)
	}
	look := func(kcv store.KCV) (time.Time, bool) {
		t.Helper()
		return LastCall(&store.Snapshot{Keys: []store.Key{{KCV: kcv}}}, InUse(read(t, cat), time.Now()))
	}
	for i, index := range []int{1, 1, 3, 4} {
		if err := cat.Append(store.RollCall{Set: set.Set, Index: index, Origin: "roll-call"}); err != nil {
			t.Fatal(err)
		}
		if last, any := look(kcv); !any || last.IsZero() != (i < 3) {
			t.Errorf("after %d answers: %s, %v", i+1, last, any)
		}
	}
	if _, any := look("FEDCBA9876543210"); any {
		t.Error("a set of another recovery key counts")
	}
	if err := cat.Append(store.RetiredSet{Set: set.Set, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, any := look(kcv); any {
		t.Error("a retired set counts")
	}
}

// read gives what a catalog says.
func read(t testing.TB, cat *store.Catalog) *store.State {
	t.Helper()
	s, err := cat.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}
