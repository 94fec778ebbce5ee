package cli

import (
	"context"
	"os"
	"time"

	"hsmbackup/backup"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	from "hsmbackup/internal/source"
)

// App is one run of the program: its console, what the flags said, and what has
// to be known when it ends.
type App struct {
	*console.Console
	Secrets *from.Reader

	lookupEnv func(string) (string, bool)
	Now       func() time.Time
	// OpenCard begins to talk to a token; BeforeWrite is called before a catalog or
	// a journal changes; ReadOnly: the catalog cannot be written. Tests put their
	// faults there.
	OpenCard    func(context.Context, apdu.Transmitter) (*schsm.Card, error)
	BeforeWrite func()
	ReadOnly    bool
	// OSRelease is the file that tells Linux within Windows.
	OSRelease string
	// Roots are those that a token's certificate must lead to before it gets a
	// share; nil is the vendor's, and only a test has others.
	Roots []cvc.Root

	Flags SharedFlags
	// AskedWithin is how long ago an unasked key may have answered.
	AskedWithin time.Duration
	// Gathered is what --share brought, once it was looked at.
	Gathered *custody.Material
	// Changed: a token or the catalog is not as it was before.
	Changed bool
	// damaged says what of the catalog does not check out; nil if all does.
	damaged error
	// Confirmed: --confirm has answered a question.
	Confirmed bool
	// SOPIN is the SO-PIN that this run sends.
	SOPIN *sending
	// TestOnlyStep is called before each step of a set-up.
	TestOnlyStep func(name string)
	// Helpless is why there is no help for what --help was asked for.
	Helpless error
}

// New is a run with the program's own console and clock.
func New() *App {
	c := console.New(explain)
	return &App{Console: c, Secrets: from.NewReader(c),
		lookupEnv: os.LookupEnv, Now: time.Now, OpenCard: schsm.Open, OSRelease: "/proc/sys/kernel/osrelease"}
}

// Finish gives the exit code of a command line that was carried out, after what is
// left to be said and forgotten.
func (a *App) Finish(ctx context.Context, err error, args []string) int {
	defer a.Secrets.Wipe()
	defer func() { a.Gathered.Wipe() }()
	if err == nil {
		err = a.Helpless
	}
	a.Sent(a.SOPIN, err)
	if a.damaged != nil {
		err = console.AmidDamage(err, a.damaged, damagedHint)
	}
	return a.End(ctx, err, a.Changed || schsm.InDoubt(err), args)
}

// Confirm has the token's serial typed, of a token without one its reader's
// name, or compares --confirm with it. what says what is about to happen.
func (a *App) Confirm(ctx context.Context, t *Token, what string) error {
	word, _ := t.word()
	if a.Flags.Confirm == "" {
		return a.typeSerial(ctx, t, what)
	}
	if a.Flags.Confirm != word && !backup.SameSerial(a.Flags.Confirm, t.Serial) {
		return console.Refusef("confirm-mismatch", "", "--confirm %s is another token than %s, nothing was changed", a.Flags.Confirm, word)
	}
	a.Confirmed = true
	return nil
}

// typeSerial is confirm at the terminal, whatever --confirm says.
func (a *App) typeSerial(ctx context.Context, t *Token, what string) error {
	word, kind := t.word()
	return a.TypeSerial(ctx, what, kind, word)
}

func (a *App) ReadSecret(ctx context.Context, s from.Source, what string, twice bool) (*secret.Bytes, error) {
	return a.Secrets.Read(ctx, s, what, twice, nil)
}

// SharedFlags are the flags that mean the same for every verb.
type SharedFlags struct {
	Catalog string
	Token   string
	Shares  []string
	// identities are files that open what is sealed with age.
	Identities []string
	Confirm    string
	Untrusted  string
	Who        string
	Yes, JSON  bool
	PIN        SourceFlag
	SOPIN      SourceFlag
	TokenPIN   SourceFlag
	// Checked is the KCV of shares that were checked on another computer.
	Checked string
	// spend names keys of which a proof may spend a use.
	Spend    []string
	Password SourceFlag

	ShareArgs []custody.Given // shares, parsed
}

// SourceFlag is a flag that says where a secret is read.
type SourceFlag struct {
	Text string
	from.Source
}
