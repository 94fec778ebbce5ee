package dkek

import (
	"errors"
	"testing"
)

func TestPasswordForm(t *testing.T) {
	const good = "trumpet gravel onion walrus candle seventh orbit"
	for _, pw := range []string{good + " ", " " + good, good + "\u00a0", good + "\u200b", "\ufeff" + good, "trumpet\u00a0gravel onion walrus candle seventh orbit"} {
		if err := CheckPassword([]byte(pw)); !errors.Is(err, ErrWeakPassword) {
			t.Errorf("%q: %v", pw, err)
		}
	}
	if err := CheckPassword([]byte(good)); err != nil {
		t.Error(err)
	}
	for _, end := range []string{"", " ", "\u00a0\u200b \t"} {
		if got := string(WithoutBlanks([]byte(good + end))); got != good {
			t.Errorf("%q", got)
		}
	}
}
