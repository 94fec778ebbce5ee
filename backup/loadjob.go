package backup

import (
	"context"
	"fmt"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// LoadJob loads shares into a token that was initialised for a recovery key and
// still misses shares of it. It needs no catalog.
type LoadJob struct {
	Work
	Domain int
}

// LoadReport is what the token has then.
type LoadReport struct {
	Serial      string `json:"serial"`
	KCV         string `json:"kcv"`
	Outstanding int    `json:"outstanding"`
	// Loaded counts the shares of this run. Compared: what came out was compared
	// with what had to.
	Loaded   int  `json:"-"`
	Compared bool `json:"-"`
}

// Run does the job.
func (j *LoadJob) Run(ctx context.Context) (*LoadReport, error) {
	inv, err := Take(ctx, j.Card)
	if err != nil {
		return nil, err
	}
	name := j.Person.Name()
	missing, slots := -1, 0
	for _, d := range inv.Domains {
		if d.Number == j.Domain && !d.Empty {
			missing, slots = d.Outstanding, d.Shares
		}
	}
	switch {
	case missing < 0:
		return nil, fail.Failf("no-dkek", "`hsmbackup init` sets a token up for one; that wipes it", "%s has no place for a recovery key here", name)
	case missing == 0:
		return nil, fail.Failf("dkek-complete", "", "%s has its recovery key already: no share is missing", name)
	}
	given, err := j.Person.Gather(ctx, j.Catalog)
	if err != nil {
		return nil, err
	}
	if missing < given.Count {
		return nil, fail.Failf("too-many-shares", "", "%s misses %s, %d are given", name, count(missing, "share"), given.Count)
	}
	for _, s := range given.Sets {
		if s.Shares != slots {
			return nil, fail.Failf("other-shares", "`hsmbackup init --shares` sets a token up for as many; that wipes it", "%s: the recovery key has %s, %s is set up for %d", s.Name, count(s.Shares, "share"), name, slots)
		}
	}
	shares, err := j.Person.Open(ctx, j.Catalog)
	if err != nil {
		return nil, err
	}
	defer dkek.WipeShares(shares)
	// The shares give the recovery key only if they are all of it; one by itself
	// may be anything.
	whole := missing == slots && slots == given.Count
	set := DomainSet{Number: j.Domain, Shares: slots, Load: shares}
	var expect dkek.KCV
	switch {
	case whole:
		expect, err = set.expected()
	case missing == given.Count:
		expect = given.KCV
	}
	if err == nil && !whole && given.Count > 1 {
		_, err = set.expected() // refuses duplicates
	}
	if err != nil {
		return nil, err
	}
	note, err := TrustToken(ctx, j.Card, j.Catalog, kcvText(expect), j.trust())
	if err != nil {
		return nil, err
	}
	if note != "" {
		j.Person.Note("%s", note)
	}
	kcv, err := LoadShares(ctx, j.Card, j.Domain, shares, expect)
	if err != nil {
		j.Changed = j.Changed || isTransport(err) // it may have been taken
		return nil, err
	}
	j.Changed = true
	if note := withChannel(j.Card, ""); note != "" {
		j.Person.Note("%s", note)
	}
	r := &LoadReport{Serial: inv.Serial, KCV: kcvText(kcv), Outstanding: missing - given.Count, Loaded: given.Count, Compared: !expect.IsZero()}
	j.note(inv, set, given, whole, kcv, r)
	return r, nil
}

// note records what was done; that it could not be is said, and no more.
func (j *LoadJob) note(inv *Inventory, set DomainSet, given *Shares, whole bool, kcv dkek.KCV, r *LoadReport) {
	if cat := j.record(); cat != nil && !kcv.IsZero() {
		var err error
		if whole {
			err = set.record(cat, inv.Software, "dkek load")
		} else {
			err = cat.Append(store.ShareSeen{KCV: kcv.String(), Software: inv.Software, Origin: "dkek load"})
		}
		if err != nil {
			j.NotRecorded = err.Error()
		}
	}
	c := store.Ceremony{Job: "load", KCV: kcvText(kcv), Token: inv.Serial, Outcome: "done"}
	if kcv.IsZero() {
		c.KCV, c.Outcome = kcvText(given.KCV), fmt.Sprintf("%s missing", count(r.Outstanding, "share"))
	}
	for _, s := range given.Sets {
		c.Sets = append(c.Sets, s.Set)
	}
	j.ceremony(c)
	if j.NotRecorded != "" {
		j.Person.Note("not recorded that these shares were seen: %s", j.NotRecorded)
	}
}
