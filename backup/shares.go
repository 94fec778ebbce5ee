package backup

import (
	"hsmbackup/dkek"
	"hsmbackup/store"
)

// RecordShares notes in the catalog that shares which give this DKEK were at
// hand, with the recipient that PIN-protected data is sealed to from now on,
// and anchors the catalog's head under it. software tells that they were loaded
// to a software token or to none. A catalog that is nil or read-only is left as
// it is.
func RecordShares(cat *store.Catalog, key *dkek.Key, software bool, origin string) error {
	if cat == nil || !cat.Writable() {
		return nil
	}
	recipient, err := key.Recipient()
	if err != nil {
		return err
	}
	kcv := key.KCV().String()
	if err := cat.RecordShareSeen(store.ShareSeen{KCV: kcv, Software: software, Origin: origin, Recipient: recipient}); err != nil {
		return err
	}
	anchor := key.AnchorKey()
	defer clear(anchor)
	return cat.SetAnchor(kcv, anchor)
}

// DomainSet is a key domain that is to be, and the shares for it.
type DomainSet struct {
	Number, Shares int
	// Load are the shares at hand; fewer than Shares leave the rest for later.
	Load []*dkek.Share
	// Expect is the KCV that must come out; zero expects none in particular.
	Expect dkek.KCV
}

// AssignShares finds out which of the shares at hand make up which key domain
// of a snapshot: a share does not tell, but the KCV of the right ones together
// does. Domains without a KCV, and those that the shares do not give, get none.
// left are the shares that belong nowhere.
func AssignShares(domains []store.Domain, shares []*dkek.Share) (sets []DomainSet, left []*dkek.Share) {
	left = append(left, shares...)
	for _, d := range domains {
		if d.Shares == 0 && d.KCV == "" && len(d.UID) == 0 {
			continue // an empty slot
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
