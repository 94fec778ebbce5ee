package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	from "hsmbackup/internal/source"
)

// soTries is how many tries of its SO-PIN a software token has left.
func soTries(t *testing.T, file string) int {
	t.Helper()
	soft, err := softtoken.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := newApp().OpenTransmitter(t.Context(), soft, file, soft.Close)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	status, err := tok.Card.SOPIN(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status.Tries
}

// secretFile writes a file with a secret, later than any before it.
func secretFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	written++
	at := time.Now().Add(time.Duration(written) * time.Second)
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

var written int

// runs runs a command line, which must end with an exit code and say something.
func runs(t *testing.T, want int, says, line string) {
	t.Helper()
	exit, stdout, stderr := runIn(t, strings.Fields(line)...)
	if exit != want || !strings.Contains(stdout+stderr, says) {
		t.Fatalf("%s: exit %d, want %d and %q:\n%s%s", line, exit, want, says, stdout, stderr)
	}
}

// TestFault05WrongSOPIN (issue 9, fault 5): whatever sends a token its SO-PIN
// sends one that was refused once, from wherever nobody types it.
func TestFault05WrongSOPIN(t *testing.T) {
	workIn(t)
	t.Setenv("HSMBACKUP_CATALOG", "not/yet/there/c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for name, content := range map[string]string{"PIN": "648219", "SO": "8237465901283746",
		"WRONG": "1237465901283746"} {
		secretFile(t, name, content)
	}
	const (
		also = " --token soft:t.tok --pin file:PIN --confirm SOFT0200001 --so-pin "
		back = "restore --init --share p/a.txt --share p/b.txt" + also
		note = "not/yet/there/c.db.refused-so-pin-SOFT0200001"
	)
	runs(t, 0, "", "soft new t.tok --serial SOFT0200001")
	runs(t, 0, "", "dkek create --split 2/2 --custodian a --custodian b --out p")
	_, checked, _ := runIn(t, strings.Fields("dkek check p/a.txt p/b.txt --json")...)
	_, kcv, _ := strings.Cut(checked, `{"kcv":"`)
	init := "init --shares 0 --token-pin file:PIN --shares-checked " + kcv[:16] + also
	runs(t, 0, "", "init --share p/a.txt --share p/b.txt"+also+"file:SO")
	runs(t, 0, "", "soft keygen t.tok --type ec:prime256v1 --label one --id 01 --pin file:PIN")
	runs(t, 0, "1 of 1 key", "backup --token soft:t.tok --pin file:PIN")
	runs(t, 0, "", init+"file:SO")

	for _, job := range []string{init, back} {
		for run := range 16 {
			if run == 0 {
				runs(t, 1, "the SO-PIN is wrong", job+"file:WRONG")
			} else {
				runs(t, 6, "and the file is as it was: it is not sent again", job+"file:WRONG")
			}
			if left := soTries(t, "t.tok"); left != 14 {
				t.Fatalf("%s: %d tries left after run %d", job, left, run+1)
			}
		}
		runs(t, 6, `"code":"refused-so-pin"`, job+"file:WRONG --json")
		if b, err := os.ReadFile(note); err != nil || !strings.Contains(string(b), "WRONG") || strings.Contains(string(b), "12374659") {
			t.Fatalf("%q, %v", b, err)
		}
		// Another file is sent, and so is the same with another content. What was
		// refused stays in mind whatever is accepted meanwhile.
		runs(t, 0, "", job+"file:SO")
		runs(t, 6, "it is not sent again", init+"file:WRONG")
		secretFile(t, "WRONG", "8237465901283746")
		runs(t, 0, "", init+"file:WRONG")
		if _, err := os.Stat(note); !os.IsNotExist(err) {
			t.Fatalf("the token took what is in the file: %v", err)
		}
		secretFile(t, "WRONG", "1237465901283746")
	}

	left := 15
	// What the environment, a command and a descriptor give changes unseen.
	for _, from := range []string{"env:SO_PIN", "cmd:cat${IFS}WRONG", "fd:0"} {
		for run, want := range []int{1, 6, 6} {
			says := "the SO-PIN is wrong"
			if run > 0 {
				says = "it is not sent again"
			}
			var out, errs strings.Builder
			a := newApp()
			a.redirect(&out, &errs, noTerminal{})
			a.Stdin = strings.NewReader("1237465901283746\n")
			t.Setenv("SO_PIN", "1237465901283746")
			if exit := a.run(t.Context(), strings.Fields(init+from)); exit != want || !strings.Contains(errs.String(), says) {
				t.Fatalf("%s, run %d: exit %d, want %d\n%s", from, run+1, exit, want, errs.String())
			}
		}
		left--
		if got := soTries(t, "t.tok"); got != left {
			t.Errorf("%s: %d tries left, want %d", from, got, left)
		}
		if b, err := os.ReadFile(note); err != nil || strings.Contains(string(b), "cat") || strings.Contains(string(b), "12374659") {
			t.Errorf("%s: %q, %v", from, b, err)
		}
	}
	// The line of the hint is right when typed.
	_, _, stderr := runApp(t, newApp(), strings.Fields(init+"env:SO_PIN")...)
	_, line, found := strings.Cut(stderr, "once that gives another one: rm ")
	if line = strings.TrimSpace(line); !found || os.Remove(line) != nil {
		t.Fatalf("no file to remove is named: %s", stderr)
	}
	t.Setenv("SO_PIN", "8237465901283746")
	runs(t, 0, "", init+"env:SO_PIN")

	// The last tries are not risked, from however many files.
	for n := 0; soTries(t, "t.tok") >= 3; n++ {
		name := fmt.Sprintf("WRONG%d", n)
		secretFile(t, name, "1237465901283746")
		runs(t, 1, "the SO-PIN is wrong", init+"file:"+name)
	}
	secretFile(t, "WRONG", "1237465901283746")
	runs(t, 6, "the least to risk one", init+"file:WRONG")
}

// A set-up that goes on sends an SO-PIN that was refused no second time either.
func TestFault05WrongSOPINOfSetup(t *testing.T) {
	workIn(t)
	secretFile(t, "SO", "8237465901283746")
	a := newApp()
	j := &setter{holder: holder{app: a, t: &cli.Token{Serial: "SOFT0200001"}}}
	a.Flags.SOPIN = cli.SourceFlag{Text: "file:SO", Source: from.Source{Flag: "--so-pin", Kind: "file", Arg: "SO"}}
	for run, refuses := range []bool{false, true} {
		so, err := j.newSOPIN(t.Context(), &backup.Inventory{Software: true})
		so.Wipe()
		if (err != nil) != refuses {
			t.Fatalf("run %d: %v", run+1, err)
		}
		a.Sent(a.SOPIN, &schsm.PINError{Name: "SO-PIN", Tries: 14})
	}
}

// A PIN is kept in mind like an SO-PIN, wherever it came from.
func TestFault05WrongPIN(t *testing.T) {
	workIn(t)
	t.Setenv("HSMBACKUP_CATALOG", "c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	secretFile(t, "PIN", "648219")
	secretFile(t, "SO", "8237465901283746")
	runs(t, 0, "", "soft new t.tok --serial SOFT0200001")
	const backup = "backup --token soft:t.tok --pin "
	for _, from := range []string{"env:A_PIN", "cmd:echo${IFS}111111"} {
		runs(t, 0, "", "init --token soft:t.tok --shares 0 --pin file:PIN --so-pin file:SO --confirm SOFT0200001")
		for _, want := range []int{1, 6, 6, 6} {
			t.Setenv("A_PIN", "111111")
			runs(t, want, "", backup+from)
		}
		runs(t, 0, "2 tries left", "status --token soft:t.tok")
	}
}
