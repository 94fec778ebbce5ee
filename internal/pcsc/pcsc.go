//go:build cgo || windows

package pcsc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebfe/scard"

	"hsmbackup/internal/apdu"
)

// Readers lists the readers. That there is none is no error but an empty list.
// Errors wrap ErrNoService where no service is running.
func Readers(ctx context.Context) ([]Reader, error) {
	return await(ctx, func() ([]Reader, error) {
		c, err := scard.EstablishContext()
		if err != nil {
			return nil, translate("PC/SC", err)
		}
		defer release(c)
		readers, err := list(c)
		return readers, translate("PC/SC", err)
	}, nil)
}

// listing serialises GetStatusChange: scard keeps the memory that it hands to
// C alive by reader name, so two calls at a time for one reader would take it
// from each other.
var listing sync.Mutex

func list(c *scard.Context) ([]Reader, error) {
	names, err := c.ListReaders()
	if errors.Is(err, scard.ErrNoReadersAvailable) || err == nil && len(names) == 0 {
		return nil, nil // GetStatusChange would panic without a reader
	}
	if err != nil {
		return nil, err
	}
	states := make([]scard.ReaderState, len(names))
	for i, name := range names {
		states[i].Reader = name
	}
	listing.Lock()
	err = c.GetStatusChange(states, 0) // never waits: a state of "unaware" always differs
	listing.Unlock()
	if err != nil && !errors.Is(err, scard.ErrTimeout) {
		return nil, err
	}
	readers := make([]Reader, len(names))
	for i, s := range states {
		readers[i] = Reader{Name: s.Reader, Present: s.EventState&scard.StatePresent != 0}
		if readers[i].Present {
			readers[i].ATR = bytes.Clone(s.Atr)
		}
	}
	return readers, nil
}

// release frees a context; that this fails changes nothing for anybody.
func release(c *scard.Context) { _ = c.Release() }

// handle is what this package needs of a *scard.Card.
type handle interface {
	Transmit(command []byte) ([]byte, error)
	BeginTransaction() error
	EndTransaction(scard.Disposition) error
	Reconnect(scard.ShareMode, scard.Protocol, scard.Disposition) error
	Disconnect(scard.Disposition) error
	ActiveProtocol() scard.Protocol
}

// Conn is a shared connection to one token. It is an apdu.Transmitter. Its
// methods may be called from several goroutines; they wait for each other.
//
// PC/SC calls cannot be called off. When a context ends, the method returns at
// once and the call goes on behind it; the next method waits for it.
type Conn struct {
	reader  string
	atr     []byte
	max     int
	card    handle
	present func() (bool, error) // asks the service whether a token is in the reader
	free    func()               // gives back what belongs to the connection

	busy   chan struct{} // holds one token while a PC/SC call runs
	closed bool          // guarded by busy
	held   bool          // a transaction is held; guarded by busy
	login  bool          // a PIN was shown over this connection; guarded by busy
}

// errClosed is for a Conn used after Close.
var errClosed = errors.New("the connection to the reader is closed")

// Connect connects to the token in the reader of that name, in shared mode.
// Errors wrap ErrNoService, ErrNoReader or ErrNoToken where that is why.
func Connect(ctx context.Context, reader string) (*Conn, error) {
	return await(ctx, func() (*Conn, error) { return connect(reader) }, func(c *Conn) { _ = c.Close() })
}

func connect(reader string) (*Conn, error) {
	what := fmt.Sprintf("reader %q", reader)
	c, err := scard.EstablishContext()
	if err != nil {
		return nil, translate(what, err)
	}
	conn, err := attach(c, reader)
	if err != nil {
		release(c)
		return nil, translate(what, err)
	}
	return conn, nil
}

func attach(c *scard.Context, name string) (*Conn, error) {
	find := func() (Reader, error) {
		readers, err := list(c)
		if err != nil {
			return Reader{}, err
		}
		for _, r := range readers {
			if r.Name == name {
				return r, nil
			}
		}
		return Reader{}, scard.ErrUnknownReader
	}
	if _, err := find(); err != nil {
		return nil, err
	}
	card, err := c.Connect(name, scard.ShareShared, scard.ProtocolAny)
	if err != nil {
		return nil, err
	}
	conn, err := newConn(name, card)
	if err != nil {
		_ = card.Disconnect(scard.LeaveCard)
		return nil, err
	}
	conn.present = func() (bool, error) {
		r, err := find()
		return r.Present, err
	}
	conn.free = func() { release(c) }
	conn.max = readerLimit(card)
	r, err := find() // now powered, so the ATR is the token's own
	if err == nil && !r.Present {
		err = scard.ErrRemovedCard
	}
	if err != nil {
		_ = card.Disconnect(scard.LeaveCard)
		return nil, err
	}
	conn.atr = r.ATR
	return conn, nil
}

func newConn(name string, card handle) (*Conn, error) {
	if !speaks(card) {
		return nil, scard.ErrProtoMismatch
	}
	return &Conn{reader: name, card: card, busy: make(chan struct{}, 1)}, nil
}

// speaks tells whether the connection has a protocol. scard panics when asked
// to transmit without one.
func speaks(card handle) bool {
	p := card.ActiveProtocol()
	return p == scard.ProtocolT1 || p == scard.ProtocolT0
}

// readerLimit asks the reader for the longest command; many do not say.
func readerLimit(card *scard.Card) int {
	features, err := card.Control(scard.CtlCode(featureRequest), nil)
	if err != nil {
		return 0
	}
	ioctl, ok := propertiesIoctl(features)
	if !ok {
		return 0
	}
	properties, err := card.Control(ioctl, nil)
	if err != nil {
		return 0
	}
	return maxCommand(properties)
}

// Reader is the reader's name as given to Connect.
func (c *Conn) Reader() string { return c.reader }

// ATR is the token's answer to reset when the connection was made.
func (c *Conn) ATR() []byte { return bytes.Clone(c.atr) }

// MaxCommand is the longest command APDU that the reader says it carries, 0 if
// it does not say. The token may carry less.
func (c *Conn) MaxCommand() int { return c.max }

func (c *Conn) what() string { return fmt.Sprintf("reader %q", c.reader) }

// Transmit sends one command. It wraps apdu.ErrReset when another program
// reset the token before the command was sent; the connection is then in order
// again, selection and login are gone. It wraps apdu.ErrGone when the token
// was pulled or the service ended. Another error, such as "no answer", leaves
// open whether the command was carried out.
func (c *Conn) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) < 4 {
		return nil, fmt.Errorf("%s: a command has 4 bytes or more, not %d", c.what(), len(command))
	}
	// The caller may wipe its command as soon as this returns, while the call
	// goes on.
	own := bytes.Clone(command)
	return run(ctx, c, func() ([]byte, error) {
		defer clear(own)
		if !speaks(c.card) {
			return nil, translate(c.what(), scard.ErrProtoMismatch)
		}
		if own[1] == 0x20 && len(own) > 5 { // VERIFY with a PIN
			c.login = true
		}
		raw, err := c.card.Transmit(own)
		if err != nil {
			return nil, c.broken(err)
		}
		if len(raw) < 2 {
			// The virtual reader's way of saying that the token was pulled.
			return nil, c.lost(scard.ErrNotTransacted)
		}
		// scard gives a part of a buffer of 64 KiB that nobody would clear.
		answer := bytes.Clone(raw)
		clear(raw[:cap(raw)])
		return answer, nil
	}, func(late []byte) { clear(late) })
}

// Begin keeps other programs off the token until End. It waits for another
// program's transaction to end. Errors are those of Transmit; with one that
// wraps apdu.ErrReset the transaction is held.
func (c *Conn) Begin(ctx context.Context) error {
	_, err := run(ctx, c, func() (struct{}, error) {
		if c.held {
			return struct{}{}, fmt.Errorf("%s: Begin within a transaction", c.what())
		}
		err := c.card.BeginTransaction()
		if err == nil {
			c.held = true
			return struct{}{}, nil
		}
		if !wasReset(err) {
			return struct{}{}, c.lost(err)
		}
		c.held = true // wanted: broken takes it up again
		return struct{}{}, c.broken(err)
	}, func(struct{}) {
		_ = c.end() // nobody waits for it any more, so nobody will call End
	})
	return err
}

// End lets other programs at the token again. Without Begin it does nothing.
func (c *Conn) End() error {
	_, err := run(context.Background(), c, func() (struct{}, error) {
		return struct{}{}, c.end()
	}, nil)
	return err
}

func (c *Conn) end() error {
	if !c.held {
		return nil
	}
	c.held = false
	err := c.card.EndTransaction(scard.LeaveCard)
	if err == nil || wasReset(err) {
		return nil // the next command will notice the reset, and must
	}
	return c.broken(err)
}

// broken makes an error of the interface out of one of PC/SC. After a reset it
// puts the connection in order again, with the transaction if one was held.
func (c *Conn) broken(err error) error {
	if !wasReset(err) {
		return c.lost(err)
	}
	held := c.held
	c.held = false
	if err := c.card.Reconnect(scard.ShareShared, scard.ProtocolAny, scard.LeaveCard); err != nil {
		return c.lost(err)
	}
	if !speaks(c.card) {
		return translate(c.what(), scard.ErrProtoMismatch)
	}
	if held {
		if err := c.card.BeginTransaction(); err != nil {
			return c.lost(err)
		}
		c.held = true
	}
	return fmt.Errorf("%s: %w", c.what(), apdu.ErrReset)
}

// settle is how long after an exchange that broke off the service may take to
// notice that the token was pulled; pcscd looks about every 0.4 s.
const settle = time.Second

// lost tells a token that is gone from one that merely did not answer.
func (c *Conn) lost(err error) error {
	if gone(err) {
		return goneError(c.what(), err)
	}
	if unanswered(err) {
		for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if there, look := c.present(); look != nil || !there {
				return goneError(c.what(), err)
			}
		}
	}
	return translate(c.what(), err)
}

// closeWait is how long Close waits for a call that is still under way.
const closeWait = 2 * time.Second

// Close ends the connection. A token that saw a PIN over it is reset, so that
// the login does not stay behind for the next program; otherwise it is left as
// it is, and other programs keep their own logins. Closing twice does nothing.
//
// If a call is still under way, as after a context ended, Close waits for it
// for two seconds and then leaves the rest to happen behind it.
func (c *Conn) Close() error {
	done := make(chan error, 1)
	go func() {
		c.busy <- struct{}{}
		defer func() { <-c.busy }()
		if c.closed {
			done <- nil
			return
		}
		c.closed = true
		disposition := scard.LeaveCard
		if c.login {
			disposition = scard.ResetCard
		}
		if c.held {
			c.held = false
			_ = c.card.EndTransaction(scard.LeaveCard)
		}
		err := c.card.Disconnect(disposition)
		if c.free != nil {
			c.free()
		}
		if gone(err) || wasReset(err) {
			err = nil // nothing is left to disconnect from
		}
		done <- translate(c.what(), err)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(closeWait):
		return nil
	}
}

// run makes one PC/SC call on a connection, see await.
func run[T any](ctx context.Context, c *Conn, call func() (T, error), late func(T)) (T, error) {
	select {
	case c.busy <- struct{}{}:
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	release := func() { <-c.busy }
	if c.closed {
		release()
		var none T
		return none, errClosed
	}
	if err := ctx.Err(); err != nil {
		release()
		var none T
		return none, err
	}
	return awaitThen(ctx, call, late, release)
}

// await calls a function that may block and cannot be called off. If ctx ends
// first it returns the error of ctx, and what the function still brings goes
// to late.
func await[T any](ctx context.Context, call func() (T, error), late func(T)) (T, error) {
	if err := ctx.Err(); err != nil {
		var none T
		return none, err
	}
	return awaitThen(ctx, call, late, func() {})
}

// awaitThen calls then when the function has ended, in time or late.
func awaitThen[T any](ctx context.Context, call func() (T, error), late func(T), then func()) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result)   // unbuffered: a result is taken in time, or it is late
	left := make(chan struct{}) // closed when nobody waits any more
	go func() {
		var r result
		r.value, r.err = guard(call)
		select {
		case done <- r:
		case <-left:
			if late != nil && (r.err == nil || errors.Is(r.err, apdu.ErrReset)) {
				late(r.value)
			}
			then()
		}
	}()
	select {
	case r := <-done:
		then()
		return r.value, r.err
	case <-ctx.Done():
		close(left)
		var none T
		return none, ctx.Err()
	}
}

// guard turns a panic of scard, which trusts the lengths that the system
// gives, into an error.
func guard[T any](call func() (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the PC/SC library failed: %v", p)
		}
	}()
	return call()
}
