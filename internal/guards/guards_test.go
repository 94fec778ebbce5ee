package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"testing/fstest"
)

// fewest is how many guards the list has at least.
const fewest = 60

// The list fits the tree: each guard is where its entry says, and the test that
// is named for it is in its package. Whether that notices is for make guards.
func TestList(t *testing.T) {
	tree := os.DirFS("../..")
	list, err := readList(os.DirFS("list"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < fewest {
		t.Errorf("%d guards, %d at least", len(list), fewest)
	}
	for _, g := range list {
		if _, err := g.apply(tree); err != nil {
			t.Error(err)
		}
		top, _, _ := strings.Cut(g.test, "/")
		if !hasTest(t, tree, path.Clean(g.dir), top) {
			t.Errorf("%s: %s: no %s in %s", g.where, g.name, top, g.dir)
		}
	}
}

func hasTest(t *testing.T, tree fs.FS, dir, name string) bool {
	t.Helper()
	files, err := fs.Glob(tree, dir+"/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := fs.ReadFile(tree, file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}

const entry = `# about it
guard a wall
test ./house TestWall
edit house/wall.go
 if rain {
-	stop()
+	pass()
`

func TestParse(t *testing.T) {
	list, err := parse("a.txt", entry+"\nguard a door\ntest . TestDoor/open\nedit a.go\n-x\n")
	if err != nil || len(list) != 2 || list[0].name != "a wall" || list[0].where != "a.txt:2" || list[1].dir != "." || list[1].test != "TestDoor/open" {
		t.Fatalf("%+v, %v", list, err)
	}
	for name, text := range map[string]string{
		"no name":         "guard\n",
		"nothing before":  "test ./house TestWall\n",
		"no edit":         "guard a\ntest ./house TestWall\n",
		"no test":         "guard a\nedit a.go\n-x\n",
		"not a test":      strings.Replace(entry, "TestWall", "Wall", 1),
		"not a package":   strings.Replace(entry, "./house", "house", 1),
		"outside":         strings.Replace(entry, "edit house", "edit ../house", 1),
		"lines alone":     "guard a\n-x\n",
		"nothing changes": "guard a\ntest ./house TestWall\nedit a.go\n x\n",
		"nothing taken":   "guard a\ntest ./house TestWall\nedit a.go\n+x\n",
		"another word":    "guard a\nfile a.go\n",
	} {
		if _, err := parse("a.txt", text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	twice := fstest.MapFS{"a.txt": {Data: []byte(entry)}, "b.txt": {Data: []byte(entry)}}
	if _, err := readList(twice); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice: %v", err)
	}
}

// An edit is found by its lines, however they are indented; if they are there
// twice, or not any more, the entry is wrong.
func TestApply(t *testing.T) {
	list, err := parse("a.txt", entry)
	if err != nil {
		t.Fatal(err)
	}
	wall := "begin\n\t\tif rain {\n\t\t\tstop()\n\t\t}\n"
	for text, want := range map[string]string{
		wall:        "begin\nif rain {\n\tpass()\n\t\t}\n",
		wall + wall: "", "begin\n": "",
	} {
		changed, err := list[0].apply(fstest.MapFS{"house/wall.go": {Data: []byte(text)}})
		if (err == nil) != (want != "") || changed["house/wall.go"] != want {
			t.Errorf("%q: %q, %v", text, changed, err)
		}
	}
	if _, err := list[0].apply(fstest.MapFS{}); err == nil {
		t.Error("a file that is not there")
	}
}

func TestJudge(t *testing.T) {
	event := func(action, test, output string) string {
		return fmt.Sprintf(`{"Action":%q,"Test":%q,"Output":%q}`+"\n", action, test, output)
	}
	for want, events := range map[ending]string{
		passed:  event("run", "TestWall", "") + event("pass", "TestWall", "") + event("pass", "", ""),
		failed:  event("run", "TestWall", "") + event("fail", "TestWall", "") + event("fail", "", ""),
		unbuilt: event("build-output", "", "wall.go:1: no such thing") + event("build-fail", "", "") + event("fail", "", ""),
		hung:    event("run", "TestWall", "") + event("output", "TestWall", "panic: test timed out after 10m0s\n") + event("fail", "TestWall", ""),
		notRun:  event("run", "TestWallpaper", "") + event("fail", "TestWallpaper", "") + event("fail", "", ""),
	} {
		if got, _ := judge("TestWall", []byte(events)); got != want {
			t.Errorf("it %s, but is said that it %s", want, got)
		}
	}
	crash := event("run", "TestWall", "") + event("output", "TestWall", "panic: in a goroutine\n") + event("fail", "", "")
	if got, _ := judge("TestWall", []byte(crash)); got != failed {
		t.Errorf("a crash: it %s", got)
	}
	if got, _ := judge("TestWall", []byte(event("run", "TestWall", "")+event("skip", "TestWall", "")+event("pass", "", ""))); got != notRun {
		t.Errorf("skipped: it %s", got)
	}
}
