package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A source is remembered until it has changed, whatever else was noted or taken
// meanwhile, and nothing of a secret or of a command is in the file.
func TestMemory(t *testing.T) {
	dir := t.TempDir()
	m := Memory{filepath.Join(dir, "not", "yet", "note")}
	file := filepath.Join(dir, "PIN")
	write := func(content string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	look := func(text string) Mark {
		t.Helper()
		s, err := Parse("--pin", text)
		if err != nil {
			t.Fatal(err)
		}
		mark, err := Look(s)
		if err != nil {
			t.Fatal(err)
		}
		return mark
	}
	known := func(text string) bool {
		t.Helper()
		_, refused := m.Refused(look(text))
		return refused
	}
	start := time.Now().Add(-time.Hour)
	write("111111", start)
	sources := []string{"file:" + file, "env:A_PIN", "cmd:echo 111111", "fd:3"}
	for i, text := range sources {
		if known(text) {
			t.Errorf("%s is known before", text)
		}
		if err := m.Add(look(text), start.Add(time.Duration(i)*time.Minute)); err != nil {
			t.Fatal(err)
		}
		for _, earlier := range sources[:i+1] {
			if !known(earlier) {
				t.Errorf("%s is forgotten after %s", earlier, text)
			}
		}
	}
	if known("env:B_PIN") || known("fd:0") || !known("cmd:pass show pin") {
		t.Error("another variable or descriptor is taken for a refused one, or another command is not")
	}
	b, err := os.ReadFile(m.Path)
	if err != nil || strings.Contains(string(b), "111111") || strings.Contains(string(b), "echo") {
		t.Fatalf("%q, %v", b, err)
	}
	if info, err := os.Stat(m.Path); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can read it: %v, %v", info.Mode(), err)
	}

	old := look(sources[0])
	write("648219", start.Add(time.Minute))
	if known(sources[0]) {
		t.Error("a file that was written anew is not sent")
	}
	if err := m.Accepted(look(sources[0])); err != nil {
		t.Fatal(err)
	}
	if _, refused := m.Refused(old); refused {
		t.Error("what a file held before is still noted after it was accepted")
	}
	if !known("env:A_PIN") || !known("fd:3") {
		t.Error("what one source gives, once accepted, makes others good")
	}
	for _, text := range sources[1:] {
		if err := m.Accepted(look(text)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(m.Path); !os.IsNotExist(err) {
		t.Errorf("an empty note stays: %v", err)
	}
	if err := m.Forget(); err != nil {
		t.Errorf("to forget nothing: %v", err)
	}
}

// The note as it was before it had a line for each refusal is read, and what
// cannot be read is passed over.
func TestMemoryReadsOldNotes(t *testing.T) {
	dir := t.TempDir()
	file, m := filepath.Join(dir, "PIN"), Memory{filepath.Join(dir, "note")}
	if err := os.WriteFile(file, []byte("111111"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
	note := "not JSON\n" + `{"file":"` + file + `","modified":"2026-11-01T12:00:00Z","refused":"2026-11-02T12:00:00Z"}` + "\n"
	if err := os.WriteFile(m.Path, []byte(note), 0o600); err != nil {
		t.Fatal(err)
	}
	mark, err := Look(Source{Kind: "file", Arg: file})
	if err != nil {
		t.Fatal(err)
	}
	if when, refused := m.Refused(mark); !refused || !when.Equal(at.AddDate(0, 0, 1)) {
		t.Errorf("%v, %v", when, refused)
	}
}
