package softtoken

import (
	"context"
	"testing"
)

// create makes a token in a file; it is closed with the test.
func create(t testing.TB, path string, o Options) card {
	t.Helper()
	token, err := Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = token.Close() })
	return card{t, token}
}

func openCard(t testing.TB, path string) card {
	t.Helper()
	token, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = token.Close() })
	return card{t, token}
}

func (c card) reopen() card {
	c.Helper()
	path := c.path
	if err := c.Close(); err != nil {
		c.Fatal(err)
	}
	return openCard(c.TB, path)
}

// powerCut is what a test's power cut panics with.
type powerCut struct{}

// crash sends a command and cuts the power right after the n-th change of the
// file, then opens the file as the next program would.
func (c card) crash(command string, n int) card {
	c.Helper()
	c.testOnlySaved = func() {
		if n--; n == 0 {
			panic(powerCut{})
		}
	}
	func() {
		defer func() {
			if r := recover(); r != nil && r != any(powerCut{}) {
				panic(r)
			}
		}()
		_, _ = c.Transmit(context.Background(), unhex(c, command))
		c.Fatalf("%s changed the file less often", command)
	}()
	return c.reopen()
}
