package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/lives"
)

// notYet are rules of package lives that are known to be broken, by the number of
// the fault.
var notYet = map[string]int{}

// inProcess is the program as it ships, but for clock, tokens and catalog.
func inProcess(ctx context.Context, c lives.Conditions, args []string) (int, []byte, []byte) {
	var out, errs bytes.Buffer
	a := newApp()
	a.redirect(&out, &errs, noTerminal{})
	a.Now, a.OpenCard, a.BeforeWrite, a.ReadOnly = c.Now, c.OpenCard, c.BeforeWrite, c.ReadOnly
	exit := a.run(ctx, args)
	return exit, out.Bytes(), errs.Bytes()
}

// TestLives plays random histories from SEED on: STEPS steps, or for SPAN, which is
// ten seconds.
func TestLives(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	s := lives.Search{Seed: fromEnv(t, "SEED", 1), Steps: int(fromEnv(t, "STEPS", 0)), NotYet: notYet}
	s.For = 10 * time.Second
	if testing.Short() {
		s.For = 3 * time.Second
	}
	if text := os.Getenv("SPAN"); text != "" {
		var err error
		if s.For, err = time.ParseDuration(text); err != nil {
			t.Fatalf("SPAN: %v", err)
		}
	}
	s.Run(t, inProcess)
}

func fromEnv(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Histories in which a fault was found are kept, a file each, and play well.
func TestKeptLives(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	files, err := filepath.Glob(filepath.Join("testdata", "lives", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d histories, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			h, err := lives.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range lives.Each(h) {
				p := lives.Play(t, inProcess, h)
				t.Log("\n" + p.Story)
				switch {
				case p.Wrong != nil && notYet[p.Wrong.Rule] == 0:
					t.Error(p.Wrong.Rule)
				case p.Wrong != nil:
					t.Logf("fault %d: %s", notYet[p.Wrong.Rule], p.Wrong.Rule)
				}
			}
		})
	}
}
