package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// roundTrip proves blobs on the token that they come from: a blob is unwrapped
// to a reference that nothing else has, original and copy are given the same
// input, and the copy is deleted. The private key never leaves the token.
type roundTrip struct {
	card   *schsm.Card
	serial string
	// journal is nil where the catalog cannot be written: a copy that is left
	// behind is then known by being one.
	journal *store.Journal
	// spendUse is asked before an original with a use counter is used once.
	spendUse func(Key) bool
}

// endTime is how long the deletion of a copy may take after a person ended the
// run.
const endTime = 10 * time.Second

// copyNote is what the journal says of a copy before it is made.
type copyNote struct {
	Reference byte       `json:"reference"` // of the copy
	Original  byte       `json:"original"`
	Blob      store.Hash `json:"blob"`
}

func (r *roundTrip) note() string { return "round-trip/" + r.serial }

// prove gives the reason why a blob is not proven, empty if it is. The error is
// for what keeps every other blob from being proven too.
func (r *roundTrip) prove(ctx context.Context, k Key, stored *store.Key) (reason string, err error) {
	blob := stored.Blob
	// A key with a use counter whose answer to the fixed challenge is known is
	// not used again: its copy, which has no counter, must give that answer.
	known := k.Info.Counter != nil && k.Public == nil && len(stored.CheckValue) > 0
	if k.Info.Counter != nil && !known && (r.spendUse == nil || !r.spendUse(k)) {
		return fmt.Sprintf("the proof would spend one of the %d uses that the key has left", *k.Info.Counter), nil
	}
	if err := r.card.Confirm(ctx); err != nil {
		return "", err
	}
	free, err := freeReference(ctx, r.card)
	if err != nil {
		return "", err
	}
	if free == 0 {
		return "no free reference on the token for a copy; `hsmbackup verify --offline` proves it with the shares", nil
	}
	if r.journal != nil {
		if err := r.journal.Put(r.note(), copyNote{free, k.Reference, store.HashOf(blob)}); err != nil {
			return "", err
		}
	}
	err = r.card.Unwrap(ctx, free, blob)
	if err == nil {
		if known {
			err = proveValue(ctx, r.card, free, k.subject(), stored.CheckValue)
		} else {
			err = proveSame(ctx, r.card, k.Reference, free, k.subject())
		}
	}
	// Whatever came of it, the copy goes, also when a person ended the run.
	// Without a connection it stays in the journal, and the next run deletes
	// it.
	if err == nil || !isTransport(err) || ctx.Err() != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		if gone := r.card.DeleteFileIfThere(end, schsm.KeyFile(free)); gone != nil {
			return "", changed(errors.Join(err, gone))
		}
	} else {
		return "", changed(err)
	}
	if r.journal != nil {
		if forget := r.journal.Delete(r.note()); forget != nil {
			return "", changed(forget)
		}
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, apdu.ErrNoMemory):
		return "no room on the token for a copy; `hsmbackup verify --offline` proves it with the shares", nil
	case errors.Is(err, apdu.ErrInternal) && len(k.Info.Algorithms) > 0:
		return fmt.Sprintf("the token cannot take back what it exported (%v): %s fails on keys with a list of allowed algorithms", err, FindFault(FaultLists).Where), nil
	case isTransport(err):
		return "", changed(err)
	}
	return err.Error(), nil
}

// cleanUp deletes the copy that an interrupted run left behind, and says what
// it deleted. It takes nothing for a copy but a key without description and
// certificate that answers like its original. What a look at the device key left
// behind goes too.
func (r *roundTrip) cleanUp(ctx context.Context, inv *Inventory) (cleaned []string, err error) {
	if cleaned, err = cleanProofKeys(ctx, r.card, inv); err != nil {
		return cleaned, err
	}
	var n copyNote
	found := false
	if r.journal != nil {
		if found, err = r.journal.Get(r.note(), &n); err != nil {
			return cleaned, err
		}
	}
	for _, k := range inv.Keys {
		if k.Description != nil || k.Certificate != nil || k.Info.Counter != nil {
			continue // no copy: UNWRAP makes none of these
		}
		original, ok := r.originalOf(ctx, inv, k, n, found)
		if !ok {
			continue
		}
		if err := r.card.Confirm(ctx); err != nil {
			return cleaned, err
		}
		if err := r.card.DeleteFile(ctx, schsm.KeyFile(k.Reference)); err != nil {
			return cleaned, changed(err)
		}
		cleaned = append(cleaned, fmt.Sprintf("key %d, a copy of %s that an interrupted proof had left behind", k.Reference, original.Name()))
	}
	if found {
		err = r.journal.Delete(r.note())
	}
	return cleaned, err
}

// originalOf finds the key that an undescribed one is a copy of: the one that
// the journal names, else any that answers alike and is described. Keys with a
// use counter are not asked.
func (r *roundTrip) originalOf(ctx context.Context, inv *Inventory, k Key, n copyNote, noted bool) (Key, bool) {
	for _, o := range inv.Keys {
		if o.Reference == k.Reference || o.Info.Counter != nil || o.Description == nil {
			continue
		}
		if noted && n.Reference == k.Reference && n.Original != o.Reference {
			continue
		}
		s := o.subject()
		if proveSame(ctx, r.card, o.Reference, k.Reference, s) == nil {
			return o, true
		}
		if s.public != nil { // it may be another key's
			if s.public, s.kind = nil, 0; proveSame(ctx, r.card, o.Reference, k.Reference, s) == nil {
				return o, true
			}
		}
	}
	return Key{}, false
}

// freeReference finds a reference whose key, description and certificate files
// are all free, the highest first: clients take the lowest for new keys. 0
// means that there is none. but are references that are meant for others.
func freeReference(ctx context.Context, card *schsm.Card, but ...byte) (byte, error) {
	fids, err := card.Enumerate(ctx)
	if err != nil {
		return 0, err
	}
	taken := map[byte]bool{}
	for _, f := range fids {
		switch f.Prefix() {
		case schsm.PrefixKey, schsm.PrefixDescription, schsm.PrefixKeyCertificate:
			taken[f.Index()] = true
		}
	}
	for n := 255; n > 0; n-- {
		if !taken[byte(n)] && !slices.Contains(but, byte(n)) {
			return byte(n), nil
		}
	}
	return 0, nil
}

// kindOf gives the kind of a key that only its blob tells.
func kindOf(blob []byte) pkcs15.Kind {
	if b, err := dkek.ParseBlob(blob); err == nil {
		return b.Type.Kind()
	}
	return 0
}
