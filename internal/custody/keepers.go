package custody

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"hsmbackup/store"
)

// Keeper is a custodian with when they last showed to have the part: when it was
// handed out, at a roll-call, when it was used. A zero time is never.
type Keeper struct {
	store.Custodian
	Answered time.Time
	Origin   string
	// Undated: they answered, while the clock ran ahead: nobody knows when.
	Undated bool
}

// KeptSet is a set of parts and how its keepers have answered.
type KeptSet struct {
	store.PartSet
	Keepers []Keeper
	// Wanted is how many should have answered within answerGood: one more than
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

// Lately tells whether a keeper has answered within answerGood.
func (k Keeper) Lately(now time.Time) bool {
	return !k.Answered.IsZero() && now.Sub(k.Answered) <= answerGood
}

// Keepers gives all sets of parts, the oldest first, those that are retired too.
func Keepers(state *store.State, now time.Time) []KeptSet {
	list := make([]KeptSet, 0, len(state.PartSets))
	for _, set := range state.PartSets {
		s := KeptSet{PartSet: set, Wanted: min(set.Needed+1, len(set.Custodians)), Fresh: !state.Ahead(set.Seq) && now.Sub(set.Time) <= handOutTime}
		for _, c := range set.Custodians {
			s.Keepers = append(s.Keepers, Keeper{Custodian: c})
		}
		list = append(list, s)
	}
	for i := range state.RollCalls {
		call := &state.RollCalls[i]
		at := slices.IndexFunc(list, func(s KeptSet) bool { return s.Set == call.Set })
		if at < 0 || call.Index > len(list[at].Keepers) {
			continue
		}
		sign, err := signed(state, call)
		if err != nil {
			continue // it is among the findings of a check
		}
		k := &list[at].Keepers[call.Index-1]
		switch {
		case !state.Ahead(call.Seq):
			k.Answered, k.Origin, k.Undated = call.Time, call.Origin, false
		case sign != nil && !sign.day.After(now): // a day that the custodian's own clock agreed to
			k.Answered, k.Origin, k.Undated = sign.day, call.Origin, false
		case k.Answered.IsZero():
			k.Origin, k.Undated = call.Origin, true
		}
	}
	for i := range list {
		for _, k := range list[i].Keepers {
			if k.Lately(now) {
				list[i].Recent++
			}
		}
	}
	return list
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

// PartSet is a set of parts as --json shows it. Wanted custodians should have
// answered within a year, Recent have; at_risk: it is in use, and they are fewer;
// stale: that is so although the set was not just handed out.
type PartSet struct {
	Set        string          `json:"set"`
	KCV        string          `json:"kcv"`
	Share      int             `json:"share"`
	Shares     int             `json:"shares"`
	Needed     int             `json:"needed"`
	Retired    string          `json:"retired"`
	Wanted     int             `json:"wanted"`
	Recent     int             `json:"recent"`
	AtRisk     bool            `json:"at_risk"`
	Stale      bool            `json:"stale"`
	Custodians []PartSetKeeper `json:"custodians"`
}

// PartSetKeeper is a custodian. Answered is empty if they never did, Lately tells
// whether it was within a year.
type PartSetKeeper struct {
	Index    int    `json:"index"`
	Name     string `json:"name"`
	Answered string `json:"answered"`
	Origin   string `json:"origin"`
	Lately   bool   `json:"lately"`
}

// Document is the set as --json shows it.
func (s KeptSet) Document(now time.Time) PartSet {
	stamp := func(t time.Time) string {
		switch {
		case t.IsZero():
			return ""
		case t.Equal(store.UnknownTime):
			return "unknown"
		}
		return t.UTC().Format(time.RFC3339)
	}
	j := PartSet{
		Set: s.Set, KCV: s.KCV, Share: s.Share, Shares: s.Shares, Needed: s.Needed, Retired: stamp(s.Retired),
		Wanted: s.Wanted, Recent: s.Recent, AtRisk: s.AtRisk(), Stale: s.Stale(), Custodians: []PartSetKeeper{},
	}
	for _, k := range s.Keepers {
		j.Custodians = append(j.Custodians, PartSetKeeper{k.Index, k.Name, stamp(k.Answered), k.Origin, k.Lately(now)})
	}
	return j
}

// InUse gives the sets that are meant to be used.
func InUse(state *store.State, now time.Time) []KeptSet {
	return slices.DeleteFunc(Keepers(state, now), func(s KeptSet) bool { return !s.InUse() })
}

// LastCall looks at the sets in use of the recovery keys of a snapshot: since
// when one custodian more than needed has answered, of a set that needs all, all
// have. any tells whether there is such a set.
func LastCall(s *store.Snapshot, sets []KeptSet) (last time.Time, any bool) {
	var times []time.Time
	for _, set := range sets {
		if !set.InUse() || !slices.ContainsFunc(s.Keys, func(k store.Key) bool { return k.KCV != "" && k.KCV == set.KCV }) {
			continue
		}
		var answered []time.Time
		for _, k := range set.Keepers {
			answered = append(answered, k.Answered)
		}
		slices.SortFunc(answered, func(a, b time.Time) int { return b.Compare(a) })
		times = append(times, answered[set.Wanted-1])
	}
	if len(times) == 0 {
		return time.Time{}, false
	}
	return slices.MinFunc(times, time.Time.Compare), true
}
