package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
	"hsmbackup/store"
)

// UpdateJob is one run of a firmware update: it looks where it stands, by the
// token and the journal, and goes on from there.
type UpdateJob struct {
	Work
	Person UpdatePerson
	// Begin: an update may be begun; without it a run only goes on with one.
	// Abort puts everything back.
	Begin, Abort bool
	// SuccessorOf is the old serial of the attached token. Discard names keys that
	// may go for good.
	SuccessorOf string
	Discard     []string
	Options     UpdateOptions

	inv *Inventory
	r   *UpdateReport
}

// UpdatePerson is asked by a firmware update besides.
type UpdatePerson interface {
	Person
	// Check refuses a place or a computer that an update cannot be begun with; the
	// catalog may be nil. Warn says what is known to go wrong, and Offered asks
	// whether the vendor has an update.
	Check(context.Context, *store.Catalog) error
	Warn(*Inventory, []faults.Fault)
	Offered(context.Context) error
	// Copy copies the catalog elsewhere and checks what came out.
	Copy(context.Context, *store.Catalog) (store.Copy, store.Entry, error)
	// Ready shows what was proven before anything is deleted.
	Ready(*Readiness, store.Copy, store.Entry)
	// GiveUp asks whether a key that no backup can take may go for good.
	GiveUp(context.Context, KeyCoverage) (bool, error)
	// PutBack asks whether everything is to go back onto a token that was not
	// updated.
	PutBack(context.Context, *Update) (bool, error)
}

// UpdateReport is where a run ended.
type UpdateReport struct {
	fail.Verdict `json:"-"`

	Token string `json:"token"`
	// Phase is what has been reached: emptying, emptied, restoring, finished,
	// put-back, settled; empty if nothing was begun.
	Phase     UpdatePhase `json:"phase"`
	Snapshot  string      `json:"snapshot"`
	Copy      string      `json:"copy"`
	Head      string      `json:"head"`
	Deleted   int         `json:"deleted"`
	Deletions int         `json:"deletions"`
	Successor string      `json:"successor"`
	Complete  bool        `json:"complete"`

	Keys     []KeyProof `json:"keys"`
	SSH      []string   `json:"ssh"`
	Changed  []string   `json:"changed"`
	Next     []string   `json:"next"`
	Problems []string   `json:"problems,omitempty"`

	// Update is the one that this was about, nil for none. Restored is what came
	// back, Taken the snapshot of the successor. Waits: shares are still to be
	// loaded. Last is the entry that Head is of.
	Update   *Update        `json:"-"`
	Restored *RestoreReport `json:"-"`
	Taken    *Report        `json:"-"`
	Waits    bool           `json:"-"`
	Last     store.Entry    `json:"-"`
}

// The phases of an update that is over.
const (
	UpdateFinished UpdatePhase = "finished"
	UpdatePutBack  UpdatePhase = "put-back"
	UpdateSettled  UpdatePhase = "settled"
)

func newUpdateReport() *UpdateReport {
	return &UpdateReport{Keys: []KeyProof{}, SSH: []string{}, Changed: []string{}, Next: []string{}}
}

// at takes over what is known of the update.
func (r *UpdateReport) at(u *Update) {
	r.Update, r.Token, r.Phase, r.Snapshot, r.Copy = u, u.Serial, u.Phase, u.Snapshot, u.Copy
	r.Deleted, r.Deletions, r.Successor = u.Deleted, len(u.Files), u.Successor
}

// Run does what comes next.
func (j *UpdateJob) Run(ctx context.Context) (*UpdateReport, error) {
	j.Work.Person, j.r = j.Person, newUpdateReport()
	var err error
	if j.inv, err = Take(ctx, j.Card); err != nil {
		return j.r, err
	}
	j.r.Token = j.inv.Serial
	u, stranger, err := FindUpdate(j.Catalog, j.inv, j.SuccessorOf)
	if err != nil {
		return j.r, err
	}
	if j.Abort {
		return j.r, j.putBack(ctx, u)
	}
	if u != nil && !u.Updated(j.inv) && u.Phase != UpdateRestoring && u.Deleted > 0 {
		// Somebody may have put everything back: that is seen by using it.
		s, err := u.snapshot(j.Catalog)
		if err != nil {
			return j.r, err
		}
		if u.looksWhole(j.inv, s) {
			j.Person.Say("%s holds again what snapshot %s does, as far as that shows without its PIN: now the keys are used", j.Person.Name(), s.ID)
			if err := j.putBack(ctx, u); err != nil || j.r.Phase != UpdatePutBack || !j.Begin {
				return j.r, err
			}
			u, j.r = nil, newUpdateReport()
		}
	}
	defer func() { dkek.WipeShares(j.Options.Shares) }()
	switch {
	case u == nil:
		return j.r, j.begin(ctx, stranger)
	case u.Phase == UpdateEmptying:
		return j.r, j.empty(ctx, u)
	case u.Phase == UpdateEmptied && !u.Updated(j.inv):
		return j.r, j.notUpdated(ctx, u)
	}
	return j.r, j.succeed(ctx, u)
}

// begin does everything that comes before the first deletion, and goes on with
// those. What can be refused is, before anything is recorded.
func (j *UpdateJob) begin(ctx context.Context, stranger string) error {
	if !j.Begin {
		return j.nothingUnderWay(stranger)
	}
	if stranger != "" {
		j.Person.Note("%s", stranger)
	}
	if j.inv.PIN.Tries == 1 {
		return fail.Refusef("last-pin-try", "`hsmbackup backup --confirm "+j.inv.Serial+"` once you are sure of the PIN: the right one brings all tries back", "%s has one PIN try left: nothing is begun with that", j.Person.Name())
	}
	if err := j.Person.Check(ctx, j.Catalog); err != nil {
		return err
	}
	if err := j.discards(ctx); err != nil {
		return err
	}
	if err := j.shown(); err != nil {
		return err
	}
	j.Person.Warn(j.inv, nil)
	if err := j.Person.Offered(ctx); err != nil {
		return err
	}
	if err := j.openAndLogIn(ctx); err != nil {
		return err
	}
	if err := j.ensure(); err != nil {
		return err
	}
	ready, err := PrepareUpdate(ctx, j.Card, j.Catalog, j.Options)
	if err != nil {
		return err
	}
	j.Changed = true
	c, copied, err := j.Person.Copy(ctx, j.Catalog)
	if err != nil {
		return err
	}
	j.r.Last = copied
	j.Person.Ready(ready, c, copied)
	what := fmt.Sprintf("Everything on %s is about to be deleted, %s, so that it can be updated.", j.Person.Name(), count(len(j.inv.Keys), "key"))
	if err := j.Person.Agree(ctx, Question{what, true}); err != nil {
		return err
	}
	u, err := BeginUpdate(j.Catalog, ready, c)
	if err != nil {
		return err
	}
	return j.emptyLoggedIn(ctx, u, ready.Warrant)
}

// openAndLogIn opens the shares that were given, which Run wipes, and logs in.
func (j *UpdateJob) openAndLogIn(ctx context.Context) error {
	if !j.Person.Given() {
		return j.Person.Login(ctx)
	}
	j.Person.Note("private keys are in this computer's memory while they are tried on a software token")
	shares, err := j.Person.Open(ctx, j.Catalog)
	if err != nil {
		return err
	}
	j.Options.Shares = shares
	if _, left := AssignShares(j.inv.token().Domains, shares); len(left) > 0 {
		return fail.Refusef("kcv-mismatch", "`hsmbackup dkek check` tells what a set of shares gives", "%d of the shares belong to no recovery key of this token", len(left))
	}
	return j.Person.Login(ctx)
}

// discards has the keys of Discard given up, which must be there, and others that
// no backup can take as somebody says.
func (j *UpdateJob) discards(ctx context.Context) error {
	named := map[byte]bool{}
	for _, name := range j.Discard {
		k, err := j.inv.FindKey(name)
		if err != nil {
			return err
		}
		named[k.Reference] = true
	}
	j.Options.TypeBack = j.Person.TypeBack
	j.Options.Discard = func(k KeyCoverage) (bool, error) {
		if named[k.Key.Reference] || k.Coverage != Accepted && !NoBackupTakes(k) {
			return named[k.Key.Reference], nil
		}
		return j.Person.GiveUp(ctx, k)
	}
	return nil
}

// shown refuses an update of a token of whose recovery keys nobody has shown
// shares in this run, nor typed the KCV after a check elsewhere.
func (j *UpdateJob) shown() error {
	state, err := j.Catalog.Read()
	if err != nil {
		return err
	}
	if j.SharesChecked != "" {
		if err := CheckTypedKCV(j.inv, state, j.SharesChecked); err != nil {
			return err
		}
		j.Options.SharesChecked = strings.ToUpper(j.SharesChecked)
	}
	for _, k := range j.inv.Keys {
		discarded := slices.ContainsFunc(j.Discard, func(name string) bool {
			named, err := j.inv.FindKey(name)
			return err == nil && named.Reference == k.Reference
		})
		left := k.Description == nil && k.Certificate == nil // of a proof that was cut off, perhaps; asked later
		if k.KCV != "" && k.NotExportable == "" && !discarded && !left && !state.Shares[k.KCV].Random && !j.Person.Given() && k.KCV != j.Options.SharesChecked {
			return sharesNotSeen(k.KCV)
		}
	}
	return nil
}

// nothingUnderWay is about a run that may not begin an update, where none is under
// way.
func (j *UpdateJob) nothingUnderWay(stranger string) error {
	state, err := j.Catalog.Read()
	if err != nil {
		return err
	}
	before := state.Predecessor(j.inv.Serial)
	switch {
	case stranger != "":
		return fail.Refusef("stranger", "plug in the token that came back from the vendor; to begin an update of this one, give --copy-to PLACE", "%s", stranger)
	case before != "":
		j.r.Phase, j.r.Successor, j.r.Complete, j.r.Token = UpdateFinished, j.inv.Serial, true, before
		j.Person.Say("the firmware update of %s is finished: it is %s now", before, j.inv.Serial)
		j.Person.Say("to begin another one, give --copy-to PLACE")
		return nil
	}
	return fail.Usagef("name a folder on another disk, a stick or a mounted share", "an update begins with a copy of the catalog elsewhere: --copy-to PLACE")
}

// empty goes on with deletions that were cut off: what is left is asked and proven
// again, with the shares or their KCV, and what was given up is given up again.
func (j *UpdateJob) empty(ctx context.Context, u *Update) error {
	j.Person.Say("%s", u.Standing(j.inv))
	if err := j.discards(ctx); err != nil {
		return err
	}
	if err := j.shown(); err != nil {
		return err
	}
	if err := j.Person.Agree(ctx, Question{"The rest of " + j.Person.Name() + " is about to be deleted.", true}); err != nil {
		return err
	}
	if err := j.openAndLogIn(ctx); err != nil {
		return err
	}
	ready, err := ResumeUpdate(ctx, j.Card, j.Catalog, u, j.Options)
	if err != nil {
		return err
	}
	if err := j.copied(ctx, u); err != nil {
		return err
	}
	return j.emptyLoggedIn(ctx, u, ready.Warrant)
}

// copied makes sure that the catalog has the copy that the update's note names: a
// note alone is no copy. One that was put away since cannot be looked at.
func (j *UpdateJob) copied(ctx context.Context, u *Update) error {
	state, err := j.Catalog.Read()
	if err != nil || slices.ContainsFunc(state.Copies, func(c store.Copy) bool { return c.Path == u.Copy }) {
		return err
	}
	if !j.Begin {
		return fail.Refusef("no-copy", "run it again with --copy-to PLACE, and it makes one", "the catalog has no copy at %s, where the update of %s is said to have made one", u.Copy, u.Serial)
	}
	c, _, err := j.Person.Copy(ctx, j.Catalog)
	if err != nil {
		return err
	}
	u.Copy, j.Changed = c.Path, true
	return u.put(j.Catalog)
}

func (j *UpdateJob) emptyLoggedIn(ctx context.Context, u *Update, w Warrant) error {
	if err := EmptyToken(ctx, j.Card, j.Catalog, u, w, j.Backup.Progress); err != nil {
		return err
	}
	j.Changed = true
	j.r.at(u)
	j.Person.Say("%s is empty: %d of %s done", u.Serial, u.Deleted, count(len(u.Files), "deletion"))
	return nil
}

// last notes the last entry of the catalog.
func (j *UpdateJob) last() error {
	state, err := j.Catalog.Read()
	if err == nil {
		j.r.Last = state.Head
	}
	return err
}

// notUpdated is about a token that comes back as it went: it can wait for the
// vendor on, or get everything back.
func (j *UpdateJob) notUpdated(ctx context.Context, u *Update) error {
	j.r.at(u)
	if there := j.inv.holding(); len(there) > 0 {
		j.r.Add(fmt.Sprintf("%s is not empty: %s", u.Serial, strings.Join(there, ", ")))
		j.Person.Say("%s has its old serial number and firmware %s, and is not empty: it holds %s", u.Serial, u.Firmware, strings.Join(there, ", "))
	} else {
		j.Person.Say("%s is still empty and has its old serial number and firmware %s: it was not updated", u.Serial, u.Firmware)
	}
	yes, err := j.Person.PutBack(ctx, u)
	if err != nil || !yes {
		return err
	}
	j.r.Verdict = fail.Verdict{}
	return j.putBack(ctx, u)
}

// holding names what is on a token but its own files.
func (inv *Inventory) holding() []string {
	var list []string
	for _, k := range inv.Keys {
		list = append(list, k.Name())
	}
	for _, f := range inv.Files {
		list = append(list, "file "+f.FID.String())
	}
	for _, f := range inv.Unread {
		list = append(list, "data object "+f.String())
	}
	return list
}

// succeed goes on with the token that came back.
func (j *UpdateJob) succeed(ctx context.Context, u *Update) error {
	j.r.at(u)
	name := j.Person.Name()
	if u.Phase != UpdateRestoring {
		j.Person.Say("%s, firmware %s, is new here: it is taken for %s after its update", name, j.inv.Firmware, u.Serial)
	} else {
		j.Person.Say("%s", u.Standing(j.inv))
	}
	if err := j.Person.Agree(ctx, Question{fmt.Sprintf("%s is taken for %s after its update, and gets everything back.", name, u.Serial), true}); err != nil {
		return err
	}
	if err := Succeed(j.Catalog, u, j.inv); err != nil {
		return err
	}
	j.Changed = true
	j.r.at(u)
	j.Person.Warn(j.inv, AfterUpdate())
	r, err := j.playBack(ctx, u)
	if err != nil || r == nil {
		return err
	}
	if j.r.Taken, err = u.TakeSuccessor(ctx, j.Card, j.Catalog, j.Backup); err != nil {
		return err
	}
	old, err := u.snapshot(j.Catalog)
	if err != nil {
		return err
	}
	if Restored(r) {
		if err := FinishUpdate(j.Catalog, u); err != nil {
			return err
		}
		j.r.Phase = UpdateFinished
	}
	for _, k := range j.r.Taken.Keys {
		if !k.Coverage.Done() {
			j.r.Add(fmt.Sprintf("%s is %s", k.Key.Name(), k.Coverage))
		}
	}
	c := CompareSuccessor(old, j.r.Taken.Snapshot)
	for _, name := range c.Different {
		j.r.Add(name + " is not what it was")
	}
	j.r.Successor, j.r.SSH, j.r.Changed = u.Successor, append([]string{}, c.SSH...), c.Lines()
	if j.r.Phase != UpdateFinished {
		j.r.Add("the update is not finished")
	}
	return j.last()
}

// playBack brings the token to the snapshot of the update. Without a report the
// token waits for shares, which was said.
func (j *UpdateJob) playBack(ctx context.Context, u *Update) (*RestoreReport, error) {
	s, err := u.snapshot(j.Catalog)
	if err != nil {
		return nil, err
	}
	if !j.inv.Initialised && j.inv.SOPIN.Missing {
		j.Person.Note("the update has taken PIN and SO-PIN with it: you set both now, new ones or those it had")
	}
	b := &Bring{Work: &j.Work, Snapshot: s, Init: true, Later: true, Agreed: true,
		Options: RestoreOptions{Journal: j.Catalog.Journal(), Without: u.Discarded, Catalog: j.Catalog}}
	r, err := b.Run(ctx)
	if err != nil {
		return nil, err
	}
	if r == nil {
		j.r.Waits = true
		j.r.Add("shares of the recovery key are still to be loaded")
		j.Person.Say("%s is initialised and waits for the shares of its recovery key", j.Person.Name())
		return nil, nil
	}
	j.r.Restored, j.r.Keys, j.r.Complete = r, append([]KeyProof{}, r.Keys...), Restored(r)
	v := r.verdict()
	j.r.Add(v.Left...)
	j.r.Damaged = j.r.Damaged || v.Damaged
	return r, nil
}

// putBack restores everything onto the token that was emptied, and uses each key.
func (j *UpdateJob) putBack(ctx context.Context, u *Update) error {
	name := j.Person.Name()
	if u == nil {
		return fail.Failf("no-such-update", "`hsmbackup status` says what is under way", "no firmware update of %s is under way: there is nothing to put back", name)
	}
	if u.Phase == UpdateRestoring || u.Updated(j.inv) {
		return fail.Refusef("updated", "`hsmbackup firmware-update` without --abort restores onto it", "%s was updated already: there is no way back to %s, and none is needed", u.Serial, u.Serial)
	}
	j.r.at(u)
	if err := j.Person.Agree(ctx, Question{"Everything is put back onto " + name + ".", true}); err != nil {
		return err
	}
	r, err := j.playBack(ctx, u)
	if err != nil || r == nil {
		return err
	}
	if Restored(r) {
		if err := PutBack(j.Catalog, u.Serial); err != nil {
			return err
		}
		j.r.Phase = UpdatePutBack
	}
	return j.last()
}

// EndUpdate ends the update of the token that had a serial as it is.
func EndUpdate(cat *store.Catalog, serial string, agree func(*Update) error) (*UpdateReport, error) {
	list, err := Updates(cat)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(u *Update) bool { return SameSerial(serial, u.Serial) })
	if i < 0 {
		return nil, noSuchUpdate(serial)
	}
	if err := agree(list[i]); err != nil {
		return nil, err
	}
	u, err := Settle(cat, list[i].Serial)
	if err != nil {
		return nil, err
	}
	r := newUpdateReport()
	r.at(u)
	r.Phase = UpdateSettled
	return r, nil
}

// Lines say what has to follow where the old token was known.
func (c Changes) Lines() []string {
	list := []string{}
	if c.OldSerial != c.NewSerial {
		list = append(list, fmt.Sprintf("serial number: %s, was %s", c.NewSerial, c.OldSerial),
			fmt.Sprintf("PKCS#11 URIs that name it: serial=%s in place of serial=%s", c.NewSerial, c.OldSerial))
	}
	issuer := "device certificate: a new one"
	if c.NewIssuer != "" {
		was := c.OldIssuer
		if was == "" {
			was = "not known"
		}
		issuer += fmt.Sprintf(", issued by %s (was %s), valid to %s", c.NewIssuer, was, c.ValidTo)
	}
	list = append(list, issuer+"; attestations pinned to the old one no longer fit")
	pka := "public key authentication: where this token was registered to unlock others, register it anew"
	if c.PKA {
		pka = "public key authentication: it was set up on this token and is gone; set it up anew. Where this token was registered to unlock others, register it anew as well"
	}
	list = append(list, pka, "vendor's portal: its registration there must be renewed")
	list = append(list, fmt.Sprintf("firmware: %s, was %s", c.NewFirmware, c.OldFirmware))
	for _, g := range c.Gained {
		list = append(list, "  gained: "+g)
	}
	for _, l := range c.Lost {
		list = append(list, "  lost: "+l)
	}
	return list
}
