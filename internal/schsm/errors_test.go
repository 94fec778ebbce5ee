package schsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
)

// Each status word becomes an error that code matches on and that tells people
// what was asked and what came back.
func TestStatusWords(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		sw   string
		want error
		text string
	}{
		{"6A82", apdu.ErrNotFound, "WRAP of key 5: the token answered 6A82, not found on the token"},
		{"6A88", apdu.ErrNotFound, "WRAP of key 5: the token answered 6A88, not found on the token"},
		{"6982", apdu.ErrNotAuthorised, "WRAP of key 5: the token answered 6982, not logged in"},
		{"6983", apdu.ErrBlocked, "WRAP of key 5: the token answered 6983, PIN blocked"},
		{"6984", apdu.ErrNotUsable, "WRAP of key 5: the token answered 6984, reference data not usable"},
		{"6985", apdu.ErrConditions, "WRAP of key 5: the token answered 6985, conditions of use not satisfied"},
		{"6986", apdu.ErrConditions, "WRAP of key 5: the token answered 6986, conditions of use not satisfied"},
		{"6A80", apdu.ErrWrongData, "WRAP of key 5: the token answered 6A80, data refused"},
		{"6A81", apdu.ErrAlgorithm, "WRAP of key 5: the token answered 6A81, algorithm not allowed for this key"},
		{"6A84", apdu.ErrNoMemory, "WRAP of key 5: the token answered 6A84, not enough memory on the token"},
		{"6A86", apdu.ErrParameters, "WRAP of key 5: the token answered 6A86, wrong parameters"},
		{"6700", apdu.ErrWrongLength, "WRAP of key 5: the token answered 6700, wrong length"},
		{"6B00", apdu.ErrOffset, "WRAP of key 5: the token answered 6B00, offset past the end of the file"},
		{"6F00", apdu.ErrInternal, "WRAP of key 5: the token answered 6F00, the token reports an internal error"},
		{"6400", apdu.ErrInternal, "WRAP of key 5: the token answered 6400, the token reports an internal error"},
		{"6581", apdu.ErrInternal, "WRAP of key 5: the token answered 6581, the token reports an internal error"},
		{"6300", apdu.ErrAuthFailed, "WRAP of key 5: the token answered 6300, authentication failed, no counter reported"},
		{"63C2", apdu.ErrWrongPIN, "WRAP of key 5: the token answered 63C2, PIN refused, tries left: 2"},
		{"6D00", apdu.ErrNotSelected, "WRAP of key 5: the token answered 6D00, applet not selected or command not known"},
		{"1234", nil, "WRAP of key 5: the token answered 1234"},
		{"6282", nil, "WRAP of key 5: the token answered 6282"}, // no data: nothing was given
	} {
		s, card := scripted(t, "03 05")
		s.expect(step{"80 72 05 92 00 00 00", c.sw})
		if c.sw == "6D00" {
			s.expect(step{statusBytes, "63C3"})
		}
		_, err := card.Wrap(ctx, 5)
		var status *apdu.StatusError
		if !errors.As(err, &status) || fmt.Sprintf("%04X", uint16(status.SW)) != c.sw || c.want != nil && !errors.Is(err, c.want) || err.Error() != c.text {
			t.Errorf("%s: %v", c.sw, err)
		}
		s.done()
	}
}

// The answers to VERIFY. None of the errors shows the PIN.
func TestVerifyErrors(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		sw   string
		want error
		text string
	}{
		{"63C2", apdu.ErrWrongPIN, "the PIN is wrong, tries left: 2"},
		{"63C1", apdu.ErrWrongPIN, "the PIN is wrong, tries left: 1"},
		{"63C0", apdu.ErrBlocked, "the PIN is wrong and now blocked: PIN blocked"},
		{"6983", apdu.ErrBlocked, "the PIN is wrong and now blocked: PIN blocked"},
		{"6984", apdu.ErrNotUsable, "VERIFY: the token answered 6984, reference data not usable"},
		{"6A80", apdu.ErrWrongData, "VERIFY: the token answered 6A80, data refused"},
		{"6300", apdu.ErrAuthFailed, "VERIFY: the token answered 6300, authentication failed, no counter reported"},
	} {
		s, card := scripted(t, "03 05")
		s.expect(step{statusBytes, "63C3"}, step{verifyBytes, c.sw})
		err := card.Login(ctx, testPIN(), false)
		if !errors.Is(err, c.want) || err.Error() != c.text {
			t.Errorf("%s: %v", c.sw, err)
		}
		s.done()
	}
	for _, c := range []struct {
		sw   string
		want error
		text string
	}{
		{"63C1", ErrLastTry, "one PIN try is left; a wrong PIN would block the token"},
		{"6983", apdu.ErrBlocked, "the PIN is blocked; the SO-PIN can unblock it if the token was initialised that way: PIN blocked"},
		{"6984", apdu.ErrNotUsable, "the PIN is a transport PIN and must be changed before use: reference data not usable"},
		{"6A88", apdu.ErrNotFound, "the token is not initialised and has no PIN yet: not found on the token"},
	} {
		s, card := scripted(t, "03 05")
		s.expect(step{statusBytes, c.sw})
		err := card.Login(ctx, testPIN(), false)
		if !errors.Is(err, c.want) || err.Error() != c.text {
			t.Errorf("%s: %v", c.sw, err)
		}
		s.done()
	}
}

func TestTexts(t *testing.T) {
	for err, want := range map[error]string{
		&PINError{Name: "SO-PIN", Tries: 14}: "the SO-PIN is wrong, tries left: 14",
		&PINError{Name: "PIN", Tries: -1}:    "the PIN is wrong",
		ErrPINLength:                         "a PIN has 6 to 16 characters",
		ErrSOPINFormat:                       "an SO-PIN has 16 hex digits",
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
	s, card := scripted(t, "03 05")
	s.expect(step{"80 74 05 93 * B1", "6A80"})
	err := card.Unwrap(context.Background(), 5, []byte{0xB1})
	if want := "UNWRAP to key 5: the token does not take this key blob: it is under another DKEK or damaged (6A80, data refused)"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	s.max = 20
	_, err = card.Sign(context.Background(), 5, ECDSA, make([]byte, 32))
	if want := "SIGN with key 5: command longer than token and reader carry: 41 bytes, 20 fit"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if text := KeyFile(10).String() + " " + Version.String(Version{3, 5}); text != "CC0A 3.5" {
		t.Error(text)
	}
}

// No error, whatever the token answers, shows PIN, SO-PIN or share.
func TestErrorsShowNoSecret(t *testing.T) {
	ctx := context.Background()
	secrets := []string{"648219", "57621880", "363438323139", "3537363231383830", "5c5c5c5c"}
	for _, sw := range []string{"63C2", "6982", "6A80", "6D00", "6F00", "6986", "1234", "90"} {
		for name, call := range map[string]func(c *Card) error{
			"Login":      func(c *Card) error { return c.Login(ctx, testPIN(), true) },
			"Initialise": func(c *Card) error { return c.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN()}) },
			"LoadShare":  func(c *Card) error { _, err := c.LoadShare(ctx, 0, []byte(strings.Repeat("\x5c", 32))); return err },
		} {
			_, card := scripted(t, "03 05")
			card.t = answerAll(unhex(t, sw))
			err := call(card)
			if err == nil {
				t.Fatalf("%s, %s: no error", name, sw)
			}
			for _, s := range secrets {
				if strings.Contains(strings.ToLower(err.Error()), s) {
					t.Errorf("%s, %s: %v", name, sw, err)
				}
			}
		}
	}
}
