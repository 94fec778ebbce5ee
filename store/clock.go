package store

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// clockSlack is how far the clocks of two computers may be apart.
const clockSlack = 10 * time.Minute

// UnknownTime is when something happened that was recorded under a clock which
// ran ahead: some time, so not never, and before everything whose time is known.
var UnknownTime = time.Time{}.Add(time.Nanosecond)

// Jump is a place in the log where time runs backwards: the clock was wrong
// before it, or is wrong since.
type Jump struct {
	Seq  uint64    // the last entry before it
	Time time.Time // of that entry
	Then time.Time // of the entry that follows; where none does, of the reading
}

// ClockAccepted says that somebody knows why time runs backwards after an entry.
// What is recorded under a clock that ran ahead has no known time all the same.
type ClockAccepted struct {
	Seq    uint64 `json:"seq"` // as in Jump
	Reason string `json:"reason"`
}

func (ClockAccepted) kind() string { return KindClock }
func (a ClockAccepted) check() error {
	if a.Seq == 0 || a.Reason == "" {
		return errors.New("it names no entry or no reason")
	}
	return nil
}
func (a ClockAccepted) tell(s *State, _ *Entry) { s.clockAccepted = append(s.clockAccepted, a.Seq) }

// dated is the time of an entry, if it can be known.
func (e *Entry) dated() time.Time {
	if e.Ahead {
		return UnknownTime
	}
	return e.Time
}

// lookAtClock marks the entries that are dated later than one that follows, or
// than now, and gives the places where that shows.
func lookAtClock(entries []Entry, now time.Time) (jumps []Jump) {
	least, next := now, now
	for i := len(entries) - 1; i >= 0; i-- {
		e := &entries[i]
		e.Ahead = e.Time.After(least.Add(clockSlack))
		if e.Time.After(next.Add(clockSlack)) {
			jumps = append([]Jump{{e.Seq, e.Time, next}}, jumps...)
		}
		if e.Time.Before(least) {
			least = e.Time
		}
		next = e.Time
	}
	return jumps
}

// Jumps are the places where time runs backwards, but for those that somebody
// accepted and those that lie before an anchor.
func (s *State) Jumps() []Jump {
	var list []Jump
	for _, j := range s.jumps {
		if !s.jumpSettled(j) {
			list = append(list, j)
		}
	}
	return list
}

func (s *State) jumpSettled(j Jump) bool {
	for _, seq := range s.clockAccepted {
		if seq == j.Seq {
			return true
		}
	}
	for _, a := range s.anchors {
		if a.damage == nil && a.Seq > j.Seq {
			return true
		}
	}
	return false
}

// Ahead tells whether an entry is dated later than one that follows, or than it
// was read.
func (s *State) Ahead(seq uint64) bool {
	i, found := slices.BinarySearchFunc(s.Entries, seq, func(e Entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	return found && s.Entries[i].Ahead
}
