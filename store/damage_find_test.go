package store_test

import (
	"errors"
	"testing"

	"hsmbackup/internal/forge"
	"hsmbackup/store"
)

// Of a catalog whose only snapshot cannot be read nobody hears that it has none.
func TestFault10OnlySnapshotUnreadable(t *testing.T) {
	cat := forged(t, func(c *forge.Catalog) { c.Newest()["token"].(forge.Object)["serial"] = "../x" })
	state, err := cat.Read()
	if err != nil {
		t.Fatal(err)
	}
	state.Snapshots, state.Lost = nil, nil // its entry cannot be read either
	if _, err := state.Find("latest"); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("latest: %v", err)
	}
}
