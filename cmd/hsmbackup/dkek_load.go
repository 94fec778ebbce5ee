package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/custody"
	"hsmbackup/store"
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
	if len(a.flags.shareArgs) == 0 {
		return usagef("", "--share FILE is missing")
	}
	if domain < 0 || domain > 255 {
		return usagef("", "--domain takes 0 to 255")
	}
	t, err := a.openToken(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	cat, notRecorded, err := a.catalogToRecord()
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	inv, err := backup.Take(ctx, t.card)
	if err != nil {
		return err
	}
	missing, slots := -1, 0
	for _, d := range inv.Domains {
		if d.Number == domain && !d.Empty {
			missing, slots = d.Outstanding, d.Shares
		}
	}
	switch {
	case missing < 0:
		return failf("no-dkek", "`hsmbackup init` sets a token up for one; that wipes it", "%s has no place for a recovery key here", t.name())
	case missing == 0:
		return failf("dkek-complete", "", "%s has its recovery key already: no share is missing", t.name())
	}
	m, err := a.gather(ctx, cat)
	if err != nil {
		return err
	}
	given := m.Count()
	if missing < given {
		return failf("too-many-shares", "", "%s misses %s, %d are given", t.name(), count(missing, "share"), given)
	}
	for _, s := range m.Sets {
		if s.Shares != slots {
			return failf("other-shares", "`hsmbackup init --shares` sets a token up for as many; that wipes it", "%s: the recovery key has %s, %s is set up for %d", s.Describe(), count(s.Shares, "share"), t.name(), slots)
		}
	}
	whole := missing == slots && slots == given
	shares, err := m.Open(ctx, cat)
	if err != nil {
		return err
	}
	defer dkek.WipeShares(shares)
	// The shares give the recovery key only if they are all of it.
	var key *dkek.Key
	var expect dkek.KCV
	if whole {
		key, err = m.Key(shares)
	} else if key, err = dkek.Combine(shares...); given == 1 {
		err = nil // a share by itself may be anything
	}
	if err != nil {
		return err
	}
	defer key.Wipe()
	switch {
	case whole:
		expect = key.KCV()
	case missing == given:
		expect = m.KCV()
	}
	note, err := backup.TrustToken(ctx, t.card, cat, custody.KCVText(expect), a.trust(t))
	if err != nil {
		return err
	}
	if note != "" {
		a.note("%s", note)
	}
	kcv, err := backup.LoadShares(ctx, t.card, domain, shares, expect)
	if err != nil {
		a.unknownChange(err)
		return err
	}
	a.changed = true
	if note := backup.WithChannel(t.card, ""); note != "" {
		a.note("%s", note)
	}
	if !kcv.IsZero() && cat != nil && notRecorded == "" {
		if whole {
			err = backup.RecordShares(cat, key, inv.Software, "dkek load")
		} else {
			err = cat.Append(store.ShareSeen{KCV: kcv.String(), Software: inv.Software, Origin: "dkek load"})
		}
		if err != nil {
			notRecorded = describe(err, false).Message
		}
	}
	outcome := "done"
	if kcv.IsZero() {
		outcome = fmt.Sprintf("%s missing", count(missing-given, "share"))
	}
	of := kcv
	if of.IsZero() {
		of = m.KCV()
	}
	a.ceremony(cat, store.Ceremony{Job: "load", KCV: custody.KCVText(of), Sets: m.SetNames(), Token: t.serial, Outcome: outcome})
	if notRecorded != "" {
		a.note("not recorded that these shares were seen: %s", notRecorded)
	}
	if a.flags.json {
		return a.document(struct {
			Serial      string `json:"serial"`
			KCV         string `json:"kcv"`
			Outstanding int    `json:"outstanding"`
		}{t.serial, custody.KCVText(kcv), missing - given})
	}
	if kcv.IsZero() {
		a.printf("%s loaded into %s, %s missing", count(given, "share"), t.name(), fmt.Sprint(missing-given))
		return nil
	}
	a.printf("%s has the recovery key %s", t.name(), kcv)
	if expect.IsZero() {
		a.note("the shares came one by one: compare the KCV with the one you expect")
	}
	return nil
}
