package backup

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// KeyProof is what was found of one stored key.
type KeyProof struct {
	Reference int    `json:"reference"`
	Label     string `json:"label"`
	ID        Hex    `json:"id"`
	Type      string `json:"type"`
	// Proof is the kind that was tried: one of store.Proof…
	Proof string `json:"proof"`
	// Matched says what an opened key agreed with: a dkek.Match.
	Matched string `json:"matched"`
	OK      bool   `json:"ok"`
	// Reason says why not. Damage tells that from what merely could not be
	// shown, such as a blob under another DKEK.
	Reason string `json:"reason"`
	Damage bool   `json:"-"`
	// Accepted: it cannot be exported, and is meant to be so; it counts as
	// done.
	Accepted bool `json:"-"`
	// Unchecked: this kind of proof says nothing of it, as Reason explains. It
	// is neither good nor bad.
	Unchecked bool `json:"unchecked,omitempty"`
	// Mechanism is the way it was used through PKCS#11.
	Mechanism string `json:"mechanism,omitempty"`
}

// Hex is shown as lower-case hex digits.
type Hex []byte

// MarshalText gives the digits.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode([]byte{}, h), nil }

// SnapshotProof is what was found of one snapshot.
type SnapshotProof struct {
	ID, Token string
	Keys      []KeyProof
	Missing   []store.Gap
	// Left is what a drill did not bring back, besides keys.
	Left []store.Gap
}

// Values of Verification.Anchored, weakest first.
const (
	NotAnchored        = "no"
	AnchoredWords      = "words"
	AnchoredCustodians = "custodians"
	AnchoredDKEK       = "dkek"
	AnchoredToken      = "token"
)

// Verification is the result of a check or a proof.
type Verification struct {
	// Proof is the kind that was tried.
	Proof string
	// Anchored is the strongest anchor that was checked.
	Anchored string
	// Since is the number of log entries that came after the anchor; they are
	// chained to it but not covered.
	Since int
	// NewAnchor is the entry up to which this run anchored the catalog, 0 if it did
	// not; Unmoved says why one that could be was not.
	NewAnchor uint64
	Unmoved   string
	// Doubts are what keeps this from being a good end although nothing is damaged.
	Doubts    []Doubt
	Snapshots []SnapshotProof
	// Findings are what is damaged in the catalog itself.
	Findings []store.Finding
	// Copies are those of the catalog, where a check looked at them.
	Copies []CopyState
	// Took is how long a drill took, from the first share to the last key used.
	Took time.Duration
	// Vouched are the sets of parts that the recovery key vouches for.
	Vouched []string
	// Signed says, a line for each set, what enough custodians signed of the log, and
	// who vouches for their keys. Unsigned is why what was to be an anchor is none.
	Signed   []string
	Unsigned string
	// Cleaned names the copies that were deleted, which an interrupted proof had
	// left behind on the token; Spent the uses that it cost.
	Cleaned []string
	Spent   []Spent
	// NotRecorded says why the result is not in the log.
	NotRecorded string

	words uint64 // the entry that head words name
}

// Damaged tells whether anything stored does not check out.
func (v *Verification) Damaged() bool {
	if len(v.Findings) > 0 {
		return true
	}
	for _, s := range v.Snapshots {
		for _, k := range s.Keys {
			if k.Damage {
				return true
			}
		}
	}
	return v.damagedCopy()
}

func (v *Verification) damagedCopy() bool {
	return slices.ContainsFunc(v.Copies, func(c CopyState) bool { return c.Damage != "" })
}

// OK tells whether there was something to prove, every key passed and nothing
// is damaged.
func (v *Verification) OK() bool {
	if len(v.Findings) > 0 || v.Unsigned != "" || v.Empty() || v.damagedCopy() {
		return false
	}
	for _, s := range v.Snapshots {
		if len(s.Left) > 0 {
			return false
		}
		for _, k := range s.Keys {
			if !k.OK && !k.Accepted && !k.Unchecked {
				return false
			}
		}
	}
	return true
}

// Empty tells whether there was no key to prove at all.
func (v *Verification) Empty() bool {
	for _, s := range v.Snapshots {
		for _, k := range s.Keys {
			if !k.Unchecked {
				return false
			}
		}
	}
	return true
}

// record appends to the log what a verification found; where the catalog
// cannot be written the result says so.
func (v *Verification) record(write func() error) {
	if err := write(); err != nil {
		v.NotRecorded = err.Error()
	}
}

// intact checks what needs no key: the blob parses and names the KCV that the
// record does, and public key, certificate and description fit together and
// are what the record says.
func intact(k *store.Key) error {
	if k.Damage != "" {
		return errors.New(k.Damage)
	}
	var public *pubkey.Key
	if len(k.PublicKey) > 0 {
		var err error
		if public, err = pubkey.ParseSPKI(k.PublicKey); err != nil {
			return fmt.Errorf("its public key cannot be read: %w", err)
		}
		if public.Type() != k.Type {
			return fmt.Errorf("it is recorded as %s, its public key is %s", k.Type, public.Type())
		}
	}
	if here, from := publicKey(k.Certificate); here != nil {
		// Without PublicFrom the backup found it to be another key's.
		if public == nil && k.PublicFrom != "" || public != nil && !here.Equal(public) {
			return fmt.Errorf("the %s stored with it is of another key", from)
		}
	} else if k.PublicFrom == fromRequest || k.PublicFrom == fromCertificate {
		return fmt.Errorf("the %s that its public key was taken from cannot be read any more", k.PublicFrom)
	}
	if d, err := pkcs15.ParseKey(k.Description); err == nil {
		switch {
		case d.Label != k.Label || !bytes.Equal(d.ID, k.ID) || uint32(d.Usage) != k.Usage:
			return errors.New("the description stored with it is of another key")
		}
	} else if k.Label != "" || len(k.ID) > 0 {
		return errors.New("the description that its label and ID were taken from cannot be read any more")
	}
	if len(k.Blob) == 0 {
		if k.Reason == "" {
			return errors.New("its key blob is missing")
		}
		return nil
	}
	b, err := dkek.ParseBlob(k.Blob)
	if err != nil {
		return err
	}
	switch {
	case b.KCV.String() != k.KCV:
		return fmt.Errorf("its key blob is under the recovery key %s, recorded is %s", b.KCV, orNone(k.KCV))
	case public != nil && (b.Type.Kind() == pkcs15.RSA) != (public.RSA != nil):
		return fmt.Errorf("its key blob is %s, its public key is %s", b.Type, public.Type())
	case !bytes.Equal(b.Algorithms, k.Algorithms):
		return errors.New("the list of allowed algorithms in its key blob is not the one recorded")
	}
	return nil
}

// describes tells whether a description can be of a public key. Some writers
// put 528 for P-521.
func describes(d *pkcs15.KeyDescription, public *pubkey.Key) bool {
	if (d.Kind == pkcs15.RSA) != (public.RSA != nil) || d.Kind == pkcs15.AES {
		return false
	}
	return d.Bits == 0 || d.Bits == public.Bits() || public.RSA == nil && d.Bits == 8*public.Curve.FieldBytes()
}

// proofOf begins the result for a stored key.
func proofOf(k *store.Key, kind string) KeyProof {
	return KeyProof{Reference: k.Reference, Label: k.Label, ID: k.ID, Type: k.Type, Proof: kind}
}

// Check looks at all snapshots without any secret: structure of the file,
// hashes, chain, and of every key what intact says. head is the beginning of a
// log entry's hash, in that many bits, as noted down earlier; none is 0 bits.
// Copies that can be reached are looked at as well, and then what also adds.
// The result goes to the log if the catalog is open for writing.
func Check(cat *store.Catalog, head []byte, headBits int, also ...func(*Verification, *store.State)) (*Verification, error) {
	v, state, err := inspect(cat)
	if err != nil {
		return nil, err
	}
	if headBits > 0 {
		if err := v.checkHead(state, head, headBits); err != nil {
			return nil, err
		}
	}
	for _, look := range also {
		look(v, state)
	}
	v.record(func() error {
		ok := v.OK() && len(v.Doubts) == 0
		return cat.Append(store.Checked{Proof: v.Proof, OK: ok, Anchored: v.Anchored})
	})
	return v, nil
}

// Inspect is Check without words, and records nothing.
func Inspect(cat *store.Catalog) (*Verification, error) {
	v, _, err := inspect(cat)
	return v, err
}

func inspect(cat *store.Catalog) (*Verification, *store.State, error) {
	v := &Verification{Proof: store.ProofIntact, Anchored: NotAnchored}
	var err error
	if v.Findings, err = cat.Verify(); err != nil {
		return nil, nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, nil, err
	}
	h := newHistory(state)
	for _, s := range h.Snapshots {
		sp := SnapshotProof{ID: s.ID, Token: s.Token.Serial, Missing: s.Missing}
		for i := range s.Keys {
			p := proofOf(&s.Keys[i], store.ProofIntact)
			if err := intact(&s.Keys[i]); err != nil {
				p.Reason, p.Damage = err.Error(), true
			} else {
				p.OK = true
			}
			sp.Keys = append(sp.Keys, p)
		}
		h.markAccepted(s, &sp)
		v.Snapshots = append(v.Snapshots, sp)
	}
	v.Copies, v.Doubts = CheckCopies(state), doubtsOf(state)
	return v, state, nil
}

func (v *Verification) checkHead(s *store.State, head []byte, bits int) error {
	e, found, err := s.EntryByHashPrefix(head, bits)
	if err != nil {
		return err
	}
	if !found {
		v.Findings = append(v.Findings, store.Finding{Where: "head", What: "the words are of no entry in this catalog: it is an older copy, another catalog, or it was changed"})
		return nil
	}
	v.Anchored, v.Since, v.words = AnchoredWords, int(s.Head.Seq-e.Seq), e.Seq
	return nil
}

// VerifyOffline opens every blob of the snapshots with the DKEK and matches its
// private key with all that is known of it. Private keys are open in this
// computer's memory meanwhile. The anchor under the DKEK is checked; then the
// other blobs under it are opened too, and if all is well the anchor moves to the
// present head, unless o.KeepAnchor. A catalog that has none is doubtful until o.Head
// says where it is known from.
func VerifyOffline(ctx context.Context, cat *store.Catalog, snapshots []*store.Snapshot, key *dkek.Key, o Options) (*Verification, error) {
	v := &Verification{Proof: store.ProofOpened, Anchored: NotAnchored}
	var err error
	if v.Findings, err = cat.Verify(); err != nil {
		return nil, err
	}
	kcv := key.KCV().String()
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	if o.HeadBits > 0 {
		if err := v.checkHead(state, o.Head, o.HeadBits); err != nil {
			return nil, err
		}
	}
	was, err := v.checkAnchor(state, key)
	if err != nil {
		return nil, err
	}
	h := newHistory(state)
	if err := v.checkRecipient(h, key); err != nil {
		return nil, err
	}
	var proofs []store.Proof
	opened := map[store.Hash]bool{} // good ones
	for _, s := range snapshots {
		sp := SnapshotProof{ID: s.ID, Token: s.Token.Serial, Missing: s.Missing}
		for i := range s.Keys {
			k := &s.Keys[i]
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			o.progress("opening "+keyName(k.Label, k.Reference), i, len(s.Keys))
			p := openStored(k, key)
			sp.Keys = append(sp.Keys, p)
			if p.OK {
				opened[store.HashOf(k.Blob)] = true
			}
			proofs = p.appendOpened(proofs, s, k)
		}
		h.markAccepted(s, &sp)
		o.progress("opened", len(s.Keys), len(s.Keys))
		v.Findings = append(v.Findings, openSealed(s, key)...)
		v.Snapshots = append(v.Snapshots, sp)
	}
	ours := slices.ContainsFunc(snapshots, func(s *store.Snapshot) bool { return holdsUnder(s, kcv) })
	if ours && !o.KeepAnchor {
		if err := v.openRest(ctx, state, key, opened, o); err != nil {
			return nil, err
		}
	}
	if o.Also != nil {
		o.Also(v, state)
	}
	v.record(func() error {
		if err := cat.RecordProofs(proofs); err != nil {
			return err
		}
		if v.Damaged() || !ours {
			return nil // an anchor upon damage would hide it
		}
		if err := noteShares(cat, key, true, "verify"); err != nil || !cat.Writable() {
			return err
		}
		if o.KeepAnchor {
			was.tell(cat)
			return nil
		}
		v.NewAnchor, v.Unmoved, err = moveAnchor(cat, key, anchoring{was, v.words, opened, v.Vouched, o.Confirm})
		return err
	})
	if v.Anchored == NotAnchored && v.NewAnchor == 0 && len(v.Findings) == 0 {
		v.Doubts = append(v.Doubts, Doubt{
			"the catalog has no anchor under the recovery key " + kcv + ": nothing but the catalog itself says that it is yours, and whole",
			"take the six words of its head from the sheet, or from what a backup printed, and run the same command with --head \"WORDS\": that anchors it"})
	}
	if state, err = cat.Read(); err != nil {
		return nil, err
	}
	v.Doubts = append(v.Doubts, doubtsOf(state)...)
	return v, nil
}

// holdsUnder tells whether a snapshot has a key blob under a DKEK.
func holdsUnder(s *store.Snapshot, kcv store.KCV) bool {
	return slices.ContainsFunc(s.Keys, func(k store.Key) bool { return k.KCV == kcv && len(k.Blob) > 0 })
}

// openRest opens what is under the DKEK in snapshots that were not asked for: an
// anchor covers those as well. What is damaged there is a finding.
func (v *Verification) openRest(ctx context.Context, state *store.State, key *dkek.Key, opened map[store.Hash]bool, o Options) error {
	kcv := key.KCV().String()
	for i, s := range state.Snapshots {
		if slices.ContainsFunc(v.Snapshots, func(sp SnapshotProof) bool { return sp.ID == s.ID }) || !holdsUnder(s, kcv) {
			continue
		}
		o.progress("opening what is older", i, len(state.Snapshots))
		for j := range s.Keys {
			k := &s.Keys[j]
			if err := ctx.Err(); err != nil {
				return err
			}
			// One blob may stand in several snapshots, each time beside other things.
			if k.KCV != kcv || len(k.Blob) == 0 {
				continue
			}
			p := openStored(k, key)
			if opened[store.HashOf(k.Blob)] = p.OK; p.Damage {
				v.Findings = append(v.Findings, store.Finding{Where: fmt.Sprintf("snapshot %s, %s", s.ID, keyName(k.Label, k.Reference)), What: p.Reason})
			}
		}
		v.Findings = append(v.Findings, openSealed(s, key)...)
	}
	return nil
}

// checkAnchor compares the catalog with the anchor under a DKEK, if it has one.
func (v *Verification) checkAnchor(s *store.State, key *dkek.Key) (anchorState, error) {
	a, err := lookAtAnchor(s, key)
	switch {
	case err != nil:
		return a, err
	case a.damage != "":
		v.Findings = append(v.Findings, store.Finding{Where: "anchor of " + a.kcv, What: a.damage})
	case a.seq > 0:
		v.Anchored, v.Since = AnchoredDKEK, int(a.since)
	}
	return a, nil
}

// appendOpened adds the proof to record of a stored key that was opened. What is
// under another DKEK was not tried: that says nothing of it.
func (p KeyProof) appendOpened(proofs []store.Proof, s *store.Snapshot, k *store.Key) []store.Proof {
	if len(k.Blob) == 0 || !p.OK && !p.Damage {
		return proofs
	}
	return append(proofs, store.Proof{Snapshot: s.ID, Reference: k.Reference, Blob: store.HashOf(k.Blob), Kind: store.ProofOpened, OK: p.OK, Reason: p.Reason, Matched: p.Matched})
}

// RecordOpened notes of key blobs that were opened on this computer, in files,
// that they were, where the catalog has them too: each is opened once more and
// compared with what the catalog knows of it. A catalog that is nil or read-only
// is left as it is.
func RecordOpened(cat *store.Catalog, key *dkek.Key, blobs map[store.Hash]bool) error {
	if cat == nil || !cat.Writable() || len(blobs) == 0 {
		return nil
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	var proofs []store.Proof
	for _, s := range state.Snapshots {
		for i := range s.Keys {
			if k := &s.Keys[i]; k.Damage == "" && blobs[store.HashOf(k.Blob)] {
				proofs = openStored(k, key).appendOpened(proofs, s, k)
			}
		}
	}
	return cat.RecordProofs(proofs)
}

// openStored opens one stored key and matches it.
func openStored(k *store.Key, key *dkek.Key) KeyProof {
	p := proofOf(k, store.ProofOpened)
	damage := func(format string, args ...any) KeyProof {
		p.Reason, p.Damage = fmt.Sprintf(format, args...), true
		return p
	}
	if err := intact(k); err != nil {
		return damage("%v", err)
	}
	if len(k.Blob) == 0 {
		p.Reason = "not exported: " + k.Reason
		return p
	}
	b, err := dkek.ParseBlob(k.Blob)
	if err != nil {
		return damage("%v", err)
	}
	private, err := key.Open(b)
	if errors.Is(err, dkek.ErrOtherKey) || errors.Is(err, dkek.ErrCurve) {
		p.Reason = err.Error() // other shares may open it, and a token knows more curves
		return p
	}
	if err != nil {
		return damage("%v", err)
	}
	defer private.Wipe()
	match, public, err := dkek.MatchKey(private, usable(k), ownCertificate(k))
	if err != nil {
		return damage("%v", err)
	}
	if len(k.PublicKey) > 0 {
		if stored, err := pubkey.ParseSPKI(k.PublicKey); err != nil || !stored.Equal(public) {
			return damage("the private key in its blob does not belong to its public key")
		}
	}
	if t := private.Type(); k.Type != "" && t != k.Type && len(k.PublicKey) > 0 {
		return damage("it is recorded as %s, its blob holds %s", k.Type, t)
	}
	if err := givesCheckValue(private, public, k.CheckValue); err != nil {
		return damage("%v", err)
	}
	p.Type, p.Matched, p.OK = private.Type(), string(match), true
	return p
}

// usable gives a description that parses and is of a key like this one; any
// other is kept as it is but says nothing of the key.
func usable(k *store.Key) []byte {
	d, err := pkcs15.ParseKey(k.Description)
	if err != nil || d.Kind != kindOf(k.Blob) {
		return nil
	}
	if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil && !describes(d, public) {
		return nil
	}
	return k.Description
}

// ownCertificate gives what the public key was taken from; anything else in
// CExx says nothing of the key.
func ownCertificate(k *store.Key) []byte {
	if k.PublicFrom != fromRequest && k.PublicFrom != fromCertificate {
		return nil
	}
	return k.Certificate
}

// VerifyRoundTrip proves the blobs of snapshots on the token that they come
// from, which is logged in.
func VerifyRoundTrip(ctx context.Context, card *schsm.Card, cat *store.Catalog, snapshots []*store.Snapshot, o Options) (*Verification, error) {
	v := &Verification{Proof: store.ProofRoundTrip, Anchored: NotAnchored}
	var err error
	if v.Findings, err = cat.Verify(); err != nil {
		return nil, err
	}
	trip := &roundTrip{card: card, serial: card.Serial()}
	if cat.Writable() {
		trip.journal = cat.Journal()
	} else {
		v.NotRecorded = "the catalog cannot be written"
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	h := newHistory(state)
	inv, err := Take(ctx, card)
	if err != nil {
		return nil, err
	}
	trip.newest = state.Newest(inv.Serial)
	v.Cleaned, err = trip.cleanUp(ctx, inv)
	if o.cleaned(v.Cleaned); err != nil {
		return nil, err
	}
	if len(v.Cleaned) > 0 {
		if inv, err = Take(ctx, card); err != nil {
			return nil, fail.After(err)
		}
	}
	if h.seen, err = Ask(ctx, card, inv, state, o); err != nil {
		return nil, err
	}
	trip.seen, v.Spent = h.seen, h.seen.spent
	for _, s := range snapshots {
		sp := SnapshotProof{ID: s.ID, Token: s.Token.Serial, Missing: s.Missing}
		for i := range s.Keys {
			k := &s.Keys[i]
			p := proofOf(k, store.ProofRoundTrip)
			if len(k.Blob) == 0 {
				p.Reason = "not exported: " + k.Reason
				if k.Damage != "" {
					p.Reason, p.Damage = k.Damage, true
				}
				sp.Keys = append(sp.Keys, p)
				continue
			}
			if why := inv.rekeyedSince(s, k); why != "" {
				p.Reason = why
				sp.Keys = append(sp.Keys, p)
				continue
			}
			o.progress("proving "+keyName(k.Label, k.Reference), i, len(s.Keys))
			result, err := trip.proveStored(ctx, inv, s, k)
			if err != nil {
				return nil, err
			}
			if v.NotRecorded == "" {
				v.record(func() error { return cat.RecordProofs([]store.Proof{result}) })
			}
			p.OK, p.Reason = result.OK, result.Reason
			sp.Keys = append(sp.Keys, p)
		}
		h.markAccepted(s, &sp)
		o.progress("proven", len(s.Keys), len(s.Keys))
		v.Snapshots = append(v.Snapshots, sp)
	}
	if a := h.record(inv); len(a.Keys) > 0 && v.NotRecorded == "" {
		v.record(func() error { return cat.Append(a) })
	}
	v.Doubts = doubtsOf(state)
	v.checkToken(state, inv)
	return v, nil
}
