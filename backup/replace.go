package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// A key takes the place of another one in steps of which none can lose anything:
// the new key is unwrapped to a free reference and used there; only then the old
// one, which a backup covers, is deleted; the new key is unwrapped to its place,
// used, described, read back; the copy at the free reference goes last.

// replaces tells whether a key may take the place of another one.
func (o RestoreOptions) replaces(k store.Key) bool {
	if k.Reference == 0 {
		return slices.Contains(o.ReplaceBlobs, store.HashOf(k.Blob))
	}
	return slices.Contains(o.Replace, byte(k.Reference))
}

// replace decides about keys that are to take the place of others: what is in
// the way must come back from a backup. Whether the key there is the one that was
// backed up, it is asked once somebody is logged in.
func (p *Plan) replace(inv *Inventory, o RestoreOptions) error {
	for i := range p.Items {
		item := &p.Items[i]
		if item.Action != Conflict || !o.replaces(item.Key) {
			continue
		}
		what, why, err := replaceable(inv, o.Catalog, item.Reference)
		if cannot := cannotTake(inv, item.Key); cannot != "" {
			why = cannot
		}
		switch {
		case err != nil:
			return err
		case why != "":
			item.Reason += "; it is not replaced: " + why
		default:
			item.Action, item.Reason = WouldReplace, what+" goes; a backup has it"
		}
	}
	return nil
}

// replaceable names what is at a reference, and says why it must not go.
func replaceable(inv *Inventory, cat *store.Catalog, reference byte) (what, why string, err error) {
	here := inv.at(reference)
	state, err := cat.Read()
	if err != nil {
		return "", "", err
	}
	if here.key != nil {
		if c := newHistory(state).cover(inv, *here.key); c.stored == nil {
			why = fmt.Sprintf("it is %s (%s); `hsmbackup backup` first", c.Coverage, orNone(c.Reason))
		}
		return here.key.Name(), why, nil
	}
	for _, f := range inv.Files {
		if f.FID != schsm.DescriptionFile(reference) && f.FID != schsm.CertificateFile(reference) {
			continue
		}
		if kept := keptFile(state.Now(inv.Serial), f); kept != "" && !isRequest(f.Content) {
			why = kept + "; `hsmbackup backup` first"
		}
	}
	return fmt.Sprintf("a description or certificate without key at reference %d", reference), why, nil
}

// misplaced tells whether what stands in a description's place is the key's own
// certificate or request, where sc-hsm-tool writes it if there was no
// description.
func misplaced(description []byte, k store.Key) bool {
	if len(description) == 0 {
		return false
	}
	if _, err := pkcs15.ParseKey(description); err == nil {
		return false
	}
	if len(k.Certificate) > 0 && begun(description, k.Certificate) {
		return true
	}
	public, _ := publicKey(description)
	return public != nil && bytes.Equal(public.SPKI(), k.PublicKey)
}

// replace carries a replacement out. Where it stands shows on the token alone, so
// that the same command goes on with one that was cut off.
func (r *restorer) replace(ctx context.Context, item Item, taken []byte) (KeyProof, error) {
	proof := proofOf(&item.Key, store.ProofRestored)
	proof.Reference = int(item.Reference)
	helper, made, reason, err := r.toHelper(ctx, item, taken)
	if err == nil && reason == "" {
		if reason, err = r.clear(ctx, item); reason != "" || fail.ClassOf(err) == fail.Refused {
			if _, there := r.card.Key(ctx, item.Reference); there == nil { // the old key stays
				err = errors.Join(err, made.Remove(ctx, r.card))
			}
		}
	}
	if err == nil && reason == "" {
		reason, err = r.place(ctx, item, helper)
	}
	if err != nil || reason != "" {
		proof.Reason = reason
		return proof, err
	}
	inv, err := Take(ctx, r.card)
	if err != nil {
		return proof, err
	}
	placed, twin := inv.at(item.Reference).key, inv.at(helper).key
	if placed != nil && twin != nil {
		if err := removeTwin(ctx, r.card, *placed, *twin); err != nil {
			return proof, err
		}
	}
	proof.OK = true
	return proof, nil
}

// toHelper brings the new key to a free reference and uses it there. Until that
// is done nothing is deleted but what it made itself. The reason says why there
// will be no replacement.
func (r *restorer) toHelper(ctx context.Context, item Item, taken []byte) (helper byte, made Made, reason string, err error) {
	k := &item.Key
	inv, err := Take(ctx, r.card)
	if err != nil {
		return 0, made, "", err
	}
	for _, here := range inv.Keys { // of a run that was cut off
		if here.Description != nil || here.Certificate != nil || here.Info.Counter != nil || here.Reference == item.Reference {
			continue
		}
		switch err := proveRecord(ctx, r.card, here.Reference, k); {
		case err == nil:
			return here.Reference, made, "", nil
		case isTransport(err):
			return 0, made, "", err
		}
	}
	if helper, err = freeReference(ctx, r.card, taken...); err != nil {
		return 0, made, "", err
	}
	if helper == 0 {
		return 0, made, "the token has no free reference to prove the new key at before the old one goes", nil
	}
	made, err = unwrapNew(ctx, r.card, helper, k.Blob)
	if err == nil {
		err = proveRecord(ctx, r.card, helper, k)
	}
	if err == nil {
		return helper, made, "", nil
	}
	if isTransport(err) {
		return 0, made, "", err
	}
	if refused, stop := r.refused(KeyProof{}, err); stop == nil {
		reason = refused.Reason
	} else {
		reason = fmt.Sprintf("its key blob was not shown to be this key: %v", err)
	}
	return 0, Made{}, reason + "; the key that is there stays", made.Remove(ctx, r.card)
}

// clear deletes what is in the way, once it was seen that it comes back.
func (r *restorer) clear(ctx context.Context, item Item) (reason string, err error) {
	inv, err := Take(ctx, r.card)
	if err != nil {
		return "", err
	}
	if here := inv.at(item.Reference); here.key == nil {
		state, err := r.catalog.Reread()
		if err != nil {
			return "", err
		}
		for _, f := range item.files() {
			kept := func(content []byte) bool {
				return isRequest(content) || keptFile(state.Now(r.serial), File{f.fid, content}) == ""
			}
			if err := removeRest(ctx, r.card, f.fid, f.content, kept); err != nil {
				return "", err
			}
		}
		return "", nil
	}
	if err := r.cleanTwins(ctx, inv); err != nil {
		return "", err
	}
	if inv, err = Take(ctx, r.card); err != nil {
		return "", err
	}
	w, lost, err := r.leave(ctx, inv, item.Reference)
	if err != nil || len(lost) > 0 {
		return "what is in the way is not replaced: " + strings.Join(lost, "; "), err
	}
	for _, f := range []schsm.FID{schsm.KeyFile(item.Reference), schsm.DescriptionFile(item.Reference), schsm.CertificateFile(item.Reference)} {
		if err := w.remove(ctx, r.card, f); err != nil {
			return "", err
		}
	}
	return "", nil
}

// leave has the key in the way answer, and its blob come back beside it.
func (r *restorer) leave(ctx context.Context, inv *Inventory, reference byte) (Warrant, []string, error) {
	state, err := r.catalog.Reread()
	if err != nil {
		return Warrant{}, nil, err
	}
	e := newEvidence(inv)
	newest := state.Now(inv.Serial)
	if err := e.ask(ctx, r.card, *inv.at(reference).key, newest, r.replacing.SpendUse); err != nil {
		return Warrant{}, nil, err
	}
	if newest != nil {
		e.combine(newest.Token.Domains, r.replacing.Shares, newest)
	}
	if r.replacing.SharesChecked != "" {
		if err := e.typeKCV(inv, state, r.replacing.SharesChecked); err != nil {
			return Warrant{}, nil, err
		}
	}
	if err := e.prove(ctx, r.card, r.catalog, inv, []byte{reference}, Options{}); err != nil {
		return Warrant{}, nil, err
	}
	w, lost, _, err := e.warrant(ctx, inv, r.catalog, []byte{reference}, r.replacing.Consent)
	return w, lost, err
}

// cleanTwins deletes second copies of described keys, which a proof or a
// replacement that was cut off left behind.
func (r *restorer) cleanTwins(ctx context.Context, inv *Inventory) error {
	trip := &roundTrip{card: r.card, serial: r.serial, journal: r.catalog.Journal()}
	_, err := trip.cleanUp(ctx, inv)
	return err
}

// place brings the new key to its place.
func (r *restorer) place(ctx context.Context, item Item, helper byte) (reason string, err error) {
	made, err := unwrapNew(ctx, r.card, item.Reference, item.Key.Blob)
	if err != nil {
		refused, err := r.refused(KeyProof{}, err)
		return refused.Reason, err
	}
	if err := proveRecord(ctx, r.card, item.Reference, &item.Key); err != nil {
		if isTransport(err) {
			return "", err
		}
		return fmt.Sprintf("what is at reference %d was not shown to be this key (%v); it is at reference %d, without a description", item.Reference, err, helper), nil
	}
	for _, f := range item.files() {
		if err := r.put(ctx, f.fid, f.content, made.came(f.fid)); err != nil {
			refused, err := r.refused(KeyProof{}, err)
			return refused.Reason, err
		}
	}
	return "", nil
}
