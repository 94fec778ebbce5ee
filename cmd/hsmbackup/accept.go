package main

import (
	"context"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
)

func newAcceptCommand(a *app) *cobra.Command {
	var reason string
	var clock uint64
	cmd := &cobra.Command{
		Use:   "accept KEY --reason TEXT | --clock SEQ --reason TEXT",
		Short: "record that a key which cannot be exported is meant to be so",
		Long: `Records that a key of the attached token cannot be exported and is meant to stay
there alone. It then counts as done. The key is named by its reference, ID,
label, or the SHA-256 of its public key. A key that can be exported is refused,
unless nobody may use it to see that it is the one that was backed up: for its
use counter, or its list of allowed algorithms.

With --clock it records why time runs backwards after that entry of the log, as check
names it: check and verify are then no longer doubtful for it. What was
recorded under a clock that ran ahead keeps an unknown age; prove it anew.`,
		Example: `  hsmbackup accept 3 --reason "short-lived, can be made again"
  hsmbackup accept --clock 14 --reason "the battery of the clock was empty"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("clock") {
				return arguments(0, 0, "")(cmd, args)
			}
			return arguments(1, 1, "one KEY")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.acceptClock(clock, reason)
			}
			return a.accept(cmd.Context(), args[0], reason)
		},
	}
	cmd.Flags().Uint64Var(&clock, "clock", 0, "the entry `SEQ` of the log after which time runs backwards, in place of a key")
	cmd.Flags().StringVar(&reason, "reason", "", "why, `TEXT` that is kept in the catalog")
	uses(cmd, useCatalog, useToken)
	return cmd
}

func (a *app) accept(ctx context.Context, which, reason string) error {
	if reason == "" {
		return console.Usagef("", "--reason TEXT is missing: it says to others why this key has no backup")
	}
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	inv, err := backup.Take(ctx, t.Card)
	if err != nil {
		return err
	}
	if _, err := inv.FindKey(which); err != nil {
		return err
	}
	cat, err := a.ExistingCatalog()
	if err == nil && cat == nil {
		// What will be refused should not leave a catalog behind.
		if err = acceptable(inv, which); err == nil {
			cat, err = a.MakeCatalog()
			a.Changed = err == nil
		}
	}
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	k, err := backup.Accept(inv, cat, which, reason)
	if err != nil {
		return err
	}
	a.Changed = true
	if a.Flags.JSON {
		return a.Document(struct {
			Serial    string `json:"serial"`
			Reference int    `json:"reference"`
			Label     string `json:"label"`
			Reason    string `json:"reason"`
		}{inv.Serial, int(k.Reference), k.Label, reason})
	}
	a.Printf("%s of %s is accepted as not exportable", k.Name(), inv.Serial)
	return nil
}

// acceptClock records why time runs backwards after an entry.
func (a *app) acceptClock(seq uint64, reason string) error {
	if reason == "" {
		return console.Usagef("", "--reason TEXT is missing: it says to others what the clock did")
	}
	cat, err := a.ExistingCatalog()
	if err == nil && cat == nil {
		err = a.NoCatalog()
	}
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	if err := backup.AcceptClock(cat, seq, reason); err != nil {
		return err
	}
	a.Changed = true
	if a.Flags.JSON {
		return a.Document(struct {
			Clock  uint64 `json:"clock"`
			Reason string `json:"reason"`
		}{seq, reason})
	}
	a.Printf("that time runs backwards after entry %d is accepted; what was proven under that clock keeps an unknown age", seq)
	return nil
}

// acceptable looks without a catalog at whether a key cannot be exported.
func acceptable(inv *backup.Inventory, which string) error {
	k, err := inv.FindKey(which)
	if err != nil {
		return err
	}
	if k.NotExportable == "" {
		return console.Refusef("exportable", "`hsmbackup backup` takes it", "%s can be exported, as far as is known without a catalog, so there is nothing to accept", k.Name())
	}
	return nil
}
