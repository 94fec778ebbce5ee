package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A folder that export wrote holds files of the token that are no wrapped keys:
// they are good, and what they are is known.
func TestFault25AdoptExport(t *testing.T) {
	hostileCatalog(t)
	writeObject(t, "old.tok", 0xCF03, "some data")
	doLine(t, 0, "backup --token soft:old.tok --pin file:PIN")
	doLine(t, -1, "export out SOFT0200001")
	object := filepath.Join("out", "file-CF03.bin")
	if _, err := os.Stat(object); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HSMBACKUP_CATALOG", "new.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	stdout, stderr := doLine(t, 0, "adopt out"+twoParts)
	if strings.Contains(stdout, "DAMAGED") || !strings.Contains(stdout, "2 keys, 2 proven") {
		t.Errorf("a whole export: %s", stdout)
	}
	if !strings.Contains(stderr, "hsmbackup restore --from-export out") {
		t.Errorf("what would bring back all of it is not said: %s", stderr)
	}
	_, stderr = doLine(t, 1, "adopt "+object)
	if !strings.Contains(stderr, "it is no wrapped key but file CF03 of the token") {
		t.Errorf("one of its files by name: %s", stderr)
	}
	// What is damaged of a key is damage still.
	keys, err := filepath.Glob("out/key-001*.bin")
	if err != nil || len(keys) != 1 {
		t.Fatalf("%v, %v", keys, err)
	}
	if err := os.WriteFile(keys[0], []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, _ := doLine(t, 5, "adopt out"+twoParts); !strings.Contains(stdout, "DAMAGED") {
		t.Errorf("a spoilt key: %s", stdout)
	}
}
