package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// A token can carry an anchor: a public data object, which takes the PIN to
// write, with number and hash of a log entry. Whoever writes the catalog and has
// not got token and PIN cannot make a log that it fits. It says nothing across a
// wipe of the token.

// TokenAnchor is what a token carries of it.
type TokenAnchor struct {
	Seq  uint64
	Hash store.Hash

	file schsm.FID
	// described: people and other programs see it for what it is. One that is not
	// was cut off while it was written or deleted.
	described bool
}

// The object: 01, the number (8 bytes, big-endian), the hash, and the first 8
// bytes of a SHA-256 over the text and all that.
const (
	anchorVersion = 1
	anchorSize    = 1 + 8 + sha256.Size + 8
	anchorText    = "hsmbackup token anchor v1\n"
)

func encodeAnchor(seq uint64, hash store.Hash) []byte {
	b := append(binary.BigEndian.AppendUint64([]byte{anchorVersion}, seq), hash[:]...)
	sum := sha256.Sum256(append([]byte(anchorText), b...))
	return append(b, sum[:8]...)
}

func parseAnchor(b []byte) (seq uint64, hash store.Hash, ok bool) {
	if len(b) != anchorSize {
		return 0, hash, false
	}
	seq = binary.BigEndian.Uint64(b[1:])
	copy(hash[:], b[9:])
	return seq, hash, bytes.Equal(b, encodeAnchor(seq, hash))
}

// anchorLabel is what OpenSC shows of it. No host, name or path is in it.
const anchorLabel = "hsmbackup anchor"

func anchorDescription(file schsm.FID) []byte {
	return (&pkcs15.ObjectDescription{Label: anchorLabel, Application: "hsmbackup", Path: uint16(file)}).EncodeData()
}

func descriptionOf(file schsm.FID) schsm.FID {
	return schsm.PrefixDataDescription<<8 | schsm.FID(file.Index())
}

// findAnchor takes the anchor out of the files of a token: exactly these bytes,
// with this description or still without one. Anything else is the user's, also
// what only has the label: that is a torn one, or none of ours.
func (inv *Inventory) findAnchor() {
	at := func(f schsm.FID) int {
		return slices.IndexFunc(inv.Files, func(file File) bool { return file.FID == f })
	}
	for _, f := range inv.Files {
		if f.FID.Prefix() != schsm.PrefixPublicData {
			continue
		}
		d := at(descriptionOf(f.FID))
		described := d >= 0 && bytes.Equal(inv.Files[d].Content, anchorDescription(f.FID))
		seq, hash, ok := parseAnchor(f.Content)
		switch {
		case inv.Anchor != nil || !ok || d >= 0 && !described:
			inv.TornAnchor = inv.TornAnchor || described
			continue
		}
		inv.Anchor = &TokenAnchor{seq, hash, f.FID, described}
	}
	if inv.Anchor == nil {
		return
	}
	inv.Files = slices.DeleteFunc(inv.Files, func(f File) bool {
		return f.FID == inv.Anchor.file || inv.Anchor.described && f.FID == descriptionOf(inv.Anchor.file)
	})
}

// fits tells whether the log has the entry that a token carries.
func (t *TokenAnchor) fits(s *store.State) bool {
	return slices.ContainsFunc(s.Entries, func(e store.Entry) bool { return e.Seq == t.Seq && e.Hash == t.Hash })
}

// CompareTokens adds to a check how the catalog compares with the anchors on
// attached tokens.
func CompareTokens(tokens ...*Inventory) func(*Verification, *store.State) {
	return func(v *Verification, s *store.State) {
		for _, inv := range tokens {
			v.checkToken(s, inv)
		}
	}
}

// checkToken compares the catalog with the anchor on a token.
func (v *Verification) checkToken(s *store.State, inv *Inventory) {
	const again = "`hsmbackup backup --anchor token` writes a new one"
	written := s.TokenAnchors[inv.Serial].Seq > 0
	switch a := inv.Anchor; {
	case a != nil && !a.fits(s):
		v.Findings = append(v.Findings, store.Finding{Where: "anchor on " + inv.Serial,
			What: fmt.Sprintf("the token has seen a newer or another catalog: its entry %d is not in this one", a.Seq)})
	case a != nil && a.described:
		v.Anchored, v.Since = AnchoredToken, int(s.Head.Seq-a.Seq)
	case a != nil || written && inv.TornAnchor:
		v.Doubts = append(v.Doubts, Doubt{"the anchor on " + inv.Serial + " is torn", again})
	case written:
		v.Doubts = append(v.Doubts, Doubt{"the anchor that was written onto " + inv.Serial + " is gone: the token was wiped, or somebody with its PIN deleted it", again})
	}
}

// mayAnchor refuses to write over the anchor of a newer or another catalog.
func mayAnchor(s *store.State, inv *Inventory) error {
	if a := inv.Anchor; a != nil && !a.fits(s) {
		return fail.Refusef("newer-catalog", "find the catalog that it was written from; only without --anchor does a backup go into this one",
			"the token has seen a newer or another catalog: entry %d that it carries is not in this one; nothing was written", a.Seq)
	}
	return nil
}

// writeAnchor writes the head of a catalog onto a token that is logged in, in
// place of the anchor that it carries, and reads it back. It gives the new head.
func writeAnchor(ctx context.Context, card *schsm.Card, cat *store.Catalog, inv *Inventory) (head store.Entry, err error) {
	state, err := cat.Read()
	if err != nil {
		return head, err
	}
	head = state.Head
	file, described := inv.freeForAnchor(), false
	if inv.Anchor != nil {
		file, described = inv.Anchor.file, inv.Anchor.described
	}
	if file == 0 {
		return head, fail.Failf("no-room", "delete a data object", "the token has no free number for one more data object")
	}
	if err := card.Confirm(ctx); err != nil {
		return head, err
	}
	put := func(f schsm.FID, content []byte) error {
		if err := card.WriteFile(ctx, f, content); err != nil {
			return err
		}
		is, err := card.ReadFile(ctx, f)
		if err == nil && !bytes.Equal(is, content) {
			err = fail.Failf("anchor", "run the same command again", "the anchor reads back from %s as something else", f)
		}
		return err
	}
	if err := put(file, encodeAnchor(head.Seq, head.Hash)); err != nil {
		return head, err
	}
	if !described {
		if err := put(descriptionOf(file), anchorDescription(file)); err != nil {
			return head, err
		}
	}
	if err := cat.Append(store.TokenAnchor{Serial: inv.Serial, Seq: head.Seq, Hash: head.Hash}); err != nil {
		return head, err
	}
	if state, err = cat.Read(); err != nil {
		return head, err
	}
	return state.Head, nil
}

// freeForAnchor is the highest number that no data object has: other programs
// count from below. 0 if there is none.
func (inv *Inventory) freeForAnchor() schsm.FID {
	used := map[byte]bool{}
	for _, f := range inv.files() {
		switch f.Prefix() {
		case schsm.PrefixDataDescription, schsm.PrefixProtectedData, schsm.PrefixPublicData:
			used[f.Index()] = true
		}
	}
	for i := 0xFF; i > 0; i-- {
		if !used[byte(i)] {
			return schsm.PrefixPublicData<<8 | schsm.FID(i)
		}
	}
	return 0
}

// dropAnchor deletes the anchor of a token that holds nothing else any more, and
// notes that.
func dropAnchor(ctx context.Context, card *schsm.Card, cat *store.Catalog, inv *Inventory) error {
	if inv.Anchor == nil {
		return nil
	}
	file := inv.Anchor.file
	ours := func(b []byte) bool { _, _, ok := parseAnchor(b); return ok || bytes.Equal(b, anchorDescription(file)) }
	for _, f := range []schsm.FID{descriptionOf(file), file} {
		if err := removeRest(ctx, card, f, nil, ours); err != nil {
			return err
		}
	}
	inv.Anchor = nil
	return cat.Append(store.TokenAnchor{Serial: inv.Serial})
}
