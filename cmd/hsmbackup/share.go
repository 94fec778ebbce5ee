package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/secret"
)

// shareArg is the value of --share: a file, and where its password is read.
type shareArg struct {
	file     string
	password source
	// ownPassword: the source stands with the file.
	ownPassword bool
	// sheets open a threshold share file of sc-hsm-tool in place of a password.
	sheets []*dkek.Sheet

	content []byte // once read
	err     error
}

// parseShare reads FILE[,password=SOURCE], the value of a flag or, where that is
// empty, an argument. Without a source of its own the password is that of
// --password.
func (a *app) parseShare(flag, text string) (shareArg, error) {
	const mark = ",password="
	i := strings.LastIndex(text, mark)
	if i < 0 {
		return shareArg{file: text, password: a.flags.password.source}, nil
	}
	s, err := parseSource(strings.TrimSpace(flag+" "+text[:i]+mark), text[i+len(mark):])
	if s.kind == "prompt" {
		s.flag = "--password"
	}
	return shareArg{file: text[:i], password: s, ownPassword: true}, err
}

// maxShareFile bounds what is read of a file that is called a share or a
// wrapped key; both have a few kilobytes at most.
const maxShareFile = 1 << 20

// readSmall reads a whole file that should be small.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxShareFile {
		return nil, fmt.Errorf("%s: %w: %d bytes is too long for a share or a wrapped key", path, dkek.ErrFormat, info.Size())
	}
	return os.ReadFile(path)
}

// openShares opens the shares of --share. The caller wipes them.
func (a *app) openShares(ctx context.Context) ([]*dkek.Share, error) {
	for _, s := range a.flags.shareArgs {
		if s.err != nil {
			return nil, s.err
		}
		if !dkek.IsPBE(s.content) {
			return nil, failf("not-a-share", "`hsmbackup dkek check "+shellQuoted(s.file)+"` says what it is; shares are made by `hsmbackup dkek create` or `sc-hsm-tool --create-dkek-share`", "%s is no share file: it does not begin with Salted__", s.file)
		}
	}
	shares, errs, err := a.openPBEs(ctx, a.flags.shareArgs)
	if err != nil {
		return nil, err
	}
	for i, err := range errs {
		if err != nil {
			wipeShares(shares)
			return nil, fmt.Errorf("%s: %w", a.flags.shareArgs[i].file, err)
		}
	}
	return shares, nil
}

// openPBEs opens share files that were read: those with sheets, and the others
// side by side, after all passwords were read. The same file twice is refused
// before any derivation, and sheets that do not open their file end it all.
func (a *app) openPBEs(ctx context.Context, args []shareArg) ([]*dkek.Share, []error, error) {
	for i := range args {
		for j := range i {
			if string(args[i].content) == string(args[j].content) {
				return nil, nil, failf("duplicate-share", "give each share once; all of them are needed", "%s and %s are %s", args[j].file, args[i].file, dkek.ErrDuplicateShare)
			}
		}
	}
	var (
		files, passwords [][]byte
		places           []int
		kept             []*secret.Bytes
	)
	defer func() {
		for _, b := range kept {
			b.Wipe()
		}
	}()
	for i, s := range args {
		if len(s.sheets) > 0 {
			continue
		}
		b, err := a.readSecret(ctx, s.password, "password of "+s.file, false)
		if err != nil {
			return nil, nil, err
		}
		kept = append(kept, b)
		files, passwords, places = append(files, s.content), append(passwords, b.Bytes()), append(places, i)
	}
	shares, errs := make([]*dkek.Share, len(args)), make([]error, len(args))
	for i, s := range args {
		if len(s.sheets) == 0 {
			continue
		}
		var sheets *failure
		if shares[i], errs[i] = a.openThreshold(ctx, s); errors.As(errs[i], &sheets) {
			wipeShares(shares)
			return nil, nil, errs[i]
		}
	}
	if len(files) > 0 {
		what := "opening " + filepath.Base(args[places[0]].file)
		if len(files) > 1 {
			what = fmt.Sprintf("opening %d shares", len(files))
		}
		opened, failed := dkek.OpenPBEs(ctx, files, passwords, a.derivation(what))
		a.progress.Close()
		for j, i := range places {
			shares[i], errs[i] = opened[j], failed[j]
		}
	}
	if err := ctx.Err(); err != nil {
		wipeShares(shares)
		return nil, nil, err
	}
	return shares, errs, nil
}

func wipeShares(shares []*dkek.Share) {
	for _, s := range shares {
		s.Wipe()
	}
}

// openKey opens the shares of --share and puts the recovery key together. The
// caller wipes both.
func (a *app) openKey(ctx context.Context) (*dkek.Key, []*dkek.Share, error) {
	shares, err := a.openShares(ctx)
	if err != nil {
		return nil, nil, err
	}
	key, err := dkek.Combine(shares...)
	if err != nil {
		wipeShares(shares)
		return nil, nil, err
	}
	return key, shares, nil
}
