package apdu

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The exact bytes matter: the real card refuses another form of Le (fact sheet
// §2.0; OpenSC #2944).
func TestCommandForms(t *testing.T) {
	for _, c := range []struct {
		name string
		cmd  Command
		want string
	}{
		{"case 1, VERIFY status", Command{INS: 0x20, P2: 0x81}, "00200081"},
		{"case 2 short, DKEK query", Command{CLA: 0x80, INS: 0x52, Le: LeShort}, "8052000000"},
		{"case 2 extended, ENUMERATE", Command{CLA: 0x80, INS: 0x58, Le: LeExtended}, "80580000000000"},
		{"case 2 extended, WRAP", Command{CLA: 0x80, INS: 0x72, P1: 5, P2: 0x92, Le: LeExtended}, "80720592000000"},
		{"case 3 short", Command{INS: 0x20, P2: 0x81, Data: []byte("123456")}, "0020008106313233343536"},
		{"case 4 short", Command{INS: 0xB1, P1: 0x2F, P2: 2, Data: unhex(t, "54020000"), Le: LeShort}, "00B12F02045402000000"},
		{"case 3 extended, asked for", Command{INS: 0x46, Extended: true, Data: []byte{1}}, "0046000000000101"},
		{"case 4 extended, SIGN", Command{CLA: 0x80, INS: 0x68, P1: 6, P2: 0x73, Extended: true, Data: []byte{1, 2}, Le: 0x200}, "80680673000002" + "0102" + "0200"},
		{"case 4 extended, GENERATE", Command{INS: 0x46, P1: 1, Data: []byte{9}, Le: LeExtended}, "00460100000001090000"},
		{"Le 255", Command{INS: 0x84, Le: 255}, "00840000FF"},
	} {
		b, err := c.cmd.Bytes()
		if err != nil || !bytes.Equal(b, unhex(t, c.want)) {
			t.Errorf("%s: %X, %v, want %s", c.name, b, err, c.want)
			continue
		}
		back, err := Parse(b)
		if err != nil || back.Le != c.cmd.Le || !bytes.Equal(back.Data, c.cmd.Data) || back.INS != c.cmd.INS || back.IsExtended() != c.cmd.IsExtended() {
			t.Errorf("%s: parsed back as %+v, %v", c.name, back, err)
		}
	}
}

func TestCommandReject(t *testing.T) {
	for _, c := range []Command{{Data: make([]byte, 65536)}, {Le: 65537}, {Le: -1}} {
		if _, err := c.Bytes(); !errors.Is(err, ErrFormat) {
			t.Errorf("Le %d, %d bytes: %v", c.Le, len(c.Data), err)
		}
	}
	for _, s := range []string{"", "002000", "00200081FF00", "002000810000", "0020008100000501", "00200081000002010203"} {
		if c, err := Parse(unhex(t, s)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s is taken as %+v", s, c)
		}
	}
}

func TestStatusErrors(t *testing.T) {
	for _, c := range []struct {
		sw   SW
		want error
	}{
		{0x6A82, ErrNotFound}, {0x6A88, ErrNotFound}, {0x63C2, ErrWrongPIN}, {0x6983, ErrBlocked},
		{0x6985, ErrConditions}, {0x6986, ErrConditions}, {0x6A84, ErrNoMemory}, {0x6D00, ErrNotSelected},
		{0x6F00, ErrInternal}, {0x6A80, ErrWrongData}, {0x6A81, ErrAlgorithm}, {0x6300, ErrAuthFailed},
	} {
		err := error(&StatusError{Command: "TEST", SW: c.sw})
		if !errors.Is(err, c.want) {
			t.Errorf("%s is not %v", c.sw, c.want)
		}
	}
	if errors.Is(&StatusError{SW: 0x1234}, ErrNotFound) {
		t.Error("an unknown status word matches")
	}
	if n, ok := SW(0x63CA).TriesLeft(); !ok || n != 10 {
		t.Errorf("63CA: %d, %v", n, ok)
	}
	if !SW(0x6282).HasData() || SW(0x6A82).HasData() {
		t.Error("HasData is wrong")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{0, 0x20, 0, 0x81})
	f.Add([]byte{0x80, 0x58, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		again, err := c.Bytes()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%X encodes to %X, %v", b, again, err)
		}
	})
}
