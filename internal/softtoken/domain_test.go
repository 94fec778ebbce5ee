package softtoken

import (
	"bytes"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
)

// Fact sheet §2.6: one DKEK of 0, 1 or 2 shares. The KCV shows without login,
// and import needs none.
func TestDKEK(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		c := newCard(t, Options{})
		c.initialise("")
		c.login()
		c.run([]step{
			{"query", "80520000 00", 0x6D00, ""},
			{"import", "80520000 20 " + shareA + " 00", 0x6D00, ""},
			{"create", "80520100 01 01 00", 0x6D00, ""},
			{"unwrap", "80740193 01 00", 0x6D00, ""},
		})
		one, s := byte(1), spec(curve.ByName("P-256"), 0)
		s.Domain = &one
		c.do(0x6A80, generateCommand(1, s))
		c.generate(1, spec(curve.ByName("P-256"), 0)) // keys can be made
		c.run([]step{{"wrap", "80720192 000000", 0x6D00, ""}})
	})
	t.Run("random", func(t *testing.T) {
		c := newCard(t, Options{})
		c.initialise("920100")
		status := c.ok("80520000 00")
		if len(status) != 10 || status[0] != 0 || status[1] != 0 || bytes.Equal(status[2:], make([]byte, 8)) {
			t.Errorf("status %X", status)
		}
		c.run([]step{{"no import", "80520000 20 " + shareA + " 00", 0x6985, ""}})
		c.login()
		c.generate(1, spec(curve.ByName("P-256"), 0))
		blob := c.ok("80720192 000000")
		if !bytes.Equal(blob[:8], status[2:]) {
			t.Errorf("blob under %X, KCV %X", blob[:8], status[2:])
		}
		c.unwrap(2, blob)
		c.initialise("920100")
		if again := c.ok("80520000 00"); bytes.Equal(again, status) {
			t.Error("the random DKEK survived INITIALIZE")
		}
	})
	t.Run("one", func(t *testing.T) {
		c := newCard(t, Options{})
		c.initialise("920101")
		c.run([]step{
			{"query", "80520000 00", 0x9000, "01 01 0000000000000000"},
			{"share too short", "80520000 1F " + shareA[:62] + " 00", 0x6700, ""},
			{"share too long", "80520000 21 " + shareA + "00 00", 0x6700, ""},
			{"no Le", "80520000 20 " + shareA, 0x6700, ""},
			{"another Le", "80520000 20 " + shareA + " 0A", 0x6700, ""},
			{"extended Le", "80520000 000020 " + shareA + " 0000", 0x6700, ""},
			{"query without Le", "80520000", 0x6700, ""},
			{"query with another Le", "80520000 0A", 0x6700, ""},
			{"another slot", "80520001 00", 0x6A86, ""},
			{"import", "80520000 20 20B3EE1CABA5ECA7ECEB6BE51F11BD9A04F5FE9A6B0A1E0A8BC13074D32CF830 00", 0x9000, "01 00 0FB85F69F6EBF256"},
			{"query", "80520000 00", 0x9000, "01 00 0FB85F69F6EBF256"},
			{"nothing outstanding", "80520000 20 " + shareA + " 00", 0x6985, ""},
			{"query", "80520000 00", 0x9000, "01 00 0FB85F69F6EBF256"},
		})
		c.Reset()
		c.ok(selectAID)
		c.run([]step{{"after a reset, no login", "80520000 00", 0x9000, "01 00 0FB85F69F6EBF256"}})
	})
	t.Run("two", func(t *testing.T) {
		c := newCard(t, Options{})
		c.initialise("920102")
		c.login()
		p256 := spec(curve.ByName("P-256"), 0)
		blob := samples(t)["P-256"].blob
		missing := func() {
			t.Helper()
			before := c.snapshot()
			c.do(0x6985, generateCommand(1, p256))
			c.do(0x6985, generateCommand(1, spec(nil, 4096)))
			c.do(0x6985, unwrapCommand(1, blob))
			c.run([]step{{"AES", "804801B0 03 910110", 0x6985, ""}})
			if !bytes.Equal(before, c.snapshot()) {
				t.Error("a refusal changed the token")
			}
		}
		missing()
		c.run([]step{{"first share", "80520000 20 " + shareA + " 00", 0x9000, "02 01 0000000000000000"}})
		missing()
		c.run([]step{
			{"second share", "80520000 20 " + shareB + " 00", 0x9000, "02 00 " + kcvAB},
			{"a third", "80520000 20 " + shareB + " 00", 0x6985, ""},
		})
		c.generate(1, p256)
		c.unwrap(2, blob)
	})
	t.Run("the same share twice", func(t *testing.T) { // the token notices nothing
		c := newCard(t, Options{})
		c.initialise("920102")
		c.run([]step{
			{"first", "80520000 20 " + shareA + " 00", 0x9000, "02 01 0000000000000000"},
			{"again", "80520000 20 " + shareA + " 00", 0x9000, "02 00 66687AADF862BD77"}, // KCV of zeros
		})
	})
	t.Run("classic domains cannot be made or dropped", func(t *testing.T) {
		c := ready(t, Options{})
		c.run([]step{
			{"create", "80520100 01 01 00", 0x6985, ""},
			{"XKEK", "80520200 01 01 00", 0x6A86, ""},
			{"delete", "80520300 00", 0x6985, ""},
			{"clear", "80520400 00", 0x6985, ""},
			{"unknown", "80520500 00", 0x6A86, ""},
			{"as it was", "80520000 00", 0x9000, "02 00 " + kcvAB},
		})
	})
}

// Key domains by tag 97 (fact sheet §2.6, §7.2).
func TestKeyDomains(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("970103")
	c.run([]step{
		{"an empty slot", "80520000 00", 0x6A88, ""},
		{"the last", "80520002 00", 0x6A88, ""},
		{"beyond", "80520003 00", 0x6A86, ""},
		{"a share for nobody", "80520001 20 " + shareA + " 00", 0x6A88, ""},
		{"create without login", "80520101 01 02 00", 0x6982, ""},
		{"delete without login", "80520301 00", 0x6982, ""},
		{"clear without login", "80520401 00", 0x6982, ""},
	})
	c.ok(verifyPIN)
	c.run([]step{
		{"create, no number", "80520101 00", 0x6700, ""},
		{"create, two numbers", "80520101 02 0102 00", 0x6700, ""},
		{"delete with data", "80520301 01 01 00", 0x6700, ""},
		{"delete an empty slot", "80520301 00", 0x6A88, ""},
		{"clear an empty slot", "80520401 00", 0x6A88, ""},
		{"create 1 of 2 shares", "80520101 01 02 00", 0x9000, "02 02 0000000000000000"},
		{"create again", "80520101 01 02 00", 0x6985, ""},
		{"first share", "80520001 20 " + shareA + " 00", 0x9000, "02 01 0000000000000000"},
		{"second share", "80520001 20 " + shareB + " 00", 0x9000, "02 00 " + kcvAB},
		{"create 2 of 1 share", "80520102 01 01 00", 0x9000, "01 01 0000000000000000"},
	})
	one, two, nine := byte(1), byte(2), byte(9)
	s := spec(curve.ByName("P-256"), 0)
	c.generate(1, s) // domain 0 holds no DKEK
	s.Domain = &nine
	c.do(0x6A80, generateCommand(2, s))
	s.Domain = &two
	c.do(0x6985, generateCommand(2, s)) // its share is missing
	s.Domain = &one
	public := c.generate(2, s)
	c.run([]step{
		{"AES in domain 1", "804803B0 06 910110 920101", 0x9000, ""},
		{"AES in domain 9", "804804B0 06 910110 920109", 0x6A80, ""},
		{"not exportable: no DKEK", "80720192 000000", 0x6985, ""},
		{"not exportable: list without 92", "80720392 000000", 0x6985, ""},
		{"domain in the FCP", "00A40000 02 CC02 00", 0x9000, "62 13 81020000 820101 8302CC02 8A0105 A503 920101"},
		{"delete a domain in use", "80520301 00", 0x6985, ""},
	})
	blob := c.ok("80720292 000000")
	if !bytes.Equal(blob[:8], unhex(t, kcvAB)) {
		t.Errorf("blob under %X", blob[:8])
	}
	// UNWRAP finds the slot by the KCV.
	c.unwrap(4, blob)
	if got := c.state.Keys[4].Domain; got != 1 {
		t.Errorf("unwrapped into domain %d", got)
	}
	c.verifyECDSA(4, public)
	// Cleared, the domain keeps its keys, and they work; only the same KEK lets
	// them out again.
	c.run([]step{
		{"clear", "80520401 00", 0x9000, "02 02 0000000000000000"},
		{"no wrap", "80720292 000000", 0x6985, ""},
	})
	c.do(0x6985, unwrapCommand(5, blob))
	c.verifyECDSA(2, public)
	c.run([]step{
		{"another KEK", "80520001 20 " + shareA + " 00", 0x9000, "02 01 0000000000000000"},
		{"another KEK", "80520001 20 " + strings.Repeat("00", 32) + " 00", 0x9000, "*"},
		{"no wrap under that", "80720292 000000", 0x6985, ""},
		{"clear", "80520401 00", 0x9000, "02 02 0000000000000000"},
		{"the first", "80520001 20 " + shareB + " 00", 0x9000, "02 01 0000000000000000"},
		{"KEK", "80520001 20 " + shareA + " 00", 0x9000, "02 00 " + kcvAB},
		{"wrap", "80720292 000000", 0x9000, "*"},
	})
	// Slot 0 gets its DKEK after key 1 was made: that stays where it is.
	c.run([]step{
		{"create with a random DKEK", "80520100 01 00 00", 0x9000, "*"},
		{"key 1", "80720192 000000", 0x6985, ""},
		{"delete 1", "00E40200 02 CC01", 0x9000, ""},
		{"clear the random one", "80520400 00", 0x9000, "01 01 0000000000000000"},
		{"delete the domain", "80520300 00", 0x9000, ""},
		{"empty", "80520000 00", 0x6A88, ""},
	})
	if blobs := c.state.Keys[2].KEK; !bytes.Equal(blobs, unhex(t, kcvAB)) {
		t.Errorf("key 2 under %X", blobs)
	}
	c.want(apdu.Conditions, "80520301 00")
}
