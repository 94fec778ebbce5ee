package backup

import (
	"context"
	"errors"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// spoil changes one byte of a record, as a disk would.
func spoil(t testing.TB, cat *store.Catalog, body []byte) *store.Catalog {
	t.Helper()
	path := cat.Path()
	if err := cat.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := store.HashOf(body)
	found := false
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			if v := b.Get(h[:]); v != nil {
				found = true
				changed := append([]byte(nil), v...)
				changed[len(changed)/2] ^= 4
				return b.Put(h[:], changed)
			}
			return nil
		})
	})
	if err != nil || !found {
		t.Fatalf("record not found (%v)", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := store.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

// damagedCatalog has a token with two keys, backed up; a record of the first is
// spoilt.
func damagedCatalog(t testing.TB, which func(k store.Key) []byte) (*store.Catalog, *store.Snapshot, *dkek.Share, *schsm.Card) {
	t.Helper()
	cat := createCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	generate(t, card, 2, "P-256", "two", []byte{2})
	r, err := Run(context.Background(), card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return spoil(t, cat, which(r.Snapshot.Keys[0])), r.Snapshot, share, card
}

// One damaged key blob is named by everything, takes no other key with it, and
// is exported anew by the next backup.
func TestDamagedBlob(t *testing.T) {
	ctx := context.Background()
	cat, _, share, card := damagedCatalog(t, func(k store.Key) []byte { return k.Blob })
	s, err := read(t, cat).Find("latest")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := Check(cat, nil, 0); err != nil || !v.Damaged() || len(v.Snapshots[0].Keys) != 2 || v.Snapshots[0].Keys[0].OK || !v.Snapshots[0].Keys[1].OK {
		t.Errorf("check: %+v, %v", v, err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := VerifyOffline(ctx, cat, []*store.Snapshot{s}, key, Options{}); err != nil || !v.Damaged() || !v.Snapshots[0].Keys[1].OK {
		t.Errorf("offline: %+v, %v", v, err)
	}
	if v, err := VerifyRoundTrip(ctx, card, cat, []*store.Snapshot{s}, Options{}); err != nil || !v.Damaged() || v.Snapshots[0].Keys[0].OK || !v.Snapshots[0].Keys[1].OK || v.NotRecorded != "" {
		t.Errorf("round trip: %+v, %v", v, err)
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, nil, share)
	r := restoreAll(t, spare, cat, s)
	if r.Complete() || r.Plan.Items[0].Action != NotInBackup || !strings.Contains(r.Plan.Items[0].Reason, "damaged") || !r.Keys[1].OK {
		t.Errorf("restore: %+v", r.Plan.Items)
	}
	if c := coverageOf(t, card, cat); c[0].Coverage != Missing || c[1].Coverage != Covered {
		t.Errorf("coverage: %+v", c)
	}
	again, err := Run(ctx, card, cat, Options{})
	if err != nil || !again.Complete() {
		t.Errorf("the next backup: %+v, %v", again, err)
	}
}

// A damaged description or certificate leaves the key restorable.
func TestDamagedDescription(t *testing.T) {
	for name, which := range map[string]func(k store.Key) []byte{
		"description": func(k store.Key) []byte { return k.Description },
		"certificate": func(k store.Key) []byte { return k.Certificate },
	} {
		cat, _, share, _ := damagedCatalog(t, which)
		s, err := read(t, cat).Find("latest")
		if err != nil {
			t.Fatal(err)
		}
		_, spare := newToken(t, "3.6", "SOFT0400001")
		initToken(t, spare, nil, share)
		r := restoreAll(t, spare, cat, s)
		if !r.Keys[0].OK || !strings.Contains(r.Plan.Items[0].Reason, name) {
			t.Errorf("%s: %+v", name, r.Plan.Items[0])
		}
		k := coverageOf(t, spare, nil)[0].Key
		if k.Label != "one" || len(k.ID) != 1 || (k.Certificate == nil) != (name == "certificate") {
			t.Errorf("%s: restored as %q, ID %x, certificate of %d bytes", name, k.Label, k.ID, len(k.Certificate))
		}
	}
}

// A person who ends the run in the middle of a proof leaves no copy behind.
func TestProofEnded(t *testing.T) {
	for stop := 1; ; stop++ {
		ctx, cancel := context.WithCancel(context.Background())
		cat := newCatalog(t)
		token, card := newToken(t, "3.5", "SOFT0200001")
		initToken(t, card, cat, newShare(t, 1))
		generate(t, card, 1, "P-256", "one", []byte{1})
		unwrapped := 0
		token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
			if s == softtoken.After && (unwrapped > 0 || c.INS == 0x74) {
				if unwrapped++; unwrapped == stop {
					cancel()
				}
			}
			return 0, nil
		})
		_, err := Run(ctx, card, cat, Options{})
		token.SetFault(nil)
		cancel()
		if unwrapped < stop {
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("ended at command %d: %v", stop, err)
		}
		if n := undescribed(t, login(t, token)); n != 0 {
			t.Fatalf("ended at command %d: a copy stays behind", stop)
		}
	}
}

// Without a journal, as with a catalog that cannot be written, a round trip
// proves all the same and says that it is not recorded.
func TestRoundTripReadOnly(t *testing.T) {
	cat := createCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "one", []byte{1})
	if _, err := Run(context.Background(), card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	path := cat.Path()
	if err := cat.Close(); err != nil {
		t.Fatal(err)
	}
	cat, err := store.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	list := read(t, cat).Latest()
	if v, err := VerifyRoundTrip(context.Background(), card, cat, list, Options{}); err != nil || !v.OK() || v.NotRecorded == "" {
		t.Errorf("%+v, %v", v, err)
	}
	if undescribed(t, card) != 0 {
		t.Error("a copy stays behind")
	}
}

// A token whose shares cancelled each other exports nothing: everyone could
// open it.
func TestZeroDKEK(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.5", "SOFT0200001")
	if err := card.Initialise(ctx, schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Shares: 2}); err != nil {
		t.Fatal(err)
	}
	share := newShare(t, 1)
	for range 2 {
		if _, err := card.LoadShare(ctx, 0, share.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	generate(t, card, 1, "P-256", "open to all", []byte{1})
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Complete() || r.Keys[0].Coverage != NotExportable || !strings.Contains(r.Keys[0].Reason, "zeros") || r.Snapshot.Keys[0].Blob != nil {
		t.Errorf("%+v, %v", r, err)
	}
}
