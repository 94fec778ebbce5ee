package backup

import (
	"bytes"
	"fmt"

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

// Cover compares what a token holds with a catalog; nil is an empty one. It
// needs no PIN. A key is recognised by its public key wherever it was backed
// up; one whose public key is not known, by its place and its descriptions.
func Cover(inv *Inventory, cat *store.Catalog) ([]KeyCoverage, error) {
	h, err := readHistory(cat)
	if err != nil {
		return nil, err
	}
	list := make([]KeyCoverage, 0, len(inv.Keys))
	for _, k := range inv.Keys {
		kc := KeyCoverage{Key: k, Notes: h.notes(inv, k)}
		kc.Coverage, kc.Reason = h.cover(inv.Serial, k)
		list = append(list, kc)
	}
	return list, nil
}

// history is what a catalog knows, read once.
type history struct {
	snapshots []*store.Snapshot // oldest first
	proofs    map[store.Hash]store.Proof
	failed    map[store.Hash]store.Proof
	// restored has the blobs that were restored, each with the serial of the
	// token and used there.
	restored map[store.Hash]map[string]bool
	shares   map[store.KCV]store.ShareSeen
	accepted []store.Accepted
}

func readHistory(cat *store.Catalog) (*history, error) {
	h := &history{proofs: map[store.Hash]store.Proof{}, failed: map[store.Hash]store.Proof{}, restored: map[store.Hash]map[string]bool{}}
	if cat == nil {
		return h, nil
	}
	var err error
	if h.snapshots, err = Snapshots(cat); err != nil {
		return nil, err
	}
	proofs, err := cat.Proofs()
	if err != nil {
		return nil, err
	}
	for _, p := range proofs {
		switch {
		case !store.ShowsReturn(p.Kind):
		case p.OK:
			h.proofs[p.Blob] = p
			delete(h.failed, p.Blob)
			if p.Kind == store.ProofRestored {
				if h.restored[p.Blob] == nil {
					h.restored[p.Blob] = map[string]bool{}
				}
				h.restored[p.Blob][p.Token] = true
			}
		default:
			h.failed[p.Blob] = p
		}
	}
	if h.shares, err = cat.SharesSeen(); err != nil {
		return nil, err
	}
	h.accepted, err = cat.AcceptedKeys()
	return h, err
}

// find gives the newest stored key that is this one, and the newest key that
// was stored under its reference of this token. What this token's own snapshots
// hold goes before what others do, and within a snapshot a key that is the same
// in all respects before another copy of it. A blob under the recovery key that
// the token has goes before one that was re-keyed since.
// Keys that are damaged in the catalog are not found.
func (h *history) find(serial string, k Key) (same, there *store.Key) {
	var elsewhere *store.Key
	for i := len(h.snapshots) - 1; i >= 0; i-- {
		s := h.snapshots[i]
		own := s.Token.Serial == serial
		best, rank := (*store.Key)(nil), 0
		for j := range s.Keys {
			stored := &s.Keys[j]
			here := own && stored.Reference == int(k.Reference)
			if stored.Damage != "" {
				continue
			}
			if here && there == nil {
				there = stored
			}
			if !isSame(k, stored, here || h.restored[store.HashOf(stored.Blob)][serial]) {
				continue
			}
			n := 1
			if bytes.Equal(stored.Description, k.Description) && bytes.Equal(stored.Certificate, k.Certificate) {
				n += 2
			}
			if here {
				n++
			}
			if n > rank {
				best, rank = stored, n
			}
		}
		switch {
		case best == nil:
		case own && (same == nil || same.KCV != k.KCV && best.KCV == k.KCV):
			same = best
		case !own && (elsewhere == nil || elsewhere.KCV != k.KCV && best.KCV == k.KCV ||
			(elsewhere.KCV == k.KCV) == (best.KCV == k.KCV) && !h.proven(elsewhere) && h.proven(best)):
			elsewhere = best // the newest, but a file that was adopted since hides no proof
		}
	}
	if same == nil {
		same = elsewhere
	}
	return same, there
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

func (h *history) cover(serial string, k Key) (Coverage, string) {
	if k.NotExportable != "" {
		return h.notExportable(serial, k, k.NotExportable)
	}
	same, there := h.find(serial, k)
	switch {
	case same == nil && there != nil:
		return Stale, "another key was backed up from this reference"
	case same == nil && h.damaged(serial, k):
		return Missing, "its copy in the catalog is damaged; the next backup exports it anew"
	case same == nil:
		return Missing, "in no snapshot"
	case same.Reason != "":
		return h.notExportable(serial, k, same.Reason)
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
	seen, ok := h.shares[stored.KCV]
	switch {
	case !ok:
		return NoShare, fmt.Sprintf("nobody has shown shares that give the recovery key %s", stored.KCV)
	case seen.Random:
		return NoShare, fmt.Sprintf("the recovery key %s is random: the token made it up and nobody has shares", stored.KCV)
	}
	return Covered, ""
}

// damaged tells whether a copy of the key is in the catalog but damaged.
func (h *history) damaged(serial string, k Key) bool {
	for _, s := range h.snapshots {
		for i := range s.Keys {
			stored := &s.Keys[i]
			if stored.Damage != "" && isSame(k, stored, s.Token.Serial == serial && stored.Reference == int(k.Reference)) {
				return true
			}
		}
	}
	return false
}

func (h *history) notExportable(serial string, k Key, reason string) (Coverage, string) {
	if a, ok := h.acceptance(serial, int(k.Reference), publicHash(k.Public)); ok {
		return Accepted, a.Reason
	}
	return NotExportable, reason
}

// acceptance finds what was said of a key that cannot be exported.
func (h *history) acceptance(serial string, reference int, public store.Hash) (store.Accepted, bool) {
	for _, a := range h.accepted {
		if a.Serial == serial && a.Reference == reference && a.PublicKey == public {
			return a, true
		}
	}
	return store.Accepted{}, false
}

// markAccepted lets stored keys that were accepted count as done.
func (h *history) markAccepted(s *store.Snapshot, sp *SnapshotProof) {
	for i := range s.Keys {
		k := &s.Keys[i]
		if k.Reason == "" || k.Damage != "" {
			continue
		}
		public := store.Hash{}
		if len(k.PublicKey) > 0 {
			public = store.HashOf(k.PublicKey)
		}
		if a, ok := h.acceptance(s.Token.Serial, k.Reference, public); ok && i < len(sp.Keys) {
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
	h, err := readHistory(cat)
	if err != nil {
		return k, err
	}
	if c, _ := h.cover(inv.Serial, k); c != NotExportable && c != Accepted {
		return k, refusef("exportable", "`hsmbackup backup` takes it", "%s can be exported (coverage: %s), so there is nothing to accept", k.Name(), c)
	}
	return k, cat.RecordAccepted(store.Accepted{Serial: inv.Serial, Reference: int(k.Reference), PublicKey: publicHash(k.Public), Label: k.Label, Reason: reason})
}
