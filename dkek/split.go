package dkek

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/vault/shamir"

	"hsmbackup/internal/secret"
)

// SplitOptions say how a share is split.
type SplitOptions struct {
	// Needed of Total parts bring it together: 2 ≤ Needed ≤ Total ≤ 16.
	Needed, Total int
	// Share of Shares that make up the recovery key; 0 of 0 is 1 of 1.
	Share, Shares int
	// KCV of the recovery key that all shares make; zero if not known.
	KCV KCV
}

// randomSubsets is how many combinations are tried of a set that has more. Up to
// 8 parts have 70 at most.
const randomSubsets = 1000

// Split makes the parts of a share, with Shamir's scheme over GF(2^8) byte by
// byte (vault/shamir), and recombines them before it gives them out: every
// choice of Needed parts, or a random thousand if there are more. The error wraps
// ErrFormat for options that cannot be.
func Split(share *Share, o SplitOptions) ([]*Part, error) {
	if len(share.Bytes()) != Size {
		return nil, fail(ErrFormat, "no share to split")
	}
	return split(share.Bytes(), o)
}

func split(plain []byte, o SplitOptions) (parts []*Part, err error) {
	if o.Share == 0 && o.Shares == 0 {
		o.Share, o.Shares = 1, 1
	}
	switch {
	case o.Needed < 2 || o.Total < o.Needed || o.Total > maxParts:
		return nil, fail(ErrFormat, "cannot split %d of %d: from 2 of 2 to %d of %d", o.Needed, o.Total, maxParts, maxParts)
	case o.Share < 1 || o.Share > o.Shares || o.Shares > maxParts:
		return nil, fail(ErrFormat, "cannot split share %d of %d: a recovery key that is split has up to %d shares", o.Share, o.Shares, maxParts)
	}
	points, err := shamir.Split(plain, o.Total, o.Needed)
	if err != nil {
		return nil, fail(ErrFormat, "splitting: %v", err)
	}
	defer func() {
		for _, p := range points {
			clear(p)
		}
		if err != nil {
			for _, p := range parts {
				p.Wipe()
			}
			parts = nil
		}
	}()
	var header [partHeader]byte
	header[0] = partKind
	if _, err := rand.Read(header[atSet:atX]); err != nil {
		return nil, err
	}
	header[atKN] = byte(o.Needed-1)<<4 | byte(o.Total-1)
	header[atShares] = byte(o.Share-1)<<4 | byte(o.Shares-1)
	copy(header[atKCV:], o.KCV[:])
	check := shareCheck(header, plain)
	copy(header[atCheck:], check[:])
	for i, point := range points {
		h := header
		h[atX], h[atIndex] = point[Size], byte(i+1)
		payload := append(append(make([]byte, 0, partSize), h[:]...), point[:Size]...)
		p, err := newPart(payload)
		if err != nil {
			return parts, err
		}
		parts = append(parts, p)
	}
	return parts, recombine(plain, parts, o.Needed)
}

// recombine tries parts before anybody gets one.
func recombine(plain []byte, parts []*Part, needed int) error {
	try := func(chosen []*Part) error {
		got, err := join(chosen)
		defer clear(got)
		if err != nil || !chosen[0].fits(got) || string(got) != string(plain) {
			return errors.New("splitting: what was split does not come together again: do not trust this computer")
		}
		return nil
	}
	if choices := new(big.Int).Binomial(int64(len(parts)), int64(needed)); choices.Cmp(big.NewInt(randomSubsets)) <= 0 {
		return subsets(parts, needed, try)
	}
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	// Which ones are tried is no secret.
	choice := mathrand.New(mathrand.NewChaCha8(seed))
	for range randomSubsets {
		chosen := make([]*Part, 0, needed)
		for _, i := range choice.Perm(len(parts))[:needed] {
			chosen = append(chosen, parts[i])
		}
		if err := try(chosen); err != nil {
			return err
		}
	}
	return nil
}

// errFound ends a search in subsets.
var errFound = errors.New("found")

// subsets calls f with each choice of k parts until it gives an error.
func subsets(parts []*Part, k int, f func([]*Part) error) error {
	chosen := make([]*Part, 0, k)
	var choose func(from int) error
	choose = func(from int) error {
		if len(chosen) == k {
			return f(chosen)
		}
		for i := from; i <= len(parts)-(k-len(chosen)); i++ {
			chosen = append(chosen, parts[i])
			if err := choose(i + 1); err != nil {
				return err
			}
			chosen = chosen[:len(chosen)-1]
		}
		return nil
	}
	return choose(0)
}

// join gives what points of a polynomial bring together, right or wrong; the
// caller clears it.
func join(parts []*Part) ([]byte, error) {
	points := make([][]byte, 0, len(parts))
	defer func() {
		for _, p := range points {
			clear(p)
		}
	}()
	for _, p := range parts {
		if p.y.Len() != Size {
			return nil, fail(ErrFormat, "%s is not in memory any more", p.Name())
		}
		points = append(points, append(append(make([]byte, 0, Size+1), p.y.Bytes()...), p.header[atX]))
	}
	plain, err := shamir.Combine(points)
	if err != nil {
		return nil, fail(ErrMismatch, "parts do not go together: %v", err)
	}
	return plain, nil
}

// MissingPartsError says that more parts of a set are needed.
type MissingPartsError struct {
	Set           string
	Needed, Total int
	Have          []int // their indexes
}

func (e *MissingPartsError) Error() string {
	var have []string
	for _, i := range e.Have {
		have = append(have, strconv.Itoa(i))
	}
	here := "part " + strings.Join(have, ", ") + " is here"
	if len(have) > 1 {
		here = "parts " + strings.Join(have, ", ") + " are here"
	}
	return fmt.Sprintf("set %s: any %d of %d parts bring the share together, order does not matter; %s, %d more needed",
		e.Set, e.Needed, e.Total, here, e.Needed-len(e.Have))
}

// CombineParts brings a share together from parts of one set, in any order; more
// than needed must agree. Errors: a *MissingPartsError; ErrDuplicateShare for
// the same part twice; ErrMismatch for parts of several sets and for one that
// does not fit the others, which it names; ErrTampered if every part passed its
// own check and the share still is not the one that was split.
func CombineParts(parts []*Part) (*Share, error) {
	if len(parts) == 0 {
		return nil, fail(ErrFormat, "no part given")
	}
	first := parts[0]
	var have []int
	for i, p := range parts {
		for _, o := range parts[:i] {
			if p.Equal(o) {
				return nil, fail(ErrDuplicateShare, "part %d of set %s is given twice: it counts once", p.Index, p.Set)
			}
		}
		switch {
		case p.Set != first.Set:
			return nil, fail(ErrMismatch, "part %d is of set %s, part %d of set %s: parts of one set belong together", first.Index, first.Set, p.Index, p.Set)
		case string(p.common()) != string(first.common()):
			return nil, fail(ErrMismatch, "parts %d and %d of set %s contradict each other in what they say of it: one of them is not what its set gave out", first.Index, p.Index, p.Set)
		case slices.Contains(have, p.Index):
			return nil, fail(ErrMismatch, "two different parts say that they are part %d of set %s: one of them is not what the set gave out", p.Index, p.Set)
		}
		have = append(have, p.Index)
	}
	if len(parts) < first.Needed {
		slices.Sort(have)
		return nil, &MissingPartsError{first.Set, first.Needed, first.Total, have}
	}
	good, plain := goodSubset(parts)
	defer clear(plain)
	if good == nil {
		more := "; with one more part the wrong one can be found"
		if len(parts) > first.Needed {
			more = ""
		}
		return nil, fail(ErrTampered, "set %s: every part passed its check, but together they do not give the share that was split: at least one was altered on purpose or is not of this split%s", first.Set, more)
	}
	for _, p := range parts {
		if slices.Contains(good, p) {
			continue
		}
		// It must be able to stand for one of those that fit.
		got, err := join(append(slices.Clone(good[1:]), p))
		same := err == nil && string(got) == string(plain)
		clear(got)
		if !same {
			return nil, fail(ErrMismatch, "part %d of set %s does not fit the others, which bring the share together without it: leave it out, and ask its custodian where it is from", p.Index, p.Set)
		}
	}
	share, err := ShareFromBytes(slices.Clone(plain))
	if err != nil {
		return nil, err
	}
	return share, nil
}

// goodSubset finds parts that give the share that was split, the first ones if
// they do; nil if none do.
func goodSubset(parts []*Part) (good []*Part, plain []byte) {
	_ = subsets(parts, parts[0].Needed, func(chosen []*Part) error {
		got, err := join(chosen)
		if err == nil && chosen[0].fits(got) {
			good, plain = slices.Clone(chosen), got
			return errFound
		}
		clear(got)
		return nil
	})
	return good, plain
}

// PartGroup are the parts at hand of one set.
type PartGroup struct {
	Set                          string
	Needed, Total, Share, Shares int
	KCV                          KCV
	Parts                        []*Part
}

// Missing is how many more parts are needed.
func (g *PartGroup) Missing() int { return max(0, g.Needed-len(g.Parts)) }

// GroupParts sorts parts by their sets, in the order in which the sets come. The
// same part twice is kept once.
func GroupParts(parts []*Part) []*PartGroup {
	var list []*PartGroup
	for _, p := range parts {
		i := slices.IndexFunc(list, func(g *PartGroup) bool { return g.Set == p.Set })
		if i < 0 {
			i = len(list)
			list = append(list, &PartGroup{Set: p.Set, Needed: p.Needed, Total: p.Total, Share: p.Share, Shares: p.Shares, KCV: p.KCV})
		}
		if !slices.ContainsFunc(list[i].Parts, p.Equal) {
			list[i].Parts = append(list[i].Parts, p)
		}
	}
	return list
}

// CheckPartsKCV compares a recovery key with what the parts said that must come
// out. The error wraps ErrMismatch and says what it means.
func CheckPartsKCV(groups []*PartGroup, key *Key) error {
	for _, g := range groups {
		if !g.KCV.IsZero() && g.KCV != key.KCV() {
			return fail(ErrMismatch, "every part passed, but together they give the recovery key %s, and set %s is of %s: a share that is missing, or one of another recovery key, is among what was given (set %s is share %d of %d)",
				key.KCV(), g.Set, g.KCV, g.Set, g.Share, g.Shares)
		}
	}
	return nil
}

// NewMixedShare makes a random share of the system's random numbers and others,
// such as a token's: SHA-256 over both. It is no weaker than the better of the
// two. extra is cleared.
func NewMixedShare(extra []byte) *Share {
	own := secret.Random(Size)
	defer own.Wipe()
	h := sha256.New()
	h.Write([]byte("hsmbackup mixed share v1"))
	h.Write(own.Bytes())
	h.Write(extra)
	clear(extra)
	sum := h.Sum(nil)
	return &Share{secret.New(sum)}
}
