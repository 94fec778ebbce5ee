package main

import (
	"go/scanner"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
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
