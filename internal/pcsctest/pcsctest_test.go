//go:build linux && cgo

package pcsctest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"hsmbackup/internal/pcsc"
)

func TestMain(m *testing.M) { Main(m) }

// tinyCard is a card that knows nothing: every SELECT is answered 6A82, the
// rest 6D00.
type tinyCard struct{}

var tinyATR = []byte{0x3B, 0x80, 0x80, 0x01, 0x01}

func (tinyCard) ATR() []byte { return tinyATR }
func (tinyCard) Reset()      {}
func (tinyCard) Transmit(_ context.Context, command []byte) ([]byte, error) {
	if command[1] == 0xA4 {
		return []byte{0x6A, 0x82}, nil
	}
	return []byte{0x6D, 0x00}, nil
}

func TestRealParts(t *testing.T) {
	d := Start(t)
	d.Plug(t, 0, tinyCard{})
	r := Run(t, Cmd{Name: "opensc-tool", Args: []string{"-a", "-r", "0"}})
	if r.Code != 0 || !strings.Contains(strings.ToLower(r.Stdout), "3b:80:80:01:01") {
		t.Errorf("opensc-tool -a: %+v", r)
	}
	r = Run(t, Cmd{Name: "opensc-tool", Args: []string{"-r", "0", "-s", "00:A4:04:00:02:3F:00"}})
	if !strings.Contains(r.Stdout, "SW1=0x6A, SW2=0x82") {
		t.Errorf("opensc-tool -s: %+v", r)
	}
	conn, err := pcsc.Connect(t.Context(), d.ReaderName(0))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !bytes.Equal(conn.ATR(), tinyATR) {
		t.Errorf("ATR %X", conn.ATR())
	}
	answer, err := conn.Transmit(t.Context(), []byte{0, 0xA4, 4, 0, 0})
	if err != nil || !bytes.Equal(answer, []byte{0x6A, 0x82}) {
		t.Errorf("SELECT: %X, %v", answer, err)
	}
}

func TestTwoSlots(t *testing.T) {
	d := Start(t)
	d.Plug(t, 0, tinyCard{})
	d.Plug(t, 1, tinyCard{})
	readers, err := pcsc.Readers(t.Context())
	if err != nil || len(readers) != Slots {
		t.Fatalf("%v, %v", readers, err)
	}
	for i, r := range readers {
		if r.Name != d.ReaderName(i) || !r.Present || !bytes.Equal(r.ATR, tinyATR) {
			t.Errorf("slot %d: %+v", i, r)
		}
	}
	d.Unplug(t, 0)
	d.Unplug(t, 0)
	if readers, err = pcsc.Readers(t.Context()); err != nil || readers[0].Present || !readers[1].Present {
		t.Errorf("after unplugging: %v, %v", readers, err)
	}
	d.Plug(t, 0, tinyCard{})
}

// A token finds its way back after pcscd restarts.
func TestRestart(t *testing.T) {
	d := Start(t)
	d.Plug(t, 0, tinyCard{})
	d.Stop(t)
	if _, err := pcsc.Readers(t.Context()); err == nil {
		t.Error("pcscd still answers")
	}
	if Start(t) != d {
		t.Error("two daemons")
	}
	if err := poll(func() (bool, error) {
		r, err := d.look(0)
		return r.Present, err
	}); err != nil {
		t.Error(err)
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	r := Run(t, Cmd{Name: "sh", Args: []string{"-c", `cat; pwd; echo "$WORD" >&2; exit 7`}, Stdin: []byte("in\n"), Env: []string{"WORD=said"}, Dir: dir})
	if want := (Result{Stdout: "in\n" + dir + "\n", Stderr: "said\n", Code: 7}); r != want {
		t.Errorf("%+v", r)
	}
}

// The machine outside is out of sight: its /run, its network.
func TestPrivate(t *testing.T) {
	if from := os.Getenv(marker); from == "" {
		t.Error("not run anew")
	}
	r := Run(t, Cmd{Name: "ip", Args: []string{"-o", "link"}})
	if n := strings.Count(r.Stdout, "\n"); n != 1 || !strings.Contains(r.Stdout, "lo:") || !strings.Contains(r.Stdout, "UP") {
		t.Errorf("links: %+v", r)
	}
	if err := enter(); err != nil {
		t.Errorf("entering again: %v", err)
	}
	// A program that gets nothing of the environment must still know.
	r = Run(t, Cmd{Name: "env", Args: []string{"-i", "test", "-f", insideFile}})
	if r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// failing notes what a helper says to a test it fails.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Helper() {}
func (f *failing) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	panic(f)
}

func (f *failing) catch(do func()) (said string) {
	defer func() {
		if p := recover(); p != nil && p != any(f) {
			panic(p)
		}
		said = f.said
	}()
	do()
	return ""
}

// What is missing fails the test, in one line that says what to do.
func TestMissing(t *testing.T) {
	f := &failing{TB: t}
	if said := f.catch(func() { Run(f, Cmd{Name: "no-such-tool"}) }); said != "pcsctest: no-such-tool is not installed: run make deps" {
		t.Errorf("tool: %q", said)
	}
	d := Start(t)
	d.Stop(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	f = &failing{TB: t}
	if said := f.catch(func() { Start(f) }); !strings.HasSuffix(said, ": run make deps") || strings.Contains(said, "\n") {
		t.Errorf("driver: %q", said)
	}
	f = &failing{TB: t}
	if said := f.catch(func() { Run(f, Cmd{Name: "sleep", Args: []string{"9"}, Timeout: 20_000_000}) }); !strings.Contains(said, "does not end within") {
		t.Errorf("timeout: %q", said)
	}
}

func TestSlotTaken(t *testing.T) {
	d := Start(t)
	d.Plug(t, 1, tinyCard{})
	f := &failing{TB: t}
	if said := f.catch(func() { d.Plug(f, 1, tinyCard{}) }); !strings.Contains(said, "slot 1 is taken") {
		t.Errorf("%q", said)
	}
}

func TestModule(t *testing.T) {
	if _, err := os.Stat(Module(t)); err != nil {
		t.Error(err)
	}
}
