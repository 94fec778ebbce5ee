package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"hsmbackup/internal/p11"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// openFile opens a software token's file, to be plugged or looked into.
func openFile(t *testing.T, file string) *softtoken.Token {
	t.Helper()
	token, err := softtoken.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { token.Close() })
	return token
}

// counted is a token that counts the PINs sent to it.
type counted struct {
	*softtoken.Token
	pins atomic.Int32
}

func (c *counted) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) > 5 && command[1] == 0x20 { // VERIFY with a PIN
		c.pins.Add(1)
	}
	return c.Token.Transmit(ctx, command)
}

// module compiles a library that has something to say when it is loaded.
func module(t *testing.T, name, body string) string {
	t.Helper()
	source := filepath.Join(t.TempDir(), name+".c")
	if err := os.WriteFile(source, []byte("#include <stdio.h>\n#include <stdlib.h>\nunsigned long C_GetFunctionList(void **list) { "+body+" }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	library := strings.TrimSuffix(source, ".c") + ".so"
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s: run make deps", err, out)
	}
	return library
}

// Keys of every type on a token in a reader are used through OpenSC's module
// and checked against the catalog. It says nothing of coverage.
func TestVerifyThroughPKCS11(t *testing.T) {
	d := pcsctest.Start(t)
	t.Chdir(t.TempDir())
	t.Setenv("HSMBACKUP_CATALOG", "c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for name, content := range map[string]string{"PIN": "648219", "SO": "3537363231383830", "WRONG": "648210", "WRONG2": "648210", "WRONG3": "648210"} {
		if err := os.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const serial = "SOFT0200001"
	run := func(want int, says string, args ...string) string {
		t.Helper()
		exit, stdout, stderr := runIn(t, args...)
		if exit != want || !strings.Contains(stdout+stderr, says) {
			t.Fatalf("%q: exit %d, want %d and %q:\n%s%s", args, exit, want, says, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, "648219") {
			t.Errorf("%q: the PIN shows", args)
		}
		return stdout
	}
	run(0, "", "soft", "new", "a.tok", "--firmware", "3.5", "--serial", serial)
	run(0, "", "init", "--token", "soft:a.tok", "--shares", "0", "--pin", "file:PIN", "--so-pin", "file:SO", "--yes")
	types := []string{"rsa:1024", "rsa:2048", "ec:prime256v1", "ec:secp384r1", "ec:secp521r1", "ec:prime192v1", "ec:brainpoolP256r1", "ec:brainpoolP384r1", "ec:brainpoolP512r1", "ec:secp256k1", "aes:128"}
	for i, typ := range types {
		run(0, "", "soft", "keygen", "a.tok", "--type", typ, "--label", typ, "--id", fmt.Sprintf("%02x", i+1), "--pin", "file:PIN")
	}
	run(2, "soft serve", "verify", "--pkcs11", "--token", "soft:a.tok", "--pin", "file:PIN")
	token := &counted{Token: openFile(t, "a.tok")}
	d.Plug(t, 0, token)
	run(3, "", "backup", "--no-proof", "--pin", "file:PIN")

	type document struct {
		Proof     string
		OK        bool
		Snapshots []struct {
			Keys []struct {
				Type, Proof, Mechanism, Reason string
				OK, Unchecked                  bool
			}
		}
	}
	verify := func(want int, args ...string) (doc document) {
		t.Helper()
		out := run(want, "", append([]string{"verify", "--pkcs11", "--pin", "file:PIN", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &doc); err != nil || len(doc.Snapshots) != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		return doc
	}
	doc := verify(0)
	if doc.Proof != "pkcs11" || !doc.OK || len(doc.Snapshots[0].Keys) != len(types) {
		t.Errorf("%+v", doc)
	}
	for _, k := range doc.Snapshots[0].Keys {
		want := "ECDSA"
		switch {
		case strings.HasPrefix(k.Type, "RSA"):
			want = "SHA256-RSA-PKCS"
		case strings.HasPrefix(k.Type, "AES"):
			want = ""
		}
		if k.Mechanism != want || k.OK != (want != "") || k.Unchecked != (want == "") {
			t.Errorf("%+v", k)
		}
	}
	out := run(0, "opensc-pkcs11.so", "verify", "--pkcs11", "--pin", "file:PIN")
	for _, says := range []string{"proof: used on " + serial + " through PKCS#11", "used, SHA256-RSA-PKCS", "not checked: OpenSC shows no AES keys"} {
		if !strings.Contains(out, says) {
			t.Errorf("%q is not in\n%s", says, out)
		}
	}
	run(0, fmt.Sprintf("on %s, through PKCS#11: %d of %d used", serial, len(types)-1, len(types)-1), "log")
	if out := run(3, "", "status", "--json"); strings.Contains(out, `"coverage":"covered"`) || !strings.Contains(out, `"coverage":"unproven"`) {
		t.Errorf("a use through PKCS#11 counts as a proof: %s", out)
	}

	// A wrong PIN is sent once, by us; the module never gets it. One that was
	// taken it sends once more.
	token.pins.Store(0)
	run(1, "tries left: 2", "verify", "--pkcs11", "--pin", "file:WRONG")
	if n := token.pins.Swap(0); n != 1 {
		t.Errorf("a wrong PIN was sent %d times", n)
	}
	run(0, "", "verify", "--pkcs11", "--pin", "file:PIN")
	if n := token.pins.Load(); n != 2 {
		t.Errorf("the PIN was sent %d times", n)
	}

	// Modules that are none, and ones that break: one line, no panic.
	run(1, "no such file", "verify", "--pkcs11", "--module", "/no/such.so", "--pin", "file:PIN")
	run(1, "cannot be loaded", "verify", "--pkcs11", "--module", "PIN", "--pin", "file:PIN")
	found, err := p11.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(found, "here.so"); err != nil {
		t.Fatal(err)
	}
	run(0, "/here.so", "verify", "--pkcs11", "--module", "here.so", "--pin", "file:PIN")
	run(1, "made its process end (exit status 2: SIGABRT", "verify", "--pkcs11", "--module", module(t, "abort", "abort();"), "--pin", "file:PIN")
	run(1, "made its process end (without an answer", "verify", "--pkcs11", "--module", module(t, "exit", `printf("no answer\n"); fflush(stdout); _Exit(0);`), "--pin", "file:PIN")
	run(2, "--module is for --pkcs11", "verify", "--module", "m.so")
	run(2, "leave --offline and --share out", "verify", "--pkcs11", "--offline")

	// With one try left, nothing is sent at all, and nothing by the module.
	// A file that was refused is not sent again, so there are two.
	run(1, "tries left: 2", "verify", "--pkcs11", "--pin", "file:WRONG2")
	run(1, "tries left: 1", "verify", "--pkcs11", "--pin", "file:WRONG3")
	token.pins.Store(0)
	run(6, "one PIN try is left", "verify", "--pkcs11", "--pin", "file:PIN")
	if n := token.pins.Load(); n != 0 {
		t.Errorf("the last try: %d PINs were sent", n)
	}
	run(0, "", "verify", "--pkcs11", "--pin", "file:PIN", "--confirm", serial)

	goesOn(t, d.ReaderName(0))

	// A key whose description was changed is not found any more, and another
	// key under an ID is not taken for the one in the catalog.
	d.Unplug(t, 0)
	card, err := schsm.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Login(t.Context(), secret.New([]byte("648219")), false); err != nil {
		t.Fatal(err)
	}
	description := func(reference byte) []byte {
		b, err := card.ReadFile(t.Context(), schsm.DescriptionFile(reference))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	three, four := description(3), description(4)
	swap := func(b []byte, from, to byte) []byte {
		i := slices.Index(b, from)
		for i >= 0 && b[i-1] != 1 { // 04 01 ID
			i += 1 + slices.Index(b[i+1:], from)
		}
		out := slices.Clone(b)
		out[i] = to
		return out
	}
	for reference, content := range map[byte][]byte{3: swap(three, 3, 0x77), 4: swap(four, 4, 5), 5: swap(description(5), 5, 4)} {
		if err := card.WriteFile(t.Context(), schsm.DescriptionFile(reference), content); err != nil {
			t.Fatal(err)
		}
	}
	card.Close()
	d.Plug(t, 0, token)
	doc = verify(3)
	for i, says := range map[int]string{2: "no private key with the ID 03", 3: "is not that of the key in the catalog", 4: "is not that of the key in the catalog"} {
		if k := doc.Snapshots[0].Keys[i]; k.OK || !strings.Contains(k.Reason, says) {
			t.Errorf("%+v, want %q", k, says)
		}
	}
	if k := doc.Snapshots[0].Keys[0]; !k.OK {
		t.Errorf("%+v", k)
	}
	run(3, "key 3", "verify", "--pkcs11", "--pin", "file:PIN")
	cat, err := store.Open("c.db", false)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	if proofs := read(t, cat).Proofs; len(proofs) != 0 {
		t.Errorf("%d proofs, %v", len(proofs), err)
	}
}

// goesOn: the token's session is in use before and after other programs used
// it; what needs a login is carried out, and the PIN is not asked for.
func goesOn(t *testing.T, reader string) {
	t.Helper()
	ctx := t.Context()
	at, err := newApp().OpenReader(ctx, reader)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	cat, err := store.Open("c.db", false)
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	s, err := read(t, cat).Find(at.Serial)
	if err != nil {
		t.Fatal(err)
	}
	path, err := p11.Find()
	if err != nil {
		t.Fatal(err)
	}
	a := newApp()
	a.Progress = nil
	if _, err := a.throughPKCS11(ctx, at, nil, s, s.Keys, path); !errors.Is(err, p11.ErrPIN) {
		t.Errorf("without a login: %v", err)
	}
	if err := at.Card.Login(ctx, secret.New([]byte("648219")), false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		u, err := a.throughPKCS11(ctx, at, nil, s, s.Keys, path)
		if err != nil || len(u.bad()) > 0 {
			t.Fatalf("%+v, %v", u, err)
		}
		if _, err := at.Card.Wrap(ctx, 1); err != nil {
			t.Errorf("after other programs used the token: %v", err)
		}
	}
	// An interrupt ends the other process, whatever it is at.
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.throughPKCS11(ended, at, nil, s, s.Keys, path); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// A job that puts keys onto a token in a reader ends with their use through
// PKCS#11, of the right token of two: that they cannot be used makes it
// incomplete.
func TestJobsEndThroughPKCS11(t *testing.T) {
	d := pcsctest.Start(t)
	t.Chdir(t.TempDir())
	t.Setenv("HSMBACKUP_CATALOG", "c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for name, content := range map[string]string{"PIN": "648219", "SO": "3537363231383830"} {
		if err := os.WriteFile(name, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const from, to = "SOFT0200001", "SOFT0200002"
	run := func(want int, says []string, args ...string) {
		t.Helper()
		if args[0] != "soft" && args[0] != "verify" {
			args = append(args, "--yes")
		}
		exit, stdout, stderr := runIn(t, append(args, "--pin", "file:PIN", "--so-pin", "file:SO")...)
		if exit != want {
			t.Fatalf("%q: exit %d, want %d:\n%s%s", args, exit, want, stdout, stderr)
		}
		for _, s := range says {
			if !strings.Contains(stdout+stderr, s) {
				t.Errorf("%q: no %q in\n%s%s", args, s, stdout, stderr)
			}
		}
	}
	if exit, _, stderr := runIn(t, "dkek", "create", "--split", "2/2", "--custodian", "alice", "--custodian", "bob", "--out", "parts"); exit != 0 {
		t.Fatal(stderr)
	}
	for slot, serial := range []string{from, to} {
		file := serial + ".tok"
		run(0, nil, "soft", "new", file, "--firmware", "3.5", "--serial", serial)
		run(0, nil, "init", "--token", "soft:"+file, "--share", "parts/alice.txt", "--share", "parts/bob.txt")
		if slot == 0 {
			run(0, nil, "soft", "keygen", file, "--type", "ec:prime256v1", "--label", "SSH CA", "--id", "01")
			run(0, nil, "soft", "keygen", file, "--type", "aes:128", "--label", "disk", "--id", "02")
		}
		d.Plug(t, slot, openFile(t, file))
	}
	run(0, []string{"2 of 2 keys are on " + from + " and on " + to, "used through PKCS#11: 1 of 1", `not checked through PKCS#11: key 2 "disk": OpenSC shows no AES keys`}, "clone", "--from", from, "--to", to)
	again := []string{"restore", "--from", from, "--token", to}
	run(0, []string{"2 of 2 keys are on " + to + " and were used", "used through PKCS#11: 1 of 1"}, again...)
	run(0, []string{`"pkcs11":{"module":"/`, `"used":1,"of":1,"keys":[`}, append(again, "--json")...)

	// No module is a note, not a failure; asked for, it is one.
	t.Cleanup(func() { findModule = p11.Find })
	findModule = func() (string, error) { return "", fmt.Errorf("%w in the usual places", p11.ErrNoModule) }
	run(0, []string{"2 of 2 keys are on " + to + " and were used", "hsmbackup: not used through PKCS#11: no PKCS#11 module of OpenSC was found"}, again...)
	run(0, []string{`"note":"no PKCS#11 module`}, append(again, "--json")...)
	run(1, []string{"no PKCS#11 module of OpenSC was found"}, "verify", "--pkcs11", "--token", to)
	findModule = p11.Find

	// OpenSC that is set up for other cards does not see the token.
	if err := os.WriteFile("opensc.conf", []byte("app default { card_drivers = cac; enable_default_driver = false; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := filepath.Abs("opensc.conf")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("OPENSC_CONF", conf)
	run(3, []string{"2 of 2 keys are on " + to + " and were used", "used through PKCS#11: 0 of 1", `key 1 "SSH CA", through PKCS#11: the PKCS#11 module does not show the token ` + to}, again...)
	run(3, []string{`"used":0,"of":1`}, append(again, "--json")...)
	run(1, []string{"does not show the token " + to}, "verify", "--pkcs11", "--token", to)
}
