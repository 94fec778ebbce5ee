package doctor

import (
	"context"
	"errors"
	"fmt"

	"hsmbackup/internal/apdu"
)

// Reach is what a reader carries to its token.
type Reach struct {
	// Longest is the longest command in bytes that reached the token whole; 0
	// is not known, see Unknown.
	Longest int `json:"longest"`
	// Whole: nothing that was tried was too long.
	Whole bool `json:"whole"`
	// Cut: a longer command was answered, but did not arrive as it was sent.
	// Without it the reader refused to carry one.
	Cut bool `json:"cut"`
	// Unknown is why nothing could be found out.
	Unknown string `json:"unknown,omitempty"`
}

// Lengths in bytes of whole commands: what is tried first, the buffers of
// tokens with firmware 3.x and of others, and where some readers cut (fact
// sheet §2.12).
const (
	probeLeast = 300
	buffer3    = 1232
	bufferFull = 1454
	knownCut   = 1014
)

// Probe finds out how long a command may be, with commands that can do no harm
// whoever is logged in: READ BINARY of the device certificate, and
// verification of a certificate that is none, both with zeros behind. What a
// token answers to such a command is not laid down; what it answers to one that
// was cut, which is made here, tells the two apart. Where it does not, nothing
// is known.
//
// The applet must be selected. The token is held while it lasts.
func Probe(ctx context.Context, way apdu.Transmitter) Reach {
	if err := way.Begin(ctx); err != nil {
		if errors.Is(err, apdu.ErrReset) {
			_ = way.End()
		}
		return Reach{Unknown: err.Error()}
	}
	defer func() { _ = way.End() }()
	reach := Reach{Unknown: "the token answers a command that was cut like a whole one"}
	for _, p := range probes {
		whole, err := p.send(ctx, way, probeLeast, probeLeast)
		if err != nil {
			return Reach{Unknown: err.Error()}
		}
		cut, err := p.send(ctx, way, buffer3, probeLeast)
		if err != nil {
			// A layer between that knows what a command is does not let it pass.
			reach.Unknown = fmt.Sprintf("a command that is cut does not reach the token: %v", err)
			continue
		}
		if whole != cut {
			return p.measure(ctx, way, whole)
		}
	}
	return reach
}

// probe is a harmless command and the start of its data. It has no Le: cut by
// its two bytes, a command would be a whole one without it.
type probe struct {
	command apdu.Command
	data    []byte
}

var probes = []probe{
	{apdu.Command{INS: 0xB1, P1: 0x2F, P2: 0x02, Extended: true}, []byte{0x54, 2, 0, 0}},
	{apdu.Command{INS: 0x2A, P2: 0xBE, Extended: true}, []byte{0x7F, 0x4E}},
}

// send sends the command with a length of n bytes, cut to keep, and gives the
// status word.
func (p probe) send(ctx context.Context, way apdu.Transmitter, n, keep int) (apdu.SW, error) {
	c := p.command
	c.Data = make([]byte, n-4-3) // header, extended Lc
	copy(c.Data, p.data)
	raw, err := c.Bytes()
	if err != nil {
		return 0, err
	}
	answer, err := way.Transmit(ctx, raw[:keep])
	if err != nil {
		return 0, err
	}
	r, err := apdu.ParseResponse(answer)
	return r.SW, err
}

// measure looks for the longest command that is answered as a whole one is.
func (p probe) measure(ctx context.Context, way apdu.Transmitter, whole apdu.SW) Reach {
	low, high := probeLeast, bufferFull+1
	reach := Reach{}
	for next := bufferFull; high-low > 1; {
		sw, err := p.send(ctx, way, next, next)
		switch {
		case err == nil && sw == whole:
			low = next
		case err == nil:
			high, reach.Cut = next, true
		default:
			high, reach.Cut = next, false
		}
		if err != nil && (ctx.Err() != nil || errors.Is(err, apdu.ErrGone)) {
			return Reach{Unknown: err.Error()}
		}
		switch {
		case low >= buffer3: // what lies above is the token's own affair
			return Reach{Longest: low, Whole: true}
		case next == bufferFull:
			next = buffer3
		case next == buffer3:
			next = knownCut
		case next == knownCut && low == knownCut:
			next = knownCut + 1
		default:
			next = (low + high) / 2
		}
	}
	reach.Longest = low
	return reach
}
