package backup

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

var theShare = bytes.Repeat([]byte{1, 2, 3, 4}, 8)

// setUpJob is the job on a token as it lies in the reader now.
func setUpJob(token *softtoken.Token, cat *store.Catalog, slots int, trust Trust) (*SetUpJob, error) {
	share, err := dkek.ShareFromBytes(bytes.Clone(theShare))
	if err != nil {
		return nil, err
	}
	w, s, err := at(token, cat, share)
	w.Trust = trust
	return &SetUpJob{Work: w, Person: s, Label: "ssh", Domains: slots}, err
}

// A set-up is cut off before each command and between each command and its
// answer, on tokens with one recovery key and with slots, with chip
// authentication and without. Running it again finishes, without a try of the
// SO-PIN lost.
func TestSetUpPulledAtEveryCommand(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	stages := map[SetUpStage]int{}
	for _, noChip := range []bool{false, true} {
		for _, slots := range []int{0, 2} {
			what := fmt.Sprintf("set-up, chip authentication %v, %d slots", !noChip, slots)
			everyPoint(t, what, func(t testing.TB) (*softtoken.Token, func() error, func(string, error)) {
				cat := newCatalog(t)
				token, _ := newToken(t, "3.6", "SOFT0200001")
				if noChip {
					token = withoutChip(t)
				}
				trust := trusting(token)
				share, err := dkek.ShareFromBytes(bytes.Clone(theShare))
				if err != nil {
					t.Fatal(err)
				}
				want := setUpFor(trust, share, slots)
				want.Initialisation.Options = schsm.OptionUnblock
				var j *SetUpJob
				job := func() (err error) {
					if j, err = setUpJob(token, cat, slots, trust); err == nil {
						_, err = j.Run(ctx)
					}
					return err
				}
				return token, job, func(where string, err error) {
					inv, takeErr := Take(ctx, openCard(t, token))
					if takeErr != nil {
						t.Fatal(takeErr)
					}
					note, noteErr := FindSetUp(cat, inv.Serial)
					if noteErr != nil {
						t.Fatal(noteErr)
					}
					stage := SetUpStageOf(inv, note)
					stages[stage]++
					if inv.Initialised && stage != InUse && fail.ClassOf(err) != fail.Changed && !j.Changed && !schsm.InDoubt(err) {
						t.Errorf("%s: initialised, but said that nothing was changed: %v", where, err)
					}
					token.Reset()
					if err := job(); err != nil && stage != InUse {
						t.Fatalf("%s, after %v: %v", where, stages, err)
					}
					if inv, err = Take(ctx, openCard(t, token)); err != nil {
						t.Fatal(err)
					}
					if wrong := want.CheckSetUp(inv); len(wrong) > 0 || inv.SOPIN.Tries != 15 || inv.PIN.Tries >= 0 && inv.PIN.Tries != 3 {
						t.Fatalf("%s: %q, %+v %+v", where, wrong, inv.PIN, inv.SOPIN)
					}
					if seen := read(t, cat).Shares; len(seen) != 1 {
						t.Fatalf("%s: shares seen: %v", where, seen)
					}
				}
			})
		}
	}
	for _, stage := range []SetUpStage{ToInitialise, ToLoad, ToCheck} {
		if stages[stage] == 0 {
			t.Errorf("no interrupt left stage %d: the test does not reach what it is for", stage)
		}
	}
	t.Logf("left to initialise %d, to load %d, to check %d", stages[ToInitialise], stages[ToLoad], stages[ToCheck])
}

// What a token still needs is read off the token. One that is in use is left
// alone, whatever a note says.
func TestSetUpStage(t *testing.T) {
	ctx := context.Background()
	share := newShare(t, 1)
	note := &SetUpNote{KCV: func() string {
		key, err := dkek.Combine(share)
		if err != nil {
			t.Fatal(err)
		}
		return key.KCV().String()
	}()}
	stage := func(card *schsm.Card, note *SetUpNote) SetUpStage {
		t.Helper()
		inv, err := Take(ctx, card)
		if err != nil {
			t.Fatal(err)
		}
		return SetUpStageOf(inv, note)
	}
	_, card := newToken(t, "3.6", "SOFT0200001")
	if stage(card, nil) != ToInitialise || stage(card, note) != ToInitialise {
		t.Error("a fresh token")
	}
	start := func(i schsm.Initialisation) *schsm.Card {
		t.Helper()
		_, card := newToken(t, "3.6", "SOFT0200001")
		i.PIN, i.SOPIN = userPIN(), soPIN()
		if err := card.Initialise(ctx, i); err != nil {
			t.Fatal(err)
		}
		return card
	}
	card = start(schsm.Initialisation{Shares: 1})
	if stage(card, nil) != ToLoad || stage(card, note) != ToLoad {
		t.Error("one that waits for its share")
	}
	if card := start(schsm.Initialisation{Shares: 2}); stage(card, nil) != InUse {
		t.Error("one that waits for two")
	}
	if card := start(schsm.Initialisation{NoDKEK: true}); stage(card, nil) != InUse || stage(card, note) != ToInitialise {
		t.Error("one without a recovery key")
	}
	if card := start(schsm.Initialisation{Domains: 2}); stage(card, nil) != InUse || stage(card, note) != ToLoad {
		t.Error("one with empty slots")
	}
	if _, err := LoadShares(ctx, card, 0, []*dkek.Share{share}, dkek.KCV{}); err != nil {
		t.Fatal(err)
	}
	if stage(card, nil) != InUse || stage(card, note) != ToCheck {
		t.Error("one that is ready")
	}
	if stage(card, &SetUpNote{KCV: "0011223344556677"}) != ToInitialise {
		t.Error("an empty one with another recovery key")
	}
	generate(t, card, 1, "P-256", "one", []byte{1})
	if stage(card, nil) != InUse || stage(card, &SetUpNote{KCV: "0011223344556677"}) != InUse {
		t.Error("one with a key")
	}
}

// Whatever is not as it was meant is named.
func TestCheckSetUp(t *testing.T) {
	share := newShare(t, 1)
	_, card := newToken(t, "3.6", "SOFT0200001")
	good := SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PIN: userPIN(), SOPIN: soPIN(), Label: "ssh"},
		Sets:           []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true},
	}
	take := func() *Inventory {
		t.Helper()
		inv, err := Take(context.Background(), card)
		if err != nil {
			t.Fatal(err)
		}
		return inv
	}
	if wrong := good.CheckSetUp(take()); !slices.Equal(wrong, []string{"it is not initialised"}) {
		t.Errorf("%q", wrong)
	}
	if _, _, err := Initialise(context.Background(), card, nil, good); err != nil {
		t.Fatal(err)
	}
	inv := take()
	if wrong := good.CheckSetUp(inv); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	for want, change := range map[string]func(*SetUp){
		"options are 0001, not 0000": func(s *SetUp) { s.Initialisation.Options = 0 },
		`label is "ssh", not "vpn"`:  func(s *SetUp) { s.Initialisation.Label = "vpn" },
		"1 key domains, not 2":       func(s *SetUp) { s.Initialisation.Domains = 2 },
		"recovery key is ":           func(s *SetUp) { s.Sets = []DomainSet{{Shares: 1, Load: []*dkek.Share{newShare(t, 9)}}} },
		"key domain 1 is empty":      func(s *SetUp) { s.Sets = []DomainSet{{Number: 1, Shares: 1, Load: []*dkek.Share{share}}} },
	} {
		s := good
		change(&s)
		if wrong := strings.Join(s.CheckSetUp(inv), "; "); !strings.Contains(wrong, want) {
			t.Errorf("%q lacks %q", wrong, want)
		}
	}
	waiting := *inv
	waiting.Domains = slices.Clone(inv.Domains)
	waiting.Domains[0].Outstanding = 1
	if wrong := strings.Join(good.CheckSetUp(&waiting), "; "); !strings.Contains(wrong, "1 shares of its recovery key are missing") {
		t.Errorf("%q", wrong)
	}
	blocked := *inv
	blocked.PIN.Blocked = true
	if wrong := strings.Join(good.CheckSetUp(&blocked), "; "); !strings.Contains(wrong, "PIN cannot be used") {
		t.Errorf("%q", wrong)
	}
}

func TestDefaultPINs(t *testing.T) {
	for _, pin := range []string{"648219", "123456", "12345678"} {
		if !IsDefaultPIN([]byte(pin)) {
			t.Errorf("%s is not known", pin)
		}
	}
	for _, so := range []string{"3537363231383830", "0123456789ABCDEF"} {
		if !IsDefaultSOPIN([]byte(so)) {
			t.Errorf("%s is not known", so)
		}
	}
	if IsDefaultPIN([]byte("771904")) || IsDefaultPIN(nil) || IsDefaultSOPIN([]byte("8237465901283746")) {
		t.Error("taken for a default")
	}
}
