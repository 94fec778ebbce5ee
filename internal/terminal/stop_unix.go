//go:build unix

package terminal

import (
	"os/signal"
	"syscall"
)

// ignoreStop ignores Ctrl-Z until the function that it gives is called.
func ignoreStop() func() {
	if signal.Ignored(syscall.SIGTSTP) {
		return func() {}
	}
	signal.Ignore(syscall.SIGTSTP)
	return func() { signal.Reset(syscall.SIGTSTP) }
}
