package backup

import (
	"context"
	"errors"
	"slices"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// pair is a token with keys and a second one with the same recovery key.
func pair(t testing.TB) (cat *store.Catalog, first, second *softtoken.Token, a, b *schsm.Card) {
	t.Helper()
	cat, tokens := pairScene.play(t, func() (*store.Catalog, []*softtoken.Token) {
		cat := createCatalog(t)
		first, a := newToken(t, "3.5", "SOFT0200001")
		initToken(t, a, cat, newShare(t, 1))
		generate(t, a, 1, "P-256", "one", []byte{1})
		generate(t, a, 7, "P-384", "seven", []byte{7})
		second, b := newToken(t, "3.6", "SOFT0400001")
		initToken(t, b, cat, newShare(t, 1))
		return cat, []*softtoken.Token{first, second}
	})
	return cat, tokens[0], tokens[1], login(t, tokens[0]), login(t, tokens[1])
}

var pairScene scene

// cloneJob is the job on the tokens as they lie in the readers now.
func cloneJob(first, second *softtoken.Token, cat *store.Catalog) (*CloneJob, *scripted, error) {
	from, _, err := at(first, cat)
	if err != nil {
		return nil, nil, err
	}
	to, s, err := at(second, nil)
	return &CloneJob{From: from, To: to}, s, err
}

func TestClone(t *testing.T) {
	ctx := context.Background()
	cat, first, second, _, _ := pair(t)
	clone := func(first, second *softtoken.Token, no error) (*CloneReport, *scripted, error) {
		t.Helper()
		first.Reset()
		second.Reset()
		j, s, err := cloneJob(first, second, cat)
		if err != nil {
			t.Fatal(err)
		}
		s.no = no
		r, err := j.Run(ctx)
		return r, s, err
	}
	r, s, err := clone(first, second, nil)
	if err != nil || !r.Complete() || len(r.Left) > 0 || len(s.asked) != 1 || s.asked[0].What == "" {
		t.Fatalf("%+v, asked %v, %v", r, s.asked, err)
	}
	a, b := login(t, first), login(t, second)
	x, y := coverageOf(t, a, cat), coverageOf(t, b, cat)
	if len(x) != 2 || len(y) != 2 || !x[0].Key.Public.Equal(y[0].Key.Public) || y[0].Coverage != Covered {
		t.Errorf("%+v, %+v", x, y)
	}
	// Which key is where shows with one of the two attached, too.
	inv, err := Take(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	on := Holders(read(t, cat), []*Inventory{inv})
	if !slices.Equal(on("SOFT0200001", inv.Keys[0]), []string{"SOFT0400001"}) {
		t.Errorf("%v", on("SOFT0200001", inv.Keys[0]))
	}
	// No is no.
	generate(t, a, 3, "P-256", "three", []byte{3})
	declined := errors.New("no")
	if _, _, err := clone(first, second, declined); !errors.Is(err, declined) {
		t.Errorf("%v", err)
	}
	if n := len(coverageOf(t, login(t, second), cat)); n != 2 {
		t.Errorf("and yet %d keys", n)
	}

	// Another recovery key, none, half of one, the same token.
	for name, set := range map[string]SetUp{
		"another": {Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{newShare(t, 9)}}}},
		"none":    {Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), NoDKEK: true}},
		"half":    {Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 2, Load: []*dkek.Share{newShare(t, 1)}}}},
	} {
		other, c := newToken(t, "3.6", "SOFT0400002")
		set.Trust.SoftFile = true
		if _, _, err := Initialise(ctx, c, nil, set); err != nil {
			t.Fatal(err)
		}
		before := read(t, cat).Head
		var job *fail.Error
		if _, _, err := clone(first, other, nil); !errors.As(err, &job) || job.Class != fail.Refused || job.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
		if after := read(t, cat).Head; after.Seq != before.Seq {
			t.Errorf("%s: something was done before it was refused (%v)", name, err)
		}
	}
	if _, _, err := clone(first, first, nil); fail.ClassOf(err) != fail.Refused {
		t.Errorf("onto itself: %v", err)
	}
	fresh, _ := newToken(t, "3.6", "SOFT0400003")
	if _, _, err := clone(first, fresh, nil); err == nil {
		t.Error("onto a token that is not initialised")
	}
}

// Either token vanishes at each command; the next run finishes, and leaves no
// copy behind on either.
func TestClonePulledAtEveryCommand(t *testing.T) {
	t.Parallel()
	for i, which := range []string{"clone, the first token", "clone, the second token"} {
		everyPoint(t, which, func(t testing.TB) (*softtoken.Token, func() error, func(string, error)) {
			cat, first, second, _, _ := pair(t)
			first.Reset()
			second.Reset()
			var r *CloneReport
			job := func() error {
				j, _, err := cloneJob(first, second, cat)
				if err == nil {
					r, err = j.Run(context.Background())
				}
				return err
			}
			return []*softtoken.Token{first, second}[i], job, func(where string, err error) {
				if !errors.Is(err, apdu.ErrGone) {
					t.Fatalf("%s: %v", where, err)
				}
				if err := job(); err != nil || !r.Complete() {
					t.Fatalf("%s: the next run: %v", where, err)
				}
				a, b := login(t, first), login(t, second)
				if len(coverageOf(t, b, cat)) != 2 || undescribed(t, a) != 0 || undescribed(t, b) != 0 {
					t.Fatalf("%s: something is left over", where)
				}
			}
		})
	}
}
