package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// splitFlags say how a share is split, and among whom.
type splitFlags struct {
	split      string
	custodians []string
	recipients []string
	out        string
	sheets     string
	of         string
	kcv        string
}

// add defines the flags but --out.
func (f *splitFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.split, "split", "", "split the share into N parts, `K/N`, of which any K bring it together")
	s.StringArrayVar(&f.custodians, "custodian", nil, "`NAME` (a pseudonym) of who gets a part; repeat for each of the N")
	s.StringArrayVar(&f.recipients, "recipient", nil, "`NAME=RECIPIENT`: seal the part of NAME with age, to age1…, age1pq1… or an SSH public key")
	s.StringVar(&f.sheets, "sheets", "", "a folder, `DIR`, for a sheet of each part to print (.pdf), but for those that are sealed")
}

// used names one of the flags that only mean something with --split.
func (f *splitFlags) used() string {
	for name, given := range map[string]bool{"custodian": len(f.custodians) > 0, "recipient": len(f.recipients) > 0, "of": f.of != "", "sheets": f.sheets != "", "kcv": f.kcv != ""} {
		if given {
			return name
		}
	}
	return ""
}

// parsePair reads "2/3".
func parsePair(flag, text string) (a, b int, err error) {
	left, right, ok := strings.Cut(text, "/")
	if a, err = strconv.Atoi(left); err == nil {
		b, err = strconv.Atoi(right)
	}
	if !ok || err != nil || a < 1 || b < 1 || a > b || b > maxCustodians {
		return 0, 0, usagef("", "%s takes two numbers up to %d, such as 2/3", flag, maxCustodians)
	}
	return a, b, nil
}

// maxCustodians is the most parts of a set, and the most shares of which parts
// are made.
const maxCustodians = 16

// plan reads the flags. What it cannot know of the share stands at 1 of 1.
func (f *splitFlags) plan(job, who string) (*handOut, error) {
	h := &handOut{job: job, who: who, dir: f.out, sheets: f.sheets, share: 1, shares: 1}
	if f.split == "" {
		return nil, usagef("with --split 2/3 and three times --custodian NAME, any two of them bring it together", "--split K/N is missing")
	}
	needed, total, err := parsePair("--split", f.split)
	if err != nil {
		return nil, err
	}
	if needed < 2 {
		return nil, usagef("one part that is enough is a share: `hsmbackup dkek create --out FILE`", "--split %s: at least 2 parts must be needed", f.split)
	}
	h.needed = needed
	if len(f.custodians) != total {
		return nil, usagef("", "--split %s makes %d parts, --custodian names %d people", f.split, total, len(f.custodians))
	}
	for _, name := range f.custodians {
		if err := checkName(name); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(h.keepers, func(k keeper) bool { return strings.EqualFold(k.name, name) }) {
			return nil, usagef("", "--custodian %s is named twice: each part is for somebody else", name)
		}
		h.keepers = append(h.keepers, keeper{name: name})
	}
	if err := f.addRecipients(h); err != nil {
		return nil, err
	}
	if h.sheets != "" && !slices.ContainsFunc(h.keepers, func(k keeper) bool { return k.recipient == "" }) {
		return nil, usagef("", "--sheets: every part is sealed, and a sheet would hold it in clear")
	}
	if f.of != "" {
		if h.share, h.shares, err = parsePair("--of", f.of); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (f *splitFlags) addRecipients(h *handOut) error {
	for _, text := range f.recipients {
		name, recipient, ok := strings.Cut(text, "=")
		i := slices.IndexFunc(h.keepers, func(k keeper) bool { return k.name == name })
		switch {
		case !ok || recipient == "":
			return usagef("", "--recipient takes NAME=RECIPIENT: whose part, and the public key that it is sealed to")
		case i < 0:
			return usagef("", "--recipient names %q, who is no --custodian", name)
		case h.keepers[i].recipient != "":
			return usagef("", "--recipient names %s twice", name)
		}
		if err := dkek.CheckRecipient(recipient); err != nil {
			return usagef("", "--recipient of %s: %s", name, err)
		}
		h.keepers[i].recipient = recipient
	}
	if len(f.recipients) > 0 && h.dir == "" {
		return usagef("", "--recipient seals parts to files: --out DIR names the folder for them")
	}
	return nil
}

// names are safe as names of files, on every system.
var (
	names    = regexp.MustCompile(`^[\pL\pN][\pL\pN._-]*$`)
	reserved = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$`)
)

func checkName(name string) error {
	if !names.MatchString(name) || reserved.MatchString(name) || len(name) > 64 || strings.HasSuffix(name, ".") {
		return usagef("letters, digits, and . _ - within; no more than 64 bytes", "--custodian %q is no name for a file", name)
	}
	return nil
}

// canHandOut tells before anything is made that there is a way to hand parts
// out.
func (a *app) canHandOut(h *handOut) error {
	if h.dir == "" && !a.tty.Available() {
		return usagef("", "there is no terminal to show the parts on: --out DIR writes them to files")
	}
	return nil
}

// guardRecipients refuses keys that lie in what the recovery key opens: on the
// day that it is needed they are not there.
func (a *app) guardRecipients(ctx context.Context, cat *store.Catalog, h *handOut) error {
	for _, k := range h.keepers {
		if k.recipient == "" {
			continue
		}
		why := "a key in the catalog"
		found, err := inCatalog(cat, k.recipient)
		if err == nil && !found {
			why = "a key on the token attached"
			found, err = a.onToken(ctx, k.recipient)
		}
		if err != nil {
			return err
		}
		if found {
			return refusef("own-box", "give a recipient whose key lies elsewhere: age1pq1… (age-keygen -pq), age1…", "the recipient of %s is %s: the part would be locked in its own box", k.name, why)
		}
	}
	return nil
}

func isKey(spki []byte, ssh []byte) bool {
	k, err := pubkey.ParseSPKI(spki)
	return err == nil && bytes.Equal(dkek.RecipientKey(k.SSH("")), ssh)
}

// inCatalog tells whether a recipient is a stored key, or what data is sealed to
// that only a recovery key opens.
func inCatalog(cat *store.Catalog, recipient string) (bool, error) {
	seen, err := cat.SharesSeen()
	if err != nil {
		return false, err
	}
	for _, s := range seen {
		if s.Recipient != "" && strings.EqualFold(s.Recipient, strings.TrimSpace(recipient)) {
			return true, nil
		}
	}
	ssh := dkek.RecipientKey(recipient)
	if ssh == nil {
		return false, nil
	}
	list, err := backup.Snapshots(cat)
	if err != nil {
		return false, err
	}
	for _, s := range list {
		for _, k := range s.Keys {
			if len(k.PublicKey) > 0 && isKey(k.PublicKey, ssh) {
				return true, nil
			}
		}
	}
	return false, nil
}

// onToken tells whether a recipient is a key on an attached token, or on the one
// that was named.
func (a *app) onToken(ctx context.Context, recipient string) (bool, error) {
	ssh := dkek.RecipientKey(recipient)
	if ssh == nil {
		return false, nil
	}
	found, err := a.tokensAtHand(ctx)
	if err != nil {
		return false, err
	}
	defer closeTokens(found)
	for _, t := range found {
		inv, err := backup.Take(ctx, t.card)
		if err != nil {
			return false, err
		}
		for _, k := range inv.Keys {
			if k.Public != nil && isKey(k.Public.SPKI(), ssh) {
				return true, nil
			}
		}
	}
	return false, nil
}

// tokensAtHand are the token that was named, or else all that are attached;
// none, where this computer has no readers.
func (a *app) tokensAtHand(ctx context.Context) ([]*token, error) {
	if a.flags.token != "" {
		t, err := a.openToken(ctx)
		if err != nil {
			return nil, err
		}
		return []*token{t}, nil
	}
	found, _, err := a.attached(ctx)
	if err != nil {
		return nil, ctx.Err()
	}
	return found, nil
}

func closeTokens(list []*token) {
	for _, t := range list {
		t.close()
	}
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
		a.note("without random numbers of %s: %s", t.name(), describe(err, false).message)
		return dkek.NewShare(), "", nil
	}
	return dkek.NewMixedShare(extra), t.name(), nil
}

// custodyCatalog opens the catalog that knows the custodians, and makes it if
// there is none. Files that are in the way end it here, unless an interrupted
// run left them.
func (a *app) custodyCatalog(h *handOut) (*store.Catalog, error) {
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
	if err != nil {
		closeCatalog(cat)
		return nil, err
	}
	if cat == nil {
		return a.makeCatalog()
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
	cat, err := a.custodyCatalog(h)
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	if err := a.guardRecipients(ctx, cat, h); err != nil {
		return err
	}
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
			a.note("not recorded that this share was seen: %s", describe(err, false).message)
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
	cat, err := a.custodyCatalog(h)
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	if err := a.guardRecipients(ctx, cat, h); err != nil {
		return err
	}
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
		a.dropEnvironment(s.password)
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

func newDKEKResplitCommand(a *app) *cobra.Command {
	var f splitFlags
	cmd := &cobra.Command{
		Use:   "resplit --share FILE... --split K/N --custodian NAME...",
		Short: "give a share that is in parts to other custodians",
		Long: `Brings a share together from its parts and splits it anew: other custodians, or
another K of N. The recovery key stays the same, and so do backups and tokens.

The old parts stay valid: any K of them still give the share, for ever, and
nothing can call them back. The old set is marked as retired once the new one is
handed out; have its parts destroyed. If enough of them may be in wrong hands, a
new set does not help: it takes new keys.`,
		Example: `  hsmbackup dkek resplit --share alice.txt --share bob.txt --split 2/4 --custodian alice --custodian carol --custodian dave --custodian erin
  hsmbackup dkek resplit --share prompt --split 2/3 --out parts/ --custodian alice --custodian bob --custodian carol`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dkekResplit(cmd.Context(), f) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.out, "out", "", "a folder, `DIR`, for files with the parts; without it they are shown, one at a time")
	uses(cmd, useCatalog, useToken, useShare, useWho)
	return cmd
}

func (a *app) dkekResplit(ctx context.Context, f splitFlags) error {
	h, err := f.plan("resplit", a.flags.who)
	if err != nil {
		return err
	}
	if len(a.flags.shareArgs) == 0 {
		return usagef("", "--share FILE is missing: it names the parts that bring the share together")
	}
	if err := a.canHandOut(h); err != nil {
		return err
	}
	cat, err := a.custodyCatalog(h)
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	if err := a.guardRecipients(ctx, cat, h); err != nil {
		return err
	}
	m, err := a.gather(ctx, cat)
	if err != nil {
		return err
	}
	switch {
	case len(m.sets) == 0:
		return usagef("`hsmbackup dkek split FILE` splits a share file", "no parts are given to be split anew")
	case m.count() > 1:
		return usagef("", "%d shares are given: each is split by itself", m.count())
	}
	old := m.sets[0]
	h.share, h.shares, h.kcv, h.retires = old.Share, old.Shares, old.KCV, old.Set
	shares, err := a.openShares(ctx, cat)
	if err != nil {
		return err
	}
	defer wipeShares(shares)
	if err := a.splitAndPrint(ctx, cat, h, shares[0]); err != nil {
		return err
	}
	if old.known == nil {
		a.note("set %s is not in this catalog, so it is not marked as retired", old.Set)
	}
	here, missing := old.who()
	a.note("the parts of set %s stay valid: any %d of them still bring this very share together", old.Set, old.Needed)
	a.next("have them destroyed, all %d: those of %s", old.Total, strings.Join(append(here, missing...), ", "))
	return nil
}
