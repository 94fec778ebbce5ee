package schsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/tlv"
)

// ErrNotGenuine is wrapped by the errors of Genuine.
var ErrNotGenuine = errors.New("the token could not be shown to be genuine")

// softwareRoot begins the name of every software token's root.
const softwareRoot = "SOFTROOT"

// Software tells whether the token says of itself that it is software: its
// certificate chain leads to a software token's root.
func (c *Card) Software() bool {
	return c.chain != nil && c.chain.Issuer != nil && strings.HasPrefix(c.chain.Issuer.CAR, softwareRoot)
}

// Genuine checks that the token is what its certificate says: a chain up to
// one of the roots, and possession of the device key, shown by chip
// authentication. The error wraps ErrNotGenuine and says which of the two
// failed. Chip authentication was not exercised on hardware (fact sheet
// §2.11).
func (c *Card) Genuine(ctx context.Context, roots []cvc.Root) (cvc.Root, error) {
	if c.chain == nil {
		return cvc.Root{}, fmt.Errorf("%w: it shows no device certificate", ErrNotGenuine)
	}
	root, err := c.chain.Verify(roots)
	if err != nil {
		return cvc.Root{}, fmt.Errorf("%w: %w", ErrNotGenuine, err)
	}
	if err := c.authenticateChip(ctx); err != nil {
		return cvc.Root{}, fmt.Errorf("%w: its certificate is good, but it did not show that it holds the device key: %w", ErrNotGenuine, err)
	}
	return root, nil
}

// chipAuthAES128 is 0.4.0.127.0.7.2.2.3.2.2, ECDH with AES-128.
var chipAuthAES128 = []byte{0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x03, 0x02, 0x02}

// authenticateChip is EAC chip authentication version 2: the token can only
// compute the MAC if it holds the private half of the key in its certificate.
func (c *Card) authenticateChip(ctx context.Context) error {
	device, err := c.chain.DeviceKey()
	if err != nil {
		return err
	}
	d, x, y, err := device.Curve.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	defer clear(d)
	point := device.Curve.Marshal(x, y)
	var answer []byte
	err = c.Transaction(ctx, func() error {
		if _, err := c.call(ctx, "MANAGE SECURITY ENVIRONMENT", apdu.Command{INS: 0x22, P1: 0x41, P2: 0xA4, Data: tlv.Encode(0x80, chipAuthAES128)}); err != nil {
			return err
		}
		var err error
		answer, err = c.call(ctx, "GENERAL AUTHENTICATE", apdu.Command{INS: 0x86, Data: tlv.Encode(0x7C, tlv.Encode(0x80, point)), Le: apdu.LeShort})
		return err
	})
	if err != nil {
		return err
	}
	outer, _, err := tlv.Parse(answer)
	if err != nil || outer.Tag != 0x7C {
		return errors.New("GENERAL AUTHENTICATE: the answer does not parse")
	}
	list, err := outer.Children()
	if err != nil {
		return errors.New("GENERAL AUTHENTICATE: the answer does not parse")
	}
	nonce, ok1 := list.Find(0x81)
	token, ok2 := list.Find(0x82)
	if !ok1 || !ok2 || len(nonce.Value) != 8 || len(token.Value) != 8 {
		return errors.New("GENERAL AUTHENTICATE: nonce or token missing")
	}
	// The token now expects secure messaging; selecting the applet anew ends
	// that, and the login with it.
	c.selected, c.loggedIn = false, false
	sharedX, _ := device.Curve.ScalarMult(device.X, device.Y, d)
	want, err := chipToken(sharedX, device.Curve.FieldBytes(), nonce.Value, point)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, token.Value) != 1 {
		return errors.New("GENERAL AUTHENTICATE: the authentication token is wrong")
	}
	return nil
}

// chipToken computes the authentication token of chip authentication: the
// first 8 bytes of AES-CMAC over 7F49 { 06 oid, 86 point } under the first 16
// bytes of SHA-1(shared x ‖ nonce ‖ 00000002).
func chipToken(sharedX *big.Int, fieldBytes int, nonce, point []byte) ([]byte, error) {
	x := sharedX.FillBytes(make([]byte, fieldBytes))
	defer clear(x)
	key := sha1.Sum(bytes.Join([][]byte{x, nonce, {0, 0, 0, 2}}, nil))
	defer clear(key[:])
	mac, err := cmac.Sum(key[:16], tlv.Encode(0x7F49, tlv.Encode(0x06, chipAuthAES128), tlv.Encode(0x86, point)))
	return mac[:8], err
}
