package backup

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// exported is a token with two keys, certificates and data, backed up and
// exported.
func exported(t testing.TB) (dir string, s *store.Snapshot) {
	t.Helper()
	_, card, cat, _ := readyForUpdate(t)
	if r, err := Run(context.Background(), card, cat, Options{}); err != nil || !r.Complete() {
		t.Fatalf("%v", err)
	}
	s = mustSnapshot(t, cat, "latest") // as it is read from the catalog
	dir = filepath.Join(scratch(t), "out")
	if _, err := Export(dir, s, ExportOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func TestReadExport(t *testing.T) {
	dir, want := exported(t)
	got, found, err := ReadExport(dir)
	if err != nil || len(found) > 0 {
		t.Fatalf("%v, %v", found, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("another snapshot than was exported:\n%s", d)
	}
	if is, err := got.ManifestHash(); err != nil || is != want.Hash {
		t.Errorf("hash %s, %v", is, err)
	}
	for _, name := range []string{"nowhere", "."} {
		if _, _, err := ReadExport(filepath.Join(t.TempDir(), name)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Every byte of every file counts, and every file must be there. What is damaged
// takes nothing else with it.
func TestReadExportDamage(t *testing.T) {
	dir, _ := exported(t)
	flips := 0
	for _, name := range under(t, dir) {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		step := max(1, len(whole)/40)
		for i := 0; i < len(whole); i += step {
			b := append([]byte(nil), whole...)
			b[i] ^= 0x11
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, found, err := ReadExport(dir); err == nil && len(found) == 0 {
				t.Errorf("%s, byte %d: not noticed", name, i)
			}
			flips++
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, found, err := ReadExport(dir); err == nil && len(found) == 0 {
			t.Errorf("%s missing: not noticed", name)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, found, err := ReadExport(dir); err != nil || len(found) > 0 {
		t.Fatalf("put back: %v, %v", found, err)
	}
	t.Logf("%d bytes flipped", flips)

	// A path out of the folder is not followed.
	manifest := filepath.Join(dir, exportManifestName)
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	outside := strings.Replace(string(b), `"file": "key-001`, `"file": "../out/key-001`, 1)
	if err := os.WriteFile(manifest, []byte(outside), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, found, err := ReadExport(dir); err != nil || len(found) == 0 {
		t.Errorf("a file outside: %v, %v", found, err)
	}
}

// A restore from an export, whole or with a damaged key, through a catalog of
// its own.
func TestRestoreFromExport(t *testing.T) {
	ctx := context.Background()
	dir, want := exported(t)
	cat := newCatalog(t)
	restore := func(serial string) *RestoreReport {
		t.Helper()
		read, _, err := ReadExport(dir)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ImportSnapshot(ctx, cat, read)
		if err != nil {
			t.Fatal(err)
		}
		_, card := newToken(t, "3.6", serial)
		initToken(t, card, nil, newShare(t, 1))
		open, done := DataOpener(s.Token.Domains, []*dkek.Share{newShare(t, 1)})
		defer done()
		o := RestoreOptions{Journal: cat.Journal(), OpenData: open}
		p, err := MakePlan(ctx, card, s, o)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Restore(ctx, card, cat, p, o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := restore("SOFT0400001"); !r.Complete() || r.NotRecorded != "" {
		t.Errorf("%+v %+v %s", r.Keys, r.Files, r.NotRecorded)
	}
	if r := restore("SOFT0400002"); !r.Complete() {
		t.Errorf("again: %+v", r.Keys)
	}
	if all := read(t, cat).Snapshots; len(all) != 1 || all[0].Token.Serial != want.Token.Serial {
		t.Errorf("%d snapshots", len(all))
	}
	other := *want
	other.Token.Label = "another"
	if _, err := ImportSnapshot(ctx, cat, &other); fail.ClassOf(err) != fail.Refused {
		t.Errorf("beside other snapshots of the token: %v", err)
	}

	cat = newCatalog(t)
	for _, name := range under(t, dir) {
		if strings.HasPrefix(name, "key-001") && strings.HasSuffix(name, ".bin") {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/3] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := restore("SOFT0400003")
	if r.Keys[0].OK || !r.Keys[1].OK || !strings.Contains(r.Keys[0].Reason, "damaged in the export") {
		t.Errorf("%+v", r.Keys)
	}
	if v, err := Check(cat, nil, 0); err != nil || v.Damaged() {
		t.Errorf("the catalog that was made of it: %+v, %v", v, err)
	}
}
