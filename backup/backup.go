package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Options are what Run and the proofs are told.
type Options struct {
	// NoProof leaves the round trip out.
	NoProof bool
	// SpendUse is asked before one use is spent of a key that has a use counter;
	// nil is no.
	SpendUse func(Key) bool
	// Attach are files to be kept with the snapshot, beside those of the one
	// before or in their place; Detach names those to be dropped.
	Attach []store.Attachment
	Detach []string
	// Emptied is asked about a token that holds no key any more, while its newest
	// snapshot brings some back; nil refuses the new one, which would bring none.
	Emptied func(s *store.Snapshot, gone []string) error
	// Head is the beginning of a log entry's hash, in HeadBits bits, as it was
	// noted down; none is 0 bits. Confirm is asked about what came after the anchor
	// and no key vouches for, before the anchor moves; nil is no.
	Head     []byte
	HeadBits int
	Confirm  func(Since) (bool, error)
	// KeepAnchor compares the anchor and leaves it where it is.
	KeepAnchor bool
	// AnchorToken has the head of the catalog written onto the token. A successor
	// gets it if the token that it was before had it.
	AnchorToken bool
	// Recipient is what was typed of the recipient that data is sealed to.
	Recipient Recipient
	// Progress is told what is being done; nil is silence.
	Progress func(what string, done, total int)
	// Also adds to what an offline verification found, before the result is recorded
	// and the anchor moves; nil adds nothing.
	Also func(*Verification, *store.State)
	// Cleaned is told of each copy that an interrupted proof had left behind, when it
	// is deleted, whatever comes of the rest; nil is silence.
	Cleaned func(what string)
	// Program is recorded with the snapshot.
	Program string
	// SuccessorOf is the serial that the token had before a firmware update, to
	// be recorded with the snapshot.
	SuccessorOf string
}

// gapPKA names in a snapshot what no backup can keep of public key
// authentication.
const gapPKA = "public key authentication"

func (o Options) cleaned(list []string) {
	for _, what := range list {
		if o.Cleaned != nil {
			o.Cleaned(what)
		}
	}
}

func (o Options) progress(what string, done, total int) {
	if o.Progress != nil {
		o.Progress(what, done, total)
	}
}

// Report is what a backup did.
type Report struct {
	Snapshot *store.Snapshot
	// Keys are judged after the proofs.
	Keys []KeyCoverage
	// Behind: the backup of this token was re-keyed before, and the token still
	// has the old recovery key; nil for all others.
	Behind *Behind
	// Head is the last log entry; its hash as words is an anchor.
	Head store.Entry
	// Cleaned names the copies that an interrupted proof had left behind.
	Cleaned []string
	// Spent are the uses that it cost keys with a use counter.
	Spent []Spent

	seen *Evidence
}

// Complete tells whether every key is covered or accepted and nothing was left
// out of the snapshot.
func (r *Report) Complete() bool { return Complete(r.Keys) && len(r.Snapshot.Missing) == 0 }

// Run takes a snapshot of a token that is logged in, and proves each new blob
// by round trip. A blob of an earlier snapshot is kept when the key and all
// that belongs to it are the same and the blob was proven. On an error of class
// Failed nothing was recorded; Changed means that a snapshot was, or that a
// copy is left on the token, and that the next run goes on from there.
func Run(ctx context.Context, card *schsm.Card, cat *store.Catalog, o Options) (*Report, error) {
	inv, err := Take(ctx, card)
	if err != nil {
		return nil, err
	}
	if err := backable(inv); err != nil {
		return nil, err
	}
	if err := underUpdate(inv, cat); err != nil {
		return nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	if s, gone := Vanished(inv, state); len(inv.Keys) == 0 && len(gone) > 0 {
		err := KeysGone(inv.Serial, s, gone)
		if o.Emptied != nil {
			err = o.Emptied(s, gone)
		}
		if err != nil {
			return nil, err
		}
	}
	h := newHistory(state)
	attached, lost, err := h.attachments(inv.Serial, o)
	if err != nil {
		return nil, err
	}
	_, had := state.TokenAnchors[o.SuccessorOf]
	anchor := o.AnchorToken || had
	if anchor {
		if err := mayAnchor(state, inv); err != nil {
			return nil, err
		}
	}
	r := &Report{}
	trip := &roundTrip{card: card, serial: inv.Serial, journal: cat.Journal(), newest: state.Newest(inv.Serial)}
	r.Cleaned, err = trip.cleanUp(ctx, inv)
	if o.cleaned(r.Cleaned); err != nil {
		return nil, err
	}
	if len(r.Cleaned) > 0 {
		if inv, err = Take(ctx, card); err != nil {
			return nil, fail.After(err)
		}
	}
	if r.seen, err = Ask(ctx, card, inv, state, o); err != nil {
		return nil, err
	}
	h.seen, trip.seen, r.Spent = r.seen, r.seen, r.seen.spent
	recipient, why, err := recipientOf(inv, cat, o.Recipient)
	if err != nil {
		return nil, err
	}
	if r.Snapshot, err = photograph(ctx, card, inv, h, o); err != nil {
		return nil, err
	}
	if err := sealProtected(ctx, card, inv, r.seen, recipient, why, r.Snapshot); err != nil {
		return nil, err
	}
	r.Snapshot.Attachments, r.Snapshot.Missing = attached, append(r.Snapshot.Missing, lost...)
	// The token must be now what it was when it was read.
	if again, err := Take(ctx, card); err != nil {
		return nil, err
	} else if !inv.same(again) {
		return nil, fail.Failf("token-changed", "let the other program finish and run `hsmbackup backup` again", "the token's contents changed while they were read")
	}
	if err := cat.AddSnapshot(ctx, r.Snapshot); err != nil {
		return nil, err
	}
	if !o.NoProof {
		if err := proveSnapshot(ctx, trip, cat, inv, r.Snapshot, h, o); err != nil {
			return nil, fail.After(err)
		}
	}
	if err := r.judge(inv, cat); err != nil {
		return nil, fail.After(err)
	}
	if anchor {
		if r.Head, err = writeAnchor(ctx, card, cat, inv); err != nil {
			return nil, fail.After(err)
		}
	}
	return r, nil
}

// KeysGone refuses a snapshot of a token that holds no key any more.
func KeysGone(serial string, s *store.Snapshot, gone []string) error {
	return fail.Refusef("keys-gone", "`hsmbackup restore` puts them back; if they were deleted for good: `hsmbackup backup --confirm "+serial+"`",
		"%s holds no key any more, and snapshot %s brings back %s; a new one would be the newest, and bring back none", serial, s.ID, strings.Join(gone, ", "))
}

// judge judges all keys anew, and notes in the catalog what they answered.
func (r *Report) judge(inv *Inventory, cat *store.Catalog) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	h := newHistory(state)
	h.seen = r.seen
	if a := h.record(inv); len(a.Keys) > 0 {
		if err := cat.Append(a); err != nil {
			return err
		}
		if state, err = cat.Read(); err != nil {
			return err
		}
	}
	r.Keys, r.Behind, r.Head = Cover(inv, state, r.seen), BehindRekey(inv, state), state.Head
	return nil
}

// backable refuses tokens of which a snapshot would be worth nothing.
func backable(inv *Inventory) error {
	switch {
	case !inv.Initialised:
		return fail.Failf("not-initialised", "`hsmbackup init` sets it up; `hsmbackup restore --init` does so and restores", "the token is not initialised, there is nothing to back up")
	case inv.Serial == "":
		return fail.Failf("no-serial", "it cannot be told from another; only tokens with a device certificate can be backed up", "the token shows no device certificate to read a serial number from")
	}
	return nil
}

// photograph exports every key and puts the snapshot together.
func photograph(ctx context.Context, card *schsm.Card, inv *Inventory, h *history, o Options) (*store.Snapshot, error) {
	s := &store.Snapshot{Program: o.Program, Token: inv.token()}
	s.Token.SuccessorOf = o.SuccessorOf
	var err error
	if s.Token.PINTries, err = card.PINSetUp(ctx); err != nil {
		return nil, err
	}
	for i, k := range inv.Keys {
		o.progress("exporting "+k.Name(), i, len(inv.Keys))
		stored, err := export(ctx, card, h, k)
		if err != nil {
			return nil, err
		}
		s.Keys = append(s.Keys, *stored)
	}
	o.progress("exported", len(inv.Keys), len(inv.Keys))
	for _, f := range inv.Files {
		s.Files = append(s.Files, store.File{FID: fmt.Sprintf("%04x", uint16(f.FID)), Content: f.Content})
	}
	if inv.PKA != nil {
		s.Missing = append(s.Missing, store.Gap{What: gapPKA, Reason: registrations(*inv.PKA)})
	}
	return s, nil
}

// registrations says what no backup brings back of public key authentication.
func registrations(p schsm.PKA) string {
	who := "the token does not tell which"
	if len(p.Holders) > 0 {
		who = strings.Join(p.Holders, ", ")
	}
	return fmt.Sprintf("%d of %d keys are registered (%s), %d must log in together: after a restore the token must be set up for it and they must be registered anew", p.Total-p.Missing, p.Total, who, p.Required)
}

// export gives the record of one key, with its blob if it can be had.
func export(ctx context.Context, card *schsm.Card, h *history, k Key) (*store.Key, error) {
	stored := &store.Key{
		Reference: int(k.Reference), ID: k.ID, Label: k.Label, Usage: uint32(k.Usage),
		Algorithms: k.Info.Algorithms, Counter: k.Info.Counter, Domain: k.Info.Domain, KCV: k.KCV,
		Description: k.Description, Certificate: k.Certificate, Reason: k.NotExportable,
	}
	if stored.Reason == "" {
		if kept := h.reusable(k); kept != nil {
			stored.Blob, stored.CheckValue = kept.Blob, kept.CheckValue
		} else if err := exportNew(ctx, card, &k, stored, h.seen); err != nil {
			return nil, err
		}
	}
	stored.Type = k.Type
	if k.Public != nil {
		stored.PublicKey, stored.PublicFrom = k.Public.SPKI(), k.PublicFrom
	}
	return stored, nil
}

// exportNew has the token wrap a key and makes sure that what is kept beside
// the blob belongs to it. A refusal of the token is a reason, not an error.
func exportNew(ctx context.Context, card *schsm.Card, k *Key, stored *store.Key, seen *Evidence) error {
	blob, err := card.Wrap(ctx, k.Reference)
	if isTransport(err) {
		return err
	}
	if err != nil {
		stored.Reason = refusal(err)
		return nil
	}
	if kind := kindOf(blob); kind != 0 && kind != k.Kind {
		k.disown(kind)
	}
	if err := checkBlob(blob, *k); err != nil {
		return fail.Failf("bad-blob", "run again; if it stays, the reader may cut long answers", "%s: what the token exported does not fit the key: %v", k.Name(), err)
	}
	stored.Blob = blob
	if k.Public != nil && seen.asked(k.Reference) && !seen.isPublic(*k) {
		k.disown(k.Kind) // a restore goes by the public key, so it must be this key's
	}
	if k.Public == nil {
		stored.CheckValue = seen.answers[k.Reference].value
	}
	return nil
}

// refusal puts the status word of WRAP into a reason.
func refusal(err error) string {
	switch {
	case errors.Is(err, apdu.ErrNotSelected):
		return reasonNoDKEK
	case errors.Is(err, apdu.ErrConditions), errors.Is(err, apdu.ErrNotFound), errors.Is(err, apdu.ErrNotAuthorised):
		return "the token refuses to export it: made without a DKEK, or before the token had one"
	}
	return fmt.Sprintf("the token refuses to export it (%v)", err)
}

// checkBlob reads back what the token exported: a blob whose header parses,
// under the key domain's KCV, of the key's kind and with its list.
func checkBlob(blob []byte, k Key) error {
	b, err := dkek.ParseBlob(blob)
	switch {
	case err != nil:
		return err
	case k.KCV != "" && b.KCV.String() != k.KCV:
		return fmt.Errorf("it is under the recovery key %s, the token has %s", b.KCV, k.KCV)
	case k.Kind != 0 && b.Type.Kind() != k.Kind:
		return fmt.Errorf("it is %s, the key is %s", b.Type, k.Kind)
	case !bytes.Equal(b.Algorithms, k.Info.Algorithms):
		return errors.New("its list of allowed algorithms is another than the key's")
	}
	return nil
}

// reusable finds the newest proven blob of this very key, so that an unchanged
// key is not exported anew each time. A key without a public key that it answered
// as is always exported; one with a use counter that was not asked must look in
// all as it did, with no more uses left than there were.
func (h *history) reusable(k Key) *store.Key {
	if k.Public == nil {
		return nil
	}
	for _, s := range slices.Backward(h.Snapshots) {
		for i := range s.Keys {
			stored := &s.Keys[i]
			if _, proven := h.proofs[store.HashOf(stored.Blob)]; len(stored.Blob) == 0 || !proven || stored.KCV != k.KCV ||
				!bytes.Equal(stored.PublicKey, k.Public.SPKI()) || !bytes.Equal(stored.Algorithms, k.Info.Algorithms) {
				continue
			}
			left := k.Info.Counter
			if h.seen.isPublic(k) || !h.seen.asked(k.Reference) && left != nil && s.Token.Serial == h.seen.serial && stored.Counter != nil && *left <= *stored.Counter &&
				stored.Reference == int(k.Reference) && bytes.Equal(stored.Description, k.Description) && bytes.Equal(stored.Certificate, k.Certificate) {
				return stored
			}
		}
	}
	return nil
}

// proveSnapshot proves the blobs of a snapshot that are not proven yet, and
// records each result at once: an interrupt loses none.
func proveSnapshot(ctx context.Context, trip *roundTrip, cat *store.Catalog, inv *Inventory, s *store.Snapshot, h *history, o Options) error {
	for i := range s.Keys {
		stored := &s.Keys[i]
		if len(stored.Blob) == 0 {
			continue
		}
		if _, ok := h.proofs[store.HashOf(stored.Blob)]; ok {
			continue
		}
		o.progress("proving "+keyName(stored.Label, stored.Reference), i, len(s.Keys))
		p, err := trip.proveStored(ctx, inv, s, stored)
		if err != nil {
			return err
		}
		if err := cat.RecordProofs([]store.Proof{p}); err != nil {
			return err
		}
	}
	o.progress("proven", len(s.Keys), len(s.Keys))
	return nil
}

// proveStored proves one stored blob against the key it came from.
func (r *roundTrip) proveStored(ctx context.Context, inv *Inventory, s *store.Snapshot, stored *store.Key) (store.Proof, error) {
	p := store.Proof{Snapshot: s.ID, Reference: stored.Reference, Blob: store.HashOf(stored.Blob), Kind: store.ProofRoundTrip, Token: inv.Serial}
	original, ok := r.original(inv, stored)
	if !ok {
		p.Reason, p.Untried = "the key is no longer on this token", true
		return p, nil
	}
	if len(stored.PublicKey) == 0 {
		original.disown(kindOf(stored.Blob))
	}
	err := r.prove(ctx, original, stored)
	var untried *untriedError
	switch p.Untried = errors.As(err, &untried); {
	case err == nil:
		p.OK = true
	case isTransport(err), fail.ClassOf(err) == fail.Changed: // the copy is still there, or its note
		return p, err
	default:
		p.Reason = err.Error()
	}
	return p, nil
}

// original finds the key on the token that a stored one was made from: the one
// at its reference, else, of a key that was moved, any that is the same. What
// answered in this run tells; of one that was not asked, what stands beside it.
func (r *roundTrip) original(inv *Inventory, stored *store.Key) (Key, bool) {
	h := &history{seen: r.seen}
	var found *Key
	for i, k := range inv.Keys {
		here := int(k.Reference) == stored.Reference
		if h.isSame(k, stored, here) && (found == nil || here) {
			found = &inv.Keys[i]
		}
	}
	if found == nil {
		return Key{}, false
	}
	return *found, true
}
