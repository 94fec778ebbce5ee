package main

import (
	"context"
	"crypto/rand"
	"errors"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
)

// attempts is how often something that was typed wrong may be typed again.
const attempts = 3

// patiently lets somebody at a prompt try again what was not right. Nothing was
// sent to a token yet.
func (s *setter) patiently(ctx context.Context, prompt bool, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		var own *console.Failure
		typed := errors.As(err, &own) && (own.Code == "typed-differently" || own.Code == "default-pin" || own.Code == "not-typed-back" || own.Code == "weak-password") ||
			errors.Is(err, schsm.ErrNewPIN) || errors.Is(err, schsm.ErrSOPINFormat)
		if err == nil || !typed || !prompt || n == attempts || ctx.Err() != nil {
			return err
		}
		s.Note("%s; once more", err)
	}
}

// newPIN asks for the PIN to set.
func (s *setter) newPIN(ctx context.Context, inv *backup.Inventory) (pin *secret.Bytes, err error) {
	source := s.Flags.PIN.Source
	err = s.patiently(ctx, source.Kind == "prompt", func() error {
		pin, err = s.Secrets.Read(ctx, source, "new PIN of "+s.Name()+", 6 to 15 characters", true, func(typed *secret.Bytes) error {
			if err := schsm.CheckNewPIN(typed); err != nil {
				return err
			}
			if backup.IsDefaultPIN(typed.Bytes()) && !inv.Software {
				return defaultPIN("PIN")
			}
			return nil
		})
		return err
	})
	return pin, err
}

func defaultPIN(what string) error {
	return &console.Failure{Exit: console.ExitRefused, Code: "default-pin", Message: "this " + what + " stands in the vendor's documents or is the first that anyone would try; nothing was changed", Hints: []string{"choose one that nobody knows"}}
}

// newSOPIN makes the SO-PIN and shows it, or reads it where --so-pin says. That
// of a token which has one already is asked for.
func (s *setter) newSOPIN(ctx context.Context, inv *backup.Inventory) (*secret.Bytes, error) {
	if s.Flags.SOPIN.Text == "" && inv.SOPIN.Missing {
		if !s.TTY.Available() {
			return nil, console.Usagef("give --so-pin env:NAME, file:PATH, fd:N or cmd:COMMAND", "there is no terminal to show a new SO-PIN on")
		}
		text, err := randomDigits(2 * schsm.SOPINLen)
		if err != nil {
			return nil, err
		}
		if err := s.showSOPIN(ctx, text); err != nil {
			text.Wipe()
			return nil, err
		}
		return text, nil
	}
	source := s.Flags.SOPIN.Source
	var text *secret.Bytes
	var err error
	if s.SOPIN, err = s.Send(s.t, "SO-PIN", source); err != nil {
		return nil, err
	}
	err = s.patiently(ctx, source.Kind == "prompt", func() (err error) {
		text, err = s.Secrets.Read(ctx, source, "SO-PIN of "+s.Name()+", 16 hex digits", inv.SOPIN.Missing, func(typed *secret.Bytes) error {
			if err := checkSOPINFormat(typed); err != nil {
				return err
			}
			if backup.IsDefaultSOPIN(typed.Bytes()) && !inv.Software && inv.SOPIN.Missing {
				return defaultPIN("SO-PIN")
			}
			return nil
		})
		return err
	})
	return text, err
}

// randomDigits gives n decimal digits, each as likely as any other.
func randomDigits(n int) (*secret.Bytes, error) {
	out := make([]byte, 0, n)
	var b [1]byte
	for len(out) < n {
		if _, err := rand.Read(b[:]); err != nil {
			clear(out)
			return nil, err
		}
		if b[0] < 250 { // 25 times ten
			out = append(out, '0'+b[0]%10)
		}
	}
	b[0] = 0
	return secret.New(out), nil
}

// showSOPIN shows the SO-PIN in groups of four and has it typed back.
func (s *setter) showSOPIN(ctx context.Context, text *secret.Bytes) error {
	screen := make([]byte, 0, 512)
	screen = append(screen, "The SO-PIN of "+s.Name()+", shown once. Write it down:\n\n    "...)
	for i, c := range text.Bytes() {
		if i > 0 && i%4 == 0 {
			screen = append(screen, ' ')
		}
		screen = append(screen, c)
	}
	screen = append(screen, "\n\nThere is a line for it on the sheet that is made in a moment. Keep it away from the token.\n"...)
	defer clear(screen)
	return s.shown(ctx, screen, "SO-PIN", text)
}

// shown shows a secret on the alternate screen until Enter is pressed, and has
// it typed back from what was written down; blanks do not count.
func (s *setter) shown(ctx context.Context, screen []byte, what string, want *secret.Bytes) error {
	return s.patiently(ctx, true, func() error {
		s.Progress.Close()
		typed, err := s.TTY.Screen(ctx, screen, "Press Enter when it is written down, and it goes off the screen.")
		typed.Wipe()
		if err != nil {
			return err
		}
		back, err := s.TTY.ReadSecret(ctx, "Type the "+what+" from what you have written down, to see that it is right:")
		if err != nil {
			return err
		}
		defer back.Wipe()
		if !sameWritten(back, want) {
			return &console.Failure{Exit: console.ExitFailed, Code: "not-typed-back", Message: "that is not the " + what + " that was shown", Hints: []string{"nothing was changed: run the same command again"}}
		}
		return nil
	})
}

// sameWritten compares without regard to blanks.
func sameWritten(a, b *secret.Bytes) bool {
	strip := func(s *secret.Bytes) *secret.Bytes {
		out := make([]byte, 0, s.Len())
		for _, c := range s.Bytes() {
			if c != ' ' && c != '\t' {
				out = append(out, c)
			}
		}
		return secret.New(out)
	}
	x, y := strip(a), strip(b)
	defer x.Wipe()
	defer y.Wipe()
	return x.Equal(y)
}
