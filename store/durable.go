package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A new file comes into being in steps: made under another name, filled,
// synced, published under its own name without replacing anything, the folder
// synced. bbolt's own first initialisation can leave a torn file when power
// fails, so it never happens under the final name.

// step is called before each step with its name; an error ends the creation
// there and then, as a power cut would. Tests set it.
type step func(name string) error

// createFile makes the file at path; fill writes its content under the name
// it is given. The error is ErrExists when there is something at path.
func createFile(path string, fill func(temp string) error, before step) error {
	if before == nil {
		before = func(string) error { return nil }
	}
	if _, err := os.Lstat(path); err == nil {
		return ErrExists
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := before("temp"); err != nil {
		return err
	}
	temp, err := tempFile(dir, filepath.Base(path))
	if err != nil {
		return err
	}
	if err := before("fill"); err != nil {
		return err
	}
	if err := fill(temp); err != nil {
		os.Remove(temp)
		return err
	}
	if err := before("sync"); err != nil {
		return err
	}
	if err := syncFile(temp); err != nil {
		os.Remove(temp)
		return err
	}
	if err := before("publish"); err != nil {
		return err
	}
	if err := publish(temp, path); err != nil {
		os.Remove(temp)
		return err
	}
	if err := before("sync folder"); err != nil {
		return err
	}
	return syncDir(dir)
}

// tempFile makes an empty file beside its later name, for its owner only.
func tempFile(dir, base string) (string, error) {
	name := filepath.Join(dir, "."+base+"."+rand.Text()[:10]+".new")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	return name, f.Close()
}

// publish gives temp its name. A rename would replace what is there; a hard
// link does not. Where there are no hard links (FAT) the name is first taken
// with an empty file of our own.
func publish(temp, path string) error {
	err := os.Link(temp, path)
	if err == nil {
		return os.Remove(temp)
	}
	if errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	return publishByRename(temp, path)
}

func publishByRename(temp, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	if err != nil {
		return err
	}
	f.Close()
	if err := os.Rename(temp, path); err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// syncDir makes the names within a folder durable, where a system can.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !isAny(err, unsyncable) {
		return err
	}
	return nil
}

// isAny looks for errnos in an error. bbolt flattens some errors to text
// ("file resize error: …"), so the text is looked at as well.
func isAny(err error, errnos []error) bool {
	for _, e := range errnos {
		if errors.Is(err, e) || strings.HasSuffix(err.Error(), ": "+e.Error()) {
			return true
		}
	}
	return false
}

// writeError says what a failed write means to a person.
func (f *file) writeError(err error) error { return writeError(f.what(), err) }

func writeError(what string, err error) error {
	switch {
	case isAny(err, fullErrnos):
		return fmt.Errorf("%s: %w: nothing was recorded, free some space and run again: %w", what, ErrFull, err)
	case isAny(err, protectedErrnos), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: %w", what, ErrReadOnly, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
