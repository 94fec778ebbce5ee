package store

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// What the values of a catalog may be: one rule for what is written, what is read
// and what comes from an export. Whatever fails it is damage of the thing that it
// belongs to. Texts that people wrote, such as labels and reasons, may be
// anything; whoever shows them makes them harmless.

// IsSerial takes what serial numbers of tokens are made of: ASCII letters, digits
// and "-", "_", "." within, at most 32 of them. Nothing of that means something to
// a shell or a file system.
func IsSerial(s string) bool { return len(s) <= 32 && isPlain(s) }

// IsAttachmentName takes ASCII letters, digits, "_", "-" and ".", at most 100
// of them, of which the first is a letter or a digit: what every file system and
// shell takes as it is.
func IsAttachmentName(name string) bool { return len(name) <= 100 && isPlain(name) }

// IsCustodian takes pseudonyms of custodians: letters and digits of any writing, and
// "_", "-", "." behind the first, at most 64 bytes.
func IsCustodian(name string) bool {
	for i, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsNumber(r) && (i == 0 || r != '.' && r != '_' && r != '-') {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// isPlain takes ASCII letters and digits, and "_", "-", "." behind the first.
func isPlain(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return s != ""
}

// isWord takes lower-case ASCII letters, digits and "-" of which the first is a
// letter, at most 40: kinds, jobs, steps.
func isWord(s string) bool {
	for i, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (i == 0 || c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 40
}

// IsFirmware takes two numbers with a point between.
func IsFirmware(s string) bool {
	major, minor, ok := strings.Cut(s, ".")
	number := func(s string) bool {
		return s != "" && len(s) <= 3 && strings.Trim(s, "0123456789") == ""
	}
	return ok && number(major) && number(minor)
}

// isASCII takes what can be printed of ASCII, blanks too: references of
// certificates.
func isASCII(s string) bool {
	return len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func isDate(s string) bool {
	_, err := time.Parse(time.DateOnly, s)
	return err == nil
}

// isType takes the names of key types: "RSA-2048", "brainpoolP256r1", "AES".
func isType(s string) bool { return len(s) <= 40 && isPlain(s) && !strings.ContainsAny(s, "_.") }

// IsSnapshotID takes 12 hex digits.
func IsSnapshotID(s string) bool { return isHex(s, 12) }

// IsPartSet takes 8 hex digits.
func IsPartSet(s string) bool { return isHex(s, 8) }

func isHexText(s string) bool { return isHex(s, len(s)) }

// isRecipient takes what an age recipient is written in.
func isRecipient(s string) bool {
	return len(s) <= 4096 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// maybe is an error for a value that is there and not what it should be.
func maybe(what, value string, is func(string) bool) error {
	if value != "" && !is(value) {
		return fmt.Errorf("%s cannot be %q", what, value)
	}
	return nil
}

// each is maybe for every value of a list.
func each(what string, values []string, is func(string) bool) error {
	for _, v := range values {
		if err := maybe(what, v, is); err != nil {
			return err
		}
	}
	return nil
}

// references is an error for what is no key reference; 0 is not known.
func references(list ...int) error {
	for _, n := range list {
		if n < 0 || n > 255 {
			return fmt.Errorf("key reference %d is not within 1 to 255", n)
		}
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Sift takes out of a snapshot what cannot be and gives a finding for each, whose
// Where is the key, the file or "token", or empty for the snapshot: of a key or
// file that stays it is in its Damage too. An error is for a snapshot of
// which nothing can be told, since its token has no name that could be one.
func (s *Snapshot) Sift() ([]Finding, error) {
	t := &s.Token
	var x sieve
	if t.Serial != "" && !IsSerial(t.Serial) {
		return nil, fmt.Errorf("%q is no serial number of a token", t.Serial)
	}
	x.token(t)
	if r := s.Rekeyed; r != nil && (r.From.IsZero() || r.Time.IsZero() || !isHex(r.OldKCV, 16) || !isHex(r.KCV, 16)) {
		x.find("", "re-keyed from %s, KCV %q to %q", r.From, r.OldKCV, r.KCV)
		s.Rekeyed = nil
	}
	seen := map[int]bool{}
	s.Keys = slices.DeleteFunc(s.Keys, func(k Key) bool {
		switch {
		case k.Reference < 0 || k.Reference > 255:
			x.find("", "key reference %d is not within 1 to 255", k.Reference)
		case k.Reference == 0 && !s.Adopted:
			x.find("", "key %q has no reference", k.Label)
		case k.Reference != 0 && seen[k.Reference]:
			x.find("", "key reference %d twice", k.Reference)
		default:
			seen[k.Reference] = true
			return false
		}
		return true
	})
	for i := range s.Keys {
		x.key(&s.Keys[i])
	}
	fids := map[string]bool{}
	s.Files = slices.DeleteFunc(s.Files, func(f File) bool {
		fid := strings.ToLower(f.FID)
		switch {
		case !isHex(fid, 4):
			x.find("", "file id %q is not 4 hex digits", f.FID)
		case fids[fid]:
			x.find("", "file %s twice", fid)
		default:
			fids[fid] = true
			return false
		}
		return true
	})
	x.attachments(s)
	return x.found, nil
}

// sieve collects what is found.
type sieve struct{ found findings }

func (x *sieve) find(of, format string, args ...any) { x.found.add(of, format, args...) }

// text empties a value that is not what it should be; none at all may stand.
func (x *sieve) text(of, what string, value *string, is func(string) bool) {
	if *value != "" && !is(*value) {
		x.find(of, "%s cannot be %q", what, *value)
		*value = ""
	}
}

// number puts a bound in the place of what lies beyond it.
func (x *sieve) number(of, what string, value *int, low, high int) {
	if *value < low || *value > high {
		x.find(of, "%s: %d is not within %d and %d", what, *value, low, high)
		*value = min(max(*value, low), high)
	}
}

func (x *sieve) token(t *Token) {
	const of = "token"
	x.text(of, "serial number before", &t.SuccessorOf, IsSerial)
	x.text(of, "firmware", &t.Firmware, IsFirmware)
	x.text(of, "options", &t.Options, func(s string) bool { return isHex(s, 4) })
	x.text(of, "issuer", &t.Issuer, isASCII)
	x.text(of, "first day of its certificate", &t.ValidFrom, isDate)
	x.text(of, "last day of its certificate", &t.ValidTo, isDate)
	x.number(of, "tries of the PIN", &t.PINTries, -1, 255)
	x.number(of, "tries of the SO-PIN", &t.SOPINTries, -1, 255)
	x.number(of, "free memory", &t.FreeMemory, -1, 1<<30)
	seen := map[int]bool{}
	t.Domains = slices.DeleteFunc(t.Domains, func(d Domain) bool {
		if d.Number < 0 || d.Number > 255 || seen[d.Number] {
			x.find(of, "key domain %d is not within 0 to 255, or is there twice", d.Number)
			return true
		}
		seen[d.Number] = true
		return false
	})
	for i := range t.Domains {
		d := &t.Domains[i]
		of := fmt.Sprintf("key domain %d", d.Number)
		x.text(of, "KCV", &d.KCV, IsKCV)
		x.number(of, "shares", &d.Shares, 0, 255)
		x.number(of, "shares to come", &d.Outstanding, 0, 255)
	}
}

func (x *sieve) key(k *Key) {
	of := fmt.Sprintf("key %d", k.Reference)
	before := len(x.found)
	x.text(of, "type", &k.Type, isType)
	x.text(of, "KCV", &k.KCV, IsKCV)
	x.text(of, "source of its public key", &k.PublicFrom, isWord)
	x.number(of, "key domain", &k.Domain, 0, 255)
	switch {
	case k.Blob == nil && k.Reason == "" && k.Damage == "":
		x.find(of, "it has neither a blob nor a reason")
	case k.Blob != nil && k.Reason != "":
		x.find(of, "it has a blob and a reason for having none")
		k.Reason = ""
	}
	for _, f := range x.found[before:] {
		k.Damage = joined(k.Damage, f.What)
	}
}

func (x *sieve) attachments(s *Snapshot) {
	if n := len(s.Attachments); n > MaxAttachments {
		x.find("", "%d attachments, at most %d are kept", n, MaxAttachments)
		s.Attachments = s.Attachments[:MaxAttachments]
	}
	names := map[string]bool{}
	s.Attachments = slices.DeleteFunc(s.Attachments, func(at Attachment) bool {
		name := strings.ToLower(at.Name)
		switch {
		case !IsAttachmentName(at.Name):
			x.find("", "attachment name %q", at.Name)
		case names[name]:
			x.find("", "attachment %s twice", at.Name)
		default:
			names[name] = true
			return false
		}
		return true
	})
	for i := range s.Attachments {
		at := &s.Attachments[i]
		switch {
		case len(at.Content) > MaxAttachment:
			x.find("", "attachment %s has %d bytes, at most %d are kept", at.Name, len(at.Content), MaxAttachment)
			at.Content, at.Damage = nil, "too long"
		case at.Added.IsZero():
			x.find("", "attachment %s has no date", at.Name)
		}
	}
}

// joined adds to what is damaged of a thing.
func joined(damage, what string) string {
	if damage == "" {
		return what
	}
	return damage + "; " + what
}

// IsKCV takes 16 hex digits.
func IsKCV(s string) bool { return isHex(s, 16) }

// validate refuses to write what Sift would take out.
func (s *Snapshot) validate() error {
	c := *s
	c.Keys, c.Files, c.Attachments = slices.Clone(s.Keys), slices.Clone(s.Files), slices.Clone(s.Attachments)
	c.Token.Domains = slices.Clone(s.Token.Domains)
	for i := range c.Keys {
		c.Keys[i].Damage = ""
	}
	found, err := c.Sift()
	if err != nil {
		return fmt.Errorf("snapshot: %v", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("snapshot: %s", strings.TrimPrefix(found[0].String(), ": "))
	}
	return nil
}
