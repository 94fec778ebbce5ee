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

// Bounds of PINs in bytes.
const (
	MinPIN   = 6
	MaxPIN   = 16
	SOPINLen = 8
)

// Errors of PINs.
var (
	// ErrPINLength: not 6 to 16 bytes. Nothing was sent.
	ErrPINLength = errors.New("a PIN has 6 to 16 characters")
	// ErrLastTry: one try is left, and it is not spent unless told so.
	ErrLastTry = errors.New("one PIN try is left; a wrong PIN would block the token")
)

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

func (c *Card) pinStatus(ctx context.Context, reference byte) (PINStatus, error) {
	const name = "VERIFY status"
	r, err := c.send(ctx, name, apdu.Command{INS: 0x20, P2: reference})
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
		return s, &apdu.StatusError{Command: name, SW: r.SW}
	}
	return s, nil
}

// Initialised tells whether the token has a user PIN.
func (c *Card) Initialised(ctx context.Context) (bool, error) {
	s, err := c.PIN(ctx)
	return !s.Missing, err
}

// Login verifies the user PIN and keeps a copy until Close, to log in again
// when another program resets the token. The last try is spent only with
// insist. A refusal is a *PINError, apdu.ErrBlocked, ErrLastTry or
// ErrPINLength; the last two send nothing.
func (c *Card) Login(ctx context.Context, pin *secret.Bytes, insist bool) error {
	if pin.Len() < MinPIN || pin.Len() > MaxPIN {
		return ErrPINLength
	}
	return c.Transaction(ctx, func() error {
		s, err := c.PIN(ctx)
		switch {
		case err != nil:
			return err
		case s.Missing:
			return fmt.Errorf("the token is not initialised and has no PIN yet: %w", apdu.ErrNotFound)
		case s.Blocked:
			return fmt.Errorf("the PIN is blocked; the SO-PIN can unblock it if the token was initialised that way: %w", apdu.ErrBlocked)
		case s.Transport:
			return fmt.Errorf("the PIN is a transport PIN and must be changed before use: %w", apdu.ErrNotUsable)
		case s.Tries == 1 && !insist:
			return ErrLastTry
		}
		c.forgetPIN()
		c.pin = pin.Clone()
		return c.verify(ctx)
	})
}

// verify sends the kept PIN. A PIN that was refused is forgotten, so that it
// is never sent a second time.
func (c *Card) verify(ctx context.Context) error {
	const name = "VERIFY"
	r, err := c.transmit(ctx, name, apdu.Command{INS: 0x20, P2: pinUser, Data: c.pin.Bytes()})
	if err != nil {
		return err
	}
	if r.SW == apdu.OK {
		c.loggedIn = true
		return nil
	}
	c.forgetPIN()
	if n, ok := r.SW.TriesLeft(); ok && n > 0 {
		return &PINError{Name: "PIN", Tries: n}
	}
	if n, ok := r.SW.TriesLeft(); r.SW == apdu.Blocked || ok && n == 0 {
		return fmt.Errorf("the PIN is wrong and now blocked: %w", apdu.ErrBlocked)
	}
	return &apdu.StatusError{Command: name, SW: r.SW}
}

// PINSetUp gives the retry counter that the PIN was set up with: what it shows
// right after a good login. It needs a login, and logs in once more.
func (c *Card) PINSetUp(ctx context.Context) (int, error) {
	tries := -1
	err := c.Transaction(ctx, func() error {
		if !c.loggedIn {
			return &apdu.StatusError{Command: "VERIFY status", SW: apdu.NotAuthorised}
		}
		if err := c.selectApplet(ctx); err != nil {
			return err
		}
		r, err := c.transmit(ctx, "VERIFY status", apdu.Command{INS: 0x20, P2: pinUser})
		if err != nil {
			return err
		}
		if n, ok := r.SW.TriesLeft(); ok {
			tries = n
		}
		return c.verify(ctx)
	})
	return tries, err
}

func (c *Card) forgetPIN() {
	c.pin.Wipe()
	c.pin, c.loggedIn = nil, false
}
