package store

import (
	"errors"
	"fmt"
)

// Errors to match with errors.Is. A missing file is fs.ErrNotExist.
var (
	// ErrExists: Create found something at the path and left it alone.
	ErrExists = errors.New("exists already")
	// ErrLocked: another process has the file open for writing, or has it
	// open at all and this one wants to write.
	ErrLocked = errors.New("in use by another process")
	// ErrNewer: the format version is above what this program knows.
	ErrNewer = errors.New("of a newer format")
	// ErrDamaged: not a catalog, or something stored does not check out.
	ErrDamaged = errors.New("damaged")
	// ErrReadOnly: opened for reading only, or the file may not be written.
	ErrReadOnly = errors.New("cannot be written")
	// ErrFull: no space for a write; nothing of it was recorded.
	ErrFull = errors.New("disk full")
	// ErrNoSnapshot: no snapshot has this id or token serial.
	ErrNoSnapshot = errors.New("no such snapshot")
	// ErrAmbiguous: a name or a hash prefix fits more than one thing.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrNoAnchor: no anchor was set under this KCV.
	ErrNoAnchor = errors.New("no anchor")
)

// Finding is one thing that does not check out.
type Finding struct {
	Where string // the place, as a person would name it: "log entry 3"
	What  string // what is wrong with it
}

func (f Finding) String() string { return f.Where + ": " + f.What }

// findings collects what is wrong without stopping at the first.
type findings []Finding

func (l *findings) add(where, format string, args ...any) {
	*l = append(*l, Finding{Where: where, What: fmt.Sprintf(format, args...)})
}

// err is nil for an empty list, else ErrDamaged with the first finding.
func (l findings) err() error {
	switch len(l) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %v", ErrDamaged, l[0])
	}
	return fmt.Errorf("%w: %v; and %d more", ErrDamaged, l[0], len(l)-1)
}
