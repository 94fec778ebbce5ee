package lives

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// Step is one thing that happens. Its fields say which of what there is is meant,
// so that it makes sense whatever went before; where there is nothing of the kind
// it does nothing.
type Step struct {
	Do string // one of kinds
	// How is the way in which it is done, With what is added to it.
	How  string   `json:",omitempty"`
	With []string `json:",omitempty"`
	// Token, and Other where there are two, Catalog, Key (a reference) and N (of
	// whatever else there are several) choose.
	Token, Other, Catalog, Key, N int `json:",omitempty"`
	Cut                           Cut `json:",omitzero"`
}

// Cut is an interruption of a command.
type Cut struct {
	How string // one of cuts
	// At is the command to a token, or the point, at which it comes, from 1, and
	// again from 1 beyond the last; 0 is each in turn. On: only commands of this
	// name count.
	At int
	On string `json:",omitempty"`
	// Left: nobody runs the command again.
	Left bool `json:",omitempty"`
}

// Ways in which a command is cut off.
const (
	cutPulled   = "pulled"    // the token is pulled before a command
	cutAnswered = "unheard"   // the token is pulled between a command and its answer
	cutLost     = "lost"      // one answer is lost, the token stays
	cutRefused  = "refused"   // 6F00 in place of carrying a command out
	cutMuddled  = "muddled"   // a command is carried out and answered 6F00
	cutReset    = "reset"     // another program resets the token
	cutKilled   = "killed"    // the program ends at a command, its answer or a write
	cutSignal   = "signalled" // the program gets a signal
)

// commands that matter most, by name.
var commands = map[string]byte{
	"INITIALIZE": 0x50, "LOAD SHARE": 0x52, "UNWRAP": 0x74, "WRITE": 0xD7, "DELETE": 0xE4,
	"USE AES": 0x78,
}

var cuts = []string{
	cutPulled, cutAnswered, cutLost, cutRefused, cutMuddled, cutReset, cutKilled, cutKilled, cutSignal,
}

// has tells what is added.
func (s Step) has(what string) bool {
	for _, w := range s.With {
		if w == what {
			return true
		}
	}
	return false
}

// Parse reads a history as JSON has it.
func Parse(b []byte) (h []Step, err error) {
	err = json.Unmarshal(b, &h)
	for _, s := range h {
		if _, known := kinds[s.Do]; !known && err == nil {
			err = fmt.Errorf("there is no step %q", s.Do)
		}
	}
	return h, err
}

// each is how many points stand for each in turn.
const each = 12

// Each gives a history, or one for each of the points in turn at which a command
// of it is cut off.
func Each(h []Step) (all [][]Step) {
	for i, s := range h {
		if s.Cut.How == "" || s.Cut.At > 0 {
			continue
		}
		for at := range each {
			one := slices.Clone(h)
			one[i].Cut.At = at + 1
			all = append(all, one)
		}
		return all
	}
	return [][]Step{h}
}

// JSON writes a history, a step to a line.
func JSON(h []Step) string {
	var lines []string
	for _, s := range h {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		lines = append(lines, string(b))
	}
	return "[" + strings.Join(lines, ",\n ") + "]\n"
}

// interrupted is how many commands in a hundred are cut off.
const interrupted = 25

// random makes the history of a seed: it begins as a life does, and goes on at
// random.
func random(seed uint64) []Step {
	r := rand.New(rand.NewPCG(seed, 9))
	begin := Step{Do: "init"}
	if r.IntN(5) == 0 {
		begin = Step{Do: "domains", N: r.IntN(64)}
	}
	h := []Step{{Do: "token", How: pick(r, kinds["token"].ways)}, begin}
	for n := range 1 + r.IntN(3) {
		h = append(h, Step{Do: "key", Key: 1 + n, How: pick(r, kinds["key"].ways), N: r.IntN(64)})
	}
	if r.IntN(2) == 0 { // there is another token, with the same recovery key
		h = append(h, Step{Do: "init", Token: 1})
	}
	for range 4 + r.IntN(24) {
		s := randomStep(r)
		h = append(h, s)
		if kinds[s.Do].command != nil && r.IntN(16) == 0 { // again, for no reason
			s.Cut = Cut{}
			h = append(h, s)
		}
		if s.Do == "update" && r.IntN(2) == 0 { // the vendor follows more often than chance has it
			h = append(h, Step{Do: "vendor", Token: s.Token, How: pick(r, kinds["vendor"].ways)})
			h = append(h, Step{Do: "go on", Token: s.Token, Catalog: s.Catalog})
		}
	}
	return h
}

func pick[T any](r *rand.Rand, list []T) (one T) {
	if len(list) > 0 {
		one = list[r.IntN(len(list))]
	}
	return one
}

func randomStep(r *rand.Rand) Step {
	s := Step{Do: pick(r, weighted), Key: pick(r, []int{1, 1, 2, 2, 3, 4, 255}), N: r.IntN(64)}
	k := kinds[s.Do]
	s.How = pick(r, k.ways)
	for _, w := range k.with {
		if r.IntN(5) == 0 {
			s.With = append(s.With, w)
		}
	}
	s.Token, s.Other = pick(r, []int{0, 0, 0, 1, 1, 2}), r.IntN(2)
	if r.IntN(9) == 0 {
		s.Catalog = 1
	}
	if k.command != nil && !k.looks && r.IntN(100) < interrupted {
		s.Cut = Cut{How: pick(r, cuts), At: 1 + r.IntN(400), Left: r.IntN(5) < 2}
		if r.IntN(3) == 0 {
			s.Cut.On = pick(r, slices.Sorted(maps.Keys(commands)))
		}
	}
	return s
}
