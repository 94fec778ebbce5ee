package store

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// Every single bit of every stored value and of every key, one at a time.
func TestVerifyFindsEveryBit(t *testing.T) {
	t.Parallel()
	c := newCatalog(t)
	one := sampleSnapshot("DENK0100001", "one")
	one.Keys, one.Files = one.Keys[:2], one.Files[1:]
	if err := c.AddSnapshot(context.Background(), one); err != nil {
		t.Fatal(err)
	}
	if err := c.Append(ShareSeen{KCV: sampleKCV, Origin: "init"}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetAnchor(sampleKCV, sampleKey); err != nil {
		t.Fatal(err)
	}
	if err := c.Journal().Put("a", 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	path := c.Path()
	stored := pairs(t, path)
	c = reopen(t, path, true)
	requireClean(t, c)
	bits := 0
	// Changes are made within a transaction that is never committed.
	tx, err := c.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for _, p := range stored {
		b := tx.Bucket([]byte(p.bucket))
		check := func(what string, byteAt, bit int) {
			bits++
			var found findings
			verifyContent(tx, &found)
			if len(found) == 0 {
				t.Errorf("%s %x: %s: bit %d of byte %d is not found", p.bucket, p.key, what, bit, byteAt)
			}
		}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range p.value {
			for bit := range 8 {
				changed := bytes.Clone(p.value)
				changed[i] ^= 1 << bit
				must(b.Put(p.key, changed))
				check("value", i, bit)
			}
		}
		must(b.Put(p.key, p.value[:max(0, len(p.value)-1)]))
		if len(p.value) > 0 {
			check("value, last byte missing", len(p.value)-1, 0)
		}
		must(b.Put(p.key, append(bytes.Clone(p.value), 0)))
		check("value, one byte more", len(p.value), 0)
		must(b.Delete(p.key))
		for i := range p.key {
			for bit := range 8 {
				changed := bytes.Clone(p.key)
				changed[i] ^= 1 << bit
				old := bytes.Clone(b.Get(changed)) // it may be the key of another value
				must(b.Put(changed, p.value))
				check("key", i, bit)
				must(b.Delete(changed))
				if old != nil {
					must(b.Put(changed, old))
				}
			}
		}
		if p.bucket != bucketAnchors && p.bucket != bucketJournal { // these may be deleted
			check("missing", 0, 0)
		}
		must(b.Put(p.key, p.value))
		var found findings
		if verifyContent(tx, &found); len(found) != 0 {
			t.Fatalf("put back, and yet: %v", found)
		}
	}
	if bits < 15000 {
		t.Errorf("only %d bits tried", bits)
	}
}

// Names of buckets.
func TestVerifyFindsBucketNames(t *testing.T) {
	path := filled(t)
	for _, name := range append([]string{bucketFormat}, catalogBuckets...) {
		for i := range len(name) {
			changed := []byte(name)
			changed[i] ^= 1
			copied := copyTo(t, path)
			raw(t, copied, func(tx *bolt.Tx) error {
				to, err := tx.CreateBucket(changed)
				if err != nil {
					return err
				}
				if err := tx.Bucket([]byte(name)).ForEach(to.Put); err != nil {
					return err
				}
				return tx.DeleteBucket([]byte(name))
			})
			c, err := Open(copied, false)
			if err != nil {
				continue
			}
			found, err := c.Verify()
			if err != nil || len(found) < 2 {
				t.Errorf("%q: %v, %v", changed, found, err)
			}
			c.Close()
		}
	}
}

func TestVerifyFindsTampering(t *testing.T) {
	c := newCatalog(t)
	first, second := fill(t, c)
	third := sampleSnapshot("DENK0100001", "three")
	if err := c.AddSnapshot(context.Background(), third); err != nil {
		t.Fatal(err)
	}
	path := c.Path()
	c.Close()
	manifests, records, logs := []byte(bucketManifests), []byte(bucketRecords), []byte(bucketLog)
	for _, k := range []struct {
		name   string
		change func(tx *bolt.Tx) error
		want   []string
	}{
		{"log entry removed", func(tx *bolt.Tx) error { return tx.Bucket(logs).Delete(logKey(4)) },
			[]string{"log entry 5: entries are missing: it follows entry 3"}},
		{"first log entry removed", func(tx *bolt.Tx) error { return tx.Bucket(logs).Delete(logKey(1)) },
			[]string{"log entry 2: entries are missing"}},
		{"last log entry removed", func(tx *bolt.Tx) error { return tx.Bucket(logs).Delete(logKey(8)) },
			[]string{"it ends with entry 7, the head names entry 8"}},
		{"log entries swapped", func(tx *bolt.Tx) error {
			b := tx.Bucket(logs)
			v4, v5 := bytes.Clone(b.Get(logKey(4))), bytes.Clone(b.Get(logKey(5)))
			if err := b.Put(logKey(4), v5); err != nil {
				return err
			}
			return b.Put(logKey(5), v4)
		}, []string{"log entry 4: it calls itself entry 5", "log entry 5: it calls itself entry 4"}},
		{"log entry repeated at the end", func(tx *bolt.Tx) error {
			return tx.Bucket(logs).Put(logKey(9), tx.Bucket(logs).Get(logKey(8)))
		}, []string{"log entry 9: the head names entry 8"}},
		{"log entry rewritten", func(tx *bolt.Tx) error {
			v := bytes.Replace(tx.Bucket(logs).Get(logKey(6)), []byte("test only"), []byte("fine so  "), 1)
			return tx.Bucket(logs).Put(logKey(6), v)
		}, []string{"log entry 6: it was changed"}},
		{"last log entry rewritten", func(tx *bolt.Tx) error {
			v := bytes.Replace(tx.Bucket(logs).Get(logKey(8)), []byte("hsmbackup test"), []byte("hsmbackup best"), 1)
			return tx.Bucket(logs).Put(logKey(8), v)
		}, []string{"log entry 8: it was changed"}},
		{"a bucket within the log", func(tx *bolt.Tx) error {
			_, err := tx.Bucket(logs).CreateBucket(logKey(9))
			return err
		}, []string{"log entry 9: the head names entry 8 as the last"}},
		{"no head", func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketHead)).Delete([]byte(keyHead)) },
			[]string{"log: head of the log: it is missing"}},
		{"rolled back with a head that fits", func(tx *bolt.Tx) error {
			b := tx.Bucket(logs)
			if err := b.Delete(logKey(8)); err != nil {
				return err
			}
			return putChecked(tx.Bucket([]byte(bucketHead)), bucketHead, keyHead, headRecord{7, HashOf(b.Get(logKey(7)))})
		}, []string{third.ID + ": the log does not know it"}},
		{"snapshot removed", func(tx *bolt.Tx) error { return tx.Bucket(manifests).Delete(second.Hash[:]) },
			[]string{"snapshot " + second.ID + ": its manifest is missing", "no snapshot uses it"}},
		{"snapshot put under another name", func(tx *bolt.Tx) error {
			return tx.Bucket(manifests).Put(first.Hash[:], tx.Bucket(manifests).Get(second.Hash[:]))
		}, []string{"snapshot " + first.ID + ": its manifest was changed"}},
		{"snapshot too many", func(tx *bolt.Tx) error {
			v := bytes.Replace(tx.Bucket(manifests).Get(second.Hash[:]), []byte("SSH CA"), []byte("SSH CB"), 1)
			h := HashOf(v)
			return tx.Bucket(manifests).Put(h[:], v)
		}, []string{"the log does not know it"}},
		{"a bucket within the snapshots", func(tx *bolt.Tx) error {
			_, err := tx.Bucket(manifests).CreateBucket(bytes.Repeat([]byte{7}, 32))
			return err
		}, []string{"snapshot 070707070707: a bucket stands in its place"}},
		{"record removed", func(tx *bolt.Tx) error {
			h := HashOf(second.Keys[0].Blob)
			return tx.Bucket(records).Delete(h[:])
		}, []string{"snapshot " + second.ID + " (token DENK0100002), key 1, blob: record", "is missing"}},
		{"blob of another key", func(tx *bolt.Tx) error {
			h := HashOf(second.Keys[0].Blob)
			return tx.Bucket(records).Put(h[:], first.Keys[0].Blob)
		}, []string{"(token DENK0100002), key 1, blob: record", "was changed"}},
		{"record too many", func(tx *bolt.Tx) error {
			h := HashOf([]byte("more"))
			return tx.Bucket(records).Put(h[:], []byte("more"))
		}, []string{": no snapshot uses it"}},
		{"a bucket within the records", func(tx *bolt.Tx) error {
			h := HashOf([]byte("loose blob"))
			if err := tx.Bucket(records).Delete(h[:]); err != nil {
				return err
			}
			_, err := tx.Bucket(records).CreateBucket(h[:])
			return err
		}, []string{`key "loose", blob: record`}},
		{"anchor under another KCV", func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketAnchors))
			return b.Put([]byte(sampleOther), b.Get([]byte(sampleKCV)))
		}, []string{`anchor "` + sampleOther + `": its checksum does not fit`}},
		{"anchor upon another entry", func(tx *bolt.Tx) error {
			return putChecked(tx.Bucket([]byte(bucketAnchors)), bucketAnchors, sampleKCV, anchorRecord{Seq: 3, Hash: first.Hash})
		}, []string{"log entry 3 is not the one that was anchored"}},
		{"journal not JSON", func(tx *bolt.Tx) error {
			sum := checksum(bucketJournal, "x", []byte("{"))
			return tx.Bucket([]byte(bucketJournal)).Put([]byte("x"), append(sum[:], '{'))
		}, []string{`journal "x": not readable`}},
		{"another bucket", func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("mine"))
			return err
		}, []string{`file: "mine" is no part of a catalog`}},
		{"another format key", func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(bucketFormat)).Put([]byte("more"), nil)
		}, []string{`"more" in bucket "format" is no part`}},
		{"bucket removed", func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucketJournal)) },
			[]string{`bucket "journal" is missing`}},
		{"records removed", func(tx *bolt.Tx) error { return tx.DeleteBucket(records) },
			[]string{`bucket "records" is missing`, "the bucket of records is missing"}},
		{"snapshots removed", func(tx *bolt.Tx) error { return tx.DeleteBucket(manifests) },
			[]string{`bucket "manifests" is missing`}},
		{"sequence number", func(tx *bolt.Tx) error { return tx.Bucket(logs).SetSequence(5) },
			[]string{`bucket "log" has a sequence number`}},
	} {
		t.Run(k.name, func(t *testing.T) {
			copied := copyTo(t, path)
			raw(t, copied, k.change)
			c := reopen(t, copied, false)
			before := fileHash(t, copied)
			found, err := c.Verify()
			if err != nil {
				t.Fatal(err)
			}
			requireFindings(t, found, k.want...)
			if after := fileHash(t, copied); after != before {
				t.Error("Verify changed the file")
			}
		})
	}
}

// forged is a body that no check has seen.
type forged struct {
	as   string
	body any
}

func (f forged) kind() string                 { return f.as }
func (forged) check() error                   { return nil }
func (forged) tell(*State, *Entry)            {}
func (f forged) MarshalJSON() ([]byte, error) { return json.Marshal(f.body) }

// Chains that are consistent in themselves and still wrong.
func TestVerifyFindsForgedChain(t *testing.T) {
	c := newCatalog(t)
	first, second := fill(t, c)
	path := c.Path()
	c.Close()
	// relog replaces the log from entry 2 on.
	relog := func(bodies ...SnapshotAdded) func(tx *bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketLog))
			for seq := uint64(2); seq <= 7; seq++ {
				if err := b.Delete(logKey(seq)); err != nil {
					return err
				}
			}
			if err := putChecked(tx.Bucket([]byte(bucketHead)), bucketHead, keyHead, headRecord{1, HashOf(b.Get(logKey(1)))}); err != nil {
				return err
			}
			for _, body := range bodies {
				if _, err := appendEntry(tx, "forger", sampleClock()(), forged{KindSnapshot, body}); err != nil {
					return err
				}
			}
			return nil
		}
	}
	added := func(s *Snapshot) SnapshotAdded {
		return SnapshotAdded{ID: s.ID, Hash: s.Hash, Serial: s.Token.Serial}
	}
	odd, other := added(first), added(first)
	odd.ID, other.Serial = "000000000000", "OTHER"
	for _, k := range []struct {
		name   string
		change func(tx *bolt.Tx) error
		want   []string
	}{
		{"order", relog(added(second), added(first)), []string{"names " + first.ID + " as the snapshot before it, the log says 000000000000"}},
		{"left out", relog(added(second)), []string{first.ID + ": the log does not know it"}},
		{"twice", relog(added(first), added(second), added(second)), []string{"log entry 4 records it a second time"}},
		{"id", relog(odd, added(second)), []string{`id "000000000000" is not the beginning`}},
		{"serial", relog(other, added(second)), []string{`it is of token "DENK0100001"`}},
		{"second beginning", func(tx *bolt.Tx) error {
			_, err := appendEntry(tx, "forger", sampleClock()(), Checked{})
			if err != nil {
				return err
			}
			b := tx.Bucket([]byte(bucketLog))
			v := bytes.Replace(b.Get(logKey(8)), []byte(`"check"`), []byte(`"created"`), 1)
			if err := b.Put(logKey(8), v); err != nil {
				return err
			}
			return putChecked(tx.Bucket([]byte(bucketHead)), bucketHead, keyHead, headRecord{8, HashOf(v)})
		}, []string{`log entry 8: kind "created" at this place`}},
		{"body", func(tx *bolt.Tx) error {
			_, err := appendEntry(tx, "forger", sampleClock()(), forged{KindProof, "no proof"})
			return err
		}, []string{"log entry 8: not readable"}},
		{"snapshot body", func(tx *bolt.Tx) error {
			_, err := appendEntry(tx, "forger", sampleClock()(), forged{KindSnapshot, 7})
			return err
		}, []string{"log entry 8: not readable"}},
	} {
		t.Run(k.name, func(t *testing.T) {
			copied := copyTo(t, path)
			raw(t, copied, k.change)
			found, err := reopen(t, copied, false).Verify()
			if err != nil {
				t.Fatal(err)
			}
			requireFindings(t, found, k.want...)
		})
	}
}

func requireFindings(t *testing.T, found []Finding, want ...string) {
	t.Helper()
	var lines []string
	for _, f := range found {
		lines = append(lines, f.String())
	}
	all := strings.Join(lines, "\n")
	for _, w := range want {
		if !strings.Contains(all, w) {
			t.Errorf("want %q in\n%s", w, all)
		}
	}
}
