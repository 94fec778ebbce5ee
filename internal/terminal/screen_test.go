package terminal

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// The alternate screen itself is tested through the program
// (cmd/hsmbackup/testdata/script/prompt.txtar).

func TestReadSecretLine(t *testing.T) {
	r := strings.NewReader("first\r\nsecond\n\nhalf")
	for _, want := range []string{"first", "second", ""} {
		got, err := readSecretLine(r)
		if err != nil || string(got.Bytes()) != want {
			t.Errorf("%v, %v, want %q", got, err, want)
		}
		got.Wipe()
	}
	for name, r := range map[string]io.Reader{"half a line": r, "no input": io.MultiReader()} {
		if _, err := readSecretLine(r); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readSecretLine(strings.NewReader(strings.Repeat("x", maxLine+1))); err == nil || errors.Is(err, ErrNoAnswer) || strings.Contains(err.Error(), "xx") {
		t.Errorf("a line without end: %v", err)
	}
}
