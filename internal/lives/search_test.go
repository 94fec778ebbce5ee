package lives

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// What is cut down keeps only what it fails for, in order, and nothing chosen
// that does not matter.
func TestShrink(t *testing.T) {
	var h []Step
	for seed := range uint64(4) {
		h = append(h, random(seed)...)
	}
	h = slices.Insert(h, 10, Step{Do: "init", N: 3}, Step{Do: "clock", How: "7"})
	h = append(h, Step{Do: "backup", With: []string{"no proof"}, Cut: Cut{How: cutKilled, At: 3}, Key: 7})
	short := Shrink(h, func(h []Step) bool {
		clock := slices.IndexFunc(h, func(s Step) bool { return s.Do == "clock" && s.How == "7" })
		backup := slices.IndexFunc(h, func(s Step) bool { return s.Do == "backup" && s.Key == 7 })
		return clock >= 0 && backup > clock
	})
	want := []Step{{Do: "clock", How: "7"}, {Do: "backup", Key: 7}}
	if !reflect.DeepEqual(short, want) {
		t.Errorf("%s", JSON(short))
	}
}

// A seed gives one history, which JSON keeps.
func TestHistoryRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(200) {
		h := random(seed)
		again, err := Parse([]byte(JSON(h)))
		if err != nil || !reflect.DeepEqual(h, again) || !reflect.DeepEqual(h, random(seed)) {
			t.Fatalf("seed %d: %v\n%s", seed, err, JSON(h))
		}
		for _, s := range h {
			seen[s.Do] = true
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no history has %q", kind)
		}
	}
}

func TestParseReject(t *testing.T) {
	for _, text := range []string{``, `{}`, `[{"Do":"nothing"}]`, `[{}]`, `[{"Do":"init","Token":"x"}]`} {
		if h, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: %v", text, h)
		}
	}
}

// Each point in turn is a history of its own; one without is left as it is.
func TestEach(t *testing.T) {
	h := []Step{{Do: "init"}, {Do: "backup", Cut: Cut{How: cutPulled, On: "DELETE"}}}
	all := Each(h)
	if len(all) != each || all[0][1].Cut.At != 1 || all[each-1][1].Cut.At != each || h[1].Cut.At != 0 {
		t.Errorf("%v", all)
	}
	if plain := Each(h[:1]); len(plain) != 1 {
		t.Errorf("%v", plain)
	}
}

// A cut comes within the run that it is for; where there is nothing to cut, there
// is none.
func TestCutWithin(t *testing.T) {
	r := result{commands: 5, points: 12}
	for _, c := range []struct{ cut, want Cut }{
		{Cut{How: cutPulled, At: 5}, Cut{How: cutPulled, At: 5}},
		{Cut{How: cutPulled, At: 6}, Cut{How: cutPulled, At: 1}},
		{Cut{How: cutKilled, At: 14}, Cut{How: cutKilled, At: 2}},
	} {
		if got := c.cut.within(r); got != c.want {
			t.Errorf("%v: %v", c.cut, got)
		}
	}
	if got := (Cut{How: cutPulled, At: 3}).within(result{}); got != (Cut{}) {
		t.Errorf("%v", got)
	}
}

// The tally names what the histories had.
func TestTally(t *testing.T) {
	sum := newTally()
	sum.step(Step{Do: "restore", With: []string{"journal"}})
	sum.step(Step{Do: "key", How: "ec counted"})
	sum.ran("restore", result{exit: 3, cut: true})
	text := sum.String()
	for _, want := range []string{"2 steps", "1 of them cut off", "restore with journal", "key, ec counted", "exit 3 1 times"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
