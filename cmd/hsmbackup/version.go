package main

import "runtime/debug"

// version is the module's version, the commit it was built from, or "devel".
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = "-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " (with local changes)"
		}
	}
	return "devel" + revision + changed
}

// program is how this program is recorded in catalogs.
func program() string { return "hsmbackup " + version() }
