package p11

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlaces(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"ProgramFiles": `C:\Program Files`, "SystemRoot": `C:\Windows`}[name]
	}
	for _, c := range []struct{ system, arch, first string }{
		{"linux", "amd64", "/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"},
		{"linux", "arm64", "/usr/lib/aarch64-linux-gnu/opensc-pkcs11.so"},
		{"linux", "mips", "/usr/lib64/pkcs11/opensc-pkcs11.so"},
		{"freebsd", "amd64", "/usr/lib64/pkcs11/opensc-pkcs11.so"},
		{"darwin", "arm64", "/Library/OpenSC/lib/opensc-pkcs11.so"},
		{"windows", "amd64", filepath.Join(`C:\Program Files`, "OpenSC Project", "OpenSC", "pkcs11", "opensc-pkcs11.dll")},
	} {
		list := places(c.system, c.arch, env)
		if len(list) == 0 || list[0] != c.first {
			t.Errorf("%s/%s: %q", c.system, c.arch, list)
		}
	}
	if list := places("windows", "amd64", func(string) string { return "" }); len(list) != 0 {
		t.Errorf("without an environment: %q", list)
	}
}

// The first that is a file is found; what cannot be one is passed over.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	module := filepath.Join(dir, "opensc-pkcs11.so")
	if err := os.WriteFile(module, []byte("a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := find([]string{filepath.Join(dir, "none.so"), dir, module, "/other"})
	if err != nil || got != module {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := find([]string{filepath.Join(dir, "none.so")}); !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "--module PATH") {
		t.Errorf("%v", err)
	}
}
