package softtoken

import (
	"errors"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/tlv"
)

// Appendix C, 2: nothing but SELECT works before SELECT, unknown AIDs 6A82.
func TestBeforeSelect(t *testing.T) {
	c := newCard(t, Options{})
	c.run([]step{
		{"probe of another driver", "00A40400 07 627601FF000000", 0x6A82, ""},
		{"probe of another driver", "00A40400 06 A00000000101", 0x6A82, ""},
		{"an AID that is longer", "00A40400 0C E82B0601040181C31F020100 00", 0x6A82, ""},
		{"an AID that is shorter", "00A40400 0A E82B0601040181C31F02 00", 0x6A82, ""},
		{"no AID", "00A40400", 0x6A82, ""},
		{"VERIFY status", "00200081", 0x6D00, ""},
		{"ENUMERATE", "80580000000000", 0x6D00, ""},
		{"INITIALIZE", "80500000 03 920101", 0x6D00, ""},
		{"SELECT of an EF", "00A40000 02 2F02 00", 0x6D00, ""},
		{"unknown instruction", "00FF0000", 0x6D00, ""},
		{"unknown class", "B0200081", 0x6E00, ""},
		{"three bytes", "002000", 0x6700, ""},
		{"no bytes", "", 0x6700, ""},
	})
}

// The real card insists on the exact Le (fact sheet §1.2, §2.0).
func TestSelectForms(t *testing.T) {
	const fcp = "62 14 84 0B E82B0601040181C31F0201 85 05 0000 00 03 05"
	for _, s := range []step{
		{"OpenSC", selectAID, 0x9000, fcp},
		{"CardContact", "00A40404 0B E82B0601040181C31F0201 00", 0x9000, fcp},
		{"no answer wanted", "00A4040C 0B E82B0601040181C31F0201", 0x9000, ""},
		{"P2=0C with Le", "00A4040C 0B E82B0601040181C31F0201 00", 0x6700, ""},
		{"P2=00 without Le", "00A40400 0B E82B0601040181C31F0201", 0x6700, ""},
		{"P2=00 with another Le", "00A40400 0B E82B0601040181C31F0201 FF", 0x6700, ""},
		{"extended Le", "00A40400 00000B E82B0601040181C31F0201 0000", 0x6700, ""},
		{"another P2", "00A40408 0B E82B0601040181C31F0201 00", 0x6A86, ""},
	} {
		c := newCard(t, Options{Firmware: "3.5"})
		c.run([]step{s})
		if selected := c.selected; selected != (s.sw == 0x9000) {
			t.Errorf("%s: selected %v", s.name, selected)
		}
	}
}

func TestSelectEndsLogin(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("")
	c.run([]step{
		{"login", verifyPIN, 0x9000, ""},
		{"status", "00200081", 0x9000, ""},
		{"SELECT of an EF leaves the login", "00A40000 02 2F02 00", 0x9000, "*"},
		{"status", "00200081", 0x9000, ""},
		{"SELECT of an unknown applet leaves it too", "00A40400 06 A00000000101", 0x6A82, ""},
		{"status", "00200081", 0x9000, ""},
		{"SELECT of the AID ends it", selectAID, 0x9000, "*"},
		{"status", "00200081", 0x63C3, ""},
	})
	c.ok(verifyPIN)
	c.Reset()
	c.run([]step{{"after a reset", "00200081", 0x6D00, ""}})
}

// What the applet says of itself: version and options (fact sheet §1.2, §1.3).
func TestSelectVersion(t *testing.T) {
	c := newCard(t, Options{Firmware: "2.6"})
	c.ok(selectAID)
	c.ok("80500000 19 80020021 8106%s 8208%s 910103", testPIN, testSOPIN)
	outer, _, err := tlv.Parse(c.ok(selectAID))
	if err != nil {
		t.Fatal(err)
	}
	list, err := outer.Children()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := list.Find(0x85)
	if got, want := e.Value, unhex(t, "0021 00 02 06"); string(got) != string(want) {
		t.Errorf("85: %X, want %X", got, want)
	}
	c.run([]step{
		{"device information", "80500000 00", 0x9000, "00013000 00 02 06"}, // 76 KB
		{"with another Le", "80500000 FF", 0x6700, ""},
		{"without Le", "80500000", 0x6700, ""},
		{"with parameters", "80500100 00", 0x6A86, ""},
	})
}

func TestUnknownCommands(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("")
	c.login()
	c.run([]step{
		{"command chaining", "10D7C401 06 540200005300", 0x6E00, ""},
		{"secure messaging", "0C200081", 0x6E00, ""},
		{"another class", "84200081", 0x6E00, ""},
		{"CREATE FILE", "00E00000 02 2F02", 0x6D00, ""},
		{"READ BINARY, even", "00B00000 00", 0x6D00, ""},
		{"UPDATE BINARY, even", "00D60000 01 00", 0x6D00, ""},
		{"GET RESPONSE", "00C00000 00", 0x6D00, ""},
		{"EXTRAS, which only the imitation has", "80640A00 00", 0x6D00, ""},
		{"session PIN", "805A0181 00", 0x6D00, ""},
		{"public key authentication", "80540000 00", 0x6A88, ""},
		{"GET CHALLENGE of 256", "00840000 00", 0x9000, "*"},
		{"GET CHALLENGE of too much", "00840000 000401", 0x6700, ""},
		{"GET CHALLENGE of nothing", "00840000", 0x6700, ""},
		{"GET CHALLENGE with data", "00840000 01 00 08", 0x6700, ""},
		{"GET CHALLENGE with parameters", "00840001 08", 0x6A86, ""},
		{"lengths that do not add up", "00200081 06 3634", 0x6700, ""},
		{"half an extended length", "00200081 0000", 0x6700, ""},
	})
	if a, b := c.ok("00840000 000400"), c.ok("00840000 08"); len(a) != 1024 || len(b) != 8 {
		t.Errorf("challenges of %d and %d bytes", len(a), len(b))
	}
	if a, b := c.ok("00840000 08"), c.ok("00840000 08"); string(a) == string(b) {
		t.Error("twice the same challenge")
	}
}

func TestOptionsReject(t *testing.T) {
	for _, o := range []Options{
		{Firmware: "1.2"}, {Firmware: "5.0"}, {Firmware: "3"}, {Firmware: "3.x"}, {Firmware: "3.123"},
		{Serial: "SOFT020000"}, {Serial: "SOFT02000012"}, {Serial: "soft0200001"}, {Serial: "SOFT 200001"},
		{APDULimit: 260}, {APDULimit: -1}, {APDULimit: 65545}, {ReaderCut: 260}, {ReaderCut: -5},
		{Memory: 1023}, {Memory: -1}, {Memory: 1<<24 + 1},
	} {
		if _, err := New(o); !errors.Is(err, ErrOption) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	c := newCard(t, Options{})
	if c.Firmware() != "3.6" || !validSerial.MatchString(c.Serial()) || c.state.APDULimit != 1232 {
		t.Errorf("defaults: firmware %s, serial %s, limit %d", c.Firmware(), c.Serial(), c.state.APDULimit)
	}
	if d := newCard(t, Options{}); d.Serial() == c.Serial() {
		t.Error("two tokens of one serial number")
	}
	var _ apdu.Transmitter = c.Token
}
