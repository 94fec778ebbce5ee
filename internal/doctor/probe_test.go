package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/softtoken"
)

func selected(t *testing.T, o softtoken.Options) *softtoken.Token {
	t.Helper()
	token, err := softtoken.New(o)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := apdu.Command{INS: 0xA4, P1: 4, Data: []byte{0xE8, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x02, 0x01}, Le: apdu.LeShort}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := token.Transmit(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	return token
}

// Every length at which a reader may cut is found to the byte, with few
// commands, and none of them is one that could change a token.
func TestProbe(t *testing.T) {
	for _, c := range []struct {
		o    softtoken.Options
		want Reach
	}{
		{softtoken.Options{Firmware: "3.6"}, Reach{Longest: 1232, Whole: true}},
		{softtoken.Options{Firmware: "4.1"}, Reach{Longest: 1454, Whole: true}},
		{softtoken.Options{Firmware: "4.1", APDULimit: 4096}, Reach{Longest: 1454, Whole: true}},
		{softtoken.Options{Firmware: "3.6", ReaderCut: 1014}, Reach{Longest: 1014, Cut: true}},
		{softtoken.Options{Firmware: "4.1", ReaderCut: 1014}, Reach{Longest: 1014, Cut: true}},
		{softtoken.Options{Firmware: "3.6", ReaderCut: 1015}, Reach{Longest: 1015, Cut: true}},
		{softtoken.Options{Firmware: "3.6", ReaderCut: 1231}, Reach{Longest: 1231, Cut: true}},
		{softtoken.Options{Firmware: "3.6", APDULimit: 478}, Reach{Longest: 478, Cut: true}},
		{softtoken.Options{Firmware: "3.6", ReaderCut: 300}, Reach{Longest: 300, Cut: true}},
		{softtoken.Options{Firmware: "3.6", ReaderCut: 299}, Reach{Unknown: "the token answers a command that was cut like a whole one"}},
	} {
		token := selected(t, c.o)
		sent := 0
		token.SetFault(func(stage softtoken.Stage, n int, cmd apdu.Command) (apdu.SW, error) {
			if stage == softtoken.Before {
				sent++
				if cmd.INS != 0xB1 && cmd.INS != 0x2A && cmd.INS != 0 { // 0: cut, so that it is none
					t.Errorf("INS %02X was sent", cmd.INS)
				}
			}
			return 0, nil
		})
		if got := Probe(t.Context(), token); got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.o, got, c.want)
		}
		if sent > 20 {
			t.Errorf("%+v: %d commands", c.o, sent)
		}
	}
}

// honest is a reader that refuses what it does not carry.
type honest struct {
	*softtoken.Token
	most int
	err  error
}

func (h honest) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) > h.most {
		return nil, h.err
	}
	return h.Token.Transmit(ctx, command)
}

// lenient is a token that answers whatever comes with the same word.
type lenient struct{ *softtoken.Token }

func (lenient) Transmit(context.Context, []byte) ([]byte, error) { return []byte{0x6A, 0x80}, nil }

// reset is a way on which another program is faster.
type reset struct{ *softtoken.Token }

func (reset) Begin(context.Context) error { return apdu.ErrReset }

func TestProbeRefusals(t *testing.T) {
	token := selected(t, softtoken.Options{Firmware: "3.6"})
	if got := Probe(t.Context(), honest{token, 700, errors.New("too long for this reader")}); got != (Reach{Longest: 700}) {
		t.Errorf("an honest reader: %+v", got)
	}
	if got := Probe(t.Context(), honest{token, 700, apdu.ErrGone}); got.Longest != 0 || !strings.Contains(got.Unknown, "gone") {
		t.Errorf("pulled: %+v", got)
	}
	if got := Probe(t.Context(), honest{token, 10, errors.New("no")}); got != (Reach{Unknown: "no"}) {
		t.Errorf("a reader that carries nothing: %+v", got)
	}
	if got := Probe(t.Context(), lenient{token}); got.Longest != 0 || got.Unknown == "" {
		t.Errorf("a token that does not tell: %+v", got)
	}
	if got := Probe(t.Context(), reset{token}); got.Longest != 0 || !strings.Contains(got.Unknown, "reset") {
		t.Errorf("reset: %+v", got)
	}
}
