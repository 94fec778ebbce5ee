package custody

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

// Opener opens what was given.
type Opener struct {
	Desk Desk
	// Identities are files with keys that open what is sealed with age.
	Identities []string
	// Password reads the one of what has none of its own.
	Password Password
}

// Material is what was given: files that hold a whole share each, still closed,
// and parts, by the set that they are of.
type Material struct {
	Sets []*AtHand

	opener *Opener
	files  []Given
	// registered are the sets that the catalog knows, found what is wrong with them.
	registered []store.PartSet
	found      []store.Finding
}

// Count is the number of shares that this gives.
func (m *Material) Count() int { return len(m.files) + len(m.Sets) }

// Wipe clears the parts; of nil it does nothing.
func (m *Material) Wipe() {
	if m == nil {
		return
	}
	for _, s := range m.Sets {
		s.wipe()
	}
}

// SetNames are the sets of the parts, for a record.
func (m *Material) SetNames() []string {
	var list []string
	for _, s := range m.Sets {
		list = append(list, s.Set)
	}
	return list
}

// Gather sorts what was given by its content, has parts typed that are to be,
// and brings parts together. What it needs is asked for here, but for passwords
// of share files. The catalog, which may be nil, knows whose the parts are.
func (o *Opener) Gather(ctx context.Context, cat *store.Catalog, given []Given) (*Material, error) {
	m := &Material{opener: o, registered: registeredSets(cat, o.Desk)}
	if err := m.gather(ctx, given); err != nil {
		m.Wipe()
		return nil, err
	}
	return m, nil
}

func (m *Material) gather(ctx context.Context, given []Given) error {
	typed := 0
	for _, g := range given {
		if g.Typed {
			typed++
			continue
		}
		if g.err != nil {
			return g.err
		}
		g, err := m.opener.unseal(ctx, g)
		if err != nil {
			return fmt.Errorf("%s: %w", g.File, err)
		}
		switch {
		case dkek.IsPBE(g.content):
			m.files = append(m.files, g)
		case dkek.IsPart(g.content):
			p, err := m.opener.partOf(g)
			if err != nil {
				return fmt.Errorf("%s: %w", g.File, err)
			}
			if err := m.add(p, g.File); err != nil {
				return err
			}
		default:
			return failf("not-a-share", "`hsmbackup dkek check "+harmless.Word(g.File)+"` says what it is; shares are made by `hsmbackup dkek create` or `sc-hsm-tool --create-dkek-share`", "%s is no share: neither a share file (.pbe) nor a custodian's part", g.File)
		}
	}
	for range typed {
		if err := m.typeSet(ctx, false); err != nil {
			return err
		}
	}
	return m.bringTogether()
}

// unseal decrypts what was sealed with age, by the identities or a password;
// anything else stays as it is.
func (o *Opener) unseal(ctx context.Context, g Given) (Given, error) {
	if !dkek.IsAge(g.content) {
		return g, nil
	}
	var plain []byte
	var err error
	if dkek.AgeNeedsPassword(g.content) {
		password, readErr := g.Password(ctx, "password of "+g.File)
		if readErr != nil {
			return g, readErr
		}
		plain, err = dkek.OpenAge(g.content, nil, password.Bytes())
		password.Wipe()
		g.Password, g.OwnPassword = o.Password, false
	} else {
		plain, err = o.openByIdentity(g.content)
	}
	if err != nil {
		return g, err
	}
	g.content, g.sealed = plain, true
	return g, nil
}

// openByIdentity tries the identity files, one after the other.
func (o *Opener) openByIdentity(sealed []byte) ([]byte, error) {
	if len(o.Identities) == 0 {
		return nil, usagef("--identity FILE names the file with the key that opens it: an identity of age, or an OpenSSH private key", "it is sealed to somebody's key")
	}
	var last error
	for _, path := range o.Identities {
		identity, err := ReadFile(path)
		if err != nil {
			return nil, err
		}
		plain, err := dkek.OpenAge(sealed, identity, nil)
		clear(identity)
		if err == nil || !errors.Is(err, dkek.ErrWrongPassword) {
			return plain, err
		}
		last = failf("wrong-identity", "give the identity that it was sealed to; if it is the right one, the file is damaged: try another copy of it", "not sealed to the key in %s, or its header was altered", strings.Join(o.Identities, " or "))
	}
	return nil, last
}

// Open opens the shares and brings parts together. Where they are all that a
// recovery key has, its KCV is compared with what the parts say. That parts were
// here is noted in the catalog, if it can be written. The caller wipes the
// shares.
func (m *Material) Open(ctx context.Context, cat *store.Catalog) ([]*dkek.Share, error) {
	shares, errs, err := m.opener.OpenFiles(ctx, m.files)
	if err != nil {
		return nil, err
	}
	for i, err := range errs {
		if err != nil {
			dkek.WipeShares(shares)
			return nil, fmt.Errorf("%s: %w", m.files[i].File, err)
		}
	}
	for _, s := range m.Sets {
		share, err := dkek.CombineParts(s.Parts)
		if err != nil {
			dkek.WipeShares(shares)
			return nil, err
		}
		shares = append(shares, share)
	}
	if err := m.checkKCV(shares); err != nil {
		dkek.WipeShares(shares)
		return nil, err
	}
	m.RecordUse(cat)
	return shares, nil
}

// OpenKey opens the shares and puts the recovery key together, which must be the
// one that parts say they are of. The caller wipes both.
func (m *Material) OpenKey(ctx context.Context, cat *store.Catalog) (*dkek.Key, []*dkek.Share, error) {
	shares, err := m.Open(ctx, cat)
	if err != nil {
		return nil, nil, err
	}
	key, err := m.Key(shares)
	if err != nil {
		dkek.WipeShares(shares)
		return nil, nil, err
	}
	return key, shares, nil
}

// OpenFiles opens share files that were read: those with sheets, and the others
// side by side, after all passwords were read. The same file twice is refused
// before any derivation, and sheets that do not open their file end it all.
func (o *Opener) OpenFiles(ctx context.Context, given []Given) ([]*dkek.Share, []error, error) {
	for i := range given {
		for j := range i {
			if string(given[i].content) == string(given[j].content) {
				return nil, nil, failf("duplicate-share", "give each share once; all of them are needed", "%s and %s are %s", given[j].File, given[i].File, dkek.ErrDuplicateShare)
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
	for i, g := range given {
		if g.BySheets() {
			continue
		}
		b, err := g.Password(ctx, "password of "+g.File)
		if err != nil {
			return nil, nil, err
		}
		kept = append(kept, b)
		files, passwords, places = append(files, g.content), append(passwords, b.Bytes()), append(places, i)
	}
	shares, errs := make([]*dkek.Share, len(given)), make([]error, len(given))
	for i, g := range given {
		if !g.BySheets() {
			continue
		}
		var wrong *fail.Error
		if shares[i], errs[i] = g.openThreshold(ctx, o.Desk); errors.As(errs[i], &wrong) {
			dkek.WipeShares(shares)
			return nil, nil, errs[i]
		}
	}
	if len(files) > 0 {
		what := "opening " + filepath.Base(given[places[0]].File)
		if len(files) > 1 {
			what = fmt.Sprintf("opening %d shares", len(files))
		}
		opened, failed := o.openPBEs(ctx, files, passwords, what)
		for j, i := range places {
			shares[i], errs[i] = opened[j], failed[j]
		}
	}
	if err := ctx.Err(); err != nil {
		dkek.WipeShares(shares)
		return nil, nil, err
	}
	return shares, errs, nil
}

// openPBEs opens share files with their passwords as they stand, and those that
// this does not open without the blanks at the end: no try is lost by that.
func (o *Opener) openPBEs(ctx context.Context, files, passwords [][]byte, what string) ([]*dkek.Share, []error) {
	opened, failed := dkek.OpenPBEs(ctx, files, passwords, o.Desk.Derivation(what))
	o.Desk.Derived()
	for i, password := range passwords {
		short := dkek.WithoutBlanks(password)
		if len(short) == 0 || len(short) == len(password) || !errors.Is(failed[i], dkek.ErrWrongPassword) {
			continue
		}
		again, err := dkek.OpenPBE(ctx, files[i], short, o.Desk.Derivation(what+" without the blanks at the password's end"))
		o.Desk.Derived()
		if err == nil {
			opened[i], failed[i] = again, nil
		}
	}
	return opened, failed
}

// partOf reads the part that a file holds, and forgets the text.
func (o *Opener) partOf(g Given) (*dkek.Part, error) {
	defer clear(g.content)
	if !g.sealed {
		o.Desk.Readable(g.File)
	}
	return dkek.ParsePart(g.content)
}

// part opens one custodian's part; title is said where it is typed, also after
// what it says of a file that holds none.
func (o *Opener) part(ctx context.Context, g *Given, title, also string) (*dkek.Part, error) {
	if g.Typed {
		p, err := TypePart(ctx, o.Desk, title, "", nil)
		if err == nil && p == nil {
			err = failf("no-part", "", "no part was typed")
		}
		return p, err
	}
	g.read()
	if g.err != nil {
		return nil, g.err
	}
	opened, err := o.unseal(ctx, *g)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.File, err)
	}
	defer clear(opened.content)
	if !dkek.IsPart(opened.content) {
		return nil, failf("not-a-part", "`hsmbackup dkek check "+harmless.Word(g.File)+"` says what it is"+also, "%s is no custodian's part", g.File)
	}
	p, err := dkek.ParsePart(opened.content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.File, err)
	}
	return p, nil
}
