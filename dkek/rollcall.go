package dkek

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// A roll-call finds out who still has a part without collecting any: the catalog
// gives a challenge, a custodian signs it with the key pair of the part
// (Part.Commitment), and the signature says nothing of the part. With the
// challenge they sign where the log of the catalog ended on that day; challenges
// of the first version name no place.
var (
	challengeText    = coded{"challenge", "hsmcall2", challengeSize, false}
	oldChallengeText = coded{"challenge", "hsmcall", oldChallengeSize, false}
	answerText       = coded{"answer", "hsmansw", answerSize, false}
)

const (
	oldChallengeSize = 16 + 4
	challengeSize    = oldChallengeSize + 8 + sha256.Size
	answerSize       = 4 + 1 + ed25519.SignatureSize

	oldRollCallDomain = "hsmbackup roll-call v1"
	rollCallDomain    = "hsmbackup roll-call v2"
)

// Challenge is what custodians are asked to sign.
type Challenge struct {
	// Day on which it was made, in UTC.
	Day time.Time
	// Entry is the number of the last entry of the catalog's log, Head its hash.
	// One of the first version has 0: it names no place.
	Entry uint64
	Head  [sha256.Size]byte

	// 16 random bytes, days since 1970, entry, head; the first version ends with
	// the days.
	payload []byte
}

// NewChallenge makes one; now is the day that it carries, entry and head are where
// the log ends.
func NewChallenge(now time.Time, entry uint64, head [sha256.Size]byte) (*Challenge, error) {
	payload := make([]byte, 16, challengeSize)
	if _, err := rand.Read(payload); err != nil {
		return nil, err
	}
	payload = binary.BigEndian.AppendUint32(payload, uint32(now.Unix()/86400))
	payload = binary.BigEndian.AppendUint64(payload, entry)
	return newChallenge(append(payload, head[:]...)), nil
}

func newChallenge(payload []byte) *Challenge {
	c := &Challenge{payload: payload, Day: time.Unix(int64(binary.BigEndian.Uint32(payload[16:]))*86400, 0).UTC()}
	if len(payload) == challengeSize {
		c.Entry = binary.BigEndian.Uint64(payload[oldChallengeSize:])
		copy(c.Head[:], payload[oldChallengeSize+8:])
	}
	return c
}

// kind is how the challenge is written.
func (c *Challenge) kind() coded {
	if len(c.payload) == oldChallengeSize {
		return oldChallengeText
	}
	return challengeText
}

// Text is "hsmcall21" and 102 characters; of the first version "hsmcall1" and 38.
// It is no secret.
func (c *Challenge) Text() string { return string(c.kind().encode(c.payload)) }

// ParseChallenge reads a challenge; errors are those of ParsePart.
func ParseChallenge(text []byte) (*Challenge, error) {
	kind := challengeText
	if oldChallengeText.is(text) {
		kind = oldChallengeText
	}
	payload, err := kind.decode(text)
	if err != nil {
		return nil, err
	}
	return newChallenge(payload), nil
}

// IsAnswer tells an answer by its beginning.
func IsAnswer(text []byte) bool { return answerText.is(text) }

// Answer is a custodian's answer to a challenge.
type Answer struct {
	// Set and Index name the part that it was made with.
	Set   string
	Index int

	payload [answerSize]byte
}

func (c *Challenge) message(set []byte, index byte) []byte {
	domain := rollCallDomain
	if len(c.payload) == oldChallengeSize {
		domain = oldRollCallDomain
	}
	m := append([]byte(domain), c.payload...)
	return append(append(m, set...), index)
}

// Answer signs a challenge; nil after Wipe.
func (p *Part) Answer(c *Challenge) *Answer {
	key := p.signer()
	if key == nil {
		return nil
	}
	defer clear(key)
	a := &Answer{Set: p.Set, Index: p.Index}
	copy(a.payload[:], p.header[atSet:atX])
	a.payload[4] = p.header[atIndex]
	copy(a.payload[5:], ed25519.Sign(key, c.message(a.payload[:4], a.payload[4])))
	return a
}

// Text is "hsmansw1" and 117 characters. It is no secret.
func (a *Answer) Text() string { return string(answerText.encode(a.payload[:])) }

// ParseAnswer reads an answer; errors are those of ParsePart.
func ParseAnswer(text []byte) (*Answer, error) {
	payload, err := answerText.decode(text)
	if err != nil {
		return nil, err
	}
	a := &Answer{payload: [answerSize]byte(payload)}
	a.Set, a.Index = hex.EncodeToString(payload[:4]), int(payload[4])
	return a, nil
}

// Check tells whether the answer was made to this challenge with the part of a
// commitment. The error wraps ErrMismatch.
func (a *Answer) Check(c *Challenge, commitment []byte) error {
	if len(commitment) != ed25519.PublicKeySize || !ed25519.Verify(commitment, c.message(a.payload[:4], a.payload[4]), a.payload[5:]) {
		return fail(ErrMismatch, "the answer of part %d of set %s was not made to this challenge with the part that was given out", a.Index, a.Set)
	}
	return nil
}
