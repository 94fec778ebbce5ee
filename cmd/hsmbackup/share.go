package main

import (
	"context"
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
}

// parseShare reads FILE[,password=SOURCE]. Without a source of its own the
// password is that of --password.
func (a *app) parseShare(text string) (shareArg, error) {
	const mark = ",password="
	i := strings.LastIndex(text, mark)
	if i < 0 {
		return shareArg{file: text, password: a.flags.password.source}, nil
	}
	s, err := parseSource("--share "+text[:i]+mark, text[i+len(mark):])
	if s.kind == "prompt" {
		s.flag = "--password"
	}
	return shareArg{text[:i], s}, err
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

// openShares reads and opens the shares of --share. The caller wipes them.
func (a *app) openShares(ctx context.Context) ([]*dkek.Share, error) {
	files := make([][]byte, len(a.flags.shareArgs))
	for i, s := range a.flags.shareArgs {
		b, err := readSmall(s.file)
		if err != nil {
			return nil, err
		}
		if !dkek.IsPBE(b) {
			return nil, failf("not-a-share", "", "%s is no share file: it does not begin with Salted__", s.file)
		}
		files[i] = b
	}
	shares, errs, err := a.openPBEs(ctx, a.flags.shareArgs, files)
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

// openPBEs opens share files side by side, after all passwords were read. The
// same file twice is refused before any derivation.
func (a *app) openPBEs(ctx context.Context, args []shareArg, files [][]byte) ([]*dkek.Share, []error, error) {
	for i := range files {
		for j := range i {
			if string(files[i]) == string(files[j]) {
				return nil, nil, failf("duplicate-share", "give each share once; all of them are needed", "%s and %s are %s", args[j].file, args[i].file, dkek.ErrDuplicateShare)
			}
		}
	}
	passwords := make([][]byte, len(files))
	var kept []*secret.Bytes
	defer func() {
		for _, b := range kept {
			b.Wipe()
		}
	}()
	for i, s := range args {
		b, err := a.readSecret(ctx, s.password, "password of "+s.file, false)
		if err != nil {
			return nil, nil, err
		}
		kept = append(kept, b)
		passwords[i] = b.Bytes()
	}
	what := "opening " + filepath.Base(args[0].file)
	if len(args) > 1 {
		what = fmt.Sprintf("opening %d shares", len(args))
	}
	shares, errs := dkek.OpenPBEs(ctx, files, passwords, func(done, total uint64) {
		a.progress.Set(what, int64(done), int64(total))
	})
	a.progress.Close()
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
