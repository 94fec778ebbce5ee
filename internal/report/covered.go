package report

import (
	"fmt"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
	"hsmbackup/store"
)

// Restorable says how many of a token's keys would come back. One that was
// accepted never does.
func Restorable(keys []backup.KeyCoverage) string {
	n := map[backup.Coverage]int{}
	for _, k := range keys {
		n[k.Coverage]++
	}
	text := fmt.Sprintf("%d of %s restorable", n[backup.Covered], console.Count(len(keys), "key"))
	if a := n[backup.Accepted]; a > 0 {
		text += fmt.Sprintf(", %d accepted as not exportable", a)
	}
	return text
}

// StoredKeys says how many keys a snapshot holds, and how many it only names.
func StoredKeys(s *store.Snapshot) string {
	text, without := console.Count(len(s.Keys), "key"), 0
	for _, k := range s.Keys {
		if k.Reason != "" {
			without++
		}
	}
	if without > 0 {
		text += fmt.Sprintf(", %d not exported", without)
	}
	return text
}

// Incomplete names all that is not restorable, for the line on stderr.
func Incomplete(keys []backup.KeyCoverage, missing []store.Gap) string {
	var list []string
	for _, k := range keys {
		if !k.Coverage.Done() {
			list = append(list, fmt.Sprintf("%s is %s", k.Key.Name(), k.Coverage))
		}
	}
	for _, m := range missing {
		list = append(list, m.What+" was not kept")
	}
	return console.Brief(list)
}

// Remedies says what to do about keys that are not covered.
func Remedies(keys []backup.KeyCoverage) []string {
	todo := map[backup.Coverage]string{
		backup.NoShare:       "`hsmbackup verify --offline --share FILE` shows that the shares exist",
		backup.Unproven:      "`hsmbackup verify --offline --share FILE` proves without the token",
		backup.Unasked:       "--spend KEY lets a proof spend one of its uses; `hsmbackup accept KEY --reason TEXT` takes note that nobody may use it",
		backup.NotExportable: "`hsmbackup accept KEY --reason TEXT`, if it is meant to stay on this token alone",
	}
	var hints []string
	random := false
	for _, k := range keys {
		if MadeUp(k) {
			if !random {
				hints = append(hints, MadeUpRemedy)
			}
			random = true
			continue
		}
		if h := todo[k.Coverage]; h != "" {
			hints = append(hints, h)
			delete(todo, k.Coverage)
		}
	}
	return hints
}

// MadeUp tells whether a key is under a recovery key that its token made up, so
// that there are no shares to show.
func MadeUp(k backup.KeyCoverage) bool {
	return k.Coverage == backup.NoShare && strings.Contains(k.Reason, " is random")
}

// MadeUpRemedy is what to do then.
const MadeUpRemedy = "its token made this recovery key up and nobody has shares: keys move to another token only as new ones, made on a token with a recovery key of yours (`hsmbackup init --share FILE`)"

// Backup is the document of a backup.
type Backup struct {
	Snapshot Snapshot    `json:"snapshot"`
	Keys     []Key       `json:"keys"`
	Missing  []store.Gap `json:"missing"`
	Head     string      `json:"head"`

	Attachments []Attachment `json:"attachments,omitempty"`
}

// NewBackup makes its document.
func NewBackup(r *backup.Report) Backup {
	doc := Backup{Snapshot: NewSnapshot(r.Snapshot), Keys: []Key{}, Missing: append([]store.Gap{}, r.Snapshot.Missing...), Head: Head(r.Head), Attachments: Attachments(r.Snapshot.Attachments)}
	for _, k := range r.Keys {
		doc.Keys = append(doc.Keys, NewKey(k))
	}
	return doc
}
