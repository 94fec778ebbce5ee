package backup

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// newTokenWith is newToken with all options.
func newTokenWith(t testing.TB, o softtoken.Options) (*softtoken.Token, *schsm.Card) {
	t.Helper()
	token := fresh(t, o)
	return token, openCard(t, token)
}

// importRSA4096 puts the RSA-4096 key of the test data onto a token.
func importRSA4096(t testing.TB, card *schsm.Card, share *dkek.Share, reference byte) {
	t.Helper()
	ctx := context.Background()
	text, err := os.ReadFile(filepath.Join("..", "internal", "schsm", "testdata", "rsa4096.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	r, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private, err := dkek.NewRSA(r)
	if err != nil {
		t.Fatal(err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := key.Seal(private, dkek.SealOptions{CRT: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Unwrap(ctx, reference, blob); err != nil {
		t.Fatal(err)
	}
	d := pkcs15.KeyDescription{Kind: pkcs15.RSA, Label: "SSH CA", ID: []byte{reference}, Bits: 4096, Reference: int(reference), Usage: pkcs15.DefaultUsage(pkcs15.RSA)}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(reference), d.Encode()); err != nil {
		t.Fatal(err)
	}
}

// A reader that cuts commands at 1014 bytes and says nothing: the largest key
// is proven and restored through it.
func TestReaderThatCuts(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	share := newShare(t, 1)
	_, card := newTokenWith(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001", ReaderCut: 1014, CRTExport: true})
	initToken(t, card, cat, share)
	importRSA4096(t, card, share, 1)
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || !r.Complete() || len(r.Snapshot.Keys[0].Blob) < 1800 {
		t.Fatalf("%+v, %v", r, err)
	}
	_, spare := newTokenWith(t, softtoken.Options{Firmware: "3.6", Serial: "SOFT0400001", ReaderCut: 1014})
	initToken(t, spare, cat, share)
	if report := restoreAll(t, spare, cat, r.Snapshot); !report.Complete() || report.Keys[0].Proof != store.ProofRestored {
		t.Errorf("%+v", report.Keys)
	}
}

// shortReader cuts the extended length off and says nothing.
type shortReader struct{ apdu.Transmitter }

func (s shortReader) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if c, err := apdu.Parse(command); err == nil && c.IsExtended() {
		return []byte{0x67, 0x00}, nil
	}
	return s.Transmitter.Transmit(ctx, command)
}

// A reader without extended APDUs is refused in one line, before anything.
func TestReaderWithoutExtended(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	token, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "one", []byte{1})
	card = openWay(t, shortReader{token})
	_, err := Take(ctx, card)
	if !errors.Is(err, schsm.ErrNoExtended) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	if _, err := Run(ctx, card, cat, Options{}); !errors.Is(err, schsm.ErrNoExtended) || fail.ClassOf(err) != fail.Failed {
		t.Errorf("%v", err)
	}
	if _, _, err := Initialise(ctx, card, cat, SetUp{}); !errors.Is(err, schsm.ErrNoExtended) || fail.ClassOf(err) != fail.Failed {
		t.Errorf("%v", err)
	}
}

// INITIALIZE answers after the reader gave up. Done or not done, the token is
// looked at, the shares follow if it was, and it is sent once.
func TestSlowInitialise(t *testing.T) {
	ctx := context.Background()
	errReader := errors.New("no answer from the token")
	for _, c := range []struct {
		name  string
		lost  error
		stage softtoken.Stage
		class fail.Class
		ok    bool
	}{
		{"done", errReader, softtoken.After, fail.Failed, true},
		{"done, seemed pulled", apdu.ErrGone, softtoken.After, fail.Failed, true},
		{"not done", errReader, softtoken.Before, fail.Failed, false},
	} {
		cat := newCatalog(t)
		token, card := newToken(t, "3.5", "SOFT0200001")
		share := newShare(t, 1)
		sent, silent := 0, 15
		token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
			switch {
			case cmd.INS == 0x50 && len(cmd.Data) > 0:
				if s == softtoken.Before {
					sent++
				}
				if s == c.stage {
					return 0, fmt.Errorf("test: %w", c.lost)
				}
			case sent > 0 && s == softtoken.Before && silent > 0:
				silent--
				return 0, fmt.Errorf("test: %w", c.lost)
			}
			return 0, nil
		})
		kcvs, _, err := Initialise(ctx, card, cat, SetUp{
			Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Label: "ssh"},
			Sets:           []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}, MinSOTries: DefaultSOFloor,
		})
		if sent != 1 || (err == nil) != c.ok || err != nil && fail.ClassOf(err) != c.class {
			t.Errorf("%s: sent %d times, %v", c.name, sent, err)
			continue
		}
		token.SetFault(nil)
		inv, err := Take(ctx, openCard(t, token))
		if err != nil || inv.Initialised != c.ok || c.ok && (inv.Label != "ssh" || len(kcvs) != 1 || kcvOf(t, card) != kcvs[0].String() || inv.SOPIN.Tries != 15) {
			t.Errorf("%s: %+v, %v", c.name, inv, err)
		}
	}
}

// 6A84 until the garbage is collected is no full token; for ever it is one, and
// the keys that did fit are restored.
func TestGarbageFirst(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	for _, c := range []struct {
		times    int
		complete bool
	}{{2, true}, {1 << 20, false}} {
		token, card := newToken(t, "3.6", "SOFT0400001")
		initToken(t, card, cat, newShare(t, 1))
		times := 0
		token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
			if s == softtoken.Before && cmd.INS == 0x74 && cmd.P1 == 2 && times < c.times {
				times++
				return apdu.NoMemory, nil
			}
			return 0, nil
		})
		r := restoreAll(t, card, cat, s)
		if r.Complete() != c.complete || !r.Keys[0].OK || r.Keys[1].OK != c.complete {
			t.Errorf("%d times: %+v", c.times, r.Keys)
		}
		if !c.complete {
			if times > 4 || r.Keys[1].Reason != "the token is full" {
				t.Errorf("sent %d times: %s", times, r.Keys[1].Reason)
			}
			token.SetFault(nil)
			if inv, err := Take(ctx, card); err != nil || len(inv.Keys) != 1 {
				t.Errorf("%+v, %v", inv, err)
			}
		}
	}
}

// Any one command is answered 6F00, in a backup and in a restore. Nothing is
// called done that is not, and the next run finishes.
func TestInternalErrorAtEveryCommand(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	share := newShare(t, 1)
	hit := func(token *softtoken.Token, n int) *bool {
		reached := new(bool)
		token.SetFault(func(s softtoken.Stage, i int, _ apdu.Command) (apdu.SW, error) {
			if s == softtoken.Before && i == n {
				*reached = true
				return apdu.Internal, nil
			}
			return 0, nil
		})
		return reached
	}
	points := 0
	for n := 1; ; n++ {
		token, card, cat := oneKey(t)
		reached := hit(token, n)
		r, err := Run(ctx, card, cat, Options{})
		token.SetFault(nil)
		if !*reached {
			break
		}
		points++
		if err == nil && r.Complete() {
			if inv, err := Take(ctx, card); err != nil || len(r.Snapshot.Keys) != 1 || len(r.Snapshot.Keys[0].Blob) == 0 || len(inv.Keys) != 1 {
				t.Fatalf("command %d: called complete: %+v, %v", n, r.Snapshot.Keys, err)
			}
			continue
		}
		if r, err = Run(ctx, login(t, token), cat, Options{}); err != nil || !r.Complete() || undescribed(t, card) != 0 {
			t.Fatalf("command %d: the next run: %v", n, err)
		}
	}
	cat, s, _ := twoKeys(t)
	spare, card := newToken(t, "3.6", "SOFT0400001")
	initToken(t, card, nil, share)
	for n := 1; ; n++ {
		token := spare.Clone()
		card := login(t, token)
		o := RestoreOptions{Journal: cat.Journal()}
		p, err := MakePlan(ctx, card, s, o)
		if err != nil {
			t.Fatal(err)
		}
		reached := hit(token, n)
		r, err := Restore(ctx, card, nil, p, o)
		if !*reached {
			break
		}
		points++
		card = login(t, token)
		inv, terr := Take(ctx, card)
		if terr != nil {
			t.Fatal(terr)
		}
		whole := len(inv.Keys) == 2 && inv.Keys[0].Label == s.Keys[0].Label && inv.Keys[1].Label == s.Keys[1].Label
		if err == nil && r.Complete() && !whole {
			t.Fatalf("command %d: called complete with %+v", n, inv.Keys)
		}
		if r := restoreAll(t, card, cat, s); !r.Complete() {
			t.Fatalf("command %d: the next run: %+v", n, r.Keys)
		}
	}
	t.Logf("%d points", points)
}

// Another program resets the token in the middle of the login: it is repeated
// once, and no try is spent.
func TestResetDuringLogin(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	token, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "one", []byte{1})
	token.Reset()
	card = openCard(t, token)
	resets, sent := 0, 0
	token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
		if s == softtoken.Before && cmd.INS == 0x20 && len(cmd.Data) > 0 {
			if sent++; resets == 0 {
				resets++
				return 0, apdu.ErrReset
			}
		}
		return 0, nil
	})
	if err := card.Login(ctx, userPIN(), false); err != nil || sent != 2 {
		t.Fatalf("sent %d times, %v", sent, err)
	}
	token.SetFault(nil)
	if r, err := Run(ctx, card, cat, Options{}); err != nil || !r.Complete() || r.Snapshot.Token.PINTries != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

// swap is a reader in which one token is changed for another before a command;
// the reader says that there was a reset, no more.
type swap struct {
	*softtoken.Token
	other *softtoken.Token
	n, at int
}

func (s *swap) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if s.n++; s.n == s.at {
		s.Token = s.other
		s.Token.Reset()
		return nil, apdu.ErrReset
	}
	return s.Token.Transmit(ctx, command)
}

// A token is changed for another with the same label and PIN between any two
// commands of a backup or a restore. The other is noticed and left alone.
func TestSwappedToken(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	share := newShare(t, 1)
	contents := func(token *softtoken.Token) string {
		inv, err := Take(ctx, openCard(t, token))
		if err != nil {
			t.Fatal(err)
		}
		out := inv.Serial
		for _, k := range inv.Keys {
			out += fmt.Sprintf(" %d %x %x", k.Reference, k.Description, k.Certificate)
		}
		return out
	}
	pair := func(firmware string, keys bool) (*softtoken.Token, *softtoken.Token) {
		var list []*softtoken.Token
		for _, serial := range []string{"SOFT0200001", "SOFT0200002"} {
			token, card := newToken(t, firmware, serial)
			initToken(t, card, nil, share)
			if keys {
				generate(t, card, 1, "P-256", "one", []byte{1})
			}
			list = append(list, token)
		}
		return list[0], list[1]
	}
	begin := func(a, b *softtoken.Token, at int) (*schsm.Card, *swap) {
		s := &swap{Token: a, other: b}
		card := openWay(t, s)
		if err := card.Login(ctx, userPIN(), false); err != nil {
			t.Fatal(err)
		}
		s.n, s.at = 0, at
		return card, s
	}
	points := 0
	for n := 1; ; n++ {
		a, b := pair("3.5", true)
		before := contents(b)
		card, s := begin(a, b, n)
		cat := newCatalog(t)
		_, err := Run(ctx, card, cat, Options{})
		if s.n < n {
			break
		}
		points++
		if !errors.Is(err, schsm.ErrOtherToken) || contents(b) != before {
			t.Fatalf("backup, command %d: %v, the other token was %s, is %s", n, err, before, contents(b))
		}
	}
	cat, snap, _ := twoKeys(t)
	for n := 1; ; n++ {
		a, b := pair("3.6", false)
		before := contents(b)
		card, s := begin(a, b, 0)
		o := RestoreOptions{Journal: cat.Journal()}
		p, err := MakePlan(ctx, card, snap, o)
		if err != nil {
			t.Fatal(err)
		}
		s.n, s.at = 0, n
		_, err = Restore(ctx, card, nil, p, o)
		if s.n < n {
			break
		}
		points++
		if !errors.Is(err, schsm.ErrOtherToken) || contents(b) != before {
			t.Fatalf("restore, command %d: %v, the other token was %s, is %s", n, err, before, contents(b))
		}
	}
	t.Logf("%d points", points)
}

// Firmware 3.1 exports keys with a list of allowed algorithms and cannot take
// them back: the round trip says so, the blob is good all the same, and a token
// of that firmware is told apart as a target.
func TestFirmware31(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.1", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "free", []byte{1})
	spec := cvc.KeySpec{CAR: "UTCA00001", CHR: "SOFT020000100001", Curve: curve.ByName("P-256"), Algorithms: []byte{0x70, 0x80, 0x92}}
	if _, err := card.Generate(ctx, 2, spec); err != nil {
		t.Fatal(err)
	}
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Complete() || r.Keys[0].Coverage != Covered || r.Keys[1].Coverage != Unproven || !strings.Contains(r.Keys[1].Reason, "3.1") {
		t.Fatalf("%+v, %v", r.Keys, err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := VerifyOffline(ctx, cat, []*store.Snapshot{r.Snapshot}, key, Options{}); err != nil || !v.OK() || coverageOf(t, card, cat)[1].Coverage != Covered {
		t.Errorf("offline: %+v, %v", v, err)
	}
	_, same := newToken(t, "3.1", "SOFT0200002")
	initToken(t, same, cat, share)
	if p, err := MakePlan(ctx, same, r.Snapshot, RestoreOptions{}); err != nil || p.Items[0].Action != New || p.Items[1].Action != DoesNotFit || !strings.Contains(p.Items[1].Reason, "3.1") {
		t.Errorf("%+v, %v", p.Items, err)
	}
	_, newer := newToken(t, "3.5", "SOFT0400001")
	initToken(t, newer, cat, share)
	if report := restoreAll(t, newer, cat, r.Snapshot); !report.Complete() {
		t.Errorf("%+v", report.Keys)
	}
}

// An HSM 1 takes no RSA-4096, no AES and, as it is said, no file of more than 256
// bytes: the plan names what does not fit, the rest is restored, and of what the
// token refuses nothing stays.
func TestOldTokenAsTarget(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	importRSA4096(t, card, share, 1)
	generate(t, card, 2, "P-256", "a long request", []byte{2})
	if err := card.GenerateAES(ctx, 3, 128, []byte{0x10, 0x11, 0x92}); err != nil {
		t.Fatal(err)
	}
	generate(t, card, 4, "P-256", "no request", []byte{4})
	if err := card.DeleteFile(ctx, schsm.CertificateFile(4)); err != nil {
		t.Fatal(err)
	}
	short, long := bytes.Repeat([]byte("note "), 50), bytes.Repeat([]byte("note "), 100)
	for f, content := range map[schsm.FID][]byte{0xCF00: short, 0xCF01: long, 0xCD02: short, 0xCD03: long} {
		if err := card.WriteFile(ctx, f, content); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || !r.Complete() {
		t.Fatalf("%+v, %v", r, err)
	}
	if n := len(r.Snapshot.Keys[1].Certificate); n <= 256 {
		t.Fatalf("a request of %d bytes is no test", n)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	restore := func(s *store.Snapshot, serial string) (*RestoreReport, *Inventory) {
		t.Helper()
		_, old := newTokenWith(t, softtoken.Options{Firmware: "2.6", Serial: serial, MaxFile: 256})
		initToken(t, old, cat, share)
		o := RestoreOptions{Journal: cat.Journal(), OpenData: key.OpenData}
		var report *RestoreReport
		for range 2 { // a second run finds nothing to mend
			p, err := MakePlan(ctx, old, s, o)
			if err != nil || p.Resumed {
				t.Fatalf("resumed: %v, %v", p.Resumed, err)
			}
			if report, err = Restore(ctx, old, cat, p, o); err != nil || report.Complete() {
				t.Fatalf("%+v, %v", report, err)
			}
			for i, item := range p.Items {
				if report.Keys[i].OK != (item.Key.Reference == 4) {
					t.Errorf("key %d: %s, %+v", item.Key.Reference, item.Action, report.Keys[i])
				}
			}
		}
		inv, err := Take(ctx, old)
		if err != nil {
			t.Fatal(err)
		}
		if len(inv.Keys) != 1 || inv.Keys[0].Label != "no request" || len(inv.Files) != 1 || !bytes.Equal(inv.Files[0].Content, short) || len(inv.Unread) != 1 || inv.Unread[0] != 0xCD02 {
			t.Errorf("%s holds %+v, %+v, %v", serial, inv.Keys, inv.Files, inv.Unread)
		}
		return report, inv
	}
	report, _ := restore(r.Snapshot, "SOFT0100001")
	for i, want := range []string{"2.6 takes RSA keys of up to 2048 bits", "request has", "2.6 has no AES", ""} {
		item := report.Plan.Items[i]
		if (item.Action == DoesNotFit) != (want != "") || !strings.Contains(item.Reason, want) {
			t.Errorf("key %d: %s, %s", i+1, item.Action, item.Reason)
		}
	}
	for _, f := range report.Plan.Files {
		if long := f.FID == 0xCF01; (f.Action == DoesNotFit) != long || long && !strings.Contains(f.Reason, "500 bytes") {
			t.Errorf("file %s: %s, %s", f.FID, f.Action, f.Reason)
		}
	}
	for _, f := range report.Files {
		if f.OK != (f.FID == 0xCF00 || f.FID == 0xCD02) || !f.OK && f.Reason == "" {
			t.Errorf("file %s: %v, %s", f.FID, f.OK, f.Reason)
		}
	}

	// What was on a token as old is tried: only this one refuses it.
	s := *r.Snapshot
	s.Token.Firmware = "2.6"
	report, _ = restore(&s, "SOFT0100002")
	if item := report.Plan.Items[1]; item.Action != New || !strings.Contains(report.Keys[1].Reason, "CE02") || !strings.Contains(report.Keys[1].Reason, "deleted again") {
		t.Errorf("%+v, %+v", item, report.Keys[1])
	}
	for _, f := range report.Files {
		if f.FID == 0xCF01 && (f.Action != New || f.OK || f.Reason == "") {
			t.Errorf("%+v", f)
		}
	}
}

// A token that refuses to delete what it did not take keeps it, and is said to;
// the next run takes it up.
func TestRefusedAndKept(t *testing.T) {
	cat, s, _ := twoKeys(t)
	token, card := newToken(t, "3.6", "SOFT0400001")
	initToken(t, card, cat, newShare(t, 1))
	token.SetFault(func(stage softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
		if stage == softtoken.Before && (cmd.INS == 0xD7 && cmd.P1 == 0xCE || cmd.INS == 0xE4) {
			return apdu.Internal, nil
		}
		return 0, nil
	})
	r := restoreAll(t, card, cat, s)
	for _, k := range r.Keys {
		if k.OK || !strings.Contains(k.Reason, "is still there") {
			t.Errorf("%+v", k)
		}
	}
	token.SetFault(nil)
	if r := restoreAll(t, card, cat, s); !r.Complete() || r.Plan.Items[0].Action != Repair {
		t.Errorf("%+v, %+v", r.Plan.Items, r.Keys)
	}
}
