package schsm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"hsmbackup/internal/apdu"
)

// PKA is the state of public key authentication: login by external keys (fact
// sheet §2.11).
type PKA struct {
	// Total keys can be registered, Missing of them are not, Required must
	// authenticate.
	Total, Missing, Required int
	// Holders are the holder references of those that are registered, as far as
	// the token tells: each begins with the serial of the token that has the key.
	Holders []string
}

// PKA asks for public key authentication; configured is false where the token
// was not set up for it.
func (c *Card) PKA(ctx context.Context) (p PKA, configured bool, err error) {
	const name = "query of public key authentication"
	data, err := c.call(ctx, name, apdu.Command{CLA: 0x80, INS: 0x54, Le: apdu.LeShort})
	switch {
	case errors.Is(err, apdu.ErrNotSelected), errors.Is(err, apdu.ErrNotFound), errors.Is(err, apdu.ErrConditions), errors.Is(err, apdu.ErrParameters):
		return p, false, nil
	case err != nil:
		return p, false, err
	case len(data) < 4:
		return p, false, fmt.Errorf("%s: answer of %d bytes", name, len(data))
	}
	p = PKA{Total: int(data[0]), Missing: int(data[1]), Required: int(data[2])}
	for n := 0; n < p.Total && len(p.Holders) < p.Total-p.Missing; n++ {
		r, err := c.send(ctx, name, apdu.Command{CLA: 0x80, INS: 0x54, P1: 2, P2: byte(n), Le: apdu.LeShort})
		if err != nil {
			return p, true, err
		}
		// 9001 is one that has authenticated. Others are no key, or a token that
		// does not tell.
		if holder := string(r.Data); (r.SW == apdu.OK || r.SW == apdu.OK+1) && holder != "" && !strings.ContainsFunc(holder, func(c rune) bool { return c <= ' ' || c > '~' }) {
			p.Holders = append(p.Holders, holder)
		}
	}
	return p, true, nil
}
