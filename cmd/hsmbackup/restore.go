package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/pubkey"
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

	// confirmed: somebody has typed the serial for this already.
	confirmed bool
	// sharesLater: without --share the token is left to wait for its shares.
	sharesLater bool
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
					return usagef("broken, lost, stolen or wiped", "--old-token says what became of the old token")
				}
			}
			if !o.init && a.flags.untrusted != "" {
				return usagef("`hsmbackup dkek load` loads shares into a token that is initialised", "--untrusted-token is for --init")
			}
			if o.soFloor < 0 || o.soFloor > 15 {
				return usagef("", "--so-pin-floor takes 0 to 15")
			}
			if !o.init && cmd.Flags().Changed("so-pin-floor") {
				return usagef("", "--so-pin-floor is for --init")
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
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useUntrusted, useYes, useWho)
	return cmd
}

// fromExport reads the folder of --from-export, and says what is damaged in it.
func (a *app) fromExport(o restoreFlags) (*store.Snapshot, []store.Finding, error) {
	if o.from != "" {
		return nil, nil, usagef("", "--from and --from-export both name what is restored: give one")
	}
	s, found, err := backup.ReadExport(o.export)
	for _, f := range found {
		a.note("DAMAGED in %s: %s", o.export, f)
	}
	return s, found, err
}

// imported puts the snapshot of an export into the catalog, which is made if
// there is none.
func (a *app) imported(ctx context.Context, s *store.Snapshot) (*store.Catalog, *store.Snapshot, error) {
	cat, err := a.existingCatalog()
	if err != nil {
		return nil, nil, err
	}
	if cat == nil {
		if cat, err = a.makeCatalog(); err != nil {
			return nil, nil, err
		}
		a.changed = true
	}
	in, err := backup.ImportSnapshot(ctx, cat, s)
	if err != nil {
		closeCatalog(cat)
		return nil, nil, err
	}
	a.note("the snapshot of the export is in the catalog, as %s", in.ID)
	return cat, in, nil
}

// chooseSnapshot gives the snapshot to restore: the one named, else the newest
// of this very token, else the newest of the only token in the catalog.
func chooseSnapshot(cat *store.Catalog, from, serial string) (*store.Snapshot, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	if from != "" {
		return state.Find(trimSerial(state, from))
	}
	newest := state.Latest()
	// Adopted snapshots are of no token: they are asked for by name, unless
	// there is nothing else.
	adopted := func(s *store.Snapshot) bool { return s.Adopted }
	if real := slices.DeleteFunc(slices.Clone(newest), adopted); len(real) > 0 {
		newest = real
	}
	// So is a token that goes on under another serial.
	old := func(s *store.Snapshot) bool { return state.Succeeded(s.Token.Serial) != "" && s.Token.Serial != serial }
	if current := slices.DeleteFunc(slices.Clone(newest), old); len(current) > 0 {
		newest = current
	}
	var list []string
	for _, s := range newest {
		if s.Token.Serial == serial && !s.Adopted {
			return s, nil
		}
		name := s.Token.Serial
		if name == "" {
			name = s.ID
		}
		list = append(list, fmt.Sprintf("--from %s  %s  %s", name, quoted(s.Token.Label), storedKeys(s)))
	}
	switch len(newest) {
	case 0:
		return nil, failf("no-such-snapshot", "`hsmbackup backup` takes one", "there is no snapshot in the catalog")
	case 1:
		return newest[0], nil
	}
	return nil, &failure{Exit: exitRefused, Code: "ambiguous-snapshot", Message: fmt.Sprintf("the catalog has %d snapshots to choose from: name one with --from", len(newest)), Hints: list}
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
			return out, usagef("", "--at takes KEY=REFERENCE")
		}
		k, err := findStored(s, text[:i])
		if err != nil {
			return out, err
		}
		n, err := strconv.Atoi(text[i+1:])
		if err != nil || n < 1 || n > 255 {
			return out, usagef("", "--at takes KEY=REFERENCE with a reference of 1 to 255")
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
		return nil, failf("no-such-key", "`hsmbackup show "+s.ID+"` lists them", "snapshot %s has no key with the reference, ID or label %q", s.ID, name)
	case 1:
		return found[0], nil
	}
	return nil, failf("ambiguous-key", "name it by its reference", "%q fits %d keys of snapshot %s", name, len(found), s.ID)
}

func (a *app) plan(ctx context.Context, o restoreFlags) error {
	var s *store.Snapshot
	var found []store.Finding
	cat, err := a.lookCatalog()
	if err == nil && o.export != "" {
		s, found, err = a.fromExport(o)
	} else if err == nil && cat == nil {
		err = a.noCatalog()
	}
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	t, err := a.openToken(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	if s == nil {
		if s, err = chooseSnapshot(cat, o.from, t.serial); err != nil {
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
	p, err := backup.MakePlan(ctx, t.card, s, options)
	if err != nil {
		return err
	}
	// A token that only has to be initialised is not one that does not fit.
	fits := afterInit(p).Fits()
	if a.flags.json {
		if err := a.document(planDocument(p, fits)); err != nil {
			return err
		}
	} else {
		a.printPlan(p)
	}
	exits := exitSet{}
	if !fits {
		exits.add(exitIncomplete)
	}
	if len(found) > 0 {
		exits.add(exitDamaged)
	}
	return exits.outcome("not everything of the snapshot would be on this token")
}

// afterInit is the plan without the one problem that --init settles.
func afterInit(p *backup.Plan) *backup.Plan {
	out := *p
	out.Problems = slices.DeleteFunc(slices.Clone(p.Problems), func(x backup.Problem) bool { return x.Code == "not-initialised" })
	return &out
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
	a.printf("snapshot %s of %s onto %s", p.Snapshot.ID, takenOf(p.Snapshot.Token.Serial), p.Serial)
	var rows [][]string
	for _, i := range p.Items {
		action := string(i.Action)
		if i.Reason != "" {
			action += ": " + i.Reason
		}
		place := "  key " + reference(i.Key.Reference)
		if int(i.Reference) != i.Key.Reference {
			place += fmt.Sprintf(" as %d", i.Reference)
		}
		rows = append(rows, []string{place, i.Key.Type, quoted(i.Key.Label), "ID " + hex.EncodeToString(i.Key.ID), action})
	}
	a.table(rows)
	for _, i := range p.Items {
		report.PrintNotes(a.Console, i.Key.Reference, i.Notes)
	}
	for _, f := range p.Files {
		a.printf("  file %s  %s %s", f.FID, f.Action, terminal.Printable(f.Reason))
	}
	for _, m := range p.Snapshot.Missing {
		a.printf("  not in the backup: %s: %s", terminal.Printable(m.What), m.Reason)
	}
	for _, d := range p.SetUp {
		a.printf("  set-up: %s", d)
	}
	for _, x := range p.Problems {
		a.printf("first: %s", terminal.Printable(x.Message))
		a.printf("       %s", terminal.Printable(x.Hint))
	}
}

func (a *app) restore(ctx context.Context, o restoreFlags) error {
	if o.report != "" {
		if _, err := os.Lstat(o.report); err == nil {
			return refusef("exists", "name a new file", "%s exists already, and nothing is ever overwritten", o.report)
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
	} else if cat, notRecorded, err = a.recordingCatalog(); err != nil {
		return err
	}
	defer func() { closeCatalog(cat) }()
	t, err := a.openToken(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	if s != nil {
		cat, s, err = a.imported(ctx, s)
	} else {
		s, err = chooseSnapshot(cat, o.from, t.serial)
	}
	if err != nil {
		return err
	}
	options, err := o.options(s)
	if err != nil {
		return err
	}
	options.Progress, options.Catalog = a.steps, cat
	if cat.Writable() {
		if o.journal != "" {
			return usagef("", "--journal is for a catalog that cannot be written; this one can")
		}
		options.Journal = cat.Journal()
	} else if o.journal != "" {
		if options.Journal, err = store.OpenJournal(o.journal, a.storing()...); err != nil {
			return named(o.journal, err)
		}
		defer options.Journal.Close()
	} else if len(o.replace) > 0 {
		return usagef("give --journal FILE", "--replace notes each step in a journal, and the catalog cannot be written")
	}
	sealed := backup.HasSealed(s) && len(a.flags.shareArgs) > 0
	data := sealedData{domains: s.Token.Domains}
	defer data.close()
	if sealed {
		options.OpenData = data.read
	}
	p, err := backup.MakePlan(ctx, t.card, s, options)
	if err != nil {
		return err
	}
	if len(a.flags.shareArgs) > 0 && !o.init && !sealed {
		return usagef("`hsmbackup dkek load` loads shares into a token that is initialised", "--share is for --init, and for snapshots with sealed data, which this one has not")
	}
	loggedIn := false
	if o.init {
		if loggedIn, err = a.initForRestore(ctx, t, cat, notRecorded, s, p, o, data.unlock); err != nil {
			return err
		}
		if p, err = backup.MakePlan(ctx, t.card, s, options); err != nil {
			return err
		}
	}
	if !a.flags.json && !loggedIn { // else it was shown before the token was initialised
		a.printPlan(p)
	}
	for _, x := range p.Problems {
		return &failure{Exit: exitFailed, Code: x.Code, Message: x.Message, Hints: []string{x.Hint}}
	}
	if !loggedIn {
		if err := a.confirmRestore(ctx, t, p); err != nil {
			return err
		}
		if sealed {
			shares, err := a.openShares(ctx, cat)
			if err != nil {
				return err
			}
			data.unlock(shares)
			dkek.WipeShares(shares)
		}
		if err := a.login(ctx, t); err != nil {
			return err
		}
	}
	var record *store.Catalog
	if cat.Writable() {
		record = cat
	}
	r, err := backup.Restore(ctx, t.card, record, p, options)
	a.progress.Close()
	if err != nil {
		return err
	}
	a.changed = true
	if notRecorded == "" {
		notRecorded = r.NotRecorded
	}
	if notRecorded != "" {
		a.note("the result was not recorded: %s", notRecorded)
	}
	if record != nil && backup.Restored(r) {
		if err := a.settleUpdate(ctx, t, cat); err != nil {
			return err
		}
	}
	end := ending{report: o.report, damaged: len(found) > 0}
	if end.follow, end.fate, err = a.oldToken(ctx, t, record, r, o.fate); err != nil {
		return err
	}
	var there []store.Key
	for i, item := range p.Items {
		if r.Keys[i].OK {
			there = append(there, item.Key)
		}
	}
	end.used = a.usedAfter(ctx, t, record, s, there)
	return a.printRestore(r, end)
}

// ending is what a restore ends with besides its keys.
type ending struct {
	report string // file
	// damaged: the export that it came from does not check out.
	damaged bool
	// fate is what became of the old token, follow what has to be done about it.
	fate   store.Fate
	follow []string
	// used is what came of the keys through PKCS#11.
	used *usedThrough
}

// settleUpdate ends a firmware update whose token got everything back by this
// restore.
func (a *app) settleUpdate(ctx context.Context, t *token, cat *store.Catalog) error {
	list, err := backup.Updates(cat)
	if err != nil {
		return err
	}
	for _, u := range list {
		inv, err := backup.Take(ctx, t.card)
		if err != nil {
			return err
		}
		if u.Whole(inv) {
			a.note("the firmware update of %s is given up: everything is on it again", u.Serial)
			return backup.PutBack(cat, u.Serial)
		}
	}
	return nil
}

// oldToken finds out what became of the token whose keys were restored onto
// another one: by --old-token, else at a terminal, unless somebody has said so
// before. Nothing is asked without a terminal, or with --yes.
func (a *app) oldToken(ctx context.Context, t *token, cat *store.Catalog, r *backup.RestoreReport, said string) ([]string, store.Fate, error) {
	old := r.Plan.Snapshot.Token.Serial
	if old == "" || old == r.Plan.Serial || !slices.ContainsFunc(r.Keys, func(k backup.KeyProof) bool { return k.OK }) {
		if said != "" {
			a.note("--old-token is about another token that the keys came from, and there is none: it was not recorded")
		}
		return nil, "", nil
	}
	if said == "" {
		state, err := cat.Read()
		if err != nil {
			return nil, "", err
		}
		if state.Fates[old].Fate != "" || state.Succeeded(old) != "" || a.flags.yes || a.flags.json || !a.tty.Available() {
			return nil, "", nil
		}
		a.progress.Close()
		answer, err := a.tty.ReadLine(ctx, fmt.Sprintf("What became of %s: broken, lost, stolen, wiped? (empty: say nothing)", old))
		if errors.Is(err, terminal.ErrNoAnswer) || errors.Is(err, terminal.ErrNone) || err == nil && strings.TrimSpace(answer) == "" {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", err
		}
		said = answer
	}
	fate, err := backup.ParseFate(said)
	if err != nil {
		a.note("%v: `hsmbackup restore --old-token WHAT`, run once more, takes broken, lost, stolen or wiped", err)
		return nil, "", nil
	}
	o := store.OldToken{Serial: old, Fate: fate, Token: r.Plan.Serial}
	if cat != nil {
		if err := cat.Append(o); err != nil {
			return nil, "", err
		}
	}
	return backup.FollowUp(o, sshLines(r)), fate, nil
}

// sshLines are those of the keys that were restored.
func sshLines(r *backup.RestoreReport) []string {
	var lines []string
	for i, item := range r.Plan.Items {
		if public, err := pubkey.ParseSPKI(item.Key.PublicKey); err == nil && r.Keys[i].OK {
			if line := public.SSH(item.Key.Label); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
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

func (a *app) writeReport(r *backup.RestoreReport, end ending) error {
	doc := jsonReport{program(), a.now().UTC().Format(time.RFC3339), r.Record(), end.fate, append([]string{}, sshLines(r)...), append([]string{}, end.follow...)}
	content, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	if err := newfile.Replace(end.report, harmless.JSON(append(content, '\n')), 0o600); err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}

// sealedData opens what the PIN protected, once the shares are here: they are
// asked for after the plan was shown, and once only.
type sealedData struct {
	domains []store.Domain
	open    func(sealed []byte) ([]byte, error)
	done    func()
}

func (d *sealedData) unlock(shares []*dkek.Share) {
	d.close()
	d.open, d.done = backup.DataOpener(d.domains, shares)
}

func (d *sealedData) read(sealed []byte) ([]byte, error) {
	if d.open == nil {
		return nil, errors.New("its shares were not opened")
	}
	return d.open(sealed)
}

func (d *sealedData) close() {
	if d.done != nil {
		d.done()
	}
}

// confirmRestore asks once. --confirm answers as well as --yes, if the serial
// is right; where nothing is to be written there is nothing to ask.
func (a *app) confirmRestore(ctx context.Context, t *token, p *backup.Plan) error {
	if a.flags.confirm != "" {
		return a.confirm(ctx, t, "")
	}
	n, replaced := 0, 0
	for _, i := range p.Items {
		if i.Action.Writes() {
			n++
		}
		if i.Action == backup.WouldReplace {
			replaced++
		}
	}
	for _, f := range p.Files {
		if f.Action.Writes() {
			n++
		}
	}
	switch {
	case n == 0:
		return nil
	case replaced > 0:
		return a.confirm(ctx, t, fmt.Sprintf("%s about to be replaced on %s.", areKeys(replaced), t.name()))
	}
	return a.ask(ctx, fmt.Sprintf("Restore this onto %s?", t.name()))
}

// initForRestore brings the token to where the keys can be restored: it
// initialises it and loads the shares, unless an earlier run has done so. keep
// is handed the shares, so that nobody has to open them twice. It tells whether
// the card is logged in.
func (a *app) initForRestore(ctx context.Context, t *token, cat *store.Catalog, notRecorded string, s *store.Snapshot, p *backup.Plan, o restoreFlags, keep func([]*dkek.Share)) (bool, error) {
	if len(p.Problems) == 0 {
		return false, nil // initialised, and with the right recovery key
	}
	if len(a.flags.shareArgs) == 0 && !o.sharesLater {
		return false, usagef("`hsmbackup dkek create` or `sc-hsm-tool --create-dkek-share` made their files", "--init needs the shares of the recovery key: --share FILE for each")
	}
	slots := backup.Slots(s)
	var expect dkek.KCV
	var err error
	if slots == 0 {
		expect, err = recoveryKey(s, p)
		var f *failure
		if o.sharesLater && errors.As(err, &f) && f.Code == "nothing-to-restore" {
			err = nil // every key was given up
			if d := s.Token.Domains; len(d) == 1 && d[0].KCV != "" && d[0].Shares > 0 {
				expect, err = dkek.ParseKCV(d[0].KCV)
			}
		}
		if err != nil {
			return false, err
		}
	}
	inv, err := backup.Take(ctx, t.card)
	if err != nil {
		return false, err
	}
	if err := guardWipe(inv, cat); err != nil {
		return false, err
	}
	m, err := a.gather(ctx, cat)
	if err != nil {
		return false, err
	}
	given := m.Count()
	if slots == 0 {
		if err := m.LacksShares(); err != nil {
			return false, err
		}
	}
	if !a.flags.json {
		a.printPlan(afterInit(p))
	}
	if !o.confirmed {
		if err := a.confirmInit(ctx, t, inv, cat); err != nil {
			return false, err
		}
	}
	set := backup.SetUp{Initialisation: asBefore(s), Trust: a.trust(t), Origin: "restore", MinSOTries: o.soFloor}
	kcvs, _, err := a.setUp(ctx, t, inv, cat, notRecorded, set, func(set *backup.SetUp, shares []*dkek.Share) (err error) {
		keep(shares)
		switch {
		case given == 0:
			set.Sets = setsAsBefore(s, expect)
			set.Initialisation.NoDKEK = slots == 0 && len(set.Sets) == 0
		case slots == 0:
			set.Sets = []backup.DomainSet{{Shares: given, Load: shares, Expect: expect}}
		default:
			set.Sets, err = backup.SetsFor(s, shares)
		}
		return err
	})
	if err != nil {
		return false, otherSnapshot(cat, s, err)
	}
	var have []string
	for _, kcv := range kcvs {
		if !kcv.IsZero() {
			have = append(have, kcv.String())
		}
	}
	if len(have) > 0 {
		a.note("%s is initialised and has the recovery key %s", t.name(), strings.Join(have, " and "))
	} else {
		a.note("%s is initialised", t.name())
	}
	return true, nil
}

// recoveryKey is the one that the keys to restore are under; without keys, the
// one that the token had.
func recoveryKey(s *store.Snapshot, p *backup.Plan) (dkek.KCV, error) {
	var list []string
	for _, i := range p.Items {
		if len(i.Key.Blob) > 0 && !slices.Contains(list, i.Key.KCV) {
			list = append(list, i.Key.KCV)
		}
	}
	if d := s.Token.Domains; len(list) == 0 && len(p.Files) > 0 && len(d) == 1 && d[0].KCV != "" {
		list = append(list, d[0].KCV)
	}
	if len(list) == 0 {
		return dkek.KCV{}, failf("nothing-to-restore", "`hsmbackup show "+s.ID+"` says why", "snapshot %s holds no exported key", s.ID)
	}
	if len(list) > 1 {
		return dkek.KCV{}, failf("several-recovery-keys", "restore them one recovery key at a time with --key", "the keys of snapshot %s are under several recovery keys: %s", s.ID, strings.Join(list, ", "))
	}
	return dkek.ParseKCV(list[0])
}

type jsonRestore struct {
	Snapshot string         `json:"snapshot"`
	Token    string         `json:"token"`
	Complete bool           `json:"complete"`
	Keys     []jsonKeyProof `json:"keys"`
	Files    []jsonRestored `json:"files"`
	SSH      []string       `json:"ssh"`
	PKCS11   *jsonUsed      `json:"pkcs11,omitempty"`
	// SetUp is what of the token's set-up is not as the old one's.
	SetUp []string `json:"set_up,omitempty"`

	OldToken store.Fate `json:"old_token,omitempty"`
	FollowUp []string   `json:"follow_up,omitempty"`
}

type jsonRestored struct {
	File   string `json:"file"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
}

func (a *app) printRestore(r *backup.RestoreReport, end ending) error {
	p := r.Plan
	lines := sshLines(r)
	exits := exitSet{}
	if end.damaged {
		exits.add(exitDamaged)
	}
	if end.report != "" {
		if err := a.writeReport(r, end); err != nil {
			return err
		}
	}
	good := 0
	var bad []string
	for _, k := range r.Keys {
		switch {
		case k.OK:
			good++
			continue
		case k.Damage:
			exits.add(exitDamaged)
		}
		exits.add(exitIncomplete)
		bad = append(bad, fmt.Sprintf("key %d %s: %s", k.Reference, quoted(k.Label), k.Reason))
	}
	for _, f := range r.Files {
		if !f.OK {
			exits.add(exitIncomplete)
			bad = append(bad, fmt.Sprintf("file %s: %s", f.FID, f.Reason))
		}
	}
	for _, m := range p.Snapshot.Missing {
		bad = append(bad, m.What+" is not in the backup")
	}
	if wrong := end.used.bad(); !r.Complete() || len(wrong) > 0 {
		exits.add(exitIncomplete)
		bad = append(bad, wrong...)
	}
	if a.flags.json {
		files := []jsonRestored{}
		for _, f := range r.Files {
			files = append(files, jsonRestored{f.FID.String(), f.OK, f.Reason})
		}
		if err := a.document(jsonRestore{p.Snapshot.ID, p.Serial, r.Complete(), keyProofs(r.Keys), files, append([]string{}, lines...), end.used.document(), r.SetUp, end.fate, end.follow}); err != nil {
			return err
		}
		a.printUsed(end.used)
		return exits.outcome(brief(bad))
	}
	var rows [][]string
	for i, k := range r.Keys {
		verdict := "restored and used"
		switch {
		case !k.OK:
			verdict = "NOT RESTORED: " + k.Reason
		case p.Items[i].Action == backup.Same:
			verdict = "was there already, and used"
		case p.Items[i].Action == backup.WouldReplace:
			verdict = "restored in place of another key, and used"
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", k.Reference), k.Type, quoted(k.Label), "ID " + hex.EncodeToString(k.ID), verdict})
	}
	a.table(rows)
	for _, l := range lines {
		a.printf("%s", terminal.Printable(l))
	}
	were := "were"
	if len(r.Keys) == 1 {
		were = "was"
	}
	a.printf("%s on %s and %s used", countOf(good, len(r.Keys), "key"), p.Serial, were)
	a.printUsed(end.used)
	for _, d := range r.SetUp {
		a.note("%s is set up otherwise than the token of the backup: %s", p.Serial, d)
	}
	if r.LabelKept != "" {
		a.note("the token keeps its label, %s", quoted(r.LabelKept))
	}
	if end.report != "" {
		a.printf("report: %s", terminal.Printable(end.report))
	}
	for _, l := range end.follow {
		a.printf("%s", terminal.Printable(l))
	}
	return exits.outcome(brief(bad))
}
