package cvc

import (
	"testing"
	"time"
)

func TestMaker(t *testing.T) {
	for _, c := range []struct{ device, issuer, root, want string }{
		{"DENK040414400000", "DEDINK0400001", "DESRCACC100001", "a Nitrokey HSM (CardContact)"},
		{"DECC000000100000", "DECM00010000001", "DESRCACC100001", "a SmartCard-HSM of CardContact"},
		{"UTCC000000100000", "UTCM00010000001", "UTSRCACC100001", "a test device of CardContact"},
		{"DECA000000100000", "DECM000100001", "DECA00001", "a development card of CardContact"},
		{"ESPICOHSMTR00001", "ESPICOHSMDV00001", "ESPICOHSMCA00001", picoHSM},
		{"ESPICOHSM0100001", "ESPICOHSM0100001", "", picoHSM},
		{"SOFT020000100000", "SOFTCA0200001", "SOFTROOT00001", MakerSoftware},
		{"XX00000000000000", "XXCA00000001", "XXROOT0000001", ""},
	} {
		chain := &Chain{Device: &Certificate{CHR: c.device, CAR: c.issuer}}
		if c.root != "" {
			chain.Issuer = &Certificate{CHR: c.issuer, CAR: c.root}
		}
		if got := chain.Maker(); got != c.want {
			t.Errorf("%s: %q, want %q", c.device, got, c.want)
		}
	}
}

// The last day counts, and an expired chain verifies as before.
func TestExpired(t *testing.T) {
	chain, err := ParseChain(golden(t, "DENK0404144.2f02.hex"))
	if err != nil {
		t.Fatal(err)
	}
	day := func(y int, m time.Month, d, hour int) time.Time { return time.Date(y, m, d, hour, 0, 0, 0, time.UTC) }
	for now, want := range map[time.Time][]*Certificate{
		day(2026, 9, 30, 12): nil,
		day(2031, 5, 27, 23): nil,
		day(2031, 5, 28, 0):  {chain.Device},
		day(2032, 10, 30, 0): {chain.Device, chain.Issuer},
	} {
		got := chain.Expired(now)
		if len(got) != len(want) {
			t.Errorf("%s: %d expired, want %d (issuer until %s)", now, len(got), len(want), chain.Issuer.To)
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: %s", now, got[i].CHR)
			}
		}
	}
	if _, err := chain.Verify(VendorRoots()); err != nil {
		t.Error(err)
	}
	request := &Chain{Device: &Certificate{CHR: "ESPICOHSM0100001"}}
	if list := request.Expired(day(2099, 1, 1, 0)); len(list) != 0 {
		t.Error("what has no date has expired")
	}
}
