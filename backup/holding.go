package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// leave gives leave to wipe a token that holds something: each key answers, each
// blob comes back beside it, and the shares that are loaded open what is sealed.
// Where nobody knows the PIN the SO-PIN sets the new one first; only where it
// cannot is a token wiped whose keys were not asked.
func (s SetUp) leave(ctx context.Context, card *schsm.Card, cat *store.Catalog, inv *Inventory) (Warrant, error) {
	if !inv.PIN.Verified && !s.Holding.PINUnknown {
		return Warrant{}, fail.Refusef("token-pin", "give it with --token-pin SOURCE; if nobody knows it, leave the answer on the terminal empty",
			"%s holds %s: before it is wiped each key has to answer, and for that it takes the PIN that the token has now", orNone(inv.Serial), inv.contents())
	}
	if cat == nil {
		return Warrant{}, fail.Refusef("not-covered", "`hsmbackup backup` first", "initialising wipes the token, and there is no catalog to bring back what it holds: %s", inv.contents())
	}
	state, err := cat.Reread()
	if err != nil {
		return Warrant{}, err
	}
	unblocked := false
	if !inv.PIN.Verified {
		unblocked, err = s.unblock(ctx, card)
		if err != nil {
			return Warrant{}, err
		}
		if !unblocked {
			return s.leaveUnasked(ctx, cat, state, inv)
		}
		if inv, err = Take(ctx, card); err != nil {
			return Warrant{}, fail.After(err)
		}
	}
	w, err := s.leaveAsked(ctx, card, cat, state, inv)
	if err != nil && unblocked {
		err = fail.After(err) // the PIN is another one now
	}
	return w, err
}

// AtFirstSight refuses a wipe that would lose something, as far as that shows
// without a login: what is in no snapshot, or has changed. It lets nothing pass:
// that takes what leave asks for. The keys are those of the token.
func AtFirstSight(inv *Inventory, cat *store.Catalog) ([]KeyCoverage, error) {
	if !inv.needsWarrant() || inv.PIN.Blocked {
		return nil, nil
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	keys := Cover(inv, state, nil)
	var lost []string
	var e *Evidence
	for _, k := range keys {
		if k.stored == nil && !isProofKey(k.Key) && (k.Coverage != NoShare || inv.noShares(state, k.Key)) {
			lost = append(lost, e.wouldLose(k))
		}
	}
	newest := state.Now(inv.Serial)
	for _, f := range inv.Files {
		if why := keptFile(newest, f); why != "" && !isProofFile(f) {
			lost = append(lost, why)
		}
	}
	for _, f := range inv.Unread {
		if _, sealed, found := holds(newest, f); !found || !sealed {
			lost = append(lost, fmt.Sprintf("data object %s: protected by the PIN, in no snapshot", f))
		}
	}
	if len(lost) > 0 {
		return keys, wouldBeLost(lost)
	}
	return keys, nil
}

// noShares tells whether nobody can have shares of the recovery key that a key is
// under: the token made it up.
func (inv *Inventory) noShares(state *store.State, k Key) bool {
	return state.Shares[k.KCV].Random || slices.ContainsFunc(inv.Domains, func(d schsm.Domain) bool {
		return d.Number == k.Info.Domain && d.Shares == 0 && len(d.UID) == 0
	})
}

// contents counts what a token holds.
func (inv *Inventory) contents() string {
	return fmt.Sprintf("%s and %s", count(len(inv.Keys), "key"), count(len(inv.Files)+len(inv.Unread), "other file"))
}

// unblock sets the new PIN by the SO-PIN; false: this token does not let it.
func (s SetUp) unblock(ctx context.Context, card *schsm.Card) (bool, error) {
	if o := card.Options(); o&schsm.OptionUnblock == 0 || o&schsm.OptionUnblockOnly != 0 {
		return false, nil
	}
	err := card.Unblock(ctx, s.Initialisation.SOPIN, s.Initialisation.PIN)
	if errors.Is(err, schsm.ErrNoUnblock) {
		return false, nil
	}
	return err == nil, err
}

func (s SetUp) leaveAsked(ctx context.Context, card *schsm.Card, cat *store.Catalog, state *store.State, inv *Inventory) (Warrant, error) {
	o := Options{SpendUse: s.Holding.SpendUse, Progress: s.Holding.Progress}
	e, err := Ask(ctx, card, inv, state, o)
	if err != nil {
		return Warrant{}, err
	}
	if err := s.recoveryKeys(e, state, inv); err != nil {
		return Warrant{}, err
	}
	if err := e.prove(ctx, card, cat, inv, nil, o); err != nil {
		return Warrant{}, err
	}
	w, lost, _, err := e.warrant(ctx, inv, cat, nil, s.Holding.Consent)
	if len(lost) > 0 {
		err = wouldBeLost(lost)
	}
	return w, err
}

func wouldBeLost(lost []string) error {
	return fail.Refusef("not-covered", "`hsmbackup backup` first, then `hsmbackup status` says what is left",
		"initialising wipes the token, and not everything on it would come back: %s", strings.Join(lost, "; "))
}

// recoveryKeys notes the recovery keys that the sets give, and the one typed.
func (s SetUp) recoveryKeys(e *Evidence, state *store.State, inv *Inventory) error {
	newest := state.Now(inv.Serial)
	domains := inv.token().Domains
	if newest != nil { // it may have been re-keyed
		domains = append(domains, newest.Token.Domains...)
	}
	var shares []*dkek.Share
	for _, set := range s.Sets {
		shares = append(shares, set.Load...)
	}
	e.combine(domains, shares, newest)
	if s.Holding.SharesChecked != "" {
		return e.typeKCV(inv, state, s.Holding.SharesChecked)
	}
	return nil
}

// leaveUnasked gives leave to wipe a token that nothing can make answer: each key
// and each object that the PIN protects is typed by a person. A key that shows
// another public half than the one that was backed up is not among them.
func (s SetUp) leaveUnasked(ctx context.Context, cat *store.Catalog, state *store.State, inv *Inventory) (Warrant, error) {
	if s.Holding.Consent.TypeBack == nil {
		return Warrant{}, fail.Refusef("unasked", "run this on a terminal",
			"%s holds %s, and nothing can make it answer; what is wiped unasked has to be typed, one by one", orNone(inv.Serial), inv.contents())
	}
	e := newEvidence(inv)
	if err := s.recoveryKeys(e, state, inv); err != nil {
		return Warrant{}, err
	}
	newest := state.Now(inv.Serial)
	goneKeys, goneFiles := map[byte]bool{}, map[schsm.FID]bool{}
	h := newHistory(state)
	type named struct{ what, word string }
	var list []named
	for _, k := range inv.Keys {
		stored := keyAt(newest, k.Reference)
		if k.Public != nil && (stored == nil || !bytes.Equal(stored.PublicKey, k.Public.SPKI())) {
			return Warrant{}, wouldBeLost([]string{fmt.Sprintf("%s: the newest snapshot has another key at its reference, or none", k.Name())})
		}
		c := h.cover(inv, k)
		list = append(list, named{fmt.Sprintf("%s goes unasked (%s): %s.", k.Name(), c.Coverage, orNone(c.Reason)), orReference(k)})
		goneKeys[k.Reference] = true
	}
	for _, f := range inv.Unread {
		list = append(list, named{fmt.Sprintf("data object %s, protected by the PIN, goes unread.", f), f.String()})
		goneFiles[f] = true
	}
	for _, f := range inv.Files {
		if why := keptFile(newest, f); why != "" && !isProofFile(f) {
			list = append(list, named{why + "; it goes for good.", f.FID.String()})
			goneFiles[f.FID] = true
		}
	}
	for _, n := range list {
		if err := s.Holding.Consent.TypeBack(ctx, n.what, n.word); err != nil {
			return Warrant{}, err
		}
	}
	return e.unasked(inv, cat, goneKeys, goneFiles), nil
}
