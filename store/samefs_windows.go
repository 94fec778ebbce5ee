package store

import (
	"path/filepath"
	"strings"
)

// sameFileSystem compares the volumes of two paths: drive letters, or shares of
// a host.
func sameFileSystem(a, b string) (bool, error) {
	first, err := filepath.Abs(a)
	if err != nil {
		return false, err
	}
	second, err := filepath.Abs(b)
	if err != nil {
		return false, err
	}
	return strings.EqualFold(filepath.VolumeName(first), filepath.VolumeName(second)), nil
}
