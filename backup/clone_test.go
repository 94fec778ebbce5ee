package backup

import (
	"context"
	"errors"
	"slices"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
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

func TestClone(t *testing.T) {
	ctx := context.Background()
	cat, _, _, a, b := pair(t)
	o := CloneOptions{Restore: RestoreOptions{Journal: cat.Journal(), Catalog: cat}}
	agreed := 0
	o.Agree = func(p *Plan) error { agreed++; return nil }
	r, err := Clone(ctx, a, b, cat, o)
	if err != nil || !r.Complete() || agreed != 1 {
		t.Fatalf("%+v, asked %d times, %v", r, agreed, err)
	}
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
		t.Errorf("%v, %v", on("SOFT0200001", inv.Keys[0]), err)
	}
	// No is no.
	generate(t, a, 3, "P-256", "three", []byte{3})
	declined := errors.New("no")
	o.Agree = func(*Plan) error { return declined }
	if _, err := Clone(ctx, a, b, cat, o); !errors.Is(err, declined) {
		t.Errorf("%v", err)
	}
	if n := len(coverageOf(t, b, cat)); n != 2 {
		t.Errorf("and yet %d keys", n)
	}

	// Another recovery key, none, half of one, the same token.
	for name, set := range map[string]SetUp{
		"another": {Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{newShare(t, 9)}}}},
		"none":    {Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), NoDKEK: true}},
		"half":    {Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN()}, Sets: []DomainSet{{Shares: 2, Load: []*dkek.Share{newShare(t, 1)}}}},
	} {
		_, c := newToken(t, "3.6", "SOFT0400002")
		set.Trust.SoftFile = true
		if _, _, err := Initialise(ctx, c, nil, set); err != nil {
			t.Fatal(err)
		}
		before := read(t, cat).Head
		var job *Error
		if _, err := Clone(ctx, a, c, cat, o); !errors.As(err, &job) || job.Class != Refused || job.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
		if after := read(t, cat).Head; after.Seq != before.Seq {
			t.Errorf("%s: something was done before it was refused (%v)", name, err)
		}
	}
	if _, err := Clone(ctx, a, a, cat, o); ClassOf(err) != Refused {
		t.Errorf("onto itself: %v", err)
	}
	_, fresh := newToken(t, "3.6", "SOFT0400003")
	if _, err := Clone(ctx, a, fresh, cat, o); err == nil {
		t.Error("onto a token that is not initialised")
	}
}

// Either token vanishes at each command; the next run finishes, and leaves no
// copy behind on either.
func TestClonePulledAtEveryCommand(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	points := 0
	for _, which := range []string{"first", "second"} {
		for _, stage := range []softtoken.Stage{softtoken.Before, softtoken.After} {
			for n := 1; ; n += toNextPoint() {
				cat, first, second, a, b := pair(t)
				o := CloneOptions{Restore: RestoreOptions{Journal: cat.Journal(), Catalog: cat}}
				token := first
				if which == "second" {
					token = second
				}
				pulled := pull(token, stage, n)
				_, err := Clone(ctx, a, b, cat, o)
				if !*pulled {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
				points++
				if !errors.Is(err, apdu.ErrGone) {
					t.Fatalf("%s, stage %d, command %d: %v", which, stage, n, err)
				}
				a, b = login(t, first), login(t, second)
				r, err := Clone(ctx, a, b, cat, o)
				if err != nil || !r.Complete() {
					t.Fatalf("%s, stage %d, command %d: the next run: %v", which, stage, n, err)
				}
				if len(coverageOf(t, b, cat)) != 2 || undescribed(t, a) != 0 || undescribed(t, b) != 0 {
					t.Fatalf("%s, stage %d, command %d: something is left over", which, stage, n)
				}
			}
		}
	}
	t.Logf("%d points", points)
}
