package schsm

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pubkey"
)

// A token signs with its device key the request of every key that it makes,
// and with it the name that the key is given (fact sheet §5.3). A name made up
// on the spot shows that the token holds the device key now: the second way,
// for tokens that have no chip authentication.

// proofName begins the holder reference of a key that is made as a proof; a
// nonce of 60 bits follows. A key that is left behind is known by it.
const proofName = "HSMB"

const (
	nonceBytes = 8
	nonceChars = 12 // holder references have 16 characters at most
)

// proofEnd is how long the deletion may take after a person ended the run.
const proofEnd = 10 * time.Second

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// IsProofRequest tells whether what CExx holds is the request of a key that
// GenuineByRequest made: a key that nobody uses.
func IsProofRequest(certificate []byte) bool {
	r, err := cvc.ParseRequest(certificate)
	if err != nil {
		return false
	}
	nonce, ok := strings.CutPrefix(r.Inner.CHR, proofName)
	return ok && len(nonce) == nonceChars && strings.Trim(nonce, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// GenuineByRequest is Genuine for a token without chip authentication: it has
// the token make a key at a free reference, whose request must carry a fresh
// nonce and the signature of the device key, and deletes the key again. The
// token must be logged in, and able to make keys: none of its DKEK's shares may
// be missing (fact sheet §9, 34). domain is the key domain to make it in; nil
// does not name one. A verdict wraps ErrNotGenuine, and the key is gone; after
// another error it may be left, and DeleteProofKey deletes it.
//
// A token that passed cannot pass again unasked. If it is reset or taken out
// afterwards, it is given nothing more: ErrUnseen.
func (c *Card) GenuineByRequest(ctx context.Context, roots []cvc.Root, reference byte, domain *byte) (cvc.Root, error) {
	root, err := c.verifyChain(roots)
	if err != nil {
		return cvc.Root{}, err
	}
	device, err := c.chain.DeviceKey()
	if err != nil {
		return cvc.Root{}, fmt.Errorf("%w: %w: %w", ErrNotGenuine, ErrNoPossession, err)
	}
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce) // never fails
	name := proofName + base32Text.EncodeToString(nonce)[:nonceChars]
	err = c.Transaction(ctx, func() error {
		c.unseen = false // from here on it counts
		raw, err := c.Generate(ctx, reference, cvc.KeySpec{CAR: "UTCA00001", CHR: name, Curve: curve.ByName("P-256"), Domain: domain})
		if err != nil {
			var refused *apdu.StatusError
			if errors.As(err, &refused) {
				return fmt.Errorf("%w: %w: it makes no key: %w", ErrNotGenuine, ErrNoPossession, err)
			}
			return err
		}
		// Whatever it is worth, the key goes, also when a person ended the run.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), proofEnd)
		defer cancel()
		if err := c.DeleteProofKey(end, reference); err != nil {
			return err
		}
		return c.checkProof(raw, name, device)
	})
	if err != nil {
		return cvc.Root{}, err
	}
	if c.unseen {
		return cvc.Root{}, fmt.Errorf("%w (%s)", ErrUnseen, orUnknown(c.Serial()))
	}
	c.proven = byRequest
	return root, nil
}

// checkProof tells whether a request is the answer that only this token could
// give now.
func (c *Card) checkProof(raw []byte, name string, device *pubkey.Key) error {
	refuse := func(err error) error { return fmt.Errorf("%w: %w: %w", ErrNotGenuine, ErrNoPossession, err) }
	r, err := cvc.ParseRequest(raw)
	if err != nil {
		return refuse(err)
	}
	if r.Inner.CHR != name {
		return refuse(fmt.Errorf("the request it gave is for %s, not for the name it was told", r.Inner.CHR))
	}
	if r.OuterCAR != c.chain.Device.CHR {
		return refuse(fmt.Errorf("%s signed the request it gave", r.OuterCAR))
	}
	if err := r.VerifyOuter(device); err != nil {
		return refuse(err)
	}
	return nil
}

// DeleteProofKey deletes a key of GenuineByRequest and all that may belong to
// it; what is not there is not missed. The request goes last: as long as it is
// there, a later run knows what is left.
func (c *Card) DeleteProofKey(ctx context.Context, reference byte) error {
	for _, f := range []FID{KeyFile(reference), DescriptionFile(reference), CertificateFile(reference)} {
		if err := c.DeleteFileIfThere(ctx, f); err != nil {
			return err
		}
	}
	return nil
}
