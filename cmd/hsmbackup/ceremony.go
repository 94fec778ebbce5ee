package main

import (
	"fmt"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/custody"
	"hsmbackup/store"
)

// ceremony records what was done to a recovery key, by whoever --who says. The
// work itself is done by then: that it could not be recorded is said, and no
// more. Without a catalog to write there is nothing to record it in.
func (a *app) ceremony(cat *store.Catalog, c store.Ceremony) {
	if cat == nil || !cat.Writable() {
		return
	}
	c.Who = a.flags.who
	if err := cat.Append(c); err != nil {
		a.note("not recorded in the log: %s", describe(err, false).Message)
	}
}

// setUpCeremonies are those of a token that was initialised: one for each
// recovery key that it got, or is to get.
func setUpCeremonies(s backup.SetUp, serial string, kcvs []dkek.KCV) []store.Ceremony {
	if len(s.Sets) == 0 {
		return []store.Ceremony{{Job: s.Origin, Token: serial, Outcome: "done, without a recovery key"}}
	}
	var list []store.Ceremony
	for i, set := range s.Sets {
		c := store.Ceremony{Job: s.Origin, Token: serial, Outcome: "done"}
		if i < len(kcvs) {
			c.KCV = custody.KCVText(kcvs[i])
		}
		switch missing := set.Shares - len(set.Load); {
		case set.Shares == 0:
			c.Outcome = "done, with a recovery key that the token made up"
		case missing > 0:
			c.Outcome = fmt.Sprintf("%s of %d missing", count(missing, "share"), set.Shares)
		}
		list = append(list, c)
	}
	return list
}
