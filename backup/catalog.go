package backup

import (
	"errors"
	"fmt"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// Snapshots gives the snapshots of a catalog, oldest first; what was made of one
// by re-keying stands behind it, since it is no younger. Where something is
// damaged the rest goes on: a key or file says by its Damage what cannot be used
// of it, and Check names all of it. The error is for a catalog that tells nothing
// any more.
func Snapshots(cat *store.Catalog) ([]*store.Snapshot, error) {
	list, err := cat.Snapshots()
	if errors.Is(err, store.ErrDamaged) && len(list) > 0 {
		err = nil
	}
	return byAge(list), err
}

// byAge puts re-keyed snapshots behind their sources.
func byAge(list []*store.Snapshot) []*store.Snapshot {
	known := map[store.Hash]bool{}
	made := map[store.Hash][]*store.Snapshot{}
	for _, s := range list {
		known[s.Hash] = true
	}
	for _, s := range list {
		if s.Rekeyed != nil && known[s.Rekeyed.From] {
			made[s.Rekeyed.From] = append(made[s.Rekeyed.From], s)
		}
	}
	out := make([]*store.Snapshot, 0, len(list))
	var add func(s *store.Snapshot)
	add = func(s *store.Snapshot) {
		out = append(out, s)
		for _, m := range made[s.Hash] {
			add(m)
		}
	}
	for _, s := range list {
		if s.Rekeyed == nil || !known[s.Rekeyed.From] {
			add(s)
		}
	}
	return out
}

// sourceOf gives what a re-keyed snapshot was made from, nil for others and where
// it is not there.
func sourceOf(all []*store.Snapshot, s *store.Snapshot) *store.Snapshot {
	if s.Rekeyed == nil {
		return nil
	}
	for _, from := range all {
		if from.Hash == s.Rekeyed.From {
			return from
		}
	}
	return nil
}

// FindSnapshot finds one snapshot by its ID, the beginning of it, a token's
// serial (its newest, in the order of Snapshots) or "latest", and takes damage as
// Snapshots does.
func FindSnapshot(cat *store.Catalog, name string) (*store.Snapshot, error) {
	s, err := cat.Snapshot(name)
	if s == nil {
		return nil, err
	}
	if name != "latest" && (name == "" || name != s.Token.Serial) {
		return s, nil
	}
	all, err := Snapshots(cat)
	if err != nil {
		return nil, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if name == "latest" || all[i].Token.Serial == name {
			return all[i], nil
		}
	}
	return s, nil
}

// Latest gives the newest snapshot of each token, oldest first, and each
// adopted one, which is of no token, unless another was made of it by re-keying.
// It takes damage as Snapshots does.
func Latest(cat *store.Catalog) ([]*store.Snapshot, error) {
	all, err := Snapshots(cat)
	if err != nil {
		return nil, err
	}
	newest := map[string]*store.Snapshot{}
	rekeyed := map[store.Hash]bool{}
	for _, s := range all {
		newest[s.Token.Serial] = s
		if s.Rekeyed != nil {
			rekeyed[s.Rekeyed.From] = true
		}
	}
	var list []*store.Snapshot
	for _, s := range all {
		if s.Adopted && !rekeyed[s.Hash] || !s.Adopted && newest[s.Token.Serial] == s {
			list = append(list, s)
		}
	}
	return list, nil
}

// mend makes up for damage that leaves a key restorable: a description is
// written anew from what the manifest says, a certificate is left out. It tells
// what it did; the key blob cannot be made up for.
func mend(k *store.Key) (note string, usable bool) {
	if k.Damage == "" {
		return "", true
	}
	if len(k.Blob) == 0 && k.Reason == "" {
		return "damaged in the catalog: " + k.Damage, false
	}
	if kind, bits := kindAndBits(*k); len(k.Description) == 0 && (k.Label != "" || len(k.ID) > 0) {
		k.Description = (&pkcs15.KeyDescription{Kind: kind, Label: k.Label, ID: k.ID, Usage: pkcs15.Usage(k.Usage), Bits: bits, Reference: k.Reference}).Encode()
	}
	return fmt.Sprintf("damaged in the catalog: %s; the key itself is whole", k.Damage), true
}
