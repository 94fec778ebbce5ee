// Package vpcd plugs a software token into pcscd, through the virtual reader
// of the vsmartcard project (fact sheet §8).
//
// The reader, a driver inside pcscd, listens on TCP; the token connects to it.
// Both directions carry frames of a two-byte big-endian length and that many
// bytes. A frame of one byte from the reader is a control code: power off,
// power on and reset have no answer, the ATR is asked for about every 0.4 s.
// Every other frame is a command APDU and is answered by one frame. There is
// no authentication, and PINs go over it in clear, so Serve connects to a
// reader on this computer only.
package vpcd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// DefaultAddr is where the first slot of a reader with the usual configuration
// listens; the second slot is one port up (fact sheet §8).
const DefaultAddr = "127.0.0.1:35963"

// ErrNotLocal is wrapped by the error of Serve for an address on another
// computer.
var ErrNotLocal = errors.New("vpcd: the reader is not on this computer")

// Card is what Serve plugs in. Reset and Transmit are called by one goroutine
// at a time; ATR may be called at any time, also during Transmit.
type Card interface {
	// ATR is the answer to reset, 2 to 33 bytes, the same at each call.
	ATR() []byte
	// Reset is power off, power on, or reset: the selection and the login are
	// gone afterwards.
	Reset()
	// Transmit carries out one command APDU and gives the answer with its
	// status word, 2 to 65535 bytes. The command is valid during the call
	// only. ctx ends when the reader goes away, which is how a token is pulled
	// in the middle. An error unplugs the card and ends Serve.
	Transmit(ctx context.Context, command []byte) ([]byte, error)
}

// Option changes how Serve works.
type Option func(*server)

// OnState has f called with true once the reader has taken the card and with
// false when it let go of it. f is called by one goroutine and must not block.
func OnState(f func(connected bool)) Option {
	return func(s *server) { s.onState = f }
}

// Control codes of the reader (fact sheet §8).
const (
	powerOff = 0x00
	powerOn  = 0x01
	reset    = 0x02
	sendATR  = 0x04
)

// retryEvery is how long to wait before the reader is tried again: soon enough
// that a restart of pcscd looks like one short unplugging.
const retryEvery = 200 * time.Millisecond

type server struct {
	card    Card
	atr     []byte
	onState func(bool)
}

// Serve keeps the card plugged into the reader at addr (DefaultAddr if empty)
// until ctx ends, and then returns nil with the connection closed. It waits
// for a reader that is not there yet, and comes back to one that went away, as
// it does when pcscd restarts.
//
// It returns an error for an address that can never work, one that wraps
// ErrNotLocal for an address elsewhere, and the error of card.Transmit.
func Serve(ctx context.Context, addr string, card Card, options ...Option) error {
	s := &server{card: card, atr: card.ATR(), onState: func(bool) {}}
	for _, o := range options {
		o(s)
	}
	if len(s.atr) < 2 || len(s.atr) > 33 {
		return fmt.Errorf("vpcd: an ATR has 2 to 33 bytes, not %d", len(s.atr))
	}
	if addr == "" {
		addr = DefaultAddr
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("vpcd: address %q: %v", addr, err)
	}
	for ctx.Err() == nil {
		conn, err := dial(ctx, addr)
		switch {
		case err == nil:
			if err := s.session(ctx, conn); err != nil {
				return err
			}
		case errors.Is(err, ErrNotLocal):
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
	return nil
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	// The look is at the resolved address: a name may lead anywhere.
	d.Control = func(_, resolved string, _ syscall.RawConn) error {
		host, _, err := net.SplitHostPort(resolved)
		if err == nil && net.ParseIP(host).IsLoopback() {
			return nil
		}
		return fmt.Errorf("%w: %s", ErrNotLocal, resolved)
	}
	return d.DialContext(ctx, "tcp", addr)
}

// session serves one connection to its end. The error is the card's own: a
// connection that ends is not one.
func (s *server) session(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l := &link{conn: conn}
	// One goroutine works for the card and this one reads: the reader gets its
	// ATR while a key is generated. The reader has one command in flight, so a
	// queue of a few keeps resets in their order without ever filling up.
	work := make(chan []byte, 8)
	var failed error
	var worker sync.WaitGroup
	worker.Go(func() {
		defer cancel()
		failed = s.work(ctx, l, work)
	})
	taken := false
	for {
		frame, err := readFrame(prompt{conn})
		if err != nil {
			break
		}
		if !taken {
			// Connecting proves little: the kernel accepts for a reader that is
			// busy with another token.
			taken = true
			s.onState(true)
		}
		if len(frame) == 1 && frame[0] == sendATR {
			if l.write(s.atr) != nil {
				break
			}
			continue
		}
		select {
		case work <- frame:
			continue
		case <-ctx.Done():
		}
		break
	}
	cancel()
	stop()
	conn.Close()
	close(work)
	worker.Wait()
	s.card.Reset() // without power now
	if taken {
		s.onState(false)
	}
	return failed
}

// work carries out resets and commands in the order they came, until the
// channel is closed or something fails. Only what the card did wrong is an
// error.
func (s *server) work(ctx context.Context, l *link, frames <-chan []byte) error {
	for frame := range frames {
		if ctx.Err() != nil {
			clear(frame)
			continue
		}
		if len(frame) == 1 && (frame[0] == powerOff || frame[0] == powerOn || frame[0] == reset) {
			s.card.Reset()
			continue
		}
		answer, err := s.card.Transmit(ctx, frame)
		clear(frame) // a PIN or a share may have been in it
		if ctx.Err() != nil {
			continue // pulled in the middle: whatever the card says, nobody hears it
		}
		if err != nil {
			return fmt.Errorf("vpcd: the token gave up: %w", err)
		}
		if len(answer) < 2 || len(answer) > maxFrame {
			return fmt.Errorf("vpcd: the token gave an answer of %d bytes", len(answer))
		}
		if l.write(answer) != nil {
			return nil
		}
	}
	return nil
}

// prompt acknowledges at once what the reader sent: it sends a frame in two
// parts, and the second only when the first is acknowledged.
type prompt struct{ conn net.Conn }

func (p prompt) Read(b []byte) (int, error) {
	acknowledge(p.conn)
	return p.conn.Read(b)
}

// maxFrame is what two bytes of length can say.
const maxFrame = 0xFFFF

// readFrame reads one frame. A length of zero is no frame of a reader and is
// an error, like a connection that ends within one.
func readFrame(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(head[:])
	if n == 0 {
		return nil, errors.New("vpcd: empty frame")
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		clear(frame)
		return nil, err
	}
	return frame, nil
}

// link writes whole frames from two goroutines.
type link struct {
	mu   sync.Mutex
	conn net.Conn
}

func (l *link) write(payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	frame := make([]byte, 2+len(payload))
	binary.BigEndian.PutUint16(frame, uint16(len(payload)))
	copy(frame[2:], payload)
	_, err := l.conn.Write(frame)
	clear(frame)
	return err
}
