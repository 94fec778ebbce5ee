package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/sheet"
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

func (a *app) dkekSheet(ctx context.Context, o dkekSheet, args []string) error {
	paper := map[string]sheet.Paper{"a4": sheet.A4, "letter": sheet.Letter}[strings.ToLower(o.paper)]
	switch {
	case paper == "":
		return console.Usagef("", "--paper takes a4 or letter")
	case o.admin && len(args) > 0:
		return console.Usagef("", "--admin makes a sheet without a part: leave out %s", args[0])
	case !o.admin && len(a.Flags.ShareArgs) > 0:
		return console.Usagef("", "the part is named without --share; that is for --admin")
	case o.out != "" && !custody.IsSheetName(o.out):
		return console.Usagef("", "--out takes a file that ends in .pdf or .txt")
	case o.out == "" && (a.Flags.JSON || !a.TTY.Available()):
		return console.Usagef("give --out FILE.pdf or FILE.txt", "there is no terminal to show the sheet on, and it is never written to standard output: that is kept")
	}
	if o.out != "" {
		if err := custody.NotThere(o.out); err != nil {
			return err
		}
	}
	cat := a.catalogForSheet()
	defer cli.CloseCatalog(cat)
	if o.admin {
		return a.adminSheet(ctx, cat, o, paper)
	}
	return a.partSheet(ctx, cat, o, paper, args)
}

// catalogForSheet opens the catalog for what it knows. A sheet can be made
// without, so that one that cannot be read is no reason to stop. It may be nil.
func (a *app) catalogForSheet() *store.Catalog {
	cat, err := a.LookCatalog()
	if err != nil {
		a.Note("the sheet is made without the catalog: %s", cli.Describe(err, false).Message)
		return nil
	}
	return cat
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
	var given []custody.Given
	if len(args) > 0 {
		g, err := a.ParseShare("", args[0])
		if err != nil {
			return err
		}
		given = append(given, g)
	}
	p, known, err := a.Opener().PartForSheet(ctx, given, cat)
	if err != nil {
		return err
	}
	defer p.Wipe()
	s := custody.SheetOfPart(p, known, cat, a.Now())
	defer clear(s.Text)
	defer clear(s.Code)
	if len(o.serials) > 0 {
		s.Tokens = o.serials
	}
	doc := jsonSheet{File: o.out, Kind: "part", Custodian: s.Custodian, Set: p.Set, Index: p.Index, KCV: s.KCV, Tokens: append([]string{}, s.Tokens...)}
	return a.giveSheet(ctx, s, doc, paper, p)
}

func (a *app) adminSheet(ctx context.Context, cat *store.Catalog, o dkekSheet, paper sheet.Paper) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	for i, serial := range o.serials {
		if s, note, err := backup.Find(state, serial); err == nil {
			o.serials[i] = s.Token.Serial
			if note != "" {
				a.Note("%s", note)
			}
		}
	}
	s, err := custody.SheetOfAdmin(a.Desk(), cat, o.serials, a.Flags.ShareArgs, a.Now())
	if err != nil {
		return err
	}
	doc := jsonSheet{File: o.out, Kind: "admin", KCV: s.KCV, Tokens: []string{}}
	if s.Serial != "" {
		doc.Tokens = append(doc.Tokens, s.Serial)
	}
	return a.giveSheet(ctx, s, doc, paper, nil)
}

// giveSheet writes a sheet to the file of doc, or shows it. part is what is on it,
// if anything is.
func (a *app) giveSheet(ctx context.Context, s custody.Printable, doc jsonSheet, paper sheet.Paper, part *dkek.Part) error {
	if doc.File == "" {
		text, err := s.PlainText()
		if err != nil {
			return err
		}
		defer clear(text)
		return custody.ShowPages(ctx, a.Desk(), text)
	}
	if err := custody.WriteSheet(s, doc.File, paper, part); err != nil {
		return err
	}
	a.Changed = true
	if a.Flags.JSON {
		return a.Document(doc)
	}
	a.Printf("%s: sheet written and read back", doc.File)
	if doc.Kind == "part" {
		whose := ""
		if doc.Custodian != "" {
			whose = " (" + harmless.Text(doc.Custodian) + ")"
		}
		a.Printf("part %d of set %s%s", doc.Index, doc.Set, whose)
		a.Next("print it on a printer at a cable, for a spool is a disk; then destroy the file, which is a copy of the part")
		return nil
	}
	a.Next("print it and fill in what is open")
	return nil
}
