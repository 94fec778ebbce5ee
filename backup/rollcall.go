package backup

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/store"
)

// The times of a roll-call.
const (
	// ChallengeGood is how long answers to a challenge are taken, from the day on
	// that it carries.
	ChallengeGood = 30 * 24 * time.Hour
	// AnswerGood is how long an answer shows that a part is still there.
	AnswerGood = 365 * 24 * time.Hour
	// handOutTime is how long the custodians of a new set have to show that they
	// got their parts, before it counts as neglected.
	handOutTime = 30 * 24 * time.Hour
	// A challenge is remembered for longer than it is good, so that a late answer
	// is told from a wrong one.
	challengeKept = 400 * 24 * time.Hour
)

// Keeper is a custodian with when they last showed to have the part: when it was
// handed out, at a roll-call, when it was used. A zero time is never.
type Keeper struct {
	store.Custodian
	Answered time.Time
	Origin   string
}

// KeptSet is a set of parts and how its keepers have answered.
type KeptSet struct {
	store.PartSet
	Keepers []Keeper
	// Wanted is how many should have answered within AnswerGood: one more than
	// are needed, or all there are. Recent is how many have.
	Wanted, Recent int
	// Fresh: it was made lately, so that custodians may not have got their parts
	// yet.
	Fresh bool
}

// InUse tells whether its parts are still meant to be used.
func (s KeptSet) InUse() bool { return s.Retired.IsZero() }

// AtRisk tells whether too few keepers of a set in use have answered lately.
func (s KeptSet) AtRisk() bool { return s.InUse() && s.Recent < s.Wanted }

// Stale tells whether a set at risk has been so for longer than handing out
// takes.
func (s KeptSet) Stale() bool { return s.AtRisk() && !s.Fresh }

// Name is how a set is spoken of.
func (s KeptSet) Name() string {
	name := fmt.Sprintf("set %s (any %d of %d parts", s.Set, s.Needed, len(s.Custodians))
	if s.Shares > 1 {
		name += fmt.Sprintf(", share %d of %d", s.Share, s.Shares)
	}
	if s.KCV != "" {
		name += ", recovery key " + s.KCV
	}
	return name + ")"
}

// Lately tells whether a keeper has answered within AnswerGood.
func (k Keeper) Lately(now time.Time) bool {
	return !k.Answered.IsZero() && now.Sub(k.Answered) <= AnswerGood
}

// Keepers gives all sets of parts, the oldest first, those that are retired too.
func Keepers(state *store.State, now time.Time) []KeptSet {
	list := make([]KeptSet, 0, len(state.PartSets))
	for _, set := range state.PartSets {
		s := KeptSet{PartSet: set, Wanted: min(set.Needed+1, len(set.Custodians)), Fresh: now.Sub(set.Time) <= handOutTime}
		for _, c := range set.Custodians {
			k := Keeper{Custodian: c}
			for _, call := range state.RollCalls {
				if call.Set == set.Set && call.Index == c.Index {
					k.Answered, k.Origin = call.Time, call.Origin
				}
			}
			if k.Lately(now) {
				s.Recent++
			}
			s.Keepers = append(s.Keepers, k)
		}
		list = append(list, s)
	}
	return list
}

// OpenCall is a challenge that was given out and that answers are awaited to.
type OpenCall struct {
	Challenge string `json:"challenge"`
	// Answered names the parts whose answers were recorded: SET/INDEX.
	Answered []string `json:"answered,omitempty"`

	challenge *dkek.Challenge
}

// Good tells until when answers are taken.
func (c OpenCall) Good() time.Time { return c.challenge.Day.Add(ChallengeGood) }

const callNotes = "roll-call/"

// Call makes a challenge and keeps it in the catalog's journal, so that a later
// run can check the answers. Those that are long past are forgotten.
func Call(cat *store.Catalog, now time.Time) (OpenCall, error) {
	calls, err := openCalls(cat)
	if err != nil {
		return OpenCall{}, err
	}
	for _, c := range calls {
		if now.Sub(c.challenge.Day) > challengeKept {
			if err := cat.Journal().Delete(callNotes + c.Challenge); err != nil {
				return OpenCall{}, err
			}
		}
	}
	c, err := newCall(now)
	if err != nil {
		return c, err
	}
	return c, cat.Journal().Put(callNotes+c.Challenge, c)
}

// newCall makes a challenge that nothing keeps.
func newCall(now time.Time) (OpenCall, error) {
	c, err := dkek.NewChallenge(now)
	if err != nil {
		return OpenCall{}, err
	}
	return OpenCall{Challenge: c.Text(), challenge: c}, nil
}

// OpenCalls gives the challenges that answers are still taken to, the oldest
// first.
func OpenCalls(cat *store.Catalog, now time.Time) ([]OpenCall, error) {
	calls, err := openCalls(cat)
	return slices.DeleteFunc(calls, func(c OpenCall) bool { return now.After(c.Good()) }), err
}

func openCalls(cat *store.Catalog) ([]OpenCall, error) {
	names, err := cat.Journal().Keys(callNotes)
	if err != nil {
		return nil, err
	}
	var list []OpenCall
	for _, name := range names {
		var c OpenCall
		if _, err := cat.Journal().Get(name, &c); err != nil {
			return nil, err
		}
		if c.challenge, err = dkek.ParseChallenge([]byte(c.Challenge)); err != nil || callNotes+c.Challenge != name {
			return nil, fmt.Errorf("%w: journal %q: no challenge of a roll-call", store.ErrDamaged, name)
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b OpenCall) int { return a.challenge.Day.Compare(b.challenge.Day) })
	return list, nil
}

// Answered is whose answer was recorded.
type Answered struct {
	Set    KeptSet
	Keeper Keeper
	// Before: this very answer had been recorded already, and counts once.
	Before bool
}

// RecordAnswer checks an answer against the commitments and the challenges of
// the catalog and records it as given at a roll-call. only are the names of the
// custodians that it may be of; none allows all. Whatever it refuses, nothing
// was changed.
func RecordAnswer(cat *store.Catalog, answer *dkek.Answer, only []string, now time.Time) (Answered, error) {
	a, err := whose(cat, answer.Set, answer.Index, only, now)
	if err != nil {
		return a, err
	}
	calls, err := openCalls(cat)
	if err != nil {
		return a, err
	}
	for _, c := range calls {
		if answer.Check(c.challenge, a.Keeper.Commitment) != nil {
			continue
		}
		if now.After(c.Good()) {
			return a, failf("challenge-expired", "`hsmbackup dkek rollcall` gives a new one", "%s answered the challenge of %s, which was good until %s: it says nothing of today",
				a.Keeper.Name, c.challenge.Day.Format(time.DateOnly), c.Good().Format(time.DateOnly))
		}
		part := fmt.Sprintf("%s/%d", answer.Set, answer.Index)
		if slices.Contains(c.Answered, part) {
			a.Before = true
			return a, nil
		}
		if err := cat.Append(store.RollCall{Set: answer.Set, Index: answer.Index, Origin: "roll-call"}); err != nil {
			return a, err
		}
		c.Answered = append(c.Answered, part)
		return a, cat.Journal().Put(callNotes+c.Challenge, c)
	}
	if len(calls) == 0 {
		return a, failf("no-challenge", "`hsmbackup dkek rollcall` gives one", "no challenge is waiting for answers in this catalog")
	}
	return a, failf("wrong-answer", "ask for an answer to the challenge that `hsmbackup dkek rollcall --list` shows",
		"this is part %d of set %s, of %s, but not an answer to a challenge of this catalog: it was made to another one, or with another part than was given out", answer.Index, answer.Set, a.Keeper.Name)
}

// AnswerWith has a part at hand answer at once, and records it. The rest is as
// of RecordAnswer.
func AnswerWith(cat *store.Catalog, part *dkek.Part, only []string, now time.Time) (Answered, error) {
	a, err := whose(cat, part.Set, part.Index, only, now)
	if err != nil {
		return a, err
	}
	call, err := newCall(now)
	if err != nil {
		return a, err
	}
	answer := part.Answer(call.challenge)
	if answer == nil || !bytes.Equal(part.Commitment(), a.Keeper.Commitment) || answer.Check(call.challenge, a.Keeper.Commitment) != nil {
		return a, failf("wrong-part", "look for the one that was handed out; `hsmbackup dkek check` tells what this is",
			"it says that it is part %d of set %s, but it is not the one that %s was given", part.Index, part.Set, a.Keeper.Name)
	}
	return a, cat.Append(store.RollCall{Set: part.Set, Index: part.Index, Origin: "roll-call"})
}

// whose finds the custodian of a part by what the part or its answer says.
func whose(cat *store.Catalog, set string, index int, only []string, now time.Time) (Answered, error) {
	state, err := cat.Read()
	if err != nil {
		return Answered{}, err
	}
	sets := Keepers(state, now)
	i := slices.IndexFunc(sets, func(s KeptSet) bool { return s.Set == set })
	if i < 0 {
		return Answered{}, failf("unknown-set", "`hsmbackup dkek rollcall --list` shows the sets that are; --catalog names another catalog",
			"it is part %d of set %s, which is not registered in this catalog", index, set)
	}
	s := sets[i]
	if index < 1 || index > len(s.Keepers) {
		return Answered{}, failf("unknown-part", "", "it says that it is part %d of set %s, which has %d parts", index, set, len(s.Keepers))
	}
	a := Answered{Set: s, Keeper: s.Keepers[index-1]}
	if !s.InUse() {
		return a, failf("retired-set", "call the custodians of the sets in use: `hsmbackup dkek rollcall --list`",
			"it is part %d of set %s, of %s; that set was retired on %s and is not called any more", index, set, a.Keeper.Name, s.Retired.UTC().Format(time.DateOnly))
	}
	if len(only) > 0 && !slices.Contains(only, a.Keeper.Name) {
		return a, failf("other-custodian", "", "it is part %d of set %s, of %s, not of %s", index, set, a.Keeper.Name, strings.Join(only, " or "))
	}
	return a, nil
}

// Called gives the sets in use that have custodians with these names; none means
// all. A name that no set in use has is refused, and so is a catalog without
// sets.
func Called(sets []KeptSet, names []string) ([]KeptSet, error) {
	var list []KeptSet
	known := map[string]bool{}
	var all []string
	for _, s := range sets {
		if !s.InUse() {
			continue
		}
		called := len(names) == 0
		for _, k := range s.Keepers {
			if !known[k.Name] {
				all = append(all, k.Name)
			}
			known[k.Name] = true
			called = called || slices.Contains(names, k.Name)
		}
		if called {
			list = append(list, s)
		}
	}
	if len(all) == 0 {
		return nil, failf("no-parts", "`hsmbackup dkek create --split K/N` or `hsmbackup dkek split FILE` makes one", "no set of parts is in use in this catalog: there is nobody to call")
	}
	for _, name := range names {
		if !known[name] {
			return nil, failf("unknown-custodian", "registered are "+strings.Join(all, ", "), "no custodian of a set in use is called %q", name)
		}
	}
	return list, nil
}

// IsRefusal tells a refused answer from a catalog that cannot be read or
// written.
func IsRefusal(err error) bool {
	var e *Error
	return errors.As(err, &e)
}
