package internal_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// NOTICE names every module that is built into the program, on any system, and
// no other.
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
			cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", "./cmd/hsmbackup")
			cmd.Dir = ".."
			cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED="+cgo)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s, cgo %s: %v", system, cgo, err)
			}
			for _, module := range strings.Fields(string(out)) {
				built[module] = true
			}
		}
	}
	for module := range built {
		if !slices.ContainsFunc(named, func(n string) bool { return module == n || strings.HasPrefix(module, n+"/") }) {
			t.Errorf("NOTICE does not name %s", module)
		}
	}
	for _, n := range named {
		found := false
		for module := range built {
			found = found || module == n || strings.HasPrefix(module, n+"/")
		}
		if !found {
			t.Errorf("NOTICE names %s, which is not built in", n)
		}
	}
}
