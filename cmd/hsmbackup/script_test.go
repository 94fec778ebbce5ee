package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"hsmbackup/store"
)

// programs are the names under which tests run this binary as the program.
var programs = map[string]func(){"hsmbackup": func() {
	derivations(os.Getenv(derivationsEnv)).remember()
	main()
}}

func TestMain(m *testing.M) {
	if programs[filepath.Base(os.Args[0])] == nil {
		enterPCSC()
	}
	testscript.Main(rememberingM{m}, programs)
}

// TestScripts runs the whole program, one script per topic. $DATA is the folder
// of golden files. No script sees the readers of this computer.
func TestScripts(t *testing.T) {
	data, err := filepath.Abs(filepath.Join("..", "..", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("DATA", data)
			e.Setenv("HSMBACKUP_CATALOG", "c.db")
			e.Setenv(derivationsEnv, os.Getenv(derivationsEnv))
			e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, "data-home"))
			e.Setenv("PCSCLITE_CSOCK_NAME", filepath.Join(e.WorkDir, "no-pcscd"))
			for name, place := range map[string]string{"README.md": "README.md", "packaging/demo.sh": filepath.Join("packaging", "demo.sh")} {
				b, err := os.ReadFile(filepath.Join("..", "..", place))
				if err == nil {
					err = os.MkdirAll(filepath.Join(e.WorkDir, filepath.Dir(name)), 0o700)
				}
				if err == nil {
					err = os.WriteFile(filepath.Join(e.WorkDir, name), b, 0o700)
				}
				if err != nil {
					return err
				}
			}
			for name, content := range map[string]string{"PIN": "648219\n", "SO": "3537363231383830\r\n", "PW": "ordinary trumpet grit clinic permit joke abandon\n", "PWA": "testpw-1\n"} {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(content), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":  exits,
			"same":   same,
			"flip":   flip,
			"newer":  newer,
			"slots":  slots,
			"keyin":  keyIn,
			"hide":   hide,
			"copied": copied,
			"parts":  parts,
		},
	})
}

// exits CODE PROGRAM ARGS... runs a program, which must end with that exit
// code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// same FILE... notes the content of files; a second call fails if one has
// changed. It stands around commands that only look.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: same FILE...")
	}
	for _, name := range args {
		now := fmt.Sprintf("%x", sha256.Sum256([]byte(ts.ReadFile(name))))
		key := "SAME_" + strings.Map(func(r rune) rune {
			if r == '.' || r == '/' {
				return '_'
			}
			return r
		}, name)
		if before := ts.Getenv(key); before != "" && before != now {
			ts.Fatalf("%s has changed", name)
		}
		ts.Setenv(key, now)
	}
}

// newer FILE makes a catalog one of a format version to come (docs/format.md: a
// checked value is SHA-256 of bucket, key and payload, then the payload).
func newer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: newer FILE")
	}
	b := []byte(ts.ReadFile(args[0]))
	payload := []byte(`{"kind":"catalog","version":1}`)
	changed := bytes.Replace(payload, []byte(":1}"), []byte(":9}"), 1)
	value := func(payload []byte) []byte {
		sum := sha256.Sum256(append([]byte("format\x00version\x00"), payload...))
		return append(sum[:], payload...)
	}
	if !bytes.Contains(b, value(payload)) {
		ts.Fatalf("%s does not hold the format that docs/format.md describes", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.ReplaceAll(b, value(payload), value(changed)), 0o600))
}

// copied CATALOG FILE copies a catalog and logs the copy in it, as the jobs do.
func copied(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: copied CATALOG FILE")
	}
	cat, err := store.Open(ts.MkAbs(args[0]), true)
	ts.Check(err)
	defer cat.Close()
	state, err := cat.Read()
	ts.Check(err)
	head := state.Head
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(ts.ReadFile(args[0])), 0o600))
	ts.Check(cat.Append(store.Copy{Path: ts.MkAbs(args[1]), Seq: head.Seq, Head: head.Hash}))
}

// flip FILE TEXT flips one bit a little behind the first place where the text
// is in the file.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE TEXT")
	}
	b := []byte(ts.ReadFile(args[0]))
	i := bytes.Index(b, []byte(args[1]))
	if i < 0 {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	b[i+len(args[1])+40] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}
