package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Entry is one entry of the log. Its stored form is the JSON of the fields up
// to Body; Hash is the SHA-256 of that, and Previous that of the entry before.
type Entry struct {
	Seq      uint64          `json:"seq"` // from 1, without gaps
	Time     time.Time       `json:"time"`
	Kind     string          `json:"kind"`
	Program  string          `json:"program"`
	Previous Hash            `json:"previous"` // zero in the first
	Body     json.RawMessage `json:"body"`     // by Kind
	Hash     Hash            `json:"-"`
}

// headRecord repeats the last entry, so that a log that lost its end shows.
type headRecord struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

const keyHead = "head"

// Append adds an entry whose body is the JSON of body (nil is an empty
// object). The kinds that Create and AddSnapshot write are refused: they
// stand for things those have done.
func (c *Catalog) Append(kind string, body any) (Entry, error) {
	switch kind {
	case "", KindCreated, KindSnapshot:
		return Entry{}, fmt.Errorf("%s: a log entry of kind %q cannot be added by itself", c.what(), kind)
	}
	var e Entry
	err := c.update(func(tx *bolt.Tx) (err error) {
		e, err = appendEntry(tx, kind, c.program, c.now(), body)
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	// What the log says is read back like everything else.
	head, err := c.Head()
	if err != nil {
		return Entry{}, err
	}
	if head.Hash != e.Hash {
		return Entry{}, fmt.Errorf("%s: %w: log entry %d reads back different from what was written", c.what(), ErrDamaged, e.Seq)
	}
	return e, nil
}

// Log gives all entries, oldest first. With ErrDamaged come those that can be
// read.
func (c *Catalog) Log() ([]Entry, error) {
	var entries []Entry
	err := c.view(func(tx *bolt.Tx) error {
		var found findings
		entries, found = readLog(tx)
		return found.err()
	})
	return entries, err
}

// Head gives the last entry.
func (c *Catalog) Head() (Entry, error) {
	var e Entry
	err := c.view(func(tx *bolt.Tx) (err error) {
		e, err = readHead(tx)
		return err
	})
	return e, err
}

// EntryByHashPrefix finds the entry whose hash begins with the first bits of
// prefix: the head words of an earlier day, 11 bits each. found is false when
// there is none: the catalog is another one, older than the words, or changed.
// Several that fit are ErrAmbiguous.
func (c *Catalog) EntryByHashPrefix(prefix []byte, bits int) (e Entry, found bool, err error) {
	if bits < 1 || bits > 8*len(Hash{}) || len(prefix)*8 < bits {
		return e, false, fmt.Errorf("hash prefix of %d bits in %d bytes", bits, len(prefix))
	}
	entries, err := c.Log()
	if err != nil {
		return e, false, err
	}
	for _, candidate := range entries {
		if !samePrefix(candidate.Hash[:], prefix, bits) {
			continue
		}
		if found {
			return Entry{}, false, fmt.Errorf("%s: %w: log entries %d and %d both begin with these %d bits", c.what(), ErrAmbiguous, e.Seq, candidate.Seq, bits)
		}
		e, found = candidate, true
	}
	return e, found, nil
}

func samePrefix(a, b []byte, bits int) bool {
	whole := bits / 8
	if !bytes.Equal(a[:whole], b[:whole]) {
		return false
	}
	rest := bits % 8
	return rest == 0 || (a[whole]^b[whole])>>(8-rest) == 0
}

func logKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// appendEntry continues the chain. It refuses to build upon a damaged end.
func appendEntry(tx *bolt.Tx, kind, program string, now time.Time, body any) (Entry, error) {
	b, err := bucket(tx, bucketLog)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Seq: 1, Time: seconds(now), Kind: kind, Program: program, Body: json.RawMessage("{}")}
	if kind != KindCreated {
		head, err := readHead(tx)
		if err != nil {
			return Entry{}, err
		}
		e.Seq, e.Previous = head.Seq+1, head.Hash
	}
	if body != nil {
		if e.Body, err = encode(body); err != nil {
			return Entry{}, fmt.Errorf("log entry of kind %q: %v", kind, err)
		}
	}
	value, err := encode(e)
	if err != nil {
		return Entry{}, fmt.Errorf("log entry of kind %q: %v", kind, err)
	}
	e.Hash = HashOf(value)
	if err := b.Put(logKey(e.Seq), value); err != nil {
		return Entry{}, err
	}
	heads, err := bucket(tx, bucketHead)
	if err != nil {
		return Entry{}, err
	}
	return e, putChecked(heads, bucketHead, keyHead, headRecord{Seq: e.Seq, Hash: e.Hash})
}

// readHead reads the last entry and checks it against the head record.
func readHead(tx *bolt.Tx) (Entry, error) {
	head, err := readHeadRecord(tx)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	b, err := bucket(tx, bucketLog)
	if err != nil {
		return Entry{}, err
	}
	k, v := b.Cursor().Last()
	if !bytes.Equal(k, logKey(head.Seq)) || HashOf(v) != head.Hash {
		return Entry{}, fmt.Errorf("%w: log entry %d: the last entry is not the one that the head names", ErrDamaged, head.Seq)
	}
	e, err := parseEntry(k, v)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: log entry %d: %v", ErrDamaged, head.Seq, err)
	}
	return e, nil
}

func readHeadRecord(tx *bolt.Tx) (headRecord, error) {
	var head headRecord
	b := tx.Bucket([]byte(bucketHead))
	if b == nil {
		return head, errors.New("head of the log: its bucket is missing")
	}
	found, err := getChecked(b, bucketHead, keyHead, &head)
	if err != nil {
		return head, fmt.Errorf("head of the log: %v", err)
	}
	if !found {
		return head, errors.New("head of the log: it is missing")
	}
	return head, nil
}

// parseEntry reads an entry and copies it out of the transaction.
func parseEntry(key, value []byte) (Entry, error) {
	var e Entry
	if len(key) != 8 {
		return e, fmt.Errorf("its number has %d bytes", len(key))
	}
	if value == nil {
		return e, errors.New("a bucket stands in its place")
	}
	if err := json.Unmarshal(value, &e); err != nil {
		return e, fmt.Errorf("not readable: %v", err)
	}
	e.Hash = HashOf(value)
	if seq := binary.BigEndian.Uint64(key); e.Seq != seq {
		return e, fmt.Errorf("it calls itself entry %d", e.Seq)
	}
	return e, nil
}

// readLog reads the whole chain and goes on after what is wrong.
func readLog(tx *bolt.Tx) ([]Entry, findings) {
	var (
		entries  []Entry
		found    findings
		previous Hash
		next     uint64 = 1
		last     uint64
	)
	b, err := bucket(tx, bucketLog)
	if err != nil {
		found.add("log", "its bucket is missing")
		return nil, found
	}
	for k, v := range all(b) {
		where := fmt.Sprintf("log entry %d", next)
		if len(k) == 8 {
			last = binary.BigEndian.Uint64(k)
			where = fmt.Sprintf("log entry %d", last)
			if last != next {
				found.add(where, "entries are missing: it follows entry %d", next-1)
			}
			next = last + 1
		}
		e, err := parseEntry(k, v)
		if err != nil {
			found.add(where, "%v", err)
			previous = HashOf(v)
			continue
		}
		if e.Previous != previous {
			found.add(where, "it does not follow from the entry before it: one of the two was changed")
		}
		if (e.Kind == KindCreated) != (e.Seq == 1) {
			found.add(where, "kind %q at this place", e.Kind)
		}
		previous = e.Hash
		entries = append(entries, e)
	}
	switch head, err := readHeadRecord(tx); {
	case err != nil:
		found.add("log", "%v", err)
	case head.Seq != last:
		found.add("log", "it ends with entry %d, the head names entry %d", last, head.Seq)
	case head.Hash != previous:
		found.add(fmt.Sprintf("log entry %d", last), "its hash is not the one that the head names")
	}
	return entries, found
}

func bucket(tx *bolt.Tx, name string) (*bolt.Bucket, error) {
	b := tx.Bucket([]byte(name))
	if b == nil {
		return nil, fmt.Errorf("%w: bucket %q is missing", ErrDamaged, name)
	}
	return b, nil
}

// all walks a bucket in the order of keys. A value of nil is a bucket within;
// empty values are not nil.
func all(b *bolt.Bucket) func(yield func(k, v []byte) bool) {
	return func(yield func(k, v []byte) bool) {
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if !yield(k, v) {
				return
			}
		}
	}
}
