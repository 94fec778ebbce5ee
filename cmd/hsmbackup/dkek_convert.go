package main

import (
	"context"

	"github.com/spf13/cobra"

	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	from "hsmbackup/internal/source"
)

func newDKEKConvertCommand(a *app) *cobra.Command {
	var o dkekCreate
	cmd := &cobra.Command{
		Use:   "convert FILE[,password=SOURCE]... --out NEW.pbe",
		Short: "write a share under a new password, also one that only sheets open",
		Long: `Opens a share, by its password or by the sheets that follow it, writes it under a
new password to a new file (mode 0600, the format of sc-hsm-tool), reads the file
back, opens it again and compares the KCV.

It opens what sc-hsm-tool cannot: threshold sheets whose password begins with a
zero byte, and share IDs from 10 on. --password is the new one; without it seven
random words are made and shown once on the terminal. The password of the old
file is given with it, or asked for. The share stays the same, and the old file
with its password or sheets still opens it: destroy them if they are not to.`,
		Example: `  hsmbackup dkek convert threshold.pbe alice.txt bob.txt --out share1.pbe
  hsmbackup dkek convert old.pbe,password=prompt --out share1.pbe --password file:PW`,
		Args: arguments(1, -1, "a share FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.dkekConvert(cmd.Context(), args, o) },
	}
	cmd.Flags().StringVar(&o.out, "out", "", "the new `FILE`; one that exists is never overwritten")
	cmd.Flags().BoolVar(&o.weak, "weak-password", false, "take a new password although it is weak")
	uses(cmd)
	return cmd
}

func (a *app) dkekConvert(ctx context.Context, names []string, o dkekCreate) error {
	if o.out == "" {
		return console.Usagef("", "--out FILE is missing: it names the file to write the share to")
	}
	if err := custody.NotThere(o.out); err != nil {
		return err
	}
	given, err := a.ParseShares("", names)
	if err != nil {
		return err
	}
	one, err := custody.OneShareFile(given, func(g custody.Given) error {
		return console.Failf("not-a-share", "parts of custodians: `hsmbackup dkek combine --share FILE… --out NEW.pbe`", "%s is neither a share file nor sheets of sc-hsm-tool", g.File)
	}, func(n int) error {
		return console.Usagef("convert them one by one", "%d shares are given: each gets a file of its own", n)
	})
	if err != nil {
		return err
	}
	if !one.OwnPassword { // --password is for the new file
		one.Password = a.PasswordFrom(from.Source{Flag: one.File + ",password=", Kind: "prompt"})
	}
	share, err := a.Opener().OpenFile(ctx, one)
	if err != nil {
		return err
	}
	defer share.Wipe()
	password, err := a.newPassword(ctx, o.weak)
	if err != nil {
		return err
	}
	defer password.Wipe()
	kcv, err := custody.WriteShare(ctx, a.Desk(), o.out, share, password)
	if err != nil {
		return err
	}
	a.Changed = true
	if a.Flags.JSON {
		return a.Document(struct {
			File string `json:"file"`
			From string `json:"from"`
			Kind string `json:"kind"`
			KCV  string `json:"kcv"`
		}{o.out, one.File, one.Kind(), kcv.String()})
	}
	a.Printf("%s: the share of %s written, read back and opened", o.out, one.File)
	a.Printf("KCV %s, if this is the only share", kcv)
	old := "its password"
	if one.BySheets() {
		old = "its sheets"
	}
	a.Next("%s with %s still opens the same share: keep both or destroy both", one.File, old)
	return nil
}
