package report

import (
	"encoding/hex"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// ShownKey is a key in the document of show.
type ShownKey struct {
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

	Origin Origin   `json:"origin"`
	Notes  []string `json:"notes,omitempty"`
}

// Origin is where a key comes from. Kind is generated, imported or unknown;
// token, verified (by its device certificate) and root are of a generated one;
// opened is when a computer last had it open, empty if never, or "unknown".
type Origin struct {
	Kind     string `json:"kind"`
	Token    string `json:"token"`
	Verified bool   `json:"verified"`
	Root     string `json:"root"`
	KCV      string `json:"kcv"`
	Opened   string `json:"opened"`
	Text     string `json:"text"`
}

func newOrigin(o backup.Origin) Origin {
	out := Origin{Kind: o.Kind, Token: o.Token, Verified: o.Verified, Root: o.Root, KCV: o.KCV, Text: o.String()}
	if o.Opened.Equal(store.UnknownTime) {
		out.Opened = "unknown"
	} else if !o.Opened.IsZero() {
		out.Opened = o.Opened.UTC().Format(time.RFC3339)
	}
	return out
}

// Shown is the document of a snapshot with what is in it.
type Shown struct {
	Snapshot
	Label    string      `json:"label"`
	Firmware string      `json:"firmware"`
	Software bool        `json:"software"`
	Options  string      `json:"options"`
	Contents []ShownKey  `json:"contents"`
	Files    []string    `json:"files"`
	Missing  []store.Gap `json:"missing"`

	Attachments []Attachment `json:"attachments,omitempty"`
	attachments []store.Attachment
}

func newShownKey(k store.Key) ShownKey {
	out := ShownKey{
		Reference: k.Reference, Label: k.Label, ID: hex.EncodeToString(k.ID), Type: k.Type, Usage: pkcs15.Usage(k.Usage).String(),
		KCV: k.KCV, Exported: len(k.Blob) > 0, Reason: k.Reason,
	}
	if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil {
		out.PublicKey, out.SSH = string(public.PEM()), public.SSH(k.Label)
	}
	return out
}

// NewShown makes the document of a snapshot; origins are those of its keys.
func NewShown(s *store.Snapshot, origins []backup.Origin) Shown {
	out := Shown{
		Snapshot: NewSnapshot(s), Label: s.Token.Label, Firmware: s.Token.Firmware, Software: s.Token.Software, Options: s.Token.Options,
		Contents: []ShownKey{}, Files: []string{}, Missing: append([]store.Gap{}, s.Missing...),
		Attachments: Attachments(s.Attachments), attachments: s.Attachments,
	}
	for i, k := range s.Keys {
		key := newShownKey(k)
		key.Origin, key.Notes = newOrigin(origins[i]), backup.StoredNotes(s, &k)
		out.Contents = append(out.Contents, key)
	}
	for _, f := range s.Files {
		out.Files = append(out.Files, strings.ToUpper(f.FID))
	}
	return out
}

// Print writes it for people.
func (s Shown) Print(c *console.Console) {
	software := ""
	if s.Software {
		software = ", software token"
	}
	c.Printf("snapshot %s of %s, taken %s", s.ID, TakenOf(s.Token), s.Taken)
	label := "no label"
	if s.Label != "" {
		label = "label " + console.Quoted(s.Label)
	}
	if s.Firmware == "" { // adopted: nothing is known of the token
		c.Printf("  %s", label)
	} else {
		c.Printf("  %s, firmware %s%s, options %s", label, s.Firmware, software, s.Options)
	}
	c.Printf("  hash %s", s.Hash)
	if r := s.Rekeyed; r != nil {
		c.Printf("  re-keyed on %s from snapshot %s: recovery key %s in place of %s", r.Time.Format(time.DateOnly), r.From.String()[:12], r.KCV, r.OldKCV)
	}
	var rows [][]string
	for _, k := range s.Contents {
		exported := "under KCV " + k.KCV
		if !k.Exported {
			exported = "NOT EXPORTED: " + k.Reason
		}
		rows = append(rows, []string{"  key " + Reference(k.Reference), k.Type, console.Quoted(k.Label), "ID " + k.ID, k.Usage, exported})
	}
	c.Table(rows)
	for _, k := range s.Contents {
		c.Printf("  key %s: %s", Reference(k.Reference), harmless.Text(k.Origin.Text))
		PrintNotes(c, k.Reference, k.Notes)
	}
	if len(s.Files) > 0 {
		c.Printf("  files %s", strings.Join(s.Files, " "))
	}
	PrintAttachments(c, s.attachments)
	for _, m := range s.Missing {
		c.Printf("  NOT KEPT: %s: %s", m.What, m.Reason)
	}
}
