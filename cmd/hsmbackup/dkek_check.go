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

Without a share, wrapped keys are only looked at: structure, and the KCV that
they are under. With shares and wrapped keys together, the private keys are open
in this computer's memory.`,
		Example: `  hsmbackup dkek check share1.pbe
  hsmbackup dkek check share1.pbe share2.pbe,password=prompt key1.bin key2.bin
  hsmbackup dkek check threshold.pbe alice.txt bob.txt
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
		a.dropEnvironment(s.password)
		named = append(named, s)
	}
	named, err := withSheets(named)
	if err != nil {
		return err
	}
	var shares, others []checkedFile
	unread := 0
	for _, s := range named {
		f := checkedFile{arg: s, content: s.content, err: s.err}
		switch {
		case f.err != nil:
			unread++
			others = append(others, f)
		case dkek.IsPBE(f.content):
			shares = append(shares, f)
		default:
			others = append(others, f)
		}
	}
	if unread == len(named) {
		return others[0].err
	}

	doc := jsonDKEKCheck{Shares: []jsonShare{}, Wrapped: []jsonWrapped{}}
	exits := exitSet{}
	key, err := a.checkShares(ctx, shares, &doc, &exits)
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
	for _, f := range others {
		if err := ctx.Err(); err != nil {
			return err
		}
		w, exit := checkWrapped(f, key)
		doc.Wrapped = append(doc.Wrapped, w)
		exits.add(exit)
	}
	if key != nil && doc.Complete {
		if err := a.shareSeen(key, "dkek check"); err != nil {
			a.note("not recorded that these shares were seen: %s", describe(err, false).message)
		}
	}
	if a.flags.json {
		if err := a.document(doc); err != nil {
			return err
		}
	} else {
		a.printDKEKCheck(doc)
	}
	return exits.outcome(dkekCheckSummary(doc))
}

// checkShares opens the shares and puts the key together; nil if that cannot
// be. A wrong password, a share given twice and a key of zeros end the check.
func (a *app) checkShares(ctx context.Context, files []checkedFile, doc *jsonDKEKCheck, exits *exitSet) (*dkek.Key, error) {
	if len(files) == 0 {
		return nil, nil
	}
	// Files that are no share after all need no password.
	var whole []checkedFile
	for _, f := range files {
		if n := len(f.content); n != dkek.PBESize {
			doc.Shares = append(doc.Shares, jsonShare{File: f.arg.file, Kind: f.arg.kind(), Reason: fmt.Sprintf("cut short or grown: a share file has %d bytes, this one %d", dkek.PBESize, n)})
			exits.add(exitDamaged)
			continue
		}
		whole = append(whole, f)
	}
	if len(whole) == 0 {
		return nil, nil
	}
	args := make([]shareArg, len(whole))
	for i, f := range whole {
		args[i] = f.arg
	}
	shares, errs, err := a.openPBEs(ctx, args)
	if err != nil {
		return nil, err
	}
	defer wipeShares(shares)
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
	for _, s := range doc.Shares {
		if !s.OK {
			return nil, nil
		}
	}
	key, err := dkek.Combine(shares...)
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
		w.Reason = describe(f.err, false).message
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
		if errors.Is(err, dkek.ErrOtherKey) {
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

func (a *app) printDKEKCheck(doc jsonDKEKCheck) {
	var rows [][]string
	for _, s := range doc.Shares {
		verdict := "good"
		if !s.OK {
			verdict = "BAD: " + s.Reason
		}
		what := "share"
		if s.Kind == "threshold" {
			what = "share, by its sheets"
		}
		rows = append(rows, []string{s.File, what, verdict})
	}
	a.table(rows)
	if doc.KCV != "" {
		a.printf("recovery key KCV %s, from %s", doc.KCV, count(len(doc.Shares), "share"))
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
// key were at hand, and renews the anchor.
func (a *app) shareSeen(key *dkek.Key, origin string) error {
	cat, err := a.existingCatalog()
	if err != nil || cat == nil {
		return err
	}
	defer closeCatalog(cat)
	err = backup.RecordShares(cat, key, true, origin)
	a.changed = a.changed || err == nil
	return err
}
