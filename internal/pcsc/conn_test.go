//go:build cgo || windows

package pcsc

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebfe/scard"

	"hsmbackup/internal/apdu"
)

var _ apdu.Transmitter = (*Conn)(nil)

// fakeHandle plays the service: what each call returns is taken from a list,
// and nil when the list is at its end.
type fakeHandle struct {
	mu       sync.Mutex
	protocol scard.Protocol
	calls    []string
	errs     map[string][]error
	answer   []byte // the whole buffer, length bytes of it are the answer
	length   int
	sent     []byte        // the buffer that was sent
	gate     chan struct{} // if set, Transmit and BeginTransaction wait for it
}

func (f *fakeHandle) call(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	if len(f.errs[name]) == 0 {
		return nil
	}
	err := f.errs[name][0]
	f.errs[name] = f.errs[name][1:]
	return err
}

func (f *fakeHandle) wait() {
	if f.gate != nil {
		<-f.gate
	}
}

func (f *fakeHandle) Transmit(command []byte) ([]byte, error) {
	f.wait()
	f.sent = command
	if err := f.call("transmit"); err != nil {
		return nil, err
	}
	return f.answer[:f.length], nil
}

func (f *fakeHandle) BeginTransaction() error {
	f.wait()
	return f.call("begin")
}

func (f *fakeHandle) EndTransaction(scard.Disposition) error { return f.call("end") }

func (f *fakeHandle) Reconnect(mode scard.ShareMode, _ scard.Protocol, d scard.Disposition) error {
	if mode != scard.ShareShared || d != scard.LeaveCard {
		return errors.New("reconnect would disturb others")
	}
	return f.call("reconnect")
}

func (f *fakeHandle) Disconnect(d scard.Disposition) error {
	if d == scard.ResetCard {
		return f.call("disconnect and reset")
	}
	return f.call("disconnect")
}

func (f *fakeHandle) ActiveProtocol() scard.Protocol { return f.protocol }

func (f *fakeHandle) did() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, ", ")
}

func newFake(t *testing.T, errs map[string][]error) (*Conn, *fakeHandle) {
	t.Helper()
	f := &fakeHandle{protocol: scard.ProtocolT1, errs: errs, answer: []byte{0x90, 0, 0xAA, 0xAA}, length: 2}
	c, err := newConn("R", f)
	if err != nil {
		t.Fatal(err)
	}
	c.present = func() (bool, error) { return true, nil }
	return c, f
}

var (
	selectMF = []byte{0, 0xA4, 0, 0}
	verify   = []byte{0, 0x20, 0, 0x81, 2, 0x31, 0x32}
)

func TestTransmitClears(t *testing.T) {
	c, f := newFake(t, nil)
	command := bytes.Clone(verify)
	answer, err := c.Transmit(t.Context(), command)
	if err != nil || !bytes.Equal(answer, []byte{0x90, 0}) {
		t.Fatalf("%X, %v", answer, err)
	}
	if !bytes.Equal(f.answer, make([]byte, 4)) {
		t.Errorf("the library's buffer still holds %X", f.answer)
	}
	if !bytes.Equal(f.sent, make([]byte, len(verify))) {
		t.Errorf("the command's copy still holds %X", f.sent)
	}
	if !bytes.Equal(command, verify) {
		t.Error("the caller's command was changed")
	}
}

func TestTransmitErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		errs    map[string][]error
		want    error // nil: neither ErrReset nor ErrGone
		says    string
		did     string
		present bool
	}{
		{"reset", map[string][]error{"transmit": {scard.ErrResetCard}}, apdu.ErrReset, "R", "transmit, reconnect", true},
		{"reset, then pulled", map[string][]error{"transmit": {scard.ErrResetCard}, "reconnect": {scard.ErrRemovedCard}}, apdu.ErrGone, "R", "transmit, reconnect", false},
		{"pulled", map[string][]error{"transmit": {scard.ErrRemovedCard}}, apdu.ErrGone, "R", "transmit", false},
		{"reader pulled", map[string][]error{"transmit": {scard.ErrReaderUnavailable}}, apdu.ErrGone, "R", "transmit", false},
		{"service ended", map[string][]error{"transmit": {scard.ErrNoService}}, apdu.ErrGone, "service ended", "transmit", false},
		{"pulled in the middle", map[string][]error{"transmit": {scard.ErrNotTransacted}}, apdu.ErrGone, "R", "transmit", false},
		{"reader gave up", map[string][]error{"transmit": {scard.ErrNotTransacted}}, nil, "not known", "transmit", true},
		{"unknown", map[string][]error{"transmit": {scard.Error(0x8010FFFF)}}, nil, "8010FFFF", "transmit", true},
	} {
		conn, f := newFake(t, c.errs)
		conn.present = func() (bool, error) { return c.present, nil }
		_, err := conn.Transmit(t.Context(), selectMF)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.want == nil && (errors.Is(err, apdu.ErrReset) || errors.Is(err, apdu.ErrGone)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if f.did() != c.did {
			t.Errorf("%s: %s, want %s", c.name, f.did(), c.did)
		}
	}
}

// An answer without a status word is none.
func TestNoAnswer(t *testing.T) {
	for n := range 2 {
		c, f := newFake(t, nil)
		f.length = n
		if answer, err := c.Transmit(t.Context(), selectMF); err == nil || errors.Is(err, apdu.ErrGone) {
			t.Errorf("%d bytes: %X, %v", n, answer, err)
		}
		c.present = func() (bool, error) { return false, nil }
		if answer, err := c.Transmit(t.Context(), selectMF); !errors.Is(err, apdu.ErrGone) {
			t.Errorf("%d bytes of a token that was pulled: %X, %v", n, answer, err)
		}
	}
}

// These would make scard panic.
func TestGuards(t *testing.T) {
	c, f := newFake(t, nil)
	for _, b := range [][]byte{nil, {}, {0, 0xA4, 0}} {
		if _, err := c.Transmit(t.Context(), b); err == nil {
			t.Errorf("a command of %d bytes was sent", len(b))
		}
	}
	f.protocol = scard.ProtocolUndefined
	if _, err := c.Transmit(t.Context(), selectMF); err == nil {
		t.Error("sent without a protocol")
	}
	if f.did() != "" {
		t.Errorf("did %s", f.did())
	}
	if _, err := newConn("R", f); err == nil {
		t.Error("connected without a protocol")
	}
	f.protocol = scard.ProtocolT1
	f.answer = nil // slicing it panics
	if _, err := c.Transmit(t.Context(), selectMF); err == nil || !strings.Contains(err.Error(), "library failed") {
		t.Errorf("a panic gives %v", err)
	}
}

func TestTransaction(t *testing.T) {
	c, f := newFake(t, nil)
	if err := c.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Begin(t.Context()); err == nil {
		t.Error("Begin twice")
	}
	if err := c.End(); err != nil {
		t.Error(err)
	}
	if err := c.End(); err != nil {
		t.Error(err)
	}
	if f.did() != "begin, end" {
		t.Error(f.did())
	}
}

// After a reset the transaction is held, and the caller knows of the reset.
func TestTransactionReset(t *testing.T) {
	c, f := newFake(t, map[string][]error{"begin": {scard.ErrResetCard}})
	if err := c.Begin(t.Context()); !errors.Is(err, apdu.ErrReset) {
		t.Fatal(err)
	}
	if f.did() != "begin, reconnect, begin" || !c.held {
		t.Errorf("%s, held %v", f.did(), c.held)
	}
	f.errs = map[string][]error{"transmit": {scard.ErrResetCard}}
	f.calls = nil
	if _, err := c.Transmit(t.Context(), selectMF); !errors.Is(err, apdu.ErrReset) {
		t.Fatal(err)
	}
	if f.did() != "transmit, reconnect, begin" || !c.held {
		t.Errorf("in a transaction: %s, held %v", f.did(), c.held)
	}
	f.errs = map[string][]error{"transmit": {scard.ErrResetCard}, "begin": {scard.ErrRemovedCard}}
	if _, err := c.Transmit(t.Context(), selectMF); !errors.Is(err, apdu.ErrGone) || c.held {
		t.Errorf("%v, held %v", err, c.held)
	}
}

func TestClose(t *testing.T) {
	c, f := newFake(t, nil)
	freed := 0
	c.free = func() { freed++ }
	if _, err := c.Transmit(t.Context(), []byte{0, 0x20, 0, 0x81}); err != nil { // asks, shows no PIN
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if f.did() != "transmit, disconnect" || freed != 1 {
		t.Errorf("%s, freed %d times", f.did(), freed)
	}
	if _, err := c.Transmit(t.Context(), selectMF); !errors.Is(err, errClosed) {
		t.Errorf("Transmit: %v", err)
	}
	if err := c.Begin(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("Begin: %v", err)
	}

	c, f = newFake(t, map[string][]error{"disconnect and reset": {scard.ErrRemovedCard}})
	if err := c.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Transmit(t.Context(), verify); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if f.did() != "begin, transmit, end, disconnect and reset" {
		t.Errorf("after a login: %s", f.did())
	}
}

// A context that ends does not wait for the reader, and what comes late is put
// away.
func TestContextEnds(t *testing.T) {
	c, f := newFake(t, nil)
	f.gate = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	command := bytes.Clone(verify)
	if _, err := c.Transmit(ctx, command); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	clear(command) // must not reach the card
	if err := c.Begin(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	start := time.Now()
	f.gate <- struct{}{}
	if err := c.End(); err != nil { // waits for the call under way
		t.Error(err)
	}
	if time.Since(start) > closeWait {
		t.Error("End took long")
	}
	if f.did() != "transmit" {
		t.Errorf("did %s", f.did())
	}

	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Begin(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(f.gate)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if f.did() != "transmit, begin, end, disconnect and reset" {
		t.Errorf("a transaction nobody holds stays: %s", f.did())
	}
}

func TestTranslate(t *testing.T) {
	for _, c := range []struct {
		code scard.Error
		want error
		says string
	}{
		{scard.ErrNoService, ErrNoService, serviceHint(runtime.GOOS)},
		{scard.ErrServiceStopped, ErrNoService, serviceHint(runtime.GOOS)},
		{scard.ErrUnknownReader, ErrNoReader, "plug it in"},
		{scard.ErrNoReadersAvailable, ErrNoReader, "plug it in"},
		{scard.ErrNoSmartcard, ErrNoToken, "no token"},
		{scard.ErrRemovedCard, ErrNoToken, "no token"},
		{scard.ErrSharingViolation, nil, "scdaemon"},
		{scard.ErrSecurityViolation, nil, "polkit"},
		{scard.ErrUnresponsiveCard, nil, "pull it"},
		{scard.ErrProtoMismatch, nil, "protocol"},
		{scard.ErrServerTooBusy, nil, "try again"},
		{scard.ErrShutdown, nil, "shutting down"},
		{errUnsupportedFeature, nil, "80100022"},
		{scard.Error(0x80100BAD), nil, "80100BAD"},
	} {
		err := translate("reader \"R\"", c.code)
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%08X: %v", uint32(c.code), err)
		}
		text := err.Error()
		if !strings.HasPrefix(text, "reader \"R\": ") || !strings.Contains(text, c.says) || strings.Contains(text, "\n") || strings.Contains(text, "scard:") {
			t.Errorf("%08X: %s", uint32(c.code), text)
		}
	}
	if translate("R", nil) != nil {
		t.Error("no error became one")
	}
	other := errors.New("other")
	if !errors.Is(translate("R", other), other) {
		t.Error("an error of ours was lost")
	}
}

func TestServiceHint(t *testing.T) {
	seen := map[string]string{}
	for _, goos := range []string{"linux", "darwin", "windows", "freebsd"} {
		hint := serviceHint(goos)
		if hint == "" || seen[hint] != "" {
			t.Errorf("%s: %q, as for %s", goos, hint, seen[hint])
		}
		seen[hint] = goos
	}
}
