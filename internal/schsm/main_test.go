package schsm

import (
	"os"
	"testing"
	"time"
)

// TestMain shortens the time a token is given to collect garbage.
func TestMain(m *testing.M) {
	gcPause = time.Millisecond
	os.Exit(m.Run())
}
