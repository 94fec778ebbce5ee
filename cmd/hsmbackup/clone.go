package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/report"
	from "hsmbackup/internal/source"
	"hsmbackup/store"
)

type cloneFlags struct {
	from, to string
	keys     []string
	toPIN    cli.SourceFlag
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
			if o.toPIN.Source, err = from.Parse("--to-pin", o.toPIN.Text); err != nil {
				return err
			}
			a.Secrets.DropEnvironment(o.toPIN.Source)
			return a.clone(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the `TOKEN` with the keys")
	f.StringVar(&o.to, "to", "", "the `TOKEN` that gets them too")
	f.StringVar(&o.toPIN.Text, "to-pin", "", "`SOURCE` of the PIN of the second token (default: as --pin)")
	f.StringArrayVar(&o.keys, "key", nil, "only this `KEY`: its reference, ID or label; repeat for several")
	uses(cmd, useCatalog, useShare, useConfirm, useYes, useSpend)
	return cmd
}

func (a *app) clone(ctx context.Context, o cloneFlags) error {
	if o.from == "" || o.to == "" {
		return console.Usagef("", "--from and --to are both needed: the token with the keys, and the one that gets them too")
	}
	if o.from == o.to {
		return console.Refusef("same-token", "name two tokens", "--from and --to are the same token")
	}
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	from, to, _, err := a.OpenPair(ctx, o.from, o.to)
	if err != nil {
		cli.CloseCatalog(cat)
		return err
	}
	defer from.Close()
	defer to.Close()
	j := &backup.CloneJob{From: a.work(ctx, from, 0), To: a.work(ctx, to, 0), Keys: o.keys}
	j.From.Catalog = cat
	defer func() { cli.CloseCatalog(j.From.Catalog) }()
	if o.toPIN.Text != "" {
		j.To.Person = &holder{a, to, o.toPIN.Source}
	}
	r, err := j.Run(ctx)
	a.did(&j.From)
	a.did(&j.To)
	if err != nil {
		return err
	}
	return a.printClone(j.From.Catalog, r, a.usedAfter(ctx, to, j.From.Catalog, r.To.Snapshot, r.To.Snapshot.Keys))
}

func (a *app) printClone(cat *store.Catalog, r *backup.CloneReport, used *usedThrough) error {
	r.Left = append(r.Left, used.bad()...)
	state, err := cat.Read()
	if err != nil {
		return err
	}
	doc := struct {
		backup.CloneDocument
		PKCS11 *jsonUsed `json:"pkcs11,omitempty"`
	}{r.Document(report.Head(state.Head)), used.document()}
	if a.Flags.JSON {
		if err := a.Document(doc); err != nil {
			return err
		}
		a.printUsed(used)
		return a.verdict(r.Verdict)
	}
	var rows [][]string
	good := 0
	for _, k := range doc.Keys {
		verdict := "on both, and used"
		if k.OK {
			good++
		} else {
			verdict = "NOT CLONED: " + k.Reason
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", k.Reference), k.Type, console.Quoted(k.Label), verdict})
	}
	a.Table(rows)
	a.Printf("%s on %s and on %s", console.CountOf(good, len(doc.Keys), "key"), doc.From, doc.To)
	a.printUsed(used)
	a.Printf("snapshot %s of %s; head: %s", doc.Snapshot, doc.To, doc.Head)
	return a.verdict(r.Verdict)
}
