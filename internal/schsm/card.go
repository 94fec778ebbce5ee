// Package schsm is the SmartCard-HSM as Go calls: every command of the fact
// sheet that a backup needs, over any apdu.Transmitter. It owns the byte
// layouts, the order that commands need, and what to do when another program
// gets in between; it knows no reader, no catalog and no person.
package schsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/tlv"
)

// Errors of this package. Those of the token itself are *apdu.StatusError.
var (
	// ErrNotSmartCardHSM: the card does not have the applet.
	ErrNotSmartCardHSM = errors.New("this card is no SmartCard-HSM")
	// ErrOtherToken: the token in the reader is not the one that the work
	// began with.
	ErrOtherToken = errors.New("another token is in the reader")
	// ErrUnseen: the token showed by a fresh request that it is genuine, which
	// it cannot repeat by itself, and was out of sight since.
	ErrUnseen = errors.New("the token was reset, or taken out, after it had shown that it is genuine: run the same command again")
	// ErrTooLong: a command would be longer than token or reader carry.
	ErrTooLong = errors.New("command longer than token and reader carry")
	// ErrNoExtended: the reader, or its driver, carries no extended APDUs.
	// Listing, exporting and importing keys need them (fact sheet §2.0).
	ErrNoExtended = errors.New("the reader carries no extended APDUs, which a SmartCard-HSM needs: use another reader or driver")
)

// Version of the applet.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Before tells whether v is older than major.minor.
func (v Version) Before(major, minor int) bool {
	return v.Major < major || v.Major == major && v.Minor < minor
}

// Options are the option bits of the initialisation (fact sheet §1.3).
type Options uint16

// The bits whose meaning is settled.
const (
	// OptionUnblock: RESET RETRY COUNTER by SO-PIN is allowed.
	OptionUnblock Options = 0x0001
	// OptionTransportPIN: the PIN must be changed before use.
	OptionTransportPIN Options = 0x0002
	// OptionUnblockOnly: RESET RETRY COUNTER may clear the counter but not set
	// a new PIN.
	OptionUnblockOnly Options = 0x0020
)

// A command that found no memory is sent again up to gcTries times, with
// gcPause between, in which the token can collect garbage (fact sheet §2.4, §9
// 28b).
const (
	gcTries = 3
	gcPause = 2 * time.Second
)

// Card is one token. It is not safe for concurrent use.
type Card struct {
	t apdu.Transmitter

	version Version
	options Options
	// certificate is EF 2F02 as it was when the card was opened; it is what
	// tells this token from another. opened: it has been read.
	certificate []byte
	chain       *cvc.Chain
	opened      bool
	// proven: the token showed that it holds its device key. It must show that
	// again whenever it was out of sight: anyone can copy a certificate.
	proven possession
	// inClear is what InClear says.
	inClear string
	// unseen: the token was out of sight since then.
	unseen bool

	// selected and loggedIn are what is believed of the token's session; other
	// programs can end both.
	selected bool
	loggedIn bool
	// pin is kept from Login to Close, so that a reset by another program
	// costs no question. It is one that the token has taken: a PIN that was
	// refused, or whose answer never came, is never sent again.
	pin *secret.Bytes
	// lastTry: the person who gave the PIN agreed to spend its last try.
	lastTry bool
	depth   int

	// sleep takes the place of pauses; nil sleeps.
	sleep func(context.Context, time.Duration) error
	// full: the token had no memory after all pauses, and nothing was deleted
	// since. It is not waited for again.
	full bool
}

// SetSleep sets what is called for the pauses in which a token is given time,
// and whose error ends the wait; nil sleeps.
func (c *Card) SetSleep(sleep func(ctx context.Context, d time.Duration) error) { c.sleep = sleep }

func (c *Card) pause(ctx context.Context, d time.Duration) error {
	if c.sleep != nil {
		return c.sleep(ctx, d)
	}
	return sleep(ctx, d)
}

var sleep = func(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Open selects the applet and reads who the token is. A card without the
// applet is ErrNotSmartCardHSM, a reader that says that it carries no extended
// APDUs ErrNoExtended. A token whose EF 2F02 does not parse opens all
// the same, with no serial number.
func Open(ctx context.Context, t apdu.Transmitter) (*Card, error) {
	c := &Card{t: t}
	if n := t.MaxCommand(); n > 0 && n < leastCommand {
		return nil, fmt.Errorf("%w (it takes commands of %d bytes)", ErrNoExtended, n)
	}
	err := c.Transaction(ctx, func() error {
		return again(func() error {
			if err := c.ready(ctx); err != nil {
				return err
			}
			var err error
			c.certificate, err = readFile(ctx, FIDDeviceCertificate, c.transmit)
			if err != nil && !errors.Is(err, apdu.ErrNotFound) {
				return err
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	c.opened = true
	if chain, err := cvc.ParseChain(c.certificate); err == nil {
		c.chain = chain
	}
	return c, nil
}

// Close forgets the PIN. It leaves the transmitter to whoever opened it.
func (c *Card) Close() { c.forgetPIN() }

// leastCommand is one byte more than the longest short command: what carries no
// more carries no extended ones.
const leastCommand = 4 + 1 + 255 + 1 + 1

// Version is that of the applet, as SELECT told it.
func (c *Card) Version() Version { return c.version }

// Options are those of the initialisation, as SELECT told them.
func (c *Card) Options() Options { return c.options }

// Serial is the token's serial number, empty if it shows no certificate.
func (c *Card) Serial() string {
	if c.chain == nil {
		return ""
	}
	return c.chain.Serial()
}

// Certificate is the content of EF 2F02.
func (c *Card) Certificate() []byte { return c.certificate }

// Chain is Certificate, parsed; nil if it did not parse.
func (c *Card) Chain() *cvc.Chain { return c.chain }

// limit is the longest command APDU that may be sent: what the token's buffer
// holds (fact sheet §2.12; by version an assumption, appendix D) or, if the
// reader says that it carries less, that.
func (c *Card) limit() int {
	n := 1454
	if c.version.Major == 3 || c.version == (Version{}) {
		n = 1232
	}
	if r := c.t.MaxCommand(); r > 0 && r < n {
		n = r
	}
	return n
}

// Transaction keeps other programs off the token while f runs: a few commands,
// never a prompt or a key derivation. It may be nested. If the token was reset
// in between, the applet is selected again, the token compared with the one
// that was opened, and the login repeated.
func (c *Card) Transaction(ctx context.Context, f func() error) error {
	if c.depth == 0 {
		err := c.t.Begin(ctx)
		if err != nil {
			c.outOfSight()
		}
		if err != nil && !errors.Is(err, apdu.ErrReset) {
			return err
		}
	}
	c.depth++
	defer func() {
		if c.depth--; c.depth == 0 {
			// Failing to end leaves nothing to undo: the next Begin says why.
			_ = c.t.End()
		}
	}()
	if err := c.ready(ctx); err != nil {
		return err
	}
	return f()
}

// lost notes that nothing is known of the token's session any more, nor
// whether it is still the same token.
func (c *Card) lost() { c.selected, c.loggedIn = false, false }

// outOfSight is lost where it was not this program that ended the session:
// another token may be in the place of the one that was there.
func (c *Card) outOfSight() {
	c.lost()
	c.unseen = true
}

// ready brings the token back to where the caller believes it is: selected,
// the same, and logged in if a PIN was given.
func (c *Card) ready(ctx context.Context) error {
	return again(func() error { return c.regain(ctx) })
}

// again carries f out once more if the token was reset within it. f must be
// fit for that: each of its steps may happen twice.
func again(f func() error) error {
	err := f()
	if errors.Is(err, apdu.ErrReset) {
		err = f()
	}
	return err
}

func (c *Card) regain(ctx context.Context) error {
	if !c.selected {
		if err := c.selectApplet(ctx); err != nil {
			return err
		}
		if c.opened {
			if err := c.recognise(ctx); err != nil {
				c.lost() // a token that is not known to be the same gets nothing more
				return err
			}
		}
	}
	if !c.loggedIn && c.pin.Len() > 0 {
		return c.relogin(ctx)
	}
	return nil
}

// recognise checks that a token that was out of sight is the one that was
// opened.
func (c *Card) recognise(ctx context.Context) error {
	if err := c.compareCertificate(ctx); err != nil || c.proven == nothingShown {
		return err
	}
	if c.proven == byRequest {
		if c.unseen {
			return fmt.Errorf("%w (%s)", ErrUnseen, orUnknown(c.Serial()))
		}
		return nil // this program selected the applet anew, and nobody else was there
	}
	session, err := c.authenticateChip(ctx)
	session.Wipe()
	if errors.Is(err, ErrNotGenuine) {
		return fmt.Errorf("%w: it shows the certificate of %s but not its key", ErrOtherToken, orUnknown(c.Serial()))
	}
	if err != nil {
		return err
	}
	return c.selectApplet(ctx)
}

// Confirm checks that the token is still the one that was opened. It is asked
// before each step that changes the token.
func (c *Card) Confirm(ctx context.Context) error {
	return c.Transaction(ctx, func() error {
		err := c.look(ctx) // another program may have selected something else
		if err == nil {
			err = c.ready(ctx)
		}
		if err == nil {
			err = c.compareCertificate(ctx)
		}
		if errors.Is(err, apdu.ErrReset) { // ready compares again
			return c.ready(ctx)
		}
		return err
	})
}

func (c *Card) compareCertificate(ctx context.Context) error {
	// transmit: what recovers would log in before it is known to whom.
	now, err := readFile(ctx, FIDDeviceCertificate, c.transmit)
	if err != nil && !errors.Is(err, apdu.ErrNotFound) {
		return err
	}
	if !bytes.Equal(now, c.certificate) {
		c.outOfSight()
		return fmt.Errorf("%w: the work began with %s; put that token back and run again", ErrOtherToken, orUnknown(c.Serial()))
	}
	return nil
}

func orUnknown(serial string) string {
	if serial == "" {
		return "one without a serial number"
	}
	return serial
}

// aid is E8 and OID 1.3.6.1.4.1.24991.2.1.
var aid = []byte{0xE8, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x02, 0x01}

// selectApplet selects by AID, P2=00 with short Le=00: the one form that every
// version takes (fact sheet §1.2). It ends any login.
func (c *Card) selectApplet(ctx context.Context) error {
	c.lost()
	r, err := c.transmit(ctx, "SELECT", apdu.Command{INS: 0xA4, P1: 4, Data: aid, Le: apdu.LeShort})
	if err != nil {
		return err
	}
	if !r.SW.HasData() {
		return fmt.Errorf("%w (SELECT answered %s)", ErrNotSmartCardHSM, r.SW)
	}
	c.selected = true
	c.parseSelect(r.Data)
	return nil
}

// parseSelect reads tag 85 of the FCP, from its end: [[optHi] optLo type] major
// minor.
func (c *Card) parseSelect(data []byte) {
	outer, _, err := tlv.Parse(data)
	if err != nil {
		return
	}
	list, err := outer.Children()
	if err != nil {
		return
	}
	v, ok := list.Find(0x85)
	if n := len(v.Value); ok && n >= 2 {
		c.version, c.options = Version{int(v.Value[n-2]), int(v.Value[n-1])}, 0
		if n >= 4 {
			c.options = Options(v.Value[n-4])
		}
		if n >= 5 {
			c.options |= Options(v.Value[n-5]) << 8
		}
	}
}

// transmit sends one command as it is, without recovery.
func (c *Card) transmit(ctx context.Context, name string, cmd apdu.Command) (apdu.Response, error) {
	raw, err := cmd.Bytes()
	if err != nil {
		return apdu.Response{}, fmt.Errorf("%s: %w", name, err)
	}
	defer clear(raw) // it may hold a PIN or a share
	if limit := c.limit(); c.selected && len(raw) > limit {
		return apdu.Response{}, fmt.Errorf("%s: %w: %d bytes, %d fit", name, ErrTooLong, len(raw), limit)
	}
	answer, err := c.t.Transmit(ctx, raw)
	var r apdu.Response
	if err == nil {
		r, err = apdu.ParseResponse(answer)
	}
	if err != nil {
		// Whatever it was: the next command begins with a look at the token.
		c.outOfSight()
		return apdu.Response{}, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// send carries a command out in a transaction. Where the answer shows that
// another program reset the token or logged this one out, which means that the
// command was not carried out, it is sent once more. The response is given
// whatever its status word.
func (c *Card) send(ctx context.Context, name string, cmd apdu.Command) (apdu.Response, error) {
	var r apdu.Response
	err := c.Transaction(ctx, func() error {
		believed := c.loggedIn
		var err error
		r, err = c.transmit(ctx, name, cmd)
		switch {
		case errors.Is(err, apdu.ErrReset):
		case err != nil:
			return err
		case r.SW == apdu.NotAuthorised && believed, unknownCommand(r.SW):
			if err := c.look(ctx); err != nil {
				return err
			}
			if c.selected && c.loggedIn == believed {
				return nil // the answer is meant as it is
			}
		default:
			return nil
		}
		if err := c.ready(ctx); err != nil {
			return err
		}
		r, err = c.transmit(ctx, name, cmd)
		return err
	})
	return r, err
}

// unknownCommand tells the answers of a token that does not know a command:
// this applet, or another one that another program selected.
func unknownCommand(sw apdu.SW) bool {
	return sw == apdu.UnknownINS || sw == apdu.UnknownCLA || sw == apdu.NotSelected
}

// look corrects what is believed of the session: it asks for the PIN's status,
// which spends no try, and which only the applet answers with something else
// than "unknown" (fact sheet §1.2).
func (c *Card) look(ctx context.Context) error {
	r, err := c.transmit(ctx, "VERIFY status", apdu.Command{INS: 0x20, P2: pinUser})
	switch {
	case errors.Is(err, apdu.ErrReset): // transmit has noted it
	case err != nil:
		return err
	case unknownCommand(r.SW):
		c.outOfSight()
	case r.SW != apdu.OK:
		c.loggedIn = false
	}
	return nil
}

// call is send for commands that have one good answer, 9000 (or 6282 with
// data); any other is a *apdu.StatusError.
func (c *Card) call(ctx context.Context, name string, cmd apdu.Command) ([]byte, error) {
	r, err := c.send(ctx, name, cmd)
	if err != nil {
		return nil, err
	}
	if r.SW != apdu.OK && (r.SW != apdu.EndOfFile || len(r.Data) == 0) {
		return nil, &apdu.StatusError{Command: name, SW: r.SW, Doubt: changes(cmd) && !r.SW.Refusal()}
	}
	return r.Data, nil
}

// changes tells whether a command changes what is on the token; counters of PINs
// and keys are not meant.
func changes(cmd apdu.Command) bool {
	switch cmd.INS {
	case 0x46, 0x48, 0x74, 0xD7, 0xE4: // GENERATE, UNWRAP, UPDATE BINARY, DELETE FILE
		return true
	case 0x24, 0x2C: // CHANGE REFERENCE DATA, RESET RETRY COUNTER
		return true
	case 0x50, 0x52: // INITIALIZE and what is asked of key domains, if not only asked
		return len(cmd.Data) > 0
	}
	return false
}

// InDoubt tells whether what was answered with an error may have been carried out.
func InDoubt(err error) bool {
	var s *apdu.StatusError
	return errors.As(err, &s) && s.Doubt
}

// settled looks whether a command whose answer leaves that open was carried out:
// then there is no error. One that was not is an ordinary refusal.
func settled(err error, look func() (done bool, err error)) error {
	var s *apdu.StatusError
	if !errors.As(err, &s) || !s.Doubt {
		return err
	}
	done, failed := look()
	switch {
	case failed != nil:
		return err
	case done:
		return nil
	}
	return &apdu.StatusError{Command: s.Command, SW: s.SW}
}

// callPatiently is call for commands that take memory: 6A84 is first of all a
// garbage collection that has not run yet (fact sheet §9, 32), and a full token
// second.
func (c *Card) callPatiently(ctx context.Context, name string, cmd apdu.Command) ([]byte, error) {
	for attempt := 0; ; attempt++ {
		data, err := c.call(ctx, name, cmd)
		if !errors.Is(err, apdu.ErrNoMemory) {
			return data, err
		}
		if c.full || attempt == gcTries {
			c.full = true
			return nil, err
		}
		if err := c.pause(ctx, gcPause); err != nil {
			return nil, err
		}
	}
}
