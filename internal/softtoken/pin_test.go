package softtoken

import (
	"fmt"
	"path/filepath"
	"testing"

	"hsmbackup/internal/apdu"
)

const wrongPIN = "00 20 00 81 06 303030303030"

// Appendix C, 3: 85 and 86 must be 6A88, or OpenSC believes in a PIN pad.
func TestVerifyUninitialised(t *testing.T) {
	c := newCard(t, Options{})
	c.ok(selectAID)
	c.run([]step{
		{"user PIN", "00200081", 0x6A88, ""},
		{"SO-PIN", "00200088", 0x6A88, ""},
		{"biometric 1", "00200085", 0x6A88, ""},
		{"biometric 2", "00200086", 0x6A88, ""},
		{"login", verifyPIN, 0x6A88, ""},
		{"CHANGE REFERENCE DATA", "00240081 0C " + testPIN + otherPIN, 0x6A88, ""},
		{"CHANGE REFERENCE DATA of the SO-PIN", "00240088 10 " + testSOPIN + testSOPIN, 0x6A88, ""},
		{"RESET RETRY COUNTER", "002C0081 0E " + testSOPIN + testPIN, 0x6A88, ""},
		{"ENUMERATE", "80580000 000000", 0x9000, "2F02 CC00"},
		{"DKEK", "80520000 00", 0x6D00, ""},
		{"import of a share", "80520000 20 " + shareA + " 00", 0x6D00, ""},
		{"write", "00D72F03 06 540200005300", 0x6982, ""},
	})
}

func TestVerify(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("920101")
	c.run([]step{
		{"status", "00200081", 0x63C3, ""},
		{"status of the SO-PIN", "00200088", 0x63CF, ""},
		{"biometric 1", "00200085", 0x6A88, ""},
		{"biometric 2", "00200086", 0x6A88, ""},
		{"no such PIN", "00200001", 0x6A88, ""},
		{"P1", "00200181", 0x6A86, ""},
		{"status with Le", "00200081 00", 0x6700, ""},
		{"too short", "00200081 05 3634383231", 0x6A80, ""},
		{"too long", "00200081 11 3634383231393634383231393634383231", 0x6A80, ""},
		{"the SO-PIN is no login", "00200088 08 " + testSOPIN, 0x6A86, ""},
		{"nothing of this cost a try", "00200081", 0x63C3, ""},
		{"nor of the SO-PIN", "00200088", 0x63CF, ""},
		{"wrong", wrongPIN, 0x63C2, ""},
		{"status", "00200081", 0x63C2, ""},
		{"right", verifyPIN, 0x9000, ""},
		{"status", "00200081", 0x9000, ""},
		{"the SO-PIN's status stays", "00200088", 0x63CF, ""},
		{"wrong ends the login", wrongPIN, 0x63C2, ""},
		{"status", "00200081", 0x63C2, ""},
		{"right gives the tries back", verifyPIN, 0x9000, ""},
		{"logged out", selectAID, 0x9000, "*"},
		{"status", "00200081", 0x63C3, ""},
		{"wrong", wrongPIN, 0x63C2, ""},
		{"wrong", wrongPIN, 0x63C1, ""},
		{"wrong", wrongPIN, 0x6983, ""},
		{"right, but blocked", verifyPIN, 0x6983, ""},
		{"status", "00200081", 0x6983, ""},
		{"change", "00240081 0C " + testPIN + otherPIN, 0x6983, ""},
	})
}

func TestChangePIN(t *testing.T) {
	const other = "00200081 06 " + otherPIN
	c := newCard(t, Options{})
	c.initialise("")
	c.run([]step{
		{"too short a new one", "00240081 0B " + testPIN + "3131313131", 0x6700, ""},
		{"too long a new one", "00240081 17 " + testPIN + "3131313131313131313131313131313131", 0x6700, ""},
		{"P1", "00240181 0C " + testPIN + otherPIN, 0x6A86, ""},
		{"another PIN", "00240082 0C " + testPIN + otherPIN, 0x6A86, ""},
		{"no try lost", "00200081", 0x63C3, ""},
		{"wrong old one", "00240081 0C " + otherPIN + testPIN, 0x63C2, ""},
		{"stored", "00200081", 0x63C2, ""},
		{"right, and of another length", "00240081 0E " + testPIN + "3232323232323232", 0x9000, ""},
		{"is no login", "00200081", 0x63C3, ""},
		{"the old one", verifyPIN, 0x63C2, ""},
		{"the new one", "00200081 08 3232323232323232", 0x9000, ""},
		{"and back, the length known", "00240081 0E 3232323232323232" + testPIN, 0x9000, ""},
		{"still logged in", "00200081", 0x9000, ""},
		{"a wrong one ends the login", "00240081 0C " + otherPIN + testPIN, 0x63C2, ""},
		{"status", "00200081", 0x63C2, ""},
		{"the first again", verifyPIN, 0x9000, ""},
		{"the SO-PIN, wrong", "00240088 10 " + "0000000000000000" + testSOPIN, 0x63CE, ""},
		{"leaves the login", "00200081", 0x9000, ""},
		{"the SO-PIN, too short", "00240088 0F " + testSOPIN + "31313131313131", 0x6700, ""},
		{"the SO-PIN, too long", "00240088 11 " + testSOPIN + "313131313131313131", 0x6700, ""},
		{"the SO-PIN, right", "00240088 10 " + testSOPIN + "3131313131313131", 0x9000, ""},
		{"its tries", "00200088", 0x63CF, ""},
		{"unblock with the old one", "002C0081 0E " + testSOPIN + otherPIN, 0x63CE, ""},
		{"unblock with the new one", "002C0081 0E 3131313131313131" + otherPIN, 0x9000, ""},
		{"login", other, 0x9000, ""},
	})
}

// Options 0001 and 0020 (fact sheet §1.3, §2.3).
func TestUnblock(t *testing.T) {
	set := "002C0081 0E " + testSOPIN + otherPIN
	clearOnly := "002C0181 08 " + testSOPIN
	for _, x := range []struct {
		options    string
		set, clear apdu.SW
	}{
		{"0000", 0x6985, 0x6985},
		{"0001", 0x9000, 0x9000},
		{"0020", 0x6985, 0x6985},
		{"0021", 0x6985, 0x9000},
	} {
		t.Run(x.options, func(t *testing.T) {
			blocked := newCard(t, Options{})
			blocked.ok(selectAID)
			blocked.ok("80500000 19 8002%s 8106%s 8208%s 910103", x.options, testPIN, testSOPIN)
			for range 3 {
				blocked.send(wrongPIN)
			}
			blocked.want(0x6983, "00200081")

			c := blocked.clone()
			c.run([]step{{"new PIN", set, x.set, ""}, {"the SO-PIN's tries", "00200088", 0x63CF, ""}})
			if x.set == 0x9000 {
				c.run([]step{{"tries", "00200081", 0x63C3, ""}, {"old", verifyPIN, 0x63C2, ""}, {"new", "00200081 06 " + otherPIN, 0x9000, ""}})
			} else {
				c.want(0x6983, "00200081")
			}
			c = blocked.clone()
			c.run([]step{{"counter", clearOnly, x.clear, ""}})
			if x.clear == 0x9000 {
				c.run([]step{{"tries", "00200081", 0x63C3, ""}, {"old", verifyPIN, 0x9000, ""}, {"ends a login", clearOnly, 0x9000, ""}, {"ended", "00200081", 0x63C3, ""}})
			} else {
				c.want(0x6983, "00200081")
			}
		})
	}
	c := newCard(t, Options{})
	c.initialise("")
	c.run([]step{
		{"PIN too short", "002C0081 0D " + testSOPIN + "3131313131", 0x6700, ""},
		{"PIN too long", "002C0081 19 " + testSOPIN + "3131313131313131313131313131313131", 0x6700, ""},
		{"counter with a PIN", "002C0181 0E " + testSOPIN + otherPIN, 0x6700, ""},
		{"other P1", "002C0281 06 " + otherPIN, 0x6A86, ""},
		{"the SO-PIN can never be unblocked", "002C0088 08 " + testSOPIN, 0x6A86, ""},
		{"no try lost", "00200088", 0x63CF, ""},
		{"wrong SO-PIN", "002C0181 08 3030303030303030", 0x63CE, ""},
		{"right one gives the tries back", clearOnly, 0x9000, ""},
		{"tries", "00200088", 0x63CF, ""},
	})
	for n := 14; n > 0; n-- {
		c.want(apdu.WrongPIN|apdu.SW(n), "002C0181 08 3030303030303030")
	}
	c.run([]step{
		{"the last one", "002C0181 08 3030303030303030", 0x6983, ""},
		{"blocked for good", clearOnly, 0x6983, ""},
		{"status", "00200088", 0x6983, ""},
		{"the user PIN is none the worse", verifyPIN, 0x9000, ""},
	})
}

// Option 0002: the first PIN must be changed before use.
func TestTransportPIN(t *testing.T) {
	c := newCard(t, Options{})
	c.ok(selectAID)
	c.ok("80500000 19 80020003 8106%s 8208%s 910103", testPIN, testSOPIN)
	c.run([]step{
		{"status", "00200081", 0x6984, ""},
		{"login", verifyPIN, 0x6984, ""},
		{"a wrong one costs nothing yet", wrongPIN, 0x6984, ""},
		{"no login", "00D72F03 06 540200005300", 0x6982, ""},
		{"change with a wrong one", "00240081 0C " + otherPIN + otherPIN, 0x63C2, ""},
		{"change", "00240081 0C " + testPIN + otherPIN, 0x9000, ""},
		{"status", "00200081", 0x63C3, ""},
		{"login", "00200081 06 " + otherPIN, 0x9000, ""},
	})
	c.ok("80500000 19 80020003 8106%s 8208%s 910103", testPIN, testSOPIN)
	c.run([]step{
		{"counter", "002C0181 08 " + testSOPIN, 0x9000, ""},
		{"still a transport PIN", "00200081", 0x6984, ""},
		{"a PIN by the SO-PIN", "002C0081 0E " + testSOPIN + otherPIN, 0x9000, ""},
		{"is none", "00200081 06 " + otherPIN, 0x9000, ""},
	})
}

// Counters are stored before the comparison, and a restart gives none back.
func TestCountersSurvive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tok")
	c := create(t, path, Options{})
	c.initialise("")
	for _, s := range []step{
		{"wrong PIN", wrongPIN, 0x63C2, ""},
		{"wrong PIN", wrongPIN, 0x63C1, ""},
		{"wrong PIN", wrongPIN, 0x6983, ""},
		{"wrong SO-PIN", "002C0181 08 3030303030303030", 0x63CE, ""},
		{"wrong SO-PIN", "00240088 10 3030303030303030" + testSOPIN, 0x63CD, ""},
		{"unblocked", "002C0181 08 " + testSOPIN, 0x9000, ""},
	} {
		c.run([]step{s})
		user, so := c.ask("00200081"), c.ask("00200088")
		c = c.reopen()
		c.ok(selectAID)
		if got := c.ask("00200081"); got != user {
			t.Errorf("%s: PIN status %04X, before the restart %04X", s.name, uint16(got), uint16(user))
		}
		if got := c.ask("00200088"); got != so {
			t.Errorf("%s: SO-PIN status %04X, before the restart %04X", s.name, uint16(got), uint16(so))
		}
	}
	if got := c.ask("00200081"); got != 0x63C3 {
		t.Errorf("at the end: %04X", uint16(got))
	}
}

func (c card) ask(command string) apdu.SW {
	c.Helper()
	_, sw := c.send("%s", command)
	return sw
}

// A power cut between the store and the comparison costs the try, even of a
// right PIN: nobody learns anything from it.
func TestCutBeforeComparison(t *testing.T) {
	for _, x := range []struct {
		name, command, status string
		want                  apdu.SW
	}{
		{"right PIN", verifyPIN, "00200081", 0x63C2},
		{"wrong PIN", wrongPIN, "00200081", 0x63C2},
		{"change", "00240081 0C " + testPIN + otherPIN, "00200081", 0x63C2},
		{"change of the SO-PIN", "00240088 10 " + testSOPIN + testSOPIN, "00200088", 0x63CE},
		{"unblock", "002C0181 08 " + testSOPIN, "00200088", 0x63CE},
		{"INITIALIZE", fmt.Sprintf("80500000 15 8106%s 8208%s 910103", testPIN, testSOPIN), "00200088", 0x63CE},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := create(t, filepath.Join(t.TempDir(), "a.tok"), Options{})
			c.initialise("920101")
			c = c.crash(x.command, 1)
			c.ok(selectAID)
			if got := c.ask(x.status); got != x.want {
				t.Errorf("after the cut: %04X, want %04X", uint16(got), uint16(x.want))
			}
			c.ok(verifyPIN) // and it is the old PIN still
		})
	}
}
