package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// jsonPartSet is a set of parts. Wanted custodians should have answered within a
// year, Recent have; at_risk: it is in use, and they are fewer; stale: that is so
// although the set was not just handed out.
type jsonPartSet struct {
	Set        string       `json:"set"`
	KCV        string       `json:"kcv"`
	Share      int          `json:"share"`
	Shares     int          `json:"shares"`
	Needed     int          `json:"needed"`
	Retired    string       `json:"retired"`
	Wanted     int          `json:"wanted"`
	Recent     int          `json:"recent"`
	AtRisk     bool         `json:"at_risk"`
	Stale      bool         `json:"stale"`
	Custodians []jsonKeeper `json:"custodians"`
}

// jsonKeeper is a custodian. Answered is empty if they never did, Lately tells
// whether it was within a year.
type jsonKeeper struct {
	Index    int    `json:"index"`
	Name     string `json:"name"`
	Answered string `json:"answered"`
	Origin   string `json:"origin"`
	Lately   bool   `json:"lately"`
}

func (a *app) partSets(sets []backup.KeptSet) []jsonPartSet {
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	list := []jsonPartSet{}
	for _, s := range sets {
		j := jsonPartSet{
			Set: s.Set, KCV: s.KCV, Share: s.Share, Shares: s.Shares, Needed: s.Needed, Retired: stamp(s.Retired),
			Wanted: s.Wanted, Recent: s.Recent, AtRisk: s.AtRisk(), Stale: s.Stale(), Custodians: []jsonKeeper{},
		}
		for _, k := range s.Keepers {
			j.Custodians = append(j.Custodians, jsonKeeper{k.Index, k.Name, stamp(k.Answered), k.Origin, k.Lately(a.now())})
		}
		list = append(list, j)
	}
	return list
}

// setsInUse gives the sets of parts that are meant to be used.
func (a *app) setsInUse(cat *store.Catalog) ([]backup.KeptSet, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(backup.Keepers(state, a.now()), func(s backup.KeptSet) bool { return !s.InUse() }), nil
}

// printKeepers shows a set and who of its custodians answered when.
func (a *app) printKeepers(s backup.KeptSet) {
	state := fmt.Sprintf("%d of %d answered within a year", s.Recent, len(s.Keepers))
	if !s.InUse() {
		state = "RETIRED on " + s.Retired.UTC().Format(time.DateOnly)
	}
	a.printf("%s: %s", s.Name(), state)
	var rows [][]string
	for _, k := range s.Keepers {
		rows = append(rows, []string{fmt.Sprintf("  part %d", k.Index), k.Name, a.answeredText(k)})
	}
	a.table(rows)
}

func (a *app) answeredText(k backup.Keeper) string {
	if k.Answered.IsZero() {
		return "never answered"
	}
	return fmt.Sprintf("%s (%s)", a.age(k.Answered), k.Origin)
}

// riskText names who of a set has answered within a year and who has not.
func (a *app) riskText(s backup.KeptSet) string {
	var lately, not []string
	for _, k := range s.Keepers {
		switch {
		case k.Lately(a.now()):
			lately = append(lately, k.Name)
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
func (a *app) stale(sets []backup.KeptSet) error {
	exits := exitSet{}
	var list []string
	for _, s := range sets {
		if s.Stale() {
			exits.add(exitIncomplete)
			list = append(list, a.riskText(s))
		}
	}
	return exits.outcome(brief(list), "`hsmbackup dkek rollcall` calls them")
}

// printRisks warns in the result itself.
func (a *app) printRisks(sets []backup.KeptSet) {
	for _, s := range sets {
		if s.AtRisk() {
			a.printf("WARNING: custodians of %s", terminal.Printable(a.riskText(s)))
		}
	}
}
