package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Versions of docs/format.md. A new file is of formatVersion; what needs a
// newer one raises it. All are read for ever.
const (
	formatVersion     = 1
	formatAttachments = 2 // of a catalog: snapshots with attachments
	formatSigned      = 3 // of a catalog: sets under a MAC, answers that name an entry
)

// newestFormat is the version that this code knows, by the kind of file.
var newestFormat = map[string]int{kindCatalog: formatSigned, kindJournal: formatVersion}

const (
	bucketFormat = "format"
	keyFormat    = "version"

	kindCatalog = "catalog"
	kindJournal = "journal"

	// pageSize is fixed so that a file does not depend on the machine that
	// made it.
	pageSize = 4096

	lockTimeout = time.Second
)

// format is the value that tells what a file is.
type format struct {
	Kind    string `json:"kind"`
	Version int    `json:"version"`
}

// file is a bbolt file of ours. All use of bbolt goes through view and update.
type file struct {
	kind     string
	path     string
	writable bool
	db       *bolt.DB
	broken   atomic.Bool // bbolt panicked; it may hold locks for ever

	now         func() time.Time
	beforeWrite func() // nil: nothing
	readOnly    bool
	machine     *Machine
	hear        func(what string, damage bool) // nil: nobody does
}

func newFile(kind, path string, options []Option) *file {
	f := &file{kind: kind, path: path, now: time.Now}
	for _, set := range options {
		set(f)
	}
	return f
}

// what names the file in errors.
func (f *file) what() string { return f.kind + " " + f.path }

// makeFile makes a file of a kind with its format value and what fill adds.
func makeFile(kind, path string, fill func(tx *bolt.Tx) error, before step) error {
	err := createFile(path, func(temp string) error {
		f := &file{kind: kind, path: temp, writable: true}
		if err := f.openBolt(); err != nil {
			return err
		}
		err := f.db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucket([]byte(bucketFormat))
			if err != nil {
				return err
			}
			if err := putChecked(b, bucketFormat, keyFormat, format{Kind: kind, Version: formatVersion}); err != nil {
				return err
			}
			return fill(tx)
		})
		return errors.Join(err, f.db.Close())
	}, before)
	if err != nil {
		return writeError(kind+" "+path, err)
	}
	return nil
}

// openFile opens a file of a kind. It changes nothing. Errors: fs.ErrNotExist,
// ErrLocked, ErrNewer, ErrDamaged, ErrReadOnly.
func openFile(kind, path string, writable bool, options []Option) (*file, error) {
	f := newFile(kind, path, options)
	if writable && f.readOnly {
		return nil, fmt.Errorf("%s: %w", f.what(), ErrReadOnly)
	}
	if err := f.open(writable); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *file) open(writable bool) error {
	info, err := os.Stat(f.path)
	if err != nil {
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w: not a regular file", f.what(), ErrDamaged)
	}
	// bbolt reads the meta pages as soon as it opens, so those come first.
	if err := f.inspect(func(r *os.File, size int64) error {
		_, _, err := readMetas(r, size)
		return err
	}); err != nil {
		return err
	}
	// Read-only, bbolt touches nothing else until asked. Its shared lock keeps
	// writers away while the rest is checked.
	if err := f.openBolt(); err != nil {
		return err
	}
	err = f.inspect(func(r *os.File, size int64) error {
		_, err := checkLayout(r, size)
		return err
	})
	if err == nil {
		err = f.checkFormat()
	}
	if err != nil {
		f.db.Close()
		return err
	}
	if !writable {
		return nil
	}
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	f.writable = true
	return f.openBolt()
}

// inspect hands out the raw file; what check finds is damage, unless the
// system could not read.
func (f *file) inspect(check func(r *os.File, size int64) error) error {
	r, err := os.Open(f.path)
	if err != nil {
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	err = check(r, info.Size())
	var system *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &system):
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	return fmt.Errorf("%s: %w: %v", f.what(), ErrDamaged, err)
}

// openBolt lets bbolt open the file; it never makes one.
func (f *file) openBolt() error {
	err := f.guard(func() (err error) {
		f.db, err = bolt.Open(f.path, 0o600, &bolt.Options{
			Timeout:  lockTimeout,
			ReadOnly: !f.writable,
			PageSize: pageSize,
			OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
				return os.OpenFile(name, flag&^os.O_CREATE, perm)
			},
		})
		return err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s: %w: wait until it has finished", f.what(), ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%s: %w: %v", f.what(), ErrDamaged, err)
	case f.writable:
		return f.writeError(err)
	}
	return fmt.Errorf("%s: %w", f.what(), err)
}

func (f *file) checkFormat() error {
	return f.view(func(tx *bolt.Tx) error { return readFormat(tx, f.kind) })
}

// readFormat checks that a file is of a kind and version that we read.
func readFormat(tx *bolt.Tx, kind string) error {
	b := tx.Bucket([]byte(bucketFormat))
	if b == nil {
		return fmt.Errorf("%w: this is not a %s of hsmbackup", ErrDamaged, kind)
	}
	var v format
	found, err := getChecked(b, bucketFormat, keyFormat, &v)
	switch {
	case err != nil:
		return fmt.Errorf("%w: format: %v", ErrDamaged, err)
	case !found:
		return fmt.Errorf("%w: no format version", ErrDamaged)
	case v.Kind != kind:
		return fmt.Errorf("%w: this is a %s, not a %s", ErrDamaged, v.Kind, kind)
	case v.Version > newestFormat[kind]:
		return fmt.Errorf("%w: format %d, this program knows up to %d: use a newer hsmbackup", ErrNewer, v.Version, newestFormat[kind])
	case v.Version < 1:
		return fmt.Errorf("%w: format %d", ErrDamaged, v.Version)
	}
	return nil
}

// fileFormat is the version of a file that was opened; 0 where it cannot be read
// any more.
func fileFormat(tx *bolt.Tx) int {
	var v format
	if b := tx.Bucket([]byte(bucketFormat)); b != nil {
		_, _ = getChecked(b, bucketFormat, keyFormat, &v) // damage there is found when the file is opened
	}
	return v.Version
}

// raiseFormat makes a file one of a version, unless it is of that or a newer
// one already.
func raiseFormat(tx *bolt.Tx, kind string, version int) error {
	b, err := bucket(tx, bucketFormat)
	if err != nil {
		return err
	}
	var v format
	if _, err := getChecked(b, bucketFormat, keyFormat, &v); err != nil {
		return fmt.Errorf("%w: format: %v", ErrDamaged, err)
	}
	if v.Version >= version {
		return nil
	}
	return putChecked(b, bucketFormat, keyFormat, format{Kind: kind, Version: version})
}

// Close closes the file; further use gives an error. It may be called twice.
func (f *file) Close() error {
	if f.broken.Load() {
		return nil // bbolt would wait for a lock that nobody returns
	}
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	return nil
}

// view runs fn in a read transaction. Slices that bbolt hands out are valid
// only within it.
func (f *file) view(fn func(tx *bolt.Tx) error) error {
	err := f.guard(func() error { return f.db.View(fn) })
	if err != nil {
		return fmt.Errorf("%s: %w", f.what(), err)
	}
	return nil
}

// update runs fn in a write transaction, which is on the disk when update
// returns nil and has left nothing when it returns an error.
func (f *file) update(fn func(tx *bolt.Tx) error) error {
	if !f.writable {
		return fmt.Errorf("%s: %w: it was opened for reading", f.what(), ErrReadOnly)
	}
	if f.beforeWrite != nil {
		f.beforeWrite()
	}
	err := f.guard(func() error { return f.db.Update(fn) })
	if err != nil {
		return f.writeError(err)
	}
	return nil
}

// guard turns a panic within bbolt, and a fault in the memory that it maps
// (the file was cut short under us, the disk cannot be read), into ErrDamaged.
// After that bbolt is not asked again.
func (f *file) guard(fn func() error) (err error) {
	if f.broken.Load() {
		return fmt.Errorf("%w: it could not be read before, open it again", ErrDamaged)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			f.broken.Store(true)
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return fn()
}

// Values that are neither named by their hash nor part of the chain are
// stored behind a SHA-256 that covers their place too:
// SHA-256(bucket ‖ 00 ‖ key ‖ 00 ‖ JSON) ‖ JSON.

func checksum(bucket, key string, payload []byte) [sha256.Size]byte {
	var b bytes.Buffer
	b.WriteString(bucket)
	b.WriteByte(0)
	b.WriteString(key)
	b.WriteByte(0)
	b.Write(payload)
	return sha256.Sum256(b.Bytes())
}

func putChecked(b *bolt.Bucket, bucket, key string, v any) error {
	payload, err := encode(v)
	if err != nil {
		return err
	}
	sum := checksum(bucket, key, payload)
	return b.Put([]byte(key), append(sum[:], payload...))
}

// getChecked reads what putChecked wrote. An error means that the value is
// damaged.
func getChecked(b *bolt.Bucket, bucket, key string, v any) (found bool, err error) {
	value, found := get(b, []byte(key))
	if !found {
		return false, nil
	}
	return true, openChecked(bucket, key, value, v)
}

func openChecked(bucket, key string, value []byte, v any) error {
	if len(value) < sha256.Size {
		return errors.New("too short for its checksum")
	}
	payload := value[sha256.Size:]
	if checksum(bucket, key, payload) != [sha256.Size]byte(value[:sha256.Size]) {
		return errors.New("its checksum does not fit")
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("not readable: %v", err)
	}
	return nil
}

// get tells a value that is empty from one that is not there.
func get(b *bolt.Bucket, key []byte) (value []byte, found bool) {
	k, v := b.Cursor().Seek(key)
	if !bytes.Equal(k, key) || k == nil {
		return nil, false
	}
	return v, true
}
