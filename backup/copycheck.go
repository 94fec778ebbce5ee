package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"hsmbackup/store"
)

// CopyState is what was found of one copy of the catalog.
type CopyState struct {
	store.Copy
	// Reached tells whether the copy was there to be looked at. One on a disk
	// that is put away, or on another computer, is not.
	Reached bool
	// Behind is how many entries the catalog has that the copy has not.
	Behind int
	// Damage says what does not check out, empty if all does.
	Damage string
}

// CheckCopies looks at each copy that the log knows: a copy that is there must
// be whole, and of this catalog. Nothing is written.
func CheckCopies(s *store.State) []CopyState {
	var list []CopyState
	for _, c := range s.Copies {
		list = append(list, checkCopy(c, s))
	}
	return list
}

func checkCopy(c store.Copy, s *store.State) CopyState {
	state := CopyState{Copy: c}
	damage := func(format string, args ...any) CopyState {
		state.Reached, state.Damage = true, fmt.Sprintf(format, args...)
		return state
	}
	other, err := store.Open(c.Path, false)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, store.ErrLocked):
		return state
	case err != nil:
		return damage("%s", strings.TrimPrefix(err.Error(), "catalog "+c.Path+": "))
	}
	defer other.Close()
	findings, err := other.Verify()
	if err != nil {
		return damage("%v", err)
	}
	if len(findings) > 0 {
		return damage("%s", findings[0])
	}
	is, err := other.Read()
	if err != nil {
		return damage("%v", err)
	}
	// Entries are chained: one that both have stands for all before it.
	if !slices.ContainsFunc(s.Entries, func(e store.Entry) bool { return e.Hash == is.Head.Hash }) {
		return damage("it is a copy of another catalog, or one of the two has changed since")
	}
	state.Reached, state.Behind = true, int(s.Head.Seq-is.Head.Seq)
	return state
}
