package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	from "hsmbackup/internal/source"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// holder stands before one token for the jobs of package backup: what they ask
// and say goes through flags, terminal and standard output.
type holder struct {
	*app
	t   *cli.Token
	pin from.Source // of the PIN that the token has
}

// work is what a job on a token works with, besides the catalog.
func (a *app) work(ctx context.Context, t *cli.Token, soFloor int) backup.Work {
	untrusted := a.Flags.Untrusted
	if backup.SameSerial(untrusted, t.Serial) {
		untrusted = t.Serial
	}
	return backup.Work{
		Card: t.Card, Person: &holder{a, t, a.Flags.PIN.Source}, NewCatalog: a.MakeCatalog, Who: a.Flags.Who, MinSOTries: soFloor, SharesChecked: a.Flags.Checked,
		Backup: a.proving(ctx),
		Trust:  backup.Trust{SoftFile: t.SoftFile, Untrusted: untrusted, Roots: a.Roots, Now: a.Now()},
	}
}

// proving is how a token is backed up and proven.
func (a *app) proving(ctx context.Context) backup.Options {
	return backup.Options{SpendUse: a.spendUse(ctx), Progress: a.Steps, Cleaned: a.cleaned, Program: build.Program()}
}

// did takes over what a job has left, also beside an error.
func (a *app) did(w *backup.Work) {
	a.Progress.Close()
	a.Changed = a.Changed || w.Changed
}

// verdict is how a job ends whose result was printed.
func (a *app) verdict(v fail.Verdict, hints ...string) error {
	exits := console.Exits{}
	if len(v.Left) > 0 {
		exits.Add(console.ExitIncomplete)
	}
	if v.Damaged {
		exits.Add(console.ExitDamaged)
	}
	return exits.Outcome(console.Brief(v.Left), hints...)
}

func (p *holder) Name() string { return p.t.Name() }

func (p *holder) Say(format string, args ...any) {
	if !p.Flags.JSON {
		p.Progress.Close()
		p.Printf("%s", terminal.Printable(fmt.Sprintf(format, args...)))
	}
}

func (p *holder) Show(plan *backup.Plan) {
	if !p.Flags.JSON {
		p.Progress.Close()
		p.printPlan(plan)
	}
}

// Agree has --confirm answer whatever is asked, if the serial is right.
func (p *holder) Agree(ctx context.Context, q backup.Question) error {
	switch {
	case p.Flags.Confirm != "":
		return p.Confirm(ctx, p.t, "")
	case q.What == "":
		return nil
	case q.Typed:
		return p.Confirm(ctx, p.t, q.What)
	}
	return p.Ask(ctx, q.What)
}

func (p *holder) Login(ctx context.Context) error { return p.LoginWith(ctx, p.t, p.pin) }

// LoginNow takes --token-pin, or asks; where nobody knows the PIN, only a person
// says so.
func (p *holder) LoginNow(ctx context.Context) (known bool, err error) {
	if p.Flags.TokenPIN.Text == "" {
		if !p.TTY.Available() {
			return true, nil // what is missing is said where it is needed
		}
		known, err := p.TTY.Ask(ctx, fmt.Sprintf("Each key of %s has to answer before it is wiped. Does somebody know the PIN that it has now?", p.Name()))
		if err != nil || !known {
			return false, err
		}
	}
	return true, p.LoginWith(ctx, p.t, p.Flags.TokenPIN.Source)
}

func (p *holder) TypeBack(ctx context.Context, what, word string) error {
	p.Progress.Close()
	if !p.TTY.Available() {
		return console.Refusef("unasked", "run this on a terminal: --yes and --confirm do not serve", "%s What goes unasked has to be typed, one by one", what)
	}
	return p.TTY.TypeBack(ctx, fmt.Sprintf("%s Type %q if it may go:", terminal.Printable(what), word), word)
}

// NewPINs reads the PIN to set and the SO-PIN, and checks both before anything
// is sent. An SO-PIN that the token has already is asked for once.
func (p *holder) NewPINs(ctx context.Context, inv *backup.Inventory) (pin, soPIN *secret.Bytes, err error) {
	if p.SOPIN, err = p.Send(p.t, "SO-PIN", p.Flags.SOPIN.Source); err != nil {
		return nil, nil, err
	}
	text, err := p.Secrets.Read(ctx, p.Flags.SOPIN.Source, "SO-PIN of "+p.Name()+", 16 hex digits", inv.SOPIN.Missing, checkSOPINFormat)
	if err != nil {
		return nil, nil, err
	}
	defer text.Wipe()
	if soPIN, err = schsm.ParseSOPIN(text.Bytes()); err != nil {
		return nil, nil, err
	}
	pin, err = p.Secrets.Read(ctx, p.Flags.PIN.Source, "new PIN of "+p.Name()+", 6 to 15 characters", true, schsm.CheckNewPIN)
	if err != nil {
		soPIN.Wipe()
		return nil, nil, err
	}
	return pin, soPIN, nil
}

func checkSOPINFormat(typed *secret.Bytes) error {
	b, err := schsm.ParseSOPIN(typed.Bytes())
	b.Wipe()
	return err
}

func (p *holder) PINsSet() { p.ForgetRefused(p.t) }

func (p *holder) Given() bool { return len(p.Flags.ShareArgs) > 0 }

func (p *holder) Gather(ctx context.Context, cat *store.Catalog) (*backup.Shares, error) {
	if !p.Given() {
		return nil, console.Usagef("`hsmbackup dkek create` or `sc-hsm-tool --create-dkek-share` made their files", "--init needs the shares of the recovery key: --share FILE for each")
	}
	m, err := p.app.Gather(ctx, cat)
	if err != nil {
		return nil, err
	}
	s := &backup.Shares{Count: m.Count(), KCV: m.KCV()}
	for _, set := range m.Sets {
		s.Sets = append(s.Sets, backup.SharesSet{Set: set.Set, Name: set.Describe(), Shares: set.Shares})
	}
	return s, nil
}

func (p *holder) Open(ctx context.Context, cat *store.Catalog) ([]*dkek.Share, error) {
	return p.OpenShares(ctx, cat)
}

// Became asks what became of a token.
func (p *holder) Became(ctx context.Context, serial string) (string, error) {
	p.Progress.Close()
	answer, err := p.TTY.ReadLine(ctx, fmt.Sprintf("What became of %s: broken, lost, stolen, wiped? (empty: say nothing)", serial))
	if errors.Is(err, terminal.ErrNoAnswer) || errors.Is(err, terminal.ErrNone) {
		return "", nil
	}
	return strings.TrimSpace(answer), err
}
