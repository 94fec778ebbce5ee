package custody

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/store"
)

// AtHand are the parts of one set that are here, and what the catalog knows of
// it.
type AtHand struct {
	*dkek.PartGroup
	files map[int]string // by the part's index
	known *store.PartSet // nil: not in the catalog
}

// Known tells whether the catalog has the set.
func (s *AtHand) Known() bool { return s.known != nil }

func (s *AtHand) wipe() {
	for _, p := range s.Parts {
		p.Wipe()
	}
}

// registeredSets are those of the catalog, which may be nil. Parts come together
// without it, so that a log which cannot be read is no reason to stop here.
func registeredSets(cat *store.Catalog, desk Desk) []store.PartSet {
	state, err := cat.Read()
	if err != nil {
		desk.Note("the catalog does not tell whose the parts are: %s", desk.Words(err))
		return nil
	}
	return state.PartSets
}

func findSet(sets []store.PartSet, set string) *store.PartSet {
	if i := slices.IndexFunc(sets, func(s store.PartSet) bool { return s.Set == set }); i >= 0 {
		return &sets[i]
	}
	return nil
}

// custodian is who has a part, as far as the catalog knows; else its number.
func custodian(known *store.PartSet, index int) string {
	if known == nil || index < 1 || index > len(known.Custodians) {
		return fmt.Sprintf("part %d", index)
	}
	return known.Custodians[index-1].Name
}

// partName tells a part without its secret.
func partName(p *dkek.Part, known *store.PartSet) string {
	if known == nil {
		return p.Name()
	}
	return fmt.Sprintf("%s (%s)", p.Name(), custodian(known, p.Index))
}

// add takes a part in. The error says of one that cannot be taken what it is; it
// is wiped.
func (m *Material) add(p *dkek.Part, file string) (err error) {
	defer func() {
		if err != nil {
			p.Wipe()
		}
	}()
	i := slices.IndexFunc(m.Sets, func(s *AtHand) bool { return s.Set == p.Set })
	known := findSet(m.registered, p.Set)
	if i < 0 {
		m.Sets = append(m.Sets, &AtHand{dkek.GroupParts([]*dkek.Part{p})[0], map[int]string{p.Index: file}, known})
		return nil
	}
	s := m.Sets[i]
	for _, o := range s.Parts {
		if p.Equal(o) {
			return failf("duplicate-part", "give each part once: it counts once", "%s and %s hold the same part: %s", s.files[p.Index], file, partName(p, known))
		}
	}
	// Enough parts or not: what is wrong between these shows.
	share, err := dkek.CombineParts(append(slices.Clone(s.Parts), p))
	share.Wipe()
	if missing := new(dkek.MissingPartsError); err != nil && !errors.As(err, &missing) {
		return fmt.Errorf("%s: %w%s", file, err, suspects(append(slices.Clone(s.Parts), p), known))
	}
	s.Parts = append(s.Parts, p)
	s.files[p.Index] = file
	return nil
}

// suspects names, of parts that do not go together, those that the catalog does
// not know as they are. It may be the catalog that is wrong.
func suspects(parts []*dkek.Part, known *store.PartSet) string {
	var list []string
	for _, p := range parts {
		if what := partDamage(p, known); what != "" {
			list = append(list, what)
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "; " + strings.Join(list, "; ")
}

// doubts are what the catalog contradicts the parts in. Of a set that came
// together it is the catalog that is wrong; else nobody can tell.
func (s *AtHand) doubts() (list []store.Finding) {
	for _, p := range s.Parts {
		what := partDamage(p, s.known)
		if what == "" {
			continue
		}
		if s.Missing() > 0 {
			what += ": this part or the catalog was changed; enough parts together tell which"
		}
		list = append(list, store.Finding{Where: "part set " + s.Set, What: what})
	}
	return list
}

// Who lists the custodians of the parts that are here, and of the others.
func (s *AtHand) Who() (here, missing []string) {
	for i := 1; i <= s.Total; i++ {
		list := &missing
		if slices.ContainsFunc(s.Parts, func(p *dkek.Part) bool { return p.Index == i }) {
			list = &here
		}
		*list = append(*list, custodian(s.known, i))
	}
	return here, missing
}

// State says of a set what is here and what is missing: "any 3 of 5, order does
// not matter; alice, bob are here, one more of carol, dave, erin".
func (s *AtHand) State() string {
	here, missing := s.Who()
	verb := "are"
	if len(here) == 1 {
		verb = "is"
	}
	text := fmt.Sprintf("any %d of %d, order does not matter; %s %s here", s.Needed, s.Total, strings.Join(here, ", "), verb)
	if n := s.Missing(); n == 1 {
		text += ", one more of " + strings.Join(missing, ", ")
	} else if n > 1 {
		text += fmt.Sprintf(", %d more of %s", n, strings.Join(missing, ", "))
	}
	return text
}

// Describe names a set for people.
func (s *AtHand) Describe() string {
	text := "set " + s.Set
	if s.Shares > 1 {
		text += fmt.Sprintf(", share %d of %d", s.Share, s.Shares)
	}
	if s.known != nil && !s.known.Retired.IsZero() {
		text += ", retired on " + s.known.Retired.Format("2006-01-02")
	}
	return text
}

// SetAtHand is a set of parts and who of it is here: names, where the catalog
// knows them.
type SetAtHand struct {
	Set     string   `json:"set"`
	KCV     string   `json:"kcv"` // as the parts say
	Needed  int      `json:"needed"`
	Total   int      `json:"total"`
	Share   int      `json:"share"`
	Shares  int      `json:"shares"`
	Here    []string `json:"here"`
	Missing []string `json:"missing"`
	// More is how many more parts are needed.
	More    int    `json:"more"`
	Retired string `json:"retired,omitempty"`
}

func (s *AtHand) document() SetAtHand {
	here, missing := s.Who()
	j := SetAtHand{Set: s.Set, KCV: KCVText(s.KCV), Needed: s.Needed, Total: s.Total, Share: s.Share, Shares: s.Shares,
		Here: here, Missing: append([]string{}, missing...), More: s.Missing()}
	if s.known != nil && !s.known.Retired.IsZero() {
		j.Retired = s.known.Retired.Format(time.RFC3339)
	}
	return j
}

// bringTogether checks that each set is complete, and that no two of them are of
// one share.
func (m *Material) bringTogether() error {
	var missing []string
	for _, s := range m.Sets {
		if s.Missing() > 0 {
			missing = append(missing, s.Describe()+": "+s.State())
		}
	}
	if len(missing) > 0 {
		hint := "`--share prompt` has the other parts typed"
		if len(m.Sets) > 1 {
			hint = "parts of one set belong together: parts of several sets of one share do not add up"
		}
		return failf("missing-parts", hint, "parts are missing: %s", strings.Join(missing, "; "))
	}
	shares := make([]*dkek.Share, len(m.Sets))
	defer dkek.WipeShares(shares)
	for i, s := range m.Sets {
		var err error
		if shares[i], err = dkek.CombineParts(s.Parts); err != nil {
			return err
		}
		for j, o := range m.Sets[:i] {
			if shares[i].Equal(shares[j]) {
				return failf("duplicate-share", "give parts of one of the two sets", "%s and %s are sets of the same share, which counts once", o.Describe(), s.Describe())
			}
		}
		if s.known != nil && !s.known.Retired.IsZero() {
			m.opener.Desk.Note("%s: its parts still give the share, as long as anyone keeps them", s.Describe())
		}
		m.damaged(s.doubts())
	}
	return nil
}

// damaged says once of each finding that the catalog is damaged.
func (m *Material) damaged(list []store.Finding) {
	for _, f := range list {
		if !slices.Contains(m.found, f) {
			m.found = append(m.found, f)
			m.opener.Desk.Damaged(f)
		}
	}
}

// vouch compares the sets of the catalog with what a recovery key vouches for.
func (m *Material) vouch(key *dkek.Key) {
	_, damage := Vouches(key, m.registered)
	m.damaged(damage)
}

// groups are the sets as package dkek knows them.
func (m *Material) groups() []*dkek.PartGroup {
	var list []*dkek.PartGroup
	for _, s := range m.Sets {
		list = append(list, s.PartGroup)
	}
	return list
}

// checkKCV compares the recovery key with what parts say that must come out,
// where these shares are all that it has. Shares of several keys may be here at
// once, for a token with several key domains.
func (m *Material) checkKCV(shares []*dkek.Share) error {
	for i, s := range m.Sets {
		all := shares
		switch {
		case s.Shares == 1:
			all = shares[len(m.files)+i:][:1]
		case s.Shares != len(shares):
			continue
		}
		key, err := dkek.Combine(all...)
		if err != nil {
			return err
		}
		err = otherKey(dkek.CheckPartsKCV([]*dkek.PartGroup{s.PartGroup}, key))
		m.vouch(key)
		key.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// Key is the recovery key that all shares make, which must be the one that the
// parts are of. The caller wipes it.
func (m *Material) Key(shares []*dkek.Share) (*dkek.Key, error) {
	if err := m.LacksShares(); err != nil {
		return nil, err
	}
	key, err := dkek.Combine(shares...)
	if err != nil {
		return nil, err
	}
	if err := otherKey(dkek.CheckPartsKCV(m.groups(), key)); err != nil {
		key.Wipe()
		return nil, err
	}
	m.vouch(key)
	return key, nil
}

// otherKey is about shares that do not go together, which is no damage of any.
func otherKey(err error) error {
	if err == nil {
		return nil
	}
	return because(failf("kcv-mismatch", "look for the other shares of that recovery key; each part and file by itself: `hsmbackup dkek check`", "%v", err), err)
}

// LacksShares tells whether parts say that there are more shares than these.
func (m *Material) LacksShares() error {
	for _, s := range m.Sets {
		if n := s.Shares - m.Count(); n > 0 {
			return failf("missing-shares", "give them all: one --share for each file", "%s: the recovery key has %d shares, and %d of them are not here", s.Describe(), s.Shares, n)
		}
	}
	return nil
}

// KCV is that of the recovery key, if the parts agree on one.
func (m *Material) KCV() (kcv dkek.KCV) {
	for i, s := range m.Sets {
		if i > 0 && s.KCV != kcv {
			return dkek.KCV{}
		}
		kcv = s.KCV
	}
	return kcv
}

// RecordUse notes in the catalog, if it can be written, whose parts were here.
func (m *Material) RecordUse(cat *store.Catalog) {
	if cat == nil || !cat.Writable() {
		return
	}
	for _, s := range m.Sets {
		for _, p := range s.Parts {
			if s.known == nil || partDamage(p, s.known) != "" {
				continue
			}
			if err := cat.Append(store.RollCall{Set: s.Set, Index: p.Index, Origin: "use"}); err != nil {
				m.opener.Desk.Note("not recorded that %s was here: %s", partName(p, s.known), m.opener.Desk.Words(err))
				return
			}
		}
	}
}

// KCVText is a KCV as it is recorded and shown: empty where it is not known.
func KCVText(kcv dkek.KCV) string {
	if kcv.IsZero() {
		return ""
	}
	return kcv.String()
}
