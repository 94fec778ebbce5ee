package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/store"
)

// canHandOut tells before anything is made that there is a way to hand parts
// out.
func (a *app) canHandOut(h *handOut) error {
	if h.dir == "" && !a.tty.Available() {
		return usagef("", "there is no terminal to show the parts on: --out DIR writes them to files")
	}
	return nil
}

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
	extra, err := t.card.Random(ctx, dkek.Size)
	switch {
	case err != nil && (a.flags.token != "" || ctx.Err() != nil):
		return nil, "", err
	case err != nil:
		a.note("without random numbers of %s: %s", t.name(), describe(err, false).Message)
		return dkek.NewShare(), "", nil
	}
	return dkek.NewMixedShare(extra), t.name(), nil
}

// custodyCatalog opens the catalog that knows the custodians, and makes it if
// there is none. Files that are in the way end it here, unless an interrupted
// run left them, and so do recipients that would lock a part in its own box.
func (a *app) custodyCatalog(ctx context.Context, h *handOut) (*store.Catalog, error) {
	cat, err := a.existingCatalog()
	if err != nil {
		return nil, err
	}
	var pending []string
	if cat != nil {
		pending, err = cat.Journal().Keys(handOutNotes)
	}
	if err == nil && len(pending) == 0 {
		err = h.nothingThere()
	}
	if err == nil && cat == nil {
		cat, err = a.makeCatalog()
	}
	if err == nil {
		err = a.guardRecipients(ctx, cat, h)
	}
	if err != nil {
		closeCatalog(cat)
		return nil, err
	}
	return cat, nil
}

// createSplit makes a share and hands out its parts.
func (a *app) createSplit(ctx context.Context, f splitFlags) error {
	h, err := f.plan("create", a.flags.who)
	if err != nil {
		return err
	}
	if err := a.canHandOut(h); err != nil {
		return err
	}
	cat, err := a.custodyCatalog(ctx, h)
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	share, from, err := a.newShare(ctx)
	if err != nil {
		return err
	}
	defer share.Wipe()
	if from != "" {
		a.note("made of random numbers of this computer and of %s", from)
	}
	if h.shares == 1 {
		if h.kcv, err = shareKCV(share); err != nil {
			return err
		}
	}
	return a.splitAndPrint(ctx, cat, h, share)
}

// splitAndPrint hands out the parts of a share and, if the recovery key is known
// with it, notes that it was here.
func (a *app) splitAndPrint(ctx context.Context, cat *store.Catalog, h *handOut, share *dkek.Share) error {
	n, err := a.handOutParts(ctx, cat, h, share)
	if err != nil {
		return err
	}
	if h.shares == 1 && n.Set.KCV == kcvText(h.kcv) {
		key, err := dkek.Combine(share)
		if err != nil {
			return err
		}
		defer key.Wipe()
		if err := backup.RecordShares(cat, key, true, "dkek "+h.job); err != nil {
			a.note("not recorded that this share was seen: %s", describe(err, false).Message)
		}
	}
	return a.printHandOut(n, h)
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
	h, err := f.plan("split", a.flags.who)
	if err != nil {
		return err
	}
	if f.kcv != "" {
		if h.kcv, err = dkek.ParseKCV(f.kcv); err != nil {
			return usagef("", "--kcv: %s", err)
		}
	}
	if err := a.canHandOut(h); err != nil {
		return err
	}
	arg, err := a.oneShareFile(names)
	if err != nil {
		return err
	}
	cat, err := a.custodyCatalog(ctx, h)
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	shares, errs, err := a.openPBEs(ctx, []shareArg{arg})
	if err == nil && errs[0] != nil {
		err = fmt.Errorf("%s: %w", arg.file, errs[0])
	}
	if err != nil {
		return err
	}
	defer wipeShares(shares)
	others, err := a.openShares(ctx, cat)
	if err != nil {
		return err
	}
	defer wipeShares(others)
	if err := h.knowKCV(append(slices.Clone(shares), others...)); err != nil {
		return err
	}
	if h.kcv.IsZero() {
		a.note("the parts carry no KCV: give the other shares with --share, or --kcv, for the parts to tell what must come out")
	}
	if err := a.splitAndPrint(ctx, cat, h, shares[0]); err != nil {
		return err
	}
	a.next("%s still opens the same share: keep it or destroy it", arg.file)
	return nil
}

// oneShareFile is the share file that arguments name, with its sheets.
func (a *app) oneShareFile(names []string) (shareArg, error) {
	var args []shareArg
	for _, text := range names {
		s, err := a.parseShare("", text)
		if err != nil {
			return s, err
		}
		a.secrets.DropEnvironment(s.password)
		args = append(args, s)
	}
	args, err := withSheets(args)
	if err != nil {
		return shareArg{}, err
	}
	for _, s := range args {
		switch {
		case s.err != nil:
			return s, s.err
		case dkek.IsPart(s.content), dkek.IsAge(s.content):
			return s, failf("is-a-part", "`hsmbackup dkek resplit --share …` gives a share that is in parts to other custodians; `dkek combine` makes a share file of it", "%s is no share file but a part", s.file)
		case !dkek.IsPBE(s.content):
			return s, failf("not-a-share", "", "%s is neither a share file nor sheets of sc-hsm-tool", s.file)
		}
	}
	if len(args) > 1 {
		return args[0], usagef("one at a time; the other shares are given with --share, so that the parts know the KCV", "%d shares are given: each is split by itself", len(args))
	}
	return args[0], nil
}

// knowKCV works out the KCV of the recovery key, where these are all its shares,
// and compares it with the one that was typed.
func (h *handOut) knowKCV(shares []*dkek.Share) error {
	if len(shares) > h.shares {
		return usagef("--of I/M says which share of how many is split", "%d shares are given, and the recovery key is said to have %d", len(shares), h.shares)
	}
	if len(shares) < h.shares {
		if len(shares) > 1 {
			return usagef("give all other shares of it, or none and --kcv", "%d shares are given, and the recovery key is said to have %d", len(shares), h.shares)
		}
		return nil
	}
	key, err := dkek.Combine(shares...)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if !h.kcv.IsZero() && h.kcv != key.KCV() {
		return failf("kcv-mismatch", "make sure of both: nothing was handed out", "the shares give the recovery key %s, --kcv says %s", key.KCV(), h.kcv)
	}
	h.kcv = key.KCV()
	return nil
}
