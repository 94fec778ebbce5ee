package store

import (
	"errors"
	"fmt"
	"time"
)

// Custodian is one keeper of a part. The catalog keeps a pseudonym; where the
// part lies and how to reach its holder belongs on paper.
type Custodian struct {
	Index int    `json:"index"` // of the part, from 1
	Name  string `json:"name"`
	// Commitment is the public half (Ed25519, 32 bytes) of the key pair that
	// the part yields: it checks an answer to a roll-call, and tells nothing of
	// the part.
	Commitment hexBytes `json:"commitment"`
}

// PartSet is the registration of the parts that one share was split into.
type PartSet struct {
	Time       time.Time   `json:"-"`             // of the entry
	Seq        uint64      `json:"-"`             // of the entry
	Set        string      `json:"set"`           // 8 hex digits, on each part
	Share      int         `json:"share"`         // which share of the recovery key, from 1
	Shares     int         `json:"shares"`        // how many make up the recovery key
	Needed     int         `json:"needed"`        // K
	KCV        KCV         `json:"kcv,omitempty"` // of the recovery key; empty: not known
	Custodians []Custodian `json:"custodians"`    // all N, in the order of their parts
	// MAC vouches for all of it but names under a key of the DKEK; empty: the DKEK
	// was not known when the set was made, or an older program made it.
	MAC hexBytes `json:"mac,omitempty"`
	// Retired is when another set took its place; zero while it is in use. Not
	// part of the entry.
	Retired time.Time `json:"-"`
}

// RetiredSet says that a set is no longer meant to be used. Its parts stay
// valid: nothing can call them back.
type RetiredSet struct {
	Set    string `json:"set"`
	By     string `json:"by,omitempty"` // the set in its place, if there is one
	Reason string `json:"reason"`
}

// RollCall is an answer of a custodian that checked out.
type RollCall struct {
	Time  time.Time `json:"-"` // of the entry
	Seq   uint64    `json:"-"` // of the entry
	Set   string    `json:"set"`
	Index int       `json:"index"`
	// Origin is the job that it happened in: "hand-out", "roll-call", "use".
	Origin string `json:"origin"`
	// Challenge and Answer, whole, as they were sent; empty where none was asked, and
	// where an older program recorded it.
	Challenge string `json:"challenge,omitempty"`
	Answer    string `json:"answer,omitempty"`
}

// Ceremony is the record of something done to the recovery key. It holds no
// secret; the entry that it is in names the program and its version.
type Ceremony struct {
	Time    time.Time `json:"-"`                 // of the entry
	Job     string    `json:"job"`               // "split", "hand-out", "combine", "resplit", "rekey", …
	Who     string    `json:"who,omitempty"`     // as typed: a claim
	Why     string    `json:"why,omitempty"`     // as typed or chosen
	KCV     KCV       `json:"kcv,omitempty"`     // of the recovery key
	OldKCV  KCV       `json:"old_kcv,omitempty"` // of the one before it, where one took another's place
	Sets    []string  `json:"sets,omitempty"`    // part sets it was about
	Token   string    `json:"token,omitempty"`   // serial of the token that it went to
	Outcome string    `json:"outcome"`           // "done", or what was left
}

func (PartSet) kind() string { return KindPartSet }
func (s PartSet) check() error {
	n := len(s.Custodians)
	switch {
	case !isHex(s.Set, 8):
		return fmt.Errorf("part set: %q is not 8 hex digits", s.Set)
	case s.Needed < 2 || n < s.Needed || n > 16:
		return fmt.Errorf("part set %s: %d of %d parts", s.Set, s.Needed, n)
	case s.Share < 1 || s.Share > s.Shares:
		return fmt.Errorf("part set %s: share %d of %d", s.Set, s.Share, s.Shares)
	}
	if n := len(s.MAC); n != 0 && n != 32 {
		return fmt.Errorf("part set %s: MAC of %d bytes", s.Set, n)
	}
	if s.KCV != "" {
		if err := checkKCV(s.KCV); err != nil {
			return fmt.Errorf("part set %s: %v", s.Set, err)
		}
	}
	for i, k := range s.Custodians {
		if k.Index != i+1 || !IsCustodian(k.Name) || len(k.Commitment) != 32 {
			return fmt.Errorf("part set %s: custodian %d has no name or commitment", s.Set, i+1)
		}
	}
	return nil
}
func (s PartSet) format() int {
	if len(s.MAC) > 0 {
		return formatSigned
	}
	return formatVersion
}
func (s PartSet) tell(st *State, e *Entry) {
	s.Time, s.Seq = e.Time, e.Seq
	st.PartSets = append(st.PartSets, s)
}

func (RetiredSet) kind() string { return KindPartSetRetired }
func (r RetiredSet) check() error {
	return first(maybe("set", r.Set, IsPartSet), maybe("set", r.By, IsPartSet))
}
func (r RetiredSet) tell(s *State, e *Entry) {
	for i := range s.PartSets {
		if p := &s.PartSets[i]; p.Set == r.Set && p.Retired.IsZero() {
			p.Retired = e.Time
		}
	}
}

func (RollCall) kind() string { return KindRollCall }
func (r RollCall) check() error {
	if r.Set == "" || r.Index < 1 || r.Index > 255 {
		return errors.New("roll-call: no part named")
	}
	if (r.Challenge == "") != (r.Answer == "") || len(r.Challenge) > maxAnswer || len(r.Answer) > maxAnswer {
		return errors.New("roll-call: no challenge with its answer")
	}
	return first(maybe("set", r.Set, IsPartSet), maybe("origin", r.Origin, isWord),
		maybe("challenge", r.Challenge, isPlain), maybe("answer", r.Answer, isPlain))
}

// maxAnswer is more than any challenge or answer is long.
const maxAnswer = 256

func (r RollCall) format() int {
	if r.Challenge != "" {
		return formatSigned
	}
	return formatVersion
}
func (r RollCall) tell(s *State, e *Entry) {
	r.Time, r.Seq = e.Time, e.Seq
	s.RollCalls = append(s.RollCalls, r)
}

func (Ceremony) kind() string { return KindCeremony }
func (c Ceremony) check() error {
	return first(maybe("KCV", c.KCV, IsKCV), maybe("KCV", c.OldKCV, IsKCV), each("set", c.Sets, IsPartSet), maybe("serial number", c.Token, IsSerial))
}
func (Ceremony) tell(*State, *Entry) {}
