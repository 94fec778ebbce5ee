package cli

import (
	"errors"
	"path/filepath"

	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/schsm"
	from "hsmbackup/internal/source"
)

// A PIN or SO-PIN that no person types may be sent by a timer, again and again:
// one that was refused would spend a try each time. So a file beside the catalog
// keeps in mind where it came from, until that has changed.

// sending is a PIN or SO-PIN that a token is about to get. One that a person
// types is nil.
type sending struct {
	what   string // PIN or SO-PIN, as schsm names them
	mark   from.Mark
	memory from.Memory
}

// memory is what is kept in mind of a token's PIN or SO-PIN; nothing if there is
// no place for it.
func (a *App) memory(t *Token, what string) from.Memory {
	path, err := a.CatalogPath()
	if err != nil {
		return from.Memory{}
	}
	word, _ := t.word()
	name := map[string]string{"PIN": ".refused-pin-", "SO-PIN": ".refused-so-pin-"}[what]
	return from.Memory{Path: path + name + filepath.Base(word)}
}

// Send refuses a PIN or SO-PIN that the token has refused before. It is called
// before the secret is read.
func (a *App) Send(t *Token, what string, s from.Source) (*sending, error) {
	if s.Typed() {
		return nil, nil
	}
	mark, err := from.Look(s)
	if err != nil {
		return nil, err
	}
	out := &sending{what: what, mark: mark, memory: a.memory(t, what)}
	when, refused := out.memory.Refused(mark)
	if !refused {
		return out, nil
	}
	code := map[string]string{"PIN": "refused-pin", "SO-PIN": "refused-so-pin"}[what]
	day := when.Local().Format("2006-01-02 15:04")
	if mark.Modified.IsZero() {
		return nil, console.Refusef(code, "leave "+s.Flag+" out and type it; or, once that gives another one: rm "+harmless.Word(out.memory.Path),
			"%s refused the %s that %s gave on %s, and whether it is another one now does not show: it is not sent again", t.Name(), what, s.Name(), day)
	}
	return nil, console.Refusef(code, "write the right "+what+" into it (if it was right all along: touch "+harmless.Word(s.Arg)+"), or leave "+s.Flag+" out and type it",
		"%s refused the %s in %s on %s, and the file is as it was: it is not sent again", t.Name(), what, s.Arg, day)
}

// Sent keeps in mind that a token refused what it got, or that it took it. err
// is how that ended.
func (a *App) Sent(s *sending, err error) {
	if s == nil {
		return
	}
	var wrong *schsm.PINError
	switch {
	case err == nil:
		err = s.memory.Accepted(s.mark)
	case errors.As(err, &wrong) && wrong.Name == s.what:
		err = s.memory.Add(s.mark, a.Now())
	default:
		return
	}
	if err != nil {
		a.Note("the next run may send this %s again, since nothing can be noted at %s: %s",
			s.what, s.memory.Path, a.Describe(err, false).Message)
	}
}

// ForgetRefused is for a token that has got another PIN.
func (a *App) ForgetRefused(t *Token) {
	m := a.memory(t, "PIN")
	if err := m.Forget(); err != nil {
		a.Note("%s is out of date and cannot be removed: %s", m.Path, a.Describe(err, false).Message)
	}
}
