package backup

import (
	"bytes"
	"fmt"
	"slices"

	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// all tells whether the whole snapshot is restored.
func (o RestoreOptions) all() bool { return o.Keys == nil && o.Blobs == nil }

// chooses tells whether a key is among those named.
func (o RestoreOptions) chooses(k store.Key) bool {
	if k.Reference == 0 {
		return slices.Contains(o.Blobs, store.HashOf(k.Blob))
	}
	return slices.Contains(o.Keys, byte(k.Reference))
}

// places finds references for keys of adopted snapshots whose own is not known.
type places struct {
	inv   *Inventory
	o     RestoreOptions
	taken map[byte]bool
}

func newPlaces(inv *Inventory, s *store.Snapshot, o RestoreOptions) *places {
	p := &places{inv, o, map[byte]bool{0: true}}
	for _, k := range inv.Keys {
		p.taken[k.Reference] = true
	}
	for _, f := range inv.Files { // what is left of a key that was deleted
		if f.FID.Prefix() == schsm.PrefixDescription || f.FID.Prefix() == schsm.PrefixKeyCertificate {
			p.taken[f.FID.Index()] = true
		}
	}
	for _, k := range s.Keys {
		to, moved := o.At[byte(k.Reference)]
		if !moved {
			to = byte(k.Reference)
		}
		p.taken[to] = true
	}
	for _, to := range o.AtBlob {
		p.taken[to] = true
	}
	return p
}

// planKey decides about a key without a reference: it stays where it is on the
// token, goes on where a restore that was cut off had put it, goes where it was
// told to, or to the lowest reference that nothing has.
func (p *places) planKey(k store.Key) (Item, error) {
	to, chosen := p.o.AtBlob[store.HashOf(k.Blob)]
	if !chosen {
		var err error
		if to, err = p.begun(k); err != nil {
			return Item{}, err
		}
	}
	if to == 0 {
		to = p.there(k)
	}
	found := to != 0
	for n := 1; to == 0 && n <= 255; n++ {
		if !p.taken[byte(n)] {
			to = byte(n)
		}
	}
	if to == 0 {
		return Item{Key: k, Action: DoesNotFit, Reason: "its reference is not known, and the token has none left"}, nil
	}
	p.taken[to] = true
	item := planKey(p.inv, k, map[byte]byte{0: to})
	if item.Action == New && !found {
		item.Reason = fmt.Sprintf("its reference is not known; %d is free", to)
	}
	return item, nil
}

// begun is the reference that the journal has for the key.
func (p *places) begun(k store.Key) (byte, error) {
	if p.o.Journal == nil {
		return 0, nil
	}
	names, err := p.o.Journal.Keys(restoreNotes(p.inv.Serial))
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		var n restoreNote
		if _, err := p.o.Journal.Get(name, &n); err != nil {
			return 0, err
		}
		if n.Blob != store.HashOf(k.Blob) {
			continue
		}
		// Unless something else has taken the place since.
		at := p.inv.at(n.Reference)
		if at.key == nil && at.free() || at.key != nil && begun(at.description, k.Description) {
			return n.Reference, nil
		}
	}
	return 0, nil
}

// there is the reference of the key on the token, 0 if it is not there: by its
// public key, else by its description. Whether it is the one, its use tells.
func (p *places) there(k store.Key) byte {
	for _, here := range p.inv.Keys {
		switch {
		case len(k.PublicKey) > 0 && here.Public != nil:
			if bytes.Equal(here.Public.SPKI(), k.PublicKey) {
				return here.Reference
			}
		case len(k.PublicKey) == 0 && here.Public == nil && here.Description != nil:
			if bytes.Equal(here.Description, k.Description) && bytes.Equal(here.Certificate, k.Certificate) {
				return here.Reference
			}
		}
	}
	return 0
}
