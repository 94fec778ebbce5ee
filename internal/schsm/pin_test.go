package schsm

import (
	"context"
	"errors"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

func wrongPIN() *secret.Bytes { return secret.New([]byte("000000")) }

// A wrong PIN costs one try and is never sent again, whatever is done next.
func TestWrongPINIsSentOnce(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	card.Close()
	token.Reset()
	card, err := Open(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	sent := count(token, 0x20, true)
	var pin *PINError
	if err := card.Login(ctx, wrongPIN(), false); !errors.As(err, &pin) || pin.Name != "PIN" || pin.Tries != 2 || !errors.Is(err, apdu.ErrWrongPIN) {
		t.Fatal(err)
	}
	token.Reset()
	if _, err := card.Enumerate(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := card.Sign(ctx, 1, ECDSA, make([]byte, 32)); !errors.Is(err, apdu.ErrNotAuthorised) {
		t.Errorf("SIGN: %v", err)
	}
	if _, err := card.PINSetUp(ctx); !errors.Is(err, apdu.ErrNotAuthorised) {
		t.Errorf("PINSetUp: %v", err)
	}
	if *sent != 1 {
		t.Errorf("a wrong PIN was sent %d times", *sent)
	}
	if s, err := card.PIN(ctx); err != nil || s.Tries != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	// A right one gives the tries back.
	if err := card.Login(ctx, testPIN(), false); err != nil {
		t.Fatal(err)
	}
	if n, err := card.PINSetUp(ctx); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}

// The last try is for who insists; after it the PIN is blocked, and nothing is
// sent any more.
func TestLastTry(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	sent := count(token, 0x20, true)
	for want := 2; want > 0; want-- {
		var pin *PINError
		if err := card.Login(ctx, wrongPIN(), false); !errors.As(err, &pin) || pin.Tries != want {
			t.Fatal(err)
		}
	}
	if err := card.Login(ctx, testPIN(), false); !errors.Is(err, ErrLastTry) {
		t.Fatalf("the last try: %v", err)
	}
	if *sent != 2 {
		t.Fatalf("a PIN was sent %d times", *sent)
	}
	if err := card.Login(ctx, wrongPIN(), true); !errors.Is(err, apdu.ErrBlocked) || *sent != 3 {
		t.Fatalf("the last try, insisted: %v, sent %d times", err, *sent)
	}
	if err := card.Login(ctx, testPIN(), true); !errors.Is(err, apdu.ErrBlocked) || *sent != 3 {
		t.Errorf("a blocked PIN: %v, sent %d times", err, *sent)
	}
	if s, err := card.PIN(ctx); err != nil || !s.Blocked || s.Tries != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A PIN of a single try is spent only for who insists, also where another
// program's login hides the tries. Logging in again needs no second word.
func TestOneTryInAll(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	if err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), PINTries: 1}); err != nil {
		t.Fatal(err)
	}
	other, err := Open(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Confirm(ctx); err != nil { // logs in again, as the other one ended the login
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, 0xCF01, []byte{1}); err != nil {
		t.Fatal(err)
	}
	sent := count(token, 0x20, true)
	if err := other.Login(ctx, wrongPIN(), false); !errors.Is(err, ErrLastTry) || *sent != 0 {
		t.Fatalf("%v, sent %d times", err, *sent)
	}
	if n, err := card.PINSetUp(ctx); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := other.Login(ctx, testPIN(), true); err != nil {
		t.Error(err)
	}
}

// Where it is not known whether a new PIN was looked at, it is not sent again;
// one that was right before may be.
func TestPINWithoutAnswer(t *testing.T) {
	ctx := context.Background()
	for _, fault := range []error{errors.New("no answer"), apdu.ErrGone, context.Canceled} {
		token, card := newToken(t, softtoken.Options{})
		setUp(t, card)
		card.Close()
		sent := 0
		token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
			if c.INS != 0x20 || len(c.Data) == 0 {
				return 0, nil
			}
			if s == softtoken.Before {
				sent++
				return 0, nil
			}
			return 0, fault
		})
		if err := card.Login(ctx, wrongPIN(), false); !errors.Is(err, fault) {
			t.Errorf("%v: %v", fault, err)
		}
		if card.pin.Len() != 0 {
			t.Error("a PIN that nobody confirmed is kept")
		}
		for range 3 {
			if _, err := card.Enumerate(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if sent != 1 {
			t.Errorf("%v: the PIN was sent %d times", fault, sent)
		}
		token.SetFault(nil)
		if s, err := card.PIN(ctx); err != nil || s.Tries != 2 {
			t.Errorf("%v: %+v, %v", fault, s, err)
		}
	}
}

// Logging in again obeys the rules of Login: another program may have changed
// the PIN, or used its tries up.
func TestReloginRules(t *testing.T) {
	ctx := context.Background()
	raw := func(token *softtoken.Token, command string, want apdu.SW) {
		t.Helper()
		answer, err := token.Transmit(ctx, unhex(t, command))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := apdu.ParseResponse(answer); err != nil || r.SW != want {
			t.Fatalf("%s answers %v, want %v", command, r.SW, want)
		}
	}
	use := func(card *Card) error { return card.WriteFile(ctx, 0xCF01, []byte{1}) }

	t.Run("changed PIN", func(t *testing.T) {
		token, card := newToken(t, softtoken.Options{})
		setUp(t, card)
		raw(token, "00 24 00 81 0C 363438323139 313131313131", 0x9000)
		raw(token, selectBytes, 0x9000) // logged out
		sent := count(token, 0x20, true)
		var pin *PINError
		if err := use(card); !errors.As(err, &pin) || pin.Tries != 2 {
			t.Fatal(err)
		}
		if err := use(card); !errors.Is(err, apdu.ErrNotAuthorised) || *sent != 1 {
			t.Errorf("%v, the PIN was sent %d times", err, *sent)
		}
	})
	t.Run("tries used up to the last", func(t *testing.T) {
		token, card := newToken(t, softtoken.Options{})
		setUp(t, card)
		raw(token, "00 20 00 81 06 303030303030", 0x63C2)
		raw(token, "00 20 00 81 06 303030303030", 0x63C1)
		sent := count(token, 0x20, true)
		if err := use(card); !errors.Is(err, ErrLastTry) || *sent != 0 {
			t.Errorf("%v, the PIN was sent %d times", err, *sent)
		}
		if err := use(card); !errors.Is(err, apdu.ErrNotAuthorised) || *sent != 0 {
			t.Errorf("%v, the PIN was sent %d times", err, *sent)
		}
		if err := card.Login(ctx, testPIN(), true); err != nil {
			t.Error(err)
		}
	})
	t.Run("blocked", func(t *testing.T) {
		token, card := newToken(t, softtoken.Options{})
		setUp(t, card)
		for _, sw := range []apdu.SW{0x63C2, 0x63C1, 0x6983} {
			raw(token, "00 20 00 81 06 303030303030", sw)
		}
		sent := count(token, 0x20, true)
		if err := use(card); !errors.Is(err, apdu.ErrBlocked) || *sent != 0 {
			t.Errorf("%v, the PIN was sent %d times", err, *sent)
		}
	})
	t.Run("tries used in between do not hide the set-up", func(t *testing.T) {
		token, card := newToken(t, softtoken.Options{})
		setUp(t, card)
		raw(token, "00 20 00 81 06 303030303030", 0x63C2)
		if n, err := card.PINSetUp(ctx); n != 3 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// A refusal that is meant costs neither a VERIFY nor a second command.
func TestMeantRefusal(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	verified, written := 0, 0
	token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		if s == softtoken.Before && c.INS == 0x20 && len(c.Data) > 0 {
			verified++
		}
		if s == softtoken.Before && c.INS == 0xD7 {
			written++
		}
		return 0, nil
	})
	if err := card.WriteFile(ctx, FIDDeviceCertificate, []byte{1}); !errors.Is(err, apdu.ErrNotAuthorised) {
		t.Error(err)
	}
	if verified != 0 || written != 1 {
		t.Errorf("%d VERIFY, %d UPDATE BINARY", verified, written)
	}
}

func TestPINStatus(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   PINStatus
	}{
		{"9000", PINStatus{Tries: -1, Verified: true}},
		{"63CA", PINStatus{Tries: 10}},
		{"63C1", PINStatus{Tries: 1}},
		{"63C0", PINStatus{Tries: 0, Blocked: true}},
		{"6983", PINStatus{Tries: 0, Blocked: true}},
		{"6984", PINStatus{Tries: -1, Transport: true}},
		{"6A88", PINStatus{Tries: -1, Missing: true}},
		{"6300", PINStatus{Tries: -1}},
	} {
		s, card := scripted(t, "03 05")
		s.expect(step{statusBytes, c.answer})
		if got, err := card.PIN(context.Background()); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", c.answer, got, err)
		}
		s.done()
	}
	s, card := scripted(t, "03 05")
	s.expect(step{statusBytes, "6F00"})
	if got, err := card.PIN(context.Background()); !errors.Is(err, apdu.ErrInternal) {
		t.Errorf("6F00: %+v, %v", got, err)
	}
}
