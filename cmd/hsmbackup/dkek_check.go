package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

func newDKEKCheckCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE[,password=SOURCE]...",
		Short: "check shares and wrapped keys",
		Long: `Opens share files and says which recovery key (KCV) they make. Wrapped keys
(.bin, .wky of sc-hsm-tool and the Key Manager) are opened with it, and each
private key is compared with the certificate, request and description that lie
beside it. What a file is, is told by its content. Files with the sheets that
sc-hsm-tool --pwd-shares-threshold prints follow the share file that they open,
which then needs no password.

Parts of custodians are checked each by itself, also a single one, and brought
together where enough of a set are here; who is missing is named. Parts that are
sealed with age are opened with --identity or a password.

Without a share, wrapped keys are only looked at: structure, and the KCV that
they are under. With shares and wrapped keys together, the private keys are open
in this computer's memory.`,
		Example: `  hsmbackup dkek check share1.pbe
  hsmbackup dkek check share1.pbe share2.pbe,password=prompt key1.bin key2.bin
  hsmbackup dkek check threshold.pbe alice.txt bob.txt
  hsmbackup dkek check parts/alice.txt
  hsmbackup dkek check alice.txt.age bob.txt --identity key.txt
  hsmbackup dkek check key1.bin`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && len(a.flags.shares) == 0 {
				return usagef(seeHelp(cmd), "%s needs a share or a wrapped key", verb(cmd))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.dkekCheck(cmd.Context(), args) },
	}
	uses(cmd, useShare, useCatalog)
	return cmd
}

// checkedFile is one file that dkek check was given.
type checkedFile struct {
	arg     shareArg
	content []byte
	err     error // it could not be read
}

func (a *app) dkekCheck(ctx context.Context, args []string) error {
	named := append([]shareArg(nil), a.flags.shareArgs...)
	for _, text := range args {
		s, err := a.parseShare("", text)
		if err != nil {
			return err
		}
		a.secrets.DropEnvironment(s.password)
		named = append(named, s)
	}
	named, err := withSheets(named)
	if err != nil {
		return err
	}
	unread := 0
	for _, s := range named {
		if s.err != nil {
			unread++
		}
	}
	if len(named) > 0 && unread == len(named) {
		return named[0].err
	}
	doc := jsonDKEKCheck{Shares: []jsonShare{}, Wrapped: []jsonWrapped{}}
	exits := exitSet{}
	m, others, err := a.sortChecked(ctx, named, &doc, &exits)
	if err != nil {
		return err
	}
	key, err := a.checkShares(ctx, m, &doc, &exits)
	if err != nil {
		return err
	}
	defer key.Wipe()
	wrapped := 0
	for _, f := range others {
		if f.err == nil {
			wrapped++
		}
	}
	if key != nil && wrapped > 0 {
		a.note("private keys are open in this computer's memory while they are checked")
	}
	opened := map[store.Hash]bool{}
	for _, f := range others {
		if err := ctx.Err(); err != nil {
			return err
		}
		w, exit := checkWrapped(f, key)
		if c, err := dkek.ParseContainer(f.content); err == nil && key != nil {
			opened[store.HashOf(c.Blob)] = true
		}
		doc.Wrapped = append(doc.Wrapped, w)
		exits.add(exit)
	}
	if key != nil && doc.Complete {
		if err := a.shareSeen(key, "dkek check", m); err != nil {
			a.note("not recorded that these shares were seen: %s", describe(err, false).Message)
		}
		if err := a.noteOpened(key, opened); err != nil {
			a.note("not recorded which keys were opened: %s", describe(err, false).Message)
		}
	}
	if a.flags.json {
		if err := a.document(doc); err != nil {
			return err
		}
	} else {
		a.printDKEKCheck(doc, m)
	}
	return exits.outcome(dkekCheckSummary(doc))
}

// sortChecked tells what the files are, and judges each part by itself. What is
// no share is given back. A password or identity that does not open a file and a
// part given twice end the check.
func (a *app) sortChecked(ctx context.Context, named []shareArg, doc *jsonDKEKCheck, exits *exitSet) (*material, []checkedFile, error) {
	m := &material{registered: a.knownSets()}
	a.gathered = m // wiped when the program ends
	var others []checkedFile
	typed := 0
	for _, s := range named {
		if s.typed {
			typed++
			continue
		}
		if s.err != nil {
			others = append(others, checkedFile{arg: s, err: s.err})
			continue
		}
		bad := func(kind string, err error) error {
			if !errors.Is(err, dkek.ErrFormat) && !errors.Is(err, dkek.ErrTampered) && !errors.Is(err, dkek.ErrMismatch) {
				return fmt.Errorf("%s: %w", s.file, err)
			}
			doc.Shares = append(doc.Shares, jsonShare{File: s.file, Kind: kind, Reason: err.Error()})
			exits.add(exitDamaged)
			return nil
		}
		s, err := a.unseal(ctx, s)
		if err != nil {
			if err := bad("age", err); err != nil {
				return nil, nil, err
			}
			continue
		}
		kind := s.kind()
		switch {
		case dkek.IsPBE(s.content):
			m.files = append(m.files, s)
		case dkek.IsPart(s.content):
			a.warnReadable(s)
			p, err := s.parsePart()
			if err == nil {
				err = m.add(p, s.file)
			}
			if err == nil {
				doc.Shares = append(doc.Shares, jsonShare{File: s.file, Kind: kind, OK: true, what: partName(p, findSet(m.registered, p.Set))})
			} else if err := bad(kind, err); err != nil {
				return nil, nil, err
			}
		case s.sealed:
			clear(s.content)
			if err := bad(kind, fmt.Errorf("%w: neither a part nor a share file is in it", dkek.ErrFormat)); err != nil {
				return nil, nil, err
			}
		default:
			others = append(others, checkedFile{arg: s, content: s.content})
		}
	}
	for range typed {
		if err := a.typeSet(ctx, m, true); err != nil {
			return nil, nil, err
		}
		for _, p := range m.sets[len(m.sets)-1].Parts {
			if known := findSet(m.registered, p.Set); m.sets[len(m.sets)-1].files[p.Index] == typedPart {
				doc.Shares = append(doc.Shares, jsonShare{File: typedPart, Kind: "part", OK: true, what: partName(p, known)})
			}
		}
	}
	return m, others, nil
}

// knownSets are those of the catalog, if there is one that can be read.
func (a *app) knownSets() []store.PartSet {
	cat, err := a.lookCatalog()
	if err != nil {
		a.note("the catalog does not tell whose the parts are: %s", describe(err, false).Message)
	}
	defer closeCatalog(cat)
	return a.registeredSets(cat)
}

// checkShares opens the shares and puts the key together; nil if that cannot
// be. A wrong password, a share given twice and a key of zeros end the check.
func (a *app) checkShares(ctx context.Context, m *material, doc *jsonDKEKCheck, exits *exitSet) (*dkek.Key, error) {
	if m.count() == 0 {
		return nil, nil
	}
	// Files that are no share after all need no password.
	var args []shareArg
	for _, s := range m.files {
		if n := len(s.content); n != dkek.PBESize {
			doc.Shares = append(doc.Shares, jsonShare{File: s.file, Kind: s.kind(), Reason: fmt.Sprintf("cut short or grown: a share file has %d bytes, this one %d", dkek.PBESize, n)})
			exits.add(exitDamaged)
			continue
		}
		args = append(args, s)
	}
	shares, errs, err := a.openPBEs(ctx, args)
	if err != nil {
		return nil, err
	}
	defer func() { wipeShares(shares) }()
	for i, err := range errs {
		s := jsonShare{File: args[i].file, Kind: args[i].kind(), OK: err == nil}
		switch {
		case errors.Is(err, dkek.ErrFormat):
			s.Reason = err.Error()
			exits.add(exitDamaged)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", args[i].file, err)
		}
		doc.Shares = append(doc.Shares, s)
	}
	for _, s := range m.sets {
		doc.Sets = append(doc.Sets, s.json())
		if s.Missing() > 0 {
			continue
		}
		share, err := dkek.CombineParts(s.Parts)
		if err != nil {
			return nil, err
		}
		shares = append(shares, share)
	}
	for _, s := range doc.Shares {
		if !s.OK {
			return nil, nil
		}
	}
	if len(shares) < m.count() || m.lacksShares() != nil {
		return nil, nil
	}
	if err := a.bringTogether(m); err != nil {
		return nil, err
	}
	key, err := m.key(shares)
	if err != nil {
		return nil, err
	}
	doc.KCV, doc.Complete = key.KCV().String(), true
	return key, nil
}

// checkWrapped looks at one wrapped key and opens it if there is a key.
func checkWrapped(f checkedFile, key *dkek.Key) (jsonWrapped, int) {
	w := jsonWrapped{File: f.arg.file, Proof: store.ProofIntact}
	if f.err != nil {
		w.Reason = describe(f.err, false).Message
		return w, exitIncomplete
	}
	c, err := dkek.ParseContainer(f.content)
	if err != nil {
		w.Reason = "neither a share nor a wrapped key: " + err.Error()
		return w, exitDamaged
	}
	b, err := dkek.ParseBlob(c.Blob)
	if err != nil {
		w.Reason = err.Error()
		return w, exitDamaged
	}
	w.KCV, w.Type = b.KCV.String(), b.Type.Kind().String()
	if d, err := pkcs15.ParseKey(c.Description); err == nil {
		w.Label, w.ID = d.Label, hex.EncodeToString(d.ID)
		switch d.Kind {
		case pkcs15.RSA:
			w.Type = pubkey.RSAType(d.Bits)
		case pkcs15.AES:
			w.Type = pubkey.AESType(d.Bits)
		}
	}
	if len(c.Trailing) > 0 {
		w.Reason = fmt.Sprintf("%d bytes behind the wrapped key that no tool writes", len(c.Trailing))
		return w, exitDamaged
	}
	if key == nil {
		w.OK = true
		return w, exitOK
	}
	w.Proof = store.ProofOpened
	private, err := key.Open(b)
	if err != nil {
		w.Reason = err.Error()
		if errors.Is(err, dkek.ErrOtherKey) || errors.Is(err, dkek.ErrCurve) {
			return w, exitIncomplete
		}
		return w, exitDamaged
	}
	defer private.Wipe()
	w.Type = private.Type()
	match, public, err := dkek.MatchKey(private, c.Description, c.Certificate)
	if err != nil {
		w.Reason = err.Error()
		return w, exitDamaged
	}
	if public != nil {
		w.PublicKey = string(public.PEM())
	}
	w.Matched, w.OK = string(match), true
	return w, exitOK
}

func (a *app) printDKEKCheck(doc jsonDKEKCheck, m *material) {
	var rows [][]string
	for _, s := range doc.Shares {
		verdict := "good"
		if !s.OK {
			verdict = "BAD: " + s.Reason
		}
		what := "share"
		switch {
		case s.what != "":
			what = s.what
		case s.Kind == "threshold":
			what = "share, by its sheets"
		case s.Kind == "part":
			what = "part"
		}
		if s.Kind == "age" {
			what += ", sealed"
		}
		rows = append(rows, []string{s.File, what, verdict})
	}
	a.table(rows)
	for _, s := range m.sets {
		a.printf("%s: %s", terminal.Printable(s.describe()), terminal.Printable(s.state()))
		if !s.KCV.IsZero() && !doc.Complete {
			a.printf("it is of the recovery key %s", s.KCV)
		}
	}
	if doc.KCV != "" {
		a.printf("recovery key KCV %s, from %s", doc.KCV, count(m.count(), "share"))
	} else if err := m.lacksShares(); err != nil {
		a.printf("%s", err)
	}
	rows = nil
	for _, w := range doc.Wrapped {
		verdict := "not opened: no share was given"
		switch {
		case !w.OK && w.KCV != "" && w.KCV != doc.KCV && doc.KCV != "":
			verdict = "NOT OPENED: " + w.Reason
		case !w.OK:
			verdict = "BAD: " + w.Reason
		case w.Proof == store.ProofOpened:
			verdict = "opened, matches its " + w.Matched
			if w.Matched == string(dkek.MatchSelf) {
				verdict = "opened, agrees with itself"
			}
		}
		rows = append(rows, []string{w.File, w.Type, quoted(w.Label), "ID " + w.ID, "KCV " + w.KCV, verdict})
	}
	a.table(rows)
}

func dkekCheckSummary(doc jsonDKEKCheck) string {
	var bad []string
	for _, s := range doc.Shares {
		if !s.OK {
			bad = append(bad, s.File)
		}
	}
	for _, w := range doc.Wrapped {
		if !w.OK {
			bad = append(bad, w.File)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d files are not good: %s", len(bad), len(doc.Shares)+len(doc.Wrapped), strings.Join(bad, ", "))
}

// shareSeen records in the catalog, if there is one, that shares giving this
// key were at hand, and whose parts, and renews the anchor.
func (a *app) shareSeen(key *dkek.Key, origin string, m *material) error {
	cat, err := a.existingCatalog()
	if err != nil || cat == nil {
		return err
	}
	defer closeCatalog(cat)
	a.recordUse(cat, m)
	err = backup.RecordShares(cat, key, true, origin)
	a.changed = a.changed || err == nil
	return err
}

// noteOpened records in the catalog, if there is one, that keys of its snapshots
// were open on this computer.
func (a *app) noteOpened(key *dkek.Key, blobs map[store.Hash]bool) error {
	cat, err := a.existingCatalog()
	if err != nil || cat == nil {
		return err
	}
	defer closeCatalog(cat)
	return backup.RecordOpened(cat, key, blobs)
}
