package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

const (
	sampleKCV   = "0123456789ABCDEF"
	sampleOther = "FEDCBA9876543210"
)

var sampleKey = []byte("an anchor key, 32 bytes of it...")

// sampleClock advances by a minute with each look.
func sampleClock() func() time.Time {
	now := time.Date(2026, 3, 1, 12, 0, 0, 987654321, time.FixedZone("CET", 3600))
	return func() time.Time {
		now = now.Add(time.Minute)
		return now
	}
}

// sampleSnapshot has every field set, absent and empty bodies, and strings
// that JSON escapes. The bodies are made up: the store does not look into
// them.
func sampleSnapshot(serial string, extra string) *Snapshot {
	counter := uint32(41)
	return &Snapshot{
		Taken:   time.Date(2026, 3, 1, 13, 0, 0, 5, time.FixedZone("CET", 3600)),
		Program: "hsmbackup test",
		Adopted: true,
		Token: Token{
			Serial: serial, Label: "ssh <&> ü\u2028", Firmware: "3.5", Software: true, Options: "0001",
			PINTries: 3, SOPINTries: 15, SuccessorOf: "DENK0000001", Issuer: "UTSRCACC100001",
			ValidFrom: "2024-01-01", ValidTo: "2034-01-01",
			Certificate: []byte("device certificate of " + serial), TokenInfo: []byte{},
			Domains: []Domain{
				{Number: 0, Shares: 2, Outstanding: 1, KCV: sampleKCV, UID: []byte{1, 2, 3}},
				{Number: 1, UID: []byte{}},
			},
			FreeMemory: 76000,
		},
		Keys: []Key{
			{
				Reference: 1, ID: []byte{1}, Label: "SSH CA", Type: "RSA-4096", Usage: 0x2E, Algorithms: []byte{0x20, 0x92},
				Counter: &counter, KCV: sampleKCV, PublicKey: []byte("spki 1"), PublicFrom: "request",
				Blob: []byte("blob of key 1, " + extra), Description: []byte("prkd 1"), Certificate: []byte("request 1"),
			},
			{
				Reference: 2, ID: []byte{}, Label: "AES", Type: "AES-128", Domain: 1, KCV: sampleKCV,
				CheckValue: []byte{9, 8, 7}, Algorithms: []byte{}, Blob: []byte("blob of key 2"), Description: []byte{},
			},
			{Reference: 255, Label: "", Type: "P-256", Reason: "no DKEK"},
			{Reference: 0, Label: "loose", Type: "P-256", Blob: []byte("loose blob")},
		},
		Files:   []File{{FID: "ca01", Content: []byte("a CA certificate")}, {FID: "cd02", Content: []byte{}, Sealed: true}},
		Missing: []Gap{{What: "file c901", Reason: "needs a PIN"}},
	}
}

// newCatalog makes an empty catalog with a fixed clock and program name.
func newCatalog(t testing.TB) *Catalog {
	t.Helper()
	path := filepath.Join(t.TempDir(), "catalog.db")
	clock := sampleClock()
	if err := create(path, "hsmbackup test", clock, nil, nil); err != nil {
		t.Fatal(err)
	}
	c := reopen(t, path, true)
	c.now = clock
	readBefore(t, c)
	return c
}

func reopen(t testing.TB, path string, writable bool) *Catalog {
	t.Helper()
	c, err := Open(path, writable)
	if err != nil {
		t.Fatal(err)
	}
	c.program = "hsmbackup test"
	t.Cleanup(func() { c.Close() })
	return c
}

// readBefore has the catalog read, so that no read after it moves the clock on.
func readBefore(t testing.TB, c *Catalog) {
	t.Helper()
	clock := c.now
	c.now = time.Now
	read(t, c)
	c.now = clock
}

// fill puts one of everything into a catalog.
func fill(t testing.TB, c *Catalog) (first, second *Snapshot) {
	t.Helper()
	first, second = sampleSnapshot("DENK0100001", "one"), sampleSnapshot("DENK0100002", "two")
	for _, s := range []*Snapshot{first, second} {
		if err := c.AddSnapshot(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
	steps := []error{
		c.RecordProofs([]Proof{
			{Snapshot: first.ID, Reference: 1, Blob: HashOf(first.Keys[0].Blob), Kind: ProofRoundTrip, OK: true, Token: "DENK0100001"},
			{Snapshot: first.ID, Reference: 2, Blob: HashOf(first.Keys[1].Blob), Kind: ProofOpened, Reason: "of another DKEK", Matched: "self"},
		}),
		c.Append(ShareSeen{KCV: sampleKCV, Origin: "init"}),
		c.Append(Accepted{Serial: "DENK0100001", Reference: 255, Label: "old", Reason: "test only"}),
		c.SetAnchor(sampleKCV, sampleKey),
		c.Journal().Put("restore/DENK0100001/1", map[string]int{"reference": 1}),
	}
	for i, err := range steps {
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	if err := c.Append(Successor{Serial: "DENK0100002", SuccessorOf: "DENK0100001"}); err != nil {
		t.Fatal(err)
	}
	return first, second
}

// filled is a closed catalog with one of everything.
func filled(t testing.TB) (path string) {
	t.Helper()
	c := newCatalog(t)
	fill(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return c.Path()
}

// withAttachments is a snapshot that has some, one of them empty.
func withAttachments(serial, extra string) *Snapshot {
	s := sampleSnapshot(serial, extra)
	added := time.Date(2026, 3, 2, 8, 0, 0, 9, time.FixedZone("CET", 3600))
	s.Attachments = []Attachment{{Name: "revoked.krl", Added: added, Content: []byte("SSHKRL\n of " + extra)}, {Name: "serial", Added: added, Content: []byte{}}}
	return s
}

// filledWithAttachments is filled, and a snapshot with attachments.
func filledWithAttachments(t testing.TB) (path string) {
	t.Helper()
	c := newCatalog(t)
	fill(t, c)
	readBefore(t, c)
	if err := c.AddSnapshot(context.Background(), withAttachments("DENK0100002", "three")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return c.Path()
}

// filledByCustodians is filled, with a set that is vouched for and an answer that
// names an entry.
func filledByCustodians(t testing.TB) (path string) {
	t.Helper()
	c := newCatalog(t)
	fill(t, c)
	set := PartSet{Set: "00c0ffee", Share: 1, Shares: 1, Needed: 2, KCV: "0123456789ABCDEF", MAC: bytes.Repeat([]byte{0xAC}, 32)}
	for i, name := range []string{"alice", "bob", "carol"} {
		set.Custodians = append(set.Custodians, Custodian{Index: i + 1, Name: name, Commitment: bytes.Repeat([]byte{byte(i)}, 32)})
	}
	call := RollCall{Set: set.Set, Index: 2, Origin: "roll-call", Challenge: "hsmcall21qqqq", Answer: "hsmansw1qqqq"}
	if err := errors.Join(c.Append(set), c.Append(call), c.Close()); err != nil {
		t.Fatal(err)
	}
	return c.Path()
}

// read gives what a catalog says.
func read(t testing.TB, c *Catalog) *State {
	t.Helper()
	s, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// state is all that reading a catalog gives.
type state struct {
	Snapshots []*Snapshot
	Log       []Entry
	Proofs    []Proof
	Shares    map[KCV]ShareSeen
	Accepted  []Accepted
	Anchor    Anchor
	Journal   map[string]string
}

func readState(c *Catalog) (s state, err error) {
	is, err := c.Reread()
	if err != nil {
		return s, err
	}
	if err := is.Err(); err != nil {
		return s, err
	}
	s.Snapshots, s.Log, s.Proofs, s.Shares, s.Accepted = is.Snapshots, is.Entries, is.Proofs, is.Shares, is.Accepted
	if s.Anchor, err = is.CheckAnchor(sampleKCV, sampleKey); err != nil {
		return s, err
	}
	keys, err := c.Journal().Keys("")
	if err != nil {
		return s, err
	}
	s.Journal = map[string]string{}
	for _, k := range keys {
		var v json.RawMessage
		if _, err := c.Journal().Get(k, &v); err != nil {
			return s, err
		}
		s.Journal[k] = string(v)
	}
	return s, nil
}

func mustState(t testing.TB, c *Catalog) state {
	t.Helper()
	s, err := readState(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func requireSame(t testing.TB, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.AllowUnexported(Entry{})); d != "" {
		t.Fatalf("differs (- want, + got):\n%s", d)
	}
}

func requireClean(t testing.TB, c *Catalog) {
	t.Helper()
	found, err := c.Verify()
	if err != nil || len(found) != 0 {
		t.Fatalf("verify: %v, %v", found, err)
	}
}

func fileHash(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256(b))
}

// copyTo copies a file to a place of its own.
func copyTo(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// raw changes a closed file behind the back of the package.
func raw(t testing.TB, path string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(fn)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// pair is one stored value.
type pair struct {
	bucket     string
	key, value []byte
}

func pairs(t testing.TB, path string) (list []pair) {
	t.Helper()
	raw(t, path, func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				list = append(list, pair{string(name), bytes.Clone(k), append([]byte{}, v...)})
				return nil
			})
		})
	})
	return list
}
