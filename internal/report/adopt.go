package report

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
)

// The document of adopt --json. proof and matched are as in dkek check; ok
// tells that the key is in the snapshot and proven.
//
//	{"snapshot":{…}|null,"existing":false,"files":[{"file":"…","kept":true,
//	 "same_as":"","reference":0,"label":"…","id":"20","type":"P-256","kcv":"HEX",
//	 "share_seen":true,"public_key":"PEM","made_on":"SERIAL","vouched":true,
//	 "in_snapshots_of":["SERIAL"],"tokens":["SERIAL"],"on_token":0,
//	 "proof":"opened","matched":"request","ok":true,"reason":"","notes":[]}],
//	 "passed_over":0,"token":{"serial":"…","keys":[{…key of status…,"file":"…"}]}|null,
//	 "backup":{…}|null,"head":"WORDS"}
type adoptDocument struct {
	Snapshot   *Snapshot     `json:"snapshot"`
	Existing   bool          `json:"existing"`
	Files      []adoptedFile `json:"files"`
	PassedOver int           `json:"passed_over"`
	Token      *adoptToken   `json:"token"`
	Backup     *Backup       `json:"backup"`
	Head       string        `json:"head"`
}

type adoptedFile struct {
	File      string   `json:"file"`
	Kept      bool     `json:"kept"`
	SameAs    string   `json:"same_as"`
	Reference int      `json:"reference"`
	Label     string   `json:"label"`
	ID        string   `json:"id"`
	Type      string   `json:"type"`
	KCV       string   `json:"kcv"`
	ShareSeen bool     `json:"share_seen"`
	PublicKey string   `json:"public_key"`
	MadeOn    string   `json:"made_on"`
	Vouched   bool     `json:"vouched"`
	Known     []string `json:"in_snapshots_of"`
	Tokens    []string `json:"tokens"`
	OnToken   int      `json:"on_token"` // reference, 0 if it is not there
	Proof     string   `json:"proof"`
	Matched   string   `json:"matched"`
	OK        bool     `json:"ok"`
	Reason    string   `json:"reason"`
	Notes     []string `json:"notes"`
}

type adoptToken struct {
	Serial string          `json:"serial"`
	Keys   []adoptTokenKey `json:"keys"`
}

type adoptTokenKey struct {
	Key
	File string `json:"file"` // empty: none holds it
}

// Adopted is all that is said of an adoption.
type Adopted struct {
	*backup.AdoptReport
	PassedOver int
	// Serial and Keys are those of the attached token, if there is one; Taken
	// is the first snapshot of it.
	Serial string
	Keys   []backup.KeyCoverage
	Taken  *backup.Report
	Head   string
}

// fileOf is the file that holds a key of the token.
func (r Adopted) fileOf(k backup.KeyCoverage) string {
	for _, f := range r.Files {
		if f.Kept && f.On != nil && f.On.Reference == k.Key.Reference {
			return f.Name
		}
	}
	return ""
}

// safe tells whether a key of the token is covered, so that it does not matter
// that its file is not proven.
func (r Adopted) safe(f backup.AdoptedFile) bool {
	return f.On != nil && slices.ContainsFunc(r.Keys, func(k backup.KeyCoverage) bool {
		return k.Key.Reference == f.On.Reference && done(k)
	})
}

// Outcome gives the error that carries the exit code.
func (r Adopted) Outcome() error {
	exits := console.Exits{}
	var bad, hints []string
	unproven := false
	for _, f := range r.Files {
		switch {
		case f.OK || !f.Damage && r.safe(f):
			continue
		case f.Damage:
			exits.Add(console.ExitDamaged)
		default:
			exits.Add(console.ExitIncomplete)
			unproven = unproven || f.Kept
		}
		bad = append(bad, fmt.Sprintf("%s: %s", f.Name, f.Reason))
	}
	if unproven {
		hints = append(hints, "`hsmbackup verify --offline --share FILE` proves them with the shares")
	}
	var open []backup.KeyCoverage
	for _, k := range r.Keys {
		if !done(k) && r.fileOf(k) == "" {
			open = append(open, k)
			exits.Add(console.ExitIncomplete)
		}
	}
	if len(open) > 0 {
		bad = append(bad, Incomplete(open, nil))
		if r.Taken == nil {
			hints = append(hints, "`hsmbackup backup` takes a snapshot of the token")
		} else {
			hints = append(hints, Remedies(open)...)
		}
	}
	if r.Taken != nil && len(r.Taken.Snapshot.Missing) > 0 {
		exits.Add(console.ExitIncomplete)
		bad = append(bad, Incomplete(nil, r.Taken.Snapshot.Missing))
	}
	return exits.Outcome(strings.Join(bad, "; "), hints...)
}

// Print writes it for people.
func (r Adopted) Print(c *console.Console) {
	for _, f := range r.Files {
		what := []string{f.Name}
		for _, s := range []string{f.Type, console.Quoted(f.Label)} {
			if s != "" {
				what = append(what, s)
			}
		}
		if f.KCV != "" {
			what = append(what, "KCV "+f.KCV)
		}
		c.Printf("%s: %s", harmless.Text(strings.Join(what, "  ")), harmless.Text(adoptVerdict(f)))
		for _, line := range adoptedLines(f, r.Serial) {
			c.Printf("    %s", harmless.Text(line))
		}
	}
	if r.PassedOver > 0 {
		c.Printf("%s passed over: no wrapped keys", console.Count(r.PassedOver, "other file"))
	}
	if r.Serial != "" || len(r.Keys) > 0 {
		c.Printf("the attached token, %s:", orUnknown(r.Serial))
		var rows [][]string
		for _, k := range r.Keys {
			file := "NO FILE"
			if name := r.fileOf(k); name != "" {
				file = "in " + name
			}
			rows = append(rows, []string{fmt.Sprintf("  key %d", k.Key.Reference), k.Key.Type, console.Quoted(k.Key.Label), file, string(k.Coverage)})
		}
		c.Table(rows)
	}
	if s := r.Snapshot; s != nil {
		proven := 0
		for _, f := range r.Files {
			if f.Kept && f.Proof != "" {
				proven++
			}
		}
		was := ""
		if r.Existing {
			was = ", which was there already"
		}
		c.Printf("adopted snapshot %s%s: %s, %d proven", s.ID, was, StoredKeys(s), proven)
	} else {
		c.Printf("nothing was adopted")
	}
	if r.Taken != nil {
		c.Printf("first snapshot of %s, %s: %s", r.Serial, r.Taken.Snapshot.ID, Restorable(r.Taken.Keys))
	}
	if r.Head != "" {
		c.Printf("head: %s", r.Head)
	}
}

func orUnknown(serial string) string {
	if serial == "" {
		return "serial not known"
	}
	return serial
}

// adoptVerdict says in a line what became of a file.
func adoptVerdict(f backup.AdoptedFile) string {
	switch {
	case f.Damage && f.Kept:
		return "DAMAGED, kept in part: " + f.Reason
	case f.Damage:
		return "DAMAGED: " + f.Reason
	case f.OK && f.SameAs != "":
		return "good, the same key as " + f.SameAs
	case f.OK && f.Matched == string(dkek.MatchSelf):
		return f.Proof + ", agrees with itself"
	case f.OK && f.Matched != "":
		return f.Proof + ", matches its " + f.Matched
	case f.OK:
		return f.Proof
	case f.Kept:
		return "kept, " + f.Reason
	case f.SameAs != "":
		return f.Reason
	}
	return "NOT KEPT: " + f.Reason
}

// adoptedLines says where a key comes from and where it can go.
func adoptedLines(f backup.AdoptedFile, serial string) []string {
	if f.KCV == "" {
		return nil
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case f.Vouched:
		add("made on %s, whose signature on the request verifies", f.MadeOn)
	case f.MadeOn != "":
		add("made on %s, says the request", f.MadeOn)
	}
	if f.On != nil {
		add("it is key %d of the attached token", f.On.Reference)
	}
	if len(f.InSnapshots) > 0 {
		add("in snapshots of %s", strings.Join(f.InSnapshots, ", "))
	}
	switch {
	case len(f.Tokens) > 0:
		add("its recovery key is on %s", strings.Join(f.Tokens, ", "))
	case serial != "":
		add("its recovery key is on no token that is known, the attached one included")
	}
	if !f.ShareSeen {
		add("nobody has shown shares that give its recovery key")
	}
	if f.Kept && f.Reference == 0 {
		add("its key reference is not known: a restore takes a free one")
	}
	return append(lines, f.Notes...)
}

// Document is that of adopt --json.
func (r Adopted) Document() adoptDocument {
	doc := adoptDocument{Existing: r.Existing, Files: []adoptedFile{}, PassedOver: r.PassedOver, Head: r.Head}
	if r.Snapshot != nil {
		s := NewSnapshot(r.Snapshot)
		doc.Snapshot = &s
	}
	for _, f := range r.Files {
		out := adoptedFile{
			File: f.Name, Kept: f.Kept, SameAs: f.SameAs, Reference: f.Reference, Label: f.Label, ID: hex.EncodeToString(f.ID), Type: f.Type,
			KCV: f.KCV, ShareSeen: f.ShareSeen, MadeOn: f.MadeOn, Vouched: f.Vouched, Known: append([]string{}, f.InSnapshots...), Tokens: append([]string{}, f.Tokens...),
			Proof: f.Proof, Matched: f.Matched, OK: f.OK, Reason: f.Reason, Notes: append([]string{}, f.Notes...),
		}
		if f.Public != nil {
			out.PublicKey = string(f.Public.PEM())
		}
		if f.On != nil {
			out.OnToken = int(f.On.Reference)
		}
		doc.Files = append(doc.Files, out)
	}
	if r.Serial != "" || len(r.Keys) > 0 {
		doc.Token = &adoptToken{Serial: r.Serial, Keys: []adoptTokenKey{}}
		for _, k := range r.Keys {
			doc.Token.Keys = append(doc.Token.Keys, adoptTokenKey{NewKey(k), r.fileOf(k)})
		}
	}
	if r.Taken != nil {
		b := NewBackup(r.Taken)
		doc.Backup = &b
	}
	return doc
}

// done tells whether nothing is left to do for a key that nobody was logged in to
// ask: it answered once as what is in the catalog.
func done(k backup.KeyCoverage) bool {
	return k.Coverage.Done() || k.Coverage == backup.Unasked && !k.Asked.IsZero()
}
