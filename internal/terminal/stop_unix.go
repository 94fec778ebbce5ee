//go:build unix

package terminal

import (
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
)

// shown counts the secrets on the screen; stops is asked for once.
var (
	shown atomic.Int32
	stops sync.Once
)

// ignoreStop ignores Ctrl-Z until the function that it gives is called. What the
// signal means by itself does not come back once it was caught, so that from
// then on the program stops itself.
func ignoreStop() func() {
	shown.Add(1)
	if !signal.Ignored(syscall.SIGTSTP) {
		stops.Do(func() {
			c := make(chan os.Signal, 1)
			signal.Notify(c, syscall.SIGTSTP)
			go func() {
				for range c {
					if shown.Load() == 0 {
						_ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
					}
				}
			}()
		})
	}
	return func() { shown.Add(-1) }
}
