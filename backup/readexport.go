package backup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// maxExportFile bounds what is read of a file of an export: the largest one is
// the guide.
const maxExportFile = 16 << 20

// ReadExport reads a folder that Export wrote back into the snapshot that it was
// made of, with its ID and hash. What does not check out is in the findings: a
// key or file that it takes with it says so by its Damage, and the rest goes on.
// The error is for a folder that tells nothing.
func ReadExport(dir string) (*store.Snapshot, []store.Finding, error) {
	x := &exportReader{dir: dir}
	raw, err := x.read(exportManifestName)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fail.Failf("not-an-export", "name the folder that `hsmbackup export` wrote", "%s holds no %s", dir, exportManifestName)
		}
		return nil, nil, err
	}
	var m exportManifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, nil, &fail.Error{Class: fail.Damaged, Code: "damaged", Message: fmt.Sprintf("%s: it cannot be read: %v", filepath.Join(dir, exportManifestName), err), Hint: "try another copy of the folder"}
	}
	if m.Format > exportFormat || m.Format < 1 {
		return nil, nil, fail.Failf("export-newer", "use the hsmbackup that wrote it, or a newer one", "%s is an export of format %d, this program knows up to %d", dir, m.Format, exportFormat)
	}
	x.sums()
	s := x.snapshot(&m)
	s.Hash = m.Snapshot.Hash
	s.ID = s.Hash.String()[:12]
	odd, err := s.Sift()
	if err != nil {
		return nil, nil, &fail.Error{Class: fail.Damaged, Code: "damaged", Message: fmt.Sprintf("%s: %v", filepath.Join(dir, exportManifestName), err), Hint: "try another copy of the folder"}
	}
	for _, f := range odd {
		x.find(exportManifestName, "%s", strings.TrimPrefix(f.String(), ": "))
	}
	if len(x.found) == 0 {
		is, err := s.ManifestHash()
		if err != nil || is != s.Hash || s.ID != m.Snapshot.ID {
			x.find(exportManifestName, "it is not the snapshot that it names: it was changed after it was written")
		}
	}
	return s, x.found, nil
}

// ExportedFiles tells what the files of a folder are that Export wrote and that
// are no wrapped keys, by their names; nil for any other folder.
func ExportedFiles(dir string) map[string]string {
	x := &exportReader{dir: dir}
	var m exportManifest
	raw, err := x.read(exportManifestName)
	if err != nil || json.Unmarshal(raw, &m) != nil || m.Format < 1 || m.Snapshot.Hash.IsZero() {
		return nil
	}
	names := map[string]string{exportManifestName: "the export's manifest"}
	for _, f := range m.Files {
		names[f.Name] = "part of an export"
	}
	for _, f := range m.EFs {
		if f.Content != nil {
			names[f.Content.File] = "file " + f.FID + " of the token"
		}
	}
	for _, k := range m.Keys {
		if k.Blob != nil {
			delete(names, k.Blob.File)
		}
	}
	return names
}

type exportReader struct {
	dir   string
	found []store.Finding
}

func (x *exportReader) find(where, format string, args ...any) {
	x.found = append(x.found, store.Finding{Where: where, What: fmt.Sprintf(format, args...)})
}

// read reads a file within the folder.
func (x *exportReader) read(name string) ([]byte, error) {
	local := filepath.FromSlash(name)
	if !filepath.IsLocal(local) {
		return nil, fmt.Errorf("%q is no file within the folder", name)
	}
	path := filepath.Join(x.dir, local)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxExportFile {
		return nil, fmt.Errorf("%s: not a file of an export", path)
	}
	return os.ReadFile(path)
}

// sums checks every file that SHA256SUMS names.
func (x *exportReader) sums() {
	raw, err := x.read(exportSumsName)
	if err != nil {
		x.find(exportSumsName, "it is missing or cannot be read: the export is not whole")
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			x.find(exportSumsName, "a line of it cannot be read")
			continue
		}
		content, err := x.read(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			x.find(name, "it is missing")
		case err != nil:
			x.find(name, "%v", err)
		case !strings.EqualFold(sum, store.HashOf(content).String()):
			x.find(name, "it is not what %s says", exportSumsName)
		}
	}
}

// body gives a body by its description; what does not check out is damage.
func (x *exportReader) body(b *exportBody, part func(*dkek.Container) []byte) (content []byte, damage string) {
	if b == nil {
		return nil, ""
	}
	content, err := x.read(b.File)
	if err == nil {
		switch b.Form {
		case formRaw:
		case formPEM:
			block, _ := pem.Decode(content)
			if block == nil {
				err = errors.New("no PEM block in it")
			} else {
				content = block.Bytes
			}
		case formContainer:
			var c *dkek.Container
			if c, err = dkek.ParseContainer(content); err == nil {
				content = part(c)
			}
		default:
			err = fmt.Errorf("form %q is not known", b.Form)
		}
	}
	if err == nil && (len(content) != b.Size || store.HashOf(content) != b.SHA256) {
		err = errors.New("it is not what the manifest names")
	}
	if err != nil {
		damage = fmt.Sprintf("%s: %v", b.File, err)
		x.find(b.File, "%v", err)
		return nil, damage
	}
	if content == nil {
		content = []byte{} // there, and empty
	}
	return content, ""
}

// snapshot puts the snapshot together.
func (x *exportReader) snapshot(m *exportManifest) *store.Snapshot {
	taken, err := time.Parse(time.RFC3339, m.Snapshot.Taken)
	if err != nil {
		x.find(exportManifestName, "its time cannot be read")
	}
	t := m.Token
	s := &store.Snapshot{
		Previous: m.Snapshot.Previous, Taken: taken, Program: m.Snapshot.Program, Adopted: m.Snapshot.Adopted, Rekeyed: m.Snapshot.Rekeyed,
		Token: store.Token{
			Serial: t.Serial, Label: t.Label, Firmware: t.Firmware, Software: t.Software, Options: t.Options, PINTries: t.PINTries, SOPINTries: t.SOPINTries,
			SuccessorOf: t.SuccessorOf, Issuer: t.Issuer, ValidFrom: t.ValidFrom, ValidTo: t.ValidTo, FreeMemory: t.FreeMemory,
		},
		Missing: append([]store.Gap(nil), m.Missing...),
	}
	s.Token.Certificate, _ = x.body(t.Certificate, nothing)
	s.Token.TokenInfo, _ = x.body(t.TokenInfo, nothing)
	for _, d := range t.Domains {
		s.Token.Domains = append(s.Token.Domains, store.Domain{Number: d.Number, Shares: d.Shares, Outstanding: d.Outstanding, KCV: d.KCV, UID: x.hex(d.UID)})
	}
	for i := range m.Keys {
		s.Keys = append(s.Keys, x.key(&m.Keys[i]))
	}
	for _, f := range m.EFs {
		file := store.File{FID: strings.ToLower(f.FID), Sealed: f.Sealed}
		file.Content, file.Damage = x.body(f.Content, nothing)
		s.Files = append(s.Files, file)
	}
	for _, a := range m.Attached {
		at := store.Attachment{Name: a.Name}
		if at.Added, err = time.Parse(time.RFC3339, a.Added); err != nil {
			x.find(exportManifestName, "the time of attachment %s cannot be read", a.Name)
		}
		at.Content, at.Damage = x.body(a.Content, nothing)
		s.Attachments = append(s.Attachments, at)
	}
	return s
}

func nothing(*dkek.Container) []byte { return nil }

func (x *exportReader) key(m *exportKey) store.Key {
	k := store.Key{
		Reference: m.Reference, ID: x.hex(m.ID), Label: m.Label, Type: m.Type, Usage: m.Usage, Algorithms: x.hex(m.Algorithms), Counter: m.Counter,
		Domain: m.Domain, KCV: m.KCV, PublicFrom: m.PublicFrom, CheckValue: x.hex(m.CheckValue), Reason: m.Reason,
	}
	for _, b := range []struct {
		to   *[]byte
		from *exportBody
		part func(*dkek.Container) []byte
	}{
		{&k.Blob, m.Blob, func(c *dkek.Container) []byte { return c.Blob }},
		{&k.Description, m.Description, func(c *dkek.Container) []byte { return c.Description }},
		{&k.Certificate, m.Certificate, func(c *dkek.Container) []byte { return c.Certificate }},
		{&k.PublicKey, m.PublicKey, nothing},
	} {
		content, damage := x.body(b.from, b.part)
		*b.to = content
		if k.Damage == "" {
			k.Damage = damage
		}
	}
	return k
}

// hex reads hex digits; none are no bytes at all.
func (x *exportReader) hex(text string) []byte {
	b, err := hex.DecodeString(text)
	if err != nil {
		x.find(exportManifestName, "%q is no hex", text)
	}
	if len(b) == 0 {
		return nil
	}
	return b
}

// ImportSnapshot puts a snapshot that was read from an export into a catalog, so
// that a restore has a journal and a log. One that is there already is given
// back. A catalog that has other snapshots of the same token is refused: it
// knows more than the export. What is damaged of a key is left out, and said in
// its stead.
func ImportSnapshot(ctx context.Context, cat *store.Catalog, s *store.Snapshot) (*store.Snapshot, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	all := state.Snapshots
	in := *s
	in.ID, in.Hash, in.Previous = "", store.Hash{}, store.Hash{}
	in.Keys = append([]store.Key(nil), s.Keys...)
	in.Files, in.Attachments = nil, nil
	for i := range in.Keys {
		salvage(&in.Keys[i])
	}
	for _, f := range s.Files {
		if f.Damage == "" {
			in.Files = append(in.Files, f)
			continue
		}
		in.Missing = append(append([]store.Gap{}, in.Missing...), store.Gap{What: "file " + f.FID, Reason: "damaged in the export: " + f.Damage})
	}
	for _, at := range s.Attachments {
		if at.Damage == "" {
			in.Attachments = append(in.Attachments, at)
			continue
		}
		in.Missing = append(append([]store.Gap{}, in.Missing...), store.Gap{What: "attachment " + at.Name, Reason: "damaged in the export: " + at.Damage})
	}
	want, err := in.ManifestHash()
	if err != nil {
		return nil, &fail.Error{Class: fail.Damaged, Code: "damaged", Message: "the export holds no snapshot that makes sense: " + err.Error(), Hint: "try another copy of the folder"}
	}
	for _, old := range all {
		bare := *old
		bare.Previous = store.Hash{}
		if is, err := bare.ManifestHash(); err == nil && is == want {
			return old, nil
		}
	}
	for _, old := range all {
		if old.Token.Serial == s.Token.Serial && !s.Adopted && !old.Adopted {
			return nil, fail.Refusef("known-token", "`hsmbackup restore --from "+s.Token.Serial+"` takes the newest of those; or name another catalog with --catalog", "the catalog has other snapshots of %s than the export", s.Token.Serial)
		}
	}
	if err := cat.AddSnapshot(ctx, &in); err != nil {
		return nil, err
	}
	return &in, nil
}

// salvage keeps of a damaged key what is whole.
func salvage(k *store.Key) {
	if k.Damage == "" {
		return
	}
	if len(k.Blob) == 0 && k.Reason == "" {
		k.Reason = "damaged in the export: " + k.Damage
	}
	if kind, _ := kindAndBits(*k); kind != 0 {
		_, _ = mend(k)
	} else if len(k.Description) == 0 { // nothing is left to make one of
		k.Label, k.ID, k.Usage = "", nil, 0
	}
	if k.Certificate == nil && k.PublicFrom != "" {
		k.PublicFrom = ""
		if k.PublicKey != nil {
			k.PublicFrom = fromBlob
		}
	}
	if k.PublicKey == nil && k.Certificate != nil {
		k.Certificate = nil // it says nothing of a key that is not known
	}
	k.Damage = ""
}
