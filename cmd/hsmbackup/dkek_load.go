package main

import (
	"context"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
)

func newDKEKLoadCommand(a *app) *cobra.Command {
	var domain int
	cmd := &cobra.Command{
		Use:   "load --share FILE...",
		Short: "load shares into a token that misses some",
		Long: `Loads shares into a token that was initialised for a recovery key and still
misses shares of it, and compares the KCV when it is complete. Each share is
loaded once. It needs no catalog: shares and backup need not meet on one computer,
and neither need the holders of several shares.

Shares go to a token only after a look at who it is: its certificate up to the
vendor's root, and proof that it holds the device key. A token that knows no chip
authentication gives this proof by making a key, which is deleted again; its PIN
is asked for then, and only then.`,
		Example: `  hsmbackup dkek load --share share1.pbe
  hsmbackup dkek load --share alice.pbe,password=prompt --share bob.pbe,password=prompt
  hsmbackup dkek load --share alice.txt --share carol.txt`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dkekLoad(cmd.Context(), domain) },
	}
	cmd.Flags().IntVar(&domain, "domain", 0, "key domain `N`, of a token that has several")
	uses(cmd, useCatalog, useToken, useShare, useUntrusted, useWho)
	return cmd
}

func (a *app) dkekLoad(ctx context.Context, domain int) error {
	if len(a.Flags.ShareArgs) == 0 {
		return console.Usagef("", "--share FILE is missing")
	}
	if domain < 0 || domain > 255 {
		return console.Usagef("", "--domain takes 0 to 255")
	}
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	j := &backup.LoadJob{Work: a.work(ctx, t, 0), Domain: domain}
	if j.Catalog, j.NotRecorded, err = a.catalogToRecord(); err != nil {
		return err
	}
	defer cli.CloseCatalog(j.Catalog)
	r, err := j.Run(ctx)
	a.did(&j.Work)
	if err != nil {
		return err
	}
	switch {
	case a.Flags.JSON:
		return a.Document(r)
	case r.KCV == "":
		a.Printf("%s loaded into %s, %d missing", console.Count(r.Loaded, "share"), t.Name(), r.Outstanding)
		return nil
	}
	a.Printf("%s has the recovery key %s", t.Name(), r.KCV)
	if !r.Compared {
		a.Note("the shares came one by one: compare the KCV with the one you expect")
	}
	return nil
}
