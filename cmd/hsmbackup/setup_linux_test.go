package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// On a terminal: what is typed wrong may be typed again, a program that is
// killed before the last question has left the token alone, and the next run
// takes up the share file with the password that was written down.
func TestSetupAtTerminal(t *testing.T) {
	at := newStage(t)
	at.run(&command{line: "hsmbackup soft new new.tok --serial SOFT0200001"})
	before, err := os.ReadFile(filepath.Join(at.dir, "new.tok"))
	if err != nil {
		t.Fatal(err)
	}
	const line = "exec hsmbackup setup --token soft:new.tok --sheet sheet.txt"
	r := startOnTerminal(t, line, at.dir, at.env)
	from := -1
	answer := func(prompt, typed string, hidden bool) {
		t.Helper()
		r.await(prompt, from)
		from = len(r.output())
		name := ""
		if hidden {
			name = "«»"
		}
		r.typeLine(typed, name)
	}
	shown := func(pattern string) string {
		t.Helper()
		r.await("it goes off the screen.", from)
		m := regexp.MustCompile(pattern).FindStringSubmatch(newScreen(r.output()).text())
		if m == nil {
			t.Fatalf("nothing like %s is shown:\n%s", pattern, newScreen(r.output()).text())
		}
		return m[1]
	}
	const digits, words = `(\d{4} \d{4} \d{4} \d{4})`, `    ((?:[a-z]{3,8} ){6}[a-z]{3,8})`
	const pin, again = "new PIN of SOFT0200001, 6 to 15 characters:", "new PIN of SOFT0200001, 6 to 15 characters again:"
	const off, soBack, wordsBack = "it goes off the screen.", "Type the SO-PIN from what you have written down, to see that it is right:", "Type the password from what you have written down, to see that it is right:"
	answer("label of the token (Enter: none):", "", false)
	answer(pin, "12345", true) // too short
	answer(pin, "771904", true)
	answer(again, "771905", true)
	answer(pin, "771904", true)
	answer(again, "771904", true)
	so := shown(digits)
	answer(off, "", false)
	answer(soBack, "1111 1111 1111 1111", true)
	if second := shown(digits); second != so {
		t.Errorf("another SO-PIN is shown the second time")
	}
	answer(off, "", false)
	answer(soBack, strings.ReplaceAll(so, " ", ""), true)
	answer("Forbid that the SO-PIN unblocks the PIN? [y/N]", "y", false)
	password := shown(words)
	answer(off, "", false)
	answer(wordsBack, password, true)
	r.await("Initialise SOFT0200001? [y/N]", from)
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.done
	_ = r.cmd.Wait()
	if after, err := os.ReadFile(filepath.Join(at.dir, "new.tok")); err != nil || string(after) != string(before) {
		t.Errorf("the token was changed before the last question (%v)", err)
	}
	share, err := os.ReadFile(filepath.Join(at.dir, "share1.pbe"))
	if err != nil {
		t.Fatal(err)
	}

	r, from = startOnTerminal(t, line, at.dir, at.env), -1
	answer("label of the token (Enter: none):", "", false)
	answer(pin, "771904", true)
	answer(again, "771904", true)
	if second := shown(digits); second == so {
		t.Error("the SO-PIN that the token never got is used again")
	} else {
		so = second
	}
	answer(off, "", false)
	answer(soBack, so, true)
	answer("Forbid that the SO-PIN unblocks the PIN? [y/N]", "y", false)
	answer("password of share1.pbe:", password, true)
	answer("Initialise SOFT0200001? [y/N]", "y", false)
	code, text := r.end(), newScreen(r.output()).text()
	for _, want := range []string{"share1.pbe exists already: its recovery key is taken up", "What PIN and SO-PIN were chosen", "a blocked PIN can not be unblocked", "ready: all of it was read back"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("exit %d, %q is not said:\n%s", code, want, text)
		}
	}
	if now, err := os.ReadFile(filepath.Join(at.dir, "share1.pbe")); err != nil || string(now) != string(share) {
		t.Errorf("the share file was made anew (%v)", err)
	}
	if sheets, err := filepath.Glob(filepath.Join(at.dir, "sheet*")); err != nil || len(sheets) != 1 {
		t.Errorf("%q, %v", sheets, err)
	}
	for name, content := range map[string][]byte{"the terminal": r.output(), "the sheet": mustRead(t, filepath.Join(at.dir, "sheet.txt"))} {
		clean := regexp.MustCompile(`(?s)\x1b\[\?1049h.*?\x1b\[\?1049l`).ReplaceAllString(string(content), "")
		for _, secret := range []string{so, strings.ReplaceAll(so, " ", ""), password, "771904"} {
			if strings.Contains(clean, secret) {
				t.Errorf("%s shows a secret", name)
			}
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
