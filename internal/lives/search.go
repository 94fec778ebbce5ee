package lives

import (
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// Tally counts what was played.
type Tally struct {
	Histories, Steps, Commands, Cuts int
	kinds                            map[string]int
	exits                            map[string]map[int]int
}

func newTally() *Tally {
	return &Tally{kinds: map[string]int{}, exits: map[string]map[int]int{}}
}

func (t *Tally) step(s Step) {
	t.Steps++
	name := s.Do
	if s.Do == "key" || s.Do == "unwrap" {
		name += ", " + s.How
	}
	t.kinds[name]++
	for _, w := range s.With {
		t.kinds[s.Do+" with "+w]++
	}
}

func (t *Tally) ran(verb string, r result) {
	t.Commands++
	if r.cut {
		t.Cuts++
	}
	if t.exits[verb] == nil {
		t.exits[verb] = map[int]int{}
	}
	t.exits[verb][r.exit]++
}

// String has the steps by kind, and the verbs by exit code.
func (t *Tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d histories, %d steps, %d command lines, %d of them cut off\n",
		t.Histories, t.Steps, t.Commands, t.Cuts)
	for _, name := range slices.Sorted(maps.Keys(t.kinds)) {
		fmt.Fprintf(&b, "%8d %s\n", t.kinds[name], name)
	}
	for _, verb := range slices.Sorted(maps.Keys(t.exits)) {
		fmt.Fprintf(&b, "%s:", verb)
		for _, exit := range slices.Sorted(maps.Keys(t.exits[verb])) {
			fmt.Fprintf(&b, "  exit %d %d times", exit, t.exits[verb][exit])
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// Played is how a history went.
type Played struct {
	Wrong *Violation // the first; nil if it went well
	Story string
}

// Play plays one history.
func Play(t testing.TB, program Program, h []Step) Played { return play(t, program, h, newTally()) }

func play(t testing.TB, program Program, h []Step, tally *Tally) (p Played) {
	w := newWorld(t, program, tally)
	defer w.close()
	tally.Histories++
	func() {
		defer func() {
			if bad := recover(); bad != nil {
				w.bad("the model itself", "%v\n%s", bad, debug.Stack())
			}
		}()
		w.play(h)
	}()
	p.Story = strings.Join(w.story, "\n")
	if len(w.wrong) > 0 {
		p.Wrong = &w.wrong[0]
	}
	return p
}

// Search is how histories are looked for that go wrong.
type Search struct {
	Seed  uint64        // of the first history
	Steps int           // play so many, or
	For   time.Duration // for so long
	// NotYet are rules that are known to be broken, by the number of the fault.
	NotYet map[string]int
}

// maxTries is how often a history is played to cut it down.
const maxTries = 200

// Run plays random histories. One that goes wrong is cut down and reported.
func (s Search) Run(t *testing.T, program Program) *Tally {
	tally, start, known := newTally(), time.Now(), map[string]int{}
	reported := map[string]bool{}
	goesOn := func() bool {
		if s.Steps > 0 {
			return tally.Steps < s.Steps
		}
		return time.Since(start) < s.For
	}
	for seed := s.Seed; goesOn(); seed++ {
		h := random(seed)
		p := play(t, program, h, tally)
		if p.Wrong == nil {
			continue
		}
		if known[p.Wrong.Rule]++; s.NotYet[p.Wrong.Rule] > 0 || reported[p.Wrong.Rule] {
			continue
		}
		reported[p.Wrong.Rule] = true
		tries := maxTries
		h = Shrink(h, func(h []Step) bool {
			if tries--; tries < 0 {
				return false
			}
			again := Play(t, program, h)
			return again.Wrong != nil && again.Wrong.Rule == p.Wrong.Rule
		})
		t.Errorf("seed %d: %s\n%s\n%s", seed, p.Wrong.Rule, JSON(h), Play(t, program, h).Story)
	}
	took := time.Since(start)
	t.Logf("from seed %d, %.0f steps a second\n%s", s.Seed, float64(tally.Steps)/took.Seconds(), tally)
	for _, rule := range slices.Sorted(maps.Keys(known)) {
		t.Logf("%d histories: %s (fault %d)", known[rule], rule, s.NotYet[rule])
	}
	return tally
}

// Shrink cuts a history down that fails to a shortest one that fails still.
func Shrink(h []Step, fails func([]Step) bool) []Step {
	for size := max(1, len(h)/2); ; {
		cut := false
		for i := 0; i+size <= len(h); {
			if less := slices.Concat(h[:i], h[i+size:]); fails(less) {
				h, cut = less, true
			} else {
				i += size
			}
		}
		if size == 1 && !cut {
			break
		}
		size = max(1, size/2)
	}
	for i := range h {
		for again := true; again; {
			again = false
			for _, s := range simpler(h[i]) {
				less := slices.Clone(h)
				if less[i] = s; fails(less) {
					h, again = less, true
					break
				}
			}
		}
	}
	return h
}

// simpler are the same step with less to it.
func simpler(s Step) (list []Step) {
	if s.Cut.How != "" {
		calm := s
		calm.Cut = Cut{}
		list = append(list, calm)
	}
	if len(s.With) > 0 {
		plain := s
		plain.With = nil
		list = append(list, plain)
	}
	for i, has := range []int{s.Other, s.Catalog, s.Key, s.N} {
		if has != 0 {
			one := s
			*[]*int{&one.Other, &one.Catalog, &one.Key, &one.N}[i] = 0
			list = append(list, one)
		}
	}
	return list
}
