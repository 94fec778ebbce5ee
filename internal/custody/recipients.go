package custody

import (
	"bytes"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// GuardRecipients refuses keys that lie in what the recovery key opens: on the
// day that it is needed they are not there. attached gives the keys of tokens at
// hand.
func (h *HandOut) GuardRecipients(cat *store.Catalog, attached func() ([]*pubkey.Key, error)) error {
	for _, k := range h.Receivers {
		if k.Recipient == "" {
			continue
		}
		why := "a key in the catalog"
		found, err := inCatalog(cat, k.Recipient)
		if err == nil && !found {
			why = "a key on the token attached"
			found, err = isAttached(k.Recipient, attached)
		}
		if err != nil {
			return err
		}
		if found {
			return refusef("own-box", "give a recipient whose key lies elsewhere: age1pq1… (age-keygen -pq), age1…", "the recipient of %s is %s: the part would be locked in its own box", k.Name, why)
		}
	}
	return nil
}

func isAttached(recipient string, attached func() ([]*pubkey.Key, error)) (bool, error) {
	ssh := dkek.RecipientKey(recipient)
	if ssh == nil {
		return false, nil
	}
	keys, err := attached()
	for _, k := range keys {
		if isKey(k, ssh) {
			return true, nil
		}
	}
	return false, err
}

func isKey(k *pubkey.Key, ssh []byte) bool { return bytes.Equal(dkek.RecipientKey(k.SSH("")), ssh) }

// inCatalog tells whether a recipient is a stored key, or what data is sealed to
// that only a recovery key opens.
func inCatalog(cat *store.Catalog, recipient string) (bool, error) {
	state, err := cat.Read()
	if err != nil {
		return false, err
	}
	for _, s := range state.Shares {
		if s.Recipient != "" && strings.EqualFold(s.Recipient, strings.TrimSpace(recipient)) {
			return true, nil
		}
	}
	ssh := dkek.RecipientKey(recipient)
	if ssh == nil {
		return false, nil
	}
	for _, s := range state.Snapshots {
		for _, k := range s.Keys {
			if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil && isKey(public, ssh) {
				return true, nil
			}
		}
	}
	return false, nil
}
