package backup

import (
	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// RecordShares notes in the catalog that shares which give this DKEK were at
// hand, compares the catalog with its anchor under it, and says how that came out.
// A catalog that this run made is anchored; any other is left with the anchor that
// it has. software tells that the shares were loaded to a software token or to
// none. Without a catalog it does nothing.
func RecordShares(cat *store.Catalog, key *dkek.Key, software bool, origin string) error {
	if cat == nil {
		return nil
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	was, err := lookAtAnchor(state, key)
	if err != nil {
		return err
	}
	if err := noteShares(cat, key, software, origin); err != nil {
		return err
	}
	if cat.Made() && cat.Writable() {
		_, why, err := moveAnchor(cat, key, anchoring{was: was})
		if err != nil || why == "" {
			return err
		}
	}
	was.tell(cat)
	return nil
}

// noteShares notes that shares which give a DKEK were at hand: in the catalog, if
// it can be written, and on this computer what data is sealed to for that DKEK.
func noteShares(cat *store.Catalog, key *dkek.Key, software bool, origin string) error {
	recipient, err := key.Recipient()
	if err != nil {
		return err
	}
	kcv := key.KCV().String()
	keepRecipient(cat, kcv, recipient)
	if !cat.Writable() {
		return nil
	}
	return cat.Append(store.ShareSeen{KCV: kcv, Software: software, Origin: origin, Recipient: recipient})
}

// DomainSet is a key domain that is to be, and the shares for it.
type DomainSet struct {
	Number, Shares int
	// Load are the shares at hand; fewer than Shares leave the rest for later.
	Load []*dkek.Share
	// Expect is the KCV that must come out; zero expects none in particular.
	Expect dkek.KCV
}

// expected combines the shares, if all are here, and compares the KCV with the
// one that must come out.
func (d DomainSet) expected() (dkek.KCV, error) {
	if len(d.Load) > d.Shares {
		return dkek.KCV{}, fail.Failf("too-many-shares", "initialise for as many shares as the DKEK has", "%d shares are given, the token would be set up for %d", len(d.Load), d.Shares)
	}
	if len(d.Load) == 0 {
		return d.Expect, nil
	}
	key, err := dkek.Combine(d.Load...) // refuses duplicates
	if err != nil {
		return dkek.KCV{}, err
	}
	defer key.Wipe()
	if len(d.Load) < d.Shares {
		return d.Expect, nil
	}
	kcv := key.KCV()
	if !d.Expect.IsZero() && kcv != d.Expect {
		return kcv, kcvMismatch(d.Expect, kcv)
	}
	return kcv, nil
}

func (d DomainSet) record(cat *store.Catalog, software bool, origin string) error {
	key, err := dkek.Combine(d.Load...)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return RecordShares(cat, key, software, origin)
}

// AssignShares finds out which of the shares at hand make up which key domain
// of a snapshot: a share does not tell, but the KCV of the right ones together
// does. Domains without a KCV, and those that the shares do not give, get none:
// they wait for their shares. A domain that cannot be made anew has no set: an
// XKEK domain, and one whose DKEK the old token had made up (0 shares). left are
// the shares that belong nowhere.
func AssignShares(domains []store.Domain, shares []*dkek.Share) (sets []DomainSet, left []*dkek.Share) {
	left = append(left, shares...)
	for _, d := range domains {
		if d.Shares == 0 || len(d.UID) > 0 {
			continue // empty, made up by the token, or agreed between tokens
		}
		set := DomainSet{Number: d.Number, Shares: d.Shares}
		if kcv, err := dkek.ParseKCV(d.KCV); err == nil {
			set.Expect = kcv
			if chosen := choose(left, d.Shares, nil, kcv); chosen != nil {
				set.Load = chosen
			}
		}
		sets = append(sets, set)
	}
	used := map[*dkek.Share]bool{}
	for _, s := range sets {
		for _, share := range s.Load {
			used[share] = true
		}
	}
	left = left[:0]
	for _, s := range shares {
		if !used[s] {
			left = append(left, s)
		}
	}
	return sets, left
}

// choose looks for n shares that give a KCV. One share may serve two domains.
func choose(pool []*dkek.Share, n int, chosen []*dkek.Share, want dkek.KCV) []*dkek.Share {
	if n == 0 {
		if len(chosen) == 0 {
			return nil
		}
		key, err := dkek.Combine(chosen...)
		if err != nil {
			return nil
		}
		defer key.Wipe()
		if key.KCV() != want {
			return nil
		}
		return append([]*dkek.Share(nil), chosen...)
	}
	for i := range pool {
		if found := choose(pool[i+1:], n-1, append(chosen, pool[i]), want); found != nil {
			return found
		}
	}
	return nil
}

// Slots is the number of key domain slots that a fresh token needs to be as the
// one of a snapshot was; 0 is a token with a single DKEK.
func Slots(s *store.Snapshot) int {
	if n := len(s.Token.Domains); n > 1 && n <= 255 {
		return n
	}
	return 0
}

// SetsFor gives, for a snapshot of a token with slots, a set for each domain
// that had a DKEK of shares. Shares that give none of the DKEKs, and shares of
// none of them at all, are refused.
func SetsFor(s *store.Snapshot, shares []*dkek.Share) ([]DomainSet, error) {
	sets, left := AssignShares(s.Token.Domains, shares)
	loaded := 0
	for _, set := range sets {
		loaded += len(set.Load)
	}
	const hint = "give all shares of a recovery key, or none; `hsmbackup dkek check` tells what a set gives"
	switch {
	case loaded == 0:
		return nil, fail.Failf("kcv-mismatch", hint, "these shares give none of the recovery keys of snapshot %s; the token was not touched", s.ID)
	case len(left) > 0:
		return nil, fail.Failf("kcv-mismatch", hint, "%d of the shares belong to no recovery key of snapshot %s that could be put together; the token was not touched", len(left), s.ID)
	}
	return sets, nil
}
