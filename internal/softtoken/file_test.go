package softtoken

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
)

func TestSelectFile(t *testing.T) {
	c := ready(t, Options{})
	c.ok("00D7CF01 09 54020000 5303 AABBCC")
	c.ok("00D7CD01 09 54020000 5303 AABBCC")
	counter := uint32(258)
	s := spec(curve.ByName("P-256"), 0)
	s.Counter, s.Algorithms = &counter, []byte{0x70, 0x92}
	c.generate(7, s)
	c.ok(selectAID)
	c.run([]step{
		{"a file", "00A40000 02 CF01 00", 0x9000, "62 0E 81020003 820101 8302CF01 8A0105"},
		{"P2=04", "00A40004 02 CF01 00", 0x9000, "62 0E 81020003 820101 8302CF01 8A0105"},
		{"no answer wanted", "00A4000C 02 CF01", 0x9000, ""},
		{"no answer wanted, Le", "00A4000C 02 CF01 00", 0x6700, ""},
		{"protected, not logged in", "00A40000 02 CD01 00", 0x9000, "62 0E 81020003 820101 8302CD01 8A0105"},
		{"2F02", "00A40000 02 2F02 00", 0x9000, fmt.Sprintf("62 0E 8102%04X 820101 83022F02 8A0105", len(c.state.DeviceCertificates))},
		{"a key", "00A40000 02 CC07 00", 0x9000, "62 1D 81020000 820101 8302CC07 8A0105 A50D 900400000102 91027092 920100"},
		{"the device key", "00A40000 02 CC00 00", 0x9000, "62 0E 81020000 820101 8302CC00 8A0105"},
		{"no such file", "00A40000 02 CF02 00", 0x6A82, ""},
		{"no such key", "00A40000 02 CC08 00", 0x6A82, ""},
		{"no label", "00A40000 02 2F03 00", 0x6A82, ""},
		{"the root", "00A40000 02 3F00 00", 0x6A82, ""},
		{"EF.DIR by path", "00A40800 02 2F00 00", 0x6A86, ""},
		{"another application by path", "00A40800 02 5015 00", 0x6A86, ""},
		{"another P2", "00A40001 02 CF01 00", 0x6A86, ""},
		{"one byte", "00A40000 01 CF 00", 0x6700, ""},
		{"no Le", "00A40000 02 CF01", 0x6700, ""},
		{"another Le", "00A40000 02 CF01 20", 0x6700, ""},
		{"extended Le", "00A40000 000002 CF01 0000", 0x6700, ""},
	})
}

func TestReadUpdate(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("")
	c.run([]step{
		{"no login, no write", "00D7CF01 09 54020000 5303 AABBCC", 0x6982, ""},
		{"login", verifyPIN, 0x9000, ""},
		{"no file selected: read", "00B10000 04 54020000 00", 0x6A82, ""},
		{"no file selected: write", "00D70000 06 54020000 5300", 0x6A82, ""},
		{"no such file", "00B1CF01 04 54020000 00", 0x6A82, ""},
		{"create", "00D7CF01 06 54020000 5300", 0x9000, ""},
		{"empty", "00B1CF01 04 54020000 00", 0x6282, ""},
		{"past the empty end", "00B1CF01 04 54020001 00", 0x6B00, ""},
		{"the one that was made is current", "00D70000 09 54020000 5303 AABBCC", 0x9000, ""},
		{"append", "00D70000 0A 54020003 5304 DDEEFF00", 0x9000, ""},
		{"all", "00B1CF01 04 54020000 00", 0x6282, "AABBCCDDEEFF00"},
		{"exactly all", "00B1CF01 04 54020000 07", 0x9000, "AABBCCDDEEFF00"},
		{"a part", "00B1CF01 04 54020002 03", 0x9000, "CCDDEE"},
		{"past the end", "00B1CF01 04 54020006 02", 0x6282, "00"},
		{"extended Le", "00B1CF01 000004 54020006 0000", 0x6282, "00"},
		{"at the end", "00B1CF01 04 54020007 01", 0x6282, ""},
		{"behind the end", "00B1CF01 04 54020008 01", 0x6B00, ""},
		{"far behind", "00B1CF01 04 5402FFFF 00", 0x6B00, ""},
		{"overwrite a part", "00D7CF01 08 54020001 5302 1122", 0x9000, ""},
		{"it never shrinks", "00D7CF01 07 54020000 5301 99", 0x9000, ""},
		{"all", "00B10000 04 54020000 00", 0x6282, "991122DDEEFF00"},
		{"a gap", "00D7CF01 07 54020008 5301 99", 0x6B00, ""},
		{"a gap in a new file", "00D7CF02 07 54020001 5301 99", 0x6B00, ""},
		{"which is not made", "00B1CF02 04 54020000 00", 0x6A82, ""},
		{"the end past all", "00D7CF01 07 5402FFFF 5301 99", 0x6B00, ""},
		{"long form of the length", "00D7CF01 0A 54020000 538103 010203", 0x9000, ""},
		{"read: no Le", "00B1CF01 04 54020000", 0x6700, ""},
		{"read: no offset", "00B1CF01 00", 0x6A80, ""},
		{"read: offset of one byte", "00B1CF01 03 540100 00", 0x6A80, ""},
		{"read: another tag", "00B1CF01 04 53020000 00", 0x6A80, ""},
		{"read: more", "00B1CF01 06 54020000 5300 00", 0x6A80, ""},
		{"read: half a TLV", "00B1CF01 03 540200 00", 0x6A80, ""},
		{"write: no data", "00D7CF01 04 54020000", 0x6A80, ""},
		{"write: nothing", "00D7CF01", 0x6A80, ""},
		{"write: the wrong way round", "00D7CF01 06 5300 54020000", 0x6A80, ""},
		{"write: too much", "00D7CF01 08 54020000 5300 5300", 0x6A80, ""},
		{"write: offset of one byte", "00D7CF01 05 540100 5300", 0x6A80, ""},
		{"write: half a TLV", "00D7CF01 06 54020000 5301", 0x6A80, ""},
		{"2F02 is the factory's", "00D72F02 07 54020000 5301 99", 0x6982, ""},
		{"keys have no content: write", "00D7CC01 07 54020000 5301 99", 0x6982, ""},
		{"keys have no content: read", "00B1CC00 04 54020000 00", 0x6982, ""},
		{"no such key", "00B1CC09 04 54020000 00", 0x6982, ""},
		{"a file of nobody's", "00D71234 07 54020000 5301 99", 0x6982, ""},
	})
	for _, fid := range []string{"C401", "C801", "C900", "CA00", "CB00", "CD00", "CE01", "CF00", "2F03", "2F10"} {
		c.ok("00D7%s 07 54020000 5301 AA", fid)
	}
	c.run([]step{
		{"ENUMERATE, keys last, no scratch", "80580000 000000", 0x9000, "2F02 2F03 C401 C801 C900 CA00 CB00 CD00 CE01 CF00 CF01 CC00"},
		{"the scratch file cannot be read", "00B12F10 04 54020000 00", 0x6982, ""},
		{"protected", "00B1CD00 04 54020000 00", 0x6282, "AA"},
		{"logged out", selectAID, 0x9000, "*"},
		{"protected", "00B1CD00 04 54020000 00", 0x6982, ""},
		{"select it", "00A40000 02 CD00 00", 0x9000, "*"},
		{"protected", "00B10000 04 54020000 00", 0x6982, ""},
		{"protected, and not there", "00B1CD77 04 54020000 00", 0x6982, ""},
		{"public", "00B1CF00 04 54020000 00", 0x6282, "AA"},
		{"read makes current", "00B10000 04 54020000 01", 0x9000, "AA"},
	})
}

func TestEnumerateLe(t *testing.T) {
	c := newCard(t, Options{})
	c.initialise("")
	c.run([]step{
		{"extended", "80580000 000000", 0x9000, "2F02 CC00"},
		{"short Le", "80580000 00", 0x6700, ""},
		{"no Le", "80580000", 0x6700, ""},
		{"another extended Le", "80580000 000400", 0x6700, ""},
		{"data", "80580000 000001 00 0000", 0x6700, ""},
		{"P1", "80580100 000000", 0x6A86, ""},
		{"P2", "80580001 000000", 0x6A86, ""},
	})
}

func TestDelete(t *testing.T) {
	c := ready(t, Options{})
	c.unwrap(1, samples(t)["P-256"].blob)
	c.write(0xC401, []byte{1})
	c.write(0xCE01, []byte{2})
	c.ok(selectAID)
	c.run([]step{
		{"not logged in", "00E40200 02 C401", 0x6982, ""},
		{"login", verifyPIN, 0x9000, ""},
		{"P1", "00E40000 02 C401", 0x6A86, ""},
		{"P2", "00E40201 02 C401", 0x6A86, ""},
		{"no FID", "00E40200", 0x6700, ""},
		{"three bytes", "00E40200 03 C40100", 0x6700, ""},
		{"2F02", "00E40200 02 2F02", 0x6982, ""},
		{"the device key", "00E40200 02 CC00", 0x6982, ""},
		{"a key that is not there", "00E40200 02 CC02", 0x6A82, ""},
		{"a file that is not there", "00E40200 02 C402", 0x6A82, ""},
		{"the key alone", "00E40200 02 CC01", 0x9000, ""},
		{"files stay", "80580000 000000", 0x9000, "2F02 C401 CE01 CC00"},
		{"select", "00A40000 02 C401 00", 0x9000, "*"},
		{"delete it, without garbage collection", "00E40280 02 C401", 0x9000, ""},
		{"nothing is selected now", "00B10000 04 54020000 00", 0x6A82, ""},
		{"the other", "00E40200 02 CE01", 0x9000, ""},
		{"label", "00D72F03 06 540200005300", 0x9000, ""},
		{"label", "00E40200 02 2F03", 0x9000, ""},
		{"nothing left", "80580000 000000", 0x9000, "2F02 CC00"},
	})
}

// The scratch file begins anew at offset 0: no tail of a longer blob.
func TestScratch(t *testing.T) {
	c := ready(t, Options{})
	long, short := samples(t)["RSA-2048"].blob, samples(t)["P-256"].blob
	c.run([]step{{"nothing written", "80740193", 0x6A82, ""}})
	c.write(fidScratch, long)
	c.ok("80740193")
	c.write(fidScratch, short)
	c.ok("80740293")
	c.ok("80740393") // it stays until overwritten
	c.Reset()
	c.login()
	c.ok("80740493") // even over a reset
	c.ok("00D72F10 07 54020000 5301 AA")
	c.run([]step{
		{"no blob", "80740593", 0x6A80, ""},
		{"deleted", "00E40200 02 2F10", 0x9000, ""},
		{"nothing there", "80740593", 0x6A82, ""},
		{"a gap", "00D72F10 07 54020001 5301 AA", 0x6B00, ""},
	})
}

// 76 KB: the numbers of the vendor (fact sheet §9, 30).
func TestCapacity(t *testing.T) {
	for name, n := range map[string]int{"RSA-4096": 19, "RSA-2048": 38, "P-521": 149} {
		c := ready(t, Options{})
		blob := samples(t)[name].blob
		c.unwrap(1, blob)
		for i := 2; i <= n; i++ { // as UNWRAP would, only faster
			k := *c.state.Keys[1]
			c.state.Keys[byte(i)] = &k
		}
		before := c.snapshot()
		c.do(apdu.NoMemory, unwrapCommand(byte(n+1), blob))
		c.do(apdu.NoMemory, generateCommand(byte(n+1), spec(nil, 4096)))
		if !bytes.Equal(before, c.snapshot()) {
			t.Errorf("%s: a refusal for want of memory changed the token", name)
		}
		c.ok("00E40200 02 CC%02X", n)
		c.unwrap(byte(n), blob)
	}
}

func TestMemory(t *testing.T) {
	c := newCard(t, Options{Memory: 1024})
	c.initialise("920100")
	c.login()
	free := func() int {
		b := c.ok("80500000 00")
		return int(b[2])<<8 | int(b[3])
	}
	c.run([]step{{"all free", "80500000 00", 0x9000, "00000400 00 03 06"}})
	c.ok("00D7CF01 09 54020000 5303 AABBCC")
	if got := free(); got != 1024-3-fileOverhead {
		t.Errorf("free: %d", got)
	}
	c.ok("00D7CF01 09 54020000 5303 DDEEFF") // rewriting costs nothing
	if got := free(); got != 1024-3-fileOverhead {
		t.Errorf("free after a rewrite: %d", got)
	}
	before := c.snapshot()
	big := strings.Repeat("00", 1024)
	c.run([]step{
		{"too large a file", "00D7CF02 000408 54020000 53820400" + big, 0x6A84, ""},
		{"too large to grow", "00D7CF01 000408 54020003 53820400" + big, 0x6A84, ""},
		{"too large for scratch", "00D72F10 000408 54020000 53820400" + big, 0x6A84, ""},
		{"AES fits", "804801B0 03 910110", 0x9000, ""},
	})
	c.ok("00E40200 02 CC01")
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("a refusal for want of memory changed the token")
	}
	c.do(apdu.NoMemory, generateCommand(1, spec(nil, 1024)))
	c.do(apdu.NoMemory, generateCommand(1, spec(curve.ByName("P-521"), 0))) // key and request together do not fit
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("a refusal for want of memory changed the token")
	}
	c.generate(1, spec(curve.ByName("P-256"), 0))
	c.run([]step{{"AES-256 no longer fits", "804802B2 03 910110", 0x6A84, ""}, {"an empty file", "00D7CF07 06 540200005300", 0x9000, ""}})
}

// A file has at most 32767 bytes, whatever the memory.
func TestLongFile(t *testing.T) {
	c := newCard(t, Options{Memory: 1 << 20})
	c.initialise("")
	c.login()
	part := strings.Repeat("5A", 1024)
	for at := 0; at < 31*1024; at += 1024 {
		c.ok("00D7CF01 000408 5402%04X 53820400 %s", at, part)
	}
	c.want(apdu.NoMemory, "00D7CF01 000408 5402%04X 53820400 %s", 31*1024, part)
	if got := len(c.read(0xCF01)); got != 31*1024 {
		t.Errorf("%d bytes", got)
	}
}
