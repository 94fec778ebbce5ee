package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsctest"
)

// shows finds a part on the screen on which it is handed out.
func shows(name string) find {
	return find{name, true, regexp.MustCompile(`(?s)^` + name + `: part .*?\n    (hsmpa .*?)\n\nKeep`)}
}

// handedOut are the answers of custodians who get their parts.
func handedOut(names ...string) (answers []answer) {
	for _, name := range names {
		answers = append(answers,
			answer{"is for " + name + ", and nobody else should see the screen. Enter shows it:", ""},
			answer{"Press Enter when it is written down; then it is typed back.", ""})
		for i := range dkek.PartLines {
			answers = append(answers, answer{fmt.Sprintf("Line %d of %d:", i+1, dkek.PartLines), fmt.Sprintf("«%s, line %d»", name, i+1)})
		}
	}
	return answers
}

// typedIn are the answers of custodians who type their parts at once, as a
// scanner does.
func typedIn(names ...string) (answers []answer) {
	for _, name := range names {
		answers = append(answers, answer{fmt.Sprintf("Line 1 of %d:", dkek.PartLines), "«" + name + "»"})
	}
	return answers
}

// TestCeremony is a whole ceremony at a terminal: 3 of 5 get a recovery key in
// parts, a token gets the key, the roll is called, the key is given to 2 of 4,
// and then there is a new one. Parts are typed throughout; after each command
// none of them, no share and no key is left anywhere.
func TestCeremony(t *testing.T) {
	d := pcsctest.Start(t)
	h := newHunt(t)
	const old, spare = "SOFT0200051", "SOFT0200052"
	first := []string{"alice", "bob", "carol", "dave", "erin"}
	second := []string{"gina", "hugo", "ivan", "judy"}
	third := []string{"kim", "lena"}
	look := func(line string, answers ...answer) {
		t.Helper()
		h.look(&command{line: line, answers: answers}, false)
	}
	// handOut makes a set, and has its parts and what they give hunted.
	handOut := func(verb string, needed int, names []string, before ...answer) (key *dkek.Key) {
		t.Helper()
		c := &command{line: fmt.Sprintf("%s --split %d/%d", verb, needed, len(names)), answers: append(before, handedOut(names...)...)}
		for _, name := range names {
			c.line += " --custodian " + name
			c.finds = append(c.finds, shows(name))
		}
		h.look(c, false)
		var parts []*dkek.Part
		for _, name := range names {
			p, err := dkek.ParsePart([]byte(h.values[name]))
			if err != nil {
				t.Fatal(err)
			}
			h.hidePart("part of "+name, p)
			parts = append(parts, p)
		}
		share, err := dkek.CombineParts(parts[:needed])
		if err != nil {
			t.Fatal(err)
		}
		key = h.hideShare("share of "+strings.Join(names, " and "), share)
		h.scan(verb, false)
		return key
	}
	fresh := func(serial string, typed ...answer) []answer {
		return append(slices.Clone(typed), answer{"Initialise " + serial + "? [y/N]", "y"},
			answer{"SO-PIN of " + serial + ", 16 hex digits:", "«SO-PIN»"}, answer{"16 hex digits again:", "«SO-PIN»"},
			answer{"new PIN of " + serial + ", 6 to 15 characters:", "«PIN»"}, answer{"6 to 15 characters again:", "«PIN»"})
	}
	pin := answer{"PIN of " + old + " (tries left: 3):", "«PIN»"}

	token := plug(t, d, 0, old)
	key := handOut("dkek create --who five", 3, first)
	look("init --share prompt --untrusted-token "+old, fresh(old, typedIn("erin", "bob", "carol")...)...)
	d.Unplug(t, 0)
	h.hideKeys(makeKeys(t, token, key))
	d.Plug(t, 0, token)
	look("backup", pin)

	// The roll is called; alice answers on a computer of her own.
	look("dkek rollcall --share prompt", typedIn("dave")...)
	h.look(&command{line: "dkek rollcall", answers: []answer{{"(Enter alone ends):", ""}},
		finds: []find{{"challenge", false, regexp.MustCompile(`(?m)(hsmcall21[a-z0-9]{102})`)}}}, false)
	h.look(&command{line: "dkek rollcall --answer «challenge» --share prompt", answers: typedIn("alice"),
		finds: []find{{"answer", false, regexp.MustCompile(`(?m)^(hsmansw1[a-z0-9]{117})`)}}}, false)
	look("dkek rollcall --record «answer»")

	// Other people, then another key.
	handOut("dkek resplit --share prompt", 2, second, typedIn("alice", "dave", "erin")...)
	h.look(&command{line: "verify --offline --share prompt", answers: typedIn("judy", "gina")}, true)
	handOut("dkek create", 2, third)
	h.look(&command{line: "dkek rekey --why routine --share prompt --new-share prompt", answers: typedIn("hugo", "judy", "lena", "kim")}, true)
	d.Unplug(t, 0)
	plug(t, d, 0, spare)
	look("restore --from "+old+" --init --share prompt --untrusted-token "+spare, append(fresh(spare, typedIn("kim", "lena")...), becameOf(old))...)
	d.Unplug(t, 0)
	record := h.run(&command{line: "hsmbackup log"})
	for _, want := range []string{"by five (as typed)", ": alice answered", "resplit, recovery key", "rekey, recovery key"} {
		if !strings.Contains(record, want) {
			t.Errorf("the log does not tell %q:\n%s", want, record)
		}
	}
}
