// Package forge rewrites a catalog so that every hash in it agrees again: what
// someone who can write the file can do, and no more. Anchors stay as they were
// made; whoever forges has no recovery key. Only tests import it.
//
//	forge.Rewrite(t, path, func(c *forge.Catalog) {
//		c.Newest()["token"].(forge.Object)["serial"] = "../x"
//		c.Append("proof", time.Now(), forge.Object{"proofs": …})
//	})
//
// What is not touched keeps its bytes and its hash; what follows a change gets
// a new one, and log and journal name a snapshot by the new one.
package forge

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Object is an object of JSON; numbers in it are json.Number.
type Object = map[string]any

// Entry is an entry of the log. Its number, the hash before it and its own are
// made when it is written.
type Entry struct {
	Time    string
	Kind    string
	Program string
	Body    Object

	stored []byte // nil in an entry that is made here
}

// Catalog is a catalog taken apart.
type Catalog struct {
	Version   int
	Log       []*Entry
	Snapshots []*Snapshot       // in the order of the log
	Records   map[string][]byte // by their SHA-256 in hex; those in use are written
	Journal   map[string]Object
	Anchors   map[string]Object // with MACs that nobody here can make

	t testing.TB
}

// Snapshot is a manifest. Old is the hash that it had.
type Snapshot struct {
	Object
	Old    string
	stored []byte
}

// buckets of a catalog, in docs/format.md's words.
var buckets = []string{"format", "records", "manifests", "log", "head", "anchors", "journal"}

// Rewrite changes the catalog at path, which nobody has open.
func Rewrite(t testing.TB, path string, change func(c *Catalog)) {
	t.Helper()
	c := Read(t, path)
	change(c)
	c.Write(path)
}

// Copy writes a changed copy of the catalog at path beside it and gives its
// path.
func Copy(t testing.TB, path string, change func(c *Catalog)) string {
	t.Helper()
	c := Read(t, path)
	change(c)
	f, err := os.CreateTemp(t.TempDir(), "forged-*.db")
	c.must(err)
	c.must(f.Close())
	c.Write(f.Name())
	return f.Name()
}

// Read takes the catalog at path apart.
func Read(t testing.TB, path string) *Catalog {
	t.Helper()
	c := &Catalog{t: t, Records: map[string][]byte{}, Journal: map[string]Object{}, Anchors: map[string]Object{}}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	c.must(err)
	defer db.Close()
	c.must(db.View(func(tx *bolt.Tx) error {
		each := func(bucket string, fn func(k string, v []byte)) {
			c.must(tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
				fn(string(k), bytes.Clone(v))
				return nil
			}))
		}
		each("format", func(_ string, v []byte) {
			var f struct{ Version int }
			c.must(json.Unmarshal(v[sha256.Size:], &f))
			c.Version = f.Version
		})
		each("records", func(k string, v []byte) { c.Records[hex.EncodeToString([]byte(k))] = v })
		each("journal", func(k string, v []byte) { c.Journal[k] = c.object(v[sha256.Size:]) })
		each("anchors", func(k string, v []byte) { c.Anchors[k] = c.object(v[sha256.Size:]) })
		each("log", func(_ string, v []byte) {
			e := &Entry{stored: v}
			c.must(json.Unmarshal(v, e))
			e.Body = c.object(v)["body"].(Object)
			c.Log = append(c.Log, e)
			if e.Kind != "snapshot" {
				return
			}
			h := e.Body["hash"].(string)
			name, err := hex.DecodeString(h)
			c.must(err)
			m := bytes.Clone(tx.Bucket([]byte("manifests")).Get(name))
			c.Snapshots = append(c.Snapshots, &Snapshot{c.object(m), h, m})
		})
		return nil
	}))
	return c
}

// Write makes a catalog of it at path, in place of whatever is there.
func (c *Catalog) Write(path string) {
	c.t.Helper()
	temp := path + ".forged"
	_ = os.Remove(temp)
	db, err := bolt.Open(temp, 0o600, &bolt.Options{PageSize: 4096})
	c.must(err)
	c.must(db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			_, err := tx.CreateBucket([]byte(name))
			c.must(err)
		}
		c.fill(tx)
		return nil
	}))
	c.must(db.Close())
	c.must(os.Rename(temp, path))
}

func (c *Catalog) fill(tx *bolt.Tx) {
	put := func(bucket string, k, v []byte) { c.must(tx.Bucket([]byte(bucket)).Put(k, v)) }
	checked := func(bucket, k string, v []byte) {
		sum := sha256.Sum256([]byte(bucket + "\x00" + k + "\x00" + string(v)))
		put(bucket, []byte(k), append(sum[:], v...))
	}
	checked("format", "version", encode(struct {
		Kind    string `json:"kind"`
		Version int    `json:"version"`
	}{"catalog", c.Version}))

	var renamed []string // old hash, new hash, old ID, new ID, …
	previous := strings.Repeat("0", 2*sha256.Size)
	used := map[string]bool{}
	for _, s := range c.Snapshots {
		s.Object["previous"] = previous
		value := s.stored
		if value == nil || !bytes.Equal(encode(c.object(value)), encode(s.Object)) {
			value = encode(s.Object)
		}
		previous = Hash(value)
		if s.Old != "" {
			renamed = append(renamed, s.Old, previous, s.Old[:12], previous[:12])
		}
		put("manifests", raw(previous), value)
		references(s.Object, used)
	}
	for h := range used {
		if body, ok := c.Records[h]; ok {
			put("records", raw(h), body)
		}
	}
	rename := strings.NewReplacer(renamed...).Replace

	previous = strings.Repeat("0", 2*sha256.Size)
	for i, e := range c.Log {
		value := c.entry(e, i+1, previous, rename)
		previous = Hash(value)
		put("log", binary.BigEndian.AppendUint64(nil, uint64(i+1)), value)
	}
	checked("head", "head", encode(struct {
		Seq  int    `json:"seq"`
		Hash string `json:"hash"`
	}{len(c.Log), previous}))
	for k, v := range c.Journal {
		checked("journal", k, []byte(rename(string(encode(v)))))
	}
	for k, v := range c.Anchors {
		checked("anchors", k, encode(v))
	}
}

// entry is the stored form; one that is as it was keeps its bytes.
func (c *Catalog) entry(e *Entry, seq int, previous string, rename func(string) string) []byte {
	value := encode(struct {
		Seq      int             `json:"seq"`
		Time     string          `json:"time"`
		Kind     string          `json:"kind"`
		Program  string          `json:"program"`
		Previous string          `json:"previous"`
		Body     json.RawMessage `json:"body"`
	}{seq, e.Time, e.Kind, e.Program, previous, json.RawMessage(rename(string(encode(e.Body))))})
	if e.stored != nil && bytes.Equal(encode(c.object(e.stored)), encode(c.object(value))) {
		return e.stored
	}
	return value
}

// references collects the hashes of the records that a manifest names.
func references(v any, used map[string]bool) {
	switch v := v.(type) {
	case Object:
		if h, ok := v["sha256"].(string); ok {
			used[h] = true
		}
		for _, inner := range v {
			references(inner, used)
		}
	case []any:
		for _, inner := range v {
			references(inner, used)
		}
	}
}

// Newest is the manifest of the newest snapshot.
func (c *Catalog) Newest() Object { return c.Snapshots[len(c.Snapshots)-1].Object }

// Keys are the keys of a manifest.
func Keys(manifest Object) []Object { return objects(manifest["keys"]) }

// Files are the files of a manifest.
func Files(manifest Object) []Object { return objects(manifest["files"]) }

func objects(list any) []Object {
	var all []Object
	for _, v := range list.([]any) {
		all = append(all, v.(Object))
	}
	return all
}

// Body is a record that a manifest refers to.
func (c *Catalog) Body(reference any) []byte {
	return bytes.Clone(c.Records[reference.(Object)["sha256"].(string)])
}

// Refer keeps a record and gives the reference to it.
func (c *Catalog) Refer(body []byte) Object {
	h := Hash(body)
	c.Records[h] = body
	return Object{"sha256": h, "size": len(body)}
}

// Append adds an entry to the log. The body is an Object, or what encodes to
// one.
func (c *Catalog) Append(kind string, when time.Time, body any) {
	c.t.Helper()
	c.Log = append(c.Log, &Entry{
		Time: when.UTC().Format(time.RFC3339), Kind: kind, Program: "hsmbackup", Body: c.object(encode(body)),
	})
}

// Add records a snapshot: its manifest, and the entry of the log.
func (c *Catalog) Add(manifest Object, when time.Time) {
	c.t.Helper()
	// The hash is made when it is written: until then this stands in its place.
	stand := Hash(encode(Object{"new": len(c.Snapshots), "of": manifest}))
	c.Snapshots = append(c.Snapshots, &Snapshot{Object: manifest, Old: stand})
	c.Append("snapshot", when, Object{
		"id": stand[:12], "hash": stand, "serial": manifest["token"].(Object)["serial"],
	})
}

// Strings calls change for each string within v, which is an Object or a list,
// by its name with dots, and puts what it gives in its place. Numbers are no
// strings.
func Strings(v any, change func(name, s string) string) {
	replaceStrings("", v, change)
}

func replaceStrings(name string, v any, change func(name, s string) string) any {
	switch v := v.(type) {
	case Object:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			v[k] = replaceStrings(strings.TrimPrefix(name+"."+k, "."), v[k], change)
		}
	case []any:
		for i := range v {
			v[i] = replaceStrings(name, v[i], change)
		}
	case string:
		return change(name, v)
	}
	return v
}

// Clone is a copy of a manifest or of another value that is its own.
func Clone(v Object) Object {
	var copied Object
	d := json.NewDecoder(bytes.NewReader(encode(v)))
	d.UseNumber()
	if err := d.Decode(&copied); err != nil {
		panic(err)
	}
	return copied
}

// Hash is the SHA-256 in hex.
func Hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func raw(h string) []byte {
	b, err := hex.DecodeString(h)
	if err != nil {
		panic(err)
	}
	return b
}

func (c *Catalog) object(b []byte) Object {
	c.t.Helper()
	var v Object
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	c.must(d.Decode(&v))
	return v
}

func (c *Catalog) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("forge: %v", err)
	}
}

// encode is the JSON form that the catalog has, but for the order of members.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
