package schsm

import (
	"context"
	"errors"
	"testing"

	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// What nobody could type again is set as no PIN, and what no keyboard gives as a
// character costs no try.
func TestFormOfPINs(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	set := func(pin string) error {
		return card.Initialise(ctx, Initialisation{PIN: secret.New([]byte(pin)), SOPIN: testSOPIN(), Shares: 1})
	}
	for _, pin := range []string{"12345", "6482196482196482", "648219\u00a0", " 648219", "648219 ", "64\u200b8219", "648\x1b[D219", "64821ö"} {
		if err := set(pin); !errors.Is(err, ErrNewPIN) {
			t.Errorf("%q is set: %v", pin, err)
		}
	}
	if err := set("648 219-xyzABC{}"[:15]); err != nil {
		t.Fatal(err)
	}
	verified := count(token, 0x20, true)
	for _, pin := range []string{"648219\x1b[D", "\x00648219", "648219\x7f"} {
		if err := card.Login(ctx, secret.New([]byte(pin)), false); !errors.Is(err, ErrPINControl) {
			t.Errorf("%q: %v", pin, err)
		}
	}
	if *verified != 0 {
		t.Errorf("%d tries were spent", *verified)
	}
}
