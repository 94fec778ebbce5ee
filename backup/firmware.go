package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// A firmware update wants an empty token, and gives it a new serial number. The
// job is one, with the vendor's part in the middle: prove and copy, empty the
// token, let the vendor update it, restore onto what comes back. A note in the
// journal stands from before the first deletion until the successor is proven.

// UpdatePhase says how far a firmware update has got.
type UpdatePhase string

// The phases.
const (
	// UpdateEmptying: the token's files are being deleted.
	UpdateEmptying UpdatePhase = "emptying"
	// UpdateEmptied: the token is empty, it is the vendor's turn.
	UpdateEmptied UpdatePhase = "emptied"
	// UpdateRestoring: the successor is known and gets everything back.
	UpdateRestoring UpdatePhase = "restoring"
)

// Update is where the firmware update of a token stands.
type Update struct {
	// Serial and Firmware are the token's as it was.
	Serial   string `json:"serial"`
	Firmware string `json:"firmware"`
	// Snapshot and Hash name what brings everything back.
	Snapshot string      `json:"snapshot"`
	Hash     store.Hash  `json:"hash"`
	Phase    UpdatePhase `json:"phase"`
	// Files are deleted in this order; Deleted of them are known to be gone, and
	// with Intent the next one may be.
	Files   []schsm.FID `json:"files"`
	Deleted int         `json:"deleted"`
	Intent  bool        `json:"intent,omitempty"`
	// Discarded are references of keys that go for good.
	Discarded []int `json:"discarded,omitempty"`
	// Copy is where the verified copy of the catalog is.
	Copy string `json:"copy"`
	// Seq is the last log entry when it began: tokens that the catalog knew by
	// then are no successors.
	Seq       uint64    `json:"seq"`
	Began     time.Time `json:"began"`
	Successor string    `json:"successor,omitempty"`
}

// Check implements store.Note.
func (u *Update) Check() error {
	switch {
	case !store.IsSerial(u.Serial) || u.Successor != "" && !store.IsSerial(u.Successor):
		return fmt.Errorf("%q and %q are no serial numbers", u.Serial, u.Successor)
	case u.Firmware != "" && !store.IsFirmware(u.Firmware):
		return fmt.Errorf("%q is no firmware", u.Firmware)
	case !store.IsSnapshotID(u.Snapshot):
		return fmt.Errorf("%q is no snapshot", u.Snapshot)
	case u.Deleted < 0 || u.Deleted > len(u.Files):
		return fmt.Errorf("%d of %d files are deleted", u.Deleted, len(u.Files))
	}
	return nil
}

const updateNotes = "firmware-update/"

func (u *Update) put(cat *store.Catalog) error { return cat.Journal().Put(updateNotes+u.Serial, u) }

// Updates gives the firmware updates that are under way.
func Updates(cat *store.Catalog) ([]*Update, error) {
	if cat == nil {
		return nil, nil
	}
	names, err := cat.Journal().Keys(updateNotes)
	if err != nil {
		return nil, err
	}
	var list []*Update
	for _, name := range names {
		u := &Update{}
		if found, err := cat.Journal().Get(name, u); err != nil {
			return nil, err
		} else if found {
			list = append(list, u)
		}
	}
	return list, nil
}

// Done counts the deletions that are done: by the token itself where it is
// attached, else as far as the journal knows.
func (u *Update) Done(inv *Inventory) int {
	if inv == nil || inv.Serial != u.Serial || u.Phase != UpdateEmptying {
		return u.Deleted
	}
	there := inv.files()
	n := 0
	for _, f := range u.Files {
		if !slices.Contains(there, f) {
			n++
		}
	}
	return n
}

// Standing says in one line how far it has got; inv is the attached token, nil
// without one.
func (u *Update) Standing(inv *Inventory) string {
	text := fmt.Sprintf("firmware update of %s: ", u.Serial)
	switch attached := inv != nil && inv.Serial == u.Serial; {
	case u.Phase == UpdateRestoring:
		return text + fmt.Sprintf("it came back as %s, restoring is under way", u.Successor)
	case u.Phase == UpdateEmptied && attached && len(inv.files()) > 0:
		return text + fmt.Sprintf("all %s done, but the token is not empty: it holds %s", count(len(u.Files), "deletion"), strings.Join(inv.holding(), ", "))
	case u.Phase == UpdateEmptied:
		return text + fmt.Sprintf("all %s done, it is the vendor's turn", count(len(u.Files), "deletion"))
	}
	text += fmt.Sprintf("%d of %s done", u.Done(inv), count(len(u.Files), "deletion"))
	if u.Intent && (inv == nil || inv.Serial != u.Serial) {
		text += ", one more perhaps"
	}
	return text
}

// looksWhole tells whether all that the update is to bring back is on the token,
// as far as that shows without its PIN.
func (u *Update) looksWhole(inv *Inventory, s *store.Snapshot) bool {
	there := inv.files()
	discarded := func(f schsm.FID) bool {
		return slices.ContainsFunc(u.Discarded, func(n int) bool {
			r := byte(n)
			if i := slices.IndexFunc(s.Keys, func(k store.Key) bool { return k.Reference == n }); i >= 0 && len(s.Keys[i].Blob) > 0 {
				return false // it comes back, whatever the note says
			}
			return f == schsm.KeyFile(r) || f == schsm.DescriptionFile(r) || f == schsm.CertificateFile(r)
		})
	}
	return inv.Serial == u.Serial && inv.Initialised && len(foreign(inv, s)) == 0 &&
		!slices.ContainsFunc(u.Files, func(f schsm.FID) bool { return !slices.Contains(there, f) && !discarded(f) })
}

// files lists all files of a token but its own.
func (inv *Inventory) files() []schsm.FID {
	var list []schsm.FID
	for _, k := range inv.Keys {
		list = append(list, schsm.KeyFile(k.Reference))
		if k.Description != nil {
			list = append(list, schsm.DescriptionFile(k.Reference))
		}
		if k.Certificate != nil {
			list = append(list, schsm.CertificateFile(k.Reference))
		}
	}
	for _, f := range inv.Files {
		list = append(list, f.FID)
	}
	return append(list, inv.Unread...)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// UpdateOptions are what PrepareUpdate is told.
type UpdateOptions struct {
	// Cleaned is as in Options.
	Cleaned func(what string)
	// Discard is asked of each key that would not come back; nil is no. What
	// it says yes to is lost for good.
	Discard func(KeyCoverage) (bool, error)
	// TypeBack has the label typed of a key that may not be asked.
	TypeBack func(ctx context.Context, what, word string) error
	// Shares, if given, are opened: every key blob is opened with the DKEK and
	// matched, and a whole restore is drilled on tokens of NewToken.
	Shares   []*dkek.Share
	NewToken func() (apdu.Transmitter, func() error, error)
	// SharesChecked is the KCV of shares that were checked on another computer, as
	// typed: without Shares nothing is deleted unless it is given.
	SharesChecked string
	SpendUse      func(Key) bool
	Progress      func(what string, done, total int)
	Program       string
}

func (o UpdateOptions) options() Options {
	return Options{SpendUse: o.SpendUse, Progress: o.Progress, Cleaned: o.Cleaned, Program: o.Program}
}

// Readiness is a token of which everything was shown to come back.
type Readiness struct {
	// Report is that of the backup, after all proofs.
	Report *Report
	// Discarded are keys that go for good, as was typed.
	Discarded []KeyCoverage
	// Shown are the recovery keys whose shares are here, Typed those of which only
	// the KCV was typed.
	Shown, Typed []store.KCV
	// Drilled is how long a restore took in memory; 0 without shares.
	Drilled time.Duration
	// Warrant is leave to empty the token.
	Warrant Warrant

	inv *Inventory
}

// PrepareUpdate takes a snapshot of a token that is logged in, proves all of it
// anew on the token, and makes sure that the shares exist. An error of class
// Refused names what would not come back. The token is left as it is.
func PrepareUpdate(ctx context.Context, card *schsm.Card, cat *store.Catalog, o UpdateOptions) (*Readiness, error) {
	r := &Readiness{}
	var err error
	if r.inv, err = Take(ctx, card); err != nil {
		return nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	if err := noneVanished(r.inv, state); err != nil {
		return nil, err
	}
	if o.SharesChecked != "" {
		if err := CheckTypedKCV(r.inv, state, o.SharesChecked); err != nil {
			return nil, err
		}
	}
	// Shares that are here seal what the PIN protects, so they come first.
	if err := o.recordShares(cat, r.inv); err != nil {
		return nil, err
	}
	if r.Report, err = Run(ctx, card, cat, o.options()); err != nil {
		return nil, err
	}
	fail := func(err error) (*Readiness, error) { return nil, fail.After(err) }
	if len(o.Shares) > 0 {
		if err := r.open(ctx, cat, o); err != nil {
			return fail(err)
		}
	}
	if err := r.leave(ctx, card, cat, r.Report.seen, o); err != nil {
		return fail(err)
	}
	return r, nil
}

// recordShares notes the recovery keys that the shares give. Shares of none of the
// token's are refused.
func (o UpdateOptions) recordShares(cat *store.Catalog, inv *Inventory) error {
	sets, left := AssignShares(inv.token().Domains, o.Shares)
	if len(left) > 0 {
		return fail.Refusef("kcv-mismatch", "`hsmbackup dkek check` tells what a set of shares gives", "%d of the shares belong to no recovery key of this token", len(left))
	}
	for _, set := range sets {
		if len(set.Load) > 0 {
			if err := set.record(cat, inv.Software, "firmware-update"); err != nil {
				return err
			}
		}
	}
	return nil
}

func sharesNotSeen(kcv ...store.KCV) error {
	return fail.Refusef("shares-not-seen", "give them now with --share FILE; or run `hsmbackup dkek check SHARE…` where they are and come back with --shares-checked "+kcv[0]+", the KCV that it shows",
		"nobody has shown shares of the recovery key %s in this run, and without them nothing comes back", strings.Join(kcv, ", "))
}

// leave shows that all that is on the token comes back, and gets leave to empty
// it.
func (r *Readiness) leave(ctx context.Context, card *schsm.Card, cat *store.Catalog, e *Evidence, o UpdateOptions) error {
	var err error
	if r.inv, err = Take(ctx, card); err != nil {
		return err
	}
	state, err := cat.Reread()
	if err != nil {
		return err
	}
	e.combine(r.inv.token().Domains, o.Shares, state.Now(r.inv.Serial))
	if o.SharesChecked != "" {
		if err := e.typeKCV(r.inv, state, o.SharesChecked); err != nil {
			return err
		}
	}
	if err := e.prove(ctx, card, cat, r.inv, nil, o.options()); err != nil {
		return err
	}
	w, lost, gone, err := e.warrant(ctx, r.inv, cat, nil, Consent{Discard: o.Discard, TypeBack: o.TypeBack})
	if err != nil {
		return err
	}
	if r.Report != nil {
		lost = append(lost, r.Report.gaps()...)
	}
	if len(lost) > 0 {
		return fail.Refusef("not-covered", "`hsmbackup status` says what can be done; --share FILE opens what no round trip can prove; a key that may go for good is named with --discard KEY",
			"an update wants the token empty, and not everything on it would come back: %s", strings.Join(lost, "; "))
	}
	for _, kcv := range slices.Sorted(maps.Keys(e.recovery)) {
		if e.recovery[kcv] == typedKCV {
			r.Typed = append(r.Typed, kcv)
		} else {
			r.Shown = append(r.Shown, kcv)
		}
	}
	r.Warrant, r.Discarded = w, gone
	if r.Report != nil {
		return r.Report.judge(r.inv, cat)
	}
	return nil
}

// gaps are what the snapshot could not keep of what was on the token. Data
// objects are named by whoever compares files; attachments were never on it.
func (r *Report) gaps() []string {
	var lost []string
	for _, m := range r.Snapshot.Missing {
		if m.What != gapPKA && !strings.HasPrefix(m.What, "data object ") && !strings.HasPrefix(m.What, "attachment ") {
			lost = append(lost, m.What+": "+m.Reason)
		}
	}
	return lost
}

// noneVanished refuses a token that lacks keys which its newest snapshot brings
// back, as one that was emptied by an update of which this catalog, a copy of
// before, knows nothing: its successor would lack them too.
func noneVanished(inv *Inventory, state *store.State) error {
	s, gone := Vanished(inv, state)
	if len(gone) == 0 {
		return nil
	}
	return fail.Refusef("keys-gone", "`hsmbackup restore` puts them back; if they were deleted for good, `hsmbackup backup` takes note of that",
		"snapshot %s brings back what is not on the token any more, and so would not be on its successor: %s", s.ID, strings.Join(gone, ", "))
}

// Vanished names the keys that the newest snapshot of a token brings back and
// that are not on the token any more, wherever.
func Vanished(inv *Inventory, state *store.State) (*store.Snapshot, []string) {
	s := state.Newest(inv.Serial)
	if s == nil {
		return nil, nil
	}
	var gone []string
	for i := range s.Keys {
		stored := &s.Keys[i]
		there := func(k Key) bool { return isSame(k, stored, int(k.Reference) == stored.Reference) }
		if len(stored.Blob) > 0 && stored.Damage == "" && !slices.ContainsFunc(inv.Keys, there) {
			gone = append(gone, keyName(stored.Label, stored.Reference))
		}
	}
	return s, gone
}

// underUpdate refuses a snapshot of a token that a firmware update has begun to
// empty: it would be the newest one and bring back less than the one before. That
// everything is back only the end of the update says, which uses each key.
func underUpdate(inv *Inventory, cat *store.Catalog) error {
	list, err := Updates(cat)
	if err != nil {
		return err
	}
	for _, u := range list {
		if u.Serial == inv.Serial && u.Phase != UpdateRestoring && (u.Phase == UpdateEmptied || u.Deleted > 0 || u.Intent) {
			return fail.Refusef("under-update", "`hsmbackup firmware-update` goes on with it, with --abort it puts everything back",
				"a firmware update has emptied %s, or part of it: a snapshot of what is left would be taken for the newest, in place of %s", inv.Serial, u.Snapshot)
		}
	}
	return nil
}

// open opens every key blob with the shares, and drills.
func (r *Readiness) open(ctx context.Context, cat *store.Catalog, o UpdateOptions) error {
	s := r.Report.Snapshot
	sets, _ := AssignShares(s.Token.Domains, o.Shares)
	started := time.Now()
	for _, set := range sets {
		if len(set.Load) == 0 {
			continue
		}
		key, err := dkek.Combine(set.Load...)
		if err != nil {
			return err
		}
		keep := o.options()
		keep.KeepAnchor = true
		v, err := VerifyOffline(ctx, cat, []*store.Snapshot{s}, key, keep)
		key.Wipe()
		if err != nil {
			return err
		}
		if v.Damaged() {
			return &fail.Error{Class: fail.Damaged, Code: "damaged", Message: "the snapshot does not open with these shares as it should: " + v.first(), Hint: "`hsmbackup verify --offline --share FILE` says all of it"}
		}
	}
	v, err := Drill(ctx, cat, []*store.Snapshot{s}, o.Shares, DrillOptions{NewToken: o.NewToken, Progress: o.Progress, Started: started})
	if err != nil {
		return err
	}
	if v.Damaged() {
		return &fail.Error{Class: fail.Damaged, Code: "damaged", Message: "a restore in memory found damage: " + v.first(), Hint: "`hsmbackup drill --share FILE` says all of it"}
	}
	r.Drilled = v.Took
	return nil
}

// first names the first thing that is damaged.
func (v *Verification) first() string {
	if len(v.Findings) > 0 {
		return v.Findings[0].String()
	}
	for _, s := range v.Snapshots {
		for _, k := range s.Keys {
			if k.Damage {
				return keyName(k.Label, k.Reference) + ": " + k.Reason
			}
		}
	}
	return "nothing"
}

// CopyName is what a copy of the catalog is called in a folder, by its last
// entry.
func CopyName(head store.Entry) string {
	return fmt.Sprintf("catalog-%06d-%x.db", head.Seq, head.Hash[:4])
}

// copyPlace gives the file that a copy goes to: the one named, or one with a name
// of its own in the folder named. A place on the catalog's own file system is
// refused unless sameDisk; same tells that it is one.
func copyPlace(cat *store.Catalog, to string, sameDisk bool) (path string, same bool, head store.Entry, err error) {
	state, err := cat.Read()
	if err != nil {
		return "", false, head, err
	}
	head = state.Head
	if path, err = filepath.Abs(to); err != nil {
		return "", false, head, err
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() || os.IsPathSeparator(to[len(to)-1]) {
		path = filepath.Join(path, CopyName(head))
	}
	if same, err = cat.SameFileSystem(path); err != nil {
		return "", false, head, err
	}
	if same && !sameDisk {
		return "", true, head, fail.Refusef("same-disk", "name a place on another disk, a stick or a mounted share; or type --same-disk-anyway", "%s is on the catalog's own file system: one broken disk would take both", to)
	}
	return path, same, head, nil
}

// CheckCopyPlace refuses a place that CopyCatalog would refuse, before anything
// else is done.
func CheckCopyPlace(cat *store.Catalog, to string, sameDisk bool) error {
	path, _, head, err := copyPlace(cat, to, sameDisk)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil && store.CheckCopy(path, head) != nil {
		return copyExists(path)
	}
	return nil
}

func copyExists(path string) error {
	return fail.Refusef("copy-exists", "name another file, or a folder", "%s exists already and is no copy of the catalog as it is now; it was left alone", path)
}

// CopyCatalog copies the catalog to a file, or under a name of its own into a
// folder, opens the copy, checks all of it and notes it in the log. A copy on
// the catalog's own file system is refused unless sameDisk. It gives the last
// entry in the copy.
func CopyCatalog(cat *store.Catalog, to string, sameDisk bool) (store.Copy, store.Entry, error) {
	path, same, head, err := copyPlace(cat, to, sameDisk)
	if err != nil {
		return store.Copy{}, head, err
	}
	copied, err := cat.CopyTo(path)
	if errors.Is(err, store.ErrExists) {
		// That of an earlier run, if nothing was recorded since.
		copied = head
		if err = store.CheckCopy(path, head); err != nil {
			err = copyExists(path)
		}
	}
	if err != nil {
		return store.Copy{}, head, err
	}
	c := store.Copy{Path: path, Seq: copied.Seq, Head: copied.Hash, SameDisk: same}
	return c, copied, cat.Append(c)
}

// BeginUpdate notes in the journal that the token is about to be emptied. From
// here on EmptyToken goes on.
func BeginUpdate(cat *store.Catalog, r *Readiness, c store.Copy) (*Update, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	s := r.Report.Snapshot
	u := &Update{
		Serial: r.inv.Serial, Firmware: r.inv.Firmware, Snapshot: s.ID, Hash: s.Hash, Phase: UpdateEmptying,
		Files: r.inv.files(), Copy: c.Path, Seq: state.Head.Seq, Began: cat.Now().UTC().Truncate(time.Second),
	}
	for _, k := range r.Discarded {
		u.Discarded = append(u.Discarded, int(k.Key.Reference))
	}
	return u, u.put(cat)
}

// ResumeUpdate shows of what an emptying that was cut off has left that it comes
// back: each key answers again, each blob comes back again, and the shares or
// their KCV are there again. What was given up is asked for again too.
func ResumeUpdate(ctx context.Context, card *schsm.Card, cat *store.Catalog, u *Update, o UpdateOptions) (*Readiness, error) {
	inv, err := u.here(ctx, card)
	if err != nil {
		return nil, err
	}
	state, err := cat.Reread()
	if err != nil {
		return nil, err
	}
	r := &Readiness{inv: inv}
	e, err := Ask(ctx, card, inv, state, o.options())
	if err != nil {
		return nil, err
	}
	return r, r.leave(ctx, card, cat, e, o)
}

func (u *Update) here(ctx context.Context, card *schsm.Card) (*Inventory, error) {
	inv, err := Take(ctx, card)
	if err != nil {
		return nil, err
	}
	if inv.Serial != u.Serial {
		return nil, fail.Refusef("wrong-token", "plug in the token that the update is of", "the firmware update is of %s, this is %s; nothing was deleted", u.Serial, orNone(inv.Serial))
	}
	return inv, nil
}

// EmptyToken deletes what is on the token, one file after the other: intent into
// the journal, the command, confirmation. Each goes by the warrant, whatever the
// journal says. An error of class Changed is gone on from by the next call.
func EmptyToken(ctx context.Context, card *schsm.Card, cat *store.Catalog, u *Update, w Warrant, progress func(what string, done, total int)) error {
	o := Options{Progress: progress}
	inv, err := u.here(ctx, card)
	if err != nil {
		return err
	}
	if _, err := u.snapshot(cat); err != nil {
		return err
	}
	if _, err := os.Stat(u.Copy); err == nil { // one that was put away cannot be looked at
		if err := u.checkCopy(cat); err != nil {
			return err
		}
	}
	left := inv.files()
	u.Deleted = u.Done(inv)
	for i, f := range left {
		o.progress("deleting "+f.String(), i, len(left))
		if err := ctx.Err(); err != nil {
			return fail.After(err)
		}
		u.Intent = true
		if err := u.put(cat); err != nil {
			return fail.After(err)
		}
		if err := w.remove(ctx, card, f); err != nil {
			return fail.After(err)
		}
		u.Deleted, u.Intent = min(u.Deleted+1, len(u.Files)), false
		if err := u.put(cat); err != nil {
			return fail.After(err)
		}
	}
	o.progress("deleted", len(left), len(left))
	if inv, err = Take(ctx, card); err != nil {
		return fail.After(err)
	}
	if left := inv.files(); len(left) > 0 {
		return &fail.Error{Class: fail.Changed, Code: "not-empty", Message: fmt.Sprintf("the token still holds %v, which came while it was emptied", left), Hint: "`hsmbackup firmware-update --abort` puts everything back; then begin anew"}
	}
	if err := dropAnchor(ctx, card, cat, inv); err != nil {
		return fail.After(err)
	}
	u.Phase, u.Deleted = UpdateEmptied, len(u.Files)
	if err := u.put(cat); err != nil {
		return fail.After(err)
	}
	return u.log(cat, store.UpdateEmptied)
}

func (u *Update) log(cat *store.Catalog, step string) error {
	err := cat.Append(store.UpdateStep{Serial: u.Serial, Firmware: u.Firmware, Snapshot: u.Snapshot, Step: step, Successor: u.Successor, Discarded: u.Discarded})
	if err != nil {
		return fail.After(err)
	}
	return nil
}

// OldSnapshot is the one that brings everything back.
func (u *Update) OldSnapshot(cat *store.Catalog) (*store.Snapshot, error) { return u.snapshot(cat) }

func (u *Update) snapshot(cat *store.Catalog) (*store.Snapshot, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	s, err := state.Find(u.Snapshot)
	if err != nil {
		return nil, err
	}
	if s.Hash != u.Hash {
		return nil, &fail.Error{Class: fail.Damaged, Code: "catalog-damaged", Message: "snapshot " + u.Snapshot + " is not the one that the update began with", Hint: "`hsmbackup check` says what does not check out"}
	}
	// The note may have been put back to one of before. A token that keeps its
	// serial has had a newer one since it came back.
	now := state.Newest(u.Serial)
	for now != nil && now.Rekeyed != nil && now.Hash != s.Hash {
		now = state.Source(now)
	}
	if now != nil && now.Hash != s.Hash && (u.Phase != UpdateRestoring || u.Successor != u.Serial) {
		return nil, &fail.Error{Class: fail.Damaged, Code: "catalog-damaged",
			Message: fmt.Sprintf("the update's note names snapshot %s of %s, and %s is newer: nothing was done by it", s.ID, u.Serial, now.ID),
			Hint:    fmt.Sprintf("`hsmbackup firmware-update --settle %s` ends it as it is; then `hsmbackup restore --from %s`", u.Serial, now.ID)}
	}
	return s, nil
}

// checkCopy compares the copy with the catalog's log.
func (u *Update) checkCopy(cat *store.Catalog) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	for _, c := range CheckCopies(state) {
		if c.Path == u.Copy && c.Reached && c.Damage != "" {
			return fail.Refusef("copy-damaged", "mend the copy's place and run with --copy-to again", "the copy of the catalog at %s does not check out any more (%s); nothing more is deleted", u.Copy, c.Damage)
		}
	}
	return nil
}

// holds finds the content of a file in a snapshot, whether it belongs to a key
// or not.
func holds(s *store.Snapshot, f schsm.FID) (content []byte, sealed, found bool) {
	if s == nil {
		return nil, false, false
	}
	for _, k := range s.Keys {
		switch {
		case k.Reference != int(f.Index()):
		case f.Prefix() == schsm.PrefixDescription && k.Description != nil:
			return k.Description, false, true
		case f.Prefix() == schsm.PrefixKeyCertificate && k.Certificate != nil:
			return k.Certificate, false, true
		}
	}
	for _, file := range s.Files {
		if n, err := strconv.ParseUint(file.FID, 16, 16); err == nil && schsm.FID(n) == f {
			return file.Content, file.Sealed, true
		}
	}
	return nil, false, false
}

// foreign names what is on a token and not, as it is, in a snapshot of it.
func foreign(inv *Inventory, s *store.Snapshot) []string {
	var list []string
	for _, k := range inv.Keys {
		i := slices.IndexFunc(s.Keys, func(stored store.Key) bool { return stored.Reference == int(k.Reference) })
		if i < 0 || !isSame(k, &s.Keys[i], true) && !disowned(k, &s.Keys[i]) || !bytes.Equal(k.Description, s.Keys[i].Description) || !bytes.Equal(k.Certificate, s.Keys[i].Certificate) {
			list = append(list, k.Name())
		}
	}
	for _, f := range inv.Files {
		if content, sealed, found := holds(s, f.FID); !found || sealed || !bytes.Equal(content, f.Content) {
			list = append(list, "file "+f.FID.String())
		}
	}
	for _, f := range inv.Unread {
		if _, sealed, found := holds(s, f); !found || !sealed {
			list = append(list, "data object "+f.String())
		}
	}
	return list
}

// disowned: the public key beside the key was found to be another key's when it
// was backed up, and the same lies there still.
func disowned(k Key, stored *store.Key) bool {
	return len(stored.PublicKey) == 0 && bytes.Equal(k.Certificate, stored.Certificate)
}

// seenBefore tells whether the catalog knew a token by its serial when a log
// entry was the last.
func seenBefore(cat *store.Catalog, serial string, seq uint64) (bool, error) {
	state, err := cat.Read()
	if err != nil {
		return false, err
	}
	for _, e := range state.Entries {
		if e.Seq > seq {
			break
		}
		var body struct {
			Serial      string        `json:"serial"`
			SuccessorOf string        `json:"successor_of"`
			Token       string        `json:"token"`
			From        string        `json:"from"`
			To          string        `json:"to"`
			Proofs      []store.Proof `json:"proofs"`
		}
		if json.Unmarshal(e.Body, &body) != nil {
			continue // of a kind that is not known here
		}
		named := []string{body.Serial, body.SuccessorOf, body.Token, body.From, body.To}
		for _, p := range body.Proofs {
			named = append(named, p.Token)
		}
		if slices.Contains(named, serial) {
			return true, nil
		}
	}
	return false, nil
}
