package store

import (
	"path/filepath"
	"syscall"
)

// The types of file systems that are gone when the computer is switched off
// (linux/magic.h).
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// InMemory tells whether a file, or the folder that it would be in, lies in the
// computer's memory, as /tmp does on many systems.
func InMemory(path string) bool {
	for _, p := range []string{path, filepath.Dir(path)} {
		var s syscall.Statfs_t
		if syscall.Statfs(p, &s) == nil {
			t := uint32(s.Type)
			return t == tmpfsMagic || t == ramfsMagic
		}
	}
	return false
}
