package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/dkek"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

func newDKEKCheckCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE[,password=SOURCE]...",
		Short: "check shares and wrapped keys",
		Long: `Opens share files and says which recovery key (KCV) they make. Wrapped keys
(.bin, .wky of sc-hsm-tool and the Key Manager) are opened with it, and each
private key is compared with the certificate, request and description that lie
beside it. What a file is, is told by its content. Files with the sheets that
sc-hsm-tool --pwd-shares-threshold prints follow the share file that they open,
which then needs no password.

Parts of custodians are checked each by itself, also a single one, and brought
together where enough of a set are here; who is missing is named. Parts that are
sealed with age are opened with --identity or a password.

Without a share, wrapped keys are only looked at: structure, and the KCV that
they are under. With shares and wrapped keys together, the private keys are open
in this computer's memory.`,
		Example: `  hsmbackup dkek check share1.pbe
  hsmbackup dkek check share1.pbe share2.pbe,password=prompt key1.bin key2.bin
  hsmbackup dkek check threshold.pbe alice.txt bob.txt
  hsmbackup dkek check parts/alice.txt
  hsmbackup dkek check alice.txt.age bob.txt --identity key.txt
  hsmbackup dkek check key1.bin`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && len(a.Flags.Shares) == 0 {
				return console.Usagef(seeHelp(cmd), "%s needs a share or a wrapped key", verb(cmd))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.dkekCheck(cmd.Context(), args) },
	}
	uses(cmd, useShare, useCatalog)
	return cmd
}

func (a *app) dkekCheck(ctx context.Context, args []string) error {
	given, err := a.ParseShares("", args)
	if err != nil {
		return err
	}
	cat, notRecorded := a.catalogOfCheck()
	defer cli.CloseCatalog(cat)
	c, key, err := a.Opener().Check(ctx, cat, append(slices.Clone(a.Flags.ShareArgs), given...))
	if c != nil {
		a.Gathered = c.Material // wiped when the program ends
	}
	if err != nil {
		return err
	}
	defer key.Wipe()
	if key != nil && (cat != nil || notRecorded != nil) {
		a.recordCheck(cat, c, key, notRecorded)
	}
	if a.Flags.JSON {
		err = a.Document(c)
	} else {
		a.printDKEKCheck(c)
	}
	if err != nil {
		return err
	}
	exits := console.Exits{console.ExitDamaged: c.Damaged, console.ExitIncomplete: c.Incomplete}
	return exits.Outcome(c.Summary())
}

// catalogOfCheck opens the catalog for what it knows, and to record in it. A check
// goes on without: why nothing is recorded is the second result.
func (a *app) catalogOfCheck() (*store.Catalog, error) {
	cat, err := a.ExistingCatalog()
	if err == nil {
		return cat, nil
	}
	look, lookErr := a.LookCatalog()
	if lookErr != nil {
		a.Note("the catalog does not tell whose the parts are: %s", cli.Describe(lookErr, false).Message)
	}
	return look, err
}

// recordCheck notes that shares were seen, and which keys were opened.
func (a *app) recordCheck(cat *store.Catalog, c *custody.Checked, key *dkek.Key, why error) {
	seen, opened := why, why
	if why == nil {
		seen, opened = c.Record(cat, key)
		a.Changed = a.Changed || seen == nil
	}
	if seen != nil {
		a.Note("not recorded that these shares were seen: %s", cli.Describe(seen, false).Message)
	}
	if opened != nil {
		a.Note("not recorded which keys were opened: %s", cli.Describe(opened, false).Message)
	}
}

func (a *app) printDKEKCheck(c *custody.Checked) {
	var rows [][]string
	for _, s := range c.Shares {
		verdict := "good"
		if !s.OK {
			verdict = "BAD: " + s.Reason
		}
		what := "share"
		switch {
		case s.What != "":
			what = s.What
		case s.Kind == "threshold":
			what = "share, by its sheets"
		case s.Kind == "part":
			what = "part"
		}
		if s.Kind == "age" {
			what += ", sealed"
		}
		rows = append(rows, []string{s.File, what, verdict})
	}
	a.Table(rows)
	for _, s := range c.Material.Sets {
		a.Printf("%s: %s", terminal.Printable(s.Describe()), terminal.Printable(s.State()))
		if !s.KCV.IsZero() && !c.Complete {
			a.Printf("it is of the recovery key %s", s.KCV)
		}
	}
	if c.KCV != "" {
		a.Printf("recovery key KCV %s, from %s", c.KCV, console.Count(c.Material.Count(), "share"))
		a.Printf("recipient %s", c.Recipient)
		a.Printf("in words: %s", strings.Join(custody.RecipientWords(c.Recipient), " "))
	} else if err := c.Material.LacksShares(); err != nil {
		a.Printf("%s", err)
	}
	rows = nil
	for _, w := range c.Wrapped {
		verdict := "not opened: no share was given"
		switch {
		case !w.OK && w.KCV != "" && w.KCV != c.KCV && c.KCV != "":
			verdict = "NOT OPENED: " + w.Reason
		case !w.OK:
			verdict = "BAD: " + w.Reason
		case w.Proof == store.ProofOpened:
			verdict = "opened, matches its " + w.Matched
			if w.Matched == string(dkek.MatchSelf) {
				verdict = "opened, agrees with itself"
			}
		}
		rows = append(rows, []string{w.File, w.Type, console.Quoted(w.Label), "ID " + w.ID, "KCV " + w.KCV, verdict})
	}
	a.Table(rows)
}
