package backup

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// ExportOptions are what Export is told besides the snapshot.
type ExportOptions struct {
	// Program is recorded as what wrote the folder.
	Program string
	// Proofs are those of the catalog; the newest of each exported blob is
	// written down with its key.
	Proofs []store.Proof
}

// ExportReport is what an export wrote.
type ExportReport struct {
	Dir string
	// Files are the names within Dir, with slashes, sorted.
	Files []string
	// Left is what the commands of RESTORE.md do not bring back.
	Left []store.Gap
}

// Complete tells whether RESTORE.md brings back all that the snapshot names.
func (r *ExportReport) Complete() bool { return len(r.Left) == 0 }

// Names that every export has.
const (
	exportManifestName = "manifest.json"
	exportSumsName     = "SHA256SUMS"
	exportGuideName    = "RESTORE.md"
)

// Export writes a snapshot as plain files that OpenSC restores without us
// (docs/format.md, "Export folder"). The folder must be missing or empty: else
// the error is of class Refused and nothing is touched. A folder that is made
// appears under its name when it is whole and on the disk; in one that is there
// already SHA256SUMS comes last. A run that fails leaves nothing. Files are for
// their owner only (0600), so is a folder that is made (0700).
func Export(dir string, snap *store.Snapshot, o ExportOptions) (*ExportReport, error) {
	b, err := newBundle(snap, o)
	if err != nil {
		return nil, err
	}
	if err := writeFolder(dir, b.files, nil); err != nil {
		return nil, err
	}
	r := &ExportReport{Dir: dir, Left: b.guide.Left}
	for _, f := range b.files {
		r.Files = append(r.Files, f.name)
	}
	slices.Sort(r.Files)
	return r, nil
}

// exportFile is a file of the folder; container is what a wrapped key must
// read back as.
type exportFile struct {
	name      string
	data      []byte
	container *dkek.Container
}

// bundle is an export before it is written.
type bundle struct {
	files    []exportFile
	taken    map[string]bool // names in lower case: some file systems know no other
	manifest exportManifest
	guide    *guide
}

// newBundle puts all files together.
func newBundle(s *store.Snapshot, o ExportOptions) (*bundle, error) {
	b := &bundle{taken: map[string]bool{}, guide: newGuide(s, o)}
	b.describe(s, o)
	for i := range s.Keys {
		if err := b.addKey(&s.Keys[i], o); err != nil {
			return nil, err
		}
	}
	if err := b.addFiles(s); err != nil {
		return nil, err
	}
	b.addAttachments(s)
	for _, gap := range s.Missing {
		b.guide.leave(gap.What, gap.Reason)
	}
	text, err := b.guide.text()
	if err != nil {
		return nil, err
	}
	b.add(exportGuideName, text)
	b.manifest.Left = append([]store.Gap{}, b.guide.Left...)
	b.sort()
	b.manifest.Files = []exportSum{}
	for _, f := range b.files {
		b.manifest.Files = append(b.manifest.Files, exportSum{f.name, len(f.data), store.HashOf(f.data)})
	}
	manifest, err := indented(b.manifest)
	if err != nil {
		return nil, err
	}
	b.add(exportManifestName, manifest)
	b.sort()
	var sums bytes.Buffer
	for _, f := range b.files {
		fmt.Fprintf(&sums, "%s  %s\n", store.HashOf(f.data), f.name)
	}
	b.add(exportSumsName, sums.Bytes())
	for _, f := range b.files { // whatever they are made of, they lie within the folder
		for part := range strings.SplitSeq(f.name, "/") {
			if !store.IsAttachmentName(part) {
				return nil, fail.Failf("bad-snapshot", "", "%q is no name for a file of an export", f.name)
			}
		}
	}
	return b, nil
}

func (b *bundle) sort() {
	slices.SortFunc(b.files, func(x, y exportFile) int { return cmp.Compare(x.name, y.name) })
}

func indented(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return harmless.JSON(out.Bytes()), err
}

func (b *bundle) add(name string, data []byte) {
	b.taken[strings.ToLower(name)] = true
	b.files = append(b.files, exportFile{name: name, data: data})
}

// body adds a file that holds one value as it is.
func (b *bundle) body(name string, data []byte) *exportBody {
	b.add(name, data)
	return &exportBody{SHA256: store.HashOf(data), Size: len(data), File: name, Form: formRaw}
}

// free gives a stem under which no file begins yet. Only keys whose reference
// is not known can meet.
func (b *bundle) free(stem string) string {
	for n, try := 2, stem; ; n++ {
		used := false
		for name := range b.taken {
			used = used || strings.HasPrefix(name, strings.ToLower(try)+".")
		}
		if !used {
			return try
		}
		try = fmt.Sprintf("%s-%d", stem, n)
	}
}

// named joins the fixed part of a name and a label's name, if there is any.
func named(fixed, label string) string {
	if s := harmless.Name(label); s != "" {
		return fixed + "-" + s
	}
	return fixed
}

// addKey adds all files of one key.
func (b *bundle) addKey(k *store.Key, o ExportOptions) error {
	if k.Reference < 0 || k.Reference > 255 {
		return fail.Failf("bad-snapshot", "", "key reference %d is not within 1 to 255", k.Reference)
	}
	stem := b.free(named(fmt.Sprintf("key-%03d", k.Reference), k.Label))
	m := exportKey{
		Reference: k.Reference, ID: hex.EncodeToString(k.ID), Label: k.Label, Type: k.Type,
		Usage: k.Usage, UsageNames: pkcs15.Usage(k.Usage).String(), Algorithms: hex.EncodeToString(k.Algorithms),
		Counter: k.Counter, Domain: k.Domain, KCV: k.KCV, PublicFrom: k.PublicFrom,
		CheckValue: hex.EncodeToString(k.CheckValue), Reason: leftReason(k),
	}
	g := guideKey{Reference: k.Reference, ID: k.ID, Label: k.Label, Type: orUnknown(k.Type), Algorithms: k.Algorithms, Usage: pkcs15.Usage(k.Usage), KCV: k.KCV, Reason: leftReason(k)}
	if k.PublicKey != nil {
		name := stem + ".pub.pem"
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.PublicKey})
		b.add(name, text)
		m.PublicKey = &exportBody{SHA256: store.HashOf(k.PublicKey), Size: len(k.PublicKey), File: name, Form: formPEM}
		m.PEM = string(text)
		if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil {
			g.Public, g.PublicFile = public, name
			if m.SSH = public.SSH(k.Label); m.SSH != "" {
				g.SSHFile = stem + ".ssh.pub"
				b.add(g.SSHFile, []byte(m.SSH+"\n"))
				m.SSHFile = g.SSHFile
			}
		}
	}
	in := b.addBlob(k, stem, &m, &g)
	m.Description = b.part(in.Description, k.Description, m.Blob, stem+".description")
	if k.Certificate != nil {
		b.addCertificate(k, in, stem, &m)
	}
	if p := newestProof(k, o.Proofs); p != nil {
		m.Proof = &exportProof{Kind: p.Kind, OK: p.OK, Time: timeText(p.Time), Token: p.Token, Matched: p.Matched, Reason: p.Reason}
		g.Proven = p.OK && store.ShowsReturn(p.Kind)
	}
	b.manifest.Keys = append(b.manifest.Keys, m)
	b.guide.addKey(g)
	return nil
}

// addBlob writes the wrapped key and gives what it holds. Description and
// certificate go in only if whoever reads the file finds them where they
// belong: sc-hsm-tool would write a certificate without a description into its
// place (fact sheet §6.6).
func (b *bundle) addBlob(k *store.Key, stem string, m *exportKey, g *guideKey) *dkek.Container {
	if len(k.Blob) == 0 {
		if g.Reason == "" {
			g.Reason = "its key blob is missing"
		}
		return &dkek.Container{}
	}
	blob, err := dkek.ParseBlob(k.Blob)
	if err != nil {
		m.Blob = b.body(stem+".blob", k.Blob)
		g.Reason = fmt.Sprintf("its key blob is damaged: %v", err)
		return &dkek.Container{}
	}
	c := &dkek.Container{Blob: k.Blob}
	if d := trim(k.Description); len(d) > 0 && reads(dkek.Container{Blob: k.Blob, Description: d}) {
		c.Description = d
		if cert := trim(k.Certificate); len(cert) > 0 && reads(dkek.Container{Blob: k.Blob, Description: d, Certificate: cert}) {
			c.Certificate = cert
		}
	}
	name := stem + ".bin"
	b.add(name, c.Encode())
	b.files[len(b.files)-1].container = c
	m.Blob = &exportBody{SHA256: store.HashOf(k.Blob), Size: len(k.Blob), File: name, Form: formContainer}
	g.File, g.KCV, g.Kind = name, blob.KCV.String(), blob.Type.Kind()
	g.Described, g.Certified, g.BlobSize = c.Description != nil, c.Certificate != nil, len(k.Blob)
	return c
}

// reads tells whether a container is read back as what went in.
func reads(c dkek.Container) bool { return sameContainer(c.Encode(), &c) == nil }

func sameContainer(file []byte, want *dkek.Container) error {
	got, err := dkek.ParseContainer(file)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(got.Blob, want.Blob), !bytes.Equal(got.Description, want.Description),
		!bytes.Equal(got.Certificate, want.Certificate), len(got.Trailing) > 0, got.Misplaced:
		return errors.New("it does not read back as what was written")
	}
	return nil
}

// part says where a part of a key is: in the wrapped key if that has all of it,
// else in a file of its own.
func (b *bundle) part(in, body []byte, blob *exportBody, name string) *exportBody {
	switch {
	case body == nil:
		return nil
	case len(in) > 0 && bytes.Equal(in, body):
		return &exportBody{SHA256: store.HashOf(body), Size: len(body), File: blob.File, Form: formContainer}
	}
	return b.body(name, body)
}

// addCertificate writes what stood in CExx under a name that says what it is.
func (b *bundle) addCertificate(k *store.Key, in *dkek.Container, stem string, m *exportKey) {
	der := trim(k.Certificate)
	switch {
	case isX509(der):
		m.CertificateKind = "x509"
		b.add(stem+".crt.der", der)
		b.add(stem+".crt.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		if len(der) < len(k.Certificate) { // an old tail
			m.Certificate = b.body(stem+".certificate", k.Certificate)
		} else {
			m.Certificate = &exportBody{SHA256: store.HashOf(der), Size: len(der), File: stem + ".crt.der", Form: formRaw}
		}
	case isCVRequest(der):
		m.CertificateKind = "request"
		m.Certificate = b.body(stem+".request", k.Certificate)
	case isCVC(der):
		m.CertificateKind = "cvc"
		m.Certificate = b.body(stem+".cvc", k.Certificate)
	default:
		m.CertificateKind = "unknown"
		m.Certificate = b.part(in.Certificate, k.Certificate, m.Blob, stem+".certificate")
	}
}

func isX509(b []byte) bool {
	_, err := pubkey.FromCertificate(b)
	return err == nil
}

func isCVRequest(b []byte) bool {
	_, err := cvc.ParseRequest(b)
	return err == nil
}

func isCVC(b []byte) bool {
	_, err := cvc.Parse(b)
	return err == nil
}

// timeText is a time as files have it; empty if there is none, or it is not known.
func timeText(t time.Time) string {
	if t.IsZero() || t.Equal(store.UnknownTime) {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// newestProof finds the last proof of a key's blob.
func newestProof(k *store.Key, proofs []store.Proof) *store.Proof {
	if len(k.Blob) == 0 {
		return nil
	}
	hash := store.HashOf(k.Blob)
	var newest *store.Proof
	for i := range proofs {
		if p := &proofs[i]; p.Blob == hash { // they are in the order of the log
			newest = p
		}
	}
	return newest
}

// addFiles adds everything that is no key. Certificates come as .der besides,
// under the label of their description.
func (b *bundle) addFiles(s *store.Snapshot) error {
	described := map[schsm.FID]guideObject{}
	var order []schsm.FID
	fids := make([]schsm.FID, len(s.Files))
	for i, f := range s.Files {
		n, err := strconv.ParseUint(f.FID, 16, 16)
		if err != nil || len(f.FID) != 4 {
			return fail.Failf("bad-snapshot", "", "file id %q is not 4 hex digits", f.FID)
		}
		fids[i] = schsm.FID(n)
		if slices.Contains(fids[:i], fids[i]) {
			return fail.Failf("bad-snapshot", "", "file %s is in the snapshot twice", fids[i])
		}
		var d *pkcs15.ObjectDescription
		switch fids[i].Prefix() {
		case schsm.PrefixCertDescription:
			d, err = pkcs15.ParseCertificateDescription(f.Content)
		case schsm.PrefixDataDescription:
			d, err = pkcs15.ParseDataDescription(f.Content)
		}
		if d != nil && err == nil {
			described[schsm.FID(d.Path)] = guideObject{Description: fids[i], Label: d.Label, ID: d.ID, Application: d.Application}
		}
	}
	for i, f := range s.Files {
		fid := fids[i]
		about, found := described[fid]
		about.FID, about.Described, about.Sealed = fid, found, f.Sealed
		name := fmt.Sprintf("file-%s.bin", fid)
		if f.Sealed {
			name = fmt.Sprintf("file-%s.age", fid)
		}
		m := exportEF{FID: fid.String(), Sealed: f.Sealed, Label: about.Label, Content: b.body(name, f.Content)}
		about.File = name
		if der := trim(f.Content); !f.Sealed && fid.Prefix() == schsm.PrefixCertificate && isX509(der) {
			about.File = named("cert-"+fid.String(), about.Label) + ".der"
			b.add(about.File, der)
			m.CertificateFile = about.File
		}
		b.manifest.EFs = append(b.manifest.EFs, m)
		described[fid] = about
		order = append(order, fid)
	}
	slices.Sort(order)
	for _, fid := range order {
		if slices.ContainsFunc(order, func(body schsm.FID) bool { return described[body].Description == fid }) {
			continue // it comes with what it describes
		}
		b.guide.addObject(described[fid])
	}
	return nil
}

// addAttachments adds the files that were kept with the snapshot.
func (b *bundle) addAttachments(s *store.Snapshot) {
	for _, at := range s.Attachments {
		if at.Damage != "" {
			b.guide.leave("attachment "+at.Name, "damaged in the catalog")
			continue
		}
		b.manifest.Attached = append(b.manifest.Attached, exportAttachment{
			Name: at.Name, Added: at.Added.UTC().Format(time.RFC3339), Content: b.body("attachments/"+at.Name, at.Content),
		})
	}
}

// writeFolder writes the files of an export. A test makes a step fail.
func writeFolder(dir string, files []exportFile, before func(step string) error) error {
	if before == nil {
		before = func(string) error { return nil }
	}
	if dir == "" { // Clean would make it the current folder
		return fail.Failf("no-folder", "name a folder to export into", "no folder is named")
	}
	dir = filepath.Clean(dir)
	there, err := emptyFolder(dir)
	if err != nil {
		return err
	}
	// Beside a folder that is to be made; within one that is there, which may
	// be the root of a USB stick.
	parent, pattern := filepath.Dir(dir), "."+filepath.Base(dir)+".*.new"
	if there {
		parent, pattern = dir, ".export.*.new"
	}
	temp, err := os.MkdirTemp(parent, pattern)
	if err != nil {
		return writeFailed(dir, err)
	}
	defer os.RemoveAll(temp) // gone by then if all went well
	if err := fillFolder(temp, files, before); err != nil {
		return writeFailed(dir, err)
	}
	if err := before("publish"); err != nil {
		return writeFailed(dir, err)
	}
	if there {
		return publishInto(dir, temp, before)
	}
	err = os.Rename(temp, dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) {
		return fail.Refusef("not-empty", "name a folder that does not exist", "%s appeared while the export was written; it was left alone", dir)
	}
	if err != nil {
		return writeFailed(dir, err)
	}
	if err := syncFolder(parent); err != nil {
		return errors.Join(writeFailed(dir, err), os.RemoveAll(dir))
	}
	return nil
}

func writeFailed(dir string, err error) error {
	return &fail.Error{Class: fail.Failed, Code: "export-failed", Message: fmt.Sprintf("%s: the export could not be written: %v; nothing of it was left", dir, err), Hint: "the folder that it goes into must exist, be writable and have room", Err: err}
}

// emptyFolder tells whether an empty folder is there already; the error is
// Refused for anything else that is.
func emptyFolder(dir string) (bool, error) {
	if dir == "" {
		return false, fail.Failf("no-folder", "name a folder that does not exist or is empty", "no folder named for the export")
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return false, fail.Refusef("not-empty", "name a folder that does not exist or is empty", "%s is there and is no folder", dir)
	}
	var list []fs.DirEntry
	if err == nil {
		list, err = os.ReadDir(dir)
	}
	if err != nil {
		return false, fail.Refusef("not-empty", "name a folder that does not exist or is empty", "%s cannot be looked into: %v", dir, err)
	}
	if len(list) > 0 {
		return false, fail.Refusef("not-empty", "name a folder that does not exist or is empty", "%s is not empty; an export never mixes with other files", dir)
	}
	return true, nil
}

// fillFolder writes the files, makes them durable and reads them back.
func fillFolder(root string, files []exportFile, before func(step string) error) error {
	root = filepath.Clean(root)
	folders := map[string]bool{root: true}
	for _, f := range files {
		name := filepath.Join(root, filepath.FromSlash(f.name))
		if d := filepath.Dir(name); !folders[d] {
			if err := os.Mkdir(d, 0o700); err != nil {
				return err
			}
			folders[d] = true
		}
		if err := before("write " + f.name); err != nil {
			return err
		}
		if err := writeDurably(name, f.data); err != nil {
			return err
		}
	}
	for d := range folders {
		if err := syncFolder(d); err != nil {
			return err
		}
	}
	if err := before("read back"); err != nil {
		return err
	}
	for _, f := range files {
		got, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(f.name)))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, f.data) {
			return fmt.Errorf("%s reads back as something else", f.name)
		}
		if f.container != nil {
			if err := sameContainer(got, f.container); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
	}
	return nil
}

func writeDurably(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// publishInto moves what is in temp up into the folder around it, SHA256SUMS
// last: without that the folder shows itself as incomplete.
func publishInto(dir, temp string, before func(step string) error) (err error) {
	list, err := os.ReadDir(temp)
	if err != nil {
		return writeFailed(dir, err)
	}
	now, err := os.ReadDir(dir)
	if err != nil {
		return writeFailed(dir, err)
	}
	if len(now) != 1 {
		return fail.Refusef("not-empty", "name a folder that does not exist or is empty", "files appeared in %s while the export was written; they were left alone", dir)
	}
	var names, moved []string
	for _, e := range list {
		if e.Name() != exportSumsName {
			names = append(names, e.Name())
		}
	}
	names = append(names, exportSumsName)
	defer func() {
		if err != nil {
			for _, name := range moved {
				err = errors.Join(err, os.RemoveAll(name))
			}
		}
	}()
	for _, name := range names {
		if name == exportSumsName {
			if err := syncFolder(dir); err != nil {
				return writeFailed(dir, err)
			}
		}
		if err := before("move " + name); err != nil {
			return writeFailed(dir, err)
		}
		to := filepath.Join(dir, name)
		if err := os.Rename(filepath.Join(temp, name), to); err != nil {
			return writeFailed(dir, err)
		}
		moved = append(moved, to)
	}
	if err := os.Remove(temp); err != nil {
		return writeFailed(dir, err)
	}
	if err := syncFolder(dir); err != nil {
		return writeFailed(dir, err)
	}
	return nil
}

// syncFolder makes the names within a folder durable, where a system can.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such call
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // network and FAT file systems
	}
	return errors.Join(err, f.Close())
}

// tokenFile is where an EF of the token itself is exported.
func tokenFile(f schsm.FID) string { return path.Join("token", f.String()+".bin") }

func orUnknown(s string) string {
	if s == "" {
		return "unknown type"
	}
	return s
}

// leftReason says why there is no key blob.
func leftReason(k *store.Key) string {
	if k.Reason == "" && k.Damage != "" {
		return "damaged in the catalog: " + k.Damage
	}
	return k.Reason
}
