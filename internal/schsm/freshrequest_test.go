package schsm

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/softtoken"
)

// withoutChip is a token that knows no chip authentication, set up and logged
// in.
func withoutChip(t testing.TB) (*softtoken.Token, *Card) {
	t.Helper()
	token, card := newToken(t, softtoken.Options{Serial: "SOFT0200001", NoChipAuth: true})
	setUp(t, card)
	return token, card
}

func fids(t testing.TB, card *Card) []FID {
	t.Helper()
	list, err := card.Enumerate(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// Without chip authentication a fresh request shows the device key, and leaves
// nothing behind.
func TestGenuineByRequest(t *testing.T) {
	ctx := context.Background()
	token, card := withoutChip(t)
	before := fids(t, card)
	if _, err := card.Genuine(ctx, token.Roots()); !errors.Is(err, ErrNoPossession) || !errors.Is(err, ErrNotGenuine) {
		t.Fatalf("chip authentication: %v", err)
	}
	for range 2 {
		root, err := card.GenuineByRequest(ctx, token.Roots(), 200, nil)
		if err != nil || root.Kind != cvc.RootSoftware {
			t.Fatalf("%+v, %v", root, err)
		}
		if now := fids(t, card); !slices.Equal(now, before) {
			t.Errorf("left behind: %v, before %v", now, before)
		}
	}
	if err := card.WriteFile(ctx, 0xCF01, []byte{1}); err != nil {
		t.Errorf("the session afterwards: %v", err)
	}
	if _, err := card.GenuineByRequest(ctx, cvc.VendorRoots(), 200, nil); !errors.Is(err, ErrNotGenuine) || errors.Is(err, ErrNoPossession) {
		t.Errorf("another root: %v", err)
	}
}

// A request that anybody could show is none: the certificate alone, an old
// request of the right token, one that was altered, none at all.
func TestFreshRequestRefused(t *testing.T) {
	ctx := context.Background()
	real, card := withoutChip(t)
	old, err := card.Generate(ctx, 7, cvc.KeySpec{CAR: "UTCA00001", CHR: "HSMBAAAAAAAAAAAA", Curve: curve.ByName("P-256")})
	if err != nil {
		t.Fatal(err)
	}
	if !IsProofRequest(old) {
		t.Error("the name of a proof is not recognised")
	}
	good := []byte{0x90, 0x00}
	for name, way := range map[string]func(fake *softtoken.Token) apdu.Transmitter{
		"a key of its own": func(fake *softtoken.Token) apdu.Transmitter { return fake },
		"an old request": func(fake *softtoken.Token) apdu.Transmitter {
			return answering{fake, map[byte][]byte{0x46: append(bytes.Clone(old), good...)}}
		},
		"refusal": func(fake *softtoken.Token) apdu.Transmitter {
			return answering{fake, map[byte][]byte{0x46: {0x69, 0x85}}}
		},
		"no request": func(fake *softtoken.Token) apdu.Transmitter {
			return answering{fake, map[byte][]byte{0x46: {0x04, 0x01, 0x00, 0x90, 0x00}}}
		},
		"another device's name": func(fake *softtoken.Token) apdu.Transmitter { return renamed{fake} },
	} {
		fake, _ := newToken(t, softtoken.Options{Serial: "SOFT0200066", NoChipAuth: true})
		card := open(t, &impostor{Transmitter: way(fake), certificate: certificateOf(t, real)})
		setUp(t, card)
		before := fids(t, card)
		_, err := card.GenuineByRequest(ctx, real.Roots(), 200, nil)
		if !errors.Is(err, ErrNoPossession) || card.proven != nothingShown {
			t.Errorf("%s: %v", name, err)
		}
		if now := fids(t, card); !slices.Equal(now, before) {
			t.Errorf("%s left behind: %v", name, now)
		}
	}
}

// renamed puts the name of the device that is impersonated where the fake's
// stands in its requests.
type renamed struct{ apdu.Transmitter }

func (r renamed) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	b, err := r.Transmitter.Transmit(ctx, command)
	return bytes.ReplaceAll(b, []byte("SOFT020006600000"), []byte("SOFT020000100000")), err
}

func open(t testing.TB, way apdu.Transmitter) *Card {
	t.Helper()
	card, err := Open(context.Background(), way)
	if err != nil {
		t.Fatal(err)
	}
	return card
}

func certificateOf(t testing.TB, token *softtoken.Token) []byte {
	t.Helper()
	return open(t, token).Certificate()
}

// A token that can make no key now is not thereby an impostor, but shows
// nothing.
func TestFreshRequestImpossible(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{NoChipAuth: true})
	try := func(when string) {
		t.Helper()
		if _, err := card.GenuineByRequest(ctx, token.Roots(), 200, nil); !errors.Is(err, ErrNoPossession) || !strings.Contains(err.Error(), "it makes no key") {
			t.Errorf("%s: %v", when, err)
		}
	}
	try("not initialised")
	if err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1}); err != nil {
		t.Fatal(err)
	}
	try("shares missing")
	if _, err := card.LoadShare(ctx, 0, testShare()); err != nil {
		t.Fatal(err)
	}
	card = open(t, token)
	try("not logged in")
}

// What showed itself by a request and was out of sight since gets nothing more,
// whatever it shows: it may be another with the same certificate.
func TestOutOfSightAfterRequest(t *testing.T) {
	ctx := context.Background()
	token, err := softtoken.New(softtoken.Options{Serial: "SOFT0200001", NoChipAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &slot{in: token}
	card := open(t, s)
	one := Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), NoDKEK: true}
	if err := card.Initialise(ctx, one); err != nil {
		t.Fatal(err)
	}
	if _, err := card.GenuineByRequest(ctx, token.Roots(), 200, nil); err != nil {
		t.Fatal(err)
	}
	// What this program does to the session itself is not out of sight.
	one.NoDKEK, one.Shares = false, 2
	if err := card.Initialise(ctx, one); err != nil {
		t.Fatal(err)
	}
	if _, err := card.LoadShare(ctx, 0, testShare()); err != nil {
		t.Fatal(err)
	}
	fake, second := newToken(t, softtoken.Options{NoChipAuth: true})
	if err := second.Initialise(ctx, one); err != nil {
		t.Fatal(err)
	}
	i := &impostor{Transmitter: fake, certificate: card.Certificate()}
	s.put(i)
	for range 2 {
		if _, err := card.LoadShare(ctx, 0, testShare()); !errors.Is(err, ErrUnseen) {
			t.Error(err)
		}
	}
	for _, ins := range []byte{0x20, 0x52} {
		if slices.Contains(i.sent, ins) {
			t.Errorf("the impostor was sent %02X", ins)
		}
	}
}

// Pulled at any command, the token holds nothing or what is known for what it
// is.
func TestFreshRequestInterrupted(t *testing.T) {
	ctx := context.Background()
	token, card := withoutChip(t)
	before, roots, left := fids(t, card), token.Roots(), 0
	for n := 1; ; n++ {
		for _, stage := range []softtoken.Stage{softtoken.Before, softtoken.After} {
			reached := false
			token.SetFault(func(s softtoken.Stage, i int, _ apdu.Command) (apdu.SW, error) {
				if s == stage && i == n {
					reached = true
					return 0, apdu.ErrGone
				}
				return 0, nil
			})
			_, err := card.GenuineByRequest(ctx, roots, 200, nil)
			token.SetFault(nil)
			if !reached {
				if err != nil || left < 3 {
					t.Errorf("%v; left something %d times", err, left)
				}
				return
			}
			if err == nil {
				t.Fatalf("pulled at command %d, and genuine", n)
			}
			card = open(t, token)
			if err := card.Login(ctx, testPIN(), false); err != nil {
				t.Fatal(err)
			}
			if slices.Equal(fids(t, card), before) {
				continue
			}
			left++
			if content, err := card.ReadFile(ctx, CertificateFile(200)); err != nil || !IsProofRequest(content) {
				t.Fatalf("pulled at command %d: what is left is not known: %v, %v", n, fids(t, card), err)
			}
			if err := card.DeleteProofKey(ctx, 200); err != nil || !slices.Equal(fids(t, card), before) {
				t.Fatalf("%v, %v", fids(t, card), err)
			}
		}
	}
}

// ending is a token in front of which a person ends the run as soon as a key was
// made.
type ending struct {
	*softtoken.Token
	end context.CancelFunc
}

func (e ending) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	answer, err := e.Token.Transmit(ctx, command)
	if command[1] == 0x46 {
		e.end()
	}
	return answer, err
}

// A person who ends the run leaves no key behind.
func TestFreshRequestEnded(t *testing.T) {
	token, card := withoutChip(t)
	before := fids(t, card)
	ctx, end := context.WithCancel(context.Background())
	defer end()
	card, err := Open(ctx, ending{token, end})
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Login(ctx, testPIN(), false); err != nil {
		t.Fatal(err)
	}
	_, _ = card.GenuineByRequest(ctx, token.Roots(), 200, nil) // what it says is of no matter here
	if ctx.Err() == nil {
		t.Fatal("no key was made")
	}
	if after := fids(t, open(t, token)); !slices.Equal(after, before) {
		t.Errorf("%v, was %v", after, before)
	}
}

func TestIsProofRequest(t *testing.T) {
	ctx := context.Background()
	_, card := withoutChip(t)
	for i, name := range []string{"SOFT020000100001", "HSMB", "HSMBAAAAAAAAAAA", "HSMBAAAAAAAAAAA1", "XHSMBAAAAAAAAAAA"} {
		raw, err := card.Generate(ctx, byte(i+1), cvc.KeySpec{CAR: "UTCA00001", CHR: name, Curve: curve.ByName("P-256")})
		if err != nil {
			t.Fatal(err)
		}
		if IsProofRequest(raw) {
			t.Errorf("%s is taken for a proof", name)
		}
	}
	if IsProofRequest(nil) || IsProofRequest(card.Certificate()) {
		t.Error("what is no request")
	}
}
