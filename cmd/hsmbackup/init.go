package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/terminal"
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
refused unless all of it would come back from the catalog, and then its serial
has to be typed.

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
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useUntrusted, useYes, useWho)
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
		return usagef("", "--no-dkek and --share exclude each other: without a recovery key there are no shares")
	case o.shares < 0 || o.shares > 255:
		return usagef("", "--shares takes 0 to 255")
	case whole > o.shares && !o.asGiven:
		return tooMany(whole, o.shares)
	case o.soFloor < 0 || o.soFloor > 15:
		return usagef("", "--so-pin-floor takes 0 to 15")
	case o.pinTries < 1 || o.pinTries > 10:
		return usagef("", "--pin-tries takes 1 to 10")
	}
	return nil
}

func tooMany(given, shares int) error {
	return usagef("", "%s are given, but --shares says %d", count(given, "share"), shares)
}

// fit compares the number of shares that the token is to have with those that
// are here and with what their parts say; by itself it is theirs.
func (o *initOptions) fit(m *custody.Material) error {
	if o.asGiven {
		o.shares = max(1, m.Count())
		for _, s := range m.Sets {
			o.shares = max(o.shares, s.Shares)
		}
	}
	if m.Count() > o.shares && !o.noDKEK {
		return tooMany(m.Count(), o.shares)
	}
	for _, s := range m.Sets {
		if s.Shares != o.shares {
			return usagef("", "%s: its recovery key has %s, the token would be set up for %d", s.Describe(), count(s.Shares, "share"), o.shares)
		}
	}
	return nil
}

func (a *app) init(ctx context.Context, o initOptions) error {
	if err := o.check(a.flags.shareArgs); err != nil {
		return err
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
	defer func() { closeCatalog(cat) }()
	inv, err := backup.Take(ctx, t.card)
	if err != nil {
		return err
	}
	if err := guardWipe(inv, cat); err != nil {
		return err
	}
	m, err := a.gather(ctx, cat)
	if err != nil {
		return err
	}
	if err := o.fit(m); err != nil {
		return err
	}
	if o.noDKEK {
		a.note("without a recovery key no key of this token can ever be exported: there will be no backup of them")
	}
	if err := a.confirmInit(ctx, t, inv, cat); err != nil {
		return err
	}
	s := backup.SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: o.pinTries, NoDKEK: o.noDKEK, Label: o.label},
		Trust:          a.trust(t), Origin: "init", MinSOTries: o.soFloor,
	}
	if o.noUnblock {
		s.Initialisation.Options = 0
	}
	kcvs, cat, err := a.setUp(ctx, t, inv, cat, notRecorded, s, func(s *backup.SetUp, shares []*dkek.Share) error {
		if o.noDKEK {
			return nil
		}
		s.Sets = []backup.DomainSet{{Shares: o.shares, Load: shares}}
		if len(m.Sets) == 0 || len(shares) < o.shares {
			return nil
		}
		key, err := m.Key(shares)
		key.Wipe()
		return err
	})
	if err != nil {
		return err
	}
	var kcv dkek.KCV
	if len(kcvs) > 0 {
		kcv = kcvs[0]
	}
	if a.flags.json {
		return a.document(struct {
			Serial string `json:"serial"`
			KCV    string `json:"kcv"`
		}{t.serial, custody.KCVText(kcv)})
	}
	a.printf("%s is initialised", t.name())
	switch {
	case o.noDKEK:
		a.printf("it has no recovery key: its keys can never be exported")
	case o.shares == 0:
		a.printf("its recovery key %s was made up by the token: nobody has shares of it", kcv)
	case kcv.IsZero():
		a.printf("%s of its recovery key missing", count(o.shares-m.Count(), "share"))
		a.next("`hsmbackup dkek load --share FILE` loads them")
	default:
		a.printf("it has the recovery key %s, from %s", kcv, count(o.shares, "share"))
		a.next("make keys on it (pkcs11-tool --keypairgen), then `hsmbackup backup`")
	}
	return nil
}

// guardWipe is backup.GuardWipe, with what can be done about a key that no
// backup will ever take.
func guardWipe(inv *backup.Inventory, cat *store.Catalog) error {
	err := backup.GuardWipe(inv, cat)
	var job *backup.Error
	if !errors.As(err, &job) || job.Code != "not-covered" {
		return err
	}
	state, readErr := cat.Read()
	if readErr != nil || !slices.ContainsFunc(backup.Cover(inv, state), func(k backup.KeyCoverage) bool { return !k.Coverage.Done() && backupCannotTake(k) }) {
		return err
	}
	return &failure{Exit: exitRefused, Code: job.Code, Message: job.Message, Err: err, Hints: []string{job.Hint,
		"a key that no backup can take: `hsmbackup rotate` makes its successor on another token; once it is not needed any more, delete it (pkcs11-tool --delete-object)"}}
}

// backupCannotTake tells whether another backup changes nothing for a key.
func backupCannotTake(k backup.KeyCoverage) bool {
	return k.Coverage == backup.NotExportable || madeUp(k)
}

// trust is what the command line says of a token that shares may go to. The PIN
// is asked for only where the token can show its device key in no other way.
func (a *app) trust(t *token) backup.Trust {
	untrusted := a.flags.untrusted
	if sameSerial(untrusted, t.serial) {
		untrusted = t.serial
	}
	return backup.Trust{SoftFile: t.softFile, Untrusted: untrusted, Roots: a.roots, Now: a.now(), Login: func(ctx context.Context) error {
		a.note("%s has no chip authentication: to show its device key it makes a key, which is deleted again, and for that it wants its PIN", t.name())
		return a.login(ctx, t)
	}}
}

// confirmInit has the serial typed of a token that is not new; a token that
// was never initialised holds nothing, and a yes will do. cat covers what it
// holds; it may be nil where it holds nothing.
func (a *app) confirmInit(ctx context.Context, t *token, inv *backup.Inventory, cat *store.Catalog) error {
	if a.flags.confirm == "" && !inv.Initialised {
		return a.ask(ctx, fmt.Sprintf("Initialise %s?", t.name()))
	}
	what := fmt.Sprintf("Initialising %s wipes it.", t.name())
	if n := len(inv.Keys); n > 0 {
		what = fmt.Sprintf("Initialising %s wipes it, with %s.", t.name(), count(n, "key"))
		a.warnNoCopy(cat)
	}
	return a.confirm(ctx, t, what)
}

// warnNoCopy says so before a wipe if the catalog is all that brings keys back.
func (a *app) warnNoCopy(cat *store.Catalog) {
	if cat == nil {
		return
	}
	if state, err := cat.Read(); err == nil && len(state.Copies) == 0 {
		a.note("the catalog has no copy that it knows of: once the token is wiped, %s alone brings its keys back", terminal.Printable(cat.Path()))
	}
}

// catalogToRecord opens the catalog for a verb that records something if it
// can. Without one, and with one that cannot be written, the second result
// says why nothing is recorded.
func (a *app) catalogToRecord() (*store.Catalog, string, error) {
	cat, err := a.existingCatalog()
	if err == nil || !errors.Is(err, store.ErrReadOnly) {
		return cat, "", err
	}
	why := err.Error()
	cat, err = a.lookCatalog()
	return cat, why, err
}

// setUp reads PIN, SO-PIN and shares, initialises the token, loads the shares
// and records that they were seen. assign puts the shares, none if none are
// given, where they belong. It gives the KCV of each set, and the catalog back,
// which it makes if there was none and there is something to record.
func (a *app) setUp(ctx context.Context, t *token, inv *backup.Inventory, cat *store.Catalog, notRecorded string, s backup.SetUp, assign func(*backup.SetUp, []*dkek.Share) error) ([]dkek.KCV, *store.Catalog, error) {
	fail := func(err error) ([]dkek.KCV, *store.Catalog, error) { return nil, cat, err }
	pin, soPIN, err := a.newPINs(ctx, t, inv)
	if err != nil {
		return fail(err)
	}
	defer pin.Wipe()
	defer soPIN.Wipe()
	s.Initialisation.PIN, s.Initialisation.SOPIN = pin, soPIN
	if most := mostTries(pin.Len()); s.Initialisation.PINTries > most {
		if s.Origin == "init" {
			return fail(usagef("", "a PIN of %d characters may have %d tries at most", pin.Len(), most))
		}
		a.note("the PIN gets %d tries, not %d as it had: its length allows no more", most, s.Initialisation.PINTries)
		s.Initialisation.PINTries = most
	}
	var shares []*dkek.Share
	if len(a.flags.shareArgs) > 0 {
		if shares, err = a.openShares(ctx, cat); err != nil {
			return fail(err)
		}
		defer dkek.WipeShares(shares)
	}
	if err := assign(&s, shares); err != nil {
		return fail(err)
	}
	kcvs, note, err := backup.Initialise(ctx, t.card, cat, s)
	if note != "" {
		a.note("%s", note)
	}
	if err != nil {
		return fail(err)
	}
	a.changed = true
	a.forgetRefused(t)
	if notRecorded != "" {
		a.note("not recorded that these shares were seen: %s", notRecorded)
		return kcvs, cat, nil
	}
	if cat == nil && slices.ContainsFunc(kcvs, func(v dkek.KCV) bool { return !v.IsZero() }) {
		if cat, err = a.makeCatalog(); err != nil {
			return fail(err)
		}
		if err := s.Record(cat, inv.Software, kcvs); err != nil {
			return fail(err)
		}
	}
	for _, c := range setUpCeremonies(s, t.serial, kcvs) {
		a.ceremony(cat, c)
	}
	return kcvs, cat, nil
}

// unknownChange notes that a token which went away in the middle of a command
// may have carried it out.
func (a *app) unknownChange(err error) {
	if errors.Is(err, apdu.ErrGone) {
		a.changed = true
	}
}

// mostTries is the highest retry counter that a PIN of n characters may have
// (fact sheet §2.4).
func mostTries(n int) int {
	switch n {
	case 6:
		return 3
	case 7:
		return 5
	}
	return 10
}

// newPINs reads the PIN to set and the SO-PIN, and checks both before anything
// is sent. An SO-PIN that the token has already is asked for once.
func (a *app) newPINs(ctx context.Context, t *token, inv *backup.Inventory) (pin, soPIN *secret.Bytes, err error) {
	if a.soPIN, err = a.send(t, "SO-PIN", a.flags.soPIN.source); err != nil {
		return nil, nil, err
	}
	text, err := a.readChecked(ctx, a.flags.soPIN.source, "SO-PIN of "+t.name()+", 16 hex digits", inv.SOPIN.Missing, checkSOPINFormat)
	if err != nil {
		return nil, nil, err
	}
	defer text.Wipe()
	if soPIN, err = schsm.ParseSOPIN(text.Bytes()); err != nil {
		return nil, nil, err
	}
	pin, err = a.readChecked(ctx, a.flags.pin.source, "new PIN of "+t.name()+", 6 to 16 characters", true, checkPINLength)
	if err != nil {
		soPIN.Wipe()
		return nil, nil, err
	}
	return pin, soPIN, nil
}

func checkSOPINFormat(typed *secret.Bytes) error {
	b, err := schsm.ParseSOPIN(typed.Bytes())
	b.Wipe()
	return err
}

func checkPINLength(typed *secret.Bytes) error {
	if n := typed.Len(); n < schsm.MinPIN || n > schsm.MaxPIN {
		return schsm.ErrPINLength
	}
	return nil
}
