package backup

import (
	"context"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/tokentest"
	"hsmbackup/store"
)

// Where keys come from: generated here, generated elsewhere and restored,
// imported, not known; and whether a computer has had them open.
func TestOrigins(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "made here", []byte{1})
	generate(t, card, 2, "P-384", "with a certificate now", []byte{2})
	importRSA4096(t, card, share, 3)
	if err := card.GenerateAES(ctx, 4, 128, []byte{0x10, 0x92}); err != nil {
		t.Fatal(err)
	}
	origins := func(card *schsm.Card) []Origin {
		t.Helper()
		r, err := Run(ctx, card, cat, Options{})
		if err != nil {
			t.Fatal(err)
		}
		list := Origins(read(t, cat), r.Snapshot)
		return list
	}
	expect := func(when string, o Origin, kind string, verified bool, says string) {
		t.Helper()
		if o.Kind != kind || o.Verified != verified || !strings.Contains(o.String(), says) || o.Root != "" {
			t.Errorf("%s: %+v, %q", when, o, o)
		}
	}
	kcv := kcvOf(t, card)
	first := origins(card)
	expect("generated", first[0], OriginGenerated, true, "generated on SOFT0200001 (whose certificate leads to no known root), exportable under KCV "+kcv)
	expect("imported, and its public key is not known", first[2], OriginUnknown, false, "public key")
	expect("AES", first[3], OriginUnknown, false, "AES")

	// A certificate takes the place of the request: the catalog remembers.
	public := coverageOf(t, card, cat)[1].Key.Public
	if err := card.DeleteFile(ctx, schsm.CertificateFile(2)); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, schsm.CertificateFile(2), tokentest.New(t, 1).Certificate(public)); err != nil {
		t.Fatal(err)
	}
	expect("request replaced", origins(card)[1], OriginGenerated, true, "generated on SOFT0200001")

	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	newest, err := read(t, cat).Find("SOFT0200001")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyOffline(ctx, cat, []*store.Snapshot{newest}, key, Options{}); err != nil {
		t.Fatal(err)
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	restoreAll(t, spare, cat, newest)
	for i, o := range origins(spare)[:2] {
		expect("restored elsewhere", o, OriginGenerated, true, "generated on SOFT0200001")
		if o.Opened.IsZero() || !strings.Contains(o.String(), "opened on a host") {
			t.Errorf("key %d: not said to have been opened: %q", i+1, o)
		}
	}

	// In a catalog that does not know the other token, its word stands alone;
	// a request that was altered is worth nothing.
	cat = newCatalog(t)
	expect("unknown token", origins(spare)[0], OriginGenerated, false, "by what its request says")
	request, err := spare.ReadFile(ctx, schsm.CertificateFile(1))
	if err != nil {
		t.Fatal(err)
	}
	another, err := softtoken.New(softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001"}) // it has the serial
	if err != nil {
		t.Fatal(err)
	}
	old := openCard(t, another)
	initToken(t, old, cat, share)
	generate(t, old, 1, "P-256", "other", []byte{1})
	origins(old)
	expect("another device key", origins(spare)[0], OriginUnknown, false, "signature does not verify")
	if err := spare.DeleteFile(ctx, schsm.CertificateFile(1)); err != nil {
		t.Fatal(err)
	}
	request[len(request)-100] ^= 1
	if err := spare.WriteFile(ctx, schsm.CertificateFile(1), request); err != nil {
		t.Fatal(err)
	}
	if o := origins(spare)[0]; o.Kind != OriginUnknown {
		t.Errorf("altered: %+v", o)
	}

	// Without request and certificate a key was imported.
	stored := store.Snapshot{Keys: []store.Key{{Reference: 9, PublicKey: public.SPKI(), PublicFrom: "blob", Reason: "x"}}}
	list := Origins(read(t, cat), &stored)
	expect("imported", list[0], OriginImported, false, "not exportable")
}
