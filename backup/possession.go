package backup

import (
	"context"
	"errors"
	"fmt"

	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
)

// byRequest has a token without chip authentication show its device key in a
// fresh request (schsm.GenuineByRequest). Where the token can make no key now,
// and where it makes one that shows nothing, the error wraps
// schsm.ErrNotGenuine.
func byRequest(ctx context.Context, card *schsm.Card, roots []cvc.Root, login func(context.Context) error) (cvc.Root, error) {
	cannot := func(format string, args ...any) (cvc.Root, error) {
		return cvc.Root{}, fmt.Errorf("%w: %s", schsm.ErrNotGenuine, fmt.Sprintf(format, args...))
	}
	inv, err := Take(ctx, card)
	if err != nil {
		return cvc.Root{}, err
	}
	domain, can := makesKeys(inv)
	switch {
	case !inv.Initialised:
		return cannot("it is not initialised")
	case !can:
		return cannot("it makes no key while shares of its recovery key are missing")
	case !inv.PIN.Verified && login == nil:
		return cannot("nobody is logged in")
	case !inv.PIN.Verified:
		if err := login(ctx); err != nil {
			return cvc.Root{}, err
		}
	}
	if _, err := cleanProofKeys(ctx, card, inv); err != nil {
		return cvc.Root{}, err
	}
	if err := card.Confirm(ctx); err != nil {
		return cvc.Root{}, err
	}
	free, err := freeReference(ctx, card)
	if err != nil {
		return cvc.Root{}, err
	}
	if free == 0 {
		return cannot("no key reference is free")
	}
	root, err := card.GenuineByRequest(ctx, roots, free, domain)
	if err != nil && !errors.Is(err, schsm.ErrNotGenuine) {
		return root, fail.After(err) // the key may be left
	}
	return root, err
}

// makesKeys tells whether a token can make a key now, and in which key domain;
// nil need not be named. While shares of a DKEK are missing none can be made
// under it (fact sheet §9, 34).
func makesKeys(inv *Inventory) (domain *byte, can bool) {
	if len(inv.Domains) == 0 {
		return nil, true
	}
	for i, d := range inv.Domains {
		if d.Empty || d.Outstanding == 0 {
			if i == 0 {
				return nil, true
			}
			n := byte(d.Number)
			return &n, true
		}
	}
	return nil, false
}

// isProofKey tells a key that byRequest made and that an interruption left.
func isProofKey(k Key) bool { return k.Description == nil && schsm.IsProofRequest(k.Certificate) }

// isProofFile tells what is left of such a key.
func isProofFile(f File) bool {
	return f.FID.Prefix() == schsm.PrefixKeyCertificate && schsm.IsProofRequest(f.Content)
}

// cleanProofKeys deletes what an interrupted proof of the device key left
// behind, and says what it deleted. The token must be logged in.
func cleanProofKeys(ctx context.Context, card *schsm.Card, inv *Inventory) (cleaned []string, err error) {
	var left []Key
	for _, k := range inv.Keys {
		if isProofKey(k) {
			left = append(left, k)
		}
	}
	for _, f := range inv.Files {
		if isProofFile(f) {
			left = append(left, Key{Reference: f.FID.Index()})
		}
	}
	for _, k := range left {
		if err := removeProofKey(ctx, card, k); errors.Is(err, errAnswer) || errors.Is(err, errNoWarrant) {
			continue // another key, beside such a request
		} else if err != nil {
			return cleaned, fail.After(err)
		}
		cleaned = append(cleaned, fmt.Sprintf("key %d, which an interrupted look at the token's device key had left behind", k.Reference))
	}
	return cleaned, nil
}
