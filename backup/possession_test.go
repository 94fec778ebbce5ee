package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
)

// trusting is what a test says of a software token as if its root were the
// vendor's.
func trusting(token *softtoken.Token) Trust {
	roots := token.Roots()
	for i := range roots {
		roots[i].Kind = cvc.RootProduction
	}
	return Trust{Roots: roots}
}

func withoutChip(t testing.TB) *softtoken.Token {
	t.Helper()
	return fresh(t, softtoken.Options{Serial: "SOFT0200001", NoChipAuth: true})
}

// setUpFor is an initialisation with one share.
func setUpFor(trust Trust, share *dkek.Share, slots int) SetUp {
	return SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Label: "ssh", Domains: slots},
		Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: trust}
}

// realCertificate is EF 2F02 of a token of the vendor's production.
func realCertificate(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("../internal/cvc/testdata/DENK0404144.2f02.hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// showing is a token that shows another's certificates.
type showing struct {
	*softtoken.Token
	certificate []byte
	shares      int // that it was sent
}

func (s *showing) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if command[1] == 0xB1 && command[2] == 0x2F && command[3] == 0x02 {
		at := min(int(command[7])<<8|int(command[8]), len(s.certificate))
		return append(slices.Clone(s.certificate[at:min(at+256, len(s.certificate))]), 0x90, 0x00), nil
	}
	if command[0] == 0x80 && command[1] == 0x52 && len(command) > 32 {
		s.shares++
	}
	return s.Token.Transmit(ctx, command)
}

// Which way was used is said in one line.
func TestWaysOfTrust(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, "3.6", "SOFT0200002")
	note, err := TrustToken(ctx, card, nil, "", trusting(token))
	if err != nil || !strings.Contains(note, "chip authentication shows that it holds the device key") {
		t.Errorf("%q, %v", note, err)
	}
	for _, slots := range []int{0, 2} {
		token := withoutChip(t)
		card := openCard(t, token)
		if _, err := TrustToken(ctx, card, nil, "", trusting(token)); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "nor by a fresh request: it is not initialised") {
			t.Errorf("not initialised: %v", err)
		}
		share := newShare(t, 1)
		kcvs, note, err := Initialise(ctx, card, nil, setUpFor(trusting(token), share, slots))
		if err != nil || kcvs[0].IsZero() || !strings.Contains(note, "a fresh request shows that it holds the device key") {
			t.Fatalf("%d slots: %v, %q, %v", slots, kcvs, note, err)
		}
		inv, err := Take(ctx, card)
		if err != nil || inv.holdsAnything() || inv.Label != "ssh" || slots > 0 && len(inv.Domains) != slots {
			t.Errorf("%d slots: %+v, %v", slots, inv, err)
		}
		// Later, for another key domain: with a login, and not without.
		later := trusting(token)
		card = openCard(t, token)
		if _, err := TrustToken(ctx, card, nil, "", later); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "nobody is logged in") {
			t.Errorf("%v", err)
		}
		later.Login = func(ctx context.Context) error { return card.Login(ctx, userPIN(), false) }
		if note, err := TrustToken(ctx, card, nil, "", later); err != nil || !strings.Contains(note, "a fresh request") {
			t.Errorf("%q, %v", note, err)
		}
	}
}

// While shares are missing in one key domain, a key can be made in another; in
// the only one it cannot.
func TestRequestBesideMissingShares(t *testing.T) {
	ctx := context.Background()
	for _, slots := range []int{0, 2} {
		token := withoutChip(t)
		card := openCard(t, token)
		s := setUpFor(Trust{SoftFile: true}, nil, slots)
		s.Sets[0].Shares, s.Sets[0].Load = 2, nil
		if _, _, err := Initialise(ctx, card, nil, s); err != nil {
			t.Fatal(err)
		}
		_, err := TrustToken(ctx, card, nil, "", trusting(token))
		if slots == 0 && (fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "shares of its recovery key are missing")) || slots > 0 && err != nil {
			t.Errorf("%d slots: %v", slots, err)
		}
	}
}

// A token that shows the vendor's certificates without their key gets no share
// by either way, whatever else it can do.
func TestCertificatesWithoutKey(t *testing.T) {
	ctx := context.Background()
	for _, noChip := range []bool{false, true} {
		fake, err := softtoken.New(softtoken.Options{Serial: "SOFT0200066", NoChipAuth: noChip})
		if err != nil {
			t.Fatal(err)
		}
		s := &showing{Token: fake, certificate: realCertificate(t)}
		card := openWay(t, s)
		if card.Software() || card.Serial() != "DENK0404144" {
			t.Fatal(card.Serial())
		}
		_, _, err = Initialise(ctx, card, nil, setUpFor(Trust{}, newShare(t, 1), 0))
		if fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "it was initialised, but no share was sent") {
			t.Errorf("init: %v", err)
		}
		// What it was left as can make keys.
		_, err = TrustToken(ctx, card, nil, "", Trust{})
		if fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "nor by a fresh request: ") {
			t.Errorf("both ways: %v", err)
		}
		var job *fail.Error
		if !errors.As(err, &job) || job.Code != "not-genuine" || !strings.Contains(job.Hint, "--untrusted-token DENK0404144") {
			t.Errorf("%+v", job)
		}
		if _, err := TrustToken(ctx, card, nil, "", Trust{Untrusted: "DENK0404145"}); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "names DENK0404145") {
			t.Errorf("another serial typed: %v", err)
		}
		if s.shares > 0 {
			t.Error("it was sent a share")
		}
		if note, err := TrustToken(ctx, card, nil, "", Trust{Untrusted: "DENK0404144"}); err != nil || !strings.Contains(note, "--untrusted-token names it") {
			t.Errorf("%q, %v", note, err)
		}
		if inv, err := Take(ctx, card); err != nil || inv.holdsAnything() {
			t.Errorf("left behind: %+v, %v", inv, err)
		}
	}
}

// Pulled at any command, the next run finishes, and nothing of the proof stays.
func TestProofPulledAtEveryCommand(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	share := newShare(t, 1)
	leftovers := 0
	for _, stage := range []softtoken.Stage{softtoken.Before, softtoken.After} {
		for n := 1; ; n++ {
			token := withoutChip(t)
			trust := trusting(token)
			card := openCard(t, token)
			pulled := pull(token, stage, n)
			_, _, err := Initialise(ctx, card, nil, setUpFor(trust, share, 0))
			if !*pulled {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if err == nil {
				t.Fatalf("pulled at command %d, and done", n)
			}
			token.SetFault(nil)
			token.Reset()
			card = openCard(t, token)
			if inv, err := Take(ctx, card); err != nil {
				t.Fatal(err)
			} else if inv.holdsAnything() {
				leftovers++
			}
			if kcvs, _, err := Initialise(ctx, card, nil, setUpFor(trust, share, 0)); err != nil || kcvs[0].IsZero() {
				t.Fatalf("the run after a pull at command %d: %v", n, err)
			}
			if inv, err := Take(ctx, card); err != nil || inv.holdsAnything() {
				t.Fatalf("after a pull at command %d: %+v, %v", n, inv, err)
			}
		}
	}
	if leftovers < 4 {
		t.Errorf("only %d interruptions left something", leftovers)
	}
}

// A backup clears away what an interrupted proof left, and nothing like it that
// somebody uses.
func TestBackupCleansProofKeys(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.6", "SOFT0200001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "one", []byte{1})
	public := coverageOf(t, card, nil)[0].Key.Public
	for reference, name := range map[byte]string{250: "HSMBABCDEFGHIJKL", 251: "HSMBABCDEFGHIJKL", 252: "HSMBABCDEFGHIJKL"} {
		if _, err := card.Generate(ctx, reference, cvc.KeySpec{CAR: "UTCA00001", CHR: name, Curve: public.Curve}); err != nil {
			t.Fatal(err)
		}
	}
	if err := card.DeleteFile(ctx, schsm.KeyFile(251)); err != nil { // half of it
		t.Fatal(err)
	}
	generateDescription(t, card, 252)
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || len(r.Cleaned) != 2 || len(r.Keys) != 2 || r.Keys[1].Key.Reference != 252 || len(r.Snapshot.Files) != 0 {
		t.Errorf("%v, %+v, %v", r.Cleaned, r.Keys, err)
	}
}

func generateDescription(t testing.TB, card *schsm.Card, reference byte) {
	t.Helper()
	inv, err := Take(context.Background(), card)
	if err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(context.Background(), schsm.DescriptionFile(reference), inv.at(1).description); err != nil {
		t.Fatal(err)
	}
}

// Other makers are named, with what to type; expired certificates are not even
// looked at.
func TestMakersNamed(t *testing.T) {
	ctx := context.Background()
	real := realCertificate(t)
	for from, want := range map[string]string{
		"DESRCACC100001": "a Nitrokey HSM (CardContact)",
		"UTSRCACC100001": "a test device of CardContact",
		"ESPICOHSMCA001": "a pico-hsm",
	} {
		certificate := []byte(strings.ReplaceAll(string(real), "DESRCACC100001", from))
		if from == "DESRCACC100001" { // signed by nobody
			certificate[100] ^= 1
		}
		fake, err := softtoken.New(softtoken.Options{})
		if err != nil {
			t.Fatal(err)
		}
		card := openWay(t, &showing{Token: fake, certificate: certificate})
		_, err = TrustToken(ctx, card, nil, "", Trust{})
		var job *fail.Error
		if !errors.As(err, &job) || !strings.Contains(job.Message, "it is "+want) || !strings.Contains(job.Hint, "--untrusted-token DENK0404144") {
			t.Errorf("%s: %v", from, err)
		}
	}
}

func TestTokenNotes(t *testing.T) {
	real := realCertificate(t)
	day := func(y int) time.Time { return time.Date(y, 12, 1, 0, 0, 0, 0, time.UTC) }
	notes := func(b []byte, now time.Time) string { return strings.Join(faults.TokenNotes(b, now), "\n") }
	if n := notes(real, day(2026)); n != "" {
		t.Errorf("nothing to note: %q", n)
	}
	if n := notes(real, day(2031)); n != "its device certificate expired on 2031-05-27: the token works as before, and is taken as before" {
		t.Errorf("%q", n)
	}
	if n := notes(real, day(2032)); !strings.Contains(n, "the certificate of its issuer DEDINK0400001 expired on 2032-10-29") || strings.Count(n, "\n") != 1 {
		t.Errorf("%q", n)
	}
	if n := notes([]byte(strings.ReplaceAll(string(real), "DESRCACC100001", "ESPICOHSMCA001")), day(2026)); !strings.Contains(n, "by the names in it, it is a pico-hsm") {
		t.Errorf("%q", n)
	}
	if n := notes([]byte(strings.ReplaceAll(string(real), "DESRCACC100001", "XXXXXXXXXXXXXX")), day(2026)); !strings.Contains(n, "is a Nitrokey HSM") {
		t.Errorf("%q", n)
	}
	soft, card := newToken(t, "3.6", "SOFT0200001")
	if n := notes(card.Certificate(), day(2026)); n != "" {
		t.Errorf("a software token says so itself: %q", n)
	}
	if n := notes(card.Certificate(), time.Now().AddDate(6, 0, 0)); !strings.Contains(n, "its device certificate expired") {
		t.Errorf("%q", n)
	}
	for _, b := range [][]byte{nil, {0x30, 0}} {
		if notes(b, day(2026)) == "" {
			t.Errorf("%x: nothing to note", b)
		}
	}
	// Expired is no reason to refuse: the look at who it is knows no date.
	if _, err := TrustToken(context.Background(), card, nil, "", trusting(soft)); err != nil {
		t.Error(err)
	}
}

// Only the vendor's root of production vouches for a token: whoever has one of
// the others can make tokens.
func TestOtherRootsDoNotVouch(t *testing.T) {
	token := fresh(t, softtoken.Options{Serial: "SOFT0200001"})
	for _, kind := range []string{cvc.RootProduction, cvc.RootTest, cvc.RootDevelopment, cvc.RootSoftware} {
		trust := trusting(token)
		trust.Roots[0].Kind = kind
		_, err := TrustToken(context.Background(), openCard(t, token), nil, "", trust)
		var job *fail.Error
		if kind == cvc.RootProduction && err != nil || kind != cvc.RootProduction && (!errors.As(err, &job) || job.Code != "not-genuine") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
