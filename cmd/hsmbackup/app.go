package main

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
	"hsmbackup/internal/terminal"
)

// app is one run of the program: its console, what the flags said, and what has
// to be known when it ends.
type app struct {
	*console.Console
	secrets *from.Reader

	tty      console.Terminal
	progress *terminal.Progress

	lookupEnv func(string) (string, bool)
	now       func() time.Time
	// openCard begins to talk to a token; beforeWrite is called before a catalog or
	// a journal changes; readOnly: the catalog cannot be written. Tests put their
	// faults there.
	openCard    func(context.Context, apdu.Transmitter) (*schsm.Card, error)
	beforeWrite func()
	readOnly    bool
	// osRelease is the file that tells Linux within Windows.
	osRelease string
	// roots are those that a token's certificate must lead to before it gets a
	// share; nil is the vendor's, and only a test has others.
	roots []cvc.Root

	flags sharedFlags
	// askedWithin is how long ago an unasked key may have answered.
	askedWithin time.Duration
	// gathered is what --share brought, once it was looked at.
	gathered *custody.Material
	// changed: a token or the catalog is not as it was before.
	changed bool
	// damaged says what of the catalog does not check out; nil if all does.
	damaged error
	// confirmed: --confirm has answered a question.
	confirmed bool
	// soPIN is the SO-PIN that this run sends.
	soPIN *sending
	// testOnlyStep is called before each step of a set-up.
	testOnlyStep func(name string)
	// helpless is why there is no help for what --help was asked for.
	helpless error
}

func newApp() *app {
	c := console.New(explain)
	return &app{Console: c, secrets: from.NewReader(c), tty: c.TTY, progress: c.Progress,
		lookupEnv: os.LookupEnv, now: time.Now, openCard: schsm.Open, osRelease: "/proc/sys/kernel/osrelease"}
}

// run carries out one command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	defer a.secrets.Wipe()
	defer func() { a.gathered.Wipe() }()
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = a.helpless
	}
	a.sent(a.soPIN, err)
	if a.damaged != nil {
		err = console.AmidDamage(err, a.damaged, damagedHint)
	}
	return a.End(ctx, err, a.changed || schsm.InDoubt(err), args)
}

// confirm has the token's serial typed, of a token without one its reader's
// name, or compares --confirm with it. what says what is about to happen.
func (a *app) confirm(ctx context.Context, t *token, what string) error {
	word, _ := t.word()
	if a.flags.confirm == "" {
		return a.typeSerial(ctx, t, what)
	}
	if a.flags.confirm != word && !backup.SameSerial(a.flags.confirm, t.serial) {
		return console.Refusef("confirm-mismatch", "", "--confirm %s is another token than %s, nothing was changed", a.flags.confirm, word)
	}
	a.confirmed = true
	return nil
}

// typeSerial is confirm at the terminal, whatever --confirm says.
func (a *app) typeSerial(ctx context.Context, t *token, what string) error {
	word, kind := t.word()
	return a.TypeSerial(ctx, what, kind, word)
}

func (a *app) readSecret(ctx context.Context, s from.Source, what string, twice bool) (*secret.Bytes, error) {
	return a.secrets.Read(ctx, s, what, twice, nil)
}
