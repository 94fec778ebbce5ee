package backup

import (
	"context"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/forge"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// reopened forges a catalog of a test and opens it again.
func reopened(t testing.TB, cat *store.Catalog, change func(c *forge.Catalog)) *store.Catalog {
	t.Helper()
	if err := cat.Close(); err != nil {
		t.Fatal(err)
	}
	forge.Rewrite(t, cat.Path(), change)
	cat, err := store.Open(cat.Path(), true, store.Clock(cat.Now), store.OnMachine(cat.Machine()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cat.Close() })
	return cat
}

// Blobs of two keys in each other's place, of kinds that nothing but the check
// value tells apart: they open, and are of another key.
func TestFault16SwappedBlobs(t *testing.T) {
	ctx := context.Background()
	for kind, add := range map[string]func(t testing.TB, card *schsm.Card, reference byte, label string){
		"AES": generateAES,
		"P-256 without a request": func(t testing.TB, card *schsm.Card, reference byte, label string) {
			generate(t, card, reference, "P-256", label, []byte{reference})
			if err := card.DeleteFile(ctx, schsm.CertificateFile(reference)); err != nil {
				t.Fatal(err)
			}
		},
		"RSA without a request": func(t testing.TB, card *schsm.Card, reference byte, label string) {
			generate(t, card, reference, "RSA-1024", label, []byte{reference})
			if err := card.DeleteFile(ctx, schsm.CertificateFile(reference)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(kind, func(t *testing.T) {
			cat := createCatalog(t)
			_, card := newToken(t, "3.5", "SOFT0200001")
			share := newShare(t, 1)
			initToken(t, card, cat, share)
			add(t, card, 1, "one")
			add(t, card, 2, "two")
			if r, err := Run(ctx, card, cat, Options{}); err != nil || !r.Complete() {
				t.Fatalf("%v, %+v", err, r)
			}
			key, err := dkek.Combine(share)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Wipe()
			verify := func(cat *store.Catalog) *Verification {
				t.Helper()
				all := read(t, cat).Snapshots
				v, err := VerifyOffline(ctx, cat, all, key, Options{})
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			if v := verify(cat); !v.OK() {
				t.Fatalf("before anything was changed: %+v", v.Snapshots)
			}
			cat = reopened(t, cat, func(c *forge.Catalog) {
				c.Anchors = nil
				keys := forge.Keys(c.Newest())
				keys[0]["blob"], keys[1]["blob"] = keys[1]["blob"], keys[0]["blob"]
				c.Append("check", time.Now(), forge.Object{"proof": "intact", "ok": true, "anchored": "no"})
			})
			v := verify(cat)
			if v.OK() || !v.Damaged() || len(v.Snapshots[0].Keys) != 2 {
				t.Fatalf("opened: %+v", v.Snapshots)
			}
			for _, k := range v.Snapshots[0].Keys {
				if k.OK || !k.Damage {
					t.Errorf("opened, key %d: %+v", k.Reference, k)
				}
			}
			all := read(t, cat).Snapshots
			if v, err = rehearse(t, cat, nil, all, share); err != nil || v.OK() || !v.Damaged() {
				t.Errorf("drilled: %+v, %v", v, err)
			}
		})
	}
}
