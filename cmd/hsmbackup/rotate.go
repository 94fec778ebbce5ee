package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/report"
)

type rotateFlags struct {
	from, to string
	keys     []string
}

func newRotateCommand(a *app) *cobra.Command {
	var o rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate --from TOKEN --to TOKEN",
		Short: "make successors of keys that cannot leave their token",
		Long: `A key that was made without a recovery key, or whose list of allowed algorithms
lacks export, can never be backed up. This makes a successor of each such key on
a token that has a recovery key: a new key of the same type, label, ID and usage.
It uses each, backs the new token up, and prints what has to follow for SSH.

The old token is only looked at: its PIN is not asked for, and its keys stay
until you delete them. Keys that were accepted are rotated only if they are named
with --key. Interrupted, it goes on when it is run again.

Tokens are named as --token names them: by serial, by label, or soft:FILE. The
PIN is that of the new token.`,
		Example: `  hsmbackup rotate --from DENK0200123 --to DENK0404144
  hsmbackup rotate --from soft:old.tok --to soft:new.tok --key "SSH CA" --pin file:PIN --yes`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.rotate(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the `TOKEN` with the keys that cannot leave it")
	f.StringVar(&o.to, "to", "", "the `TOKEN` that gets their successors")
	f.StringArrayVar(&o.keys, "key", nil, "only this `KEY` of the old token: its reference, ID or label; repeat for several")
	uses(cmd, useCatalog, useConfirm, useYes, useSpend)
	return cmd
}

func (a *app) rotate(ctx context.Context, o rotateFlags) error {
	if o.from == "" || o.to == "" {
		return console.Usagef("", "--from and --to are both needed: the token with the keys, and the one that gets their successors")
	}
	if o.from == o.to {
		return console.Refusef("same-token", "name two tokens", "--from and --to are the same token: a successor there can leave it as little")
	}
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	defer func() { cli.CloseCatalog(cat) }()
	from, to, old, err := a.OpenPair(ctx, o.from, o.to)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	options := backup.RotateOptions{Progress: a.Steps}
	if options.Keys, err = cli.References(old, o.keys); err != nil {
		return err
	}
	plan := func() (*backup.Rotation, error) {
		inv, err := backup.Take(ctx, to.Card)
		if err != nil {
			return nil, err
		}
		return backup.PlanRotation(old, inv, cat, options)
	}
	r, err := plan()
	if err != nil {
		return err
	}
	if len(r.Items) == 0 {
		if a.Flags.JSON {
			return a.Document(report.Rotation{From: r.From, To: r.To, Keys: []report.Succession{}})
		}
		a.Printf("every key of %s can leave it, or is accepted: nothing to do", r.From)
		return nil
	}
	if !a.Flags.JSON {
		report.PrintRotation(a.Console, r)
	}
	if slices.ContainsFunc(r.Items, func(i backup.RotationItem) bool { return i.Action == backup.New || i.Action == backup.Repair }) {
		if a.Flags.Confirm != "" {
			err = a.Confirm(ctx, to, "")
		} else {
			err = a.Ask(ctx, fmt.Sprintf("Make these keys on %s?", to.Name()))
		}
		if err != nil {
			return err
		}
	}
	if err := a.Login(ctx, to); err != nil {
		return err
	}
	if cat == nil {
		if cat, err = a.MakeCatalog(); err != nil {
			return err
		}
	}
	if r, err = plan(); err != nil { // what was shown may not hold any more
		return err
	}
	results, err := backup.Rotate(ctx, to.Card, cat, r, options)
	a.Progress.Close()
	if err != nil {
		return err
	}
	for _, x := range results {
		a.Changed = a.Changed || x.OK && x.Action != backup.Same
	}
	taken, err := backup.Run(ctx, to.Card, cat, a.proving(ctx))
	a.Progress.Close()
	if err != nil {
		return err
	}
	doc := report.NewRotation(r, results, taken)
	if !a.Flags.JSON {
		doc.Print(a.Console)
	} else if err := a.Document(doc); err != nil {
		return err
	}
	return doc.Outcome()
}
