package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	from "hsmbackup/internal/source"
)

// token is one SmartCard-HSM that was reached.
type token struct {
	card   *schsm.Card
	serial string
	// reader is the reader's name, or soft:FILE.
	reader string
	// softFile: opened as soft:FILE, so that nobody can take it for hardware.
	softFile bool
	label    string
	keys     int
	closers  []func() error
}

// close forgets the PIN and lets go of the token.
func (t *token) close() {
	if t == nil {
		return
	}
	if t.card != nil {
		t.card.Close()
	}
	for _, c := range t.closers {
		_ = c() // nothing was left to be written
	}
}

// name is how the token is spoken of.
func (t *token) name() string {
	if t.serial == "" {
		return "the token in " + t.reader
	}
	return t.serial
}

// word is what is typed to confirm that this token is meant.
func (t *token) word() (word, kind string) {
	if t.serial == "" {
		return t.reader, "reader's name"
	}
	return t.serial, "serial"
}

// describe is a line about the token for someone who has to choose.
func (t *token) describe() string {
	keys := fmt.Sprintf("%d keys", t.keys)
	if t.keys == 1 {
		keys = "1 key"
	}
	label := "no label"
	if t.label != "" {
		label = fmt.Sprintf("label %q", t.label)
	}
	serial := t.serial
	if serial == "" {
		serial = "(no serial)"
	}
	return fmt.Sprintf("%s  %s  %s  in %s", serial, label, keys, t.reader)
}

const softPrefix = "soft:"

// openToken reaches the token that --token names, or the only one attached.
func (a *app) openToken(ctx context.Context) (*token, error) { return a.openNamed(ctx, a.flags.token) }

// openPair opens the tokens of --from and --to and takes the inventory of the
// first. On an error both are closed again.
func (a *app) openPair(ctx context.Context, from, to string) (first, second *token, inv *backup.Inventory, err error) {
	if first, err = a.openNamed(ctx, from); err != nil {
		return nil, nil, nil, err
	}
	if second, err = a.openNamed(ctx, to); err == nil {
		if inv, err = backup.Take(ctx, first.card); err == nil {
			return first, second, inv, nil
		}
		second.close()
	}
	first.close()
	return nil, nil, nil, err
}

// references finds the keys of --key on a token.
func references(inv *backup.Inventory, names []string) ([]byte, error) {
	var list []byte
	for _, name := range names {
		k, err := inv.FindKey(name)
		if err != nil {
			return nil, err
		}
		list = append(list, k.Reference)
	}
	return list, nil
}

func (a *app) openNamed(ctx context.Context, which string) (*token, error) {
	if file, ok := strings.CutPrefix(which, softPrefix); ok {
		return a.openSoft(ctx, file)
	}
	found, others, err := a.attached(ctx)
	if err != nil {
		return nil, err
	}
	fits := choose(found, which)
	if len(fits) == 1 {
		for _, t := range found {
			if t != fits[0] {
				t.close()
			}
		}
		return fits[0], nil
	}
	defer func() {
		for _, t := range found {
			t.close()
		}
	}()
	return nil, notOne(found, fits, others, which)
}

// choose gives the tokens that a name fits: by serial, else by label, else by
// the reader's name of a token that has no serial.
func choose(found []*token, which string) []*token {
	if which == "" {
		return found
	}
	for _, fit := range []func(*token) bool{
		func(t *token) bool { return backup.SameSerial(which, t.serial) },
		func(t *token) bool { return t.label == which },
		func(t *token) bool { return t.serial == "" && t.reader == which },
	} {
		var list []*token
		for _, t := range found {
			if fit(t) {
				list = append(list, t)
			}
		}
		if len(list) > 0 {
			return list
		}
	}
	return nil
}

// notOne explains why no token, or more than one, was found.
func notOne(found, fits []*token, others []string, which string) error {
	lines := func(list []*token) []string {
		var out []string
		for _, t := range list {
			out = append(out, t.describe())
		}
		return out
	}
	switch {
	case len(fits) > 1 && which == "":
		return &console.Failure{Exit: console.ExitRefused, Code: "ambiguous-token", Message: fmt.Sprintf("%d tokens are attached: name one with --token SERIAL", len(fits)), Hints: lines(fits)}
	case len(fits) > 1:
		return &console.Failure{Exit: console.ExitRefused, Code: "ambiguous-token", Message: fmt.Sprintf("%q is the label of %d tokens: name one by its serial", which, len(fits)), Hints: lines(fits)}
	case len(found) > 0:
		return &console.Failure{Exit: console.ExitRefused, Code: "wrong-token", Message: fmt.Sprintf("no attached token has the serial or label %q", which), Hints: lines(found)}
	}
	f := &console.Failure{Exit: console.ExitFailed, Code: "no-token", Message: "no token is attached", Hints: others}
	if which != "" {
		f.Message = fmt.Sprintf("no token is attached, so %q is not either", which)
	}
	f.Hints = append(f.Hints, "plug in the token; a software token is named with --token soft:FILE")
	return f
}

// attached opens every SmartCard-HSM in a reader. others says of other cards,
// and of tokens that did not answer, why they are not among them.
func (a *app) attached(ctx context.Context) (found []*token, others []string, err error) {
	readers, err := pcsc.Readers(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range readers {
		if !r.Present {
			continue
		}
		t, err := a.openReader(ctx, r.Name)
		switch {
		case err == nil:
			found = append(found, t)
		case ctx.Err() != nil:
			for _, t := range found {
				t.close()
			}
			return nil, nil, ctx.Err()
		case errors.Is(err, schsm.ErrNotSmartCardHSM):
			others = append(others, fmt.Sprintf("the card in %s is no SmartCard-HSM", r.Name))
		default:
			others = append(others, err.Error())
		}
	}
	return found, others, nil
}

func (a *app) openReader(ctx context.Context, reader string) (*token, error) {
	conn, err := pcsc.Connect(ctx, reader)
	if err != nil {
		return nil, err
	}
	return a.openTransmitter(ctx, conn, reader, conn.Close)
}

// openSoft opens a software token in this process; it needs no pcscd.
func (a *app) openSoft(ctx context.Context, file string) (*token, error) {
	soft, err := softtoken.Open(file)
	if err != nil {
		return nil, softError(file, err)
	}
	t, err := a.openTransmitter(ctx, soft, softPrefix+file, soft.Close)
	if err != nil {
		return nil, err
	}
	t.softFile = true
	return t, nil
}

func (a *app) openTransmitter(ctx context.Context, way apdu.Transmitter, reader string, closer func() error) (*token, error) {
	t := &token{reader: reader, closers: []func() error{closer}}
	var err error
	if t.card, err = a.openCard(ctx, way); err == nil {
		t.serial = t.card.Serial()
		err = t.look(ctx)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// look reads what is needed to tell the token from others.
func (t *token) look(ctx context.Context) error {
	info, err := t.card.ReadFile(ctx, schsm.FIDTokenInfo)
	switch {
	case err == nil:
		if label, err := pkcs15.ParseTokenInfo(info); err == nil {
			t.label = label
		}
	case !errors.Is(err, apdu.ErrNotFound):
		return err
	}
	files, err := t.card.Enumerate(ctx)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Prefix() == schsm.PrefixKey && f.Index() != 0 {
			t.keys++
		}
	}
	return nil
}

// login asks for the PIN and logs in. The last try is spent only for someone
// who confirms the serial.
func (a *app) login(ctx context.Context, t *token) error {
	return a.loginWith(ctx, t, a.flags.pin.Source)
}

// loginWith is login with a PIN that is read elsewhere than --pin says.
func (a *app) loginWith(ctx context.Context, t *token, from from.Source) error {
	status, err := t.card.PIN(ctx)
	if err != nil {
		return err
	}
	insist := false
	switch {
	case status.Missing:
		return console.Failf("not-initialised", "`hsmbackup init` sets it up", "%s is not initialised and has no PIN yet", t.name())
	case status.Blocked:
		return &console.Failure{Exit: console.ExitFailed, Code: "pin-blocked", Message: t.name() + ": the PIN is blocked", Hints: []string{unblockHint}, Err: apdu.ErrBlocked}
	case status.Tries == 1:
		if err := a.lastTry(ctx, t); err != nil {
			return err
		}
		insist = true
	}
	out, err := a.send(t, "PIN", from)
	if err != nil {
		return err
	}
	what := "PIN of " + t.name()
	if status.Tries > 0 {
		what += fmt.Sprintf(" (tries left: %d)", status.Tries)
	}
	pin, err := a.readSecret(ctx, from, what, false)
	if err != nil {
		return err
	}
	defer pin.Wipe()
	err = t.card.Login(ctx, pin, insist)
	a.sent(out, err)
	return err
}

// lastTry has somebody insist on spending the last try of a PIN. A --confirm that
// has answered another question of this run says nothing about the PIN.
func (a *app) lastTry(ctx context.Context, t *token) error {
	switch {
	case a.tty.Available() && a.confirmed:
		return a.typeSerial(ctx, t, lastTryLeft(t))
	case a.confirmed:
		word, _ := t.word()
		return console.Refusef("last-pin-try", "`hsmbackup backup --confirm "+harmless.Word(word)+"` once you are sure of the PIN: the right one brings all tries back",
			"%s has one PIN try left, and --confirm was about something else", t.name())
	case a.flags.confirm == "" && !a.tty.Available():
		return schsm.ErrLastTry
	}
	return a.confirm(ctx, t, lastTryLeft(t))
}

func lastTryLeft(t *token) string {
	return t.name() + " has one PIN try left; a wrong PIN blocks it."
}
