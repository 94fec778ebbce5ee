package main

import (
	"bytes"
	"context"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// guardRecipients refuses keys that lie in what the recovery key opens: on the
// day that it is needed they are not there.
func (a *app) guardRecipients(ctx context.Context, cat *store.Catalog, h *handOut) error {
	for _, k := range h.keepers {
		if k.recipient == "" {
			continue
		}
		why := "a key in the catalog"
		found, err := inCatalog(cat, k.recipient)
		if err == nil && !found {
			why = "a key on the token attached"
			found, err = a.onToken(ctx, k.recipient)
		}
		if err != nil {
			return err
		}
		if found {
			return refusef("own-box", "give a recipient whose key lies elsewhere: age1pq1… (age-keygen -pq), age1…", "the recipient of %s is %s: the part would be locked in its own box", k.name, why)
		}
	}
	return nil
}

func isKey(spki []byte, ssh []byte) bool {
	k, err := pubkey.ParseSPKI(spki)
	return err == nil && bytes.Equal(dkek.RecipientKey(k.SSH("")), ssh)
}

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
			if len(k.PublicKey) > 0 && isKey(k.PublicKey, ssh) {
				return true, nil
			}
		}
	}
	return false, nil
}

// onToken tells whether a recipient is a key on an attached token, or on the one
// that was named.
func (a *app) onToken(ctx context.Context, recipient string) (bool, error) {
	ssh := dkek.RecipientKey(recipient)
	if ssh == nil {
		return false, nil
	}
	found, err := a.tokensAtHand(ctx)
	if err != nil {
		return false, err
	}
	defer closeTokens(found)
	for _, t := range found {
		inv, err := backup.Take(ctx, t.card)
		if err != nil {
			return false, err
		}
		for _, k := range inv.Keys {
			if k.Public != nil && isKey(k.Public.SPKI(), ssh) {
				return true, nil
			}
		}
	}
	return false, nil
}

// tokensAtHand are the token that was named, or else all that are attached;
// none, where this computer has no readers.
func (a *app) tokensAtHand(ctx context.Context) ([]*token, error) {
	if a.flags.token != "" {
		t, err := a.openToken(ctx)
		if err != nil {
			return nil, err
		}
		return []*token{t}, nil
	}
	found, _, err := a.attached(ctx)
	if err != nil {
		return nil, ctx.Err()
	}
	return found, nil
}

func closeTokens(list []*token) {
	for _, t := range list {
		t.close()
	}
}
