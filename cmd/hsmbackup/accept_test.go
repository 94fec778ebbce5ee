package main

import (
	"os"
	"strings"
	"testing"
)

// A key that can never come back is counted as such wherever keys are counted.
func TestFault09Accepted(t *testing.T) {
	workIn(t)
	for name, secret := range map[string]string{"PIN": "648219\n", "SO": "3537363231383830\n"} {
		if err := os.WriteFile(name, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	doLine(t, 0, "soft new n.tok --firmware 3.5 --serial SOFT0200002")
	doLine(t, 0, "init --token soft:n.tok --no-dkek --yes --pin file:PIN --so-pin file:SO")
	doLine(t, 0, "soft keygen n.tok --type ec:prime256v1 --label throwaway --pin file:PIN")
	doLine(t, 3, "backup --token soft:n.tok --pin file:PIN")
	doLine(t, 0, "accept throwaway --reason disposable --token soft:n.tok")
	for _, c := range []struct{ line, says, never string }{
		{"backup --token soft:n.tok --pin file:PIN", "0 of 1 key restorable, 1 accepted as not exportable", "1 of 1"},
		{"check", "nothing to prove: no key but such as were accepted", "1 of 1"},
		{"verify --token soft:n.tok --pin file:PIN", "nothing to prove: no key but such as were accepted", "1 of 1"},
		{"status --token soft:n.tok", "1 key, 1 not exported", "1 key  "},
		{"list", "1 key, 1 not exported", "1 key  "},
	} {
		stdout, _ := doLine(t, 0, c.line)
		if !strings.Contains(stdout, c.says) || strings.Contains(stdout, c.never) {
			t.Errorf("%s: %s", c.line, stdout)
		}
	}
	doLine(t, 0, "soft new spare.tok --firmware 3.5 --serial SOFT0200003")
	doLine(t, 0, "init --token soft:spare.tok --no-dkek --yes --pin file:PIN --so-pin file:SO")
	stdout, _ := doLine(t, 3, "restore --from SOFT0200002 --token soft:spare.tok --pin file:PIN --yes")
	if !strings.Contains(stdout, "0 of 1 key is on SOFT0200003") {
		t.Errorf("restore: %s", stdout)
	}
}
