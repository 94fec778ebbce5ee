package store

import (
	"errors"
	"path/filepath"
	"testing"
)

// A copy that is whole and ends with another entry is not the copy that was
// meant, and nothing is copied over what is there.
func TestCopyReadBack(t *testing.T) {
	c := newCatalog(t)
	path := filepath.Join(t.TempDir(), "copy.db")
	head, err := c.CopyTo(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckCopy(path, head); err != nil {
		t.Error(err)
	}
	if _, err := c.CopyTo(path); !errors.Is(err, ErrExists) {
		t.Errorf("over a copy: %v", err)
	}
	if err := c.Append(ShareSeen{KCV: "0123456789ABCDEF", Origin: "test"}); err != nil {
		t.Fatal(err)
	}
	later, err := c.Reread()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckCopy(path, later.Head); !errors.Is(err, ErrDamaged) {
		t.Errorf("of another head: %v", err)
	}
}
