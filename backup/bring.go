package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Bring brings a token to a snapshot: initialised as the one of the snapshot was,
// with its recovery keys, and with all that the snapshot holds. It is the one job
// behind restore, clone, and both ends of a firmware update, and does what is left
// to do, as token and journal show.
type Bring struct {
	*Work
	Snapshot *store.Snapshot
	Options  RestoreOptions
	// Init lets it initialise the token, if that has to be. Later: without shares
	// the token is left to wait for them. Agreed: somebody has said yes to all of
	// it already.
	Init, Later, Agreed bool

	open func(sealed []byte) ([]byte, error)
	done func()
}

// Run does the job. Without a report and without an error the token waits for
// shares.
func (b *Bring) Run(ctx context.Context) (*RestoreReport, error) {
	defer b.lock()
	sealed := HasSealed(b.Snapshot) && b.Person.Given()
	if sealed {
		b.Options.OpenData = b.read
	}
	b.Options.Progress = b.Backup.Progress
	b.Options.Replacing = Replacing{SharesChecked: b.SharesChecked, SpendUse: b.Backup.SpendUse, Consent: Consent{TypeBack: b.Person.TypeBack}}
	defer func() { dkek.WipeShares(b.Options.Replacing.Shares) }()
	p, err := b.plan(ctx)
	if err != nil {
		return nil, err
	}
	loggedIn := false
	if b.Init && len(p.Problems) > 0 {
		if loggedIn, err = b.equipped(ctx, p); err != nil {
			return nil, err
		}
		if p, err = b.plan(ctx); err != nil {
			return nil, err
		}
		if b.Later && !b.Person.Given() && outstanding(p) {
			return nil, nil
		}
	}
	if !loggedIn && !b.Agreed { // else it was shown before the token was initialised
		b.Person.Show(p)
	}
	if p.replaces() && !b.Person.Given() && b.SharesChecked == "" {
		return nil, fail.Usagef("give them with --share FILE; or run `hsmbackup dkek check SHARE…` where they are and come back with --shares-checked KCV",
			"a key goes for good only if the shares that bring it back were shown in this run")
	}
	for _, x := range p.Problems {
		return nil, &fail.Error{Class: fail.Failed, Code: x.Code, Message: x.Message, Hint: x.Hint}
	}
	if !loggedIn {
		if err := b.begin(ctx, p, sealed); err != nil {
			return nil, err
		}
	}
	r, err := Restore(ctx, b.Card, b.record(), p, b.Options)
	if err != nil {
		return nil, err
	}
	b.Changed = true
	if b.NotRecorded == "" {
		b.NotRecorded = r.NotRecorded
	}
	if b.NotRecorded != "" {
		b.Person.Note("the result was not recorded: %s", b.NotRecorded)
	}
	return r, nil
}

func (b *Bring) plan(ctx context.Context) (*Plan, error) {
	return MakePlan(ctx, b.Card, b.Snapshot, b.Options)
}

// begin asks for what a token that is ready for its keys is still to be told.
func (b *Bring) begin(ctx context.Context, p *Plan, sealed bool) error {
	if !b.Agreed {
		if err := b.Person.Agree(ctx, p.question(b.Person.Name())); err != nil {
			return err
		}
	}
	if (sealed && b.open == nil || p.replaces()) && b.Person.Given() {
		shares, err := b.Person.Open(ctx, b.Catalog)
		if err != nil {
			return err
		}
		b.unlock(shares)
		b.Options.Replacing.Shares = shares
	}
	return b.Person.Login(ctx)
}

// replaces tells whether a key is to take the place of another.
func (p *Plan) replaces() bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool { return i.Action == WouldReplace })
}

// question is what is asked before a plan is carried out.
func (p *Plan) question(name string) Question {
	writes, replaced := 0, 0
	for _, i := range p.Items {
		if i.Action.Writes() {
			writes++
		}
		if i.Action == WouldReplace {
			replaced++
		}
	}
	for _, f := range p.Files {
		if f.Action.Writes() {
			writes++
		}
	}
	switch {
	case writes == 0:
		return Question{}
	case replaced == 1:
		return Question{fmt.Sprintf("1 key is about to be replaced on %s.", name), true}
	case replaced > 1:
		return Question{fmt.Sprintf("%d keys are about to be replaced on %s.", replaced, name), true}
	}
	return Question{What: fmt.Sprintf("Restore this onto %s?", name)}
}

// unlock keeps what opens what the PIN protected, so that nobody has to open the
// shares twice.
func (b *Bring) unlock(shares []*dkek.Share) {
	b.lock()
	b.open, b.done = DataOpener(b.Snapshot.Token.Domains, shares)
}

func (b *Bring) read(sealed []byte) ([]byte, error) {
	if b.open == nil {
		return nil, errors.New("its shares were not opened")
	}
	return b.open(sealed)
}

func (b *Bring) lock() {
	if b.done != nil {
		b.done()
	}
	b.open, b.done = nil, nil
}

// outstanding tells whether all that a token lacks is shares.
func outstanding(p *Plan) bool {
	return slices.ContainsFunc(p.Problems, func(x Problem) bool {
		return x.Code == "kcv-mismatch" && strings.Contains(x.Message, "incomplete")
	})
}

// AfterInit is the plan without the one problem that an initialisation settles.
func (p *Plan) AfterInit() *Plan {
	out := *p
	out.Problems = slices.DeleteFunc(slices.Clone(p.Problems), func(x Problem) bool { return x.Code == "not-initialised" })
	return &out
}

// equipped initialises the token and loads the shares, or what an earlier run has
// left of that. It tells whether the card is logged in.
func (b *Bring) equipped(ctx context.Context, p *Plan) (bool, error) {
	inv, err := Take(ctx, b.Card)
	if err != nil {
		return false, err
	}
	if b.Later && inv.Initialised && outstanding(p) {
		if !b.Person.Given() {
			return false, nil
		}
		if done, err := b.loadRest(ctx, inv); done || err != nil {
			return false, err
		}
	}
	given := &Shares{}
	if b.Person.Given() || !b.Later {
		if given, err = b.Person.Gather(ctx, b.Catalog); err != nil {
			return false, err
		}
	}
	slots := Slots(b.Snapshot)
	var expect dkek.KCV
	if slots == 0 {
		if expect, err = b.recoveryKey(p); err != nil {
			return false, err
		}
		if err := given.whole(); err != nil {
			return false, err
		}
	}
	if err := b.mayWipe(inv); err != nil {
		return false, err
	}
	b.Person.Show(p.AfterInit())
	if !b.Agreed {
		if err := b.agreeToInit(ctx, inv); err != nil {
			return false, err
		}
	}
	set := SetUp{Initialisation: asBefore(b.Snapshot), Origin: "restore"}
	kcvs, err := b.equip(ctx, inv, set, func(set *SetUp, shares []*dkek.Share) (err error) {
		b.unlock(shares)
		switch {
		case given.Count == 0:
			set.Sets = setsAsBefore(b.Snapshot, expect)
			set.Initialisation.NoDKEK = slots == 0 && len(set.Sets) == 0
		case slots == 0:
			set.Sets = []DomainSet{{Shares: given.Count, Load: shares, Expect: expect}}
		default:
			set.Sets, err = SetsFor(b.Snapshot, shares)
		}
		return err
	})
	if err != nil {
		return false, b.otherSnapshot(err)
	}
	var have []string
	for _, kcv := range kcvs {
		if !kcv.IsZero() {
			have = append(have, kcv.String())
		}
	}
	if len(have) > 0 {
		b.Person.Note("%s is initialised and has the recovery key %s", b.Person.Name(), strings.Join(have, " and "))
	} else {
		b.Person.Note("%s is initialised", b.Person.Name())
	}
	return true, nil
}

// loadRest loads shares into a token that was initialised for them by a run that
// was cut off; it does so for a token with one recovery key.
func (b *Bring) loadRest(ctx context.Context, inv *Inventory) (bool, error) {
	was := b.Snapshot.Token.Domains
	if Slots(b.Snapshot) > 0 || len(inv.Domains) != 1 || inv.Domains[0].Outstanding != inv.Domains[0].Shares || len(was) != 1 {
		return false, nil
	}
	expect, err := dkek.ParseKCV(was[0].KCV)
	if err != nil {
		return false, nil
	}
	shares, err := b.Person.Open(ctx, b.Catalog)
	if err != nil {
		return false, err
	}
	defer dkek.WipeShares(shares)
	if len(shares) != inv.Domains[0].Outstanding {
		return false, nil // it is initialised anew, for as many
	}
	set := DomainSet{Shares: len(shares), Load: shares, Expect: expect}
	if _, err := set.expected(); err != nil {
		return false, b.otherSnapshot(err)
	}
	note, err := TrustToken(ctx, b.Card, b.Catalog, expect.String(), b.trust())
	var refused *fail.Error
	if errors.As(err, &refused) && refused.Code == "not-genuine" && b.Trust.Untrusted == "" {
		return false, nil // it showed its device key when it was empty, and cannot now
	}
	if note != "" {
		b.Person.Note("%s", note)
	}
	if err != nil {
		return false, err
	}
	b.unlock(shares)
	b.Changed = true
	if _, err := LoadShares(ctx, b.Card, 0, shares, expect); err != nil {
		return false, fail.After(err)
	}
	if note := withChannel(b.Card, ""); note != "" {
		b.Person.Note("%s", note)
	}
	return true, set.record(b.record(), inv.Software, "restore")
}

// recoveryKey is the one that the keys to restore are under; without keys, the
// one that the token had.
func (b *Bring) recoveryKey(p *Plan) (dkek.KCV, error) {
	var list []string
	for _, i := range p.Items {
		if len(i.Key.Blob) > 0 && !slices.Contains(list, i.Key.KCV) {
			list = append(list, i.Key.KCV)
		}
	}
	d := b.Snapshot.Token.Domains
	if had := len(d) == 1 && d[0].KCV != ""; len(list) == 0 && had && (len(p.Files) > 0 || b.Later && d[0].Shares > 0) {
		list = append(list, d[0].KCV)
	}
	switch {
	case len(list) == 1:
		return dkek.ParseKCV(list[0])
	case len(list) > 1:
		return dkek.KCV{}, fail.Failf("several-recovery-keys", "restore them one recovery key at a time with --key", "the keys of snapshot %s are under several recovery keys: %s", b.Snapshot.ID, strings.Join(list, ", "))
	case b.Later: // every key was given up
		return dkek.KCV{}, nil
	}
	return dkek.KCV{}, fail.Failf("nothing-to-restore", "`hsmbackup show "+b.Snapshot.ID+"` says why", "snapshot %s holds no exported key", b.Snapshot.ID)
}

// otherSnapshot adds to shares that give another recovery key which snapshot of
// the token is under it.
func (b *Bring) otherSnapshot(err error) error {
	var mismatch *KCVMismatchError
	var job *fail.Error
	if !errors.As(err, &mismatch) || !errors.As(err, &job) || b.Snapshot.Adopted {
		return err
	}
	state, readErr := b.Catalog.Read()
	if readErr != nil {
		return err
	}
	s := b.Snapshot
	other := Under(state, s.Token.Serial, mismatch.Got.String())
	if other == nil {
		return err
	}
	said := *job
	if r := s.Rekeyed; r != nil && r.OldKCV == mismatch.Got.String() {
		said.Message += fmt.Sprintf(" (re-keyed on %s)", r.Time.Format(time.DateOnly))
	}
	said.Hint += fmt.Sprintf("\nsnapshot %s of the same token, backed up on %s, is under the recovery key %s: --from %s", other.ID, other.Taken.Format(time.DateOnly), mismatch.Got, other.ID)
	return &said
}

// setsAsBefore are the recovery keys that a token waits for when no shares are
// given: those that the one of a snapshot had. One that the old token had made up
// itself is made up anew.
func setsAsBefore(s *store.Snapshot, expect dkek.KCV) []DomainSet {
	if Slots(s) > 0 {
		sets, _ := AssignShares(s.Token.Domains, nil)
		return sets
	}
	if len(s.Token.Domains) == 0 {
		return nil
	}
	if n := s.Token.Domains[0].Shares; n > 0 {
		return []DomainSet{{Shares: n, Expect: expect}}
	}
	return []DomainSet{{}}
}

// asBefore is how a token is initialised to be what the one of a snapshot was.
func asBefore(s *store.Snapshot) schsm.Initialisation {
	i := schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: s.Token.PINTries, Domains: Slots(s)}
	if n, err := strconv.ParseUint(s.Token.Options, 16, 16); err == nil {
		i.Options = schsm.Options(n) &^ schsm.OptionTransportPIN
	}
	return i
}
