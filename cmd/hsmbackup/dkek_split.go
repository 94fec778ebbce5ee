package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// newShare makes a share of the random numbers of this computer and, if one is
// attached or named, those of a token. It tells which one.
func (a *app) newShare(ctx context.Context) (*dkek.Share, string, error) {
	found, err := a.tokensAtHand(ctx)
	if err != nil {
		return nil, "", err
	}
	defer closeTokens(found)
	if len(found) != 1 {
		return dkek.NewShare(), "", nil
	}
	t := found[0]
	extra, err := t.Card.Random(ctx, dkek.Size)
	switch {
	case err != nil && (a.Flags.Token != "" || ctx.Err() != nil):
		return nil, "", err
	case err != nil:
		a.Note("without random numbers of %s: %s", t.Name(), cli.Describe(err, false).Message)
		return dkek.NewShare(), "", nil
	}
	return dkek.NewMixedShare(extra), t.Name(), nil
}

// custodyCatalog opens the catalog that knows the custodians, and makes it if
// there is none. What is in the way of a hand-out ends it here, and so do
// recipients that would lock a part in its own box.
func (a *app) custodyCatalog(ctx context.Context, h *custody.HandOut) (*store.Catalog, error) {
	cat, err := a.ExistingCatalog()
	if err != nil {
		return nil, err
	}
	err = h.Begin(a.Desk(), cat)
	if err == nil && cat == nil {
		cat, err = a.MakeCatalog()
	}
	if err == nil {
		err = h.GuardRecipients(cat, func() ([]*pubkey.Key, error) { return a.keysAtHand(ctx) })
	}
	if err != nil {
		cli.CloseCatalog(cat)
		return nil, err
	}
	return cat, nil
}

// keysAtHand are the keys on the tokens at hand.
func (a *app) keysAtHand(ctx context.Context) (keys []*pubkey.Key, err error) {
	found, err := a.tokensAtHand(ctx)
	if err != nil {
		return nil, err
	}
	defer closeTokens(found)
	for _, t := range found {
		inv, err := backup.Take(ctx, t.Card)
		if err != nil {
			return nil, err
		}
		for _, k := range inv.Keys {
			if k.Public != nil {
				keys = append(keys, k.Public)
			}
		}
	}
	return keys, nil
}

// tokensAtHand are the token that was named, or else all that are attached;
// none, where this computer has no readers.
func (a *app) tokensAtHand(ctx context.Context) ([]*cli.Token, error) {
	if a.Flags.Token != "" {
		t, err := a.OpenToken(ctx)
		if err != nil {
			return nil, err
		}
		return []*cli.Token{t}, nil
	}
	found, _, err := a.Attached(ctx)
	if err != nil {
		return nil, ctx.Err()
	}
	return found, nil
}

func closeTokens(list []*cli.Token) {
	for _, t := range list {
		t.Close()
	}
}

// createSplit makes a share and hands out its parts.
func (a *app) createSplit(ctx context.Context, f splitFlags) error {
	h, err := f.plan("create", a.Flags.Who)
	if err != nil {
		return err
	}
	cat, err := a.custodyCatalog(ctx, h)
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	share, from, err := a.newShare(ctx)
	if err != nil {
		return err
	}
	defer share.Wipe()
	if from != "" {
		a.Note("made of random numbers of this computer and of %s", from)
	}
	if h.Shares == 1 {
		if h.KCV, err = custody.ShareKCV(share); err != nil {
			return err
		}
	}
	_, err = a.splitAndPrint(ctx, cat, h, share)
	return err
}

// splitAndPrint hands out the parts of a share and, if the recovery key is known
// with it, notes that it was here.
func (a *app) splitAndPrint(ctx context.Context, cat *store.Catalog, h *custody.HandOut, share *dkek.Share) (*custody.HandedOut, error) {
	r, err := h.Run(ctx, a.Desk(), cat, share, a.Now())
	a.Changed = a.Changed || h.Changed
	if err != nil {
		return nil, err
	}
	if err := h.RecordSeen(cat, share, r); err != nil {
		a.Note("not recorded that this share was seen: %s", cli.Describe(err, false).Message)
	}
	return r, a.printHandOut(r, h)
}

// printHandOut says what was handed out.
func (a *app) printHandOut(r *custody.HandedOut, h *custody.HandOut) error {
	if a.Flags.JSON {
		return a.Document(r)
	}
	var rows [][]string
	for _, p := range r.Custodians {
		how := "typed back"
		switch {
		case p.File == "":
		case p.Confirmed:
			how = p.File + ": sealed, answered for"
		case p.Sealed():
			how = p.File + ": sealed, written and read back"
		default:
			how = p.File + ": written and read back"
		}
		if p.Sheet != "" {
			how += "; sheet " + p.Sheet
		}
		rows = append(rows, []string{fmt.Sprintf("part %d", p.Index), p.Name, how})
	}
	a.Table(rows)
	what := "the recovery key"
	if r.Shares > 1 {
		what = fmt.Sprintf("share %d of %d of the recovery key", r.Share, r.Shares)
	}
	a.Printf("set %s: any %d of %d bring %s together", r.Set, r.Needed, r.Total, what)
	if r.KCV != "" {
		a.Printf("KCV %s", r.KCV)
	}
	a.Printf("words of the set: %s", r.Words)
	if h.Sheets != "" {
		a.Next("print the sheets on a printer at a cable, for a spool is a disk; then destroy their files, which are copies of the parts")
	}
	if open := r.Open(); len(open) > 0 {
		a.Note("not confirmed by their custodians yet: %s", strings.Join(open, ", "))
		a.Next("give each their file, keep no copy, and call the roll: `hsmbackup dkek rollcall`")
	}
	for _, k := range h.Receivers {
		if k.Recipient != "" && !dkek.PostQuantum(k.Recipient) {
			a.Next("a sealed file that is meant to last should be sealed to a post-quantum recipient (age-keygen -pq makes age1pq1…)")
			break
		}
	}
	return nil
}

func newDKEKSplitCommand(a *app) *cobra.Command {
	var f splitFlags
	cmd := &cobra.Command{
		Use:   "split FILE[,password=SOURCE] --split K/N --custodian NAME...",
		Short: "split a share that there is among custodians",
		Long: `Opens a share file, by its password or by the sheets that follow it, and splits
the share into N parts of which any K bring it together. Each part goes to one
custodian, who types it back before the next one gets theirs; with --out, to a
file of its own. The set is registered in the catalog, with a commitment of each
part that tells it from any other and nothing of the part.

Of a recovery key with several shares each may be split: --of 1/2 says which of
them this is. The KCV is noted on the parts where it is known: if this is the
only share, if the others are given with --share, or if --kcv gives it.

The share stays the same, and the file with its password still opens it.`,
		Example: `  hsmbackup dkek split share1.pbe --split 2/3 --custodian alice --custodian bob --custodian carol
  hsmbackup dkek split share1.pbe --split 3/5 --out parts/ --custodian a --custodian b --custodian c --custodian d --custodian e
  hsmbackup dkek split share1.pbe --of 1/2 --share share2.pbe --split 2/2 --custodian alice --custodian bob`,
		Args: arguments(1, -1, "a share FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.dkekSplit(cmd.Context(), args, f) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.out, "out", "", "a folder, `DIR`, for files with the parts; without it they are shown, one at a time")
	cmd.Flags().StringVar(&f.of, "of", "", "which share of how many the file holds, `I/M` (default 1/1)")
	cmd.Flags().StringVar(&f.kcv, "kcv", "", "the KCV of the recovery key, `HEX`, that all shares make")
	uses(cmd, useCatalog, useToken, useShare, useWho)
	return cmd
}

func (a *app) dkekSplit(ctx context.Context, names []string, f splitFlags) error {
	h, err := f.plan("split", a.Flags.Who)
	if err != nil {
		return err
	}
	if f.kcv != "" {
		if h.KCV, err = dkek.ParseKCV(f.kcv); err != nil {
			return console.Usagef("", "--kcv: %s", err)
		}
	}
	arg, err := a.oneShareFile(names)
	if err != nil {
		return err
	}
	cat, err := a.custodyCatalog(ctx, h)
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	share, err := a.Opener().OpenFile(ctx, arg)
	if err != nil {
		return err
	}
	defer share.Wipe()
	others, err := a.OpenShares(ctx, cat)
	if err != nil {
		return err
	}
	defer dkek.WipeShares(others)
	if err := h.KnowKCV(append([]*dkek.Share{share}, others...)); err != nil {
		return err
	}
	if h.KCV.IsZero() {
		a.Note("the parts carry no KCV: give the other shares with --share, or --kcv, for the parts to tell what must come out")
	}
	r, err := a.splitAndPrint(ctx, cat, h, share)
	if err != nil {
		return err
	}
	if len(r.Open()) > 0 {
		a.Next("%s still opens the same share: keep it until the custodians have answered for their parts", arg.File)
	} else {
		a.Next("%s still opens the same share: keep it or destroy it", arg.File)
	}
	return nil
}

// oneShareFile is the share file that arguments name, with its sheets.
func (a *app) oneShareFile(names []string) (custody.Given, error) {
	given, err := a.ParseShares("", names)
	if err != nil {
		return custody.Given{}, err
	}
	return custody.OneShareFile(given, func(g custody.Given) error {
		if g.IsPart() {
			return console.Failf("is-a-part", "`hsmbackup dkek resplit --share …` gives a share that is in parts to other custodians; `dkek combine` makes a share file of it", "%s is no share file but a part", g.File)
		}
		return console.Failf("not-a-share", "", "%s is neither a share file nor sheets of sc-hsm-tool", g.File)
	}, func(n int) error {
		return console.Usagef("one at a time; the other shares are given with --share, so that the parts know the KCV", "%d shares are given: each is split by itself", n)
	})
}
