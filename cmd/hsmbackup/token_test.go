package main

import (
	"errors"
	"strings"
	"testing"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
)

func TestSameSerial(t *testing.T) {
	for _, typed := range []string{"DENK0404144", "DENK04041440000", "DENK040414400000", "denk0404144", " DENK0404144 "} {
		if !backup.SameSerial(typed, "DENK0404144") {
			t.Errorf("%q is not taken", typed)
		}
	}
	for _, typed := range []string{"", "DENK0404145", "DENK04041440", "DENK0404144000000", "ENK0404144"} {
		if backup.SameSerial(typed, "DENK0404144") {
			t.Errorf("%q is taken", typed)
		}
	}
	if backup.SameSerial("", "") || backup.SameSerial("0000", "") {
		t.Error("a token without serial has a name")
	}
}

// The guard against the wrong token: one, by serial, by label if that is
// unique; the reader's name only for a token that has no serial.
func TestChooseToken(t *testing.T) {
	a := &cli.Token{Serial: "DENK0000001", Label: "ssh", Reader: "Reader A", Keys: 2}
	b := &cli.Token{Serial: "DENK0000002", Label: "ssh", Reader: "Reader B", Keys: 1}
	c := &cli.Token{Serial: "DENK0000003", Label: "vpn", Reader: "Reader C"}
	d := &cli.Token{Reader: "Reader D"}
	all := []*cli.Token{a, b, c, d}
	for _, x := range []struct {
		found []*cli.Token
		which string
		want  *cli.Token
		exit  int
		says  string
	}{
		{[]*cli.Token{a}, "", a, 0, ""},
		{all, "DENK0000002", b, 0, ""},
		{all, "DENK00000020000", b, 0, ""},
		{all, "vpn", c, 0, ""},
		{all, "Reader D", d, 0, ""},
		{all, "", nil, console.ExitRefused, "4 tokens are attached"},
		{all, "ssh", nil, console.ExitRefused, `"ssh" is the label of 2 tokens`},
		{all, "Reader A", nil, console.ExitRefused, "no attached token"},
		{[]*cli.Token{a}, "DENK0000009", nil, console.ExitRefused, "no attached token"},
		{nil, "", nil, console.ExitFailed, "no token is attached"},
		{nil, "DENK0000001", nil, console.ExitFailed, "no token is attached"},
	} {
		fits := cli.Choose(x.found, x.which)
		if x.want != nil {
			if len(fits) != 1 || fits[0] != x.want {
				t.Errorf("%q: %v", x.which, fits)
			}
			continue
		}
		if len(fits) == 1 {
			t.Errorf("%q gives %s", x.which, fits[0].Name())
			continue
		}
		var f *console.Failure
		if err := cli.NotOne(x.found, fits, nil, x.which); !errors.As(err, &f) || f.Exit != x.exit || !strings.Contains(f.Message, x.says) {
			t.Errorf("%q: %v", x.which, err)
		}
	}
	var f *console.Failure
	if !errors.As(cli.NotOne(all, all, nil, ""), &f) || !strings.Contains(f.Hints[0], "DENK0000001") || !strings.Contains(f.Hints[0], "2 keys") || !strings.Contains(f.Hints[0], "Reader A") {
		t.Errorf("the list of tokens: %q", f.Hints)
	}
	if !errors.As(cli.NotOne(nil, nil, []string{"the card in X is no SmartCard-HSM"}, ""), &f) || !strings.Contains(f.Hints[0], "no SmartCard-HSM") {
		t.Errorf("a card of another kind is not named: %q", f.Hints)
	}
}
