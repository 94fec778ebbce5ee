package store

import (
	"encoding/json"
	"errors"
	"time"
)

// Copy is a copy of the catalog that was made and read back.
type Copy struct {
	Time time.Time `json:"-"`    // of the entry
	Path string    `json:"path"` // absolute, of the copied catalog file; or host:path as typed
	// Seq and Head are the last log entry in the copy. The entry about the copy
	// comes after it.
	Seq  uint64 `json:"seq"`
	Head Hash   `json:"head"`
	// SameDisk: it lies on the catalog's own file system, and the admin
	// insisted.
	SameDisk bool `json:"same_disk,omitempty"`
}

// RecordCopy logs a copy that was verified.
func (c *Catalog) RecordCopy(p Copy) error {
	if p.Path == "" || p.Head.IsZero() {
		return errors.New("copy: no path or head")
	}
	_, err := c.Append(KindCopy, p)
	return err
}

// Copies gives the latest record of each path, oldest first.
func (c *Catalog) Copies() ([]Copy, error) {
	var list []Copy
	err := c.each(KindCopy, func(e Entry) error {
		var p Copy
		if err := json.Unmarshal(e.Body, &p); err != nil {
			return err
		}
		p.Time = e.Time
		for i := range list {
			if list[i].Path == p.Path {
				list = append(list[:i], list[i+1:]...)
				break
			}
		}
		list = append(list, p)
		return nil
	})
	return list, err
}
