package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/report"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// portal is where the vendor hands out firmware.
const portal = "https://www.pki-as-a-service.net"

type updateFlags struct {
	copyTo      string
	sameDisk    bool
	discard     []string
	successorOf string
	abort       bool
	settle      string
	soFloor     int
}

func newFirmwareUpdateCommand(a *app) *cobra.Command {
	var o updateFlags
	cmd := &cobra.Command{
		Use:   "firmware-update",
		Short: "take a token through the vendor's firmware update and back",
		Long: `One command for the whole job. It looks where the job stands and goes on from
there; interrupted, it goes on when it is run again.

Before the update: it backs the token up, proves on the token that every key comes
back, and copies the catalog to another disk, where it checks the copy. Then you
type the serial, and everything on the token is deleted, one file after the
other, because the vendor updates only an empty token. This needs the PIN, and no
SO-PIN; and the recovery key shown in this run: with --share, which also opens
every key on this computer and drills a restore, or with --shares-checked and the
KCV that 'hsmbackup dkek check' showed where the shares are.

The update itself is the vendor's: log in to the portal with the token. It can be
down; nothing is deleted before you have said that it offers an update.

After the update the token has a new serial number and is not initialised. Run
the same command again with it: it initialises it as it was, loads the shares of
--share, restores everything, proves it, takes a snapshot, and says what has
changed for others. Without --share it stops once for 'hsmbackup dkek load'.

No update after all? --abort puts everything back onto the emptied token.`,
		Example: `  hsmbackup firmware-update --copy-to /media/stick/ --share share1.pbe
  hsmbackup firmware-update --copy-to backuphost:hsm/ --shares-checked 19471B8FFE18014C
  hsmbackup firmware-update --share share1.pbe          with the token that came back
  hsmbackup firmware-update --abort`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.soFloor < 0 || o.soFloor > 15 {
				return console.Usagef("", "--so-pin-floor takes 0 to 15")
			}
			if o.sameDisk && o.copyTo == "" {
				return console.Usagef("", "--same-disk-anyway is about the place of --copy-to")
			}
			if o.abort && (o.copyTo != "" || len(o.discard) > 0 || o.successorOf != "") {
				return console.Usagef("", "--abort puts everything back: it goes with none of --copy-to, --discard, --successor-of")
			}
			if o.settle != "" && (o.abort || o.copyTo != "" || len(o.discard) > 0 || o.successorOf != "" || a.Flags.Checked != "") {
				return console.Usagef("", "--settle ends an update as it is: it goes with none of --copy-to, --discard, --successor-of, --shares-checked, --abort")
			}
			return a.firmwareUpdate(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.copyTo, "copy-to", "", "`PLACE` for a copy of the catalog on another disk: a folder, a file that does not exist yet, or HOST:FOLDER for scp")
	f.BoolVar(&o.sameDisk, "same-disk-anyway", false, "take a copy on the catalog's own file system for good enough; it is logged")
	f.StringArrayVar(&o.discard, "discard", nil, "a `KEY` of the token, by reference, ID or label, that cannot be backed up and may go for good; repeat for several")
	f.StringVar(&o.successorOf, "successor-of", "", "the old `SERIAL` of the attached token, when several are away for their update")
	f.BoolVar(&o.abort, "abort", false, "put everything back onto the emptied token")
	f.StringVar(&o.settle, "settle", "", "end the update of the token that had this `SERIAL` as it is, when its successor cannot take everything or is lost; what has not come back stays in the catalog")
	f.IntVar(&o.soFloor, "so-pin-floor", backup.DefaultSOFloor, "refuse to initialise if fewer than `N` tries of the SO-PIN are left")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useUntrusted, useYes, useWho, useChecked, useSpend)
	return cmd
}

// updater is who a firmware update asks.
type updater struct {
	holder
	updateFlags
}

func (a *app) firmwareUpdate(ctx context.Context, o updateFlags) error {
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	if o.settle != "" {
		defer cli.CloseCatalog(cat)
		return a.settleUpdate(ctx, cat, o.settle)
	}
	t, err := a.OpenToken(ctx)
	if err != nil {
		cli.CloseCatalog(cat)
		return a.noToken(cat, err)
	}
	defer t.Close()
	j := &backup.UpdateJob{
		Work: a.work(ctx, t, o.soFloor), Person: &updater{holder{a, t, a.Flags.PIN.Source}, o},
		Begin: o.copyTo != "", Abort: o.abort, SuccessorOf: o.successorOf, Discard: o.discard,
	}
	j.Catalog = cat
	defer func() { cli.CloseCatalog(j.Catalog) }()
	j.Options = backup.UpdateOptions{SpendUse: j.Backup.SpendUse, Progress: a.Steps, Cleaned: a.cleaned, Program: build.Program(), NewToken: memoryToken}
	r, err := j.Run(ctx)
	a.did(&j.Work)
	if err != nil {
		return err
	}
	return a.printUpdate(ctx, j, t, r)
}

// noToken adds to the error that no token is there where updates stand.
func (a *app) noToken(cat *store.Catalog, err error) error {
	var f *console.Failure
	if !errors.As(err, &f) || f.Code != "no-token" {
		return err
	}
	list, updateErr := backup.Updates(cat)
	if updateErr != nil {
		return err
	}
	for _, u := range list {
		f.Hints = append(f.Hints, u.Standing(nil))
	}
	if len(list) > 0 {
		f.Hints = append(f.Hints, usbip(a.onWSL(), true)...)
	}
	return err
}

func (u *updater) Check(ctx context.Context, cat *store.Catalog) error {
	if u.Flags.Confirm != "" { // a wrong one need not wait for the proofs
		if err := u.Confirm(ctx, u.t, ""); err != nil {
			return err
		}
	}
	if cat != nil {
		if err := checkCopyPlace(cat, u.copyTo, u.sameDisk); err != nil {
			return err
		}
	}
	return u.checkMachine(ctx, cat, u.t.Reader)
}

func (u *updater) Warn(inv *backup.Inventory, more []faults.Fault) {
	for _, n := range faults.TokenNotes(inv.Certificate, u.Now()) {
		u.Note("%s: %s", u.Name(), n)
	}
	for _, c := range citations(append(backup.FaultsFor(inv, u.t.Reader), more...)) {
		u.Note("%s", c)
	}
}

// citations are known faults as they are told, with their sources.
func citations(faults []faults.Fault) []string {
	var list []string
	for _, f := range faults {
		list = append(list, fmt.Sprintf("known fault of %s; %s (%s)", f, f.Do, f.Source))
	}
	return list
}

func (u *updater) Offered(ctx context.Context) error {
	return u.Ask(ctx, fmt.Sprintf("Have you logged in to the vendor's portal (%s), and does it offer an update for %s? It may be down; nothing is deleted before you say yes.", portal, u.Name()))
}

func (u *updater) Copy(ctx context.Context, cat *store.Catalog) (store.Copy, store.Entry, error) {
	return u.copyCatalog(ctx, cat, u.copyTo, u.sameDisk)
}

// GiveUp has somebody type that a key which cannot be backed up may go.
func (u *updater) GiveUp(ctx context.Context, k backup.KeyCoverage) (bool, error) {
	if !u.TTY.Available() {
		return false, nil
	}
	u.Progress.Close()
	word := fmt.Sprintf("discard %d", k.Key.Reference)
	err := u.TTY.TypeBack(ctx, fmt.Sprintf("%s cannot be backed up (%s: %s) and would be lost for good. Type %q if it may go:", k.Key.Name(), k.Coverage, k.Reason, word), word)
	if errors.Is(err, terminal.ErrMismatch) || errors.Is(err, terminal.ErrNone) {
		return false, nil
	}
	return err == nil, err
}

// PutBack is asked at a terminal only: without one the same command may have been
// run twice.
func (u *updater) PutBack(ctx context.Context, up *backup.Update) (bool, error) {
	if !u.TTY.Available() || u.Flags.Yes {
		return false, nil
	}
	return u.TTY.Ask(ctx, fmt.Sprintf("Put everything back onto %s? No leaves it empty for the vendor.", up.Serial))
}

func (u *updater) Ready(r *backup.Readiness, c store.Copy, copied store.Entry) {
	n := len(r.Report.Keys) - len(r.Discarded)
	u.Say("%s, firmware %s: snapshot %s, %s proven today", u.Name(), r.Report.Snapshot.Token.Firmware, r.Report.Snapshot.ID, console.CountOf(n, len(r.Report.Keys), "key"))
	for _, k := range r.Discarded {
		u.Say("  for good goes %s: %s", k.Key.Name(), k.Coverage)
	}
	if r.Drilled > 0 {
		u.Say("opened with the shares, and restored in memory in %.1f s", r.Drilled.Seconds())
	}
	for _, kcv := range r.Shown {
		u.Say("shares of the recovery key %s are here", kcv)
	}
	for _, kcv := range r.Typed {
		u.Say("shares of the recovery key %s were not seen here; as typed, they were checked on another computer", kcv)
	}
	disk := ""
	if c.SameDisk {
		disk = ", on the same disk as the catalog"
	}
	u.Say("copy of the catalog: %s%s, read back and checked", c.Path, disk)
	if store.InMemory(c.Path) {
		u.Note("that copy is in this computer's memory and gone when it is switched off: keep another one on a disk")
	}
	u.Say("its head, to note down: %s", report.Head(copied))
}

// guide says what the vendor's part needs.
func (a *app) guide(r *backup.UpdateReport) {
	lines := []string{"now the vendor's part, with this token plugged in:"}
	if a.onWSL() {
		lines = append(lines, "the portal's client runs on Windows; hand the token over (PowerShell):")
		lines = append(lines, usbip(true, false)...)
	}
	lines = append(lines,
		"log in at "+portal+" with the token; it needs its local client, the network, and a code that is e-mailed",
		"choose the firmware update, and do not unplug the token meanwhile",
		"the token comes back with a new serial number, and not initialised")
	lines = append(lines, usbip(a.onWSL(), true)...)
	lines = append(lines, "then: hsmbackup firmware-update --share FILE"+a.named())
	r.Next = lines
	if !a.Flags.JSON {
		a.Printf("%s", lines[0])
		for _, l := range lines[1:] {
			a.Printf("  %s", terminal.Printable(l))
		}
	}
	a.Next("no update after all: `hsmbackup firmware-update --abort%s` puts everything back onto %s", a.named(), r.Token)
}

// named is the --token of a command that is proposed.
func (a *app) named() string {
	if a.Flags.Token == "" {
		return ""
	}
	return " --token " + harmless.Word(a.Flags.Token)
}

// onWSL tells whether this is Linux within Windows, where USB is lent.
func (a *app) onWSL() bool {
	b, err := os.ReadFile(a.OSRelease)
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

// printUpdate says where a run ended, and what comes next.
func (a *app) printUpdate(ctx context.Context, j *backup.UpdateJob, t *cli.Token, r *backup.UpdateReport) error {
	used := &usedThrough{}
	if r.Taken != nil {
		used = a.usedAfter(ctx, t, j.Catalog, r.Taken.Snapshot, r.Taken.Snapshot.Keys)
		r.Left = append(r.Left, used.bad()...)
		state, err := j.Catalog.Read()
		if err != nil {
			return err
		}
		r.Last = state.Head
	}
	if r.Last.Seq > 0 {
		r.Head = report.Head(r.Last)
	}
	if !a.Flags.JSON && r.Restored != nil {
		a.printBack(r)
	}
	a.printUsed(used)
	switch {
	case r.Phase == backup.UpdateEmptied && r.Restored == nil && len(r.Left) == 0:
		a.guide(r)
	case r.Waits:
		r.Next = []string{"hsmbackup dkek load --share FILE" + a.named(), "hsmbackup firmware-update" + a.named()}
		if !a.Flags.JSON {
			for _, line := range r.Next {
				a.Printf("  %s", line)
			}
		}
	case r.Phase == backup.UpdateFinished || r.Phase == backup.UpdatePutBack:
	case r.Taken != nil:
		a.Next("settle what is named above, then run the same command again; if it cannot be settled: `hsmbackup firmware-update --settle %s`", r.Token)
	case len(r.Left) > 0:
		a.Next("`hsmbackup firmware-update --abort%s` puts back what is missing, where nothing else is in its place; `--settle %s` ends the update as it is", a.named(), r.Token)
	}
	if a.Flags.JSON {
		doc := struct {
			*backup.UpdateReport
			PKCS11 *jsonUsed `json:"pkcs11,omitempty"`
		}{r, used.document()}
		if err := a.Document(doc); err != nil {
			return err
		}
	}
	return a.verdict(r.Verdict)
}

// printBack prints what came of each key, and what others must know.
func (a *app) printBack(r *backup.UpdateReport) {
	var rows [][]string
	good := 0
	for _, k := range r.Keys {
		verdict := "restored and used"
		if k.OK {
			good++
		} else {
			verdict = "NOT RESTORED: " + k.Reason
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", k.Reference), k.Type, console.Quoted(k.Label), verdict})
	}
	a.Table(rows)
	a.Printf("%s on %s and used", console.CountOf(good, len(r.Keys), "key"), r.Restored.Plan.Serial)
	if r.Phase == backup.UpdatePutBack {
		a.Printf("the firmware update of %s is given up: everything is on it again", r.Token)
	}
	if r.Taken == nil {
		return
	}
	a.Printf("snapshot %s of %s, the successor of %s; head: %s", r.Taken.Snapshot.ID, r.Successor, r.Token, r.Head)
	a.Printf("what has changed for others:")
	for _, l := range r.Changed {
		a.Printf("  %s", terminal.Printable(l))
	}
	if len(r.SSH) > 0 {
		a.Printf("what has not: %s, compared with the backup:", console.Count(len(r.SSH), "SSH line"))
		for _, l := range r.SSH {
			a.Printf("  %s", terminal.Printable(l))
		}
	}
}

// settleUpdate ends an update that cannot be finished. It needs no token.
func (a *app) settleUpdate(ctx context.Context, cat *store.Catalog, serial string) error {
	if cat == nil {
		return a.NoCatalog()
	}
	r, err := backup.EndUpdate(cat, serial, func(u *backup.Update) error {
		if !a.Flags.JSON {
			a.Printf("%s", u.Standing(nil))
		}
		return a.Confirm(ctx, &cli.Token{Serial: u.Serial}, "The firmware update of "+u.Serial+" ends as it is.")
	})
	if err != nil {
		return err
	}
	a.Changed = true
	if a.Flags.JSON {
		return a.Document(r)
	}
	a.Printf("the firmware update of %s is over; what has not come back is in snapshot %s: `hsmbackup restore --from %s` brings it onto any token that takes it", r.Token, r.Snapshot, r.Snapshot)
	return nil
}
