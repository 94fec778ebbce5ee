package report

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/schsm"
)

// SeenToken is a token with what is known of it.
type SeenToken struct {
	Reader string
	// Argument is what --token takes to name it.
	Argument  string
	Inventory *backup.Inventory
	Coverage  []backup.KeyCoverage
	// Behind: the backup was re-keyed, and the token has the old recovery key.
	Behind *backup.Behind
	// Notes are those on its certificates.
	Notes []string
}

// Token is the document of a token.
type Token struct {
	Serial      string   `json:"serial"`
	Label       string   `json:"label"`
	Reader      string   `json:"reader"`
	Firmware    string   `json:"firmware"`
	Software    bool     `json:"software"`
	Initialised bool     `json:"initialised"`
	PINTries    int      `json:"pin_tries"`
	SOPINTries  int      `json:"so_pin_tries"`
	DKEK        []Domain `json:"dkek"`
	Keys        []Key    `json:"keys"`
	// Notes are what must be known of the token besides.
	Notes []string `json:"notes,omitempty"`
	// Rekeyed: the backup was re-keyed, and the token has the old recovery key.
	Rekeyed *Behind `json:"rekeyed,omitempty"`
}

// Behind says what a token's backup was re-keyed to. BackedUpSince: there is
// a newer snapshot, under the old recovery key.
type Behind struct {
	OldKCV        string `json:"old_kcv"`
	KCV           string `json:"kcv"`
	Time          string `json:"time"`
	Snapshot      string `json:"snapshot"`
	BackedUpSince bool   `json:"backed_up_since"`
}

// Domain is that of a key domain.
type Domain struct {
	Domain      int    `json:"domain"`
	Shares      int    `json:"shares"`
	Outstanding int    `json:"outstanding"`
	KCV         string `json:"kcv"`
}

// PrintHolders says which keys of the attached tokens are on others too.
func PrintHolders(c *console.Console, list []SeenToken, holders func(string, backup.Key) []string) {
	var rows [][]string
	for _, s := range list {
		for _, k := range s.Inventory.Keys {
			if on := holders(s.Inventory.Serial, k); len(on) > 0 {
				rows = append(rows, []string{fmt.Sprintf("  key %d of %s", k.Reference, s.Inventory.Serial), k.Type, console.Quoted(k.Label), "also on " + strings.Join(on, ", ")})
			}
		}
	}
	if len(rows) > 0 {
		c.Printf("keys that are on several tokens:")
		c.Table(rows)
		c.Printf("")
	}
}

// Document is that of status --json; holders names other tokens with a key.
func (s SeenToken) Document(holders func(string, backup.Key) []string) Token {
	t := Token{
		Serial: s.Inventory.Serial, Label: s.Inventory.Label, Reader: s.Reader, Firmware: s.Inventory.Firmware,
		Software: s.Inventory.Software, Initialised: s.Inventory.Initialised, PINTries: s.Inventory.PIN.Tries, SOPINTries: s.Inventory.SOPIN.Tries,
		DKEK: []Domain{}, Keys: []Key{}, Notes: s.Notes,
	}
	for _, d := range s.Inventory.Domains {
		if !d.Empty {
			t.DKEK = append(t.DKEK, Domain{d.Number, d.Shares, d.Outstanding, DomainKCV(d)})
		}
	}
	for _, k := range s.Coverage {
		key := NewKey(k)
		key.AlsoOn = holders(s.Inventory.Serial, k.Key)
		t.Keys = append(t.Keys, key)
	}
	if s.Behind != nil {
		t.Rekeyed = &Behind{s.Behind.OldKCV, s.Behind.KCV, s.Behind.Time.UTC().Format(time.RFC3339), s.Behind.Snapshot.ID, !s.Behind.Newest}
	}
	return t
}

// DomainKCV is empty while it means nothing.
func DomainKCV(d schsm.Domain) string {
	if kcv := dkek.KCV(d.KCV); d.Ready() && !kcv.IsZero() {
		return kcv.String()
	}
	return ""
}

// Print writes it for people.
func (s SeenToken) Print(c *console.Console) {
	name := s.Inventory.Serial
	if name == "" {
		name = "token without serial"
	}
	if s.Inventory.Label != "" {
		name += "  " + console.Quoted(s.Inventory.Label)
	}
	kind := ""
	if s.Inventory.Software {
		kind = "  software token"
	}
	c.Printf("%s  firmware %s%s  in %s", name, s.Inventory.Firmware, kind, harmless.Text(s.Reader))
	for _, n := range s.Notes {
		c.Printf("  NOTE: %s", harmless.Text(n))
	}
	if !s.Inventory.Initialised {
		c.Printf("  not initialised")
		c.Printf("")
		return
	}
	rows := [][]string{
		{"  PIN", Tries(s.Inventory.PIN)},
		{"  SO-PIN", Tries(s.Inventory.SOPIN)},
		{"  options", Options(s.Inventory.Options)},
	}
	for _, d := range s.Inventory.Domains {
		title := "  recovery key"
		if len(s.Inventory.Domains) > 1 {
			title = fmt.Sprintf("  key domain %d", d.Number)
		}
		rows = append(rows, []string{title, domainText(d)})
	}
	if len(s.Inventory.Domains) == 0 {
		rows = append(rows, []string{"  recovery key", "none: keys of this token can never be exported"})
	}
	if p := s.Inventory.PKA; p != nil {
		rows = append(rows, []string{"  login by keys", fmt.Sprintf("%d of %d registered, %d must log in together: no backup brings them back", p.Total-p.Missing, p.Total, p.Required)})
	}
	if s.Inventory.FreeMemory >= 0 {
		rows = append(rows, []string{"  free memory", fmt.Sprintf("%d bytes", s.Inventory.FreeMemory)})
	}
	c.Table(rows)
	PrintKeys(c, s.Coverage)
	if s.Behind != nil {
		c.Printf("  NOTE: %s", s.Behind)
	}
	c.Printf("")
}

// PrintKeys writes keys with their coverage.
func PrintKeys(c *console.Console, keys []backup.KeyCoverage) {
	if len(keys) == 0 {
		c.Printf("  no keys")
	}
	var rows [][]string
	for _, k := range keys {
		verdict := string(k.Coverage)
		if k.Reason != "" {
			verdict += ": " + k.Reason
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", k.Key.Reference), k.Key.Type, console.Quoted(k.Key.Label), "ID " + hex.EncodeToString(k.Key.ID), verdict})
	}
	c.Table(rows)
	for _, k := range keys {
		PrintNotes(c, int(k.Key.Reference), k.Notes)
	}
}

// Tries says how it is with a PIN.
func Tries(s schsm.PINStatus) string {
	switch {
	case s.Missing:
		return "not set"
	case s.Blocked:
		return "BLOCKED"
	case s.Transport:
		return "transport PIN, to be changed before use"
	case s.Tries < 0:
		return "set"
	case s.Tries == 1:
		return "1 TRY LEFT"
	}
	return fmt.Sprintf("%d tries left", s.Tries)
}

// Options says what a token was set up to allow.
func Options(o schsm.Options) string {
	text := fmt.Sprintf("%04x", uint16(o))
	switch {
	case o&schsm.OptionUnblock == 0:
		text += ", a blocked PIN can not be unblocked"
	case o&schsm.OptionUnblockOnly != 0:
		text += ", the SO-PIN unblocks the PIN but sets no new one"
	default:
		text += ", the SO-PIN unblocks the PIN"
	}
	return text
}

func domainText(d schsm.Domain) string {
	switch {
	case d.Empty:
		return "empty"
	case len(d.UID) > 0:
		return "agreed between tokens (XKEK): it has no shares"
	case d.Outstanding > 0:
		return fmt.Sprintf("incomplete, %d of %s missing", d.Outstanding, console.Count(d.Shares, "share"))
	case d.Shares == 0:
		return fmt.Sprintf("KCV %s, made up by the token: nobody has shares", dkek.KCV(d.KCV))
	}
	return fmt.Sprintf("KCV %s, %s", dkek.KCV(d.KCV), console.Count(d.Shares, "share"))
}
