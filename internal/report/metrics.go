package report

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/newfile"
	"hsmbackup/store"
)

// coverages are all values of the label "coverage": a sample that is missing
// would look like one that is fine.
var coverages = []backup.Coverage{backup.Covered, backup.Unasked, backup.Unproven, backup.NoShare, backup.Stale, backup.Missing, backup.NotExportable, backup.Accepted}

// Metrics renders what a check found in Prometheus' text format: counts and
// ages, no names but the serials of tokens. What never happened, or at a time that
// cannot be told, is +Inf seconds ago, so that a limit on the age catches it.
//
// calls tell of a token with parts in use when its custodians last answered.
func Metrics(ages []backup.Ages, calls map[string]time.Time, findings int, now time.Time) []byte {
	var out bytes.Buffer
	family := func(name, help string, sample func(a backup.Ages) float64) {
		fmt.Fprintf(&out, "# HELP hsmbackup_%s %s\n# TYPE hsmbackup_%s gauge\n", name, help, name)
		for _, a := range ages {
			fmt.Fprintf(&out, "hsmbackup_%s{serial=%q} %s\n", name, label(a.Serial), number(sample(a)))
		}
	}
	age := func(name, help string, t func(a backup.Ages) time.Time) {
		family(name+"_age_seconds", help, func(a backup.Ages) float64 {
			if t(a).IsZero() || t(a).Equal(store.UnknownTime) {
				return math.Inf(1)
			}
			return max(0, math.Round(now.Sub(t(a)).Seconds()))
		})
	}
	age("backup", "Since the newest snapshot of the token was taken.", func(a backup.Ages) time.Time { return a.Backup })
	age("check", "Since the last check of the catalog that found nothing.", func(a backup.Ages) time.Time { return a.Check })
	age("proof", "Since each key of the newest snapshot was last shown to come back.", func(a backup.Ages) time.Time { return a.Proof })
	age("drill", "Since each key of the newest snapshot was last restored in a drill.", func(a backup.Ages) time.Time { return a.Drill })
	age("share_seen", "Since shares of the recovery key were last at hand.", func(a backup.Ages) time.Time { return a.ShareSeen })
	age("asked", "Since each key of the newest snapshot last answered on the token as the one that was backed up.", func(a backup.Ages) time.Time { return a.Asked })
	family("copies", "Verified copies that hold the newest snapshot.", func(a backup.Ages) float64 { return float64(a.Copies) })
	fmt.Fprint(&out, "# HELP hsmbackup_keys Keys by what a restore could do for them.\n# TYPE hsmbackup_keys gauge\n")
	for _, a := range ages {
		for _, c := range coverages {
			fmt.Fprintf(&out, "hsmbackup_keys{serial=%q,coverage=%q} %d\n", label(a.Serial), c, a.Keys[c])
		}
	}
	fmt.Fprintf(&out, "# HELP hsmbackup_findings What the last check found damaged, in the catalog and in copies of it.\n# TYPE hsmbackup_findings gauge\nhsmbackup_findings %d\n", findings)
	// A recovery key that nobody split has no custodians to call.
	if ages = slices.DeleteFunc(slices.Clone(ages), func(a backup.Ages) bool { _, any := calls[a.Serial]; return !any }); len(ages) > 0 {
		age("rollcall", "Since one custodian more than needed has answered a roll-call.", func(a backup.Ages) time.Time { return calls[a.Serial] })
	}
	return out.Bytes()
}

// WriteMetrics writes what a check came to. The check itself counts, also
// where the catalog's log cannot be written. Of a catalog that is too damaged to
// tell ages there is the number of findings.
func WriteMetrics(path string, cat *store.Catalog, v *backup.Verification, now time.Time) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	ages := backup.TakeAges(state, now)
	findings := len(v.Findings)
	for _, s := range v.Snapshots {
		for _, k := range s.Keys {
			if k.Damage {
				findings++
			}
		}
	}
	for _, c := range v.Copies {
		if c.Damage != "" {
			findings++
		}
	}
	for i := range ages {
		if v.OK() && len(v.Doubts) == 0 {
			ages[i].Check = now
		}
	}
	sets := custody.InUse(state, now)
	calls := map[string]time.Time{}
	for _, a := range ages {
		if last, any := custody.LastCall(a.Snapshot, sets); any {
			calls[a.Serial] = last
		}
	}
	if err := newfile.Replace(path, Metrics(ages, calls, findings, now), 0o644); err != nil {
		return fmt.Errorf("--metrics: %w", err)
	}
	return nil
}

// label makes a serial fit between the quotes of a label's value.
func label(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == '\\' || r > '~' {
			return '_'
		}
		return r
	}, s)
}

func number(f float64) string {
	if math.IsInf(f, 1) {
		return "+Inf"
	}
	return fmt.Sprintf("%.0f", f)
}
