package console

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// writers are the files that may have the program's output in their hands, and why
// what they write is harmless all the same.
var writers = map[string]string{
	"cmd/hsmbackup/main.go":       "the answer of a child to its parent",
	"cmd/hsmbackup/root.go":       "help, which is the program's own text",
	"cmd/hsmbackup/setup.go":      "through harmless.Sprintf",
	"internal/p11/child.go":       "buffers",
	"internal/remote/remote.go":   "ssh's own errors",
	"internal/source/reader.go":   "those of a command that the user named",
	"internal/terminal/":          "whether it is a terminal; prompts are made harmless there",
	"internal/console/console.go": "the place itself",
	"internal/console/output.go":  "the place itself",
	"internal/guards/main.go":     "no part of the program",
	"internal/pcsctest/":          "tests",
}

var output = regexp.MustCompile(`\bos\.(Stdout|Stderr)\b|\bfmt\.Print(f|ln)?\(|\.(Stdout|Stderr|OutOrStdout|ErrOrStderr)\b`)

// Nothing is printed past the one place that makes every argument harmless.
func TestOneWayOut(t *testing.T) {
	for _, root := range []string{"cmd", "internal", "backup", "store", "dkek"} {
		err := filepath.WalkDir(filepath.Join("..", "..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			name := filepath.ToSlash(strings.TrimPrefix(path, filepath.Join("..", "..")+string(filepath.Separator)))
			if writers[name] != "" || writers[filepath.ToSlash(filepath.Dir(name))+"/"] != "" {
				return nil
			}
			text, err := os.ReadFile(path)
			if m := output.Find(text); m != nil {
				t.Errorf("%s has %s: print through the console, or say in writers why it is harmless", name, m)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
