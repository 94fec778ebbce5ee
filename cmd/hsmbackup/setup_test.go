package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/secret"
	from "hsmbackup/internal/source"
)

// setupFolder has the files that a set-up by a script needs, and a token.
func setupFolder(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("HSMBACKUP_CATALOG", "c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for name, content := range map[string]string{"PIN": "771904", "SO": "8237465901283746", "PW": "ordinary trumpet grit clinic permit joke abandon"} {
		if err := os.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if exit, _, stderr := runIn(t, "soft", "new", "new.tok", "--serial", "SOFT0200001"); exit != 0 {
		t.Fatal(stderr)
	}
}

// A set-up is ended before each of its steps, one run after the other, each of
// which goes on where the last one ended. The status tells the truth in between,
// what was written is never written anew, and the last run is ready.
func TestSetupEndedBeforeEachStep(t *testing.T) {
	golden, err := filepath.Abs(filepath.Join("..", "..", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	points := 0
	for _, slots := range []string{"0", "2"} {
		setupFolder(t)
		if slots == "2" {
			// The derivation of a key takes its time: this one takes up a file.
			b, err := os.ReadFile(filepath.Join(golden, "a.pbe"))
			if err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string][]byte{"share1.pbe": b, "PW": []byte("testpw-1\n")} {
				if err := os.WriteFile(name, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		args := []string{"setup", "--token", "soft:new.tok", "--label", "ssh", "--domains", slots, "--pin", "file:PIN", "--so-pin", "file:SO", "--password", "file:PW", "--yes"}
		var ended []string
		var share []byte
		for {
			ctx, cancel := context.WithCancel(context.Background())
			var out, errs bytes.Buffer
			a := newApp()
			a.redirect(&out, &errs, noTerminal{})
			at := ""
			a.TestOnlyStep = func(name string) {
				if at == "" && !slices.Contains(ended, name) {
					at = name
					cancel()
				}
			}
			exit := a.run(ctx, args)
			cancel()
			if at == "" {
				if exit != 0 || !strings.Contains(out.String(), "ready: all of it was read back") {
					t.Fatalf("after %q: exit %d\n%s%s", ended, exit, &out, &errs)
				}
				break
			}
			points++
			ended = append(ended, at)
			if exit != console.ExitChanged && exit != console.ExitInterrupted || exit == console.ExitInterrupted && at != "catalog" && a.Changed {
				t.Errorf("ended before %q: exit %d\n%s%s", at, exit, &out, &errs)
			}
			_, status, _ := runIn(t, "status", "--token", "soft:new.tok")
			want := map[string]string{"catalog": "not initialised", "share": "not initialised", "sheet": "not initialised", "initialise": "not initialised",
				"domain": "key domain 0  empty", "load": "incomplete, 1 of 1 share missing", "record": "1 share", "check": "1 share"}[at]
			if !strings.Contains(status, want) {
				t.Errorf("ended before %q, the status lacks %q:\n%s", at, want, status)
			}
			if at == "check" { // nothing new is made for a token that has its recovery key
				if err := os.Rename("share1.pbe", "away"); err != nil {
					t.Fatal(err)
				}
				if exit, _, stderr := runIn(t, args...); exit != console.ExitFailed || !strings.Contains(stderr, "its share file is not at share1.pbe") {
					t.Errorf("the share file is away: exit %d, %s", exit, stderr)
				}
				if err := os.Rename("away", "share1.pbe"); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile("share1.pbe")
			if err == nil && share != nil && !bytes.Equal(b, share) {
				t.Errorf("ended before %q: the share file was made anew", at)
			}
			if err == nil {
				share = b
			}
		}
		want := []string{"catalog", "share", "sheet", "initialise", "load", "record", "check"}
		if slots == "2" {
			want = []string{"catalog", "sheet", "initialise", "domain", "load", "record", "check"}
		}
		if !slices.Equal(ended, want) {
			t.Errorf("the steps are %q, not %q", ended, want)
		}
		if found, err := filepath.Glob("sheet*"); err != nil || len(found) != 1 {
			t.Errorf("sheets: %q, %v", found, err)
		}
		if exit, _, stderr := runIn(t, args...); exit != console.ExitRefused {
			t.Errorf("a token that is ready: exit %d, %s", exit, stderr)
		}
	}
	t.Logf("%d points", points)
}

// Default PINs are refused on hardware, and taken by software tokens.
func TestSetupDefaultPINs(t *testing.T) {
	j := &setter{holder: holder{app: newApp(), t: &cli.Token{Serial: "DENK0400001"}}}
	inv := &backup.Inventory{}
	inv.SOPIN.Missing = true
	j.TTY = noTerminal{}
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		pin, so  string
		software bool
		refused  bool
	}{{"648219", "3537363231383830", false, true}, {"12345678", "0123456789ABCDEF", false, true}, {"648219", "3537363231383830", true, false}, {"771904", "8237465901283746", false, false}} {
		for name, content := range map[string]string{"PIN": c.pin, "SO": c.so} {
			if err := os.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		inv.Software = c.software
		j.Secrets.Wipe()
		j.Flags.PIN = cli.SourceFlag{Text: "file:PIN", Source: from.Source{Flag: "--pin", Kind: "file", Arg: "PIN"}}
		j.Flags.SOPIN = cli.SourceFlag{Text: "file:SO", Source: from.Source{Flag: "--so-pin", Kind: "file", Arg: "SO"}}
		_, pinErr := j.newPIN(t.Context(), inv)
		_, soErr := j.newSOPIN(t.Context(), inv)
		for _, err := range []error{pinErr, soErr} {
			if (err != nil) != c.refused || err != nil && cli.Describe(err, false).Exit != console.ExitRefused {
				t.Errorf("%s, %s, software %v: %v", c.pin, c.so, c.software, err)
			}
		}
	}
}

// An SO-PIN that is made has digits only, each about as often.
func TestRandomDigits(t *testing.T) {
	counts := [10]int{}
	for range 200 {
		s, err := randomDigits(16)
		if err != nil || s.Len() != 16 {
			t.Fatalf("%d digits, %v", s.Len(), err)
		}
		for _, c := range s.Bytes() {
			if c < '0' || c > '9' {
				t.Fatalf("%q", c)
			}
			counts[c-'0']++
		}
	}
	for d, n := range counts { // 320 each are expected, with a deviation of 17
		if n < 200 || n > 440 {
			t.Errorf("%d came %d times", d, n)
		}
	}
}

func TestSameWritten(t *testing.T) {
	same := func(a, b string) bool { return sameWritten(secret.New([]byte(a)), secret.New([]byte(b))) }
	if !same("1234 5678", "12345678") || !same(" one two", "one two ") || same("1234", "1235") || same("", "1") {
		t.Error("blanks count, or digits do not")
	}
}
