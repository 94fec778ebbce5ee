//go:build unix

package secret

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// lockedPages maps pages outside of the Go heap and keeps them from being
// swapped. Without the right to lock (RLIMIT_MEMLOCK) it gives nil.
func lockedPages(n int) ([]byte, func([]byte)) {
	page := os.Getpagesize()
	size := (n + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil
	}
	if unix.Mlock(b) != nil {
		_ = unix.Munmap(b)
		return nil, nil
	}
	dontDump(b)
	return b, func([]byte) {
		clear(b)
		_ = unix.Munlock(b)
		_ = unix.Munmap(b)
		runtime.KeepAlive(b)
	}
}
