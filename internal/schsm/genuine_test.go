package schsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/softtoken"
)

// The root decides, and the session goes on as it was.
func TestGenuine(t *testing.T) {
	ctx := context.Background()
	token, card := full(t)
	other, err := softtoken.New(softtoken.Options{})
	if err != nil {
		t.Fatal(err)
	}
	verified := count(token, 0x20, true)
	root, err := card.Genuine(ctx, token.Roots())
	if err != nil || root.Kind != cvc.RootSoftware {
		t.Fatalf("%+v, %v", root, err)
	}
	if *verified != 1 {
		t.Errorf("logged in again %d times", *verified)
	}
	if err := card.WriteFile(ctx, 0xCF01, []byte{1}); err != nil {
		t.Errorf("the session afterwards: %v", err)
	}
	if *verified != 1 {
		t.Error("the login was not there any more")
	}
	for name, roots := range map[string][]cvc.Root{"the vendor's": cvc.VendorRoots(), "none": nil, "another token's": other.Roots()} {
		if _, err := card.Genuine(ctx, roots); !errors.Is(err, ErrNotGenuine) {
			t.Errorf("%s: %v", name, err)
		}
		if err := card.WriteFile(ctx, 0xCF01, []byte{1}); err != nil {
			t.Errorf("the session afterwards: %v", err)
		}
	}
}

// Without a login it needs none and makes none.
func TestGenuineWithoutLogin(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	if _, err := card.Genuine(ctx, token.Roots()); err != nil {
		t.Fatal(err)
	}
	if _, err := card.Enumerate(ctx); err != nil {
		t.Error(err)
	}
}

// impostor shows the certificate of another token, and answers the rest itself.
type impostor struct {
	apdu.Transmitter
	certificate []byte
	sent        []byte // instructions
}

func (i *impostor) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	i.sent = append(i.sent, command[1])
	if command[1] == 0xB1 && command[2] == 0x2F && command[3] == 0x02 {
		at := min(int(command[7])<<8|int(command[8]), len(i.certificate))
		part := i.certificate[at:min(at+256, len(i.certificate))]
		return append(bytes.Clone(part), 0x90, 0x00), nil
	}
	return i.Transmitter.Transmit(ctx, command)
}

// A token that shows a real certificate without having its key is refused.
func TestImpostor(t *testing.T) {
	ctx := context.Background()
	real, err := softtoken.New(softtoken.Options{Serial: "SOFT0200001"})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := Open(ctx, real)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../cvc/testdata/DENK0404144.2f02.hex")
	if err != nil {
		t.Fatal(err)
	}
	hardware, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		serial      string
		certificate []byte
		roots       []cvc.Root
	}{
		{"SOFT0200001", shown.Certificate(), real.Roots()},
		{"DENK0404144", hardware, cvc.VendorRoots()},
	} {
		fake, card := newToken(t, softtoken.Options{Serial: "SOFT0200066"})
		setUp(t, card)
		i := &impostor{Transmitter: fake, certificate: c.certificate}
		card, err := Open(ctx, i)
		if err != nil || card.Serial() != c.serial {
			t.Fatalf("%q, %v", card.Serial(), err)
		}
		if err := card.Login(ctx, testPIN(), false); err != nil {
			t.Fatal(err)
		}
		_, err = card.Genuine(ctx, c.roots)
		if !errors.Is(err, ErrNotGenuine) || !strings.Contains(err.Error(), "its certificate is good, but") {
			t.Errorf("%s: %v", c.serial, err)
		}
		if err := card.WriteFile(ctx, 0xCF01, []byte{1}); err != nil {
			t.Errorf("the session afterwards: %v", err)
		}
		if card.proven != nothingShown {
			t.Error("a refused token is taken for proven")
		}
	}
}

// Once a token was proven, one that merely shows its certificate is noticed
// whenever the token was out of sight, and gets no PIN and no share.
func TestImpostorAfterwards(t *testing.T) {
	ctx := context.Background()
	token, _ := full(t)
	s := &slot{in: token}
	card, err := Open(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Login(ctx, testPIN(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := card.Genuine(ctx, token.Roots()); err != nil {
		t.Fatal(err)
	}
	fake, second := newToken(t, softtoken.Options{})
	if err := second.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1}); err != nil {
		t.Fatal(err)
	}
	i := &impostor{Transmitter: fake, certificate: card.Certificate()}
	s.put(i)
	for range 2 {
		if _, err := card.LoadShare(ctx, 0, testShare()); !errors.Is(err, ErrOtherToken) {
			t.Error(err)
		}
	}
	for _, ins := range []byte{0x20, 0x52} {
		if slices.Contains(i.sent, ins) {
			t.Errorf("the impostor was sent %02X", ins)
		}
	}
	s.put(token)
	if err := card.WriteFile(ctx, 0xCF01, []byte{1}); err != nil {
		t.Errorf("the right one, put back: %v", err)
	}
}

// answering gives chosen answers to some instructions.
type answering struct {
	apdu.Transmitter
	answers map[byte][]byte
}

func (a answering) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if b, ok := a.answers[command[1]]; ok {
		return bytes.Clone(b), nil
	}
	return a.Transmitter.Transmit(ctx, command)
}

// Whatever stands in the way of chip authentication is a verdict, not a panic
// and not a pass.
func TestChipAnswers(t *testing.T) {
	ctx := context.Background()
	token, _ := full(t)
	for name, answers := range map[string]map[byte][]byte{
		"no environment":        {0x22: unhex(t, "6A80")},
		"6D00":                  {0x86: unhex(t, "6D00")},
		"no answer data":        {0x86: unhex(t, "9000")},
		"another tag":           {0x86: unhex(t, "7D 14 81 08 0000000000000000 82 08 0000000000000000 9000")},
		"children do not parse": {0x86: unhex(t, "7C 02 81 08 9000")},
		"no token":              {0x86: unhex(t, "7C 0A 81 08 0000000000000000 9000")},
		"no nonce":              {0x86: unhex(t, "7C 0A 82 08 0000000000000000 9000")},
		"short token":           {0x86: unhex(t, "7C 0E 81 08 0000000000000000 82 02 0000 9000")},
		"wrong token":           {0x86: unhex(t, "7C 14 81 08 0000000000000000 82 08 0000000000000000 9000")},
	} {
		card, err := Open(ctx, answering{token, answers})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := card.Genuine(ctx, token.Roots()); !errors.Is(err, ErrNotGenuine) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A device certificate over an RSA key holds no curve to authenticate on.
func TestDeviceKeyWithoutCurve(t *testing.T) {
	ctx := context.Background()
	c := curve.ByName("brainpoolP256r1")
	signer := func(d []byte) func([]byte) ([]byte, error) {
		return func(body []byte) ([]byte, error) {
			digest := sha256.Sum256(body)
			r, s, err := c.Sign(rand.Reader, d, digest[:])
			if err != nil {
				return nil, err
			}
			out := make([]byte, 64)
			r.FillBytes(out[:32])
			s.FillBytes(out[32:])
			return out, nil
		}
	}
	rootD, rootX, rootY, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	caD, caX, caY, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	issuer, err := cvc.Build(cvc.Template{CAR: "TESTROOT00001", CHR: "TESTCA0000001", Key: &pubkey.Key{Curve: c, X: caX, Y: caY}, Inherited: true, Role: cvc.RoleIssuer, From: from, To: from}, signer(rootD))
	if err != nil {
		t.Fatal(err)
	}
	n := new(big.Int).Lsh(big.NewInt(1), 1023)
	device, err := cvc.Build(cvc.Template{CAR: "TESTCA0000001", CHR: "TEST000000100000", Key: &pubkey.Key{RSA: &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}}, Role: cvc.RoleDevice, From: from, To: from}, signer(caD))
	if err != nil {
		t.Fatal(err)
	}
	fake, _ := newToken(t, softtoken.Options{})
	card, err := Open(ctx, &impostor{Transmitter: fake, certificate: append(device, issuer...)})
	if err != nil {
		t.Fatal(err)
	}
	roots := []cvc.Root{{CHR: "TESTROOT00001", Kind: cvc.RootTest, Key: &pubkey.Key{Curve: c, X: rootX, Y: rootY}}}
	if _, err := card.Genuine(ctx, roots); !errors.Is(err, ErrNotGenuine) || !strings.Contains(err.Error(), "curve") {
		t.Error(err)
	}
}

// The commands of chip authentication, byte for byte (fact sheet §2.11).
func TestChipAuthenticationBytes(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	s := &slot{in: token}
	card.t = s
	if _, err := card.Genuine(ctx, token.Roots()); err != nil {
		t.Fatal(err)
	}
	if len(s.sent) != 4 {
		t.Fatalf("%d commands", len(s.sent))
	}
	if want := unhex(t, "00 22 41 A4 0C 80 0A 04007F00070202030202"); !bytes.Equal(s.sent[1], want) {
		t.Errorf("%X, want %X", s.sent[1], want)
	}
	general := s.sent[2]
	if want := unhex(t, "00 86 00 00 45 7C 43 80 41 04"); !bytes.HasPrefix(general, want) || len(general) != 4+1+69+1 || general[len(general)-1] != 0 {
		t.Errorf("%X", general)
	}
	if want := unhex(t, selectBytes); !bytes.Equal(s.sent[3], want) {
		t.Errorf("%X, want %X", s.sent[3], want)
	}
}
