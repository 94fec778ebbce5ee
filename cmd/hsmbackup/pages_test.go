package main

import (
	"errors"
	"go/scanner"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"hsmbackup/backup"
	"hsmbackup/internal/report"
)

// programText is every string that stands in the source of the program.
func programText(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var s scanner.Scanner
		files := gotoken.NewFileSet()
		s.Init(files.AddFile(path, -1, len(text)), text, nil, 0)
		for {
			_, kind, literal := s.Scan()
			if kind == gotoken.EOF {
				return nil
			}
			if kind == gotoken.STRING {
				value, err := strconv.Unquote(literal)
				if err != nil {
					return err
				}
				b.WriteString(value + "\n")
			}
		}
	})
	if err != nil || b.Len() == 0 {
		t.Fatal("no source: ", err)
	}
	return b.String()
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// What the pages quote in a table's column "it says" is what the program says.
func TestQuotedMessages(t *testing.T) {
	source := programText(t)
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	quotes := 0
	for _, path := range pages {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		inTable := false
		for line := range strings.Lines(string(page)) {
			if !strings.HasPrefix(line, "|") {
				inTable = false
				continue
			}
			cell := strings.SplitN(line, "|", 3)[1]
			if strings.TrimSpace(cell) == "it says" {
				inTable = true
				continue
			}
			for _, m := range codeSpan.FindAllStringSubmatch(cell, -1) {
				if !inTable {
					break
				}
				for piece := range strings.SplitSeq(m[1], "…") {
					quotes++
					if piece = strings.TrimSpace(piece); !strings.Contains(source, piece) {
						t.Errorf("%s: the program does not say %q", path, piece)
					}
				}
			}
		}
	}
	if quotes == 0 {
		t.Error("no page quotes the program")
	}
}

var metricName = regexp.MustCompile(`\bhsmbackup_[a-z_]+`)

// The metrics that the pages speak of are there.
func TestQuotedMetrics(t *testing.T) {
	there := string(report.Metrics([]backup.Ages{{Serial: "DENK0404144"}}, map[string]time.Time{"DENK0404144": time.Now()}, 0, time.Now()))
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "periodic-proof.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := metricName.FindAllString(string(page), -1)
	if len(names) == 0 {
		t.Error("the page names no metric")
	}
	for _, name := range names {
		if !strings.Contains(there, "\n"+name+"{") && !strings.Contains(there, "\n"+name+" ") {
			t.Errorf("there is no metric %s", name)
		}
	}
}

// testsOf lists the tests of the project, by package: "dkek.TestSplit".
func testsOf(t *testing.T) map[string]bool {
	t.Helper()
	list := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	name := regexp.MustCompile(`(?m)^package (\w+)`)
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		in := strings.TrimSuffix(name.FindStringSubmatch(string(text))[1], "_test")
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			list[in+"."+m[1]] = true
		}
		return nil
	})
	for kind, pattern := range map[string]string{"main.TestScripts/": "script/*.txtar", "main.TestTranscripts/": "transcript/*.txt"} {
		files, globErr := filepath.Glob(filepath.Join("testdata", filepath.FromSlash(pattern)))
		err = errors.Join(err, globErr)
		for _, f := range files {
			base := filepath.Base(f)
			list[kind+strings.TrimSuffix(base, filepath.Ext(base))] = true
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return list
}

var testName = regexp.MustCompile("`(\\w+\\.Test[\\w/-]+)`")

// Every row of the threat model names tests, and there are such tests.
func TestThreatModel(t *testing.T) {
	there := testsOf(t)
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range testName.FindAllStringSubmatch(string(page), -1) {
		if !there[m[1]] {
			t.Errorf("there is no test %s", m[1])
		}
	}
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		if !testName.MatchString(body) {
			t.Errorf("%s: no test is named", title)
		}
		for line := range strings.Lines(body) {
			if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") || strings.HasSuffix(line, "| shown by |\n") {
				continue
			}
			if !testName.MatchString(line) {
				t.Errorf("%s: no test is named in the row %q", title, line)
			}
		}
	}
	if n := strings.Count(string(page), "\n- Shown by "); n < 11 {
		t.Errorf("%d threats are shown by tests", n)
	}
}
