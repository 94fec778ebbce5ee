package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Copy is a copy of the catalog that was made and read back.
type Copy struct {
	Time time.Time `json:"-"`    // of the entry
	Path string    `json:"path"` // absolute, of the copied catalog file; or host:path as typed
	// Seq and Head are the last log entry in the copy. The entry about the copy
	// comes after it.
	Seq  uint64 `json:"seq"`
	Head Hash   `json:"head"`
	// SameDisk: it lies on the catalog's own file system, and the admin
	// insisted.
	SameDisk bool `json:"same_disk,omitempty"`
}

func (Copy) kind() string { return KindCopy }
func (p Copy) check() error {
	if p.Path == "" || p.Head.IsZero() {
		return errors.New("copy: no path or head")
	}
	return nil
}

// tell keeps the latest record of each path, oldest first.
func (p Copy) tell(s *State, e *Entry) {
	p.Time = e.dated()
	same := func(o Copy) bool { return o.Path == p.Path }
	s.Copies = append(slices.DeleteFunc(slices.Clone(s.Copies), same), p)
}

// CopyTo writes the catalog as it is now into a new file (0600) and reads that
// back: it must be whole, and end with the entry that is given. Folders that are
// missing are made (0700); the file appears under its name when it is on the
// disk, and nothing is ever replaced: ErrExists. A copy that does not check out
// is removed again: ErrDamaged.
func (c *Catalog) CopyTo(path string) (Entry, error) {
	var head Entry
	err := createFile(path, func(temp string) error {
		return c.view(func(tx *bolt.Tx) (err error) {
			if head, err = readHead(tx); err != nil {
				return err
			}
			f, err := os.OpenFile(temp, os.O_WRONLY|os.O_TRUNC, 0)
			if err != nil {
				return err
			}
			_, err = tx.WriteTo(f)
			return errors.Join(err, f.Close())
		})
	}, nil)
	if err != nil {
		return Entry{}, writeError("copy "+path, err)
	}
	if err := CheckCopy(path, head); err != nil {
		_ = os.Remove(path) // what is no copy must not be taken for one
		return Entry{}, err
	}
	return head, nil
}

// CheckCopy opens a copy and checks all of it; its last entry must be head.
func CheckCopy(path string, head Entry) error {
	copied, err := Open(path, false)
	if err != nil {
		return err
	}
	defer copied.Close()
	found, err := copied.Verify()
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("copy %s: %w", path, findings(found).err())
	}
	state, err := copied.Read()
	if err != nil {
		return err
	}
	if is := state.Head; is.Hash != head.Hash {
		return fmt.Errorf("copy %s: %w: it ends with entry %d, not with the %d that the catalog had", path, ErrDamaged, is.Seq, head.Seq)
	}
	return nil
}

// SameFileSystem tells whether a path, or the nearest folder above it that
// exists, is on the file system that the catalog is on: one broken disk would
// take both.
func (c *Catalog) SameFileSystem(path string) (bool, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return false, err
	}
	for {
		if _, err = os.Stat(path); err == nil || !errors.Is(err, os.ErrNotExist) {
			break
		}
		if up := filepath.Dir(path); up != path {
			path = up
			continue
		}
		break
	}
	if err != nil {
		return false, err
	}
	return sameFileSystem(c.path, path)
}
