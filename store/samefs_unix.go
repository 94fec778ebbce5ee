//go:build unix

package store

import (
	"os"
	"syscall"
)

// sameFileSystem compares the devices that two paths are on.
func sameFileSystem(a, b string) (bool, error) {
	first, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	second, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	x, known := first.Sys().(*syscall.Stat_t)
	y, both := second.Sys().(*syscall.Stat_t)
	return !known || !both || x.Dev == y.Dev, nil
}
