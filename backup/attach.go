package backup

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// NewAttachment makes an attachment of a file's content. What looks like a
// private key, a share of a recovery key or a part of one is refused: a catalog
// holds no secrets in clear, and copies of it go to many places. The content is
// the caller's to clear when it is refused.
func NewAttachment(name string, content []byte) (store.Attachment, error) {
	switch {
	case !store.IsAttachmentName(name):
		return store.Attachment{}, fail.Failf("attachment-name", "copy it to a name of letters, digits, hyphens, underscores and dots", "%q is no name for an attachment", name)
	case len(content) > store.MaxAttachment:
		return store.Attachment{}, fail.Failf("attachment-size", "an archive of its own is the place for it", "%s has %d bytes; at most %d are kept with a snapshot", name, len(content), store.MaxAttachment)
	}
	if what := secretIn(content); what != "" {
		return store.Attachment{}, fail.Refusef("attachment-secret", "the catalog is no place for secrets: what is attached stands in it in clear", "%s looks like %s, and is not kept", name, what)
	}
	return store.Attachment{Name: name, Added: time.Now().UTC().Truncate(time.Second), Content: content}, nil
}

// secretMarks are texts that stand in files with secrets.
var secretMarks = []struct{ mark, what string }{
	{"PRIVATE KEY-----", "a private key"},                 // PEM: PKCS#1, PKCS#8, SEC 1, OpenSSH
	{"PRIVATE KEY BLOCK-----", "a private key"},           // OpenPGP
	{"ENCRYPTED PRIVATE KEY ----", "a private key"},       // RFC 4716's neighbour, ssh.com
	{"PuTTY-User-Key-File-", "a private key"},             // PuTTY
	{"SSH PRIVATE KEY FILE FORMAT", "a private key"},      // SSH 1
	{"AGE-SECRET-KEY-", "a private key"},                  // age
	{"AGE-PLUGIN-", "a private key"},                      // age
	{"BEGIN ENCRYPTED DATA", "an encrypted secret"},       // scsh
	{"untrusted comment: minisign encr", "a private key"}, // minisign, signify
}

// secretIn says what secret a file looks like, "" for none. It errs on the side
// of secrets: a certificate, a list or a serial number looks like none of these.
func secretIn(content []byte) string {
	for _, m := range secretMarks {
		if bytes.Contains(content, []byte(m.mark)) {
			return m.what
		}
	}
	switch {
	case dkek.IsPBE(content):
		return "a share of a recovery key"
	case dkek.IsPart(content):
		return "a part of a recovery key"
	case dkek.IsSheets(content):
		return "a threshold sheet of a recovery key"
	case dkek.IsAge(content):
		return "a file that is sealed to somebody, perhaps a part of a recovery key"
	case bytes.HasPrefix(content, []byte{0xFE, 0xED, 0xFE, 0xED}), bytes.HasPrefix(content, []byte{0xCE, 0xCE, 0xCE, 0xCE}):
		return "a Java key store"
	case isPrivateDER(content):
		return "a private key"
	}
	return ""
}

// isPrivateDER tells PKCS#1, PKCS#8, encrypted or not, SEC 1 and PKCS#12 by
// their structure: crypto/x509 knows not every algorithm.
func isPrivateDER(content []byte) bool {
	if _, err := x509.ParsePKCS1PrivateKey(content); err == nil {
		return true
	}
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(content, &outer); err != nil || len(rest) > 2 || outer.Tag != asn1.TagSequence || !outer.IsCompound {
		return false
	}
	var parts []asn1.RawValue
	for body := outer.Bytes; len(body) > 0; {
		var v asn1.RawValue
		var err error
		if body, err = asn1.Unmarshal(body, &v); err != nil {
			return false
		}
		parts = append(parts, v)
	}
	tags := func(want ...int) bool {
		return len(parts) >= len(want) && slices.EqualFunc(parts[:len(want)], want, func(v asn1.RawValue, tag int) bool {
			return v.Class == asn1.ClassUniversal && v.Tag == tag
		})
	}
	version := func(n ...byte) bool {
		return len(parts) > 0 && len(parts[0].Bytes) == 1 && bytes.Contains(n, parts[0].Bytes)
	}
	switch {
	case tags(asn1.TagInteger, asn1.TagSequence, asn1.TagOctetString): // PKCS#8
		return version(0, 1)
	case tags(asn1.TagInteger, asn1.TagOctetString): // SEC 1
		return version(1)
	case tags(asn1.TagInteger, asn1.TagSequence): // PKCS#12
		return version(3)
	case tags(asn1.TagSequence, asn1.TagOctetString): // PKCS#8, encrypted
		return len(parts) == 2
	}
	return false
}

// attachments are those of the next snapshot: what the newest one of this token
// has, or of the token that it was before or was restored from, with what is
// added and without what is dropped. What is damaged cannot be kept.
func (h *history) attachments(serial string, o Options) ([]store.Attachment, []store.Gap, error) {
	same := func(name string) func(store.Attachment) bool {
		return func(a store.Attachment) bool { return strings.EqualFold(a.Name, name) }
	}
	list := slices.Clone(h.attachedBefore(serial, o.SuccessorOf))
	for _, name := range o.Detach {
		if !slices.ContainsFunc(list, same(name)) {
			return nil, nil, fail.Failf("no-such-attachment", "`hsmbackup show` lists them", "there is no attachment %q", name)
		}
		list = slices.DeleteFunc(list, same(name))
	}
	for _, a := range o.Attach {
		i := slices.IndexFunc(list, same(a.Name))
		switch {
		case i < 0:
			list = append(list, a)
		case list[i].Damage == "" && list[i].Name == a.Name && bytes.Equal(list[i].Content, a.Content): // kept since then
		default:
			list[i] = a
		}
	}
	list, gaps := whole(list)
	if n := len(list); n > store.MaxAttachments {
		return nil, nil, fail.Failf("too-many-attachments", "--detach drops one", "there would be %d attachments; at most %d are kept with a snapshot", n, store.MaxAttachments)
	}
	slices.SortFunc(list, func(a, b store.Attachment) int { return strings.Compare(a.Name, b.Name) })
	return list, gaps, nil
}

// whole leaves out attachments that are damaged, and names them.
func whole(list []store.Attachment) (kept []store.Attachment, gaps []store.Gap) {
	for _, a := range list {
		if a.Damage == "" {
			kept = append(kept, a)
			continue
		}
		gaps = append(gaps, store.Gap{What: "attachment " + a.Name, Reason: "damaged in the catalog; attach it again"})
	}
	return kept, gaps
}

// attachedBefore finds the attachments that a token's next snapshot goes on
// with.
func (h *history) attachedBefore(serial, successorOf string) []store.Attachment {
	if s := h.Newest(serial); s != nil {
		return s.Attachments
	}
	if successorOf == "" {
		successorOf = h.Predecessor(serial)
	}
	if s := h.Newest(successorOf); s != nil {
		return s.Attachments
	}
	for _, r := range slices.Backward(h.Restores) {
		if r.Token != serial {
			continue
		}
		// What was attached to the lost token since goes on here as well.
		for _, from := range h.Snapshots {
			if now := h.Newest(from.Token.Serial); from.ID == r.Snapshot && now != nil {
				return now.Attachments
			}
		}
	}
	return nil
}
