package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// baseline runs the tests of all guards as the tree is, those of a package at
// once. It gives, by package and test, what is wrong with those that do not
// pass.
func baseline(ctx context.Context, workers int, list []guard) map[string]string {
	groups := map[string][]string{}
	for _, g := range list {
		key := g.dir
		if strings.Contains(g.test, "/") { // -run has no way to say some subtests and some tests
			key += " " + g.test
		}
		if !slices.Contains(groups[key], g.test) {
			groups[key] = append(groups[key], g.test)
		}
	}
	wrong := map[string]string{}
	var one sync.Mutex
	each(workers, slices.Sorted(maps.Keys(groups)), func(_ int, key string) {
		dir, _, _ := strings.Cut(key, " ")
		out := goTest(ctx, dir, groups[key], "")
		one.Lock()
		defer one.Unlock()
		for _, test := range groups[key] {
			if end, said := judge(test, out); end != passed {
				wrong[dir+" "+test] = fmt.Sprintf("without the patch the test %s:\n%s", end, said)
			}
		}
	})
	return wrong
}

// try tells why a guard's entry is not good: nil if its test fails without the
// guard.
func try(ctx context.Context, scratch string, g guard) error {
	changed, err := g.apply(os.DirFS("."))
	if err != nil {
		return err
	}
	overlay, err := lay(scratch, changed)
	if err != nil {
		return err
	}
	switch end, said := judge(g.test, goTest(ctx, g.dir, []string{g.test}, overlay)); end {
	case failed:
		return nil
	case passed:
		return errors.New("the test passes without the guard")
	default:
		return fmt.Errorf("with the patch the test %s:\n%s", end, said)
	}
}

// lay writes changed files into a folder, and what go's -overlay wants to know
// of them.
func lay(scratch string, changed map[string]string) (string, error) {
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return "", err
	}
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for file, text := range changed {
		to := filepath.Join(scratch, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, file)] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(scratch, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o600)
}

// ending is how a test ended.
type ending string

const (
	passed  ending = "passes"
	failed  ending = "fails"
	unbuilt ending = "does not build"
	hung    ending = "hangs"
	notRun  ending = "does not run"
)

// goTest runs tests of a package and gives go's events.
func goTest(ctx context.Context, dir string, tests []string, overlay string) []byte {
	levels := strings.Split(tests[0], "/")
	if len(tests) > 1 {
		levels = []string{"(" + strings.Join(tests, "|") + ")"}
	}
	for i, l := range levels {
		levels[i] = "^" + l + "$"
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-short", "-vet=off", "-ldflags=-w -s", "-timeout", "10m",
		"-run", strings.Join(levels, "/"), dir)
	if overlay != "" {
		// In the environment, so that a test that builds the program builds this.
		cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay)
	}
	out, _ := cmd.CombinedOutput() // its exit code says less than the events
	return out
}

// judge reads go test's events of one test. What was said is cut to its end.
func judge(name string, events []byte) (ending, string) {
	end, began := notRun, false
	var said strings.Builder
	for line := range bytes.Lines(events) {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) != nil {
			said.Write(line)
			continue
		}
		said.WriteString(e.Output)
		switch {
		case e.Action == "build-fail":
			return unbuilt, tail(said.String())
		case e.Action == "fail" && e.Test == "" && began && end == notRun:
			end = failed // it took the whole run down
		case e.Test != name:
		case e.Action == "run":
			began = true
		case e.Action == "pass":
			end = passed
		case e.Action == "fail":
			end = failed
		}
	}
	if strings.Contains(said.String(), "panic: test timed out") {
		end = hung
	}
	return end, tail(said.String())
}

func tail(s string) string {
	const most = 1500
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return strings.TrimSpace(s)
}
