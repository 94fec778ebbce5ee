package internal_test

import (
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// NOTICE names every module that is built into the program, on any system, and
// no other. It may name a folder of a module instead, where the licence is that
// folder's; then nothing else of the module may be built in.
func TestNotice(t *testing.T) {
	notice, err := os.ReadFile("../NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, line := range strings.Split(string(notice), "\n") {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(line, "  ") && strings.Contains(f[0], "/") {
			named = append(named, f[0])
		}
	}
	built := map[string]bool{}
	for _, system := range []string{"linux", "darwin", "windows", "freebsd"} {
		for _, cgo := range []string{"0", "1"} {
			cmd := exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{if not .Module.Main}}{{.ImportPath}}{{end}}{{end}}", "./cmd/hsmbackup")
			cmd.Dir = ".."
			cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED="+cgo)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s, cgo %s: %v", system, cgo, err)
			}
			for _, pkg := range strings.Fields(string(out)) {
				built[pkg] = true
			}
		}
	}
	of := func(n string) func(string) bool {
		return func(pkg string) bool { return pkg == n || strings.HasPrefix(pkg, n+"/") }
	}
	for pkg := range built {
		if !slices.ContainsFunc(named, func(n string) bool { return of(n)(pkg) }) {
			t.Errorf("NOTICE does not name %s", pkg)
		}
	}
	for _, n := range named {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(built)), of(n)) {
			t.Errorf("NOTICE names %s, which is not built in", n)
		}
	}
}
