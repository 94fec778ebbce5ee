//go:build linux && cgo

package e2e

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/softtoken"
)

const (
	notebookOld       = "SOFT0200031"
	notebookSuccessor = "SOFT0400031"
	notebookSpare     = "SOFT0400032"
)

// notebook are the keys of an admin who has his SSH CA, his own SSH key and one
// from a former year on one token. Where he gave no ID, OpenSC makes it up.
var notebook = []key{
	{"rsa:4096", "", "SSH CA"},
	{"EC:secp256r1", "", "SSH HSM cpm 2024-10"},
	{"rsa:2048", "23", "HSM SSH key CPRIMA 2023"},
}

// TestNotebook is the life of that token with the tools he uses: keys made by
// pkcs11-tool, SSH logins by a key on the token and by a certificate that the CA
// on it issued. Then comes a firmware update, then the loss of the token; each
// time all of it works as before and looks the same.
func TestNotebook(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: notebookOld})
	r := plugged(t, 0, token)
	r.golden(aPBE)
	t.Setenv("A_PASSWORD", aPassword)
	share := []string{"--share", aPBE + ",password=env:A_PASSWORD"}
	job := func(args ...string) []string { return secrets(append(args, share...)...) }

	good(t, r.hsmbackup(job("init", "--label", "net.cprima.hsm02", "--confirm", notebookOld, "--untrusted-token", notebookOld)...))
	keys := r.makeNotebook()
	r.write("revoked.txt", []byte("serial: 1042\n"))
	good(t, r.run("ssh-keygen", "-q", "-k", "-f", "revoked.krl", "-s", "ca.pub", "revoked.txt"))
	before, lines := r.look(), r.sshLines(keys)
	same := func(after string) {
		t.Helper()
		if now := r.look(); now != before {
			t.Errorf("after %s:\n%+v\nbefore:\n%+v", after, now, before)
		}
		if now := r.sshLines(keys); now != lines {
			t.Errorf("pkcs15-tool --read-ssh-key after %s:\n%s\nbefore:\n%s", after, now, lines)
		}
	}
	r.logins("-F", "none", "-o", "PKCS11Provider="+pcsctest.Module(t))

	// As he did it himself so far; now with everything that belongs to the CA.
	good(t, r.hsmbackup(secrets("backup", "--attach", "revoked.krl")...), "3 of 3 keys restorable", "attached revoked.krl")
	good(t, r.hsmbackup(secrets("verify", "--pkcs11")...), "used, SHA256-RSA-PKCS", "used, ECDSA")
	if got := r.hsmbackup("show", "latest", "--ssh").Stdout; got != lines {
		t.Errorf("show --ssh:\n%s\npkcs15-tool --read-ssh-key:\n%s", got, lines)
	}
	r.write("ssh_config", []byte(r.hsmbackup("show", "latest", "--ssh=config").Stdout))
	r.write("trusted", []byte(r.hsmbackup("show", "latest", "--ssh=ca", "--key", "SSH CA").Stdout))
	same("the backup")

	// The firmware update.
	good(t, r.hsmbackup(job("firmware-update", "--copy-to", "stick.db", "--same-disk-anyway", "--confirm", notebookOld, "--yes")...), "is empty")
	d := pcsctest.Start(t)
	d.Unplug(t, 0)
	if err := token.Update("3.6", notebookSuccessor); err != nil {
		t.Fatal(err)
	}
	d.Plug(t, 0, token)
	good(t, r.scHSM(), "never been initialized")
	good(t, r.hsmbackup(job("firmware-update", "--confirm", notebookSuccessor, "--untrusted-token", notebookSuccessor, "--yes")...),
		"3 of 3 keys are on "+notebookSuccessor+" and used", "used through PKCS#11: 3 of 3")
	good(t, r.pkcs15("--dump"), notebookSuccessor, "net.cprima.hsm02")
	same("the firmware update")
	r.logins("-F", "ssh_config")

	// The token is lost, and the catalog with it: what is left is the copy that
	// was made before the update, and the share.
	d.Unplug(t, 0)
	if err := os.Rename(r.path("stick.db"), r.path("c.db")); err != nil {
		t.Fatal(err)
	}
	spare := newToken(t, softtoken.Options{Firmware: "4.1", Serial: notebookSpare})
	d.Plug(t, 0, spare)
	good(t, r.hsmbackup(job("restore", "--from", notebookOld, "--init", "--confirm", notebookSpare, "--untrusted-token", notebookSpare)...),
		"3 of 3 keys are on "+notebookSpare+" and were used", "used through PKCS#11: 3 of 3")
	good(t, r.pkcs15("--dump"), notebookSpare, "net.cprima.hsm02")
	same("the restore")
	r.logins("-F", "ssh_config")
	r.hostCertificate()
	good(t, r.hsmbackup("export", "out"))
	if got := r.read("out/attachments/revoked.krl"); !bytes.Equal(got, r.read("revoked.krl")) {
		t.Errorf("the revocation list came back as %q", got)
	}
}

// madeKey is what pkcs11-tool says of a key that it made.
var madeKey = regexp.MustCompile(`(?m)^  ID: +([0-9a-f]+)$`)

// makeNotebook makes the keys, fills in their IDs, and keeps the lines of the
// CA and of the user's key as he did, in files.
func (r reader) makeNotebook() []key {
	r.Helper()
	keys := append([]key{}, notebook...)
	for i, k := range keys {
		args := []string{"--keypairgen", "--key-type", k.typ, "--label", k.label}
		if k.id != "" {
			args = append(args, "--id", k.id)
		}
		said := good(r, r.loggedIn(args...), "Key pair generated", "label:      "+k.label)
		m := madeKey.FindStringSubmatch(said)
		if m == nil {
			r.Fatalf("no ID in %s", said)
		}
		keys[i].id = m[1]
	}
	r.write("ca.pub", []byte(r.sshLines(keys[:1])))
	r.write("hsm.pub", []byte(r.sshLines(keys[1:2])))
	return keys
}

// sshLines are the lines that pkcs15-tool gives for keys.
func (r reader) sshLines(keys []key) string {
	r.Helper()
	var lines strings.Builder
	for _, k := range keys {
		said := r.pkcs15("--read-ssh-key", k.id)
		good(r, said)
		lines.WriteString(said.Stdout)
	}
	return lines.String()
}

// logins has the user log in to an sshd by his key on the token, then, where no
// key is allowed, by a certificate of it that the CA on the token issues now,
// and by the one that it issued first. how tells ssh of the token.
func (r reader) logins(how ...string) {
	r.Helper()
	in := func(args ...string) {
		r.Helper()
		if said := r.ssh(append(append([]string{}, how...), args...)...); said.Code != 0 || said.Stdout != "logged in\n" {
			r.Errorf("%q: %+v\n%s", args, said, r.read("sshd.log"))
		}
	}
	stop := r.serveSSH("AuthorizedKeysFile " + r.path("hsm.pub"))
	in()
	stop()

	r.write("now.pub", r.read("hsm.pub"))
	r.certify("now.pub", "-s", "ca.pub", "-I", "SSH HSM cpm", "-n", sshUser)
	if _, err := os.Stat(r.path("first-cert.pub")); err != nil {
		r.write("first-cert.pub", r.read("now-cert.pub"))
	}
	stop = r.serveSSH("AuthorizedKeysFile none", "TrustedUserCAKeys "+r.path("ca.pub"))
	defer stop()
	in("-o", "CertificateFile=now-cert.pub")
	in("-o", "CertificateFile=first-cert.pub")
	want(r, r.ssh(how...), 255, "Permission denied")
}

// hostCertificate has a host show a certificate of the CA, and a user who knows
// nothing but what show --ssh=ca printed log in to it.
func (r reader) hostCertificate() {
	r.Helper()
	r.certify("host.pub", "-h", "-s", "ca.pub", "-I", "host", "-n", "127.0.0.1")
	defer r.serveSSH("HostCertificate "+r.path("host-cert.pub"), "AuthorizedKeysFile "+r.path("trusted"))()
	strict := []string{"-F", "ssh_config", "-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + r.path("trusted"), "-o", "CertificateFile=first-cert.pub"}
	if said := r.ssh(strict...); said.Code != 0 || said.Stdout != "logged in\n" {
		r.Errorf("%+v\n%s", said, r.read("sshd.log"))
	}
}
