package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
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
}

// TrustToken takes a look at who a token is before any share is sent to it: a
// certificate chain up to the vendor's pinned root and possession of the device
// key. What cannot be shown needs the serial number typed for this very
// purpose. Shares that belong to hardware, as far as the catalog knows, never
// go to software. It gives a note for people where there is something to know.
func TrustToken(ctx context.Context, card *schsm.Card, cat *store.Catalog, kcv string, t Trust) (note string, err error) {
	if card.Software() || t.SoftFile {
		hardware, err := knownFromHardware(cat, kcv)
		if err != nil {
			return "", err
		}
		if hardware {
			return "", refusef("software-token", "choose a hardware token", "the recovery key %s belongs to a hardware token; its shares do not go to a software token", kcv)
		}
		if t.SoftFile {
			return "", nil
		}
	}
	root, err := card.Genuine(ctx, cvc.VendorRoots())
	if err == nil && root.Kind == cvc.RootProduction {
		return "", nil
	}
	if err != nil && !errors.Is(err, schsm.ErrNotGenuine) {
		return "", err
	}
	why := fmt.Sprintf("its certificate leads to the vendor's %s root", root.Kind)
	switch {
	case card.Software():
		why = "it says that it is a software token"
	case err != nil:
		why = strings.TrimPrefix(err.Error(), schsm.ErrNotGenuine.Error()+": ")
	}
	serial := card.Serial()
	if t.Untrusted != "" && t.Untrusted == serial {
		return fmt.Sprintf("%s could not be shown to be genuine (%s); it gets the share because --untrusted-token names it", serial, why), nil
	}
	if t.Untrusted != "" {
		return "", refusef("wrong-token", "type the serial number of the token that is meant", "--untrusted-token names %s, this token is %s", t.Untrusted, orNone(serial))
	}
	return "", refusef("not-genuine", fmt.Sprintf("if you know this token and accept the risk: --untrusted-token %s", serial),
		"%s could not be shown to be genuine: %s; no share was sent", orNone(serial), why)
}

// knownFromHardware tells whether the catalog has seen a DKEK on hardware.
func knownFromHardware(cat *store.Catalog, kcv string) (bool, error) {
	if cat == nil || kcv == "" {
		return false, nil
	}
	snapshots, err := cat.Snapshots()
	if err != nil {
		return false, err
	}
	for _, s := range snapshots {
		for _, d := range s.Token.Domains {
			if d.KCV == kcv && !s.Token.Software {
				return true, nil
			}
		}
	}
	seen, err := cat.SharesSeen()
	if err != nil {
		return false, err
	}
	s, ok := seen[kcv]
	return ok && !s.Software, nil
}

// GuardWipe refuses to let a token be wiped that holds anything which is not
// proven to come back.
func GuardWipe(inv *Inventory, cat *store.Catalog) error {
	if !inv.holdsAnything() {
		return nil
	}
	var lost []string
	keys, err := Cover(inv, cat)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !k.Coverage.Done() {
			lost = append(lost, fmt.Sprintf("%s: %s", k.Key.Name(), k.Coverage))
		}
	}
	var newest *store.Snapshot
	if cat != nil {
		newest, err = cat.Snapshot(inv.Serial)
		if err != nil && !errors.Is(err, store.ErrNoSnapshot) {
			return err
		}
	}
	for _, f := range inv.Files {
		if !holdsFile(newest, f) {
			lost = append(lost, "file "+f.FID.String()+": in no snapshot")
		}
	}
	for _, f := range inv.Unread {
		if !holdsSealed(newest, f) {
			lost = append(lost, "data object "+f.String()+": protected by the PIN, in no snapshot")
		}
	}
	if len(lost) > 0 {
		return refusef("not-covered", "`hsmbackup backup` first, then `hsmbackup status` says what is left", "initialising wipes the token, and not everything on it would come back: %s", strings.Join(lost, "; "))
	}
	return nil
}

// holdsSealed goes by the file's number alone: what the PIN protects cannot be
// compared without it.
func holdsSealed(s *store.Snapshot, f schsm.FID) bool {
	if s == nil {
		return false
	}
	for _, stored := range s.Files {
		if stored.Sealed && strings.EqualFold(stored.FID, f.String()) {
			return true
		}
	}
	return false
}

func holdsFile(s *store.Snapshot, f File) bool {
	if s == nil {
		return false
	}
	for _, stored := range s.Files {
		if strings.EqualFold(stored.FID, f.FID.String()) && bytes.Equal(stored.Content, f.Content) {
			return true
		}
	}
	return false
}

// SetUp is an initialisation and the shares that follow it.
type SetUp struct {
	Initialisation schsm.Initialisation
	// Shares are loaded after it; fewer than Initialisation.Shares leave the
	// rest to be loaded later.
	Shares []*dkek.Share
	// Expect is the KCV that must come out; zero expects none in particular.
	Expect dkek.KCV
	Trust  Trust
	// Origin is recorded with "share seen".
	Origin string
	// MinSOTries is the floor: with fewer tries of the SO-PIN left nothing is
	// sent.
	MinSOTries int
}

// DefaultSOFloor is the number of SO-PIN tries below which none is risked.
const DefaultSOFloor = 3

// Initialise wipes a token, sets it up and loads shares. Before anything is
// touched it makes sure that nothing is lost by the wipe, that the shares give
// what they should, that the token may have them, and that a wrong SO-PIN would
// not be one of the last. The card is left logged in. It gives the KCV of the
// DKEK, zero while shares are missing or there is none, and a note for people.
func Initialise(ctx context.Context, card *schsm.Card, cat *store.Catalog, s SetUp) (kcv dkek.KCV, note string, err error) {
	inv, err := Take(ctx, card)
	if err != nil {
		return kcv, "", err
	}
	if err := GuardWipe(inv, cat); err != nil {
		return kcv, "", err
	}
	if tries := inv.SOPIN.Tries; !inv.SOPIN.Missing && tries >= 0 && tries < s.MinSOTries {
		return kcv, "", refusef("so-pin-floor", "make sure of the SO-PIN first: at 0 tries the token can never be initialised again", "the token has %d tries of the SO-PIN left, fewer than the %d that are the least to risk one", tries, s.MinSOTries)
	}
	if kcv, err = expected(s); err != nil {
		return kcv, "", err
	}
	if len(s.Shares) > 0 {
		if note, err = TrustToken(ctx, card, cat, kcv.String(), s.Trust); err != nil {
			return kcv, "", err
		}
	}
	if err := card.Confirm(ctx); err != nil {
		return kcv, "", err
	}
	if err := card.Initialise(ctx, s.Initialisation); err != nil {
		if errors.Is(err, schsm.ErrUnsettled) || isTransport(err) && !errors.Is(err, apdu.ErrWrongPIN) {
			err = changed(err) // it is wiped, or may be
		}
		return kcv, "", err
	}
	if s.Initialisation.NoDKEK {
		return dkek.KCV{}, note, nil
	}
	if kcv, err = LoadShares(ctx, card, 0, s.Shares, kcv); err != nil {
		return kcv, note, changed(err)
	}
	if err := s.record(cat, card, kcv); err != nil {
		return kcv, note, changed(err)
	}
	return kcv, note, nil
}

// record notes in the catalog what DKEK the token has now, and from where.
func (s SetUp) record(cat *store.Catalog, card *schsm.Card, kcv dkek.KCV) error {
	if cat == nil || !cat.Writable() || kcv.IsZero() {
		return nil
	}
	if len(s.Shares) == 0 {
		return cat.RecordShareSeen(store.ShareSeen{KCV: kcv.String(), Software: card.Software(), Origin: s.Origin, Random: true})
	}
	key, err := dkek.Combine(s.Shares...)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return RecordShares(cat, key, card.Software(), s.Origin)
}

// expected combines the shares, if all are here, and compares the KCV with the
// one that must come out.
func expected(s SetUp) (dkek.KCV, error) {
	if len(s.Shares) > s.Initialisation.Shares {
		return dkek.KCV{}, failf("too-many-shares", "initialise for as many shares as the DKEK has", "%d shares are given, the token would be set up for %d", len(s.Shares), s.Initialisation.Shares)
	}
	if len(s.Shares) == 0 || len(s.Shares) < s.Initialisation.Shares {
		return s.Expect, nil
	}
	key, err := dkek.Combine(s.Shares...)
	if err != nil {
		return dkek.KCV{}, err
	}
	defer key.Wipe()
	kcv := key.KCV()
	if !s.Expect.IsZero() && kcv != s.Expect {
		return kcv, kcvMismatch(s.Expect, kcv)
	}
	return kcv, nil
}

func kcvMismatch(want, got dkek.KCV) error {
	return failf("kcv-mismatch", "look for the shares of that recovery key; `hsmbackup dkek check` tells what a set gives", "these shares give the recovery key %s, the backup needs %s; the token was not touched", got, want)
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
		return dkek.KCV(d.KCV), failf("dkek-complete", "a token that has its recovery key needs no shares", "the token still misses %d shares, %d are given", d.Outstanding, len(shares))
	}
	for i, s := range shares {
		if err := card.Confirm(ctx); err != nil {
			return dkek.KCV{}, err
		}
		if d, err = card.LoadShare(ctx, domain, s.Bytes()); err != nil {
			if i > 0 || isTransport(err) {
				err = changed(err) // it may have been taken
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
		return got, &Error{Class: Changed, Code: "zero-dkek", Message: "the shares cancelled each other: the token now has a recovery key of zeros, which everybody knows", Hint: "initialise the token again and load each share once"}
	}
	if !expect.IsZero() && got != expect {
		return got, &Error{Class: Changed, Code: "kcv-mismatch", Message: fmt.Sprintf("the token now has the recovery key %s, not %s: one of the shares belongs to another set", got, expect), Hint: "initialise the token again and load the right shares"}
	}
	return got, nil
}
