package schsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/tlv"
)

// Initialisation is what INITIALIZE DEVICE is given (fact sheet §2.4).
type Initialisation struct {
	Options Options
	// PIN is what CheckNewPIN takes, SOPIN 8. On a token that was initialised before,
	// SOPIN must be the one it has: a wrong one costs a try.
	PIN, SOPIN *secret.Bytes
	// PINTries is the retry counter of the PIN: at most 3 for a PIN of six
	// characters, 5 for seven, 10 for more. 0 takes 3.
	PINTries int
	// Shares is the number of DKEK shares to come; 0 makes a random DKEK,
	// which nobody can ever load again. NoDKEK leaves keys that can never be
	// exported, whatever Shares says.
	Shares int
	NoDKEK bool
	// Domains asks for that many key domain slots in place of one DKEK, from
	// version 3.0 on; 0 is the classic single one. They begin empty: Shares
	// and NoDKEK have no place beside it.
	Domains int
	// Label is written to EF 2F03; empty writes none. It takes a login, so a
	// transport PIN leaves no room for one.
	Label string
}

// ErrSOPINFormat: an SO-PIN is 8 bytes, written as 16 hex digits.
var ErrSOPINFormat = errors.New("an SO-PIN has 16 hex digits")

// ErrSOPINBlocked: no try of the SO-PIN is left. Nothing was sent.
var ErrSOPINBlocked = errors.New("the SO-PIN is blocked for good, the token can never be initialised again")

// ErrUnsettled: INITIALIZE was done, the login or the label after it was not.
var ErrUnsettled = errors.New("the token is initialised, but not all that follows was done")

// ErrNotCarriedOut: the answer to INITIALIZE never came, and a look at the token
// showed that it was not carried out.
var ErrNotCarriedOut = errors.New("the token was not initialised")

// ErrMaybeInitialised: the answer to INITIALIZE never came or leaves open whether
// it was carried out, and so does a look at the token, or there was none.
var ErrMaybeInitialised = errors.New("whether the token was initialised is not known")

// INITIALIZE may take half a minute and more, and readers give up before (fact
// sheet §9, 31). The token is then looked at every settlePause, settleTries
// times.
const (
	settlePause = 2 * time.Second
	settleTries = 30
)

// ParseSOPIN decodes 16 hex digits, high nibble first, and leaves the text to
// the caller to wipe.
func ParseSOPIN(text []byte) (*secret.Bytes, error) {
	if len(text) != 2*SOPINLen {
		return nil, ErrSOPINFormat
	}
	b := make([]byte, SOPINLen)
	for i, c := range text {
		var d byte
		switch {
		case '0' <= c && c <= '9':
			d = c - '0'
		case 'a' <= c && c <= 'f':
			d = c - 'a' + 10
		case 'A' <= c && c <= 'F':
			d = c - 'A' + 10
		default:
			clear(b)
			return nil, ErrSOPINFormat
		}
		b[i/2] = b[i/2]<<4 | d
	}
	return secret.New(b), nil
}

// MaxPINTries is the highest retry counter that a PIN of n bytes may have (fact
// sheet §2.4).
func MaxPINTries(n int) int {
	switch n {
	case 6:
		return 3
	case 7:
		return 5
	}
	return 10
}

// check refuses what the token would, before a try of the SO-PIN is at stake.
func (i *Initialisation) check() error {
	if err := CheckNewPIN(i.PIN); err != nil {
		return err
	}
	if i.SOPIN.Len() != SOPINLen {
		return ErrSOPINFormat
	}
	if i.PINTries == 0 {
		i.PINTries = 3
	}
	if top := MaxPINTries(i.PIN.Len()); i.PINTries < 1 || i.PINTries > top {
		return fmt.Errorf("a PIN of %d characters may have 1 to %d tries, not %d", i.PIN.Len(), top, i.PINTries)
	}
	if i.Shares < 0 || i.Shares > 255 || i.Domains < 0 || i.Domains > 255 {
		return errors.New("the number of DKEK shares or key domains is out of range")
	}
	if i.Domains > 0 && (i.Shares > 0 || i.NoDKEK) {
		return errors.New("key domains begin empty: they are not set up with DKEK shares, nor without DKEK")
	}
	if i.Label != "" && i.Options&OptionTransportPIN != 0 {
		return errors.New("a label cannot be written while the PIN is a transport PIN")
	}
	return nil
}

// Initialise wipes the token and sets it up anew: every key, certificate and
// data object is deleted. The caller has made sure that this is wanted, and
// that a try of the SO-PIN may be spent. A refused SO-PIN is a *PINError and
// has cost one try. The command is repeated on 6A84, after making sure that the
// SO-PIN lost no try by it, and never for another reason. apdu.ErrReset means
// that it was not carried out. After another error of the transmitter the token
// is given a minute and then looked at: it was done, or it was not, which is
// ErrNotCarriedOut, or it did not come back, which is ErrMaybeInitialised. A token
// that answers with an error is looked at as well: some do so after the work.
// ErrUnsettled came after it. With any other error nothing was changed. The
// token is left logged in, unless the PIN is a transport PIN.
func (c *Card) Initialise(ctx context.Context, i Initialisation) error {
	if err := i.check(); err != nil {
		return err
	}
	if i.Domains > 0 && c.version.Before(3, 0) {
		return fmt.Errorf("key domains begin with version 3.0, this token has %s", c.version)
	}
	var data []byte
	defer func() { clear(data) }()
	// Room for everything: a slice that grows would leave copies of the PIN.
	data = make([]byte, 0, 4+2+MaxPIN+2+SOPINLen+3+3)
	data = tlv.Append(data, 0x80, []byte{byte(i.Options >> 8), byte(i.Options)})
	data = tlv.Append(data, 0x81, i.PIN.Bytes())
	data = tlv.Append(data, 0x82, i.SOPIN.Bytes())
	data = tlv.Append(data, 0x91, []byte{byte(i.PINTries)})
	switch {
	case i.Domains > 0:
		data = tlv.Append(data, 0x97, []byte{byte(i.Domains)})
	case !i.NoDKEK:
		data = tlv.Append(data, 0x92, []byte{byte(i.Shares)})
	}
	return c.Transaction(ctx, func() error {
		before, err := c.usableSOPIN(ctx)
		if err != nil {
			return err
		}
		was, err := c.face(ctx)
		if err != nil {
			return err
		}
		if err := c.initialise(ctx, i, data, before, was); err != nil {
			return err
		}
		c.forgetPIN()
		c.full = false
		c.lost() // selected anew, the token tells its new options
		if err := c.settle(ctx, i); err != nil {
			return fmt.Errorf("%w: %w", ErrUnsettled, err)
		}
		return nil
	})
}

// settle logs in after an initialisation and writes the label.
func (c *Card) settle(ctx context.Context, i Initialisation) error {
	err := again(func() error {
		if err := c.ready(ctx); err != nil || i.Options&OptionTransportPIN != 0 {
			return err
		}
		c.lastTry = i.PINTries == 1 // the first is the last, and cannot be wrong
		return c.verify(ctx, i.PIN)
	})
	if err != nil || i.Label == "" {
		return err
	}
	return c.WriteLabel(ctx, i.Label)
}

// WriteLabel writes the token's label (EF 2F03); it takes a login.
func (c *Card) WriteLabel(ctx context.Context, label string) error {
	return c.WriteFile(ctx, FIDTokenInfo, pkcs15.EncodeTokenInfo(label))
}

func (c *Card) initialise(ctx context.Context, i Initialisation, data []byte, before PINStatus, was face) error {
	const name = "INITIALIZE"
	for attempt := 0; ; attempt++ {
		// transmit, not send: nothing may repeat this command by itself.
		r, err := c.transmit(ctx, name, apdu.Command{CLA: 0x80, INS: 0x50, Data: data})
		if err != nil {
			if errors.Is(err, apdu.ErrReset) {
				return err
			}
			return c.lookAfter(ctx, i, before, err)
		}
		if r.SW == apdu.OK {
			return nil
		}
		answer := &apdu.StatusError{Command: name, SW: r.SW, Doubt: !r.SW.Refusal()}
		after, err := c.SOPIN(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w, and then: %w", ErrMaybeInitialised, answer, err)
		}
		if _, ok := r.SW.TriesLeft(); ok || after.Tries >= 0 && after.Tries < before.Tries {
			return &PINError{Name: "SO-PIN", Tries: after.Tries}
		}
		if r.SW != apdu.NoMemory || attempt == gcTries {
			return c.lookBehind(ctx, i, answer, was)
		}
		if err := c.pause(ctx, gcPause); err != nil {
			return err
		}
	}
}

// face is what a look shows of a token before and after an INITIALIZE.
type face struct {
	pin    PINStatus
	files  []FID
	domain Domain // number 0; all zero where the token shows none
}

// face looks at a token. One without a PIN is seen enough.
func (c *Card) face(ctx context.Context) (f face, err error) {
	if f.pin, err = c.PIN(ctx); err != nil || f.pin.Missing {
		return f, err
	}
	if f.files, err = c.Enumerate(ctx); err != nil {
		return f, err
	}
	if f.domain, err = c.Domain(ctx, 0); err != nil && !isAnswer(err) {
		return f, err
	}
	return f, nil
}

// same tells whether two looks show the same. The tries of the PIN do not count:
// a login hides them.
func (f face) same(o face) bool {
	return f.pin.Missing == o.pin.Missing && f.pin.Transport == o.pin.Transport && slices.Equal(f.files, o.files) &&
		f.domain.Shares == o.domain.Shares && f.domain.Outstanding == o.domain.Outstanding && f.domain.KCV == o.domain.KCV
}

// fresh tells whether a token looks as an initialisation leaves it: a PIN with
// all its tries, no file, and shares still to come. The PIN itself is found out
// by the login that follows.
func (f face) fresh(i Initialisation) bool {
	if f.pin.Missing || f.pin.Transport != (i.Options&OptionTransportPIN != 0) || f.pin.Tries >= 0 && f.pin.Tries != i.PINTries {
		return false
	}
	own := []FID{FIDDeviceCertificate, KeyFile(0), DescriptionFile(0), CertificateFile(0)}
	if slices.ContainsFunc(f.files, func(f FID) bool { return !slices.Contains(own, f) }) {
		return false
	}
	return i.Shares == 0 || i.NoDKEK || f.domain.Shares == i.Shares && f.domain.Outstanding == i.Shares
}

// lookBehind finds out whether an INITIALIZE that was answered with an error was
// carried out. A token that was as fresh before does not show it: then the answer
// counts, if it is a refusal.
func (c *Card) lookBehind(ctx context.Context, i Initialisation, answer *apdu.StatusError, was face) error {
	c.forgetPIN() // the old one must not be sent to a token that may have a new one
	c.lost()
	now, err := c.face(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w, and then: %w", ErrMaybeInitialised, answer, err)
	case now.fresh(i) && !was.fresh(i):
		return nil
	case now.same(was) && !(now.fresh(i) && answer.Doubt):
		answer.Doubt = false
		return answer
	}
	return fmt.Errorf("%w: %w", ErrMaybeInitialised, answer)
}

// lookAfter waits for a token whose answer to INITIALIZE never came, and finds
// out by looking whether it was carried out.
func (c *Card) lookAfter(ctx context.Context, i Initialisation, before PINStatus, lost error) error {
	c.forgetPIN() // the old one must not be sent to a token that may have a new one
	open := func(err error) error { return fmt.Errorf("%w: %w", ErrMaybeInitialised, err) }
	if err := c.await(ctx, lost); err != nil {
		return open(err)
	}
	after, err := c.SOPIN(ctx)
	if err != nil {
		return open(err)
	}
	if after.Tries >= 0 && after.Tries < before.Tries {
		return &PINError{Name: "SO-PIN", Tries: after.Tries}
	}
	now, err := c.face(ctx)
	if err != nil {
		return open(err)
	}
	if !now.fresh(i) {
		return fmt.Errorf("%w: no answer came (%v), and the token is as it was; the SO-PIN has all the tries it had", ErrNotCarriedOut, lost)
	}
	return nil
}

// await gives the token time until it answers again.
func (c *Card) await(ctx context.Context, lost error) error {
	for range settleTries {
		if err := c.pause(ctx, settlePause); err != nil {
			return err
		}
		_ = c.t.End() // the transaction may be gone with the connection
		err := c.t.Begin(ctx)
		c.outOfSight()
		if err == nil || errors.Is(err, apdu.ErrReset) {
			err = c.ready(ctx)
		}
		if err == nil || errors.Is(err, ErrOtherToken) || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("no sign of the token for %s (%w)", settleTries*settlePause, lost)
}

// Memory asks for the free memory in bytes. Tokens before 2.4 do not tell, and
// are not asked: to them the command is an INITIALIZE.
func (c *Card) Memory(ctx context.Context) (int, error) {
	if c.version.Before(2, 4) {
		return 0, fmt.Errorf("version %s does not tell its free memory", c.version)
	}
	data, err := c.call(ctx, "device info", apdu.Command{CLA: 0x80, INS: 0x50, Le: apdu.LeShort})
	if err != nil {
		return 0, err
	}
	if len(data) < 4 {
		return 0, fmt.Errorf("device info: answer of %d bytes", len(data))
	}
	return int(data[0])<<24 | int(data[1])<<16 | int(data[2])<<8 | int(data[3]), nil
}

// MaxRandom is how many random bytes a token gives at a time.
const MaxRandom = 256

// Random asks for n bytes, up to MaxRandom, of the token's random numbers (GET
// CHALLENGE). It needs no PIN. The caller clears them.
func (c *Card) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > MaxRandom {
		return nil, fmt.Errorf("GET CHALLENGE: %d bytes asked for, a token gives 1 to %d", n, MaxRandom)
	}
	data, err := c.call(ctx, "GET CHALLENGE", apdu.Command{INS: 0x84, Le: n})
	if err != nil {
		return nil, err
	}
	if len(data) != n {
		clear(data)
		return nil, fmt.Errorf("GET CHALLENGE: %d bytes asked for, %d came", n, len(data))
	}
	return data, nil
}
