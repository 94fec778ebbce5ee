package vpcd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const patience = 10 * time.Second

// fakeCard answers each command with its own bytes and 9000, and remembers
// what happened to it.
type fakeCard struct {
	mu       sync.Mutex
	log      []string
	seen     []byte // the buffer of the last command, as Serve left it
	transmit func(ctx context.Context, command []byte) ([]byte, error)
}

var fakeATR = []byte{0x3B, 0x80, 0x80, 0x01, 0x01}

func (c *fakeCard) ATR() []byte { return fakeATR }

func (c *fakeCard) Reset() { c.note("reset") }

func (c *fakeCard) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, what)
}

func (c *fakeCard) events() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

func (c *fakeCard) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	c.note("command")
	c.mu.Lock()
	c.seen = command
	c.mu.Unlock()
	if c.transmit != nil {
		return c.transmit(ctx, command)
	}
	return append(bytes.Clone(command), 0x90, 0x00), nil
}

// reader is the pcscd side.
type reader struct {
	t    *testing.T
	l    net.Listener
	conn net.Conn
}

func newReader(t *testing.T, addr string) *reader {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, l: l}
	t.Cleanup(r.close)
	return r
}

func (r *reader) addr() string { return r.l.Addr().String() }

func (r *reader) close() {
	r.l.Close()
	if r.conn != nil {
		r.conn.Close()
	}
}

func (r *reader) accept() {
	r.t.Helper()
	if err := r.l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	conn, err := r.l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	r.conn = conn
}

func (r *reader) send(b ...byte) {
	r.t.Helper()
	frame := binary.BigEndian.AppendUint16(nil, uint16(len(b)))
	if _, err := r.conn.Write(append(frame, b...)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *reader) receive() []byte {
	r.t.Helper()
	b, err := readFrame(r.conn)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// gone waits for the token to close its side.
func (r *reader) gone() {
	r.t.Helper()
	if b, err := readFrame(r.conn); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Fatalf("still there: %X, %v", b, err)
	}
}

// serve runs Serve until the test ends and gives what it returned.
func serve(t *testing.T, addr string, card Card, options ...Option) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, addr, card, options...) }()
	var once sync.Once
	var result error
	wait := func() error {
		once.Do(func() {
			select {
			case result = <-done:
			case <-time.After(patience):
				t.Error("Serve does not return")
			}
		})
		return result
	}
	t.Cleanup(func() { cancel(); wait() })
	return func() error { cancel(); return wait() }
}

func TestSession(t *testing.T) {
	card := &fakeCard{}
	r := newReader(t, "127.0.0.1:0")
	states := make(chan bool, 8)
	stop := serve(t, r.addr(), card, OnState(func(on bool) { states <- on }))
	r.accept()
	select {
	case on := <-states:
		t.Fatalf("state %v before the reader said anything", on)
	case <-time.After(50 * time.Millisecond):
	}
	r.send(sendATR)
	if b := r.receive(); !bytes.Equal(b, fakeATR) {
		t.Errorf("ATR %X", b)
	}
	if !<-states {
		t.Error("not plugged in")
	}
	r.send(reset)
	r.send(powerOn)
	r.send(0, 0xA4, 4, 0)
	if b := r.receive(); !bytes.Equal(b, []byte{0, 0xA4, 4, 0, 0x90, 0}) {
		t.Errorf("answer %X", b)
	}
	long := make([]byte, maxFrame-2)
	long[0] = 0x80
	r.send(long...)
	if b := r.receive(); len(b) != maxFrame || b[0] != 0x80 {
		t.Errorf("long answer of %d bytes", len(b))
	}
	r.send(0x03) // no control code, so a command of one byte: it needs an answer
	if b := r.receive(); !bytes.Equal(b, []byte{0x03, 0x90, 0}) {
		t.Errorf("answer to one byte: %X", b)
	}
	r.send(powerOff)
	r.send(0, 0x20, 0, 0x81, 2, 0x31, 0x32)
	r.receive()
	card.mu.Lock()
	if !bytes.Equal(card.seen, make([]byte, 7)) {
		t.Errorf("the command stays in memory: %X", card.seen)
	}
	card.mu.Unlock()
	want := []string{"reset", "reset", "command", "command", "command", "reset", "command"}
	if got := card.events(); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	r.gone()
	if <-states {
		t.Error("still plugged in")
	}
	if got := card.events(); got[len(got)-1] != "reset" {
		t.Error("unplugging kept the power on")
	}
}

func TestATRDuringCommand(t *testing.T) {
	release := make(chan struct{})
	card := &fakeCard{}
	card.transmit = func(context.Context, []byte) ([]byte, error) {
		<-release
		return []byte{0x90, 0}, nil
	}
	r := newReader(t, "127.0.0.1:0")
	serve(t, r.addr(), card)
	r.accept()
	r.send(0, 0x46, 0, 0)
	r.send(reset) // must wait for the command
	for range 3 {
		r.send(sendATR)
		if b := r.receive(); !bytes.Equal(b, fakeATR) {
			t.Fatalf("%X", b)
		}
	}
	if slices.Contains(card.events(), "reset") {
		t.Error("reset in the middle of a command")
	}
	close(release)
	if b := r.receive(); !bytes.Equal(b, []byte{0x90, 0}) {
		t.Errorf("%X", b)
	}
}

func TestPulledInTheMiddle(t *testing.T) {
	card := &fakeCard{}
	card.transmit = func(ctx context.Context, command []byte) ([]byte, error) {
		if command[1] != 0x46 {
			return []byte{0x90, 0}, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r := newReader(t, "127.0.0.1:0")
	serve(t, r.addr(), card)
	r.accept()
	r.send(0, 0x46, 0, 0)
	time.Sleep(20 * time.Millisecond)
	r.conn.Close()
	r.accept() // it is plugged in again
	r.send(0, 0xA4, 0, 0)
	if b := r.receive(); !bytes.Equal(b, []byte{0x90, 0}) {
		t.Errorf("%X", b)
	}
}

func TestReaderRestarts(t *testing.T) {
	card := &fakeCard{}
	r := newReader(t, "127.0.0.1:0")
	addr := r.addr()
	r.close() // the token is there first
	stop := serve(t, addr, card)
	for range 3 {
		time.Sleep(retryEvery / 2)
		r = newReader(t, addr)
		r.accept()
		r.send(sendATR)
		r.receive()
		r.close()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What is no frame ends the connection, not the program.
func TestReject(t *testing.T) {
	card := &fakeCard{}
	r := newReader(t, "127.0.0.1:0")
	serve(t, r.addr(), card)
	for _, raw := range [][]byte{{0, 0}, {0}, {0, 5, 1, 2}} {
		r.accept()
		if _, err := r.conn.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := r.conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		r.gone()
		r.conn.Close()
	}
	if slices.Contains(card.events(), "command") {
		t.Error("half a frame was carried out")
	}
}

func TestCardFails(t *testing.T) {
	broken := errors.New("no space left")
	for _, c := range []struct {
		name   string
		answer []byte
		err    error
	}{
		{"error", nil, broken},
		{"no status word", []byte{0x90}, nil},
		{"too long", make([]byte, maxFrame+1), nil},
	} {
		card := &fakeCard{}
		card.transmit = func(context.Context, []byte) ([]byte, error) { return c.answer, c.err }
		r := newReader(t, "127.0.0.1:0")
		done := make(chan error, 1)
		go func() { done <- Serve(t.Context(), r.addr(), card) }()
		r.accept()
		r.send(0, 0xA4, 0, 0)
		r.gone()
		select {
		case err := <-done:
			if err == nil || c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
		case <-time.After(patience):
			t.Fatalf("%s: Serve goes on", c.name)
		}
	}
}

type oddATR struct {
	fakeCard
	atr []byte
}

func (c *oddATR) ATR() []byte { return c.atr }

func TestServeReject(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := Serve(ctx, "192.0.2.1:35963", &fakeCard{}); !errors.Is(err, ErrNotLocal) {
		t.Errorf("another computer: %v", err)
	}
	if err := Serve(ctx, "127.0.0.1", &fakeCard{}); err == nil || !strings.Contains(err.Error(), "port") {
		t.Errorf("no port: %v", err)
	}
	for _, n := range []int{0, 1, 34} {
		if err := Serve(ctx, "", &oddATR{atr: make([]byte, n)}); err == nil || ctx.Err() != nil {
			t.Errorf("ATR of %d bytes: %v", n, err)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 1, 4})
	f.Add([]byte{0, 5, 0, 0xA4, 4, 0, 0, 0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		frame, err := readFrame(in)
		if err != nil {
			return
		}
		rest, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		again := binary.BigEndian.AppendUint16(nil, uint16(len(frame)))
		if again = append(append(again, frame...), rest...); !bytes.Equal(again, b) {
			t.Fatalf("%X reads as %X", b, frame)
		}
	})
}
