package terminal

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Prompts at a real terminal are tested through the program
// (cmd/hsmbackup/testdata/script/prompt.txtar).

func TestReadLine(t *testing.T) {
	r := strings.NewReader("first\r\nsecond\nhalf")
	for _, want := range []string{"first", "second"} {
		if got, err := readLine(r); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if _, err := readLine(r); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("input that ends in the middle of a line: %v", err)
	}
	if _, err := readLine(strings.NewReader(strings.Repeat("x", maxLine+1))); err == nil || errors.Is(err, ErrNoAnswer) {
		t.Errorf("a line without end: %v", err)
	}
	if _, err := readLine(io.MultiReader()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("no input: %v", err)
	}
}

func TestPrintable(t *testing.T) {
	if got := Printable("a\x1b[2Jb\nc ü"); got != "a\uFFFD[2Jb\uFFFDc ü" {
		t.Errorf("%q", got)
	}
	if got := Printable("ca\u202Egpj\u2066x\u200Fy\u2028z"); got != "ca\uFFFDgpj\uFFFDx\uFFFDy\uFFFDz" {
		t.Errorf("marks of direction: %q", got)
	}
}

// Where nothing is a terminal nothing is written.
func TestProgressIsSilent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range []*Progress{nil, {}, NewProgress(nil), NewProgress(f)} {
		p.Set("job", 1, 2)
		p.Set("other job", 2, 2)
		p.Close()
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
}
