package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// AddSnapshot records s whole or not at all: bodies, manifest and log entry
// go into one transaction. Then everything is read back and compared; only
// when that succeeds it returns nil. It sets ID, Hash and Previous, fills in
// Taken and Program where they are empty, and keeps no reference to s.
//
// Errors: ErrReadOnly, ErrFull, ErrDamaged (the end of the log, which it cannot go
// on with, or what was read back), what is inconsistent in s, and the context's.
// Damage elsewhere stays as it is.
func (c *Catalog) AddSnapshot(ctx context.Context, s *Snapshot) error {
	if s.Taken.IsZero() {
		s.Taken = c.now()
	}
	s.Taken = seconds(s.Taken)
	if s.Program == "" {
		s.Program = c.program
	}
	state, err := c.Read()
	if err != nil {
		return err
	}
	dated := *s
	dated.Previous = state.last()
	m, records, err := newManifest(&dated)
	if err != nil {
		return err
	}
	value, err := m.encode()
	if err != nil {
		return err
	}
	hash := HashOf(value)
	err = c.update(func(tx *bolt.Tx) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := putSnapshot(tx, hash, value, records); err != nil {
			return err
		}
		if len(m.Attachments) > 0 {
			if err := raiseFormat(tx, kindCatalog, formatAttachments); err != nil {
				return err
			}
		}
		if _, err := appendEntry(tx, c.program, c.now(), SnapshotAdded{
			ID: snapshotID(hash), Hash: hash, Serial: m.Token.Serial,
		}); err != nil {
			return err
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if err := c.readBack(hash, value, records); err != nil {
		c.forget()
		return err
	}
	s.ID, s.Hash, s.Previous = snapshotID(hash), hash, dated.Previous
	return nil
}

// putSnapshot stores bodies and manifest. A body that is there already is
// compared: a damaged one is repaired by the good copy.
func putSnapshot(tx *bolt.Tx, h Hash, value []byte, records map[Hash][]byte) error {
	b, err := bucket(tx, bucketRecords)
	if err != nil {
		return err
	}
	for rh, body := range records {
		if old, ok := get(b, rh[:]); ok && bytes.Equal(old, body) {
			continue
		}
		if err := b.Put(rh[:], body); err != nil {
			return err
		}
	}
	b, err = bucket(tx, bucketManifests)
	if err != nil {
		return err
	}
	return b.Put(h[:], value)
}

// readBack compares what is stored with what was to be stored.
func (c *Catalog) readBack(h Hash, value []byte, records map[Hash][]byte) error {
	return c.view(func(tx *bolt.Tx) error {
		where := "snapshot " + snapshotID(h)
		differs := func(what string) error {
			return fmt.Errorf("%w: %s: %s reads back different from what was written: do not rely on this snapshot", ErrDamaged, where, what)
		}
		b, err := bucket(tx, bucketRecords)
		if err != nil {
			return err
		}
		for rh, body := range records {
			if got, ok := get(b, rh[:]); !ok || !bytes.Equal(got, body) {
				return differs("record " + rh.String()[:12])
			}
		}
		if b, err = bucket(tx, bucketManifests); err != nil {
			return err
		}
		if got, ok := get(b, h[:]); !ok || !bytes.Equal(got, value) {
			return differs("its manifest")
		}
		head, err := readHead(tx)
		if err != nil {
			return err
		}
		var body SnapshotAdded
		if err := json.Unmarshal(head.Body, &body); err != nil || head.Kind != KindSnapshot || body.Hash != h {
			return differs("its log entry")
		}
		s, found := readSnapshot(tx, h)
		if err := found.err(); err != nil {
			return err
		}
		defer c.extend(&head, s)
		// The whole way back: what a restore will see gives the same manifest.
		m, _, err := newManifest(s)
		if err != nil {
			return differs("its content")
		}
		if again, err := m.encode(); err != nil || !bytes.Equal(again, value) {
			return differs("its content")
		}
		return nil
	})
}

// readSnapshot reads one snapshot with its bodies. Without a readable
// manifest it is nil.
func readSnapshot(tx *bolt.Tx, h Hash) (*Snapshot, findings) {
	var found findings
	where := "snapshot " + snapshotID(h)
	m, err := readManifest(tx, h)
	if err != nil {
		found.add(where, "%v", err)
		return nil, found
	}
	s := m.snapshot(h)
	where = fmt.Sprintf("snapshot %s (token %s)", s.ID, s.Token.Serial)
	b, err := bucket(tx, bucketRecords)
	if err != nil {
		found.add(where, "the bucket of records is missing")
	}
	for _, sl := range slots(s, m) {
		if b == nil || *sl.ref == nil {
			continue
		}
		body, err := readRecord(b, **sl.ref)
		if err != nil {
			found.add(where+", "+sl.where, "%v", err)
			if sl.damage != nil {
				*sl.damage = joined(*sl.damage, fmt.Sprintf("%s: %v", sl.where, err))
			}
			continue
		}
		*sl.body = body
	}
	odd, err := s.Sift()
	if err != nil {
		found.add("snapshot "+s.ID, "%v", err)
		return nil, found
	}
	for _, f := range odd {
		found.add(strings.TrimSuffix(where+", "+f.Where, ", "), "%s", f.What)
	}
	return s, found
}

func readManifest(tx *bolt.Tx, h Hash) (*manifest, error) {
	b, err := bucket(tx, bucketManifests)
	if err != nil {
		return nil, err
	}
	value, ok := get(b, h[:])
	if !ok || value == nil {
		return nil, errors.New("its manifest is missing")
	}
	if HashOf(value) != h {
		return nil, errors.New("its manifest was changed: the hash does not fit")
	}
	var m manifest
	if err := json.Unmarshal(value, &m); err != nil {
		return nil, fmt.Errorf("its manifest is not readable: %v", err)
	}
	for _, f := range m.Files {
		if f.Content == nil {
			return nil, fmt.Errorf("its manifest names no content for file %s", f.FID)
		}
	}
	for _, at := range m.Attachments {
		if at.Content == nil {
			return nil, fmt.Errorf("its manifest names no content for attachment %s", at.Name)
		}
	}
	return &m, nil
}

// readRecord gives a copy of a body; an empty one is not nil.
func readRecord(b *bolt.Bucket, r reference) ([]byte, error) {
	value, ok := get(b, r.SHA256[:])
	switch {
	case !ok || value == nil:
		return nil, fmt.Errorf("record %s is missing", r.SHA256.String()[:12])
	case HashOf(value) != r.SHA256:
		return nil, fmt.Errorf("record %s was changed: the hash does not fit", r.SHA256.String()[:12])
	case len(value) != r.Size:
		return nil, fmt.Errorf("record %s has %d bytes, the manifest says %d", r.SHA256.String()[:12], len(value), r.Size)
	}
	return append([]byte{}, value...), nil
}
