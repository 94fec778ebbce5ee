package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

func TestSnapshotReadsBackWhole(t *testing.T) {
	c := newCatalog(t)
	want := sampleSnapshot("DENK0100001", "one")
	if err := c.AddSnapshot(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	if want.ID != want.Hash.String()[:12] || want.Hash.IsZero() || !want.Previous.IsZero() {
		t.Errorf("%+v", want)
	}
	if !want.Taken.Equal(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)) || want.Taken.Location() != time.UTC {
		t.Errorf("taken %v", want.Taken)
	}
	c.Close()
	c = reopen(t, c.Path(), false)
	got, err := read(t, c).Find("latest")
	if err != nil {
		t.Fatal(err)
	}
	requireSame(t, got, want)
	// cmp takes nil and empty for different, as this package does.
	if got.Token.TokenInfo == nil || got.Keys[0].Certificate == nil || got.Keys[1].Certificate != nil || got.Keys[1].Description == nil || got.Keys[3].ID != nil {
		t.Error("absent and empty are mixed up")
	}
	requireClean(t, c)
}

// A re-keyed snapshot says what it was made from; the others have no such
// member.
func TestSnapshotRekeyed(t *testing.T) {
	c := newCatalog(t)
	from := sampleSnapshot("DENK0100001", "one")
	if err := c.AddSnapshot(context.Background(), from); err != nil {
		t.Fatal(err)
	}
	want := sampleSnapshot("DENK0100001", "re-keyed")
	want.Rekeyed = &Rekeyed{Time: time.Date(2026, 3, 2, 13, 0, 0, 7, time.FixedZone("CET", 3600)), From: from.Hash, OldKCV: sampleKCV, KCV: strings.ToLower(sampleOther)}
	if err := c.AddSnapshot(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	got, err := read(t, c).Find("DENK0100001")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&Rekeyed{Time: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), From: from.Hash, OldKCV: sampleKCV, KCV: sampleOther}, got.Rekeyed); d != "" {
		t.Error(d)
	}
	if first, err := read(t, c).Find(from.ID); err != nil || first.Rekeyed != nil {
		t.Errorf("%+v, %v", first.Rekeyed, err)
	}
	for name, r := range map[string]*Rekeyed{
		"no source": {Time: want.Rekeyed.Time, OldKCV: sampleKCV, KCV: sampleOther},
		"no time":   {From: from.Hash, OldKCV: sampleKCV, KCV: sampleOther},
		"no KCV":    {Time: want.Rekeyed.Time, From: from.Hash, OldKCV: sampleKCV},
		"a bad KCV": {Time: want.Rekeyed.Time, From: from.Hash, OldKCV: "KCV", KCV: sampleOther},
	} {
		bad := sampleSnapshot("DENK0100001", name)
		bad.Rekeyed = r
		if err := c.AddSnapshot(context.Background(), bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	requireClean(t, c)
}

func TestSnapshotDefaults(t *testing.T) {
	c := newCatalog(t)
	s := &Snapshot{Token: Token{Options: "00FF"}, Files: []File{{FID: "CA01"}}, Keys: []Key{{Reference: 1, KCV: "abcdef0123456789", Blob: []byte{}}}}
	if err := c.AddSnapshot(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if s.Program != "hsmbackup test" || s.Taken.IsZero() {
		t.Errorf("%+v", s)
	}
	got, err := read(t, c).Find(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.Token.Options != "00ff" || got.Files[0].FID != "ca01" || got.Files[0].Content == nil || got.Keys[0].KCV != "ABCDEF0123456789" || got.Keys[0].Blob == nil {
		t.Errorf("%+v", got)
	}
}

// A label may hold any bytes; that must not make a backup fail.
func TestSnapshotInvalidUTF8(t *testing.T) {
	c := newCatalog(t)
	s := &Snapshot{Token: Token{Label: "a\xffb"}, Keys: []Key{{Reference: 1, Label: "\xc3", Blob: []byte("b")}}}
	if err := c.AddSnapshot(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	got, err := read(t, c).Find("latest")
	if err != nil || got.Token.Label != "a\ufffdb" || got.Keys[0].Label != "\ufffd" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSnapshotReject(t *testing.T) {
	blob := []byte("b")
	for name, s := range map[string]*Snapshot{
		"not within":         {Keys: []Key{{Reference: 256, Blob: blob}}},
		"reference -1":       {Keys: []Key{{Reference: -1, Blob: blob}}},
		"has no reference":   {Keys: []Key{{Blob: blob}}},
		"reference 1 twice":  {Keys: []Key{{Reference: 1, Blob: blob}, {Reference: 1, Blob: blob}}},
		"neither a blob":     {Keys: []Key{{Reference: 1}}},
		"a blob and":         {Keys: []Key{{Reference: 1, Blob: blob, Reason: "no DKEK"}}},
		"key 1: KCV":         {Keys: []Key{{Reference: 1, Blob: blob, KCV: "0123"}}},
		"key domain 3: KCV":  {Token: Token{Domains: []Domain{{Number: 3, KCV: "0123456789abcdeg"}}}},
		"options":            {Token: Token{Options: "1"}},
		"file id":            {Files: []File{{FID: "ca"}}},
		"file ca01 twice":    {Files: []File{{FID: "ca01"}, {FID: "CA01"}}},
		"year outside of ra": {Taken: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		c := newCatalog(t)
		before := fileHash(t, c.Path())
		err := c.AddSnapshot(context.Background(), s)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if s.ID != "" || !s.Hash.IsZero() {
			t.Errorf("%s: got an id", name)
		}
		if after := fileHash(t, c.Path()); after != before {
			t.Errorf("%s: the file changed", name)
		}
	}
}

func TestSnapshotCancelled(t *testing.T) {
	c := newCatalog(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.AddSnapshot(ctx, sampleSnapshot("A", "")); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if list := read(t, c).Snapshots; len(list) != 0 {
		t.Fatalf("%v", list)
	}
	requireClean(t, c)
}

func TestSnapshotNames(t *testing.T) {
	c := newCatalog(t)
	ctx := context.Background()
	if _, err := read(t, c).Find("latest"); !errors.Is(err, ErrNoSnapshot) || !strings.Contains(err.Error(), "run a backup") {
		t.Errorf("empty catalog: %v", err)
	}
	var list []*Snapshot
	for i, serial := range []string{"DENK0100001", "DENK0100002", "DENK0100001"} {
		s := sampleSnapshot(serial, fmt.Sprint(i))
		if err := c.AddSnapshot(ctx, s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	if list[1].Previous != list[0].Hash || list[2].Previous != list[1].Hash {
		t.Error("snapshots are not chained")
	}
	for name, want := range map[string]int{
		"latest": 2, "DENK0100001": 2, "DENK0100002": 1,
		list[0].ID: 0, list[0].ID[:5]: 0, strings.ToUpper(list[0].ID): 0, list[1].Hash.String(): 1,
	} {
		got, err := read(t, c).Find(name)
		if err != nil || got.Hash != list[want].Hash {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "latest ", "DENK", "DENK0100003", list[0].ID[:3], list[0].Hash.String() + "0", "xyzw", "0000000"} {
		if _, err := read(t, c).Find(name); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("%q: %v", name, err)
		}
	}
	requireSame(t, read(t, c).Snapshots, list)
}

// A serial of hex digits may look like an id.
func TestSnapshotAmbiguous(t *testing.T) {
	c := newCatalog(t)
	first := sampleSnapshot("A", "")
	if err := c.AddSnapshot(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	second := sampleSnapshot(first.ID[:6], "")
	if err := c.AddSnapshot(context.Background(), second); err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, c).Find(first.ID[:6]); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("error %v", err)
	}
	if got, err := read(t, c).Find(first.ID); err != nil || got.Hash != first.Hash {
		t.Errorf("%v, %v", got, err)
	}
	path := c.Path()
	c.Close()
	// Two manifests whose hashes begin alike, and one of them is damaged.
	raw(t, path, func(tx *bolt.Tx) error {
		twin := first.Hash
		twin[31] ^= 1
		return tx.Bucket([]byte(bucketManifests)).Put(twin[:], []byte("{}"))
	})
	c = reopen(t, path, false)
	if got, err := read(t, c).Find(first.ID); err != nil || got.Hash != first.Hash {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := read(t, c).Find(first.Hash.String()); err != nil || got.Hash != first.Hash {
		t.Errorf("%v, %v", got, err)
	}
}

// Bodies that two snapshots share are kept once, and one that went bad is
// repaired by the next backup of the same token.
func TestRecordsAreShared(t *testing.T) {
	c := newCatalog(t)
	for range 2 {
		if err := c.AddSnapshot(context.Background(), sampleSnapshot("A", "same")); err != nil {
			t.Fatal(err)
		}
	}
	path := c.Path()
	c.Close()
	distinct := map[string]bool{}
	for _, sl := range slots(sampleSnapshot("A", "same"), &manifest{Keys: make([]manifestKey, 4), Files: make([]manifestEF, 2)}) {
		if *sl.body != nil {
			distinct[string(*sl.body)] = true
		}
	}
	n := 0
	for _, p := range pairs(t, path) {
		if p.bucket == bucketRecords {
			n++
		}
	}
	if n != len(distinct) {
		t.Errorf("%d records, want %d", n, len(distinct))
	}
	h := HashOf([]byte("blob of key 2"))
	raw(t, path, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketRecords)).Put(h[:], []byte("blob of key 3")) })
	c = reopen(t, path, true)
	if err := read(t, c).Err(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "key 2, blob") {
		t.Fatal(err)
	}
	for _, s := range read(t, c).Snapshots {
		for _, k := range s.Keys {
			if hurt := k.Reference == 2; hurt != (k.Damage != "") || hurt != (k.Blob == nil && k.Reason == "") {
				t.Errorf("key %d: %q", k.Reference, k.Damage)
			}
		}
	}
	if err := c.AddSnapshot(context.Background(), sampleSnapshot("A", "same")); err != nil {
		t.Fatal(err)
	}
	if list := read(t, c).Snapshots; len(list) != 3 {
		t.Fatalf("%v", list)
	}
	requireClean(t, c)
}

// Damage in one snapshot does not take the others away.
func TestDamageElsewhere(t *testing.T) {
	c := newCatalog(t)
	first, second := fill(t, c)
	path := c.Path()
	c.Close()
	damage := func(bucket string, key, value []byte) *Catalog {
		p := copyTo(t, path)
		raw(t, p, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put(key, value) })
		return reopen(t, p, true)
	}
	ok := func(c *Catalog, name string, want *Snapshot) {
		t.Helper()
		got, err := read(t, c).Find(name)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	found := func(c *Catalog, text string) {
		t.Helper()
		if err := read(t, c).Err(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v", err)
		}
	}

	blob := HashOf(first.Keys[0].Blob)
	c = damage(bucketRecords, blob[:], []byte("something else"))
	found(c, "key 1, blob: record "+blob.String()[:12]+" was changed")
	got, err := read(t, c).Find(first.ID)
	if err != nil || got.Keys[0].Blob != nil || got.Keys[0].Damage == "" || got.Keys[1].Damage != "" {
		t.Errorf("%+v, %v", got, err)
	}
	ok(c, second.ID, second)
	ok(c, second.Token.Serial, second)
	ok(c, "latest", second)

	c = damage(bucketManifests, first.Hash[:], []byte("{}"))
	found(c, "manifest was changed")
	if _, err := read(t, c).Find(first.ID); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("%v", err)
	}
	ok(c, "latest", second)

	c = damage(bucketManifests, second.Hash[:], []byte("{}"))
	ok(c, "latest", first) // and it is said that a newer one is lost
	if lost := read(t, c).LostSince(first); len(lost) != 1 || lost[0].ID != second.ID {
		t.Errorf("%+v", lost)
	}

	// Without its log entry a snapshot is where the next one says.
	for seq := range uint64(2) {
		c = damage(bucketLog, logKey(2+seq), []byte("{}"))
		found(c, fmt.Sprintf("log entry %d", 2+seq))
		ok(c, first.ID, first)
		ok(c, second.ID[:4], second)
		ok(c, "latest", second)
		ok(c, second.Token.Serial, second)
		next := sampleSnapshot("A", "")
		if err := c.AddSnapshot(context.Background(), next); err != nil {
			t.Fatal(err)
		}
		ok(c, "latest", next)
		found(c, fmt.Sprintf("log entry %d", 2+seq))
	}
}

// Any one changed byte costs only what it belongs to, and is named.
func TestEachByte(t *testing.T) {
	c := newCatalog(t)
	ctx := context.Background()
	var all []*Snapshot
	for _, serial := range []string{"DENK0100001", "DENK0100002", "DENK0100003", "DENK0100001"} {
		s := &Snapshot{Token: Token{Serial: serial, Certificate: []byte("of " + serial)}}
		s.Keys = []Key{{Reference: 1, KCV: sampleKCV, Blob: fmt.Appendf(nil, "blob %d of %s", len(all), serial)}}
		if err := c.AddSnapshot(ctx, s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if err := c.Append(ShareSeen{KCV: sampleKCV, Origin: "init"}); err != nil {
		t.Fatal(err)
	}
	path := c.Path()
	c.Close()
	tried := 0
	for _, p := range pairs(t, path) {
		if p.bucket != bucketLog && p.bucket != bucketManifests && p.bucket != bucketRecords && p.bucket != bucketHead {
			continue
		}
		p := p
		copied := copyTo(t, path)
		c := reopen(t, copied, true)
		tx, err := c.db.Begin(true) // never committed
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.value {
			tried++
			changed := bytes.Clone(p.value)
			changed[i] ^= 0x01
			if err := tx.Bucket([]byte(p.bucket)).Put(p.key, changed); err != nil {
				t.Fatal(err)
			}
			s := newState()
			s.read(tx, time.Now())
			if len(s.Damage) == 0 {
				t.Fatalf("%s %x, byte %d: not found", p.bucket, p.key, i)
			}
			whole, touched := 0, 0
			for _, is := range s.Snapshots {
				want := all[slices.IndexFunc(all, func(w *Snapshot) bool { return w.Hash == is.Hash })]
				if cmp.Equal(is, want) {
					whole++
				} else {
					touched++
				}
			}
			switch p.bucket {
			case bucketRecords:
				if whole+touched != len(all) || touched > 2 { // the two of one token share its certificate
					t.Fatalf("record %x, byte %d: %d whole, %d touched: %v", p.key, i, whole, touched, s.Damage)
				}
			case bucketManifests:
				if whole != len(all)-1 || len(s.Lost) != 1 {
					t.Fatalf("manifest %x, byte %d: %d whole, lost %v", p.key, i, whole, s.Lost)
				}
			default:
				if whole != len(all) || len(s.Entries) < len(all)+1 {
					t.Fatalf("%s %x, byte %d: %d whole, %d entries: %v", p.bucket, p.key, i, whole, len(s.Entries), s.Damage)
				}
				for _, want := range []*Snapshot{all[1], all[2], all[3]} {
					if got, err := s.Find(want.Token.Serial); err != nil || got.Hash != want.Hash {
						t.Fatalf("%s %x, byte %d: the newest of %s is %v, %v", p.bucket, p.key, i, want.Token.Serial, got, err)
					}
				}
			}
		}
		if err := errors.Join(tx.Rollback(), c.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if tried < 3000 {
		t.Errorf("only %d bytes tried", tried)
	}
}

// Whatever a snapshot holds, it reads back the same.
func TestSnapshotProperty(t *testing.T) {
	c := newCatalog(t)
	body := rapid.Custom(func(t *rapid.T) []byte {
		if rapid.Bool().Draw(t, "absent") {
			return nil
		}
		return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")...)
	})
	rapid.Check(t, func(t *rapid.T) {
		s := &Snapshot{Taken: time.Unix(rapid.Int64Range(0, 1<<35).Draw(t, "taken"), 0), Adopted: true}
		s.Token.Serial, s.Token.Label = rapid.StringMatching(`([A-Za-z0-9][A-Za-z0-9._-]{0,31})?`).Draw(t, "serial"), rapid.String().Draw(t, "token")
		s.Token.Certificate, s.Token.TokenInfo = body.Draw(t, "certificate"), body.Draw(t, "info")
		for i := range rapid.IntRange(0, 5).Draw(t, "keys") {
			k := Key{
				Reference: i, ID: body.Draw(t, "id"), Label: rapid.String().Draw(t, "label"), Usage: rapid.Uint32().Draw(t, "usage"),
				Algorithms: body.Draw(t, "algorithms"), PublicKey: body.Draw(t, "public"), CheckValue: body.Draw(t, "check"),
				Blob: body.Draw(t, "blob"), Description: body.Draw(t, "description"), Certificate: body.Draw(t, "request"),
			}
			if k.Blob == nil {
				k.Reason = "because"
			}
			s.Keys = append(s.Keys, k)
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "files") {
			s.Files = append(s.Files, File{FID: fmt.Sprintf("%04x", i), Content: bytes.Clone(append([]byte{}, body.Draw(t, "content")...))})
		}
		if err := c.AddSnapshot(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		state, err := c.Reread()
		if err != nil {
			t.Fatal(err)
		}
		got, err := state.Find(s.Hash.String())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, got); d != "" {
			t.Fatal(d)
		}
	})
	requireClean(t, c)
}

func TestHashText(t *testing.T) {
	h := HashOf([]byte("abc"))
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2 B.1
	text, err := h.MarshalText()
	if err != nil || string(text) != want || h.String() != want {
		t.Errorf("%s, %v", text, err)
	}
	var back Hash
	if err := back.UnmarshalText([]byte(strings.ToUpper(want))); err != nil || back != h {
		t.Errorf("%s, %v", back, err)
	}
	for _, bad := range []string{"", want[:63], want + "0", strings.Repeat("g", 64)} {
		if err := back.UnmarshalText([]byte(bad)); err == nil || back != h {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// versionOf is the format version that a catalog says it is of.
func versionOf(t *testing.T, c *Catalog) (v format) {
	t.Helper()
	err := c.view(func(tx *bolt.Tx) error {
		_, err := getChecked(tx.Bucket([]byte(bucketFormat)), bucketFormat, keyFormat, &v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Attachments read back, share their bodies with other snapshots, and make the
// file one that a program which knows none of them refuses; damage of one is
// its own.
func TestAttachments(t *testing.T) {
	c := newCatalog(t)
	if err := c.AddSnapshot(context.Background(), sampleSnapshot("DENK0100001", "one")); err != nil {
		t.Fatal(err)
	}
	if v := versionOf(t, c); v.Version != 1 {
		t.Errorf("a catalog without attachments is of format %d", v.Version)
	}
	for _, serial := range []string{"DENK0100001", "DENK0100002"} {
		want := withAttachments(serial, "one")
		if err := c.AddSnapshot(context.Background(), want); err != nil {
			t.Fatal(err)
		}
		got, err := read(t, c).Find(want.ID)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want.Attachments {
			want.Attachments[i].Added = seconds(want.Attachments[i].Added)
		}
		requireSame(t, got.Attachments, want.Attachments)
	}
	if v := versionOf(t, c); v.Version != 2 || v.Kind != kindCatalog {
		t.Errorf("%+v", v)
	}
	requireClean(t, c)
	if err := c.AddSnapshot(context.Background(), sampleSnapshot("DENK0100001", "two")); err != nil {
		t.Fatal(err)
	}
	if v := versionOf(t, c); v.Version != 2 {
		t.Errorf("it went back to format %d", v.Version)
	}
	path := c.Path()
	c.Close()
	h := HashOf([]byte("SSHKRL\n of one"))
	raw(t, path, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketRecords)).Put(h[:], []byte("changed")) })
	c = reopen(t, path, false)
	got, err := read(t, c).Find("DENK0100002")
	if err != nil || len(got.Attachments) != 2 || got.Attachments[0].Damage == "" || got.Attachments[0].Content != nil || got.Attachments[1].Damage != "" {
		t.Errorf("%+v, %v", got.Attachments, err)
	}
	if got.Keys[0].Damage != "" {
		t.Error("damage of an attachment is taken for a key's")
	}
	found, err := c.Verify()
	if err != nil || len(found) != 2 || !strings.Contains(found[0].String(), "attachment revoked.krl") {
		t.Errorf("%v, %v", found, err)
	}
}

func TestAttachmentsReject(t *testing.T) {
	now := time.Now()
	many := make([]Attachment, MaxAttachments+1)
	for i := range many {
		many[i] = Attachment{Name: fmt.Sprintf("f%d", i), Added: now}
	}
	for says, list := range map[string][]Attachment{
		`name ""`:         {{Added: now}},
		`name "../x"`:     {{Name: "../x", Added: now}},
		`name ".hidden"`:  {{Name: ".hidden", Added: now}},
		`name "a b"`:      {{Name: "a b", Added: now}},
		`name "-rf"`:      {{Name: "-rf", Added: now}},
		"name \"ü\"":      {{Name: "ü", Added: now}},
		"CRL twice":       {{Name: "crl", Added: now}, {Name: "CRL", Added: now}},
		"at most 1048576": {{Name: "crl", Added: now, Content: make([]byte, MaxAttachment+1)}},
		"no date":         {{Name: "crl"}},
		"33 attachments":  many,
	} {
		s := sampleSnapshot("DENK0100001", "one")
		s.Attachments = list
		if err := newCatalog(t).AddSnapshot(context.Background(), s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
