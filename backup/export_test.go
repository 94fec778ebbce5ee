package backup

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hsmbackup/dkek"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// exampleRSA is made once.
var exampleRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func dkekOf(t testing.TB, fill byte) *dkek.Key {
	t.Helper()
	key, err := dkek.KeyFromBytes(bytes.Repeat([]byte{fill}, dkek.Size))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// exampleKey makes a stored key with a blob under the DKEK, a description and
// a request.
func exampleKey(t testing.TB, d *dkek.Key, reference int, label, typ string, id ...byte) store.Key {
	t.Helper()
	var private *dkek.PrivateKey
	var err error
	description := pkcs15.KeyDescription{Label: label, ID: id, Reference: reference}
	switch c := curve.ByName(typ); {
	case c != nil:
		scalar, _, _, err := c.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if private, err = dkek.NewEC(c, scalar); err != nil {
			t.Fatal(err)
		}
		description.Kind, description.Bits = pkcs15.EC, c.Bits
	case typ == "AES-128":
		if private, err = dkek.NewAES(bytes.Repeat([]byte{1}, 16)); err != nil {
			t.Fatal(err)
		}
		description.Kind, description.Bits = pkcs15.AES, 128
	default:
		key, err := exampleRSA()
		if err != nil {
			t.Fatal(err)
		}
		if private, err = dkek.NewRSA(key); err != nil {
			t.Fatal(err)
		}
		description.Kind, description.Bits = pkcs15.RSA, 2048
	}
	description.Usage = pkcs15.DefaultUsage(description.Kind)
	blob, err := d.Seal(private, dkek.SealOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k := store.Key{Reference: reference, ID: id, Label: label, Type: typ, Usage: uint32(description.Usage),
		KCV: d.KCV().String(), Blob: blob, Description: description.Encode()}
	public, err := private.Public()
	if err != nil {
		t.Fatal(err)
	}
	if public != nil {
		k.PublicKey, k.PublicFrom, k.Certificate = public.SPKI(), fromRequest, exampleRequest(t, public)
	} else {
		k.CheckValue = []byte{0x10, 1, 2, 3}
	}
	return k
}

// exampleRequest is a request in form; nobody here checks its signatures.
func exampleRequest(t testing.TB, public *pubkey.Key) []byte {
	t.Helper()
	sign := func([]byte) ([]byte, error) { return bytes.Repeat([]byte{7}, 64), nil }
	inner, err := cvc.Build(cvc.Template{CAR: "UTCA00001", CHR: "SOFT020000100001", Key: public}, sign)
	if err != nil {
		t.Fatal(err)
	}
	request, err := cvc.BuildRequest(inner, "SOFT020000100000", sign)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// exampleCertificate signs itself with a key of its own.
func exampleCertificate(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tbs := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, &tbs, &tbs, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// object is a CD or DCOD: 30 { 30 { 0C label } 30 { second } A1 { 30 { 04 fid } } }.
func object(label string, second []byte, fid uint16) []byte {
	wrap := func(tag byte, parts ...[]byte) []byte {
		v := bytes.Join(parts, nil)
		return append([]byte{tag, byte(len(v))}, v...)
	}
	return wrap(0x30, wrap(0x30, wrap(0x0C, []byte(label))), wrap(0x30, second), wrap(0xA1, wrap(0x30, wrap(0x04, []byte{byte(fid >> 8), byte(fid)}))))
}

var longLabel = strings.Repeat("long label ", 18) + "=="

const (
	labelCity = "Schlüssel für München 🔑"
	labelBad  = "a'b\"c$(touch PWNED)`touch PWNED`\n```\ntouch PWNED\n```\n; touch PWNED"
)

// exampleSnapshot has one of everything.
func exampleSnapshot(t testing.TB) *store.Snapshot {
	t.Helper()
	d, other := dkekOf(t, 0x11), dkekOf(t, 0x22)
	counter := uint32(41)
	withCertificate := exampleKey(t, d, 7, "same", "P-256", 7)
	withCertificate.Certificate = exampleCertificate(t, "seven")
	list := exampleKey(t, d, 8, "same", "P-384", 8)
	list.Algorithms, list.Counter = []byte{0x80, 0x92}, &counter
	undescribed := exampleKey(t, d, 9, "", "P-256")
	undescribed.Description = nil
	tail := exampleKey(t, d, 10, "tail", "secp256k1", 10)
	tail.Description = append(tail.Description, 0, 1)
	s := &store.Snapshot{
		ID: "0123456789ab", Hash: store.HashOf([]byte("snapshot")), Taken: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Program: "hsmbackup test",
		Token: store.Token{
			Serial: "SOFT0200001", Label: labelBad, Firmware: "3.5", Options: "0001", PINTries: 3, SOPINTries: 15,
			Issuer: "SOFTCA02", ValidFrom: "2024-01-01", ValidTo: "2034-01-01", FreeMemory: 70000,
			Certificate: []byte("device certificate"), TokenInfo: pkcs15.EncodeTokenInfo(labelBad),
			Domains: []store.Domain{{Number: 0, Shares: 2, KCV: d.KCV().String()}, {Number: 1, Shares: 1, KCV: other.KCV().String(), UID: []byte{}}},
		},
		Keys: []store.Key{
			exampleKey(t, d, 1, "SSH CA", "RSA-2048", 1),
			exampleKey(t, d, 2, labelCity, "P-256", 2),
			exampleKey(t, d, 3, labelBad, "P-521", 3, 0xAB),
			exampleKey(t, d, 4, "", "P-256", 4),
			exampleKey(t, d, 5, longLabel, "brainpoolP256r1", 5),
			exampleKey(t, d, 6, "AES", "AES-128", 6),
			withCertificate, list, undescribed, tail,
			exampleKey(t, other, 20, "elsewhere", "P-256", 20),
			{Reference: 21, ID: []byte{21}, Label: "stays", Type: "P-256", Reason: "no DKEK: the token was initialised without one", Description: []byte{0x30, 0}},
		},
		Files: []store.File{
			{FID: "ca00", Content: exampleCertificate(t, "Test CA")},
			{FID: "c800", Content: object("Test CA's "+labelCity, []byte{0x04, 1, 0xAA}, 0xCA00)},
			{FID: "ca01", Content: exampleCertificate(t, "key's")},
			{FID: "c801", Content: object("of key 1", []byte{0x04, 1, 0x01}, 0xCA01)},
			{FID: "cf03", Content: []byte("some data")},
			{FID: "c903", Content: object(labelBad[:20], append([]byte{0x0C, 3}, "app"...), 0xCF03)},
			{FID: "cf04", Content: []byte("nobody knows")},
			{FID: "cb00", Content: []byte{}},
			{FID: "cd05", Content: []byte("sealed"), Sealed: true},
		},
		Missing: []store.Gap{{What: "data object CD02", Reason: "protected by the PIN"}},
	}
	return s
}

func mustExport(t testing.TB, s *store.Snapshot, o ExportOptions) (string, *ExportReport) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	r, err := Export(dir, s, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

func readExport(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// under lists all below a folder, with slashes.
func under(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			list = append(list, filepath.ToSlash(name))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func TestExportNames(t *testing.T) {
	dir, r := mustExport(t, exampleSnapshot(t), ExportOptions{Program: "hsmbackup test"})
	long := "key-005-long-label-long-label-long-label-long-la"
	want := []string{
		"RESTORE.md", "SHA256SUMS",
		"cert-CA00-Test-CA-s-Schl-ssel-f-r-M-nchen.der", "cert-CA01-of-key-1.der",
		"file-C800.bin", "file-C801.bin", "file-C903.bin", "file-CA00.bin", "file-CA01.bin", "file-CB00.bin", "file-CD05.age", "file-CF03.bin", "file-CF04.bin",
		"key-001-SSH-CA.bin", "key-001-SSH-CA.pub.pem", "key-001-SSH-CA.request", "key-001-SSH-CA.ssh.pub",
		"key-002-Schl-ssel-f-r-M-nchen.bin", "key-002-Schl-ssel-f-r-M-nchen.pub.pem", "key-002-Schl-ssel-f-r-M-nchen.request", "key-002-Schl-ssel-f-r-M-nchen.ssh.pub",
		"key-003-a-b-c-touch-PWNED-touch-PWNED-touch-PWNE.bin", "key-003-a-b-c-touch-PWNED-touch-PWNED-touch-PWNE.pub.pem", "key-003-a-b-c-touch-PWNED-touch-PWNED-touch-PWNE.request", "key-003-a-b-c-touch-PWNED-touch-PWNED-touch-PWNE.ssh.pub",
		"key-004.bin", "key-004.pub.pem", "key-004.request", "key-004.ssh.pub",
		long + ".bin", long + ".pub.pem", long + ".request",
		"key-006-AES.bin",
		"key-007-same.bin", "key-007-same.crt.der", "key-007-same.crt.pem", "key-007-same.pub.pem", "key-007-same.ssh.pub",
		"key-008-same.bin", "key-008-same.pub.pem", "key-008-same.request", "key-008-same.ssh.pub",
		"key-009.bin", "key-009.pub.pem", "key-009.request", "key-009.ssh.pub",
		"key-010-tail.bin", "key-010-tail.description", "key-010-tail.pub.pem", "key-010-tail.request",
		"key-020-elsewhere.bin", "key-020-elsewhere.pub.pem", "key-020-elsewhere.request", "key-020-elsewhere.ssh.pub",
		"key-021-stays.description",
		"manifest.json", "token/2F02.bin", "token/2F03.bin",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, under(t, dir)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, r.Files); diff != "" {
		t.Errorf("report: %s", diff)
	}
	if runtime.GOOS != "windows" {
		for name, mode := range map[string]fs.FileMode{"": 0o700, "token": 0o700, "key-001-SSH-CA.bin": 0o600, "RESTORE.md": 0o600, "token/2F02.bin": 0o600} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%q: %v, %v", name, info.Mode(), err)
			}
		}
	}
	if list, _ := os.ReadDir(filepath.Dir(dir)); len(list) != 1 {
		t.Errorf("left beside it: %v", list)
	}
}

func TestExportContents(t *testing.T) {
	s := exampleSnapshot(t)
	dir, _ := mustExport(t, s, ExportOptions{})
	container := func(name string) *dkek.Container {
		c, err := dkek.ParseContainer(readExport(t, dir, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return c
	}
	for name, want := range map[string]dkek.Container{
		"key-001-SSH-CA.bin":                {Blob: s.Keys[0].Blob, Description: s.Keys[0].Description, Certificate: s.Keys[0].Certificate},
		"key-002-Schl-ssel-f-r-M-nchen.bin": {Blob: s.Keys[1].Blob, Description: s.Keys[1].Description, Certificate: s.Keys[1].Certificate},
		"key-006-AES.bin":                   {Blob: s.Keys[5].Blob, Description: s.Keys[5].Description},
		"key-007-same.bin":                  {Blob: s.Keys[6].Blob, Description: s.Keys[6].Description, Certificate: s.Keys[6].Certificate},
		// sc-hsm-tool would write a certificate into the place of the description
		"key-009.bin":      {Blob: s.Keys[8].Blob},
		"key-010-tail.bin": {Blob: s.Keys[9].Blob, Description: trim(s.Keys[9].Description), Certificate: s.Keys[9].Certificate},
	} {
		if diff := cmp.Diff(&want, container(name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name, want := range map[string][]byte{
		"key-001-SSH-CA.request":   s.Keys[0].Certificate,
		"key-007-same.crt.der":     s.Keys[6].Certificate,
		"key-009.request":          s.Keys[8].Certificate,
		"key-010-tail.description": s.Keys[9].Description,
		"file-CA00.bin":            s.Files[0].Content,
		"file-CD05.age":            s.Files[8].Content,
		"token/2F03.bin":           s.Token.TokenInfo,
	} {
		if !bytes.Equal(readExport(t, dir, name), want) {
			t.Errorf("%s holds something else", name)
		}
	}
	for name, want := range map[string][]byte{"key-001-SSH-CA.pub.pem": s.Keys[0].PublicKey, "key-007-same.crt.pem": s.Keys[6].Certificate} {
		if block, rest := pem.Decode(readExport(t, dir, name)); block == nil || !bytes.Equal(block.Bytes, want) || len(rest) > 0 {
			t.Errorf("%s: %v", name, block)
		}
	}
	public, err := pubkey.ParseSPKI(s.Keys[1].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(readExport(t, dir, "key-002-Schl-ssel-f-r-M-nchen.ssh.pub")); got != public.SSH(labelCity)+"\n" {
		t.Errorf("ssh %q", got)
	}
	if got := string(readExport(t, dir, "key-003-a-b-c-touch-PWNED-touch-PWNED-touch-PWNE.ssh.pub")); strings.Count(got, "\n") != 1 {
		t.Errorf("ssh %q", got)
	}
}

// The manifest and the files give back all of the snapshot.
func TestExportManifest(t *testing.T) {
	s := exampleSnapshot(t)
	proofs := []store.Proof{
		{Blob: store.HashOf(s.Keys[0].Blob), Kind: store.ProofOpened, Time: time.Unix(100, 0)},
		{Blob: store.HashOf(s.Keys[0].Blob), Kind: store.ProofRoundTrip, OK: true, Token: "SOFT0200001", Time: time.Unix(200, 0)},
		{Blob: store.HashOf(s.Keys[1].Blob), Kind: store.ProofRoundTrip, Reason: "it answers like another key", Time: time.Unix(300, 0)},
	}
	dir, r := mustExport(t, s, ExportOptions{Program: "hsmbackup test", Proofs: proofs})
	var m exportManifest
	d := json.NewDecoder(bytes.NewReader(readExport(t, dir, "manifest.json")))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	body := func(what string, b *exportBody, want []byte, part func(*dkek.Container) []byte) {
		t.Helper()
		if b == nil {
			if want != nil {
				t.Errorf("%s: missing", what)
			}
			return
		}
		got := readExport(t, dir, b.File)
		switch b.Form {
		case formPEM:
			block, _ := pem.Decode(got)
			got = block.Bytes
		case formContainer:
			c, err := dkek.ParseContainer(got)
			if err != nil {
				t.Fatal(err)
			}
			got = part(c)
		}
		if !bytes.Equal(got, want) || b.Size != len(want) || b.SHA256 != store.HashOf(want) {
			t.Errorf("%s: %+v is not what was stored", what, b)
		}
	}
	body("device certificate", m.Token.Certificate, s.Token.Certificate, nil)
	body("token info", m.Token.TokenInfo, s.Token.TokenInfo, nil)
	if len(m.Keys) != len(s.Keys) || len(m.EFs) != len(s.Files) {
		t.Fatalf("%d keys, %d files", len(m.Keys), len(m.EFs))
	}
	for i, k := range m.Keys {
		want := s.Keys[i]
		if k.Reference != want.Reference || k.Label != want.Label || k.Type != want.Type || k.Usage != want.Usage || k.KCV != want.KCV || k.Reason != want.Reason {
			t.Errorf("key %d: %+v", want.Reference, k)
		}
		body(k.Label+" public key", k.PublicKey, want.PublicKey, nil)
		body(k.Label+" blob", k.Blob, want.Blob, func(c *dkek.Container) []byte { return c.Blob })
		body(k.Label+" description", k.Description, want.Description, func(c *dkek.Container) []byte { return c.Description })
		body(k.Label+" certificate", k.Certificate, want.Certificate, func(c *dkek.Container) []byte { return c.Certificate })
	}
	for i, f := range m.EFs {
		body("file "+f.FID, f.Content, s.Files[i].Content, nil)
		if !strings.EqualFold(f.FID, s.Files[i].FID) || f.Sealed != s.Files[i].Sealed {
			t.Errorf("file %+v", f)
		}
	}
	if k := m.Keys[2]; k.ID != "03ab" || k.UsageNames == "" || k.CertificateKind != "request" || !strings.HasPrefix(k.PEM, "-----BEGIN PUBLIC KEY-----\n") || !strings.HasPrefix(k.SSH, "ecdsa-sha2-nistp521 ") {
		t.Errorf("%+v", k)
	}
	if k := m.Keys[7]; k.Algorithms != "8092" || k.Counter == nil || *k.Counter != 41 {
		t.Errorf("%+v", k)
	}
	if k := m.Keys[5]; k.CheckValue != "10010203" || k.PublicKey != nil || k.SSH != "" {
		t.Errorf("%+v", k)
	}
	if p := m.Keys[0].Proof; p == nil || !p.OK || p.Kind != store.ProofRoundTrip || p.Time != "1970-01-01T00:03:20Z" {
		t.Errorf("proof %+v", p)
	}
	if p := m.Keys[1].Proof; p == nil || p.OK || m.Keys[2].Proof != nil {
		t.Errorf("proof %+v", p)
	}
	if m.Format != 1 || m.Program != "hsmbackup test" || m.Snapshot.ID != s.ID || m.Snapshot.Hash != s.Hash || m.Snapshot.Taken != "2026-03-01T12:00:00Z" || m.Token.Serial != "SOFT0200001" || len(m.Token.Domains) != 2 {
		t.Errorf("%+v", m.Snapshot)
	}
	if diff := cmp.Diff(s.Missing, m.Missing); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(r.Left, m.Left); diff != "" {
		t.Error(diff)
	}
	for _, f := range m.Files {
		if b := readExport(t, dir, f.Name); store.HashOf(b) != f.SHA256 || len(b) != f.Size {
			t.Errorf("sum of %s", f.Name)
		}
	}
	if len(m.Files) != len(r.Files)-2 { // not itself, not SHA256SUMS
		t.Errorf("%d sums for %d files", len(m.Files), len(r.Files))
	}
}

func TestExportLeft(t *testing.T) {
	s := exampleSnapshot(t)
	big := exampleKey(t, dkekOf(t, 0x11), 30, "big", "P-256", 30)
	blob, err := dkek.ParseBlob(big.Blob)
	if err != nil {
		t.Fatal(err)
	}
	big.Blob = slices.Concat(big.Blob[:len(big.Blob)-len(blob.MAC)], make([]byte, 1600), blob.MAC)
	s.Keys = append(s.Keys, big, store.Key{Reference: 31, Type: "P-256", Blob: []byte("broken")}, store.Key{Reference: 32, Blob: []byte{}})
	_, r := mustExport(t, s, ExportOptions{})
	var got []string
	for _, g := range r.Left {
		got = append(got, g.What+": "+g.Reason)
	}
	for _, want := range []string{
		`key 20 "elsewhere": it is under the recovery key `,
		`key 21 "stays": no DKEK`,
		`key 30 "big": its blob of 19`,
		`key 31: its key blob is damaged`,
		`key 32: its key blob is missing`,
		`file CA01: it has the ID of a key`,
		`file CF04: no description says what it is`,
		`file CB00: OpenSC has no command that writes it`,
		`file CD05: it is sealed`,
		`data object CD02: protected by the PIN`,
	} {
		i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, want) })
		if i < 0 {
			t.Errorf("not said: %s", want)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 || r.Complete() {
		t.Errorf("also left: %q", got)
	}
	whole := exampleSnapshot(t)
	whole.Keys, whole.Files, whole.Missing = whole.Keys[:7], whole.Files[:2], nil
	if _, r := mustExport(t, whole, ExportOptions{}); !r.Complete() {
		t.Errorf("left: %v", r.Left)
	}
}

// Keys of loose files have no reference, and may have one name.
func TestExportAdopted(t *testing.T) {
	d := dkekOf(t, 0x11)
	s := &store.Snapshot{Adopted: true, Keys: []store.Key{
		exampleKey(t, d, 0, "x", "P-256", 1), exampleKey(t, d, 0, "X", "P-256", 2), exampleKey(t, d, 0, "x-2", "P-256", 3), exampleKey(t, d, 2, "two", "P-256", 4),
	}}
	dir, r := mustExport(t, s, ExportOptions{})
	for _, name := range []string{"key-000-x.bin", "key-000-X-2.bin", "key-000-x-2-2.bin", "key-002-two.bin"} {
		if !slices.Contains(r.Files, name) {
			t.Errorf("no %s in %q", name, r.Files)
		}
	}
	text := string(readExport(t, dir, "RESTORE.md"))
	for _, want := range []string{
		"--unwrap-key key-000-x.bin --key-reference 1 ", "--unwrap-key key-000-X-2.bin --key-reference 3 ", "--unwrap-key key-000-x-2-2.bin --key-reference 4 ", "--unwrap-key key-002-two.bin --key-reference 2 ",
		`--dkek-shares "$SHARES"`, "which reference it had is not known",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	s := exampleSnapshot(t)
	root := t.TempDir()
	file, full := filepath.Join(root, "file"), filepath.Join(root, "full")
	for _, err := range []error{os.WriteFile(file, []byte("mine"), 0o600), os.Mkdir(full, 0o700), os.WriteFile(filepath.Join(full, ".hidden"), nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := map[string]fail.Class{file: fail.Refused, full: fail.Refused, "": fail.Failed, filepath.Join(root, "none", "out"): fail.Failed}
	if runtime.GOOS != "windows" {
		link := filepath.Join(root, "link")
		if err := os.Symlink(filepath.Join(root, "nowhere"), link); err != nil {
			t.Fatal(err)
		}
		refused[link] = fail.Refused
	}
	before := under(t, root)
	for dir, class := range refused {
		_, err := Export(dir, s, ExportOptions{})
		if err == nil || fail.ClassOf(err) != class {
			t.Errorf("%q: %v", dir, err)
		}
	}
	if diff := cmp.Diff(before, under(t, root)); diff != "" {
		t.Error(diff)
	}
	for name, change := range map[string]func(s *store.Snapshot){
		"reference":  func(s *store.Snapshot) { s.Keys[0].Reference = 256 },
		"fid":        func(s *store.Snapshot) { s.Files[0].FID = "../x" },
		"fid length": func(s *store.Snapshot) { s.Files[0].FID = "ca" },
		"fid twice":  func(s *store.Snapshot) { s.Files[0].FID = "CF03" },
	} {
		bad := exampleSnapshot(t)
		change(bad)
		if _, err := Export(filepath.Join(root, "bad"), bad, ExportOptions{}); err == nil {
			t.Errorf("%s: exported", name)
		}
	}
}

// An empty folder is filled in place: it may be the root of a USB stick.
func TestExportIntoEmptyFolder(t *testing.T) {
	dir := t.TempDir()
	r, err := Export(dir, exampleSnapshot(t), ExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Files, under(t, dir)); diff != "" {
		t.Error(diff)
	}
	if _, err := Export(dir, exampleSnapshot(t), ExportOptions{}); fail.ClassOf(err) != fail.Refused {
		t.Errorf("again: %v", err)
	}
	if diff := cmp.Diff(r.Files, under(t, dir)); diff != "" {
		t.Error(diff)
	}
	t.Chdir(t.TempDir())
	for _, name := range []string{"here", ".", "./here2/"} {
		_, err := Export(name, exampleSnapshot(t), ExportOptions{})
		if wantRefused := name == "."; (fail.ClassOf(err) == fail.Refused) != wantRefused || (err != nil) != wantRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A failure at each step leaves nothing, and what others put there stays.
func TestExportFailsAtEachStep(t *testing.T) {
	s := exampleSnapshot(t)
	s.Keys, s.Files = s.Keys[:1], s.Files[:1]
	b, err := newBundle(s, ExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{false, true} {
		folder := func() (root, dir string) {
			root = t.TempDir()
			dir = filepath.Join(root, "out")
			if there {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			return root, dir
		}
		var steps []string
		_, dir := folder()
		if err := writeFolder(dir, b.files, func(step string) error { steps = append(steps, step); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(steps) < len(b.files)+2 {
			t.Fatal(steps)
		}
		full := errors.New("disk full")
		for _, at := range steps {
			root, dir := folder()
			err := writeFolder(dir, b.files, func(step string) error {
				if step == at {
					return full
				}
				return nil
			})
			if !errors.Is(err, full) || fail.ClassOf(err) != fail.Failed {
				t.Errorf("%s: %v", at, err)
			}
			list, _ := os.ReadDir(root)
			if left := under(t, root); len(left) > 0 || len(list) > 0 != there {
				t.Errorf("%s, there %v: left %q, %v", at, there, left, list)
			}
		}
		root, dir := folder()
		err := writeFolder(dir, b.files, func(step string) error {
			if step != "publish" {
				return nil
			}
			if !there {
				if err := os.Mkdir(dir, 0o700); err != nil {
					return err
				}
			}
			return os.WriteFile(filepath.Join(dir, "theirs"), nil, 0o600)
		})
		if left := under(t, root); fail.ClassOf(err) != fail.Refused || !slices.Equal(left, []string{"out/theirs"}) {
			t.Errorf("somebody came between: %v, left %q", err, left)
		}
		root, dir = folder()
		err = writeFolder(dir, b.files, func(step string) error {
			if step != "read back" {
				return nil
			}
			names, err := filepath.Glob(filepath.Join(root, "*", "key-001-SSH-CA.bin"))
			if there {
				names, err = filepath.Glob(filepath.Join(root, "out", "*", "key-001-SSH-CA.bin"))
			}
			if err != nil || len(names) != 1 {
				t.Fatal(names, err)
			}
			return os.WriteFile(names[0], []byte("x"), 0o600)
		})
		if err == nil || !strings.Contains(err.Error(), "reads back") || len(under(t, root)) > 0 {
			t.Errorf("a disk that lies: %v", err)
		}
	}
}
