package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Work is what every job works with.
type Work struct {
	Card   *schsm.Card
	Person Person
	// Catalog may be nil or closed for writing, NotRecorded then says why.
	// NewCatalog makes one when there is something to record; nil makes none.
	Catalog     *store.Catalog
	NotRecorded string
	NewCatalog  func() (*store.Catalog, error)
	// Backup is for the snapshots that a job takes, Trust for the shares that it
	// sends to the token. MinSOTries is the floor of the tries of the SO-PIN.
	Backup     Options
	Trust      Trust
	MinSOTries int
	// SharesChecked is the KCV of shares that were checked on another computer, as
	// typed: what is destroyed wants that, where no shares are given.
	SharesChecked string
	// Who does it, as is claimed, for the log.
	Who string
	// Changed tells, also beside an error, that token or catalog are not what
	// they were.
	Changed bool
}

// trust lets the token show its device key with its PIN, where it can in no other
// way.
func (w *Work) trust() Trust {
	t := w.Trust
	if t.Login == nil {
		t.Login = func(ctx context.Context) error {
			w.Person.Note("%s has no chip authentication: to show its device key it makes a key, which is deleted again, and for that it wants its PIN", w.Person.Name())
			return w.Person.Login(ctx)
		}
	}
	return t
}

// record gives the catalog if it can be written, nil if not.
func (w *Work) record() *store.Catalog {
	if w.Catalog == nil || !w.Catalog.Writable() {
		return nil
	}
	return w.Catalog
}

// ensure makes the catalog where there is none.
func (w *Work) ensure() error {
	if w.Catalog != nil || w.NewCatalog == nil {
		return nil
	}
	var err error
	if w.Catalog, err = w.NewCatalog(); err == nil {
		w.Changed = true
	}
	return err
}

// mayWipe refuses, at first sight, a wipe that would lose something, and says what
// can be done.
func (w *Work) mayWipe(inv *Inventory) error {
	keys, err := AtFirstSight(inv, w.Catalog)
	if err == nil || fail.ClassOf(err) != fail.Refused || !slices.ContainsFunc(keys, func(k KeyCoverage) bool { return !k.Coverage.Done() && NoBackupTakes(k) }) {
		return err
	}
	refused := *err.(*fail.Error)
	refused.Hint += "\na key that no backup can take: `hsmbackup rotate` makes its successor on another token; once it is not needed any more, delete it (pkcs11-tool --delete-object)"
	return &refused
}

// MadeUp tells whether a key is under a recovery key that its token made up, so
// that there are no shares to show.
func MadeUp(k KeyCoverage) bool {
	return k.Coverage == NoShare && strings.Contains(k.Reason, " is random")
}

// NoBackupTakes tells whether another backup changes nothing for a key.
func NoBackupTakes(k KeyCoverage) bool { return k.Coverage == NotExportable || MadeUp(k) }

// agreeToInit has the serial typed of a token that is not new; one that was
// never initialised holds nothing, and a yes will do.
func (w *Work) agreeToInit(ctx context.Context, inv *Inventory) error {
	q := Question{What: fmt.Sprintf("Initialise %s?", w.Person.Name())}
	if inv.Initialised {
		q = Question{fmt.Sprintf("Initialising %s wipes it.", w.Person.Name()), true}
	}
	if n := len(inv.Keys); n > 0 {
		q.What = fmt.Sprintf("Initialising %s wipes it, with %s.", w.Person.Name(), count(n, "key"))
		if state, err := w.Catalog.Read(); err == nil && len(state.Copies) == 0 && w.Catalog != nil {
			w.Person.Note("the catalog has no copy that it knows of: once the token is wiped, %s alone brings its keys back", w.Catalog.Path())
		}
	}
	return w.Person.Agree(ctx, q)
}

// equip asks for PIN, SO-PIN and shares, initialises the token, loads the shares
// and records that they were seen. assign puts the shares, none where none are
// given, where they belong. It gives the KCV of each set.
func (w *Work) equip(ctx context.Context, inv *Inventory, s SetUp, assign func(*SetUp, []*dkek.Share) error) ([]dkek.KCV, error) {
	pin, soPIN, err := w.Person.NewPINs(ctx, inv)
	if err != nil {
		return nil, err
	}
	defer pin.Wipe()
	defer soPIN.Wipe()
	s.Initialisation.PIN, s.Initialisation.SOPIN = pin, soPIN
	s.Trust, s.MinSOTries = w.trust(), w.MinSOTries
	if most := schsm.MaxPINTries(pin.Len()); s.Initialisation.PINTries > most {
		if s.Origin == "init" {
			return nil, fail.Usagef("", "a PIN of %d characters may have %d tries at most", pin.Len(), most)
		}
		w.Person.Note("the PIN gets %d tries, not %d as it had: its length allows no more", most, s.Initialisation.PINTries)
		s.Initialisation.PINTries = most
	}
	var shares []*dkek.Share
	if w.Person.Given() {
		if shares, err = w.Person.Open(ctx, w.Catalog); err != nil {
			return nil, err
		}
		defer dkek.WipeShares(shares)
	}
	if err := assign(&s, shares); err != nil {
		return nil, err
	}
	if s.Holding, err = w.holding(ctx, inv); err != nil {
		return nil, err
	}
	kcvs, note, err := Initialise(ctx, w.Card, w.Catalog, s)
	if note != "" {
		w.Person.Note("%s", note)
	}
	if err != nil {
		return nil, err
	}
	w.Changed = true
	w.Person.PINsSet()
	if w.NotRecorded != "" {
		w.Person.Note("not recorded that these shares were seen: %s", w.NotRecorded)
		return kcvs, nil
	}
	if w.Catalog == nil && slices.ContainsFunc(kcvs, func(v dkek.KCV) bool { return !v.IsZero() }) {
		if err := w.ensure(); err != nil {
			return nil, err
		}
		if err := s.Record(w.Catalog, inv.Software, kcvs); err != nil {
			return nil, err
		}
	}
	w.ceremonies(s, inv.Serial, kcvs)
	return kcvs, nil
}

// holding has a token that holds something logged in with the PIN that it has now,
// if somebody knows that.
func (w *Work) holding(ctx context.Context, inv *Inventory) (Holding, error) {
	h := Holding{SharesChecked: w.SharesChecked, SpendUse: w.Backup.SpendUse, Consent: Consent{TypeBack: w.Person.TypeBack}, Progress: w.Backup.Progress}
	if !inv.needsWarrant() {
		return h, nil
	}
	if h.PINUnknown = inv.PIN.Blocked; h.PINUnknown {
		return h, nil
	}
	known, err := w.Person.LoginNow(ctx)
	h.PINUnknown = !known
	return h, err
}

// ceremony records what was done to a recovery key. The work itself is done by
// then: that it could not be recorded is said, and no more.
func (w *Work) ceremony(c store.Ceremony) {
	if w.record() == nil {
		return
	}
	c.Who = w.Who
	if err := w.Catalog.Append(c); err != nil {
		w.Person.Note("not recorded in the log: %v", err)
	}
}

// ceremonies are those of a token that was initialised: one for each recovery key
// that it got, or is to get.
func (w *Work) ceremonies(s SetUp, serial string, kcvs []dkek.KCV) {
	if len(s.Sets) == 0 {
		w.ceremony(store.Ceremony{Job: s.Origin, Token: serial, Outcome: "done, without a recovery key"})
	}
	for i, set := range s.Sets {
		c := store.Ceremony{Job: s.Origin, Token: serial, Outcome: "done"}
		if i < len(kcvs) {
			c.KCV = kcvText(kcvs[i])
		}
		switch missing := set.Shares - len(set.Load); {
		case set.Shares == 0:
			c.Outcome = "done, with a recovery key that the token made up"
		case missing > 0:
			c.Outcome = fmt.Sprintf("%s of %d missing", count(missing, "share"), set.Shares)
		}
		w.ceremony(c)
	}
}

func kcvText(kcv dkek.KCV) string {
	if kcv.IsZero() {
		return ""
	}
	return kcv.String()
}
