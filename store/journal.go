package store

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// Journal holds notes about work under way, so that an interrupted round trip
// or restore can be finished or cleaned up: what was intended is on the disk
// before the command goes to the token. It is outside the chain, values can
// be replaced and deleted. Nothing secret belongs into it.
type Journal struct {
	file *file
	own  bool // the file is the journal's own
}

// Journal gives the journal within the catalog. It is writable if the catalog
// is and goes when the catalog is closed.
func (c *Catalog) Journal() *Journal { return &Journal{file: c.file} }

// OpenJournal opens a journal in a file of its own, for a catalog that cannot
// be written, and makes the file (0600) where there is none. Errors as with
// Open.
func OpenJournal(path string, options ...Option) (*Journal, error) {
	f, err := openFile(kindJournal, path, true, options)
	if errors.Is(err, fs.ErrNotExist) {
		err = makeFile(kindJournal, path, func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte(bucketJournal))
			return err
		}, nil)
		if err != nil && !errors.Is(err, ErrExists) {
			return nil, err
		}
		f, err = openFile(kindJournal, path, true, options)
	}
	if err != nil {
		return nil, err
	}
	return &Journal{file: f, own: true}, nil
}

// Close closes a journal of OpenJournal; that of a catalog stays open.
func (j *Journal) Close() error {
	if !j.own {
		return nil
	}
	return j.file.Close()
}

// Note is a value of a journal that knows what its own values may be. What fails
// Check is not written, and is damage where it is read.
type Note interface{ Check() error }

func checkNote(v any) error {
	if n, ok := v.(Note); ok {
		return n.Check()
	}
	return nil
}

// Put stores the JSON of v under key and returns when it is on the disk.
func (j *Journal) Put(key string, v any) error {
	if key == "" {
		return fmt.Errorf("%s: journal: empty key", j.file.what())
	}
	if err := checkNote(v); err != nil {
		return fmt.Errorf("%s: journal %q: %v", j.file.what(), key, err)
	}
	return j.file.update(func(tx *bolt.Tx) error {
		b, err := bucket(tx, bucketJournal)
		if err != nil {
			return err
		}
		return putChecked(b, bucketJournal, key, v)
	})
}

// Get reads the value of key into v; found tells whether there is one.
func (j *Journal) Get(key string, v any) (found bool, err error) {
	err = j.file.view(func(tx *bolt.Tx) error {
		b, err := bucket(tx, bucketJournal)
		if err != nil {
			return err
		}
		if found, err = getChecked(b, bucketJournal, key, v); err == nil && found {
			err = checkNote(v)
		}
		if err != nil {
			return fmt.Errorf("%w: journal %q: %v", ErrDamaged, key, err)
		}
		return nil
	})
	return found && err == nil, err
}

// Delete removes key and returns when that is on the disk. A key that is not
// there is no error.
func (j *Journal) Delete(key string) error {
	return j.file.update(func(tx *bolt.Tx) error {
		b, err := bucket(tx, bucketJournal)
		if err != nil {
			return err
		}
		return b.Delete([]byte(key))
	})
}

// Keys lists the keys that begin with prefix, in order.
func (j *Journal) Keys(prefix string) ([]string, error) {
	var keys []string
	err := j.file.view(func(tx *bolt.Tx) error {
		b, err := bucket(tx, bucketJournal)
		if err != nil {
			return err
		}
		c := b.Cursor()
		for k, _ := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); k, _ = c.Next() {
			keys = append(keys, string(k))
		}
		return nil
	})
	return keys, err
}
