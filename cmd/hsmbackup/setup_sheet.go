package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/sheet"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// Sheet writes the sheet, and reads it back. One that an earlier run wrote is left
// as it is if it is the same, else a new one gets another name.
func (s *setter) Sheet(ctx context.Context, j *backup.SetUpJob, r *backup.SetUpReport) error {
	content, err := s.sheetContent(j, r)
	if err != nil {
		return err
	}
	if r.Note.Sheet != "" && (s.o.sheet == "" || sameFile(r.Note.Sheet, s.o.sheet)) {
		if b, err := os.ReadFile(r.Note.Sheet); err == nil && bytes.Equal(b, content) {
			if s.sheet = r.Note.Sheet; s.o.sheet != "" {
				s.sheet = s.o.sheet
			}
			return nil
		}
	}
	path := s.o.sheet
	if path == "" {
		dir := "."
		if s.inFile(r) {
			dir = filepath.Dir(s.o.out)
		}
		path = filepath.Join(dir, "sheet-"+orNoSerial(j.Serial())+".pdf")
	}
	if path, err = freeName(path, content); err != nil {
		return err
	}
	if err := s.step(ctx, "sheet"); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err != nil {
		if err := newfile.Write(path, content); err != nil {
			return err
		}
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
		return console.Failf("not-written", "the disk may be failing", "%s does not hold what was written to it", path)
	}
	j.Changed = true
	if r.Note.Sheet, err = filepath.Abs(path); err != nil {
		return err
	}
	s.sheet, r.Note.SheetSHA256 = path, store.HashOf(content)
	if err := r.Note.Put(j.Catalog, j.Serial()); err != nil {
		return err
	}
	s.Tell("The sheet says which token and recovery key belong together, where things lie, and how a restore goes. No secret is on it: it has lines to fill in by hand. It is %s: print it when this is done.", terminal.Printable(path))
	return nil
}

func orNoSerial(serial string) string {
	if serial == "" {
		return "token"
	}
	return serial
}

func sameFile(a, b string) bool {
	x, err := filepath.Abs(b)
	return err == nil && a == x
}

// freeName gives the name of a file that is not there, or that holds this
// content already: the one asked for, or with a number.
func freeName(path string, content []byte) (string, error) {
	ext := filepath.Ext(path)
	for n := 1; n < 100; n++ {
		name := path
		if n > 1 {
			name = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(path, ext), n, ext)
		}
		b, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && bytes.Equal(b, content):
			return name, nil
		case err != nil:
			return "", err
		}
	}
	return "", console.Failf("exists", "name another file with --sheet", "%s exists already, and nothing is ever overwritten", path)
}

// sheetContent is the sheet of a single admin, without secrets. Its date is that
// of the day on which the set-up was begun, so that it stays the same.
func (s *setter) sheetContent(j *backup.SetUpJob, r *backup.SetUpReport) ([]byte, error) {
	return custody.SheetFile(&sheet.Admin{
		Serial: j.Serial(), Label: j.Label, KCV: r.KCV.String(), Recipient: custody.RecipientWords(r.Recipient), Shares: s.where(r), Catalog: custody.Absolute(j.Catalog.Path()), Date: r.Note.Begun,
		Steps: custody.RestoreSteps(j.Serial(), s.files()),
	}, s.o.sheet, sheet.A4)
}
