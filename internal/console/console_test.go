package console

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
)

// full is a standard output without space.
type full struct{}

func (full) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.ENOSPC}
}

// A result that could not be written is never a success, and never hides what
// else went wrong.
func TestLostOutput(t *testing.T) {
	for _, c := range []struct {
		err           error
		exit, changed int
		says          string
	}{
		{nil, 1, 4, "could not be written to standard output"},
		{&Outcome{Exit: ExitIncomplete, Message: "one key is missing"}, 3, 4, "one key is missing; and the result could not be written"},
		{&Outcome{Exit: ExitDamaged, Message: "damage"}, 5, 4, "damage; and the result"},
		{Refusef("guard", "", "refused"), 6, 6, "refused"},
		{Failf("no", "", "failed"), 1, 4, "failed"},
	} {
		for _, changed := range []bool{false, true} {
			o := &Output{W: full{}}
			_, _ = o.Write([]byte("a result"))
			want := c.exit
			if changed {
				want = c.changed
			}
			f := Describe(o.lost(c.err, changed), changed, nil)
			if f.Exit != want || !strings.Contains(f.Message, c.says) {
				t.Errorf("%v, changed %v: exit %d, %q, want %d", c.err, changed, f.Exit, f.Message, want)
			}
		}
	}
	o := &Output{W: os.Stderr}
	if err := o.lost(nil, false); err != nil {
		t.Errorf("nothing was lost: %v", err)
	}
	refusal := errors.New("x")
	if err := o.lost(refusal, false); err != refusal {
		t.Errorf("%v", err)
	}
}

func TestPrecedence(t *testing.T) {
	e := Exits{}
	if e.Outcome("x") != nil {
		t.Error("nothing wrong is an error")
	}
	for _, exit := range []int{ExitOK, ExitFailed, ExitIncomplete, ExitDamaged, ExitChanged, ExitRefused} {
		if e.Add(exit); e.Worst() != exit {
			t.Errorf("%d does not count more than those before", exit)
		}
	}
}

func TestNarrow(t *testing.T) {
	long := strings.Repeat("ä", 60)
	for _, c := range []struct{ cell, want string }{
		{`"short"`, `"short"`},
		{"ID " + strings.Repeat("a", 40), "ID " + strings.Repeat("a", 40)}, // SHA-1, as OpenSC gives
		{"ID " + strings.Repeat("a", 42), "ID " + strings.Repeat("a", 40) + "…"},
		{`"` + long + `"`, `"` + strings.Repeat("ä", 42) + "…"},
		{long, long}, // a path, or a reason
	} {
		if got := narrow(c.cell); got != c.want {
			t.Errorf("%q: %q, want %q", c.cell, got, c.want)
		}
	}
}

func TestCounts(t *testing.T) {
	for _, c := range []struct {
		part, n int
		want    string
	}{{1, 1, "1 of 1 key is"}, {0, 1, "0 of 1 key is"}, {1, 2, "1 of 2 keys are"}} {
		if got := CountOf(c.part, c.n, "key"); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	for _, c := range []struct {
		list []string
		want string
	}{{nil, ""}, {[]string{"a"}, "a"}, {[]string{"a", "b"}, "a; b"}, {[]string{"a", "b", "c"}, "a; and 2 more"}} {
		if got := Brief(c.list); got != c.want {
			t.Errorf("%q: %q, want %q", c.list, got, c.want)
		}
	}
}
