//go:build linux && cgo

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
)

// golden copies a file of testdata into the reader's folder.
func (r reader) golden(name string) {
	r.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", name))
	if err != nil {
		r.Fatal(err)
	}
	r.write(name, b)
}

// aPBE is a share that sc-hsm-tool made, and the DKEK it makes alone
// (testdata/README.md).
const (
	aPBE      = "a.pbe"
	aPassword = "testpw-1"
	aKCV      = "19471B8FFE18014C"
)

// seen is what OpenSC and OpenSSH show of a token.
type seen struct{ dump, objects, ssh string }

// volatile are lines that differ between two tokens that hold the same: the
// serial number and what comes of it, and a number that OpenSC makes up.
var volatile = regexp.MustCompile(`(?m)^(\s*(Serial number|MD:guid)\s*:|\s*uri:|Profile object |Using slot ).*\n`)

func (r reader) look() seen {
	r.Helper()
	return seen{
		dump:    volatile.ReplaceAllString(good(r, r.pkcs15("--dump")), ""),
		objects: volatile.ReplaceAllString(good(r, r.loggedIn("--list-objects")), ""),
		ssh:     good(r, r.run("ssh-keygen", "-D", pcsctest.Module(r))),
	}
}

// The whole job: keys of every type made by OpenSC, backed up, wiped by a
// firmware update, and restored as OpenSC knew them.
func TestJob(t *testing.T) {
	const old, successor = "SOFT0200011", "SOFT0400011"
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: old}) // takes commands of 1232 bytes
	r := plugged(t, 0, token)
	r.golden(aPBE)
	share := []string{"--share", aPBE + ",password=env:A_PASSWORD"}
	t.Setenv("A_PASSWORD", aPassword)

	// A token that only says it is genuine gets no share.
	want(t, r.hsmbackup(secrets("init", "--label", "ssh", share[0], share[1], "--confirm", old)...), 6, "hsmbackup: ")
	good(t, r.scHSM(), "never been initialized")
	good(t, r.hsmbackup(secrets("init", "--label", "ssh", share[0], share[1], "--confirm", old, "--untrusted-token", old)...))
	if got := kcv(t, good(t, r.scHSM())); got != aKCV {
		t.Fatalf("KCV %s", got)
	}

	for _, k := range everyType {
		r.generate(k)
	}
	web := everyType[1]
	r.write("web.der", certificate(t, r.public(web)))
	good(t, r.loggedIn("--write-object", "web.der", "--type", "cert", "--id", web.id, "--label", web.label), "Created certificate")
	before := r.look()
	ca := everyType[3]
	r.write("ca.pub", []byte(strings.Join(strings.Fields(good(t, r.pkcs15("--read-ssh-key", ca.id)))[:2], " ")+" SSH CA\n"))
	r.issue("before", "ca.pub")

	said := good(t, r.hsmbackup(secrets("backup")...), fmt.Sprintf("%d of %d keys restorable", len(everyType), len(everyType)))
	if after := r.look(); after != before {
		t.Errorf("the backup left traces:\n%+v\nbefore:\n%+v", after, before)
	}
	good(t, r.hsmbackup("check"), "intact")
	good(t, r.hsmbackup(append([]string{"verify", "--offline"}, share...)...), "opened")
	good(t, r.hsmbackup(secrets("verify", "--pkcs11")...), "proof: used on "+old+" through PKCS#11", "used, ECDSA")
	var status struct {
		Tokens []struct {
			Serial string
			Keys   []struct{ Reference, Type, Coverage any }
		}
	}
	if err := json.Unmarshal([]byte(good(t, r.hsmbackup("status", "--json"))), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Tokens) != 1 || status.Tokens[0].Serial != old || len(status.Tokens[0].Keys) != len(everyType) {
		t.Errorf("%+v", status)
	} else {
		for _, k := range status.Tokens[0].Keys {
			if k.Coverage != "unasked" { // nobody is logged in
				t.Errorf("%+v", k)
			}
		}
	}
	if strings.Contains(said, pin) {
		t.Error("the PIN shows")
	}

	// The update wants an empty token, and leaves one that was never set up.
	if err := token.Update("3.6", successor); !errors.Is(err, softtoken.ErrHoldsObjects) {
		t.Fatalf("update of a full token: %v", err)
	}
	good(t, r.hsmbackup(secrets("init", "--token-pin", "env:TOKEN_PIN", "--shares-checked", "19471B8FFE18014C", "--confirm", old)...))
	d := pcsctest.Start(t)
	d.Unplug(t, 0)
	if err := token.Update("3.6", successor); err != nil {
		t.Fatal(err)
	}
	d.Plug(t, 0, token)
	good(t, r.scHSM(), "never been initialized")

	good(t, r.hsmbackup("plan", "--from", old))
	restore := secrets("restore", "--from", old, "--init", share[0], share[1], "--confirm", successor, "--untrusted-token", successor)
	good(t, r.hsmbackup(restore...), fmt.Sprintf("%d of %d keys are on %s and were used", len(everyType), len(everyType), successor),
		fmt.Sprintf("used through PKCS#11: %d of %d", len(everyType), len(everyType)))
	after := r.look()
	for _, c := range []struct{ what, before, after string }{
		{"pkcs15-tool --dump", before.dump, after.dump},
		{"pkcs11-tool --list-objects", before.objects, after.objects},
		{"ssh-keygen -D", before.ssh, after.ssh},
	} {
		if c.before != c.after {
			t.Errorf("%s before:\n%s\nafter:\n%s", c.what, c.before, c.after)
		}
	}
	good(t, r.pkcs15("--dump"), successor)
	// The longest request of all was written back to a token that takes commands
	// of 1232 bytes.
	if n := len(readFile(t, token, schsm.CertificateFile(4))); n != 1188 {
		t.Errorf("the request of RSA-4096 has %d bytes", n)
	}
	for _, k := range everyType {
		t.Run(k.typ, func(t *testing.T) {
			r := r
			r.TB = t
			r.use(k, r.public(k))
		})
	}

	// Once more changes nothing.
	good(t, r.hsmbackup(secrets("restore", "--from", old, "--yes")...), "was there already, and used")
	if again := r.look(); again != after {
		t.Errorf("a second restore changed something:\n%+v\nbefore:\n%+v", again, after)
	}

	// Whoever trusted the CA key still does.
	r.issue("after", "ca.pub")
	r.sshd("ca.pub", "before", "after")
}

// readFile reads a file of a token past all tools.
func readFile(t testing.TB, token *softtoken.Token, f schsm.FID) []byte {
	t.Helper()
	card, err := schsm.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	b, err := card.ReadFile(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listFiles lists what is on a token, keys and files, past all tools.
func listFiles(t testing.TB, token *softtoken.Token) []schsm.FID {
	t.Helper()
	card, err := schsm.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	list, err := card.Enumerate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// sshUser is who logs in: an account that exists for the test's sshd only.
const sshUser = "tester"

// sshd starts a server that trusts a CA key, and has each user log in by the
// certificate issued with it. One that nobody issued a certificate for is
// turned away.
func (r reader) sshd(ca string, users ...string) {
	r.Helper()
	defer r.serveSSH("AuthorizedKeysFile none", "TrustedUserCAKeys "+r.path(ca))()
	login := func(user string, more ...string) pcsctest.Result {
		r.Helper()
		return r.ssh(append([]string{"-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", user}, more...)...)
	}
	for _, user := range users {
		if said := login(user, "-o", "CertificateFile="+user+"-cert.pub"); said.Code != 0 || said.Stdout != "logged in\n" {
			r.Errorf("%s: %+v\n%s", user, said, r.read("sshd.log"))
		}
	}
	r.newKey("stranger")
	want(r, login("stranger"), 255, "Permission denied")
}

// newKey makes a key in a file.
func (r reader) newKey(name string) {
	r.Helper()
	_, err := os.Stat(r.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		good(r, r.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name))
	}
}

const sshPort = "2222"

// ssh logs in to what serveSSH started.
func (r reader) ssh(args ...string) pcsctest.Result {
	r.Helper()
	args = append(args, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentityAgent=none", "-p", sshPort, sshUser+"@127.0.0.1", "echo logged in")
	return pcsctest.Run(r, pcsctest.Cmd{Name: "ssh", Args: args, Env: r.askpass(), Dir: r.dir})
}

// serveSSH starts a server on loopback, which runs until the function that it
// gives is called. Its host key is in the file host.
func (r reader) serveSSH(config ...string) (stop func()) {
	r.Helper()
	r.newKey("host")
	r.write("sshd_config", fmt.Appendf(nil, "Port %s\nListenAddress 127.0.0.1\nHostKey %s\nUsePAM no\nStrictModes no\nPidFile none\n%s\n",
		sshPort, r.path("host"), strings.Join(config, "\n")))
	r.write("passwd", fmt.Appendf(nil, "root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n%s:x:1000:1000::%s:/bin/sh\n", sshUser, r.dir))
	log, err := os.Create(r.path("sshd.log"))
	if err != nil {
		r.Fatal(err)
	}
	// Root of a user namespace cannot change its groups, which an sshd run by
	// root wants to do. So it is run by somebody else, who has an account.
	server := exec.Command("unshare", "-m", "sh", "-c", `mount --bind passwd /etc/passwd && exec unshare -U --map-user=1000 --map-group=1000 "$(PATH=$PATH:/usr/sbin command -v sshd)" -D -e -f "$1"`, "sh", r.path("sshd_config"))
	server.Stdout, server.Stderr, server.Dir = log, log, r.dir
	if err := server.Start(); err != nil {
		r.Fatalf("%v: run make deps", err)
	}
	stop = func() {
		_ = server.Process.Kill() // fails only if it has ended
		_ = server.Wait()
		log.Close()
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+sshPort)
		if err == nil {
			conn.Close()
			return stop
		}
		if time.Now().After(end) {
			stop()
			r.Fatalf("sshd does not come up (if it is missing, run make deps): %s", r.read("sshd.log"))
		}
	}
}

// The stock tool and this program understand each other: shares, wrapped keys,
// and an export that needs nothing but the stock tools.
func TestBothWays(t *testing.T) {
	const here, there = "SOFT0200012", "SOFT0200013"
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: here})
	r := plugged(t, 0, token)
	good(t, r.hsmbackup(secrets("dkek", "create", "--out", "share.pbe")...), "read back and opened")
	if info, err := os.Stat(r.path("share.pbe")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	good(t, r.hsmbackup(secrets("init", "--label", "ssh", "--share", "share.pbe", "--confirm", here, "--untrusted-token", here)...))
	shown := kcv(t, good(t, r.scHSM()))

	keys := []key{{"rsa:2048", "31", "RSA key"}, {"EC:prime256v1", "32", "it's a `key`"}, {"rsa:4096", "33", "SSH CA"}}
	var files []string
	for i, k := range keys {
		r.generate(k)
		files = append(files, k.id+".bin")
		good(t, r.scHSM("--wrap-key", k.id+".bin", "--key-reference", fmt.Sprint(i+1), "--pin", "env:TOKEN_PIN"))
	}
	var checked struct {
		KCV      string
		Complete bool
		Wrapped  []struct {
			Label, ID, Proof, Matched string
			OK                        bool
		}
	}
	result := r.hsmbackup(append(secrets("dkek", "check", "share.pbe", "--json"), files...)...)
	want(t, result, 0, "private keys are open in this computer's memory")
	if err := json.Unmarshal([]byte(result.Stdout), &checked); err != nil {
		t.Fatal(err)
	}
	if checked.KCV != shown || !checked.Complete || len(checked.Wrapped) != len(keys) {
		t.Errorf("the tool's KCV is %s: %+v", shown, checked)
	}
	for i, w := range checked.Wrapped {
		if !w.OK || w.Proof != "opened" || w.Matched != "request" || w.Label != keys[i].label || w.ID != keys[i].id {
			t.Errorf("%s: %+v", files[i], w)
		}
	}

	// What is exported comes back by the guide alone, run by machine.
	good(t, r.hsmbackup(secrets("backup")...), "3 of 3 keys restorable")
	good(t, r.hsmbackup("export", "out"))
	s := plugged(t, 1, newToken(t, softtoken.Options{Firmware: "3.6", Serial: there}))
	s.dir = r.path("out")
	var script strings.Builder
	blocks := regexp.MustCompile("(?ms)^```sh$\n(.*?)^```$").FindAllStringSubmatch(string(s.read("RESTORE.md")), -1)
	for _, b := range blocks {
		script.WriteString(b[1])
	}
	if len(blocks) < 5 {
		t.Fatalf("RESTORE.md has %d blocks of commands", len(blocks))
	}
	out := pcsctest.Run(t, pcsctest.Cmd{Name: "sh", Stdin: []byte(script.String()), Dir: s.dir, Timeout: 3 * time.Minute, Env: []string{
		"READER=1", "SERIAL=" + there, "PIN=" + pin, "SO_PIN=" + soPIN, "SHARE_1=" + r.path("share.pbe"), "PASSWORD_1=" + password}})
	want(t, out, 0, "DKEK key check value : "+shown, "DONE: 3 keys")
	for _, k := range keys {
		s.dir = t.TempDir()
		s.use(k, s.public(k))
	}
	if got, want := s.look(), r.look(); got.objects != want.objects {
		t.Errorf("restored by the guide:\n%s\nthe original:\n%s", got.objects, want.objects)
	}
}

// A share that the stock tool made is loaded by this program, and the tool
// sees the same DKEK.
func TestLoadToolShare(t *testing.T) {
	const serial = "SOFT0200014"
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: serial})
	r := plugged(t, 0, token)
	good(t, r.scHSM("--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "2", "--label", "ssh"))
	for _, name := range []string{"b1.pbe", "b2.pbe"} {
		r.golden(name)
	}
	t.Setenv("B1", "correct horse")
	t.Setenv("B2", "battery staple 9")
	load := []string{"dkek", "load", "--share", "b1.pbe,password=env:B1", "--share", "b2.pbe,password=env:B2"}
	want(t, r.hsmbackup(load...), 6, "--untrusted-token")
	good(t, r.scHSM(), "DKEK import pending, 2 share(s) still missing")
	good(t, r.hsmbackup(append(load, "--untrusted-token", serial)...), "59437087AD23F75C")
	if got := kcv(t, good(t, r.scHSM())); got != "59437087AD23F75C" {
		t.Errorf("KCV %s", got)
	}
	// The DKEK is the one the share files make: a key wrapped under it elsewhere
	// comes back here.
	r.golden("b-p256.bin")
	good(t, r.scHSM("--unwrap-key", "b-p256.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN"), "Key successfully imported")
}

// A token is served to pcscd by the program itself.
func TestServe(t *testing.T) {
	pcsctest.Start(t)
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	r := reader{t, 0, t.TempDir()}
	good(t, r.hsmbackup("soft", "new", "a.tok", "--firmware", "3.5", "--serial", "SOFT0200015"))
	serve := exec.Command(program, "soft", "serve", "a.tok")
	serve.Dir = r.dir
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	defer func() { _ = serve.Process.Kill() }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if said := r.scHSM(); strings.Contains(said.Stdout, "never been initialized") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("pcscd does not see the token: %+v", r.scHSM())
		}
	}
	good(t, r.scHSM("--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "1"))
	good(t, r.hsmbackup("status"), "SOFT0200015")
	if err := serve.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("soft serve does not end")
	}
	// What the token was told is in its file.
	good(t, r.hsmbackup("status", "--token", "soft:a.tok", "--json"), `"initialised":true`)
}
