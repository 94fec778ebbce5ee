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
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/report"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
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
			if len(a.Flags.ShareArgs) > 0 && (o.split != "" || o.out != "") {
				return console.Usagef("", "--share brings a recovery key that there is, --split and --out are for a new one")
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
		return console.Usagef("", "--%s is for parts: --split K/N is missing", flag)
	case o.split != "" && o.weak:
		return console.Usagef("", "--weak-password is for a share file: parts have no password")
	case o.domains < 0 || o.domains > 16:
		return console.Usagef("", "--domains takes 1 to 16")
	case o.sheet != "" && !custody.IsSheetName(o.sheet):
		return console.Usagef("", "--sheet takes a file that ends in .pdf or .txt")
	}
	return nil
}

// setter is who a set-up asks, and who keeps its files.
type setter struct {
	holder
	o setupOptions
	// file is the content of the share file that the share was opened from.
	file  []byte
	sheet string // the file
}

func (a *app) setup(ctx context.Context, o setupOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	s := &setter{holder: holder{a, t, a.Flags.PIN.Source}, o: o}
	j := &backup.SetUpJob{
		Work: a.work(ctx, t, backup.DefaultSOFloor), Person: s, Label: o.label, AskLabel: !o.labelSet && s.guided(), Domains: o.domains, NoUnblock: o.noUnblock,
		Now: a.Now(), Before: func(step string) error { return a.step(ctx, step) },
	}
	if j.Catalog, err = a.ExistingCatalog(); err != nil {
		return err
	}
	defer func() { cli.CloseCatalog(j.Catalog) }()
	r, err := j.Run(ctx)
	a.did(&j.Work)
	if err != nil {
		return err
	}
	return s.printReady(j, r)
}

// guided tells whether there is somebody to explain things to.
func (s *setter) guided() bool { return s.TTY.Available() && !s.Flags.Yes && !s.Flags.JSON }

// Tell explains, to somebody at a terminal.
func (s *setter) Tell(format string, args ...any) {
	if s.guided() {
		s.Progress.Close()
		fmt.Fprintf(s.Stderr, "\n%s\n", console.Wrapped(harmless.Sprintf(format, args...), 80))
	}
}

// step is called before each step that writes something, to end there if the
// program was told to.
func (a *app) step(ctx context.Context, name string) error {
	if a.TestOnlyStep != nil {
		a.TestOnlyStep(name)
	}
	return ctx.Err()
}

func (s *setter) NewLabel(ctx context.Context) (string, error) {
	label, err := s.TTY.ReadLine(ctx, "label of the token (Enter: none):")
	return strings.TrimSpace(label), err
}

func (s *setter) NewPINs(ctx context.Context, inv *backup.Inventory) (pin, soPIN *secret.Bytes, err error) {
	s.Tell("The PIN is asked for whenever a key is used. 6 to 15 characters; three wrong ones in a row block it.")
	if pin, err = s.newPIN(ctx, inv); err != nil {
		return nil, nil, err
	}
	if inv.SOPIN.Missing {
		s.Tell("The SO-PIN unblocks a blocked PIN and is needed to wipe the token and set it up anew. It is made for you: 16 digits. After 15 wrong ones the token is dead, so it is never guessed: it stands on paper, away from the token.")
	} else {
		s.Tell("The token has its SO-PIN from the run that was cut off: it is needed once more.")
	}
	text, err := s.newSOPIN(ctx, inv)
	if err == nil {
		defer text.Wipe()
		soPIN, err = schsm.ParseSOPIN(text.Bytes())
	}
	if err != nil {
		pin.Wipe()
		return nil, nil, err
	}
	return pin, soPIN, nil
}

func (s *setter) ForbidUnblock(ctx context.Context) (bool, error) {
	if !s.guided() {
		return false, nil
	}
	s.Tell("Whoever has the SO-PIN can unblock the PIN and set a new one, and then use the keys. That is what it is for, if you are the only one. Where the holder of the SO-PIN must not be able to use the keys, it can be forbidden; a blocked PIN then stays blocked until the token is wiped.")
	return s.TTY.Ask(ctx, "Forbid that the SO-PIN unblocks the PIN?")
}

// Agree says of a no what is there by then.
func (s *setter) Agree(ctx context.Context, q backup.Question) error {
	err := s.holder.Agree(ctx, q)
	var own *console.Failure
	if errors.As(err, &own) && own.Code == "declined" {
		return console.Failf(own.Code, "run the same command again: it takes them up", "not confirmed, the token was not touched; share and sheet are as they were made")
	}
	return err
}

// Amiss reads the files back.
func (s *setter) Amiss(r *backup.SetUpReport) (wrong []string) {
	if s.inFile(r) {
		if b, err := os.ReadFile(r.Note.Share); err != nil || !bytes.Equal(b, s.file) {
			wrong = append(wrong, fmt.Sprintf("the share file %s is not what was opened", r.Note.Share))
		}
	}
	if b, err := os.ReadFile(s.sheet); err != nil || store.HashOf(b) != r.Note.SheetSHA256 {
		wrong = append(wrong, fmt.Sprintf("the sheet %s is not what was written", s.sheet))
	}
	return wrong
}

func (s *setter) printReady(j *backup.SetUpJob, r *backup.SetUpReport) error {
	inv := r.Inventory
	file, set := "", ""
	if s.inFile(r) {
		file = s.o.out
	}
	if out, err := setHandedOut(j, r); err == nil && out != nil && s.o.split != "" {
		set = out.Set
	}
	if s.Flags.JSON {
		return s.Document(struct {
			Serial string `json:"serial"`
			Label  string `json:"label"`
			KCV    string `json:"kcv"`
			Share  string `json:"share,omitempty"`
			Set    string `json:"set,omitempty"`
			Sheet  string `json:"sheet"`
			Ready  bool   `json:"ready"`
		}{inv.Serial, inv.Label, r.KCV.String(), file, set, s.sheet, true})
	}
	label := ""
	if inv.Label != "" {
		label = ", label " + console.Quoted(inv.Label)
	}
	s.Table([][]string{
		{s.Name(), "initialised" + label},
		{"SO-PIN", report.Tries(inv.SOPIN)},
		{"options", report.Options(inv.Options)},
		{"recovery key", "KCV " + r.KCV.String() + ", 1 share"},
		{"share", strings.Join(s.where(r), ", ")},
		{"sheet", s.sheet},
		{"catalog", j.Catalog.Path()},
	})
	s.Printf("ready: all of it was read back")
	if s.inFile(r) {
		s.Next("print %s and fill it in; keep the share file, its password and the SO-PIN apart, and a copy of the share file elsewhere", s.sheet)
	} else {
		s.Next("print %s and fill it in; keep the SO-PIN apart from the token", s.sheet)
	}
	s.Next("make keys on it (pkcs11-tool --login --keypairgen --key-type rsa:4096 --label NAME), then `hsmbackup backup`")
	return nil
}
