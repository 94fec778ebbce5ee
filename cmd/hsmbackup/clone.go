package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/store"
)

type cloneFlags struct {
	from, to string
	keys     []string
	toPIN    sourceFlag
}

func newCloneCommand(a *app) *cobra.Command {
	var o cloneFlags
	cmd := &cobra.Command{
		Use:   "clone --from TOKEN --to TOKEN",
		Short: "put the keys of one token onto a second one",
		Long: `Backup and restore in one, with two tokens attached that have the same recovery
key: the first is backed up and proven, its keys are restored onto the second and
used there, and the second is backed up too. The keys are on both tokens then;
'hsmbackup status' shows which. Interrupted, it goes on when it is run again.

A second token without the recovery key gets it from the same shares:
'hsmbackup init --token TOKEN --share FILE'.

Tokens are named as --token names them: by serial, by label, or soft:FILE. --pin
is the PIN of the first; that of the second is the same unless --to-pin says
where it is read. What the PIN protects is restored if the shares are given.`,
		Example: `  hsmbackup clone --from DENK0404144 --to DENK0404145
  hsmbackup clone --from soft:a.tok --to soft:b.tok --pin file:PIN --confirm SOFT0400002`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.toPIN.source, err = parseSource("--to-pin", o.toPIN.text); err != nil {
				return err
			}
			a.secrets.DropEnvironment(o.toPIN.source)
			return a.clone(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the `TOKEN` with the keys")
	f.StringVar(&o.to, "to", "", "the `TOKEN` that gets them too")
	f.StringVar(&o.toPIN.text, "to-pin", "", "`SOURCE` of the PIN of the second token (default: as --pin)")
	f.StringArrayVar(&o.keys, "key", nil, "only this `KEY`: its reference, ID or label; repeat for several")
	uses(cmd, useCatalog, useShare, useConfirm, useYes)
	return cmd
}

type jsonClone struct {
	From     string         `json:"from"`
	To       string         `json:"to"`
	Snapshot string         `json:"snapshot"`
	Complete bool           `json:"complete"`
	Keys     []jsonKeyProof `json:"keys"`
	Head     string         `json:"head"`
	PKCS11   *jsonUsed      `json:"pkcs11,omitempty"`
}

func (a *app) clone(ctx context.Context, o cloneFlags) error {
	if o.from == "" || o.to == "" {
		return usagef("", "--from and --to are both needed: the token with the keys, and the one that gets them too")
	}
	if o.from == o.to {
		return refusef("same-token", "name two tokens", "--from and --to are the same token")
	}
	cat, err := a.existingCatalog()
	if err != nil {
		return err
	}
	defer func() { closeCatalog(cat) }()
	from, to, first, err := a.openPair(ctx, o.from, o.to)
	if err != nil {
		return err
	}
	defer from.close()
	defer to.close()
	second, err := backup.Take(ctx, to.card)
	if err != nil {
		return err
	}
	if err := backup.CheckClone(first, second); err != nil {
		return err
	}
	options := backup.CloneOptions{Options: backup.Options{SpendUse: a.spendUse(ctx), Progress: a.steps, Program: program()}}
	if options.Restore.Keys, err = references(first, o.keys); err != nil {
		return err
	}
	if err := a.login(ctx, from); err != nil {
		return err
	}
	if cat == nil {
		if cat, err = a.makeCatalog(); err != nil {
			return err
		}
	}
	a.changed = true
	data := sealedData{}
	defer data.close()
	options.Restore.Journal, options.Restore.Progress, options.Restore.Catalog = cat.Journal(), a.steps, cat
	if len(a.flags.shareArgs) > 0 {
		options.Restore.OpenData = data.read
	}
	options.Agree = func(p *backup.Plan) error {
		a.progress.Close()
		if !a.flags.json {
			a.printPlan(p)
		}
		if err := a.confirmRestore(ctx, to, p); err != nil {
			return err
		}
		if len(a.flags.shareArgs) > 0 {
			shares, err := a.openShares(ctx, cat)
			if err != nil {
				return err
			}
			data.domains = p.Snapshot.Token.Domains
			data.unlock(shares)
			dkek.WipeShares(shares)
		}
		pin := o.toPIN.source
		if o.toPIN.text == "" {
			pin = a.flags.pin.source
		}
		return a.loginWith(ctx, to, pin)
	}
	r, err := backup.Clone(ctx, from.card, to.card, cat, options)
	a.progress.Close()
	if err != nil {
		return err
	}
	return a.printClone(cat, r, a.usedAfter(ctx, to, cat, r.To.Snapshot, r.To.Snapshot.Keys))
}

func (a *app) printClone(cat *store.Catalog, r *backup.CloneReport, used *usedThrough) error {
	exits := exitSet{}
	var bad []string
	var rows [][]string
	good := 0
	for _, k := range r.Restored.Keys {
		verdict := "on both, and used"
		if k.OK {
			good++
		} else {
			verdict = "NOT CLONED: " + k.Reason
			exits.add(exitIncomplete)
			bad = append(bad, fmt.Sprintf("key %d %s: %s", k.Reference, quoted(k.Label), k.Reason))
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", k.Reference), k.Type, quoted(k.Label), verdict})
	}
	for _, f := range r.Restored.Files {
		if !f.OK {
			exits.add(exitIncomplete)
			bad = append(bad, fmt.Sprintf("file %s: %s", f.FID, f.Reason))
		}
	}
	for _, of := range []*backup.Report{r.From, r.To} {
		for _, k := range of.Keys {
			if !k.Coverage.Done() {
				exits.add(exitIncomplete)
				bad = append(bad, fmt.Sprintf("%s of %s is %s", k.Key.Name(), of.Snapshot.Token.Serial, k.Coverage))
			}
		}
		for _, m := range of.Snapshot.Missing {
			exits.add(exitIncomplete)
			bad = append(bad, m.What+" was not kept")
		}
	}
	if wrong := used.bad(); len(wrong) > 0 {
		exits.add(exitIncomplete)
		bad = append(bad, wrong...)
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	from, to := r.From.Snapshot.Token.Serial, r.To.Snapshot.Token.Serial
	if a.flags.json {
		doc := jsonClone{from, to, r.To.Snapshot.ID, r.Complete(), append([]jsonKeyProof{}, keyProofs(r.Restored.Keys)...), head(state.Head), used.document()}
		if err := a.document(doc); err != nil {
			return err
		}
		a.printUsed(used)
		return exits.outcome(brief(bad))
	}
	a.table(rows)
	a.printf("%s on %s and on %s", countOf(good, len(r.Restored.Keys), "key"), from, to)
	a.printUsed(used)
	a.printf("snapshot %s of %s; head: %s", r.To.Snapshot.ID, to, head(state.Head))
	return exits.outcome(brief(bad))
}
