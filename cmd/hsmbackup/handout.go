package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/sheet"
	"hsmbackup/store"
)

// A set is in the catalog only if every part of it was handed out. Until then a
// note in the journal says what is under way, so that the next run can finish a
// hand-out that lacked nothing but its record, and undo any other: its share was
// in memory only, and what was handed out of it is of no use to anybody.

// keeper is a custodian to be.
type keeper struct {
	name, recipient string
}

// handOut is a share that is split and handed out.
type handOut struct {
	job     string // "create", "split" or "resplit", as the record calls it
	who     string
	needed  int
	keepers []keeper
	dir     string // for files; empty: on the terminal
	sheets  string // for sheets to print; empty: none

	share, shares int
	kcv           dkek.KCV
	// retires is the set whose place the new one takes.
	retires string
}

// handOutNote is the note in the journal. It holds no secret: hashes of files
// are over the parts in them.
type handOutNote struct {
	Job string        `json:"job"`
	Who string        `json:"who,omitempty"`
	Set store.PartSet `json:"set"`
	// Share is the KCV that the share has by itself.
	Share string     `json:"share"`
	Dir   string     `json:"dir,omitempty"`
	Parts []notePart `json:"parts"`
	// Retires is the set whose place this one takes.
	Retires string `json:"retires,omitempty"`
}

// notePart is how far the part of a custodian has come.
type notePart struct {
	// File that it is written to; nil: it is shown.
	File *noteFile `json:"file,omitempty"`
	// Sheet to print.
	Sheet *noteFile `json:"sheet,omitempty"`
	// Shown: somebody may have seen it. Confirmed: it was typed back, or its
	// custodian answered for it.
	Shown     bool `json:"shown,omitempty"`
	Confirmed bool `json:"confirmed,omitempty"`
}

// files are those that are written for the part.
func (p notePart) files() (list []*noteFile) {
	for _, f := range []*noteFile{p.File, p.Sheet} {
		if f != nil {
			list = append(list, f)
		}
	}
	return list
}

// noteFile is a file and what is to be in it.
type noteFile struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int    `json:"size"`

	content []byte
}

func newNoteFile(path string, content []byte) (*noteFile, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	return &noteFile{path, hex.EncodeToString(sum[:]), len(content), content}, nil
}

const handOutNotes = "hand-out/"

func (n *handOutNote) key() string { return handOutNotes + n.Set.Set }

func (h *handOut) fileOf(k keeper) string {
	switch {
	case h.dir == "":
		return ""
	case k.recipient != "":
		return filepath.Join(h.dir, k.name+".txt.age")
	}
	return filepath.Join(h.dir, k.name+".txt")
}

// sheetOf is the file of a custodian's sheet. Of a sealed part there is none: it
// would hold it in clear.
func (h *handOut) sheetOf(k keeper) string {
	if h.sheets == "" || k.recipient != "" {
		return ""
	}
	return filepath.Join(h.sheets, k.name+".pdf")
}

// handOutParts splits a share, hands its parts out one custodian at a time, and
// registers the set. Interrupted, it leaves nothing behind, or what the next run
// sees to.
func (a *app) handOutParts(ctx context.Context, cat *store.Catalog, h *handOut, share *dkek.Share) (*handOutNote, error) {
	own, err := shareKCV(share)
	if err != nil {
		return nil, err
	}
	done, err := a.earlierHandOuts(cat, h, own)
	if err != nil || done != nil {
		return done, err
	}
	if err := h.nothingThere(); err != nil {
		return nil, err
	}
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: h.needed, Total: len(h.keepers), Share: h.share, Shares: h.shares, KCV: h.kcv})
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, p := range parts {
			p.Wipe()
		}
	}()
	n, err := h.note(parts, own, func(p *dkek.Part, set *store.PartSet) ([]byte, error) {
		s := a.sheetOf(p, set, cat)
		defer clear(s.Text)
		defer clear(s.Code)
		return s.PDF(sheet.A4)
	})
	defer n.wipe()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{h.dir, h.sheets} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := cat.Journal().Put(n.key(), n); err != nil {
		return nil, err
	}
	for i, p := range parts {
		if err := a.handOver(ctx, cat, n, h.keepers[i], p); err != nil {
			return nil, errors.Join(err, a.undoHandOut(cat, n))
		}
	}
	a.changed = true
	return n, finishHandOut(cat, n)
}

// shareKCV is the KCV that a share would have alone.
func shareKCV(share *dkek.Share) (dkek.KCV, error) {
	key, err := dkek.Combine(share)
	if err != nil {
		return dkek.KCV{}, err
	}
	defer key.Wipe()
	return key.KCV(), nil
}

// nothingThere refuses to begin where a file is in the way.
func (h *handOut) nothingThere() error {
	for _, k := range h.keepers {
		for _, path := range []string{h.fileOf(k), h.sheetOf(k)} {
			if path == "" {
				continue
			}
			if _, err := os.Lstat(path); err == nil {
				return failf("exists", "name another folder", "%s exists already, and nothing is ever overwritten", path)
			}
		}
	}
	return nil
}

// note says what is about to be done, with the contents of the files, which the
// caller wipes. sheet makes a sheet of a part.
func (h *handOut) note(parts []*dkek.Part, own dkek.KCV, sheet func(*dkek.Part, *store.PartSet) ([]byte, error)) (*handOutNote, error) {
	n := &handOutNote{Job: h.job, Who: h.who, Share: own.String(), Retires: h.retires}
	n.Set = store.PartSet{Set: parts[0].Set, Share: parts[0].Share, Shares: parts[0].Shares, Needed: h.needed, KCV: kcvText(h.kcv)}
	for i, p := range parts {
		n.Set.Custodians = append(n.Set.Custodians, store.Custodian{Index: p.Index, Name: h.keepers[i].name, Commitment: p.Commitment()})
	}
	var err error
	if h.dir != "" {
		if n.Dir, err = filepath.Abs(h.dir); err != nil {
			return n, err
		}
	}
	add := func(path string, file **noteFile, make func() ([]byte, error)) {
		if path == "" || err != nil {
			return
		}
		var content []byte
		if content, err = make(); err == nil {
			*file, err = newNoteFile(path, content)
		}
	}
	n.Parts = make([]notePart, len(parts))
	for i, p := range parts {
		k := h.keepers[i]
		add(h.fileOf(k), &n.Parts[i].File, func() ([]byte, error) { return partFile(p, k) })
		add(h.sheetOf(k), &n.Parts[i].Sheet, func() ([]byte, error) { return sheet(p, &n.Set) })
	}
	return n, err
}

// wipe clears the contents of the files.
func (n *handOutNote) wipe() {
	for _, p := range n.Parts {
		for _, f := range p.files() {
			clear(f.content)
		}
	}
}

// partFile is the content of a custodian's file; the caller clears it.
func partFile(p *dkek.Part, k keeper) ([]byte, error) {
	if k.recipient != "" {
		return dkek.SealPart(k.recipient, p)
	}
	text := p.CheckedText()
	defer clear(text)
	head := partHead(p, k.name)
	out := make([]byte, 0, len(head)+len(text)) // never grows: no copies are left behind
	return append(append(out, head...), text...), nil
}

// partFirstLine begins the file of each part of a set, and no other.
func partFirstLine(set string) string {
	return fmt.Sprintf("# hsmbackup: a custodian's part of a recovery key (DKEK), set %s\n", set)
}

// partHead are the lines for people.
func partHead(p *dkek.Part, name string) []byte {
	var b bytes.Buffer
	b.WriteString(partFirstLine(p.Set))
	fmt.Fprintf(&b, "#\n# for %s: part %d of %d; any %d of them bring the share together, in any order\n", name, p.Index, p.Total, p.Needed)
	if p.Shares > 1 {
		fmt.Fprintf(&b, "# share %d of %d of the recovery key: all shares are needed\n", p.Share, p.Shares)
	}
	if !p.KCV.IsZero() {
		fmt.Fprintf(&b, "# KCV of the recovery key: %s\n", p.KCV)
	}
	b.WriteString(`#
# Do: keep it where nobody else gets at it, best on paper, away from the other
# parts, the backup and the token. Answer when the roll is called, which does not
# give it away: hsmbackup dkek rollcall --answer CHALLENGE --share FILE. Say at once
# if it is lost or somebody may have seen it.
# Never: send it by mail or chat, photograph it, put it into a cloud or the backup
# of a computer, hand it to another custodian, type it on a computer that you do
# not trust.
#
# On paper: every line ends in a check (=xy) that finds a mistake in this line.
#
`)
	return b.Bytes()
}

// handOver gives one custodian the part, and has shown that it arrived.
func (a *app) handOver(ctx context.Context, cat *store.Catalog, n *handOutNote, k keeper, p *dkek.Part) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	np := &n.Parts[p.Index-1]
	for _, f := range np.files() {
		if err := writeNew(f.Path, f.content); err != nil {
			return err
		}
		if err := readBackPart(f, f == np.File && k.recipient == "", p); err != nil {
			return err
		}
	}
	if np.File != nil && (k.recipient == "" || !a.tty.Available()) {
		return nil
	}
	if np.File == nil {
		a.progress.Close()
		if _, err := a.tty.ReadLine(ctx, fmt.Sprintf("%s is for %s, and nobody else should see the screen. Enter shows it:", p.Name(), k.name)); err != nil {
			return err
		}
	}
	np.Shown = true
	err := cat.Journal().Put(n.key(), n)
	if err != nil {
		return err
	}
	if np.Confirmed = true; np.File == nil {
		err = a.showPart(ctx, k, p)
	} else {
		np.Confirmed, err = a.askForAnswer(ctx, n, k, p)
	}
	if err != nil {
		np.Confirmed = false
		return err
	}
	return cat.Journal().Put(n.key(), n)
}

// readBackPart compares a file with what was written to it, and, where it can be
// read by anyone, its part with the one that was handed out.
func readBackPart(f *noteFile, plain bool, p *dkek.Part) error {
	got, err := os.ReadFile(f.Path)
	if err != nil {
		return err
	}
	defer clear(got)
	bad := failf("not-written", "the disk may be failing", "%s does not hold what was written to it", f.Path)
	if !bytes.Equal(got, f.content) {
		return bad
	}
	if !plain {
		return nil
	}
	again, err := dkek.ParsePart(got)
	if err != nil {
		return bad
	}
	defer again.Wipe()
	if !again.Equal(p) {
		return bad
	}
	return nil
}

// showPart shows a part on the alternate screen and has it typed back.
func (a *app) showPart(ctx context.Context, k keeper, p *dkek.Part) error {
	for {
		text := partScreen(p, k.name)
		typed, err := a.tty.Screen(ctx, text, "Press Enter when it is written down; then it is typed back.")
		clear(text)
		typed.Wipe()
		if err != nil {
			return err
		}
		back, err := a.typePart(ctx, fmt.Sprintf("%s, type your part back. Enter alone shows it again.", k.name), "", p)
		if err != nil {
			return err
		}
		if back != nil {
			same := back.Equal(p)
			back.Wipe()
			if !same {
				return failf("not-typed-back", "this computer may be failing", "what %s typed is not the part", k.name)
			}
			a.note("%s has %s: typed back", k.name, p.Name())
			return nil
		}
	}
}

// partScreen is what a custodian copies; the caller clears it.
func partScreen(p *dkek.Part, name string) []byte {
	part := p.CheckedText()
	defer clear(part)
	text := make([]byte, 0, 1024+len(name)+len(part))
	text = fmt.Appendf(text, "%s: part %d of %d; any %d of them bring the recovery key together.\nSet %s", name, p.Index, p.Total, p.Needed, p.Set)
	if p.Shares > 1 {
		text = fmt.Appendf(text, ", share %d of %d", p.Share, p.Shares)
	}
	if !p.KCV.IsZero() {
		text = fmt.Appendf(text, ", KCV %s", p.KCV)
	}
	text = append(text, "\n\nWrite all of this down; every line ends in its check:\n\n"...)
	for line := range bytes.Lines(part) {
		text = append(append(text, "    "...), line...)
	}
	return append(text, "\nKeep it where nobody else gets at it. Never photograph, mail or store it.\n"...)
}

// askForAnswer has the custodian of a sealed part show that it opens: whoever
// has it can answer a challenge, on a machine of their own.
func (a *app) askForAnswer(ctx context.Context, n *handOutNote, k keeper, p *dkek.Part) (bool, error) {
	c, err := dkek.NewChallenge(a.now())
	if err != nil {
		return false, err
	}
	a.progress.Close()
	a.note("%s is sealed to %s, who shows now that it opens:", n.Parts[p.Index-1].File.Path, k.name)
	a.next("hsmbackup dkek rollcall --answer %s --share %s --identity FILE", c.Text(), k.name+".txt.age")
	for {
		line, err := a.tty.ReadLine(ctx, fmt.Sprintf("Answer of %s to challenge %s (Enter alone: later):", k.name, c.Text()))
		if err != nil {
			return false, err
		}
		if strings.TrimSpace(line) == "" {
			a.note("%s has not confirmed the part yet: call the roll soon (`hsmbackup dkek rollcall`)", k.name)
			return false, nil
		}
		answer, err := dkek.ParseAnswer([]byte(line))
		if err == nil {
			err = answer.Check(c, p.Commitment())
		}
		if err == nil {
			a.note("%s has %s: answered for", k.name, p.Name())
			return true, nil
		}
		a.note("%s", err)
	}
}

// finishHandOut records a set of which every part was handed out. It may be
// called again where it was interrupted.
func finishHandOut(cat *store.Catalog, n *handOutNote) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	sets := state.PartSets
	if findSet(sets, n.Set.Set) == nil {
		if err := cat.Append(n.Set); err != nil {
			return err
		}
	}
	for i, p := range n.Parts {
		call := store.RollCall{Set: n.Set.Set, Index: i + 1, Origin: "hand-out"}
		if !p.Confirmed || slices.ContainsFunc(state.RollCalls, func(c store.RollCall) bool { return c.Set == call.Set && c.Index == call.Index }) {
			continue
		}
		if err := cat.Append(call); err != nil {
			return err
		}
	}
	record := store.Ceremony{Job: n.Job, Who: n.Who, KCV: n.Set.KCV, Sets: []string{n.Set.Set}, Outcome: "done"}
	if old := findSet(sets, n.Retires); old != nil {
		record.Sets = append(record.Sets, n.Retires)
		if old.Retired.IsZero() {
			if err := cat.Append(store.RetiredSet{Set: n.Retires, By: n.Set.Set, Reason: n.Job}); err != nil {
				return err
			}
		}
	}
	if err := cat.Append(record); err != nil {
		return err
	}
	return cat.Journal().Delete(n.key())
}

// earlierHandOuts sees to what an interrupted run left. It gives the note of the
// very hand-out that is wanted, if that is finished with this.
func (a *app) earlierHandOuts(cat *store.Catalog, h *handOut, own dkek.KCV) (*handOutNote, error) {
	keys, err := cat.Journal().Keys(handOutNotes)
	if err != nil {
		return nil, err
	}
	var wanted *handOutNote
	for _, key := range keys {
		n := new(handOutNote)
		if found, err := cat.Journal().Get(key, n); err != nil || !found {
			return nil, err
		}
		if !n.complete() {
			if err := a.undoHandOut(cat, n); err != nil {
				return nil, err
			}
			continue
		}
		if err := finishHandOut(cat, n); err != nil {
			return nil, err
		}
		a.changed = true
		a.note("set %s was handed out by an earlier run, which was interrupted before that was recorded; now it is", n.Set.Set)
		if n.isFor(h, own) {
			wanted = n
		}
	}
	return wanted, nil
}

// complete tells whether every part has arrived.
func (n *handOutNote) complete() bool {
	for _, p := range n.Parts {
		if p.File == nil && !p.Confirmed {
			return false
		}
		for _, f := range p.files() {
			if f.look(n.Set.Set) != fileWhole {
				return false
			}
		}
	}
	return true
}

// isFor tells whether a hand-out is the one that is asked for again. A new
// share is another one each time.
func (n *handOutNote) isFor(h *handOut, own dkek.KCV) bool {
	dir := h.dir
	if dir != "" {
		dir, _ = filepath.Abs(dir) // fails where there is no working folder: then it is another
	}
	same := n.Job == h.job && n.Dir == dir && n.Set.Needed == h.needed && n.Retires == h.retires && len(n.Set.Custodians) == len(h.keepers)
	for i := range h.keepers {
		same = same && n.Set.Custodians[i].Name == h.keepers[i].name
	}
	return same && (h.job == "create" || n.Share == own.String())
}

// ageBegin is how an armored age file begins.
const ageBegin = "-----BEGIN AGE ENCRYPTED FILE-----"

// What is there of a file that was to be written.
const (
	fileGone   = iota
	fileWhole  // as it was to be
	fileBegun  // ours, cut short
	fileOthers // somebody else's
)

// look compares the file with what was to be written. Nothing was there when
// the hand-out began, so that what begins like it and is shorter is its begin.
func (f *noteFile) look(set string) int {
	b, err := readSmall(f.Path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fileGone
		}
		return fileOthers
	}
	defer clear(b)
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) == f.SHA256 {
		return fileWhole
	}
	begin := []byte(partFirstLine(set))
	switch filepath.Ext(f.Path) {
	case ".age":
		begin = []byte(ageBegin)
	case ".pdf":
		begin = []byte("%PDF-")
	}
	n := min(len(b), len(begin))
	if len(b) < f.Size && bytes.Equal(b[:n], begin[:n]) {
		return fileBegun
	}
	return fileOthers
}

// undoHandOut takes back what was written of a set that is not complete, and
// says whose parts are of no use.
func (a *app) undoHandOut(cat *store.Catalog, n *handOutNote) error {
	var seen []string
	for i, p := range n.Parts {
		name := n.Set.Custodians[i].Name
		if p.Shown {
			seen = append(seen, name)
		}
		for _, f := range p.files() {
			switch f.look(n.Set.Set) {
			case fileWhole, fileBegun:
				if err := os.Remove(f.Path); err != nil {
					return err
				}
			case fileOthers:
				a.note("%s is not what was written there: it is left as it is", f.Path)
			}
		}
	}
	if len(seen) > 0 {
		outcome := fmt.Sprintf("interrupted: set %s does not exist; parts of it were seen by %s", n.Set.Set, strings.Join(seen, ", "))
		if err := cat.Append(store.Ceremony{Job: n.Job, Who: n.Who, KCV: n.Set.KCV, Sets: []string{n.Set.Set}, Outcome: outcome}); err != nil {
			return err
		}
		a.note("the hand-out of set %s was interrupted, and there is no such set: whatever %s wrote down of it is to be destroyed", n.Set.Set, strings.Join(seen, ", "))
	}
	return cat.Journal().Delete(n.key())
}

// jsonHandOut is the result of handing a set out.
type jsonHandOut struct {
	Set        string          `json:"set"`
	KCV        string          `json:"kcv"`
	Needed     int             `json:"needed"`
	Total      int             `json:"total"`
	Share      int             `json:"share"`
	Shares     int             `json:"shares"`
	Retired    string          `json:"retired,omitempty"`
	Custodians []jsonCustodian `json:"custodians"`
}

type jsonCustodian struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
	File  string `json:"file"`
	Sheet string `json:"sheet,omitempty"`
	// Confirmed: typed back, or answered for; a file that is only written and
	// read back is not.
	Confirmed bool `json:"confirmed"`
}

// printHandOut says what was handed out.
func (a *app) printHandOut(n *handOutNote, h *handOut) error {
	s := n.Set
	doc := jsonHandOut{Set: s.Set, KCV: s.KCV, Needed: s.Needed, Total: len(s.Custodians), Share: s.Share, Shares: s.Shares, Retired: n.Retires, Custodians: []jsonCustodian{}}
	var open []string
	var rows [][]string
	for i, c := range s.Custodians {
		p := n.Parts[i]
		j := jsonCustodian{Name: c.Name, Index: c.Index, Confirmed: p.Confirmed}
		how := "typed back"
		if p.File != nil {
			j.File = filepath.Join(h.dir, filepath.Base(p.File.Path))
			how = j.File + ": written and read back"
			if strings.HasSuffix(j.File, ".age") {
				how = j.File + ": sealed, written and read back"
			}
			if p.Confirmed {
				how = j.File + ": sealed, answered for"
			} else {
				open = append(open, c.Name)
			}
		}
		if p.Sheet != nil {
			j.Sheet = filepath.Join(h.sheets, filepath.Base(p.Sheet.Path))
			how += "; sheet " + j.Sheet
		}
		doc.Custodians = append(doc.Custodians, j)
		rows = append(rows, []string{fmt.Sprintf("part %d", c.Index), c.Name, how})
	}
	if a.flags.json {
		return a.document(doc)
	}
	a.table(rows)
	what := "the recovery key"
	if s.Shares > 1 {
		what = fmt.Sprintf("share %d of %d of the recovery key", s.Share, s.Shares)
	}
	a.printf("set %s: any %d of %d bring %s together", s.Set, s.Needed, len(s.Custodians), what)
	if s.KCV != "" {
		a.printf("KCV %s", s.KCV)
	}
	if h.sheets != "" {
		a.next("print the sheets on a printer at a cable, for a spool is a disk; then destroy their files, which are copies of the parts")
	}
	if len(open) > 0 {
		a.note("not confirmed by their custodians yet: %s", strings.Join(open, ", "))
		a.next("give each their file, keep no copy, and call the roll: `hsmbackup dkek rollcall`")
	}
	for _, k := range h.keepers {
		if k.recipient != "" && !dkek.PostQuantum(k.recipient) {
			a.next("a sealed file that is meant to last should be sealed to a post-quantum recipient (age-keygen -pq makes age1pq1…)")
			break
		}
	}
	return nil
}
