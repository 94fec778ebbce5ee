//go:build linux && cgo

package pcsc_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/pcsctest"
)

func TestMain(m *testing.M) { pcsctest.Main(m) }

// card answers with its own selection, which a reset forgets: what a SELECT
// named last, and 9000.
type card struct {
	mu       sync.Mutex
	selected []byte
	block    chan struct{} // INS 46 waits for it
}

func (c *card) ATR() []byte { return []byte{0x3B, 0x80, 0x80, 0x01, 0x01} }

func (c *card) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.selected = nil
}

func (c *card) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if command[1] == 0x46 {
		select {
		case <-c.block:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if command[1] == 0xA4 {
		c.selected = bytes.Clone(command[5:])
	}
	return append(bytes.Clone(c.selected), 0x90, 0x00), nil
}

var (
	selectA = []byte{0, 0xA4, 4, 0, 1, 'A'}
	ask     = []byte{0, 0xCA, 0, 0, 0}
)

func connect(t *testing.T, d *pcsctest.Daemon) *pcsc.Conn {
	t.Helper()
	conn, err := pcsc.Connect(t.Context(), d.ReaderName(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func send(t *testing.T, conn *pcsc.Conn, command []byte, want string) {
	t.Helper()
	answer, err := conn.Transmit(t.Context(), command)
	if err != nil || string(answer) != want+"\x90\x00" {
		t.Errorf("%X: %q, %v, want %q", command, answer, err, want)
	}
}

func TestConnect(t *testing.T) {
	d := pcsctest.Start(t)
	if _, err := pcsc.Connect(t.Context(), "No Such Reader 00 00"); !errors.Is(err, pcsc.ErrNoReader) || !strings.Contains(err.Error(), "No Such Reader 00 00") {
		t.Errorf("unknown reader: %v", err)
	}
	if _, err := pcsc.Connect(t.Context(), d.ReaderName(0)); !errors.Is(err, pcsc.ErrNoToken) {
		t.Errorf("empty reader: %v", err)
	}
	readers, err := pcsc.Readers(t.Context())
	if err != nil || len(readers) != pcsctest.Slots || readers[0].Present || readers[0].ATR != nil {
		t.Errorf("%+v, %v", readers, err)
	}
	c := &card{}
	d.Plug(t, 0, c)
	conn := connect(t, d)
	if conn.Reader() != d.ReaderName(0) || !bytes.Equal(conn.ATR(), c.ATR()) {
		t.Errorf("%s, %X", conn.Reader(), conn.ATR())
	}
	send(t, conn, selectA, "A")
	send(t, conn, ask, "A")
}

func TestLongCommand(t *testing.T) {
	d := pcsctest.Start(t)
	d.Plug(t, 0, &card{})
	conn := connect(t, d)
	data := bytes.Repeat([]byte{'x'}, 20000)
	command, err := apdu.Command{INS: 0xA4, Data: data}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	send(t, conn, command, string(command[5:]))
}

func TestResetByAnother(t *testing.T) {
	d := pcsctest.Start(t)
	d.Plug(t, 0, &card{})
	conn := connect(t, d)
	resetter := func() {
		t.Helper()
		other, err := pcsc.Connect(t.Context(), d.ReaderName(0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Transmit(t.Context(), []byte{0, 0x20, 0, 0x81, 1, 0x31}); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil { // resets, as it showed a PIN
			t.Fatal(err)
		}
	}
	send(t, conn, selectA, "A")
	resetter()
	if _, err := conn.Transmit(t.Context(), ask); !errors.Is(err, apdu.ErrReset) {
		t.Fatalf("after a reset: %v", err)
	}
	send(t, conn, ask, "")
	send(t, conn, selectA, "A")
	resetter()
	if err := conn.Begin(t.Context()); !errors.Is(err, apdu.ErrReset) {
		t.Fatalf("Begin after a reset: %v", err)
	}
	send(t, conn, ask, "")
	if err := conn.End(); err != nil {
		t.Error(err)
	}
	if err := conn.Begin(t.Context()); err != nil {
		t.Errorf("Begin again: %v", err)
	}
}

// Others wait for the end of a transaction, and can give up waiting.
func TestTransaction(t *testing.T) {
	d := pcsctest.Start(t)
	d.Plug(t, 0, &card{})
	one, two := connect(t, d), connect(t, d)
	if err := one.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	send(t, one, selectA, "A")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := two.Begin(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("two transactions: %v", err)
	}
	send(t, one, ask, "A")
	if err := one.End(); err != nil {
		t.Error(err)
	}
	if err := two.Begin(t.Context()); err != nil {
		t.Errorf("after the end: %v", err)
	}
	if err := two.End(); err != nil {
		t.Error(err)
	}
}

func TestPulled(t *testing.T) {
	d := pcsctest.Start(t)
	d.Plug(t, 0, &card{})
	conn := connect(t, d)
	d.Unplug(t, 0)
	if _, err := conn.Transmit(t.Context(), selectA); !errors.Is(err, apdu.ErrGone) {
		t.Errorf("an empty reader: %v", err)
	}
	d.Plug(t, 0, &card{})
	// It may be another token: the connection does not come back to life.
	if _, err := conn.Transmit(t.Context(), selectA); !errors.Is(err, apdu.ErrGone) {
		t.Errorf("another token: %v", err)
	}
}

func TestPulledInTheMiddle(t *testing.T) {
	d := pcsctest.Start(t)
	c := &card{block: make(chan struct{})}
	d.Plug(t, 0, c)
	conn := connect(t, d)
	done := make(chan error, 1)
	go func() {
		_, err := conn.Transmit(context.Background(), []byte{0, 0x46, 0, 0})
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	d.Unplug(t, 0)
	select {
	case err := <-done:
		if !errors.Is(err, apdu.ErrGone) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still waiting")
	}
}

// Long commands do not make pcscd believe that the token was pulled.
func TestSlowCommand(t *testing.T) {
	d := pcsctest.Start(t)
	c := &card{block: make(chan struct{})}
	d.Plug(t, 0, c)
	conn := connect(t, d)
	send(t, conn, selectA, "A")
	time.AfterFunc(2*time.Second, func() { close(c.block) })
	send(t, conn, []byte{0, 0x46, 0, 0}, "A")
}

func TestNoService(t *testing.T) {
	d := pcsctest.Start(t)
	d.Plug(t, 0, &card{})
	conn := connect(t, d)
	d.Stop(t)
	if _, err := conn.Transmit(t.Context(), selectA); !errors.Is(err, apdu.ErrGone) || !strings.Contains(err.Error(), "service ended") {
		t.Errorf("Transmit: %v", err)
	}
	if _, err := pcsc.Readers(t.Context()); !errors.Is(err, pcsc.ErrNoService) || !strings.Contains(err.Error(), "systemctl start pcscd.socket") {
		t.Errorf("Readers: %v", err)
	}
	if _, err := pcsc.Connect(t.Context(), d.ReaderName(0)); !errors.Is(err, pcsc.ErrNoService) {
		t.Errorf("Connect: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pcsc.Readers(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
