package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/report"
	"hsmbackup/store"
)

func newBackupCommand(a *app) *cobra.Command {
	var noProof bool
	var recipient, anchor string
	var attach, detach []string
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "export every key into the catalog and prove that it comes back",
		Long: `Takes a snapshot of a token: every key wrapped under the recovery key, with its
description, certificate and all that makes it up. Then each new key blob is
proven by round trip: the token unwraps it to a free place, original and copy
answer the same question, and the copy is deleted. Private keys never leave the
token in clear, and the recovery key is not needed.

With --attach a file is kept with the snapshot, such as the revocation list of a
CA whose key is on the token. Later backups go on with it until --attach brings
another of its name or --detach drops it; export writes it out. It stands in the
catalog in clear: what looks like a private key or a share is refused.

Data objects that the PIN protects are sealed to the recovery key. What that is,
this computer keeps in mind once it has had the shares; before that, --recipient
takes it from the sheet, and without either they are left out and named.

With --anchor token the token carries the number and the hash of the catalog's last
entry, in a data object that everybody can read and the PIN can write. check and
verify compare it, and an older or rewritten catalog is found. It tells nothing
across a wipe, and nothing against whoever has the PIN.

The catalog is made if there is none. At the end stand six words: kept
elsewhere, they tell an older or altered catalog from this one (check --head).`,
		Example: `  hsmbackup backup
  hsmbackup backup --token DENK0404144 --pin file:PIN
  hsmbackup backup --attach revoked.krl --attach ca-serial
  hsmbackup backup --anchor token
  hsmbackup backup --no-proof`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := backup.Options{NoProof: noProof, Detach: detach}
			var err error
			if o.Attach, err = readAttachments(attach, detach); err != nil {
				return err
			}
			if o.AnchorToken = anchor == "token"; anchor != "" && !o.AnchorToken {
				return console.Usagef("", "--anchor takes \"token\" and nothing else")
			}
			if o.Recipient, err = recipientNamed(recipient); err != nil {
				return err
			}
			return a.backup(cmd.Context(), o)
		},
	}
	cmd.Flags().StringArrayVar(&attach, "attach", nil, "keep `FILE` with the snapshot, under its name; repeat for several")
	cmd.Flags().StringArrayVar(&detach, "detach", nil, "drop the attachment of that `NAME`; repeat for several")
	cmd.Flags().StringVar(&anchor, "anchor", "", "`token`: write the catalog's head onto the token, where who writes the catalog cannot change it")
	cmd.Flags().StringVar(&recipient, "recipient", "", "what the PIN protects is sealed to this: six `WORDS` from the recovery key's sheet, or age1…")
	cmd.Flags().BoolVar(&noProof, "no-proof", false, "leave the round trip out; the keys stay unproven")
	uses(cmd, useCatalog, useToken, useConfirm, useYes, useSpend)
	return cmd
}

// recipientNamed reads the value of --recipient.
func recipientNamed(text string) (r backup.Recipient, err error) {
	switch {
	case text == "":
		return r, nil
	case strings.HasPrefix(text, "age1"):
		if _, err := dkek.SealData(text, nil); err != nil {
			return r, console.Usagef("", "--recipient: %s", err)
		}
		return backup.Recipient{Text: text}, nil
	}
	r.Prefix, r.Bits, err = decodeWords("--recipient", text, "stand on the sheet of the recovery key")
	return r, err
}

// readAttachments reads the files of --attach.
func readAttachments(files, detach []string) ([]store.Attachment, error) {
	var list []store.Attachment
	for _, file := range files {
		name := filepath.Base(file)
		if slices.ContainsFunc(detach, func(d string) bool { return strings.EqualFold(d, name) }) {
			return nil, console.Usagef("", "%s is both attached and detached", name)
		}
		if slices.ContainsFunc(list, func(at store.Attachment) bool { return strings.EqualFold(at.Name, name) }) {
			return nil, console.Usagef("", "two files of the name %s: an attachment goes by its name", name)
		}
		info, err := os.Stat(file)
		switch {
		case err != nil:
			return nil, err
		case !info.Mode().IsRegular():
			return nil, console.Failf("attachment-file", "", "%s is not a file", file)
		case info.Size() > store.MaxAttachment:
			return nil, console.Failf("attachment-size", "an archive of its own is the place for it", "%s has %d bytes; at most %d are kept with a snapshot", file, info.Size(), store.MaxAttachment)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		at, err := backup.NewAttachment(name, content)
		if err != nil {
			clear(content) // it may be a secret
			return nil, err
		}
		list = append(list, at)
	}
	return list, nil
}

func (a *app) backup(ctx context.Context, o backup.Options) error {
	// A catalog that cannot be written is noticed before the PIN is asked for.
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	defer func() { cli.CloseCatalog(cat) }()
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := a.Login(ctx, t); err != nil {
		return err
	}
	missing := cat == nil
	if missing {
		if cat, err = a.MakeCatalog(); err != nil {
			return err
		}
	}
	a.Changed = missing
	o.SpendUse, o.Progress, o.Cleaned, o.Program = a.spendUse(ctx), a.Steps, a.cleaned, build.Program()
	o.Emptied = func(s *store.Snapshot, gone []string) error {
		err := backup.KeysGone(t.Serial, s, gone)
		if a.Confirmed || a.Flags.Confirm == "" && !a.TTY.Available() { // it was about the PIN
			return err
		}
		return a.Confirm(ctx, t, err.Error()+".")
	}
	inv, err := backup.Take(ctx, t.Card)
	if err != nil {
		return err
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	before, gone := backup.Vanished(inv, state)
	r, err := backup.Run(ctx, t.Card, cat, o)
	a.Progress.Close()
	if err != nil {
		return err
	}
	a.Changed = true
	for _, name := range gone {
		a.Note("%s is not on %s any more; snapshot %s keeps it: `hsmbackup restore --from %s`", name, t.Name(), before.ID, before.ID)
	}
	a.printSpent(r.Spent)
	exits := console.Exits{}
	if !backup.Complete(r.Keys) || len(r.Snapshot.Missing) > 0 {
		exits.Add(console.ExitIncomplete)
	}
	if a.Flags.JSON {
		if err := a.Document(report.NewBackup(r)); err != nil {
			return err
		}
	} else {
		report.PrintKeys(a.Console, r.Keys)
		report.PrintAttachments(a.Console, r.Snapshot.Attachments)
		for _, m := range r.Snapshot.Missing {
			a.Printf("  not kept: %s: %s", m.What, m.Reason)
		}
		a.Printf("snapshot %s of %s: %s", r.Snapshot.ID, t.Name(), report.Restorable(r.Keys))
		a.Printf("head: %s", report.Head(r.Head))
	}
	return console.Outcomes(exits.Outcome(report.Incomplete(r.Keys, r.Snapshot.Missing), report.Remedies(r.Keys)...), underOldKey(r))
}

// underOldKey is the outcome of a backup of a token that still has a recovery key
// which another took the place of: the backup is taken all the same, since there
// may be a new key on the token, but it opens with the old shares only.
func underOldKey(r *backup.Report) error {
	if r.Behind == nil {
		return nil
	}
	exits := console.Exits{console.ExitIncomplete: true}
	return exits.Outcome(fmt.Sprintf("this snapshot is under the recovery key %s, which %s took the place of on %s: the token still has the old one", r.Behind.OldKCV, r.Behind.KCV, r.Behind.Time.Format(time.DateOnly)),
		"`hsmbackup dkek rekey --share OLD --new-share NEW` re-keys this snapshot too; `hsmbackup restore --init --share NEW` gives the token the new recovery key",
		fmt.Sprintf("with the new shares alone, restore the one from before: --from %s", r.Behind.Snapshot.ID))
}

// spendUse tells whether a proof may spend a use of a key that has a use counter:
// --spend names it, or somebody at a terminal says so of this key. --yes is none.
func (a *app) spendUse(ctx context.Context) func(backup.Key) bool {
	return func(k backup.Key) bool {
		for _, name := range a.Flags.Spend {
			if name == k.Label || name == fmt.Sprint(k.Reference) || name == hex.EncodeToString(k.ID) {
				return true
			}
		}
		if a.Yes || !a.TTY.Available() || k.Info.Counter == nil {
			return false
		}
		return a.Ask(ctx, fmt.Sprintf("Proving %s spends one of the %d uses that it has left. Prove it?", k.Name(), *k.Info.Counter)) == nil
	}
}

// cleaned says what was deleted of an interrupted proof.
func (a *app) cleaned(what string) {
	a.Changed = true
	a.Note("removed what an interrupted proof had left behind: %s", what)
}

// printSpent says what the proofs cost keys with a use counter.
func (a *app) printSpent(spent []backup.Spent) {
	for _, s := range spent {
		a.Note("%s had %d uses left and has %d now: it was asked whether it is the key that was backed up", s.Key.Name(), s.Before, s.After)
	}
}
