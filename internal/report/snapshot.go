package report

import (
	"slices"
	"strings"
	"time"

	"hsmbackup/internal/console"
	"hsmbackup/store"
)

// Snapshot is the document of a snapshot.
type Snapshot struct {
	ID    string `json:"id"`
	Token string `json:"token"`
	Taken string `json:"taken"`
	Keys  int    `json:"keys"`
	KCV   string `json:"kcv"`
	Hash  string `json:"hash"`

	Rekeyed *store.Rekeyed `json:"rekeyed,omitempty"`
}

// NewSnapshot makes its document.
func NewSnapshot(s *store.Snapshot) Snapshot {
	return Snapshot{s.ID, s.Token.Serial, s.Taken.UTC().Format(time.RFC3339), len(s.Keys), SnapshotKCV(s), s.Hash.String(), s.Rekeyed}
}

// RekeyedFrom names the snapshot that a re-keyed one was made from.
func RekeyedFrom(s *store.Snapshot) string {
	if s.Rekeyed == nil {
		return ""
	}
	return "re-keyed from " + s.Rekeyed.From.String()[:12]
}

// SnapshotKCV gives the KCVs that the keys of a snapshot are under, most often
// one.
func SnapshotKCV(s *store.Snapshot) string {
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

// Attachment is a file that was kept with a snapshot; damage, if any, says
// why it cannot be had any more.
type Attachment struct {
	Name   string `json:"name"`
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
	Added  string `json:"added"`
	Damage string `json:"damage,omitempty"`
}

// Attachments makes their documents.
func Attachments(list []store.Attachment) []Attachment {
	var out []Attachment
	for _, at := range list {
		out = append(out, Attachment{at.Name, len(at.Content), store.HashOf(at.Content).String(), at.Added.UTC().Format(time.RFC3339), at.Damage})
	}
	return out
}

// PrintAttachments lists them.
func PrintAttachments(c *console.Console, list []store.Attachment) {
	for _, at := range list {
		if at.Damage != "" {
			c.Printf("  attached %s: DAMAGED: %s", at.Name, at.Damage)
			continue
		}
		c.Printf("  attached %s, %s, since %s", at.Name, console.Count(len(at.Content), "byte"), at.Added.UTC().Format(time.DateOnly))
	}
}
