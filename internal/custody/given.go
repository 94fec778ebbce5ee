package custody

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hsmbackup/dkek"
	"hsmbackup/internal/secret"
)

// Given is one thing that was given to bring a recovery key together: a share
// file, a custodian's part in a file, one sealed with age, or a part that is
// typed.
type Given struct {
	File string
	// Password reads the one that opens the file, and tells people what for.
	// OwnPassword: it was named together with the file.
	Password    Password
	OwnPassword bool
	// Typed: it is typed, in place of a file.
	Typed bool

	// sheets open a threshold share file of sc-hsm-tool in place of a password.
	sheets []*dkek.Sheet
	// sealed: the file was sealed with age, and content is what was in it.
	sealed  bool
	content []byte // once read
	err     error
}

// Password reads a password; what names it for people. The caller wipes it.
type Password func(ctx context.Context, what string) (*secret.Bytes, error)

// TypedPart is what a part that was typed is called in place of a file.
const TypedPart = "what was typed"

// maxFile bounds what is read of a file that is called a share or a wrapped
// key; both have a few kilobytes at most.
const maxFile = 1 << 20

// ReadFile reads a whole file that should be a share or a wrapped key.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %w: %d bytes is too long for a share or a wrapped key", path, dkek.ErrFormat, info.Size())
	}
	return os.ReadFile(path)
}

// read reads the file once: it may be a pipe. An error stays with it for whoever
// needs the file.
func (g *Given) read() {
	if g.content == nil && g.err == nil && !g.Typed {
		g.content, g.err = ReadFile(g.File)
	}
}

// Read reads a file whose sheets, if it has any, were looked for already.
func (g *Given) Read() ([]byte, error) {
	g.read()
	return g.content, g.err
}

// MayBeWhole tells whether it is, as far as its content tells, a share and not a
// part of one.
func (g *Given) MayBeWhole() bool { return g.err != nil || dkek.IsPBE(g.content) }

// BySheets tells whether sheets open it in place of a password.
func (g *Given) BySheets() bool { return len(g.sheets) > 0 }

// WithSheets reads the files and puts sheets to the threshold share file that
// they follow, so that each one left stands for itself.
func WithSheets(given []Given) ([]Given, error) {
	var out []Given
	for _, g := range given {
		g.read()
		if g.err != nil || !dkek.IsSheets(g.content) {
			out = append(out, g)
			continue
		}
		found, err := dkek.ParseSheets(g.content)
		clear(g.content)
		if err != nil {
			return nil, badSheets(g.File, err)
		}
		n := len(out) - 1
		for n >= 0 && !dkek.IsPBE(out[n].content) {
			n--
		}
		switch {
		case n < 0:
			return nil, usagef("name the .pbe first, then the files that hold its sheets", "%s holds sheets of sc-hsm-tool, but no share file stands before it", g.File)
		case out[n].OwnPassword:
			return nil, usagef("", "%s has sheets and a password: with its sheets it needs none", out[n].File)
		case g.OwnPassword:
			return nil, usagef("", "%s holds sheets, which have no password", g.File)
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
		return because(failf("wrong-sheets", "", "%s: %v", file, err), err)
	}
	return fmt.Errorf("%s: %w", file, err)
}

// openThreshold opens a share file with its sheets.
func (g *Given) openThreshold(ctx context.Context, desk Desk) (*dkek.Share, error) {
	defer func() {
		for _, sheet := range g.sheets {
			sheet.Wipe()
		}
	}()
	// What is wrong with the file itself is not the sheets' fault.
	if len(g.content) != dkek.PBESize {
		_, err := dkek.OpenPBE(ctx, g.content, nil, nil)
		return nil, err
	}
	share, err := dkek.OpenThresholdPBE(ctx, g.content, g.sheets, desk.Derivation("opening "+filepath.Base(g.File)))
	desk.Derived()
	if err != nil {
		return nil, badSheets(g.File, err)
	}
	return share, nil
}

// Kind is what --json calls it.
func (g *Given) Kind() string {
	switch {
	case len(g.sheets) > 0:
		return "threshold"
	case g.sealed:
		return "age"
	case g.Typed, dkek.IsPart(g.content):
		return "part"
	}
	return "pbe"
}

// IsPart tells whether it is a part of a custodian, or sealed as only parts are.
func (g *Given) IsPart() bool { return dkek.IsPart(g.content) || dkek.IsAge(g.content) }

// OneShareFile is the only share file of what was given, with its sheets. other
// says what is wrong with anything else, several with more than one.
func OneShareFile(given []Given, other func(Given) error, several func(n int) error) (Given, error) {
	for _, g := range given {
		switch {
		case g.err != nil:
			return g, g.err
		case !dkek.IsPBE(g.content):
			return g, other(g)
		}
	}
	if len(given) > 1 {
		return given[0], several(len(given))
	}
	return given[0], nil
}

// OpenFile opens a share file by its password or its sheets. The caller wipes the
// share.
func (o *Opener) OpenFile(ctx context.Context, g Given) (*dkek.Share, error) {
	shares, errs, err := o.OpenFiles(ctx, []Given{g})
	if err == nil && errs[0] != nil {
		err = fmt.Errorf("%s: %w", g.File, errs[0])
	}
	if err != nil {
		dkek.WipeShares(shares)
		return nil, err
	}
	return shares[0], nil
}
