package softtoken

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
)

func TestUpdateRefused(t *testing.T) {
	for name, prepare := range map[string]func(card){
		"key":         func(c card) { c.unwrap(1, samples(c)["P-256"].blob) },
		"description": func(c card) { c.write(0xC401, []byte{0x30}) },
		"certificate": func(c card) { c.write(0xCE01, []byte{0x30}) },
		"CA":          func(c card) { c.write(0xCA00, []byte{0x30}) },
		"data":        func(c card) { c.write(0xCF00, []byte{0x30}) },
		"secret data": func(c card) { c.write(0xCD00, []byte{0x30}) },
	} {
		c := ready(t, Options{})
		prepare(c)
		before := c.snapshot()
		if err := c.Update("3.6", "SOFT0400001"); !errors.Is(err, ErrHoldsObjects) {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before, c.snapshot()) {
			t.Errorf("%s: a refused update changed the token", name)
		}
		c.want(apdu.OK, "00200081") // nor the session
	}
	c := ready(t, Options{Serial: "SOFT0200001"})
	before := c.snapshot()
	for _, x := range []struct{ firmware, serial string }{
		{"1.0", "SOFT0400001"}, {"", "SOFT0400001"}, {"3.6", "SOFT040001"}, {"3.6", "soft0400001"}, {"3.6", "SOFT0200001"},
	} {
		if err := c.Update(x.firmware, x.serial); !errors.Is(err, ErrOption) {
			t.Errorf("%q %q: %v", x.firmware, x.serial, err)
		}
	}
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("a refused update changed the token")
	}
}

func TestUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tok")
	c := create(t, path, Options{Firmware: "2.6", Serial: "SOFT0200001"})
	c.initialise("920101")
	c.login()
	c.write(fidTokenInfo, []byte("label")) // the label is no object
	c.write(fidScratch, []byte("scratch"))
	old, oldRoots := c.read(fidDevice), c.Roots()
	if err := c.Update("3.6", "SOFT0400001"); err != nil {
		t.Fatal(err)
	}
	check := func(serial, firmware, issuer string) {
		t.Helper()
		if c.Serial() != serial || c.Firmware() != firmware {
			t.Errorf("serial %s, firmware %s", c.Serial(), c.Firmware())
		}
		c.run([]step{
			{"reset", "00200081", 0x6D00, ""},
			{"SELECT", selectAID, 0x9000, "*"},
			{"uninitialised", "00200081", 0x6A88, ""},
			{"SO-PIN forgotten", "00200088", 0x6A88, ""},
			{"DKEK gone", "80520000 00", 0x6D00, ""},
			{"files gone", "80580000 000000", 0x9000, "2F02 CC00"},
		})
		ef := c.read(fidDevice)
		chain, err := cvc.ParseChain(ef)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chain.Verify(c.Roots()); err != nil {
			t.Error(err)
		}
		if bytes.Equal(ef, old) || chain.Serial() != serial || chain.Issuer.CHR != issuer || chain.Device.CAR != issuer {
			t.Errorf("certificates: serial %s, issuer %s", chain.Serial(), chain.Issuer.CHR)
		}
		before, err := cvc.ParseChain(old)
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := chain.DeviceKey(); a != nil {
			if b, _ := before.DeviceKey(); a.Equal(b) {
				t.Error("the device key is the old one")
			}
		}
		old = ef
	}
	check("SOFT0400001", "3.6", "SOFTCA0400002")
	if c.state.APDULimit != 1232 {
		t.Errorf("APDU limit %d", c.state.APDULimit)
	}
	c = c.reopen()
	c.want(apdu.UnknownINS, "00200081")
	if c.Serial() != "SOFT0400001" || !c.Roots()[0].Key.Equal(oldRoots[0].Key) {
		t.Errorf("after reopening: %s", c.Serial())
	}
	// A serial of its own goes with the next issuer.
	if err := c.Update("4.1", ""); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(c.Serial(), "SOFT05") {
		t.Errorf("serial %s", c.Serial())
	}
	check(c.Serial(), "4.1", "SOFTCA0500003")
	// A new SO-PIN: the first INITIALIZE after an update sets it.
	c.ok("80500000 15 8106%s 8208 0102030405060708 910103", testPIN)
	c.want(0x6986, "80500000 15 8106%s 8208%s 910103", testPIN, testSOPIN)
	for _, odd := range []string{"SOFTAB00001", "SOFT9900001"} {
		d := newCard(t, Options{Serial: odd})
		if err := d.Update("3.6", ""); err != nil || !validSerial.MatchString(d.Serial()) || d.Serial() == odd {
			t.Errorf("%s: %s, %v", odd, d.Serial(), err)
		}
	}
}

func TestUpdateKeepsLimits(t *testing.T) {
	c := newCard(t, Options{Firmware: "2.6", APDULimit: 600, ReaderCut: 1014, Memory: 4096, CRTExport: true})
	if err := c.Update("4.1", ""); err != nil {
		t.Fatal(err)
	}
	if s := c.state; s.APDULimit != 600 || s.ReaderCut != 1014 || s.Memory != 4096 || !s.CRTExport {
		t.Errorf("%d %d %d %v", s.APDULimit, s.ReaderCut, s.Memory, s.CRTExport)
	}
}

func TestClosed(t *testing.T) {
	c := newCard(t, Options{})
	key := c.state.DeviceKey
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Transmit(context.Background(), []byte{0, 0x20, 0, 0x81}); !errors.Is(err, apdu.ErrGone) {
		t.Errorf("Transmit: %v", err)
	}
	if err := c.Update("3.6", ""); !errors.Is(err, apdu.ErrGone) {
		t.Errorf("Update: %v", err)
	}
	c.Reset()
	c.SetFault(nil)
	if c.Serial() != "" || c.Firmware() != "" || c.Roots() != nil || len(c.ATR()) != 24 {
		t.Error("a closed token still says who it is")
	}
	if !bytes.Equal(key, make([]byte, len(key))) {
		t.Error("the device key was not wiped")
	}
}

// Every token has a root of its own, and says SOFTWARE by its name.
func TestRoots(t *testing.T) {
	a, b := newCard(t, Options{}), newCard(t, Options{})
	ra, rb := a.Roots()[0], b.Roots()[0]
	if ra.Key.Equal(rb.Key) || ra.CHR != rb.CHR || !strings.HasPrefix(ra.CHR, "SOFTROOT") || ra.Kind != cvc.RootSoftware {
		t.Errorf("%+v, %+v", ra, rb)
	}
	chain, err := cvc.ParseChain(a.state.DeviceCertificates)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chain.Verify(b.Roots()); !errors.Is(err, cvc.ErrUntrusted) {
		t.Errorf("verified under another token's root: %v", err)
	}
	if _, err := chain.Verify(cvc.VendorRoots()); !errors.Is(err, cvc.ErrUntrusted) {
		t.Errorf("verified under the vendor's root: %v", err)
	}
	if !strings.HasPrefix(chain.Issuer.CAR, "SOFTROOT") || !strings.HasPrefix(chain.Issuer.CHR, "SOFTCA") {
		t.Errorf("issuer %s of %s", chain.Issuer.CHR, chain.Issuer.CAR)
	}
}
