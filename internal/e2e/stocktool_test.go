//go:build linux && cgo

package e2e

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// A share file that was looked for, with fixed keys derived from salt and
// passwords, until the padding comes out right under a wrong password as well:
// what happens to one file in 257.
const (
	twiceShare    = "5a805354038cc8184cd54c5228c507c374018bbeec8878bd6b45d7720b3daf2a"
	twiceKCV      = "C0544AC7CFA7A180"
	twicePBE      = "53616c7465645f5f105a3c778102ee9411bd9fe53578473828a82324dcd8501d56ba44655773a9f4acb303f8e37ec9fe233b6e0c152c3f1c29d48f9439c3a6cc" // under password
	twiceWrong    = password + "!"
	twiceWrongKey = "1cccce1e46ebe6b5d351f67f95c4c5763409773e1bfa4b45723481a4f39db53d" // AES-256, of twiceWrong
	twiceWrongIV  = "cd40adad795e8ec7b2d6754b96b0b324"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stock runs sc-hsm-tool where it may do wrong, and logs what it did. What it
// does depends on its version, so nothing is demanded of it.
func (r reader) stock(args ...string) pcsctest.Result {
	r.Helper()
	result := r.scHSM(args...)
	r.Logf("sc-hsm-tool %s\nexit code %d\n%s", strings.Join(args, " "), result.Code, strings.TrimSpace(result.Stdout+result.Stderr))
	return result
}

// ready is a token in a slot that has the recovery key of twiceShare, and keys
// made by OpenSC at the references from 1 on.
func ready(t testing.TB, slot int, serial string, keys ...key) (*softtoken.Token, reader) {
	t.Helper()
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: serial})
	share, err := dkek.ShareFromBytes(unhex(t, twiceShare))
	if err != nil {
		t.Fatal(err)
	}
	setUp(t, token, share)
	r := plugged(t, slot, token)
	for _, k := range keys {
		r.generate(k)
	}
	return token, r
}

// inside opens a token past all tools, logged in.
func inside(t testing.TB, token *softtoken.Token, do func(card *schsm.Card)) {
	t.Helper()
	card, err := schsm.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer token.Reset()
	defer card.Close()
	if err := card.Login(t.Context(), secret.New([]byte(pin)), false); err != nil {
		t.Fatal(err)
	}
	do(card)
}

// everything is what is on a token but for its own certificate, byte for byte
// but for the keys, of which there are only numbers.
func everything(t testing.TB, token *softtoken.Token) string {
	t.Helper()
	var out strings.Builder
	inside(t, token, func(card *schsm.Card) {
		list, err := card.Enumerate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(list)
		for _, f := range list {
			if f == schsm.FIDDeviceCertificate {
				continue
			}
			b, err := card.ReadFile(t.Context(), f)
			if err != nil && f>>8 != schsm.KeyFile(0)>>8 {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%s %x\n", f, b)
		}
	})
	return out.String()
}

// tryFile reads a file that may be missing.
func tryFile(t testing.TB, token *softtoken.Token, f schsm.FID) []byte {
	t.Helper()
	if !slices.Contains(listFiles(t, token), f) {
		return nil
	}
	return readFile(t, token, f)
}

// signs has OpenSC sign with a key, and openssl verify that with a public key
// that was read before.
func (r reader) signs(k key, public string) {
	r.Helper()
	r.write("message", []byte("the quick brown fox"))
	good(r, r.loggedIn("--sign", "--mechanism", "ECDSA-SHA256", "--signature-format", "openssl", "--id", k.id, "--input-file", "message", "--output-file", "signature"))
	good(r, r.run("openssl", "dgst", "-sha256", "-verify", public, "-signature", "signature", "message"), "Verified OK")
}

var (
	caKey  = key{"EC:prime256v1", "01", "SSH CA"}
	webKey = key{"EC:prime256v1", "02", "web server"}
)

// The table "What sc-hsm-tool does on a bad day", line by line: what this
// program does on such a day, and in the log what the tool does.
func TestStockToolBadDays(t *testing.T) {
	pcsctest.Start(t)
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"A1 a blob of another recovery key costs no key", badDay1},
		{"A2 what stands beside a blob is compared", badDay2},
		{"A3 a failure shows in the exit code", badDay3},
		{"A4 two tokens are no reason to wipe one", badDay4},
		{"A5 a wrong password is wrong every time", badDay5},
		{"A6 a share given twice is noticed", badDay6},
		{"A7 threshold sheets open", badDay7},
		{"A8 a random recovery key is called what it is", badDay8},
		{"A9 files are new and for their owner only", badDay9},
		{"A10 everything on the token is in the backup", badDay10},
		{"A11 a missing description comes back as one", badDay11},
		{"A12 once more changes nothing and each cause has its words", badDay12},
		{"A13 a share opens fast", badDay13},
		{"A14 what a deleted key left behind is no obstacle", badDay14},
	} {
		t.Run(c.name, c.test)
	}
}

func badDay1(t *testing.T) {
	token, r := ready(t, 0, "SOFT0200041", caKey)
	r.public(caKey)
	r.golden("b-p256.bin") // under another recovery key, and of a key at reference 1
	before := everything(t, token)
	want(t, r.hsmbackup("adopt", "--no-backup", "b-p256.bin"), 3, "its recovery key is on no token that is known")
	for _, c := range []struct {
		code int
		args []string
		says string
	}{
		{3, nil, `another key ("SSH CA" (key 1)) is at reference 1`},
		{1, []string{"--at", "1=9"}, "the keys are under the recovery key 59437087AD23F75C, the token has " + twiceKCV},
	} {
		want(t, r.hsmbackup(append(secrets("restore", "--from", "latest", "--yes"), c.args...)...), c.code, c.says)
		if after := everything(t, token); after != before {
			t.Errorf("on the token: %s, before: %s", after, before)
		}
	}
	r.signs(caKey, "public-01.pem")

	r.stock("--unwrap-key", "b-p256.bin", "--key-reference", "1", "--force", "--pin", "env:TOKEN_PIN")
	t.Logf("afterwards the key is there: %v; on the token: %v", slices.Contains(listFiles(t, token), schsm.KeyFile(1)), listFiles(t, token))
}

func badDay2(t *testing.T) {
	_, r := ready(t, 0, "SOFT0200042", caKey, webKey)
	good(t, r.scHSM("--wrap-key", "1.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN"))
	want(t, r.hsmbackup(secrets("backup")...), 3, "no-share")
	good(t, r.hsmbackup("export", "out"))
	ca, err := dkek.ParseContainer(r.read("out/key-001-SSH-CA.bin"))
	if err != nil {
		t.Fatal(err)
	}
	web, err := dkek.ParseContainer(r.read("out/key-002-web-server.bin"))
	if err != nil {
		t.Fatal(err)
	}

	// In a wrapped file: a request that was changed, and that of another key.
	changed := *ca
	changed.Certificate = bytes.Clone(ca.Certificate)
	changed.Certificate[len(changed.Certificate)/4] ^= 1
	swapped := *ca
	swapped.Certificate = web.Certificate
	r.write("changed.bin", changed.Encode())
	r.write("swapped.bin", swapped.Encode())
	want(t, r.hsmbackup("adopt", "--no-backup", "swapped.bin"), 5, `DAMAGED: its key blob was proven to be "SSH CA" (key 1)`)
	r.write("share.pbe", unhex(t, twicePBE))
	want(t, r.hsmbackup(secrets("dkek", "check", "share.pbe", "changed.bin", "swapped.bin", "1.bin")...), 5, "2 of 4 files are not good: changed.bin, swapped.bin")
	good(t, r.hsmbackup("check"), "intact")

	// In an export, and in the catalog: also a label.
	relabel := func(name string) {
		t.Helper()
		before := r.read(name)
		after := bytes.ReplaceAll(before, []byte("SSH CA"), []byte("SSH XX"))
		if bytes.Equal(after, before) {
			t.Fatalf("%s has no label to change", name)
		}
		r.write(name, after)
	}
	relabel("out/key-001-SSH-CA.bin")
	refused(t, r.run("sh", "-c", "cd out && ! sha256sum -c SHA256SUMS"), "key-001-SSH-CA.bin: FAILED")
	spare, s := ready(t, 1, "SOFT0400042")
	s.dir = r.dir
	empty := everything(t, spare)
	relabel("c.db")
	want(t, s.hsmbackup("check", "--token", "SOFT0400042"), 5, "damaged")
	if got := s.hsmbackup(secrets("restore", "--from", "SOFT0200042", "--token", "SOFT0400042", "--yes")...); got.Code != 5 || everything(t, spare) != empty {
		t.Errorf("restored from a damaged catalog: %+v", got)
	}

	relabel("1.bin")
	s.stock("--unwrap-key", "1.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
	t.Log(s.pkcs15("--list-keys").Stdout)
}

// fullDisk mounts a file system without space under a name in the reader's
// folder.
func (r reader) fullDisk(name string) {
	r.Helper()
	dir := r.path(name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			r.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<16), 0o600); !errors.Is(err, syscall.ENOSPC) {
		r.Fatalf("the disk is not full: %v", err)
	}
}

func badDay3(t *testing.T) {
	r := reader{t, 0, t.TempDir()}
	r.unchanged(1, secrets("init", "--confirm", "SOFT0200043"), "no token is attached")
	r.stock("--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "1")

	_, s := ready(t, 0, "SOFT0200043", caKey)
	s.dir = r.dir
	good(t, s.hsmbackup(secrets("soft", "new", "other.tok", "--serial", "SOFT0200049")...)) // it has no keys, so it may be wiped
	good(t, s.hsmbackup(secrets("init", "--token", "soft:other.tok", "--shares", "0", "--confirm", "SOFT0200049")...))
	t.Setenv("WRONG", "3537363231383831")
	wrong := []string{"--pin", "env:TOKEN_PIN", "--so-pin", "env:WRONG"}
	s.unchanged(1, append([]string{"init", "--token", "soft:other.tok", "--confirm", "SOFT0200049"}, wrong...), "SO-PIN", "tries left: 14")
	s.stock(append([]string{"--initialize", "--dkek-shares", "1"}, wrong...)...)

	// A disk without space: nothing is left on it, neither a file nor half of one.
	s.fullDisk("full")
	for _, args := range [][]string{
		secrets("dkek", "create", "--out", "full/share.pbe"),
		secrets("backup", "--catalog", "full/c.db"),
	} {
		want(t, s.hsmbackup(args...), 1, "hsmbackup: ", "no space left on device")
	}
	want(t, s.hsmbackup(secrets("backup")...), 3, "no-share")
	want(t, s.hsmbackup("export", "full/out", "SOFT0200043"), 1, "no space left on device")
	left, err := os.ReadDir(s.path("full"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Errorf("left on the full disk: %v", left)
	}
	s.stock("--wrap-key", "full/key.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
	if info, err := os.Stat(s.path("full/key.bin")); err == nil {
		t.Logf("it wrote %d bytes", info.Size())
	}
}

func badDay4(t *testing.T) {
	first, r := ready(t, 0, "SOFT0200044", caKey)
	second, _ := ready(t, 1, "SOFT0200054")
	before := everything(t, first) + everything(t, second)
	for _, verb := range []string{"init", "backup"} {
		r.unchanged(6, secrets(verb, "--confirm", "SOFT0200044"), "SOFT0200044", "SOFT0200054", "--token SERIAL")
	}
	// Named, it is still refused: its key is in no snapshot.
	r.unchanged(6, secrets("init", "--token", "SOFT0200044", "--token-pin", "env:TOKEN_PIN", "--confirm", "SOFT0200044"), `"SSH CA" (key 1): missing`)
	if after := everything(t, first) + everything(t, second); after != before {
		t.Errorf("on the tokens: %s, before: %s", after, before)
	}

	result := r.run("sc-hsm-tool", "--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "1")
	t.Logf("sc-hsm-tool --initialize, exit code %d\n%s%s\nafterwards on the first token: %v", result.Code, result.Stdout, result.Stderr, listFiles(t, first))
}

func badDay5(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200045"})
	r := plugged(t, 0, token)
	r.write("share.pbe", unhex(t, twicePBE))
	t.Setenv("WRONG", twiceWrong)
	args := []string{"init", "--pin", "env:TOKEN_PIN", "--so-pin", "env:TOKEN_SO_PIN", "--share", "share.pbe,password=env:WRONG", "--confirm", "SOFT0200045", "--untrusted-token", "SOFT0200045"}
	r.unchanged(1, args, "wrong password")
	good(t, r.scHSM(), "never been initialized")

	// The stock tool goes by the padding alone, as openssl does here.
	r.write("ciphertext", unhex(t, twicePBE)[16:])
	good(t, r.run("openssl", "enc", "-d", "-aes-256-cbc", "-K", twiceWrongKey, "-iv", twiceWrongIV, "-in", "ciphertext", "-out", "accepted"))
	if got := r.read("accepted"); len(got) != 47 || bytes.Contains(got, unhex(t, twiceShare)) {
		t.Errorf("the file is none that a wrong password opens: %d bytes", len(got))
	}
}

func badDay6(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200046"})
	r := plugged(t, 0, token)
	r.write("share.pbe", unhex(t, twicePBE))
	r.write("copy.pbe", unhex(t, twicePBE))
	r.unchanged(1, secrets("init", "--share", "share.pbe", "--share", "copy.pbe", "--confirm", "SOFT0200046", "--untrusted-token", "SOFT0200046"), "the same share twice")
	good(t, r.scHSM(), "never been initialized")

	// A token on which the stock tool did it: its keys are never called safe.
	ctx := t.Context()
	zero := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200056"})
	card, err := schsm.Open(ctx, zero)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	so, err := schsm.ParseSOPIN([]byte(soPIN))
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Initialise(ctx, schsm.Initialisation{PIN: secret.New([]byte(pin)), SOPIN: so, Shares: 2}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := card.LoadShare(ctx, 0, unhex(t, twiceShare)); err != nil {
			t.Fatal(err)
		}
	}
	zero.Reset()
	s := plugged(t, 1, zero)
	s.generate(caKey)
	want(t, s.hsmbackup(secrets("backup", "--token", "SOFT0200056")...), 3, "recovery key of zeros", "0 of 1 key")
	s.stock()
}

// sheets gives what the stock tool prints of some of its sheets.
func sheets(t testing.TB, file string, ids ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	out := regexp.MustCompile(`(?m)^Prime +: .*\n`).Find(text)
	for _, id := range ids {
		sheet := regexp.MustCompile(`(?m)^Share ID +: ` + id + `\nShare value +: .*\n`).Find(text)
		if sheet == nil {
			t.Fatalf("%s has no sheet %s", file, id)
		}
		out = append(out, sheet...)
	}
	return out
}

// The stock tool asks for sheets on a terminal, and takes ten seconds to say
// that they do not open the file.
func badDay7(t *testing.T) {
	t.Parallel()
	r := reader{t, 0, t.TempDir()}
	for _, name := range []string{"thr11.pbe", "thr-zero.pbe"} {
		r.golden(name)
	}
	// Numbers from 10 on.
	r.write("eleven.txt", sheets(t, "thr11.create.txt", "10", "11"))
	good(t, r.hsmbackup("dkek", "check", "thr11.pbe", "eleven.txt"), "KCV 85F9092C49C913AF")
	// A leading zero; what comes of it has a password with more than 63 bits.
	r.write("zero.txt", sheets(t, "thr-zero.txt", "1", "3"))
	good(t, r.open("dkek convert thr-zero.pbe zero.txt --out sound.pbe --password env:SHARE_PASSWORD"), "KCV 7980E3DE1B42EC75", "read back and opened")
	if info, err := os.Stat(r.path("sound.pbe")); err != nil || info.Size() != dkek.PBESize || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	want(t, r.hsmbackup("dkek", "convert", "thr-zero.pbe", "zero.txt", "--out", "weak.pbe", "--password", "env:TOKEN_PIN"), 1, "password is too weak")
}

func badDay8(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200048"})
	r := plugged(t, 0, token)
	// Made by the stock tool.
	r.stock("--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "0")
	r.generate(caKey)
	r.stock("--wrap-key", "key.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
	want(t, r.hsmbackup(secrets("backup")...), 3, "0 of 1 key", "nobody has shown shares")
	want(t, r.hsmbackup("status"), 3, "no-share")
	want(t, r.hsmbackup(secrets("init", "--token-pin", "env:TOKEN_PIN", "--confirm", "SOFT0200048")...), 6, `"SSH CA" (key 1): no-share`)

	// Made by this program: it says so at once and does not forget it.
	d := pcsctest.Start(t)
	d.Unplug(t, 0)
	d.Plug(t, 0, newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200058"}))
	good(t, r.hsmbackup(secrets("init", "--shares", "0", "--yes", "--confirm", "SOFT0200058")...), "made up by the token: nobody has shares of it")
	r.generate(caKey)
	want(t, r.hsmbackup(secrets("backup")...), 3, "is random")
	want(t, r.hsmbackup("status"), 3, "is random")
}

// open runs the program where whatever is made is open to everyone, unless the
// program sees to it.
func (r reader) open(line string) pcsctest.Result {
	r.Helper()
	program, err := build()
	if err != nil {
		r.Fatal(err)
	}
	return r.run("sh", "-c", "umask 0; export HSMBACKUP_CATALOG=c.db XDG_DATA_HOME=$PWD/data-home; '"+program+"' "+line)
}

func badDay9(t *testing.T) {
	t.Parallel()
	r := reader{t, 0, t.TempDir()}
	r.write("old.pbe", []byte("the only copy of something"))
	for _, args := range [][]string{
		secrets("dkek", "create", "--out", "old.pbe"),
		secrets("dkek", "convert", "a.pbe", "--out", "old.pbe"),
		secrets("soft", "new", "old.pbe"),
	} {
		want(t, r.hsmbackup(args...), 1, "old.pbe", "exist")
	}
	if got := r.read("old.pbe"); string(got) != "the only copy of something" {
		t.Errorf("it was overwritten: %q", got)
	}
	// Files and folders are for their owner. (A7 looks at a share file.)
	for _, line := range []string{
		"soft new a.tok --serial SOFT0200050",
		"init --token soft:a.tok --shares 0 --confirm SOFT0200050 --pin env:TOKEN_PIN --so-pin env:TOKEN_SO_PIN",
		"soft keygen a.tok --type ec:prime256v1 --label key --id 01 --pin env:TOKEN_PIN",
		"backup --token soft:a.tok --pin env:TOKEN_PIN || [ $? = 3 ]",
		"export out",
	} {
		want(t, r.open(line), 0)
	}
	n := 0
	err := filepath.WalkDir(r.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == r.dir {
			return err
		}
		n++
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil || n < 7 {
		t.Errorf("%d files, %v", n, err)
	}
	want(t, r.hsmbackup("export", "out"), 6, "out")

	_, s := ready(t, 0, "SOFT0200059", caKey)
	s.write("key.bin", []byte("the only copy of something"))
	s.stock("--wrap-key", "key.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
	s.stock("--wrap-key", "new.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
	for _, name := range []string{"key.bin", "new.bin"} {
		if info, err := os.Stat(s.path(name)); err == nil {
			t.Logf("sc-hsm-tool --wrap-key %s: %d bytes, mode %v", name, info.Size(), info.Mode())
		}
	}
}

func badDay10(t *testing.T) {
	token, r := ready(t, 0, "SOFT0200060", caKey, webKey)
	// The request is in a backup before a certificate takes its place.
	want(t, r.hsmbackup(secrets("backup")...), 3, "no-share")
	request := tryFile(t, token, schsm.CertificateFile(2))
	r.write("web.der", certificate(t, r.public(webKey)))
	r.write("note", []byte("a data object"))
	for _, args := range [][]string{
		{"--write-object", "web.der", "--type", "cert", "--id", webKey.id, "--label", webKey.label},
		{"--write-object", "web.der", "--type", "cert", "--id", "77", "--label", "authority"}, // of no key: a CA's
		{"--write-object", "note", "--type", "data", "--label", "note", "--application-label", "test"},
		{"--write-object", "note", "--type", "data", "--label", "secret note", "--application-label", "test", "--private"},
	} {
		good(t, r.loggedIn(args...), "Created ")
	}
	inside(t, token, func(card *schsm.Card) {
		algorithms := []byte{0x10, 0x11, 0x18, 0x99, 0x92} // CBC both ways, CMAC, derive, wrap
		if err := card.GenerateAES(t.Context(), 9, 256, algorithms); err != nil {
			t.Fatal(err)
		}
		d := pkcs15.KeyDescription{Kind: pkcs15.AES, Label: "disk", ID: []byte{9}, Usage: pkcs15.DefaultUsage(pkcs15.AES), Bits: 256, Reference: 9}
		if err := card.WriteFile(t.Context(), schsm.DescriptionFile(9), d.Encode()); err != nil {
			t.Fatal(err)
		}
	})
	before := everything(t, token)
	for _, prefix := range []string{"C4", "C8", "C9", "CA", "CD", "CE", "CF"} {
		if !strings.Contains("\n"+before, "\n"+prefix) {
			t.Errorf("no file %sxx on the token", prefix)
		}
	}
	// What the PIN protects is sealed, for which the recovery key must be known.
	r.write("share.pbe", unhex(t, twicePBE))
	good(t, r.hsmbackup(secrets("dkek", "check", "share.pbe")...), twiceKCV)
	good(t, r.hsmbackup(secrets("backup")...), "3 of 3 keys restorable")
	good(t, r.hsmbackup("export", "first", r.snapshots()[0].ID))
	if b := r.read("first/key-002-web-server.bin"); !bytes.Contains(b, request) {
		t.Error("the first backup does not hold the request")
	}

	spare := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0400060"})
	d := pcsctest.Start(t)
	d.Unplug(t, 0)
	d.Plug(t, 0, spare)
	good(t, r.hsmbackup(secrets("restore", "--from", "SOFT0200060", "--init", "--share", "share.pbe", "--confirm", "SOFT0400060", "--untrusted-token", "SOFT0400060")...),
		"3 of 3 keys are on SOFT0400060 and were used")
	if after := everything(t, spare); after != before {
		t.Errorf("restored:\n%s\nthe original:\n%s", after, before)
	}
}

// snapshot is what list --json says of one.
type snapshot struct{ ID, Token string }

// snapshots lists those of the catalog, the oldest first.
func (r reader) snapshots() []snapshot {
	r.Helper()
	var list struct{ Snapshots []snapshot }
	if err := json.Unmarshal([]byte(good(r, r.hsmbackup("list", "--json"))), &list); err != nil {
		r.Fatal(err)
	}
	return list.Snapshots
}

func badDay11(t *testing.T) {
	token, r := ready(t, 0, "SOFT0200061", caKey, webKey)
	r.write("web.der", certificate(t, r.public(webKey)))
	good(t, r.loggedIn("--write-object", "web.der", "--type", "cert", "--id", webKey.id, "--label", webKey.label), "Created certificate")
	inside(t, token, func(card *schsm.Card) {
		if err := card.DeleteFile(t.Context(), schsm.DescriptionFile(2)); err != nil {
			t.Fatal(err)
		}
	})
	good(t, r.scHSM("--wrap-key", "web.bin", "--key-reference", "2", "--pin", "env:TOKEN_PIN"))
	c, err := dkek.ParseContainer(r.read("web.bin"))
	if err != nil || !c.Misplaced {
		t.Fatalf("the file is not what this is about: %+v, %v", c, err)
	}
	pcsctest.Start(t).Unplug(t, 0)

	spare, s := ready(t, 1, "SOFT0400061")
	s.dir = r.dir
	want(t, s.hsmbackup("adopt", "--no-backup", "web.bin"), 3, "the certificate stood in its place", "one was made")
	good(t, s.hsmbackup(secrets("restore", "--from", "latest", "--yes", "--at", "web=2")...), "is on SOFT0400061 and was used")
	description, err := pkcs15.ParseKey(tryFile(t, spare, schsm.DescriptionFile(2)))
	if err != nil || description.Label != "web" || description.Bits != 256 {
		t.Errorf("described as %+v, %v", description, err)
	}
	if got := tryFile(t, spare, schsm.CertificateFile(2)); !bytes.Equal(got, s.read("web.der")) {
		t.Errorf("%d bytes in the certificate's place", len(got))
	}
	s.signs(key{id: hex.EncodeToString(description.ID)}, "public-02.pem")

	s.stock("--unwrap-key", "web.bin", "--key-reference", "3", "--pin", "env:TOKEN_PIN")
	t.Logf("in the place of the description, which begins with A0 for a key on a curve: %.4x, in that of the certificate: %.4x",
		tryFile(t, spare, schsm.DescriptionFile(3)), tryFile(t, spare, schsm.CertificateFile(3)))
}

func badDay12(t *testing.T) {
	_, r := ready(t, 0, "SOFT0200062", caKey)
	good(t, r.scHSM("--wrap-key", "ca.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN"))
	good(t, r.scHSM("--wrap-key", "ca2.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN"))
	want(t, r.hsmbackup(secrets("backup")...), 3, "no-share")
	restore := secrets("restore", "--from", "SOFT0200062", "--yes")

	// Each cause in words of its own; the token stays as it is.
	d := pcsctest.Start(t)
	d.Unplug(t, 0)
	other := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0400064"})
	otherKCV := setUp(t, other, dkek.NewShare())
	for _, c := range []struct {
		token *softtoken.Token
		setUp []string
		says  string
	}{
		{newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0400062"}), []string{"--no-dkek"}, "the token has none"},
		{newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0400063"}), []string{"--shares", "2"}, "the token has an incomplete one (2 of 2 shares missing)"},
		{other, nil, "the token has " + otherKCV.String()},
	} {
		d.Plug(t, 0, c.token)
		if c.setUp != nil {
			good(t, r.hsmbackup(secrets(append([]string{"init", "--yes", "--confirm", c.token.Serial()}, c.setUp...)...)...))
		}
		before := everything(t, c.token)
		want(t, r.hsmbackup(restore...), 1, c.says, "the keys are under the recovery key "+twiceKCV)
		if after := everything(t, c.token); after != before {
			t.Errorf("on the token: %s, before: %s", after, before)
		}
		r.stock("--unwrap-key", "ca.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
		r.stock("--wrap-key", "no.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
		d.Unplug(t, 0)
	}
	spare, s := ready(t, 0, "SOFT0400065")
	s.dir = r.dir
	want(t, s.hsmbackup(append(restore, "--key", "77")...), 1, `no key with the reference, ID or label "77"`)
	s.stock("--wrap-key", "no.bin", "--key-reference", "77", "--pin", "env:TOKEN_PIN")

	// The same blob twice, another blob of the same key, and to another place.
	good(t, s.hsmbackup(restore...), "is on SOFT0400065 and was used")
	before := everything(t, spare)
	good(t, s.hsmbackup(restore...), "was there already, and used")
	good(t, s.hsmbackup(append(restore, "--at", "1=7")...), "already on the token as key 1")
	want(t, s.hsmbackup("adopt", "--no-backup", "ca.bin", "ca2.bin"), 3, "the same key as", "it is key 1 of the attached token")
	if after := everything(t, spare); after != before {
		t.Errorf("on the token: %s, before: %s", after, before)
	}
	for _, n := range []string{"2", "3"} {
		s.stock("--unwrap-key", "ca.bin", "--key-reference", n, "--pin", "env:TOKEN_PIN")
	}
	t.Logf("afterwards on the token: %v", listFiles(t, spare))
}

// One share is thirty million runs of MD5, each on the outcome of the last. The
// stock tool takes more than three times what a plain loop does; BenchmarkShare
// compares the two.
func badDay13(t *testing.T) {
	r := reader{t, 0, t.TempDir()}
	r.golden(aPBE)
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	const sample, whole = 1_000_000, 30_000_000
	begin := cpu(t)
	var sum [md5.Size]byte
	for range sample {
		sum = md5.Sum(sum[:])
	}
	plain := (cpu(t) - begin) * (whole / sample)
	cmd := exec.Command(program, "dkek", "check", aPBE, "--password", "env:A_PASSWORD")
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), "A_PASSWORD="+aPassword, "HSMBACKUP_CATALOG="+r.path("c.db"), "XDG_DATA_HOME="+r.path("data-home"))
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(aKCV)) {
		t.Fatalf("%v: %s", err, out)
	}
	ours := cmd.ProcessState.UserTime()
	// No limit here: a test does not judge a machine. BenchmarkShare measures
	// the ratio to sc-hsm-tool itself.
	t.Logf("one share: %v of processor time, a plain loop: %v (%x)", ours, plain, sum[:2])
}

// cpu is the processor time that this thread's process has used so far.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}

func badDay14(t *testing.T) {
	token, r := ready(t, 0, "SOFT0200064", caKey)
	r.public(caKey)
	good(t, r.scHSM("--wrap-key", "ca.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN"))
	want(t, r.hsmbackup(secrets("backup")...), 3, "no-share")
	before := everything(t, token)
	good(t, r.loggedIn("--delete-object", "--type", "privkey", "--id", caKey.id))
	if tryFile(t, token, schsm.CertificateFile(1)) == nil {
		t.Fatal("the request is gone: the tool has changed")
	}
	r.stock("--unwrap-key", "ca.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN")
	if slices.Contains(listFiles(t, token), schsm.KeyFile(1)) {
		t.Log("sc-hsm-tool restored it without --force")
		good(t, r.loggedIn("--delete-object", "--type", "privkey", "--id", caKey.id))
	}
	good(t, r.hsmbackup("plan"), "what a deleted key left at this reference is replaced")
	good(t, r.hsmbackup(secrets("restore", "--yes")...), "is on SOFT0200064 and was used")
	if after := everything(t, token); after != before {
		t.Errorf("on the token: %s, before: %s", after, before)
	}
	r.signs(caKey, "public-01.pem")
}
