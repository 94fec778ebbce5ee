package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

func userPIN() *secret.Bytes { return secret.New([]byte("648219")) }
func soPIN() *secret.Bytes   { return secret.New([]byte("57621880")) }

// newToken makes a software token in memory and opens it.
func newToken(t testing.TB, firmware, serial string) (*softtoken.Token, *schsm.Card) {
	t.Helper()
	token := fresh(t, softtoken.Options{Firmware: firmware, Serial: serial})
	return token, openCard(t, token)
}

// blanks are tokens that were never used, by their options. Signing the
// certificates of one takes longer than most of what is done with it.
var blanks sync.Map

// fresh gives a token that was never used. Those of the same options have the
// same device key.
func fresh(t testing.TB, o softtoken.Options) *softtoken.Token {
	t.Helper()
	if found, ok := blanks.Load(o); ok {
		return found.(*softtoken.Token).Clone()
	}
	token, err := softtoken.New(o)
	if err != nil {
		t.Fatal(err)
	}
	found, _ := blanks.LoadOrStore(o, token)
	return found.(*softtoken.Token).Clone()
}

// scene is what a job begins with: a catalog, and tokens that are logged in. It
// is made once; each interrupt gets a copy.
type scene struct {
	once    sync.Once
	catalog []byte
	machine []byte // what the computer keeps, if anything
	tokens  []*softtoken.Token
}

// play gives a copy of the scene that build makes.
func (s *scene) play(t testing.TB, build func() (*store.Catalog, []*softtoken.Token)) (*store.Catalog, []*softtoken.Token) {
	t.Helper()
	s.once.Do(func() {
		cat, tokens := build()
		if err := cat.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(cat.Path())
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range tokens {
			s.tokens = append(s.tokens, token.Clone())
		}
		s.catalog = b
		if s.machine, err = os.ReadFile(machineBeside(cat.Path())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
	path := filepath.Join(scratch(t), "c.db")
	if err := os.WriteFile(path, s.catalog, 0o600); err != nil {
		t.Fatal(err)
	}
	if s.machine != nil {
		if err := os.WriteFile(machineBeside(path), s.machine, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cat, err := store.Open(path, true, store.OnMachine(store.MachineAt(machineBeside(path))))
	if err != nil {
		t.Fatal(err)
	}
	var tokens []*softtoken.Token
	for _, token := range s.tokens {
		tokens = append(tokens, token.Clone())
	}
	return wholeInTheEnd(t, cat), tokens
}

// oneKey is a token with one key, logged in, and a catalog that knows of its
// DKEK.
func oneKey(t testing.TB) (*softtoken.Token, *schsm.Card, *store.Catalog) {
	t.Helper()
	cat, tokens := oneKeyScene.play(t, func() (*store.Catalog, []*softtoken.Token) {
		cat := createCatalog(t)
		token, card := newToken(t, "3.5", "SOFT0200001")
		initToken(t, card, cat, newShare(t, 1))
		generate(t, card, 1, "P-256", "one", []byte{1})
		return cat, []*softtoken.Token{token}
	})
	return tokens[0], login(t, tokens[0]), cat
}

var oneKeyScene scene

func openCard(t testing.TB, token *softtoken.Token) *schsm.Card {
	t.Helper()
	return openWay(t, token)
}

// openWay opens a token over any way; its pauses take no time.
func openWay(t testing.TB, way apdu.Transmitter) *schsm.Card {
	t.Helper()
	card, err := schsm.Open(context.Background(), way)
	if err != nil {
		t.Fatal(err)
	}
	card.SetSleep(func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
	return card
}

func newShare(t testing.TB, fill byte) *dkek.Share {
	t.Helper()
	b := make([]byte, 32)
	for i := range b {
		b[i] = fill + byte(i)
	}
	s, err := dkek.ShareFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// initToken initialises a token with one share and logs in.
func initToken(t testing.TB, card *schsm.Card, cat *store.Catalog, share *dkek.Share) dkek.KCV {
	t.Helper()
	kcvs, _, err := Initialise(context.Background(), card, cat, SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PIN: userPIN(), SOPIN: soPIN(), Label: "ssh"},
		Sets:           []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}, Origin: "init", MinSOTries: DefaultSOFloor,
	})
	if err != nil {
		t.Fatal(err)
	}
	return kcvs[0]
}

// initialised gives a token that is logged in, the share that it was set up with
// and the catalog that knows of it.
func initialised(t testing.TB) (*store.Catalog, *dkek.Share, *schsm.Card) {
	t.Helper()
	cat, share := newCatalog(t), newShare(t, 1)
	_, card := newToken(t, "3.5", "SOFT0200001")
	initToken(t, card, cat, share)
	return cat, share, card
}

// generate makes a key the way OpenSC does: key, then description.
func generate(t testing.TB, card *schsm.Card, reference byte, typ, label string, id []byte) {
	t.Helper()
	ctx := context.Background()
	spec := cvc.KeySpec{CAR: "UTCA00001", CHR: card.Serial() + "00001"}
	d := pkcs15.KeyDescription{Label: label, ID: id, Reference: int(reference)}
	if c := curve.ByName(typ); c != nil {
		spec.Curve, d.Kind, d.Bits = c, pkcs15.EC, c.Bits
	} else {
		var bits int
		if _, err := fmt.Sscanf(typ, "RSA-%d", &bits); err != nil {
			t.Fatal(err)
		}
		spec.RSABits, spec.RSAExponent, d.Kind, d.Bits = bits, 65537, pkcs15.RSA, bits
	}
	d.Usage = pkcs15.DefaultUsage(d.Kind)
	if _, err := card.Generate(ctx, reference, spec); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(reference), d.Encode()); err != nil {
		t.Fatal(err)
	}
}

func kcvOfShare(t testing.TB, share *dkek.Share) store.KCV {
	t.Helper()
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	return key.KCV().String()
}

// machineBeside is where the computer of a test keeps what it knows.
func machineBeside(catalog string) string {
	return filepath.Join(filepath.Dir(catalog), "recipients.json")
}

// createCatalog makes one that the test may close or spoil.
func createCatalog(t testing.TB) *store.Catalog {
	t.Helper()
	path := filepath.Join(scratch(t), "c.db")
	cat, err := store.Create(path, store.OnMachine(store.MachineAt(machineBeside(path))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cat.Close() })
	return cat
}

// scratch is a folder in memory where the system has a place for that: there a
// sync costs nothing, and tests with hundreds of catalogs spend their time on
// nothing else.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "hsmbackup-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newCatalog makes one that must be whole when the test ends.
func newCatalog(t testing.TB) *store.Catalog {
	t.Helper()
	return wholeInTheEnd(t, createCatalog(t))
}

func wholeInTheEnd(t testing.TB, cat *store.Catalog) *store.Catalog {
	t.Helper()
	t.Cleanup(func() {
		findings, err := cat.Verify()
		if err == nil && len(findings) > 0 {
			t.Errorf("the catalog is damaged: %v", findings)
		}
		_ = cat.Close()
	})
	return cat
}

// restoreAll plans and restores a snapshot.
func restoreAll(t testing.TB, card *schsm.Card, cat *store.Catalog, s *store.Snapshot) *RestoreReport {
	t.Helper()
	ctx := context.Background()
	o := RestoreOptions{Journal: cat.Journal()}
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

// toNextPoint is how far it is to the next command at which a job is pulled:
// every one; with -short, for the race detector, one in seven.
func toNextPoint() int {
	if testing.Short() {
		return 7
	}
	return 1
}

// read gives what a catalog says.
func read(t testing.TB, cat *store.Catalog) *store.State {
	t.Helper()
	s, err := cat.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// holdsAnything tells whether a wipe would lose something.
func (inv *Inventory) holdsAnything() bool {
	return len(inv.Keys) > 0 || len(inv.Files) > 0 || len(inv.Unread) > 0
}
