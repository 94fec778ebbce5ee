// Package internal_test checks what no single package can check:
// which way imports run.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "hsmbackup"

// values are formats and value types: no token, no files, no terminal. They
// may build on each other.
var values = []string{"internal/tlv", "internal/pkcs15", "internal/cvc", "internal/pubkey", "internal/curve", "internal/cmac", "internal/secret", "internal/harmless"}

func with(list []string, more ...string) []string { return append(slices.Clone(list), more...) }

// mayImport lists, for each package, what it may import of this module.
// A package without a line here fails the test: it needs a place in the house.
var mayImport = map[string][]string{
	"internal/tlv":    nil,
	"internal/apdu":   nil,
	"internal/cmac":   nil,
	"internal/secret": nil,
	"internal/curve":  nil,
	// Text made fit for where it goes, by everything that shows or writes any.
	"internal/harmless": nil,
	// Secure messaging, by both sides of the wire.
	"internal/channel": {"internal/apdu", "internal/cmac", "internal/tlv"},
	"internal/fail":    nil,
	"internal/faults":  with(values, "internal/schsm"),
	"internal/words":   {"internal/secret"},
	"internal/pkcs15":  values,
	"internal/cvc":     values,
	"internal/pubkey":  values,

	"dkek":   values,
	"store":  {"internal/secret"},
	"backup": with(values, "internal/faults", "internal/fail", "dkek", "store", "internal/schsm", "internal/apdu"),

	"internal/custody": {"internal/fail", "backup", "dkek", "store", "internal/harmless", "internal/newfile", "internal/pkcs15",
		"internal/pubkey", "internal/secret", "internal/sheet", "internal/words"},
	"internal/newfile": nil,

	"internal/schsm":     {"internal/apdu", "internal/tlv", "internal/pkcs15", "internal/cvc", "internal/pubkey", "internal/curve", "internal/channel", "internal/secret"},
	"internal/pcsc":      {"internal/apdu"},
	"internal/softtoken": with(values, "internal/apdu", "internal/channel", "dkek"),
	"internal/vpcd":      {"internal/apdu"},
	"internal/p11":       {"internal/pubkey", "internal/secret", "internal/harmless"},
	"internal/sheet":     {"internal/secret", "internal/harmless"},
	"internal/doctor":    {"internal/apdu", "internal/pcsc", "internal/schsm"},
	"internal/build":     nil,
	"internal/remote":    {"backup", "store", "internal/console", "internal/harmless"},
	"internal/report":    with(values, "internal/faults", "internal/fail", "backup", "store", "dkek", "internal/console", "internal/custody", "internal/newfile", "internal/doctor", "internal/harmless", "internal/p11", "internal/schsm", "internal/words"),
	"internal/keygen":    with(values, "backup", "internal/apdu", "internal/schsm", "internal/console"),
	"internal/terminal":  {"internal/secret", "internal/harmless"},
	"internal/cli": with(values, "internal/fail", "backup", "dkek", "store", "internal/apdu", "internal/console", "internal/custody", "internal/harmless", "internal/p11", "internal/pcsc",
		"internal/report", "internal/schsm", "internal/softtoken", "internal/source", "internal/terminal"),
	"internal/console":   {"internal/terminal", "internal/secret", "internal/harmless"},
	"internal/source":    {"internal/console", "internal/terminal", "internal/secret"},
	"internal/pcsctest":  {"internal/pcsc", "internal/vpcd"},
	"internal/lives":     with(values, "backup", "dkek", "store", "internal/apdu", "internal/schsm", "internal/softtoken", "internal/tokentest"),
	"internal/tokentest": with(values, "dkek", "internal/schsm", "internal/softtoken"),
	"internal/forge":     nil,
	"internal/e2e":       nil,
	"internal/guards":    nil,
	"internal":           nil,
}

// testOnly are packages that no program is built with. What they do may need
// another's third-party module: a forged catalog is made behind the store's back.
var testOnly = []string{"internal/forge"}

// never holds however many packages lie between.
var never = map[string][]string{
	"dkek":               {"store", "internal/apdu", "internal/schsm", "internal/pcsc", "internal/softtoken"},
	"store":              {"dkek", "internal/apdu", "internal/schsm", "internal/pcsc", "internal/softtoken"},
	"internal/softtoken": {"internal/schsm", "store", "internal/pcsc"},
	"internal/schsm":     {"dkek", "store", "internal/pcsc", "internal/softtoken"},
	"internal/custody":   {"internal/pcsc", "internal/softtoken", "internal/vpcd", "internal/terminal"},
	"backup":             {"internal/pcsc", "internal/softtoken", "internal/vpcd", "internal/terminal", "internal/words"},
}

// owner is the one package that may import a third-party module. Modules that
// are not listed belong to whoever imports them first.
var owner = map[string]string{
	"github.com/hashicorp/vault":      "dkek",
	"filippo.io/age":                  "dkek",
	"go.etcd.io/bbolt":                "store",
	"github.com/ebfe/scard":           "internal/pcsc",
	"github.com/miekg/pkcs11":         "internal/p11",
	"github.com/tyler-smith/go-bip39": "internal/words",
	"rsc.io/qr":                       "internal/sheet",
	"codeberg.org/go-pdf/fpdf":        "internal/sheet",
	"golang.org/x/image":              "internal/sheet",
	"golang.org/x/text":               "internal/sheet",
	"github.com/spf13/cobra":          "cmd/hsmbackup",
}

// pkg is what the test needs of go list's answer.
type pkg struct {
	ImportPath string
	Imports    []string
}

// list gives the direct imports of each package of this module, tests left
// out, as one system builds them.
func list(t *testing.T, env ...string) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	imports := map[string][]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		imports[inModule(p.ImportPath)] = p.Imports
	}
	if len(imports) < 2 {
		t.Fatalf("go list finds %d packages", len(imports))
	}
	return imports
}

// inModule cuts the module's name off: "hsmbackup/dkek" becomes "dkek". Other
// import paths give "".
func inModule(path string) string {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	return rest
}

// thirdParty tells packages of other modules from the standard library.
func thirdParty(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".")
}

func under(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

// check gives one line for each rule that the imports break.
func check(imports map[string][]string) []string {
	var broken []string
	importers := map[string][]string{}
	for _, p := range slices.Sorted(maps.Keys(imports)) {
		allowed, known := mayImport[p]
		if !known && !under(p, "cmd") {
			broken = append(broken, p+" has no line in mayImport")
		}
		for _, i := range imports[p] {
			if thirdParty(i) && !slices.Contains(testOnly, p) {
				importers[i] = append(importers[i], p)
				for m, o := range owner {
					if under(i, m) && p != o {
						broken = append(broken, p+" imports "+i+", which belongs to "+o)
					}
				}
			}
			switch i := inModule(i); {
			case i == "":
			case under(i, "cmd"), slices.Contains(testOnly, i):
				broken = append(broken, p+" imports "+i)
			case known && !slices.Contains(allowed, i):
				broken = append(broken, p+" may not import "+i)
			}
		}
		reached := reach(imports, p)
		for _, n := range never[p] {
			if reached[n] {
				broken = append(broken, p+" reaches "+n)
			}
		}
	}
	for _, i := range slices.Sorted(maps.Keys(importers)) {
		if len(importers[i]) > 1 {
			broken = append(broken, i+" has several importers: "+strings.Join(importers[i], ", "))
		}
	}
	return broken
}

// reach gives every package of the module that p imports, however indirectly.
func reach(imports map[string][]string, p string) map[string]bool {
	reached := map[string]bool{}
	for todo := []string{p}; len(todo) > 0; todo = todo[1:] {
		for _, i := range imports[todo[0]] {
			if i := inModule(i); i != "" && !reached[i] {
				reached[i] = true
				todo = append(todo, i)
			}
		}
	}
	return reached
}

// lookAround opens every folder with code. go test keeps results of tests whose
// files have not changed; what go list reads it would not know of.
func lookAround(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", "bin", "dist"}, d.Name()) {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImports(t *testing.T) {
	lookAround(t)
	for _, env := range [][]string{
		{"GOOS=linux", "CGO_ENABLED=1"},
		{"GOOS=linux", "CGO_ENABLED=0"},
		{"GOOS=windows", "CGO_ENABLED=0"},
		{"GOOS=darwin", "CGO_ENABLED=0"},
	} {
		t.Run(strings.Join(env, " "), func(t *testing.T) {
			for _, line := range check(list(t, env...)) {
				t.Error(line)
			}
		})
	}
}

// Each rule notices when it is broken.
func TestCheckReject(t *testing.T) {
	for _, c := range []struct {
		name    string
		imports map[string][]string
		want    string
	}{
		{"cmd", map[string][]string{"backup": {"hsmbackup/cmd/hsmbackup"}}, "backup imports cmd/hsmbackup"},
		{"forge", map[string][]string{"cmd/hsmbackup": {"hsmbackup/internal/forge"}}, "cmd/hsmbackup imports internal/forge"},
		{"each other", map[string][]string{"dkek": {"hsmbackup/store"}}, "dkek may not import store"},
		{"both sides of the wire", map[string][]string{"internal/softtoken": {"hsmbackup/internal/schsm"}}, "internal/softtoken may not import internal/schsm"},
		{"roundabout", map[string][]string{"dkek": {"hsmbackup/internal/cvc"}, "internal/cvc": {"hsmbackup/internal/apdu"}}, "dkek reaches internal/apdu"},
		{"a package of its own", map[string][]string{"internal/utils": nil}, "internal/utils has no line in mayImport"},
		{"two importers", map[string][]string{"dkek": {"rsc.io/qr"}, "store": {"rsc.io/qr"}}, "rsc.io/qr has several importers: dkek, store"},
		{"not the owner", map[string][]string{"dkek": {"github.com/ebfe/scard"}}, "dkek imports github.com/ebfe/scard, which belongs to internal/pcsc"},
	} {
		if got := check(c.imports); !slices.Contains(got, c.want) {
			t.Errorf("%s: %q lacks %q", c.name, got, c.want)
		}
	}
	fine := map[string][]string{"cmd/hsmbackup": {"hsmbackup/backup", "github.com/spf13/cobra", "fmt"}, "backup": {"hsmbackup/dkek"}, "dkek": {"github.com/hashicorp/vault/shamir"}}
	if got := check(fine); len(got) != 0 {
		t.Errorf("what is right: %q", got)
	}
}
