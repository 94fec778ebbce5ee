package softtoken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
)

// faultBase is a token that every command of faultCommands works on, logged in.
func faultBase(t testing.TB) card {
	t.Helper()
	c := ready(t, Options{})
	s := samples(t)
	c.unwrap(1, s["P-256"].blob)
	c.unwrap(2, s["AES-128"].blob)
	c.write(0xC401, []byte("description"))
	c.write(fidScratch, s["P-256"].blob)
	two := uint32(2)
	k := spec(curve.ByName("P-256"), 0)
	k.Counter = &two
	c.generate(3, k)
	return c
}

// faultCommands has one of each command, with what must be true afterwards if
// it was carried out (nil: it changes nothing). The check runs on a token that
// was reset.
func faultCommands(t testing.TB) []faultCommand {
	t.Helper()
	s := samples(t)
	hexes := func(format string, args ...any) []byte { return unhex(t, fmt.Sprintf(format, args...)) }
	return []faultCommand{
		{"SELECT", hexes(selectAID), nil},
		{"SELECT of a file", hexes("00A40000 02 C401 00"), nil},
		{"status", hexes("00200081"), nil},
		{"VERIFY", hexes(verifyPIN), nil},
		{"wrong VERIFY", hexes(wrongPIN), func(c card) { c.want(0x63C2, "00200081") }},
		{"change", hexes("00240081 0C" + testPIN + otherPIN), func(c card) { c.ok("00200081 06" + otherPIN) }},
		{"wrong change", hexes("00240081 0C" + otherPIN + otherPIN), func(c card) { c.want(0x63C2, "00200081") }},
		{"change of the SO-PIN", hexes("00240088 10" + testSOPIN + "3131313131313131"), func(c card) { c.ok("002C0181 08 3131313131313131") }},
		{"unblock", hexes("002C0081 0E" + testSOPIN + otherPIN), func(c card) { c.ok("00200081 06" + otherPIN) }},
		{"wrong unblock", hexes("002C0181 08 3131313131313131"), func(c card) { c.want(0x63CE, "00200088") }},
		{"INITIALIZE", hexes("80500000 18 8106%s 8208%s 910103 920101", otherPIN, testSOPIN), func(c card) {
			c.ok("00200081 06" + otherPIN)
			if got := c.ok("80580000000000"); len(got) != 4 {
				c.Errorf("still there: %X", got)
			}
		}},
		{"wrong INITIALIZE", hexes("80500000 18 8106%s 8208%s 910103 920101", otherPIN, "3131313131313131"), func(c card) { c.want(0x63CE, "00200088") }},
		{"information", hexes("80500000 00"), nil},
		{"DKEK query", hexes("80520000 00"), nil},
		{"ENUMERATE", hexes("80580000 000000"), nil},
		{"GET CHALLENGE", hexes("00840000 08"), nil},
		{"READ", hexes("00B1C401 04 54020000 00"), nil},
		{"UPDATE", hexes("00D7C401 07 54020000 5301 44"), func(c card) { c.ok("00B1C401 04 54020000 01") }},
		{"create", hexes("00D7CF01 06 54020000 5300"), func(c card) { c.want(0x6282, "00B1CF01 04 54020000 01") }},
		{"DELETE", hexes("00E40200 02 C401"), func(c card) { c.want(0x6A82, "00B1C401 04 54020000 01") }},
		{"DELETE of a key", hexes("00E40200 02 CC01"), func(c card) { c.want(0x6A82, "00A40000 02 CC01 00") }},
		{"GENERATE", mustBytes(t, generateCommand(9, spec(curve.ByName("P-256"), 0))), func(c card) {
			c.checkRequest(9, c.read(0xCE09), spec(curve.ByName("P-256"), 0)) // the answer is lost, the request is not
			c.ok("00A40000 02 CC09 00")
		}},
		{"AES", hexes("804809B0 03 910110"), func(c card) { c.ok("00A40000 02 CC09 00") }},
		{"SIGN", mustBytes(t, useCommand(0x68, 1, 0x73, message)), nil},
		{"counted SIGN", mustBytes(t, useCommand(0x68, 3, 0x73, message)), func(c card) {
			if got := *c.state.Keys[3].Counter; got != 1 {
				c.Errorf("%d uses left", got)
			}
		}},
		{"ECDH", mustBytes(t, useCommand(0x62, 1, 0x80, curve.ByName("P-256").Marshal(curve.ByName("P-256").Gx, curve.ByName("P-256").Gy))), nil},
		{"AES use", mustBytes(t, useCommand(0x78, 2, 0x10, make([]byte, 16))), nil},
		{"WRAP", hexes("80720192 000000"), nil},
		{"UNWRAP", mustBytes(t, unwrapCommand(9, s["P-256"].blob)), func(c card) { c.login(); c.verifySample(9, s["P-256"]) }},
		{"UNWRAP by file", hexes("80740993"), func(c card) { c.login(); c.verifySample(9, s["P-256"]) }},
		{"MSE", hexes(mse), nil},
	}
}

type faultCommand struct {
	name    string
	command []byte
	done    func(card)
}

// Every command, interrupted before it and after it: before, nothing has
// happened; after, all of it has. Either way the session is over.
func TestFaults(t *testing.T) {
	base := faultBase(t)
	before := base.snapshot()
	for _, x := range faultCommands(t) {
		for _, cut := range []error{apdu.ErrGone, apdu.ErrReset} {
			for _, stage := range []Stage{Before, After} {
				c := base.clone()
				asked := 0
				c.SetFault(func(s Stage, n int, cmd apdu.Command) (apdu.SW, error) {
					asked++
					if n != 1 || cmd.INS != x.command[1] {
						t.Errorf("%s: command %d, %+v", x.name, n, cmd)
					}
					if s == stage {
						return 0, fmt.Errorf("pulled: %w", cut)
					}
					return 0, nil
				})
				if answer, err := c.Transmit(context.Background(), x.command); !errors.Is(err, cut) || answer != nil {
					t.Errorf("%s: %X, %v", x.name, answer, err)
				}
				if want := map[Stage]int{Before: 1, After: 2}[stage]; asked != want {
					t.Errorf("%s: asked %d times", x.name, asked)
				}
				c.SetFault(nil)
				if c.selected || c.loggedIn || c.current != 0 || c.chipAuth {
					t.Errorf("%s: the session outlives the reset", x.name)
				}
				changed := !bytes.Equal(before, c.snapshot())
				if want := stage == After && x.done != nil; changed != want {
					t.Errorf("%s, stage %d: changed %v, want %v", x.name, stage, changed, want)
				}
				c.ok(selectAID)
				if changed {
					x.done(card{t, c.Token})
				}
			}
		}
		// A status word in place of the answer, and the session goes on.
		for _, stage := range []Stage{Before, After} {
			c := base.clone()
			c.SetFault(func(s Stage, _ int, _ apdu.Command) (apdu.SW, error) {
				if s == stage {
					return 0x6F00, nil
				}
				return 0, nil
			})
			if data, sw := c.transmit(x.command); sw != 0x6F00 || len(data) > 0 {
				t.Errorf("%s: %X %04X", x.name, data, uint16(sw))
			}
			if changed := !bytes.Equal(before, c.snapshot()); changed != (stage == After && x.done != nil) {
				t.Errorf("%s answered 6F00, stage %d: changed %v", x.name, stage, changed)
			}
			if !c.selected {
				t.Errorf("%s answered 6F00: deselected", x.name)
			}
		}
	}
}

// The power fails right after each change of the file: the next program finds
// the whole change or, of a PIN command, the try taken and nothing else.
func TestPowerCuts(t *testing.T) {
	base := faultBase(t)
	for _, x := range faultCommands(t) {
		if x.done == nil {
			continue
		}
		saves := 0
		path := filepath.Join(t.TempDir(), "a.tok")
		onDisk := func() card {
			c := base.clone()
			c.path = path
			if err := c.acquire(); err != nil {
				t.Fatal(err)
			}
			if err := c.save(); err != nil {
				t.Fatal(err)
			}
			return c
		}
		count := onDisk()
		count.testOnlySaved = func() { saves++ }
		count.transmit(x.command)
		if err := count.Close(); err != nil {
			t.Fatal(err)
		}
		if saves < 1 || saves > 2 {
			t.Errorf("%s: saved %d times", x.name, saves)
		}
		for n := 1; n <= saves; n++ {
			c := onDisk().crash(fmt.Sprintf("%X", x.command), n)
			c.ok(selectAID)
			if n == saves {
				x.done(c)
			} else { // only the try is gone
				want := base.clone()
				if c.ask("00200081") == 0x63C2 {
					want.state.PIN.Tries--
				} else {
					want.state.SO.Tries--
				}
				if !bytes.Equal(want.snapshot(), c.snapshot()) {
					t.Errorf("%s, cut after save %d: more than a try is gone", x.name, n)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Commands are counted from the installation of a fault, malformed ones too.
func TestFaultCount(t *testing.T) {
	c := newCard(t, Options{})
	var seen []string
	c.SetFault(func(s Stage, n int, cmd apdu.Command) (apdu.SW, error) {
		seen = append(seen, fmt.Sprintf("%d%d%02X", s, n, cmd.INS))
		return 0, nil
	})
	c.send(selectAID)
	c.send("0020")
	c.send("00200081")
	c.SetFault(nil)
	c.send("00200081")
	if got, want := fmt.Sprint(seen), "[01A4 11A4 0200 1200 0320 1320]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Transmit(ctx, []byte{0, 0x20, 0, 0x81}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if c.Begin(context.Background()) != nil || c.End() != nil || c.MaxCommand() != 0 {
		t.Error("a transaction or a limit where there is none")
	}
}

// The reader asks for the ATR from another goroutine, at any time.
func TestConcurrency(t *testing.T) {
	c := ready(t, Options{})
	c.unwrap(1, samples(t)["P-256"].blob)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				switch i {
				case 0:
					if len(c.ATR()) != 24 {
						t.Error("ATR")
					}
					_, _, _ = c.Serial(), c.Firmware(), c.Roots()
				case 1:
					c.SetFault(nil)
					if n == 10 {
						c.Reset()
					}
				default:
					_, _ = c.Transmit(context.Background(), unhex(t, selectAID))
					_, _ = c.Transmit(context.Background(), unhex(t, verifyPIN))
					_, _ = c.Transmit(context.Background(), mustBytes(t, useCommand(0x68, 1, 0x73, message)))
					_, _ = c.Transmit(context.Background(), unhex(t, "00D7CF01 09 54020000 5303 AABBCC"))
				}
			}
		})
	}
	wg.Wait()
	c.login()
	c.verifyECDSA(1, samples(t)["P-256"].public)
}

// A long command does not keep the ATR waiting.
func TestATRDuringCommand(t *testing.T) {
	c := newCard(t, Options{})
	inside, done := make(chan struct{}), make(chan struct{})
	c.SetFault(func(s Stage, _ int, _ apdu.Command) (apdu.SW, error) {
		if s == Before {
			close(inside)
			<-done
		}
		return 0, nil
	})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		_, _ = c.Transmit(context.Background(), []byte{0, 0x20, 0, 0x81})
	}()
	<-inside
	if got, want := c.ATR(), unhex(t, "3BDE96FF8191FE1FC38031815448534D31738021408107 92"); !bytes.Equal(got, want) {
		t.Errorf("ATR %X", got)
	}
	close(done)
	<-finished
}
