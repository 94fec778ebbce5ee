package schsm

import (
	"context"
	"os"
	"testing"
	"time"
)

// TestMain takes the pauses out.
func TestMain(m *testing.M) {
	sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	os.Exit(m.Run())
}
