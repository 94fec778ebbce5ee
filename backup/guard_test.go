package backup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// coverageOf backs nothing up; it asks the keys, if somebody is logged in.
func coverageOf(t testing.TB, card *schsm.Card, cat *store.Catalog) []KeyCoverage {
	t.Helper()
	inv, err := Take(context.Background(), card)
	if err != nil {
		t.Fatal(err)
	}
	var seen *Evidence
	if inv.PIN.Verified {
		if seen, err = Ask(context.Background(), card, inv, read(t, cat), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	return Cover(inv, read(t, cat), seen)
}

// guardWipe tells whether a token that is logged in may be wiped and given these
// shares.
func guardWipe(t testing.TB, card *schsm.Card, cat *store.Catalog, shares ...*dkek.Share) error {
	t.Helper()
	inv, err := Take(context.Background(), card)
	if err != nil {
		t.Fatal(err)
	}
	if !inv.holdsAnything() {
		return nil
	}
	_, err = SetUp{Sets: []DomainSet{{Shares: len(shares), Load: shares}}}.leave(context.Background(), card, cat, inv)
	return err
}

func TestCoverage(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, nil, share) // nobody is told that the share was seen
	generate(t, card, 1, "P-256", "one", []byte{1})
	expect := func(when string, want Coverage) {
		t.Helper()
		if c := coverageOf(t, card, cat)[0]; c.Coverage != want || !want.Done() && c.Reason == "" {
			t.Errorf("%s: %s (%s), want %s", when, c.Coverage, c.Reason, want)
		}
	}
	expect("before any backup", Missing)
	if _, err := Run(ctx, card, cat, Options{NoProof: true}); err != nil {
		t.Fatal(err)
	}
	expect("without proof", Unproven)
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	expect("without a share", NoShare)
	kcv := kcvOf(t, card)
	if err := cat.Append(store.ShareSeen{KCV: kcv, Random: true}); err != nil {
		t.Fatal(err)
	}
	expect("a random DKEK", NoShare)
	if err := cat.Append(store.ShareSeen{KCV: kcv, Origin: "test", Software: true}); err != nil {
		t.Fatal(err)
	}
	expect("with a share", Covered)
	if err := card.WriteFile(ctx, schsm.CertificateFile(1), []byte{0x30, 3, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if c := coverageOf(t, card, cat)[0].Coverage; c != Stale && c != Missing {
		t.Errorf("certificate changed: %s", c)
	}
	for _, f := range []schsm.FID{schsm.KeyFile(1), schsm.DescriptionFile(1), schsm.CertificateFile(1)} {
		if err := card.DeleteFile(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	generate(t, card, 1, "P-256", "another", []byte{9})
	expect("another key at the reference", Stale)
}

// Keys that cannot leave are named with the reason, and can be accepted.
func TestNotExportable(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	if _, _, err := Initialise(ctx, card, cat, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), NoDKEK: true}}); err != nil {
		t.Fatal(err)
	}
	generate(t, card, 1, "P-256", "stays", []byte{1})
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Complete() || r.Keys[0].Coverage != NotExportable || !strings.Contains(r.Keys[0].Reason, "no DKEK") {
		t.Fatalf("%+v, %v", r.Keys, err)
	}
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	if err := guardWipe(t, card, cat); fail.ClassOf(err) != fail.Refused {
		t.Errorf("a wipe would lose it: %v", err)
	}
	if _, err := Accept(inv, cat, "stays", "a test key"); err != nil {
		t.Fatal(err)
	}
	if c := coverageOf(t, card, cat)[0]; c.Coverage != Accepted || c.Reason != "a test key" {
		t.Errorf("%+v", c)
	}
	if err := guardWipe(t, card, cat); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "lost for good") {
		t.Errorf("accepted is not restorable: %v", err)
	}
	if v, err := Check(cat, nil, 0); err != nil || !v.OK() || !v.Snapshots[0].Keys[0].Accepted {
		t.Errorf("accepted counts as done: %+v, %v", v, err)
	}
	if _, err := Accept(inv, cat, "nonsense", "x"); err == nil {
		t.Error("accepts a key that is not there")
	}
}

func TestGuardWipe(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	setUp := SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}}
	if _, _, err := Initialise(ctx, card, cat, setUp); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "missing") {
		t.Fatalf("a wipe before any backup: %v", err)
	}
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, 0xCF00, []byte("notes")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Initialise(ctx, card, cat, setUp); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "CF00") {
		t.Fatalf("a data object that is in no snapshot: %v", err)
	}
	if err := card.DeleteFile(ctx, 0xCF00); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Initialise(ctx, card, cat, setUp); err != nil {
		t.Fatalf("all covered, and still: %v", err)
	}
	if inv, err := Take(ctx, card); err != nil || inv.holdsAnything() {
		t.Error("not wiped")
	}
}

// Wrong shares are noticed before the token is touched; a wrong SO-PIN costs
// one try and no more; the floor costs none.
func TestInitialiseRefuses(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, "3.5", "SOFT0200001")
	share, other := newShare(t, 1), newShare(t, 2)
	good := initToken(t, card, nil, share)
	base := func() SetUp {
		return SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}, MinSOTries: DefaultSOFloor}
	}
	touched := false
	token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		touched = touched || s == softtoken.Before && c.CLA == 0x80 && (c.INS == 0x50 || c.INS == 0x52) && len(c.Data) > 0
		return 0, nil
	})
	for name, s := range map[string]SetUp{
		"shares of another DKEK": func() SetUp { s := base(); s.Sets[0].Load, s.Sets[0].Expect = []*dkek.Share{other}, good; return s }(),
		"too many shares":        func() SetUp { s := base(); s.Sets[0].Load = []*dkek.Share{share, other}; return s }(),
		"the same share twice": func() SetUp {
			s := base()
			s.Sets[0].Shares, s.Sets[0].Load = 2, []*dkek.Share{share, share}
			return s
		}(),
		"the floor":   func() SetUp { s := base(); s.MinSOTries = 16; return s }(),
		"a short PIN": func() SetUp { s := base(); s.Initialisation.PIN = secret.New([]byte("123")); return s }(),
	} {
		if _, _, err := Initialise(ctx, card, nil, s); err == nil || touched || fail.ClassOf(err) == fail.Changed {
			t.Errorf("%s: %v, token touched: %v", name, err, touched)
		}
	}
	token.SetFault(nil)
	s := base()
	s.Initialisation.SOPIN = secret.New([]byte("57621881"))
	if _, _, err := Initialise(ctx, card, nil, s); !errors.Is(err, apdu.ErrWrongPIN) {
		t.Errorf("a wrong SO-PIN: %v", err)
	}
	if st, err := card.SOPIN(ctx); err != nil || st.Tries != 14 {
		t.Errorf("%d tries of the SO-PIN left, %v", st.Tries, err)
	}
}

func TestTrust(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	token, card := newToken(t, "3.5", "SOFT0200001")
	const kcv = "0102030405060708"
	trust := func(tr Trust) error {
		_, err := TrustToken(ctx, card, cat, kcv, tr)
		return err
	}
	if err := trust(Trust{SoftFile: true}); err != nil {
		t.Errorf("soft:FILE: %v", err)
	}
	if err := trust(Trust{}); fail.ClassOf(err) != fail.Refused {
		t.Errorf("a software token in a reader: %v", err)
	}
	if err := trust(Trust{Untrusted: "SOFT0200002"}); fail.ClassOf(err) != fail.Refused {
		t.Errorf("another serial typed: %v", err)
	}
	if err := trust(Trust{Untrusted: "SOFT0200001"}); err != nil {
		t.Errorf("its serial typed: %v", err)
	}
	if _, err := card.Genuine(ctx, append(cvc.VendorRoots(), token.Roots()...)); err != nil {
		t.Errorf("under its own root: %v", err)
	}
	// Once the recovery key is known from hardware, software never gets it.
	if err := cat.Append(store.ShareSeen{KCV: kcv, Software: false, Origin: "init"}); err != nil {
		t.Fatal(err)
	}
	for _, tr := range []Trust{{SoftFile: true}, {Untrusted: "SOFT0200001"}} {
		if err := trust(tr); fail.ClassOf(err) != fail.Refused {
			t.Errorf("shares of hardware, %+v: %v", tr, err)
		}
	}
}

// What is in the way is left there and named; the rest is restored.
func TestPlanConflicts(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	_, card := newToken(t, "3.6", "SOFT0400001")
	p, err := MakePlan(ctx, card, s, RestoreOptions{})
	if err != nil || len(p.Problems) != 1 || p.Problems[0].Code != "not-initialised" {
		t.Fatalf("%+v, %v", p, err)
	}
	initToken(t, card, cat, newShare(t, 9))
	p, err = MakePlan(ctx, card, s, RestoreOptions{})
	if err != nil || len(p.Problems) != 1 || p.Problems[0].Code != "kcv-mismatch" {
		t.Fatalf("another DKEK: %+v, %v", p, err)
	}
	if _, err := Restore(ctx, card, cat, p, RestoreOptions{}); err == nil || fail.ClassOf(err) != fail.Failed {
		t.Errorf("restored under another DKEK: %v", err)
	}
	_, card = newToken(t, "3.6", "SOFT0400002")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "in the way", []byte{7})
	before := coverageOf(t, card, nil)[0].Key
	r := restoreAll(t, card, cat, s)
	if r.Complete() || r.Plan.Items[0].Action != Conflict || !r.Keys[1].OK || r.Keys[0].OK {
		t.Errorf("%+v", r.Plan.Items)
	}
	after := coverageOf(t, card, nil)
	if len(after) != 2 || !after[0].Key.Public.Equal(before.Public) {
		t.Error("the key that was in the way is gone")
	}
	// Elsewhere it fits.
	o := RestoreOptions{At: map[byte]byte{1: 5}, Journal: cat.Journal()}
	if p, err = MakePlan(ctx, card, s, o); err != nil || !p.Fits() {
		t.Fatalf("%+v, %v", p, err)
	}
	if r, err := Restore(ctx, card, cat, p, o); err != nil || !r.Complete() || r.Keys[0].Reference != 5 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := MakePlan(ctx, card, s, RestoreOptions{Keys: []byte{99}}); err == nil {
		t.Error("plans a key that the snapshot does not have")
	}
}

// A token that is full is told so, and is none the worse.
func TestFullToken(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	token, err := softtoken.New(softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001", Memory: 1024})
	if err != nil {
		t.Fatal(err)
	}
	card := openCard(t, token)
	share := newShare(t, 1)
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Complete() || r.Keys[0].Coverage != Unproven || !strings.Contains(r.Keys[0].Reason, "no room") {
		t.Fatalf("%+v, %v", r.Keys, err)
	}
	if undescribed(t, card) != 0 {
		t.Error("a copy stays behind")
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := VerifyOffline(ctx, cat, []*store.Snapshot{r.Snapshot}, key, Options{}); err != nil || !v.OK() {
		t.Errorf("offline: %+v, %v", v, err)
	}
	if c := coverageOf(t, card, cat)[0]; c.Coverage != Covered {
		t.Errorf("after the offline proof: %+v", c)
	}
}

// The use counter of a key is not spent without being asked.
func TestUseCounter(t *testing.T) {
	ctx := context.Background()
	cat, _, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	counter := uint32(5)
	spec := cvc.KeySpec{CAR: "UTCA00001", CHR: "SOFT020000100001", Curve: coverageOf(t, card, nil)[0].Key.Public.Curve, Counter: &counter}
	if _, err := card.Generate(ctx, 2, spec); err != nil {
		t.Fatal(err)
	}
	left := func() uint32 {
		info, err := card.Key(ctx, 2)
		if err != nil {
			t.Fatal(err)
		}
		return *info.Counter
	}
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Keys[1].Coverage != Unasked || !strings.Contains(r.Keys[1].Reason, "5 uses") || left() != 5 {
		t.Fatalf("%+v, %d left, %v", r.Keys[1], left(), err)
	}
	asked := 0
	r, err = Run(ctx, card, cat, Options{SpendUse: func(Key) bool { asked++; return true }})
	if err != nil || r.Keys[1].Coverage != Covered || asked != 1 || left() != 4 {
		t.Errorf("%+v, asked %d times, %d left, %v", r.Keys[1], asked, left(), err)
	}
}

// What the PIN protects never lies open in the catalog: without a recovery key
// to seal it under it is named and keeps a token from being wiped; sealed, it
// comes back with the shares, and not without.
func TestProtectedData(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, nil, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	secretText := []byte("the safe's combination")
	if err := card.WriteFile(ctx, 0xCD05, secretText); err != nil {
		t.Fatal(err)
	}
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Complete() || len(r.Snapshot.Files) != 0 || len(r.Snapshot.Missing) != 1 || !strings.Contains(r.Snapshot.Missing[0].What, "CD05") {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := guardWipe(t, card, cat, share); fail.ClassOf(err) != fail.Refused || !strings.Contains(err.Error(), "CD05") {
		t.Errorf("%v", err)
	}

	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	if err := RecordShares(cat, key, true, "test"); err != nil {
		t.Fatal(err)
	}
	if r, err = Run(ctx, card, cat, Options{}); err != nil || !r.Complete() || len(r.Snapshot.Files) != 1 || !r.Snapshot.Files[0].Sealed {
		t.Fatalf("%+v, %v", r, err)
	}
	if raw, err := os.ReadFile(cat.Path()); err != nil || bytes.Contains(raw, secretText) {
		t.Errorf("the content lies open in the catalog (%v)", err)
	}
	if err := guardWipe(t, card, cat, share); err != nil {
		t.Errorf("sealed, and still: %v", err)
	}
	if v, err := VerifyOffline(ctx, cat, []*store.Snapshot{r.Snapshot}, key, Options{}); err != nil || !v.OK() {
		t.Errorf("%+v, %v", v, err)
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	if without := restoreAll(t, spare, cat, r.Snapshot); without.Complete() || without.Files[0].Action != NeedsShare {
		t.Errorf("without shares: %+v", without.Files)
	}
	o := RestoreOptions{Journal: cat.Journal(), OpenData: key.OpenData}
	restore := func(when string, want bool) {
		t.Helper()
		p, err := MakePlan(ctx, spare, r.Snapshot, o)
		if err != nil {
			t.Fatal(err)
		}
		if with, err := Restore(ctx, spare, cat, p, o); err != nil || with.Complete() != want {
			t.Errorf("%s: %+v, %v", when, with.Files, err)
		}
	}
	restore("with shares", true)
	restore("again", true)
	if got, err := spare.ReadFile(ctx, 0xCD05); err != nil || !bytes.Equal(got, secretText) {
		t.Errorf("restored as %q, %v", got, err)
	}
	if err := spare.WriteFile(ctx, 0xCD05, []byte("somebody else's")); err != nil {
		t.Fatal(err)
	}
	restore("over another content", false)
}

// Shares of several domains, in any order: the KCVs tell which belong where.
func TestAssignShares(t *testing.T) {
	var shares []*dkek.Share
	for i := range 5 {
		shares = append(shares, newShare(t, byte(1+40*i)))
	}
	kcv := func(s ...*dkek.Share) string {
		k, err := dkek.Combine(s...)
		if err != nil {
			t.Fatal(err)
		}
		return k.KCV().String()
	}
	domains := []store.Domain{{Number: 0, Shares: 2, KCV: kcv(shares[3], shares[0])}, {Number: 1}, {Number: 2, Shares: 1, KCV: kcv(shares[2])}, {Number: 3, Shares: 3, KCV: "0102030405060708"}}
	sets, left := AssignShares(domains, shares)
	if len(sets) != 3 || len(sets[0].Load) != 2 || len(sets[1].Load) != 1 || sets[1].Number != 2 || sets[2].Load != nil || len(left) != 2 {
		t.Errorf("%+v, %d left", sets, len(left))
	}
	if sets[1].Load[0] != shares[2] || left[0] != shares[1] || left[1] != shares[4] {
		t.Error("the wrong shares")
	}
}
