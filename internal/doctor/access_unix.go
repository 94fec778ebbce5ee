//go:build unix

package doctor

import "syscall"

// access tells whether this user may make files in a folder.
func access(dir string) bool {
	const write, enter = 2, 1
	return syscall.Access(dir, write|enter) == nil
}
