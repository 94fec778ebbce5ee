package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
)

// askedWithinFlag is how long ago an unasked key may have answered.
func askedWithinFlag(cmd *cobra.Command, text *string) {
	days := fmt.Sprintf("%dd", int(backup.DefaultAskedWithin.Hours()/24))
	cmd.Flags().StringVar(text, "asked-within", days, "a key that answered within this `TIME`, such as 40d or 12h, to a run with a login is done")
}

// done tells whether nothing is left to do for a key, for a look without a login.
func (a *app) done(k backup.KeyCoverage) bool { return k.DoneWithin(a.Now(), a.AskedWithin) }

// parseDays reads a length of time: days, or what time.ParseDuration takes.
func parseDays(flag, text string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if days, err := strconv.ParseUint(n, 10, 16); err == nil {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d, nil
	}
	return 0, console.Usagef("40d is forty days, 12h twelve hours", "%s: %q is no length of time", flag, text)
}
