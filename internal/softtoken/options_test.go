package softtoken

import (
	"encoding/hex"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// A token without chip authentication knows neither of its two commands, and
// makes keys as any other.
func TestWithoutChipAuthentication(t *testing.T) {
	c := ready(t, Options{NoChipAuth: true})
	c.run([]step{
		{"MSE", mse, 0x6A88, ""},
		{"GENERAL AUTHENTICATE", "00860000 45 7C438041" + "04" + strings.Repeat("11", 64) + "00", 0x6D00, ""},
	})
}

// Files end where the token says, in any number of writes; the scratch EF does
// not count.
func TestMaxFile(t *testing.T) {
	c := ready(t, Options{MaxFile: 100})
	write := func(at string, n int) string {
		return "00D7CF01" + hex.EncodeToString([]byte{byte(n + 6)}) + "5402" + at + "53" + hex.EncodeToString([]byte{byte(n)}) + strings.Repeat("AB", n)
	}
	c.run([]step{
		{"one byte too many", write("0000", 101), 0x6700, ""},
		{"nothing was made", "00B1CF01 04 54020000 00", 0x6A82, ""},
		{"as many as fit", write("0000", 100), 0x9000, ""},
		{"one more", write("0064", 1), 0x6700, ""},
		{"within", write("0063", 1), 0x9000, ""},
		{"scratch", strings.Replace(write("0000", 101), "CF01", "2F10", 1), 0x9000, ""},
	})
}

// The options are the token's for good: they are in its file.
func TestOptionsStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.tok")
	token, err := Create(path, Options{MaxFile: 256, NoChipAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	if token, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	if !token.state.NoChipAuth || token.state.MaxFile != 256 {
		t.Errorf("%+v", token.state)
	}
	for _, n := range []int{-1, 1, 63, 0x8000} {
		if _, err := New(Options{MaxFile: n}); !errors.Is(err, ErrOption) {
			t.Errorf("files of %d bytes: %v", n, err)
		}
	}
}
