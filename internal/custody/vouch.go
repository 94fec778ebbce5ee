package custody

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"hsmbackup/dkek"
	"hsmbackup/store"
)

// The commitments of a set tell whose answer is right, and they lie in the
// catalog: whoever writes that could put keys of their own in their place. Two
// things outside of it vouch for them: six words over the set, which custodians
// have on their sheets, and a MAC under a key of the DKEK.

// setBytes are what words and MAC of a set are over (docs/format.md).
func setBytes(s *store.PartSet) []byte {
	b := []byte("hsmbackup part set v1")
	set, _ := hex.DecodeString(s.Set) // 8 hex digits; anything else gives words of no set
	b = append(append(b, set...), byte(s.Needed), byte(len(s.Custodians)))
	kcv, _ := dkek.ParseKCV(s.KCV) // zeros where it is not known
	b = append(b, kcv[:]...)
	for _, k := range s.Custodians {
		b = append(append(b, byte(k.Index)), k.Commitment...)
	}
	return b
}

// SetWords are the words of a set.
func SetWords(s *store.PartSet) []string { return wordsOf(sha256.Sum256(setBytes(s))) }

// setMAC vouches for a set under a key of the DKEK, which SetKey gives.
func setMAC(key []byte, s *store.PartSet) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(setBytes(s))
	return mac.Sum(nil)
}

// Vouches compares the sets of a recovery key with what was kept of them under
// that key. It gives the names of those that it vouches for, and says which are
// not what they were.
func Vouches(key *dkek.Key, sets []store.PartSet) (good []string, damage []store.Finding) {
	secret, kcv := key.SetKey(), key.KCV().String()
	defer clear(secret)
	for i := range sets {
		s := &sets[i]
		switch {
		case s.KCV != kcv || len(s.MAC) == 0:
		case hmac.Equal(s.MAC, setMAC(secret, s)):
			good = append(good, s.Set)
		default:
			damage = append(damage, store.Finding{Where: "part set " + s.Set,
				What: "it is not the set that was handed out under this recovery key: its numbers or commitments were changed"})
		}
	}
	return good, damage
}

// partDamage says how the catalog contradicts a part that is right by all that it
// was checked with; empty: not at all.
func partDamage(p *dkek.Part, known *store.PartSet) string {
	switch {
	case known == nil:
		return ""
	case known.Needed != p.Needed || len(known.Custodians) != p.Total || known.Share != p.Share || known.Shares != p.Shares,
		known.KCV != "" && !p.KCV.IsZero() && known.KCV != p.KCV.String():
		return fmt.Sprintf("the catalog has set %s with other numbers than %s", p.Set, p.Name())
	case !slices.Equal(known.Custodians[p.Index-1].Commitment, p.Commitment()):
		return fmt.Sprintf("the commitment that the catalog has of %s is another's", partName(p, known))
	}
	return ""
}
