package backup

import (
	"bytes"
	"fmt"
	"slices"

	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// Coverage says whether a key on a token can be restored today.
type Coverage string

// The values of cli.md.
const (
	// Covered: exported, the blob proven, shares of its KCV seen.
	Covered Coverage = "covered"
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
	// Accepted: not exportable, and the admin said that it is meant to be so.
	Accepted Coverage = "accepted"
)

// Done tells whether nothing is left to do for a key of this coverage.
func (c Coverage) Done() bool { return c == Covered || c == Accepted }

// KeyCoverage is the verdict on one key, with its reason.
type KeyCoverage struct {
	Key      Key
	Coverage Coverage
	Reason   string
	// Notes are what must be known of the key besides (see Notes).
	Notes []string
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

// Cover compares what a token holds with what a catalog says. It needs no PIN. A
// key is recognised by its public key wherever it was backed up; one whose public
// key is not known, by its place and its descriptions. It goes by what the token
// shows: whether a key is the one that its certificate says, only its use tells,
// and Run uses it.
func Cover(inv *Inventory, s *store.State) []KeyCoverage {
	h := newHistory(s)
	list := make([]KeyCoverage, 0, len(inv.Keys))
	for _, k := range inv.Keys {
		kc := KeyCoverage{Key: k, Notes: h.notes(inv, k)}
		kc.Coverage, kc.Reason = h.cover(inv, k)
		list = append(list, kc)
	}
	return list
}

// history is what a catalog says, by blobs.
type history struct {
	*store.State
	proofs map[store.Hash]store.Proof
	failed map[store.Hash]store.Proof
	// restored are the places that blobs were restored to, and used there.
	restored map[restoredTo]bool
}

// restoredTo is a key blob, and a token with the reference on it.
type restoredTo struct {
	blob   store.Hash
	serial string
	at     int
}

func newHistory(s *store.State) *history {
	h := &history{s, map[store.Hash]store.Proof{}, map[store.Hash]store.Proof{}, map[restoredTo]bool{}}
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
		}
	}
	return h
}

// find gives the newest stored key that is this one, and the newest key that
// was stored under its reference of this token. What this token's own snapshots
// hold goes before what others do, and within a snapshot a key that is the same
// in all respects before another copy of it. A blob under the recovery key that
// the token has goes before one that was re-keyed since. A stored key is one key
// on the token: what is the copy of another there is not found by that one's
// record. Keys that are damaged in the catalog are not found.
func (h *history) find(inv *Inventory, k Key) (same, there *store.Key) {
	var elsewhere *store.Key
	best := 0
	for i := len(h.Snapshots) - 1; i >= 0; i-- {
		s := h.Snapshots[i]
		own := inv.holds(s)
		var found *store.Key
		rank := 0
		for j := range s.Keys {
			stored := &s.Keys[j]
			if stored.Damage != "" {
				continue
			}
			here := own && stored.Reference == int(k.Reference)
			if here && there == nil {
				there = stored
			}
			place := h.place(inv, own, stored, k)
			if !isSame(k, stored, place) || !place && h.isOf(inv, own, stored) {
				continue
			}
			n := 1
			if bytes.Equal(stored.Description, k.Description) && bytes.Equal(stored.Certificate, k.Certificate) {
				n += 4
			}
			if here {
				n += 2
			}
			if place {
				n++
			}
			if !own && h.proven(stored) { // a file that was adopted since hides no proof
				n += 8
			}
			if !own && stored.KCV == k.KCV {
				n += 16
			}
			if n > rank {
				found, rank = stored, n
			}
		}
		switch {
		case found == nil:
		case own && (same == nil || same.KCV != k.KCV && found.KCV == k.KCV):
			same = found
		case !own && rank > best:
			elsewhere, best = found, rank
		}
	}
	if same == nil {
		same = elsewhere
	}
	return same, there
}

// holds tells whether a snapshot is of this very token.
func (inv *Inventory) holds(s *store.Snapshot) bool {
	return inv.Serial != "" && s.Token.Serial == inv.Serial
}

// place tells whether a key is where a stored one was backed up, or where it was
// restored to. own: the snapshot is of this token.
func (h *history) place(inv *Inventory, own bool, stored *store.Key, k Key) bool {
	return own && stored.Reference == int(k.Reference) || h.restored[restoredTo{store.HashOf(stored.Blob), inv.Serial, int(k.Reference)}]
}

// isOf tells whether a stored key is one on the token that is where it was.
func (h *history) isOf(inv *Inventory, own bool, stored *store.Key) bool {
	return slices.ContainsFunc(inv.Keys, func(k Key) bool { return h.place(inv, own, stored, k) && isSame(k, stored, true) })
}

func (h *history) proven(k *store.Key) bool {
	_, ok := h.proofs[store.HashOf(k.Blob)]
	return ok
}

// isSame tells whether a stored key is the one on the token. Without a public
// key to go by, the description must agree and the place, which is where it was
// backed up or a token that it was restored to; where a certificate is beside it
// that the backup found to be another key's, so must that.
func isSame(k Key, stored *store.Key, place bool) bool {
	switch {
	case k.Public != nil && len(stored.PublicKey) > 0:
		return bytes.Equal(k.Public.SPKI(), stored.PublicKey)
	case len(stored.PublicKey) > 0:
		return false
	}
	return place && bytes.Equal(k.Description, stored.Description) && (k.Public == nil || bytes.Equal(k.Certificate, stored.Certificate))
}

func (h *history) cover(inv *Inventory, k Key) (Coverage, string) {
	if k.NotExportable != "" {
		return h.notExportable(inv.Serial, k, k.NotExportable)
	}
	same, there := h.find(inv, k)
	switch {
	case same == nil && there != nil && k.Public == nil && len(there.PublicKey) > 0 && bytes.Equal(there.Description, k.Description):
		return Stale, "its request or certificate is gone since it was backed up, so nothing shows that it is the same key; the next backup finds out"
	case same == nil && there != nil:
		return Stale, "another key was backed up from this reference"
	case same == nil && h.damaged(inv, k):
		return Missing, "its copy in the catalog is damaged; the next backup exports it anew"
	case same == nil:
		return Missing, "in no snapshot"
	case slices.Contains(shown, same.Reason):
		return Missing, fmt.Sprintf("it could not be exported when it was backed up (%s), which is not so any more: the next backup tries", same.Reason)
	case same.Reason != "":
		return h.notExportable(inv.Serial, k, same.Reason)
	case !bytes.Equal(same.Description, k.Description):
		return Stale, "its description (label, ID, usage) has changed since it was backed up"
	case !bytes.Equal(same.Certificate, k.Certificate):
		return Stale, "its certificate has changed since it was backed up"
	case same.KCV != k.KCV:
		return Stale, fmt.Sprintf("backed up under the recovery key %s, the token has %s now", same.KCV, orNone(k.KCV))
	}
	return h.coverStored(same)
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
		for i := range s.Keys {
			stored := &s.Keys[i]
			if stored.Damage != "" && isSame(k, stored, inv.holds(s) && stored.Reference == int(k.Reference)) {
				return true
			}
		}
	}
	return false
}

func (h *history) notExportable(serial string, k Key, reason string) (Coverage, string) {
	if a, ok := h.acceptance(serial, int(k.Reference), publicHash(k.Public), k.Label); ok {
		return Accepted, a.Reason
	}
	return NotExportable, reason
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
// is. One that can be exported is refused.
func Accept(inv *Inventory, cat *store.Catalog, which, reason string) (Key, error) {
	k, err := inv.FindKey(which)
	if err != nil {
		return k, err
	}
	state, err := cat.Read()
	if err != nil {
		return k, err
	}
	if c, _ := newHistory(state).cover(inv, k); c != NotExportable && c != Accepted {
		return k, refusef("exportable", "`hsmbackup backup` takes it", "%s can be exported (coverage: %s), so there is nothing to accept", k.Name(), c)
	}
	return k, cat.Append(store.Accepted{Serial: inv.Serial, Reference: int(k.Reference), PublicKey: publicHash(k.Public), Label: k.Label, Reason: reason})
}
