package store

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func TestLogIsChained(t *testing.T) {
	c := newCatalog(t)
	fill(t, c)
	entries, err := c.Log()
	if err != nil {
		t.Fatal(err)
	}
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
	if head, err := c.Head(); err != nil || head.Hash != entries[len(entries)-1].Hash {
		t.Errorf("head %+v, %v", head, err)
	}
}

func TestAppend(t *testing.T) {
	c := newCatalog(t)
	e, err := c.Append(KindCheck, struct {
		Text string `json:"text"`
	}{"a <b> & c"})
	if err != nil || e.Seq != 2 || string(e.Body) != `{"text":"a <b> & c"}` {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err = c.Append(KindExport, nil); err != nil || e.Seq != 3 || string(e.Body) != "{}" {
		t.Errorf("%+v, %v", e, err)
	}
	before := mustLog(t, c)
	for kind, body := range map[string]any{"": nil, KindCreated: nil, KindSnapshot: SnapshotAdded{}, KindCheck: make(chan int)} {
		if _, err := c.Append(kind, body); err == nil {
			t.Errorf("%q: accepted", kind)
		}
	}
	requireSame(t, mustLog(t, c), before)
	requireClean(t, c)
}

func mustLog(t *testing.T, c *Catalog) []Entry {
	t.Helper()
	entries, err := c.Log()
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// A damaged end of the log is not built upon.
func TestAppendRefusesDamagedEnd(t *testing.T) {
	for name, change := range map[string]func(tx *bolt.Tx) error{
		"entry": func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLog)).Put(logKey(7), []byte("{}")) },
		"gone":  func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketLog)).Delete(logKey(7)) },
		"more": func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketLog))
			return b.Put(logKey(8), b.Get(logKey(7)))
		},
		"no head": func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketHead)).Delete([]byte(keyHead)) },
		"no heads": func(tx *bolt.Tx) error {
			return tx.DeleteBucket([]byte(bucketHead))
		},
		"no log": func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketLog)) },
	} {
		path := filled(t)
		raw(t, path, change)
		c := reopen(t, path, true)
		before := fileHash(t, path)
		if _, err := c.Append(KindCheck, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.Head(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: head: %v", name, err)
		}
		if err := c.SetAnchor(sampleKCV, sampleKey); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: anchor: %v", name, err)
		}
		for what, err := range map[string]error{
			"proofs": errOf(c.Proofs()), "shares": errOf(c.SharesSeen()), "accepted": errOf(c.AcceptedKeys()), "log": errOf(c.Log()),
		} {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if after := fileHash(t, path); after != before {
			t.Errorf("%s: the file changed", name)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestEvents(t *testing.T) {
	c := newCatalog(t)
	first, _ := fill(t, c)
	list, err := c.Proofs()
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	entries := mustLog(t, c)
	requireSame(t, list[0], Proof{
		Time: entries[3].Time, Snapshot: first.ID, Reference: 1, Blob: HashOf(first.Keys[0].Blob), Kind: ProofRoundTrip, OK: true, Token: "DENK0100001",
	})
	if err := c.RecordProofs(nil); err != nil || len(mustLog(t, c)) != len(entries) {
		t.Errorf("no proofs: %v", err)
	}
	accepted, err := c.AcceptedKeys()
	if err != nil || len(accepted) != 1 {
		t.Fatal(accepted, err)
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
		if err := c.RecordShareSeen(s); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := c.SharesSeen()
	if err != nil {
		t.Fatal(err)
	}
	entries := mustLog(t, c)
	requireSame(t, seen, map[KCV]ShareSeen{
		// the latest, but the hardware is remembered
		sampleKCV:   {Time: entries[4].Time, KCV: sampleKCV, Origin: "drill"},
		sampleOther: {Time: entries[3].Time, KCV: sampleOther, Origin: "init", Random: true},
	})
	for _, kcv := range []string{"", "0123", "0123456789ABCDEG", sampleKCV + "00"} {
		if err := c.RecordShareSeen(ShareSeen{KCV: kcv}); err == nil {
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
			got, found, err := c.EntryByHashPrefix(e.Hash[:], bits)
			if err != nil || !found || got.Seq != e.Seq {
				t.Errorf("entry %d, %d bits: %d, %v, %v", e.Seq, bits, got.Seq, found, err)
			}
		}
		// Bits behind the last do not count, the last does.
		prefix := append([]byte{}, e.Hash[:9]...)
		prefix[8] ^= 0x3F
		if _, found, _ := c.EntryByHashPrefix(prefix, 66); !found {
			t.Errorf("entry %d: bits behind the prefix are compared", e.Seq)
		}
		prefix[8] ^= 0x40
		if _, found, err := c.EntryByHashPrefix(prefix, 66); found || err != nil {
			t.Errorf("entry %d: bit 66 is not compared: %v", e.Seq, err)
		}
	}
	for _, bad := range []struct {
		prefix []byte
		bits   int
	}{{nil, 0}, {nil, 11}, {make([]byte, 8), 66}, {make([]byte, 40), 257}, {make([]byte, 8), -1}} {
		if _, _, err := c.EntryByHashPrefix(bad.prefix, bad.bits); err == nil {
			t.Errorf("%d bits of %d bytes accepted", bad.bits, len(bad.prefix))
		}
	}
	// With one bit, seven entries must collide.
	ambiguous := 0
	for _, b := range []byte{0, 0x80} {
		if _, _, err := c.EntryByHashPrefix([]byte{b}, 1); errors.Is(err, ErrAmbiguous) {
			ambiguous++
		}
	}
	if ambiguous == 0 {
		t.Error("not ambiguous")
	}
}
