package store

import (
	"crypto/rand"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Buckets of a catalog, besides bucketFormat.
const (
	bucketRecords   = "records"   // SHA-256 → bytes
	bucketManifests = "manifests" // SHA-256 → JSON
	bucketLog       = "log"       // sequence number, 8 bytes big-endian → JSON
	bucketHead      = "head"      // "head" → checked headRecord
	bucketAnchors   = "anchors"   // KCV → checked anchorRecord
	bucketJournal   = "journal"   // name → checked JSON of the caller
)

var catalogBuckets = []string{bucketRecords, bucketManifests, bucketLog, bucketHead, bucketAnchors, bucketJournal}

// Catalog is an open catalog file.
type Catalog struct {
	*file
	program string // as log entries name it
	made    bool   // by this process

	mu    sync.Mutex
	state *State // as read last, with what was appended since
}

// Option is a condition under which a file is made or opened.
type Option func(*file)

// Clock has times taken from now.
func Clock(now func() time.Time) Option { return func(f *file) { f.now = now } }

// ReadOnly has the file taken for one that cannot be written, which no mode makes
// it for root.
func ReadOnly() Option { return func(f *file) { f.readOnly = true } }

// BeforeWrite has call called before each transaction that writes: tests end the
// program between two of them.
func BeforeWrite(call func()) Option { return func(f *file) { f.beforeWrite = call } }

// OnMachine says what this computer keeps for itself.
func OnMachine(m *Machine) Option { return func(f *file) { f.machine = m } }

// Listen has hear called with what a person must be told of the catalog while it
// is used; damage tells that something does not check out.
func Listen(hear func(what string, damage bool)) Option { return func(f *file) { f.hear = hear } }

// Create makes a new catalog and opens it for writing. The file is for its
// owner only (0600), folders that are missing are made (0700). It appears
// under its name only when it is whole and on the disk; nothing is ever
// replaced: ErrExists.
func Create(path string, options ...Option) (*Catalog, error) {
	f := newFile(kindCatalog, path, options)
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	if err := create(path, program(), f.now, random, nil); err != nil {
		return nil, err
	}
	c, err := Open(path, true, options...)
	if c != nil {
		c.made = true
	}
	return c, err
}

func create(path, program string, now func() time.Time, random []byte, before step) error {
	return makeFile(kindCatalog, path, func(tx *bolt.Tx) error {
		for _, name := range catalogBuckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		_, err := appendEntry(tx, program, now(), Created{Format: formatVersion, Random: random})
		return err
	}, before)
}

// Open opens a catalog. Nothing on the disk changes before the first write.
//
// Errors: fs.ErrNotExist; ErrLocked, after waiting for about a second;
// ErrNewer; ErrDamaged, for what is no catalog, truncated or torn; and, to
// write, ErrReadOnly when the file does not allow it: a caller may then open
// it for reading.
func Open(path string, writable bool, options ...Option) (*Catalog, error) {
	f, err := openFile(kindCatalog, path, writable, options)
	if err != nil {
		return nil, err
	}
	return &Catalog{file: f, program: program()}, nil
}

// Close ends all use of the catalog and its journal. It may be called twice.
func (c *Catalog) Close() error {
	c.forget()
	return c.file.Close()
}

// Path is the path that the catalog was opened with.
func (c *Catalog) Path() string { return c.path }

// Now is the time by the catalog's clock.
func (c *Catalog) Now() time.Time { return c.now() }

// Machine is what this computer keeps for itself; it may be nil.
func (c *Catalog) Machine() *Machine { return c.machine }

// Tell says to whoever uses the catalog what they must know of it.
func (c *Catalog) Tell(damage bool, format string, args ...any) {
	if c.hear != nil {
		c.hear(fmt.Sprintf(format, args...), damage)
	}
}

// Made tells whether this process made the catalog.
func (c *Catalog) Made() bool { return c.made }

// Writable tells how the catalog was opened.
func (c *Catalog) Writable() bool { return c.writable }

// program names this program as the log shows it.
func program() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "hsmbackup " + info.Main.Version
	}
	return "hsmbackup"
}

// seconds is the resolution of all times in a catalog.
func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
