package backup

import (
	"hsmbackup/internal/faults"
	"slices"
	"strings"
	"testing"
)

func codes(list []faults.Fault) string {
	var names []string
	for _, f := range list {
		names = append(names, f.Code)
	}
	return strings.Join(names, " ")
}

func TestFaultsByVersion(t *testing.T) {
	for firmware, want := range map[string]string{
		"2.6": "", "3.0": "", "3.1": "firmware-lists firmware-weak-aes", "3.2": "firmware-weak-aes", "3.3": "", "3.10": "", "4.1": "", "": "", "x": "",
	} {
		if got := codes(faults.FirmwareFaults(firmware)); got != want {
			t.Errorf("firmware %q: %q, want %q", firmware, got, want)
		}
	}
	for version, want := range map[string]string{
		"0.15.0":    "opensc-no-unblock opensc-threshold opensc-long-unwrap opensc-exit-zero",
		"0.18.0":    "opensc-rereads opensc-long-unwrap opensc-exit-zero",
		"0.23.0":    "opensc-long-unwrap opensc-exit-zero",
		"0.24.0":    "opensc-truncates opensc-exit-zero",
		"0.25.0rc1": "opensc-truncates opensc-exit-zero",
		"0.26.1":    "opensc-truncates opensc-exit-zero",
		"0.27.0":    "opensc-exit-zero",
		"1.0":       "opensc-exit-zero",
		"":          "",
	} {
		if got := codes(faults.OpenSCFaults(version)); got != want {
			t.Errorf("OpenSC %q: %q, want %q", version, got, want)
		}
	}
	for name, want := range map[string]string{
		"REINER SCT cyberJack RFID komfort (0000000000) 00 00": "reader-cut",
		"HID Global OMNIKEY 3x21 Smart Card Reader 00 00":      "reader-short",
		"Nitrokey Nitrokey HSM (DENK02009140000         ) 00":  "",
	} {
		if got := codes(faults.ReaderFaults(name)); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := codes(faults.UpdateFaults()); !strings.Contains(got, faults.FaultFullToken) || !strings.Contains(got, "update-new-serial") {
		t.Errorf("updates: %q", got)
	}
}

// Each has what a reader of the list needs, and a code of its own.
func TestFaultsWhole(t *testing.T) {
	var seen []string
	for _, f := range faults.Faults() {
		if f.Code == "" || f.Where == "" || f.What == "" || f.Do == "" || !strings.HasPrefix(f.Source, "https://") || f.Part == faults.InReader && len(f.Names) == 0 {
			t.Errorf("%+v is not whole", f)
		}
		if slices.Contains(seen, f.Code) || faults.FindFault(f.Code).What != f.What {
			t.Errorf("%s: not the only one", f.Code)
		}
		seen = append(seen, f.Code)
	}
	for _, code := range []string{faults.FaultLists, faults.FaultWeakAES, faults.FaultFullToken, faults.FaultCutReader, faults.FaultTruncating} {
		if !slices.Contains(seen, code) {
			t.Errorf("%s is not in the list", code)
		}
	}
	if faults.FindFault("no-such").Code != "" {
		t.Error("found what is not there")
	}
}
