package softtoken

import (
	"bytes"
	"testing"
)

// A clone is an equal token, and neither of the two sees what becomes of the
// other.
func TestClone(t *testing.T) {
	c := ready(t, Options{Serial: "SOFT0200001"})
	c.ok("80 48 01 B0 09 9101 99 9004 00000005")
	c.write(0xCF00, []byte("data"))
	before := c.snapshot()
	again := c.clone()
	if !bytes.Equal(again.snapshot(), before) {
		t.Fatalf("%s\nwas %s", again.snapshot(), before)
	}
	again.ok(verifyPIN) // the applet is selected
	again.write(0xCF00, []byte("other"))
	again.ok("80 48 02 B0 03 910110")
	again.want(0x63C2, "00 20 00 81 06 %s", otherPIN)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.snapshot(), before) {
		t.Errorf("%s\nwas %s", c.snapshot(), before)
	}
	c.write(0xCF00, []byte("logged in as before"))
	if gone := again.clone(); gone.Serial() != "" {
		t.Error("the clone of a closed token is one")
	}
}
