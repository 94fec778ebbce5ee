package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/terminal"
)

type rotateFlags struct {
	from, to string
	keys     []string
}

func newRotateCommand(a *app) *cobra.Command {
	var o rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate --from TOKEN --to TOKEN",
		Short: "make successors of keys that cannot leave their token",
		Long: `A key that was made without a recovery key, or whose list of allowed algorithms
lacks export, can never be backed up. This makes a successor of each such key on
a token that has a recovery key: a new key of the same type, label, ID and usage.
It uses each, backs the new token up, and prints what has to follow for SSH.

The old token is only looked at: its PIN is not asked for, and its keys stay
until you delete them. Keys that were accepted are rotated only if they are named
with --key. Interrupted, it goes on when it is run again.

Tokens are named as --token names them: by serial, by label, or soft:FILE. The
PIN is that of the new token.`,
		Example: `  hsmbackup rotate --from DENK0200123 --to DENK0404144
  hsmbackup rotate --from soft:old.tok --to soft:new.tok --key "SSH CA" --pin file:PIN --yes`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.rotate(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "the `TOKEN` with the keys that cannot leave it")
	f.StringVar(&o.to, "to", "", "the `TOKEN` that gets their successors")
	f.StringArrayVar(&o.keys, "key", nil, "only this `KEY` of the old token: its reference, ID or label; repeat for several")
	uses(cmd, useCatalog, useConfirm, useYes)
	return cmd
}

func (a *app) rotate(ctx context.Context, o rotateFlags) error {
	if o.from == "" || o.to == "" {
		return usagef("", "--from and --to are both needed: the token with the keys, and the one that gets their successors")
	}
	if o.from == o.to {
		return refusef("same-token", "name two tokens", "--from and --to are the same token: a successor there can leave it as little")
	}
	path, err := a.catalogPath()
	if err != nil {
		return err
	}
	cat, err := a.openCatalog(path, true)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return named(path, err)
	}
	defer func() { closeCatalog(cat) }()
	from, to, old, err := a.openPair(ctx, o.from, o.to)
	if err != nil {
		return err
	}
	defer from.close()
	defer to.close()
	options := backup.RotateOptions{Progress: a.steps}
	if options.Keys, err = references(old, o.keys); err != nil {
		return err
	}
	plan := func() (*backup.Rotation, error) {
		inv, err := backup.Take(ctx, to.card)
		if err != nil {
			return nil, err
		}
		return backup.PlanRotation(old, inv, cat, options)
	}
	r, err := plan()
	if err != nil {
		return err
	}
	if len(r.Items) == 0 {
		if a.flags.json {
			return a.document(jsonRotation{From: r.From, To: r.To, Keys: []jsonSuccession{}})
		}
		a.printf("every key of %s can leave it, or is accepted: nothing to do", r.From)
		return nil
	}
	if !a.flags.json {
		a.printRotation(r)
	}
	if slices.ContainsFunc(r.Items, func(i backup.RotationItem) bool { return i.Action == backup.New || i.Action == backup.Repair }) {
		if a.flags.confirm != "" {
			err = a.confirm(ctx, to, "")
		} else {
			err = a.ask(ctx, fmt.Sprintf("Make these keys on %s?", to.name()))
		}
		if err != nil {
			return err
		}
	}
	if err := a.login(ctx, to); err != nil {
		return err
	}
	if missing {
		if cat, err = a.makeCatalog(); err != nil {
			return err
		}
	}
	if r, err = plan(); err != nil { // what was shown may not hold any more
		return err
	}
	results, err := backup.Rotate(ctx, to.card, cat, r, options)
	a.progress.Close()
	if err != nil {
		return err
	}
	for _, x := range results {
		a.changed = a.changed || x.OK && x.Action != backup.Same
	}
	report, err := backup.Run(ctx, to.card, cat, backup.Options{SpendUse: a.spendUse(ctx), Progress: a.steps, Program: program()})
	a.progress.Close()
	if err != nil {
		return err
	}
	return a.printSuccessors(r, results, report)
}

func (a *app) printRotation(r *backup.Rotation) {
	a.printf("from %s to %s, under the recovery key %s", r.From, r.To, r.KCV)
	var rows [][]string
	for _, i := range r.Items {
		action := string(i.Action)
		if i.Action.Done() {
			action += fmt.Sprintf(", as key %d", i.At)
		}
		if i.Reason != "" {
			action += ": " + i.Reason
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", i.Old.Reference), i.Old.Type, quoted(i.Old.Label), i.Why, action})
	}
	a.table(rows)
}

type jsonRotation struct {
	From     string           `json:"from"`
	To       string           `json:"to"`
	Keys     []jsonSuccession `json:"keys"`
	Snapshot string           `json:"snapshot"`
}

type jsonSuccession struct {
	Reference int    `json:"reference"`
	At        int    `json:"at"`
	Label     string `json:"label"`
	Type      string `json:"type"`
	Why       string `json:"why"`
	OK        bool   `json:"ok"`
	Reason    string `json:"reason"`
	Coverage  string `json:"coverage"`
	OldSSH    string `json:"old_ssh"`
	NewSSH    string `json:"new_ssh"`
}

// printSuccessors says what came of each key, and what people have to do now.
func (a *app) printSuccessors(r *backup.Rotation, results []backup.RotationResult, report *backup.Report) error {
	exits := exitSet{}
	var bad []string
	doc := jsonRotation{From: r.From, To: r.To, Keys: []jsonSuccession{}, Snapshot: report.Snapshot.ID}
	for _, x := range results {
		s := jsonSuccession{Reference: int(x.Old.Reference), At: int(x.At), Label: x.Old.Label, Type: x.Old.Type, Why: x.Why, OK: x.OK, Reason: x.Reason, OldSSH: x.Old.SSH()}
		if x.New != nil {
			s.NewSSH = x.New.SSH(x.Old.Label)
		}
		for _, k := range report.Keys {
			if x.OK && k.Key.Reference == x.At {
				s.Coverage = string(k.Coverage)
				if !k.Coverage.Done() {
					exits.add(exitIncomplete)
					bad = append(bad, fmt.Sprintf("the successor of %s is %s: %s", x.Old.Name(), k.Coverage, k.Reason))
				}
			}
		}
		if !x.OK {
			exits.add(exitIncomplete)
			bad = append(bad, fmt.Sprintf("%s has no successor: %s", x.Old.Name(), x.Reason))
		}
		doc.Keys = append(doc.Keys, s)
	}
	if a.flags.json {
		if err := a.document(doc); err != nil {
			return err
		}
		return exits.outcome(strings.Join(bad, "; "), a.remedies(report.Keys)...)
	}
	for i, s := range doc.Keys {
		a.printf("")
		if !s.OK {
			a.printf("key %d %s: NO SUCCESSOR: %s", s.Reference, quoted(s.Label), s.Reason)
			continue
		}
		a.printf("key %d %s of %s: its successor is key %d of %s, %s", s.Reference, quoted(s.Label), r.From, s.At, r.To, s.Coverage)
		a.printFollowUp(s, results[i].Old, r)
	}
	a.printf("")
	a.printf("snapshot %s of %s; head: %s", report.Snapshot.ID, r.To, head(report.Head))
	return exits.outcome(strings.Join(bad, "; "), a.remedies(report.Keys)...)
}

// printFollowUp says what has to be done before an old key may go.
func (a *app) printFollowUp(s jsonSuccession, old backup.Key, r *backup.Rotation) {
	line := func(format string, args ...any) {
		a.printf("  "+format, args...)
	}
	switch {
	case s.OldSSH != "" && s.NewSSH != "":
		line("If it signs certificates (an SSH CA): trust both for now. In TrustedUserCAKeys on hosts:")
		line("  %s", terminal.Printable(s.OldSSH))
		line("  %s", terminal.Printable(s.NewSSH))
		line("and for host certificates in known_hosts of clients:")
		line("  @cert-authority * %s", terminal.Printable(s.OldSSH))
		line("  @cert-authority * %s", terminal.Printable(s.NewSSH))
		line("Then issue every certificate again with the new key: ssh-keygen -s.")
		line("If people log in with it: add to authorized_keys, beside the old line:")
		line("  %s", terminal.Printable(s.NewSSH))
		line("The old key may go when no valid certificate is signed by it, no host knows only its line, and")
		line("this backup has been checked: then take its lines away and delete it on %s.", r.From)
	case old.Kind == pkcs15.AES:
		line("What is encrypted with the old key must be decrypted with it and encrypted anew before it may go.")
	default:
		line("SSH does not know this type. The old key may go when nothing that trusts it, or was encrypted")
		line("for it, is left.")
	}
	if old.PublicFrom == "certificate" {
		line("The certificate that %s holds for the old key must be issued again for the new one.", r.From)
	}
}
