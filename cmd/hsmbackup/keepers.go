package main

import (
	"fmt"
	"strings"
	"time"

	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
)

func (a *app) partSets(sets []custody.KeptSet) []custody.PartSet {
	list := []custody.PartSet{}
	for _, s := range sets {
		list = append(list, s.Document(a.Now()))
	}
	return list
}

// printKeepers shows a set and who of its custodians answered when.
func (a *app) printKeepers(s custody.KeptSet) {
	state := fmt.Sprintf("%d of %d answered within a year", s.Recent, len(s.Keepers))
	if !s.InUse() {
		state = "RETIRED on " + s.Retired.UTC().Format(time.DateOnly)
	}
	a.Printf("%s: %s", s.Name(), state)
	var rows [][]string
	for _, k := range s.Keepers {
		rows = append(rows, []string{fmt.Sprintf("  part %d", k.Index), k.Name, a.answeredText(k)})
	}
	a.Table(rows)
}

func (a *app) answeredText(k custody.Keeper) string {
	switch {
	case k.Undated:
		return "answered while a clock ran ahead, nobody knows when"
	case k.Answered.IsZero():
		return "never answered"
	}
	return fmt.Sprintf("%s (%s)", a.age(k.Answered), k.Origin)
}

// riskText names who of a set has answered within a year and who has not.
func (a *app) riskText(s custody.KeptSet) string {
	var lately, not []string
	for _, k := range s.Keepers {
		switch {
		case k.Lately(a.Now()):
			lately = append(lately, k.Name)
		case k.Undated:
			not = append(not, k.Name+" (while a clock ran ahead)")
		case k.Answered.IsZero():
			not = append(not, k.Name+" (never)")
		default:
			not = append(not, fmt.Sprintf("%s (%s)", k.Name, a.age(k.Answered)))
		}
	}
	if len(lately) == 0 {
		lately = []string{"nobody"}
	}
	return fmt.Sprintf("%s: %d should have answered within a year, %d have: %s; not %s",
		s.Name(), s.Wanted, s.Recent, strings.Join(lately, ", "), strings.Join(not, ", "))
}

// stale is the outcome of a look at sets: incomplete if too few custodians of
// one that is in use, and was not just handed out, have answered within a year.
func (a *app) stale(sets []custody.KeptSet) error {
	exits := console.Exits{}
	var list []string
	for _, s := range sets {
		if s.Stale() {
			exits.Add(console.ExitIncomplete)
			list = append(list, a.riskText(s))
		}
	}
	return exits.Outcome(console.Brief(list), "`hsmbackup dkek rollcall` calls them")
}

// printRisks warns in the result itself.
func (a *app) printRisks(sets []custody.KeptSet) {
	for _, s := range sets {
		if s.AtRisk() {
			a.Printf("WARNING: custodians of %s", a.riskText(s))
		}
	}
}
