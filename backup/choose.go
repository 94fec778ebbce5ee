package backup

import (
	"fmt"
	"slices"
	"strings"

	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// SameSerial compares what was typed with a serial. Readers and OpenSC print
// zeros behind it.
func SameSerial(typed, serial string) bool {
	typed = strings.ToUpper(strings.TrimSpace(typed))
	want := strings.ToUpper(serial)
	return serial != "" && (typed == want || typed == want+"0000" || typed == want+"00000")
}

// Find gives the snapshot that a name means (see store.State.Find). Of a token
// that goes on under another serial that is the newest of all its serials; note
// then says so.
func Find(state *store.State, name string) (s *store.Snapshot, note string, err error) {
	for _, known := range state.Snapshots {
		if SameSerial(name, known.Token.Serial) {
			name = known.Token.Serial
			break
		}
	}
	if s, err = state.Find(name); err != nil {
		return nil, "", err
	}
	if now := s.Token.Serial; now != name && slices.Contains(state.Line(name), now) {
		note = fmt.Sprintf("%s goes on as %s: its newest snapshot is %s, and one of before is named by its ID (`hsmbackup list`)", name, now, s.ID)
	}
	return s, note, nil
}

// Choose gives the snapshot to restore: the one named, else the newest of the
// token with this serial, else the newest of the only token in the catalog.
func Choose(state *store.State, name, serial string) (s *store.Snapshot, note string, err error) {
	if name != "" {
		return Find(state, name)
	}
	newest := Current(state)
	// Adopted snapshots are of no token: they are asked for by name, unless there
	// is nothing else.
	adopted := func(s *store.Snapshot) bool { return s.Adopted }
	if real := slices.DeleteFunc(slices.Clone(newest), adopted); len(real) > 0 {
		newest = real
	}
	if own := state.Now(serial); own != nil && !own.Adopted {
		return own, "", nil
	}
	var lines []string
	for _, s := range newest {
		name := s.Token.Serial
		if name == "" {
			name = s.ID
		}
		lines = append(lines, fmt.Sprintf("%s  %q  %s", name, s.Token.Label, count(len(s.Keys), "key")))
	}
	switch len(newest) {
	case 0:
		if err := state.Err(); err != nil { // what cannot be read may be a snapshot
			return nil, "", err
		}
		return nil, "", fail.Failf("no-such-snapshot", "`hsmbackup backup` takes one", "there is no snapshot in the catalog")
	case 1:
		return newest[0], "", nil
	}
	return nil, "", fail.Refusef("ambiguous-snapshot", strings.Join(lines, "\n"), "the catalog has %d snapshots to choose from: name one by its serial", len(newest))
}

// Current gives the newest snapshot of each token, whatever serials it had, and
// each adopted one.
func Current(state *store.State) []*store.Snapshot {
	return slices.DeleteFunc(state.Latest(), func(s *store.Snapshot) bool {
		return !s.Adopted && s.Token.Serial != "" && state.Now(s.Token.Serial) != s
	})
}
