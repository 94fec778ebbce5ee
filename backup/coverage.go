package backup

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// Coverage says whether a key on a token can be restored today.
type Coverage string

// Its values, as they are shown.
const (
	// Covered: exported, the blob proven, shares of its KCV seen, and recognised by
	// what it answered in this run.
	Covered Coverage = "covered"
	// Unasked: the same, but for that last: it was not asked in this run. What can
	// be read of it is what it was when it was asked last, if ever.
	Unasked Coverage = "unasked"
	// Unproven: exported, but nothing shows that it would come back.
	Unproven Coverage = "unproven"
	// NoShare: exported, but nobody has shown shares that give its KCV.
	NoShare Coverage = "no-share"
	// Stale: the key at this reference has changed since.
	Stale Coverage = "stale"
	// Missing: in no snapshot.
	Missing Coverage = "missing"
	// NotExportable: it cannot leave the token.
	NotExportable Coverage = "not-exportable"
	// Accepted: it cannot be exported, or nobody may use it, and the admin said that
	// it is meant to be so.
	Accepted Coverage = "accepted"
)

// Done tells whether nothing is left to do for a key of this coverage.
func (c Coverage) Done() bool { return c == Covered || c == Accepted }

// KeyCoverage is the verdict on one key, with its reason.
type KeyCoverage struct {
	Key      Key
	Coverage Coverage
	Reason   string
	// Asked is when an unasked key answered last as the one in the catalog; zero is
	// never.
	Asked time.Time
	// Notes are what must be known of the key besides (see Notes).
	Notes []string

	// stored is what a restore brings back, if it would: all but whether the key is
	// that one. rekeyed is the same under the recovery key that took the place of
	// the token's.
	stored, rekeyed *store.Key
}

// DefaultAskedWithin is how long ago an unasked key may have answered for a look
// without a login to be content.
const DefaultAskedWithin = 40 * 24 * time.Hour

// DoneWithin is Done for a look without a login: an unasked key may have answered
// that long ago, and not at a time that is still to come. Nothing is destroyed
// on that.
func (k KeyCoverage) DoneWithin(now time.Time, within time.Duration) bool {
	age := now.Sub(k.Asked)
	return k.Coverage.Done() || k.Coverage == Unasked && !k.Asked.IsZero() && age <= within && age > -time.Hour
}

// Complete tells whether every key is covered or accepted.
func Complete(keys []KeyCoverage) bool {
	for _, k := range keys {
		if !k.Coverage.Done() {
			return false
		}
	}
	return true
}

// Cover compares what a token holds with what a restore would bring back: the
// newest snapshot of its line. seen is what this run saw the token's keys answer;
// without it no key is covered, since all that a look shows is claims: a key
// whose readable bytes are what they were when it was asked last is unasked.
func Cover(inv *Inventory, s *store.State, seen *Evidence) []KeyCoverage {
	h := newHistory(s)
	h.seen = seen
	list := make([]KeyCoverage, 0, len(inv.Keys))
	for _, k := range inv.Keys {
		kc := h.cover(inv, k)
		kc.Notes = h.notes(inv, k)
		list = append(list, kc)
	}
	return list
}

// history is what a catalog says, by blobs, and what this run saw besides.
type history struct {
	*store.State
	proofs map[store.Hash]store.Proof
	failed map[store.Hash]store.Proof
	// restored are the places that blobs were restored to, and used there.
	restored map[restoredTo]bool
	seen     *Evidence
}

// restoredTo is a key blob, and a token with the reference on it.
type restoredTo struct {
	blob   store.Hash
	serial string
	at     int
}

// newHistory folds the proofs: of each blob the last one that found something
// counts. One that could not be tried says why, where there is no other.
func newHistory(s *store.State) *history {
	h := &history{State: s, proofs: map[store.Hash]store.Proof{}, failed: map[store.Hash]store.Proof{}, restored: map[restoredTo]bool{}}
	for _, p := range s.Proofs {
		switch {
		case !store.ShowsReturn(p.Kind):
		case p.OK:
			h.proofs[p.Blob] = p
			delete(h.failed, p.Blob)
			if p.Kind == store.ProofRestored {
				at := p.At
				if at == 0 {
					at = p.Reference
				}
				h.restored[restoredTo{p.Blob, p.Token, at}] = true
			}
		default:
			h.failed[p.Blob] = p
			if !p.Untried {
				delete(h.proofs, p.Blob)
			}
		}
	}
	return h
}

// match finds the stored key that a restore would bring back in the place of one
// on the token: in the newest snapshot of the token's line, the one at its
// reference, else one that was elsewhere then and is not there any more. The
// reason says why the one at its reference is another.
func (h *history) match(inv *Inventory, k Key) (stored *store.Key, reason string) {
	s := h.Now(inv.Serial)
	if s == nil {
		return nil, ""
	}
	there := keyAt(s, k.Reference)
	if there != nil && there.Damage != "" {
		there = nil
	}
	if there != nil && h.isSame(k, there, true) {
		return h.underOwn(s, there, k), ""
	}
	for i := range s.Keys {
		other := &s.Keys[i]
		if other.Damage == "" && other.Reference != int(k.Reference) && h.isSame(k, other, false) && !h.stays(inv, other) {
			return h.underOwn(s, other, k), ""
		}
	}
	switch {
	case there == nil:
		return nil, ""
	case h.seen.asked(k.Reference) && isSame(k, there, true):
		return nil, "it answers like another key than the one that was backed up"
	case k.Public == nil && len(there.PublicKey) > 0 && bytes.Equal(there.Description, k.Description) && !h.seen.asked(k.Reference):
		return nil, "its request or certificate is gone since it was backed up, so nothing shows that it is the same key; the next backup finds out"
	}
	return nil, "another key was backed up from this reference"
}

// underOwn gives, for a key that was re-keyed while its token still has the old
// recovery key, the record that it was made from: the same key, and one that the
// token can prove.
func (h *history) underOwn(s *store.Snapshot, stored *store.Key, k Key) *store.Key {
	own := stored
	for own.KCV != k.KCV && len(stored.Blob) > 0 {
		if s = h.Source(s); s == nil {
			return stored
		}
		if own = keyAt(s, byte(stored.Reference)); own == nil || own.Damage != "" || !samePublic(own, stored) && !sameAnswer(own, stored) {
			return stored
		}
	}
	return own
}

// stays tells whether a stored key is still where it was backed up from.
func (h *history) stays(inv *Inventory, stored *store.Key) bool {
	return slices.ContainsFunc(inv.Keys, func(k Key) bool { return int(k.Reference) == stored.Reference && h.isSame(k, stored, true) })
}

// isSame goes by what a key answered; where it was not asked, by what stands
// beside it.
func (h *history) isSame(k Key, stored *store.Key, place bool) bool {
	if h.seen.asked(k.Reference) && (len(stored.PublicKey) > 0 || len(stored.CheckValue) > 0) {
		return h.seen.is(k.Reference, stored)
	}
	return isSame(k, stored, place)
}

// isSame tells whether a stored key is, by what stands beside it, the one on the
// token. Without a public key to go by, the description must agree and the place;
// where a certificate is beside it that the backup found to be another key's, so
// must that.
func isSame(k Key, stored *store.Key, place bool) bool {
	switch {
	case k.Public != nil && len(stored.PublicKey) > 0:
		return bytes.Equal(k.Public.SPKI(), stored.PublicKey)
	case len(stored.PublicKey) > 0:
		return false
	}
	return place && bytes.Equal(k.Description, stored.Description) && (k.Public == nil || bytes.Equal(k.Certificate, stored.Certificate))
}

func (h *history) cover(inv *Inventory, k Key) KeyCoverage {
	is := func(c Coverage, format string, args ...any) KeyCoverage {
		return KeyCoverage{Key: k, Coverage: c, Reason: fmt.Sprintf(format, args...)}
	}
	if k.NotExportable != "" {
		return h.notExportable(inv.Serial, k, k.NotExportable)
	}
	same, reason := h.match(inv, k)
	switch {
	case reason != "":
		return is(Stale, "%s", reason)
	case same == nil && h.damaged(inv, k):
		return is(Missing, "its copy in the catalog is damaged; the next backup exports it anew")
	case same == nil && h.elsewhere(inv, k):
		return is(Missing, "not in the newest snapshot of this token, which a restore would take; the next backup takes it")
	case same == nil:
		return is(Missing, "in no snapshot")
	case slices.Contains(shown, same.Reason):
		return is(Missing, "it could not be exported when it was backed up (%s), which is not so any more: the next backup tries", same.Reason)
	case same.Reason != "":
		return h.notExportable(inv.Serial, k, same.Reason)
	case !bytes.Equal(same.Description, k.Description):
		return is(Stale, "its description (label, ID, usage) has changed since it was backed up")
	case !bytes.Equal(same.Certificate, k.Certificate):
		return is(Stale, "its certificate has changed since it was backed up")
	case !bytes.Equal(same.Algorithms, k.Info.Algorithms) || same.Domain != k.Info.Domain:
		return is(Stale, "its list of allowed algorithms or its key domain is not what was backed up")
	case same.KCV != k.KCV:
		return is(Stale, "backed up under the recovery key %s, the token has %s now", same.KCV, orNone(k.KCV))
	}
	if c, reason := h.coverStored(same); c != Covered {
		return is(c, "%s", reason)
	}
	return h.recognised(inv, k, same)
}

// recognised judges a key that comes back if it is the stored one.
func (h *history) recognised(inv *Inventory, k Key, stored *store.Key) KeyCoverage {
	if h.seen.is(k.Reference, stored) {
		return KeyCoverage{Key: k, Coverage: Covered, stored: stored, rekeyed: h.rekeyed(inv, stored)}
	}
	c := KeyCoverage{Key: k, Coverage: Unasked, stored: stored, rekeyed: h.rekeyed(inv, stored)}
	if h.seen != nil { // and yet not asked
		c.Reason = h.seen.unable[k.Reference]
		return h.orAccepted(inv, c)
	}
	last := h.Asked[store.Place{Serial: inv.Serial, Reference: int(k.Reference)}]
	switch {
	case !last.Time.IsZero() && last.Readable == readable(k) && !last.OK:
		c.Coverage, c.Reason = Stale, last.Reason
	case last.OK && last.Readable == readable(k) && last.Blob == store.HashOf(stored.Blob):
		c.Asked, c.Reason = last.Time, "what can be read of it is what it was when it was asked on "+last.Time.UTC().Format(time.DateOnly)
	case last.OK && last.Readable != readable(k) && last.Blob == store.HashOf(stored.Blob):
		c.Coverage, c.Reason = Stale, "what can be read of it is not what it was when it was asked last; `hsmbackup backup` asks it"
	default:
		c.Reason = "no run with a login has asked it yet; `hsmbackup backup` does"
		if unaskable(k) {
			c.Reason = "it has a use counter or a list that lets nobody ask it; `hsmbackup accept` takes note of that"
		}
		return h.orAccepted(inv, c)
	}
	return c
}

// rekeyed finds what the newest snapshot has in the place of a record from before
// it was re-keyed, nil for others.
func (h *history) rekeyed(inv *Inventory, stored *store.Key) *store.Key {
	now := keyAt(h.Now(inv.Serial), byte(stored.Reference))
	if now == nil || now.KCV == stored.KCV || now.Damage != "" || !samePublic(now, stored) && !sameAnswer(now, stored) {
		return nil
	}
	return now
}

// orAccepted lets an unasked key count as done that nobody may ask, if somebody
// said so.
func (h *history) orAccepted(inv *Inventory, c KeyCoverage) KeyCoverage {
	if a, ok := h.acceptance(inv.Serial, int(c.Key.Reference), publicHash(c.Key.Public), c.Key.Label); ok && unaskable(c.Key) {
		c.Coverage, c.Reason = Accepted, a.Reason
	}
	return c
}

// place tells whether a key is where a stored one was backed up, or where it was
// restored to.
func (h *history) place(inv *Inventory, s *store.Snapshot, stored *store.Key, k Key) bool {
	return s.Token.Serial == inv.Serial && stored.Reference == int(k.Reference) ||
		h.restored[restoredTo{store.HashOf(stored.Blob), inv.Serial, int(k.Reference)}]
}

// elsewhere tells whether a whole copy of a key is in the catalog, though not
// where a restore of this token would take it from.
func (h *history) elsewhere(inv *Inventory, k Key) bool {
	for _, s := range h.Snapshots {
		for i := range s.Keys {
			if stored := &s.Keys[i]; stored.Damage == "" && len(stored.Blob) > 0 && h.isSame(k, stored, h.place(inv, s, stored, k)) {
				return true
			}
		}
	}
	return false
}

// coverStored judges a stored key that is the one wanted.
func (h *history) coverStored(stored *store.Key) (Coverage, string) {
	if _, ok := h.proofs[store.HashOf(stored.Blob)]; !ok {
		if p, ok := h.failed[store.HashOf(stored.Blob)]; ok {
			return Unproven, p.Reason
		}
		return Unproven, "nothing shows yet that it would come back"
	}
	if !provable(stored) {
		return Unproven, "a restore could not show that it is this key: " + errNothingKnown.Error() + ", or its list of allowed algorithms leaves no way to use it"
	}
	if h.seen != nil && h.seen.recovery[stored.KCV] != "" {
		return Covered, ""
	}
	seen, ok := h.Shares[stored.KCV]
	switch {
	case !ok:
		return NoShare, fmt.Sprintf("nobody has shown shares that give the recovery key %s", stored.KCV)
	case seen.Random:
		return NoShare, fmt.Sprintf("the recovery key %s is random: the token made it up and nobody has shares", stored.KCV)
	}
	return Covered, ""
}

// damaged tells whether a copy of the key is in the catalog but damaged.
func (h *history) damaged(inv *Inventory, k Key) bool {
	for _, s := range h.Snapshots {
		own := inv.Serial != "" && s.Token.Serial == inv.Serial
		for i := range s.Keys {
			stored := &s.Keys[i]
			if stored.Damage != "" && isSame(k, stored, own && stored.Reference == int(k.Reference)) {
				return true
			}
		}
	}
	return false
}

func (h *history) notExportable(serial string, k Key, reason string) KeyCoverage {
	if a, ok := h.acceptance(serial, int(k.Reference), publicHash(k.Public), k.Label); ok {
		return KeyCoverage{Key: k, Coverage: Accepted, Reason: a.Reason}
	}
	return KeyCoverage{Key: k, Coverage: NotExportable, Reason: reason}
}

// acceptance finds what was said of a key that cannot be exported. Without a
// public key its label must be the one it had.
func (h *history) acceptance(serial string, reference int, public store.Hash, label string) (store.Accepted, bool) {
	for _, a := range h.Accepted {
		if a.Serial == serial && a.Reference == reference && a.PublicKey == public && (public != store.Hash{} || a.Label == label) {
			return a, true
		}
	}
	return store.Accepted{}, false
}

// acceptanceOf is acceptance for a stored key.
func (h *history) acceptanceOf(s *store.Snapshot, k *store.Key) (store.Accepted, bool) {
	public := store.Hash{}
	if len(k.PublicKey) > 0 {
		public = store.HashOf(k.PublicKey)
	}
	return h.acceptance(s.Token.Serial, k.Reference, public, k.Label)
}

// markAccepted lets stored keys that were accepted count as done.
func (h *history) markAccepted(s *store.Snapshot, sp *SnapshotProof) {
	for i := range s.Keys {
		k := &s.Keys[i]
		if k.Reason == "" || k.Damage != "" {
			continue
		}
		if a, ok := h.acceptanceOf(s, k); ok && i < len(sp.Keys) {
			sp.Keys[i].Accepted, sp.Keys[i].OK = true, false
			sp.Keys[i].Reason = "accepted: " + a.Reason
		}
	}
}

// publicHash is the SHA-256 of the SPKI, zero for a key that is not known.
func publicHash(k *pubkey.Key) store.Hash {
	if k == nil {
		return store.Hash{}
	}
	return store.Hash(k.Fingerprint())
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Accept records that a key which cannot be exported is meant to stay where it
// is, or that one which nobody may use, for its use counter or its list of
// allowed algorithms, is taken unasked. Any other is refused.
func Accept(inv *Inventory, cat *store.Catalog, which, reason string) (Key, error) {
	k, err := inv.FindKey(which)
	if err != nil {
		return k, err
	}
	state, err := cat.Read()
	if err != nil {
		return k, err
	}
	c := newHistory(state).cover(inv, k)
	if c.Coverage != NotExportable && c.Coverage != Accepted && !(c.Coverage == Unasked && unaskable(k)) {
		return k, fail.Refusef("exportable", "`hsmbackup backup` takes it", "%s can be exported and asked (coverage: %s), so there is nothing to accept", k.Name(), c.Coverage)
	}
	return k, cat.Append(store.Accepted{Serial: inv.Serial, Reference: int(k.Reference), PublicKey: publicHash(k.Public), Label: k.Label, Reason: reason})
}

// unaskable tells whether a key has a reason not to be asked.
func unaskable(k Key) bool {
	if k.Info.Counter != nil {
		return true
	}
	s := k.subject()
	return !slices.ContainsFunc(challenges(nil, s, fixedBytes), func(c challenge) bool { return c.check != nil || c.normal != nil })
}
