package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"hsmbackup/dkek"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/terminal"
	"hsmbackup/internal/words"
	"hsmbackup/store"
)

type dkekCreate struct {
	weak       bool
	splitFlags // its out names a file where nothing is split
}

func newDKEKCreateCommand(a *app) *cobra.Command {
	var o dkekCreate
	cmd := &cobra.Command{
		Use:   "create --out FILE",
		Short: "make a share of a new recovery key, or split it among custodians at once",
		Long: `Makes a random share, writes it under a password to a new file (mode 0600, the
format of sc-hsm-tool), reads the file back and opens it again.

Without --password, a password of seven random words is made and shown once on
the terminal. A weak password is refused: whoever gets the file can try millions
a day. One share makes a whole recovery key; to give several people one each,
run this once for each of them and load all the shares. That it was made is noted
in the catalog, if there is one; the share is not.

With --split K/N the share is split instead, and no file has all of it: each
custodian gets a part, any K of them bring the share together. Before anything
is shown, all combinations are tried. A part is shown on a screen of its own,
which is wiped, and typed back before the next custodian gets theirs; with
--out DIR it is a file NAME.txt (mode 0600), or, for those with a --recipient,
NAME.txt.age. The set is registered in the catalog, with a commitment of each
part that tells it from any other and nothing of the part.

The random numbers are those of this computer, mixed with those of a token if
exactly one is attached or --token names one.`,
		Example: `  hsmbackup dkek create --out share1.pbe                      a password is made and shown
  hsmbackup dkek create --out share1.pbe --password prompt    a password of your own
  hsmbackup dkek create --out share1.pbe --password file:PW
  hsmbackup dkek create --split 2/3 --custodian alice --custodian bob --custodian carol
  hsmbackup dkek create --split 2/3 --custodian alice --custodian bob --custodian carol --out parts/`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.split != "" {
				if o.weak {
					return usagef("", "--weak-password is for a share file: parts have no password")
				}
				return a.createSplit(cmd.Context(), o.splitFlags)
			}
			if flag := o.used(); flag != "" {
				return usagef("", "--%s is for parts: --split K/N is missing", flag)
			}
			return a.dkekCreate(cmd.Context(), o)
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&o.of, "of", "", "with --split: which share of how many this is, `I/M` (default 1/1)")
	cmd.Flags().StringVar(&o.out, "out", "", "the new `FILE`, with --split a folder; what exists is never overwritten")
	cmd.Flags().BoolVar(&o.weak, "weak-password", false, "take a password although it is weak")
	uses(cmd, useCatalog, useToken, useWho)
	return cmd
}

// generatedWords is the length of a generated password: 77 bits.
const generatedWords = 7

func (a *app) dkekCreate(ctx context.Context, o dkekCreate) error {
	if o.out == "" {
		return usagef("", "--out FILE is missing: it names the file to write the share to")
	}
	// Asking for a password before noticing that would be a nuisance.
	if _, err := os.Lstat(o.out); err == nil {
		return failf("exists", "", "%s exists already, and nothing is ever overwritten", o.out)
	}
	password, err := a.newPassword(ctx, o)
	if err != nil {
		return err
	}
	defer password.Wipe()
	share, from, err := a.newShare(ctx)
	if err != nil {
		return err
	}
	defer share.Wipe()
	if from != "" {
		a.note("made of random numbers of this computer and of %s", from)
	}
	kcv, err := a.writeShare(ctx, o.out, share, password)
	if err != nil {
		return err
	}
	a.changed = true
	cat, err := a.existingCatalog()
	if err == nil && cat == nil && (a.flags.catalog != "" || a.flags.who != "") {
		err = a.noCatalog()
	}
	if err != nil {
		a.note("not recorded in the log: %s", describe(err, false).Message)
	}
	defer closeCatalog(cat)
	a.ceremony(cat, store.Ceremony{Job: "create", KCV: kcv.String(), Outcome: "a share made, which gives this recovery key if it is the only one"})
	if a.flags.json {
		return a.document(struct {
			File string `json:"file"`
			KCV  string `json:"kcv"`
		}{o.out, kcv.String()})
	}
	a.printf("%s: share written, read back and opened", terminal.Printable(o.out))
	a.printf("KCV %s, if this is the only share", kcv)
	a.next("keep the file and its password apart, and copies of both; then `hsmbackup init --share %s`", o.out)
	return nil
}

// writeShare writes a share to a new file, reads it back and opens it. It gives
// the KCV that the share has by itself.
func (a *app) writeShare(ctx context.Context, path string, share *dkek.Share, password *secret.Bytes) (dkek.KCV, error) {
	file, err := dkek.SealPBE(ctx, share, password.Bytes(), a.derivation("making the share"))
	if err != nil {
		return dkek.KCV{}, err
	}
	if err := writeNew(path, file); err != nil {
		return dkek.KCV{}, err
	}
	kcv, err := a.reopen(ctx, path, file, share, password)
	if err != nil {
		// Nobody has used it yet, and a share that does not open is worse than
		// none.
		_ = os.Remove(path)
	}
	return kcv, err
}

// derivation gives a progress function for one share.
func (a *app) derivation(what string) dkek.Progress {
	return func(done, total uint64) { a.progress.Set(what, int64(done), int64(total)) }
}

// newPassword reads the password of --password, or makes one and shows it on
// the terminal.
func (a *app) newPassword(ctx context.Context, o dkekCreate) (*secret.Bytes, error) {
	if a.flags.password.text == "" {
		return a.generatedPassword(ctx)
	}
	password, err := a.readSecret(ctx, a.flags.password.source, "password of the new share", true)
	if err != nil {
		return nil, err
	}
	if err := dkek.CheckPassword(password.Bytes()); err != nil {
		if !o.weak {
			password.Wipe()
			return nil, failf("weak-password", "leave --password out and seven random words are made, or insist with --weak-password", "%s", err)
		}
		a.note("warning: %s", err)
	}
	return password, nil
}

func (a *app) generatedPassword(ctx context.Context) (*secret.Bytes, error) {
	password, err := a.randomPassword()
	if err != nil {
		return nil, err
	}
	screen := passwordScreen(password)
	typed, err := a.tty.Screen(ctx, screen, "Press Enter when it is written down, and it goes off the screen.")
	clear(screen)
	typed.Wipe()
	if err != nil {
		password.Wipe()
		return nil, err
	}
	return password, nil
}

// randomPassword makes a password, where there is a terminal to show it on.
func (a *app) randomPassword() (*secret.Bytes, error) {
	if !a.tty.Available() {
		return nil, usagef("give --password env:NAME, file:PATH, fd:N or cmd:COMMAND", "there is no terminal to show a generated password on")
	}
	phrase, err := words.Random(generatedWords)
	if err != nil {
		return nil, err
	}
	return secret.New(phrase), nil
}

// passwordScreen is what shows a password; the caller clears it.
func passwordScreen(password *secret.Bytes) []byte {
	screen := make([]byte, 0, 256)
	screen = append(screen, "The password of the new share, shown once; write it down:\n\n    "...)
	screen = append(screen, password.Bytes()...)
	return append(screen, '\n')
}

// reopen reads a share file back and opens it as its keeper will one day. It
// must give the same share and the same KCV.
func (a *app) reopen(ctx context.Context, path string, want []byte, share *dkek.Share, password *secret.Bytes) (kcv dkek.KCV, err error) {
	got, err := os.ReadFile(path)
	if err != nil {
		return kcv, err
	}
	if !bytes.Equal(got, want) {
		return kcv, failf("not-written", "the disk may be failing", "%s does not hold what was written to it; it is deleted", path)
	}
	again, err := dkek.OpenPBE(ctx, got, password.Bytes(), a.derivation("opening it again"))
	a.progress.Close()
	if err != nil {
		return kcv, err
	}
	defer again.Wipe()
	key, err := dkek.Combine(share)
	if err != nil {
		return kcv, err
	}
	defer key.Wipe()
	back, err := dkek.Combine(again)
	if err != nil {
		return kcv, err
	}
	defer back.Wipe()
	if !again.Equal(share) || back.KCV() != key.KCV() {
		return kcv, failf("not-written", "this computer may be failing", "%s opens to another share than was written; it is deleted", path)
	}
	return key.KCV(), nil
}

// writeNew writes a new file for its owner only, durably. It never replaces
// anything, and a write that fails leaves nothing behind.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// syncDir makes a new name in a folder durable. Windows has no such call.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}
