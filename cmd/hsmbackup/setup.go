package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/sheet"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

type setupOptions struct {
	out, sheet string
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
taken up, not overwritten, so that a second token gets the same recovery key.

Interrupted anywhere, the same command goes on where it was. A token that is in
use already is left alone: it starts at hsmbackup backup.`,
		Example: `  hsmbackup setup
  hsmbackup setup --label ssh --out share1.pbe --sheet sheet.pdf
  hsmbackup setup --token soft:new.tok --label ssh --pin file:PIN --so-pin file:SO --password file:PW --yes`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.labelSet = cmd.Flags().Changed("label")
			return a.setup(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "share1.pbe", "the share `FILE`; one that exists is taken up")
	f.StringVar(&o.sheet, "sheet", "", "the sheet to print, a new `FILE` that ends in .pdf or .txt (default: sheet-SERIAL.pdf beside the share file)")
	f.StringVar(&o.label, "label", "", "the token's label, `TEXT`")
	f.IntVar(&o.domains, "domains", 0, "`N` key domain slots, the first with this recovery key; the others stay empty (firmware 3.0 and later)")
	f.BoolVar(&o.noUnblock, "no-unblock", false, "the SO-PIN cannot unblock the PIN or set a new one")
	f.BoolVar(&o.weak, "weak-password", false, "take a password although it is weak")
	uses(cmd, useCatalog, useToken, useConfirm, useUntrusted, useYes, useWho)
	return cmd
}

func (o *setupOptions) check() error {
	switch {
	case o.domains < 0 || o.domains > 16:
		return usagef("", "--domains takes 1 to 16")
	case o.sheet != "" && !isSheetName(o.sheet):
		return usagef("", "--sheet takes a file that ends in .pdf or .txt")
	}
	return nil
}

func isSheetName(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".pdf" || ext == ".txt"
}

// setupJob is one set-up under way.
type setupJob struct {
	*app
	o    setupOptions
	t    *token
	cat  *store.Catalog
	inv  *backup.Inventory
	note *backup.SetUpNote
	// share and its KCV, once it is made or taken up.
	share *dkek.Share
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
	j := &setupJob{app: a, o: o, t: t, cat: cat, inv: inv, note: note}
	defer j.wipe()
	if note == nil {
		j.note = &backup.SetUpNote{}
	}
	return j.run(ctx, stage, note != nil)
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
		fmt.Fprintf(j.stderr, "\n%s\n", wrapped(fmt.Sprintf(format, args...), 80))
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
func (j *setupJob) run(ctx context.Context, stage backup.SetUpStage, again bool) error {
	s := backup.SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: 3, Domains: j.o.domains},
		Trust:          j.trust(j.t), Origin: "setup", MinSOTries: backup.DefaultSOFloor,
		Before: func(step string) error { return j.step(ctx, step) },
	}
	s.Trust.Login = func(ctx context.Context) error { return j.login(ctx, j.t) }
	switch {
	case stage == backup.ToInitialise && again:
		j.tell("A set-up of %s was begun and not finished; it goes on. What PIN and SO-PIN were chosen then does not count, unless the token has them by now.", j.t.name())
	case stage == backup.ToInitialise:
		j.tell("This sets up %s, which is new, for keys that can be restored onto another token if this one is lost or wiped. Three secrets come out of it: the PIN, for daily use; the SO-PIN, for emergencies; and the password of the file that holds the recovery key, for the backup. Have a pen at hand. Nothing is changed on the token before the last question. It takes about five minutes.", j.t.name())
	case stage == backup.ToLoad:
		j.tell("%s is initialised, and waits for its recovery key: that is loaded now.", j.t.name())
	default:
		j.tell("%s was set up, and the set-up cut off before all of it was read back: that is done now.", j.t.name())
	}
	if stage == backup.ToInitialise {
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
	if err := j.prepare(ctx, s, stage); err != nil {
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

// attempts is how often something that was typed wrong may be typed again.
const attempts = 3

// patiently lets somebody at a prompt try again what was not right. Nothing was
// sent to a token yet.
func (j *setupJob) patiently(ctx context.Context, prompt bool, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		var own *failure
		typed := errors.As(err, &own) && (own.code == "typed-differently" || own.code == "default-pin" || own.code == "not-typed-back" || own.code == "weak-password") ||
			errors.Is(err, schsm.ErrPINLength) || errors.Is(err, schsm.ErrSOPINFormat)
		if err == nil || !typed || !prompt || n == attempts || ctx.Err() != nil {
			return err
		}
		j.app.note("%s; once more", err)
	}
}

// newPIN asks for the PIN to set.
func (j *setupJob) newPIN(ctx context.Context) (pin *secret.Bytes, err error) {
	source := j.flags.pin.source
	err = j.patiently(ctx, source.kind == "prompt", func() error {
		pin, err = j.readChecked(ctx, source, "new PIN of "+j.t.name()+", 6 to 16 characters", true, func(typed *secret.Bytes) error {
			if err := checkPINLength(typed); err != nil {
				return err
			}
			if backup.IsDefaultPIN(typed.Bytes()) && !j.inv.Software {
				return defaultPIN("PIN")
			}
			return nil
		})
		return err
	})
	return pin, err
}

func defaultPIN(what string) error {
	return &failure{exit: exitRefused, code: "default-pin", message: "this " + what + " stands in the vendor's documents or is the first that anyone would try; nothing was changed", hints: []string{"choose one that nobody knows"}}
}

// newSOPIN makes the SO-PIN and shows it, or reads it where --so-pin says. That
// of a token which has one already is asked for.
func (j *setupJob) newSOPIN(ctx context.Context) (*secret.Bytes, error) {
	if j.flags.soPIN.text == "" && j.inv.SOPIN.Missing {
		if !j.tty.Available() {
			return nil, usagef("give --so-pin env:NAME, file:PATH, fd:N or cmd:COMMAND", "there is no terminal to show a new SO-PIN on")
		}
		text, err := randomDigits(2 * schsm.SOPINLen)
		if err != nil {
			return nil, err
		}
		if err := j.showSOPIN(ctx, text); err != nil {
			text.Wipe()
			return nil, err
		}
		return text, nil
	}
	source := j.flags.soPIN.source
	var text *secret.Bytes
	err := j.patiently(ctx, source.kind == "prompt", func() (err error) {
		text, err = j.readChecked(ctx, source, "SO-PIN of "+j.t.name()+", 16 hex digits", j.inv.SOPIN.Missing, func(typed *secret.Bytes) error {
			if err := checkSOPINFormat(typed); err != nil {
				return err
			}
			if backup.IsDefaultSOPIN(typed.Bytes()) && !j.inv.Software && j.inv.SOPIN.Missing {
				return defaultPIN("SO-PIN")
			}
			return nil
		})
		return err
	})
	return text, err
}

// randomDigits gives n decimal digits, each as likely as any other.
func randomDigits(n int) (*secret.Bytes, error) {
	out := make([]byte, 0, n)
	var b [1]byte
	for len(out) < n {
		if _, err := rand.Read(b[:]); err != nil {
			clear(out)
			return nil, err
		}
		if b[0] < 250 { // 25 times ten
			out = append(out, '0'+b[0]%10)
		}
	}
	b[0] = 0
	return secret.New(out), nil
}

// showSOPIN shows the SO-PIN in groups of four and has it typed back.
func (j *setupJob) showSOPIN(ctx context.Context, text *secret.Bytes) error {
	screen := make([]byte, 0, 512)
	screen = append(screen, "The SO-PIN of "+j.t.name()+", shown once. Write it down:\n\n    "...)
	for i, c := range text.Bytes() {
		if i > 0 && i%4 == 0 {
			screen = append(screen, ' ')
		}
		screen = append(screen, c)
	}
	screen = append(screen, "\n\nThere is a line for it on the sheet that is made in a moment. Keep it away from the token.\n"...)
	defer clear(screen)
	return j.shown(ctx, screen, "SO-PIN", text)
}

// shown shows a secret on the alternate screen until Enter is pressed, and has
// it typed back from what was written down; blanks do not count.
func (j *setupJob) shown(ctx context.Context, screen []byte, what string, want *secret.Bytes) error {
	return j.patiently(ctx, true, func() error {
		j.progress.Close()
		typed, err := j.tty.Screen(ctx, screen, "Press Enter when it is written down, and it goes off the screen.")
		typed.Wipe()
		if err != nil {
			return err
		}
		back, err := j.tty.ReadSecret(ctx, "Type the "+what+" from what you have written down, to see that it is right:")
		if err != nil {
			return err
		}
		defer back.Wipe()
		if !sameWritten(back, want) {
			return &failure{exit: exitFailed, code: "not-typed-back", message: "that is not the " + what + " that was shown", hints: []string{"nothing was changed: run the same command again"}}
		}
		return nil
	})
}

// sameWritten compares without regard to blanks.
func sameWritten(a, b *secret.Bytes) bool {
	strip := func(s *secret.Bytes) *secret.Bytes {
		out := make([]byte, 0, s.Len())
		for _, c := range s.Bytes() {
			if c != ' ' && c != '\t' {
				out = append(out, c)
			}
		}
		return secret.New(out)
	}
	x, y := strip(a), strip(b)
	defer x.Wipe()
	defer y.Wipe()
	return x.Equal(y)
}

// bringShare takes up the share file, or makes a new one.
func (j *setupJob) bringShare(ctx context.Context) error {
	path, err := filepath.Abs(j.o.out)
	if err != nil {
		return err
	}
	if j.note.Share != "" && j.note.Share != path {
		if _, err := os.Lstat(j.note.Share); err == nil {
			return failf("other-share", "give --out "+shellQuoted(j.note.Share)+", or move that file away to begin with another recovery key", "the set-up of %s was begun with the share file %s", j.t.name(), j.note.Share)
		}
	}
	info, err := os.Stat(j.o.out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.Size() == 0: // begun, and cut off before anything was in it
		if err := os.Remove(j.o.out); err != nil {
			return err
		}
	default:
		return j.takeUp(ctx, path)
	}
	j.tell("The recovery key (DKEK) is what keys leave the token under, and the only thing that opens their backup: without it no backup is worth anything. A new one is made now. It goes into the file %s, under a password.", terminal.Printable(j.o.out))
	password, err := j.sharePassword(ctx)
	if err != nil {
		return err
	}
	defer password.Wipe()
	if err := j.step(ctx, "share"); err != nil {
		return err
	}
	j.note.Share, j.note.KCV = path, ""
	if err := j.note.Put(j.cat, j.t.serial); err != nil {
		return err
	}
	j.share = dkek.NewShare()
	if j.kcv, err = j.writeShare(ctx, j.o.out, j.share, password); err != nil {
		return err
	}
	j.changed = true
	return j.knowKCV()
}

// knowKCV notes which recovery key it is.
func (j *setupJob) knowKCV() error {
	j.note.KCV = j.kcv.String()
	if err := j.note.Put(j.cat, j.t.serial); err != nil {
		return err
	}
	j.tell("The share file is written, was read back, and opens. The recovery key is known by its check value (KCV): %s.", j.kcv)
	return nil
}

// sharePassword reads the password of a new share, or makes one, shows it, and
// has it typed back.
func (j *setupJob) sharePassword(ctx context.Context) (password *secret.Bytes, err error) {
	if j.flags.password.text != "" {
		err = j.patiently(ctx, j.flags.password.kind == "prompt", func() error {
			password, err = j.newPassword(ctx, dkekCreate{out: j.o.out, weak: j.o.weak})
			return err
		})
		return password, err
	}
	if password, err = j.randomPassword(); err != nil {
		return nil, err
	}
	screen := passwordScreen(password)
	defer clear(screen)
	if err := j.shown(ctx, screen, "password", password); err != nil {
		password.Wipe()
		return nil, err
	}
	return password, nil
}

// takeUp opens a share file that is there already.
func (j *setupJob) takeUp(ctx context.Context, path string) error {
	arg := shareArg{file: j.o.out, password: j.flags.password.source}
	arg.read()
	if arg.err != nil {
		return arg.err
	}
	if !dkek.IsPBE(arg.content) {
		return failf("exists", "name another file with --out", "%s exists already and is no share file; nothing is ever overwritten", j.o.out)
	}
	j.app.note("%s exists already: its recovery key is taken up, and the file stays as it is", j.o.out)
	j.tell("It opens with the password that was written down when it was made. If nobody has that, move the file away and run this again.")
	shares, errs, err := j.openPBEs(ctx, []shareArg{arg})
	if err == nil {
		err = errs[0]
	}
	if err != nil {
		wipeShares(shares)
		return fmt.Errorf("%s: %w", j.o.out, err)
	}
	j.share = shares[0]
	key, err := dkek.Combine(j.share)
	if err != nil {
		return err
	}
	j.kcv = key.KCV()
	key.Wipe()
	if j.note.KCV != "" && j.note.KCV != j.kcv.String() {
		return failf("kcv-mismatch", "bring back the share file of "+j.note.KCV+", or wipe the token with `hsmbackup init`", "%s gives the recovery key %s; the set-up of %s was begun with %s", j.o.out, j.kcv, j.t.name(), j.note.KCV)
	}
	j.note.Share = path
	return j.knowKCV()
}

// writeSheet writes the sheet, and reads it back. One that an earlier run wrote
// is left as it is if it is the same, else a new one gets another name.
func (j *setupJob) writeSheet(ctx context.Context) error {
	content, err := j.sheetContent()
	if err != nil {
		return err
	}
	if j.note.Sheet != "" && (j.o.sheet == "" || sameFile(j.note.Sheet, j.o.sheet)) {
		if b, err := os.ReadFile(j.note.Sheet); err == nil && store.HashOf(b) == j.note.SheetSHA256 {
			j.sheet = j.note.Sheet
			return nil
		}
	}
	path := j.o.sheet
	if path == "" {
		path = filepath.Join(filepath.Dir(j.o.out), "sheet-"+orNoSerial(j.t.serial)+".pdf")
	}
	if path, err = freeName(path, content); err != nil {
		return err
	}
	if err := j.step(ctx, "sheet"); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err != nil {
		if err := writeNew(path, content); err != nil {
			return err
		}
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
		return failf("not-written", "the disk may be failing", "%s does not hold what was written to it", path)
	}
	j.changed = true
	if j.note.Sheet, err = filepath.Abs(path); err != nil {
		return err
	}
	j.sheet, j.note.SheetSHA256 = path, store.HashOf(content)
	if err := j.note.Put(j.cat, j.t.serial); err != nil {
		return err
	}
	j.tell("The sheet says which token and recovery key belong together, where things lie, and how a restore goes. No secret is on it: it has lines to fill in by hand. It is %s: print it when this is done.", terminal.Printable(path))
	return nil
}

func orNoSerial(serial string) string {
	if serial == "" {
		return "token"
	}
	return serial
}

func sameFile(a, b string) bool {
	x, err := filepath.Abs(b)
	return err == nil && a == x
}

// freeName gives the name of a file that is not there, or that holds this
// content already: the one asked for, or with a number.
func freeName(path string, content []byte) (string, error) {
	ext := filepath.Ext(path)
	for n := 1; n < 100; n++ {
		name := path
		if n > 1 {
			name = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(path, ext), n, ext)
		}
		b, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && bytes.Equal(b, content):
			return name, nil
		case err != nil:
			return "", err
		}
	}
	return "", failf("exists", "name another file with --sheet", "%s exists already, and nothing is ever overwritten", path)
}

// sheetContent is the sheet of a single admin, without secrets.
func (j *setupJob) sheetContent() ([]byte, error) {
	absolute := func(path string) string {
		if p, err := filepath.Abs(path); err == nil {
			return p
		}
		return path
	}
	s := &sheet.Admin{
		Serial: j.t.serial, Label: j.o.label, KCV: j.kcv.String(), Shares: []string{absolute(j.o.out)}, Catalog: absolute(j.cat.Path()), Date: j.now(),
		Steps: []sheet.Step{
			{What: "Bring the catalog, or a copy of it, and the share file to a computer with hsmbackup. Plug in a new token and see that nothing is in the way:", Command: "hsmbackup doctor"},
			{What: "See what would come back, and whether it fits:", Command: "hsmbackup plan --catalog FILE --from " + orNoSerial(j.t.serial)},
			{What: "Set the token up and bring everything back. It asks for the password, a new PIN and a new SO-PIN:", Command: "hsmbackup restore --catalog FILE --from " + orNoSerial(j.t.serial) + " --init --share FILE"},
		},
	}
	if strings.EqualFold(filepath.Ext(j.o.sheet), ".txt") {
		return s.PlainText()
	}
	return s.PDF(sheet.A4)
}

// prepare initialises the token, or does what is left of it.
func (j *setupJob) prepare(ctx context.Context, s backup.SetUp, stage backup.SetUpStage) error {
	var note string
	var err error
	if stage == backup.ToInitialise {
		j.tell("Everything is at hand. Now the token gets PIN, SO-PIN and its recovery key.")
		if err := j.confirmStart(ctx); err != nil {
			return err
		}
		_, note, err = backup.Initialise(ctx, j.t.card, j.cat, s)
	} else {
		_, note, err = s.Finish(ctx, j.t.card, j.cat)
		var refused *backup.Error
		if errors.As(err, &refused) && refused.Code == "not-genuine" && stage == backup.ToLoad && j.flags.untrusted == "" {
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
	return j.ask(ctx, fmt.Sprintf("Initialise %s?", j.t.name()))
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
	if b, err := os.ReadFile(j.o.out); err != nil || !dkek.IsPBE(b) {
		wrong = append(wrong, fmt.Sprintf("the share file %s cannot be read any more", j.o.out))
	}
	if b, err := os.ReadFile(j.sheet); err != nil || store.HashOf(b) != j.note.SheetSHA256 {
		wrong = append(wrong, fmt.Sprintf("the sheet %s is not what was written", j.sheet))
	}
	if len(wrong) > 0 {
		return &failure{exit: exitChanged, code: "not-ready", message: fmt.Sprintf("%s is set up, but not as it should be: %s", j.t.name(), strings.Join(wrong, "; ")), hints: []string{"run the same command again"}}
	}
	if err := backup.EndSetUp(j.cat, j.t.serial); err != nil {
		return err
	}
	if j.flags.json {
		return j.document(struct {
			Serial string `json:"serial"`
			Label  string `json:"label"`
			KCV    string `json:"kcv"`
			Share  string `json:"share"`
			Sheet  string `json:"sheet"`
			Ready  bool   `json:"ready"`
		}{j.t.serial, inv.Label, j.kcv.String(), j.o.out, j.sheet, true})
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
		{"share file", j.o.out},
		{"sheet", j.sheet},
		{"catalog", j.cat.Path()},
	})
	j.printf("ready: all of it was read back")
	j.next("print %s and fill it in; keep the share file, its password and the SO-PIN apart, and a copy of the share file elsewhere", j.sheet)
	j.next("make keys on it (pkcs11-tool --login --keypairgen --key-type rsa:4096 --label NAME), then `hsmbackup backup`")
	return nil
}
