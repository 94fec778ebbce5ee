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
	// Ahead: it is dated later than an entry that follows, or than it was read.
	Ahead bool `json:"-"`
	says  Body // nil for a kind that is not known here
}

// Says is the body of an entry whose kind this program knows, as the type that
// stands beside that kind; nil for any other.
func (e *Entry) Says() Body { return e.says }

// headRecord repeats the last entry, so that a log that lost its end shows.
type headRecord struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

const keyHead = "head"

// Append adds an entry. The kinds that Create and AddSnapshot write are refused:
// they stand for things those have done. Whatever is damaged before stays as it
// is: the entry follows the one that the head names, and the next Read says again
// what is damaged. A head whose own record is damaged is made anew from the last
// entry, and an entry of kind "head-mended" says so.
func (c *Catalog) Append(b Body) error {
	switch b.kind() {
	case KindCreated, KindSnapshot:
		return fmt.Errorf("%s: a log entry of kind %q cannot be added by itself", c.what(), b.kind())
	}
	var e Entry
	err := c.update(func(tx *bolt.Tx) (err error) {
		e, err = appendEntry(tx, c.program, c.now(), b)
		return err
	})
	if err != nil {
		return err
	}
	// What the log says is read back like everything else.
	err = c.view(func(tx *bolt.Tx) error {
		head, err := readHead(tx)
		if err == nil && head.Hash != e.Hash {
			err = fmt.Errorf("%w: log entry %d reads back different from what was written", ErrDamaged, e.Seq)
		}
		return err
	})
	if err == nil {
		c.extend(&e, nil)
	}
	return err
}

// SamePrefix compares the first bits of two values.
func SamePrefix(a, b []byte, bits int) bool {
	whole := bits / 8
	if !bytes.Equal(a[:whole], b[:whole]) {
		return false
	}
	rest := bits % 8
	return rest == 0 || (a[whole]^b[whole])>>(8-rest) == 0
}

func logKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// appendEntry continues the chain behind the entry that the head names, whether
// that one is whole or not: nothing is ever rewritten.
func appendEntry(tx *bolt.Tx, program string, now time.Time, body Body) (Entry, error) {
	if err := body.check(); err != nil {
		return Entry{}, fmt.Errorf("log entry of kind %q: %v", body.kind(), err)
	}
	b, err := bucket(tx, bucketLog)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Seq: 1, Time: seconds(now), Kind: body.kind(), Program: program, says: body}
	if e.Kind != KindCreated {
		head, err := readHeadRecord(tx)
		if err != nil {
			if head, err = mendHead(tx, program, now, err); err != nil {
				return Entry{}, err
			}
		}
		if k, _ := b.Cursor().Last(); !bytes.Equal(k, logKey(head.Seq)) {
			return Entry{}, fmt.Errorf("%w: the log does not end with entry %d, which its head names: nothing can be added", ErrDamaged, head.Seq)
		}
		e.Seq, e.Previous = head.Seq+1, head.Hash
	}
	if e.Body, err = encode(body); err != nil {
		return Entry{}, fmt.Errorf("log entry of kind %q: %v", e.Kind, err)
	}
	value, err := encode(e)
	if err != nil {
		return Entry{}, fmt.Errorf("log entry of kind %q: %v", e.Kind, err)
	}
	e.Hash = HashOf(value)
	if err := raiseFormat(tx, kindCatalog, formatOf(body)); err != nil {
		return Entry{}, err
	}
	if err := b.Put(logKey(e.Seq), value); err != nil {
		return Entry{}, err
	}
	return e, putHead(tx, &e)
}

func putHead(tx *bolt.Tx, e *Entry) error {
	heads, err := bucket(tx, bucketHead)
	if err != nil {
		return err
	}
	return putChecked(heads, bucketHead, keyHead, headRecord{Seq: e.Seq, Hash: e.Hash})
}

// mendHead makes the head's record anew from the last entry, if that is whole,
// and logs that.
func mendHead(tx *bolt.Tx, program string, now time.Time, why error) (headRecord, error) {
	b, err := bucket(tx, bucketLog)
	if err != nil {
		return headRecord{}, err
	}
	last, err := parseEntry(b.Cursor().Last())
	if err != nil {
		return headRecord{}, fmt.Errorf("%w: %v, and the last log entry is damaged too: nothing can be added", ErrDamaged, why)
	}
	if err := putHead(tx, &last); err != nil {
		return headRecord{}, err
	}
	e, err := appendEntry(tx, program, now, Mended{What: why.Error()})
	return headRecord{Seq: e.Seq, Hash: e.Hash}, err
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
	if !isWord(e.Kind) {
		return e, fmt.Errorf("kind %q is none", e.Kind)
	}
	if (e.Kind == KindCreated) != (e.Seq == 1) {
		return e, fmt.Errorf("kind %q at this place", e.Kind)
	}
	var err error
	e.says, err = parseBody(&e)
	return e, err
}

// chain is the log as it was read.
type chain struct {
	entries []Entry // that are whole, oldest first
	lost    int     // entries that are damaged or missing
	head    Entry   // what the next entry follows; Seq and Hash alone where it is damaged
}

// link is one stored entry.
type link struct {
	seq  uint64
	hash Hash
	e    Entry
	err  error // what does not check out of it
}

// readLog reads the whole log and judges each entry by the hash that its
// successor, or the head, has of it: what does not fit is named and left out,
// and the rest goes on. Only a whole successor tells; an entry whose successor
// is damaged is taken as it is.
func readLog(tx *bolt.Tx) (chain, findings) {
	var c chain
	var found findings
	b, err := bucket(tx, bucketLog)
	if err != nil {
		found.add("log", "its bucket is missing")
		return c, found
	}
	var links []link
	next := uint64(1)
	for k, v := range all(b) {
		l := link{seq: next, hash: HashOf(v)}
		if l.e, l.err = parseEntry(k, v); len(k) == 8 {
			l.seq = binary.BigEndian.Uint64(k)
		}
		if l.seq > next {
			found.add(logEntry(l.seq), "entries are missing: it follows entry %d", next-1)
			c.lost += int(l.seq - next)
		}
		links, next = append(links, l), l.seq+1
	}
	head, headErr := readHeadRecord(tx)
	if headErr != nil {
		found.add("log", "%v", headErr)
	}
	c.head = Entry{Seq: head.Seq, Hash: head.Hash}
	ends := len(links) // those behind the head do not count
	for ends > 0 && headErr == nil && links[ends-1].seq > head.Seq {
		ends--
		found.add(logEntry(links[ends].seq), "the head names entry %d as the last", head.Seq)
	}
	if headErr == nil && (ends == 0 || links[ends-1].seq < head.Seq) {
		found.add("log", "it ends with entry %d, the head names entry %d", next-1, head.Seq)
		c.lost += int(min(head.Seq-next+1, 1<<20))
	}
	// From the end, where the head tells, to the beginning.
	sure := headErr == nil // the hash of what comes before is known
	follows, before := head.Hash, head.Seq
	for i := ends - 1; i >= 0; i-- {
		l := &links[i]
		if l.err == nil && sure && before == l.seq && l.hash != follows {
			l.err = errors.New("it was changed: its hash is not the one that what follows has of it")
		}
		sure, follows, before = l.err == nil, l.e.Previous, l.seq-1
	}
	for _, l := range links[:ends] {
		if l.err != nil {
			found.add(logEntry(l.seq), "%v", l.err)
			c.lost++
			continue
		}
		c.entries = append(c.entries, l.e)
	}
	if n := len(c.entries); n > 0 && (headErr != nil || c.entries[n-1].Hash == head.Hash) {
		c.head = c.entries[n-1]
	}
	return c, found
}

func logEntry(seq uint64) string { return fmt.Sprintf("log entry %d", seq) }

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
