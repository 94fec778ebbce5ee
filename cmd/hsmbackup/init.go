package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/store"
)

type initOptions struct {
	label     string
	shares    int
	asGiven   bool // shares was not said
	noDKEK    bool
	noUnblock bool
	pinTries  int
	soFloor   int
}

func newInitCommand(a *app) *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "initialise a token and load the shares of its recovery key",
		Long: `Sets PIN and SO-PIN, the label and the number of shares of the recovery key, and
loads the shares given. A token that holds anything is wiped by this: that is
refused unless all of it would come back from the catalog. Before that each key
answers, with the PIN that the token has now (--token-pin), and its backup comes
back beside it; the recovery key is shown in this run (--share, or
--shares-checked after 'hsmbackup dkek check' elsewhere); and then its serial has
to be typed. Where nobody knows the PIN, the SO-PIN sets the new one first; if
the token does not let it, each key is typed on a terminal.

Shares go to a token only after a look at who it is: its certificate up to the
vendor's root, and proof that it holds the device key.

The SO-PIN of a token that was initialised before must be the one it has: a
wrong one costs a try, and without tries the token can never be initialised
again. Digits only are the safest choice for a new one.

Without a recovery key, no key of the token can ever be exported: there is no
backup of such keys, and no way to change that later. That is what --no-dkek
does. --shares 0 has the token make up a recovery key that nobody knows: keys
can be exported, and restored to this very token until it is initialised again.`,
		Example: `  hsmbackup init --share share1.pbe --label ssh
  hsmbackup init --share alice.pbe --share bob.pbe
  hsmbackup init --shares 2                    the shares are loaded later: dkek load
  hsmbackup init --share share1.pbe --token-pin prompt     a token that holds keys
  hsmbackup init --token soft:old.tok --share share1.pbe --pin file:PIN --so-pin file:SO --password file:PW --confirm SOFT0200001`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.asGiven = !cmd.Flags().Changed("shares")
			return a.init(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.label, "label", "", "the token's label, `TEXT`")
	f.IntVar(&o.shares, "shares", 0, "`N` shares make the recovery key (default: as many as are given or parts tell, at least 1); 0: made up by the token")
	f.BoolVar(&o.noDKEK, "no-dkek", false, "no recovery key: keys of this token can never be exported or backed up")
	f.BoolVar(&o.noUnblock, "no-unblock", false, "the SO-PIN cannot unblock the PIN")
	f.IntVar(&o.pinTries, "pin-tries", 3, "`N` wrong PINs block it; at most 3 for a PIN of 6 characters, 5 for 7, 10 for more")
	f.IntVar(&o.soFloor, "so-pin-floor", backup.DefaultSOFloor, "refuse if fewer than `N` tries of the SO-PIN are left")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useUntrusted, useYes, useWho, useTokenPIN, useChecked, useSpend)
	return cmd
}

func (o initOptions) check(args []custody.Given) error {
	whole := 0 // what is there of parts shows later
	for _, s := range args {
		if s.MayBeWhole() {
			whole++
		}
	}
	switch {
	case o.noDKEK && len(args) > 0:
		return console.Usagef("", "--no-dkek and --share exclude each other: without a recovery key there are no shares")
	case o.shares < 0 || o.shares > 255:
		return console.Usagef("", "--shares takes 0 to 255")
	case whole > o.shares && !o.asGiven:
		return tooMany(whole, o.shares)
	case o.soFloor < 0 || o.soFloor > 15:
		return console.Usagef("", "--so-pin-floor takes 0 to 15")
	case o.pinTries < 1 || o.pinTries > 10:
		return console.Usagef("", "--pin-tries takes 1 to 10")
	}
	return nil
}

func tooMany(given, shares int) error {
	return console.Usagef("", "%s are given, but --shares says %d", console.Count(given, "share"), shares)
}

func (a *app) init(ctx context.Context, o initOptions) error {
	if err := o.check(a.Flags.ShareArgs); err != nil {
		return err
	}
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	j := &backup.InitJob{Work: a.work(ctx, t, o.soFloor), Label: o.label, Shares: o.shares, AsGiven: o.asGiven, NoDKEK: o.noDKEK, NoUnblock: o.noUnblock, PINTries: o.pinTries}
	if j.Catalog, j.NotRecorded, err = a.catalogToRecord(); err != nil {
		return err
	}
	defer func() { cli.CloseCatalog(j.Catalog) }()
	r, err := j.Run(ctx)
	a.did(&j.Work)
	if err != nil {
		return err
	}
	if a.Flags.JSON {
		return a.Document(r)
	}
	a.Printf("%s is initialised", t.Name())
	switch {
	case o.noDKEK:
		a.Printf("it has no recovery key: its keys can never be exported")
	case r.Shares == 0:
		a.Printf("its recovery key %s was made up by the token: nobody has shares of it", r.KCV)
	case r.KCV == "":
		a.Printf("%s of its recovery key missing", console.Count(r.Missing, "share"))
		a.Next("`hsmbackup dkek load --share FILE` loads them")
	default:
		a.Printf("it has the recovery key %s, from %s", r.KCV, console.Count(r.Shares, "share"))
		a.Next("make keys on it (pkcs11-tool --keypairgen), then `hsmbackup backup`")
	}
	return nil
}

// catalogToRecord opens the catalog for a verb that records something if it
// can. Without one, and with one that cannot be written, the second result
// says why nothing is recorded.
func (a *app) catalogToRecord() (*store.Catalog, string, error) {
	cat, err := a.ExistingCatalog()
	if err == nil || !errors.Is(err, store.ErrReadOnly) {
		return cat, "", err
	}
	why := err.Error()
	cat, err = a.LookCatalog()
	return cat, why, err
}
