package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// The set-up of a fresh token is a job of several steps: a share and a sheet are
// written, the token is initialised, the share is loaded, all of it is read
// back. A note in the journal says that one is under way; where it stands, the
// token itself tells.

// SetUpNote is the note of a set-up that has begun. Nothing in it is secret.
type SetUpNote struct {
	Begun time.Time `json:"begun"`
	// Share is the file that the share is written to, as an absolute path; empty
	// while there is none.
	Share string `json:"share,omitempty"`
	// Sheet is the sheet that was written, and its SHA-256.
	Sheet       string     `json:"sheet,omitempty"`
	SheetSHA256 store.Hash `json:"sheet_sha256,omitzero"`
	// KCV of the recovery key, once there is one.
	KCV string `json:"kcv,omitempty"`
}

// Check implements store.Note.
func (n *SetUpNote) Check() error {
	if n.KCV != "" && !store.IsKCV(n.KCV) {
		return fmt.Errorf("%q is no KCV", n.KCV)
	}
	return nil
}

func setUpNotes(serial string) string { return "set-up/" + serial }

// FindSetUp gives the note of a set-up of this token that was not finished, nil
// if there is none.
func FindSetUp(cat *store.Catalog, serial string) (*SetUpNote, error) {
	if cat == nil {
		return nil, nil
	}
	var n SetUpNote
	found, err := cat.Journal().Get(setUpNotes(serial), &n)
	if err != nil || !found {
		return nil, err
	}
	return &n, nil
}

// Put notes how far a set-up has come.
func (n *SetUpNote) Put(cat *store.Catalog, serial string) error {
	return cat.Journal().Put(setUpNotes(serial), n)
}

// EndSetUp forgets the note of a set-up that is finished.
func EndSetUp(cat *store.Catalog, serial string) error {
	return cat.Journal().Delete(setUpNotes(serial))
}

// SetUpStage says what a token still needs.
type SetUpStage int

// The stages.
const (
	// ToInitialise: it has never been initialised, or a set-up was cut off
	// before the token was ready for its share.
	ToInitialise SetUpStage = iota
	// ToLoad: it is initialised, and waits for the share of its recovery key.
	ToLoad
	// ToCheck: a set-up was cut off when there was nothing more to do to it.
	ToCheck
	// InUse: it is initialised, and not by a set-up that was cut off.
	InUse
)

// SetUpStageOf tells how far the set-up of a token has come; note is that of
// FindSetUp.
func SetUpStageOf(inv *Inventory, note *SetUpNote) SetUpStage {
	if !inv.Initialised {
		return ToInitialise
	}
	waits := slices.ContainsFunc(inv.Domains, func(d schsm.Domain) bool {
		return !d.Empty && d.Shares == 1 && d.Outstanding == 1
	})
	ready := slices.ContainsFunc(inv.Domains, func(d schsm.Domain) bool {
		return d.Ready() && d.Shares > 0 && (note == nil || note.KCV == "" || dkek.KCV(d.KCV).String() == note.KCV)
	})
	slots := len(inv.Domains) > 0 && !slices.ContainsFunc(inv.Domains, func(d schsm.Domain) bool { return !d.Empty })
	// What a look at the device key left is nobody's.
	holds := len(inv.Unread) > 0 ||
		slices.ContainsFunc(inv.Keys, func(k Key) bool { return !isProofKey(k) }) ||
		slices.ContainsFunc(inv.Files, func(f File) bool { return !isProofFile(f) })
	switch {
	case waits && !holds:
		return ToLoad
	case note == nil:
		return InUse
	case ready:
		return ToCheck
	case holds:
		return InUse
	case slots:
		return ToLoad
	}
	return ToInitialise // initialised to have it show its device key, no further
}

// Finish does what is left to do to a token that was initialised with these
// values: it makes key domains, loads the shares that are missing, writes the
// label, and records. Where that takes a PIN, Trust.Login logs in. Like
// Initialise it gives the KCV of each set, and a note for people.
func (s SetUp) Finish(ctx context.Context, card *schsm.Card, cat *store.Catalog) (kcvs []dkek.KCV, note string, err error) {
	if err := s.checkSets(); err != nil {
		return nil, "", err
	}
	inv, err := Take(ctx, card)
	if err != nil {
		return nil, "", err
	}
	loggedIn := false
	login := func() error {
		if loggedIn || s.Trust.Login == nil {
			return nil
		}
		loggedIn = true
		return s.Trust.Login(ctx)
	}
	for _, set := range s.Sets {
		kcv, missing, empty := domainNow(inv, set.Number)
		expect, err := set.expected()
		if err != nil {
			return kcvs, note, err
		}
		if missing > 0 || empty {
			if note, err = TrustToken(ctx, card, cat, expect.String(), s.Trust); err != nil {
				return kcvs, note, err
			}
			if empty {
				if err := s.before("domain"); err != nil {
					return kcvs, note, err
				}
				if err := login(); err != nil {
					return kcvs, note, err
				}
				if _, err := card.CreateDomain(ctx, set.Number, set.Shares); err != nil {
					return kcvs, note, fail.After(err)
				}
			}
			if err := s.before("load"); err != nil {
				return kcvs, note, err
			}
			if kcv, err = LoadShares(ctx, card, set.Number, set.Load, expect); err != nil {
				return kcvs, note, fail.After(err)
			}
		}
		if kcv != expect {
			return kcvs, note, kcvMismatch(kcv, expect)
		}
		kcvs = append(kcvs, kcv)
	}
	if s.Initialisation.Label != "" && inv.Label != s.Initialisation.Label {
		if err := s.before("label"); err != nil {
			return kcvs, note, err
		}
		if err := login(); err != nil {
			return kcvs, note, err
		}
		if err := card.WriteLabel(ctx, s.Initialisation.Label); err != nil {
			return kcvs, note, fail.After(err)
		}
	}
	if err := s.before("record"); err != nil {
		return kcvs, note, err
	}
	if err := s.Record(cat, card.Software(), kcvs); err != nil {
		return kcvs, note, fail.After(err)
	}
	return kcvs, note, nil
}

// domainNow is what a key domain has at this time; empty: it is still to be
// made.
func domainNow(inv *Inventory, number int) (kcv dkek.KCV, missing int, empty bool) {
	for _, d := range inv.Domains {
		if d.Number == number {
			return dkek.KCV(d.KCV), d.Outstanding, d.Empty
		}
	}
	return kcv, 0, true
}

// CheckSetUp compares a token with what it was set up to be, and says what is
// different.
func (s SetUp) CheckSetUp(inv *Inventory) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !inv.Initialised {
		return []string{"it is not initialised"}
	}
	if inv.Options != s.Initialisation.Options {
		say("its options are %04x, not %04x", uint16(inv.Options), uint16(s.Initialisation.Options))
	}
	if inv.Label != s.Initialisation.Label && s.Initialisation.Label != "" {
		say("its label is %q, not %q", inv.Label, s.Initialisation.Label)
	}
	if n := s.Initialisation.Domains; n > 0 && len(inv.Domains) != n {
		say("it has %d key domains, not %d", len(inv.Domains), n)
	}
	for _, set := range s.Sets {
		kcv, missing, empty := domainNow(inv, set.Number)
		want, err := set.expected()
		switch {
		case err != nil:
			say("%v", err)
		case empty:
			say("key domain %d is empty", set.Number)
		case missing > 0:
			say("%d shares of its recovery key are missing", missing)
		case kcv != want:
			say("its recovery key is %s, not %s", kcv, want)
		}
	}
	if inv.PIN.Blocked || inv.PIN.Transport {
		say("its PIN cannot be used")
	}
	return wrong
}

// before calls s.Before, if there is one.
func (s SetUp) before(step string) error {
	if s.Before == nil {
		return nil
	}
	return s.Before(step)
}

// defaultPINs and defaultSOPINs stand in the vendors' documents and in guides.
var (
	defaultPINs   = []string{"648219", "123456", "1234567", "12345678", "123456789", "1234567890", "000000", "00000000", "111111", "654321", "123123", "112233"}
	defaultSOPINs = []string{"3537363231383830", "5762188057621880", "0000000000000000", "1111111111111111", "1234567890123456", "0123456789012345", "1234567812345678", "0102030405060708", "3132333435363738", "0123456789abcdef"}
)

// IsDefaultPIN tells a PIN that everybody knows.
func IsDefaultPIN(pin []byte) bool { return isOneOf(pin, defaultPINs) }

// IsDefaultSOPIN tells an SO-PIN, as 16 digits, that everybody knows.
func IsDefaultSOPIN(text []byte) bool { return isOneOf(text, defaultSOPINs) }

func isOneOf(b []byte, list []string) bool {
	return slices.ContainsFunc(list, func(d string) bool { return bytes.EqualFold(b, []byte(d)) })
}

// SetUpJob takes a fresh token from nothing to ready for keys and backups. It
// goes on where an earlier run was cut off.
type SetUpJob struct {
	Work
	Person SetUpPerson
	// Label is the token's; AskLabel has it asked for. Domains is the number of
	// key domain slots, 0 for none.
	Label     string
	AskLabel  bool
	Domains   int
	NoUnblock bool
	Now       time.Time
	// Before, if set, is called before each step that writes something.
	Before func(step string) error

	inv *Inventory
	s   SetUp
	r   *SetUpReport
}

// SetUpPerson is asked by a set-up besides, and brings what is kept in files.
type SetUpPerson interface {
	Person
	// Tell explains, to somebody at a terminal.
	Tell(format string, args ...any)
	// NewLabel asks for the label; ForbidUnblock whether the SO-PIN must not unblock
	// the PIN.
	NewLabel(context.Context) (string, error)
	ForbidUnblock(context.Context) (bool, error)
	// Share brings the one share of the recovery key: a new one, or that of the
	// note. It keeps the note up to date. The caller wipes it.
	Share(context.Context, *SetUpJob, *SetUpReport) (*dkek.Share, error)
	// Sheet writes the sheet. Amiss says what of all files is not as it was
	// written.
	Sheet(context.Context, *SetUpJob, *SetUpReport) error
	Amiss(*SetUpReport) []string
}

// SetUpReport is what a token was set up to be.
type SetUpReport struct {
	Stage SetUpStage // when this run began
	Note  *SetUpNote
	KCV   dkek.KCV
	// Recipient is what data is sealed to under the recovery key.
	Recipient string
	// Inventory is that of the finished token.
	Inventory *Inventory
}

// Step is called before each step that writes something.
func (j *SetUpJob) Step(name string) error {
	if j.Before == nil {
		return nil
	}
	return j.Before(name)
}

// Run does what is left to do.
func (j *SetUpJob) Run(ctx context.Context) (*SetUpReport, error) {
	j.Work.Person = j.Person
	var err error
	if j.inv, err = Take(ctx, j.Card); err != nil {
		return nil, err
	}
	if j.Domains > 0 && j.inv.version().Before(3, 0) {
		return nil, fail.Failf("no-domains", "leave --domains out", "%s has firmware %s: key domains begin with 3.0", j.Person.Name(), j.inv.Firmware)
	}
	if err := j.Person.Agree(ctx, Question{}); err != nil { // before anything is written
		return nil, err
	}
	j.r = &SetUpReport{}
	if j.r.Note, err = FindSetUp(j.Catalog, j.inv.Serial); err != nil {
		return nil, err
	}
	if j.r.Stage = SetUpStageOf(j.inv, j.r.Note); j.r.Stage == InUse {
		return nil, inUse(j.Person.Name(), j.inv)
	}
	if j.Catalog == nil {
		if err := j.Step("catalog"); err != nil {
			return nil, err
		}
		if err := j.ensure(); err != nil {
			return nil, err
		}
	}
	j.tellStage()
	if j.r.Note == nil {
		j.r.Note = &SetUpNote{Begun: j.Now.UTC()}
	}
	j.s = SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: 3, Domains: j.Domains},
		Trust:          j.Trust, Origin: "setup", MinSOTries: j.MinSOTries, Before: j.Before,
	}
	j.s.Trust.Login = j.Person.Login
	defer func() {
		j.s.Initialisation.PIN.Wipe()
		j.s.Initialisation.SOPIN.Wipe()
	}()
	if j.r.Stage == ToInitialise {
		if err := j.choose(ctx); err != nil {
			return nil, err
		}
	} else {
		j.s.Initialisation.Options = j.inv.Options
		if j.Domains == 0 {
			j.s.Initialisation.Domains = slotsOf(j.inv)
		}
	}
	j.s.Initialisation.Label = j.Label
	share, err := j.Person.Share(ctx, j, j.r)
	if err != nil {
		return nil, err
	}
	defer share.Wipe()
	j.s.Sets = []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}
	if j.r.KCV, err = j.s.Sets[0].expected(); err != nil {
		return nil, err
	}
	j.s.Sets[0].Expect = j.r.KCV
	key, err := dkek.Combine(share)
	if err != nil {
		return nil, err
	}
	j.r.Recipient, err = key.Recipient()
	key.Wipe()
	if err != nil {
		return nil, err
	}
	if err := j.Person.Sheet(ctx, j, j.r); err != nil {
		return nil, err
	}
	if err := j.prepare(ctx); err != nil {
		return nil, err
	}
	return j.finish(ctx)
}

// Serial is that of the token that is set up.
func (j *SetUpJob) Serial() string { return j.inv.Serial }

// inUse refuses a token that is not fresh.
func inUse(name string, inv *Inventory) error {
	what := "without a recovery key"
	for _, d := range inv.Domains {
		if d.Outstanding > 0 {
			return fail.Refusef("already-initialised", "`hsmbackup dkek load --share FILE` loads them", "%s is initialised already and waits for %s of its recovery key", name, count(d.Outstanding, "share"))
		}
		if d.Ready() {
			what = "with the recovery key " + dkek.KCV(d.KCV).String()
			break
		}
	}
	return fail.Refusef("already-initialised", "it starts at `hsmbackup backup`; to wipe it and begin anew: `hsmbackup init`", "%s is initialised already, %s and %s", name, what, count(len(inv.Keys), "key"))
}

func (j *SetUpJob) tellStage() {
	name := j.Person.Name()
	switch {
	case j.r.Stage == ToInitialise && j.r.Note != nil:
		j.Person.Tell("A set-up of %s was begun and not finished; it goes on. What PIN and SO-PIN were chosen then does not count, unless the token has them by now.", name)
	case j.r.Stage == ToInitialise:
		j.Person.Tell("This sets up %s, which is new, for keys that can be restored onto another token if this one is lost or wiped. Three secrets come out of it: the PIN, for daily use; the SO-PIN, for emergencies; and the password of the file that holds the recovery key, for the backup. Have a pen at hand. Nothing is changed on the token before the last question. It takes about five minutes.", name)
	case j.r.Stage == ToLoad:
		j.Person.Tell("%s is initialised, and waits for its recovery key: that is loaded now.", name)
	default:
		j.Person.Tell("%s was set up, and the set-up cut off before all of it was read back: that is done now.", name)
	}
	for _, f := range faults.FirmwareFaults(j.inv.Firmware) {
		j.Person.Note("firmware %s: %s; %s (%s)", j.inv.Firmware, f.What, f.Do, f.Source)
	}
}

// slotsOf is the number of key domain slots of a token, 0 for the classic one.
func slotsOf(inv *Inventory) int {
	if len(inv.Domains) > 1 || len(inv.Domains) == 1 && inv.Domains[0].Empty {
		return len(inv.Domains)
	}
	return 0
}

// choose asks for all that the token is told.
func (j *SetUpJob) choose(ctx context.Context) (err error) {
	i := &j.s.Initialisation
	if j.AskLabel {
		j.Person.Tell("The label is a name for the token, shown wherever it is listed. It is no secret.")
		if j.Label, err = j.Person.NewLabel(ctx); err != nil {
			return err
		}
		j.AskLabel = false
	}
	if i.PIN, i.SOPIN, err = j.Person.NewPINs(ctx, j.inv); err != nil {
		return err
	}
	if j.NoUnblock {
		i.Options = 0
		return nil
	}
	forbid, err := j.Person.ForbidUnblock(ctx)
	if err == nil && forbid {
		i.Options = 0
	}
	return err
}

// prepare initialises the token, or does what is left of it.
func (j *SetUpJob) prepare(ctx context.Context) error {
	if j.r.Stage == ToInitialise {
		j.Person.Tell("Everything is at hand. Now the token gets PIN, SO-PIN and its recovery key.")
		return j.initialise(ctx)
	}
	_, note, err := j.s.Finish(ctx, j.Card, j.Catalog)
	var refused *fail.Error
	if errors.As(err, &refused) && refused.Code == "not-genuine" && j.r.Stage == ToLoad && j.Trust.Untrusted == "" {
		// It showed its device key when it was empty, and cannot now.
		j.Person.Tell("The token can show that it is genuine only before it waits for its recovery key, so it is initialised once more. It holds nothing.")
		if err := j.choose(ctx); err != nil {
			return err
		}
		return j.initialise(ctx)
	}
	return j.prepared(note, err)
}

// initialise asks before the token is initialised. It holds nothing: it is new, or
// was initialised by this very set-up.
func (j *SetUpJob) initialise(ctx context.Context) error {
	if err := j.Person.Agree(ctx, Question{What: fmt.Sprintf("Initialise %s?", j.Person.Name())}); err != nil {
		return err
	}
	_, note, err := Initialise(ctx, j.Card, j.Catalog, j.s)
	return j.prepared(note, err)
}

func (j *SetUpJob) prepared(note string, err error) error {
	if note != "" {
		j.Person.Note("%s", note)
	}
	if err != nil {
		j.Changed = j.Changed || isTransport(err) // it may have been carried out
		return err
	}
	j.Changed = true
	j.Person.PINsSet()
	j.ceremonies(j.s, j.inv.Serial, []dkek.KCV{j.r.KCV})
	return nil
}

// finish reads everything back.
func (j *SetUpJob) finish(ctx context.Context) (*SetUpReport, error) {
	if err := j.Step("check"); err != nil {
		return nil, err
	}
	var err error
	if j.r.Inventory, err = Take(ctx, j.Card); err != nil {
		return nil, err
	}
	if wrong := append(j.s.CheckSetUp(j.r.Inventory), j.Person.Amiss(j.r)...); len(wrong) > 0 {
		return nil, &fail.Error{Class: fail.Changed, Code: "not-ready", Message: fmt.Sprintf("%s is set up, but not as it should be: %s", j.Person.Name(), strings.Join(wrong, "; ")), Hint: "run the same command again"}
	}
	return j.r, EndSetUp(j.Catalog, j.inv.Serial)
}
