package backup

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/forge"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// anchorAt is the entry that a catalog is anchored up to, 0 without an anchor.
func anchorAt(t testing.TB, cat *store.Catalog, key *dkek.Key) uint64 {
	t.Helper()
	a, err := lookAtAnchor(read(t, cat), key)
	if err != nil || a.damage != "" {
		t.Fatalf("%+v, %v", a, err)
	}
	return a.seq
}

func bareOf(t testing.TB, cat *store.Catalog) *store.Catalog {
	t.Helper()
	return reopened(t, cat, func(c *forge.Catalog) { clear(c.Anchors) })
}

func yes(Since) (bool, error) { return true, nil }

// A catalog without an anchor is good for nothing but itself: keys may be missing
// in it, and nobody would know.
func TestFault15NoAnchor(t *testing.T) {
	ctx := context.Background()
	cat, _, key := twoKeys(t)
	before := read(t, cat).Head
	cat = reopened(t, cat, func(c *forge.Catalog) {
		clear(c.Anchors)
		m := c.Newest()
		m["keys"] = m["keys"].([]any)[:1]
	})
	for range 2 { // it is not anchored by having been looked at
		v, err := VerifyOffline(ctx, cat, latest(t, cat), key, Options{Confirm: yes})
		if err != nil || v.Damaged() || v.Anchored != NotAnchored || len(v.Doubts) != 1 || v.NewAnchor != 0 || !strings.Contains(v.Doubts[0].Do, "--head") {
			t.Errorf("%+v, %v", v, err)
		}
	}
	if anchorAt(t, cat, key) != 0 {
		t.Error("the forgery is anchored")
	}
	// The words on the sheet are of what it was.
	v, err := VerifyOffline(ctx, cat, latest(t, cat), key, Options{Head: before.Hash[:], HeadBits: 66, Confirm: yes})
	if err != nil || len(v.Findings) != 1 || v.NewAnchor != 0 || anchorAt(t, cat, key) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// The words on the sheet say where a catalog without an anchor is known from.
func TestAnchorByHeadWords(t *testing.T) {
	ctx := context.Background()
	cat, _, key := twoKeys(t)
	cat = bareOf(t, cat)
	head := read(t, cat).Head
	if err := cat.Append(store.Accepted{Serial: "SOFT0200001", Reference: 3, Label: "x", Reason: "said"}); err != nil {
		t.Fatal(err)
	}
	asked := 0
	v, err := VerifyOffline(ctx, cat, latest(t, cat), key, Options{Head: head.Hash[:], HeadBits: 66, Confirm: func(s Since) (bool, error) {
		asked++
		if s.Anchor != head.Seq || len(s.Entries) != 1 || s.Entries[0].Kind != store.KindAccepted {
			t.Errorf("%+v", s)
		}
		return true, nil
	}})
	if err != nil || asked != 1 || len(v.Doubts) != 0 || v.Anchored != AnchoredWords || v.NewAnchor == 0 || anchorAt(t, cat, key) != v.NewAnchor {
		t.Errorf("asked %d times: %+v, %v", asked, v, err)
	}
	if v, err = VerifyOffline(ctx, cat, latest(t, cat), key, Options{}); err != nil || v.Anchored != AnchoredDKEK || len(v.Doubts) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// What was written since the anchor and no key vouches for is shown, and the
// anchor stays where it is until somebody agrees.
func TestFault15SinceTheAnchor(t *testing.T) {
	ctx := context.Background()
	cat, _, key := twoKeys(t)
	kcv := key.KCV().String()
	said := map[string]forge.Object{
		"accepted":        {"serial": "SOFT0200001", "reference": 1, "label": "one", "reason": "gone"},
		"successor":       {"serial": "SOFT0200009", "successor_of": "SOFT0200001"},
		"old-token":       {"serial": "SOFT0200001", "fate": "broken", "token": "SOFT0200009"},
		"firmware-update": {"serial": "SOFT0200001", "firmware": "3.5", "snapshot": "0123456789ab", "step": "emptied"},
		"part-set": {"set": "01020304", "share": 1, "shares": 1, "needed": 2, "kcv": kcv, "custodians": []any{
			forge.Object{"index": 1, "name": "a", "commitment": forge.Hash([]byte("a"))}, forge.Object{"index": 2, "name": "b", "commitment": forge.Hash([]byte("b"))}}},
	}
	was := anchorAt(t, cat, key)
	cat = reopened(t, cat, func(c *forge.Catalog) {
		for kind, body := range said {
			c.Append(kind, time.Now(), body)
		}
	})
	v, err := VerifyOffline(ctx, cat, read(t, cat).Snapshots, key, Options{})
	if err != nil || v.Damaged() || v.NewAnchor != 0 || v.Unmoved == "" || v.Anchored != AnchoredDKEK || v.Since < len(said) || anchorAt(t, cat, key) != was {
		t.Errorf("nobody was asked: %+v, %v", v, err)
	}
	no := errors.New("no")
	if v, err = VerifyOffline(ctx, cat, read(t, cat).Snapshots, key, Options{Confirm: func(Since) (bool, error) { return false, no }}); err != nil || v.NotRecorded == "" || anchorAt(t, cat, key) != was {
		t.Errorf("%+v, %v", v, err)
	}
	var shown []string
	v, err = VerifyOffline(ctx, cat, read(t, cat).Snapshots, key, Options{Confirm: func(s Since) (bool, error) {
		for _, e := range s.Entries {
			shown = append(shown, e.Kind)
		}
		return true, nil
	}})
	if err != nil || v.NewAnchor <= was || anchorAt(t, cat, key) != v.NewAnchor {
		t.Errorf("%+v, %v", v, err)
	}
	for kind := range said {
		if !slices.Contains(shown, kind) {
			t.Errorf("%s was not shown, but %v", kind, shown)
		}
	}
	// It is vouched for now, and nobody is asked again.
	v, err = VerifyOffline(ctx, cat, read(t, cat).Snapshots, key, Options{Confirm: func(s Since) (bool, error) {
		t.Errorf("asked again: %+v", s)
		return false, nil
	}})
	if err != nil || v.NewAnchor == 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// An anchor moves upon nothing that was not opened, or is damaged, and never in
// the place of one that does not hold.
func TestAnchorMoves(t *testing.T) {
	ctx := context.Background()
	two := func(t *testing.T) (*store.Catalog, *dkek.Key) {
		cat := createCatalog(t)
		_, card := newToken(t, "3.5", "SOFT0200001")
		share := newShare(t, 1)
		initToken(t, card, cat, share)
		generate(t, card, 1, "P-256", "one", []byte{1})
		for range 2 {
			if _, err := Run(ctx, card, cat, Options{}); err != nil {
				t.Fatal(err)
			}
			generateAES(t, card, 9, "young")
			if _, err := Run(ctx, card, cat, Options{}); err != nil {
				t.Fatal(err)
			}
			for _, f := range []schsm.FID{schsm.KeyFile(9), schsm.DescriptionFile(9)} {
				if err := card.DeleteFile(ctx, f); err != nil {
					t.Fatal(err)
				}
			}
		}
		return cat, keyOf(t, share)
	}
	spoil := func(c *forge.Catalog, s int) {
		for _, k := range forge.Keys(c.Snapshots[s].Object) {
			if k["blob"] != nil {
				blob := c.Body(k["blob"])
				blob[len(blob)-1] ^= 1
				k["blob"] = c.Refer(blob)
			}
		}
	}
	for name, step := range map[string]struct {
		change func(c *forge.Catalog)
		moves  bool
		damage bool
	}{
		"as it is":                         {func(*forge.Catalog) {}, true, false},
		"a blob of an old snapshot spoilt": {func(c *forge.Catalog) { spoil(c, 1) }, false, true},
		"a blob of the newest spoilt":      {func(c *forge.Catalog) { spoil(c, len(c.Snapshots)-1) }, false, true},
		"an anchor of another recovery key": {func(c *forge.Catalog) {
			for _, a := range c.Anchors {
				a["mac"] = forge.Hash(nil)
			}
		}, false, true},
		"what was anchored is rewritten": {func(c *forge.Catalog) { c.Log[1].Body["origin"] = "another" }, false, true},
		"an anchor of an entry to come": {func(c *forge.Catalog) {
			for _, a := range c.Anchors {
				a["seq"] = 1000
			}
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			cat, key := two(t)
			cat = reopened(t, cat, step.change)
			v, err := VerifyOffline(ctx, cat, latest(t, cat), key, Options{Confirm: yes})
			if err != nil || v.Damaged() != step.damage || (v.NewAnchor > 0) != step.moves {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

// Shares are at hand in many jobs. None but verify --offline moves an anchor, and
// none makes one; each says how the catalog compares.
func TestOtherJobsSetNoAnchor(t *testing.T) {
	ctx := context.Background()
	for name, job := range map[string]func(t *testing.T, cat *store.Catalog, share *dkek.Share) error{
		"dkek load, dkek check, split, hand-out": func(t *testing.T, cat *store.Catalog, share *dkek.Share) error {
			return RecordShares(cat, keyOf(t, share), true, "dkek check")
		},
		"init": func(t *testing.T, cat *store.Catalog, share *dkek.Share) error {
			_, card := newToken(t, "3.5", "SOFT0200002")
			initToken(t, card, cat, share)
			return nil
		},
		"drill": func(t *testing.T, cat *store.Catalog, share *dkek.Share) error {
			_, err := rehearse(t, cat, nil, latest(t, cat), share)
			return err
		},
		"firmware-update": func(t *testing.T, cat *store.Catalog, share *dkek.Share) error {
			_, card := newToken(t, "3.5", "SOFT0200003")
			initToken(t, card, cat, share)
			generate(t, card, 1, "P-256", "one", []byte{1})
			_, err := PrepareUpdate(ctx, card, cat, UpdateOptions{Shares: []*dkek.Share{share}, NewToken: inMemory})
			return err
		},
		"dkek rekey": func(t *testing.T, cat *store.Catalog, share *dkek.Share) error {
			_, err := Rekey(ctx, cat, latest(t, cat), keyOf(t, share), keyOf(t, newShare(t, 90)), RekeyOptions{})
			return err
		},
	} {
		for _, anchored := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				cat, _, key := twoKeys(t)
				share := newShare(t, 1) // what twoKeys has
				was := anchorAt(t, cat, key)
				if cat = reopened(t, cat, func(*forge.Catalog) {}); !anchored {
					cat, was = bareOf(t, cat), 0
				}
				if err := job(t, cat, share); err != nil {
					t.Fatal(err)
				}
				if is := anchorAt(t, cat, key); is != was {
					t.Errorf("the anchor moved from entry %d to %d", was, is)
				}
				if is := anchorAt(t, cat, keyOf(t, newShare(t, 90))); is != 0 {
					t.Errorf("another recovery key anchors entry %d", is)
				}
			})
		}
	}
}

func inMemory() (apdu.Transmitter, func() error, error) {
	token, err := softtoken.New(softtoken.Options{Firmware: "3.6"})
	return token, func() error { return nil }, err
}

// What a job says of the anchor is heard, and damage as damage.
func TestJobsSayHowTheAnchorCompares(t *testing.T) {
	for want, change := range map[string]func(c *forge.Catalog){
		"holds what the recovery key": func(*forge.Catalog) {},
		"has no anchor under":         func(c *forge.Catalog) { clear(c.Anchors) },
		"is not what the recovery key": func(c *forge.Catalog) {
			for _, a := range c.Anchors {
				a["mac"] = forge.Hash(nil)
			}
		},
	} {
		cat, _, key := twoKeys(t)
		if err := cat.Close(); err != nil {
			t.Fatal(err)
		}
		heard, damaged := "", false
		again, err := store.Open(forge.Copy(t, cat.Path(), change), true, store.Listen(func(what string, damage bool) { heard, damaged = what, damage }))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if err := RecordShares(again, key, true, "test"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(heard, want) || damaged != strings.Contains(want, "is not") {
			t.Errorf("heard %q, damage %v, want %q", heard, damaged, want)
		}
	}
}

// One function sets anchors: nothing in the program calls SetAnchor but it.
func TestOnePlaceSetsAnchors(t *testing.T) {
	var places []string
	for _, dir := range []string{".", "../cmd", "../internal", "../store", "../dkek"} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			for _, decl := range f.Decls {
				fn, ok := decl.(*ast.FuncDecl)
				if !ok {
					continue
				}
				ast.Inspect(fn, func(n ast.Node) bool {
					if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "SetAnchor" {
						places = append(places, filepath.Base(path)+" "+fn.Name.Name)
					}
					return true
				})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"anchor.go moveAnchor"}; !slices.Equal(places, want) {
		t.Errorf("SetAnchor is called in %v, want %v", places, want)
	}
}
