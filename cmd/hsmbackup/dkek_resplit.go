package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/dkek"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
)

func newDKEKResplitCommand(a *app) *cobra.Command {
	var f splitFlags
	cmd := &cobra.Command{
		Use:   "resplit --share FILE... --split K/N --custodian NAME...",
		Short: "give a share that is in parts to other custodians",
		Long: `Brings a share together from its parts and splits it anew: other custodians, or
another K of N. The recovery key stays the same, and so do backups and tokens.

The old parts stay valid: any K of them still give the share, for ever, and
nothing can call them back. The old set is marked as retired once the new one is
handed out; once the new custodians have shown that they have theirs, have its parts
destroyed. If enough of them may be in wrong hands, a
new set does not help: it takes new keys.`,
		Example: `  hsmbackup dkek resplit --share alice.txt --share bob.txt --split 2/4 --custodian alice --custodian carol --custodian dave --custodian erin
  hsmbackup dkek resplit --share prompt --split 2/3 --out parts/ --custodian alice --custodian bob --custodian carol`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dkekResplit(cmd.Context(), f) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.out, "out", "", "a folder, `DIR`, for files with the parts; without it they are shown, one at a time")
	uses(cmd, useCatalog, useToken, useShare, useWho)
	return cmd
}

func (a *app) dkekResplit(ctx context.Context, f splitFlags) error {
	h, err := f.plan("resplit", a.Flags.Who)
	if err != nil {
		return err
	}
	if len(a.Flags.ShareArgs) == 0 {
		return console.Usagef("", "--share FILE is missing: it names the parts that bring the share together")
	}
	cat, err := a.custodyCatalog(ctx, h)
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	m, err := a.Gather(ctx, cat)
	if err != nil {
		return err
	}
	switch {
	case len(m.Sets) == 0:
		return console.Usagef("`hsmbackup dkek split FILE` splits a share file", "no parts are given to be split anew")
	case m.Count() > 1:
		return console.Usagef("", "%d shares are given: each is split by itself", m.Count())
	}
	old := m.Sets[0]
	h.Share, h.Shares, h.KCV, h.Retires = old.Share, old.Shares, old.KCV, old.Set
	shares, err := m.Open(ctx, cat)
	if err != nil {
		return err
	}
	defer dkek.WipeShares(shares)
	r, err := a.splitAndPrint(ctx, cat, h, shares[0])
	if err != nil {
		return err
	}
	if !old.Known() {
		a.Note("set %s is not in this catalog, so it is not marked as retired", old.Set)
	}
	here, missing := old.Who()
	a.Note("the parts of set %s stay valid: any %d of them still bring this very share together", old.Set, old.Needed)
	those := strings.Join(append(here, missing...), ", ")
	if len(r.Open()) > 0 {
		a.Next("keep them until the custodians of set %s have answered for theirs (`hsmbackup dkek rollcall`); then have all %d destroyed: those of %s", r.Set, old.Total, those)
	} else {
		a.Next("have them destroyed, all %d: those of %s", old.Total, those)
	}
	return nil
}
