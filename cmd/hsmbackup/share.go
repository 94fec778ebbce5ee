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
	"hsmbackup/store"
)

// shareArg is the value of --share: a file, and where its password is read.
type shareArg struct {
	file     string
	password source
	// ownPassword: the source stands with the file.
	ownPassword bool
	// typed: a part that is typed, in place of a file.
	typed bool
	// sheets open a threshold share file of sc-hsm-tool in place of a password.
	sheets []*dkek.Sheet
	// sealed: the file was sealed with age, and content is what was in it.
	sealed bool

	content []byte // once read
	err     error
}

// parseShare reads FILE[,password=SOURCE], the value of a flag or, where that is
// empty, an argument. Without a source of its own the password is that of
// --password. A flag takes "prompt" too.
func (a *app) parseShare(flag, text string) (shareArg, error) {
	const mark = ",password="
	if flag != "" && text == "prompt" {
		return shareArg{file: typedPart, typed: true}, nil
	}
	i := strings.LastIndex(text, mark)
	if i < 0 {
		return shareArg{file: text, password: a.flags.password.source}, nil
	}
	s, err := parseSource(strings.TrimSpace(flag+" "+text[:i]+mark), text[i+len(mark):])
	if s.Kind == "prompt" {
		s.Flag = "--password"
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

// material is what --share brought: files that hold a whole share each, still
// closed, and parts, by the set that they are of.
type material struct {
	files []shareArg
	sets  []*partSet
	// registered are the sets that the catalog knows.
	registered []store.PartSet
}

// count is the number of shares that this gives.
func (m *material) count() int { return len(m.files) + len(m.sets) }

func (m *material) wipe() {
	if m == nil {
		return
	}
	for _, s := range m.sets {
		s.wipe()
	}
}

// setNames are the sets of the parts, for a record.
func (m *material) setNames() []string {
	var list []string
	for _, s := range m.sets {
		list = append(list, s.Set)
	}
	return list
}

// gather sorts what --share brought by its content, has parts typed that are to
// be, and brings parts together. It is done once; what it needs is asked for
// here, but for passwords of share files. The catalog, which may be nil, knows
// whose the parts are.
func (a *app) gather(ctx context.Context, cat *store.Catalog) (*material, error) {
	if a.gathered != nil {
		return a.gathered, nil
	}
	m := &material{registered: a.registeredSets(cat)}
	if err := a.gatherInto(ctx, m); err != nil {
		m.wipe()
		return nil, err
	}
	a.gathered = m // wiped when the program ends
	return m, nil
}

func (a *app) gatherInto(ctx context.Context, m *material) error {
	typed := 0
	for _, s := range a.flags.shareArgs {
		if s.typed {
			typed++
			continue
		}
		if s.err != nil {
			return s.err
		}
		s, err := a.unseal(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.file, err)
		}
		switch {
		case dkek.IsPBE(s.content):
			m.files = append(m.files, s)
		case dkek.IsPart(s.content):
			a.warnReadable(s)
			p, err := s.parsePart()
			if err != nil {
				return fmt.Errorf("%s: %w", s.file, err)
			}
			if err := m.add(p, s.file); err != nil {
				return err
			}
		default:
			return failf("not-a-share", "`hsmbackup dkek check "+shellQuoted(s.file)+"` says what it is; shares are made by `hsmbackup dkek create` or `sc-hsm-tool --create-dkek-share`", "%s is no share: neither a share file (.pbe) nor a custodian's part", s.file)
		}
	}
	for range typed {
		if err := a.typeSet(ctx, m, false); err != nil {
			return err
		}
	}
	return a.bringTogether(m)
}

// parsePart reads the part that an argument holds, and forgets the text.
func (s *shareArg) parsePart() (*dkek.Part, error) {
	defer clear(s.content)
	return dkek.ParsePart(s.content)
}

// warnReadable says of a part's file that others can read it.
func (a *app) warnReadable(s shareArg) {
	if info, err := os.Stat(s.file); err == nil && !s.sealed {
		a.secrets.WarnMode(s.file, info)
	}
}

// unseal decrypts what was sealed with age, by the identities of --identity or
// the password; anything else stays as it is.
func (a *app) unseal(ctx context.Context, s shareArg) (shareArg, error) {
	if !dkek.IsAge(s.content) {
		return s, nil
	}
	var plain []byte
	var err error
	if dkek.AgeNeedsPassword(s.content) {
		password, readErr := a.readSecret(ctx, s.password, "password of "+s.file, false)
		if readErr != nil {
			return s, readErr
		}
		plain, err = dkek.OpenAge(s.content, nil, password.Bytes())
		password.Wipe()
		s.password, s.ownPassword = a.flags.password.source, false
	} else {
		plain, err = a.openByIdentity(s.content)
	}
	if err != nil {
		return s, err
	}
	s.content, s.sealed = plain, true
	return s, nil
}

// openByIdentity tries the identity files of --identity, one after the other.
func (a *app) openByIdentity(sealed []byte) ([]byte, error) {
	if len(a.flags.identities) == 0 {
		return nil, usagef("--identity FILE names the file with the key that opens it: an identity of age, or an OpenSSH private key", "it is sealed to somebody's key")
	}
	var last error
	for _, path := range a.flags.identities {
		identity, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		plain, err := dkek.OpenAge(sealed, identity, nil)
		clear(identity)
		if err == nil || !errors.Is(err, dkek.ErrWrongPassword) {
			return plain, err
		}
		last = failf("wrong-identity", "give the identity that it was sealed to; if it is the right one, the file is damaged: try another copy of it", "not sealed to the key in %s, or its header was altered", strings.Join(a.flags.identities, " or "))
	}
	return nil, last
}

// openShares opens the shares of --share and brings parts together. Where they
// are all that a recovery key has, its KCV is compared with what the parts say.
// That parts were here is noted in the catalog, if it can be written. The caller
// wipes the shares.
func (a *app) openShares(ctx context.Context, cat *store.Catalog) ([]*dkek.Share, error) {
	m, err := a.gather(ctx, cat)
	if err != nil {
		return nil, err
	}
	shares, errs, err := a.openPBEs(ctx, m.files)
	if err != nil {
		return nil, err
	}
	for i, err := range errs {
		if err != nil {
			wipeShares(shares)
			return nil, fmt.Errorf("%s: %w", m.files[i].file, err)
		}
	}
	for _, s := range m.sets {
		share, err := dkek.CombineParts(s.Parts)
		if err != nil {
			wipeShares(shares)
			return nil, err
		}
		shares = append(shares, share)
	}
	if err := m.checkKCV(shares); err != nil {
		wipeShares(shares)
		return nil, err
	}
	a.recordUse(cat, m)
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

// openKey opens the shares of --share and puts the recovery key together, which
// must be the one that parts say they are of. The caller wipes both.
func (a *app) openKey(ctx context.Context, cat *store.Catalog) (*dkek.Key, []*dkek.Share, error) {
	shares, err := a.openShares(ctx, cat)
	if err != nil {
		return nil, nil, err
	}
	key, err := a.gathered.key(shares)
	if err != nil {
		wipeShares(shares)
		return nil, nil, err
	}
	return key, shares, nil
}
