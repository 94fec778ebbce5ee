// Package build tells which program this is.
package build

import (
	"runtime/debug"
	"time"
)

// Version is the module's version, the commit it was built from, or "devel".
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	changed := ""
	if setting(info, "vcs.modified") == "true" {
		changed = " (with local changes)"
	}
	revision := setting(info, "vcs.revision")
	if len(revision) >= 12 {
		revision = "-" + revision[:12]
	}
	return "devel" + revision + changed
}

// Program is how this program is recorded in catalogs.
func Program() string { return "hsmbackup " + Version() }

// Time is that of the commit that this program was built from; zero if it is not
// known.
func Time() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	t, _ := time.Parse(time.RFC3339, setting(info, "vcs.time"))
	return t
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
