package backup

import (
	"context"
	"errors"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// inTheWay is a token with another key at reference 1 than the snapshot has
// there; covered tells whether the other one is backed up.
func inTheWay(t testing.TB, cat *store.Catalog, covered bool) (*softtoken.Token, *schsm.Card) {
	t.Helper()
	token, card := newToken(t, "3.6", "SOFT0400001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-384", "in the way", []byte{7})
	if covered {
		if r, err := Run(context.Background(), card, cat, Options{}); err != nil || !r.Complete() {
			t.Fatalf("%v", err)
		}
	}
	return token, card
}

func TestReplace(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	replace := RestoreOptions{Replace: []byte{1}, Journal: cat.Journal(), Catalog: cat, Replacing: Replacing{SharesChecked: kcvOfShare(t, newShare(t, 1))}}

	// What no backup covers is not replaced, and stays.
	_, card := inTheWay(t, cat, false)
	old := coverageOf(t, card, cat)[0].Key
	p, err := MakePlan(ctx, card, s, replace)
	if err != nil || p.Items[0].Action != Conflict || !strings.Contains(p.Items[0].Reason, "backup` first") {
		t.Fatalf("%+v, %v", p.Items[0], err)
	}
	if r, err := Restore(ctx, card, cat, p, replace); err != nil || r.Keys[0].OK || !r.Keys[1].OK {
		t.Errorf("%+v, %v", r.Keys, err)
	}
	if k := coverageOf(t, card, cat)[0].Key; !k.Public.Equal(old.Public) {
		t.Error("the key in the way is gone, and no backup has it")
	}

	// Nor is anything replaced that was not named.
	_, card = inTheWay(t, cat, true)
	if p, err = MakePlan(ctx, card, s, RestoreOptions{Journal: cat.Journal(), Catalog: cat, Replacing: Replacing{SharesChecked: kcvOfShare(t, newShare(t, 1))}}); err != nil || p.Items[0].Action != Conflict {
		t.Fatalf("%+v, %v", p.Items[0], err)
	}

	// Covered and named.
	if p, err = MakePlan(ctx, card, s, replace); err != nil || p.Items[0].Action != WouldReplace || !p.Fits() {
		t.Fatalf("%+v, %v", p.Items[0], err)
	}
	r, err := Restore(ctx, card, cat, p, replace)
	if err != nil || !r.Complete() {
		t.Fatalf("%+v, %v", r.Keys, err)
	}
	after := coverageOf(t, card, cat)
	if len(after) != 2 || after[0].Key.Label != s.Keys[0].Label || undescribed(t, card) != 0 {
		t.Errorf("%+v", after)
	}
	if p, err = MakePlan(ctx, card, s, replace); err != nil || p.Items[0].Action != Same {
		t.Errorf("again: %+v, %v", p.Items[0], err)
	}
}

// A key blob that the token does not take, or that gives another key, costs
// nothing: the old one stays until the new one is proven.
func TestReplaceKeepsOldKey(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	bad := *s
	bad.Keys = append([]store.Key(nil), s.Keys...)
	other := bad.Keys[0]
	other.Blob = s.Keys[1].Blob // whole, and of another key
	spoilt := bad.Keys[0]
	spoilt.Blob = append([]byte(nil), spoilt.Blob...)
	spoilt.Blob[len(spoilt.Blob)-1] ^= 1
	for name, k := range map[string]store.Key{"another key's": other, "a spoilt one": spoilt} {
		_, card := inTheWay(t, cat, true)
		old := coverageOf(t, card, cat)[0].Key
		bad.Keys[0] = k
		o := RestoreOptions{Keys: []byte{1}, Replace: []byte{1}, Journal: cat.Journal(), Catalog: cat, Replacing: Replacing{SharesChecked: kcvOfShare(t, newShare(t, 1))}}
		p, err := MakePlan(ctx, card, &bad, o)
		if err != nil || p.Items[0].Action != WouldReplace {
			t.Fatalf("%s: %+v, %v", name, p.Items, err)
		}
		r, err := Restore(ctx, card, nil, p, o)
		if err != nil || r.Keys[0].OK || !strings.Contains(r.Keys[0].Reason, "stays") {
			t.Errorf("%s: %+v, %v", name, r.Keys, err)
		}
		keys := coverageOf(t, card, cat)
		if len(keys) != 1 || !keys[0].Key.Public.Equal(old.Public) || keys[0].Coverage != Covered {
			t.Errorf("%s: the old key is not what it was: %+v", name, keys)
		}
	}
}

// A replacement is cut off before each command and between each command and its
// answer: one of the two keys is always usable on the token, the old one until
// the new one is proven, and the next run finishes.
func TestReplacePulledAtEveryCommand(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var s *store.Snapshot
	var start scene
	points, between := 0, 0
	for _, stage := range []softtoken.Stage{softtoken.Before, softtoken.After} {
		for n := 1; ; n += toNextPoint() {
			cat, tokens := start.play(t, func() (*store.Catalog, []*softtoken.Token) {
				var cat *store.Catalog
				cat, s, _ = twoKeys(t)
				token, _ := inTheWay(t, cat, true)
				return cat, []*softtoken.Token{token}
			})
			token, card := tokens[0], login(t, tokens[0])
			o := RestoreOptions{Keys: []byte{1}, Replace: []byte{1}, Journal: cat.Journal(), Catalog: cat, Replacing: Replacing{SharesChecked: kcvOf(t, card)}}
			old := coverageOf(t, card, cat)[0].Key
			p, err := MakePlan(ctx, card, s, o)
			if err != nil {
				t.Fatal(err)
			}
			pulled := pull(token, stage, n)
			_, err = Restore(ctx, card, nil, p, o)
			if !*pulled {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			points++
			if !errors.Is(err, apdu.ErrGone) {
				t.Fatalf("stage %d, command %d: %v", stage, n, err)
			}
			card = login(t, token)
			usable := 0
			for _, k := range coverageOf(t, card, cat) {
				if k.Key.Reference == 1 && k.Key.Public != nil && k.Key.Public.Equal(old.Public) || proveRecord(ctx, card, k.Key.Reference, &s.Keys[0]) == nil {
					usable++
				}
			}
			if usable == 0 {
				t.Fatalf("stage %d, command %d: neither the old key nor the new one is there", stage, n)
			}
			if usable == 2 {
				between++
			}
			if p, err = MakePlan(ctx, card, s, o); err != nil {
				t.Fatal(err)
			}
			report, err := Restore(ctx, card, nil, p, o)
			if err != nil || !report.Keys[0].OK {
				t.Fatalf("stage %d, command %d: the next run: %v, %+v %+v", stage, n, err, report.Keys, report.Plan.Items)
			}
			keys := coverageOf(t, card, cat)
			if len(keys) != 1 || keys[0].Key.Label != s.Keys[0].Label || undescribed(t, card) != 0 {
				t.Fatalf("stage %d, command %d: %+v", stage, n, keys)
			}
			if notes, err := cat.Journal().Keys(""); err != nil || len(notes) != 0 {
				t.Fatalf("stage %d, command %d: the journal still has %v (%v)", stage, n, notes, err)
			}
		}
	}
	if between == 0 {
		t.Error("no interrupt came while both keys were there")
	}
	t.Logf("%d points, at %d of them both keys were there", points, between)
}

// What another tool left of a key is completed: without description, without
// certificate, with the certificate in the description's place, with a
// description that was cut short. sc-hsm-tool does each of these.
func TestRepairOfAnotherTool(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	k := s.Keys[0]
	for name, left := range map[string]map[schsm.FID][]byte{
		"the key alone":  {},
		"no description": {schsm.CertificateFile(1): k.Certificate},
		"no certificate": {schsm.DescriptionFile(1): k.Description},
		"the certificate in the description's place": {schsm.DescriptionFile(1): k.Certificate},
		"the certificate in both places":             {schsm.DescriptionFile(1): k.Certificate, schsm.CertificateFile(1): k.Certificate},
		"a description and a certificate cut short":  {schsm.DescriptionFile(1): k.Description[:9], schsm.CertificateFile(1): k.Certificate[:100]},
		"an empty description":                       {schsm.DescriptionFile(1): {}},
		"the key deleted, its certificate as a prkd": nil,
	} {
		_, card := newToken(t, "3.6", "SOFT0400001")
		initToken(t, card, cat, newShare(t, 1))
		if left == nil {
			left = map[schsm.FID][]byte{schsm.DescriptionFile(1): k.Certificate}
		} else if err := card.Unwrap(ctx, 1, k.Blob); err != nil {
			t.Fatal(err)
		}
		for f, content := range left {
			if err := card.WriteFile(ctx, f, content); err != nil {
				t.Fatal(err)
			}
		}
		r := restoreAll(t, card, cat, s)
		if !r.Complete() {
			t.Errorf("%s: %+v, %+v", name, r.Plan.Items[0], r.Keys[0])
		}
		mustRun(t, card, cat)
		if after := coverageOf(t, card, cat); len(after) != 2 || after[0].Coverage != Covered {
			t.Errorf("%s: %+v", name, after)
		}
	}

	// What only looks like it is another key's, and stays.
	_, card := newToken(t, "3.6", "SOFT0400001")
	initToken(t, card, cat, newShare(t, 1))
	generate(t, card, 1, "P-256", "somebody's", []byte{9})
	if err := card.DeleteFile(ctx, schsm.DescriptionFile(1)); err != nil {
		t.Fatal(err)
	}
	if err := card.DeleteFile(ctx, schsm.CertificateFile(1)); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(1), k.Certificate); err != nil {
		t.Fatal(err)
	}
	if r := restoreAll(t, card, cat, s); r.Keys[0].OK {
		t.Error("another key was taken for it")
	}
	if fids, err := card.Enumerate(ctx); err != nil || !strings.Contains(strings.ToUpper(strings.Join(names(fids), " ")), "CC01") {
		t.Errorf("and was deleted: %v, %v", fids, err)
	}
}

func names(fids []schsm.FID) []string {
	var list []string
	for _, f := range fids {
		list = append(list, f.String())
	}
	return list
}
