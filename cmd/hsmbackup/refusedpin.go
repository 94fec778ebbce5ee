package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"hsmbackup/internal/schsm"
)

// A PIN that is read from a file may be sent by a timer, again and again, with
// nobody there: one that was refused would spend a try each time. So a file
// beside the catalog notes which one it was, until that is written anew. It
// holds nothing of the PIN.

// refusedPIN is what is noted.
type refusedPIN struct {
	File     string    `json:"file"` // its absolute path
	Modified time.Time `json:"modified"`
	Refused  time.Time `json:"refused"`
}

// refusedNote is where the note about a token lies; empty if there is no place.
func (a *app) refusedNote(t *token) string {
	path, err := a.catalogPath()
	if err != nil || t.serial == "" {
		return ""
	}
	return path + ".refused-pin-" + filepath.Base(t.serial)
}

// lookOf is a file as it is now.
func lookOf(name string) (refusedPIN, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return refusedPIN{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return refusedPIN{}, err
	}
	return refusedPIN{File: path, Modified: info.ModTime().UTC()}, nil
}

// checkRefused refuses the PIN of a file that the token has refused before.
func (a *app) checkRefused(t *token, from source) error {
	if from.Kind != "file" {
		return nil
	}
	b, err := os.ReadFile(a.refusedNote(t))
	var was refusedPIN
	if err != nil || json.Unmarshal(b, &was) != nil {
		return nil // none, or none that says anything
	}
	is, err := lookOf(from.Arg)
	if err != nil {
		return err
	}
	if is.File != was.File || !is.Modified.Equal(was.Modified) {
		return nil
	}
	return refusef("refused-pin", "write the right PIN into it (if it was right all along: touch "+shellQuoted(from.Arg)+"), or leave "+from.Flag+" out and type it",
		"%s refused the PIN in %s on %s, and the file is as it was: it is not sent again", t.name(), from.Arg, was.Refused.Local().Format("2006-01-02 15:04"))
}

// noteRefused keeps in mind that a token refused the PIN of a file, or that it
// took it.
func (a *app) noteRefused(t *token, from source, loginErr error) {
	note := a.refusedNote(t)
	if from.Kind != "file" || note == "" {
		return
	}
	var wrong *schsm.PINError
	switch {
	case loginErr == nil:
		a.forgetRefused(t)
	case errors.As(loginErr, &wrong):
		was, err := lookOf(from.Arg)
		if err != nil {
			return // a pipe, or gone: it will not be read like this again
		}
		was.Refused = a.now().UTC()
		b, err := json.Marshal(was)
		if err == nil {
			err = os.WriteFile(note, append(b, '\n'), 0o600)
		}
		if err != nil {
			a.note("the next run will send this PIN again, since nothing can be noted at %s: %s", note, describe(err, false).Message)
		}
	}
}

// forgetRefused is for a token that has taken the PIN, or got another one.
func (a *app) forgetRefused(t *token) {
	note := a.refusedNote(t)
	if note == "" {
		return
	}
	if err := os.Remove(note); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.note("%s is out of date and cannot be removed: %s", note, describe(err, false).Message)
	}
}
