package source

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Memory is a file that keeps in mind which sources gave a secret that was
// refused, by one receiver: a timer would send it again, and again, with nobody
// there. Of the secret it holds nothing, nor of a command that gave it. Each line
// is a Mark in JSON. The zero value keeps nothing.
type Memory struct{ Path string }

// Mark is a source as it was when its secret was read.
type Mark struct {
	// File is the absolute path of a file, Source any other source: "env:NAME",
	// "fd:N", "cmd".
	File   string `json:"file,omitempty"`
	Source string `json:"source,omitempty"`
	// Modified is of a file that can be read again. What another source gives
	// changes unseen.
	Modified time.Time `json:"modified,omitzero"`
	Refused  time.Time `json:"refused"`
}

// Look takes a mark of a source that nobody types.
func Look(s Source) (Mark, error) {
	switch s.Kind {
	case "env", "fd":
		return Mark{Source: s.key()}, nil
	case "cmd":
		return Mark{Source: s.Kind}, nil
	}
	path, err := filepath.Abs(s.Arg)
	if err != nil {
		return Mark{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Mark{}, err
	}
	m := Mark{File: path}
	if info.Mode().IsRegular() {
		m.Modified = info.ModTime().UTC()
	}
	return m, nil
}

// same tells whether two marks are of one source.
func (m Mark) same(o Mark) bool { return m.File == o.File && m.Source == o.Source }

// marks are those that can be read.
func (m Memory) marks() []Mark {
	if m.Path == "" {
		return nil
	}
	b, err := os.ReadFile(m.Path)
	if err != nil {
		return nil
	}
	var list []Mark
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		var mark Mark
		if json.Unmarshal(lines.Bytes(), &mark) == nil {
			list = append(list, mark)
		}
	}
	return list
}

// Refused tells when what a source gives, unless it has changed, was refused.
func (m Memory) Refused(is Mark) (when time.Time, refused bool) {
	for _, was := range m.marks() {
		if was.same(is) && was.Modified.Equal(is.Modified) {
			when, refused = was.Refused, true
		}
	}
	return when, refused
}

// Add notes that what a source gave was refused.
func (m Memory) Add(mark Mark, now time.Time) error {
	if m.Path == "" {
		return nil
	}
	mark.Refused = now.UTC()
	line, err := json.Marshal(mark)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.Path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(m.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Accepted forgets what was noted of a source: what it gives was taken.
func (m Memory) Accepted(mark Mark) error {
	var keep []byte
	marks := m.marks()
	n := 0
	for _, was := range marks {
		if was.same(mark) {
			continue
		}
		line, err := json.Marshal(was)
		if err != nil {
			return err
		}
		keep, n = append(append(keep, line...), '\n'), n+1
	}
	switch n {
	case len(marks):
		return nil
	case 0:
		return m.Forget()
	}
	return os.WriteFile(m.Path, keep, 0o600)
}

// Forget forgets all: the receiver has another secret now.
func (m Memory) Forget() error {
	if m.Path == "" {
		return nil
	}
	if err := os.Remove(m.Path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
