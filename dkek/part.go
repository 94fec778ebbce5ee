package dkek

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"hsmbackup/internal/secret"
)

// The payload of a part, 53 bytes; docs/format.md has the table.
const (
	partKind   = 1 // version and kind: a point of a polynomial over a share
	partHeader = 21
	partSize   = partHeader + Size

	atSet    = 1 // 4 bytes, random
	atX      = 5 // the x coordinate, which vault/shamir draws
	atIndex  = 6
	atKN     = 7  // K-1 and N-1, four bits each
	atShares = 8  // share-1 and shares-1, four bits each
	atCheck  = 9  // 4 bytes: of the share
	atKCV    = 13 // 8 bytes: of the recovery key
)

// maxParts bounds N, and how many shares make up a recovery key of which one is
// split.
const maxParts = 16

// Part is one of the N parts of a share of which any K give the share again.
// What Shamir's scheme does not notice, its header does: parts of another set,
// one that was altered, too few.
type Part struct {
	// Set names the split, 8 lower-case hex digits, random.
	Set string
	// Index of the part, from 1. Any Needed of the Total bring the share
	// together.
	Index, Needed, Total int
	// Share of Shares that make up the recovery key, from 1.
	Share, Shares int
	// KCV of the recovery key that all shares make; zero if it was not known.
	KCV KCV

	header [partHeader]byte // what the fields above were read from
	y      *secret.Bytes
}

// newPart reads a payload and clears it. The error wraps ErrFormat.
func newPart(payload []byte) (*Part, error) {
	defer clear(payload)
	if len(payload) != partSize {
		return nil, fail(ErrFormat, "part: %d bytes, %d expected", len(payload), partSize)
	}
	if payload[0] != partKind {
		return nil, fail(ErrFormat, "part: of kind %d, and this program knows kind %d only: use a newer one", payload[0], partKind)
	}
	p := &Part{header: [partHeader]byte(payload)}
	h := p.header
	p.Set = hex.EncodeToString(h[atSet:atX])
	p.Index = int(h[atIndex])
	p.Needed, p.Total = int(h[atKN]>>4)+1, int(h[atKN]&15)+1
	p.Share, p.Shares = int(h[atShares]>>4)+1, int(h[atShares]&15)+1
	p.KCV = KCV(h[atKCV:])
	switch {
	case p.Needed < 2 || p.Needed > p.Total:
		return nil, fail(ErrFormat, "part: says that %d of %d are needed, which no set has", p.Needed, p.Total)
	case p.Index < 1 || p.Index > p.Total:
		return nil, fail(ErrFormat, "part: says that it is part %d of %d", p.Index, p.Total)
	case p.Share > p.Shares:
		return nil, fail(ErrFormat, "part: says that it is of share %d of %d", p.Share, p.Shares)
	case h[atX] == 0:
		return nil, fail(ErrFormat, "part: says that it is the share itself, which no part is")
	}
	p.y = secret.New(payload[partHeader:])
	return p, nil
}

// payload is what is written; the caller clears it.
func (p *Part) payload() []byte {
	return append(append(make([]byte, 0, partSize), p.header[:]...), p.y.Bytes()...)
}

// common is the part of the header that all parts of a set share, the check
// value included.
func (p *Part) common() []byte {
	h := p.header
	return append(append(bytes.Clone(h[:atX]), h[atKN:atCheck]...), h[atCheck:]...)
}

// shareCheck is the check value of a share under a header: the first bytes of
// SHA-256 over it and what the header says of the set.
func shareCheck(header [partHeader]byte, share []byte) (check [atKCV - atCheck]byte) {
	h := sha256.New()
	h.Write([]byte("hsmbackup share check v1"))
	h.Write(header[:atX])
	h.Write(header[atKN:atCheck])
	h.Write(header[atKCV:])
	h.Write(share)
	sum := h.Sum(nil)
	copy(check[:], sum)
	clear(sum)
	return check
}

// fits tells whether a share is the one that this part is of.
func (p *Part) fits(share []byte) bool {
	check := shareCheck(p.header, share)
	return hmac.Equal(check[:], p.header[atCheck:atKCV])
}

// Name tells the part without its secret: "part 2 of 5 of set 0a1b2c3d".
func (p *Part) Name() string {
	return fmt.Sprintf("part %d of %d of set %s", p.Index, p.Total, p.Set)
}

// Compact is the part in one piece, "hsmpart1" and 91 characters in lower case;
// a QR code takes it in upper case. The caller clears it.
func (p *Part) Compact() []byte {
	if p.y.Len() != Size {
		return nil
	}
	payload := p.payload()
	defer clear(payload)
	return partText.encode(payload)
}

// Text is the part in groups of 5 characters, 4 to a line. The caller clears
// it. Nil after Wipe.
func (p *Part) Text() []byte {
	compact := p.Compact()
	defer clear(compact)
	return groups(compact, false)
}

// CheckedText is Text with the check of each line at its end, "  =xy", for
// paper: see lineCheck. ParsePart takes it with the checks and without.
func (p *Part) CheckedText() []byte {
	compact := p.Compact()
	defer clear(compact)
	return groups(compact, true)
}

// Equal compares in constant time whatever is secret.
func (p *Part) Equal(o *Part) bool {
	return p != nil && o != nil && p.header == o.header && p.y.Equal(o.y)
}

// Wipe clears the part. It may be called again, and on nil.
func (p *Part) Wipe() {
	if p != nil {
		p.y.Wipe()
	}
}

// Format never gives the secret.
func (p Part) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// signer is the key pair of the roll-call: Ed25519, whose seed is HMAC-SHA256
// under y of "hsmbackup roll-call key v1" and the header. The caller clears it;
// nil after Wipe.
func (p *Part) signer() ed25519.PrivateKey {
	if p.y.Len() != Size {
		return nil
	}
	h := hmac.New(sha256.New, p.y.Bytes())
	h.Write([]byte("hsmbackup roll-call key v1"))
	h.Write(p.header[:])
	seed := h.Sum(nil)
	defer clear(seed)
	return ed25519.NewKeyFromSeed(seed)
}

// Commitment is the public half of the part's roll-call key, 32 bytes. It
// recognises the part, checks its answers, and tells nothing of the secret. Nil
// after Wipe.
func (p *Part) Commitment() []byte {
	key := p.signer()
	if key == nil {
		return nil
	}
	defer clear(key)
	return bytes.Clone(key.Public().(ed25519.PublicKey))
}
