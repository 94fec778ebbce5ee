package schsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/softtoken"
)

// full gives a token with keys 1 (EC, counted), 2 (AES), 3 (RSA) and files.
func full(t testing.TB) (*softtoken.Token, *Card) {
	t.Helper()
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001"})
	setUp(t, card)
	uses := uint32(1 << 20)
	ec, rsa := specFor(card), specFor(card)
	ec.Curve, ec.Counter = curve.ByName("P-256"), &uses
	rsa.RSABits, rsa.RSAExponent = 1024, 65537
	for n, spec := range map[byte]cvc.KeySpec{1: ec, 3: rsa} {
		if _, err := card.Generate(ctx, n, spec); err != nil {
			t.Fatal(err)
		}
	}
	if err := card.GenerateAES(ctx, 2, 256, aesSpec); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, 0xCD01, bytes.Repeat([]byte("protected"), 100)); err != nil {
		t.Fatal(err)
	}
	return token, card
}

// operation is something that must survive what other programs do.
type operation struct {
	name string
	// run does it; it can be run again and again.
	run func(ctx context.Context, token *softtoken.Token, c *Card) error
}

func operations(t testing.TB) []operation {
	blob := func(ctx context.Context, c *Card) ([]byte, error) { return c.Wrap(ctx, 3) }
	return []operation{
		{"Confirm", func(ctx context.Context, _ *softtoken.Token, c *Card) error { return c.Confirm(ctx) }},
		{"PIN", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			s, err := c.PIN(ctx)
			if err == nil && s.Missing {
				err = errors.New("not initialised")
			}
			return err
		}},
		{"SOPIN", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			s, err := c.SOPIN(ctx)
			if err == nil && s.Tries != 15 {
				err = fmt.Errorf("%+v", s)
			}
			return err
		}},
		{"Login", func(ctx context.Context, _ *softtoken.Token, c *Card) error { return c.Login(ctx, testPIN(), false) }},
		{"PINSetUp", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			n, err := c.PINSetUp(ctx)
			if err == nil && n != 3 {
				err = fmt.Errorf("%d tries", n)
			}
			return err
		}},
		{"Domains", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			d, err := c.Domains(ctx)
			if err == nil && (len(d) != 1 || !d[0].Ready()) {
				err = fmt.Errorf("%+v", d)
			}
			return err
		}},
		{"Memory", func(ctx context.Context, _ *softtoken.Token, c *Card) error { _, err := c.Memory(ctx); return err }},
		{"Enumerate", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			f, err := c.Enumerate(ctx)
			if err == nil && !slices.Contains(f, KeyFile(3)) {
				err = fmt.Errorf("%v", f)
			}
			return err
		}},
		{"ReadFile, protected", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			b, err := c.ReadFile(ctx, 0xCD01)
			if err == nil && !bytes.Equal(b, bytes.Repeat([]byte("protected"), 100)) {
				err = fmt.Errorf("%d bytes", len(b))
			}
			return err
		}},
		{"WriteFile", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			want := bytes.Repeat([]byte{0x42}, 600)
			if err := c.WriteFile(ctx, 0xCF02, want); err != nil {
				return err
			}
			got, err := c.ReadFile(ctx, 0xCF02)
			if err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("%d bytes", len(got))
			}
			return err
		}},
		{"Key and Sign", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			before, err := c.Key(ctx, 1)
			if err != nil {
				return err
			}
			if _, err := c.Sign(ctx, 1, ECDSA, make([]byte, 32)); err != nil {
				return err
			}
			after, err := c.Key(ctx, 1)
			if err == nil && *after.Counter != *before.Counter-1 {
				err = fmt.Errorf("%d uses, not one", *before.Counter-*after.Counter)
			}
			return err
		}},
		{"Decipher", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			_, err := c.Decipher(ctx, 3, RSADecrypt, make([]byte, 128))
			return err
		}},
		{"Symmetric", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			_, err := c.Symmetric(ctx, 2, AESEncrypt, make([]byte, 16))
			return err
		}},
		{"Wrap and Unwrap", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			b, err := blob(ctx, c)
			if err != nil {
				return err
			}
			if err := c.Unwrap(ctx, 9, b); err != nil {
				return err
			}
			return c.DeleteFile(ctx, KeyFile(9))
		}},
		{"Unwrap by file", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			b, err := blob(ctx, c)
			if err != nil {
				return err
			}
			if err := c.unwrapByFile(ctx, 9, b); err != nil {
				return err
			}
			return c.DeleteFile(ctx, KeyFile(9))
		}},
		{"Generate", func(ctx context.Context, _ *softtoken.Token, c *Card) error {
			spec := specFor(c)
			spec.Curve = curve.ByName("P-256")
			if _, err := c.Generate(ctx, 9, spec); err != nil {
				return err
			}
			if err := c.GenerateAES(ctx, 10, 128, aesSpec); err != nil {
				return err
			}
			return errors.Join(c.DeleteFile(ctx, KeyFile(9)), c.DeleteFile(ctx, CertificateFile(9)), c.DeleteFile(ctx, KeyFile(10)))
		}},
		{"Genuine", func(ctx context.Context, token *softtoken.Token, c *Card) error {
			_, err := c.Genuine(ctx, token.Roots())
			return err
		}},
		{"Open", func(ctx context.Context, token *softtoken.Token, _ *Card) error {
			c, err := Open(ctx, token)
			if err == nil && c.Serial() != "SOFT0200001" {
				err = errors.New(c.Serial())
			}
			return err
		}},
	}
}

// Another program resets the token before any one command of anything: the
// work goes on, no try is spent, and no use of a key is counted twice.
func TestResetAtEveryCommand(t *testing.T) {
	ctx := context.Background()
	token, card := full(t)
	roots := token.Roots()
	for _, proven := range []bool{false, true} {
		if proven {
			if _, err := card.Genuine(ctx, roots); err != nil {
				t.Fatal(err)
			}
		}
		points := 0
		for _, op := range operations(t) {
			if op.name == "Genuine" && proven {
				continue
			}
			if card.proven = nothingShown; proven {
				card.proven = byChip
			}
			for n := 1; ; n++ {
				reached := false
				token.SetFault(func(s softtoken.Stage, i int, _ apdu.Command) (apdu.SW, error) {
					if s == softtoken.Before && i == n && !reached {
						reached = true
						return 0, fmt.Errorf("test: %w", apdu.ErrReset)
					}
					return 0, nil
				})
				// operations with roots ask the token, which a fault must not
				run := op.run
				if op.name == "Genuine" {
					run = func(ctx context.Context, _ *softtoken.Token, c *Card) error {
						_, err := c.Genuine(ctx, roots)
						return err
					}
				}
				if err := run(ctx, token, card); err != nil {
					t.Fatalf("%s, reset at command %d: %v", op.name, n, err)
				}
				if !reached {
					break
				}
				points++
			}
			token.SetFault(nil)
		}
		t.Logf("proven %v: %d points", proven, points)
		if points < 50 {
			t.Errorf("only %d points", points)
		}
	}
	if n := tries(t, token); n != 3 {
		t.Errorf("%d tries are left", n)
	}
}

// A reset that Begin reports, as PC/SC does.
type resetting struct {
	*softtoken.Token
	now bool
}

func (r *resetting) Begin(context.Context) error {
	if r.now {
		r.now = false
		r.Reset()
		return fmt.Errorf("reader: %w", apdu.ErrReset)
	}
	return nil
}

// Between the commands of anything another program selects the applet, which
// ends the login, or something else (here: a power cycle that nobody reports).
func TestOtherPrograms(t *testing.T) {
	ctx := context.Background()
	for name, disturb := range map[string]func(t *testing.T, r *resetting){
		"SELECT of the applet": func(t *testing.T, r *resetting) {
			if _, err := r.Transmit(ctx, unhex(t, selectBytes)); err != nil {
				t.Fatal(err)
			}
		},
		"another applet": func(_ *testing.T, r *resetting) { r.Reset() },
		"a reset":        func(_ *testing.T, r *resetting) { r.now = true },
	} {
		t.Run(name, func(t *testing.T) {
			token, _ := full(t)
			r := &resetting{Token: token}
			card, err := Open(ctx, r)
			if err != nil {
				t.Fatal(err)
			}
			if err := card.Login(ctx, testPIN(), false); err != nil {
				t.Fatal(err)
			}
			for _, op := range operations(t) {
				if op.name == "Open" {
					continue
				}
				disturb(t, r)
				if err := op.run(ctx, token, card); err != nil {
					t.Errorf("%s: %v", op.name, err)
				}
			}
			if n := tries(t, token); n != 3 {
				t.Errorf("%d tries are left", n)
			}
		})
	}
}

// A reset within LoadShare or INITIALIZE's surroundings does not load twice.
func TestResetAroundLoadShare(t *testing.T) {
	ctx := context.Background()
	for n := 1; ; n++ {
		token, card := newToken(t, softtoken.Options{})
		if err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 2}); err != nil {
			t.Fatal(err)
		}
		reached := false
		token.SetFault(func(s softtoken.Stage, i int, _ apdu.Command) (apdu.SW, error) {
			if s == softtoken.Before && i == n {
				reached = true
				return 0, apdu.ErrReset
			}
			return 0, nil
		})
		d, err := card.LoadShare(ctx, 0, testShare())
		if err != nil || d.Outstanding != 1 {
			t.Fatalf("reset at %d: %+v, %v", n, d, err)
		}
		if !reached {
			break
		}
	}
}

// A token that is reset for ever ends in an error.
func TestEndlessResets(t *testing.T) {
	ctx := context.Background()
	token, card := full(t)
	sent := 0
	token.SetFault(func(s softtoken.Stage, _ int, _ apdu.Command) (apdu.SW, error) {
		sent++
		return 0, apdu.ErrReset
	})
	for _, op := range operations(t) {
		if op.name == "Genuine" || op.name == "Login" { // Login forgets the PIN
			continue
		}
		sent = 0
		if err := op.run(ctx, token, card); !errors.Is(err, apdu.ErrReset) {
			t.Errorf("%s: %v", op.name, err)
		}
		if sent > 20 {
			t.Errorf("%s: %d commands", op.name, sent)
		}
	}
}

// A token that is pulled gives ErrGone, nothing is repeated, and the card is of
// use again when the token comes back.
func TestGoneAtEveryCommand(t *testing.T) {
	ctx := context.Background()
	token, card := full(t)
	roots := token.Roots()
	for _, stage := range []softtoken.Stage{softtoken.Before, softtoken.After} {
		for _, op := range operations(t) {
			if op.name == "Genuine" {
				op.run = func(ctx context.Context, _ *softtoken.Token, c *Card) error {
					_, err := c.Genuine(ctx, roots)
					if errors.Is(err, ErrNotGenuine) {
						t.Errorf("pulled, and called not genuine: %v", err)
					}
					return err
				}
			}
			for n := 1; ; n++ {
				reached := false
				token.SetFault(func(s softtoken.Stage, i int, _ apdu.Command) (apdu.SW, error) {
					if reached || s == stage && i == n {
						reached = true
						return 0, fmt.Errorf("test: %w", apdu.ErrGone)
					}
					return 0, nil
				})
				err := op.run(ctx, token, card)
				token.SetFault(nil)
				if !reached {
					break
				}
				// The clean-up behind an UNWRAP is the one thing that may fail.
				if !errors.Is(err, apdu.ErrGone) {
					t.Fatalf("%s, pulled at command %d: %v", op.name, n, err)
				}
				if err := card.Login(ctx, testPIN(), false); err != nil {
					t.Fatalf("%s, pulled at command %d, back again: %v", op.name, n, err)
				}
				for _, f := range []FID{KeyFile(9), CertificateFile(9), KeyFile(10), CertificateFile(10)} {
					if err := card.DeleteFileIfThere(ctx, f); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	if n := tries(t, token); n != 3 {
		t.Errorf("%d tries are left", n)
	}
}

// slot is a reader into which different tokens are put.
type slot struct {
	in    apdu.Transmitter
	fresh bool
	sent  [][]byte
}

func (s *slot) put(in apdu.Transmitter) { s.in, s.fresh, s.sent = in, true, nil }

func (s *slot) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if s.fresh { // no transaction was asked for since
		s.fresh = false
		return nil, apdu.ErrReset
	}
	s.sent = append(s.sent, bytes.Clone(command))
	return s.in.Transmit(ctx, command)
}

func (s *slot) Begin(context.Context) error {
	if s.fresh {
		s.fresh = false
		return apdu.ErrReset
	}
	return nil
}
func (s *slot) End() error      { return nil }
func (s *slot) MaxCommand() int { return 0 }

// onlyLooked tells whether a token was asked for nothing but who it is.
func (s *slot) onlyLooked(t *testing.T, allowed ...byte) {
	t.Helper()
	for _, c := range s.sent {
		if ins := c[1]; ins != 0xA4 && ins != 0xB1 && !slices.Contains(allowed, ins) {
			t.Errorf("another token was sent %X", c[:min(5, len(c))])
		}
	}
}

// Another token in the reader gets neither the PIN nor anything else, however
// often it is tried; the right one, put back, goes on.
func TestSwappedToken(t *testing.T) {
	ctx := context.Background()
	token, _ := full(t)
	// The other one has the same label, PIN, keys: all but the certificate.
	other, _ := newToken(t, softtoken.Options{Serial: "SOFT0200002"})
	s := &slot{in: token}
	card, err := Open(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Login(ctx, testPIN(), false); err != nil {
		t.Fatal(err)
	}
	for _, op := range operations(t) {
		if op.name == "Open" || op.name == "Login" { // Login forgets the PIN
			continue
		}
		s.put(other)
		for range 3 {
			if err := op.run(ctx, token, card); !errors.Is(err, ErrOtherToken) {
				t.Errorf("%s: %v", op.name, err)
			}
		}
		s.onlyLooked(t)
		s.put(token)
		if err := op.run(ctx, token, card); err != nil {
			t.Errorf("%s, put back: %v", op.name, err)
		}
		card.proven = nothingShown // Genuine: another test
	}
	s.put(other)
	if err := card.Login(ctx, testPIN(), false); !errors.Is(err, ErrOtherToken) {
		t.Errorf("Login: %v", err)
	}
	s.onlyLooked(t)
	s.put(answerAll{0x6A, 0x82})
	if _, err := card.Enumerate(ctx); !errors.Is(err, ErrNotSmartCardHSM) {
		t.Errorf("a card of another kind: %v", err)
	}
	s.onlyLooked(t)
}

// A token without a certificate is told from one that has one.
func TestSwappedTokenWithoutCertificate(t *testing.T) {
	ctx := context.Background()
	token, _ := full(t)
	s := &slot{in: without{token}}
	card, err := Open(ctx, s)
	if err != nil || card.Serial() != "" {
		t.Fatalf("%q, %v", card.Serial(), err)
	}
	if err := card.Login(ctx, testPIN(), false); err != nil {
		t.Fatal(err)
	}
	s.put(token)
	if _, err := card.Enumerate(ctx); !errors.Is(err, ErrOtherToken) {
		t.Error(err)
	}
	s.onlyLooked(t)
}

// without is a token that shows no certificate.
type without struct{ *softtoken.Token }

func (w without) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if command[1] == 0xB1 && command[2] == 0x2F && command[3] == 0x02 {
		return []byte{0x6A, 0x82}, nil
	}
	return w.Token.Transmit(ctx, command)
}

// A swap that shows only in Confirm, because the reader did not notice it.
func TestConfirmNoticesASilentSwap(t *testing.T) {
	ctx := context.Background()
	token, _ := full(t)
	other, second := newToken(t, softtoken.Options{})
	setUp(t, second)
	s := &slot{in: token}
	card, err := Open(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	s.in, s.sent = other, nil
	if err := card.Confirm(ctx); !errors.Is(err, ErrOtherToken) {
		t.Error(err)
	}
	if _, err := card.Enumerate(ctx); !errors.Is(err, ErrOtherToken) {
		t.Errorf("the command after it: %v", err)
	}
}

// What another context does to the first: a cancelled one ends the work, and
// the next one goes on.
func TestCancelled(t *testing.T) {
	token, card := full(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, op := range operations(t) {
		if op.name == "Login" { // it forgets the PIN
			continue
		}
		if err := op.run(ctx, token, card); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", op.name, err)
		}
	}
	if err := card.Login(context.Background(), testPIN(), false); err != nil {
		t.Error(err)
	}
	// The pause for garbage collection ends with the context too.
	gcContext, cancel := context.WithCancel(context.Background())
	token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		if s == softtoken.After && c.INS == 0xD7 {
			cancel()
			return apdu.NoMemory, nil
		}
		return 0, nil
	})
	if err := card.WriteFile(gcContext, 0xCF01, []byte{1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Transactions are balanced, nested ones are one, and Begin's errors are
// passed on.
func TestTransactions(t *testing.T) {
	ctx := context.Background()
	s, card := scripted(t, "03 05")
	s.expect(step{"80 58 00 00 00 00 00", "2F02 9000"}, step{"80 58 00 00 00 00 00", "2F02 9000"})
	err := card.Transaction(ctx, func() error {
		for range 2 {
			if _, err := card.Enumerate(ctx); err != nil {
				return err
			}
		}
		return errors.New("stop")
	})
	if err == nil || err.Error() != "stop" {
		t.Error(err)
	}
	s.done()
	card.t = noBegin{s}
	if err := card.Confirm(ctx); !errors.Is(err, apdu.ErrGone) {
		t.Error(err)
	}
	if card.selected || card.loggedIn {
		t.Error("after a Begin that failed the session is believed in")
	}
	s.done()
}

type noBegin struct{ *script }

func (noBegin) Begin(context.Context) error { return apdu.ErrGone }
