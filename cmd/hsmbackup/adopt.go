package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/report"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

func newAdoptCommand(a *app) *cobra.Command {
	var noBackup bool
	cmd := &cobra.Command{
		Use:   "adopt FILE...",
		Short: "take wrapped keys of sc-hsm-tool and the Key Manager into the catalog",
		Long: `Takes wrapped keys (.bin, .wky), or all that lie in a folder, into one snapshot
that is marked as adopted. What a file holds is known by its content: it may lack
the description or have the certificate in its place. It says of each which
recovery key (KCV) it is under, which token made the key, and which tokens can
take it back. An unreadable file is named, and the others go on.

With --share the keys are opened on this computer, and each is compared with what
lies beside it. Without, they are taken unproven.

With a token attached it says which of its keys have a file and which have none,
and takes the first snapshot of it, for which the PIN is needed; --no-backup
leaves that out. An adopted snapshot is never the newest of a token: it is
restored by its ID.`,
		Example: `  hsmbackup adopt ssh-ca.bin web.wky
  hsmbackup adopt old-backup/ --share share1.pbe
  hsmbackup adopt old-backup/ --no-backup --token DENK0404144`,
		Args: arguments(1, -1, "a wrapped key or a folder of them"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.adopt(cmd.Context(), args, noBackup) },
	}
	cmd.Flags().BoolVar(&noBackup, "no-backup", false, "compare with the attached token, but take no snapshot of it")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useYes)
	return cmd
}

// The document of adopt --json. proof and matched are as in dkek check; ok
// tells that the key is in the snapshot and proven.
//
//	{"snapshot":{…}|null,"existing":false,"files":[{"file":"…","kept":true,
//	 "same_as":"","reference":0,"label":"…","id":"20","type":"P-256","kcv":"HEX",
//	 "share_seen":true,"public_key":"PEM","made_on":"SERIAL","vouched":true,
//	 "in_snapshots_of":["SERIAL"],"tokens":["SERIAL"],"on_token":0,
//	 "proof":"opened","matched":"request","ok":true,"reason":"","notes":[]}],
//	 "passed_over":0,"token":{"serial":"…","keys":[{…key of status…,"file":"…"}]}|null,
//	 "backup":{…}|null,"head":"WORDS"}
type jsonAdopt struct {
	Snapshot   *report.Snapshot  `json:"snapshot"`
	Existing   bool              `json:"existing"`
	Files      []jsonAdoptedFile `json:"files"`
	PassedOver int               `json:"passed_over"`
	Token      *jsonAdoptToken   `json:"token"`
	Backup     *jsonBackup       `json:"backup"`
	Head       string            `json:"head"`
}

type jsonAdoptedFile struct {
	File      string   `json:"file"`
	Kept      bool     `json:"kept"`
	SameAs    string   `json:"same_as"`
	Reference int      `json:"reference"`
	Label     string   `json:"label"`
	ID        string   `json:"id"`
	Type      string   `json:"type"`
	KCV       string   `json:"kcv"`
	ShareSeen bool     `json:"share_seen"`
	PublicKey string   `json:"public_key"`
	MadeOn    string   `json:"made_on"`
	Vouched   bool     `json:"vouched"`
	Known     []string `json:"in_snapshots_of"`
	Tokens    []string `json:"tokens"`
	OnToken   int      `json:"on_token"` // reference, 0 if it is not there
	Proof     string   `json:"proof"`
	Matched   string   `json:"matched"`
	OK        bool     `json:"ok"`
	Reason    string   `json:"reason"`
	Notes     []string `json:"notes"`
}

type jsonAdoptToken struct {
	Serial string              `json:"serial"`
	Keys   []jsonAdoptTokenKey `json:"keys"`
}

type jsonAdoptTokenKey struct {
	report.Key
	File string `json:"file"` // empty: none holds it
}

func (a *app) adopt(ctx context.Context, args []string, noBackup bool) error {
	files, unread, passedOver, err := wrappedFiles(args)
	if err != nil {
		return err
	}
	for _, arg := range args {
		if backup.ExportedFiles(arg) != nil {
			a.note("%s was written by `hsmbackup export`: `hsmbackup restore --from-export %s` brings back all of it, not its keys alone", arg, shellQuoted(arg))
		}
	}
	if len(files) == 0 {
		if len(unread) > 0 {
			return unread[0].err
		}
		return failf("nothing-to-adopt", "wrapped keys are made by `sc-hsm-tool --wrap-key FILE`", "%s: no wrapped key there", strings.Join(args, ", "))
	}
	path, err := a.catalogPath()
	if err != nil {
		return err
	}
	cat, err := a.openCatalog(path, true)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return named(path, err)
	}
	defer func() { closeCatalog(cat) }()
	t, err := a.tokenIfAny(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	options := backup.AdoptOptions{Progress: a.steps, Program: program()}
	first := false
	if t != nil {
		if options.Inventory, err = backup.Take(ctx, t.card); err != nil {
			return err
		}
		if first, err = firstBackup(cat, options.Inventory); err != nil {
			return err
		}
		first = first && !noBackup
	}
	// Whatever has to be typed, or turns out wrong, comes before any change.
	if len(a.flags.shareArgs) > 0 {
		a.note("private keys are open in this computer's memory while they are compared")
		key, shares, err := a.openKey(ctx, cat)
		if err != nil {
			return err
		}
		defer key.Wipe()
		dkek.WipeShares(shares)
		options.Key = key
	}
	if first {
		if err := a.login(ctx, t); err != nil {
			return err
		}
	}
	if missing && (first || slices.ContainsFunc(files, readable)) {
		if cat, err = a.makeCatalog(); err != nil {
			return err
		}
	}
	r, err := backup.Adopt(ctx, cat, files, options)
	a.progress.Close()
	if err != nil {
		return err
	}
	a.changed = a.changed || r.Snapshot != nil && !r.Existing
	for _, u := range unread {
		r.Files = append(r.Files, backup.AdoptedFile{Name: u.name, Reason: describe(u.err, false).Message})
	}
	done := adopted{AdoptReport: r, passedOver: passedOver}
	if first {
		done.taken, err = backup.Run(ctx, t.card, cat, backup.Options{SpendUse: a.spendUse(ctx), Progress: a.steps, Program: program()})
		a.progress.Close()
		if err != nil {
			return err
		}
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	if t != nil {
		done.serial = t.serial
		done.keys = backup.Cover(options.Inventory, state)
	}
	if cat != nil {
		done.head = head(state.Head)
	}
	if a.flags.json {
		if err := a.document(done.document()); err != nil {
			return err
		}
	} else {
		a.printAdopted(done)
	}
	return done.outcome(a)
}

// readable tells whether a file holds a wrapped key.
func readable(f backup.AdoptFile) bool {
	_, err := dkek.ParseContainer(f.Content)
	return err == nil
}

// tokenIfAny is the token named, or the only one attached; nil without one.
func (a *app) tokenIfAny(ctx context.Context) (*token, error) {
	t, err := a.openToken(ctx)
	var f *failure
	switch {
	case err == nil:
		return t, nil
	case a.flags.token == "" && (withoutPCSC(err) || errors.As(err, &f) && f.Code == "no-token"):
		return nil, nil
	}
	return nil, err
}

// firstBackup tells whether the token holds keys and no snapshot was taken of
// it yet.
func firstBackup(cat *store.Catalog, inv *backup.Inventory) (bool, error) {
	if !inv.Initialised || inv.Serial == "" || len(inv.Keys) == 0 {
		return false, nil
	}
	if cat == nil {
		return true, nil
	}
	state, err := cat.Read()
	return err == nil && state.Newest(inv.Serial) == nil, err
}

// unreadFile is a file that could not be read at all.
type unreadFile struct {
	name string
	err  error
}

// wrappedFiles reads the files named, and of a folder those that are wrapped
// keys by name or content; the others there are counted.
func wrappedFiles(args []string) (files []backup.AdoptFile, unread []unreadFile, passedOver int, err error) {
	seen, exported := map[string]bool{}, map[string]map[string]string{}
	read := func(path string, inFolder bool) {
		if clean := filepath.Clean(path); seen[clean] {
			return
		} else {
			seen[clean] = true
		}
		content, err := custody.ReadFile(path)
		dir, name := filepath.Split(path)
		names, known := exported[dir]
		if !known {
			names = backup.ExportedFiles(filepath.Clean(dir))
			exported[dir] = names
		}
		what := names[name]
		if err == nil && readable(backup.AdoptFile{Content: content}) {
			what = ""
		}
		if inFolder && (what != "" || !isWrapped(path, content, err)) {
			passedOver++
			return
		}
		if what != "" {
			err = fmt.Errorf("%s: it is no wrapped key but %s, by the manifest.json beside it", path, what)
		}
		if err != nil {
			unread = append(unread, unreadFile{path, err})
			return
		}
		files = append(files, backup.AdoptFile{Name: path, Content: content})
	}
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil || !info.IsDir() {
			read(arg, false)
			continue
		}
		entries, err := os.ReadDir(arg)
		if err != nil {
			return nil, nil, 0, err
		}
		for _, e := range entries {
			path := filepath.Join(arg, e.Name())
			if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
				continue
			}
			read(path, true)
		}
	}
	return files, unread, passedOver, nil
}

// isWrapped tells which files of a folder were meant: those that parse, and
// those that have the name or the beginning of one, so that a damaged file is
// not passed over.
func isWrapped(path string, content []byte, err error) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".bin", ".wky":
		return true
	}
	if err != nil || dkek.IsPBE(content) || dkek.IsSheets(content) {
		return false
	}
	return readable(backup.AdoptFile{Content: content}) || bytes.HasPrefix(content, []byte{0x30, 0x82}) && len(content) > 4 && content[4] == 0x04
}

// adopted is all that is said of an adoption.
type adopted struct {
	*backup.AdoptReport
	passedOver int
	// serial and keys are those of the attached token, if there is one; taken
	// is the first snapshot of it.
	serial string
	keys   []backup.KeyCoverage
	taken  *backup.Report
	head   string
}

// fileOf is the file that holds a key of the token.
func (r adopted) fileOf(k backup.KeyCoverage) string {
	for _, f := range r.Files {
		if f.Kept && f.On != nil && f.On.Reference == k.Key.Reference {
			return f.Name
		}
	}
	return ""
}

// safe tells whether a key of the token is covered, so that it does not matter
// that its file is not proven.
func (r adopted) safe(f backup.AdoptedFile) bool {
	return f.On != nil && slices.ContainsFunc(r.keys, func(k backup.KeyCoverage) bool {
		return k.Key.Reference == f.On.Reference && k.Coverage.Done()
	})
}

// outcome gives the error that carries the exit code.
func (r adopted) outcome(a *app) error {
	exits := exitSet{}
	var bad, hints []string
	unproven := false
	for _, f := range r.Files {
		switch {
		case f.OK || !f.Damage && r.safe(f):
			continue
		case f.Damage:
			exits.add(exitDamaged)
		default:
			exits.add(exitIncomplete)
			unproven = unproven || f.Kept
		}
		bad = append(bad, fmt.Sprintf("%s: %s", f.Name, f.Reason))
	}
	if unproven {
		hints = append(hints, "`hsmbackup verify --offline --share FILE` proves them with the shares")
	}
	var open []backup.KeyCoverage
	for _, k := range r.keys {
		if !k.Coverage.Done() && r.fileOf(k) == "" {
			open = append(open, k)
			exits.add(exitIncomplete)
		}
	}
	if len(open) > 0 {
		bad = append(bad, incomplete(open, nil))
		if r.taken == nil {
			hints = append(hints, "`hsmbackup backup` takes a snapshot of the token")
		} else {
			hints = append(hints, a.remedies(open)...)
		}
	}
	if r.taken != nil && len(r.taken.Snapshot.Missing) > 0 {
		exits.add(exitIncomplete)
		bad = append(bad, incomplete(nil, r.taken.Snapshot.Missing))
	}
	return exits.outcome(strings.Join(bad, "; "), hints...)
}

func (a *app) printAdopted(r adopted) {
	for _, f := range r.Files {
		what := []string{f.Name}
		for _, s := range []string{f.Type, quoted(f.Label)} {
			if s != "" {
				what = append(what, s)
			}
		}
		if f.KCV != "" {
			what = append(what, "KCV "+f.KCV)
		}
		a.printf("%s: %s", terminal.Printable(strings.Join(what, "  ")), terminal.Printable(adoptVerdict(f)))
		for _, line := range adoptedLines(f, r.serial) {
			a.printf("    %s", terminal.Printable(line))
		}
	}
	if r.passedOver > 0 {
		a.printf("%s passed over: no wrapped keys", count(r.passedOver, "other file"))
	}
	if r.serial != "" || len(r.keys) > 0 {
		a.printf("the attached token, %s:", orUnknown(r.serial))
		var rows [][]string
		for _, k := range r.keys {
			file := "NO FILE"
			if name := r.fileOf(k); name != "" {
				file = "in " + name
			}
			rows = append(rows, []string{fmt.Sprintf("  key %d", k.Key.Reference), k.Key.Type, quoted(k.Key.Label), file, string(k.Coverage)})
		}
		a.table(rows)
	}
	if s := r.Snapshot; s != nil {
		proven := 0
		for _, f := range r.Files {
			if f.Kept && f.Proof != "" {
				proven++
			}
		}
		was := ""
		if r.Existing {
			was = ", which was there already"
		}
		a.printf("adopted snapshot %s%s: %s, %d proven", s.ID, was, storedKeys(s), proven)
	} else {
		a.printf("nothing was adopted")
	}
	if r.taken != nil {
		a.printf("first snapshot of %s, %s: %s", r.serial, r.taken.Snapshot.ID, restorableOf(r.taken.Keys))
	}
	if r.head != "" {
		a.printf("head: %s", r.head)
	}
}

func orUnknown(serial string) string {
	if serial == "" {
		return "serial not known"
	}
	return serial
}

// adoptVerdict says in a line what became of a file.
func adoptVerdict(f backup.AdoptedFile) string {
	switch {
	case f.Damage && f.Kept:
		return "DAMAGED, kept in part: " + f.Reason
	case f.Damage:
		return "DAMAGED: " + f.Reason
	case f.OK && f.SameAs != "":
		return "good, the same key as " + f.SameAs
	case f.OK && f.Matched == string(dkek.MatchSelf):
		return f.Proof + ", agrees with itself"
	case f.OK && f.Matched != "":
		return f.Proof + ", matches its " + f.Matched
	case f.OK:
		return f.Proof
	case f.Kept:
		return "kept, " + f.Reason
	case f.SameAs != "":
		return f.Reason
	}
	return "NOT KEPT: " + f.Reason
}

// adoptedLines says where a key comes from and where it can go.
func adoptedLines(f backup.AdoptedFile, serial string) []string {
	if f.KCV == "" {
		return nil
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case f.Vouched:
		add("made on %s, whose signature on the request verifies", f.MadeOn)
	case f.MadeOn != "":
		add("made on %s, says the request", f.MadeOn)
	}
	if f.On != nil {
		add("it is key %d of the attached token", f.On.Reference)
	}
	if len(f.InSnapshots) > 0 {
		add("in snapshots of %s", strings.Join(f.InSnapshots, ", "))
	}
	switch {
	case len(f.Tokens) > 0:
		add("its recovery key is on %s", strings.Join(f.Tokens, ", "))
	case serial != "":
		add("its recovery key is on no token that is known, the attached one included")
	}
	if !f.ShareSeen {
		add("nobody has shown shares that give its recovery key")
	}
	if f.Kept && f.Reference == 0 {
		add("its key reference is not known: a restore takes a free one")
	}
	return append(lines, f.Notes...)
}

func (r adopted) document() jsonAdopt {
	doc := jsonAdopt{Existing: r.Existing, Files: []jsonAdoptedFile{}, PassedOver: r.passedOver, Head: r.head}
	if r.Snapshot != nil {
		s := report.NewSnapshot(r.Snapshot)
		doc.Snapshot = &s
	}
	for _, f := range r.Files {
		out := jsonAdoptedFile{
			File: f.Name, Kept: f.Kept, SameAs: f.SameAs, Reference: f.Reference, Label: f.Label, ID: hex.EncodeToString(f.ID), Type: f.Type,
			KCV: f.KCV, ShareSeen: f.ShareSeen, MadeOn: f.MadeOn, Vouched: f.Vouched, Known: append([]string{}, f.InSnapshots...), Tokens: append([]string{}, f.Tokens...),
			Proof: f.Proof, Matched: f.Matched, OK: f.OK, Reason: f.Reason, Notes: append([]string{}, f.Notes...),
		}
		if f.Public != nil {
			out.PublicKey = string(f.Public.PEM())
		}
		if f.On != nil {
			out.OnToken = int(f.On.Reference)
		}
		doc.Files = append(doc.Files, out)
	}
	if r.serial != "" || len(r.keys) > 0 {
		doc.Token = &jsonAdoptToken{Serial: r.serial, Keys: []jsonAdoptTokenKey{}}
		for _, k := range r.keys {
			doc.Token.Keys = append(doc.Token.Keys, jsonAdoptTokenKey{report.NewKey(k), r.fileOf(k)})
		}
	}
	if r.taken != nil {
		b := backupDocument(r.taken)
		doc.Backup = &b
	}
	return doc
}
