package main

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

func newListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the snapshots",
		Long:  `Lists all snapshots in the catalog, the oldest first.`,
		Example: `  hsmbackup list
  hsmbackup list --json`,
		Args: arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error { return a.list() },
	}
	uses(cmd, useCatalog)
	return cmd
}

func (a *app) list() error {
	cat, err := a.needCatalog()
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	state, err := cat.Read()
	if err != nil {
		return err
	}
	all := state.Snapshots
	if a.flags.json {
		doc := struct {
			Snapshots []jsonSnapshot `json:"snapshots"`
		}{[]jsonSnapshot{}}
		for _, s := range all {
			doc.Snapshots = append(doc.Snapshots, snapshotDocument(s))
		}
		return a.document(doc)
	}
	var rows [][]string
	for _, s := range all {
		rows = append(rows, []string{s.ID, takenOf(s.Token.Serial), quoted(s.Token.Label), s.Taken.Format(time.RFC3339), storedKeys(s), "KCV " + snapshotKCV(s), rekeyedFrom(s)})
	}
	a.table(rows)
	if len(all) == 0 && len(state.Damage) == 0 {
		a.printf("no snapshots yet")
	}
	return nil
}

// rekeyedFrom names the snapshot that a re-keyed one was made from.
func rekeyedFrom(s *store.Snapshot) string {
	if s.Rekeyed == nil {
		return ""
	}
	return "re-keyed from " + s.Rekeyed.From.String()[:12]
}

// snapshotKCV gives the KCVs that the keys of a snapshot are under, most often
// one.
func snapshotKCV(s *store.Snapshot) string {
	var list []string
	for _, k := range s.Keys {
		if len(k.Blob) > 0 && k.KCV != "" && !slices.Contains(list, k.KCV) {
			list = append(list, k.KCV)
		}
	}
	if len(list) == 0 {
		for _, d := range s.Token.Domains {
			if d.KCV != "" && !slices.Contains(list, d.KCV) {
				list = append(list, d.KCV)
			}
		}
	}
	return strings.Join(list, ",")
}

func snapshotDocument(s *store.Snapshot) jsonSnapshot {
	return jsonSnapshot{s.ID, s.Token.Serial, s.Taken.UTC().Format(time.RFC3339), len(s.Keys), snapshotKCV(s), s.Hash.String(), s.Rekeyed}
}

func newShowCommand(a *app) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:   "show [SNAPSHOT...]",
		Short: "show what a snapshot holds",
		Long: `Shows the token and the keys of a snapshot: named by its ID or the beginning of
it, by a token's serial (its newest), or "latest". Without one, the newest of
each token.

With --ssh it prints lines for OpenSSH and nothing else: public keys as for
authorized_keys, with --ssh=ca those that make a key a certificate authority for
hosts and users, with --ssh=config those that make ssh look on the token. SSH
knows RSA keys and those on P-256, P-384 and P-521.`,
		Example: `  hsmbackup show
  hsmbackup show latest --ssh          the SSH public key lines
  hsmbackup show latest --ssh=ca --key 'SSH CA'
  hsmbackup show latest --ssh=config
  hsmbackup show DENK0404144`,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return a.show(args, o)
		},
	}
	cmd.Flags().StringVar(&o.ssh, "ssh", "", "print `lines` for OpenSSH and nothing else: public keys, with =ca for a certificate authority, with =config for ssh_config")
	cmd.Flags().Lookup("ssh").NoOptDefVal = sshKeys
	cmd.Flags().StringArrayVar(&o.keys, "key", nil, "with --ssh: only this `KEY`, by its reference, ID or label; repeat for several")
	cmd.Flags().StringVar(&o.module, "module", "", "with --ssh=config: the `PATH` of the PKCS#11 module (default: OpenSC's, where its packages put it)")
	uses(cmd, useCatalog)
	return cmd
}

type jsonShownKey struct {
	Reference int    `json:"reference"`
	Label     string `json:"label"`
	ID        string `json:"id"`
	Type      string `json:"type"`
	Usage     string `json:"usage"`
	KCV       string `json:"kcv"`
	PublicKey string `json:"public_key"`
	SSH       string `json:"ssh"`
	Exported  bool   `json:"exported"`
	Reason    string `json:"reason"`

	Origin jsonOrigin `json:"origin"`
	Notes  []string   `json:"notes,omitempty"`
}

// jsonOrigin is where a key comes from. Kind is generated, imported or unknown;
// token, verified (by its device certificate) and root are of a generated one;
// opened is when a computer last had it open, empty if never.
type jsonOrigin struct {
	Kind     string `json:"kind"`
	Token    string `json:"token"`
	Verified bool   `json:"verified"`
	Root     string `json:"root"`
	KCV      string `json:"kcv"`
	Opened   string `json:"opened"`
	Text     string `json:"text"`
}

func originDocument(o backup.Origin) jsonOrigin {
	out := jsonOrigin{Kind: o.Kind, Token: o.Token, Verified: o.Verified, Root: o.Root, KCV: o.KCV, Text: o.String()}
	if !o.Opened.IsZero() {
		out.Opened = o.Opened.UTC().Format(time.RFC3339)
	}
	return out
}

type jsonShown struct {
	jsonSnapshot
	Label    string         `json:"label"`
	Firmware string         `json:"firmware"`
	Software bool           `json:"software"`
	Options  string         `json:"options"`
	Contents []jsonShownKey `json:"contents"`
	Files    []string       `json:"files"`
	Missing  []store.Gap    `json:"missing"`

	Attachments []jsonAttachment `json:"attachments,omitempty"`
	attachments []store.Attachment
}

// jsonAttachment is a file that was kept with a snapshot; damage, if any, says
// why it cannot be had any more.
type jsonAttachment struct {
	Name   string `json:"name"`
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
	Added  string `json:"added"`
	Damage string `json:"damage,omitempty"`
}

func attachmentDocuments(list []store.Attachment) []jsonAttachment {
	var out []jsonAttachment
	for _, at := range list {
		out = append(out, jsonAttachment{at.Name, len(at.Content), store.HashOf(at.Content).String(), at.Added.UTC().Format(time.RFC3339), at.Damage})
	}
	return out
}

func (a *app) printAttachments(list []store.Attachment) {
	for _, at := range list {
		if at.Damage != "" {
			a.printf("  attached %s: DAMAGED: %s", at.Name, at.Damage)
			continue
		}
		a.printf("  attached %s, %s, since %s", at.Name, count(len(at.Content), "byte"), at.Added.UTC().Format(time.DateOnly))
	}
}

func shownKey(k store.Key) jsonShownKey {
	out := jsonShownKey{
		Reference: k.Reference, Label: k.Label, ID: hex.EncodeToString(k.ID), Type: k.Type, Usage: pkcs15.Usage(k.Usage).String(),
		KCV: k.KCV, Exported: len(k.Blob) > 0, Reason: k.Reason,
	}
	if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil {
		out.PublicKey, out.SSH = string(public.PEM()), public.SSH(k.Label)
	}
	return out
}

func (a *app) show(names []string, o showOptions) error {
	cat, err := a.needCatalog()
	if err != nil {
		return err
	}
	defer closeCatalog(cat)
	list, err := snapshots(cat, names)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return failf("no-such-snapshot", "`hsmbackup backup` takes one", "there is no snapshot in the catalog")
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	doc := struct {
		Snapshots []jsonShown `json:"snapshots"`
	}{[]jsonShown{}}
	for _, s := range list {
		shown := jsonShown{
			jsonSnapshot: snapshotDocument(s), Label: s.Token.Label, Firmware: s.Token.Firmware, Software: s.Token.Software, Options: s.Token.Options,
			Contents: []jsonShownKey{}, Files: []string{}, Missing: append([]store.Gap{}, s.Missing...),
			Attachments: attachmentDocuments(s.Attachments), attachments: s.Attachments,
		}
		origins := backup.Origins(state, s)
		for i, k := range s.Keys {
			key := shownKey(k)
			key.Origin, key.Notes = originDocument(origins[i]), backup.StoredNotes(s, &k)
			shown.Contents = append(shown.Contents, key)
		}
		for _, f := range s.Files {
			shown.Files = append(shown.Files, strings.ToUpper(f.FID))
		}
		doc.Snapshots = append(doc.Snapshots, shown)
	}
	switch {
	case a.flags.json:
		return a.document(doc)
	case o.ssh != sshNothing:
		return a.printSSH(o, doc.Snapshots)
	default:
		for _, s := range doc.Snapshots {
			a.printSnapshot(s)
		}
	}
	return nil
}

func (a *app) printSnapshot(s jsonShown) {
	software := ""
	if s.Software {
		software = ", software token"
	}
	a.printf("snapshot %s of %s, taken %s", s.ID, takenOf(s.Token), s.Taken)
	label := "no label"
	if s.Label != "" {
		label = "label " + quoted(s.Label)
	}
	if s.Firmware == "" { // adopted: nothing is known of the token
		a.printf("  %s", label)
	} else {
		a.printf("  %s, firmware %s%s, options %s", label, s.Firmware, software, s.Options)
	}
	a.printf("  hash %s", s.Hash)
	if r := s.Rekeyed; r != nil {
		a.printf("  re-keyed on %s from snapshot %s: recovery key %s in place of %s", r.Time.Format(time.DateOnly), r.From.String()[:12], r.KCV, r.OldKCV)
	}
	var rows [][]string
	for _, k := range s.Contents {
		exported := "under KCV " + k.KCV
		if !k.Exported {
			exported = "NOT EXPORTED: " + k.Reason
		}
		rows = append(rows, []string{"  key " + reference(k.Reference), k.Type, quoted(k.Label), "ID " + k.ID, k.Usage, exported})
	}
	a.table(rows)
	for _, k := range s.Contents {
		a.printf("  key %s: %s", reference(k.Reference), terminal.Printable(k.Origin.Text))
		a.printNotes(k.Reference, k.Notes)
	}
	if len(s.Files) > 0 {
		a.printf("  files %s", strings.Join(s.Files, " "))
	}
	a.printAttachments(s.attachments)
	for _, m := range s.Missing {
		a.printf("  NOT KEPT: %s: %s", m.What, m.Reason)
	}
}
