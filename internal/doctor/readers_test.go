package doctor

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/schsm"
)

func TestStateOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, HasToken},
		{fmt.Errorf("x: %w", pcsc.ErrHeld), Held},
		{context.DeadlineExceeded, Held},
		{fmt.Errorf("x: %w", schsm.ErrNoExtended), NoExtended},
		{schsm.ErrNotSmartCardHSM, OtherCard},
		{fmt.Errorf("x: %w", pcsc.ErrNoToken), Empty},
		{errors.New("x"), Fails},
	} {
		if got, _ := stateOf(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
