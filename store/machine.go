package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Machine is what one computer keeps for itself, outside every catalog, so that
// whoever writes a catalog does not reach it: for each recovery key the recipient
// that is its own. A nil Machine knows nothing and keeps nothing.
type Machine struct{ path string }

// MachineAt keeps it in a file, which need not exist.
func MachineAt(path string) *Machine { return &Machine{path} }

// Known is a recipient that this computer checked.
type Known struct {
	Recipient string    `json:"recipient"`
	Time      time.Time `json:"time"`
	// Typed: from a sheet, and not derived from the shares.
	Typed bool `json:"typed,omitempty"`
}

type machineFile struct {
	Version    int           `json:"version"`
	Recipients map[KCV]Known `json:"recipients"`
}

func (m *Machine) read() (machineFile, error) {
	f := machineFile{Version: 1, Recipients: map[KCV]Known{}}
	b, err := os.ReadFile(m.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err != nil:
		return f, err
	}
	if err := json.Unmarshal(b, &f); err != nil || f.Version != 1 || f.Recipients == nil {
		return f, fmt.Errorf("%s: %w: not readable; delete it and show the shares again", m.path, ErrDamaged)
	}
	return f, nil
}

// Recipient gives what this computer keeps of a recovery key; known is false if
// that is nothing.
func (m *Machine) Recipient(kcv KCV) (k Known, known bool, err error) {
	if m == nil {
		return k, false, nil
	}
	f, err := m.read()
	k, known = f.Recipients[kcv]
	return k, known && err == nil, err
}

// Keep notes the recipient of a recovery key, in place of an earlier one. The
// file is for its owner only (0600) and is replaced as a whole.
func (m *Machine) Keep(kcv KCV, k Known) error {
	if m == nil {
		return nil
	}
	f, err := m.read()
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if old := f.Recipients[kcv]; err == nil && old.Recipient == k.Recipient && (k.Typed || !old.Typed) {
		return nil
	}
	if f.Recipients == nil {
		f.Recipients = map[KCV]Known{}
	}
	k.Time = seconds(k.Time)
	f.Version, f.Recipients[kcv] = 1, k
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		return err
	}
	temp, err := tempFile(filepath.Dir(m.path), filepath.Base(m.path))
	if err != nil {
		return err
	}
	err = os.WriteFile(temp, append(b, '\n'), 0o600)
	if err == nil {
		err = syncFile(temp)
	}
	if err == nil {
		err = os.Rename(temp, m.path)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}
