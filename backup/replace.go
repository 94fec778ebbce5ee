package backup

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// A key takes the place of another one in steps of which none can lose anything:
// the new key is unwrapped to a free reference and used there; only then the old
// one, which a backup covers, is deleted; the new key is unwrapped to its place,
// used, described, read back; the copy at the free reference goes last.

// replaceNote is what the journal says of a replacement under way.
type replaceNote struct {
	Snapshot  string     `json:"snapshot"`
	Reference byte       `json:"reference"`
	Blob      store.Hash `json:"blob"` // of the new key
	// Helper is the free reference.
	Helper byte `json:"helper"`
	// Step is the one that may have begun.
	Step replaceStep `json:"step"`
}

type replaceStep string

const (
	stepHelper replaceStep = "helper" // the new key comes to the free reference
	stepClear  replaceStep = "clear"  // the old one goes
	stepPlace  replaceStep = "place"  // the new key comes to its place
)

func replaceNotes(serial string) string { return "replace/" + serial + "/" }

func (r *restorer) replaceKey(reference byte) string {
	return fmt.Sprintf("%s%d", replaceNotes(r.serial), reference)
}

// replaces tells whether a key may take the place of another one.
func (o RestoreOptions) replaces(k store.Key) bool {
	if k.Reference == 0 {
		return slices.Contains(o.ReplaceBlobs, store.HashOf(k.Blob))
	}
	return slices.Contains(o.Replace, byte(k.Reference))
}

// replace decides about keys that are to take the place of others: what is in
// the way must be covered by a backup. A replacement that was cut off is
// finished.
func (p *Plan) replace(inv *Inventory, o RestoreOptions) error {
	for i := range p.Items {
		item := &p.Items[i]
		if o.Journal != nil {
			var n replaceNote
			found, err := o.Journal.Get(fmt.Sprintf("%s%d", replaceNotes(inv.Serial), item.Reference), &n)
			if err != nil {
				return err
			}
			if found && n.Blob == store.HashOf(item.Key.Blob) && len(item.Key.Blob) > 0 {
				item.Action, item.Reason = WouldReplace, "a replacement that was cut off is finished"
				p.Resumed = true
				continue
			}
		}
		if item.Action != Conflict || !o.replaces(item.Key) {
			continue
		}
		what, why, err := replaceable(inv, o.Catalog, item.Reference)
		switch {
		case err != nil:
			return err
		case why != "":
			item.Reason += "; it is not replaced: " + why
		default:
			item.Action, item.Reason = WouldReplace, what+" goes; a backup covers it"
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
		coverage, reason := newHistory(state).cover(inv, *here.key)
		if coverage != Covered {
			why = fmt.Sprintf("it is %s (%s); `hsmbackup backup` first", coverage, orNone(reason))
		}
		return here.key.Name(), why, nil
	}
	newest := state.Newest(inv.Serial)
	for _, f := range inv.Files {
		if (f.FID == schsm.DescriptionFile(reference) || f.FID == schsm.CertificateFile(reference)) && !holdsFile(newest, f) {
			why = fmt.Sprintf("file %s is in no snapshot; `hsmbackup backup` first", f.FID)
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

// replace carries a replacement out, or goes on with one.
func (r *restorer) replace(ctx context.Context, item Item, taken []byte) (KeyProof, error) {
	k := &item.Key
	proof := proofOf(k, store.ProofRestored)
	proof.Reference = int(item.Reference)
	if r.journal == nil {
		proof.Reason = "without a journal no key is replaced"
		return proof, nil
	}
	var n replaceNote
	found, err := r.journal.Get(r.replaceKey(item.Reference), &n)
	if err != nil {
		return proof, err
	}
	if found && n.Blob != store.HashOf(k.Blob) {
		proof.Reason = "the replacement of another key at this reference is not finished: restore that one first"
		return proof, nil
	}
	if !found || n.Step == stepHelper {
		if reason, err := r.toHelper(ctx, item, &n, found, taken); err != nil || reason != "" {
			proof.Reason = reason
			return proof, err
		}
	}
	if n.Step != stepPlace {
		if reason, err := r.clear(ctx, item, &n); err != nil || reason != "" {
			proof.Reason = reason
			return proof, err
		}
	}
	if reason, err := r.place(ctx, item, &n); err != nil || reason != "" {
		proof.Reason = reason
		return proof, err
	}
	if err := r.card.Confirm(ctx); err != nil {
		return proof, err
	}
	if err := r.card.DeleteFileIfThere(ctx, schsm.KeyFile(n.Helper)); err != nil {
		return proof, err
	}
	if err := r.journal.Delete(r.replaceKey(item.Reference)); err != nil {
		return proof, err
	}
	proof.OK = true
	return proof, nil
}

// toHelper brings the new key to a free reference and uses it there. Until that
// is done nothing is deleted but what it made itself. The reason says why there
// will be no replacement.
func (r *restorer) toHelper(ctx context.Context, item Item, n *replaceNote, resumed bool, taken []byte) (reason string, err error) {
	k := &item.Key
	if resumed {
		inv, err := Take(ctx, r.card)
		if err != nil {
			return "", err
		}
		here := inv.at(n.Helper)
		switch {
		case here.key == nil:
			resumed = false // it never came there
		case !here.free() || r.prove(ctx, k, n.Helper) != nil:
			resumed = false // not ours: it stays
		default:
			return "", nil
		}
	}
	helper, err := freeReference(ctx, r.card, taken...)
	if err != nil {
		return "", err
	}
	if helper == 0 {
		return "the token has no free reference to prove the new key at before the old one goes", nil
	}
	*n = replaceNote{Snapshot: r.snapshot, Reference: item.Reference, Blob: store.HashOf(k.Blob), Helper: helper, Step: stepHelper}
	if err := r.card.Confirm(ctx); err != nil {
		return "", err
	}
	if err := r.journal.Put(r.replaceKey(item.Reference), n); err != nil {
		return "", err
	}
	giveUp := func(why string) (string, error) {
		if err := r.card.DeleteFileIfThere(ctx, schsm.KeyFile(helper)); err != nil {
			return "", err
		}
		return why + "; the key that is there stays", r.journal.Delete(r.replaceKey(item.Reference))
	}
	if err := r.card.Unwrap(ctx, helper, k.Blob); err != nil {
		refused, err := r.refused(KeyProof{}, err)
		if err != nil {
			return "", err
		}
		return giveUp(refused.Reason)
	}
	if err := r.prove(ctx, k, helper); err != nil {
		if isTransport(err) {
			return "", err
		}
		return giveUp(fmt.Sprintf("its key blob was not shown to be this key: %v", err))
	}
	return "", nil
}

// clear deletes what is in the way, which a backup must cover still.
func (r *restorer) clear(ctx context.Context, item Item, n *replaceNote) (reason string, err error) {
	inv, err := Take(ctx, r.card)
	if err != nil {
		return "", err
	}
	// Once the key is gone, what is left of it was covered with it.
	if n.Step == stepHelper || inv.at(item.Reference).key != nil {
		_, why, err := replaceable(inv, r.catalog, item.Reference)
		if err != nil {
			return "", err
		}
		if why != "" {
			return "what is in the way is not replaced: " + why, nil
		}
	}
	n.Step = stepClear
	if err := r.journal.Put(r.replaceKey(item.Reference), n); err != nil {
		return "", err
	}
	for _, f := range []schsm.FID{schsm.KeyFile(item.Reference), schsm.DescriptionFile(item.Reference), schsm.CertificateFile(item.Reference)} {
		if err := r.card.Confirm(ctx); err != nil {
			return "", err
		}
		if err := r.card.DeleteFileIfThere(ctx, f); err != nil {
			return "", err
		}
	}
	n.Step = stepPlace
	return "", r.journal.Put(r.replaceKey(item.Reference), n)
}

// place brings the new key to its place.
func (r *restorer) place(ctx context.Context, item Item, n *replaceNote) (reason string, err error) {
	k := &item.Key
	inv, err := Take(ctx, r.card)
	if err != nil {
		return "", err
	}
	if inv.at(item.Reference).key == nil {
		if err := r.card.Confirm(ctx); err != nil {
			return "", err
		}
		if err := r.card.Unwrap(ctx, item.Reference, k.Blob); err != nil {
			refused, err := r.refused(KeyProof{}, err)
			return refused.Reason, err
		}
	}
	if err := r.prove(ctx, k, item.Reference); err != nil {
		if isTransport(err) {
			return "", err
		}
		return fmt.Sprintf("what is at reference %d was not shown to be this key (%v); it is at reference %d, without a description", item.Reference, err, n.Helper), nil
	}
	for _, f := range []struct {
		fid     schsm.FID
		content []byte
	}{{schsm.DescriptionFile(item.Reference), k.Description}, {schsm.CertificateFile(item.Reference), k.Certificate}} {
		if err := r.put(ctx, f.fid, f.content); err != nil {
			refused, err := r.refused(KeyProof{}, err)
			return refused.Reason, err
		}
	}
	return "", nil
}
