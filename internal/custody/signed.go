package custody

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/store"
)

// signature is an answer that names where the log ended when it was asked for.
type signature struct {
	set   string
	index int
	entry uint64
	day   time.Time
}

// signed checks an answer of the log against what it signs: with which part, and
// that the entry was there, before it. An answer that says nothing of the log
// gives none.
func signed(state *store.State, call *store.RollCall) (*signature, error) {
	if call.Challenge == "" {
		return nil, nil
	}
	c, err := dkek.ParseChallenge([]byte(call.Challenge))
	if err != nil {
		return nil, err
	}
	a, err := dkek.ParseAnswer([]byte(call.Answer))
	if err != nil {
		return nil, err
	}
	set := findSet(state.PartSets, call.Set)
	if set == nil || call.Index > len(set.Custodians) || a.Set != call.Set || a.Index != call.Index {
		return nil, fmt.Errorf("it is of no part that the catalog has")
	}
	if err := a.Check(c, set.Custodians[call.Index-1].Commitment); err != nil {
		return nil, err
	}
	if c.Entry == 0 {
		return nil, nil
	}
	e := entryAt(state, c.Entry)
	switch {
	case e == nil || e.Hash != c.Head:
		return nil, fmt.Errorf("%s signed on %s that the log ended with an entry %d which is not in it: the log was changed since, or put together of others", custodian(set, call.Index), c.Day.Format(time.DateOnly), c.Entry)
	case c.Entry >= call.Seq:
		return nil, fmt.Errorf("%s signed an entry %d that came after the answer", custodian(set, call.Index), c.Entry)
	}
	return &signature{call.Set, call.Index, c.Entry, c.Day}, nil
}

func entryAt(state *store.State, seq uint64) *store.Entry {
	i, found := slices.BinarySearchFunc(state.Entries, seq, func(e store.Entry, seq uint64) int {
		switch {
		case e.Seq < seq:
			return -1
		case e.Seq > seq:
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	return &state.Entries[i]
}

// Lain is what enough custodians of one set signed of the log: that it ended so
// on that day. It says nothing of whether what the log says is true.
type Lain struct {
	Set   store.PartSet
	Who   []string // enough, by their names in the catalog
	Entry uint64
	Day   time.Time // the earliest that one of them signed
	Since int       // entries that came after
}

// String says it to people.
func (l Lain) String() string {
	since := ""
	if l.Since > 0 {
		since = fmt.Sprintf(", and %d came since", l.Since)
	}
	return fmt.Sprintf("%d of set %s (%s) signed that the log up to entry %d is what lay there on %s%s",
		len(l.Who), l.Set.Set, strings.Join(l.Who, ", "), l.Entry, l.Day.Format(time.DateOnly), since)
}

// WhatLay gives, for each set of which enough custodians signed, the last entry
// that so many of them cover; and what does not check out of the answers.
func WhatLay(state *store.State) (list []Lain, damage []store.Finding) {
	last := map[string]map[int]*signature{}
	for i := range state.RollCalls {
		call := &state.RollCalls[i]
		s, err := signed(state, call)
		if err != nil {
			damage = append(damage, store.Finding{Where: fmt.Sprintf("log entry %d, an answer to a roll-call", call.Seq), What: err.Error()})
			continue
		}
		if s == nil {
			continue
		}
		if last[s.set] == nil {
			last[s.set] = map[int]*signature{}
		}
		if before := last[s.set][s.index]; before == nil || before.entry < s.entry {
			last[s.set][s.index] = s
		}
	}
	for _, set := range state.PartSets {
		var all []*signature
		for _, s := range last[set.Set] {
			all = append(all, s)
		}
		if len(all) < set.Needed {
			continue
		}
		slices.SortFunc(all, func(a, b *signature) int {
			if a.entry != b.entry {
				return int(int64(b.entry) - int64(a.entry))
			}
			return a.index - b.index
		})
		l := Lain{Set: set, Entry: all[set.Needed-1].entry, Day: all[0].day}
		slices.SortFunc(all[:set.Needed], func(a, b *signature) int { return a.index - b.index })
		for _, s := range all[:set.Needed] {
			l.Who = append(l.Who, custodian(&set, s.index))
			if s.day.Before(l.Day) {
				l.Day = s.day
			}
		}
		l.Since = int(state.Head.Seq - l.Entry)
		list = append(list, l)
	}
	return list, damage
}

// Anchor adds to a verification what custodians signed. It anchors the catalog
// only where something outside of it vouches for their keys: words of the set,
// typed from a sheet (66 bits of the hash; nil: none), or the recovery key (nil:
// not at hand).
func Anchor(v *backup.Verification, state *store.State, setWords []string, key *dkek.Key) {
	lain, damage := WhatLay(state)
	v.Findings = append(v.Findings, damage...)
	var vouched []string
	if key != nil {
		good, damage := Vouches(key, state.PartSets)
		v.Findings = append(v.Findings, damage...)
		vouched, v.Vouched = good, good
	}
	if setWords != nil {
		i := slices.IndexFunc(state.PartSets, func(s store.PartSet) bool { return slices.Equal(SetWords(&s), setWords) })
		if i < 0 {
			v.Findings = append(v.Findings, store.Finding{Where: "set", What: "the words are of no set in this catalog: its commitments were changed, or it is another catalog"})
		} else {
			vouched = append(vouched, state.PartSets[i].Set)
			if !slices.ContainsFunc(lain, func(l Lain) bool { return l.Set.Set == state.PartSets[i].Set }) {
				v.Unsigned = fmt.Sprintf("the words vouch for set %s, of which fewer than %d custodians have signed what lay there: no anchor", state.PartSets[i].Set, state.PartSets[i].Needed)
			}
		}
	}
	for _, l := range lain {
		if !slices.Contains(vouched, l.Set.Set) {
			v.Signed = append(v.Signed, l.String()+", by keys that only this catalog names")
			continue
		}
		v.Signed = append(v.Signed, l.String())
		if v.Anchored == backup.NotAnchored || v.Anchored == backup.AnchoredWords || v.Anchored == backup.AnchoredCustodians && l.Since < v.Since {
			v.Anchored, v.Since = backup.AnchoredCustodians, l.Since
		}
	}
}
