package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"hsmbackup/internal/console"
)

// TestFault10AlteredEntry (issue 9, fault 10): one altered byte in one entry of the
// log costs that entry. Every verb goes on with what is whole, names what is not,
// advises something else than itself, and ends with 5.
func TestFault10AlteredEntry(t *testing.T) {
	fullToken(t)
	b, err := os.ReadFile("c.db")
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.ReplaceAll(b, []byte(`"origin":"init"`), []byte(`"origin":"inix"`))
	if bytes.Equal(b, altered) {
		t.Fatal("no entry to alter")
	}
	shares := " --share p/a.txt --share p/b.txt"
	runs(t, 0, "", "soft new spare.tok --serial SOFT0400002")
	copyFile(t, "old.tok", "whole.tok")
	copyFile(t, "spare.tok", "fresh.tok")
	for _, line := range []string{
		"status --token soft:old.tok", "check", "list", "show", "log", "diff SOFT0200001 SOFT0200001", "export out", "drill" + shares, "verify --offline" + shares,
		"verify --token soft:old.tok --pin file:PIN", "backup --token soft:old.tok --pin file:PIN", "plan --token soft:spare.tok",
		"restore --init --token soft:spare.tok --confirm SOFT0400002" + shares + secretsOfTest,
		"restore --token soft:old.tok --yes --pin file:PIN",
		"firmware-update --token soft:old.tok --copy-to copies/ --same-disk-anyway --yes --confirm SOFT0200001" + shares + secretsOfTest,
	} {
		for file, content := range map[string][]byte{"c.db": altered} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		copyFile(t, "whole.tok", "old.tok")
		copyFile(t, "fresh.tok", "spare.tok")
		exit, stdout, stderr := runIn(t, strings.Fields(line)...)
		verb := strings.Fields(line)[0]
		if exit != console.ExitDamaged || !strings.Contains(stdout+stderr, "log entry") {
			t.Errorf("%s: exit %d\n%s%s", line, exit, stdout, stderr)
		}
		for _, l := range strings.Split(stderr, "\n") {
			if strings.HasPrefix(l, "hint:") && strings.Contains(l, "`hsmbackup "+verb+"`") {
				t.Errorf("%s advises itself: %s", line, l)
			}
		}
	}
	// What was restored by then is all of it.
	if err := os.WriteFile("c.db", altered, 0o600); err != nil {
		t.Fatal(err)
	}
	runs(t, 5, "1 of 1 key is on SOFT0400002 and was used", "restore --init --token soft:spare.tok --confirm SOFT0400002"+shares+secretsOfTest)
}

// TestFault10LostSnapshot: where the newest snapshot of a token is damaged, what is
// restored from the one before is said to be the older state, and ends with 5.
func TestFault10LostSnapshot(t *testing.T) {
	fullToken(t)
	runs(t, 0, "", "soft keygen old.tok --type ec:prime256v1 --id 02 --pin file:PIN --label two")
	runs(t, 0, "2 of 2 keys", "backup --token soft:old.tok --pin file:PIN")
	b, err := os.ReadFile("c.db")
	if err != nil {
		t.Fatal(err)
	}
	altered := bytes.ReplaceAll(b, []byte(`"label":"two"`), []byte(`"label":"twx"`))
	if bytes.Equal(b, altered) {
		t.Fatal("no manifest to alter")
	}
	if err := os.WriteFile("c.db", altered, 0o600); err != nil {
		t.Fatal(err)
	}
	runs(t, 0, "", "soft new spare.tok --serial SOFT0400002")
	for _, from := range []string{"", " --from SOFT0200001"} {
		runs(t, 5, "and damaged", "plan --token soft:spare.tok"+from)
	}
	runs(t, 5, "what it held besides is not restored",
		"restore --init --token soft:spare.tok --confirm SOFT0400002 --share p/a.txt --share p/b.txt"+secretsOfTest)
}
