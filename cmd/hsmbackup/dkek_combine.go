package main

import (
	"context"

	"github.com/spf13/cobra"

	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	from "hsmbackup/internal/source"
	"hsmbackup/store"
)

type combineFlags struct {
	dkekCreate
	load   bool
	domain int
}

func newDKEKCombineCommand(a *app) *cobra.Command {
	var f combineFlags
	cmd := &cobra.Command{
		Use:   "combine --share FILE... --out FILE",
		Short: "bring parts together, into a share file or a token",
		Long: `Brings a share together from parts of custodians, or several shares from whatever
holds them, and writes it under a password to a new file (mode 0600, the format
of sc-hsm-tool), reads the file back, opens it again and compares the KCV; or,
with --load, sends it to a token, as ` + "`dkek load`" + ` does. Nothing is ever shown.

Several shares make one file: a single share that gives the same recovery key as
all of them. The parts stay valid.`,
		Example: `  hsmbackup dkek combine --share alice.txt --share bob.txt --out share1.pbe
  hsmbackup dkek combine --share prompt --load`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(a.Flags.ShareArgs) == 0 {
				return console.Usagef("", "--share FILE is missing: it names what is brought together")
			}
			if f.load == (f.out != "") {
				return console.Usagef("", "one of --out FILE and --load says where the share goes")
			}
			if f.load {
				return a.dkekLoad(cmd.Context(), f.domain)
			}
			if a.Flags.Token != "" || a.Flags.Untrusted != "" || f.domain != 0 {
				return console.Usagef("", "--token, --untrusted-token and --domain are for --load")
			}
			return a.dkekCombine(cmd.Context(), f)
		},
	}
	cmd.Flags().StringVar(&f.out, "out", "", "the new `FILE`; one that exists is never overwritten")
	cmd.Flags().BoolVar(&f.load, "load", false, "load the token, and write no file")
	cmd.Flags().IntVar(&f.domain, "domain", 0, "with --load: key domain `N`, of a token that has several")
	cmd.Flags().BoolVar(&f.weak, "weak-password", false, "take a new password although it is weak")
	uses(cmd, useCatalog, useToken, useShare, useUntrusted, useWho)
	return cmd
}

func (a *app) dkekCombine(ctx context.Context, f combineFlags) error {
	if err := custody.NotThere(f.out); err != nil {
		return err
	}
	// --password is for the new file.
	for i := range a.Flags.ShareArgs {
		if s := &a.Flags.ShareArgs[i]; !s.OwnPassword {
			s.Password = a.PasswordFrom(from.Source{Flag: "--share " + s.File + ",password=", Kind: "prompt"})
		}
	}
	cat, notRecorded, err := a.catalogToRecord()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	m, err := a.Gather(ctx, cat)
	if err != nil {
		return err
	}
	one, of, err := m.Combined(ctx, cat)
	if err != nil {
		return err
	}
	defer one.Wipe()
	password, err := a.newPassword(ctx, f.weak)
	if err != nil {
		return err
	}
	defer password.Wipe()
	kcv, err := custody.WriteShare(ctx, a.Desk(), f.out, one, password)
	if err != nil {
		return err
	}
	a.Changed = true
	if of.IsZero() {
		of = kcv
	}
	if notRecorded != "" {
		a.Note("not recorded in the catalog: %s", notRecorded)
	}
	a.Ceremony(cat, store.Ceremony{Job: "combine", KCV: of.String(), Sets: m.SetNames(), Outcome: "done"})
	if a.Flags.JSON {
		return a.Document(struct {
			File string `json:"file"`
			KCV  string `json:"kcv"`
		}{f.out, kcv.String()})
	}
	a.Printf("%s: share written, read back and opened", f.out)
	switch {
	case m.Count() > 1:
		a.Printf("KCV %s, of %s together: a single share that gives the same recovery key", kcv, console.Count(m.Count(), "share"))
	case len(m.Sets) == 1 && m.Sets[0].Shares > 1:
		a.Printf("it is share %d of %d of the recovery key", m.Sets[0].Share, m.Sets[0].Shares)
	default:
		a.Printf("KCV %s, if this is the only share", kcv)
	}
	a.Next("keep the file and its password apart; whoever has both needs no custodian")
	return nil
}
