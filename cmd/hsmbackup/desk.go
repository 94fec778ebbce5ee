package main

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
type desk struct{ a *app }

func (d desk) Available() bool { return d.a.tty.Available() }

func (d desk) Screen(ctx context.Context, text []byte, prompt string) (*secret.Bytes, error) {
	d.a.progress.Close()
	return d.a.tty.Screen(ctx, text, prompt)
}

func (d desk) ReadLine(ctx context.Context, prompt string) (string, error) {
	d.a.progress.Close()
	line, err := d.a.tty.ReadLine(ctx, prompt)
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

func (d desk) Words(err error) string { return describe(err, false).Message }

func (d desk) Derivation(what string) dkek.Progress {
	return func(done, total uint64) { d.a.progress.Set(what, int64(done), int64(total)) }
}

func (d desk) Derived() { d.a.progress.Close() }

func (d desk) Readable(path string) {
	if info, err := os.Stat(path); err == nil {
		d.a.secrets.WarnMode(path, info)
	}
}

// parseShare reads FILE[,password=SOURCE], the value of a flag or, where that is
// empty, an argument. Without a source of its own the password is that of
// --password. A flag takes "prompt" too.
func (a *app) parseShare(flag, text string) (custody.Given, error) {
	const mark = ",password="
	if flag != "" && text == "prompt" {
		return custody.Given{File: custody.TypedPart, Typed: true}, nil
	}
	i := strings.LastIndex(text, mark)
	if i < 0 {
		return custody.Given{File: text, Password: a.passwordFrom(a.flags.password.Source)}, nil
	}
	s, err := from.Parse(strings.TrimSpace(flag+" "+text[:i]+mark), text[i+len(mark):])
	if s.Kind == "prompt" {
		s.Flag = "--password"
	}
	a.secrets.DropEnvironment(s)
	return custody.Given{File: text[:i], Password: a.passwordFrom(s), OwnPassword: true}, err
}

// parseShares reads several, with their sheets.
func (a *app) parseShares(flag string, texts []string) ([]custody.Given, error) {
	var list []custody.Given
	for _, text := range texts {
		g, err := a.parseShare(flag, text)
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	return custody.WithSheets(list)
}

func (a *app) passwordFrom(s from.Source) custody.Password {
	return func(ctx context.Context, what string) (*secret.Bytes, error) {
		return a.readSecret(ctx, s, what, false)
	}
}

func (a *app) opener() *custody.Opener {
	return &custody.Opener{Desk: desk{a}, Identities: a.flags.identities, Password: a.passwordFrom(a.flags.password.Source)}
}

// gather sorts what --share brought, once, and brings parts together.
func (a *app) gather(ctx context.Context, cat *store.Catalog) (*custody.Material, error) {
	if a.gathered != nil {
		return a.gathered, nil
	}
	m, err := a.opener().Gather(ctx, cat, a.flags.shareArgs)
	a.gathered = m // wiped when the program ends
	return m, err
}

// openShares opens what --share brought. The caller wipes the shares.
func (a *app) openShares(ctx context.Context, cat *store.Catalog) ([]*dkek.Share, error) {
	m, err := a.gather(ctx, cat)
	if err != nil {
		return nil, err
	}
	return m.Open(ctx, cat)
}

// openKey puts the recovery key together that --share brought. The caller wipes
// both.
func (a *app) openKey(ctx context.Context, cat *store.Catalog) (*dkek.Key, []*dkek.Share, error) {
	m, err := a.gather(ctx, cat)
	if err != nil {
		return nil, nil, err
	}
	return m.OpenKey(ctx, cat)
}
