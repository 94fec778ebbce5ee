package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/dkek"
	"hsmbackup/internal/sheet"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

type dkekSheet struct {
	out, paper string
	serials    []string
	admin      bool
}

func newDKEKSheetCommand(a *app) *cobra.Command {
	var o dkekSheet
	cmd := &cobra.Command{
		Use:   "sheet [PART | --admin] [--out FILE.pdf|FILE.txt]",
		Short: "make a sheet to print: a custodian's part, or what a single admin needs",
		Long: `Makes the sheet of a custodian: the part as groups with a check per line and as a
QR code, what it is of, what to do with it and what never to do. What is known of
it is filled in from the catalog, if there is one; where it lies and how to reach
its holder are left to be written by hand. The part is read from a file, also one
sealed with age (--identity, or its password), or typed if no file is given.

With --admin it is the sheet of a single admin: which token and recovery key
belong together, where things lie, how a restore goes. It has no secret on it.

--out writes a new file for its owner only (mode 0600), never over another, and
reads it back: .pdf has one page, .txt is a part file too. Without it the sheet is
shown on the terminal's alternate screen, which is not kept.

A file is a copy of the part, and so is what a printer keeps: its spool is a disk,
on this computer, on a print server or in the printer. Print on a printer at this
computer's cable, or copy the sheet by hand; then destroy the file.`,
		Example: `  hsmbackup dkek sheet parts/alice.txt --out alice.pdf
  hsmbackup dkek sheet alice.txt.age --identity alice.key --out alice.pdf --paper letter
  hsmbackup dkek sheet                                            typed, and shown
  hsmbackup dkek sheet --admin --share share1.pbe --out sheet.pdf`,
		Args: arguments(0, 1, "one PART"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.dkekSheet(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "", "the new `FILE`, which ends in .pdf or .txt")
	f.StringVar(&o.paper, "paper", "a4", "size of the `PAPER` of a .pdf: a4 or letter")
	f.StringArrayVar(&o.serials, "token-serial", nil, "`SERIAL` of a token that it is for, if the catalog does not say; repeat for several")
	f.BoolVar(&o.admin, "admin", false, "the sheet of a single admin; --share names the share files")
	uses(cmd, useCatalog, useShare)
	return cmd
}

// printable is a sheet of either kind.
type printable interface {
	PlainText() ([]byte, error)
	PDF(sheet.Paper) ([]byte, error)
}

func (a *app) dkekSheet(ctx context.Context, o dkekSheet, args []string) error {
	paper := map[string]sheet.Paper{"a4": sheet.A4, "letter": sheet.Letter}[strings.ToLower(o.paper)]
	switch {
	case paper == "":
		return usagef("", "--paper takes a4 or letter")
	case o.admin && len(args) > 0:
		return usagef("", "--admin makes a sheet without a part: leave out %s", args[0])
	case !o.admin && len(a.flags.shareArgs) > 0:
		return usagef("", "the part is named without --share; that is for --admin")
	case o.out != "" && !isSheetName(o.out):
		return usagef("", "--out takes a file that ends in .pdf or .txt")
	case o.out == "" && (a.flags.json || !a.tty.Available()):
		return usagef("give --out FILE.pdf or FILE.txt", "there is no terminal to show the sheet on, and it is never written to standard output: that is kept")
	}
	if o.out != "" {
		if _, err := os.Lstat(o.out); err == nil {
			return failf("exists", "", "%s exists already, and nothing is ever overwritten", o.out)
		}
	}
	cat := a.catalogForSheet()
	defer closeCatalog(cat)
	if o.admin {
		return a.adminSheet(ctx, cat, o, paper)
	}
	return a.partSheet(ctx, cat, o, paper, args)
}

// catalogForSheet opens the catalog for what it knows. A sheet can be made
// without, so that one that cannot be read is no reason to stop. It may be nil.
func (a *app) catalogForSheet() *store.Catalog {
	cat, err := a.lookCatalog()
	if err != nil {
		a.note("the sheet is made without the catalog: %s", describe(err, false).Message)
		return nil
	}
	return cat
}

// isSheetName tells whether a name says which form a sheet is to have.
func isSheetName(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".pdf" || ext == ".txt"
}

// jsonSheet is the result. Part, Set and Custodian are empty on the sheet of an
// admin.
type jsonSheet struct {
	File      string   `json:"file"`
	Kind      string   `json:"kind"` // "part" or "admin"
	Custodian string   `json:"custodian"`
	Set       string   `json:"set"`
	Index     int      `json:"index"`
	KCV       string   `json:"kcv"`
	Tokens    []string `json:"tokens"`
}

func (a *app) partSheet(ctx context.Context, cat *store.Catalog, o dkekSheet, paper sheet.Paper, args []string) error {
	p, file, err := a.partForSheet(ctx, args)
	if err != nil {
		return err
	}
	defer p.Wipe()
	known := findSet(a.registeredSets(cat), p.Set)
	if err := isAsGivenOut(p, file, known); err != nil {
		return err
	}
	s := a.sheetOf(p, known, cat)
	defer clear(s.Text)
	defer clear(s.Code)
	if known != nil && !known.Retired.IsZero() {
		a.note("warning: set %s was retired on %s; its parts still give the share, as long as anyone keeps them", p.Set, known.Retired.Format("2006-01-02"))
	}
	if len(o.serials) > 0 {
		s.Tokens = o.serials
	}
	doc := jsonSheet{File: o.out, Kind: "part", Custodian: s.Custodian, Set: p.Set, Index: p.Index, KCV: s.KCV, Tokens: append([]string{}, s.Tokens...)}
	readBack := func(text []byte) error {
		again, err := dkek.ParsePart(text)
		if err != nil {
			return err
		}
		defer again.Wipe()
		if !again.Equal(p) {
			return errors.New("another part")
		}
		return nil
	}
	return a.giveSheet(ctx, s, doc, paper, readBack)
}

// sheetOf is the sheet of a part, with what the catalog, which may be nil, knows
// of it. The caller clears its Text and Code.
func (a *app) sheetOf(p *dkek.Part, known *store.PartSet, cat *store.Catalog) *sheet.Part {
	s := &sheet.Part{
		Set: p.Set, Index: p.Index, Needed: p.Needed, Total: p.Total, Share: p.Share, Shares: p.Shares,
		KCV: kcvText(p.KCV), Head: headOf(cat), Date: a.now(), Text: p.CheckedText(), Code: p.Compact(),
		Steps: []sheet.Step{
			{What: "See that it can be read, on a computer that you trust; it is typed line by line:", Command: "hsmbackup dkek check --share prompt"},
			{What: "Answer when the roll is called, with the challenge that comes with it:", Command: "hsmbackup dkek rollcall --answer CHALLENGE --share prompt"},
			{What: "Help to bring the key together: every command of hsmbackup that takes --share takes it typed, such as", Command: "hsmbackup dkek load --share prompt"},
		},
	}
	if known != nil {
		s.Custodian = custodian(known, p.Index)
		if s.KCV == "" {
			s.KCV = known.KCV
		}
	}
	s.Tokens = tokensUnder(cat, s.KCV)
	return s
}

// partForSheet reads the part from the file that is named, else has it typed. The
// caller wipes it.
func (a *app) partForSheet(ctx context.Context, args []string) (*dkek.Part, string, error) {
	if len(args) == 0 {
		p, err := a.typePart(ctx, "A custodian's part, for a sheet.", "", nil)
		if err == nil && p == nil {
			err = failf("no-part", "", "no part was typed")
		}
		return p, typedPart, err
	}
	s, err := a.parseShare("", args[0])
	if err != nil {
		return nil, "", err
	}
	a.secrets.DropEnvironment(s.password)
	if s.read(); s.err != nil {
		return nil, "", s.err
	}
	if s, err = a.unseal(ctx, s); err != nil {
		return nil, "", fmt.Errorf("%s: %w", s.file, err)
	}
	defer clear(s.content)
	if !dkek.IsPart(s.content) {
		return nil, "", failf("not-a-part", "`hsmbackup dkek check "+shellQuoted(s.file)+"` says what it is; a sheet without a part is made with --admin", "%s is no custodian's part", s.file)
	}
	p, err := s.parsePart()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", s.file, err)
	}
	return p, s.file, nil
}

// headOf gives the words of the catalog's head; none without one.
func headOf(cat *store.Catalog) []string {
	if cat == nil {
		return nil
	}
	state, err := cat.Read()
	if err != nil {
		return nil
	}
	return strings.Fields(head(state.Head))
}

// tokensUnder gives the serials of the tokens whose newest snapshot is under a
// recovery key, but for those that go on under another serial.
func tokensUnder(cat *store.Catalog, kcv store.KCV) []string {
	var list []string
	for _, s := range tokensNow(cat) {
		if slices.ContainsFunc(s.Token.Domains, func(d store.Domain) bool { return d.KCV != "" && d.KCV == kcv }) {
			list = append(list, s.Token.Serial)
		}
	}
	return list
}

// tokensNow gives the newest snapshot of each token that there still is, as far
// as the catalog can be read.
func tokensNow(cat *store.Catalog) []*store.Snapshot {
	state, err := cat.Read()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(state.Latest(), func(s *store.Snapshot) bool {
		return s.Token.Serial == "" || state.Succeeded(s.Token.Serial) != ""
	})
}

func (a *app) adminSheet(ctx context.Context, cat *store.Catalog, o dkekSheet, paper sheet.Paper) error {
	s := &sheet.Admin{Head: headOf(cat), Date: a.now()}
	snapshot, err := tokenOfSheet(cat, o.serials)
	switch {
	case err != nil:
		return err
	case snapshot != nil:
		s.Serial, s.Label = snapshot.Token.Serial, snapshot.Token.Label
		if len(snapshot.Token.Domains) > 0 {
			s.KCV = snapshot.Token.Domains[0].KCV
		}
	case len(o.serials) > 0:
		s.Serial = o.serials[0]
	}
	for _, share := range a.flags.shareArgs {
		switch {
		case share.err != nil:
			return share.err
		case !dkek.IsPBE(share.content):
			return failf("not-a-share", "parts have sheets of their own: `hsmbackup dkek sheet "+shellQuoted(share.file)+"`", "%s is no share file (.pbe)", share.file)
		}
		s.Shares = append(s.Shares, absolute(share.file))
	}
	if cat != nil {
		s.Catalog = absolute(cat.Path())
		state, err := cat.Read()
		if err != nil {
			return err
		}
		for _, c := range state.Copies {
			s.Copies = append(s.Copies, c.Path)
		}
	}
	s.Steps = restoreSteps(s.Serial, max(1, len(s.Shares)))
	doc := jsonSheet{File: o.out, Kind: "admin", KCV: s.KCV, Tokens: []string{}}
	if s.Serial != "" {
		doc.Tokens = append(doc.Tokens, s.Serial)
	}
	return a.giveSheet(ctx, s, doc, paper, func([]byte) error { return nil })
}

// tokenOfSheet is the token that the sheet of an admin is about: the one that is
// named, else the only one. Nil if the catalog has none.
func tokenOfSheet(cat *store.Catalog, serials []string) (*store.Snapshot, error) {
	if len(serials) > 1 {
		return nil, usagef("make one for each", "the sheet of an admin is for one token, and %d are named", len(serials))
	}
	list := tokensNow(cat)
	if len(serials) == 1 {
		i := slices.IndexFunc(list, func(s *store.Snapshot) bool { return sameSerial(serials[0], s.Token.Serial) })
		if i < 0 {
			return nil, nil
		}
		return list[i], nil
	}
	switch len(list) {
	case 0:
		return nil, nil
	case 1:
		return list[0], nil
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Token.Serial)
	}
	return nil, usagef("say which with --token-serial", "there are several tokens in the catalog: %s", strings.Join(names, ", "))
}

// restoreSteps are the commands on the sheet of an admin: what to do with a new
// token, on any computer.
func restoreSteps(serial string, shares int) []sheet.Step {
	if serial == "" {
		serial = "SERIAL"
	}
	return []sheet.Step{
		{What: "Bring the catalog, or a copy of it, and the share file to a computer with hsmbackup. Plug in a new token, alone, and see that nothing is in the way:", Command: "hsmbackup doctor"},
		{What: "See what would come back, and whether it fits:", Command: "hsmbackup plan --catalog FILE --from " + shellQuoted(serial)},
		{What: "Set the token up and bring everything back. It asks for the password, a new PIN and a new SO-PIN, and proves each key:", Command: "hsmbackup restore --catalog FILE --from " + shellQuoted(serial) + " --init" + strings.Repeat(" --share FILE", shares)},
	}
}

// absolute is a path as it makes sense to somebody else.
func absolute(path string) string {
	if p, err := filepath.Abs(path); err == nil {
		return p
	}
	return path
}

// sheetFile is the content of a file with a sheet, in the form that its name
// says. The caller clears it.
func sheetFile(s printable, name string, paper sheet.Paper) ([]byte, error) {
	if strings.EqualFold(filepath.Ext(name), ".txt") {
		return s.PlainText()
	}
	content, err := s.PDF(paper)
	if errors.Is(err, sheet.ErrTooLong) {
		return nil, failf("too-long", "write a .txt, which may be longer", "%s", err)
	}
	return content, err
}

// writeSheet writes a sheet to a new file and reads it back; readBack looks at
// what a text holds.
func writeSheet(s printable, name string, paper sheet.Paper, readBack func(text []byte) error) error {
	content, err := sheetFile(s, name, paper)
	if err != nil {
		return err
	}
	defer clear(content)
	if err := writeNew(name, content); err != nil {
		return err
	}
	got, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	defer clear(got)
	whole := bytes.Equal(got, content)
	if strings.EqualFold(filepath.Ext(name), ".pdf") {
		whole = whole && bytes.HasPrefix(got, []byte("%PDF-")) && bytes.HasSuffix(bytes.TrimSpace(got), []byte("%%EOF"))
	} else {
		whole = whole && readBack(got) == nil
	}
	if !whole {
		return errors.Join(failf("not-written", "the disk may be failing", "%s does not hold what was written to it; it is deleted", name), os.Remove(name))
	}
	return nil
}

// giveSheet writes a sheet to the file of doc, or shows it.
func (a *app) giveSheet(ctx context.Context, s printable, doc jsonSheet, paper sheet.Paper, readBack func(text []byte) error) error {
	if doc.File == "" {
		text, err := s.PlainText()
		if err != nil {
			return err
		}
		defer clear(text)
		return a.showPages(ctx, text)
	}
	if err := writeSheet(s, doc.File, paper, readBack); err != nil {
		return err
	}
	a.changed = true
	if a.flags.json {
		return a.document(doc)
	}
	a.printf("%s: sheet written and read back", terminal.Printable(doc.File))
	if doc.Kind == "part" {
		whose := ""
		if doc.Custodian != "" {
			whose = " (" + terminal.Printable(doc.Custodian) + ")"
		}
		a.printf("part %d of set %s%s", doc.Index, doc.Set, whose)
		a.next("print it on a printer at a cable, for a spool is a disk; then destroy the file, which is a copy of the part")
		return nil
	}
	a.next("print it and fill in what is open")
	return nil
}

// screenLines is how much of a sheet is shown at once: the smallest terminals
// have 24 lines.
const screenLines = 20

// showPages shows a text with a secret in it on the alternate screen, page by
// page: what scrolls off that screen is lost.
func (a *app) showPages(ctx context.Context, text []byte) error {
	a.progress.Close()
	lines := bytes.SplitAfter(bytes.TrimSpace(text), []byte("\n"))
	pages := (len(lines) + screenLines - 1) / screenLines
	for i := range pages {
		page := bytes.Join(lines[i*screenLines:min((i+1)*screenLines, len(lines))], nil)
		prompt := fmt.Sprintf("Page %d of %d. Enter goes on.", i+1, pages)
		if i == pages-1 {
			prompt = "That was all. Enter takes it off the screen."
		}
		typed, err := a.tty.Screen(ctx, page, prompt)
		clear(page)
		typed.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}
