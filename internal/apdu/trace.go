package apdu

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// Trace records the headers of the commands that go over a Transmitter, with
// lengths and status words, for reports about a reader. What is in commands and
// answers is not kept, and neither is a length that would tell something about
// a secret.
type Trace struct {
	Transmitter
	mu    sync.Mutex
	lines []string
}

// Transmit sends the command on and notes it.
func (t *Trace) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	answer, err := t.Transmitter.Transmit(ctx, command)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, traceLine(command, answer, err))
	return answer, err
}

// Lines gives what was recorded, one line for each command:
//
//	80 58 00 00  extended Le 65536        -> 9000, 12 bytes
//	00 20 00 81  Lc **                    -> 63C2
func (t *Trace) Lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

func traceLine(command, answer []byte, err error) string {
	var b strings.Builder
	c, malformed := Parse(command)
	switch {
	case len(command) < 4:
		fmt.Fprintf(&b, "%d bytes", len(command))
	case malformed != nil:
		fmt.Fprintf(&b, "% X  ", command[:4])
		if tellsSecret(command[0], command[1], len(command) > 5) {
			b.WriteString("malformed")
		} else {
			fmt.Fprintf(&b, "malformed, %d bytes", len(command))
		}
	default:
		fmt.Fprintf(&b, "% X ", command[:4])
		if c.Extended {
			b.WriteString(" extended")
		}
		switch {
		case tellsSecret(c.CLA, c.INS, len(c.Data) > 0):
			b.WriteString(" Lc **")
		case len(c.Data) > 0:
			fmt.Fprintf(&b, " Lc %d", len(c.Data))
		}
		if c.Le > 0 {
			fmt.Fprintf(&b, " Le %d", c.Le)
		}
	}
	text := fmt.Sprintf("%-40s -> ", b.String())
	r, parse := ParseResponse(answer)
	switch {
	case err != nil:
		return text + "no answer: " + err.Error()
	case parse != nil:
		return text + parse.Error()
	case len(r.Data) > 0:
		return text + fmt.Sprintf("%04X, %d bytes", uint16(r.SW), len(r.Data))
	}
	return text + fmt.Sprintf("%04X", uint16(r.SW))
}

// tellsSecret names the commands whose data has the length of a secret, or is
// one: PINs and SO-PINs (VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER,
// INITIALIZE), shares, and what keys are used on.
func tellsSecret(cla, ins byte, data bool) bool {
	if !data {
		return false
	}
	switch uint16(cla&0x80)<<8 | uint16(ins) {
	case 0x0020, 0x0024, 0x002C, 0x8050, 0x8052, 0x8062, 0x8068, 0x8078:
		return true
	}
	return false
}
