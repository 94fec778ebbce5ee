package report

import (
	"fmt"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/pkcs15"
)

// Rotation is the document of rotate.
type Rotation struct {
	From     string       `json:"from"`
	To       string       `json:"to"`
	Keys     []Succession `json:"keys"`
	Snapshot string       `json:"snapshot"`

	head    string
	old     []backup.Key
	outcome error
}

// Succession is that of a key and its successor.
type Succession struct {
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

// PrintRotation writes what a rotation is about to do.
func PrintRotation(c *console.Console, r *backup.Rotation) {
	c.Printf("from %s to %s, under the recovery key %s", r.From, r.To, r.KCV)
	var rows [][]string
	for _, i := range r.Items {
		action := string(i.Action)
		if i.Action.Done() {
			action += fmt.Sprintf(", as key %d", i.At)
		}
		if i.Reason != "" {
			action += ": " + i.Reason
		}
		rows = append(rows, []string{fmt.Sprintf("  key %d", i.Old.Reference), i.Old.Type, console.Quoted(i.Old.Label), i.Why, action})
	}
	c.Table(rows)
}

// NewRotation makes the document of what came of each key; report is the backup that
// followed.
func NewRotation(r *backup.Rotation, results []backup.RotationResult, report *backup.Report) *Rotation {
	exits := console.Exits{}
	var bad []string
	doc := &Rotation{From: r.From, To: r.To, Keys: []Succession{}, Snapshot: report.Snapshot.ID, head: Head(report.Head)}
	for _, x := range results {
		s := Succession{Reference: int(x.Old.Reference), At: int(x.At), Label: x.Old.Label, Type: x.Old.Type, Why: x.Why, OK: x.OK, Reason: x.Reason, OldSSH: x.Old.SSH()}
		if x.New != nil {
			s.NewSSH = x.New.SSH(x.Old.Label)
		}
		for _, k := range report.Keys {
			if x.OK && k.Key.Reference == x.At {
				s.Coverage = string(k.Coverage)
				if !k.Coverage.Done() {
					exits.Add(console.ExitIncomplete)
					bad = append(bad, fmt.Sprintf("the successor of %s is %s: %s", x.Old.Name(), k.Coverage, k.Reason))
				}
			}
		}
		if !x.OK {
			exits.Add(console.ExitIncomplete)
			bad = append(bad, fmt.Sprintf("%s has no successor: %s", x.Old.Name(), x.Reason))
		}
		doc.Keys, doc.old = append(doc.Keys, s), append(doc.old, x.Old)
	}
	doc.outcome = exits.Outcome(strings.Join(bad, "; "), Remedies(report.Keys)...)
	return doc
}

// Outcome carries the exit code.
func (r *Rotation) Outcome() error { return r.outcome }

// Print writes it for people, with what they have to do now.
func (r *Rotation) Print(c *console.Console) {
	for i, s := range r.Keys {
		c.Printf("")
		if !s.OK {
			c.Printf("key %d %s: NO SUCCESSOR: %s", s.Reference, console.Quoted(s.Label), s.Reason)
			continue
		}
		c.Printf("key %d %s of %s: its successor is key %d of %s, %s", s.Reference, console.Quoted(s.Label), r.From, s.At, r.To, s.Coverage)
		s.printFollowUp(c, r.old[i], r.From)
	}
	c.Printf("")
	c.Printf("snapshot %s of %s; head: %s", r.Snapshot, r.To, r.head)
}

// printFollowUp says what has to be done before an old key may go.
func (s Succession) printFollowUp(c *console.Console, old backup.Key, from string) {
	line := func(format string, args ...any) {
		c.Printf("  "+format, args...)
	}
	switch {
	case s.OldSSH != "" && s.NewSSH != "":
		line("If it signs certificates (an SSH CA): trust both for now. In TrustedUserCAKeys on hosts:")
		line("  %s", harmless.Text(s.OldSSH))
		line("  %s", harmless.Text(s.NewSSH))
		line("and for host certificates in known_hosts of clients:")
		line("  @cert-authority * %s", harmless.Text(s.OldSSH))
		line("  @cert-authority * %s", harmless.Text(s.NewSSH))
		line("Then issue every certificate again with the new key: ssh-keygen -s.")
		line("If people log in with it: add to authorized_keys, beside the old line:")
		line("  %s", harmless.Text(s.NewSSH))
		line("The old key may go when no valid certificate is signed by it, no host knows only its line, and")
		line("this backup has been checked: then take its lines away and delete it on %s.", from)
	case old.Kind == pkcs15.AES:
		line("What is encrypted with the old key must be decrypted with it and encrypted anew before it may go.")
	default:
		line("SSH does not know this type. The old key may go when nothing that trusts it, or was encrypted")
		line("for it, is left.")
	}
	if old.PublicFrom == "certificate" {
		line("The certificate that %s holds for the old key must be issued again for the new one.", from)
	}
}
