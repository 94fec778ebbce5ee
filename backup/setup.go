package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Trust is what a person says of the token that shares are about to be sent to.
type Trust struct {
	// SoftFile: the token was opened as soft:FILE, which says by itself that it
	// is software.
	SoftFile bool
	// Untrusted is the serial typed with --untrusted-token.
	Untrusted string
	// Login logs in where the token can show its device key only so; nil leaves
	// that way out.
	Login func(context.Context) error

	// Roots are those that a certificate must lead to; nil is the vendor's.
	Roots []cvc.Root
	// Now is when this is; zero is now.
	Now time.Time

	// later: the token will be initialised before any share is sent to it, and
	// can show its device key then.
	later bool
}

// TrustToken takes a look at who a token is before any share is sent to it: a
// certificate chain up to the vendor's pinned root and possession of the device
// key, by chip authentication or, where that is not to be had, by a fresh
// request. What cannot be shown needs the serial number typed for this very
// purpose. Shares that belong to hardware, as far as the catalog knows, never
// go to software. It gives a note for people that says what was shown, and how.
func TrustToken(ctx context.Context, card *schsm.Card, cat *store.Catalog, kcv string, t Trust) (note string, err error) {
	t.later = false
	note, _, err = t.look(ctx, card, cat, kcv)
	return note, err
}

// look is TrustToken; pending tells that possession of the device key must
// still be shown once the token is initialised.
func (t Trust) look(ctx context.Context, card *schsm.Card, cat *store.Catalog, kcv string) (note string, pending bool, err error) {
	if card.Software() || t.SoftFile {
		hardware, err := knownFromHardware(cat, kcv)
		if err != nil {
			return "", false, err
		}
		if hardware {
			return "", false, fail.Refusef("software-token", "choose a hardware token", "the recovery key %s belongs to a hardware token; its shares do not go to a software token", kcv)
		}
		if t.SoftFile {
			return "", false, nil
		}
	}
	way := "chip authentication"
	root, err := card.Genuine(ctx, t.anchors())
	if errors.Is(err, schsm.ErrNoPossession) && t.Untrusted == "" {
		if t.later {
			return "", true, nil
		}
		way = "a fresh request"
		first := err
		if root, err = byRequest(ctx, card, t.anchors(), t.Login); errors.Is(err, schsm.ErrNotGenuine) {
			err = fmt.Errorf("%w; nor by a fresh request: %s", first, strings.TrimPrefix(unproven(err), schsm.ErrNoPossession.Error()+": "))
		}
	}
	if err == nil && root.Kind == cvc.RootProduction {
		return t.shown(card, way), false, nil
	}
	if err != nil && !errors.Is(err, schsm.ErrNotGenuine) {
		return "", false, err
	}
	note, err = t.insist(card, root, err, "")
	return note, false, err
}

// withChannel adds to the note on a token that got shares whether they went to it
// in clear, although it could have shown session keys: a relay would have read them.
func withChannel(card *schsm.Card, note string) string {
	why := card.InClear()
	if why == "" {
		return note
	}
	return strings.TrimPrefix(note+"; ", "; ") + why + ", so it went in clear: a device between here and the token would have read it"
}

func (t Trust) anchors() []cvc.Root {
	if t.Roots != nil {
		return t.Roots
	}
	return cvc.VendorRoots()
}

// shown says how a token proved itself, and what of its certificates has expired.
func (t Trust) shown(card *schsm.Card, way string) string {
	return t.dated(card, fmt.Sprintf("%s is genuine: its certificate leads to the vendor's root, and %s shows that it holds the device key", card.Serial(), way))
}

// dated adds to a note on a token which of its certificates have expired.
func (t Trust) dated(card *schsm.Card, note string) string {
	now := t.Now
	if now.IsZero() {
		now = time.Now()
	}
	return strings.Join(append([]string{note}, faults.Expired(card.Chain(), now)...), "; ")
}

// unproven is what a verdict says besides that it is one.
func unproven(verdict error) string {
	return strings.TrimPrefix(verdict.Error(), schsm.ErrNotGenuine.Error()+": ")
}

// insist decides about a token that could not be shown to be genuine: by the
// verdict, or by a root that is not the one of production. done is what was done
// to it.
func (t Trust) insist(card *schsm.Card, root cvc.Root, verdict error, done string) (note string, err error) {
	why := fmt.Sprintf("its certificate leads to the vendor's %s root", root.Kind)
	switch {
	case card.Software() && !errors.Is(verdict, schsm.ErrNoPossession):
		why = "it says that it is a software token"
	case verdict != nil:
		why = unproven(verdict)
	}
	serial := card.Serial()
	if t.Untrusted != "" && t.Untrusted == serial {
		return t.dated(card, fmt.Sprintf("%s could not be shown to be genuine (%s); it gets the share because --untrusted-token names it", serial, why)), nil
	}
	if t.Untrusted != "" {
		return "", fail.Refusef("wrong-token", "type the serial number of the token that is meant", "--untrusted-token names %s, this token is %s", t.Untrusted, orNone(serial))
	}
	if !card.Software() && !errors.Is(verdict, schsm.ErrNoPossession) {
		why += faults.Seems(card.Chain())
	}
	hint := fmt.Sprintf("if you know this token and accept the risk: --untrusted-token %s", serial)
	if serial == "" {
		hint = "it shows no serial number that could be typed: use another token"
	}
	return "", fail.Refusef("not-genuine", hint, "%s could not be shown to be genuine: %s; %sno share was sent", orNone(serial), why, done)
}

// knownFromHardware tells whether the catalog has seen a DKEK on hardware.
func knownFromHardware(cat *store.Catalog, kcv string) (bool, error) {
	state, err := cat.Read()
	if err != nil || kcv == "" {
		return false, err
	}
	for _, s := range state.Snapshots {
		for _, d := range s.Token.Domains {
			if d.KCV == kcv && !s.Token.Software {
				return true, nil
			}
		}
	}
	s, ok := state.Shares[kcv]
	return ok && !s.Software, nil
}

// SetUp is an initialisation and the shares that follow it.
type SetUp struct {
	// Initialisation is what the token is told. Its Shares are those of Sets.
	Initialisation schsm.Initialisation
	// Sets are the DKEKs to be, one for each key domain that is to have one. A
	// token without domain slots (Initialisation.Domains is 0) has the one of
	// domain 0, or none with NoDKEK. A set of 0 shares is a DKEK that the token
	// makes up itself; only a token without slots is asked for that.
	Sets  []DomainSet
	Trust Trust
	// Origin is recorded with "share seen".
	Origin string
	// Holding is what a wipe takes of a token that holds anything.
	Holding Holding
	// MinSOTries is the floor: with fewer tries of the SO-PIN left nothing is
	// sent.
	MinSOTries int
	// Before, if set, is called before each step that changes something:
	// "initialise", "domain", "load", "label", "record". Its error ends the work
	// there.
	Before func(step string) error
}

// Holding is how a token that holds anything is made to answer before it is
// wiped, and what this run has besides. The card is logged in with the PIN that
// the token has, or that is not known.
type Holding struct {
	// PINUnknown: nobody knows the PIN; the SO-PIN sets the new one, where the
	// token lets it.
	PINUnknown bool
	// SharesChecked is the KCV of shares that were checked on another computer, as
	// typed. Shares that are loaded are seen here.
	SharesChecked string
	SpendUse      func(Key) bool
	Consent       Consent
	// Progress is told what is being done; nil is silence.
	Progress func(what string, done, total int)
}

// DefaultSOFloor is the number of SO-PIN tries below which none is risked.
const DefaultSOFloor = 3

// Initialise wipes a token, sets it up, makes its key domains and loads shares.
// Before anything is touched it makes sure that all the token holds was seen to
// come back (Holding), that the shares give what they should, that the token may
// have them, and that a wrong SO-PIN would not be one of the last. The card is
// left logged in. It gives the KCV of each set, zero while shares are missing,
// and a note for people.
func Initialise(ctx context.Context, card *schsm.Card, cat *store.Catalog, s SetUp) (kcvs []dkek.KCV, note string, err error) {
	inv, err := Take(ctx, card)
	if err != nil {
		return nil, "", err
	}
	if tries := inv.SOPIN.Tries; !inv.SOPIN.Missing && tries >= 0 && tries < s.MinSOTries {
		return nil, "", fail.Refusef("so-pin-floor", "make sure of the SO-PIN first: at 0 tries the token can never be initialised again", "the token has %d tries of the SO-PIN left, fewer than the %d that are the least to risk one", tries, s.MinSOTries)
	}
	if err := s.checkSets(); err != nil {
		return nil, "", err
	}
	note, pending, err := s.trusted(ctx, card, cat)
	if err != nil {
		return nil, "", err
	}
	if s.Initialisation.Domains == 0 && !s.Initialisation.NoDKEK {
		s.Initialisation.Shares = s.Sets[0].Shares
	}
	var w Warrant
	if inv.needsWarrant() {
		if w, err = s.leave(ctx, card, cat, inv); err != nil {
			return nil, "", err
		}
	}
	if err := s.before("initialise"); err != nil {
		return nil, "", err
	}
	if pending {
		if note, err = s.proveFirst(ctx, card, w); err != nil {
			return nil, "", err
		}
	}
	// Key domain slots are empty at first, so that the token showed itself as
	// it is to be.
	if !pending || s.Initialisation.Domains == 0 {
		if err := initialise(ctx, card, w, s.Initialisation); err != nil {
			if pending {
				err = fail.After(err)
			}
			return nil, "", err
		}
	}
	for _, set := range s.Sets {
		kcv, err := s.fill(ctx, card, set)
		if err != nil {
			return kcvs, note, fail.After(err)
		}
		kcvs = append(kcvs, kcv)
	}
	note = withChannel(card, note)
	if err := s.before("record"); err != nil {
		return kcvs, note, fail.After(err)
	}
	if err := s.Record(cat, card.Software(), kcvs); err != nil {
		return kcvs, note, fail.After(err)
	}
	return kcvs, note, nil
}

// trusted asks of every set whether the token may have it.
func (s SetUp) trusted(ctx context.Context, card *schsm.Card, cat *store.Catalog) (note string, pending bool, err error) {
	t := s.Trust
	t.later = true
	for _, set := range s.Sets {
		kcv, err := set.expected()
		if err != nil {
			return "", false, err
		}
		if len(set.Load) == 0 {
			continue
		}
		var wait bool
		if note, wait, err = t.look(ctx, card, cat, kcv.String()); err != nil {
			return "", false, err
		}
		pending = pending || wait
	}
	return note, pending, nil
}

// proveFirst initialises a token that knows no chip authentication so that it
// can make a key, which it cannot while shares are missing, and has it show its
// device key. A token that fails has got PIN and SO-PIN, but no share.
func (s SetUp) proveFirst(ctx context.Context, card *schsm.Card, w Warrant) (note string, err error) {
	first := s.Initialisation
	if first.Domains == 0 {
		first.NoDKEK, first.Shares, first.Label = true, 0, ""
	}
	if err := initialise(ctx, card, w, first); err != nil {
		return "", err
	}
	root, err := byRequest(ctx, card, s.Trust.anchors(), nil)
	switch {
	case err != nil && !errors.Is(err, schsm.ErrNotGenuine):
		return "", fail.After(err)
	case err != nil || root.Kind != cvc.RootProduction:
		_, err = s.Trust.insist(card, root, err, "it was initialised, but ")
		return "", err
	}
	return s.Trust.shown(card, "a fresh request"), nil
}

// initialise sends INITIALIZE to the token that is meant, and says of an error
// what it left.
func initialise(ctx context.Context, card *schsm.Card, w Warrant, i schsm.Initialisation) error {
	err := wipe(ctx, card, w, i)
	switch {
	case errors.Is(err, schsm.ErrNotCarriedOut):
		return &fail.Error{Class: fail.Failed, Code: "not-initialised", Message: err.Error(), Hint: "nothing was changed: run the same command again", Err: err}
	case errors.Is(err, schsm.ErrUnsettled), errors.Is(err, schsm.ErrMaybeInitialised):
		return fail.After(err) // it is wiped, or may be
	}
	return err
}

// checkSets refuses sets that do not go with the initialisation.
func (s SetUp) checkSets() error {
	slots := s.Initialisation.Domains
	switch {
	case s.Initialisation.NoDKEK && len(s.Sets) > 0:
		return fail.Failf("no-dkek", "", "a token without DKEK takes no shares")
	case !s.Initialisation.NoDKEK && slots == 0 && (len(s.Sets) != 1 || s.Sets[0].Number != 0):
		return fail.Failf("no-domains", "", "a token without key domain slots has one DKEK, in domain 0")
	}
	seen := map[int]bool{}
	for _, set := range s.Sets {
		if set.Number < 0 || slots > 0 && set.Number >= slots || seen[set.Number] {
			return fail.Failf("no-such-domain", "", "key domain %d is named twice or is none of the %d that the token is to have", set.Number, slots)
		}
		seen[set.Number] = true
	}
	return nil
}

// fill makes the domain of a set, where the token has slots, and loads its
// shares.
func (s SetUp) fill(ctx context.Context, card *schsm.Card, set DomainSet) (dkek.KCV, error) {
	if s.Initialisation.Domains > 0 {
		if err := s.before("domain"); err != nil {
			return dkek.KCV{}, err
		}
		if err := card.Confirm(ctx); err != nil {
			return dkek.KCV{}, err
		}
		if _, err := card.CreateDomain(ctx, set.Number, set.Shares); err != nil {
			return dkek.KCV{}, err
		}
	}
	expect, err := set.expected()
	if err != nil {
		return dkek.KCV{}, err
	}
	if len(set.Load) > 0 {
		if err := s.before("load"); err != nil {
			return dkek.KCV{}, err
		}
	}
	return LoadShares(ctx, card, set.Number, set.Load, expect)
}

// Record notes in a catalog what DKEKs a token has now, and from where; kcvs
// are those that Initialise gave. Initialise has done so if it had a catalog
// that can be written; a nil one or one that is read-only is left as it is.
func (s SetUp) Record(cat *store.Catalog, software bool, kcvs []dkek.KCV) error {
	if cat == nil || !cat.Writable() {
		return nil
	}
	for i, set := range s.Sets {
		if i >= len(kcvs) || kcvs[i].IsZero() {
			continue
		}
		var err error
		if len(set.Load) == 0 {
			err = cat.Append(store.ShareSeen{KCV: kcvs[i].String(), Software: software, Origin: s.Origin, Random: true})
		} else {
			err = set.record(cat, software, s.Origin)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// KCVMismatchError says which recovery key shares give, and which was needed.
type KCVMismatchError struct {
	Want, Got dkek.KCV
}

func (e *KCVMismatchError) Error() string {
	return fmt.Sprintf("these shares give the recovery key %s, %s is needed", e.Got, e.Want)
}

func kcvMismatch(want, got dkek.KCV) error {
	return &fail.Error{Class: fail.Failed, Code: "kcv-mismatch", Hint: "look for the shares of that recovery key; `hsmbackup dkek check` tells what a set gives",
		Message: fmt.Sprintf("these shares give the recovery key %s, the backup needs %s; the token was not touched", got, want), Err: &KCVMismatchError{want, got}}
}

// LoadShares sends shares to a key domain that still misses some, and compares
// the KCV once it is complete. The token notices no wrong share, so an
// unexpected KCV is an error of class Changed. Zero expects none in particular.
func LoadShares(ctx context.Context, card *schsm.Card, domain int, shares []*dkek.Share, expect dkek.KCV) (dkek.KCV, error) {
	d, err := card.Domain(ctx, domain)
	if err != nil {
		return dkek.KCV{}, err
	}
	if d.Outstanding < len(shares) {
		return dkek.KCV(d.KCV), fail.Failf("dkek-complete", "a token that has its recovery key needs no shares", "the token still misses %d shares, %d are given", d.Outstanding, len(shares))
	}
	for i, s := range shares {
		if err := card.Confirm(ctx); err != nil {
			return dkek.KCV{}, err
		}
		before := d
		if d, err = card.LoadShare(ctx, domain, s.Bytes()); schsm.InDoubt(err) {
			now, unseen := card.Domain(ctx, domain)
			switch {
			case unseen != nil:
			case now.Outstanding == before.Outstanding-1: // it was taken all the same
				d, err = now, nil
			case i == 0 && now.Outstanding == before.Outstanding:
				return dkek.KCV{}, err
			}
		}
		if err != nil {
			if i > 0 || isTransport(err) || schsm.InDoubt(err) {
				err = fail.After(err) // it may have been taken
			}
			return dkek.KCV{}, err
		}
	}
	if d.Outstanding > 0 {
		return dkek.KCV{}, nil
	}
	// Asked again: what counts is what the token has now.
	if d, err = card.Domain(ctx, domain); err != nil {
		return dkek.KCV{}, err
	}
	got := dkek.KCV(d.KCV)
	if got.IsZeroKey() {
		return got, &fail.Error{Class: fail.Changed, Code: "zero-dkek", Message: "the shares cancelled each other: the token now has a recovery key of zeros, which everybody knows", Hint: "initialise the token again and load each share once"}
	}
	if !expect.IsZero() && got != expect {
		return got, &fail.Error{Class: fail.Changed, Code: "kcv-mismatch", Message: fmt.Sprintf("the token now has the recovery key %s, not %s: one of the shares belongs to another set", got, expect), Hint: "initialise the token again and load the right shares"}
	}
	return got, nil
}
