package schsm

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/channel"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/tlv"
)

// Verdicts of Genuine and GenuineByRequest.
var (
	// ErrNotGenuine is wrapped by all of them.
	ErrNotGenuine = errors.New("the token could not be shown to be genuine")
	// ErrNoPossession: the certificates are good, but the token did not show
	// that it holds the device key.
	ErrNoPossession = errors.New("its certificate is good, but it did not show that it holds the device key")
)

// possession is how a token showed that it holds its device key.
type possession int

const (
	nothingShown possession = iota
	byChip
	byRequest
)

// softwareRoot begins the name of every software token's root.
const softwareRoot = "SOFTROOT"

// Software tells whether the token says of itself that it is software: its
// certificate chain leads to a software token's root.
func (c *Card) Software() bool {
	return c.chain != nil && c.chain.Issuer != nil && strings.HasPrefix(c.chain.Issuer.CAR, softwareRoot)
}

// Genuine checks that the token is what its certificate says: a chain up to
// one of the roots, and possession of the device key, shown by chip
// authentication. A verdict wraps ErrNotGenuine and says which of the two
// failed; other errors, such as apdu.ErrGone, are none. A token that passed
// must pass again whenever it was out of sight (reset, or pulled), before it
// is given anything: a PIN, a share. The session goes on as it was. Chip
// authentication was not exercised on hardware (fact sheet §2.11).
func (c *Card) Genuine(ctx context.Context, roots []cvc.Root) (cvc.Root, error) {
	root, err := c.verifyChain(roots)
	if err != nil {
		return cvc.Root{}, err
	}
	err = c.Transaction(ctx, func() error {
		return again(func() error {
			if err := c.look(ctx); err != nil { // the applet must be selected
				return err
			}
			if err := c.ready(ctx); err != nil {
				return err
			}
			session, verdict := c.authenticateChip(ctx)
			session.Wipe()
			if verdict != nil && !errors.Is(verdict, ErrNotGenuine) {
				return verdict
			}
			// The token may expect secure messaging now; selecting the applet
			// anew ends that, and the login with it.
			if err := c.selectApplet(ctx); err != nil {
				return err
			}
			if verdict != nil {
				return verdict
			}
			return c.ready(ctx)
		})
	})
	if err != nil {
		return cvc.Root{}, err
	}
	c.proven, c.unseen = byChip, false
	return root, nil
}

func (c *Card) verifyChain(roots []cvc.Root) (cvc.Root, error) {
	if c.chain == nil {
		return cvc.Root{}, fmt.Errorf("%w: it shows no device certificate", ErrNotGenuine)
	}
	root, err := c.chain.Verify(roots)
	if err != nil {
		return cvc.Root{}, fmt.Errorf("%w: %w", ErrNotGenuine, err)
	}
	return root, nil
}

// chipAuthAES128 is 0.4.0.127.0.7.2.2.3.2.2, ECDH with AES-128.
var chipAuthAES128 = []byte{0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x03, 0x02, 0x02}

// authenticateChip is EAC chip authentication version 2: the token can only
// compute the MAC if it holds the private half of the key in its certificate. It
// gives the channel that both sides can use from then on. A refusal or a wrong
// answer wraps ErrNotGenuine. The applet is to be selected anew after it, whatever
// came out.
func (c *Card) authenticateChip(ctx context.Context) (*channel.Session, error) {
	refuse := func(err error) (*channel.Session, error) {
		return nil, fmt.Errorf("%w: %w: %w", ErrNotGenuine, ErrNoPossession, err)
	}
	device, err := c.chain.DeviceKey()
	if err != nil {
		return refuse(err)
	}
	if device.Curve == nil {
		return refuse(errors.New("the device key is not on a curve"))
	}
	d, x, y, err := device.Curve.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	defer clear(d)
	point := device.Curve.Marshal(x, y)
	var answer []byte
	for _, step := range []struct {
		name string
		cmd  apdu.Command
	}{
		{"MANAGE SECURITY ENVIRONMENT", apdu.Command{INS: 0x22, P1: 0x41, P2: 0xA4, Data: tlv.Encode(0x80, chipAuthAES128)}},
		{"GENERAL AUTHENTICATE", apdu.Command{INS: 0x86, Data: tlv.Encode(0x7C, tlv.Encode(0x80, point)), Le: apdu.LeShort}},
	} {
		// transmit: a step that is repeated alone proves nothing.
		r, err := c.transmit(ctx, step.name, step.cmd)
		if err != nil {
			return nil, err
		}
		if r.SW != apdu.OK {
			return refuse(&apdu.StatusError{Command: step.name, SW: r.SW})
		}
		answer = r.Data
	}
	nonce, token, ok := parseChipAnswer(answer)
	if !ok {
		return refuse(errors.New("the answer of GENERAL AUTHENTICATE does not parse"))
	}
	x, _ = device.Curve.ScalarMult(device.X, device.Y, d)
	shared := x.FillBytes(make([]byte, device.Curve.FieldBytes()))
	defer clear(shared)
	session := channel.New(shared, nonce)
	want := session.Token(tlv.Encode(0x7F49, tlv.Encode(0x06, chipAuthAES128), tlv.Encode(0x86, point)))
	if subtle.ConstantTimeCompare(want, token) != 1 {
		session.Wipe()
		return refuse(errors.New("the authentication token is wrong"))
	}
	return session, nil
}

// parseChipAnswer reads 7C { 81 nonce(8), 82 token(8) }.
func parseChipAnswer(answer []byte) (nonce, token []byte, ok bool) {
	outer, _, err := tlv.Parse(answer)
	if err != nil || outer.Tag != 0x7C {
		return nil, nil, false
	}
	list, err := outer.Children()
	if err != nil {
		return nil, nil, false
	}
	n, ok1 := list.Find(0x81)
	t, ok2 := list.Find(0x82)
	return n.Value, t.Value, ok1 && ok2 && len(n.Value) == 8 && len(t.Value) == 8
}
