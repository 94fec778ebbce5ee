package backup

import (
	"context"
	"slices"
	"testing"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
)

// AES keys of firmware 3.1 and 3.2 are flagged on the token, in the snapshot,
// in the plan, and on the token that they are restored to.
func TestWeakAES(t *testing.T) {
	ctx := context.Background()
	for firmware, weak := range map[string]bool{"3.0": false, "3.1": true, "3.2": true, "3.3": false, "3.5": false, "4.1": false, "4.2": false} {
		if got := Notes(pkcs15.AES, firmware); (len(got) > 0) != weak {
			t.Errorf("%s: %v", firmware, got)
		}
		if got := Notes(pkcs15.EC, firmware); got != nil {
			t.Errorf("EC, %s: %v", firmware, got)
		}
	}
	cat := newCatalog(t)
	share := newShare(t, 1)
	_, card := newToken(t, "3.2", "SOFT0200001")
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "fine", []byte{1})
	if err := card.GenerateAES(ctx, 2, 256, []byte{0x10, 0x11, 0x92}); err != nil {
		t.Fatal(err)
	}
	d := pkcs15.KeyDescription{Kind: pkcs15.AES, Label: "disk", ID: []byte{2}, Bits: 256, Usage: pkcs15.DefaultUsage(pkcs15.AES)}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(2), d.Encode()); err != nil {
		t.Fatal(err)
	}
	want := []string{noteWeakAES()}
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Keys[0].Notes != nil || !slices.Equal(r.Keys[1].Notes, want) {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := StoredNotes(r.Snapshot, &r.Snapshot.Keys[1]); !slices.Equal(got, want) {
		t.Errorf("stored: %v", got)
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	report := restoreAll(t, spare, cat, r.Snapshot)
	if !report.Complete() || report.Plan.Items[0].Notes != nil || !slices.Equal(report.Plan.Items[1].Notes, want) {
		t.Errorf("plan: %+v", report.Plan.Items)
	}
	if c := coverageOf(t, spare, cat); c[0].Notes != nil || !slices.Equal(c[1].Notes, want) {
		t.Errorf("restored: %+v", c)
	}
}
