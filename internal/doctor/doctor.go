// Package doctor finds out what stands between this machine and a backup: the
// PC/SC service and who may use it, readers and what they carry, programs that
// hold the token, OpenSC, the place of the catalog, memory and clock.
//
// Gather looks at the machine, Examine judges what was seen. Examine is pure,
// so every system is tried on what was recorded on it. Nothing here changes
// anything, asks for a PIN or spends a try.
package doctor

import (
	"cmp"
	"slices"
)

// Severity says how much a finding matters.
type Severity string

// The severities, the worst first.
const (
	// Blocks: there is no backup before this is put right.
	Blocks Severity = "blocks"
	// Warning: it works, but something may go wrong.
	Warning Severity = "warning"
	// Note: good to know.
	Note Severity = "note"
)

var order = map[Severity]int{Blocks: 0, Warning: 1, Note: 2}

// Finding is one thing that was found.
type Finding struct {
	Severity Severity `json:"severity"`
	// Code names it for scripts, in lower case with hyphens.
	Code string `json:"code"`
	// What was found, one line.
	What string `json:"what"`
	// Do is the line to type, or what to do where there is nothing to type.
	Do string `json:"do"`
	// Source is where a known fault was reported; most have none.
	Source string `json:"source,omitempty"`
}

// Examine judges what was seen; the worst comes first.
func Examine(f *Facts) []Finding {
	var list []Finding
	for _, check := range []func(*Facts) []Finding{service, readers, holders, openSC, catalogPlace, memory, clock} {
		list = append(list, check(f)...)
	}
	Sort(list)
	return list
}

// Sort puts the worst first and leaves the rest in its order.
func Sort(list []Finding) {
	slices.SortStableFunc(list, func(a, b Finding) int { return cmp.Compare(order[a.Severity], order[b.Severity]) })
}

// InTheWay tells whether one of the findings blocks.
func InTheWay(list []Finding) bool {
	return slices.ContainsFunc(list, func(f Finding) bool { return f.Severity == Blocks })
}

// Fit is for a job that wants a sound computer and no share: the finding that
// stands in its way, if there is one, else what may go wrong all the same.
func Fit(list []Finding) (blocks *Finding, notes []string) {
	for i, f := range list {
		switch {
		case f.Severity == Blocks:
			return &list[i], nil
		case f.Severity == Warning && f.Code != "swap" && f.Code != "disk-open": // those concern shares only
			notes = append(notes, f.What+": "+f.Do)
		}
	}
	return nil, notes
}
