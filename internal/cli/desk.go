package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/secret"
	from "hsmbackup/internal/source"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// desk is the terminal as package custody needs it.
type desk struct{ a *App }

// Desk gives the terminal to package custody.
func (a *App) Desk() desk { return desk{a} }

func (d desk) Available() bool { return d.a.TTY.Available() }

func (d desk) Screen(ctx context.Context, text []byte, prompt string) (*secret.Bytes, error) {
	d.a.Progress.Close()
	return d.a.TTY.Screen(ctx, text, prompt)
}

func (d desk) ReadLine(ctx context.Context, prompt string) (string, error) {
	d.a.Progress.Close()
	line, err := d.a.TTY.ReadLine(ctx, prompt)
	if errors.Is(err, terminal.ErrNoAnswer) {
		err = inputEnded{err}
	}
	return line, err
}

// inputEnded is io.EOF too: nobody answers any more.
type inputEnded struct{ error }

func (e inputEnded) Unwrap() []error { return []error{e.error, io.EOF} }

func (d desk) Note(format string, args ...any) { d.a.Note(format, args...) }
func (d desk) Next(format string, args ...any) { d.a.Next(format, args...) }
func (d desk) Damaged(f store.Finding) {
	d.a.Note("DAMAGED: %s", f)
	if d.a.damaged == nil {
		d.a.damaged = fmt.Errorf("the catalog is %w: %s", store.ErrDamaged, f)
	}
}

func (d desk) Words(err error) string { return Describe(err, false).Message }

func (d desk) Derivation(what string) dkek.Progress {
	return func(done, total uint64) { d.a.Progress.Set(what, int64(done), int64(total)) }
}

func (d desk) Derived() { d.a.Progress.Close() }

func (d desk) Readable(path string) {
	if info, err := os.Stat(path); err == nil {
		d.a.Secrets.WarnMode(path, info)
	}
}

// ParseShare reads FILE[,password=SOURCE], the value of a flag or, where that is
// empty, an argument. Without a source of its own the password is that of
// --password. A flag takes "prompt" too.
func (a *App) ParseShare(flag, text string) (custody.Given, error) {
	const mark = ",password="
	if flag != "" && text == "prompt" {
		return custody.Given{File: custody.TypedPart, Typed: true}, nil
	}
	i := strings.LastIndex(text, mark)
	if i < 0 {
		return custody.Given{File: text, Password: a.PasswordFrom(a.Flags.Password.Source)}, nil
	}
	s, err := from.Parse(strings.TrimSpace(flag+" "+text[:i]+mark), text[i+len(mark):])
	if s.Kind == "prompt" {
		s.Flag = "--password"
	}
	a.Secrets.DropEnvironment(s)
	return custody.Given{File: text[:i], Password: a.PasswordFrom(s), OwnPassword: true}, err
}

// ParseShares reads several, with their sheets.
func (a *App) ParseShares(flag string, texts []string) ([]custody.Given, error) {
	var list []custody.Given
	for _, text := range texts {
		g, err := a.ParseShare(flag, text)
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	return custody.WithSheets(list)
}

func (a *App) PasswordFrom(s from.Source) custody.Password {
	return func(ctx context.Context, what string) (*secret.Bytes, error) {
		return a.ReadSecret(ctx, s, what, false)
	}
}

func (a *App) Opener() *custody.Opener {
	return &custody.Opener{Desk: desk{a}, Identities: a.Flags.Identities, Password: a.PasswordFrom(a.Flags.Password.Source)}
}

// Gather sorts what --share brought, once, and brings parts together.
func (a *App) Gather(ctx context.Context, cat *store.Catalog) (*custody.Material, error) {
	if a.Gathered != nil {
		return a.Gathered, nil
	}
	m, err := a.Opener().Gather(ctx, cat, a.Flags.ShareArgs)
	a.Gathered = m // wiped when the program ends
	return m, err
}

// OpenShares opens what --share brought. The caller wipes the shares.
func (a *App) OpenShares(ctx context.Context, cat *store.Catalog) ([]*dkek.Share, error) {
	m, err := a.Gather(ctx, cat)
	if err != nil {
		return nil, err
	}
	return m.Open(ctx, cat)
}

// OpenKey puts the recovery key together that --share brought. The caller wipes
// both.
func (a *App) OpenKey(ctx context.Context, cat *store.Catalog) (*dkek.Key, []*dkek.Share, error) {
	m, err := a.Gather(ctx, cat)
	if err != nil {
		return nil, nil, err
	}
	return m.OpenKey(ctx, cat)
}
