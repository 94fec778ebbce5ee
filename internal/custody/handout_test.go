package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

// nobody is a desk where nobody sits; it keeps what was said.
type nobody struct{ said strings.Builder }

func (*nobody) Available() bool { return false }
func (*nobody) Screen(context.Context, []byte, string) (*secret.Bytes, error) {
	return nil, io.EOF
}
func (*nobody) ReadLine(context.Context, string) (string, error) { return "", io.EOF }
func (n *nobody) Note(format string, args ...any)                { fmt.Fprintf(&n.said, format+"\n", args...) }
func (n *nobody) Next(format string, args ...any)                { n.Note(format, args...) }
func (*nobody) Words(err error) string                           { return err.Error() }
func (*nobody) Derivation(string) dkek.Progress                  { return nil }
func (n *nobody) Damaged(f store.Finding)                        { n.Note("DAMAGED: %s", f) }
func (*nobody) Derived()                                         {}
func (*nobody) Readable(string)                                  {}

// aHandOut is to alice, bob and carol, with files and sheets.
func aHandOut(kcv dkek.KCV) *HandOut {
	return &HandOut{Job: "create", Needed: 2, Receivers: []Receiver{{Name: "alice"}, {Name: "bob"}, {Name: "carol"}},
		Dir: "parts", Sheets: "sheets", Share: 1, Shares: 1, KCV: kcv}
}

func handOut(t *testing.T, h *HandOut, cat *store.Catalog, share *dkek.Share) (*HandedOut, string, error) {
	t.Helper()
	desk := new(nobody)
	r, err := h.Run(t.Context(), desk, cat, share, cat.Now())
	return r, desk.said.String(), err
}

// partIn reads a part, with the text that holds it.
func partIn(t *testing.T, file string) (string, *dkek.Part) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	part, err := dkek.ParsePart(text)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return string(text), part
}

func shareKCV(t *testing.T, share *dkek.Share) dkek.KCV {
	t.Helper()
	kcv, err := ShareKCV(share)
	if err != nil {
		t.Fatal(err)
	}
	return kcv
}

// killedHandOut leaves behind what a run has written that was killed when all
// files were there: before the set was registered, or just after.
func killedHandOut(t *testing.T, cat *store.Catalog, registered bool) *handOutNote {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, dir := range []string{"parts", "sheets"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	share := dkek.NewShare()
	defer share.Wipe()
	kcv := shareKCV(t, share)
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: 2, Total: 3, KCV: kcv})
	if err != nil {
		t.Fatal(err)
	}
	n, err := aHandOut(kcv).note(parts, kcv, func(p *dkek.Part, _ *store.PartSet) ([]byte, error) {
		return append([]byte("%PDF-1.3\n"), p.Text()...), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	leave(t, cat, n, registered)
	return n
}

// leave writes the files of a note, and the note.
func leave(t *testing.T, cat *store.Catalog, n *handOutNote, registered bool) {
	t.Helper()
	for _, p := range n.Parts {
		for _, f := range p.files() {
			rewrite(t, f.Path, f.content)
		}
	}
	if err := cat.Journal().Put(n.key(), n); err != nil {
		t.Fatal(err)
	}
	if registered {
		if err := cat.Append(n.Set); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func rewrite(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whatever a run that was killed has left of files and notes, the same job run
// again finishes it, or says what is left: a journal deletes nothing. Once that is
// out of the way there is one set that is whole.
func TestHandOutResumed(t *testing.T) {
	first := []byte(partFirstLine("00000000"))
	for name, c := range map[string]struct {
		change   func(t *testing.T, n *handOutNote)
		finishes bool
	}{
		"all there":          {func(*testing.T, *handOutNote) {}, true},
		"registered already": {nil, true},
		"one missing":        {func(t *testing.T, n *handOutNote) { remove(t, n.Parts[2].File.Path) }, false},
		"only sheets": {func(t *testing.T, n *handOutNote) {
			remove(t, n.Parts[0].File.Path, n.Parts[1].File.Path, n.Parts[2].File.Path)
		}, false},
		"one empty": {func(t *testing.T, n *handOutNote) { rewrite(t, n.Parts[1].File.Path, nil) }, false},
		"one cut short": {func(t *testing.T, n *handOutNote) {
			rewrite(t, n.Parts[1].File.Path, n.Parts[1].File.content[:len(n.Parts[1].File.content)/2])
		}, false},
		"a sheet missing":       {func(t *testing.T, n *handOutNote) { remove(t, n.Parts[2].Sheet.Path) }, false},
		"a sheet cut short":     {func(t *testing.T, n *handOutNote) { rewrite(t, n.Parts[2].Sheet.Path, []byte("%PDF-1")) }, false},
		"cut in its first line": {func(t *testing.T, n *handOutNote) { rewrite(t, n.Parts[1].File.Path, first[:20]) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			cat := newCatalog(t)
			n := killedHandOut(t, cat, c.change == nil)
			if c.change != nil {
				c.change(t, n)
			}
			share := dkek.NewShare()
			h := aHandOut(shareKCV(t, share))
			r, said, err := handOut(t, h, cat, share)
			if c.finishes {
				if err != nil || r.Set != n.Set.Set || !h.Changed {
					t.Fatalf("%+v, %v\n%s", r, err, said)
				}
			} else {
				if codeOf(err) != "exists" || !strings.Contains(said, n.Parts[0].Sheet.Path) || !strings.Contains(said, "destroy them yourself") {
					t.Fatalf("%v\n%s", err, said)
				}
				if err := errors.Join(os.RemoveAll("parts"), os.RemoveAll("sheets")); err != nil {
					t.Fatal(err)
				}
				if r, said, err = handOut(t, h, cat, share); err != nil || r.Set == n.Set.Set {
					t.Fatalf("%+v, %v\n%s", r, err, said)
				}
			}
			sets := read(t, cat).PartSets
			if len(sets) != 1 || sets[0].Set != r.Set {
				t.Fatalf("%+v, %v", sets, err)
			}
			if notes, err := cat.Journal().Keys(""); err != nil || len(notes) != 0 {
				t.Errorf("left in the journal: %q, %v", notes, err)
			}
			var parts []*dkek.Part
			for _, p := range r.Custodians {
				_, part := partIn(t, p.File)
				if !bytes.Equal(part.Commitment(), sets[0].Custodians[p.Index-1].Commitment) {
					t.Fatalf("%s holds another part", p.File)
				}
				if _, err := os.Lstat(p.Sheet); err != nil {
					t.Error(err)
				}
				parts = append(parts, part)
			}
			if share, err := dkek.CombineParts(parts); err != nil || shareKCV(t, share).String() != r.KCV {
				t.Errorf("the parts give another share: %v", err)
			}
		})
	}
}

// A share that was given to others, but whose old set was not yet retired: the
// same job finishes that.
func TestResplitResumed(t *testing.T) {
	t.Chdir(t.TempDir())
	cat := newCatalog(t)
	share := dkek.NewShare()
	kcv := shareKCV(t, share)
	old := register(t, cat, share, 2, "alice", "bob")[0].Set
	h := &HandOut{Job: "resplit", Needed: 2, Receivers: []Receiver{{Name: "carol"}, {Name: "dave"}}, Dir: "new", Share: 1, Shares: 1, KCV: kcv, Retires: old}
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: 2, Total: 2, KCV: kcv})
	if err != nil {
		t.Fatal(err)
	}
	n, err := h.note(parts, kcv, nil)
	if err == nil {
		err = os.Mkdir("new", 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	leave(t, cat, n, true)
	if r, said, err := handOut(t, h, cat, share); err != nil || r.Set != n.Set.Set {
		t.Fatalf("%+v, %v\n%s", r, err, said)
	}
	sets := read(t, cat).PartSets
	if len(sets) != 2 || sets[0].Retired.IsZero() || !sets[1].Retired.IsZero() {
		t.Errorf("%+v, %v", sets, err)
	}
	// Once more is another hand-out, for which there is no place.
	if _, _, err := handOut(t, h, cat, share); codeOf(err) != "exists" {
		t.Error(err)
	}
}

// Issue 9, fault 14: a note in the journal, which anyone can make who writes the
// catalog, had a live part and a document of the user deleted. It deletes nothing.
func TestFault14HandOutNote(t *testing.T) {
	t.Chdir(t.TempDir())
	cat := newCatalog(t)
	live := []byte("# hsmbackup: a custodian's part\nhsmpart1…\n")
	document := []byte("%PDF-1.7\na letter")
	rewrite(t, "bob.txt", live)
	rewrite(t, "letter.pdf", document)
	n := &handOutNote{Job: "create", Set: store.PartSet{Set: "00000000", Custodians: []store.Custodian{{Index: 1, Name: "bob"}, {Index: 2, Name: "eve"}}}, Parts: make([]notePart, 2)}
	for path, file := range map[string]**noteFile{"bob.txt": &n.Parts[0].File, "letter.pdf": &n.Parts[0].Sheet, "missing": &n.Parts[1].File} {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if *file, err = newNoteFile(path, content); err != nil {
			t.Fatal(err)
		}
	}
	n.Parts[0].Sheet.SHA256, n.Parts[0].Sheet.Size = "", 1<<20 // as if that were its begin
	if err := cat.Journal().Put(n.key(), n); err != nil {
		t.Fatal(err)
	}
	share := dkek.NewShare()
	if _, said, err := handOut(t, aHandOut(shareKCV(t, share)), cat, share); err != nil || !strings.Contains(said, "bob.txt") || !strings.Contains(said, "letter.pdf") {
		t.Errorf("%v\n%s", err, said)
	}
	for path, want := range map[string][]byte{"bob.txt": live, "letter.pdf": document} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}
