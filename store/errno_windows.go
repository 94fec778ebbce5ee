package store

import "syscall"

// System error codes, winerror.h.
var (
	// ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL
	fullErrnos = []error{syscall.Errno(39), syscall.Errno(112)}
	// ERROR_WRITE_PROTECT
	protectedErrnos = []error{syscall.Errno(19)}
	// Windows cannot flush a folder: ERROR_ACCESS_DENIED, ERROR_INVALID_HANDLE.
	unsyncable = []error{syscall.Errno(5), syscall.Errno(6)}
)
