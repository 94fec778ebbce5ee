package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"hsmbackup/dkek"
)

// read reads the file once: what is given as --share may be a pipe. An error
// stays with the argument for whoever needs the file.
func (s *shareArg) read() {
	if s.content == nil && s.err == nil && !s.typed {
		s.content, s.err = readSmall(s.file)
	}
}

// withSheets reads the files and puts sheets to the threshold share file that
// they follow, so that each argument left is one file that stands for itself.
func withSheets(args []shareArg) ([]shareArg, error) {
	var out []shareArg
	for _, s := range args {
		s.read()
		if s.err != nil || !dkek.IsSheets(s.content) {
			out = append(out, s)
			continue
		}
		found, err := dkek.ParseSheets(s.content)
		clear(s.content)
		if err != nil {
			return nil, badSheets(s.file, err)
		}
		n := len(out) - 1
		for n >= 0 && !dkek.IsPBE(out[n].content) {
			n--
		}
		switch {
		case n < 0:
			return nil, usagef("name the .pbe first, then the files that hold its sheets", "%s holds sheets of sc-hsm-tool, but no share file stands before it", s.file)
		case out[n].ownPassword:
			return nil, usagef("", "%s has sheets and a password: with its sheets it needs none", out[n].file)
		case s.ownPassword:
			return nil, usagef("", "%s holds sheets, which have no password", s.file)
		}
		out[n].sheets = append(out[n].sheets, found...)
	}
	return out, nil
}

// badSheets is about sheets that cannot be read or do not give a password:
// like a wrong password, it changes nothing and is no damage of the share file.
func badSheets(file string, err error) error {
	switch {
	case errors.Is(err, dkek.ErrFormat), errors.Is(err, dkek.ErrMismatch), errors.Is(err, dkek.ErrWrongPassword):
		return &failure{Exit: exitFailed, Code: "wrong-sheets", Message: fmt.Sprintf("%s: %v", file, err), Err: err}
	}
	return fmt.Errorf("%s: %w", file, err)
}

// openThreshold opens a share file with its sheets.
func (a *app) openThreshold(ctx context.Context, s shareArg) (*dkek.Share, error) {
	defer func() {
		for _, sheet := range s.sheets {
			sheet.Wipe()
		}
	}()
	// What is wrong with the file itself is not the sheets' fault.
	if len(s.content) != dkek.PBESize {
		_, err := dkek.OpenPBE(ctx, s.content, nil, nil)
		return nil, err
	}
	share, err := dkek.OpenThresholdPBE(ctx, s.content, s.sheets, a.derivation("opening "+filepath.Base(s.file)))
	a.progress.Close()
	if err != nil {
		return nil, badSheets(s.file, err)
	}
	return share, nil
}

// kind is what --json calls the file.
func (s shareArg) kind() string {
	switch {
	case len(s.sheets) > 0:
		return "threshold"
	case s.sealed:
		return "age"
	case s.typed, dkek.IsPart(s.content):
		return "part"
	}
	return "pbe"
}
