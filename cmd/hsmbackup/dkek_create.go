package main

import (
	"context"

	"github.com/spf13/cobra"

	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

type dkekCreate struct {
	weak       bool
	splitFlags // its out names a file where nothing is split
}

func newDKEKCreateCommand(a *app) *cobra.Command {
	var o dkekCreate
	cmd := &cobra.Command{
		Use:   "create --out FILE",
		Short: "make a share of a new recovery key, or split it among custodians at once",
		Long: `Makes a random share, writes it under a password to a new file (mode 0600, the
format of sc-hsm-tool), reads the file back and opens it again.

Without --password, a password of seven random words is made and shown once on
the terminal. A weak password is refused: whoever gets the file can try millions
a day. One share makes a whole recovery key; to give several people one each,
run this once for each of them and load all the shares. That it was made is noted
in the catalog, if there is one; the share is not.

With --split K/N the share is split instead, and no file has all of it: each
custodian gets a part, any K of them bring the share together. Before anything
is shown, all combinations are tried. A part is shown on a screen of its own,
which is wiped, and typed back before the next custodian gets theirs; with
--out DIR it is a file NAME.txt (mode 0600), or, for those with a --recipient,
NAME.txt.age. The set is registered in the catalog, with a commitment of each
part that tells it from any other and nothing of the part.

The random numbers are those of this computer, mixed with those of a token if
exactly one is attached or --token names one.`,
		Example: `  hsmbackup dkek create --out share1.pbe                      a password is made and shown
  hsmbackup dkek create --out share1.pbe --password prompt    a password of your own
  hsmbackup dkek create --out share1.pbe --password file:PW
  hsmbackup dkek create --split 2/3 --custodian alice --custodian bob --custodian carol
  hsmbackup dkek create --split 2/3 --custodian alice --custodian bob --custodian carol --out parts/`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.split != "" {
				if o.weak {
					return console.Usagef("", "--weak-password is for a share file: parts have no password")
				}
				return a.createSplit(cmd.Context(), o.splitFlags)
			}
			if flag := o.used(); flag != "" {
				return console.Usagef("", "--%s is for parts: --split K/N is missing", flag)
			}
			return a.dkekCreate(cmd.Context(), o)
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&o.of, "of", "", "with --split: which share of how many this is, `I/M` (default 1/1)")
	cmd.Flags().StringVar(&o.out, "out", "", "the new `FILE`, with --split a folder; what exists is never overwritten")
	cmd.Flags().BoolVar(&o.weak, "weak-password", false, "take a password although it is weak")
	uses(cmd, useCatalog, useToken, useWho)
	return cmd
}

func (a *app) dkekCreate(ctx context.Context, o dkekCreate) error {
	if o.out == "" {
		return console.Usagef("", "--out FILE is missing: it names the file to write the share to")
	}
	// Asking for a password before noticing that would be a nuisance.
	if err := custody.NotThere(o.out); err != nil {
		return err
	}
	password, err := a.newPassword(ctx, o.weak)
	if err != nil {
		return err
	}
	defer password.Wipe()
	share, from, err := a.newShare(ctx)
	if err != nil {
		return err
	}
	defer share.Wipe()
	if from != "" {
		a.Note("made of random numbers of this computer and of %s", from)
	}
	kcv, err := custody.WriteShare(ctx, a.Desk(), o.out, share, password)
	if err != nil {
		return err
	}
	a.Changed = true
	cat, err := a.ExistingCatalog()
	if err == nil && cat == nil && (a.Flags.Catalog != "" || a.Flags.Who != "") {
		err = a.NoCatalog()
	}
	if err != nil {
		a.Note("not recorded in the log: %s", cli.Describe(err, false).Message)
	}
	defer cli.CloseCatalog(cat)
	a.Ceremony(cat, store.Ceremony{Job: "create", KCV: kcv.String(), Outcome: "a share made, which gives this recovery key if it is the only one"})
	if a.Flags.JSON {
		return a.Document(struct {
			File string `json:"file"`
			KCV  string `json:"kcv"`
		}{o.out, kcv.String()})
	}
	a.Printf("%s: share written, read back and opened", o.out)
	a.Printf("KCV %s, if this is the only share", kcv)
	a.Next("keep the file and its password apart, and copies of both; then `hsmbackup init --share %s`", o.out)
	return nil
}

// newPassword reads the password of --password, or makes one and shows it on
// the terminal.
func (a *app) newPassword(ctx context.Context, weak bool) (*secret.Bytes, error) {
	if a.Flags.Password.Text == "" {
		return custody.GeneratedPassword(ctx, a.Desk())
	}
	password, err := a.ReadSecret(ctx, a.Flags.Password.Source, "password of the new share", true)
	if err != nil {
		return nil, err
	}
	if err := custody.CheckPassword(a.Desk(), password, weak); err != nil {
		password.Wipe()
		return nil, err
	}
	return password, nil
}
