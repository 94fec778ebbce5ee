package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"hsmbackup/internal/console"
)

// alteredCatalog is the catalog with something else in the place of what is in it.
func alteredCatalog(t *testing.T, was, is string) []byte {
	t.Helper()
	b, err := os.ReadFile("c.db")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(was)) {
		t.Fatalf("nothing to alter: no %s", was)
	}
	return bytes.ReplaceAll(b, []byte(was), []byte(is))
}

// TestFault10AlteredEntry (issue 9, fault 10): one altered byte in one entry of the
// log costs that entry. Every verb goes on with what is whole, names what is not,
// advises something else than itself, and ends with 5.
func TestFault10AlteredEntry(t *testing.T) {
	fullToken(t)
	altered := alteredCatalog(t, `"origin":"init"`, `"origin":"inix"`)
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
		rewrite(t, "c.db", altered)
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
	rewrite(t, "c.db", altered)
	runs(t, 5, "1 of 1 key is on SOFT0400002 and was used", "restore --init --token soft:spare.tok --confirm SOFT0400002"+shares+secretsOfTest)
}

// TestFault10LostSnapshot: where the newest snapshot of a token is damaged, what is
// restored from the one before is said to be the older state, and ends with 5.
func TestFault10LostSnapshot(t *testing.T) {
	fullToken(t)
	runs(t, 0, "", "soft keygen old.tok --type ec:prime256v1 --id 02 --pin file:PIN --label two")
	runs(t, 0, "2 of 2 keys", "backup --token soft:old.tok --pin file:PIN")
	rewrite(t, "c.db", alteredCatalog(t, `"label":"two"`, `"label":"twx"`))
	runs(t, 0, "", "soft new spare.tok --serial SOFT0400002")
	for _, from := range []string{"", " --from SOFT0200001"} {
		runs(t, 5, "and damaged", "plan --token soft:spare.tok"+from)
	}
	runs(t, 5, "what it held besides is not restored",
		"restore --init --token soft:spare.tok --confirm SOFT0400002 --share p/a.txt --share p/b.txt"+secretsOfTest)
}
