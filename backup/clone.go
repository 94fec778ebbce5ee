package backup

import (
	"context"
	"fmt"
	"slices"

	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// CheckClone refuses a pair of tokens of which the second cannot take what the
// first one exports: both need the same recovery key.
func CheckClone(from, to *Inventory) error {
	switch {
	case from.Serial == "" || to.Serial == "":
		return failf("no-serial", "only tokens with a device certificate can be told apart", "one of the tokens shows no serial number")
	case from.Serial == to.Serial:
		return refusef("same-token", "name two tokens with --from and --to", "both are %s", from.Serial)
	case !from.Initialised:
		return failf("not-initialised", "", "%s is not initialised: there is nothing to clone", from.Serial)
	case !to.Initialised:
		return failf("not-initialised", "`hsmbackup init --token "+to.Serial+" --share FILE …` sets it up, with the shares of the recovery key of "+from.Serial, "%s is not initialised and has no recovery key", to.Serial)
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
		return refusef("kcv-mismatch", hint, "%s of %s is under the recovery key %s, %s has %s", k.Name(), from.Serial, k.KCV, to.Serial, to.recoveryKeys())
	}
	return nil
}

// outstanding tells whether a token waits for shares.
func (inv *Inventory) outstanding() bool {
	return slices.ContainsFunc(inv.Domains, func(d schsm.Domain) bool { return !d.Empty && d.Outstanding > 0 })
}

// CloneReport is what a clone did.
type CloneReport struct {
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

// CloneOptions are what Clone is told besides.
type CloneOptions struct {
	Options
	Restore RestoreOptions
	// Agree is shown the plan before anything is written to the second token;
	// afterwards that one must be logged in. An error ends it there.
	Agree func(*Plan) error
}

// Clone backs one token up and restores it onto another one that has the same
// recovery key. The first must be logged in. What was cut off is gone on from by
// the next call.
func Clone(ctx context.Context, from, to *schsm.Card, cat *store.Catalog, o CloneOptions) (*CloneReport, error) {
	first, err := Take(ctx, from)
	if err != nil {
		return nil, err
	}
	second, err := Take(ctx, to)
	if err != nil {
		return nil, err
	}
	if err := CheckClone(first, second); err != nil {
		return nil, err
	}
	r := &CloneReport{}
	if r.From, err = Run(ctx, from, cat, o.Options); err != nil {
		return nil, err
	}
	fail := func(err error) (*CloneReport, error) { return nil, changed(err) }
	p, err := MakePlan(ctx, to, r.From.Snapshot, o.Restore)
	if err != nil {
		return fail(err)
	}
	if o.Agree != nil {
		if err := o.Agree(p); err != nil {
			return nil, err
		}
	}
	if r.Restored, err = Restore(ctx, to, cat, p, o.Restore); err != nil {
		return fail(err)
	}
	if r.To, err = Run(ctx, to, cat, o.Options); err != nil {
		return fail(fmt.Errorf("%s has the keys, but its own backup failed: %w", second.Serial, err))
	}
	return r, nil
}
