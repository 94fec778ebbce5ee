package backup

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hsmbackup/dkek"
	"hsmbackup/internal/schsm"
)

// The main job in process: back up, prove, wipe by a firmware update, restore,
// and everything is there again.
func TestMainJob(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	token, card := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, cat, share)
	for i, typ := range []string{"RSA-1024", "RSA-2048", "P-256", "P-384", "P-521"} {
		generate(t, card, byte(i+1), typ, "key "+typ, []byte{byte(i + 1)})
	}
	report, err := Run(ctx, card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range report.Keys {
		if k.Coverage != Covered {
			t.Errorf("%s: %s, %s", k.Key.Name(), k.Coverage, k.Reason)
		}
	}
	if !report.Complete() || len(report.Keys) != 5 {
		t.Errorf("not complete: %+v", report.Snapshot.Missing)
	}
	before, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}

	if v, err := Check(cat, report.Head.Hash[:], 66); err != nil || !v.OK() || v.Anchored != AnchoredWords {
		t.Errorf("check: %+v, %v", v, err)
	}
	latest := read(t, cat).Latest()
	if v, err := VerifyRoundTrip(ctx, card, cat, latest, Options{}); err != nil || !v.OK() {
		t.Errorf("round trip: %+v, %v", v, err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := VerifyOffline(ctx, cat, latest, key, Options{}); err != nil || !v.OK() || v.Anchored != AnchoredDKEK {
		t.Errorf("offline: %+v, %v", v, err)
	}

	if err := token.Update("3.6", "SOFT0400001"); err == nil {
		t.Fatal("the update is not refused while there are keys")
	}
	for _, k := range before.Keys {
		for _, f := range []schsm.FID{schsm.KeyFile(k.Reference), schsm.DescriptionFile(k.Reference), schsm.CertificateFile(k.Reference)} {
			if err := card.DeleteFile(ctx, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := token.Update("3.6", "SOFT0400001"); err != nil {
		t.Fatal(err)
	}
	card = openCard(t, token)
	if p, err := MakePlan(ctx, card, latest[0], RestoreOptions{}); err != nil || p.Fits() || len(p.Problems) != 1 {
		t.Errorf("plan for an uninitialised token: %+v, %v", p, err)
	}
	initToken(t, card, cat, share)
	r := restoreAll(t, card, cat, latest[0])
	if !r.Complete() {
		t.Errorf("not restored: %+v", r.Keys)
	}
	after, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	if after.Serial != "SOFT0400001" || len(after.Keys) != 5 {
		t.Fatalf("%s with %d keys", after.Serial, len(after.Keys))
	}
	for i := range before.Keys {
		b, a := before.Keys[i], after.Keys[i]
		if !b.Public.Equal(a.Public) || b.SSH() != a.SSH() || !cmp.Equal(b.Description, a.Description) || !cmp.Equal(b.Certificate, a.Certificate) || b.Reference != a.Reference {
			t.Errorf("%s is not what it was", b.Name())
		}
	}
	// Again: nothing to do, and nothing is done.
	r = restoreAll(t, card, cat, latest[0])
	for _, item := range r.Plan.Items {
		if item.Action != Same {
			t.Errorf("%s: %s on a second run", item.Key.Label, item.Action)
		}
	}
	if !r.Complete() {
		t.Error("a second run is not complete")
	}
	if again, err := Run(ctx, card, cat, Options{}); err != nil || !Complete(again.Keys) {
		t.Errorf("after the restore: %+v, %v", again, err)
	}
}
