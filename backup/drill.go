package backup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

// DrillOptions are what Drill is told.
type DrillOptions struct {
	// NewToken gives a fresh software token in memory, never initialised, and
	// what throws it away.
	NewToken func() (apdu.Transmitter, func() error, error)
	// Progress is told what is being done; nil is silence.
	Progress func(what string, done, total int)
	// Started is when the recovery began, for the log: the opening of the
	// shares counts.
	Started time.Time
}

// Drill rehearses the disaster: each snapshot is restored onto a fresh software
// token in memory with the shares at hand, every key is used there against what
// is known of it, and the token is thrown away. Private keys are in this
// computer's memory meanwhile. What is under a recovery key that the shares do
// not give is named and not proven.
func Drill(ctx context.Context, cat *store.Catalog, snapshots []*store.Snapshot, shares []*dkek.Share, o DrillOptions) (*Verification, error) {
	v := &Verification{Proof: store.ProofDrilled, Anchored: NotAnchored}
	var err error
	if v.Findings, err = cat.Verify(); err != nil {
		return nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	h := newHistory(state)
	record := store.Drilled{}
	var proofs []store.Proof
	keys := map[dkek.KCV]*dkek.Key{} // that the shares gave
	defer func() {
		for _, k := range keys {
			k.Wipe()
		}
	}()
	for _, s := range snapshots {
		sp := SnapshotProof{ID: s.ID, Token: s.Token.Serial, Missing: s.Missing}
		report, err := drill(ctx, s, shares, keys, o)
		var job *fail.Error
		switch {
		case errors.As(err, &job) && job.Code == "kcv-mismatch":
			for i := range s.Keys {
				p := proofOf(&s.Keys[i], store.ProofDrilled)
				if p.Reason = "not exported: " + s.Keys[i].Reason; len(s.Keys[i].Blob) > 0 {
					p.Reason = fmt.Sprintf("under the recovery key %s, which these shares do not give", s.Keys[i].KCV)
				}
				sp.Keys = append(sp.Keys, p)
			}
		case err != nil:
			return nil, err
		default:
			proofs = append(proofs, sp.drilled(s, report)...)
			for i, k := range report.Keys {
				if kcv := report.Plan.Items[i].Key.KCV; k.OK && !slices.Contains(record.KCVs, kcv) {
					record.KCVs = append(record.KCVs, kcv)
				}
			}
		}
		h.markAccepted(s, &sp)
		v.Snapshots = append(v.Snapshots, sp)
		record.Snapshots = append(record.Snapshots, s.ID)
	}
	v.Took = time.Since(o.Started)
	for _, key := range keys {
		if _, err := v.checkAnchor(state, key); err != nil {
			return nil, err
		}
	}
	record.OK, record.Seconds = v.OK(), v.Took.Round(100*time.Millisecond).Seconds()
	v.record(func() error {
		if err := cat.RecordProofs(proofs); err != nil {
			return err
		}
		if err := cat.Append(record); err != nil {
			return err
		}
		if v.Damaged() {
			return nil
		}
		for _, key := range keys {
			if err := noteShares(cat, key, true, "drill"); err != nil {
				return err
			}
		}
		return nil
	})
	return v, nil
}

// drilled takes over what a restore onto a software token found, and gives the
// proofs to record. What was not tried says nothing of a blob.
func (sp *SnapshotProof) drilled(s *store.Snapshot, report *RestoreReport) (proofs []store.Proof) {
	for i, k := range report.Keys {
		item := report.Plan.Items[i]
		k.Proof, k.Reference = store.ProofDrilled, item.Key.Reference
		switch {
		case item.Action.Done():
			proofs = append(proofs, store.Proof{Snapshot: s.ID, Reference: k.Reference, Blob: store.HashOf(item.Key.Blob), Kind: store.ProofDrilled, OK: k.OK, Reason: k.Reason})
		case item.Action == NeedsShare:
			k.Reason = fmt.Sprintf("under the recovery key %s, which these shares do not give", item.Key.KCV)
		case item.Key.Damage != "":
			k.Damage = true
		}
		sp.Keys = append(sp.Keys, k)
	}
	for _, f := range report.Files {
		if !f.OK {
			sp.Left = append(sp.Left, store.Gap{What: "file " + f.FID.String(), Reason: f.Reason})
		}
	}
	return proofs
}

// drill restores one snapshot onto a token of its own. The catalog stays out of
// it: what a software token in memory was given is nothing to record, and
// shares of hardware may be given to this one only.
func drill(ctx context.Context, s *store.Snapshot, shares []*dkek.Share, keys map[dkek.KCV]*dkek.Key, o DrillOptions) (*RestoreReport, error) {
	way, discard, err := o.NewToken()
	if err != nil {
		return nil, err
	}
	defer func() { _ = discard() }() // it is in memory only
	card, err := schsm.Open(ctx, way)
	if err != nil {
		return nil, err
	}
	set := SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: 3, Domains: Slots(s)},
		Trust:          Trust{SoftFile: true}, Origin: "drill",
	}
	if n, err := strconv.ParseUint(s.Token.Options, 16, 16); err == nil {
		set.Initialisation.Options = schsm.Options(n) &^ schsm.OptionTransportPIN
	}
	if set.Sets, err = drillSets(s, shares); err != nil {
		return nil, err
	}
	for _, d := range set.Sets {
		if len(d.Load) == 0 {
			continue
		}
		key, err := dkek.Combine(d.Load...)
		if err != nil {
			return nil, err
		}
		keys[key.KCV()] = key
	}
	pin, soPIN := throwAwayPINs()
	defer pin.Wipe()
	defer soPIN.Wipe()
	set.Initialisation.PIN, set.Initialisation.SOPIN = pin, soPIN
	if _, _, err := Initialise(ctx, card, nil, set); err != nil {
		return nil, err
	}
	open, done := DataOpener(s.Token.Domains, shares)
	defer done()
	options := RestoreOptions{OpenData: open, Progress: o.Progress}
	p, err := MakePlan(ctx, card, s, options)
	if err != nil {
		return nil, err
	}
	return Restore(ctx, card, nil, p, options)
}

// drillSets are the DKEKs of the token to be: those that the snapshot's token
// had, as far as the shares give them.
func drillSets(s *store.Snapshot, shares []*dkek.Share) ([]DomainSet, error) {
	if Slots(s) > 0 {
		return SetsFor(s, shares)
	}
	key, err := dkek.Combine(shares...)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	kcv := key.KCV()
	under := slices.ContainsFunc(s.Keys, func(k store.Key) bool { return k.KCV == kcv.String() })
	if !under && slices.ContainsFunc(s.Keys, func(k store.Key) bool { return len(k.Blob) > 0 }) {
		return nil, fail.Failf("kcv-mismatch", "look for the shares of that recovery key; `hsmbackup dkek check` tells what a set gives",
			"these shares give the recovery key %s, and nothing in snapshot %s is under it", kcv, s.ID)
	}
	return []DomainSet{{Shares: len(shares), Load: shares, Expect: kcv}}, nil
}

// throwAwayPINs makes a PIN and an SO-PIN up for a token that lives for a drill.
func throwAwayPINs() (pin, soPIN *secret.Bytes) {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	defer clear(b)
	text := make([]byte, 16)
	hex.Encode(text, b[:8])
	return secret.New(text[:schsm.MaxNewPIN]), secret.New(slices.Clone(b[8:]))
}
