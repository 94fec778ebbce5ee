package schsm

import (
	"context"
	"errors"
	"fmt"

	"hsmbackup/internal/apdu"
)

// Domain is the state of one key domain. A token of the classic kind shows its
// single DKEK as domain 0.
type Domain struct {
	Number int
	// Shares is how many the DKEK is made of, Outstanding how many are still
	// missing. Both are 0 for a slot that is empty.
	Shares, Outstanding int
	// KCV is the key check value; it means something when nothing is
	// outstanding. All zeros mean that the token does not tell.
	KCV [8]byte
	// UID is set for an XKEK domain, whose key nobody can split or load.
	UID []byte
	// Empty: the slot exists and holds no domain.
	Empty bool
}

// Ready tells whether keys can be wrapped and unwrapped.
func (d Domain) Ready() bool { return !d.Empty && d.Outstanding == 0 }

// Domains asks for every key domain. A token without any, because it was
// initialised without DKEK or not at all, gives an empty list. Tokens before
// 3.0 have one domain and are not known to look at the number.
func (c *Card) Domains(ctx context.Context) ([]Domain, error) {
	var list []Domain
	slots := 256
	if c.version.Before(3, 0) {
		slots = 1
	}
	for n := range slots {
		d, err := c.Domain(ctx, n)
		switch {
		case err == nil:
			list = append(list, d)
			continue
		case errors.Is(err, apdu.ErrNotSelected), errors.Is(err, apdu.ErrParameters), errors.Is(err, apdu.ErrOffset):
			// 6D00 no DKEK; 6A86 no such slot; 6B00 the imitation before
			// initialisation
			return list, nil
		case errors.Is(err, apdu.ErrNotFound) && n == 0 && len(list) == 0:
			// 6A88: of a slot that is empty, and of a token that was never
			// initialised.
			if ok, err := c.Initialised(ctx); err != nil || !ok {
				return list, err
			}
		case !errors.Is(err, apdu.ErrNotFound):
			return nil, err
		}
		list = append(list, Domain{Number: n, Empty: true})
	}
	return list, nil
}

// Domain asks for one key domain.
func (c *Card) Domain(ctx context.Context, n int) (Domain, error) {
	if err := checkDomain(n); err != nil {
		return Domain{}, err
	}
	data, err := c.call(ctx, fmt.Sprintf("query of key domain %d", n), apdu.Command{CLA: 0x80, INS: 0x52, P2: byte(n), Le: apdu.LeShort})
	if err != nil {
		return Domain{}, err
	}
	return parseDomain(n, data)
}

func checkDomain(n int) error {
	if n < 0 || n > 255 {
		return fmt.Errorf("key domains are numbered 0 to 255, there is no %d", n)
	}
	return nil
}

func parseDomain(n int, data []byte) (Domain, error) {
	if len(data) < 10 {
		return Domain{}, fmt.Errorf("key domain %d: answer of %d bytes", n, len(data))
	}
	d := Domain{Number: n, Shares: int(data[0]), Outstanding: int(data[1])}
	copy(d.KCV[:], data[2:10])
	if len(data) > 10 {
		d.UID = data[10:]
	}
	return d, nil
}

// CreateDomain makes a DKEK domain of that many shares, 1 to 255, in an empty
// slot. It needs a login.
func (c *Card) CreateDomain(ctx context.Context, n, shares int) (Domain, error) {
	if err := checkDomain(n); err != nil {
		return Domain{}, err
	}
	if shares < 1 || shares > 255 {
		return Domain{}, fmt.Errorf("a DKEK is made of 1 to 255 shares, not %d", shares)
	}
	data, err := c.call(ctx, fmt.Sprintf("creation of key domain %d", n), apdu.Command{CLA: 0x80, INS: 0x52, P1: 1, P2: byte(n), Data: []byte{byte(shares)}, Le: apdu.LeShort})
	if InDoubt(err) {
		var d Domain
		err = settled(err, func() (bool, error) {
			now, err := c.Domain(ctx, n)
			d = now
			if errors.Is(err, apdu.ErrNotFound) { // the slot is still empty
				return false, nil
			}
			return err == nil && d.Shares == shares && d.Outstanding == shares, err
		})
		return d, err
	}
	if err != nil {
		return Domain{}, err
	}
	return parseDomain(n, data)
}

// LoadShare sends one DKEK share. The caller has made sure that the token is
// genuine, and compares the KCV when nothing is outstanding any more: the token
// notices no wrong share. To a token that showed itself by chip authentication it
// goes under session keys, if the token takes that; where it does not, and to all
// others, in clear, and InClear says so. It was not exercised on hardware whether
// a token takes a share so (fact sheet §2.11).
func (c *Card) LoadShare(ctx context.Context, n int, share []byte) (Domain, error) {
	if err := checkDomain(n); err != nil {
		return Domain{}, err
	}
	if len(share) != 32 {
		return Domain{}, errors.New("a DKEK share has 32 bytes")
	}
	name := fmt.Sprintf("load of a share into key domain %d", n)
	cmd := apdu.Command{CLA: 0x80, INS: 0x52, P2: byte(n), Data: share, Le: apdu.LeShort}
	if c.proven == byChip && c.inClear == "" {
		d, taken, err := c.loadSecured(ctx, name, cmd, n)
		if taken || err != nil {
			return d, err
		}
	}
	data, err := c.call(ctx, name, cmd)
	if err != nil {
		return Domain{}, err
	}
	return parseDomain(n, data)
}

// InClear says why a share went to the token in clear although it showed itself by
// chip authentication; empty where none did.
func (c *Card) InClear() string { return c.inClear }

// loadSecured sends a share under the keys of a chip authentication of its own.
// taken tells whether the token has it; one that answers outside of the channel
// has not, unless its key domain says so.
func (c *Card) loadSecured(ctx context.Context, name string, cmd apdu.Command, n int) (d Domain, taken bool, err error) {
	before, err := c.Domain(ctx, n)
	if err != nil {
		return Domain{}, false, err
	}
	var plain apdu.Response
	err = c.Transaction(ctx, func() error {
		return again(func() error {
			if err := c.ready(ctx); err != nil {
				return err
			}
			session, err := c.authenticateChip(ctx)
			if err != nil {
				return err
			}
			defer session.Wipe()
			if plain, err = c.transmit(ctx, name, session.Command(cmd)); err != nil {
				return err
			}
			answer, broken := session.OpenAnswer(plain)
			switch {
			case broken != nil:
			case answer.SW != apdu.OK:
				return &apdu.StatusError{Command: name, SW: answer.SW, Doubt: !answer.SW.Refusal()}
			default:
				taken = true
				if d, err = parseDomain(n, answer.Data); err != nil {
					return err
				}
			}
			// The channel ends with the selection, and the login with it.
			if err := c.selectApplet(ctx); err != nil {
				return err
			}
			return c.ready(ctx)
		})
	})
	if taken || err != nil {
		return d, taken, err
	}
	if d, err = c.Domain(ctx, n); err != nil {
		return Domain{}, false, err
	}
	if d.Outstanding < before.Outstanding {
		return d, true, nil
	}
	c.inClear = fmt.Sprintf("the token took no share under session keys (it answered %s)", plain.SW)
	return d, false, nil
}
