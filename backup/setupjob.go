package backup

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"hsmbackup/dkek"
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
					return kcvs, note, changed(err)
				}
			}
			if err := s.before("load"); err != nil {
				return kcvs, note, err
			}
			if kcv, err = LoadShares(ctx, card, set.Number, set.Load, expect); err != nil {
				return kcvs, note, changed(err)
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
			return kcvs, note, changed(err)
		}
	}
	if err := s.before("record"); err != nil {
		return kcvs, note, err
	}
	if err := s.Record(cat, card.Software(), kcvs); err != nil {
		return kcvs, note, changed(err)
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
