package apdu

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// echo answers every command alike.
type echo struct {
	answer []byte
	err    error
}

func (e echo) Transmit(context.Context, []byte) ([]byte, error) { return e.answer, e.err }
func (echo) Begin(context.Context) error                        { return nil }
func (echo) End() error                                         { return nil }
func (echo) MaxCommand() int                                    { return 0 }

func TestTrace(t *testing.T) {
	secret := []byte("648219-secret")
	for _, c := range []struct {
		command Command
		want    string
	}{
		{Command{CLA: 0x80, INS: 0x58, Le: LeExtended}, "80 58 00 00  extended Le 65536 -> 9000, 2 bytes"},
		{Command{INS: 0x20, P2: 0x81}, "00 20 00 81 -> 9000, 2 bytes"},
		{Command{INS: 0x20, P2: 0x81, Data: secret}, "00 20 00 81  Lc ** -> 9000, 2 bytes"},
		{Command{INS: 0x24, P2: 0x81, Data: secret}, "00 24 00 81  Lc ** -> 9000, 2 bytes"},
		{Command{INS: 0x2C, P2: 0x81, Data: secret}, "00 2C 00 81  Lc ** -> 9000, 2 bytes"},
		{Command{CLA: 0x80, INS: 0x50, Data: secret}, "80 50 00 00  Lc ** -> 9000, 2 bytes"},
		{Command{CLA: 0x80, INS: 0x52, Data: secret, Le: LeShort}, "80 52 00 00  Lc ** Le 256 -> 9000, 2 bytes"},
		{Command{CLA: 0x80, INS: 0x68, P1: 1, P2: 0x73, Data: secret, Le: 512}, "80 68 01 73  extended Lc ** Le 512 -> 9000, 2 bytes"},
		{Command{INS: 0xB1, P1: 0x2F, P2: 2, Data: []byte{0x54, 2, 0, 0}, Le: 256}, "00 B1 2F 02  Lc 4 Le 256 -> 9000, 2 bytes"},
	} {
		trace := &Trace{Transmitter: echo{answer: []byte{1, 2, 0x90, 0}}}
		raw, err := c.command.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := trace.Transmit(t.Context(), raw); err != nil || len(answer) != 4 {
			t.Errorf("%X, %v", answer, err)
		}
		got := strings.Join(strings.Fields(trace.Lines()[0]), " ")
		if got != strings.Join(strings.Fields(c.want), " ") || strings.Contains(got, "secret") || strings.Contains(got, "13") {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	// What a reader cut, what is no command, and what is not answered.
	trace := &Trace{Transmitter: echo{err: errors.New("pulled")}}
	for _, raw := range [][]byte{{0, 0xB1, 0, 0, 0, 4, 0, 1}, {0, 0x20, 0, 0x81, 9, 1, 2}, {1}} {
		if _, err := trace.Transmit(t.Context(), raw); err == nil {
			t.Error("the error was lost")
		}
	}
	got := strings.Join(trace.Lines(), "\n")
	for _, want := range []string{"00 B1 00 00  malformed, 8 bytes", "00 20 00 81  malformed  ", "1 bytes", "no answer: pulled"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	short := &Trace{Transmitter: echo{answer: []byte{0x6A}}}
	if _, err := short.Transmit(t.Context(), []byte{0, 0xA4, 4, 0}); err != nil || !strings.Contains(short.Lines()[0], "answer of 1 bytes") {
		t.Errorf("%q, %v", short.Lines(), err)
	}
}
