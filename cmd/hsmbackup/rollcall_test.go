package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hsmbackup/dkek"
	"hsmbackup/store"
)

// splitShare splits a share among custodians, registers the set in a catalog,
// which is made if there is none, and writes their parts to files in a folder.
// Nobody has shown to have one yet.
func splitShare(catalog, dir string, share *dkek.Share, needed int, names ...string) (set string, err error) {
	key, err := dkek.Combine(share)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: needed, Total: len(names), KCV: key.KCV()})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	s := store.PartSet{Set: parts[0].Set, Share: 1, Shares: 1, Needed: needed, KCV: key.KCV().String()}
	for i, p := range parts {
		s.Custodians = append(s.Custodians, store.Custodian{Index: i + 1, Name: names[i], Commitment: p.Commitment()})
		if err := os.WriteFile(filepath.Join(dir, names[i]+".txt"), p.Text(), 0o600); err != nil {
			return "", err
		}
	}
	cat, err := store.Open(catalog, true)
	if errors.Is(err, fs.ErrNotExist) {
		cat, err = store.Create(catalog)
	}
	if err != nil {
		return "", err
	}
	defer cat.Close()
	return s.Set, cat.Append(s)
}

// parts DIR K NAMES... is splitShare for scripts; the environment has the set
// as SET. parts retire SET retires one.
func parts(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: parts DIR K NAMES..., or parts retire SET")
	}
	catalog := ts.MkAbs("c.db")
	if args[0] == "retire" {
		cat, err := store.Open(catalog, true)
		ts.Check(err)
		defer cat.Close()
		ts.Check(cat.Append(store.RetiredSet{Set: args[1], Reason: "test"}))
		return
	}
	k, err := strconv.Atoi(args[1])
	ts.Check(err)
	set, err := splitShare(catalog, ts.MkAbs(args[0]), dkek.NewShare(), k, args[2:]...)
	ts.Check(err)
	ts.Setenv("SET", set)
}

// later runs a command line in the future.
func later(t *testing.T, by time.Duration, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	a := newApp()
	a.redirect(&out, &errs, noTerminal{})
	a.Now = func() time.Time { return time.Now().Add(by) }
	exit = a.run(context.Background(), args)
	return exit, out.String(), errs.String()
}

// A year later the custodians are asked for again; a challenge is good for 30
// days, and who answers it then is told so.
func TestRollCallAges(t *testing.T) {
	const day = 24 * time.Hour
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HSMBACKUP_CATALOG", "c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	set, err := splitShare("c.db", "parts", dkek.NewShare(), 2, "alice", "bob", "carol")
	if err != nil {
		t.Fatal(err)
	}
	run := func(by time.Duration, want int, says string, args ...string) string {
		t.Helper()
		exit, stdout, stderr := later(t, by, args...)
		if exit != want || !strings.Contains(stdout+stderr, says) {
			t.Errorf("%q: exit %d, want %d and %q:\n%s%s", args, exit, want, says, stdout, stderr)
		}
		return stdout
	}
	answer := func(challenge, who string) string {
		t.Helper()
		return strings.TrimSpace(run(0, 0, "hsmansw1", "dkek", "rollcall", "--answer", challenge, "--share", "parts/"+who+".txt"))
	}
	run(0, 0, "", "soft", "new", "t.tok", "--serial", "SOFT0200001")
	// Who has just been given a part may not have it yet.
	run(0, 0, "WARNING: custodians of set "+set, "status", "--token", "soft:t.tok")
	run(29*day, 0, "", "status", "--token", "soft:t.tok")
	run(31*day, 3, set+" (any 2 of 3 parts, recovery key", "status", "--token", "soft:t.tok")
	run(31*day, 3, "3 should have answered within a year, 0 have: nobody; not alice (never), bob (never), carol (never)", "check")
	challenge := strings.TrimSpace(run(0, 0, "hsmcall21", "dkek", "rollcall"))
	run(29*day, 0, "alice has part 1 of set "+set, "dkek", "rollcall", "--record", answer(challenge, "alice"))
	run(31*day, 1, "bob answered the challenge of "+time.Now().UTC().Format(time.DateOnly)+", which was good until", "dkek", "rollcall", "--record", answer(challenge, "bob"))
	if stdout := run(31*day, 3, "1 of 3 answered within a year", "dkek", "rollcall", "--list"); strings.Contains(stdout, challenge) {
		t.Errorf("a challenge that has expired is shown as open:\n%s", stdout)
	}
	run(31*day, 6, "this challenge is of", "dkek", "rollcall", "--answer", challenge, "--share", "parts/bob.txt")
	for _, who := range []string{"alice", "bob", "carol"} {
		run(31*day, 0, who+" has part", "dkek", "rollcall", "--custodian", who, "--share", "parts/"+who+".txt")
	}
	run(31*day, 0, "3 of 3 answered within a year", "dkek", "rollcall", "--list")
	run(31*day, 0, `"wanted":3,"recent":3,"at_risk":false`, "status", "--token", "soft:t.tok", "--json")
	run(395*day, 0, "", "status", "--token", "soft:t.tok")
	run(397*day, 3, "WARNING: custodians of set "+set, "status", "--token", "soft:t.tok")
	run(397*day, 3, "hint: `hsmbackup dkek rollcall` calls them", "status", "--token", "soft:t.tok")
	run(397*day, 3, "0 have: nobody; not alice (366 days ago), bob (366 days ago), carol (366 days ago)", "check")
	run(397*day, 3, `"at_risk":true`, "check", "--json")
	// What is long past is forgotten by the next call.
	run((31+401)*day, 0, "", "dkek", "rollcall")
	run(31*day, 1, "not an answer to a challenge of this catalog", "dkek", "rollcall", "--record", answer(challenge, "bob"))
}
