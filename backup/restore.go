package backup

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// RestoreReport is what a restore did and what it proved.
type RestoreReport struct {
	Plan *Plan
	// Keys are proofs of kind restored, in the order of the plan.
	Keys []KeyProof
	// Files are the plan's, with what came of each.
	Files []FileResult
	// LabelKept is the token's label where it has one of its own.
	LabelKept string
	// SetUp is the plan's, and what shows after a login only.
	SetUp []string
	// NotRecorded says why the result is not in the log.
	NotRecorded string
}

// FileResult is what came of one file.
type FileResult struct {
	FileItem
	OK bool
}

// Complete tells whether everything of the snapshot is on the token and every
// key was used.
func (r *RestoreReport) Complete() bool {
	return r.Plan.Fits() && Restored(r)
}

// Restored tells whether every key and file of the plan is on the token and was
// used; what the snapshot itself could not keep does not count.
func Restored(r *RestoreReport) bool {
	for _, k := range r.Keys {
		if !k.OK {
			return false
		}
	}
	for _, f := range r.Files {
		if !f.OK {
			return false
		}
	}
	return len(r.Keys) == len(r.Plan.Items) && len(r.Files) == len(r.Plan.Files)
}

func restoreNotes(serial string) string { return "restore/" + serial + "/" }

// restoreNote is what the journal says before a key is unwrapped.
type restoreNote struct {
	Snapshot  string     `json:"snapshot"`
	Reference byte       `json:"reference"`
	Blob      store.Hash `json:"blob"`
}

type restorer struct {
	card     *schsm.Card
	serial   string
	snapshot string // its ID
	journal  *store.Journal
	// For replacements: what covers the old key, and what this run has for that.
	catalog   *store.Catalog
	replacing Replacing
}

func (r *restorer) note(reference byte) string {
	return fmt.Sprintf("%s%d", restoreNotes(r.serial), reference)
}

// Restore plays a plan back onto a token that is logged in. It makes the plan
// again and refuses if the token has changed since; each key is unwrapped, used
// against its stored public key, described, and read back. Nothing is deleted
// but what this or an earlier run of it had begun. cat may be nil or read-only.
// An error of class Changed leaves a token that the next run goes on with.
func Restore(ctx context.Context, card *schsm.Card, cat *store.Catalog, p *Plan, o RestoreOptions) (*RestoreReport, error) {
	now, err := MakePlan(ctx, card, p.Snapshot, o)
	if err != nil {
		return nil, err
	}
	if !p.sameAs(now) {
		return nil, fail.Failf("token-changed", "look at the new plan and run again", "the token is not any more what the plan was made for")
	}
	for _, problem := range now.Problems {
		return nil, &fail.Error{Class: fail.Failed, Code: problem.Code, Message: problem.Message, Hint: problem.Hint}
	}
	r := &restorer{card: card, serial: now.Serial, snapshot: now.Snapshot.ID, journal: o.Journal, catalog: o.Catalog, replacing: o.Replacing}
	report := &RestoreReport{Plan: now}
	progress := Options{Progress: o.Progress}.progress
	touched := false
	fail := func(err error) (*RestoreReport, error) {
		if touched {
			err = fail.After(err)
		}
		return report, err
	}
	for i, item := range now.Items {
		progress("restoring "+keyName(item.Key.Label, item.Key.Reference), i, len(now.Items))
		if item.Action.Writes() {
			touched = true
		}
		var proof KeyProof
		if item.Action == WouldReplace {
			proof, err = r.replace(ctx, item, now.references())
		} else {
			proof, err = r.restoreKey(ctx, item)
		}
		report.Keys = append(report.Keys, proof)
		if err != nil {
			return fail(err)
		}
	}
	if len(o.Replace)+len(o.ReplaceBlobs) > 0 {
		inv, err := Take(ctx, card)
		if err == nil {
			err = r.cleanTwins(ctx, inv)
		}
		if err != nil {
			return fail(err)
		}
	}
	progress("restored", len(now.Items), len(now.Items))
	for _, f := range now.Files {
		if f.Action.Writes() {
			touched = true
		}
		result, err := r.restoreFile(ctx, f, o.OpenData)
		report.Files = append(report.Files, result)
		if err != nil {
			return fail(err)
		}
	}
	if o.all() {
		if err := r.restoreLabel(ctx, now.Snapshot, report); err != nil {
			return fail(err)
		}
		if err := r.compareSetUp(ctx, report); err != nil {
			return fail(err)
		}
	}
	report.record(cat, now)
	return report, nil
}

// references are those that the keys of the plan go to.
func (p *Plan) references() []byte {
	var list []byte
	for _, i := range p.Items {
		list = append(list, i.Reference)
	}
	return list
}

// sameAs compares the decisions of two plans.
func (p *Plan) sameAs(o *Plan) bool {
	return p.Serial == o.Serial && p.Snapshot.Hash == o.Snapshot.Hash &&
		slices.EqualFunc(p.Items, o.Items, func(a, b Item) bool {
			return a.Action == b.Action && a.Reference == b.Reference && a.Key.Reference == b.Key.Reference
		}) && slices.EqualFunc(p.Files, o.Files, func(a, b FileItem) bool { return a.FID == b.FID && a.Action == b.Action })
}

// restoreKey carries one item out. The error is for what keeps the others from
// being restored too; anything else is in the proof.
func (r *restorer) restoreKey(ctx context.Context, item Item) (KeyProof, error) {
	k := &item.Key
	proof := proofOf(k, store.ProofRestored)
	proof.Reference = int(item.Reference)
	if !item.Action.Done() {
		proof.Reason = item.Reason
		return proof, nil
	}
	// fresh: this run makes it. begun: this or an earlier one did.
	fresh, begun := item.Action == New, false
	if r.journal != nil {
		var note restoreNote
		found, err := r.journal.Get(r.note(item.Reference), &note)
		if err != nil {
			return proof, err
		}
		begun = found && note.Blob == store.HashOf(k.Blob)
	}
	var made Made
	if fresh {
		var err error
		if made, err = r.unwrap(ctx, item); err != nil {
			return r.refused(proof, err)
		}
		begun = true
	}
	// unknown: it was unwrapped from its blob, but nothing can tell more.
	unknown := false
	if err := proveRecord(ctx, r.card, item.Reference, k); err != nil {
		if isTransport(err) {
			return proof, err
		}
		unknown = begun && (errors.Is(err, errNoWay) || errors.Is(err, errNothingKnown))
		proof.Reason = fmt.Sprintf("it is on the token but was not shown to be this key: %v", err)
		if fresh && errors.Is(err, errAnswer) {
			// What was unwrapped here is not the key: it must not stay under
			// its name. What an earlier run may have made may also be somebody's.
			if err := made.Remove(ctx, r.card); err != nil {
				return proof, err
			}
			proof.Reason, proof.Damage = fmt.Sprintf("what its key blob restored is not this key (%v); it was deleted again", err), true
		}
		if !unknown {
			return proof, nil
		}
	}
	if item.Action != Same {
		for _, f := range item.files() {
			if err := r.put(ctx, f.fid, f.content, item.leftBehind(made, f.fid)); err != nil {
				if proof, err = r.refused(proof, err); err != nil || !fresh {
					return proof, err
				}
				return r.undo(ctx, item, made, proof)
			}
		}
	}
	if r.journal != nil {
		if err := r.journal.Delete(r.note(item.Reference)); err != nil {
			return proof, err
		}
	}
	proof.OK = !unknown
	return proof, nil
}

// refused tells an answer that concerns this key alone from what stops the run.
func (r *restorer) refused(proof KeyProof, err error) (KeyProof, error) {
	switch {
	case errors.Is(err, apdu.ErrNoMemory):
		proof.Reason = "the token is full"
	case errors.Is(err, schsm.ErrUnwrapRefused), errors.Is(err, schsm.ErrTooLong), errors.Is(err, errOtherContent), thisAlone(err):
		proof.Reason = err.Error()
	default:
		return proof, err
	}
	return proof, nil
}

// leftBehind tells what may be replaced in a file of a key: what came with the
// key itself, what a deleted key left, and its own certificate in the
// description's place.
func (i Item) leftBehind(made Made, f schsm.FID) func(content []byte) bool {
	return func(content []byte) bool {
		switch {
		case made.made(f):
			return true
		case f.Prefix() == schsm.PrefixDescription:
			return misplaced(content, i.Key)
		}
		return i.Action != Repair && isRequest(content)
	}
}

// undo deletes a key that this run unwrapped from its blob and that the token
// refuses a description or certificate of: no client would find it, or know its
// public key. Nothing is lost by it, the next run begins anew.
func (r *restorer) undo(ctx context.Context, item Item, made Made, proof KeyProof) (KeyProof, error) {
	err := made.Remove(ctx, r.card)
	for _, f := range item.files() {
		if err == nil {
			err = removeRest(ctx, r.card, f.fid, f.content, nil)
		}
	}
	switch {
	case isTransport(err):
		return proof, err
	case err != nil:
		proof.Reason += fmt.Sprintf("; part of it is still there (%v): run again", err)
		return proof, nil
	}
	proof.Reason += "; what had been written of it was deleted again"
	if r.journal != nil {
		return proof, r.journal.Delete(r.note(item.Reference))
	}
	return proof, nil
}

// keyFile is a file that belongs to a key, and what is to be in it.
type keyFile struct {
	fid     schsm.FID
	content []byte
}

// files are those of the key that a plan restores.
func (i Item) files() []keyFile {
	return []keyFile{{schsm.DescriptionFile(i.Reference), i.Key.Description}, {schsm.CertificateFile(i.Reference), i.Key.Certificate}}
}

// takeBack deletes a file that a restore had begun. left says so if the token
// refuses that.
func (r *restorer) takeBack(ctx context.Context, f schsm.FID, content []byte) (left string, err error) {
	if err = removeRest(ctx, r.card, f, content, nil); err != nil && !isTransport(err) {
		return fmt.Sprintf("%s is still there in part (%v): run again", f, err), nil
	}
	return "", err
}

// thisAlone tells answers by which a token refuses one key or file and may take
// the next, such as old tokens to files that are too long for them.
func thisAlone(err error) bool {
	for _, e := range []error{apdu.ErrInternal, apdu.ErrWrongLength, apdu.ErrWrongData, apdu.ErrOffset, apdu.ErrParameters, apdu.ErrAlgorithm} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// unwrap makes the key: intent into the journal, then the command. Right before
// it the token must be the same and the reference free of a key.
func (r *restorer) unwrap(ctx context.Context, item Item) (Made, error) {
	if r.journal != nil {
		if err := r.journal.Put(r.note(item.Reference), restoreNote{r.snapshot, item.Reference, store.HashOf(item.Key.Blob)}); err != nil {
			return Made{}, err
		}
	}
	return unwrapNew(ctx, r.card, item.Reference, item.Key.Blob)
}

// proveRecord uses a key as the one that a record describes: against its public
// key, else against the check value.
func proveRecord(ctx context.Context, card *schsm.Card, reference byte, k *store.Key) error {
	s := subject{allows: schsm.KeyInfo{Algorithms: k.Algorithms}.Allows}
	s.kind, s.bits = kindAndBits(*k)
	if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil {
		s.public = public
		return proveUse(ctx, card, reference, s)
	}
	if len(k.CheckValue) == 0 {
		return errNothingKnown
	}
	return proveValue(ctx, card, reference, s, k.CheckValue)
}

// errNothingKnown: there is nothing to recognise a key by.
var errNothingKnown = errors.New("neither its public key nor an answer of it is in the backup")

// put writes a file and reads it back. What is there already and equal stays;
// anything else goes if it is the beginning of that, or worthless. nil content is
// a file that is not to be.
func (r *restorer) put(ctx context.Context, f schsm.FID, content []byte, worthless func([]byte) bool) error {
	now, err := readIfThere(ctx, r.card, f)
	switch {
	case err != nil:
		return err
	case now == nil && content == nil, now != nil && content != nil && bytes.Equal(now, content):
		return nil
	case now != nil:
		if err := removeRest(ctx, r.card, f, content, worthless); err != nil {
			return err
		}
	}
	if content == nil {
		return nil
	}
	if err := r.card.WriteFile(ctx, f, content); err != nil {
		return err
	}
	now, err = r.card.ReadFile(ctx, f)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, content) {
		return fmt.Errorf("file %s reads back as %d bytes that differ from the %d written: reader or token cut them", f, len(now), len(content))
	}
	return nil
}

func (r *restorer) restoreFile(ctx context.Context, f FileItem, open func([]byte) ([]byte, error)) (FileResult, error) {
	result := FileResult{FileItem: f}
	content := f.Content
	var err error
	switch {
	case f.Action == Same:
	case f.Action != New && f.Action != Repair:
		return result, nil
	case f.Sealed:
		if content, err = open(f.Content); err != nil {
			result.Reason = err.Error()
			return result, nil
		}
		defer clear(content)
		err = r.restoreProtected(ctx, f.FID, content)
	default:
		err = r.put(ctx, f.FID, f.Content, nil)
	}
	switch {
	case err == nil:
		result.OK = true
		return result, nil
	case errors.Is(err, errOtherContent):
		result.Reason = err.Error()
		return result, nil
	case errors.Is(err, apdu.ErrNoMemory):
		result.Reason = "the token is full"
	case thisAlone(err):
		result.Reason = err.Error()
	default:
		return result, err
	}
	left, err := r.takeBack(ctx, f.FID, content)
	if left != "" {
		result.Reason += "; " + left
	}
	return result, err
}

// restoreLabel writes EF 2F03 where the token has none; a label of its own
// stays.
func (r *restorer) restoreLabel(ctx context.Context, s *store.Snapshot, report *RestoreReport) error {
	now, err := r.card.ReadFile(ctx, schsm.FIDTokenInfo)
	switch {
	case errors.Is(err, apdu.ErrNotFound):
		if s.Token.TokenInfo == nil {
			return nil
		}
		return r.put(ctx, schsm.FIDTokenInfo, s.Token.TokenInfo, nil)
	case err != nil:
		return err
	case !bytes.Equal(now, s.Token.TokenInfo):
		report.LabelKept = "one that cannot be read"
		if label, err := pkcs15.ParseTokenInfo(now); err == nil {
			report.LabelKept = label
		}
	}
	return nil
}

// compareSetUp looks at what a restore leaves as it is.
func (r *restorer) compareSetUp(ctx context.Context, report *RestoreReport) error {
	report.SetUp = report.Plan.SetUp
	was := report.Plan.Snapshot.Token.PINTries
	if was < 1 {
		return nil
	}
	is, err := r.card.PINSetUp(ctx)
	switch {
	case isTransport(err):
		return err
	case err == nil && is > 0 && is != was:
		report.SetUp = append(report.SetUp, fmt.Sprintf("its PIN was set up with %d tries, that of the backup with %d", is, was))
	}
	return nil
}

// Record puts a report into the form of the log.
func (r *RestoreReport) Record() store.Restored {
	p := r.Plan
	rec := store.Restored{
		Snapshot: p.Snapshot.ID, From: p.Snapshot.Token.Serial, Token: p.Serial, Complete: r.Complete(),
		Keys: []store.RestoredKey{}, Files: []store.RestoredFile{}, Missing: append([]store.Gap{}, p.Snapshot.Missing...),
	}
	for i, k := range r.Keys {
		item := &p.Items[i]
		out := store.RestoredKey{
			Reference: item.Key.Reference, At: int(item.Reference), Label: k.Label, ID: hex.EncodeToString(k.ID), Type: k.Type,
			Action: string(item.Action), OK: k.OK, Reason: k.Reason,
		}
		if len(item.Key.PublicKey) > 0 {
			out.PublicKey = store.HashOf(item.Key.PublicKey)
		}
		rec.Keys = append(rec.Keys, out)
	}
	for _, f := range r.Files {
		rec.Files = append(rec.Files, store.RestoredFile{FID: f.FID.String(), Action: string(f.Action), OK: f.OK, Reason: f.Reason})
	}
	return rec
}

func (r *RestoreReport) record(cat *store.Catalog, p *Plan) {
	if cat == nil {
		r.NotRecorded = "there is no catalog"
		return
	}
	var proofs []store.Proof
	for i, k := range r.Keys {
		if blob := p.Items[i].Key.Blob; len(blob) > 0 && p.Items[i].Action.Done() {
			proof := store.Proof{Snapshot: p.Snapshot.ID, Reference: p.Items[i].Key.Reference, Blob: store.HashOf(blob), Kind: store.ProofRestored, OK: k.OK, Reason: k.Reason, Token: p.Serial}
			if at := int(p.Items[i].Reference); at != proof.Reference {
				proof.At = at
			}
			proofs = append(proofs, proof)
		}
	}
	err := cat.RecordProofs(proofs)
	if err == nil {
		err = cat.Append(r.Record())
	}
	if err != nil {
		r.NotRecorded = err.Error()
	}
}
