package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// portal is where the vendor hands out firmware.
const portal = "https://www.pki-as-a-service.net"

type updateFlags struct {
	copyTo        string
	sameDisk      bool
	discard       []string
	sharesChecked string
	successorOf   string
	abort         bool
	settle        string
	soFloor       int
}

func newFirmwareUpdateCommand(a *app) *cobra.Command {
	var o updateFlags
	cmd := &cobra.Command{
		Use:   "firmware-update",
		Short: "take a token through the vendor's firmware update and back",
		Long: `One command for the whole job. It looks where the job stands and goes on from
there; interrupted, it goes on when it is run again.

Before the update: it backs the token up, proves on the token today that every
key comes back, makes sure that the shares exist, and copies the catalog to
another disk, where it checks the copy. Then you type the serial, and everything
on the token is deleted, one file after the other, because the vendor updates
only an empty token. This needs the PIN, and no SO-PIN. With --share every key is
also opened on this computer, and a restore is drilled.

The update itself is the vendor's: log in to the portal with the token. It can be
down; nothing is deleted before you have said that it offers an update.

After the update the token has a new serial number and is not initialised. Run
the same command again with it: it initialises it as it was, loads the shares of
--share, restores everything, proves it, takes a snapshot, and says what has
changed for others. Without --share it stops once for 'hsmbackup dkek load'.

No update after all? --abort puts everything back onto the emptied token.`,
		Example: `  hsmbackup firmware-update --copy-to /media/stick/
  hsmbackup firmware-update --copy-to backuphost:hsm/
  hsmbackup firmware-update --share share1.pbe          with the token that came back
  hsmbackup firmware-update --abort`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.soFloor < 0 || o.soFloor > 15 {
				return usagef("", "--so-pin-floor takes 0 to 15")
			}
			if o.sameDisk && o.copyTo == "" {
				return usagef("", "--same-disk-anyway is about the place of --copy-to")
			}
			if o.abort && (o.copyTo != "" || len(o.discard) > 0 || o.successorOf != "") {
				return usagef("", "--abort puts everything back: it goes with none of --copy-to, --discard, --successor-of")
			}
			if o.settle != "" && (o.abort || o.copyTo != "" || len(o.discard) > 0 || o.successorOf != "" || o.sharesChecked != "") {
				return usagef("", "--settle ends an update as it is: it goes with none of --copy-to, --discard, --successor-of, --shares-checked, --abort")
			}
			return a.firmwareUpdate(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.copyTo, "copy-to", "", "`PLACE` for a copy of the catalog on another disk: a folder, a file that does not exist yet, or HOST:FOLDER for scp")
	f.BoolVar(&o.sameDisk, "same-disk-anyway", false, "take a copy on the catalog's own file system for good enough; it is logged")
	f.StringArrayVar(&o.discard, "discard", nil, "a `KEY` of the token, by reference, ID or label, that cannot be backed up and may go for good; repeat for several")
	f.StringVar(&o.sharesChecked, "shares-checked", "", "the `KCV` that 'hsmbackup dkek check' showed of the shares, on another computer")
	f.StringVar(&o.successorOf, "successor-of", "", "the old `SERIAL` of the attached token, when several are away for their update")
	f.BoolVar(&o.abort, "abort", false, "put everything back onto the emptied token")
	f.StringVar(&o.settle, "settle", "", "end the update of the token that had this `SERIAL` as it is, when its successor cannot take everything or is lost; what has not come back stays in the catalog")
	f.IntVar(&o.soFloor, "so-pin-floor", backup.DefaultSOFloor, "refuse to initialise if fewer than `N` tries of the SO-PIN are left")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useUntrusted, useYes, useWho)
	return cmd
}

// updateJob is one run of firmware-update.
type updateJob struct {
	*app
	updateFlags
	cat *store.Catalog
	t   *token
	inv *backup.Inventory
	doc jsonUpdate
}

type jsonUpdate struct {
	Token string `json:"token"`
	// Phase is what has been reached: emptying, emptied, restoring, finished,
	// put-back, settled; empty if nothing was begun.
	Phase     string `json:"phase"`
	Snapshot  string `json:"snapshot"`
	Copy      string `json:"copy"`
	Head      string `json:"head"`
	Deleted   int    `json:"deleted"`
	Deletions int    `json:"deletions"`
	Successor string `json:"successor"`
	Complete  bool   `json:"complete"`

	Keys     []jsonKeyProof `json:"keys"`
	SSH      []string       `json:"ssh"`
	Changed  []string       `json:"changed"`
	Next     []string       `json:"next"`
	Problems []string       `json:"problems,omitempty"`
	PKCS11   *jsonUsed      `json:"pkcs11,omitempty"`
}

func (a *app) firmwareUpdate(ctx context.Context, o updateFlags) error {
	j := &updateJob{app: a, updateFlags: o, doc: jsonUpdate{Keys: []jsonKeyProof{}, SSH: []string{}, Changed: []string{}, Next: []string{}}}
	var err error
	if j.cat, err = a.existingCatalog(); err != nil {
		return err
	}
	defer func() { closeCatalog(j.cat) }()
	if o.settle != "" {
		return j.settled(ctx)
	}
	if j.t, err = a.openToken(ctx); err != nil {
		return j.noToken(err)
	}
	defer j.t.close()
	if j.inv, err = backup.Take(ctx, j.t.card); err != nil {
		return err
	}
	j.doc.Token = j.inv.Serial
	var u *backup.Update
	stranger := ""
	if j.cat != nil {
		if u, stranger, err = backup.FindUpdate(j.cat, j.inv, o.successorOf); err != nil {
			return err
		}
	}
	if u != nil && u.Whole(j.inv) && (o.abort || u.Phase == backup.UpdateEmptied || u.Done(j.inv) == 0 && u.Deleted > 0) {
		// Somebody has put everything back; a new update begins anew.
		if err := backup.PutBack(j.cat, u.Serial); err != nil {
			return err
		}
		a.changed = true
		a.note("everything is on %s again: that update is over", j.t.name())
		if o.abort {
			j.doc.Phase, j.doc.Complete = "put-back", true
			return j.finish(exitSet{}, "")
		}
		u = nil
	}
	switch {
	case o.abort:
		return j.putBack(ctx, u)
	case u == nil:
		return j.begin(ctx, stranger)
	case u.Phase == backup.UpdateEmptying:
		return j.empty(ctx, u)
	case u.Phase == backup.UpdateEmptied && !u.Updated(j.inv):
		return j.notUpdated(ctx, u)
	}
	return j.succeed(ctx, u)
}

// noToken adds to the error that no token is there where the job stands.
func (j *updateJob) noToken(err error) error {
	var f *failure
	if j.cat == nil || !errors.As(err, &f) || f.Code != "no-token" {
		return err
	}
	list, updateErr := backup.Updates(j.cat)
	if updateErr != nil {
		return err
	}
	for _, u := range list {
		f.Hints = append(f.Hints, u.Standing(nil))
	}
	if len(list) > 0 {
		f.Hints = append(f.Hints, usbip(j.onWSL(), true)...)
	}
	return err
}

// begin does everything that comes before the first deletion, and goes on with
// those.
func (j *updateJob) begin(ctx context.Context, stranger string) error {
	if j.copyTo == "" {
		return j.needsCopy(stranger)
	}
	if stranger != "" {
		j.note("%s", stranger)
	}
	if j.inv.PIN.Tries == 1 {
		return refusef("last-pin-try", "`hsmbackup backup --confirm "+j.t.serial+"` once you are sure of the PIN: the right one brings all tries back", "%s has one PIN try left: nothing is begun with that", j.t.name())
	}
	if j.flags.confirm != "" { // a wrong one need not wait for the proofs
		if err := j.confirm(ctx, j.t, ""); err != nil {
			return err
		}
	}
	if j.cat != nil {
		if err := checkCopyPlace(j.cat, j.copyTo, j.sameDisk); err != nil {
			return err
		}
	}
	if err := j.checkDiscards(); err != nil {
		return err
	}
	if err := j.checkMachine(ctx, j.cat, j.t.reader); err != nil {
		return err
	}
	for _, w := range j.warnings() {
		j.note("%s", w)
	}
	if err := j.ask(ctx, fmt.Sprintf("Have you logged in to the vendor's portal (%s), and does it offer an update for %s? It may be down; nothing is deleted before you say yes.", portal, j.t.name())); err != nil {
		return err
	}
	if err := j.login(ctx, j.t); err != nil {
		return err
	}
	if j.cat == nil {
		var err error
		if j.cat, err = j.makeCatalog(); err != nil {
			return err
		}
		j.changed = true
	}
	ready, err := j.prepare(ctx)
	if err != nil {
		return err
	}
	j.changed = true
	c, copied, err := j.copyCatalog(ctx, j.cat, j.copyTo, j.sameDisk)
	if err != nil {
		return err
	}
	j.doc.Snapshot, j.doc.Copy, j.doc.Head = ready.Report.Snapshot.ID, c.Path, head(copied)
	j.printReady(ready, c, copied)
	what := fmt.Sprintf("Everything on %s is about to be deleted, %s, so that it can be updated.", j.t.name(), count(len(j.inv.Keys), "key"))
	if err := j.confirm(ctx, j.t, what); err != nil {
		return err
	}
	u, err := backup.BeginUpdate(j.cat, ready, c)
	if err != nil {
		return err
	}
	return j.emptyLoggedIn(ctx, u)
}

// needsCopy is about a run that begins something without saying where the copy
// of the catalog goes.
func (j *updateJob) needsCopy(stranger string) error {
	state, err := j.cat.Read()
	if err != nil {
		return err
	}
	before := state.Predecessor(j.inv.Serial)
	switch {
	case stranger != "":
		return refusef("stranger", "plug in the token that came back from the vendor; to begin an update of this one, give --copy-to PLACE", "%s", stranger)
	case before != "":
		j.doc.Phase, j.doc.Successor, j.doc.Complete = "finished", j.inv.Serial, true
		j.doc.Token = before
		j.say("the firmware update of %s is finished: it is %s now", before, j.inv.Serial)
		j.say("to begin another one, give --copy-to PLACE")
		return j.finish(exitSet{}, "")
	}
	return usagef("name a folder on another disk, a stick or a mounted share", "an update begins with a copy of the catalog elsewhere: --copy-to PLACE")
}

// warnings are what is known to go wrong with this token.
func (j *updateJob) warnings() []string {
	var list []string
	for _, n := range backup.TokenNotes(j.inv.Certificate, j.now()) {
		list = append(list, j.t.name()+": "+n)
	}
	return append(list, citations(backup.FaultsFor(j.inv, j.t.reader))...)
}

// citations are known faults as they are told, with their sources.
func citations(faults []backup.Fault) []string {
	var list []string
	for _, f := range faults {
		list = append(list, fmt.Sprintf("known fault of %s; %s (%s)", f, f.Do, f.Source))
	}
	return list
}

func (j *updateJob) prepare(ctx context.Context) (*backup.Readiness, error) {
	o := backup.UpdateOptions{
		ShareAge: backup.DefaultShareAge, SpendUse: j.spendUse(ctx), Progress: j.steps, Program: program(), NewToken: memoryToken, Now: j.now,
		Discard: func(k backup.KeyCoverage) (bool, error) { return j.discards(ctx, k) },
	}
	if j.sharesChecked != "" {
		if err := backup.RecordSharesChecked(j.cat, j.inv, j.sharesChecked); err != nil {
			return nil, err
		}
	}
	if len(j.flags.shareArgs) > 0 {
		j.note("private keys are in this computer's memory while they are tried on a software token")
		shares, err := j.openShares(ctx, j.cat)
		if err != nil {
			return nil, err
		}
		defer dkek.WipeShares(shares)
		o.Shares = shares
	}
	ready, err := backup.PrepareUpdate(ctx, j.t.card, j.cat, o)
	j.progress.Close()
	return ready, err
}

// checkDiscards refuses names that fit no key.
func (j *updateJob) checkDiscards() error {
	for _, name := range j.discard {
		if _, err := j.inv.FindKey(name); err != nil {
			return err
		}
	}
	return nil
}

// discards tells whether a key that would not come back may go for good: it is
// named by --discard, or its reference is typed.
func (j *updateJob) discards(ctx context.Context, k backup.KeyCoverage) (bool, error) {
	for _, name := range j.discard {
		named, err := j.inv.FindKey(name)
		if err != nil {
			return false, err
		}
		if named.Reference == k.Key.Reference {
			return true, nil
		}
	}
	if k.Coverage != backup.Accepted && !backupCannotTake(k) || !j.tty.Available() {
		return false, nil
	}
	j.progress.Close()
	word := fmt.Sprintf("discard %d", k.Key.Reference)
	err := j.tty.TypeBack(ctx, fmt.Sprintf("%s cannot be backed up (%s: %s) and would be lost for good. Type %q if it may go:", k.Key.Name(), k.Coverage, k.Reason, word), word)
	if errors.Is(err, terminal.ErrMismatch) || errors.Is(err, terminal.ErrNone) {
		return false, nil
	}
	return err == nil, err
}

// say writes a line of the result, unless that is one document.
func (j *updateJob) say(format string, args ...any) {
	if !j.flags.json {
		j.printf(format, args...)
	}
}

func (j *updateJob) printReady(r *backup.Readiness, c store.Copy, copied store.Entry) {
	n := len(r.Report.Keys) - len(r.Discarded)
	j.say("%s, firmware %s: snapshot %s, %s proven today", j.t.name(), j.inv.Firmware, r.Report.Snapshot.ID, countOf(n, len(r.Report.Keys), "key"))
	for _, k := range r.Discarded {
		j.say("  for good goes %s: %s", k.Key.Name(), k.Coverage)
	}
	if r.Drilled > 0 {
		j.say("opened with the shares, and restored in memory in %.1f s", r.Drilled.Seconds())
	}
	for kcv, seen := range r.Seen {
		how := "were seen"
		if seen.Origin == backup.OriginTyped {
			how = "were not seen here; as typed, they were checked on another computer"
		}
		j.say("shares of the recovery key %s %s %s", kcv, how, j.age(seen.Time))
	}
	disk := ""
	if c.SameDisk {
		disk = ", on the same disk as the catalog"
	}
	j.say("copy of the catalog: %s%s, read back and checked", terminal.Printable(c.Path), disk)
	if store.InMemory(c.Path) {
		j.note("that copy is in this computer's memory and gone when it is switched off: keep another one on a disk")
	}
	j.say("its head, to note down: %s", head(copied))
}

// empty goes on with deletions that were cut off.
func (j *updateJob) empty(ctx context.Context, u *backup.Update) error {
	j.say("%s", u.Standing(j.inv))
	if err := j.confirm(ctx, j.t, "The rest of "+j.t.name()+" is about to be deleted."); err != nil {
		return err
	}
	if err := j.login(ctx, j.t); err != nil {
		return err
	}
	return j.emptyLoggedIn(ctx, u)
}

func (j *updateJob) emptyLoggedIn(ctx context.Context, u *backup.Update) error {
	err := backup.EmptyToken(ctx, j.t.card, j.cat, u, j.steps)
	j.progress.Close()
	if err != nil {
		return err
	}
	j.changed = true
	j.filled(u)
	j.say("%s is empty: %d of %s done", u.Serial, u.Deleted, count(len(u.Files), "deletion"))
	j.guide(u)
	return j.finish(exitSet{}, "")
}

// filled takes over what is known of the update.
func (j *updateJob) filled(u *backup.Update) {
	d := &j.doc
	d.Token, d.Phase, d.Snapshot, d.Copy = u.Serial, string(u.Phase), u.Snapshot, u.Copy
	d.Deleted, d.Deletions, d.Successor = u.Deleted, len(u.Files), u.Successor
}

// guide says what the vendor's part needs.
func (j *updateJob) guide(u *backup.Update) {
	lines := []string{"now the vendor's part, with this token plugged in:"}
	if j.onWSL() {
		lines = append(lines, "the portal's client runs on Windows; hand the token over (PowerShell):")
		lines = append(lines, usbip(true, false)...)
	}
	lines = append(lines,
		"log in at "+portal+" with the token; it needs its local client, the network, and a code that is e-mailed",
		"choose the firmware update, and do not unplug the token meanwhile",
		"the token comes back with a new serial number, and not initialised")
	lines = append(lines, usbip(j.onWSL(), true)...)
	lines = append(lines, "then: hsmbackup firmware-update --share FILE"+j.named())
	j.doc.Next = lines
	for i, l := range lines {
		if i > 0 {
			l = "  " + l
		}
		j.say("%s", terminal.Printable(l))
	}
	j.next("no update after all: `hsmbackup firmware-update --abort%s` puts everything back onto %s", j.named(), u.Serial)
}

// named is the --token of a command that is proposed.
func (j *updateJob) named() string {
	if j.flags.token == "" {
		return ""
	}
	return " --token " + shellQuoted(j.flags.token)
}

// onWSL tells whether this is Linux within Windows, where USB is lent.
func (a *app) onWSL() bool {
	b, err := os.ReadFile(a.osRelease)
	return err == nil && strings.Contains(strings.ToLower(string(b)), "microsoft")
}

// usbip are the lines that lend a USB token to WSL2, or give it back.
func usbip(wsl, attach bool) []string {
	switch {
	case !wsl:
		return nil
	case attach:
		return []string{"take the token back (PowerShell): usbipd list, then usbipd attach --wsl --busid BUSID   (before usbipd 4: usbipd wsl attach --busid BUSID)",
			"and in WSL: sudo service pcscd restart"}
	}
	return []string{"  usbipd list                        its BUSID stands beside the smart card reader, such as 20a0:4230",
		"  usbipd detach --busid BUSID        (before usbipd 4: usbipd wsl detach --busid BUSID)"}
}

// notUpdated is about a token that comes back as it went: it can wait for the
// vendor on, or get everything back.
func (j *updateJob) notUpdated(ctx context.Context, u *backup.Update) error {
	j.filled(u)
	j.say("%s is still empty and has its old serial number and firmware %s: it was not updated", u.Serial, u.Firmware)
	if j.tty.Available() && !j.flags.yes {
		// Without a terminal nothing is put back unasked: the same command may
		// have been run twice.
		if yes, err := j.tty.Ask(ctx, fmt.Sprintf("Put everything back onto %s? No leaves it empty for the vendor.", u.Serial)); err != nil {
			return err
		} else if yes {
			return j.putBack(ctx, u)
		}
	}
	j.guide(u)
	return j.finish(exitSet{}, "")
}

// succeed goes on with the token that came back.
func (j *updateJob) succeed(ctx context.Context, u *backup.Update) error {
	fresh := u.Phase != backup.UpdateRestoring
	j.filled(u)
	if fresh {
		j.say("%s, firmware %s, is new here: it is taken for %s after its update", j.t.name(), j.inv.Firmware, u.Serial)
	} else {
		j.say("%s", u.Standing(j.inv))
	}
	what := fmt.Sprintf("%s is taken for %s after its update, and gets everything back.", j.t.name(), u.Serial)
	if err := j.confirm(ctx, j.t, what); err != nil {
		return err
	}
	if err := backup.Succeed(j.cat, u, j.inv); err != nil {
		return err
	}
	j.changed = true
	j.filled(u)
	for _, w := range append(j.warnings(), citations(backup.AfterUpdate())...) {
		j.note("%s", w)
	}
	r, err := j.playBack(ctx, u)
	if err != nil || r == nil {
		return err
	}
	report, err := u.TakeSuccessor(ctx, j.t.card, j.cat, backup.Options{SpendUse: j.spendUse(ctx), Progress: j.steps, Program: program()})
	j.progress.Close()
	if err != nil {
		return err
	}
	old, err := u.OldSnapshot(j.cat)
	if err != nil {
		return err
	}
	if backup.Restored(r) {
		if err := backup.FinishUpdate(j.cat, u); err != nil {
			return err
		}
		j.doc.Phase = "finished"
	}
	used := j.usedAfter(ctx, j.t, j.cat, report.Snapshot, report.Snapshot.Keys)
	state, err := j.cat.Read()
	if err != nil {
		return err
	}
	j.doc.Head = head(state.Head)
	return j.printSuccessor(u, r, report, backup.CompareSuccessor(old, report.Snapshot), used)
}

// playBack initialises the token if it has to be, and restores everything of
// the update's snapshot onto it. Both are nil where shares are still to be
// loaded, which was said.
func (j *updateJob) playBack(ctx context.Context, u *backup.Update) (*backup.RestoreReport, error) {
	s, err := u.OldSnapshot(j.cat)
	if err != nil {
		return nil, err
	}
	data := sealedData{domains: s.Token.Domains}
	defer data.close()
	options := u.RestoreOptions(backup.RestoreOptions{Journal: j.cat.Journal(), Progress: j.steps})
	sealed := backup.HasSealed(s) && len(j.flags.shareArgs) > 0
	if sealed {
		options.OpenData = data.read
	}
	p, err := backup.MakePlan(ctx, j.t.card, s, options)
	if err != nil {
		return nil, err
	}
	loggedIn := false
	if len(p.Problems) > 0 {
		if loggedIn, err = j.setUpSuccessor(ctx, s, p, data.unlock); err != nil {
			return nil, err
		}
		if p, err = backup.MakePlan(ctx, j.t.card, s, options); err != nil {
			return nil, err
		}
		if waits := outstanding(p); waits != "" && len(j.flags.shareArgs) == 0 {
			j.say("%s", waits)
			j.doc.Next = []string{"hsmbackup dkek load --share FILE" + j.named(), "hsmbackup firmware-update" + j.named()}
			for _, l := range j.doc.Next {
				j.say("  %s", l)
			}
			return nil, j.finish(exitSet{exitIncomplete: true}, "shares of the recovery key are still to be loaded")
		}
	}
	for _, x := range p.Problems {
		return nil, &failure{Exit: exitFailed, Code: x.Code, Message: x.Message, Hints: []string{x.Hint}}
	}
	if !loggedIn {
		if sealed && data.open == nil {
			shares, err := j.openShares(ctx, j.cat)
			if err != nil {
				return nil, err
			}
			data.unlock(shares)
			dkek.WipeShares(shares)
		}
		if err := j.login(ctx, j.t); err != nil {
			return nil, err
		}
	}
	r, err := backup.Restore(ctx, j.t.card, j.cat, p, options)
	j.progress.Close()
	if err != nil {
		return nil, err
	}
	j.changed = true
	if r.NotRecorded != "" {
		j.note("the result was not recorded: %s", r.NotRecorded)
	}
	return r, nil
}

// outstanding says that a token waits for shares, if that is all it lacks.
func outstanding(p *backup.Plan) string {
	for _, x := range p.Problems {
		if x.Code == "kcv-mismatch" && strings.Contains(x.Message, "incomplete") {
			return p.Serial + " is initialised and waits for the shares of its recovery key"
		}
	}
	return ""
}

// setUpSuccessor gives the token its PINs and its recovery key; it tells whether
// the card is logged in.
func (j *updateJob) setUpSuccessor(ctx context.Context, s *store.Snapshot, p *backup.Plan, keep func([]*dkek.Share)) (bool, error) {
	inv, err := backup.Take(ctx, j.t.card)
	if err != nil {
		return false, err
	}
	if inv.Initialised && outstanding(p) != "" {
		if len(j.flags.shareArgs) == 0 {
			return false, nil
		}
		if done, err := j.loadRest(ctx, inv, s, keep); done || err != nil {
			return false, err
		}
	}
	if !inv.Initialised && inv.SOPIN.Missing {
		j.note("the update has taken PIN and SO-PIN with it: you set both now, new ones or those it had")
	}
	return j.initForRestore(ctx, j.t, j.cat, "", s, p, restoreFlags{soFloor: j.soFloor, confirmed: true, sharesLater: true}, keep)
}

// loadRest loads shares into a token that was initialised for them by a run that
// was cut off; it does so for a token with one recovery key.
func (j *updateJob) loadRest(ctx context.Context, inv *backup.Inventory, s *store.Snapshot, keep func([]*dkek.Share)) (bool, error) {
	if backup.Slots(s) > 0 || len(inv.Domains) != 1 || inv.Domains[0].Outstanding != inv.Domains[0].Shares || len(s.Token.Domains) != 1 {
		return false, nil
	}
	expect, err := dkek.ParseKCV(s.Token.Domains[0].KCV)
	if err != nil {
		return false, nil
	}
	shares, err := j.openShares(ctx, j.cat)
	if err != nil {
		return false, err
	}
	defer dkek.WipeShares(shares)
	if len(shares) != inv.Domains[0].Outstanding {
		return false, nil // it is initialised anew, for as many
	}
	key, err := dkek.Combine(shares...)
	if err != nil {
		return false, err
	}
	defer key.Wipe()
	if kcv := key.KCV(); kcv != expect {
		return false, failf("kcv-mismatch", "`hsmbackup dkek check` tells what a set of shares gives", "these shares give the recovery key %s, the backup needs %s; the token was not touched", kcv, expect)
	}
	note, err := backup.TrustToken(ctx, j.t.card, j.cat, expect.String(), j.trust(j.t))
	if note != "" {
		j.note("%s", note)
	}
	if err != nil {
		return false, err
	}
	keep(shares)
	if _, err := backup.LoadShares(ctx, j.t.card, 0, shares, expect); err != nil {
		j.unknownChange(err)
		return false, err
	}
	j.changed = true
	return true, backup.RecordShares(j.cat, key, inv.Software, "firmware-update")
}

// printSuccessor ends the job: what was restored, and what others must know.
func (j *updateJob) printSuccessor(u *backup.Update, r *backup.RestoreReport, report *backup.Report, c backup.Changes, used *usedThrough) error {
	exits, bad := j.restored(r)
	j.printUsed(used)
	if wrong := used.bad(); len(wrong) > 0 {
		exits.add(exitIncomplete)
		bad = append(bad, wrong...)
	}
	j.doc.PKCS11 = used.document()
	for _, k := range report.Keys {
		if !k.Coverage.Done() {
			exits.add(exitIncomplete)
			bad = append(bad, fmt.Sprintf("%s is %s", k.Key.Name(), k.Coverage))
		}
	}
	for _, name := range c.Different {
		exits.add(exitIncomplete)
		bad = append(bad, name+" is not what it was")
	}
	j.doc.Successor, j.doc.SSH, j.doc.Changed = u.Successor, append([]string{}, c.SSH...), changesFor(c)
	j.say("snapshot %s of %s, the successor of %s; head: %s", report.Snapshot.ID, u.Successor, u.Serial, j.doc.Head)
	j.say("what has changed for others:")
	for _, l := range j.doc.Changed {
		j.say("  %s", terminal.Printable(l))
	}
	if len(c.SSH) > 0 {
		j.say("what has not: %s, compared with the backup:", count(len(c.SSH), "SSH line"))
		for _, l := range c.SSH {
			j.say("  %s", terminal.Printable(l))
		}
	}
	if j.doc.Phase != "finished" {
		bad = append(bad, "the update is not finished")
		j.next("settle what is named above, then run the same command again; if it cannot be settled: `hsmbackup firmware-update --settle %s`", u.Serial)
	}
	return j.finish(exits, brief(bad))
}

// changesFor says what has to follow where the old token was known.
func changesFor(c backup.Changes) []string {
	var list []string
	if c.OldSerial != c.NewSerial {
		list = append(list, fmt.Sprintf("serial number: %s, was %s", c.NewSerial, c.OldSerial),
			fmt.Sprintf("PKCS#11 URIs that name it: serial=%s in place of serial=%s", c.NewSerial, c.OldSerial))
	}
	issuer := "device certificate: a new one"
	if c.NewIssuer != "" {
		issuer += fmt.Sprintf(", issued by %s (was %s), valid to %s", c.NewIssuer, orUnknownIssuer(c.OldIssuer), c.ValidTo)
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

func orUnknownIssuer(name string) string {
	if name == "" {
		return "not known"
	}
	return name
}

// restored prints what came of each key, and gives what is left.
func (j *updateJob) restored(r *backup.RestoreReport) (exits exitSet, bad []string) {
	exits = exitSet{}
	var rows [][]string
	good := 0
	for _, k := range r.Keys {
		verdict := "restored and used"
		if !k.OK {
			verdict = "NOT RESTORED: " + k.Reason
			exits.add(exitIncomplete)
			if k.Damage {
				exits.add(exitDamaged)
			}
			bad = append(bad, fmt.Sprintf("key %d %s: %s", k.Reference, quoted(k.Label), k.Reason))
		} else {
			good++
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", k.Reference), k.Type, quoted(k.Label), verdict})
	}
	for _, f := range r.Files {
		if !f.OK {
			exits.add(exitIncomplete)
			bad = append(bad, fmt.Sprintf("file %s: %s", f.FID, f.Reason))
		}
	}
	j.doc.Keys, j.doc.Complete = append([]jsonKeyProof{}, keyProofs(r.Keys)...), backup.Restored(r)
	if !j.flags.json {
		j.table(rows)
		j.printf("%s on %s and used", countOf(good, len(r.Keys), "key"), r.Plan.Serial)
	}
	return exits, bad
}

// settled ends an update that cannot be finished. It needs no token.
func (j *updateJob) settled(ctx context.Context) error {
	if j.cat == nil {
		return j.noCatalog()
	}
	list, err := backup.Updates(j.cat)
	if err != nil {
		return err
	}
	serial := j.settle
	for _, u := range list {
		if sameSerial(j.settle, u.Serial) {
			serial = u.Serial
			j.say("%s", u.Standing(nil))
			if err := j.confirm(ctx, &token{serial: serial}, "The firmware update of "+serial+" ends as it is."); err != nil {
				return err
			}
		}
	}
	u, err := backup.Settle(j.cat, serial)
	if err != nil {
		return err
	}
	j.changed = true
	j.filled(u)
	j.doc.Phase = "settled"
	j.say("the firmware update of %s is over; what has not come back is in snapshot %s: `hsmbackup restore --from %s` brings it onto any token that takes it", serial, u.Snapshot, u.Snapshot)
	return j.finish(exitSet{}, "")
}

// putBack restores everything onto the token that was emptied.
func (j *updateJob) putBack(ctx context.Context, u *backup.Update) error {
	if u == nil {
		return failf("no-such-update", "`hsmbackup status` says what is under way", "no firmware update of %s is under way: there is nothing to put back", j.t.name())
	}
	if u.Phase == backup.UpdateRestoring || u.Updated(j.inv) {
		return refusef("updated", "`hsmbackup firmware-update` without --abort restores onto it", "%s was updated already: there is no way back to %s, and none is needed", u.Serial, u.Serial)
	}
	j.filled(u)
	if err := j.confirm(ctx, j.t, "Everything is put back onto "+j.t.name()+"."); err != nil {
		return err
	}
	r, err := j.playBack(ctx, u)
	if err != nil || r == nil {
		return err
	}
	exits, bad := j.restored(r)
	if backup.Restored(r) {
		if err := backup.PutBack(j.cat, u.Serial); err != nil {
			return err
		}
		j.doc.Phase = "put-back"
		j.say("the firmware update of %s is given up: everything is on it again", u.Serial)
	} else {
		j.next("settle what is named above, then run the same command again")
	}
	return j.finish(exits, brief(bad))
}

// finish writes the document of --json, and gives the outcome.
func (j *updateJob) finish(exits exitSet, message string) error {
	if j.flags.json {
		if err := j.document(j.doc); err != nil {
			return err
		}
	}
	return exits.outcome(message)
}

// setsAsBefore are the recovery keys that the successor of a token waits for when
// no shares are given: those that the token had. One that the old token had made
// up itself is made up anew.
func setsAsBefore(s *store.Snapshot, expect dkek.KCV) []backup.DomainSet {
	if backup.Slots(s) > 0 {
		sets, _ := backup.AssignShares(s.Token.Domains, nil)
		return sets
	}
	if len(s.Token.Domains) == 0 {
		return nil
	}
	if n := s.Token.Domains[0].Shares; n > 0 {
		return []backup.DomainSet{{Shares: n, Expect: expect}}
	}
	return []backup.DomainSet{{}}
}

// asBefore is how a token is initialised to be what the one of a snapshot was.
func asBefore(s *store.Snapshot) schsm.Initialisation {
	i := schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: s.Token.PINTries, Domains: backup.Slots(s)}
	if n, err := strconv.ParseUint(s.Token.Options, 16, 16); err == nil {
		i.Options = schsm.Options(n) &^ schsm.OptionTransportPIN
	}
	return i
}
