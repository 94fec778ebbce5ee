package dkek

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// A roll-call finds out who still has a part without collecting any: the catalog
// gives a challenge, a custodian signs it with the key pair of the part
// (Part.Commitment), and the signature says nothing of the part.
var (
	challengeText = coded{"challenge", "hsmcall", challengeSize, false}
	answerText    = coded{"answer", "hsmansw", answerSize, false}
)

const (
	challengeSize = 16 + 4
	answerSize    = 4 + 1 + ed25519.SignatureSize

	rollCallDomain = "hsmbackup roll-call v1"
)

// Challenge is what custodians are asked to sign.
type Challenge struct {
	// Day on which it was made, in UTC.
	Day time.Time

	payload [challengeSize]byte // 16 random bytes, days since 1970
}

// NewChallenge makes one; now is the day that it carries.
func NewChallenge(now time.Time) (*Challenge, error) {
	var c Challenge
	if _, err := rand.Read(c.payload[:16]); err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(c.payload[16:], uint32(now.Unix()/86400))
	c.Day = c.day()
	return &c, nil
}

func (c *Challenge) day() time.Time {
	return time.Unix(int64(binary.BigEndian.Uint32(c.payload[16:]))*86400, 0).UTC()
}

// Text is "hsmcall1" and 38 characters. It is no secret.
func (c *Challenge) Text() string { return string(challengeText.encode(c.payload[:])) }

// ParseChallenge reads a challenge; errors are those of ParsePart.
func ParseChallenge(text []byte) (*Challenge, error) {
	payload, err := challengeText.decode(text)
	if err != nil {
		return nil, err
	}
	c := &Challenge{payload: [challengeSize]byte(payload)}
	c.Day = c.day()
	return c, nil
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
	m := append([]byte(rollCallDomain), c.payload[:]...)
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
