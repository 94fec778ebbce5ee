package softtoken

import (
	"bytes"
	"context"
	"testing"

	"pgregory.net/rapid"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
)

// known are the status words of the fact sheet (§2.1); the token gives no
// other.
var known = map[apdu.SW]bool{
	apdu.OK: true, apdu.EndOfFile: true, apdu.WrongLength: true, apdu.NotAuthorised: true, apdu.Blocked: true, apdu.NotUsable: true,
	apdu.Conditions: true, apdu.NotAllowed: true, apdu.WrongData: true, apdu.NotSupported: true, apdu.FileNotFound: true, apdu.NoMemory: true,
	apdu.WrongParameters: true, apdu.NotFound: true, apdu.OffsetPastEnd: true, apdu.UnknownINS: true, apdu.UnknownCLA: true,
}

// fuzzBase is small: there is no room for RSA keys, which take long to make.
func fuzzBase(t testing.TB) card {
	c := newCard(t, Options{Memory: 1850})
	c.initialise("970102")
	c.login()
	c.ok("80520100 01 01 00")
	c.ok("80520000 20 %s 00", shareA)
	c.generate(1, spec(curve.ByName("P-256"), 0))
	c.ok("804802B0 00")
	c.ok("00D7CD01 09 54020000 5303 AABBCC")
	c.ok("00D7C401 09 54020000 5303 AABBCC")
	c.ok("00D70000 09 54020000 5303 AABBCC")
	if c.state.free() >= 1024 {
		t.Fatal("room for an RSA key")
	}
	return c
}

// fuzzSeeds has one of each command that works on the base, and some that do
// not.
func fuzzSeeds(t testing.TB, c card) [][]byte {
	t.Helper()
	p256 := curve.ByName("P-256")
	aesBlob := c.ok("80720292 000000")
	seeds := [][]byte{
		mustBytes(t, generateCommand(3, spec(p256, 0))), mustBytes(t, generateCommand(3, spec(nil, 1024))),
		mustBytes(t, useCommand(0x68, 1, 0x73, message)), mustBytes(t, useCommand(0x68, 1, 0x70, make([]byte, 32))),
		mustBytes(t, useCommand(0x62, 1, 0x80, p256.Marshal(p256.Gx, p256.Gy))), mustBytes(t, useCommand(0x78, 2, 0x11, make([]byte, 32))),
		mustBytes(t, useCommand(0x78, 2, 0x18, message)), mustBytes(t, unwrapCommand(4, aesBlob)),
		append(unhex(t, "00860000 45 7C438041"), append(p256.Marshal(p256.Gx, p256.Gy), 0)...),
	}
	for _, s := range []string{
		selectAID, verifyPIN, wrongPIN, mse, "00200081", "00200088", "00A40000 02 C401 00", "00A40000 02 CC02 00", "00A40000 02 2F02 00",
		"00240081 0C" + testPIN + otherPIN, "00240088 10" + testSOPIN + testSOPIN, "002C0081 0E" + testSOPIN + testPIN, "002C0181 08" + testSOPIN,
		"80500000 1C 80020001 8106363438323139 82083537363231383830 910103 920101", "80500000 00", "80520000 00", "80520001 00",
		"80520000 20" + shareA + "00", "80520101 01 02 00", "80520300 00", "80520400 00", "80580000 000000", "00840000 08",
		"00B1CD01 04 54020000 00", "00B12F02 04 54020000 00", "00B10000 04 54020001 02", "00D7C402 07 54020000 5301 AA", "00D7C401 07 54020003 5301 AA",
		"00D72F10 09 54020000 5303 AABBCC", "00E40200 02 CC01", "00E40200 02 C401", "804803B2 09 9102 1092 900400000002", "80720192 000000", "80740393",
		"80540000 00", "805A0181 00",
	} {
		seeds = append(seeds, unhex(t, s))
	}
	return seeds
}

// checkStep sends anything and looks at what must hold for everything: an
// answer, a status word that is known, a state that a file could hold, and
// nothing changed by what was refused but the counters of PINs.
func checkStep(t interface {
	Helper()
	Fatalf(string, ...any)
}, c *Token, command []byte) {
	t.Helper()
	forget := func() []byte {
		s := *c.state
		if s.PIN != nil && s.SO != nil {
			pin, so := *s.PIN, *s.SO
			pin.Tries, so.Tries = 0, 0
			s.PIN, s.SO = &pin, &so
		}
		return (&Token{state: &s}).snapshot()
	}
	before, original := forget(), bytes.Clone(command)
	raw, err := c.Transmit(context.Background(), command)
	if err != nil || len(raw) < 2 {
		t.Fatalf("%X: %X, %v", command, raw, err)
	}
	if !bytes.Equal(original, command) {
		t.Fatalf("%X: the command was written to", original)
	}
	r, err := apdu.ParseResponse(raw)
	if err != nil {
		t.Fatalf("%X: %v", command, err)
	}
	if _, tries := r.SW.TriesLeft(); !known[r.SW] && !tries {
		t.Fatalf("%X: %04X", command, uint16(r.SW))
	}
	if !r.SW.HasData() && len(r.Data) > 0 {
		t.Fatalf("%X: %X with %04X", command, r.Data, uint16(r.SW))
	}
	if r.SW != apdu.OK && !bytes.Equal(before, forget()) {
		t.Fatalf("%X: refused with %04X, and the token has changed", command, uint16(r.SW))
	}
	if err := c.state.check(); err != nil {
		t.Fatalf("%X: the %v of the state cannot be right", command, err)
	}
	if c.state.used() > c.state.Memory {
		t.Fatalf("%X: %d bytes of %d are used", command, c.state.used(), c.state.Memory)
	}
	if c.loggedIn && (!c.selected || !c.state.Initialised) {
		t.Fatalf("%X: logged in to nothing", command)
	}
}

func FuzzTransmit(f *testing.F) {
	base := fuzzBase(f)
	for _, s := range fuzzSeeds(f, base) {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, command []byte, login bool) {
		c := card{t, base.Token}.clone() // several at a time, of one that nobody changes
		c.loggedIn = login
		checkStep(t, c.Token, command)
		checkStep(t, c.Token, command) // and again, on what that has made
		c.Reset()
		checkStep(t, c.Token, command)
	})
}

// Sequences of commands, valid ones and such with something changed.
func TestSequences(t *testing.T) {
	base := fuzzBase(t)
	seeds := fuzzSeeds(t, base)
	rapid.Check(t, func(r *rapid.T) {
		c := base.clone()
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			command := bytes.Clone(rapid.SampledFrom(seeds).Draw(r, "command"))
			switch rapid.IntRange(0, 5).Draw(r, "change") {
			case 0:
				if i := rapid.IntRange(0, len(command)-1).Draw(r, "at"); i < len(command) {
					command[i] ^= 1 << rapid.IntRange(0, 7).Draw(r, "bit")
				}
			case 1:
				command = command[:rapid.IntRange(0, len(command)).Draw(r, "length")]
			case 2:
				command = append(command, rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(r, "more")...)
			case 3:
				command[2], command[3] = rapid.Byte().Draw(r, "P1"), rapid.Byte().Draw(r, "P2")
			}
			checkStep(r, c.Token, command)
		}
	})
}
