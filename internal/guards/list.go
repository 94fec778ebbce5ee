package main

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// guard is one entry of the list.
type guard struct {
	name      string // what is guarded, in a few words; no two alike
	where     string // file and line of the entry
	dir, test string // the package, such as ./store, and its test, such as TestA or TestA/sub
	edits     []edit
}

// edit takes lines out of a file and puts others in their place. Lines are
// compared without the blanks around them, so an indentation may change.
type edit struct {
	file     string
	old, new []string
}

var testName = regexp.MustCompile(`^Test[A-Za-z0-9_]+(/[A-Za-z0-9_.#-]+)*$`)

// readList reads all entries of the files in the folder.
func readList(folder fs.FS) ([]guard, error) {
	files, err := fs.Glob(folder, "*.txt")
	if err != nil {
		return nil, err
	}
	var all []guard
	names := map[string]string{}
	for _, file := range files {
		b, err := fs.ReadFile(folder, file)
		if err != nil {
			return nil, err
		}
		list, err := parse(file, string(b))
		if err != nil {
			return nil, err
		}
		for _, g := range list {
			if before := names[g.name]; before != "" {
				return nil, fmt.Errorf("%s: %q is in %s already", g.where, g.name, before)
			}
			names[g.name] = g.where
		}
		all = append(all, list...)
	}
	return all, nil
}

// parse reads one file of the list.
func parse(file, text string) ([]guard, error) {
	var list []guard
	for i, line := range strings.Split(text, "\n") {
		where := fmt.Sprintf("%s:%d", file, i+1)
		word, rest, _ := strings.Cut(line, " ")
		if word != "guard" && line != "" && line[0] != '#' && len(list) == 0 {
			return nil, fmt.Errorf("%s: no guard yet", where)
		}
		switch {
		case line == "" || line[0] == '#':
		case word == "guard" && rest != "":
			list = append(list, guard{name: rest, where: where})
		case word == "test":
			g := &list[len(list)-1]
			var fine bool
			if g.dir, g.test, fine = strings.Cut(rest, " "); !fine || g.dir != "." && g.dir != "./"+path.Clean(g.dir) || !testName.MatchString(g.test) {
				return nil, fmt.Errorf("%s: want test ./PACKAGE TestName", where)
			}
		case word == "edit" && fs.ValidPath(rest):
			g := &list[len(list)-1]
			g.edits = append(g.edits, edit{file: rest})
		case line[0] == '-' || line[0] == '+' || line[0] == ' ':
			g := &list[len(list)-1]
			if len(g.edits) == 0 {
				return nil, fmt.Errorf("%s: no edit yet", where)
			}
			e := &g.edits[len(g.edits)-1]
			if line[0] != '+' {
				e.old = append(e.old, line[1:])
			}
			if line[0] != '-' {
				e.new = append(e.new, line[1:])
			}
		default:
			return nil, fmt.Errorf("%s: not a line of a list: %q", where, line)
		}
	}
	for _, g := range list {
		if g.test == "" || len(g.edits) == 0 || slices.ContainsFunc(g.edits, func(e edit) bool { return len(e.old) == 0 || slices.Equal(e.old, e.new) }) {
			return nil, fmt.Errorf("%s: %s: it needs a test, and edits that take out or change something", g.where, g.name)
		}
	}
	return list, nil
}

// apply gives the files that the guard's edits change, as they are then.
func (g guard) apply(tree fs.FS) (map[string]string, error) {
	changed := map[string]string{}
	for _, e := range g.edits {
		text, again := changed[e.file]
		if !again {
			b, err := fs.ReadFile(tree, e.file)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", g.where, g.name, err)
			}
			text = string(b)
		}
		lines := strings.Split(text, "\n")
		at := find(lines, e.old)
		if len(at) != 1 {
			return nil, fmt.Errorf("%s: %s: its lines are in %s %d times, not once: %q", g.where, g.name, e.file, len(at), strings.TrimSpace(e.old[0]))
		}
		changed[e.file] = strings.Join(slices.Replace(lines, at[0], at[0]+len(e.old), e.new...), "\n")
	}
	return changed, nil
}

// find gives the places at which a run of lines stands.
func find(lines, run []string) []int {
	var at []int
	for i := range len(lines) - len(run) + 1 {
		if slices.EqualFunc(lines[i:i+len(run)], run, func(a, b string) bool { return strings.TrimSpace(a) == strings.TrimSpace(b) }) {
			at = append(at, i)
		}
	}
	return at
}
