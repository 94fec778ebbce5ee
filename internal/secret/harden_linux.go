package secret

import "golang.org/x/sys/unix"

// Harden keeps this process out of core files and away from debuggers of the
// same user. It is called once, at the start of the program; failing is not an
// error, since none of it is what the secrets' safety rests on.
func Harden() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

func dontDump(b []byte) { _ = unix.Madvise(b, unix.MADV_DONTDUMP) }
