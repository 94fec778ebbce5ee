package backup

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hsmbackup/dkek"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

func attachment(t testing.TB, name, content string) store.Attachment {
	t.Helper()
	a, err := NewAttachment(name, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func attached(list []store.Attachment) string {
	var out []string
	for _, a := range list {
		out = append(out, a.Name+"="+string(a.Content))
	}
	return strings.Join(out, " ")
}

// Attachments go on from backup to backup until they are replaced or dropped,
// onto the successor of a token and onto the one that it was restored to; other
// tokens do not have them.
func TestAttachmentsGoOn(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "SSH CA", []byte{1})
	backedUp := func(want string, o Options) *store.Snapshot {
		t.Helper()
		r, err := Run(ctx, card, cat, o)
		if err != nil {
			t.Fatal(err)
		}
		if got := attached(r.Snapshot.Attachments); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		return r.Snapshot
	}
	backedUp("", Options{})
	first := backedUp("crl=one serial=01", Options{Attach: []store.Attachment{attachment(t, "serial", "01"), attachment(t, "crl", "one")}})
	second := backedUp("crl=two serial=01", Options{Attach: []store.Attachment{attachment(t, "crl", "two"), attachment(t, "serial", "01")}})
	if first.Attachments[1].Added != second.Attachments[1].Added {
		t.Error("the same file again has another date")
	}
	third := backedUp("crl=two", Options{Detach: []string{"serial"}, NoProof: true})
	if d := fmt.Sprint(Diff(first, second)); !strings.Contains(d, "attachment crl changed another content of 3 bytes, before 3") || strings.Contains(d, "serial") {
		t.Error(d)
	}
	if d := fmt.Sprint(Diff(second, third)); !strings.Contains(d, "attachment serial removed 2 bytes") {
		t.Error(d)
	}
	if d := fmt.Sprint(Diff(third, second)); !strings.Contains(d, "attachment serial added 2 bytes") {
		t.Error(d)
	}
	_, err := Run(ctx, card, cat, Options{Detach: []string{"none"}})
	var job *fail.Error
	if !errors.As(err, &job) || job.Code != "no-such-attachment" || job.Class != fail.Failed {
		t.Errorf("%v", err)
	}

	// Re-keying takes them along, and the backup after it.
	other := newShare(t, 50)
	rekeyed := rekey(t, cat, []*store.Snapshot{third}, keyOf(t, share), keyOf(t, other)).Snapshots[0].New
	if got := attached(rekeyed.Attachments); got != "crl=two" {
		t.Errorf("re-keyed: %q", got)
	}
	backedUp("crl=two", Options{NoProof: true})

	// Another token has none; the one that this was restored to has them, as
	// they are at the time.
	use := func(serial string) {
		t.Helper()
		_, card = newToken(t, "3.5", serial)
		initToken(t, card, cat, share)
		generate(t, card, 1, "P-256", "SSH CA", []byte{1})
	}
	use("SOFT0200002")
	backedUp("", Options{NoProof: true})
	use("SOFT0200003")
	if err := cat.Append(store.Restored{Snapshot: first.ID, Token: "SOFT0200003", Complete: true}); err != nil {
		t.Fatal(err)
	}
	backedUp("crl=two", Options{NoProof: true})
	use("SOFT0200004")
	if err := cat.Append(store.Successor{Serial: "SOFT0200004", SuccessorOf: "SOFT0200003"}); err != nil {
		t.Fatal(err)
	}
	backedUp("crl=two", Options{NoProof: true})
	use("SOFT0200005")
	backedUp("crl=two", Options{NoProof: true, SuccessorOf: "SOFT0200004"})
	backedUp("crl=two more=x", Options{NoProof: true, Attach: []store.Attachment{attachment(t, "more", "x")}})
}

// An export writes them out, with their sums.
func TestAttachmentsExport(t *testing.T) {
	cat, _, _ := twoKeys(t)
	s, err := read(t, cat).Find("latest")
	if err != nil {
		t.Fatal(err)
	}
	s.Attachments = []store.Attachment{attachment(t, "revoked.krl", "SSHKRL"), attachment(t, "serial", ""), {Name: "bad", Damage: "gone"}}
	dir := filepath.Join(scratch(t), "out")
	r, err := Export(dir, s, ExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"revoked.krl": "SSHKRL", "serial": ""} {
		if b, err := os.ReadFile(filepath.Join(dir, "attachments", name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	sums, err := os.ReadFile(filepath.Join(dir, exportSumsName))
	if err != nil || !strings.Contains(string(sums), store.HashOf([]byte("SSHKRL")).String()+"  attachments/revoked.krl\n") {
		t.Errorf("%s, %v", sums, err)
	}
	if r.Complete() || r.Left[0].What != "attachment bad" {
		t.Errorf("%+v", r.Left)
	}
	guide, err := os.ReadFile(filepath.Join(dir, exportGuideName))
	if err != nil || !strings.Contains(string(guide), "\n- The files in `attachments/`") {
		t.Errorf("RESTORE.md does not name them: %v", err)
	}
}

// What looks like a secret is refused, whatever its form; what belongs to a CA
// is taken.
func TestAttachmentSecrets(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	block := func(typ string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}) }
	openssh, err := ssh.MarshalPrivateKey(edKey, "")
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(ecKey))
	oddCurve := must(asn1.Marshal(struct {
		Version int
		D       []byte
		OID     asn1.ObjectIdentifier `asn1:"explicit,tag:0"`
	}{1, make([]byte, 32), curve.ByName("brainpoolP256r1").OID}))
	encrypted := must(asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}}, []byte("sealed")}))
	pfx := must(asn1.Marshal(struct {
		Version int
		Content struct{ OID asn1.ObjectIdentifier }
	}{3, struct{ OID asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}}}))
	parts, err := dkek.Split(newShare(t, 1), dkek.SplitOptions{Needed: 2, Total: 3})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"PKCS#1 as DER":             x509.MarshalPKCS1PrivateKey(rsaKey),
		"PKCS#8 as DER":             pkcs8,
		"PKCS#8 with a line end":    append(pkcs8, '\n'),
		"SEC 1 as DER":              must(x509.MarshalECPrivateKey(ecKey)),
		"SEC 1 of an unusual curve": oddCurve,
		"encrypted PKCS#8 as DER":   encrypted,
		"PKCS#12":                   pfx,
		"PKCS#1 as PEM":             block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)),
		"PEM behind text":           append([]byte("Bag Attributes\n"), block("ENCRYPTED PRIVATE KEY", encrypted)...),
		"OpenSSH":                   pem.EncodeToMemory(openssh),
		"OpenPGP":                   []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQ\n"),
		"PuTTY":                     []byte("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n"),
		"an age identity":           []byte("# created\nAGE-SECRET-KEY-1QQQ\n"),
		"a sealed file":             []byte("age-encryption.org/v1\n-> X25519 x\n"),
		"a share":                   must(os.ReadFile(filepath.Join("..", "testdata", "a.pbe"))),
		"a part":                    parts[0].Text(),
		"a part on a sheet":         append([]byte("# part 1 of 3, for alice\n"), parts[0].Text()...),
		"a Java key store":          {0xFE, 0xED, 0xFE, 0xED, 0, 0, 0, 2},
	} {
		_, err := NewAttachment("file", b)
		var job *fail.Error
		if !errors.As(err, &job) || job.Class != fail.Refused || job.Code != "attachment-secret" {
			t.Errorf("%s: %v", name, err)
		}
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	cert := must(x509.CreateCertificate(rand.Reader, ca, ca, public, edKey))
	crl := must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}, ca, edKey))
	line, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"a certificate":          cert,
		"a certificate as PEM":   block("CERTIFICATE", cert),
		"a list":                 crl,
		"a list as PEM":          block("X509 CRL", crl),
		"a list of SSH":          []byte("SSHKRL\n\x00\x00\x00\x00\x01"),
		"a serial number":        []byte("1042\n"),
		"a public key":           ssh.MarshalAuthorizedKey(line),
		"a public key as DER":    must(x509.MarshalPKIXPublicKey(public)),
		"a public key as PKCS#1": x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey),
		"a database of openssl":  []byte("V\t271231120000Z\t\t01\tunknown\t/CN=host\n"),
		"nothing":                {},
		"three small numbers":    must(asn1.Marshal([]int{3, 1, 2})),
	} {
		if _, err := NewAttachment("file", b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "a/b", "..", ".x", "-x", "a b", "ü", strings.Repeat("a", 101)} {
		if _, err := NewAttachment(name, nil); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
	if _, err := NewAttachment("big", make([]byte, store.MaxAttachment+1)); err == nil || !strings.Contains(err.Error(), "at most 1048576") {
		t.Errorf("%v", err)
	}
}
