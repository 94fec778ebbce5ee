package custody

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
	"regexp"
	"slices"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/sheet"
	"hsmbackup/store"
)

// A set is in the catalog only if every part of it was handed out. Until then a
// note in the journal says what is under way, so that the next run can finish a
// hand-out that lacked nothing but its record. Any other comes to nothing: its
// share was in memory only, and what was handed out of it is of no use to
// anybody. The run that wrote its files takes them back; a later one only says
// where they are, for a note is no reason to delete anything.

// Receiver is a custodian to be. Recipient is what the part is sealed to; empty:
// it is not.
type Receiver struct {
	Name, Recipient string
}

// HandOut is a share that is split and handed out.
type HandOut struct {
	Job       string // "create", "split" or "resplit", as the record calls it
	Who       string
	Needed    int
	Receivers []Receiver
	Dir       string // for files; empty: at the desk
	Sheets    string // for sheets to print; empty: none

	Share, Shares int
	KCV           dkek.KCV
	// Retires is the set whose place the new one takes.
	Retires string

	// Changed: the catalog is not as it was, whatever came of the hand-out.
	Changed bool

	// setKey is what vouches for the set; nil where the recovery key is not known.
	setKey []byte
}

// Names of custodians are safe as names of files, on every system.
var reserved = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$`)

// IsName tells whether a custodian can be called so.
func IsName(name string) bool {
	return store.IsCustodian(name) && !reserved.MatchString(name) && !strings.HasSuffix(name, ".")
}

// handingOut is a hand-out under way.
type handingOut struct {
	*HandOut
	desk Desk
	cat  *store.Catalog
	now  time.Time
	// written are the files that this very run wrote, and may take back.
	written []*noteFile
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

// Check implements store.Note: names of custodians are those of files.
func (n *handOutNote) Check() error {
	if !store.IsPartSet(n.Set.Set) || len(n.Parts) != len(n.Set.Custodians) || n.Retires != "" && !store.IsPartSet(n.Retires) {
		return fmt.Errorf("%q in place of %q with %d parts is no hand-out", n.Set.Set, n.Retires, len(n.Parts))
	}
	for _, c := range n.Set.Custodians {
		if !IsName(c.Name) {
			return fmt.Errorf("%q is no name of a custodian", c.Name)
		}
	}
	return nil
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

func (h *HandOut) fileOf(k Receiver) string {
	switch {
	case h.Dir == "":
		return ""
	case k.Recipient != "":
		return filepath.Join(h.Dir, k.Name+".txt.age")
	}
	return filepath.Join(h.Dir, k.Name+".txt")
}

// sheetOf is the file of a custodian's sheet. Of a sealed part there is none: it
// would hold it in clear.
func (h *HandOut) sheetOf(k Receiver) string {
	if h.Sheets == "" || k.Recipient != "" {
		return ""
	}
	return filepath.Join(h.Sheets, k.Name+".pdf")
}

// Run splits a share, hands its parts out one custodian at a time, and registers
// the set. Interrupted, it leaves nothing behind, or what the next run sees to.
func (h *HandOut) Run(ctx context.Context, desk Desk, cat *store.Catalog, share *dkek.Share, now time.Time) (*HandedOut, error) {
	own, err := ShareKCV(share)
	if err != nil {
		return nil, err
	}
	d := &handingOut{HandOut: h, desk: desk, cat: cat, now: now}
	defer func() { clear(h.setKey) }()
	if h.setKey == nil && h.Shares == 1 && own == h.KCV {
		key, err := dkek.Combine(share)
		if err != nil {
			return nil, err
		}
		h.setKey = key.SetKey()
		key.Wipe()
	}
	done, err := d.earlier(own)
	if err != nil || done != nil {
		return h.handedOut(done), err
	}
	if err := h.nothingThere(); err != nil {
		return nil, err
	}
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: h.Needed, Total: len(h.Receivers), Share: h.Share, Shares: h.Shares, KCV: h.KCV})
	if err != nil {
		return nil, err
	}
	defer wipeParts(parts)
	n, err := h.note(parts, own, func(p *dkek.Part, set *store.PartSet) ([]byte, error) {
		s := SheetOfPart(p, set, cat, now)
		s.SetWords = SetWords(set)
		defer clear(s.Text)
		defer clear(s.Code)
		return s.PDF(sheet.A4)
	})
	defer n.wipe()
	if err != nil {
		return nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	announce(desk, state, n.Set)
	for _, dir := range []string{h.Dir, h.Sheets} {
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
		if err := d.handOver(ctx, n, h.Receivers[i], p); err != nil {
			return nil, errors.Join(err, d.takeBack(), d.end(n))
		}
	}
	h.Changed = true
	return h.handedOut(n), finishHandOut(cat, n)
}

// Begin tells before anything is made whether parts can be handed out: there is a
// desk for them, or no file is in the way, unless an interrupted run left it. cat
// may be nil.
func (h *HandOut) Begin(desk Desk, cat *store.Catalog) error {
	if h.Dir == "" && !desk.Available() {
		return usagef("", "there is no terminal to show the parts on: --out DIR writes them to files")
	}
	if cat != nil {
		if pending, err := cat.Journal().Keys(handOutNotes); err != nil || len(pending) > 0 {
			return err
		}
	}
	return h.nothingThere()
}

// nothingThere refuses to begin where a file is in the way.
func (h *HandOut) nothingThere() error {
	for _, k := range h.Receivers {
		for _, path := range []string{h.fileOf(k), h.sheetOf(k)} {
			if path == "" {
				continue
			}
			if err := NotThere(path); err != nil {
				return hinted(err, "name another folder")
			}
		}
	}
	return nil
}

// note says what is about to be done, with the contents of the files, which the
// caller wipes. sheet makes a sheet of a part.
func (h *HandOut) note(parts []*dkek.Part, own dkek.KCV, sheet func(*dkek.Part, *store.PartSet) ([]byte, error)) (*handOutNote, error) {
	n := &handOutNote{Job: h.Job, Who: h.Who, Share: own.String(), Retires: h.Retires}
	n.Set = store.PartSet{Set: parts[0].Set, Share: parts[0].Share, Shares: parts[0].Shares, Needed: h.Needed, KCV: KCVText(h.KCV)}
	for i, p := range parts {
		n.Set.Custodians = append(n.Set.Custodians, store.Custodian{Index: p.Index, Name: h.Receivers[i].Name, Commitment: p.Commitment()})
	}
	if h.setKey != nil {
		n.Set.MAC = setMAC(h.setKey, &n.Set)
	}
	var err error
	if h.Dir != "" {
		if n.Dir, err = filepath.Abs(h.Dir); err != nil {
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
		k := h.Receivers[i]
		add(h.fileOf(k), &n.Parts[i].File, func() ([]byte, error) { return partFile(p, k, SetWords(&n.Set)) })
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
func partFile(p *dkek.Part, k Receiver, setWords []string) ([]byte, error) {
	if k.Recipient != "" {
		return dkek.SealPart(k.Recipient, p)
	}
	text := p.CheckedText()
	defer clear(text)
	head := partHead(p, k.Name, setWords)
	out := make([]byte, 0, len(head)+len(text)) // never grows: no copies are left behind
	return append(append(out, head...), text...), nil
}

// partFirstLine begins the file of each part of a set, and no other.
func partFirstLine(set string) string {
	return fmt.Sprintf("# hsmbackup: a custodian's part of a recovery key (DKEK), set %s\n", set)
}

// partHead are the lines for people.
func partHead(p *dkek.Part, name string, setWords []string) []byte {
	var b bytes.Buffer
	b.WriteString(partFirstLine(p.Set))
	fmt.Fprintf(&b, "#\n# for %s: part %d of %d; any %d of them bring the share together, in any order\n", name, p.Index, p.Total, p.Needed)
	if p.Shares > 1 {
		fmt.Fprintf(&b, "# share %d of %d of the recovery key: all shares are needed\n", p.Share, p.Shares)
	}
	if !p.KCV.IsZero() {
		fmt.Fprintf(&b, "# KCV of the recovery key: %s\n", p.KCV)
	}
	fmt.Fprintf(&b, "# words of the set: %s\n", strings.Join(setWords, " "))
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
func (d *handingOut) handOver(ctx context.Context, n *handOutNote, k Receiver, p *dkek.Part) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	np := &n.Parts[p.Index-1]
	for _, f := range np.files() {
		if err := newfile.Write(f.Path, f.content); err != nil {
			return err
		}
		d.written = append(d.written, f)
		if err := readBackPart(f, f == np.File && k.Recipient == "", p); err != nil {
			return err
		}
	}
	if np.File != nil && (k.Recipient == "" || !d.desk.Available()) {
		return nil
	}
	if np.File == nil {
		if _, err := d.desk.ReadLine(ctx, fmt.Sprintf("%s is for %s, and nobody else should see the screen. Enter shows it:", p.Name(), k.Name)); err != nil {
			return err
		}
	}
	np.Shown = true
	err := d.cat.Journal().Put(n.key(), n)
	if err != nil {
		return err
	}
	if np.Confirmed = true; np.File == nil {
		err = d.showPart(ctx, k, p, SetWords(&n.Set))
	} else {
		np.Confirmed, err = d.askForAnswer(ctx, n, k, p)
	}
	if err != nil {
		np.Confirmed = false
		return err
	}
	return d.cat.Journal().Put(n.key(), n)
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
	if !holds(got, p) {
		return bad
	}
	return nil
}

// showPart shows a part on the alternate screen and has it typed back.
func (d *handingOut) showPart(ctx context.Context, k Receiver, p *dkek.Part, setWords []string) error {
	for {
		text := partScreen(p, k.Name, setWords)
		typed, err := d.desk.Screen(ctx, text, "Press Enter when it is written down; then it is typed back.")
		clear(text)
		typed.Wipe()
		if err != nil {
			return err
		}
		back, err := TypePart(ctx, d.desk, fmt.Sprintf("%s, type your part back. Enter alone shows it again.", k.Name), "", p)
		if err != nil {
			return err
		}
		if back != nil {
			same := back.Equal(p)
			back.Wipe()
			if !same {
				return failf("not-typed-back", "this computer may be failing", "what %s typed is not the part", k.Name)
			}
			d.desk.Note("%s has %s: typed back", k.Name, p.Name())
			return nil
		}
	}
}

// partScreen is what a custodian copies; the caller clears it.
func partScreen(p *dkek.Part, name string, setWords []string) []byte {
	part := p.CheckedText()
	defer clear(part)
	text := make([]byte, 0, 1200+len(name)+len(part))
	text = fmt.Appendf(text, "%s: part %d of %d; any %d of them bring the recovery key together.\nSet %s", name, p.Index, p.Total, p.Needed, p.Set)
	if p.Shares > 1 {
		text = fmt.Appendf(text, ", share %d of %d", p.Share, p.Shares)
	}
	if !p.KCV.IsZero() {
		text = fmt.Appendf(text, ", KCV %s", p.KCV)
	}
	text = fmt.Appendf(text, "\nWords of the set: %s", strings.Join(setWords, " "))
	text = append(text, "\n\nWrite all of this down; every line ends in its check:\n\n"...)
	for line := range bytes.Lines(part) {
		text = append(append(text, "    "...), line...)
	}
	return append(text, "\nKeep it where nobody else gets at it. Never photograph, mail or store it.\n"...)
}

// askForAnswer has the custodian of a sealed part show that it opens: whoever
// has it can answer a challenge, on a machine of their own.
func (d *handingOut) askForAnswer(ctx context.Context, n *handOutNote, k Receiver, p *dkek.Part) (bool, error) {
	state, err := d.cat.Read()
	if err != nil {
		return false, err
	}
	c, err := dkek.NewChallenge(d.now, state.Head.Seq, state.Head.Hash)
	if err != nil {
		return false, err
	}
	d.desk.Note("%s is sealed to %s, who shows now that it opens:", n.Parts[p.Index-1].File.Path, k.Name)
	d.desk.Next("hsmbackup dkek rollcall --answer %s --share %s --identity FILE", c.Text(), k.Name+".txt.age")
	for {
		line, err := d.desk.ReadLine(ctx, fmt.Sprintf("Answer of %s to challenge %s (Enter alone: later):", k.Name, c.Text()))
		if err != nil {
			return false, err
		}
		if strings.TrimSpace(line) == "" {
			d.desk.Note("%s has not confirmed the part yet: call the roll soon (`hsmbackup dkek rollcall`)", k.Name)
			return false, nil
		}
		answer, err := dkek.ParseAnswer([]byte(line))
		if err == nil {
			err = answer.Check(c, p.Commitment())
		}
		if err == nil {
			d.desk.Note("%s has %s: answered for", k.Name, p.Name())
			return true, nil
		}
		d.desk.Note("%s", d.desk.Words(err))
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

// earlier sees to what an interrupted run left. It gives the note of the very
// hand-out that is wanted, if that is finished with this.
func (d *handingOut) earlier(own dkek.KCV) (*handOutNote, error) {
	keys, err := d.cat.Journal().Keys(handOutNotes)
	if err != nil {
		return nil, err
	}
	var wanted *handOutNote
	for _, key := range keys {
		n := new(handOutNote)
		if found, err := d.cat.Journal().Get(key, n); err != nil || !found {
			return nil, err
		}
		if !n.complete() {
			d.nameLeft(n)
			if err := d.end(n); err != nil {
				return nil, err
			}
			continue
		}
		if err := finishHandOut(d.cat, n); err != nil {
			return nil, err
		}
		d.Changed = true
		d.desk.Note("set %s was handed out by an earlier run, which was interrupted before that was recorded; now it is", n.Set.Set)
		if n.isFor(d.HandOut, own) {
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
func (n *handOutNote) isFor(h *HandOut, own dkek.KCV) bool {
	dir := h.Dir
	if dir != "" {
		dir, _ = filepath.Abs(dir) // fails where there is no working folder: then it is another
	}
	same := n.Job == h.Job && n.Dir == dir && n.Set.Needed == h.Needed && n.Retires == h.Retires && len(n.Set.Custodians) == len(h.Receivers)
	for i := range h.Receivers {
		same = same && n.Set.Custodians[i].Name == h.Receivers[i].Name
	}
	return same && (h.Job == "create" || n.Share == own.String())
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
	b, err := ReadFile(f.Path)
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

// takeBack removes what this very run wrote of a set that did not come about.
func (d *handingOut) takeBack() error {
	var errs []error
	for _, f := range d.written {
		if f.look("") == fileWhole {
			errs = append(errs, os.Remove(f.Path))
		} else {
			d.desk.Note("%s is not what was written there: it is left as it is", f.Path)
		}
	}
	return errors.Join(errs...)
}

// nameLeft says which files an earlier run left of a set that did not come
// about. That is a claim of the journal: they are left for people to look at.
func (d *handingOut) nameLeft(n *handOutNote) {
	var left []string
	for _, p := range n.Parts {
		for _, f := range p.files() {
			switch f.look(n.Set.Set) {
			case fileWhole, fileBegun:
				left = append(left, harmless.Word(f.Path))
			case fileOthers:
				d.desk.Note("%s is not what was written there: it is left as it is", f.Path)
			}
		}
	}
	if len(left) == 0 {
		return
	}
	d.desk.Note("an earlier hand-out, of set %s, was interrupted before the set came about, and its journal names: %s", n.Set.Set, strings.Join(left, " "))
	d.desk.Next("nothing is deleted because a journal says so: see what they are (`hsmbackup dkek check FILE`), and destroy them yourself if they are of that set")
}

// end closes a hand-out that is not complete, and says whose parts are of no
// use.
func (d *handingOut) end(n *handOutNote) error {
	var seen []string
	for i, p := range n.Parts {
		if p.Shown {
			seen = append(seen, n.Set.Custodians[i].Name)
		}
	}
	if len(seen) > 0 {
		outcome := fmt.Sprintf("interrupted: set %s does not exist; parts of it were seen by %s", n.Set.Set, strings.Join(seen, ", "))
		if err := d.cat.Append(store.Ceremony{Job: n.Job, Who: n.Who, KCV: n.Set.KCV, Sets: []string{n.Set.Set}, Outcome: outcome}); err != nil {
			return err
		}
		d.desk.Note("the hand-out of set %s was interrupted, and there is no such set: whatever %s wrote down of it is to be destroyed", n.Set.Set, strings.Join(seen, ", "))
	}
	return d.cat.Journal().Delete(n.key())
}

// HandedOut is the result of handing a set out.
type HandedOut struct {
	Set        string       `json:"set"`
	KCV        string       `json:"kcv"`
	Needed     int          `json:"needed"`
	Total      int          `json:"total"`
	Share      int          `json:"share"`
	Shares     int          `json:"shares"`
	Retired    string       `json:"retired,omitempty"`
	Custodians []HandedPart `json:"custodians"`
	Words      string       `json:"words"` // of the set
}

// HandedPart is a part of a set that was handed out.
type HandedPart struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
	File  string `json:"file"`
	Sheet string `json:"sheet,omitempty"`
	// Confirmed: typed back, or answered for; a file that is only written and
	// read back is not.
	Confirmed bool `json:"confirmed"`
}

// Sealed tells whether its file is sealed to its custodian.
func (p HandedPart) Sealed() bool { return strings.HasSuffix(p.File, ".age") }

// Open names the custodians who have not confirmed their parts.
func (r *HandedOut) Open() (names []string) {
	for _, p := range r.Custodians {
		if !p.Confirmed {
			names = append(names, p.Name)
		}
	}
	return names
}

// handedOut is the result of a hand-out; nil of nil.
func (h *HandOut) handedOut(n *handOutNote) *HandedOut {
	if n == nil {
		return nil
	}
	s := n.Set
	r := &HandedOut{Set: s.Set, KCV: s.KCV, Needed: s.Needed, Total: len(s.Custodians), Share: s.Share, Shares: s.Shares, Retired: n.Retires, Words: strings.Join(SetWords(&s), " "), Custodians: []HandedPart{}}
	for i, c := range s.Custodians {
		p := n.Parts[i]
		part := HandedPart{Name: c.Name, Index: c.Index, Confirmed: p.Confirmed}
		if p.File != nil {
			part.File = filepath.Join(h.Dir, filepath.Base(p.File.Path))
		}
		if p.Sheet != nil {
			part.Sheet = filepath.Join(h.Sheets, filepath.Base(p.Sheet.Path))
		}
		r.Custodians = append(r.Custodians, part)
	}
	return r
}

// KnowKCV works out the KCV of the recovery key, where these are all its shares,
// and compares it with the one that was typed.
func (h *HandOut) KnowKCV(shares []*dkek.Share) error {
	if len(shares) > h.Shares {
		return usagef("--of I/M says which share of how many is split", "%d shares are given, and the recovery key is said to have %d", len(shares), h.Shares)
	}
	if len(shares) < h.Shares {
		if len(shares) > 1 {
			return usagef("give all other shares of it, or none and --kcv", "%d shares are given, and the recovery key is said to have %d", len(shares), h.Shares)
		}
		return nil
	}
	key, err := dkek.Combine(shares...)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if !h.KCV.IsZero() && h.KCV != key.KCV() {
		return failf("kcv-mismatch", "make sure of both: nothing was handed out", "the shares give the recovery key %s, --kcv says %s", key.KCV(), h.KCV)
	}
	h.KCV, h.setKey = key.KCV(), key.SetKey()
	return nil
}

// RecordSeen notes in the catalog that the share of a hand-out was here, if the
// recovery key is known with it.
func (h *HandOut) RecordSeen(cat *store.Catalog, share *dkek.Share, r *HandedOut) error {
	if h.Shares > 1 || r.KCV != KCVText(h.KCV) {
		return nil
	}
	key, err := dkek.Combine(share)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return backup.RecordShares(cat, key, true, "dkek "+h.Job)
}

// PartsBack are the files of enough parts that anyone can read, of a hand-out
// that was done; fewer, where fewer are there.
func (h *HandOut) PartsBack(needed int) (list []Given) {
	for _, k := range h.Receivers {
		g := Given{File: h.fileOf(k)}
		if g.File == "" || k.Recipient != "" || len(list) == needed {
			continue
		}
		if g.read(); g.err == nil && dkek.IsPart(g.content) {
			list = append(list, g)
		}
	}
	return list
}
