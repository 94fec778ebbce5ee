//go:build linux && cgo

package e2e

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/tokentest"
)

// One life of a token, with secrets from every source, and what can go wrong
// on the way: none of the secrets is in an argument, in the environment of a
// child, in what is printed, in the catalog, in an export, or in a temporary
// file.
func TestSecrets(t *testing.T) {
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := reader{t, 0, dir}
	temporary := filepath.Join(dir, "tmp")
	if err := os.Mkdir(temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	var s tokentest.Searcher
	hide := func(name, value string) {
		s.Add(name, []byte(value))
		r.write(name, []byte(value+"\n"))
	}
	hide("PIN", "Vq7-pin-of-it")
	hide("SO", "8305217946802351")
	hide("PW", password)
	hide("WRONGPIN", "Zk3-no-pin-of-it")
	hide("WRONGPW", "clinic ordinary joke trumpet permit grit abandon")
	so, err := hex.DecodeString("8305217946802351")
	if err != nil {
		t.Fatal(err)
	}
	s.Add("SO-PIN as bytes", so)

	var said []pcsctest.Result
	// Each secret source of the children says what environment and temporary
	// files it was given.
	watch := `env >>children.env; find "$TMPDIR" -type f >>during; cat `
	hsmbackup := func(code int, env []string, args ...string) {
		t.Helper()
		s.Search(t, "an argument", []byte(strings.Join(args, " ")))
		result := pcsctest.Run(t, pcsctest.Cmd{Name: program, Args: args, Dir: dir, Env: append([]string{"TMPDIR=" + temporary, "HSMBACKUP_CATALOG=" + r.path("c.db"), "XDG_DATA_HOME=" + r.path("data-home"), "PCSCLITE_CSOCK_NAME=" + r.path("no-pcscd")}, env...)})
		want(t, result, code)
		said = append(said, result)
	}
	files := []string{"--pin", "file:PIN", "--so-pin", "file:SO", "--password", "file:PW"}
	commands := []string{"--pin", "cmd:" + watch + "PIN", "--so-pin", "cmd:" + watch + "SO", "--password", "cmd:" + watch + "PW"}
	mixed := []string{"--pin", "env:MY_PIN", "--so-pin", "env:MY_SO", "--password", "cmd:" + watch + "PW"}
	environment := []string{"MY_PIN=Vq7-pin-of-it", "MY_SO=8305217946802351"}

	hsmbackup(0, nil, "soft", "new", "old.tok", "--firmware", "3.5", "--serial", "SOFT0200001")
	hsmbackup(0, nil, slices.Concat([]string{"dkek", "create", "--out", "share1.pbe"}, files)...)
	share, err := dkek.OpenPBE(t.Context(), r.read("share1.pbe"), []byte(password), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Add("share", bytes.Clone(share.Bytes())) // it makes the DKEK alone, so this is the DKEK as well
	hsmbackup(0, environment, slices.Concat([]string{"init", "--token", "soft:old.tok", "--share", "share1.pbe", "--label", "ssh", "--confirm", "SOFT0200001"}, mixed)...)
	hsmbackup(0, nil, "soft", "keygen", "old.tok", "--type", "rsa:2048", "--label", "SSH CA", "--id", "01", "--pin", "file:PIN")
	hsmbackup(0, environment, "soft", "keygen", "old.tok", "--type", "ec:prime256v1", "--label", "SSH HSM", "--id", "02", "--pin", "env:MY_PIN", "--json")
	for _, k := range privateKeys(t, r.path("old.tok"), "Vq7-pin-of-it", share) {
		s.Add("private key", k)
	}
	hsmbackup(0, nil, slices.Concat([]string{"backup", "--token", "soft:old.tok"}, commands)...)
	hsmbackup(0, nil, slices.Concat([]string{"backup", "--token", "soft:old.tok", "--json"}, files)...)

	// What goes wrong must not tell either.
	hsmbackup(1, nil, "backup", "--token", "soft:old.tok", "--pin", "file:WRONGPIN")
	// This gives the PIN its tries back; the refused one is not sent again.
	hsmbackup(0, nil, slices.Concat([]string{"verify", "--token", "soft:old.tok"}, files)...)
	hsmbackup(6, nil, "backup", "--token", "soft:old.tok", "--pin", "file:WRONGPIN", "--json")
	r.write("WRONGPIN", r.read("WRONGPIN"))
	hsmbackup(1, nil, "backup", "--token", "soft:old.tok", "--pin", "file:WRONGPIN", "--json")
	hsmbackup(1, nil, "verify", "--offline", "--share", "share1.pbe", "--password", "file:WRONGPW")
	hsmbackup(1, nil, "dkek", "check", "share1.pbe", "--password", "cmd:"+watch+"WRONGPW; exit 1")

	hsmbackup(0, nil, "check")
	hsmbackup(0, nil, slices.Concat([]string{"verify", "--offline", "--share", "share1.pbe", "--json"}, commands)...)
	hsmbackup(0, nil, slices.Concat([]string{"init", "--token", "soft:old.tok", "--token-pin", "file:PIN", "--share", "share1.pbe", "--confirm", "SOFT0200001"}, files)...)
	hsmbackup(0, nil, "soft", "update", "old.tok", "--firmware", "3.6", "--serial", "SOFT0400001")
	hsmbackup(0, nil, "soft", "new", "spare.tok", "--firmware", "4.1", "--serial", "SOFT0400002")
	hsmbackup(0, nil, "plan", "--from", "SOFT0200001", "--token", "soft:spare.tok")
	hsmbackup(0, environment, slices.Concat([]string{"restore", "--from", "SOFT0200001", "--token", "soft:spare.tok", "--init", "--share", "share1.pbe", "--confirm", "SOFT0400002"}, mixed)...)
	hsmbackup(0, nil, "show", "latest", "--json")
	hsmbackup(0, nil, "list", "--json")
	hsmbackup(0, nil, "log", "--json")
	hsmbackup(3, nil, "status", "--token", "soft:spare.tok", "--json") // not backed up itself yet
	hsmbackup(0, nil, "export", "out")

	// A secret in clear on the command line is refused, and not repeated. That
	// it stands there is the caller's doing.
	for _, flag := range []string{"--pin", "--so-pin", "--password"} {
		result := pcsctest.Run(t, pcsctest.Cmd{Name: program, Args: []string{"backup", flag, "Vq7-pin-of-it"}, Dir: dir})
		want(t, result, 2, flag)
		said = append(said, result)
	}

	for i, result := range said {
		s.Search(t, fmt.Sprintf("the stdout of run %d", i), []byte(result.Stdout))
		s.Search(t, fmt.Sprintf("the stderr of run %d", i), []byte(result.Stderr))
	}
	for _, name := range []string{"c.db", "children.env", "share1.pbe"} {
		s.Search(t, name, r.read(name))
	}
	if n := strings.Count(string(r.read("children.env")), "TMPDIR="); n < 5 {
		t.Errorf("%d children were watched", n)
	}
	if during := r.read("during"); len(during) > 0 {
		t.Errorf("temporary files while secrets were read:\n%s", during)
	}
	for _, tree := range []string{"out", "tmp"} {
		n := 0
		err := filepath.WalkDir(r.path(tree), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			n++
			b, err := os.ReadFile(path)
			s.Search(t, path, b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if tree == "out" && n < 5 || tree == "tmp" && n > 0 {
			t.Errorf("%s holds %d files", tree, n)
		}
	}
	// Nothing was left beside the files that were asked for.
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		known := []string{"PIN", "SO", "PW", "WRONGPIN", "WRONGPW", "c.db", "children.env", "data-home", "during", "old.tok", "out", "share1.pbe", "spare.tok", "tmp"}
		if !slices.Contains(known, strings.TrimSuffix(e.Name(), ".lock")) {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

// privateKeys takes the private numbers of all keys off a token, through wrap
// and the share.
func privateKeys(t testing.TB, file, pin string, share *dkek.Share) [][]byte {
	t.Helper()
	token, err := softtoken.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer token.Close()
	card, err := schsm.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	if err := card.Login(t.Context(), secret.New([]byte(pin)), false); err != nil {
		t.Fatal(err)
	}
	dk, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for reference := byte(1); reference <= 2; reference++ {
		raw, err := card.Wrap(t.Context(), reference)
		if err != nil {
			t.Fatal(err)
		}
		b, err := dkek.ParseBlob(raw)
		if err != nil {
			t.Fatal(err)
		}
		private, err := dk.Open(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, d, _, _ := private.EC(); d != nil {
			out = append(out, bytes.Clone(d))
			continue
		}
		key, err := private.RSA()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, key.D.Bytes(), key.Primes[0].Bytes(), key.Primes[1].Bytes())
	}
	return out
}
