package store

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

func TestLogIsChained(t *testing.T) {
	c := newCatalog(t)
	fill(t, c)
	entries := read(t, c).Entries
	var kinds []string
	for i, e := range entries {
		kinds = append(kinds, e.Kind)
		if e.Seq != uint64(i+1) || e.Program != "hsmbackup test" || e.Time.Location() != time.UTC || e.Time.Nanosecond() != 0 {
			t.Errorf("entry %d: %+v", i, e)
		}
		if i > 0 && (e.Previous != entries[i-1].Hash || !e.Time.After(entries[i-1].Time)) {
			t.Errorf("entry %d does not follow", i)
		}
		value, err := json.Marshal(e)
		if err != nil || HashOf(value) != e.Hash {
			t.Errorf("entry %d: hash is not that of %s", i, value)
		}
	}
	if got := strings.Join(kinds, " "); got != "created snapshot snapshot proof share-seen accepted successor" {
		t.Errorf("kinds %s", got)
	}
	if head := read(t, c).Head; head.Hash != entries[len(entries)-1].Hash {
		t.Errorf("head %+v", head)
	}
}

func TestAppend(t *testing.T) {
	c := newCatalog(t)
	if err := c.Append(Mended{What: "a <b> & c"}); err != nil {
		t.Fatal(err)
	}
	e := read(t, c).Head
	if e.Seq != 2 || !strings.HasPrefix(string(e.Body), `{"what":"a <b> & c"`) || e.Says() != (Mended{What: "a <b> & c"}) {
		t.Errorf("%+v", e)
	}
	before := mustLog(t, c)
	for name, body := range map[string]Body{
		"beginning": Created{}, "snapshot": SnapshotAdded{}, "no KCV": ShareSeen{}, "no path": Copy{}, "no reference": Accepted{},
		"no fate": OldToken{}, "no blob": proofs{Proofs: []Proof{{}}}, "no key": Use{}, "no token": Restored{},
	} {
		if err := c.Append(body); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	requireSame(t, mustLog(t, c), before)
	requireClean(t, c)
}

// What is appended is in the state at once, as a look at the file has it, and
// states that were handed out stay as they are.
func TestReadIsExtended(t *testing.T) {
	c := newCatalog(t)
	old := read(t, c)
	fill(t, c)
	for _, b := range []Body{Copy{Path: "/a", Head: Hash{1}}, Copy{Path: "/a", Head: Hash{2}}, OldToken{Serial: "A", Fate: Lost, Token: "B"}} {
		if err := c.Append(b); err != nil {
			t.Fatal(err)
		}
	}
	extended := read(t, c)
	again, err := c.Reread()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(again, extended, cmp.AllowUnexported(State{}, Entry{}, addedAt{}, anchorRecord{})); d != "" {
		t.Errorf("the file says otherwise (- file, + extended):\n%s", d)
	}
	if len(old.Entries) != 1 || len(old.Snapshots)+len(old.Proofs)+len(old.Fates)+len(old.Shares) != 0 {
		t.Errorf("a state that was handed out has changed: %+v", old)
	}
}

func mustLog(t *testing.T, c *Catalog) []Entry {
	t.Helper()
	entries := read(t, c).Entries
	return entries
}

// An entry is added behind a damaged one, which stays as it is; where the end
// cannot be told, nothing is.
func TestAppendBehindDamage(t *testing.T) {
	for name, k := range map[string]struct {
		change func(tx *bolt.Tx) error
		added  uint64 // the entry that Append makes, 0 for none
	}{
		"last entry":  {func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLog)).Put(logKey(7), []byte("{}")) }, 8},
		"an entry":    {func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLog)).Put(logKey(4), []byte("{}")) }, 8},
		"first entry": {func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLog)).Put(logKey(1), []byte("{}")) }, 8},
		"no head":     {func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketHead)).Delete([]byte(keyHead)) }, 9},
		"head": {func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketHead)).Put([]byte(keyHead), []byte("nothing that has a checksum of its own"))
		}, 9},
		"head and last entry": {func(tx *bolt.Tx) error {
			if err := tx.Bucket([]byte(bucketHead)).Delete([]byte(keyHead)); err != nil {
				return err
			}
			return tx.Bucket([]byte(bucketLog)).Put(logKey(7), []byte("{}"))
		}, 0},
		"gone": {func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLog)).Delete(logKey(7)) }, 0},
		"more": {func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketLog))
			return b.Put(logKey(8), b.Get(logKey(7)))
		}, 0},
		"no heads": {func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketHead)) }, 0},
		"no log":   {func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketLog)) }, 0},
	} {
		path := filled(t)
		raw(t, path, k.change)
		c := reopen(t, path, true)
		damage := len(read(t, c).Damage)
		if damage == 0 {
			t.Errorf("%s: not found", name)
		}
		before := fileHash(t, path)
		if err := c.SetAnchor(sampleKCV, sampleKey); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: anchor: %v", name, err)
		}
		err := c.Append(Mended{What: "more"})
		if k.added == 0 {
			if after := fileHash(t, path); !errors.Is(err, ErrDamaged) || after != before {
				t.Errorf("%s: %v, %s", name, err, after)
			}
			continue
		}
		s := read(t, c)
		if err != nil || s.Head.Seq != k.added || s.Head.Says() != (Mended{What: "more"}) {
			t.Errorf("%s: %+v, %v", name, s.Head, err)
		}
		if mended := k.added == 9; mended != (len(s.Damage) == 0) || mended != (s.Entries[len(s.Entries)-2].Kind == KindMended) {
			t.Errorf("%s: %v", name, s.Damage)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestEvents(t *testing.T) {
	c := newCatalog(t)
	first, _ := fill(t, c)
	list := read(t, c).Proofs
	if len(list) != 2 {
		t.Fatal(list)
	}
	entries := mustLog(t, c)
	requireSame(t, list[0], Proof{
		Time: entries[3].Time, Seq: 4, Snapshot: first.ID, Reference: 1, Blob: HashOf(first.Keys[0].Blob), Kind: ProofRoundTrip, OK: true, Token: "DENK0100001",
	})
	if err := c.RecordProofs(nil); err != nil || len(mustLog(t, c)) != len(entries) {
		t.Errorf("no proofs: %v", err)
	}
	accepted := read(t, c).Accepted
	if len(accepted) != 1 {
		t.Fatal(accepted)
	}
	requireSame(t, accepted[0], Accepted{Time: entries[5].Time, Serial: "DENK0100001", Reference: 255, Label: "old", Reason: "test only"})
}

func TestSharesSeen(t *testing.T) {
	c := newCatalog(t)
	lower := strings.ToLower(sampleOther)
	for _, s := range []ShareSeen{
		{KCV: sampleKCV, Software: true, Origin: "verify"},
		{KCV: sampleKCV, Software: false, Origin: "init"},
		{KCV: lower, Software: false, Origin: "init", Random: true},
		{KCV: sampleKCV, Software: true, Origin: "drill"},
	} {
		if err := c.Append(s); err != nil {
			t.Fatal(err)
		}
	}
	seen := read(t, c).Shares
	entries := mustLog(t, c)
	requireSame(t, seen, map[KCV]ShareSeen{
		// the latest, but the hardware is remembered
		sampleKCV:   {Time: entries[4].Time, KCV: sampleKCV, Origin: "drill"},
		sampleOther: {Time: entries[3].Time, KCV: sampleOther, Origin: "init", Random: true},
	})
	for _, kcv := range []string{"", "0123", "0123456789ABCDEG", sampleKCV + "00"} {
		if err := c.Append(ShareSeen{KCV: kcv}); err == nil {
			t.Errorf("KCV %q accepted", kcv)
		}
	}
}

func TestEntryByHashPrefix(t *testing.T) {
	c := newCatalog(t)
	fill(t, c)
	entries := mustLog(t, c)
	for _, e := range entries {
		for _, bits := range []int{33, 64, 66, 256} {
			got, found, err := read(t, c).EntryByHashPrefix(e.Hash[:], bits)
			if err != nil || !found || got.Seq != e.Seq {
				t.Errorf("entry %d, %d bits: %d, %v, %v", e.Seq, bits, got.Seq, found, err)
			}
		}
		// Bits behind the last do not count, the last does.
		prefix := append([]byte{}, e.Hash[:9]...)
		prefix[8] ^= 0x3F
		if _, found, _ := read(t, c).EntryByHashPrefix(prefix, 66); !found {
			t.Errorf("entry %d: bits behind the prefix are compared", e.Seq)
		}
		prefix[8] ^= 0x40
		if _, found, err := read(t, c).EntryByHashPrefix(prefix, 66); found || err != nil {
			t.Errorf("entry %d: bit 66 is not compared: %v", e.Seq, err)
		}
	}
	for _, bad := range []struct {
		prefix []byte
		bits   int
	}{{nil, 0}, {nil, 11}, {make([]byte, 8), 66}, {make([]byte, 40), 257}, {make([]byte, 8), -1}} {
		if _, _, err := read(t, c).EntryByHashPrefix(bad.prefix, bad.bits); err == nil {
			t.Errorf("%d bits of %d bytes accepted", bad.bits, len(bad.prefix))
		}
	}
	// With one bit, seven entries must collide.
	ambiguous := 0
	for _, b := range []byte{0, 0x80} {
		if _, _, err := read(t, c).EntryByHashPrefix([]byte{b}, 1); errors.Is(err, ErrAmbiguous) {
			ambiguous++
		}
	}
	if ambiguous == 0 {
		t.Error("not ambiguous")
	}
}
