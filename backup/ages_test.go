package backup

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hsmbackup/store"
)

func agesOf(t testing.TB, cat *store.Catalog) Ages {
	t.Helper()
	list := TakeAges(read(t, cat), time.Now())
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	return list[0]
}

func TestAges(t *testing.T) {
	cat, s, _ := twoKeys(t)
	a := agesOf(t, cat)
	if a.Serial != "SOFT0200001" || a.Backup != s.Taken || a.Proof.IsZero() || a.ShareSeen.IsZero() || a.Keys[Unasked] != 2 {
		t.Errorf("after a backup: %+v", a)
	}
	if !a.Drill.IsZero() || !a.Check.IsZero() || a.Copies != 0 {
		t.Errorf("what never was: %+v", a)
	}
	// Half a drill is none.
	half := []store.Proof{{Snapshot: s.ID, Reference: 1, Blob: store.HashOf(s.Keys[0].Blob), Kind: store.ProofDrilled, OK: true}}
	if err := cat.RecordProofs(half); err != nil {
		t.Fatal(err)
	}
	if a = agesOf(t, cat); !a.Drill.IsZero() {
		t.Error("one of two keys was drilled")
	}
	half[0].Reference, half[0].Blob = 2, store.HashOf(s.Keys[1].Blob)
	if err := cat.RecordProofs(half); err != nil {
		t.Fatal(err)
	}
	if a = agesOf(t, cat); a.Drill.IsZero() {
		t.Error("both keys were drilled")
	}
	if _, err := Check(cat, nil, 0); err != nil {
		t.Fatal(err)
	}
	if a = agesOf(t, cat); a.Check.IsZero() {
		t.Error("it was checked")
	}
	// A copy counts for the snapshots that it holds.
	head := read(t, cat).Head
	for _, c := range []store.Copy{{Path: "/old", Seq: 1, Head: head.Hash}, {Path: "/new", Seq: head.Seq, Head: head.Hash}} {
		if err := cat.Append(c); err != nil {
			t.Fatal(err)
		}
	}
	if a = agesOf(t, cat); a.Copies != 1 {
		t.Errorf("%d copies", a.Copies)
	}

	// A token that goes on under another serial is not missed.
	if err := cat.Append(store.Successor{Serial: "SOFT0400001", SuccessorOf: "SOFT0200001"}); err != nil {
		t.Fatal(err)
	}
	if list := TakeAges(read(t, cat), time.Now()); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// The least recent counts, and only good proofs that are more than intact.
func TestLeastRecent(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	s := &store.Snapshot{Keys: []store.Key{{Blob: []byte{1}}, {Blob: []byte{2}}, {Reason: "cannot leave"}}}
	one, two := store.HashOf([]byte{1}), store.HashOf([]byte{2})
	proofs := []store.Proof{
		{Blob: one, OK: true, Kind: store.ProofOpened, Time: at(10)},
		{Blob: two, OK: true, Kind: store.ProofOpened, Time: at(20)},
		{Blob: one, OK: true, Kind: store.ProofRoundTrip, Time: at(30)},
		{Blob: two, OK: false, Kind: store.ProofRoundTrip, Time: at(40)},
		{Blob: two, OK: true, Kind: store.ProofIntact, Time: at(50)},
	}
	if got := leastRecent(s, proofs, func(p store.Proof) bool { return p.Kind != store.ProofIntact }); !got.Equal(at(20)) {
		t.Errorf("%v", got)
	}
	if got := leastRecent(s, proofs[2:], func(p store.Proof) bool { return p.Kind != store.ProofIntact }); !got.IsZero() {
		t.Errorf("one key has no proof: %v", got)
	}
}

func TestCheckCopies(t *testing.T) {
	cat, _, _ := twoKeys(t)
	dir := scratch(t)
	content, err := os.ReadFile(cat.Path())
	if err != nil {
		t.Fatal(err)
	}
	head := read(t, cat).Head
	other := createCatalog(t)
	if err := other.Append(store.Checked{}); err != nil {
		t.Fatal(err)
	}
	stranger, err := os.ReadFile(other.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		content []byte
		reached bool
		damage  string
	}{
		{"good", content, true, ""},
		{"cut", content[:len(content)/2], true, "cut"},
		{"flipped", flip(content), true, "-"},
		{"stranger", stranger, true, "another catalog"},
		{"away", nil, false, ""},
	} {
		path := filepath.Join(dir, c.name)
		if c.content != nil {
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := checkCopy(store.Copy{Path: path, Seq: head.Seq, Head: head.Hash}, read(t, cat))
		if got.Reached != c.reached || (got.Damage == "") != (c.damage == "") || strings.Contains(c.damage, " ") && !strings.Contains(got.Damage, c.damage) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	// The log of the catalog goes on: the copy is whole, and behind.
	if err := cat.Append(store.Copy{Path: filepath.Join(dir, "good"), Seq: head.Seq, Head: head.Hash}); err != nil {
		t.Fatal(err)
	}
	list := CheckCopies(read(t, cat))
	if len(list) != 1 || list[0].Behind != 1 || list[0].Damage != "" {
		t.Errorf("%+v, %v", list, err)
	}
}

// flip changes one bit of what the log says, wherever a page has it.
func flip(content []byte) []byte {
	return bytes.ReplaceAll(content, []byte(`"kind":"snapshot"`), []byte(`"kind":"snapshou"`))
}

// A proof of a kind that is not known here, as a later version may write it,
// and a use through PKCS#11 make no key restorable, nor do they take a proof
// away.
func TestUnknownProofCountsForNothing(t *testing.T) {
	cat, _, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	r, err := Run(t.Context(), card, cat, Options{NoProof: true})
	if err != nil {
		t.Fatal(err)
	}
	blob := store.HashOf(r.Snapshot.Keys[0].Blob)
	record := func(kind string, ok bool) {
		t.Helper()
		if err := cat.RecordProofs([]store.Proof{{Snapshot: r.Snapshot.ID, Reference: 1, Blob: blob, Kind: kind, OK: ok}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"pkcs11", "dreamt-of", store.ProofIntact, ""} {
		record(kind, true)
	}
	if err := cat.Append(store.Use{Snapshot: r.Snapshot.ID, Token: "SOFT0200001", Keys: []store.UsedKey{{Reference: 1, OK: true}}}); err != nil {
		t.Fatal(err)
	}
	if a := agesOf(t, cat); a.Keys[Unproven] != 1 || !a.Proof.IsZero() {
		t.Errorf("%+v", a)
	}
	record(store.ProofRoundTrip, true)
	record("dreamt-of", false)
	if a := agesOf(t, cat); a.Keys[Unasked] != 1 || a.Proof.IsZero() {
		t.Errorf("%+v", a)
	}
}
