package schsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// clock counts the pauses in place of sleeping.
type clock struct{ slept time.Duration }

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.slept += d
	return ctx.Err()
}

var errReader = errors.New("no answer from the token")

// An INITIALIZE that takes longer than the reader waits: the token does it, and
// for a time answers nothing at all. It is waited for, looked at, and the
// command is never sent twice.
func TestSlowInitialise(t *testing.T) {
	ctx := context.Background()
	setup := Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1, Label: "new"}
	for _, c := range []struct {
		name   string
		before bool // initialised before
		lost   error
		stage  softtoken.Stage
		silent int // looks that go unanswered
		change func(*Initialisation)
		want   error
		tries  int // of the SO-PIN, afterwards
	}{
		{"new, done", false, errReader, softtoken.After, 14, nil, nil, 15},
		{"new, done, seemed pulled", false, apdu.ErrGone, softtoken.After, 3, nil, nil, 15},
		{"again, done", true, errReader, softtoken.After, 14, nil, nil, 15},
		{"key domains, done", false, errReader, softtoken.After, 5, func(i *Initialisation) { i.Shares, i.Domains = 0, 3 }, nil, 15},
		{"without DKEK, done", false, errReader, softtoken.After, 5, func(i *Initialisation) { i.Shares, i.NoDKEK = 0, true }, nil, 15},
		{"transport PIN, done", false, errReader, softtoken.After, 5, func(i *Initialisation) { i.Options, i.Label = OptionTransportPIN, "" }, nil, 15},
		{"new, not done", false, errReader, softtoken.Before, 0, nil, ErrNotCarriedOut, -1},
		{"again, not done", true, apdu.ErrGone, softtoken.Before, 7, nil, ErrNotCarriedOut, 15},
		{"a wrong SO-PIN, and the answer was lost", true, errReader, softtoken.After, 2, func(i *Initialisation) { i.SOPIN = secret.New([]byte("00000000")) }, apdu.ErrWrongPIN, 14},
		{"never comes back", true, apdu.ErrGone, softtoken.After, 1 << 20, nil, ErrMaybeInitialised, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, card := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200007"})
			if c.before {
				setUp(t, card)
				if err := card.WriteFile(ctx, 0xCF01, []byte("data")); err != nil {
					t.Fatal(err)
				}
			}
			var k clock
			card.SetSleep(k.sleep)
			i := setup
			if c.change != nil {
				c.change(&i)
			}
			sent, down, left := 0, false, c.silent
			token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
				if cmd.INS == 0x50 && len(cmd.Data) > 0 {
					if s == softtoken.Before {
						sent++
					}
					if s == c.stage {
						down = true
						return 0, fmt.Errorf("test: %w", c.lost)
					}
				} else if down && s == softtoken.Before && left > 0 {
					left--
					return 0, fmt.Errorf("test: %w", c.lost)
				}
				return 0, nil
			})
			err := card.Initialise(ctx, i)
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.want == ErrNotCarriedOut && errors.Is(err, c.lost) {
				t.Errorf("%v: nothing is open any more", err)
			}
			if sent != 1 {
				t.Errorf("INITIALIZE was sent %d times", sent)
			}
			if most := settleTries * settlePause; k.slept < settlePause || k.slept > most || c.silent < settleTries && k.slept > time.Duration(c.silent+1)*settlePause {
				t.Errorf("waited %s for %d looks", k.slept, c.silent)
			}
			token.SetFault(nil)
			if s, err := card.SOPIN(ctx); err != nil || s.Tries != c.tries {
				t.Errorf("SO-PIN: %+v, %v", s, err)
			}
			if err != nil || c.want != nil || i.Options&OptionTransportPIN != 0 {
				return
			}
			if s, err := card.PIN(ctx); err != nil || !s.Verified {
				t.Errorf("not logged in: %+v, %v", s, err)
			}
			if _, err := card.ReadFile(ctx, 0xCF01); !errors.Is(err, apdu.ErrNotFound) {
				t.Errorf("not wiped: %v", err)
			}
		})
	}
}

// While it waits, somebody may end the program.
func TestSlowInitialiseCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	token, card := newToken(t, softtoken.Options{})
	card.SetSleep(func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() })
	token.SetFault(func(_ softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
		if cmd.INS == 0x50 && len(cmd.Data) > 0 {
			return 0, errReader
		}
		return 0, nil
	})
	if err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// 6A84 is waited for; a token that has shown to be full is not waited for again
// until something was deleted.
func TestFullIsToldOnce(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	if err := card.WriteFile(ctx, 0xCF01, []byte("old")); err != nil {
		t.Fatal(err)
	}
	var k clock
	card.SetSleep(k.sleep)
	garbage := 2
	token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
		if s == softtoken.Before && cmd.INS == 0xD7 && garbage > 0 {
			garbage--
			return apdu.NoMemory, nil
		}
		return 0, nil
	})
	write := func(want error, pauses int) {
		t.Helper()
		k.slept = 0
		if err := card.WriteFile(ctx, 0xCF02, []byte("new")); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%v, want %v", err, want)
		}
		if k.slept != time.Duration(pauses)*gcPause {
			t.Errorf("waited %s, want %d pauses", k.slept, pauses)
		}
	}
	write(nil, 2)
	garbage = 1 << 20
	write(apdu.ErrNoMemory, gcTries)
	write(apdu.ErrNoMemory, 0)
	if err := card.DeleteFile(ctx, 0xCF01); err != nil {
		t.Fatal(err)
	}
	garbage = 1
	write(nil, 1)
}

// short is a reader that says how much it carries.
type short struct {
	apdu.Transmitter
	max int
}

func (s short) MaxCommand() int { return s.max }

// shortOnly is a reader that says nothing, and cuts the extended length off.
type shortOnly struct{ apdu.Transmitter }

func (s shortOnly) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if c, err := apdu.Parse(command); err == nil && c.IsExtended() {
		return []byte{0x67, 0x00}, nil
	}
	return s.Transmitter.Transmit(ctx, command)
}

// A reader without extended APDUs is refused in one line that says so.
func TestNoExtended(t *testing.T) {
	ctx := context.Background()
	token, _ := newToken(t, softtoken.Options{})
	for n, want := range map[int]error{1: ErrNoExtended, 255: ErrNoExtended, 261: ErrNoExtended, 262: nil, 1014: nil, 0: nil} {
		_, err := Open(ctx, short{token, n})
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("a reader that carries %d: %v", n, err)
		}
	}
	card, err := Open(ctx, shortOnly{token})
	if err != nil {
		t.Fatal(err)
	}
	_, err = card.Enumerate(ctx)
	if !errors.Is(err, ErrNoExtended) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}
