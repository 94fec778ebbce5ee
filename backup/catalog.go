package backup

import (
	"errors"
	"fmt"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// Snapshots gives the snapshots of a catalog, oldest first. Where something is
// damaged the rest goes on: a key or file says by its Damage what cannot be
// used of it, and Check names all of it. The error is for a catalog that tells
// nothing any more.
func Snapshots(cat *store.Catalog) ([]*store.Snapshot, error) {
	list, err := cat.Snapshots()
	if errors.Is(err, store.ErrDamaged) && len(list) > 0 {
		err = nil
	}
	return list, err
}

// FindSnapshot finds one snapshot by its ID, the beginning of it, a token's
// serial or "latest", and takes damage as Snapshots does.
func FindSnapshot(cat *store.Catalog, name string) (*store.Snapshot, error) {
	s, err := cat.Snapshot(name)
	if s != nil {
		return s, nil
	}
	return nil, err
}

// Latest gives the newest snapshot of each token, oldest first, and each
// adopted one, which is of no token. It takes damage as Snapshots does.
func Latest(cat *store.Catalog) ([]*store.Snapshot, error) {
	all, err := Snapshots(cat)
	if err != nil {
		return nil, err
	}
	newest := map[string]*store.Snapshot{}
	for _, s := range all {
		newest[s.Token.Serial] = s
	}
	var list []*store.Snapshot
	for _, s := range all {
		if s.Adopted || newest[s.Token.Serial] == s {
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
