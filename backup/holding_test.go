package backup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// held is a token with a key and a protected object that nobody is logged in to,
// set up with these options.
func held(t testing.TB, options schsm.Options) (*softtoken.Token, *store.Catalog, *dkek.Share) {
	t.Helper()
	cat := newCatalog(t)
	token, card := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	if _, _, err := Initialise(context.Background(), card, cat, SetUp{
		Initialisation: schsm.Initialisation{Options: options, PIN: userPIN(), SOPIN: soPIN()},
		Sets:           []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}, Origin: "init"}); err != nil {
		t.Fatal(err)
	}
	generate(t, card, 1, "P-256", "one", []byte{1})
	aesKey(t, card, 2, "disk")
	if err := card.WriteFile(context.Background(), 0xCD01, []byte("the safe's combination")); err != nil {
		t.Fatal(err)
	}
	mustRun(t, card, cat)
	return token, cat, share
}

// again sets such a token up anew.
func again(share *dkek.Share, h Holding) SetUp {
	return SetUp{Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PIN: userPIN(), SOPIN: soPIN()},
		Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}, Origin: "init", Holding: h}
}

// Without the PIN nothing is wiped; where nobody knows it the SO-PIN sets the new
// one, the keys answer, and one that was made anew is found out.
func TestWipeWithoutPIN(t *testing.T) {
	ctx := context.Background()
	token, cat, share := held(t, schsm.OptionUnblock)
	_, _, err := Initialise(ctx, login0(t, token), cat, again(share, Holding{}))
	refusedWith(t, "not logged in", "token-pin", err)

	card := login(t, token)
	anew(t, card, 2, "disk")
	_, _, err = Initialise(ctx, login0(t, token), cat, again(share, Holding{PINUnknown: true}))
	refusedWith(t, "a key that was made anew", "not-covered", err)
	mustRun(t, login(t, token), cat)
	card = login0(t, token)
	if _, _, err := Initialise(ctx, card, cat, again(share, Holding{PINUnknown: true})); err != nil {
		t.Fatal(err)
	}
	if inv, err := Take(ctx, card); err != nil || inv.holdsAnything() || inv.SOPIN.Tries != 15 {
		t.Errorf("%+v, %v", inv, err)
	}
}

// Only where the SO-PIN cannot make a token answer is it wiped unasked, and then a
// person types each key and object; never one with another public half.
func TestWipeUnasked(t *testing.T) {
	ctx := context.Background()
	for _, options := range []schsm.Options{0, schsm.OptionUnblock | schsm.OptionUnblockOnly} {
		token, cat, share := held(t, options)
		_, _, err := Initialise(ctx, login0(t, token), cat, again(share, Holding{PINUnknown: true}))
		refusedWith(t, "nobody to type", "unasked", err)

		var typed []string
		no := errors.New("no")
		h := Holding{PINUnknown: true, Consent: Consent{TypeBack: func(_ context.Context, _, word string) error {
			typed = append(typed, word)
			return no
		}}}
		if _, _, err := Initialise(ctx, login0(t, token), cat, again(share, h)); !errors.Is(err, no) {
			t.Errorf("%v", err)
		}
		card := login(t, token)
		generate(t, card, 3, "P-256", "three", []byte{3})
		_, _, err = Initialise(ctx, login0(t, token), cat, again(share, h))
		refusedWith(t, "a key that is in no snapshot", "not-covered", err)
		mustRun(t, login(t, token), cat)
		typed, no = nil, nil
		if _, _, err := Initialise(ctx, login0(t, token), cat, again(share, h)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(typed, []string{"one", "disk", "three", "CD01"}) {
			t.Errorf("typed: %q", typed)
		}
	}
}

// A key with a use counter is not used for a wipe: its label is typed.
func TestWipeOfCountedKey(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	counter := uint32(5)
	spec := cvc.KeySpec{CAR: "UTCA00001", CHR: "SOFT020000100001", Curve: coverageOf(t, card, nil)[0].Key.Public.Curve, Counter: &counter}
	if _, err := card.Generate(ctx, 2, spec); err != nil {
		t.Fatal(err)
	}
	mustRun(t, card, cat)
	err := guardWipe(t, card, cat, share)
	refusedWith(t, "nobody types", "not-covered", err)
	if err == nil || !strings.Contains(err.Error(), "key 2: unasked") {
		t.Errorf("%v", err)
	}
	// Asked with leave, it says what that cost.
	r, err := Run(ctx, card, cat, Options{SpendUse: func(Key) bool { return true }})
	if err != nil || !r.Complete() || len(r.Spent) != 1 || r.Spent[0].Before != 5 || r.Spent[0].After != 4 {
		t.Errorf("%+v, %v", r.Spent, err)
	}
	// Taken note of, it is done; and still not wiped without a word.
	mustRun(t, card, cat)
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(inv, cat, "2", "nobody may use it up"); err != nil {
		t.Fatal(err)
	}
	if r := mustRun(t, card, cat); !r.Complete() || r.Keys[1].Coverage != Accepted {
		t.Errorf("%+v", r.Keys)
	}
	refusedWith(t, "accepted, and nobody types", "not-covered", guardWipe(t, card, cat, share))
	var typed []string
	h := Holding{Consent: Consent{TypeBack: func(_ context.Context, _, word string) error {
		typed = append(typed, word)
		return nil
	}}}
	if _, _, err := Initialise(ctx, card, cat, again(share, h)); err != nil || !slices.Equal(typed, []string{"key 2"}) {
		t.Errorf("typed %q, %v", typed, err)
	}
}
