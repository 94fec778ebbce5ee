package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/softtoken"
)

func enterPCSC() { pcsctest.Enter() }

// otherCard is a card without the applet: it knows no file and no command.
type otherCard struct{}

func (otherCard) ATR() []byte { return []byte{0x3B, 0x80, 0x80, 0x01, 0x01} }
func (otherCard) Reset()      {}
func (otherCard) Transmit(_ context.Context, command []byte) ([]byte, error) {
	if command[1] == 0xA4 {
		return []byte{0x6A, 0x82}, nil
	}
	return []byte{0x6D, 0x00}, nil
}

// plug puts a new software token into a slot.
func plug(t *testing.T, d *pcsctest.Daemon, slot int, serial string) *softtoken.Token {
	t.Helper()
	token, err := softtoken.New(softtoken.Options{Serial: serial})
	if err != nil {
		t.Fatal(err)
	}
	d.Plug(t, slot, token)
	return token
}

// workplace makes a folder with secrets in files the working directory, and
// gives the share whose password is in PWA.
func workplace(t *testing.T) (share string) {
	t.Helper()
	share, err := filepath.Abs(filepath.Join("..", "..", "testdata", "a.pbe"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	t.Setenv("HSMBACKUP_CATALOG", "c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for name, content := range map[string]string{"PIN": "648219", "SO": "3537363231383830", "PWA": "testpw-1"} {
		if err := os.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return share
}

// expect runs a command line, which must end with that exit code and say that;
// it gives all that was said.
func expect(t *testing.T, a *app, want int, says string, args ...string) string {
	t.Helper()
	exit, stdout, stderr := runApp(t, a, args...)
	if exit != want || !strings.Contains(stdout+stderr, says) {
		t.Errorf("%q: exit %d, want %d and %q:\n%s%s", args, exit, want, says, stdout, stderr)
	}
	return stdout + stderr
}

// Tokens in readers, through a real pcscd: none, one, two, and what is said of
// each.
func TestTokensInReaders(t *testing.T) {
	d := pcsctest.Start(t)
	share := workplace(t)
	run := func(want int, says string, args ...string) {
		t.Helper()
		expect(t, newApp(), want, says, args...)
	}
	secrets := []string{"--pin", "file:PIN", "--so-pin", "file:SO", "--password", "file:PWA"}
	with := func(args ...string) []string { return append(args, secrets...) }

	run(0, "no token is attached", "status")
	run(1, "no token is attached", "backup")
	d.Plug(t, 0, otherCard{})
	run(0, "the card in "+d.ReaderName(0)+" is no SmartCard-HSM", "status")
	run(1, "the card in "+d.ReaderName(0)+" is no SmartCard-HSM", "backup")
	d.Unplug(t, 0)

	plug(t, d, 0, "SOFT0200001")
	run(0, "SOFT0200001", "status")
	// A software token in a reader gets a share only when it is typed that it
	// may.
	run(6, "--untrusted-token SOFT0200001", with("init", "--share", share, "--yes")...)
	run(6, "SOFT0200009", with("init", "--share", share, "--yes", "--untrusted-token", "SOFT0200009")...)
	run(0, "19471B8FFE18014C", with("init", "--share", share, "--yes", "--label", "ssh", "--untrusted-token", "SOFT0200001")...)

	plug(t, d, 1, "SOFT0200002")
	run(0, `"serial":"SOFT0200002"`, "status", "--json")
	run(6, "hint: SOFT0200002  no label  0 keys  in "+d.ReaderName(1), with("backup")...)
	run(6, `"code":"ambiguous-token"`, with("backup", "--json")...)
	run(6, `no attached token has the serial or label "nope"`, with("backup", "--token", "nope")...)
	run(0, "of SOFT0200001", with("backup", "--token", "SOFT02000010000")...)
	run(0, "of SOFT0200001", with("backup", "--token", "ssh")...)
	run(1, "not initialised", with("backup", "--token", "SOFT0200002")...)
	d.Unplug(t, 1)
	run(0, "of SOFT0200001", with("backup")...)
	d.Unplug(t, 0)
	run(1, "no token is attached", with("backup", "--token", "SOFT0200001")...)
}
