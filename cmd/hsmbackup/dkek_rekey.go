package main

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/report"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

type rekeyFlags struct {
	newShares []string
	why       string
}

// Reasons for a new recovery key that something follows from.
const (
	whyRoutine    = "routine"
	whyLeft       = "custodian-left"
	whyCompromise = "compromise"
)

func newDKEKRekeyCommand(a *app) *cobra.Command {
	var o rekeyFlags
	cmd := &cobra.Command{
		Use:   "rekey --share OLD... --new-share NEW... [SNAPSHOT...]",
		Short: "put the backup under a new recovery key",
		Long: `Opens everything that the newest snapshot of each token, or the ones named, has
under the old recovery key, on this computer, and seals it anew under the new one.
Each new blob is opened again and its key matched with all that is known of it
before anything is recorded; then a new snapshot stands for each old one. What
cannot be re-keyed is named. Interrupted, run it again: it finishes.

The new shares are made before, with dkek create or dkek split, and the keys of
another recovery key stay as they are: of a token with several, re-key one after
the other.

Old snapshots are kept, here and in every copy of the catalog: whoever has one
and the old recovery key opens it as before. After a compromise the answer is
new keys, not a new wrapping. The tokens keep the old recovery key until they are
initialised with the new one (restore --init), and the next key that one of them
makes goes out under the old one. So the old parts are needed until no token has
it: run this again when all are set up anew and backed up, and it retires their
sets.`,
		Example: `  hsmbackup dkek rekey --share old.pbe --new-share new.pbe --why routine
  hsmbackup dkek rekey --share alice.txt --share bob.txt --new-share dora.txt --new-share emil.txt
  hsmbackup dkek rekey DENK0404144 --share old.pbe,password=prompt --new-share new.pbe,password=prompt`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.rekey(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.newShares, "new-share", nil, "`FILE[,password=SOURCE]` with a share of the new recovery key, as --share")
	f.StringVar(&o.why, "why", "", "`REASON` for the log: routine, custodian-left, compromise, or in your words")
	uses(cmd, useCatalog, useShare, useYes, useWho)
	return cmd
}

func (a *app) rekey(ctx context.Context, o rekeyFlags, names []string) error {
	switch {
	case len(a.Flags.ShareArgs) == 0:
		return console.Usagef("", "the shares of the old recovery key are missing: --share FILE for each")
	case len(o.newShares) == 0:
		return console.Usagef("`hsmbackup dkek create` makes them", "the shares of the new recovery key are missing: --new-share FILE for each")
	}
	next, err := a.ParseShares("--new-share", o.newShares)
	if err != nil {
		return err
	}
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	if cat == nil {
		return a.NoCatalog()
	}
	defer cli.CloseCatalog(cat)
	list, err := a.snapshots(cat, names)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return console.Failf("no-such-snapshot", "`hsmbackup backup` takes one", "there is no snapshot in the catalog")
	}
	if o.why, err = a.askWhy(ctx, o.why); err != nil {
		return err
	}
	a.Note("private keys are open in this computer's memory while they are sealed anew")
	from, shares, err := a.OpenKey(ctx, cat)
	if err != nil {
		return err
	}
	defer from.Wipe()
	dkek.WipeShares(shares)
	m, err := a.Opener().Gather(ctx, cat, next)
	if err != nil {
		return err
	}
	defer m.Wipe()
	to, shares, err := m.OpenKey(ctx, cat)
	if err != nil {
		return err
	}
	defer to.Wipe()
	dkek.WipeShares(shares)
	r, err := backup.Rekey(ctx, cat, list, from, to, backup.RekeyOptions{Shares: len(shares), Why: o.why, Program: build.Program(), Progress: a.Steps})
	a.Progress.Close()
	if err != nil {
		return err
	}
	left := r.Left()
	if r.Any() || len(r.Retired) > 0 {
		a.Changed = true
		a.recordRekey(cat, r, o.why, slices.Concat(a.Gathered.SetNames(), m.SetNames(), r.Retired), left)
		state, err := cat.Read()
		if err != nil {
			return err
		}
		r.Head = state.Head
	}
	return a.printRekey(r, o.why, left)
}

// askWhy asks for the reason, and says what follows from it.
func (a *app) askWhy(ctx context.Context, why string) (string, error) {
	if why == "" {
		line, err := a.TTY.ReadLine(ctx, "why a new recovery key? (routine, custodian-left, compromise, or in your words):")
		switch {
		case errors.Is(err, terminal.ErrNone):
			return "", console.Usagef("give --why routine, custodian-left, compromise, or in your words", "there is no terminal to ask why")
		case err != nil:
			return "", err
		}
		if why = strings.TrimSpace(line); why == "" {
			return "", console.Usagef("", "a reason is needed: routine, custodian-left, compromise, or in your words")
		}
	}
	switch why {
	case whyLeft:
		a.Note("old snapshots and all copies of the catalog stay open to the old recovery key: whoever kept enough old parts and has a copy opens them as before. Destroy the copies that you can reach, and the old parts once no token has the old recovery key")
	case whyCompromise:
		a.Note("after a compromise the answer is new keys, not a new wrapping: whoever has the old recovery key and a copy of the catalog has the keys themselves, whatever they are wrapped under now")
		a.Next("`hsmbackup rotate` makes successors of the keys, on a token with the new recovery key; then take the old ones out of use: authorized_keys, certificates, revocation lists")
		if err := a.Ask(ctx, "Re-key all the same, for what must go on until then?"); err != nil {
			return "", err
		}
	}
	return why, nil
}

// recordRekey leaves the ceremony in the log, each set once, those that were
// given first.
func (a *app) recordRekey(cat *store.Catalog, r *backup.RekeyReport, why string, sets, left []string) {
	c := store.Ceremony{Job: "rekey", Why: why, KCV: r.KCV, OldKCV: r.OldKCV, Outcome: "done"}
	for _, s := range sets {
		if !slices.Contains(c.Sets, s) {
			c.Sets = append(c.Sets, s)
		}
	}
	if len(left) > 0 {
		c.Outcome = "left: " + strings.Join(left, "; ")
	}
	a.Ceremony(cat, c)
}

type jsonRekey struct {
	OldKCV    string                `json:"old_kcv"`
	KCV       string                `json:"kcv"`
	Why       string                `json:"why"`
	Snapshots []jsonRekeyedSnapshot `json:"snapshots"`
	// Retired are part sets of the old recovery key that nothing needs any more, Kept
	// those that tokens still need: Holders.
	Retired []string `json:"retired"`
	Head    string   `json:"head"`
	Kept    []string `json:"kept,omitempty"`
	Holders []string `json:"holders,omitempty"`
}

// jsonRekeyedSnapshot is what became of one snapshot. ID is empty where nothing
// of it was under the old recovery key; Before: an earlier run made it.
type jsonRekeyedSnapshot struct {
	ID     string         `json:"id"`
	From   string         `json:"from"`
	Token  string         `json:"token"`
	Before bool           `json:"before"`
	Keys   []jsonKeyProof `json:"keys"`
	Left   []string       `json:"left"`
}

func (a *app) printRekey(r *backup.RekeyReport, why string, left []string) error {
	doc := jsonRekey{OldKCV: r.OldKCV, KCV: r.KCV, Why: why, Snapshots: []jsonRekeyedSnapshot{}, Retired: append([]string{}, r.Retired...), Head: report.Head(r.Head), Kept: r.Kept}
	for _, h := range r.Holders {
		doc.Holders = append(doc.Holders, h.String())
	}
	if r.Any() {
		a.Note("these blobs were sealed by a computer: that a real token takes them is not confirmed on hardware. Restore onto a spare one before the old shares are destroyed")
	}
	exits := console.Exits{}
	for _, s := range r.Snapshots {
		j := jsonRekeyedSnapshot{From: s.From.ID, Token: s.From.Token.Serial, Before: s.Before, Keys: keyProofs(s.Keys), Left: []string{}}
		if s.New != nil {
			j.ID = s.New.ID
		}
		for _, l := range s.Left {
			j.Left = append(j.Left, l.What+": "+l.Reason)
		}
		doc.Snapshots = append(doc.Snapshots, j)
		if !s.Done() && !r.DoneBefore() {
			exits.Add(console.ExitIncomplete)
		}
		for _, k := range s.Keys {
			if k.Damage {
				exits.Add(console.ExitDamaged)
			}
		}
	}
	if a.Flags.JSON {
		if err := a.Document(doc); err != nil {
			return err
		}
		return exits.Outcome(console.Brief(left))
	}
	for _, s := range r.Snapshots {
		a.printRekeyed(s)
	}
	switch {
	case r.DoneBefore():
		a.Printf("nothing is under the recovery key %s any more: an earlier run put it under %s", r.OldKCV, r.KCV)
	case !r.Any():
		return exits.Outcome("nothing is under the recovery key "+r.OldKCV+", which the shares of --share give; nothing was recorded", "`hsmbackup list` shows what the snapshots are under")
	default:
		a.Printf("recovery key %s in place of %s", r.KCV, r.OldKCV)
	}
	for _, set := range r.Retired {
		a.Printf("set %s of the old recovery key is retired: no token has that key, and nothing of the newest snapshots is under it; its parts stay valid", set)
	}
	for _, set := range r.Kept {
		a.Printf("set %s of the old recovery key stays in use: its parts are kept, and its custodians called", set)
	}
	a.Printf("head: %s", report.Head(r.Head))
	if len(r.Holders) > 0 {
		for _, h := range r.Holders {
			a.Note("the old recovery key is still needed, for the next key that is made: %s", h)
		}
		a.Next("`hsmbackup restore --init` with the new shares sets a token up anew; when all are, and backed up, run this again: then the old parts are not needed any more")
	}
	return exits.Outcome(console.Brief(left))
}

func (a *app) printRekeyed(s backup.RekeyedSnapshot) {
	switch {
	case s.New == nil:
		a.Printf("snapshot %s of %s: nothing of it was re-keyed", s.From.ID, report.TakenOf(s.From.Token.Serial))
	case s.Before:
		a.Printf("snapshot %s of %s was made before, from %s", s.New.ID, report.TakenOf(s.From.Token.Serial), s.New.Rekeyed.From.String()[:12])
	default:
		a.Printf("snapshot %s of %s, made from %s", s.New.ID, report.TakenOf(s.From.Token.Serial), s.From.ID)
	}
	var rows [][]string
	for _, k := range s.Keys {
		verdict := "NOT RE-KEYED: " + k.Reason
		switch {
		case k.Accepted:
			verdict = k.Reason
		case k.OK && k.Matched == string(dkek.MatchSelf):
			verdict = "re-keyed, opened, agrees with itself"
		case k.OK:
			verdict = "re-keyed, opened, matches its " + k.Matched
		}
		rows = append(rows, []string{"  key " + report.Reference(k.Reference), k.Type, console.Quoted(k.Label), "ID " + hex.EncodeToString(k.ID), verdict})
	}
	a.Table(rows)
	for _, l := range s.Left {
		a.Printf("  %s: NOT RE-KEYED: %s", l.What, l.Reason)
	}
}
