package backup

import (
	"context"
	"fmt"
	"slices"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// CheckClone refuses a pair of tokens of which the second cannot take what the
// first one exports: both need the same recovery key.
func CheckClone(from, to *Inventory) error {
	switch {
	case from.Serial == "" || to.Serial == "":
		return fail.Failf("no-serial", "only tokens with a device certificate can be told apart", "one of the tokens shows no serial number")
	case from.Serial == to.Serial:
		return fail.Refusef("same-token", "name two tokens with --from and --to", "both are %s", from.Serial)
	case !from.Initialised:
		return fail.Failf("not-initialised", "", "%s is not initialised: there is nothing to clone", from.Serial)
	case !to.Initialised:
		return fail.Failf("not-initialised", "`hsmbackup init --token "+to.Serial+" --share FILE …` sets it up, with the shares of the recovery key of "+from.Serial, "%s is not initialised and has no recovery key", to.Serial)
	}
	for _, k := range from.Keys {
		has := slices.ContainsFunc(to.token().Domains, func(d store.Domain) bool { return d.KCV != "" && d.KCV == k.KCV })
		if k.NotExportable != "" || has {
			continue
		}
		hint := "`hsmbackup init --token " + to.Serial + " --share FILE …` with the shares of that recovery key gives it; it wipes the token"
		if to.outstanding() {
			hint = "`hsmbackup dkek load --token " + to.Serial + " --share FILE …` loads the shares that it waits for"
		}
		return fail.Refusef("kcv-mismatch", hint, "%s of %s is under the recovery key %s, %s has %s", k.Name(), from.Serial, k.KCV, to.Serial, to.recoveryKeys())
	}
	return nil
}

// outstanding tells whether a token waits for shares.
func (inv *Inventory) outstanding() bool {
	return slices.ContainsFunc(inv.Domains, func(d schsm.Domain) bool { return !d.Empty && d.Outstanding > 0 })
}

// CloneReport is what a clone did.
type CloneReport struct {
	fail.Verdict
	// From is the backup of the first token, To that of the second one after the
	// restore.
	From, To *Report
	Restored *RestoreReport
}

// Complete tells whether everything of the first token is on the second one,
// proven and backed up there too.
func (r *CloneReport) Complete() bool {
	return r.From.Complete() && r.Restored.Complete() && r.To.Complete()
}

// CloneJob backs one token up and restores it onto another one that has the same
// recovery key. The catalog is the first one's; what was cut off is gone on from
// by the next run.
type CloneJob struct {
	From, To Work
	// Keys are cloned, by reference, ID or label; none is all.
	Keys []string
}

// Run does the job.
func (j *CloneJob) Run(ctx context.Context) (*CloneReport, error) {
	first, err := Take(ctx, j.From.Card)
	if err != nil {
		return nil, err
	}
	second, err := Take(ctx, j.To.Card)
	if err != nil {
		return nil, err
	}
	if err := CheckClone(first, second); err != nil {
		return nil, err
	}
	var o RestoreOptions
	for _, name := range j.Keys {
		k, err := first.FindKey(name)
		if err != nil {
			return nil, err
		}
		o.Keys = append(o.Keys, k.Reference)
	}
	if err := j.From.Person.Login(ctx); err != nil {
		return nil, err
	}
	if err := j.From.ensure(); err != nil {
		return nil, err
	}
	cat := j.From.Catalog
	j.To.Catalog, o.Journal, o.Catalog = cat, cat.Journal(), cat
	r := &CloneReport{}
	if r.From, err = Run(ctx, j.From.Card, cat, j.From.Backup); err != nil {
		return nil, err
	}
	j.From.Changed = true
	b := &Bring{Work: &j.To, Snapshot: r.From.Snapshot, Options: o}
	if r.Restored, err = b.Run(ctx); err != nil {
		return nil, err
	}
	if r.To, err = Run(ctx, j.To.Card, cat, j.To.Backup); err != nil {
		return nil, fail.After(fmt.Errorf("%s has the keys, but its own backup failed: %w", second.Serial, err))
	}
	r.judge()
	return r, nil
}

func (r *CloneReport) judge() {
	r.Verdict = r.Restored.verdict()
	for _, of := range []*Report{r.From, r.To} {
		for _, k := range of.Keys {
			if !k.Coverage.Done() {
				r.Add(fmt.Sprintf("%s of %s is %s", k.Key.Name(), of.Snapshot.Token.Serial, k.Coverage))
			}
		}
		for _, m := range of.Snapshot.Missing {
			r.Add(m.What + " was not kept")
		}
	}
}

// CloneDocument is what clone --json prints.
type CloneDocument struct {
	From     string     `json:"from"`
	To       string     `json:"to"`
	Snapshot string     `json:"snapshot"`
	Complete bool       `json:"complete"`
	Keys     []KeyProof `json:"keys"`
	Head     string     `json:"head"`
}

// Document puts the report into the form of --json; head are the words of the
// last entry.
func (r *CloneReport) Document(head string) CloneDocument {
	return CloneDocument{r.From.Snapshot.Token.Serial, r.To.Snapshot.Token.Serial, r.To.Snapshot.ID, r.Complete(), append([]KeyProof{}, r.Restored.Keys...), head}
}
