package internal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// destroyers are the methods that destroy something on a token, and where each is
// called from: one place, in the file that wants leave first. Within schsm itself
// they clear what schsm has made.
var destroyers = map[string]string{
	"DeleteFileIfThere": "backup/destroy.go",
	"Initialise":        "backup/destroy.go",
	"DeleteFile":        "", // only by DeleteFileIfThere
	"DeleteProofKey":    "",
}

// leaves are the types by which that file lets anything go: nothing else makes one.
var leaves = []string{"Warrant", "leave", "Made"}

// byHand are packages in which a test's own hand is at the token.
var byHand = []string{"internal/tokentest", "internal/lives"}

// Whatever destroys something on a token is called from one place, behind the leave
// that only evidence of the run gives: found by types, whatever it is called by.
func TestDestroyedInOnePlace(t *testing.T) {
	packages := typed(t)
	calls := map[string][]string{}
	for _, p := range packages {
		if p.path == "internal/schsm" || slices.Contains(byHand, p.path) {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					s := p.info.Selections[n]
					if s == nil || s.Obj().Pkg() == nil || inModule(s.Obj().Pkg().Path()) != "internal/schsm" {
						break
					}
					if _, destroys := destroyers[s.Obj().Name()]; destroys {
						calls[s.Obj().Name()] = append(calls[s.Obj().Name()], p.where(n.Pos()))
					}
				case *ast.CompositeLit:
					named, ok := p.info.Types[n].Type.(*types.Named)
					if ok && len(n.Elts) > 0 && inModule(named.Obj().Pkg().Path()) == "backup" && slices.Contains(leaves, named.Obj().Name()) {
						if at := p.where(n.Pos()); !strings.HasPrefix(at, "backup/destroy.go:") {
							t.Errorf("%s: a %s is made outside of the file that gives leave", at, named.Obj().Name())
						}
					}
				}
				return true
			})
		}
	}
	for name, from := range destroyers {
		got := calls[name]
		if from == "" && len(got) > 0 || from != "" && (len(got) != 1 || !strings.HasPrefix(got[0], from+":")) {
			t.Errorf("%s is called at %v, and belongs to %q alone", name, got, from)
		}
	}
}

// typedPackage is a package of this module with its types.
type typedPackage struct {
	path  string
	files []*ast.File
	info  *types.Info
	fset  *token.FileSet
	root  string
}

func (p *typedPackage) where(pos token.Pos) string {
	at := p.fset.Position(pos)
	rel, err := filepath.Rel(p.root, at.Filename)
	if err != nil {
		rel = at.Filename
	}
	return fmt.Sprintf("%s:%d", filepath.ToSlash(rel), at.Line)
}

// typed reads the packages of this module, without their tests, as they are built
// here; what they import comes as the compiler has it.
func typed(t *testing.T) []*typedPackage {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,CgoFiles", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles, CgoFiles       []string
	}
	exports := map[string]string{}
	var ours []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if inModule(p.ImportPath) != "" && len(p.CgoFiles) == 0 { // C knows no card
			ours = append(ours, p)
		}
	}
	fset := token.NewFileSet()
	from := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	var list []*typedPackage
	for _, p := range ours {
		tp := &typedPackage{path: inModule(p.ImportPath), fset: fset, root: root,
			info: &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}, Types: map[ast.Expr]types.TypeAndValue{}}}
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			tp.files = append(tp.files, f)
		}
		if _, err := (&types.Config{Importer: from}).Check(p.ImportPath, fset, tp.files, tp.info); err != nil {
			t.Fatalf("%s: %v", p.ImportPath, err)
		}
		list = append(list, tp)
	}
	return list
}
