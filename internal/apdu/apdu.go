// Package apdu builds and takes apart ISO 7816-4 commands and answers, short
// and extended, and turns status words into errors. It is pure: nothing here
// talks to a card.
package apdu

import (
	"errors"
	"fmt"
)

// Values for Command.Le beyond a plain count.
const (
	// NoLe: the command expects no data (cases 1 and 3).
	NoLe = 0
	// LeShort is written as 00: up to 256 bytes.
	LeShort = 256
	// LeExtended is written as 0000 (000000 without data): up to 65536 bytes.
	LeExtended = 65536
)

// Command is one command APDU. The SmartCard-HSM is strict about the exact
// form of Le (fact sheet §2.0), so the form follows from these fields alone.
type Command struct {
	CLA, INS, P1, P2 byte
	Data             []byte
	// Le is the number of bytes expected, 0..65536; 256 and 65536 are written
	// as zeros.
	Le int
	// Extended asks for the extended form even where the short one would do.
	Extended bool
}

// ErrFormat is wrapped by the errors of Bytes, Parse and ParseResponse.
var ErrFormat = errors.New("apdu: malformed")

// IsExtended tells which form Bytes writes.
func (c Command) IsExtended() bool {
	return c.Extended || len(c.Data) > 255 || c.Le > 256
}

// Bytes encodes the command. It fails for more than 65535 bytes of data or an
// Le out of range.
func (c Command) Bytes() ([]byte, error) {
	if len(c.Data) > 65535 || c.Le < 0 || c.Le > LeExtended {
		return nil, fmt.Errorf("%w: %d bytes of data, Le %d", ErrFormat, len(c.Data), c.Le)
	}
	out := make([]byte, 0, 4+3+len(c.Data)+3)
	out = append(out, c.CLA, c.INS, c.P1, c.P2)
	if !c.IsExtended() {
		if len(c.Data) > 0 {
			out = append(out, byte(len(c.Data)))
			out = append(out, c.Data...)
		}
		if c.Le > 0 {
			out = append(out, byte(c.Le)) // 256 becomes 00
		}
		return out, nil
	}
	if len(c.Data) > 0 {
		out = append(out, 0, byte(len(c.Data)>>8), byte(len(c.Data)))
		out = append(out, c.Data...)
	}
	if c.Le > 0 {
		if len(c.Data) == 0 {
			out = append(out, 0)
		}
		out = append(out, byte(c.Le>>8), byte(c.Le)) // 65536 becomes 0000
	}
	return out, nil
}

// Parse takes a command apart, the token's side of Bytes. Data is a view into
// b. A command whose lengths do not add up wraps ErrFormat.
func Parse(b []byte) (Command, error) {
	if len(b) < 4 {
		return Command{}, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	c := Command{CLA: b[0], INS: b[1], P1: b[2], P2: b[3]}
	body := b[4:]
	switch {
	case len(body) == 0: // case 1
		return c, nil
	case len(body) == 1: // case 2 short
		c.Le = short(body[0])
		return c, nil
	case body[0] != 0: // cases 3 and 4 short
		n := int(body[0])
		switch len(body) {
		case 1 + n:
		case 2 + n:
			c.Le = short(body[1+n])
		default:
			return Command{}, fmt.Errorf("%w: Lc %d with %d bytes behind it", ErrFormat, n, len(body)-1)
		}
		c.Data = body[1 : 1+n]
		return c, nil
	}
	c.Extended = true
	if len(body) < 3 {
		return Command{}, fmt.Errorf("%w: half an extended length", ErrFormat)
	}
	n := int(body[1])<<8 | int(body[2])
	switch {
	case len(body) == 3: // case 2 extended
		c.Le = extended(n)
		return c, nil
	case n > 0 && len(body) == 3+n:
	case n > 0 && len(body) == 5+n:
		c.Le = extended(int(body[3+n])<<8 | int(body[4+n]))
	default:
		return Command{}, fmt.Errorf("%w: extended Lc %d with %d bytes behind it", ErrFormat, n, len(body)-3)
	}
	c.Data = body[3 : 3+n]
	return c, nil
}

func short(b byte) int {
	if b == 0 {
		return LeShort
	}
	return int(b)
}

func extended(n int) int {
	if n == 0 {
		return LeExtended
	}
	return n
}

// Response is one answer.
type Response struct {
	Data []byte
	SW   SW
}

// ParseResponse splits an answer into data (a view) and status word. An
// answer of fewer than two bytes wraps ErrFormat.
func ParseResponse(b []byte) (Response, error) {
	if len(b) < 2 {
		return Response{}, fmt.Errorf("%w: answer of %d bytes", ErrFormat, len(b))
	}
	n := len(b) - 2
	return Response{Data: b[:n:n], SW: SW(b[n])<<8 | SW(b[n+1])}, nil
}

// Bytes encodes the answer, the token's side of ParseResponse.
func (r Response) Bytes() []byte {
	out := make([]byte, 0, len(r.Data)+2)
	out = append(out, r.Data...)
	return append(out, byte(r.SW>>8), byte(r.SW))
}
