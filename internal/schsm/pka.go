package schsm

import (
	"context"
	"errors"
	"fmt"

	"hsmbackup/internal/apdu"
)

// PKA is the state of public key authentication: login by external keys (fact
// sheet §2.11).
type PKA struct {
	// Total keys can be registered, Missing of them are not, Required must
	// authenticate.
	Total, Missing, Required int
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
	return PKA{int(data[0]), int(data[1]), int(data[2])}, true, nil
}
