package newfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// A new file is for its owner only, and takes no other's place; one that is
// replaced has the mode that was asked for.
func TestWriteNeverReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "share.pbe")
	if err := Write(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	mode := func(want fs.FileMode) {
		t.Helper()
		if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != want {
			t.Errorf("%v, %v", info, err)
		}
	}
	mode(0o600)
	if err := Write(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "first" {
		t.Errorf("%q, %v", b, err)
	}
	if err := Replace(path, []byte("third"), 0o644); err != nil {
		t.Fatal(err)
	}
	mode(0o644)
	if b, err := os.ReadFile(path); err != nil || string(b) != "third" {
		t.Errorf("%q, %v", b, err)
	}
}
