package sheet

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Part is the sheet of a custodian.
type Part struct {
	// Custodian is the name that the catalog has; empty: to be filled in by hand.
	Custodian string
	// Set is the name of the set, Index the part's number in it. Any Needed of
	// Total bring the share together, which is number Share of Shares.
	Set                                 string
	Index, Needed, Total, Share, Shares int
	// KCV of the recovery key; empty: not known.
	KCV string
	// Tokens are the serials of those whose backups the recovery key opens; none:
	// to be filled in by hand.
	Tokens []string
	// SetWords vouch for the commitments that the catalog has of the set; none: to be
	// copied by hand from what was handed out.
	SetWords []string
	// Recipient that data is sealed to under the recovery key, and Head of the
	// catalog, as words; none: not known.
	Recipient, Head []string
	// Date of the sheet.
	Date time.Time
	// Text is the part in lines of groups, each with its check; Code the part in
	// one piece, letters and digits, as a QR code holds it.
	Text, Code []byte
	// Steps say what the part is used for, with the commands.
	Steps []Step
}

// Admin is the sheet of someone who keeps a token, its recovery key and its
// backup alone. What is empty is left to be filled in by hand.
type Admin struct {
	Serial, Label string
	// KCV of the recovery key.
	KCV string
	// Shares, Catalog and Copies say where these lie.
	Shares  []string
	Catalog string
	Copies  []string
	// Password of the shares, and SOPIN. Both are printed if they are given, and
	// should not be.
	Password, SOPIN []byte
	// Recipient that data is sealed to under the recovery key, and Head of the
	// catalog, as words.
	Recipient, Head []string
	// Date of the sheet.
	Date time.Time
	// Steps of a restore, with their commands.
	Steps []Step
}

// Step is something to do, and the command line for it, if there is one.
type Step struct{ What, Command string }

// page is what a sheet says, before it is laid out.
type page struct {
	title    string
	date     time.Time
	comments bool // as text, all but the part begins with #
	sections []section
}

type section struct {
	heading string
	fields  []field
	text    []byte // the part, and what its QR code holds
	code    []byte
	items   []string
	steps   []Step
}

// field is a name and what goes with it: a value, a secret, or lines to write
// on.
type field struct {
	name, value string
	secret      []byte
	blanks      int
}

const dateLayout = "2006-01-02"

func (p *Part) page() (*page, error) {
	if len(p.Text) == 0 || len(p.Code) == 0 {
		return nil, errors.New("sheet: there is no part to put on it")
	}
	if err := checkDate(p.Date); err != nil {
		return nil, err
	}
	about := []field{
		written("Custodian", p.Custodian),
		{name: "Part", value: fmt.Sprintf("%d of %d, set %s", p.Index, p.Total, p.Set)},
		{name: "Needed", value: fmt.Sprintf("any %d of the %d parts; order does not matter", p.Needed, p.Total)},
	}
	if p.Shares > 1 {
		about = append(about, field{name: "Gives", value: fmt.Sprintf("share %d of %d; all %d make the recovery key", p.Share, p.Shares, p.Shares)})
	}
	kcv := p.KCV
	if kcv == "" {
		kcv = "not known when this was printed"
	}
	about = append(about,
		field{name: "KCV", value: kcv + " (of the recovery key)"},
		written("Words of the set", strings.Join(p.SetWords, " ")),
		written("For tokens", strings.Join(p.Tokens, ", ")))
	if len(p.Recipient) > 0 {
		about = append(about, field{name: "Recipient", value: strings.Join(p.Recipient, " ")})
	}
	if len(p.Head) > 0 {
		about = append(about, field{name: "Catalog head", value: strings.Join(p.Head, " ")})
	}
	about = append(about, field{name: "Date", value: p.Date.UTC().Format(dateLayout)})
	return &page{
		title: fmt.Sprintf("Part %d of %d of a recovery key", p.Index, p.Total), date: p.Date, comments: true,
		sections: []section{
			{fields: about},
			{text: p.Text, code: p.Code},
			{heading: "What this is", items: []string{
				fmt.Sprintf("A part of the key that opens the backup of a hardware token (SmartCard-HSM). With %d of the %d parts of this set the keys on the token can be restored. Fewer open nothing, so yours may be the one that is missing.", p.Needed, p.Total),
				"Upper and lower case are the same, and blanks do not count. The two characters behind = check their line.",
			}},
			{heading: "What to do with it", items: []string{
				"Lock it away, dry and flat, away from all other parts, the token and its backup.",
				"Answer when the admins call the roll, once a year. If you move, leave or can no longer get at it, say so at once: it can be replaced while there are enough others.",
				"If it is lost, or someone else may have seen it, say so at once.",
			}, steps: p.Steps},
			{heading: "What never to do", items: []string{
				"Never give it to anyone who asks because it is urgent: call back, at a number that you know. Bring it yourself, and type it or scan it yourself.",
				"Never photograph it, copy it, mail it, read it out on the telephone or type it anywhere but into hsmbackup. A telephone that scans the code keeps it.",
				"Never throw it away, even when it was replaced: it stays valid. When the set is retired, burn it or shred it.",
			}},
			{heading: "To fill in by hand (nobody else has this)", fields: []field{
				{name: "Where it lies", blanks: 1},
				{name: "How to reach me", blanks: 1},
				{name: "If I cannot", blanks: 1},
				{name: "Received, signed", blanks: 1},
			}},
		},
	}, nil
}

func (s *Admin) page() (*page, error) {
	if err := checkDate(s.Date); err != nil {
		return nil, err
	}
	for _, secret := range [][]byte{s.Password, s.SOPIN} {
		if err := checkSecret(secret); err != nil {
			return nil, err
		}
	}
	about := []field{
		written("Serial", s.Serial),
		written("Label", s.Label),
		written("KCV", s.KCV),
	}
	if len(s.Recipient) > 0 {
		about = append(about, field{name: "Recipient", value: strings.Join(s.Recipient, " ")})
	}
	if len(s.Head) > 0 {
		about = append(about, field{name: "Catalog head", value: strings.Join(s.Head, " ")})
	}
	about = append(about, field{name: "Date", value: s.Date.UTC().Format(dateLayout)})
	lies := listed("Share file", s.Shares)
	lies = append(lies, written("Catalog", s.Catalog))
	lies = append(lies, listed("Copies of it", s.Copies)...)
	lies = append(lies, field{name: "Spare token", blanks: 1})
	knows := []field{
		known("Password", s.Password),
		known("SO-PIN", s.SOPIN),
		known("PIN", nil),
		{name: "Other sheets lie", blanks: 1},
	}
	never := []string{
		"Never keep the share file and its password in one place, nor either together with the only copy of the catalog.",
		"Never initialise or update the token before `hsmbackup backup` has said that all its keys are restorable.",
		"Never try an SO-PIN by guessing: after 15 wrong ones the token is dead.",
	}
	if len(s.Password)+len(s.SOPIN) > 0 {
		never = append(never, "This sheet has secrets on it: lock it away, away from the token and the share file, and never photograph, copy or mail it.")
	}
	sections := []section{
		{fields: about},
		{heading: "Where things lie", fields: lies},
		{heading: "Who knows what", fields: knows},
		{heading: "What this is", items: []string{
			"All keys of the token lie in the catalog, wrapped under its recovery key. The recovery key is in the share file, under a password. Catalog, share file and password together restore the keys onto another token; each alone is worth nothing, and if one is lost, all is lost with the token.",
		}},
	}
	if n := len(s.Steps); n > 0 {
		sections = append(sections, section{heading: "Restore in " + steps(n), steps: s.Steps})
	}
	sections = append(sections, section{heading: "What never to do", items: never})
	return &page{title: "Recovery sheet of a hardware token", date: s.Date, sections: sections}, nil
}

// checkSecret refuses what would not be read from paper as it is.
func checkSecret(secret []byte) error {
	if !utf8.Valid(secret) {
		return errUnreadable
	}
	before := ' '
	for _, r := range string(secret) {
		if r == ' ' && before == ' ' || !unicode.IsPrint(r) || !hasGlyph(r) {
			return errUnreadable
		}
		before = r
	}
	if len(secret) > 0 && before == ' ' {
		return errUnreadable
	}
	return nil
}

var errUnreadable = errors.New("sheet: the password or SO-PIN has characters or blanks that cannot be told on paper: write it down by hand")

func checkDate(date time.Time) error {
	if date.IsZero() {
		return errors.New("sheet: it has no date")
	}
	return nil
}

// written is a field with a line to write on in place of what is empty.
func written(name, value string) field {
	if value == "" {
		return field{name: name, blanks: 1}
	}
	return field{name: name, value: value}
}

// listed is a field for each value, the name in front of the first.
func listed(name string, values []string) []field {
	if len(values) == 0 {
		return []field{{name: name, blanks: 1}}
	}
	var list []field
	for _, v := range values {
		list = append(list, field{name: name, value: v})
		name = ""
	}
	return list
}

// known is a secret, or a line for who knows it.
func known(name string, secret []byte) field {
	if len(secret) == 0 {
		return field{name: name + " known to", blanks: 1}
	}
	return field{name: name, secret: secret}
}

func steps(n int) string {
	switch n {
	case 1:
		return "one step"
	case 2:
		return "two steps"
	case 3:
		return "three steps"
	}
	return fmt.Sprintf("%d steps", n)
}

// wrap breaks a text at blanks into lines of at most width, as measured; what
// has no blank is broken where it must be.
func wrap(s string, width float64, measure func(string) float64) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		joined := word
		if line != "" {
			joined = line + " " + word
		}
		if measure(joined) <= width {
			line = joined
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		line = ""
		for _, r := range word {
			if line != "" && measure(line+string(r)) > width {
				lines, line = append(lines, line), ""
			}
			line += string(r)
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
