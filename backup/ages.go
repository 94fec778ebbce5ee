package backup

import (
	"slices"
	"time"

	"hsmbackup/store"
)

// Ages says when each thing that keeps a backup alive was last done for one
// token, as far as the catalog tells. A zero time is never, store.UnknownTime is
// under a clock that ran ahead. Of things that concern each key or recovery key
// the least recent counts.
type Ages struct {
	Serial   string
	Snapshot *store.Snapshot // the newest
	// Backup is when the newest snapshot was taken.
	Backup time.Time
	// Check is the last check without findings; it is of the whole catalog.
	Check time.Time
	// Proof: each exported key has been shown to come back since, by whatever
	// proof but intact.
	Proof time.Time
	// Asked: each exported key has answered on the token as the stored one since.
	Asked time.Time
	// Drill: each exported key has been restored onto a software token and used
	// since.
	Drill time.Time
	// ShareSeen: shares of each recovery key have been at hand since.
	ShareSeen time.Time
	// Copies is how many verified copies hold the newest snapshot.
	Copies int
	// Keys counts the stored keys by what a restore could do for them.
	Keys map[Coverage]int
}

// TakeAges gives the ages of each token in the catalog, in the order of their
// newest snapshots. Tokens that go on under another serial are left out.
func TakeAges(state *store.State, now time.Time) []Ages {
	h := newHistory(state)
	var list []Ages
	for _, s := range state.Latest() {
		if s.Adopted || state.Succeeded(s.Token.Serial) != "" {
			continue
		}
		a := Ages{Serial: s.Token.Serial, Snapshot: s, Backup: s.Taken, Check: state.Checked, Keys: map[Coverage]int{}}
		if state.Ahead(state.SeqOf(s)) {
			a.Backup = store.UnknownTime
		}
		a.Proof = leastRecent(s, state.Proofs, func(p store.Proof) bool { return store.ShowsReturn(p.Kind) })
		a.Drill = leastRecent(s, state.Proofs, func(p store.Proof) bool { return p.Kind == store.ProofDrilled })
		a.ShareSeen, a.Asked = sharesSeen(s, h.Shares), asked(s, state.Asked)
		for _, c := range state.Copies {
			if c.Seq >= state.SeqOf(s) {
				a.Copies++
			}
		}
		for i := range s.Keys {
			a.Keys[h.coverSnapshot(s, &s.Keys[i])]++
		}
		list = append(list, a)
	}
	return list
}

// coverSnapshot judges a stored key without a token to compare it with.
func (h *history) coverSnapshot(s *store.Snapshot, k *store.Key) Coverage {
	if k.Damage != "" {
		return Missing
	}
	if k.Reason != "" {
		if _, ok := h.acceptanceOf(s, k); ok {
			return Accepted
		}
		return NotExportable
	}
	c, _ := h.coverStored(k)
	if c == Covered {
		c = Unasked // there is no token here to ask
	}
	return c
}

// asked is when the exported key whose last good answer is the oldest gave it.
func asked(s *store.Snapshot, last map[store.Place]store.AskedKey) time.Time {
	var times []time.Time
	for _, k := range s.Keys {
		if len(k.Blob) == 0 {
			continue
		}
		a := last[store.Place{Serial: s.Token.Serial, Reference: k.Reference}]
		if !a.OK || a.Blob != store.HashOf(k.Blob) {
			a.Time = time.Time{}
		}
		times = append(times, a.Time)
	}
	return oldest(times)
}

// leastRecent is when the key whose last good proof is the oldest was proven;
// zero if one never was, or if there is none.
func leastRecent(s *store.Snapshot, proofs []store.Proof, counts func(store.Proof) bool) time.Time {
	last := map[store.Hash]time.Time{}
	for _, p := range proofs {
		if p.OK && counts(p) && p.Time.After(last[p.Blob]) { // one of unknown time takes nothing back
			last[p.Blob] = p.Time
		}
	}
	var times []time.Time
	for _, k := range s.Keys {
		if len(k.Blob) > 0 {
			times = append(times, last[store.HashOf(k.Blob)])
		}
	}
	return oldest(times)
}

func sharesSeen(s *store.Snapshot, shares map[store.KCV]store.ShareSeen) time.Time {
	var times []time.Time
	for _, k := range s.Keys {
		if len(k.Blob) == 0 {
			continue
		}
		seen := shares[k.KCV]
		if seen.Random {
			seen.Time = time.Time{}
		}
		times = append(times, seen.Time)
	}
	return oldest(times)
}

func oldest(times []time.Time) time.Time {
	if len(times) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(times, time.Time.Compare)
}
