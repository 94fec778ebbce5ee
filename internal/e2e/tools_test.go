//go:build linux && cgo

package e2e

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

func TestMain(m *testing.M) {
	pcsctest.Enter()
	code := m.Run()
	if err := os.RemoveAll(programDir); err != nil { // "" is no error
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// programDir is where the program was built, if a test needed it.
var programDir string

// build builds the program once, as a user would.
var build = sync.OnceValues(func() (string, error) {
	var err error
	if programDir, err = os.MkdirTemp("", "hsmbackup-e2e-"); err != nil {
		return "", err
	}
	program := filepath.Join(programDir, "hsmbackup")
	out, err := exec.Command("go", "build", "-o", program, "hsmbackup/cmd/hsmbackup").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %v\n%s", err, out)
	}
	return program, nil
})

// Secrets of the tokens and shares here.
const (
	pin   = "648219"
	soPIN = "3537363231383830"
)

// secretEnv is how programs get them: not in an argument.
var secretEnv = []string{"TOKEN_PIN=" + pin, "TOKEN_SO_PIN=" + soPIN, "TOKEN_NEW_PIN=" + newPIN, "SHARE_PASSWORD=" + password}

const (
	newPIN   = "193746"
	password = "ordinary trumpet grit clinic permit joke abandon"
)

// reader is a slot of the private pcscd, as the tools number it, and a folder
// to work in.
type reader struct {
	testing.TB
	slot int
	dir  string
}

// plugged puts a token into a slot.
func plugged(t testing.TB, slot int, token *softtoken.Token) reader {
	t.Helper()
	pcsctest.Start(t).Plug(t, slot, token)
	return reader{t, slot, t.TempDir()}
}

// newToken makes a token that was never initialised.
func newToken(t testing.TB, o softtoken.Options) *softtoken.Token {
	t.Helper()
	token, err := softtoken.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { token.Close() })
	return token
}

// setUp initialises a token with one share, in process. It is for tests that
// are not about this; a share takes a tool ten seconds.
func setUp(t testing.TB, token *softtoken.Token, share *dkek.Share) dkek.KCV {
	t.Helper()
	ctx := t.Context()
	card, err := schsm.Open(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	so, err := schsm.ParseSOPIN([]byte(soPIN))
	if err != nil {
		t.Fatal(err)
	}
	err = card.Initialise(ctx, schsm.Initialisation{Options: schsm.OptionUnblock, PIN: secret.New([]byte(pin)), SOPIN: so, Shares: 1, Label: "ssh"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := card.LoadShare(ctx, 0, bytes.Clone(share.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	token.Reset()
	kcv, err := dkek.ParseKCV(hex.EncodeToString(d.KCV[:]))
	if err != nil {
		t.Fatal(err)
	}
	return kcv
}

// run runs a program in the reader's folder.
func (r reader) run(name string, args ...string) pcsctest.Result {
	r.Helper()
	return pcsctest.Run(r, pcsctest.Cmd{Name: name, Args: args, Env: secretEnv, Dir: r.dir})
}

func (r reader) scHSM(args ...string) pcsctest.Result {
	r.Helper()
	return r.run("sc-hsm-tool", append([]string{"--reader", strconv.Itoa(r.slot)}, args...)...)
}

func (r reader) pkcs15(args ...string) pcsctest.Result {
	r.Helper()
	return r.run("pkcs15-tool", append([]string{"--no-cache", "--reader", strconv.Itoa(r.slot)}, args...)...)
}

func (r reader) pkcs11(args ...string) pcsctest.Result {
	r.Helper()
	return r.run("pkcs11-tool", append([]string{"--module", pcsctest.Module(r), "--slot-index", strconv.Itoa(r.slot)}, args...)...)
}

// loggedIn is pkcs11 with the PIN.
func (r reader) loggedIn(args ...string) pcsctest.Result {
	r.Helper()
	return r.pkcs11(append([]string{"--login", "--pin", "env:TOKEN_PIN"}, args...)...)
}

// want fails the test unless a program ended with that code and said each of
// these, somewhere. It gives all that was said.
func want(t testing.TB, r pcsctest.Result, code int, says ...string) string {
	t.Helper()
	all := r.Stdout + r.Stderr
	if r.Code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.Code, code, r.Stdout, r.Stderr)
	}
	for _, s := range says {
		if !strings.Contains(all, s) {
			t.Fatalf("%q is not in\nstdout: %s\nstderr: %s", s, r.Stdout, r.Stderr)
		}
	}
	return all
}

// good is want for a program that did what it should: some of OpenSC's exit
// with 0 when they failed.
func good(t testing.TB, r pcsctest.Result, says ...string) string {
	t.Helper()
	all := want(t, r, 0, says...)
	for _, s := range []string{"failed", "Failed", "error:", "Error:", "Aborting"} {
		if strings.Contains(all, s) {
			t.Fatalf("exit code 0, but\nstdout: %s\nstderr: %s", r.Stdout, r.Stderr)
		}
	}
	return all
}

// refused is for a program that must say no, whatever its exit code.
func refused(t testing.TB, r pcsctest.Result, says ...string) {
	t.Helper()
	want(t, r, r.Code, says...)
}

// hsmbackup runs the program on a catalog in the reader's folder.
func (r reader) hsmbackup(args ...string) pcsctest.Result {
	r.Helper()
	program, err := build()
	if err != nil {
		r.Fatal(err)
	}
	return pcsctest.Run(r, pcsctest.Cmd{Name: program, Args: args, Dir: r.dir, Env: append([]string{"HSMBACKUP_CATALOG=" + r.path("c.db"), "XDG_DATA_HOME=" + r.path("data-home")}, secretEnv...)})
}

// secrets are the flags that go with secretEnv. Each verb reads what it needs.
func secrets(args ...string) []string {
	return append(args, "--pin", "env:TOKEN_PIN", "--so-pin", "env:TOKEN_SO_PIN", "--password", "env:SHARE_PASSWORD")
}

// path gives a file's path in the reader's folder.
func (r reader) path(name string) string { return filepath.Join(r.dir, name) }

func (r reader) write(name string, content []byte) {
	r.Helper()
	if err := os.WriteFile(r.path(name), content, 0o600); err != nil {
		r.Fatal(err)
	}
}

func (r reader) read(name string) []byte {
	r.Helper()
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		r.Fatal(err)
	}
	return b
}

// key is one that the tools were asked to make.
type key struct{ typ, id, label string }

// everyType is what this release backs up.
var everyType = []key{
	{"rsa:1024", "01", "RSA 1024"},
	{"rsa:2048", "02", "RSA 2048"},
	{"rsa:3072", "03", "RSA 3072"},
	{"rsa:4096", "04", "SSH CA"},
	{"EC:prime256v1", "05", "SSH HSM"},
	{"EC:secp384r1", "06", "P-384"},
	{"EC:secp521r1", "07", "Schlüssel P-521"},
}

func (r reader) generate(k key) {
	r.Helper()
	good(r, r.loggedIn("--keypairgen", "--key-type", k.typ, "--id", k.id, "--label", k.label), "Key pair generated", "label:      "+k.label, "ID:         "+k.id)
}

// public reads a key's public half as OpenSC has it.
func (r reader) public(k key) crypto.PublicKey {
	r.Helper()
	said := good(r, r.pkcs15("--read-public-key", k.id), "BEGIN PUBLIC KEY")
	block, _ := pem.Decode([]byte(said[strings.Index(said, "-----BEGIN"):]))
	if block == nil {
		r.Fatalf("no PEM in %s", said)
	}
	r.write("public-"+k.id+".der", block.Bytes)
	r.write("public-"+k.id+".pem", pem.EncodeToMemory(block))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		r.Fatal(err)
	}
	return public
}

var kcvLine = regexp.MustCompile(`(?m)^DKEK key check value : ([0-9A-F]{16})$`)

// kcv is what sc-hsm-tool prints of the DKEK.
func kcv(t testing.TB, said string) string {
	t.Helper()
	m := kcvLine.FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("no key check value in %s", said)
	}
	return m[1]
}
