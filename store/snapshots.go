package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// AddSnapshot records s whole or not at all: bodies, manifest and log entry
// go into one transaction. Then everything is read back and compared; only
// when that succeeds it returns nil. It sets ID, Hash and Previous, fills in
// Taken and Program where they are empty, and keeps no reference to s.
//
// Errors: ErrReadOnly, ErrFull, ErrDamaged (the log, which it will not go on
// with, or what was read back), what is inconsistent in s, and the context's.
func (c *Catalog) AddSnapshot(ctx context.Context, s *Snapshot) error {
	if s.Taken.IsZero() {
		s.Taken = c.now()
	}
	s.Taken = seconds(s.Taken)
	if s.Program == "" {
		s.Program = c.program
	}
	var value []byte
	var records map[Hash][]byte
	var previous, hash Hash
	err := c.update(func(tx *bolt.Tx) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if previous, _, err = newest(tx, latest); err != nil {
			return err
		}
		dated := *s
		dated.Previous = previous
		var m *manifest
		if m, records, err = newManifest(&dated); err != nil {
			return err
		}
		if value, err = m.encode(); err != nil {
			return err
		}
		hash = HashOf(value)
		if err := putSnapshot(tx, hash, value, records); err != nil {
			return err
		}
		if len(m.Attachments) > 0 {
			if err := raiseFormat(tx, kindCatalog, formatAttachments); err != nil {
				return err
			}
		}
		if _, err := appendEntry(tx, KindSnapshot, c.program, c.now(), SnapshotAdded{
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
		return err
	}
	s.ID, s.Hash, s.Previous = snapshotID(hash), hash, previous
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

// Snapshots gives all snapshots, oldest first. With ErrDamaged come those
// whose manifest is whole; bodies of theirs that do not check out are nil, and
// the Damage of key or file says so.
func (c *Catalog) Snapshots() ([]*Snapshot, error) {
	var list []*Snapshot
	err := c.view(func(tx *bolt.Tx) error {
		entries, found := readLog(tx)
		var damage findings
		list, damage = readSnapshots(tx, entries)
		return append(found, damage...).err()
	})
	return list, err
}

// Snapshot finds one snapshot: "latest" is the newest of all, a token's serial
// its newest, anything else an ID or the beginning of one or of a hash, at
// least 4 hex digits. Damage elsewhere does not matter, but for the log: only a
// whole one can tell what is newest, so that "latest" and serials need it.
//
// Errors: ErrNoSnapshot, ErrAmbiguous, ErrDamaged; with the last comes, as of
// Snapshots, what can be read of it.
func (c *Catalog) Snapshot(name string) (*Snapshot, error) {
	var s *Snapshot
	err := c.view(func(tx *bolt.Tx) error {
		h, err := findSnapshot(tx, name)
		if err != nil {
			return err
		}
		var found findings
		s, found = readSnapshot(tx, h)
		return found.err()
	})
	return s, err
}

func findSnapshot(tx *bolt.Tx, name string) (Hash, error) {
	byID, err := hashesByPrefix(tx, name)
	if err != nil {
		return Hash{}, err
	}
	bySerial, ok, err := newest(tx, name)
	switch {
	case len(byID) > 1, len(byID) == 1 && ok && byID[0] != bySerial:
		return Hash{}, fmt.Errorf("%w: %q fits more than one snapshot: give more of the id", ErrAmbiguous, name)
	case len(byID) == 1:
		return byID[0], nil
	case err != nil: // what is asked for may be in what is damaged
		return Hash{}, fmt.Errorf("%w: a snapshot can still be had by its id", err)
	case ok:
		return bySerial, nil
	case name == latest:
		return Hash{}, fmt.Errorf("%w: the catalog has none yet: run a backup", ErrNoSnapshot)
	}
	return Hash{}, fmt.Errorf("%w: %q is neither an id, at least 4 digits of it, nor a token's serial", ErrNoSnapshot, name)
}

// latest names the newest snapshot of all.
const latest = "latest"

// newest finds the newest snapshot of a token, or of all. It needs a whole log.
func newest(tx *bolt.Tx, name string) (h Hash, ok bool, err error) {
	entries, found := readLog(tx)
	if err := found.err(); err != nil {
		return h, false, err
	}
	for i := len(entries) - 1; i >= 0; i-- {
		if entries[i].Kind != KindSnapshot {
			continue
		}
		var body SnapshotAdded
		if err := json.Unmarshal(entries[i].Body, &body); err != nil {
			return h, false, fmt.Errorf("%w: log entry %d: %v", ErrDamaged, entries[i].Seq, err)
		}
		if name == latest || name != "" && body.Serial == name {
			return body.Hash, true, nil
		}
	}
	return h, false, nil
}

// hashesByPrefix finds manifests by the beginning of their hash in hex.
func hashesByPrefix(tx *bolt.Tx, prefix string) ([]Hash, error) {
	prefix = strings.ToLower(prefix)
	if len(prefix) < 4 || len(prefix) > 2*len(Hash{}) {
		return nil, nil
	}
	if _, err := hex.DecodeString(prefix[:len(prefix)&^1]); err != nil {
		return nil, nil
	}
	b, err := bucket(tx, bucketManifests)
	if err != nil {
		return nil, err
	}
	var list []Hash
	for k := range all(b) {
		if len(k) == len(Hash{}) && strings.HasPrefix(hex.EncodeToString(k), prefix) {
			list = append(list, Hash(k))
		}
	}
	return list, nil
}

// readSnapshots reads all snapshots in the order of the log, then those that
// the log does not know; of what is not whole it gives findings.
func readSnapshots(tx *bolt.Tx, entries []Entry) ([]*Snapshot, findings) {
	var found findings
	var list []*Snapshot
	var previous Hash
	known := map[Hash]bool{}
	for _, e := range entries {
		if e.Kind != KindSnapshot {
			continue
		}
		var body SnapshotAdded
		if err := json.Unmarshal(e.Body, &body); err != nil {
			found.add(fmt.Sprintf("log entry %d", e.Seq), "not readable: %v", err)
			continue
		}
		where := fmt.Sprintf("snapshot %s (token %s)", snapshotID(body.Hash), body.Serial)
		if body.ID != snapshotID(body.Hash) {
			found.add(fmt.Sprintf("log entry %d", e.Seq), "id %q is not the beginning of hash %s", body.ID, body.Hash)
		}
		if known[body.Hash] {
			found.add(where, "log entry %d records it a second time", e.Seq)
			continue
		}
		known[body.Hash] = true
		s, damage := readSnapshot(tx, body.Hash)
		found = append(found, damage...)
		if s != nil {
			if s.Previous != previous {
				found.add(where, "it names %s as the snapshot before it, the log says %s", s.Previous.String()[:12], previous.String()[:12])
			}
			if s.Token.Serial != body.Serial {
				found.add(where, "it is of token %q", s.Token.Serial)
			}
		}
		if s != nil {
			list = append(list, s)
		}
		previous = body.Hash
	}
	surplus, damage := unlogged(tx, known)
	return append(list, surplus...), append(found, damage...)
}

// unlogged finds manifests that no log entry names.
func unlogged(tx *bolt.Tx, known map[Hash]bool) ([]*Snapshot, findings) {
	var list []*Snapshot
	var found findings
	b, err := bucket(tx, bucketManifests)
	if err != nil {
		found.add("snapshots", "their bucket is missing")
		return nil, found
	}
	for k, v := range all(b) {
		switch {
		case len(k) != len(Hash{}):
			found.add("snapshots", "a name of %d bytes is no hash", len(k))
			continue
		case v == nil:
			found.add("snapshot "+snapshotID(Hash(k)), "a bucket stands in its place")
			continue
		case known[Hash(k)]:
			continue
		}
		found.add("snapshot "+snapshotID(Hash(k)), "the log does not know it")
		s, damage := readSnapshot(tx, Hash(k))
		found = append(found, damage...)
		if s != nil {
			list = append(list, s)
		}
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Taken.Before(list[j].Taken) })
	return list, found
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
