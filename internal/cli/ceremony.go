package cli

import (
	"hsmbackup/store"
)

// Ceremony records what was done to a recovery key, by whoever --who says. The
// work itself is done by then: that it could not be recorded is said, and no
// more. Without a catalog to write there is nothing to record it in.
func (a *App) Ceremony(cat *store.Catalog, c store.Ceremony) {
	if cat == nil || !cat.Writable() {
		return
	}
	c.Who = a.Flags.Who
	if err := cat.Append(c); err != nil {
		a.Note("not recorded in the log: %s", Describe(err, false).Message)
	}
}
