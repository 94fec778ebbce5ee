package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/sheet"
	"hsmbackup/internal/words"
	"hsmbackup/store"
)

// Printable is a sheet of either kind.
type Printable interface {
	PlainText() ([]byte, error)
	PDF(sheet.Paper) ([]byte, error)
}

// HeadWords is how many words stand for a hash that people compare: 66 bits.
const HeadWords = 6

// wordsOf are the words of a hash.
func wordsOf(h store.Hash) []string { return words.Encode(h[:], HeadWords) }

// IsSheetName tells whether a name says which form a sheet is to have.
func IsSheetName(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".pdf" || ext == ".txt"
}

// Absolute is a path as it makes sense to somebody else.
func Absolute(path string) string {
	if p, err := filepath.Abs(path); err == nil {
		return p
	}
	return path
}

// SheetOfPart is the sheet of a part, with what the catalog, which may be nil,
// knows of it. The caller clears its Text and Code.
func SheetOfPart(p *dkek.Part, known *store.PartSet, cat *store.Catalog, now time.Time) *sheet.Part {
	s := &sheet.Part{
		Set: p.Set, Index: p.Index, Needed: p.Needed, Total: p.Total, Share: p.Share, Shares: p.Shares,
		KCV: KCVText(p.KCV), Head: headOf(cat), Date: now, Text: p.CheckedText(), Code: p.Compact(),
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
	s.Tokens, s.Recipient = tokensUnder(cat, s.KCV), recipientOf(cat, s.KCV)
	return s
}

// PartForSheet reads the part of a file, or has it typed if none is given, and
// finds its set in the catalog, which may be nil. The caller wipes it.
func (o *Opener) PartForSheet(ctx context.Context, given []Given, cat *store.Catalog) (*dkek.Part, *store.PartSet, error) {
	g := Given{File: TypedPart, Typed: true}
	if len(given) > 0 {
		g = given[0]
	}
	p, err := o.part(ctx, &g, "A custodian's part, for a sheet.", "; a sheet without a part is made with --admin")
	if err != nil {
		return nil, nil, err
	}
	known := findSet(registeredSets(cat, o.Desk), p.Set)
	if what := partDamage(p, known); what != "" {
		o.Desk.Damaged(store.Finding{Where: "part set " + p.Set, What: what + ": this part or the catalog was changed; what the catalog knows of it is not on the sheet"})
		known = nil
	}
	if known != nil && !known.Retired.IsZero() {
		o.Desk.Note("warning: set %s was retired on %s; its parts still give the share, as long as anyone keeps them", p.Set, known.Retired.Format(time.DateOnly))
	}
	return p, known, nil
}

// RecipientWords are the words by which people compare what data is sealed to.
func RecipientWords(recipient string) []string { return wordsOf(backup.RecipientHash(recipient)) }

// recipientOf gives the words of a recovery key's recipient, as far as this
// computer has derived it from the shares; what a catalog says is not printed.
func recipientOf(cat *store.Catalog, kcv store.KCV) []string {
	if cat == nil {
		return nil
	}
	known, ok, err := cat.Machine().Recipient(kcv)
	if err != nil || !ok || known.Typed {
		return nil
	}
	return RecipientWords(known.Recipient)
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
	return wordsOf(state.Head.Hash)
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

// SheetOfAdmin is the sheet of a single admin, about the token with this serial,
// or the only one of the catalog, which may be nil. given are the share files.
func SheetOfAdmin(desk Desk, cat *store.Catalog, serials []string, given []Given, now time.Time) (*sheet.Admin, error) {
	s := &sheet.Admin{Head: headOf(cat), Date: now}
	snapshot, err := tokenOfSheet(cat, serials)
	switch {
	case err != nil:
		return nil, err
	case snapshot != nil:
		s.Serial, s.Label = snapshot.Token.Serial, snapshot.Token.Label
		if len(snapshot.Token.Domains) > 0 {
			s.KCV = snapshot.Token.Domains[0].KCV
			s.Recipient = recipientOf(cat, s.KCV)
		}
	case len(serials) > 0:
		s.Serial = serials[0]
	}
	for _, g := range given {
		switch content, err := g.Read(); {
		case err != nil:
			return nil, err
		case !dkek.IsPBE(content):
			return nil, failf("not-a-share", "parts have sheets of their own: `hsmbackup dkek sheet "+harmless.Word(g.File)+"`", "%s is no share file (.pbe)", g.File)
		}
		s.Shares = append(s.Shares, Absolute(g.File))
	}
	if cat != nil {
		s.Catalog = Absolute(cat.Path())
		state, err := cat.Read()
		if err != nil {
			return nil, err
		}
		for _, c := range state.Copies {
			s.Copies = append(s.Copies, c.Path)
		}
	}
	s.Steps = RestoreSteps(s.Serial, max(1, len(s.Shares)))
	return s, nil
}

// tokenOfSheet is the token that the sheet of an admin is about: the one that is
// named, else the only one. Nil if the catalog has none.
func tokenOfSheet(cat *store.Catalog, serials []string) (*store.Snapshot, error) {
	if len(serials) > 1 {
		return nil, usagef("make one for each", "the sheet of an admin is for one token, and %d are named", len(serials))
	}
	list := tokensNow(cat)
	if len(serials) == 1 {
		i := slices.IndexFunc(list, func(s *store.Snapshot) bool { return s.Token.Serial == serials[0] })
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

// RestoreSteps are the commands on the sheet of an admin: what to do with a new
// token, on any computer.
func RestoreSteps(serial string, shares int) []sheet.Step {
	if serial == "" {
		serial = "SERIAL"
	}
	from := " --catalog FILE --from " + harmless.Word(serial)
	return []sheet.Step{
		{What: "Bring the catalog, or a copy of it, and the share file to a computer with hsmbackup. Plug in a new token, alone, and see that nothing is in the way:", Command: "hsmbackup doctor"},
		{What: "See what would come back, and whether it fits:", Command: "hsmbackup plan" + from},
		{What: "Set the token up and bring everything back. It asks for the password, a new PIN and a new SO-PIN, and proves each key:", Command: "hsmbackup restore" + from + " --init" + strings.Repeat(" --share FILE", shares)},
	}
}

// SheetFile is the content of a file with a sheet, in the form that its name
// says. The caller clears it.
func SheetFile(s Printable, name string, paper sheet.Paper) ([]byte, error) {
	if strings.EqualFold(filepath.Ext(name), ".txt") {
		return s.PlainText()
	}
	content, err := s.PDF(paper)
	if errors.Is(err, sheet.ErrTooLong) {
		return nil, failf("too-long", "write a .txt, which may be longer", "%s", err)
	}
	return content, err
}

// WriteSheet writes a sheet to a new file and reads it back. Of a sheet with a
// part the text must hold that; nil: there is none on it.
func WriteSheet(s Printable, name string, paper sheet.Paper, part *dkek.Part) error {
	content, err := SheetFile(s, name, paper)
	if err != nil {
		return err
	}
	defer clear(content)
	if err := newfile.Write(name, content); err != nil {
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
		whole = whole && (part == nil || holds(got, part))
	}
	if !whole {
		return errors.Join(failf("not-written", "the disk may be failing", "%s does not hold what was written to it; it is deleted", name), os.Remove(name))
	}
	return nil
}

// holds tells whether a text is a part file with this part.
func holds(text []byte, p *dkek.Part) bool {
	again, err := dkek.ParsePart(text)
	if err != nil {
		return false
	}
	defer again.Wipe()
	return again.Equal(p)
}

// screenLines is how much of a sheet is shown at once: the smallest terminals
// have 24 lines.
const screenLines = 20

// ShowPages shows a text with a secret in it, page by page: what scrolls off a
// screen is lost.
func ShowPages(ctx context.Context, desk Desk, text []byte) error {
	lines := bytes.SplitAfter(bytes.TrimSpace(text), []byte("\n"))
	pages := (len(lines) + screenLines - 1) / screenLines
	for i := range pages {
		page := bytes.Join(lines[i*screenLines:min((i+1)*screenLines, len(lines))], nil)
		prompt := fmt.Sprintf("Page %d of %d. Enter goes on.", i+1, pages)
		if i == pages-1 {
			prompt = "That was all. Enter takes it off the screen."
		}
		typed, err := desk.Screen(ctx, page, prompt)
		clear(page)
		typed.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}
