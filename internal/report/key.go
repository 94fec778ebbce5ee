package report

import (
	"encoding/hex"
	"time"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
)

// Key is the document of a key on a token.
type Key struct {
	Reference int    `json:"reference"`
	Label     string `json:"label"`
	ID        string `json:"id"`
	Type      string `json:"type"`
	SSH       string `json:"ssh"`
	Coverage  string `json:"coverage"`
	Reason    string `json:"reason"`
	// Asked is when an unasked key answered last, as RFC 3339.
	Asked string `json:"asked,omitempty"`
	// Notes are what must be known of the key besides.
	Notes []string `json:"notes,omitempty"`
	// AlsoOn are other tokens, attached or known, that hold the same key.
	AlsoOn []string `json:"also_on,omitempty"`
}

// NewKey makes its document.
func NewKey(k backup.KeyCoverage) Key {
	asked := ""
	if !k.Asked.IsZero() {
		asked = k.Asked.UTC().Format(time.RFC3339)
	}
	return Key{
		Asked: asked, Reference: int(k.Key.Reference), Label: k.Key.Label, ID: hex.EncodeToString(k.Key.ID), Type: k.Key.Type,
		SSH: k.Key.SSH(), Coverage: string(k.Coverage), Reason: k.Reason, Notes: k.Notes,
	}
}

// PrintNotes says what must be known of a key besides.
func PrintNotes(c *console.Console, number int, notes []string) {
	for _, n := range notes {
		c.Printf("  key %s: NOTE: %s", Reference(number), n)
	}
}
