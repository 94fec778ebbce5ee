package lives

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/schsm"
)

// Program carries out one command line as the program does that ships, in this
// process and without a terminal.
type Program func(ctx context.Context, c Conditions, args []string) (exit int, stdout, stderr []byte)

// Conditions are what it runs under.
type Conditions struct {
	Now         func() time.Time
	OpenCard    func(context.Context, apdu.Transmitter) (*schsm.Card, error)
	BeforeWrite func()
	// ReadOnly: the catalog cannot be written.
	ReadOnly bool
}

// result is how a command ended.
type result struct {
	exit   int
	out    map[string]any // of --json
	said   string         // on standard error
	cut    bool           // the interruption came
	killed bool
	panic  string
	// commands to tokens, and points at which the program could have ended.
	commands, points int
}

// killed is the panic of a program that ends in the middle.
type killed struct{}

// run runs a command line, cut off as the step says.
func (w *World) run(cut Cut, readOnly bool, args []string) (r result) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	x := &cutter{cut: cut, cancel: cancel}
	var stdout, stderr []byte
	func() {
		defer func() {
			if p := recover(); p != nil {
				r.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
				if _, r.killed = p.(killed); r.killed {
					r.panic = ""
				}
				x.close()
			}
		}()
		c := Conditions{Now: w.now, OpenCard: x.openCard, BeforeWrite: x.write, ReadOnly: readOnly}
		r.exit, stdout, stderr = w.program(ctx, c, args)
	}()
	r.cut, r.commands, r.points = x.came, x.commands, x.points
	if r.killed {
		r.exit = -1
	}
	r.said = strings.TrimSpace(string(stderr))
	if len(stdout) > 0 {
		_ = json.Unmarshal(stdout, &r.out)
	}
	w.lookAgain()
	w.tally.ran(args[0], r)
	return r
}

// cutter stands between the program and its tokens and catalogs, and cuts it off
// when the time has come.
type cutter struct {
	cut    Cut
	cancel context.CancelFunc
	came   bool
	// commands to tokens, and points at which the program can end.
	commands, points int
	opened           []apdu.Transmitter
}

// openCard puts the cutter between program and token, and has nobody wait.
func (x *cutter) openCard(ctx context.Context, way apdu.Transmitter) (*schsm.Card, error) {
	x.opened = append(x.opened, way)
	card, err := schsm.Open(ctx, &cutWay{way, x})
	if err == nil {
		card.SetSleep(func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
	}
	return card, err
}

// within is a cut that comes in a run like this one.
func (c Cut) within(r result) Cut {
	n := r.commands
	if c.How == cutKilled {
		n = r.points
	}
	if n == 0 {
		return Cut{}
	}
	c.At = (c.At-1)%n + 1
	return c
}

// close lets go of tokens, as the system does for a program that was killed.
func (x *cutter) close() {
	for _, way := range x.opened {
		if c, ok := way.(io.Closer); ok {
			_ = c.Close()
		}
	}
}

// point is one at which the program may be killed. Once it is, nothing that it
// does on its way out comes to pass.
func (x *cutter) point() {
	if x.points++; x.cut.How == cutKilled && x.points >= x.cut.At {
		x.came = true
		panic(killed{})
	}
}

func (x *cutter) write() {
	if x.cut.On == "" {
		x.point()
	}
}

// cutWay is the way to a token, with the cut.
type cutWay struct {
	apdu.Transmitter
	x *cutter
}

func (c *cutWay) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	x := c.x
	if x.cut.On != "" && command[1] != commands[x.cut.On] {
		if x.came && x.cut.How == cutKilled {
			panic(killed{})
		}
		if x.came && (x.cut.How == cutPulled || x.cut.How == cutAnswered) {
			return nil, x.gone(c.Transmitter)
		}
		return c.Transmitter.Transmit(ctx, command)
	}
	x.point()
	x.commands++
	away := x.cut.How == cutPulled && x.commands >= x.cut.At
	if away || x.cut.How == cutAnswered && x.commands > x.cut.At {
		return nil, x.gone(c.Transmitter)
	}
	if x.commands == x.cut.At {
		switch x.cut.How {
		case cutRefused:
			x.came = true
			return []byte{0x6F, 0x00}, nil
		case cutReset:
			x.came = true
			reset(c.Transmitter)
			return nil, apdu.ErrReset
		case cutSignal:
			x.came = true
			x.cancel()
		}
	}
	answer, err := c.Transmitter.Transmit(ctx, command)
	x.point()
	if x.commands == x.cut.At {
		switch x.cut.How {
		case cutAnswered, cutLost:
			return nil, x.gone(c.Transmitter)
		case cutMuddled:
			x.came = true
			return []byte{0x6F, 0x00}, nil
		}
	}
	return answer, err
}

func (x *cutter) gone(way apdu.Transmitter) error {
	x.came = true
	reset(way)
	return apdu.ErrGone
}

func reset(way apdu.Transmitter) {
	if r, ok := way.(interface{ Reset() }); ok {
		r.Reset()
	}
}

func (r result) code() string {
	if e, ok := r.out["error"].(map[string]any); ok {
		return fmt.Sprint(e["code"])
	}
	return ""
}

func (r result) text(name string) string { return text(r.out, name) }

func (r result) list(name string) []map[string]any { return list(r.out, name) }

func text(m map[string]any, name string) string {
	s, _ := m[name].(string)
	return s
}

func list(m map[string]any, name string) (l []map[string]any) {
	all, _ := m[name].([]any)
	for _, x := range all {
		if o, ok := x.(map[string]any); ok {
			l = append(l, o)
		}
	}
	return l
}

func reference(m map[string]any, name string) byte {
	n, _ := m[name].(float64)
	return byte(n)
}

// usual is what is said so often that it tells nothing.
func usual(line string) bool {
	for _, s := range []string{"private keys", "not confirmed", "known fault", "computer's memory"} {
		if strings.Contains(line, s) {
			return true
		}
	}
	return false
}

// line is what was said, in one.
func (r result) line() string {
	var parts []string
	for _, l := range strings.Split(r.said, "\n") {
		if l, ours := strings.CutPrefix(l, "hsmbackup: "); ours && !usual(l) {
			parts = append(parts, l)
		}
	}
	s := strings.Join(parts, " | ")
	if len(s) > 420 {
		s = s[:420] + "…"
	}
	return s
}
