//go:build linux && cgo

package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/softtoken"
)

// The stock tool takes a software token from the box to a key that was wrapped
// and came back.
func TestScHSMTool(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001"})
	r := plugged(t, 0, token)

	good(t, r.run("opensc-tool", "--reader", "0", "--atr", "--name"),
		"3b:de:96:ff:81:91:fe:1f:c3:80:31:81:54:48:53:4d:31:73:80:21:40:81:07:92", "SmartCard-HSM")
	good(t, r.scHSM(), "Version              : 3.5", "SmartCard-HSM has never been initialized")

	good(t, r.scHSM("--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "1", "--label", "ssh"))
	good(t, r.scHSM(), "User PIN reset with SO-PIN enabled", "SO-PIN tries left    : 15", "User PIN tries left  : 3", "DKEK import pending, 1 share(s) still missing")
	refused(t, r.loggedIn("--keypairgen", "--key-type", "EC:prime256v1", "--id", "01"), "error: PKCS11 function C_GenerateKeyPair failed")

	good(t, r.scHSM("--create-dkek-share", "share.pbe", "--password", "env:SHARE_PASSWORD"), "DKEK share created and saved to share.pbe")
	said := good(t, r.scHSM("--import-dkek-share", "share.pbe", "--password", "env:SHARE_PASSWORD"), "DKEK share imported", "DKEK shares          : 1")
	share, err := dkek.OpenPBE(t.Context(), r.read("share.pbe"), []byte(password), nil)
	if err != nil {
		t.Fatal(err)
	}
	dk, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	if got := kcv(t, said); got != dk.KCV().String() {
		t.Errorf("KCV %s of the tool, %s of the share file", got, dk.KCV())
	}

	// A wrap and its way back, the longest command of all among them.
	for i, k := range []key{{"EC:prime256v1", "05", "SSH HSM"}, {"rsa:4096", "04", "SSH CA"}} {
		reference, spare := fmt.Sprint(i+1), fmt.Sprint(i+11)
		r.generate(k)
		file := k.id + ".bin"
		good(t, r.scHSM("--wrap-key", file, "--key-reference", reference, "--pin", "env:TOKEN_PIN"))
		c, err := dkek.ParseContainer(r.read(file))
		if err != nil {
			t.Fatal(err)
		}
		b, err := dkek.ParseBlob(c.Blob)
		if err != nil {
			t.Fatal(err)
		}
		private, err := dk.Open(b)
		if err != nil {
			t.Fatal(err)
		}
		if m, _, err := dkek.MatchKey(private, c.Description, c.Certificate); err != nil || m != dkek.MatchRequest {
			t.Errorf("%s matches %q, %v", k.label, m, err)
		}
		want(t, r.scHSM("--unwrap-key", file, "--key-reference", reference, "--pin", "env:TOKEN_PIN"), 1, "Found existing private key description")
		good(t, r.scHSM("--unwrap-key", file, "--key-reference", spare, "--pin", "env:TOKEN_PIN"), "Key successfully imported")
		good(t, r.pkcs15("--list-keys"), "Key ref        : "+reference+" ", "Key ref        : "+spare+" ")
	}
	refused(t, r.scHSM("--wrap-key", "no.bin", "--key-reference", "77", "--pin", "env:TOKEN_PIN"), "failed")

	// Under another DKEK nothing comes back, and the tool can tell why.
	other := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200002"})
	setUp(t, other, dkek.NewShare())
	s := plugged(t, 1, other)
	want(t, s.scHSM("--unwrap-key", r.path("05.bin"), "--key-reference", "1", "--pin", "env:TOKEN_PIN"), 1, "does not match DKEK")

	// It exits with 0 on a wrong SO-PIN, which cost a try.
	refused(t, s.scHSM("--initialize", "--so-pin", "3537363231383831", "--pin", "env:TOKEN_PIN", "--dkek-shares", "2"), "failed")
	good(t, s.scHSM(), "SO-PIN tries left    : 14", "DKEK key check value")
	good(t, s.scHSM("--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "2"))
	good(t, s.scHSM(), "SO-PIN tries left    : 15", "DKEK import pending, 2 share(s) still missing")
}

// Keys of every type are made, listed, read and used by OpenSC.
func TestKeysOfEveryType(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200003"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	for _, k := range everyType {
		r.generate(k)
	}
	listed := good(t, r.loggedIn("--list-objects"))
	dumped := good(t, r.pkcs15("--dump"), "PKCS#15 Card [ssh]", "Serial number  : SOFT0200003")
	module := pcsctest.Module(t)
	ssh := good(t, r.run("ssh-keygen", "-D", module))
	for i, k := range everyType {
		t.Run(k.typ, func(t *testing.T) {
			r := r
			r.TB = t
			if n := strings.Count(listed, "label:      "+k.label+"\n  ID:         "+k.id+"\n"); n != 2 {
				t.Errorf("listed %d times, want the private and the public key:\n%s", n, listed)
			}
			if !strings.Contains(dumped, fmt.Sprintf("Key ref        : %d ", i+1)) {
				t.Errorf("no key %d in %s", i+1, dumped)
			}
			public := r.public(k)
			line := strings.TrimSpace(good(t, r.pkcs15("--read-ssh-key", k.id)))
			fields := strings.Fields(line)
			if len(fields) < 2 || !strings.Contains(ssh, fields[0]+" "+fields[1]) {
				t.Errorf("pkcs15-tool says %s, ssh-keygen -D %s", line, ssh)
			}
			r.use(k, public)
		})
	}
}

// use has OpenSC use a private key in every way it has, and checks the answers
// against the public key.
func (r reader) use(k key, public crypto.PublicKey) {
	r.Helper()
	message := []byte("the quick brown fox")
	digest := sha256.Sum256(message)
	r.write("message", message)
	r.write("digest", digest[:])
	sign := func(mechanism, input string, more ...string) []byte {
		r.Helper()
		out := "signature-" + k.id + "-" + mechanism
		good(r, r.loggedIn(append([]string{"--sign", "--mechanism", mechanism, "--id", k.id, "--input-file", input, "--output-file", out}, more...)...))
		return r.read(out)
	}
	switch public := public.(type) {
	case *rsa.PublicKey:
		if fmt.Sprintf("rsa:%d", public.N.BitLen()) != k.typ {
			r.Errorf("%d bits", public.N.BitLen())
		}
		if err := rsa.VerifyPKCS1v15(public, 0, message, sign("RSA-PKCS", "message")); err != nil {
			r.Error("RSA-PKCS:", err)
		}
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], sign("SHA256-RSA-PKCS", "message")); err != nil {
			r.Error("SHA256-RSA-PKCS:", err)
		}
		if err := rsa.VerifyPSS(public, crypto.SHA256, digest[:], sign("RSA-PKCS-PSS", "digest", "--hash-algorithm", "SHA256"), nil); err != nil {
			r.Error("RSA-PKCS-PSS:", err)
		}
		r.decrypt(k)
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(public, digest[:], sign("ECDSA", "digest", "--signature-format", "openssl")) {
			r.Error("ECDSA: wrong signature")
		}
		if !ecdsa.VerifyASN1(public, digest[:], sign("ECDSA-SHA256", "message", "--signature-format", "openssl")) {
			r.Error("ECDSA-SHA256: wrong signature")
		}
		r.derive(k, public)
	default:
		r.Errorf("a %T", public)
	}
}

func (r reader) decrypt(k key) {
	r.Helper()
	r.write("plain", []byte("sixteen or so bytes"))
	good(r, r.run("openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", "public-"+k.id+".pem", "-in", "plain", "-out", "sealed"))
	good(r, r.loggedIn("--decrypt", "--mechanism", "RSA-PKCS", "--id", k.id, "--input-file", "sealed", "--output-file", "opened"))
	if got := r.read("opened"); !bytes.Equal(got, r.read("plain")) {
		r.Errorf("decrypted %q", got)
	}
}

func (r reader) derive(k key, public *ecdsa.PublicKey) {
	r.Helper()
	own, err := public.ECDH()
	if err != nil {
		r.Fatal(err)
	}
	peer, err := own.Curve().GenerateKey(rand.Reader)
	if err != nil {
		r.Fatal(err)
	}
	shared, err := peer.ECDH(own)
	if err != nil {
		r.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(peer.Public().(*ecdh.PublicKey))
	if err != nil {
		r.Fatal(err)
	}
	r.write("peer.der", spki)
	good(r, r.loggedIn("--derive", "--mechanism", "ECDH1-DERIVE", "--id", k.id, "--input-file", "peer.der", "--output-file", "shared"))
	if got := r.read("shared"); !bytes.Equal(got, shared) {
		r.Errorf("derived %x, want %x", got, shared)
	}
}

// A certificate is stored beside a key and read back; objects are deleted.
func TestObjects(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200004"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	k := key{"EC:prime256v1", "21", "web server"}
	r.generate(k)
	r.generate(key{"EC:prime256v1", "22", "another"})
	r.write("server.der", certificate(t, r.public(k)))
	r.write("note", []byte("a data object"))

	good(t, r.loggedIn("--write-object", "server.der", "--type", "cert", "--id", k.id, "--label", k.label), "Created certificate")
	good(t, r.loggedIn("--write-object", "note", "--type", "data", "--label", "note", "--application-label", "test"), "Created Data Object")
	listed := good(t, r.loggedIn("--list-objects"), "Certificate Object", "Data object", "another")
	if !strings.Contains(listed, "web server\n  subject:") {
		t.Errorf("the certificate does not go by its label:\n%s", listed)
	}
	good(t, r.pkcs11("--read-object", "--type", "cert", "--id", k.id, "--output-file", "back.der"))
	if !bytes.Equal(r.read("back.der"), r.read("server.der")) {
		t.Error("the certificate read back is another one")
	}
	good(t, r.pkcs11("--read-object", "--type", "data", "--label", "note", "--output-file", "back"))
	if got := r.read("back"); string(got) != "a data object" {
		t.Errorf("data object %q", got)
	}

	for _, typ := range []string{"cert", "privkey"} {
		good(t, r.loggedIn("--delete-object", "--type", typ, "--id", k.id))
	}
	good(t, r.loggedIn("--delete-object", "--type", "data", "--label", "note"))
	listed = good(t, r.loggedIn("--list-objects"), "another")
	for _, gone := range []string{"web server", "Certificate Object", "Data object"} {
		if strings.Contains(listed, gone) {
			t.Errorf("%q is still there:\n%s", gone, listed)
		}
	}
}

// certificate is one for a public key, signed by a key made up for it.
func certificate(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	_, issuer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "web server"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, issuer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The PIN is changed by both tools, blocked, and unblocked by the SO-PIN.
func TestPINs(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200005"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	slots := good(t, r.pkcs11("--list-slots"), "token initialized, PIN initialized")
	if strings.Contains(strings.ToLower(slots), "pinpad") || strings.Contains(strings.ToLower(slots), "pin pad") || strings.Contains(slots, "protected authentication") {
		t.Errorf("OpenSC believes in a PIN pad:\n%s", slots)
	}
	login := func(pin string) pcsctest.Result {
		t.Helper()
		return pcsctest.Run(t, pcsctest.Cmd{Name: "pkcs11-tool", Args: []string{"--module", pcsctest.Module(t), "--slot-index", "0", "--login", "--pin", "env:P", "--list-objects"}, Env: []string{"P=" + pin}})
	}
	good(t, login(pin))
	good(t, r.pkcs11("--login", "--pin", "env:TOKEN_PIN", "--change-pin", "--new-pin", "env:TOKEN_NEW_PIN"), "PIN successfully changed")
	good(t, login(newPIN))
	good(t, r.pkcs15("--change-pin", "--auth-id", "01", "--pin", "env:TOKEN_NEW_PIN", "--new-pin", "env:TOKEN_PIN"))
	good(t, login(pin))

	for tries := 2; tries >= 0; tries-- {
		want(t, login(newPIN), 1, "C_Login failed")
		left := fmt.Sprintf("User PIN tries left  : %d\n", tries)
		if tries == 0 {
			left = "User PIN locked"
		}
		good(t, r.scHSM(), left)
	}
	want(t, login(pin), 1, "CKR_PIN_LOCKED")
	good(t, r.pkcs11("--login", "--login-type", "so", "--so-pin", "env:TOKEN_SO_PIN", "--init-pin", "--new-pin", "env:TOKEN_NEW_PIN"), "User PIN successfully initialized")
	good(t, login(newPIN))
	good(t, r.scHSM(), "SO-PIN tries left    : 15", "User PIN tries left  : 3")
}

// ssh-keygen issues a certificate with a CA key on the token.
func TestSSHKeygen(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200006"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	for _, k := range []key{{"rsa:2048", "01", "SSH CA"}, {"EC:prime256v1", "02", "second CA"}} {
		r.generate(k)
		line := strings.Join(strings.Fields(good(t, r.pkcs15("--read-ssh-key", k.id)))[:2], " ")
		r.write("ca.pub", []byte(line+" "+k.label+"\n"))
		r.issue("user-"+k.id, "ca.pub")
		said := good(t, r.run("ssh-keygen", "-L", "-f", "user-"+k.id+"-cert.pub"), "user certificate", "Signing CA: ")
		fingerprint := strings.Fields(good(t, r.run("ssh-keygen", "-l", "-f", "ca.pub")))[1]
		if !strings.Contains(said, fingerprint) {
			t.Errorf("not signed by %s:\n%s", fingerprint, said)
		}
	}
}

// issue makes a user's key and a certificate of it with the CA key on the
// token.
func (r reader) issue(user, ca string) {
	r.Helper()
	r.newKey(user)
	r.certify(user+".pub", "-s", ca, "-I", user, "-n", sshUser)
}

// certify issues a certificate of a public key with a CA key on the token.
func (r reader) certify(public string, args ...string) {
	r.Helper()
	args = append(append([]string{"-q", "-D", pcsctest.Module(r), "-V", "-1h:+1h"}, args...), public)
	good(r, pcsctest.Run(r, pcsctest.Cmd{Name: "ssh-keygen", Args: args, Env: r.askpass(), Dir: r.dir}))
}

// askpass makes OpenSSH ask a program for the PIN, as there is no terminal.
func (r reader) askpass() []string {
	r.Helper()
	ask := r.path("askpass")
	if err := os.WriteFile(ask, []byte("#!/bin/sh\necho \"$TOKEN_PIN\"\n"), 0o700); err != nil {
		r.Fatal(err)
	}
	return append([]string{"SSH_ASKPASS=" + ask, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=none"}, secretEnv...)
}

func TestHsmwiz(t *testing.T) {
	token := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200007"})
	setUp(t, token, dkek.NewShare())
	r := plugged(t, 0, token)
	r.generate(key{"EC:prime256v1", "01", "SSH HSM"})
	good(t, r.run("hsmwiz", "identify"), "SOFT0200007", "Version              : 3.5", "Private EC Key [SSH HSM]")
}
