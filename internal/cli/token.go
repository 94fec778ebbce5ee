package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

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

// Token is one SmartCard-HSM that was reached.
type Token struct {
	Card   *schsm.Card
	Serial string
	// Reader is the reader's name, or soft:FILE.
	Reader string
	// SoftFile: opened as soft:FILE, so that nobody can take it for hardware.
	SoftFile bool
	Label    string
	Keys     int
	closers  []func() error
}

// Close forgets the PIN and lets go of the token.
func (t *Token) Close() {
	if t == nil {
		return
	}
	if t.Card != nil {
		t.Card.Close()
	}
	for _, c := range t.closers {
		_ = c() // nothing was left to be written
	}
}

// Name is how the token is spoken of.
func (t *Token) Name() string {
	if t.Serial == "" {
		return "the token in " + t.Reader
	}
	return t.Serial
}

// word is what is typed to confirm that this token is meant.
func (t *Token) word() (word, kind string) {
	if t.Serial == "" {
		return t.Reader, "reader's name"
	}
	return t.Serial, "serial"
}

// describe is a line about the token for someone who has to choose.
func (t *Token) describe() string {
	keys := fmt.Sprintf("%d keys", t.Keys)
	if t.Keys == 1 {
		keys = "1 key"
	}
	label := "no label"
	if t.Label != "" {
		label = fmt.Sprintf("label %q", t.Label)
	}
	serial := t.Serial
	if serial == "" {
		serial = "(no serial)"
	}
	return fmt.Sprintf("%s  %s  %s  in %s", serial, label, keys, t.Reader)
}

const SoftPrefix = "soft:"

// OpenToken reaches the token that --token names, or the only one attached.
func (a *App) OpenToken(ctx context.Context) (*Token, error) { return a.openNamed(ctx, a.Flags.Token) }

// OpenPair opens the tokens of --from and --to and takes the inventory of the
// first. On an error both are closed again.
func (a *App) OpenPair(ctx context.Context, from, to string) (first, second *Token, inv *backup.Inventory, err error) {
	if first, err = a.openNamed(ctx, from); err != nil {
		return nil, nil, nil, err
	}
	if second, err = a.openNamed(ctx, to); err == nil {
		if inv, err = backup.Take(ctx, first.Card); err == nil {
			return first, second, inv, nil
		}
		second.Close()
	}
	first.Close()
	return nil, nil, nil, err
}

// References finds the keys of --key on a token.
func References(inv *backup.Inventory, names []string) ([]byte, error) {
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

func (a *App) openNamed(ctx context.Context, which string) (*Token, error) {
	if file, ok := strings.CutPrefix(which, SoftPrefix); ok {
		return a.OpenSoft(ctx, file)
	}
	found, others, err := a.Attached(ctx)
	if err != nil {
		return nil, err
	}
	fits := Choose(found, which)
	if len(fits) == 1 {
		for _, t := range found {
			if t != fits[0] {
				t.Close()
			}
		}
		return fits[0], nil
	}
	defer func() {
		for _, t := range found {
			t.Close()
		}
	}()
	return nil, NotOne(found, fits, others, which)
}

// Choose gives the tokens that a name fits: by serial, else by label, else by
// the reader's name of a token that has no serial.
func Choose(found []*Token, which string) []*Token {
	if which == "" {
		return found
	}
	for _, fit := range []func(*Token) bool{
		func(t *Token) bool { return backup.SameSerial(which, t.Serial) },
		func(t *Token) bool { return t.Label == which },
		func(t *Token) bool { return t.Serial == "" && t.Reader == which },
	} {
		var list []*Token
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

// NotOne explains why no token, or more than one, was found.
func NotOne(found, fits []*Token, others []string, which string) error {
	lines := func(list []*Token) []string {
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

// Attached opens every SmartCard-HSM in a reader. others says of other cards,
// and of tokens that did not answer, why they are not among them.
func (a *App) Attached(ctx context.Context) (found []*Token, others []string, err error) {
	readers, err := pcsc.Readers(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range readers {
		if !r.Present {
			continue
		}
		t, err := a.OpenReader(ctx, r.Name)
		switch {
		case err == nil:
			found = append(found, t)
		case ctx.Err() != nil:
			for _, t := range found {
				t.Close()
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

func (a *App) OpenReader(ctx context.Context, reader string) (*Token, error) {
	conn, err := pcsc.Connect(ctx, reader)
	if err != nil {
		return nil, err
	}
	return a.OpenTransmitter(ctx, conn, reader, conn.Close)
}

// OpenSoft opens a software token in this process; it needs no pcscd.
func (a *App) OpenSoft(ctx context.Context, file string) (*Token, error) {
	soft, err := softtoken.Open(file)
	if err != nil {
		return nil, SoftError(file, err)
	}
	t, err := a.OpenTransmitter(ctx, soft, SoftPrefix+file, soft.Close)
	if err != nil {
		return nil, err
	}
	t.SoftFile = true
	return t, nil
}

func (a *App) OpenTransmitter(ctx context.Context, way apdu.Transmitter, reader string, closer func() error) (*Token, error) {
	t := &Token{Reader: reader, closers: []func() error{closer}}
	var err error
	if t.Card, err = a.OpenCard(ctx, way); err == nil {
		t.Serial = t.Card.Serial()
		err = t.look(ctx)
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// look reads what is needed to tell the token from others.
func (t *Token) look(ctx context.Context) error {
	info, err := t.Card.ReadFile(ctx, schsm.FIDTokenInfo)
	switch {
	case err == nil:
		if label, err := pkcs15.ParseTokenInfo(info); err == nil {
			t.Label = label
		}
	case !errors.Is(err, apdu.ErrNotFound):
		return err
	}
	files, err := t.Card.Enumerate(ctx)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Prefix() == schsm.PrefixKey && f.Index() != 0 {
			t.Keys++
		}
	}
	return nil
}

// Login asks for the PIN and logs in. The last try is spent only for someone
// who confirms the serial.
func (a *App) Login(ctx context.Context, t *Token) error {
	return a.LoginWith(ctx, t, a.Flags.PIN.Source)
}

// LoginWith is login with a PIN that is read elsewhere than --pin says.
func (a *App) LoginWith(ctx context.Context, t *Token, from from.Source) error {
	status, err := t.Card.PIN(ctx)
	if err != nil {
		return err
	}
	insist := false
	switch {
	case status.Missing:
		return console.Failf("not-initialised", "`hsmbackup init` sets it up", "%s is not initialised and has no PIN yet", t.Name())
	case status.Blocked:
		return &console.Failure{Exit: console.ExitFailed, Code: "pin-blocked", Message: t.Name() + ": the PIN is blocked", Hints: []string{unblockHint}, Err: apdu.ErrBlocked}
	case status.Tries == 1:
		if err := a.lastTry(ctx, t); err != nil {
			return err
		}
		insist = true
	}
	out, err := a.Send(t, "PIN", from)
	if err != nil {
		return err
	}
	what := "PIN of " + t.Name()
	if status.Tries > 0 {
		what += fmt.Sprintf(" (tries left: %d)", status.Tries)
	}
	pin, err := a.ReadSecret(ctx, from, what, false)
	if err != nil {
		return err
	}
	defer pin.Wipe()
	err = t.Card.Login(ctx, pin, insist)
	a.Sent(out, err)
	return err
}

// lastTry has somebody insist on spending the last try of a PIN. A --confirm that
// has answered another question of this run says nothing about the PIN.
func (a *App) lastTry(ctx context.Context, t *Token) error {
	switch {
	case a.TTY.Available() && a.Confirmed:
		return a.typeSerial(ctx, t, lastTryLeft(t))
	case a.Confirmed:
		word, _ := t.word()
		return console.Refusef("last-pin-try", "`hsmbackup backup --confirm "+harmless.Word(word)+"` once you are sure of the PIN: the right one brings all tries back",
			"%s has one PIN try left, and --confirm was about something else", t.Name())
	case a.Flags.Confirm == "" && !a.TTY.Available():
		return schsm.ErrLastTry
	}
	return a.Confirm(ctx, t, lastTryLeft(t))
}

func lastTryLeft(t *Token) string {
	return t.Name() + " has one PIN try left; a wrong PIN blocks it."
}

// SoftError puts the file before what is wrong with a software token.
func SoftError(file string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, softtoken.ErrInUse):
		return console.Failf("token-in-use", "end the other program (`soft serve` holds the file as long as it runs)", "%s: %s", file, softtoken.ErrInUse)
	case errors.Is(err, softtoken.ErrHoldsObjects):
		return console.Refusef("holds-objects", "back it up, then initialise it: a firmware update takes empty tokens only", "%s: %s", file, err)
	case errors.Is(err, softtoken.ErrNotToken):
		return &console.Failure{Exit: console.ExitDamaged, Code: "not-a-token-file", Message: file + ": " + softtoken.ErrNotToken.Error()}
	case errors.Is(err, softtoken.ErrNewer):
		return console.Failf("token-newer", "use the hsmbackup that wrote it, or a newer one", "%s: %s", file, softtoken.ErrNewer)
	case errors.Is(err, softtoken.ErrOption):
		return console.Usagef("", "%s", err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%s: %w", file, syscall.ENOSPC)
	}
	return err
}

// Argument is what --token takes to name this token.
func (t *Token) Argument() string {
	if t.SoftFile || t.Serial == "" {
		return harmless.Word(t.Reader)
	}
	return t.Serial
}
