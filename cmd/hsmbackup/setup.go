package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

type setupOptions struct {
	splitFlags // its out names a file where nothing is split
	sheet      string
	label      string
	labelSet   bool
	domains    int
	noUnblock  bool
	weak       bool
}

func newSetupCommand(a *app) *cobra.Command {
	var o setupOptions
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "a fresh token from nothing to ready for keys and backups",
		Long: `Sets up a token that was never initialised, step by step: PIN, SO-PIN, a recovery
key (DKEK) with its password, a sheet to print, initialisation, and the recovery
key loaded. All of it is read back before it says "ready". On a terminal it
explains what each thing is for; nothing is changed on the token before the last
question.

The SO-PIN and the password are made for you and shown once, to be written down
and typed back; --so-pin and --password give your own. The recovery key is
written to a share file under the password; a share file that is there already is
taken up, not overwritten, so that a second token gets the same recovery key. With
--split K/N the recovery key is handed out to custodians in parts instead, and no
file has all of it; --share brings one that there is already, in any form.

Interrupted anywhere, the same command goes on where it was. A token that is in
use already is left alone: it starts at hsmbackup backup.`,
		Example: `  hsmbackup setup
  hsmbackup setup --label ssh --out share1.pbe --sheet sheet.pdf
  hsmbackup setup --split 2/3 --custodian alice --custodian bob --custodian carol
  hsmbackup setup --share alice.txt --share carol.txt         a second token with the same recovery key
  hsmbackup setup --token soft:new.tok --label ssh --pin file:PIN --so-pin file:SO --password file:PW --yes`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.labelSet = cmd.Flags().Changed("label")
			if len(a.flags.shareArgs) > 0 && (o.split != "" || o.out != "") {
				return usagef("", "--share brings a recovery key that there is, --split and --out are for a new one")
			}
			if o.split == "" && o.out == "" {
				o.out = "share1.pbe"
			}
			return a.setup(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.add(cmd)
	f.StringVar(&o.out, "out", "", "the share `FILE` (default share1.pbe); one that exists is taken up; with --split a folder for parts")
	f.StringVar(&o.sheet, "sheet", "", "the sheet to print, a new `FILE` that ends in .pdf or .txt (default: sheet-SERIAL.pdf beside the share file)")
	f.StringVar(&o.label, "label", "", "the token's label, `TEXT`")
	f.IntVar(&o.domains, "domains", 0, "`N` key domain slots, the first with this recovery key; the others stay empty (firmware 3.0 and later)")
	f.BoolVar(&o.noUnblock, "no-unblock", false, "the SO-PIN cannot unblock the PIN or set a new one")
	f.BoolVar(&o.weak, "weak-password", false, "take a password although it is weak")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useUntrusted, useYes, useWho)
	return cmd
}

func (o *setupOptions) check() error {
	flag := o.used()
	switch {
	case o.split == "" && flag != "":
		return usagef("", "--%s is for parts: --split K/N is missing", flag)
	case o.split != "" && o.weak:
		return usagef("", "--weak-password is for a share file: parts have no password")
	case o.domains < 0 || o.domains > 16:
		return usagef("", "--domains takes 1 to 16")
	case o.sheet != "" && !custody.IsSheetName(o.sheet):
		return usagef("", "--sheet takes a file that ends in .pdf or .txt")
	}
	return nil
}

// setupJob is one set-up under way.
type setupJob struct {
	*app
	o   setupOptions
	t   *token
	cat *store.Catalog
	inv *backup.Inventory
	// stage is where the token stood when this run began.
	stage backup.SetUpStage
	note  *backup.SetUpNote
	// share and its KCV, once it is made or taken up; file is the content of the
	// file that it was opened from.
	share *dkek.Share
	file  []byte
	kcv   dkek.KCV
	sheet string // the file
}

func (a *app) setup(ctx context.Context, o setupOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	t, err := a.openToken(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	inv, err := backup.Take(ctx, t.card)
	if err != nil {
		return err
	}
	if o.domains > 0 && t.card.Version().Before(3, 0) {
		return failf("no-domains", "leave --domains out", "%s has firmware %s: key domains begin with 3.0", t.name(), inv.Firmware)
	}
	if a.flags.confirm != "" { // before anything is written
		if err := a.confirm(ctx, t, ""); err != nil {
			return err
		}
	}
	cat, err := a.existingCatalog()
	if err != nil {
		return err
	}
	defer func() { closeCatalog(cat) }()
	note, err := backup.FindSetUp(cat, t.serial)
	if err != nil {
		return err
	}
	stage := backup.SetUpStageOf(inv, note)
	if stage == backup.InUse {
		return inUse(t, inv)
	}
	if cat == nil {
		if err := a.step(ctx, "catalog"); err != nil {
			return err
		}
		if cat, err = a.makeCatalog(); err != nil {
			return err
		}
		a.changed = true
	}
	j := &setupJob{app: a, o: o, t: t, cat: cat, inv: inv, stage: stage, note: note}
	defer j.wipe()
	if note == nil {
		j.note = &backup.SetUpNote{Begun: a.now().UTC()}
	}
	return j.run(ctx, note != nil)
}

// inUse refuses a token that is not fresh.
func inUse(t *token, inv *backup.Inventory) error {
	what := "without a recovery key"
	for _, d := range inv.Domains {
		if d.Outstanding > 0 {
			return refusef("already-initialised", "`hsmbackup dkek load --share FILE` loads them", "%s is initialised already and waits for %s of its recovery key", t.name(), count(d.Outstanding, "share"))
		}
		if kcv := domainKCV(d); kcv != "" {
			what = "with the recovery key " + kcv
			break
		}
	}
	return refusef("already-initialised", "it starts at `hsmbackup backup`; to wipe it and begin anew: `hsmbackup init`", "%s is initialised already, %s and %s", t.name(), what, count(len(inv.Keys), "key"))
}

func (j *setupJob) wipe() { j.share.Wipe() }

// guided tells whether there is somebody to explain things to.
func (j *setupJob) guided() bool { return j.tty.Available() && !j.flags.yes && !j.flags.json }

// tell explains, to somebody at a terminal.
func (j *setupJob) tell(format string, args ...any) {
	if j.guided() {
		j.progress.Close()
		fmt.Fprintf(j.Stderr, "\n%s\n", wrapped(harmless.Sprintf(format, args...), 80))
	}
}

// step is called before each step that writes something, to end there if the
// program was told to.
func (a *app) step(ctx context.Context, name string) error {
	if a.testOnlyStep != nil {
		a.testOnlyStep(name)
	}
	return ctx.Err()
}

// run goes through what is left to do.
func (j *setupJob) run(ctx context.Context, again bool) error {
	s := backup.SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: 3, Domains: j.o.domains},
		Trust:          j.trust(j.t), Origin: "setup", MinSOTries: backup.DefaultSOFloor,
		Before: func(step string) error { return j.step(ctx, step) },
	}
	s.Trust.Login = func(ctx context.Context) error { return j.login(ctx, j.t) }
	switch {
	case j.stage == backup.ToInitialise && again:
		j.tell("A set-up of %s was begun and not finished; it goes on. What PIN and SO-PIN were chosen then does not count, unless the token has them by now.", j.t.name())
	case j.stage == backup.ToInitialise:
		j.tell("This sets up %s, which is new, for keys that can be restored onto another token if this one is lost or wiped. Three secrets come out of it: the PIN, for daily use; the SO-PIN, for emergencies; and the password of the file that holds the recovery key, for the backup. Have a pen at hand. Nothing is changed on the token before the last question. It takes about five minutes.", j.t.name())
	case j.stage == backup.ToLoad:
		j.tell("%s is initialised, and waits for its recovery key: that is loaded now.", j.t.name())
	default:
		j.tell("%s was set up, and the set-up cut off before all of it was read back: that is done now.", j.t.name())
	}
	for _, f := range backup.FirmwareFaults(j.inv.Firmware) {
		j.app.note("firmware %s: %s; %s (%s)", j.inv.Firmware, f.What, f.Do, f.Source)
	}
	if j.stage == backup.ToInitialise {
		if err := j.choose(ctx, &s); err != nil {
			return err
		}
		defer s.Initialisation.PIN.Wipe()
		defer s.Initialisation.SOPIN.Wipe()
	} else {
		s.Initialisation.Options = j.inv.Options
		if j.o.domains == 0 {
			s.Initialisation.Domains = slotsOf(j.inv)
		}
	}
	s.Initialisation.Label = j.o.label
	if err := j.bringShare(ctx); err != nil {
		return err
	}
	s.Sets = []backup.DomainSet{{Shares: 1, Load: []*dkek.Share{j.share}, Expect: j.kcv}}
	if err := j.writeSheet(ctx); err != nil {
		return err
	}
	if err := j.prepare(ctx, s); err != nil {
		return err
	}
	return j.finish(ctx, s)
}

// slotsOf is the number of key domain slots of a token, 0 for the classic one.
func slotsOf(inv *backup.Inventory) int {
	if len(inv.Domains) > 1 || len(inv.Domains) == 1 && inv.Domains[0].Empty {
		return len(inv.Domains)
	}
	return 0
}

// choose asks for all that the token is told.
func (j *setupJob) choose(ctx context.Context, s *backup.SetUp) error {
	if j.guided() && !j.o.labelSet {
		j.tell("The label is a name for the token, shown wherever it is listed. It is no secret.")
		label, err := j.tty.ReadLine(ctx, "label of the token (Enter: none):")
		if err != nil {
			return err
		}
		j.o.label = strings.TrimSpace(label)
	}
	j.tell("The PIN is asked for whenever a key is used. 6 to 16 characters; three wrong ones in a row block it.")
	pin, err := j.newPIN(ctx)
	if err != nil {
		return err
	}
	s.Initialisation.PIN = pin
	if j.inv.SOPIN.Missing {
		j.tell("The SO-PIN unblocks a blocked PIN and is needed to wipe the token and set it up anew. It is made for you: 16 digits. After 15 wrong ones the token is dead, so it is never guessed: it stands on paper, away from the token.")
	} else {
		j.tell("The token has its SO-PIN from the run that was cut off: it is needed once more.")
	}
	text, err := j.newSOPIN(ctx)
	if err != nil {
		pin.Wipe()
		return err
	}
	defer text.Wipe()
	if s.Initialisation.SOPIN, err = schsm.ParseSOPIN(text.Bytes()); err != nil {
		pin.Wipe()
		return err
	}
	if j.o.noUnblock {
		s.Initialisation.Options = 0
		return nil
	}
	if !j.guided() {
		return nil
	}
	j.tell("Whoever has the SO-PIN can unblock the PIN and set a new one, and then use the keys. That is what it is for, if you are the only one. Where the holder of the SO-PIN must not be able to use the keys, it can be forbidden; a blocked PIN then stays blocked until the token is wiped.")
	forbid, err := j.tty.Ask(ctx, "Forbid that the SO-PIN unblocks the PIN?")
	if err == nil && forbid {
		s.Initialisation.Options = 0
	}
	return err
}

// prepare initialises the token, or does what is left of it.
func (j *setupJob) prepare(ctx context.Context, s backup.SetUp) error {
	var note string
	var err error
	if j.stage == backup.ToInitialise {
		j.tell("Everything is at hand. Now the token gets PIN, SO-PIN and its recovery key.")
		if err := j.confirmStart(ctx); err != nil {
			return err
		}
		_, note, err = backup.Initialise(ctx, j.t.card, j.cat, s)
	} else {
		_, note, err = s.Finish(ctx, j.t.card, j.cat)
		var refused *backup.Error
		if errors.As(err, &refused) && refused.Code == "not-genuine" && j.stage == backup.ToLoad && j.flags.untrusted == "" {
			// It showed its device key when it was empty, and cannot now.
			j.tell("The token can show that it is genuine only before it waits for its recovery key, so it is initialised once more. It holds nothing.")
			if err := j.choose(ctx, &s); err != nil {
				return err
			}
			defer s.Initialisation.PIN.Wipe()
			defer s.Initialisation.SOPIN.Wipe()
			if err := j.confirmStart(ctx); err != nil {
				return err
			}
			_, note, err = backup.Initialise(ctx, j.t.card, j.cat, s)
		}
	}
	if note != "" {
		j.app.note("%s", note)
	}
	if err != nil {
		j.unknownChange(err)
		return err
	}
	j.changed = true
	j.forgetRefused(j.t)
	for _, c := range setUpCeremonies(s, j.t.serial, []dkek.KCV{j.kcv}) {
		j.ceremony(j.cat, c)
	}
	return nil
}

// confirmStart asks before the token is initialised. It holds nothing: it is
// new, or was initialised by this very set-up.
func (j *setupJob) confirmStart(ctx context.Context) error {
	if j.flags.confirm != "" {
		return j.confirm(ctx, j.t, "")
	}
	err := j.ask(ctx, fmt.Sprintf("Initialise %s?", j.t.name()))
	var own *failure
	if errors.As(err, &own) && own.Code == "declined" {
		return &failure{Exit: exitFailed, Code: own.Code, Message: "not confirmed, the token was not touched; share and sheet are as they were made", Hints: []string{"run the same command again: it takes them up"}}
	}
	return err
}

// finish reads everything back, and says so.
func (j *setupJob) finish(ctx context.Context, s backup.SetUp) error {
	if err := j.step(ctx, "check"); err != nil {
		return err
	}
	inv, err := backup.Take(ctx, j.t.card)
	if err != nil {
		return err
	}
	wrong := s.CheckSetUp(inv)
	if j.inFile() {
		if b, err := os.ReadFile(j.note.Share); err != nil || !bytes.Equal(b, j.file) {
			wrong = append(wrong, fmt.Sprintf("the share file %s is not what was opened", j.note.Share))
		}
	}
	if b, err := os.ReadFile(j.sheet); err != nil || store.HashOf(b) != j.note.SheetSHA256 {
		wrong = append(wrong, fmt.Sprintf("the sheet %s is not what was written", j.sheet))
	}
	if len(wrong) > 0 {
		return &failure{Exit: exitChanged, Code: "not-ready", Message: fmt.Sprintf("%s is set up, but not as it should be: %s", j.t.name(), strings.Join(wrong, "; ")), Hints: []string{"run the same command again"}}
	}
	if err := backup.EndSetUp(j.cat, j.t.serial); err != nil {
		return err
	}
	file, set := "", ""
	if j.inFile() {
		file = j.o.out
	}
	if s, err := j.handedOut(); err == nil && s != nil && j.o.split != "" {
		set = s.Set
	}
	if j.flags.json {
		return j.document(struct {
			Serial string `json:"serial"`
			Label  string `json:"label"`
			KCV    string `json:"kcv"`
			Share  string `json:"share,omitempty"`
			Set    string `json:"set,omitempty"`
			Sheet  string `json:"sheet"`
			Ready  bool   `json:"ready"`
		}{j.t.serial, inv.Label, j.kcv.String(), file, set, j.sheet, true})
	}
	label := ""
	if inv.Label != "" {
		label = ", label " + quoted(inv.Label)
	}
	j.table([][]string{
		{j.t.name(), "initialised" + label},
		{"SO-PIN", tries(inv.SOPIN)},
		{"options", options(inv.Options)},
		{"recovery key", "KCV " + j.kcv.String() + ", 1 share"},
		{"share", strings.Join(j.where(), ", ")},
		{"sheet", j.sheet},
		{"catalog", j.cat.Path()},
	})
	j.printf("ready: all of it was read back")
	if j.inFile() {
		j.next("print %s and fill it in; keep the share file, its password and the SO-PIN apart, and a copy of the share file elsewhere", j.sheet)
	} else {
		j.next("print %s and fill it in; keep the SO-PIN apart from the token", j.sheet)
	}
	j.next("make keys on it (pkcs11-tool --login --keypairgen --key-type rsa:4096 --label NAME), then `hsmbackup backup`")
	return nil
}
