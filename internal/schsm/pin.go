package schsm

import (
	"context"
	"errors"
	"fmt"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/secret"
)

// PIN references (fact sheet §2.2).
const (
	pinUser = 0x81
	pinSO   = 0x88
)

// Bounds of PINs in bytes. One of 16 is taken of a token that has it, and set by
// nobody: OpenSC's programs take 15.
const (
	MinPIN    = 6
	MaxPIN    = 16
	MaxNewPIN = 15
	SOPINLen  = 8
)

// Errors of PINs.
var (
	// ErrPINLength: not 6 to 16 bytes. Nothing was sent.
	ErrPINLength = errors.New("a PIN has 6 to 16 characters")
	// ErrPINControl: it has what no key for a character gives. Nothing was sent.
	ErrPINControl = errors.New("the PIN has a control character in it, as an arrow key leaves one; it was not sent")
	// ErrNewPIN: it could not be typed everywhere. Nothing was sent.
	ErrNewPIN = errors.New("a new PIN has 6 to 15 characters, all of them letters, digits or signs of ASCII, and no blank at its ends")
	// ErrLastTry: one try is left, and it is not spent unless told so.
	ErrLastTry = errors.New("one PIN try is left; a wrong PIN would block the token")
)

// CheckPIN refuses what cannot be the PIN of a token, before a try is at stake.
func CheckPIN(pin *secret.Bytes) error {
	if pin.Len() < MinPIN || pin.Len() > MaxPIN {
		return ErrPINLength
	}
	for _, b := range pin.Bytes() {
		if b < ' ' || b == 0x7F {
			return ErrPINControl
		}
	}
	return nil
}

// CheckNewPIN refuses a PIN that somebody could not type again.
func CheckNewPIN(pin *secret.Bytes) error {
	b := pin.Bytes()
	if len(b) < MinPIN || len(b) > MaxNewPIN || b[0] == ' ' || b[len(b)-1] == ' ' {
		return ErrNewPIN
	}
	for _, c := range b {
		if c < ' ' || c > '~' {
			return ErrNewPIN
		}
	}
	return nil
}

// PINStatus is what a token says of a PIN without being given one.
type PINStatus struct {
	// Tries that are left; -1 if the token does not say, as after a login.
	Tries int
	// Verified: logged in. Blocked: no tries left. Transport: must be changed
	// first. Missing: the token was never initialised.
	Verified, Blocked, Transport, Missing bool
}

// PINError: the token refused a PIN or SO-PIN. It matches apdu.ErrWrongPIN.
type PINError struct {
	// Name is "PIN" or "SO-PIN".
	Name string
	// Tries that are left, -1 if the token did not say.
	Tries int
}

func (e *PINError) Error() string {
	if e.Tries < 0 {
		return fmt.Sprintf("the %s is wrong", e.Name)
	}
	return fmt.Sprintf("the %s is wrong, tries left: %d", e.Name, e.Tries)
}

// Is matches apdu.ErrWrongPIN.
func (e *PINError) Is(target error) bool { return target == apdu.ErrWrongPIN }

// PIN asks for the status of the user PIN. It spends no try.
func (c *Card) PIN(ctx context.Context) (PINStatus, error) { return c.pinStatus(ctx, pinUser) }

// SOPIN asks for the status of the SO-PIN. It spends no try.
func (c *Card) SOPIN(ctx context.Context) (PINStatus, error) { return c.pinStatus(ctx, pinSO) }

// usableSOPIN is SOPIN before one is sent: ErrSOPINBlocked if that is of no use.
func (c *Card) usableSOPIN(ctx context.Context) (PINStatus, error) {
	s, err := c.SOPIN(ctx)
	if err == nil && s.Blocked {
		err = ErrSOPINBlocked
	}
	return s, err
}

const verifyStatus = "VERIFY status"

func (c *Card) pinStatus(ctx context.Context, reference byte) (PINStatus, error) {
	return c.askPIN(ctx, reference, c.send)
}

// askPIN asks by a way to send commands: send, or transmit where a recovery
// would be one within another.
func (c *Card) askPIN(ctx context.Context, reference byte, send func(context.Context, string, apdu.Command) (apdu.Response, error)) (PINStatus, error) {
	r, err := send(ctx, verifyStatus, apdu.Command{INS: 0x20, P2: reference})
	if err != nil {
		return PINStatus{}, err
	}
	s := PINStatus{Tries: -1}
	if n, ok := r.SW.TriesLeft(); ok {
		s.Tries = n
		s.Blocked = n == 0
		return s, nil
	}
	switch r.SW {
	case apdu.OK:
		s.Verified = true
	case apdu.Blocked:
		s.Tries, s.Blocked = 0, true
	case apdu.NotFound:
		s.Missing = true
	case apdu.NotUsable:
		// 1.x says so when it was never initialised, later ones while the
		// transport PIN is active.
		s.Transport, s.Missing = !c.version.Before(2, 0), c.version.Before(2, 0)
	case apdu.AuthFailed: // public key authentication is the missing condition
	default:
		return s, &apdu.StatusError{Command: verifyStatus, SW: r.SW}
	}
	return s, nil
}

// refusal says why a PIN is not sent to a token of this status; nil if it may
// be. The last try is for who insists.
func (s PINStatus) refusal(insist bool) error {
	switch {
	case s.Missing:
		return fmt.Errorf("the token is not initialised and has no PIN yet: %w", apdu.ErrNotFound)
	case s.Blocked:
		return fmt.Errorf("the PIN is blocked; the SO-PIN can unblock it if the token was initialised that way: %w", apdu.ErrBlocked)
	case s.Transport:
		return fmt.Errorf("the PIN is a transport PIN and must be changed before use: %w", apdu.ErrNotUsable)
	case s.Tries == 1 && !insist:
		return ErrLastTry
	}
	return nil
}

// Initialised tells whether the token has a user PIN.
func (c *Card) Initialised(ctx context.Context) (bool, error) {
	s, err := c.PIN(ctx)
	return !s.Missing, err
}

// Login verifies the user PIN and, if it is right, keeps a copy until Close, to
// log in again when another program resets the token. The last try is spent
// only with insist. A refusal is a *PINError, apdu.ErrBlocked, apdu.ErrNotUsable
// (transport PIN), apdu.ErrNotFound (not initialised), ErrLastTry, ErrPINLength or
// ErrPINControl. Only the first has cost a try, and ErrBlocked if this was the
// last one; any other error of VERIFY leaves open whether it did.
func (c *Card) Login(ctx context.Context, pin *secret.Bytes, insist bool) error {
	if err := CheckPIN(pin); err != nil {
		return err
	}
	c.forgetPIN()
	return c.Transaction(ctx, func() error {
		return again(func() error {
			s, err := c.PIN(ctx)
			if err == nil && s.Verified {
				// Another program is logged in, which hides the tries.
				// Selecting anew ends that and costs none; VERIFY would end
				// it too if the PIN is wrong.
				if err = c.selectApplet(ctx); err == nil {
					s, err = c.askPIN(ctx, pinUser, c.transmit)
				}
			}
			if err != nil {
				return err
			}
			if err := s.refusal(insist); err != nil {
				return err
			}
			c.lastTry = insist
			return c.verify(ctx, pin)
		})
	})
}

// relogin logs in with the kept PIN after another program ended the login. The
// rules of Login hold: another program may have used tries up, or changed the
// PIN.
func (c *Card) relogin(ctx context.Context) error {
	s, err := c.askPIN(ctx, pinUser, c.transmit)
	if err != nil {
		return err
	}
	if s.Verified {
		c.loggedIn = true
		return nil
	}
	if err := s.refusal(c.lastTry); err != nil {
		c.forgetPIN()
		return fmt.Errorf("the login was ended by another program and cannot be repeated: %w", err)
	}
	return c.verify(ctx, c.pin)
}

// verify sends a PIN, and keeps it if the token takes it. A PIN that was
// refused is forgotten, so that it is never sent a second time; so is, by not
// being kept, a new one whose answer never came.
func (c *Card) verify(ctx context.Context, pin *secret.Bytes) error {
	const name = "VERIFY"
	r, err := c.transmit(ctx, name, apdu.Command{INS: 0x20, P2: pinUser, Data: pin.Bytes()})
	if err != nil {
		return err
	}
	if r.SW == apdu.OK {
		if pin != c.pin {
			c.pin.Wipe()
			c.pin = pin.Clone()
		}
		c.loggedIn = true
		return nil
	}
	c.forgetPIN()
	n, ok := r.SW.TriesLeft()
	switch {
	case ok && n > 0:
		return &PINError{Name: "PIN", Tries: n}
	case ok, r.SW == apdu.Blocked:
		return fmt.Errorf("the PIN is wrong and now blocked: %w", apdu.ErrBlocked)
	}
	return &apdu.StatusError{Command: name, SW: r.SW}
}

// AcceptedPIN gives a copy of the PIN that the token has taken, for a second way
// to the same token; the caller wipes it. It is empty if there was no login, or
// if the PIN was refused since.
func (c *Card) AcceptedPIN() *secret.Bytes { return c.pin.Clone() }

// PINSetUp gives the retry counter that the PIN was set up with: what it shows
// right after a good login; -1 if the token does not say. It needs a login, and
// logs in once more.
func (c *Card) PINSetUp(ctx context.Context) (int, error) {
	if c.pin.Len() == 0 {
		return -1, &apdu.StatusError{Command: verifyStatus, SW: apdu.NotAuthorised}
	}
	tries := -1
	err := c.Transaction(ctx, func() error {
		return again(func() error {
			// Logged in for certain: then no try has been used up since.
			if err := c.look(ctx); err != nil {
				return err
			}
			if err := c.ready(ctx); err != nil {
				return err
			}
			if err := c.selectApplet(ctx); err != nil {
				return err
			}
			s, err := c.askPIN(ctx, pinUser, c.transmit)
			if err != nil {
				return err
			}
			tries = s.Tries
			return c.verify(ctx, c.pin)
		})
	})
	return tries, err
}

func (c *Card) forgetPIN() {
	c.pin.Wipe()
	c.pin, c.loggedIn = nil, false
}

// ErrNoUnblock: the token was initialised so that the SO-PIN sets no PIN. Nothing
// was changed, and no try is gone.
var ErrNoUnblock = errors.New("the SO-PIN cannot set a new PIN on this token")

// Unblock sets a new PIN by the SO-PIN, with all its tries, and logs in (RESET
// RETRY COUNTER, fact sheet §2.3). A refused SO-PIN is a *PINError and has cost
// one try.
func (c *Card) Unblock(ctx context.Context, soPIN, pin *secret.Bytes) error {
	const name = "RESET RETRY COUNTER"
	if err := CheckNewPIN(pin); err != nil {
		return err
	}
	if soPIN.Len() != SOPINLen {
		return ErrSOPINFormat
	}
	data := make([]byte, 0, SOPINLen+MaxPIN)
	defer func() { clear(data[:cap(data)]) }()
	data = append(append(data, soPIN.Bytes()...), pin.Bytes()...)
	c.forgetPIN()
	return c.Transaction(ctx, func() error {
		before, err := c.usableSOPIN(ctx)
		if err != nil {
			return err
		}
		// transmit, not send: nothing may repeat this command by itself.
		r, err := c.transmit(ctx, name, apdu.Command{INS: 0x2C, P2: pinUser, Data: data})
		if err != nil {
			return err
		}
		if r.SW == apdu.OK {
			return c.verify(ctx, pin)
		}
		after, err := c.SOPIN(ctx)
		if err != nil {
			return err
		}
		if _, ok := r.SW.TriesLeft(); ok || after.Tries >= 0 && after.Tries < before.Tries {
			return &PINError{Name: "SO-PIN", Tries: after.Tries}
		}
		refused := &apdu.StatusError{Command: name, SW: r.SW, Doubt: !r.SW.Refusal()}
		if refused.Doubt {
			return refused
		}
		return fmt.Errorf("%w (%v)", ErrNoUnblock, refused)
	})
}
