package doctor

import (
	"os"
	"path/filepath"
)

// Place looks at where a catalog is, or would be made.
func Place(path string) Catalog {
	c := Catalog{Path: path}
	dir, err := filepath.Abs(filepath.Dir(path))
	for err == nil {
		if _, statErr := os.Stat(dir); statErr == nil || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	if real, linkErr := filepath.EvalSymlinks(dir); linkErr == nil {
		dir = real
	}
	c.Real, c.Writable = dir, canWrite(dir)
	return c
}

// canWrite tells, without writing anything, whether files can be made in a
// folder: by its mode, where the system has such a thing.
func canWrite(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir() && access(dir)
}
