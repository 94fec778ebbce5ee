//go:build unix

package store

import "syscall"

// fullErrnos are the ways in which a system says that there is no room: on
// the disk, in the user's quota, under the limit of file sizes.
var fullErrnos = []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG}

// protectedErrnos: a file system that is mounted read-only.
var protectedErrnos = []error{syscall.EROFS}

// unsyncable are answers to fsync of a folder from file systems that have no
// such thing.
var unsyncable = []error{syscall.EINVAL, syscall.ENOTSUP}
