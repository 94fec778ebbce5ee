package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/schsm"
)

// TestOnlyReaderTime is how long a reader, or the service, may take to answer. A token
// that another program holds in a transaction never does.
var TestOnlyReaderTime = 5 * time.Second

// LookAtReaders looks at the service, every reader and the token in it. It gives
// the headers of the commands that were sent.
func (f *Facts) LookAtReaders(ctx context.Context) (trace []string) {
	limited, cancel := context.WithTimeout(ctx, TestOnlyReaderTime)
	defer cancel()
	found, err := pcsc.Readers(limited)
	switch {
	case err == nil:
		f.PCSC = PCSCFine
	case errors.Is(err, pcsc.ErrNotBuilt):
		f.PCSC = PCSCNotBuilt
	case errors.Is(err, pcsc.ErrNoService):
		f.PCSC = PCSCNone
	case errors.Is(err, pcsc.ErrDenied):
		f.PCSC = PCSCDenied
	case errors.Is(err, context.DeadlineExceeded):
		f.PCSC, f.Failure = PCSCFails, fmt.Sprintf("no answer for %s", TestOnlyReaderTime)
	default:
		f.PCSC, f.Failure = PCSCFails, err.Error()
	}
	for _, r := range found {
		fact := Reader{Name: r.Name, ATR: hex.EncodeToString(r.ATR), State: Empty}
		if r.Present {
			lines := fact.lookInto(ctx)
			trace = append(append(trace, "in "+r.Name), lines...)
		}
		f.Readers = append(f.Readers, fact)
	}
	return trace
}

// lookInto looks at the token in a reader.
func (r *Reader) lookInto(ctx context.Context) (trace []string) {
	limited, cancel := context.WithTimeout(ctx, TestOnlyReaderTime)
	defer cancel()
	conn, err := pcsc.Connect(limited, r.Name)
	if err != nil {
		r.State, r.Why = stateOf(err)
		return nil
	}
	defer conn.Close()
	return r.Examine(limited, conn)
}

// Examine speaks to the token in a reader and notes what was said. It gives the
// headers of the commands.
func (r *Reader) Examine(ctx context.Context, way apdu.Transmitter) []string {
	trace := &apdu.Trace{Transmitter: way}
	card, err := schsm.Open(ctx, trace)
	if err == nil {
		defer card.Close()
		r.Serial, r.Firmware, r.Software = card.Serial(), card.Version().String(), card.Software()
		_, err = card.Enumerate(ctx)
	}
	if r.State, r.Why = stateOf(err); err == nil {
		reach := Probe(ctx, trace)
		r.Reach = &reach
	}
	return trace.Lines()
}

// stateOf says what an error tells of a reader.
func stateOf(err error) (state, why string) {
	switch {
	case err == nil:
		return HasToken, ""
	case errors.Is(err, schsm.ErrNotSmartCardHSM):
		return OtherCard, ""
	case errors.Is(err, schsm.ErrNoExtended):
		return NoExtended, ""
	case errors.Is(err, pcsc.ErrHeld):
		return Held, "it keeps the token to itself"
	case errors.Is(err, context.DeadlineExceeded):
		return Held, fmt.Sprintf("it did not let go of it for %s", TestOnlyReaderTime)
	case errors.Is(err, pcsc.ErrNoToken):
		return Empty, ""
	}
	return Fails, err.Error()
}

// Text says in a line what a reader holds.
func (r Reader) Text() string {
	if r.State != HasToken {
		return r.State
	}
	name := r.Serial
	if name == "" {
		name = "a token without serial"
	}
	text := fmt.Sprintf("%s, firmware %s", name, r.Firmware)
	if r.Software {
		text += ", software token"
	}
	if r.Reach != nil && r.Reach.Longest > 0 {
		text += fmt.Sprintf(", commands of up to %d bytes", r.Reach.Longest)
	}
	return text
}
