package backup

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// stuck gives a token without DKEK that holds keys of several kinds.
func stuck(t testing.TB) (*softtoken.Token, *schsm.Card) {
	t.Helper()
	ctx := context.Background()
	token, card := newToken(t, "3.5", "SOFT0200001")
	if _, _, err := Initialise(ctx, card, nil, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), NoDKEK: true}}); err != nil {
		t.Fatal(err)
	}
	generate(t, card, 1, "RSA-1024", "SSH CA", []byte{1})
	generate(t, card, 4, "P-384", "SSH HSM", []byte{2, 3})
	if err := card.GenerateAES(ctx, 5, 192, []byte{0x10, 0x11}); err != nil {
		t.Fatal(err)
	}
	d := pkcs15.KeyDescription{Kind: pkcs15.AES, Label: "disk", ID: []byte{5}, Bits: 192, Usage: pkcs15.Encrypt}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(5), d.Encode()); err != nil {
		t.Fatal(err)
	}
	return token, card
}

func take(t testing.TB, card *schsm.Card) *Inventory {
	t.Helper()
	inv, err := Take(context.Background(), card)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func planRotation(t testing.TB, from, to *schsm.Card, cat *store.Catalog, o RotateOptions) *Rotation {
	t.Helper()
	r, err := PlanRotation(take(t, from), take(t, to), cat, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// checkSuccessors compares what is on the new token with the old one.
func checkSuccessors(t testing.TB, from, to *schsm.Card, results []RotationResult) {
	t.Helper()
	fresh := take(t, to)
	for _, r := range results {
		here := fresh.at(r.At).key
		if !r.OK || here == nil {
			t.Errorf("%s: %+v", r.Old.Name(), r)
			continue
		}
		if here.Label != r.Old.Label || !bytes.Equal(here.ID, r.Old.ID) || here.Usage != r.Old.Usage || here.Type != r.Old.Type || !here.Info.Allows(schsm.WrapKey) || here.NotExportable != "" {
			t.Errorf("%s has the successor %+v", r.Old.Name(), here)
		}
		if r.Old.Public != nil && (here.Public == nil || here.Public.Equal(r.Old.Public) || !here.Public.Equal(r.New)) {
			t.Errorf("%s: no new key", r.Old.Name())
		}
	}
}

// Keys that cannot leave get successors that can, of the same type, label, ID
// and usage; the old token is not touched, and a second run makes none.
func TestRotate(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	old, from := stuck(t)
	touched := false
	old.SetFault(func(_ softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		switch c.INS { // SELECT, VERIFY without data, READ and the queries
		case 0xA4, 0xB1, 0x58, 0x54:
		case 0x20, 0x50, 0x52:
			touched = touched || len(c.Data) > 0
		default:
			touched = true
		}
		return 0, nil
	})
	_, to := newToken(t, "3.6", "SOFT0400001")
	initToken(t, to, cat, newShare(t, 1))
	generate(t, to, 4, "P-256", "in the way", []byte{9})
	r := planRotation(t, from, to, cat, RotateOptions{})
	if len(r.Items) != 3 || r.Items[0].At != 1 || r.Items[1].At == 4 || r.Items[0].Why != reasonNoDKEK || r.KCV.String() != kcvOf(t, to) {
		t.Fatalf("%+v", r)
	}
	results, err := Rotate(ctx, to, cat, r, RotateOptions{})
	if err != nil || len(results) != 3 {
		t.Fatalf("%+v, %v", results, err)
	}
	checkSuccessors(t, from, to, results)
	if report, err := Run(ctx, to, cat, Options{}); err != nil || !report.Complete() || len(report.Keys) != 4 {
		t.Errorf("the new token is not covered: %+v, %v", report, err)
	}
	again := planRotation(t, from, to, cat, RotateOptions{})
	for i, item := range again.Items {
		if item.Action != Same || item.At != r.Items[i].At {
			t.Errorf("a second run: %+v", item)
		}
	}
	before := take(t, to)
	if results, err = Rotate(ctx, to, cat, again, RotateOptions{}); err != nil || !before.same(take(t, to)) {
		t.Errorf("a second run changes the token: %v", err)
	}
	checkSuccessors(t, from, to, results)
	if touched {
		t.Error("the old token was touched")
	}

	// One that was accepted is only rotated when it is named.
	if _, err := Accept(take(t, from), cat, "1", "stays"); err != nil {
		t.Fatal(err)
	}
	if r := planRotation(t, from, to, cat, RotateOptions{}); len(r.Items) != 2 {
		t.Errorf("%+v", r.Items)
	}
	if r := planRotation(t, from, to, cat, RotateOptions{Keys: []byte{1}}); len(r.Items) != 1 || r.Items[0].Old.Reference != 1 || r.Items[0].Why != reasonNoDKEK {
		t.Errorf("%+v", r.Items)
	}
}

// It is cut off before each command and between each command and its answer.
// The next run finishes, makes no key twice and leaves nothing behind.
func TestRotatePulledAtEveryCommand(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	_, from := newToken(t, "3.5", "SOFT0200001")
	if _, _, err := Initialise(ctx, from, nil, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), NoDKEK: true}}); err != nil {
		t.Fatal(err)
	}
	generate(t, from, 1, "P-256", "one", []byte{1})
	if err := from.GenerateAES(ctx, 2, 128, nil); err != nil {
		t.Fatal(err)
	}
	d := pkcs15.KeyDescription{Kind: pkcs15.AES, Label: "two", ID: []byte{2}, Bits: 128, Usage: pkcs15.Encrypt}
	if err := from.WriteFile(ctx, schsm.DescriptionFile(2), d.Encode()); err != nil {
		t.Fatal(err)
	}
	points := 0
	var start scene
	for _, stage := range []softtoken.Stage{softtoken.Before, softtoken.After} {
		for n := 1; ; n++ {
			cat, tokens := start.play(t, func() (*store.Catalog, []*softtoken.Token) {
				cat := createCatalog(t)
				token, to := newToken(t, "3.6", "SOFT0400001")
				initToken(t, to, cat, newShare(t, 1))
				return cat, []*softtoken.Token{token}
			})
			token, to := tokens[0], login(t, tokens[0])
			r := planRotation(t, from, to, cat, RotateOptions{})
			pulled := pull(token, stage, n)
			_, err := Rotate(ctx, to, cat, r, RotateOptions{})
			if !*pulled {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			points++
			if !errors.Is(err, apdu.ErrGone) || fail.ClassOf(err) != fail.Changed {
				t.Fatalf("stage %d, command %d: %v", stage, n, err)
			}
			to = login(t, token)
			results, err := Rotate(ctx, to, cat, planRotation(t, from, to, cat, RotateOptions{}), RotateOptions{})
			if err != nil || len(results) != 2 {
				t.Fatalf("stage %d, command %d: the next run: %+v, %v", stage, n, results, err)
			}
			checkSuccessors(t, from, to, results)
			if inv := take(t, to); len(inv.Keys) != 2 || len(inv.Files) != 0 {
				t.Fatalf("stage %d, command %d: %d keys, %d files", stage, n, len(inv.Keys), len(inv.Files))
			}
			if left, err := cat.Journal().Keys("rotate/"); err != nil || len(left) != 0 {
				t.Errorf("the journal still has %v (%v)", left, err)
			}
		}
	}
	t.Logf("%d points", points)
}

// What cannot be rotated is refused or named before anything happens.
func TestRotateRefuses(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, from := stuck(t)
	plan := func(to *schsm.Card, o RotateOptions) (*Rotation, error) {
		return PlanRotation(take(t, from), take(t, to), cat, o)
	}
	_, none := newToken(t, "3.6", "SOFT0400001")
	if _, err := plan(none, RotateOptions{}); err == nil || fail.ClassOf(err) != fail.Failed {
		t.Errorf("not initialised: %v", err)
	}
	for says, s := range map[string]SetUp{
		"no recovery key":            {Initialisation: schsm.Initialisation{NoDKEK: true}},
		"made up itself":             {Sets: []DomainSet{{}}},
		"an incomplete recovery key": {Sets: []DomainSet{{Shares: 2, Load: []*dkek.Share{newShare(t, 1)}}}},
	} {
		_, to := newToken(t, "3.6", "SOFT0400001")
		s.Initialisation.PIN, s.Initialisation.SOPIN, s.Trust = userPIN(), soPIN(), Trust{SoftFile: true}
		if _, _, err := Initialise(ctx, to, nil, s); err != nil {
			t.Fatal(err)
		}
		if _, err := plan(to, RotateOptions{}); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if _, err := plan(from, RotateOptions{}); fail.ClassOf(err) != fail.Refused {
		t.Errorf("the same token: %v", err)
	}
	_, to := newToken(t, "2.6", "SOFT0100001")
	initToken(t, to, cat, newShare(t, 1))
	if _, err := plan(to, RotateOptions{Keys: []byte{77}}); err == nil {
		t.Error("a key that is not there")
	}
	generate(t, to, 9, "P-256", "SSH CA", []byte{1}) // somebody's own
	r, err := plan(to, RotateOptions{})
	if err != nil || r.Items[0].Action != Conflict || r.Items[1].Action != New || r.Items[2].Action != DoesNotFit {
		t.Fatalf("%+v, %v", r, err)
	}
	before := take(t, to)
	results, err := Rotate(ctx, to, cat, &Rotation{From: r.From, To: r.To, Items: []RotationItem{r.Items[0], r.Items[2]}}, RotateOptions{})
	if err != nil || results[0].OK || results[1].OK || !before.same(take(t, to)) {
		t.Errorf("%+v, %v", results, err)
	}
	if _, err := Rotate(ctx, from, cat, r, RotateOptions{}); fail.ClassOf(err) != fail.Refused {
		t.Errorf("onto the old token: %v", err)
	}
	if c := Notes(pkcs15.AES, "3.2"); c == nil {
		t.Error("no note")
	}
	_, weak := newToken(t, "3.2", "SOFT0200002")
	initToken(t, weak, cat, newShare(t, 1))
	if r, err := plan(weak, RotateOptions{Keys: []byte{5}}); err != nil || r.Items[0].Action != DoesNotFit || !strings.Contains(r.Items[0].Reason, "weak") {
		t.Errorf("%+v, %v", r, err)
	}
}

// A DKEK that the token made up helps nobody: its keys are rotated too. Into a
// token with key domains they go where there is a DKEK of shares.
func TestRotateIntoDomain(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, from := newToken(t, "3.5", "SOFT0200001")
	if _, _, err := Initialise(ctx, from, nil, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{}}}); err != nil {
		t.Fatal(err)
	}
	generate(t, from, 1, "P-256", "one", []byte{1})
	_, to := newToken(t, "3.6", "SOFT0400001")
	set := DomainSet{Number: 1, Shares: 1, Load: []*dkek.Share{newShare(t, 1)}}
	if _, _, err := Initialise(ctx, to, cat, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: 2}, Sets: []DomainSet{set}, Trust: Trust{SoftFile: true}}); err != nil {
		t.Fatal(err)
	}
	r := planRotation(t, from, to, cat, RotateOptions{})
	if len(r.Items) != 1 || !strings.Contains(r.Items[0].Why, "made its DKEK up") {
		t.Fatalf("%+v", r)
	}
	results, err := Rotate(ctx, to, cat, r, RotateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkSuccessors(t, from, to, results)
	if k := take(t, to).Keys[0]; k.Info.Domain != 1 {
		t.Errorf("in key domain %d", k.Info.Domain)
	}
}
