//go:build linux && cgo

package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/softtoken"
)

// unchanged runs commands that must fail, and looks that the catalog is as it
// was.
func (r reader) unchanged(code int, args []string, says ...string) {
	r.Helper()
	before, err := os.ReadFile(r.path("c.db"))
	if err != nil && !os.IsNotExist(err) {
		r.Fatal(err)
	}
	result := r.hsmbackup(args...)
	want(r, result, code, append([]string{"hsmbackup: "}, says...)...)
	if result.Stdout != "" {
		r.Errorf("%v fails and prints a result: %s", args, result.Stdout)
	}
	after, err := os.ReadFile(r.path("c.db"))
	if err != nil && !os.IsNotExist(err) {
		r.Fatal(err)
	}
	if string(before) != string(after) {
		r.Errorf("%v fails and changes the catalog", args)
	}
}

func TestNoToken(t *testing.T) {
	d := pcsctest.Start(t)
	r := reader{t, 0, t.TempDir()}
	r.unchanged(1, secrets("backup"), "no token is attached")
	r.unchanged(1, secrets("backup", "--token", "SOFT0200099"), "no token is attached", "SOFT0200099")

	d.Stop(t)
	defer pcsctest.Start(t)
	r.unchanged(1, secrets("backup"), "pcscd")
	if _, err := os.Stat(r.path("c.db")); !os.IsNotExist(err) {
		t.Errorf("there is a catalog of nothing: %v", err)
	}
}

// otherCard is a smart card of another kind.
type otherCard struct{}

func (otherCard) ATR() []byte { return []byte{0x3B, 0x80, 0x80, 0x01, 0x01} }
func (otherCard) Reset()      {}
func (otherCard) Transmit(context.Context, []byte) ([]byte, error) {
	return []byte{0x6A, 0x82}, nil
}

func TestOtherCard(t *testing.T) {
	d := pcsctest.Start(t)
	d.Plug(t, 0, otherCard{})
	r := reader{t, 0, t.TempDir()}
	r.unchanged(1, secrets("backup"), "no token is attached", "the card in "+d.ReaderName(0)+" is no SmartCard-HSM")
	// It does not get in the way of a token beside it.
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200030"})
	setUp(t, token, dkek.NewShare())
	d.Plug(t, 1, token)
	good(t, r.hsmbackup("status"), "SOFT0200030")
}

func TestTwoTokens(t *testing.T) {
	d := pcsctest.Start(t)
	r := reader{t, 0, t.TempDir()}
	for slot, serial := range []string{"SOFT0200031", "SOFT0200032"} {
		token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: serial})
		setUp(t, token, dkek.NewShare())
		d.Plug(t, slot, token)
	}
	says := []string{"SOFT0200031", "SOFT0200032", d.ReaderName(0), d.ReaderName(1)}
	r.unchanged(6, secrets("backup"), append(says, "--token SERIAL")...)
	r.unchanged(6, secrets("init", "--confirm", "SOFT0200031"), says...)
	r.unchanged(6, secrets("backup", "--token", "ssh"), says...) // both have this label
	r.unchanged(6, secrets("backup", "--token", "SOFT0200033"), says[:2]...)
	good(t, r.hsmbackup("status"), "SOFT0200031", "SOFT0200032")
	for slot := range 2 {
		good(t, reader{t, slot, r.dir}.scHSM(), "DKEK key check value") // neither was initialised
	}
	reader{t, 1, r.dir}.generate(key{"EC:prime256v1", "01", "key"})
	want(t, r.hsmbackup(secrets("backup", "--token", "SOFT02000320000")...), 3, "no-share") // with the zeros that readers print
}

// A wrong PIN costs one try, and no second one without a person.
func TestWrongPIN(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200034"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	wrong := func(name string) []string {
		t.Setenv(name, newPIN)
		return []string{"backup", "--pin", "env:" + name}
	}
	r.unchanged(1, wrong("WRONG"), "PIN", "2")
	r.unchanged(6, wrong("WRONG"), "not sent again")
	good(t, r.scHSM(), "User PIN tries left  : 2")
	r.unchanged(1, wrong("WRONG_TOO"), "PIN", "1")
	last := wrong("WRONG_AGAIN")
	r.unchanged(6, last, "one PIN try is left", "--confirm") // that one is for someone who insists
	good(t, r.scHSM(), "User PIN tries left  : 1")
	r.unchanged(1, append(last, "--confirm", "SOFT0200034"), "blocked")
	good(t, r.scHSM(), "User PIN locked")
	r.unchanged(1, secrets("backup"), "blocked")
}

// A wrong SO-PIN costs one try and wipes nothing; a serial typed wrong costs
// nothing.
func TestWrongSOPIN(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200038"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	t.Setenv("WRONG", "3537363231383831")
	r.unchanged(1, []string{"init", "--pin", "env:TOKEN_PIN", "--so-pin", "env:WRONG", "--confirm", "SOFT0200038"}, "SO-PIN", "14")
	good(t, r.scHSM(), "SO-PIN tries left    : 14", "DKEK key check value")
	r.unchanged(6, secrets("init", "--confirm", "SOFT0200039"), "SOFT0200038") // the serial of another
	good(t, r.scHSM(), "SO-PIN tries left    : 14", "DKEK key check value")
}

// interrupt runs the program, pulls the token out of slot 0 at a moment, and
// puts next into the slot.
func (r reader) interrupt(outer testing.TB, token, next *softtoken.Token, at moment, args []string) pcsctest.Result {
	r.Helper()
	reached := make(chan struct{})
	n, started := at.nth, at.behind == 0
	token.SetFault(func(stage softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		started = started || stage == softtoken.After && c.INS == at.behind
		if started && stage == at.stage && c.INS == at.ins {
			if n--; n == 0 {
				close(reached)
				time.Sleep(300 * time.Millisecond) // the reader hears no answer
			}
		}
		return 0, nil
	})
	result := make(chan pcsctest.Result, 1)
	go func() {
		defer close(result) // also when the run fails the test, which ends this goroutine
		result <- r.hsmbackup(args...)
	}()
	select {
	case <-reached:
	case got := <-result:
		r.Fatalf("not reached: %+v", got)
	}
	d := pcsctest.Start(r)
	d.Unplug(r, 0)
	d.Plug(outer, 0, next)
	got, ran := <-result
	token.SetFault(nil)
	if !ran {
		r.FailNow()
	}
	// A program that lets go of a token which was just plugged in keeps pcscd
	// from noticing that, for up to half a second. If the token were pulled
	// within this time, pcscd would never notice that either.
	time.Sleep(time.Second)
	if !slices.Contains(at.codes, got.Code) || !strings.Contains(got.Stderr, "hsmbackup: ") || got.Stdout != "" && !at.says {
		r.Errorf("pulled: want one of %v, %+v", at.codes, got)
	}
	return got
}

// moment is when a token is pulled: around the nth command of a kind. codes
// are what the program may exit with; says tells whether it may print, which is
// the plan of a restore.
type moment struct {
	name  string
	stage softtoken.Stage
	ins   byte
	nth   int
	codes []int
	says  bool
	// behind counts only commands behind the first of this kind.
	behind byte
}

// The token is pulled at many moments of a backup. Whatever the next run finds,
// it finishes, and leaves no key on the token that was not there.
func TestBackupPulled(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200035"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	r.generate(key{"EC:prime256v1", "01", "one"})
	r.generate(key{"EC:secp384r1", "02", "two"})
	before := fmt.Sprint(listFiles(t, token))
	outer := t // the token stays plugged in from one to the next
	for _, at := range []moment{
		{"asked what it holds", softtoken.Before, 0x58, 1, []int{1}, false, 0},
		{"at the login", softtoken.After, 0x20, 2, []int{1}, false, 0},
		{"while a key is wrapped", softtoken.Before, 0x72, 2, []int{4}, false, 0}, // a new catalog was made
		{"before a key is unwrapped", softtoken.Before, 0x74, 1, []int{1, 4}, false, 0},
		{"when a copy is on the token", softtoken.After, 0x74, 1, []int{4}, false, 0},
		{"when a copy is used", softtoken.Before, 0x62, 1, []int{4}, false, 0x74},
		{"before a copy is deleted", softtoken.Before, 0xE4, 1, []int{4}, false, 0x74},
		{"when the second copy is on the token", softtoken.After, 0x74, 2, []int{4}, false, 0},
	} {
		t.Run(at.name, func(t *testing.T) {
			r := reader{t, 0, t.TempDir()} // each on a catalog of its own
			r.interrupt(outer, token, token, at, secrets("backup"))
			// Nobody has shown the share yet, so it is 3.
			want(t, r.hsmbackup(secrets("backup")...), 3, "no-share")
			if after := fmt.Sprint(listFiles(t, token)); after != before {
				t.Errorf("on the token: %s, before: %s", after, before)
			}
		})
	}
}

// The token is pulled at many moments of a restore, and the next run finishes
// it; another token put into its place gets nothing.
func TestRestorePulled(t *testing.T) {
	share := dkek.NewShare()
	source := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200036"})
	setUp(t, source, share)
	r := plugged(t, 0, source)
	r.generate(key{"EC:prime256v1", "01", "one"})
	r.generate(key{"rsa:2048", "02", "two"})
	want(t, r.hsmbackup(secrets("backup")...), 3, "no-share")
	before := r.look()
	catalog := r.read("c.db")
	pcsctest.Start(t).Unplug(t, 0)
	bystander := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200037"})
	setUp(t, bystander, share)
	empty := fmt.Sprint(listFiles(t, bystander))
	for i, at := range []moment{
		{"before a key is unwrapped", softtoken.Before, 0x74, 1, []int{1, 4}, true, 0},
		{"when a key is on the token", softtoken.After, 0x74, 1, []int{4}, true, 0},
		{"while it is described", softtoken.Before, 0xD7, 2, []int{4}, true, 0},
		{"when it is described", softtoken.After, 0xD7, 4, []int{4}, true, 0},
		{"when the second key is on the token", softtoken.After, 0x74, 2, []int{4}, true, 0},
	} {
		t.Run(at.name, func(t *testing.T) {
			token := newToken(t, softtoken.Options{Firmware: "3.6", Serial: fmt.Sprintf("SOFT040003%d", i)})
			setUp(t, token, share)
			r := plugged(t, 0, token)
			r.write("c.db", catalog)
			restore := secrets("restore", "--from", "SOFT0200036", "--yes")
			r.interrupt(t, token, bystander, at, restore)
			if after := fmt.Sprint(listFiles(t, bystander)); after != empty {
				t.Errorf("on the other token: %s, before: %s", after, empty)
			}
			d := pcsctest.Start(t)
			d.Unplug(t, 0)
			d.Plug(t, 0, token)
			good(t, r.hsmbackup(restore...), "2 of 2 keys are on "+token.Serial()+" and were used")
			if after := r.look(); after != before {
				t.Errorf("restored:\n%+v\nbefore:\n%+v", after, before)
			}
		})
	}
}
