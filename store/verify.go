package store

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Verify checks all there is, without a key: the pages of the file, every
// record against its hash, every manifest against its name and the log, the
// chain from the first entry to the head, that nothing is missing or surplus.
// It never stops at the first finding and changes nothing. The error is for
// what kept it from looking.
//
// What it cannot see is a file that someone replaced as a whole by one that
// is consistent, such as an older copy: that takes an anchor.
func (c *Catalog) Verify() ([]Finding, error) {
	var found findings
	err := c.view(func(tx *bolt.Tx) error {
		// Within the transaction no write of this process is under way, and
		// the lock keeps others away.
		c.verifyPages(&found)
		verifyContent(tx, &found)
		return nil
	})
	return found, err
}

// verifyContent checks everything above the pages: what a State has of it, and
// the format, the buckets, records that no snapshot uses, the journal.
func verifyContent(tx *bolt.Tx, found *findings) {
	if err := readFormat(tx, kindCatalog); err != nil {
		found.add("file", "%v", err)
	}
	verifyBuckets(tx, found)
	s := newState()
	s.read(tx, time.Now())
	*found = append(*found, s.Damage...)
	verifyRecords(tx, found)
	verifyJournal(tx, found)
}

func (c *Catalog) verifyPages(found *findings) {
	spoilt := false
	err := c.inspect(func(r *os.File, size int64) (err error) {
		spoilt, err = checkLayout(r, size)
		return err
	})
	if err != nil {
		found.add("file", "%v", err)
	}
	if spoilt {
		found.add("file", "one of its two meta pages is not valid: a write was cut short, or it was damaged; what is shown is the state of the other, and the next write repairs it")
	}
}

// verifyBuckets looks for what does not belong into the file.
func verifyBuckets(tx *bolt.Tx, found *findings) {
	names := append([]string{bucketFormat}, catalogBuckets...)
	c := tx.Cursor()
	seen := map[string]bool{}
	for k, v := c.First(); k != nil; k, v = c.Next() {
		seen[string(k)] = true
		if v != nil || !slices.Contains(names, string(k)) {
			found.add("file", "%q is no part of a catalog", k)
		}
	}
	for _, name := range names {
		if !seen[name] {
			found.add("file", "bucket %q is missing", name)
			continue
		}
		if b := tx.Bucket([]byte(name)); b != nil && b.Sequence() != 0 {
			found.add("file", "bucket %q has a sequence number", name)
		}
	}
	for name, key := range map[string]string{bucketFormat: keyFormat, bucketHead: keyHead} {
		b := tx.Bucket([]byte(name))
		if b == nil {
			continue
		}
		for k := range all(b) {
			if string(k) != key {
				found.add("file", "%q in bucket %q is no part of a catalog", k, name)
			}
		}
	}
}

// verifyRecords checks each record by itself and that a snapshot uses it.
// Damage of one that is used is reported with the snapshot already.
func verifyRecords(tx *bolt.Tx, found *findings) {
	b := tx.Bucket([]byte(bucketRecords))
	if b == nil {
		return
	}
	used := usedRecords(tx)
	for k, v := range all(b) {
		if len(k) != len(Hash{}) {
			found.add("records", "a name of %d bytes is no hash", len(k))
			continue
		}
		where := "record " + Hash(k).String()[:12]
		switch {
		case v == nil:
			found.add(where, "a bucket stands in its place")
		case !used[Hash(k)] && HashOf(v) != Hash(k):
			found.add(where, "no snapshot uses it, and the hash does not fit")
		case !used[Hash(k)]:
			found.add(where, "no snapshot uses it")
		}
	}
}

func usedRecords(tx *bolt.Tx) map[Hash]bool {
	used := map[Hash]bool{}
	b := tx.Bucket([]byte(bucketManifests))
	if b == nil {
		return used
	}
	for k := range all(b) {
		if len(k) != len(Hash{}) {
			continue
		}
		m, err := readManifest(tx, Hash(k))
		if err != nil {
			continue
		}
		for _, sl := range slots(m.snapshot(Hash(k)), m) {
			if *sl.ref != nil {
				used[(*sl.ref).SHA256] = true
			}
		}
	}
	return used
}

func verifyJournal(tx *bolt.Tx, found *findings) {
	b := tx.Bucket([]byte(bucketJournal))
	if b == nil {
		return
	}
	for k, v := range all(b) {
		var body json.RawMessage
		if err := openChecked(bucketJournal, string(k), v, &body); err != nil {
			found.add("journal "+strconv.QuoteToASCII(string(k)), "%v", err)
		}
	}
}
