package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/report"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

func newStatusCommand(a *app) *cobra.Command {
	var within string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "what is attached, what is backed up, and what to do next",
		Long: `Shows every attached token with its tries, its recovery key and its keys, and of
each key whether it would come back today. It needs no PIN, spends no try and
changes nothing.

Coverage of a key: covered (exported, proven, its shares seen, and it answered
as the key that was backed up, which takes a login), unasked (the same but for
that last: what can be read of it is what it was when it answered, on that day),
unproven, no-share (nobody has shown shares of its recovery key), stale (the key
has changed since), missing (in no snapshot), not-exportable, accepted.`,
		Example: `  hsmbackup status
  hsmbackup status --token soft:old.tok
  hsmbackup status --json`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if a.AskedWithin, err = parseDays("--asked-within", within); err != nil {
				return err
			}
			return a.status(cmd.Context())
		},
	}
	askedWithinFlag(cmd, &within)
	uses(cmd, useCatalog, useToken)
	return cmd
}

// seen is a token with what is known of it.
type seen struct {
	token    *cli.Token
	inv      *backup.Inventory
	coverage []backup.KeyCoverage
	// behind: the backup was re-keyed, and the token has the old recovery key.
	behind *backup.Behind
	// notes are those on its certificates.
	notes []string
}

func (s seen) shown() report.SeenToken {
	return report.SeenToken{Reader: s.token.Reader, Argument: s.token.Argument(), Inventory: s.inv, Coverage: s.coverage, Behind: s.behind, Notes: s.notes}
}

func (a *app) status(ctx context.Context) error {
	cat, err := a.LookCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	tokens, unreached := a.reach(ctx)
	if unreached != nil && (len(tokens) == 0 && a.Flags.Token != "" || ctx.Err() != nil) {
		return unreached
	}
	defer func() {
		for _, t := range tokens {
			t.Close()
		}
	}()
	state, err := cat.Read()
	if err != nil {
		return err
	}
	var list []seen
	for _, t := range tokens {
		s := seen{token: t}
		if s.inv, err = backup.Take(ctx, t.Card); err != nil {
			return err
		}
		s.notes = faults.TokenNotes(s.inv.Certificate, a.Now())
		s.coverage, s.behind = backup.Cover(s.inv, state, nil), backup.BehindRekey(s.inv, state)
		list = append(list, s)
	}
	sets := custody.InUse(state, a.Now())
	updates, err := backup.Updates(cat)
	if err != nil {
		return err
	}
	var attached []*backup.Inventory
	for _, s := range list {
		attached = append(attached, s.inv)
	}
	holders := backup.Holders(state, attached)
	if a.Flags.JSON {
		if unreached != nil {
			return unreached
		}
		doc := jsonStatus{Tokens: []report.Token{}, PartSets: a.partSets(sets), Updates: standing(updates, list)}
		for _, s := range list {
			doc.Tokens = append(doc.Tokens, s.shown().Document(holders))
		}
		if err := a.Document(doc); err != nil {
			return err
		}
		return console.Outcomes(a.uncovered(list), a.stale(sets))
	}
	var shown []report.SeenToken
	for _, s := range list {
		shown = append(shown, s.shown())
		s.shown().Print(a.Console)
	}
	report.PrintHolders(a.Console, shown, holders)
	if err := a.printCatalog(cat); err != nil {
		return err
	}
	a.printRisks(sets)
	for _, line := range standing(updates, list) {
		a.Printf("%s", line)
	}
	if unreached != nil {
		return unreached
	}
	if len(list) == 0 {
		a.Printf("no token is attached")
	}
	next, err := report.Next(shown, len(list) > 1 || a.Flags.Token != "", cat, a.done)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(sets, custody.KeptSet.AtRisk) && (next == "" || strings.HasPrefix(next, "hsmbackup check,")) {
		next = "hsmbackup dkek rollcall"
	}
	if next != "" {
		a.Printf("next: %s", next)
	}
	return console.Outcomes(a.uncovered(list), a.stale(sets))
}

// reach opens the token of --token, or all that are attached. Other cards are
// noted.
func (a *app) reach(ctx context.Context) ([]*cli.Token, error) {
	if a.Flags.Token != "" {
		t, err := a.OpenToken(ctx)
		if err != nil {
			return nil, err
		}
		return []*cli.Token{t}, nil
	}
	found, others, err := a.Attached(ctx)
	for _, o := range others {
		a.Note("%s", o)
	}
	return found, err
}

// uncovered is the outcome of a look at tokens.
func (a *app) uncovered(list []seen) error {
	exits := console.Exits{}
	n, total := 0, 0
	for _, s := range list {
		total += len(s.coverage)
		for _, k := range s.coverage {
			if !a.done(k) {
				n++
				exits.Add(console.ExitIncomplete)
			}
		}
	}
	return exits.Outcome(fmt.Sprintf("%d of %s not covered", n, console.Count(total, "key")))
}

// standing says where firmware updates stand that are under way.
func standing(updates []*backup.Update, list []seen) []string {
	var lines []string
	for _, u := range updates {
		var inv *backup.Inventory
		for _, s := range list {
			if s.inv.Serial == u.Serial {
				inv = s.inv
			}
		}
		lines = append(lines, u.Standing(inv)+"; run `hsmbackup firmware-update`")
	}
	return lines
}

// printCatalog says how old backup, proof, drill and the sight of shares are,
// and how many copies hold the newest snapshot.
func (a *app) printCatalog(cat *store.Catalog) error {
	path, err := a.CatalogPath()
	if err != nil {
		return err
	}
	if cat == nil {
		a.Printf("catalog: none at %s", terminal.Printable(path))
		return nil
	}
	a.Printf("catalog: %s", terminal.Printable(path))
	state, err := cat.Read()
	if err != nil {
		return err
	}
	list := backup.TakeAges(state, a.Now())
	var rows [][]string
	for _, s := range state.Latest() {
		taken := s.Taken
		if state.Ahead(state.SeqOf(s)) {
			taken = store.UnknownTime
		}
		row := []string{"  " + report.TakenOf(s.Token.Serial), "snapshot " + s.ID, report.StoredKeys(s), "backed up " + a.age(taken)}
		for _, g := range list {
			if g.Snapshot.ID == s.ID {
				row = append(row, "proven "+a.age(g.Proof), "drilled "+a.age(g.Drill), "shares seen "+a.age(g.ShareSeen), console.Copies(g.Copies))
			}
		}
		rows = append(rows, row)
	}
	a.Table(rows)
	return nil
}

// age is how long ago something was, in words.
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if t.Equal(store.UnknownTime) {
		return "at an unknown time"
	}
	d := a.Now().Sub(t)
	switch {
	case d < 2*time.Minute:
		return "just now"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// withoutPCSC tells errors that only mean that there are no tokens to look at.
func withoutPCSC(err error) bool {
	return errors.Is(err, pcsc.ErrNoService) || errors.Is(err, pcsc.ErrNotBuilt)
}
