package backup

import (
	"context"
	"encoding/hex"
	"fmt"
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

// xkek gives a token's last slot the look of an XKEK domain: its status goes on
// with the UID that its members share (fact sheet §7.3).
type xkek struct {
	*softtoken.Token
	slot byte
}

var xkekUID = []byte{4, 1, 2, 3, 5, 6, 7, 8}

func (x xkek) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	c, err := apdu.Parse(command)
	if err == nil && c.CLA == 0x80 && c.INS == 0x52 && c.P1 == 0 && c.P2 == x.slot && len(c.Data) == 0 {
		return append(append(append([]byte{0, 0}, make([]byte, 8)...), xkekUID...), 0x90, 0x00), nil
	}
	return x.Token.Transmit(ctx, command)
}

// generateIn makes a key in a key domain.
func generateIn(t testing.TB, card *schsm.Card, reference, domain byte, label string) {
	t.Helper()
	ctx := context.Background()
	spec := cvc.KeySpec{CAR: "UTCA00001", CHR: card.Serial() + "00001", Curve: curve.ByName("P-256"), Domain: &domain}
	if _, err := card.Generate(ctx, reference, spec); err != nil {
		t.Fatal(err)
	}
	d := pkcs15.KeyDescription{Kind: pkcs15.EC, Bits: 256, Label: label, ID: []byte{reference}, Reference: int(reference), Usage: pkcs15.DefaultUsage(pkcs15.EC)}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(reference), d.Encode()); err != nil {
		t.Fatal(err)
	}
}

// Four slots: a DKEK of two shares, none, a DKEK of one share, an XKEK. Each is
// told apart, and each comes back where it was.
func TestKeyDomains(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	token, err := softtoken.New(softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001"})
	if err != nil {
		t.Fatal(err)
	}
	card := openWay(t, xkek{token, 3})
	a, b, c := newShare(t, 1), newShare(t, 50), newShare(t, 100)
	setUp := SetUp{
		Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: 4},
		Sets:           []DomainSet{{Number: 0, Shares: 2, Load: []*dkek.Share{a, b}}, {Number: 2, Shares: 1, Load: []*dkek.Share{c}}},
		Trust:          Trust{SoftFile: true}, Origin: "init",
	}
	kcvs, _, err := Initialise(ctx, card, cat, setUp)
	if err != nil || len(kcvs) != 2 || kcvs[0] == kcvs[1] {
		t.Fatalf("%v, %v", kcvs, err)
	}
	for n, label := range []string{"zero", "one", "two", "three"} {
		generateIn(t, card, byte(n+1), byte(n), label)
	}
	r, err := Run(ctx, card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		coverage Coverage
		kcv      string
		reason   string
	}{{Covered, kcvs[0].String(), ""}, {NotExportable, "", reasonNoDomain}, {Covered, kcvs[1].String(), ""}, {NotExportable, "", reasonXKEK}} {
		k := r.Keys[i]
		if k.Key.Info.Domain != i || k.Coverage != want.coverage || k.Reason != want.reason || r.Snapshot.Keys[i].KCV != want.kcv || r.Snapshot.Keys[i].Domain != i {
			t.Errorf("domain %d: %+v, stored %+v", i, k, r.Snapshot.Keys[i])
		}
	}
	got := ""
	for _, d := range r.Snapshot.Token.Domains {
		got += fmt.Sprintf("%d: %d/%d %s %s; ", d.Number, d.Outstanding, d.Shares, d.KCV, hex.EncodeToString(d.UID))
	}
	if want := fmt.Sprintf("0: 0/2 %s ; 1: 0/0  ; 2: 0/1 %s ; 3: 0/0  %x; ", kcvs[0], kcvs[1], xkekUID); got != want {
		t.Errorf("domains %s, want %s", got, want)
	}
	for n, share := range map[int][]*dkek.Share{0: {a, b}, 1: {c}} {
		key, err := dkek.Combine(share...)
		if err != nil {
			t.Fatal(err)
		}
		v, err := VerifyOffline(ctx, cat, []*store.Snapshot{r.Snapshot}, key, Options{})
		if err != nil || v.Damaged() || !v.Snapshots[0].Keys[2*n].OK || v.Snapshots[0].Keys[2-2*n].OK {
			t.Errorf("offline, shares of set %d: %+v, %v", n, v, err)
		}
	}

	// A fresh token: shares in any order find their domains.
	if Slots(r.Snapshot) != 4 {
		t.Fatalf("%d slots", Slots(r.Snapshot))
	}
	if _, err := SetsFor(r.Snapshot, []*dkek.Share{c, newShare(t, 150)}); fail.ClassOf(err) != fail.Failed || err == nil {
		t.Errorf("a share of another DKEK: %v", err)
	}
	if _, err := SetsFor(r.Snapshot, []*dkek.Share{a}); err == nil {
		t.Error("half a DKEK is taken for one")
	}
	restoreOnto := func(serial string, shares ...*dkek.Share) (*schsm.Card, *RestoreReport) {
		t.Helper()
		_, spare := newToken(t, "3.6", serial)
		again := SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: Slots(r.Snapshot)}, Trust: Trust{SoftFile: true}, Origin: "restore"}
		if again.Sets, err = SetsFor(r.Snapshot, shares); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Initialise(ctx, spare, cat, again); err != nil {
			t.Fatal(err)
		}
		return spare, restoreAll(t, spare, cat, r.Snapshot)
	}
	check := func(card *schsm.Card, report *RestoreReport, actions ...Action) {
		t.Helper()
		for i, want := range actions {
			if item := report.Plan.Items[i]; item.Action != want || want.Done() != report.Keys[i].OK || !want.Done() && report.Keys[i].Reason == "" {
				t.Errorf("key %d: %s (%s), %+v; want %s", i+1, item.Action, item.Reason, report.Keys[i], want)
			}
		}
		inv, err := Take(ctx, card)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range inv.Keys {
			if stored := r.Snapshot.Keys[k.Reference-1]; k.Info.Domain != stored.Domain || k.KCV != stored.KCV {
				t.Errorf("key %d is in domain %d under %s, was in %d under %s", k.Reference, k.Info.Domain, k.KCV, stored.Domain, stored.KCV)
			}
		}
	}
	spare, report := restoreOnto("SOFT0400001", c, b, a)
	check(spare, report, New, NotInBackup, New, NotInBackup)

	// Only one DKEK's shares are at hand: its keys are restored, the others
	// when the rest comes.
	spare, report = restoreOnto("SOFT0400002", c)
	check(spare, report, NeedsShare, NotInBackup, New, NotInBackup)
	if got, err := LoadShares(ctx, spare, 0, []*dkek.Share{b, a}, kcvs[0]); err != nil || got != kcvs[0] {
		t.Fatalf("%s, %v", got, err)
	}
	check(spare, restoreAll(t, spare, cat, r.Snapshot), New, NotInBackup, Same, NotInBackup)
}

// What is asked for and cannot be is refused before the token is touched.
func TestDomainsRefused(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, "3.5", "SOFT0200001")
	a, b := newShare(t, 1), newShare(t, 50)
	sent := false
	token.SetFault(func(_ softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
		sent = sent || cmd.CLA == 0x80 && (cmd.INS == 0x50 || cmd.INS == 0x52) && len(cmd.Data) > 0
		return 0, nil
	})
	set := func(n, shares int, load ...*dkek.Share) DomainSet {
		return DomainSet{Number: n, Shares: shares, Load: load}
	}
	for name, c := range map[string]struct {
		slots  int
		noDKEK bool
		sets   []DomainSet
	}{
		"no set":                     {},
		"two sets, no slots":         {sets: []DomainSet{set(0, 1, a), set(1, 1, b)}},
		"domain 1, no slots":         {sets: []DomainSet{set(1, 1, a)}},
		"no DKEK, and shares":        {noDKEK: true, sets: []DomainSet{set(0, 1, a)}},
		"a slot that is not there":   {slots: 2, sets: []DomainSet{set(2, 1, a)}},
		"a domain twice":             {slots: 2, sets: []DomainSet{set(1, 1, a), set(1, 1, b)}},
		"too many shares":            {slots: 2, sets: []DomainSet{set(1, 1, a, b)}},
		"a share twice, one missing": {slots: 2, sets: []DomainSet{set(1, 3, a, a)}},
		"another KCV":                {slots: 2, sets: []DomainSet{{Number: 1, Shares: 1, Load: []*dkek.Share{a}, Expect: dkek.KCV{1}}}},
	} {
		_, _, err := Initialise(ctx, card, nil, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: c.slots, NoDKEK: c.noDKEK}, Sets: c.sets, Trust: Trust{SoftFile: true}})
		if err == nil || sent {
			t.Errorf("%s: %v, sent: %v", name, err, sent)
		}
	}
	_, old := newToken(t, "2.6", "SOFT0100001")
	_, _, err := Initialise(ctx, old, nil, SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Domains: 2}, Sets: []DomainSet{set(0, 1, a)}, Trust: Trust{SoftFile: true}})
	if err == nil || fail.ClassOf(err) != fail.Failed || !strings.Contains(err.Error(), "2.6") {
		t.Errorf("key domains on an old token: %v", err)
	}
}
