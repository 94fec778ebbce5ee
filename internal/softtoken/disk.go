package softtoken

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// formatVersion of the file.
const formatVersion = 1

// document is the file: a comment for whoever opens it, the SHA-256 in hex of
// the state's JSON, and that JSON. There is one way to write it; any other is
// refused as a file that was changed.
type document struct {
	Comment string
	SHA256  string
	State   json.RawMessage
}

const comment = "hsmbackup software token: private keys in clear, for tests and demonstrations only"

// acquire takes the lock, a file beside the token's.
func (t *Token) acquire() error {
	for {
		lock := flock.New(t.path + ".lock")
		locked, err := lock.TryLock()
		if err != nil {
			return fmt.Errorf("lock of software token: %w", err)
		}
		if !locked {
			return fmt.Errorf("%w: %s", ErrInUse, t.path)
		}
		// Whoever had it may have removed the file between opening and
		// locking: then this lock keeps nobody out.
		held, err := lock.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(lock.Path()); err == nil && os.SameFile(held, there) {
				t.lock = lock
				return nil
			}
		}
		_ = lock.Unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("lock of software token: %w", err)
		}
	}
}

func (t *Token) release() {
	if t.lock != nil {
		// Removed while it is held, so that it is nobody else's by now.
		_ = os.Remove(t.lock.Path())
		_ = t.lock.Unlock()
		t.lock = nil
	}
}

func (t *Token) load() error {
	raw, err := os.ReadFile(t.path)
	if err != nil {
		return fmt.Errorf("software token: %w", err)
	}
	defer clear(raw)
	saved, err := decode(raw)
	if err == nil {
		t.saved = saved
		err = t.revert()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	return nil
}

// revert goes back to the state as it was saved last.
func (t *Token) revert() error {
	s := &state{}
	if err := json.Unmarshal(t.saved, s); err != nil || s.Version != formatVersion {
		return fmt.Errorf("%w: it does not parse", ErrNotToken)
	}
	if err := s.check(); err != nil {
		return fmt.Errorf("%w: its %w cannot be right", ErrNotToken, err)
	}
	t.state = s
	return nil
}

// create writes the first state to a file that must not exist: an empty one
// takes the place, so that nothing is ever overwritten.
func (t *Token) create() error {
	f, err := os.OpenFile(t.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("software token: %w", err)
	}
	err = f.Close()
	if err == nil {
		err = t.save()
	}
	if err != nil {
		_ = os.Remove(t.path)
	}
	return err
}

// encode gives the file for a state.
func encode(state []byte) ([]byte, error) {
	sum := sha256.Sum256(state)
	return json.Marshal(document{comment, hex.EncodeToString(sum[:]), state})
}

// decode is the way back; it checks all but the state itself.
func decode(raw []byte) (state []byte, err error) {
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("%w: it does not parse", ErrNotToken)
	}
	if again, err := encode(doc.State); err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("%w: it was changed or cut", ErrNotToken)
	}
	var version struct{ Version int }
	if json.Unmarshal(doc.State, &version) == nil && version.Version > formatVersion {
		return nil, fmt.Errorf("%w: version %d, this program knows %d", ErrNewer, version.Version, formatVersion)
	}
	return doc.State, nil
}

// save makes the state durable before an answer leaves: a temporary file,
// synced, renamed, the folder synced. When that fails the token goes back to
// what is on the disk.
func (t *Token) save() error {
	if t.path == "" {
		return nil
	}
	err := t.write()
	if err != nil && t.saved != nil {
		if back := t.revert(); back != nil {
			err = errors.Join(err, back)
		}
	}
	return err
}

func (t *Token) write() error {
	body, err := json.Marshal(t.state)
	if err != nil {
		return err
	}
	if bytes.Equal(body, t.saved) {
		return nil
	}
	raw, err := encode(body)
	if err != nil {
		return err
	}
	defer clear(raw)
	dir := filepath.Dir(t.path)
	f, err := os.CreateTemp(dir, ".softtoken-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), t.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // not every system can sync a folder
		_ = d.Close()
	}
	clear(t.saved)
	t.saved = body
	if t.testOnlySaved != nil {
		t.testOnlySaved()
	}
	return nil
}
