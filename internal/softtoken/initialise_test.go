package softtoken

import (
	"bytes"
	"fmt"
	"testing"

	"hsmbackup/internal/apdu"
)

func initialiseHex(t testing.TB, data string) string {
	t.Helper()
	return fmt.Sprintf("80500000 %02X %s", len(unhex(t, data)), data)
}

// Fact sheet §2.4: the TLVs and their limits. Nothing of this costs a try.
func TestInitialiseReject(t *testing.T) {
	const pin, so = "8106" + testPIN, "8208" + testSOPIN
	c := newCard(t, Options{})
	c.initialise("920101")
	before := c.snapshot()
	for name, data := range map[string]string{
		"no PIN":                           "80020001" + so + "910103",
		"no SO-PIN":                        "80020001" + pin + "910103",
		"PIN too short":                    "8105" + "3634383231" + so,
		"PIN too long":                     "8111" + "3634383231393634383231393634383231" + so,
		"SO-PIN too short":                 pin + "8207" + "35373632313838",
		"SO-PIN too long":                  pin + "8209" + testSOPIN + "30",
		"options of one byte":              "800101" + pin + so,
		"options of three":                 "8003000001" + pin + so,
		"option session PIN":               "80020004" + pin + so,
		"option PIN and public key":        "80020010" + pin + so,
		"option of the imitation":          "80020101" + pin + so,
		"4 tries of a PIN of 6":            pin + so + "910104",
		"no tries":                         pin + so + "910100",
		"6 tries of a PIN of 7":            "810731313131313131" + so + "910106",
		"11 tries of a PIN of 8":           "81083131313131313131" + so + "91010B",
		"tries of two bytes":               pin + so + "91020003",
		"shares of two bytes":              pin + so + "92020001",
		"no key domains":                   pin + so + "970100",
		"17 key domains":                   pin + so + "970111",
		"DKEK and key domains":             pin + so + "920101970101",
		"public key authentication":        pin + so + "93020101",
		"biometric server":                 pin + so + "95050102030405",
		"a tag of its own":                 pin + so + "990101",
		"the PIN twice":                    pin + pin + so,
		"the shares twice":                 pin + so + "920101920101",
		"cut off":                          pin + so + "9101",
		"a wrong SO-PIN, but no TLV right": "8208" + "0000000000000000",
	} {
		if data, sw := c.send("%s", initialiseHex(t, data)); sw != 0x6A80 || len(data) > 0 {
			t.Errorf("%s: %X %04X, want 6A80", name, data, uint16(sw))
		}
	}
	c.run([]step{
		{"P1", "80500100 12 " + pin + so, 0x6A86, ""},
		{"P2", "80500001 12 " + pin + so, 0x6A86, ""},
	})
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("a refused INITIALIZE changed the token")
	}
	old := newCard(t, Options{Firmware: "2.6"})
	old.ok(selectAID)
	old.want(0x6A80, "%s", initialiseHex(t, pin+so+"970102")) // key domains came with 3.x
}

func TestInitialiseRetries(t *testing.T) {
	for _, x := range []struct{ pin, retries string }{
		{"8106" + testPIN, ""}, {"8106" + testPIN, "910101"}, {"8106" + testPIN, "910103"},
		{"810731313131313131", "910105"}, {"81083131313131313131", "91010A"}, {"811031313131313131313131313131313131", "91010A"},
	} {
		c := newCard(t, Options{})
		c.ok(selectAID)
		c.ok("%s", initialiseHex(t, x.pin+"8208"+testSOPIN+x.retries))
		want := apdu.SW(0x63C3)
		if x.retries != "" {
			want = apdu.WrongPIN | apdu.SW(unhex(t, x.retries)[2])
		}
		if got := c.ask("00200081"); got != want {
			t.Errorf("%s %s: %04X, want %04X", x.pin, x.retries, uint16(got), uint16(want))
		}
	}
}

// The first INITIALIZE sets the SO-PIN for good; it wipes all but the device
// key and EF 2F02.
func TestInitialiseAgain(t *testing.T) {
	c := ready(t, Options{})
	c.do(apdu.OK, unwrapCommand(3, samples(t)["P-256"].blob))
	for _, fid := range []uint16{0xC403, 0xCE03, 0xC801, 0xC900, 0xCA01, 0xCD00, 0xCF00, 0x2F03, 0x2F10} {
		c.write(fid, []byte("something"))
	}
	device := c.read(fidDevice)
	other := initialiseHex(t, "80020000 8106"+otherPIN+"8208"+testSOPIN+"910102 920102")
	wrong := initialiseHex(t, "80020000 8106"+otherPIN+"8208 0000000000000000 910102 920102")
	before := c.snapshot()
	c.run([]step{
		{"wrong SO-PIN", wrong, 0x6986, ""},
		{"one try less", "00200088", 0x63CE, ""},
		{"the old PIN, the login as it was", "00200081", 0x9000, ""},
		{"wrong SO-PIN", wrong, 0x6986, ""},
		{"two tries less", "00200088", 0x63CD, ""},
	})
	c.state.SO.Tries = soTries
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("a wrong SO-PIN changed more than its counter")
	}
	c.ok("%s", other)
	c.run([]step{
		{"no login any more", "00200081", 0x63C2, ""},
		{"SO-PIN as it was", "00200088", 0x63CF, ""},
		{"the old PIN", verifyPIN, 0x63C1, ""},
		{"the new PIN", "00200081 06 " + otherPIN, 0x9000, ""},
		{"nothing but the device", "80580000 000000", 0x9000, "2F02 CC00"},
		{"DKEK gone", "80520000 00", 0x9000, "02 02 0000000000000000"},
		{"scratch gone", "80740193", 0x6985, ""},
		{"memory back", "80500000 00", 0x9000, "00013000 00 03 06"},
		{"current file gone", "00B10000 04 54020000 00", 0x6A82, ""},
		{"unblock not allowed now", "002C0181 08 " + testSOPIN, 0x6985, ""},
	})
	if !bytes.Equal(device, c.read(fidDevice)) {
		t.Error("INITIALIZE changed EF 2F02")
	}
}

// 15 wrong SO-PINs, by whichever command, and the token is scrap (fact sheet
// §9, 1); only a firmware update helps (§9, 35).
func TestSOPINBlocked(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("")
	wrong := initialiseHex(t, "8106"+testPIN+"8208 0000000000000000 910103")
	right := initialiseHex(t, "8106"+testPIN+"8208"+testSOPIN+"910103")
	for n := 14; n > 0; n-- {
		c.want(0x6986, "%s", wrong)
		c.want(apdu.WrongPIN|apdu.SW(n), "00200088")
	}
	c.run([]step{
		{"the last try", wrong, 0x6983, ""},
		{"blocked", "00200088", 0x6983, ""},
		{"the right one is too late", right, 0x6983, ""},
		{"the user's PIN still works", verifyPIN, 0x9000, ""},
	})
	if err := c.Update("3.6", ""); err != nil {
		t.Fatal(err)
	}
	c.run([]step{
		{"SELECT", selectAID, 0x9000, "*"},
		{"uninitialised", "00200088", 0x6A88, ""},
		{"a new SO-PIN", initialiseHex(t, "8106"+testPIN+"8208 0000000000000000 910103"), 0x9000, ""},
	})
}
