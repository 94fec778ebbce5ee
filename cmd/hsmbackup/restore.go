package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/report"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

// restoreFlags are those of plan and restore.
type restoreFlags struct {
	from    string
	keys    []string
	at      []string
	replace []string
	journal string
	init    bool
	soFloor int
	export  string
	report  string
	fate    string
}

func (o *restoreFlags) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the `SNAPSHOT`: its ID, a token's serial (its newest), or latest (default: this token's, or the only token's in the catalog)")
	f.StringVar(&o.export, "from-export", "", "`DIR` that 'hsmbackup export' wrote, in place of a snapshot of the catalog")
	f.StringArrayVar(&o.keys, "key", nil, "only this `KEY`: its reference, ID or label in the snapshot; repeat for several")
	f.StringArrayVar(&o.at, "at", nil, "`KEY=REFERENCE` puts a key at another reference than it had; repeat for several")
	f.StringArrayVar(&o.replace, "replace", nil, "this `KEY` may take the place of another one that a backup covers; repeat for several")
}

func newPlanCommand(a *app) *cobra.Command {
	var o restoreFlags
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "show what a restore would do to this token",
		Long: `Compares a snapshot with a token and says of every key what a restore would do:
new, same (there already), repair (a restore was cut off, or another tool left it
incomplete), conflict (something else is in its place and would be left there),
would-replace (with --replace: a backup covers what is in its place),
not-in-backup, does-not-fit. It changes nothing and needs no PIN.

It exits with 0 when all fits and with 3 when something does not.`,
		Example: `  hsmbackup plan --from DENK0404144
  hsmbackup plan --from latest --token soft:spare.tok`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.plan(cmd.Context(), o) },
	}
	o.addTo(cmd)
	uses(cmd, useCatalog, useToken)
	return cmd
}

func newRestoreCommand(a *app) *cobra.Command {
	var o restoreFlags
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "restore a snapshot onto a token, with proof",
		Long: `Shows the plan, asks once, and restores: each key is unwrapped by the token under
its old reference, used against the public key in the catalog, and described as
it was; what was written is read back. Keys that are there already stay as they
are. Interrupted, it goes on when it is run again.

A reference that another key has is left alone, unless --at puts the key
elsewhere, or --replace lets it take the place of a key that a backup covers: it
is proven at a free reference before the old one is deleted.

What the PIN protected is sealed in the catalog under the recovery key: give its
shares with --share, and it is restored too.

--from-export restores from a folder that 'hsmbackup export' wrote, after checking
all of it, and puts its snapshot into the catalog, which is made if there is none.

With --init a fresh token is initialised first, as the old one was, and the
shares given are loaded; its PIN and SO-PIN are asked for. A token that holds
anything is wiped only if all of it would come back from the catalog.`,
		Example: `  hsmbackup restore
  hsmbackup restore --from DENK0404144 --init --share share1.pbe
  hsmbackup restore --from-export /media/stick/out --init --share share1.pbe --old-token stolen
  hsmbackup restore --from SOFT0400001 --token soft:spare.tok --init --share share1.pbe \
      --pin file:PIN --so-pin file:SO --password file:PW --confirm SOFT0400002`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.fate != "" {
				if _, err := backup.ParseFate(o.fate); err != nil {
					return console.Usagef("broken, lost, stolen or wiped", "--old-token says what became of the old token")
				}
			}
			if !o.init && a.Flags.Untrusted != "" {
				return console.Usagef("`hsmbackup dkek load` loads shares into a token that is initialised", "--untrusted-token is for --init")
			}
			if o.soFloor < 0 || o.soFloor > 15 {
				return console.Usagef("", "--so-pin-floor takes 0 to 15")
			}
			if !o.init && cmd.Flags().Changed("so-pin-floor") {
				return console.Usagef("", "--so-pin-floor is for --init")
			}
			return a.restore(cmd.Context(), o)
		},
	}
	o.addTo(cmd)
	cmd.Flags().BoolVar(&o.init, "init", false, "initialise the token first and load the shares of --share")
	cmd.Flags().StringVar(&o.journal, "journal", "", "`FILE` to note the work under way in, when the catalog cannot be written")
	cmd.Flags().IntVar(&o.soFloor, "so-pin-floor", backup.DefaultSOFloor, "with --init: refuse if fewer than `N` tries of the SO-PIN are left")
	cmd.Flags().StringVar(&o.report, "report", "", "new `FILE` for a report of what was restored and how it was proven, as JSON")
	cmd.Flags().StringVar(&o.fate, "old-token", "", "`WHAT` became of the token whose keys are restored: broken, lost, stolen or wiped; says what follows")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useUntrusted, useYes, useWho, useTokenPIN, useChecked, useSpend)
	return cmd
}

// fromExport reads the folder of --from-export, and says what is damaged in it.
func (a *app) fromExport(o restoreFlags) (*store.Snapshot, []store.Finding, error) {
	if o.from != "" {
		return nil, nil, console.Usagef("", "--from and --from-export both name what is restored: give one")
	}
	s, found, err := backup.ReadExport(o.export)
	for _, f := range found {
		a.Note("DAMAGED in %s: %s", o.export, f)
	}
	return s, found, err
}

// imported puts the snapshot of an export into the catalog, which is made if
// there is none.
func (a *app) imported(ctx context.Context, s *store.Snapshot) (*store.Catalog, *store.Snapshot, error) {
	cat, err := a.ExistingCatalog()
	if err != nil {
		return nil, nil, err
	}
	if cat == nil {
		if cat, err = a.MakeCatalog(); err != nil {
			return nil, nil, err
		}
		a.Changed = true
	}
	in, err := backup.ImportSnapshot(ctx, cat, s)
	if err != nil {
		cli.CloseCatalog(cat)
		return nil, nil, err
	}
	a.Note("the snapshot of the export is in the catalog, as %s", in.ID)
	return cat, in, nil
}

// chooseSnapshot gives the snapshot to restore, and says what has to be known of
// that choice.
func (a *app) chooseSnapshot(cat *store.Catalog, from, serial string) (*store.Snapshot, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	s, note, err := backup.Choose(state, from, serial)
	if note != "" {
		a.Note("%s", note)
	}
	return s, err
}

// options turns --key and --at into references of the snapshot.
func (o restoreFlags) options(s *store.Snapshot) (backup.RestoreOptions, error) {
	var out backup.RestoreOptions
	for _, name := range o.keys {
		k, err := findStored(s, name)
		if err != nil {
			return out, err
		}
		if k.Reference == 0 { // adopted, and not known
			out.Blobs = append(out.Blobs, store.HashOf(k.Blob))
			continue
		}
		out.Keys = append(out.Keys, byte(k.Reference))
	}
	for _, name := range o.replace {
		k, err := findStored(s, name)
		if err != nil {
			return out, err
		}
		if k.Reference == 0 {
			out.ReplaceBlobs = append(out.ReplaceBlobs, store.HashOf(k.Blob))
			continue
		}
		out.Replace = append(out.Replace, byte(k.Reference))
	}
	for _, text := range o.at {
		i := strings.LastIndex(text, "=")
		if i < 0 {
			return out, console.Usagef("", "--at takes KEY=REFERENCE")
		}
		k, err := findStored(s, text[:i])
		if err != nil {
			return out, err
		}
		n, err := strconv.Atoi(text[i+1:])
		if err != nil || n < 1 || n > 255 {
			return out, console.Usagef("", "--at takes KEY=REFERENCE with a reference of 1 to 255")
		}
		if out.At == nil {
			out.At, out.AtBlob = map[byte]byte{}, map[store.Hash]byte{}
		}
		if k.Reference == 0 {
			out.AtBlob[store.HashOf(k.Blob)] = byte(n)
		} else {
			out.At[byte(k.Reference)] = byte(n)
		}
	}
	return out, nil
}

// findStored finds a key of a snapshot by its reference, ID or label.
func findStored(s *store.Snapshot, name string) (*store.Key, error) {
	var found []*store.Key
	for i := range s.Keys {
		k := &s.Keys[i]
		if name == strconv.Itoa(k.Reference) || name == k.Label || len(k.ID) > 0 && strings.EqualFold(name, hex.EncodeToString(k.ID)) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return nil, console.Failf("no-such-key", "`hsmbackup show "+s.ID+"` lists them", "snapshot %s has no key with the reference, ID or label %q", s.ID, name)
	case 1:
		return found[0], nil
	}
	return nil, console.Failf("ambiguous-key", "name it by its reference", "%q fits %d keys of snapshot %s", name, len(found), s.ID)
}

func (a *app) plan(ctx context.Context, o restoreFlags) error {
	var s *store.Snapshot
	var found []store.Finding
	cat, err := a.LookCatalog()
	if err == nil && o.export != "" {
		s, found, err = a.fromExport(o)
	} else if err == nil && cat == nil {
		err = a.NoCatalog()
	}
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	if s == nil {
		if s, err = a.chooseSnapshot(cat, o.from, t.Serial); err != nil {
			return err
		}
	}
	options, err := o.options(s)
	if err != nil {
		return err
	}
	options.Catalog = cat
	if cat != nil {
		options.Journal = cat.Journal()
	}
	p, err := backup.MakePlan(ctx, t.Card, s, options)
	if err != nil {
		return err
	}
	// A token that only has to be initialised is not one that does not fit.
	fits := p.AfterInit().Fits()
	if a.Flags.JSON {
		if err := a.Document(planDocument(p, fits)); err != nil {
			return err
		}
	} else {
		a.printPlan(p)
	}
	v := fail.Verdict{Damaged: len(found) > 0}
	if !fits {
		v.Left = append(v.Left, "not everything of the snapshot would be on this token")
	}
	if cat != nil {
		state, err := cat.Read()
		if err != nil {
			return err
		}
		short := backup.Short(state, s)
		v.Left, v.Damaged = append(v.Left, short.Left...), v.Damaged || short.Damaged
	}
	return a.verdict(v)
}

type jsonPlan struct {
	Snapshot string            `json:"snapshot"`
	Token    string            `json:"token"`
	Fits     bool              `json:"fits"`
	Keys     []jsonPlanItem    `json:"keys"`
	Files    []jsonPlanFile    `json:"files"`
	Problems []jsonPlanProblem `json:"problems"`
	// SetUp is what of the token's set-up is not as the old one's.
	SetUp []string `json:"set_up,omitempty"`
}

type jsonPlanItem struct {
	Reference int    `json:"reference"`
	At        int    `json:"at"`
	Label     string `json:"label"`
	ID        string `json:"id"`
	Type      string `json:"type"`
	Action    string `json:"action"`
	Reason    string `json:"reason"`

	Notes []string `json:"notes,omitempty"`
}

type jsonPlanFile struct {
	File   string `json:"file"`
	Action string `json:"action"`
	Reason string `json:"reason"`
}

type jsonPlanProblem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

func planDocument(p *backup.Plan, fits bool) jsonPlan {
	doc := jsonPlan{Snapshot: p.Snapshot.ID, Token: p.Serial, Fits: fits, Keys: []jsonPlanItem{}, Files: []jsonPlanFile{}, Problems: []jsonPlanProblem{}, SetUp: p.SetUp}
	for _, i := range p.Items {
		doc.Keys = append(doc.Keys, jsonPlanItem{i.Key.Reference, int(i.Reference), i.Key.Label, hex.EncodeToString(i.Key.ID), i.Key.Type, string(i.Action), i.Reason, i.Notes})
	}
	for _, f := range p.Files {
		doc.Files = append(doc.Files, jsonPlanFile{f.FID.String(), string(f.Action), f.Reason})
	}
	for _, x := range p.Problems {
		doc.Problems = append(doc.Problems, jsonPlanProblem{x.Code, x.Message, x.Hint})
	}
	return doc
}

func (a *app) printPlan(p *backup.Plan) {
	a.Printf("snapshot %s of %s onto %s", p.Snapshot.ID, report.TakenOf(p.Snapshot.Token.Serial), p.Serial)
	var rows [][]string
	for _, i := range p.Items {
		action := string(i.Action)
		if i.Reason != "" {
			action += ": " + i.Reason
		}
		place := "  key " + report.Reference(i.Key.Reference)
		if int(i.Reference) != i.Key.Reference {
			place += fmt.Sprintf(" as %d", i.Reference)
		}
		rows = append(rows, []string{place, i.Key.Type, console.Quoted(i.Key.Label), "ID " + hex.EncodeToString(i.Key.ID), action})
	}
	a.Table(rows)
	for _, i := range p.Items {
		report.PrintNotes(a.Console, i.Key.Reference, i.Notes)
	}
	for _, f := range p.Files {
		a.Printf("  file %s  %s %s", f.FID, f.Action, terminal.Printable(f.Reason))
	}
	for _, m := range p.Snapshot.Missing {
		a.Printf("  not in the backup: %s: %s", terminal.Printable(m.What), m.Reason)
	}
	for _, d := range p.SetUp {
		a.Printf("  set-up: %s", d)
	}
	for _, x := range p.Problems {
		a.Printf("first: %s", terminal.Printable(x.Message))
		a.Printf("       %s", terminal.Printable(x.Hint))
	}
}

func (a *app) restore(ctx context.Context, o restoreFlags) error {
	if o.report != "" {
		if _, err := os.Lstat(o.report); err == nil {
			return console.Refusef("exists", "name a new file", "%s exists already, and nothing is ever overwritten", o.report)
		}
	}
	var (
		cat         *store.Catalog
		s           *store.Snapshot
		found       []store.Finding
		notRecorded string
		err         error
	)
	if o.export != "" {
		if s, found, err = a.fromExport(o); err != nil {
			return err
		}
	} else if cat, notRecorded, err = a.RecordingCatalog(); err != nil {
		return err
	}
	defer func() { cli.CloseCatalog(cat) }()
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	if s != nil {
		cat, s, err = a.imported(ctx, s)
	} else {
		s, err = a.chooseSnapshot(cat, o.from, t.Serial)
	}
	if err != nil {
		return err
	}
	options, err := o.options(s)
	if err != nil {
		return err
	}
	options.Catalog = cat
	if cat.Writable() {
		if o.journal != "" {
			return console.Usagef("", "--journal is for a catalog that cannot be written; this one can")
		}
		options.Journal = cat.Journal()
	} else if o.journal != "" {
		if options.Journal, err = store.OpenJournal(o.journal, a.Storing()...); err != nil {
			return cli.Named(o.journal, err)
		}
		defer options.Journal.Close()
	} else if len(o.replace) > 0 {
		return console.Usagef("give --journal FILE", "--replace notes each step in a journal, and the catalog cannot be written")
	}
	w := a.work(ctx, t, o.soFloor)
	w.Catalog, w.NotRecorded = cat, notRecorded
	j := &backup.RestoreJob{Bring: backup.Bring{Work: &w, Snapshot: s, Options: options, Init: o.init}, Damaged: len(found) > 0}
	if o.fate != "" {
		if j.Fate, err = backup.ParseFate(o.fate); err != nil {
			return err
		}
	} else if !a.Flags.Yes && !a.Flags.JSON && a.TTY.Available() {
		j.Asker = &holder{a, t, a.Flags.PIN.Source}
	}
	out, err := j.Run(ctx)
	a.did(&w)
	if err != nil {
		return err
	}
	var record *store.Catalog
	if cat.Writable() {
		record = cat
	}
	return a.printRestore(out, a.usedAfter(ctx, t, record, s, out.There()), o.report)
}

// jsonReport is what --report writes.
type jsonReport struct {
	Program string `json:"program"`
	Time    string `json:"time"`
	store.Restored
	OldToken store.Fate `json:"old_token,omitempty"`
	SSH      []string   `json:"ssh"`
	FollowUp []string   `json:"follow_up"`
}

func (a *app) writeReport(file string, out *backup.Outcome) error {
	doc := jsonReport{build.Program(), a.Now().UTC().Format(time.RFC3339), out.Record(), out.Fate, out.SSH(), append([]string{}, out.FollowUp...)}
	content, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	if err := newfile.Replace(file, harmless.JSON(append(content, '\n')), 0o600); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}

func (a *app) printRestore(out *backup.Outcome, used *usedThrough, report string) error {
	if report != "" {
		if err := a.writeReport(report, out); err != nil {
			return err
		}
	}
	out.Left = append(out.Left, used.bad()...)
	if a.Flags.JSON {
		doc := struct {
			backup.RestoreDocument
			PKCS11 *jsonUsed `json:"pkcs11,omitempty"`
		}{out.Document(), used.document()}
		if err := a.Document(doc); err != nil {
			return err
		}
		a.printUsed(used)
		return a.verdict(out.Verdict)
	}
	var rows [][]string
	good := 0
	for i, k := range out.Keys {
		verdict := "restored and used"
		switch {
		case !k.OK:
			verdict = "NOT RESTORED: " + k.Reason
		case out.Plan.Items[i].Action == backup.Same:
			verdict = "was there already, and used"
		case out.Plan.Items[i].Action == backup.WouldReplace:
			verdict = "restored in place of another key, and used"
		}
		if k.OK {
			good++
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", k.Reference), k.Type, console.Quoted(k.Label), "ID " + hex.EncodeToString(k.ID), verdict})
	}
	a.Table(rows)
	for _, l := range out.SSH() {
		a.Printf("%s", terminal.Printable(l))
	}
	were := "were"
	if len(out.Keys) == 1 {
		were = "was"
	}
	a.Printf("%s on %s and %s used", console.CountOf(good, len(out.Keys), "key"), out.Plan.Serial, were)
	a.printUsed(used)
	for _, d := range out.SetUp {
		a.Note("%s is set up otherwise than the token of the backup: %s", out.Plan.Serial, d)
	}
	if out.LabelKept != "" {
		a.Note("the token keeps its label, %s", console.Quoted(out.LabelKept))
	}
	if report != "" {
		a.Printf("report: %s", terminal.Printable(report))
	}
	for _, l := range out.FollowUp {
		a.Printf("%s", terminal.Printable(l))
	}
	return a.verdict(out.Verdict)
}
