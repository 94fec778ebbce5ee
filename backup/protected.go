package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Data objects that the PIN protects stay sealed in the catalog: encrypted to a
// recipient that only the DKEK opens. A backup needs its public half and no DKEK.

// sealProtected reads the protected files of a token that is logged in, and
// adds them to the snapshot, sealed; without a recipient it names them.
func sealProtected(ctx context.Context, card *schsm.Card, inv *Inventory, seen *Evidence, recipient, why string, s *store.Snapshot) error {
	for _, f := range inv.Unread {
		if recipient == "" {
			s.Missing = append(s.Missing, store.Gap{What: "data object " + f.String(), Reason: "protected by the PIN, and " + why})
			continue
		}
		content, err := card.ReadFile(ctx, f)
		if isTransport(err) {
			return err
		}
		if err != nil {
			s.Missing = append(s.Missing, store.Gap{What: "data object " + f.String(), Reason: err.Error()})
			continue
		}
		sealed, err := dkek.SealData(recipient, content)
		if err == nil {
			seen.sealed[store.HashOf(sealed)] = store.HashOf(content)
		}
		clear(content)
		if err != nil {
			return err
		}
		s.Files = append(s.Files, store.File{FID: fmt.Sprintf("%04x", uint16(f)), Content: sealed, Sealed: true})
	}
	return nil
}

// errOtherContent: a protected file is on the token with another content.
var errOtherContent = errors.New("another content is there")

// restoreProtected writes a protected file where there is none, finishes one
// that was cut off, and leaves any other alone.
func (r *restorer) restoreProtected(ctx context.Context, f schsm.FID, content []byte) error {
	now, err := r.card.ReadFile(ctx, f)
	defer clear(now)
	switch {
	case errors.Is(err, apdu.ErrNotFound):
	case err != nil:
		return err
	case bytes.Equal(now, content):
		return nil
	case !begun(now, content):
		return errOtherContent
	}
	return r.put(ctx, f, content, nil)
}

// openSealed checks that what is sealed in a snapshot opens under the DKEK.
// What another DKEK of the token seals is no damage; where there is no other,
// it is sealed to someone who has no business there.
func openSealed(s *store.Snapshot, key *dkek.Key) []store.Finding {
	var findings []store.Finding
	for _, f := range s.Files {
		if !f.Sealed {
			continue
		}
		content, err := key.OpenData(f.Content)
		clear(content)
		if err != nil && (!errors.Is(err, dkek.ErrOtherKey) || onlyKey(s, key.KCV().String())) {
			findings = append(findings, store.Finding{Where: fmt.Sprintf("snapshot %s, data object %s", s.ID, f.FID), What: err.Error()})
		}
	}
	return findings
}

// onlyKey tells whether a token had one DKEK and no other.
func onlyKey(s *store.Snapshot, kcv string) bool {
	found := false
	for _, d := range s.Token.Domains {
		if d.KCV != "" && d.KCV != kcv {
			return false
		}
		found = found || d.KCV == kcv
	}
	return found
}

// HasSealed tells whether a snapshot has data that only the DKEK opens.
func HasSealed(s *store.Snapshot) bool {
	for _, f := range s.Files {
		if f.Sealed && f.Damage == "" {
			return true
		}
	}
	return false
}

// DataOpener opens sealed data with the DKEKs that shares give, for
// RestoreOptions.OpenData; done wipes them. The shares stay the caller's.
func DataOpener(domains []store.Domain, shares []*dkek.Share) (open func(sealed []byte) ([]byte, error), done func()) {
	var keys []*dkek.Key
	sets, _ := AssignShares(domains, shares)
	for _, set := range sets {
		if len(set.Load) == 0 {
			continue
		}
		if key, err := dkek.Combine(set.Load...); err == nil {
			keys = append(keys, key)
		}
	}
	open = func(sealed []byte) ([]byte, error) {
		err := fmt.Errorf("%w: these shares do not give it", dkek.ErrOtherKey)
		for _, key := range keys {
			var content []byte
			if content, err = key.OpenData(sealed); err == nil {
				return content, nil
			}
		}
		return nil, err
	}
	return open, func() {
		for _, key := range keys {
			key.Wipe()
		}
	}
}
