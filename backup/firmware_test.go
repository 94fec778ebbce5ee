package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// updateJob is a run of the job on a token as it lies in the reader now: with the
// KCV typed before anything is deleted, unless o has the shares, and with the shares
// after the update.
func updateJob(token *softtoken.Token, cat *store.Catalog, share *dkek.Share, o UpdateOptions) (*UpdateJob, *scripted, error) {
	w, s, err := at(token, cat)
	if err != nil {
		return nil, nil, err
	}
	if o.NewToken == nil {
		o.NewToken = memory
	}
	list, err := Updates(cat)
	if err != nil {
		return nil, nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, nil, err
	}
	j := &UpdateJob{Work: w, Person: s, Begin: state.Predecessor(w.Card.Serial()) == "", Options: o}
	s.giveUp, s.shares = o.Discard, o.Shares
	if len(list) > 0 {
		s.shares = []*dkek.Share{share}
	} else if len(o.Shares) == 0 {
		key, err := dkek.Combine(share)
		if err != nil {
			return nil, nil, err
		}
		j.SharesChecked = key.KCV().String()
	}
	return j, s, nil
}

// updateRun is one run, and gives the phase that was reached.
func updateRun(t testing.TB, token *softtoken.Token, cat *store.Catalog, share *dkek.Share, o UpdateOptions) (UpdatePhase, error) {
	t.Helper()
	j, _, err := updateJob(token, cat, share, o)
	if err != nil {
		return "", err
	}
	r, err := j.Run(context.Background())
	if err == nil && len(r.Left) > 0 {
		t.Errorf("left: %q", r.Left)
	}
	return r.Phase, err
}

// readyForUpdate is a token with two keys, a certificate, a public and a
// protected data object, under a recovery key that was seen.
func readyForUpdate(t testing.TB) (*softtoken.Token, *schsm.Card, *store.Catalog, *dkek.Share) {
	t.Helper()
	cat, tokens := updateScene.play(t, func() (*store.Catalog, []*softtoken.Token) {
		cat := createCatalog(t)
		token, card := newToken(t, "3.5", "SOFT0200001")
		initToken(t, card, cat, newShare(t, 1))
		generate(t, card, 1, "P-256", "one", []byte{1})
		generate(t, card, 7, "P-256", "seven", []byte{7})
		for f, content := range map[schsm.FID]string{0xCA01: "a certificate", 0xC901: "notes on it", 0xCD01: "the safe's combination"} {
			if err := card.WriteFile(context.Background(), f, []byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		return cat, []*softtoken.Token{token}
	})
	return tokens[0], login(t, tokens[0]), cat, newShare(t, 1)
}

// updatedToken is that of readyForUpdate, emptied and updated, and never
// initialised since.
func updatedToken(t testing.TB) (*softtoken.Token, *store.Catalog, *dkek.Share) {
	t.Helper()
	cat, tokens := updatedScene.play(t, func() (*store.Catalog, []*softtoken.Token) {
		token, _, cat, share := readyForUpdate(t)
		if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
			t.Fatalf("%s, %v", phase, err)
		}
		if err := token.Update("3.6", "SOFT0400001"); err != nil {
			t.Fatal(err)
		}
		return cat, []*softtoken.Token{token}
	})
	return tokens[0], cat, newShare(t, 1)
}

var updateScene, updatedScene scene

func TestFirmwareUpdate(t *testing.T) {
	ctx := context.Background()
	token, card, cat, share := readyForUpdate(t)
	before, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
		t.Fatalf("%s, %v", phase, err)
	}
	if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
		t.Fatalf("again: %s, %v", phase, err)
	}
	if err := token.Update("3.6", "SOFT0400001"); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"after the update", "again"} {
		if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != "finished" {
			t.Fatalf("%s: %s, %v", when, phase, err)
		}
	}
	after, err := Take(ctx, login(t, token))
	if err != nil || !slices.Equal(before.files(), after.files()) {
		t.Fatalf("%v, were %v (%v)", after.files(), before.files(), err)
	}
	newest, err := read(t, cat).Find("SOFT0400001")
	if err != nil || newest.Token.SuccessorOf != "SOFT0200001" {
		t.Fatalf("%+v, %v", newest, err)
	}
	old := read(t, cat).Newest("SOFT0200001")
	c := CompareSuccessor(old, newest)
	if len(c.SSH) != 2 || len(c.Different) > 0 || c.NewSerial != "SOFT0400001" || c.NewFirmware != "3.6" {
		t.Errorf("%+v", c)
	}
	if now := read(t, cat).Succeeded("SOFT0200001"); now != "SOFT0400001" {
		t.Errorf("it goes on as %q", now)
	}
	if list, err := Updates(cat); err != nil || len(list) != 0 {
		t.Errorf("still under way: %+v, %v", list, err)
	}
	if keys := coverageOf(t, login(t, token), cat); !Complete(keys) {
		t.Errorf("the successor: %+v, %v", keys, err)
	}
}

// truthful compares what status says with what is on the token.
func truthful(t testing.TB, cat *store.Catalog, token *softtoken.Token, where string) {
	t.Helper()
	inv, err := Take(context.Background(), login0(t, token))
	if err != nil {
		t.Fatal(err)
	}
	list, err := Updates(cat)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range list {
		gone := 0
		for _, f := range u.Files {
			if inv.Serial == u.Serial && !slices.Contains(inv.files(), f) {
				gone++
			}
		}
		switch u.Phase {
		case UpdateEmptying:
			if u.Done(inv) != gone || u.Deleted != gone && !(u.Intent && u.Deleted == gone-1) {
				t.Errorf("%s: status says %d of %d, the journal %d, gone are %d", where, u.Done(inv), len(u.Files), u.Deleted, gone)
			}
			if want := "deletions done"; !strings.Contains(u.Standing(inv), want) {
				t.Errorf("%s: %s", where, u.Standing(inv))
			}
		case UpdateEmptied:
			if len(inv.files()) > 0 {
				t.Errorf("%s: emptied, but there is %v", where, inv.files())
			}
		case UpdateRestoring:
			if u.Successor != inv.Serial {
				t.Errorf("%s: restoring onto %s, not %s", where, u.Successor, inv.Serial)
			}
		}
	}
}

// login0 opens a token as the next run would, without a login.
func login0(t testing.TB, token *softtoken.Token) *schsm.Card {
	t.Helper()
	token.SetFault(nil)
	token.Reset()
	return openCard(t, token)
}

// The update is cut off before each command and between each command and its
// answer, in both of its halves. Status tells the truth, and the same command
// ends well.
func TestFirmwareUpdatePulledAtEveryCommand(t *testing.T) {
	t.Parallel()
	deletions := 0
	halves := []string{"firmware update, before", "firmware update, after"}
	for half, what := range halves {
		everyPoint(t, what, func(t testing.TB) (*softtoken.Token, func() error, func(string, error)) {
			token, _, cat, share := readyForUpdate(t)
			if half == 1 {
				token, cat, share = updatedToken(t)
			}
			token.Reset()
			job := func() error {
				_, err := updateRun(t, token, cat, share, UpdateOptions{})
				return err
			}
			return token, job, func(where string, err error) {
				if !errors.Is(err, apdu.ErrGone) {
					t.Fatalf("%s: %v", where, err)
				}
				truthful(t, cat, token, where)
				if list, _ := Updates(cat); half == 0 && len(list) > 0 {
					deletions++
				}
				if half == 0 {
					// The same command until the token is empty, as a person would.
					if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
						t.Fatalf("%s: the next run: %s, %v", where, phase, err)
					}
					if inv, err := Take(context.Background(), login0(t, token)); err != nil || len(inv.files()) > 0 {
						t.Fatalf("%s: not empty: %v, %v", where, inv.files(), err)
					}
					if err := token.Update("3.6", "SOFT0400001"); err != nil {
						t.Fatal(err)
					}
				}
				if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != UpdateFinished {
					t.Fatalf("%s: the last run: %s, %v", where, phase, err)
				}
				inv, err := Take(context.Background(), login0(t, token))
				if err != nil || len(inv.Keys) != 2 || len(inv.files()) != 9 {
					t.Fatalf("%s: %v, %v", where, inv.files(), err)
				}
			}
		})
	}
	if deletions == 0 {
		t.Error("no interrupt came among the deletions")
	}
	t.Logf("%d points among the deletions", deletions)
}

// What cannot be undone is not begun: nothing is deleted without proof, shares,
// a copy elsewhere, and the token that all this was about.
func TestFirmwareUpdateGuards(t *testing.T) {
	ctx := context.Background()
	deleted := func(token *softtoken.Token) *int {
		n := new(int)
		token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
			if s == softtoken.Before && c.INS == 0xE4 && !(len(c.Data) == 2 && (c.Data[0] == 0xCC && c.Data[1] == 0xFF || c.Data[0] == 0x2F)) { // but for copies of a proof
				*n++
			}
			return 0, nil
		})
		return n
	}
	refused := func(when, code string, n *int, err error) {
		t.Helper()
		var job *fail.Error
		if !errors.As(err, &job) || job.Class != fail.Refused || job.Code != code || *n > 0 {
			t.Errorf("%s: %v, %d deletions", when, err, *n)
		}
	}

	// A key that cannot leave.
	token, card, cat, share := readyForUpdate(t)
	if err := card.GenerateAES(ctx, 9, 128, []byte{0x10, 0x11}); err != nil { // without 92
		t.Fatal(err)
	}
	n := deleted(token)
	_, err := updateRun(t, token, cat, share, UpdateOptions{})
	refused("a key that cannot leave", "not-covered", n, err)
	if err == nil || !strings.Contains(err.Error(), "key 9") {
		t.Errorf("it is not named: %v", err)
	}
	asked := 0
	token.SetFault(nil)
	if phase, err := updateRun(t, token, cat, share, UpdateOptions{Discard: func(k KeyCoverage) (bool, error) {
		asked++
		return k.Key.Reference == 9, nil
	}}); err != nil || phase != UpdateEmptied || asked != 1 {
		t.Errorf("discarded: %s, asked %d times, %v", phase, asked, err)
	}
	if err := token.Update("3.6", "SOFT0400001"); err != nil {
		t.Fatal(err)
	}
	if phase, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil || phase != "finished" {
		t.Errorf("without the key that was discarded: %s, %v", phase, err)
	}

	// Nobody shows shares in this run, however lately somebody did; nothing is
	// recorded then.
	token, _, cat, share = readyForUpdate(t)
	n = deleted(token)
	j, s, err := updateJob(token, cat, share, UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, cat).Head.Seq
	j.SharesChecked = ""
	_, err = j.Run(ctx)
	refused("no shares shown", "shares-not-seen", n, err)
	j.SharesChecked = "0102030405060708"
	_, err = j.Run(ctx)
	refused("another KCV typed", "kcv-mismatch", n, err)
	s.shares = []*dkek.Share{newShare(t, 9)}
	j.SharesChecked = ""
	_, err = j.Run(ctx)
	refused("other shares", "kcv-mismatch", n, err)
	if now := read(t, cat).Head.Seq; now != before {
		t.Errorf("and yet %d entries were recorded", now-before)
	}

	// A copy beside the catalog.
	if _, _, err := CopyCatalog(cat, filepath.Dir(cat.Path())+"/elsewhere/", false); fail.ClassOf(err) != fail.Refused {
		t.Errorf("a copy on the same disk: %v", err)
	}
	if copies := read(t, cat).Copies; len(copies) > 0 {
		t.Errorf("and yet it is noted: %v, %v", copies, err)
	}
	c, _, err := CopyCatalog(cat, t.TempDir(), false) // the catalog is in memory
	if err != nil || c.SameDisk {
		t.Errorf("a copy on another one: %+v, %v", c, err)
	}
	occupied := filepath.Join(t.TempDir(), "taken")
	if err := os.WriteFile(occupied, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := CopyCatalog(cat, occupied, true); fail.ClassOf(err) != fail.Refused {
		t.Errorf("over another file: %v", err)
	}

	// The token is another one, or holds something that came since; what is about
	// to go is not what was proven; the proof is gone; the copy is damaged.
	begin := func() (*softtoken.Token, *schsm.Card, *store.Catalog, *Update, Warrant, *int) {
		token, card, cat, _ := readyForUpdate(t)
		ready, err := PrepareUpdate(ctx, card, cat, UpdateOptions{SharesChecked: kcvOf(t, card)})
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := CopyCatalog(cat, filepath.Dir(cat.Path())+"/copies/", true)
		if err != nil {
			t.Fatal(err)
		}
		u, err := BeginUpdate(cat, ready, c)
		if err != nil {
			t.Fatal(err)
		}
		return token, card, cat, u, ready.Warrant, deleted(token)
	}
	_, _, cat, u, w, _ := begin()
	other, otherCard := newToken(t, "3.5", "SOFT0200003")
	initToken(t, otherCard, nil, share)
	n = deleted(other)
	refused("another token", "wrong-token", n, EmptyToken(ctx, otherCard, cat, u, w, nil))

	// The token is exchanged between two deletions: a clone of all but its serial.
	token, _, cat, u, w, _ = begin()
	clone, cloneCard := newToken(t, "3.5", "SOFT0200004")
	initToken(t, cloneCard, nil, share)
	restoreAll(t, cloneCard, cat, mustSnapshot(t, cat, u.Snapshot))
	swap := &exchange{first: token, second: clone, after: 2}
	swapCard := openWay(t, swap)
	if err := swapCard.Login(ctx, userPIN(), false); err != nil {
		t.Fatal(err)
	}
	n = deleted(clone)
	if err := EmptyToken(ctx, swapCard, cat, u, w, nil); !errors.Is(err, schsm.ErrOtherToken) || *n > 0 || u.Deleted != 2 {
		t.Errorf("exchanged after 2 deletions: %v, %d deletions on the other, %d noted", err, *n, u.Deleted)
	}

	_, card, cat, u, w, n = begin()
	generate(t, card, 2, "P-256", "new", []byte{2})
	refused("a key that came since", "token-changed", n, EmptyToken(ctx, card, cat, u, w, nil))

	token, card, cat, u, w, _ = begin()
	token.SetFault(nil)
	if err := card.DeleteFile(ctx, schsm.DescriptionFile(1)); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(1), []byte{0x30, 0}); err != nil {
		t.Fatal(err)
	}
	n = deleted(token)
	refused("another description", "token-changed", n, EmptyToken(ctx, card, cat, u, w, nil))

	_, card, cat, u, w, n = begin()
	u.Hash[0] ^= 1
	if err := EmptyToken(ctx, card, cat, u, w, nil); fail.ClassOf(err) != fail.Damaged || *n > 0 {
		t.Errorf("another snapshot than it began with: %v, %d deletions", err, *n)
	}

	_, card, cat, u, w, n = begin()
	b, err := os.ReadFile(u.Copy)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	for i := range b[4096*4:] { // any page that matters
		b[4096*4+i] ^= 0x55
	}
	if err := os.WriteFile(u.Copy, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("the copy is damaged", "copy-damaged", n, EmptyToken(ctx, card, cat, u, w, nil))

	// Without leave no key goes, whatever the journal says.
	_, card, cat, u, _, n = begin()
	if err := EmptyToken(ctx, card, cat, u, Warrant{}, nil); !errors.Is(err, errNoWarrant) || *n > 0 {
		t.Errorf("without a warrant: %v, %d deletions", err, *n)
	}
}

// A key whose copy has no room on the token cannot be proven there today: only
// the shares, opened and drilled with, do instead.
func TestFirmwareUpdateNotProven(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	token, err := softtoken.New(softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001", Memory: 1024})
	if err != nil {
		t.Fatal(err)
	}
	card := openCard(t, token)
	share := newShare(t, 1)
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	r, err := Run(ctx, card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyOffline(ctx, cat, []*store.Snapshot{r.Snapshot}, key, Options{}); err != nil {
		t.Fatal(err)
	}
	if c := coverageOf(t, card, cat)[0]; c.Coverage != Covered {
		t.Fatalf("%+v", c)
	}
	token.Reset()
	var job *fail.Error // the offline proof is of another run
	if _, err := updateRun(t, token, cat, share, UpdateOptions{}); !errors.As(err, &job) || job.Code != "not-covered" {
		t.Errorf("%v", err)
	}
	drills := 0
	o := UpdateOptions{Shares: []*dkek.Share{share}, NewToken: func() (apdu.Transmitter, func() error, error) {
		drills++
		token, err := softtoken.New(softtoken.Options{})
		return token, token.Close, err
	}}
	if _, err := updateRun(t, token, cat, share, UpdateOptions{Shares: []*dkek.Share{newShare(t, 9)}}); fail.ClassOf(err) != fail.Refused {
		t.Errorf("shares of another recovery key: %v", err)
	}
	if phase, err := updateRun(t, token, cat, share, o); err != nil || phase != UpdateEmptied || drills != 1 {
		t.Errorf("%s, %d drills, %v", phase, drills, err)
	}
}

// exchange is a reader in which another token lies after some deletions; it tells
// of a reset as a reader would.
type exchange struct {
	first, second *softtoken.Token
	after         int
	told          bool
}

func (x *exchange) now() *softtoken.Token {
	if x.after > 0 {
		return x.first
	}
	return x.second
}

func (x *exchange) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if x.after == 0 && !x.told {
		x.told = true
		return nil, apdu.ErrReset
	}
	answer, err := x.now().Transmit(ctx, command)
	if c, parseErr := apdu.Parse(command); parseErr == nil && c.INS == 0xE4 && err == nil {
		x.after--
	}
	return answer, err
}

func (x *exchange) Begin(ctx context.Context) error { return x.now().Begin(ctx) }
func (x *exchange) End() error                      { return x.now().End() }
func (x *exchange) MaxCommand() int                 { return 0 }

func mustSnapshot(t testing.TB, cat *store.Catalog, name string) *store.Snapshot {
	t.Helper()
	s, err := read(t, cat).Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Only a token that nobody knew is taken for the successor.
func TestSuccessor(t *testing.T) {
	ctx := context.Background()
	token, _, cat, share := readyForUpdate(t)
	token.Reset()
	// Another token of the same people, which was backed up before.
	spare, spareCard := newToken(t, "3.5", "SOFT0200005")
	initToken(t, spareCard, cat, share)
	if _, err := Run(ctx, spareCard, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	inv := func(token *softtoken.Token) *Inventory {
		inv, err := Take(ctx, login0(t, token))
		if err != nil {
			t.Fatal(err)
		}
		return inv
	}
	if u, stranger, err := FindUpdate(cat, inv(spare), ""); u != nil || stranger == "" || err != nil {
		t.Errorf("a token known before: %+v, %q, %v", u, stranger, err)
	}
	stranger, strangerCard := newToken(t, "3.6", "SOFT0400009")
	u, _, err := FindUpdate(cat, inv(stranger), "")
	if err != nil || u == nil || !u.Updated(inv(stranger)) {
		t.Fatalf("a new token: %+v, %v", u, err)
	}
	initToken(t, strangerCard, nil, share)
	generate(t, strangerCard, 1, "P-256", "somebody's", []byte{1})
	if err := Succeed(cat, u, inv(stranger)); fail.ClassOf(err) != fail.Refused {
		t.Errorf("it holds keys of its own: %v", err)
	}
	if u.Phase != UpdateEmptied {
		t.Errorf("and yet: %+v", u)
	}
	// A second one that is away makes it ambiguous, unless it is named.
	second, secondCard := newToken(t, "3.5", "SOFT0200006")
	initToken(t, secondCard, cat, share)
	generate(t, secondCard, 1, "P-256", "two", []byte{2})
	second.Reset()
	if u, stranger, err := FindUpdate(cat, inv(second), ""); u != nil || stranger == "" || err != nil {
		t.Errorf("a token with keys of its own: %+v, %q, %v", u, stranger, err)
	}
	if phase, err := updateRun(t, second, cat, share, UpdateOptions{}); err != nil || phase != UpdateEmptied {
		t.Fatalf("%s, %v", phase, err)
	}
	fresh, _ := newToken(t, "3.6", "SOFT0400010")
	if _, _, err := FindUpdate(cat, inv(fresh), ""); fail.ClassOf(err) != fail.Refused {
		t.Errorf("two are away: %v", err)
	}
	if u, _, err := FindUpdate(cat, inv(fresh), "SOFT0200006"); err != nil || u.Serial != "SOFT0200006" {
		t.Errorf("named: %+v, %v", u, err)
	}
	if _, _, err := FindUpdate(cat, inv(fresh), "SOFT0200099"); err == nil {
		t.Error("a serial that nothing waits for")
	}
}

// The update did not come: everything goes back onto the emptied token, also
// when that is cut off.
func TestFirmwareUpdatePutBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var emptied scene
	everyPoint(t, "firmware update, put back", func(t testing.TB) (*softtoken.Token, func() error, func(string, error)) {
		cat, tokens := emptied.play(t, func() (*store.Catalog, []*softtoken.Token) {
			token, _, cat, share := readyForUpdate(t)
			if _, err := updateRun(t, token, cat, share, UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			return cat, []*softtoken.Token{token}
		})
		token := tokens[0]
		back := func() error {
			j, _, err := updateJob(token, cat, newShare(t, 1), UpdateOptions{})
			if err != nil {
				return err
			}
			j.Abort = true
			r, err := j.Run(ctx)
			if err == nil && (r.Phase != UpdatePutBack || len(r.Left) > 0) {
				t.Fatalf("%s: %q", r.Phase, r.Left)
			}
			return err
		}
		return token, back, func(where string, err error) {
			if !errors.Is(err, apdu.ErrGone) {
				t.Fatalf("%s: %v", where, err)
			}
			if list := read(t, cat).Updates; len(list) > 1 { // it was over before the token went
				return
			}
			if err := back(); err != nil {
				t.Fatalf("%s: the next run: %v", where, err)
			}
			inv, err := Take(ctx, login0(t, token))
			if err != nil || len(inv.files()) != 9 {
				t.Fatalf("%s: %v, %v", where, inv.files(), err)
			}
			if list, err := Updates(cat); err != nil || len(list) > 0 {
				t.Fatalf("%v, %v", list, err)
			}
		}
	})
}
