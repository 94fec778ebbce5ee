package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
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
	// newest is the token's newest snapshot, if there is one.
	newest *store.Snapshot
	// seen is told which blobs came back.
	seen *Evidence
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

// untriedError says why a blob could not be proven; it speaks neither for nor
// against it.
type untriedError struct{ why string }

func (e *untriedError) Error() string { return e.why }

const errNoRoom = "; `hsmbackup verify --offline` proves it with the shares"

// prove unwraps a blob beside the key that it should give and compares the two.
// The copy of a key with a use counter has none, and answers alone: as the record
// says that this key does.
func (r *roundTrip) prove(ctx context.Context, k Key, stored *store.Key) error {
	if k.Info.Counter != nil && len(stored.PublicKey) == 0 && len(stored.CheckValue) == 0 {
		return &untriedError{fmt.Sprintf("the proof would spend one of the %d uses that the key has left", *k.Info.Counter)}
	}
	free, err := freeReference(ctx, r.card)
	if err != nil {
		return err
	}
	if free == 0 {
		return &untriedError{"no free reference on the token for a copy" + errNoRoom}
	}
	if r.journal != nil {
		if err := r.journal.Put(r.note(), copyNote{free, k.Reference, store.HashOf(stored.Blob)}); err != nil {
			return err
		}
	}
	copied, err := unwrapNew(ctx, r.card, free, stored.Blob)
	if err == nil {
		err = r.compare(ctx, k, free, stored)
	}
	// Whatever came of it, the copy goes, also when a person ended the run.
	// Without a connection it stays in the journal, and the next run deletes
	// it.
	if isTransport(err) && ctx.Err() == nil {
		return fail.After(err)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if gone := copied.Remove(end, r.card); gone != nil {
		return fail.After(errors.Join(err, gone))
	}
	if r.journal != nil {
		if forget := r.journal.Delete(r.note()); forget != nil {
			return fail.After(forget)
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, apdu.ErrNoMemory):
		return &untriedError{"no room on the token for a copy" + errNoRoom}
	case errors.Is(err, apdu.ErrInternal) && len(k.Info.Algorithms) > 0:
		return &untriedError{fmt.Sprintf("the token cannot take back what it exported (%v): %s fails on keys with a list of allowed algorithms", err, faults.FindFault(faults.FaultLists).Where)}
	case errors.Is(err, errNoWay):
		return &untriedError{err.Error()}
	}
	return err
}

// compare uses the copy, beside its original if that may be used, and notes what
// the blob was seen to give.
func (r *roundTrip) compare(ctx context.Context, k Key, copied byte, stored *store.Key) error {
	if k.Info.Counter != nil {
		if err := proveRecord(ctx, r.card, copied, stored); err != nil {
			return err
		}
		r.seen.show(stored.Blob, given{record: true})
		return nil
	}
	s := k.subject()
	if err := proveSame(ctx, r.card, k.Reference, copied, s); err != nil {
		return err
	}
	r.seen.show(stored.Blob, given{of: k.Reference, record: s.public != nil && bytes.Equal(s.public.SPKI(), stored.PublicKey)})
	return nil
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
		if err := removeTwin(ctx, r.card, original, k); err != nil {
			return cleaned, fail.After(err)
		}
		cleaned = append(cleaned, leftBehind(k, original))
	}
	counted, err := r.cleanCounted(ctx, inv)
	if cleaned = append(cleaned, counted...); err != nil {
		return cleaned, err
	}
	if found {
		err = r.journal.Delete(r.note())
	}
	return cleaned, err
}

func leftBehind(twin, original Key) string {
	return fmt.Sprintf("key %d, a copy of %s that an interrupted proof had left behind", twin.Reference, original.Name())
}

// cleanCounted is cleanUp for keys with a use counter, of which a copy would have
// none: what is taken for a copy answers like another one that the blob gives now,
// and that one like the public key beside the original, which is not used. What the
// catalog says is not enough: a blob in another's place would name any key a copy.
func (r *roundTrip) cleanCounted(ctx context.Context, inv *Inventory) (cleaned []string, err error) {
	bare := func(k Key) bool { return k.Description == nil && k.Certificate == nil && k.Info.Counter == nil }
	for _, o := range inv.Keys {
		if o.Info.Counter == nil || o.Public == nil || r.newest == nil || !slices.ContainsFunc(inv.Keys, bare) {
			continue
		}
		at := slices.IndexFunc(r.newest.Keys, func(k store.Key) bool { return k.Reference == int(o.Reference) && len(k.Blob) > 0 })
		if at < 0 {
			continue
		}
		gone, err := r.cleanTwinsOf(ctx, o, r.newest.Keys[at].Blob)
		if cleaned = append(cleaned, gone...); err != nil {
			return cleaned, err
		}
	}
	return cleaned, nil
}

// cleanTwinsOf deletes undescribed keys that are what a blob gives.
func (r *roundTrip) cleanTwinsOf(ctx context.Context, o Key, blob []byte) (cleaned []string, err error) {
	free, err := freeReference(ctx, r.card)
	if err != nil || free == 0 {
		return nil, err
	}
	made, err := unwrapNew(ctx, r.card, free, blob)
	if err != nil {
		if isTransport(err) {
			return nil, fail.After(err)
		}
		return nil, nil // it is not to be had, so nothing is known to be its copy
	}
	if err := proveUse(ctx, r.card, free, o.subject()); err != nil {
		if isTransport(err) {
			return nil, fail.After(err)
		}
		return nil, made.Remove(ctx, r.card)
	}
	now, err := Take(ctx, r.card)
	if err != nil {
		return nil, fail.After(err)
	}
	for _, fresh := range now.Keys {
		if fresh.Reference != free {
			continue
		}
		for _, k := range now.Keys {
			switch err := removeTwin(ctx, r.card, fresh, k); {
			case err == nil:
				cleaned = append(cleaned, leftBehind(k, o))
			case isTransport(err):
				return cleaned, fail.After(err)
			}
		}
	}
	if err := made.Remove(ctx, r.card); err != nil {
		return cleaned, fail.After(err)
	}
	return cleaned, nil
}

// originalOf finds the key that an undescribed one is a copy of: the one that
// the journal names, else any that answers alike and is described. Keys with a
// use counter are not asked: cleanCounted is for them.
func (r *roundTrip) originalOf(ctx context.Context, inv *Inventory, k Key, n copyNote, noted bool) (Key, bool) {
	for _, o := range inv.Keys {
		if o.Reference == k.Reference || o.Info.Counter != nil || o.Description == nil {
			continue
		}
		if noted && n.Reference == k.Reference && n.Original != o.Reference {
			continue
		}
		if proveTwins(ctx, r.card, o, k) == nil {
			return o, true
		}
	}
	return Key{}, false
}

// proveTwins shows that two keys are one: they give the same answer, whatever
// stands beside the first, and may be used alike.
func proveTwins(ctx context.Context, card *schsm.Card, original, twin Key) error {
	if !bytes.Equal(original.Info.Algorithms, twin.Info.Algorithms) || original.Info.Domain != twin.Info.Domain {
		return errAnswer
	}
	s := original.subject()
	err := proveSame(ctx, card, original.Reference, twin.Reference, s)
	if err != nil && s.public != nil { // it may be another key's
		s.public, s.kind = nil, 0
		err = proveSame(ctx, card, original.Reference, twin.Reference, s)
	}
	return err
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
