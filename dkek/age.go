package dkek

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
)

// Recipients that parts are sealed to are people's. Those that only a device
// opens are refused: on the day of the disaster it may be the one that is gone.

// parseRecipient reads a recipient of age. The error wraps ErrFormat and does
// not repeat it: it may be a secret key given by mistake.
func parseRecipient(text string) (age.Recipient, error) {
	text = strings.TrimSpace(text)
	lower := strings.ToLower(text)
	switch {
	case strings.HasPrefix(lower, "age-secret-key-"), strings.Contains(text, "PRIVATE KEY"):
		return nil, fail(ErrFormat, "that is a secret key, not a recipient: give its public half (age-keygen -y), and think about who has seen it")
	case strings.HasPrefix(text, "sk-ssh-"), strings.HasPrefix(text, "sk-ecdsa-"):
		return nil, fail(ErrFormat, "an SSH key that only a security key holds: if that is lost, the part is; give an age recipient (age1…)")
	case strings.HasPrefix(text, "ecdsa-"):
		return nil, fail(ErrFormat, "age seals to ssh-ed25519 and ssh-rsa keys, not to ECDSA ones; give an age recipient (age1…)")
	case strings.HasPrefix(text, "ssh-"):
		r, err := agessh.ParseRecipient(text)
		if err != nil {
			return nil, fail(ErrFormat, "not an SSH public key that age can seal to (ssh-ed25519, or ssh-rsa of 2048 bits and more)")
		}
		return r, nil
	case strings.HasPrefix(lower, "age1pq1"):
		r, err := age.ParseHybridRecipient(text)
		if err != nil {
			return nil, fail(ErrFormat, "not a post-quantum recipient of age (age1pq1…): a character is wrong or missing")
		}
		return r, nil
	case strings.HasPrefix(lower, "age1") && strings.Contains(lower[len("age1"):], "1"):
		return nil, fail(ErrFormat, "a recipient of an age plugin, which only a device opens: if that is lost, the part is; give a recipient of age itself (age1…)")
	case strings.HasPrefix(lower, "age1"):
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fail(ErrFormat, "not a recipient of age (age1…): a character is wrong or missing")
		}
		return r, nil
	}
	return nil, fail(ErrFormat, "not a recipient: age1…, age1pq1…, or a line with an ssh-ed25519 or ssh-rsa public key")
}

// CheckRecipient tells whether SealPart seals to a recipient. The error wraps
// ErrFormat and does not repeat it.
func CheckRecipient(recipient string) error {
	_, err := parseRecipient(recipient)
	return err
}

// PostQuantum tells whether a recipient is safe from quantum computers, as far
// as is known: only those of age1pq1… are.
func PostQuantum(recipient string) bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(recipient)), "age1pq1")
}

// RecipientKey gives the SSH public key blob of a recipient that is an SSH key,
// nil for others: a key that lies in the catalog itself must not be one.
func RecipientKey(recipient string) []byte {
	fields := strings.Fields(recipient)
	if len(fields) < 2 || !strings.HasPrefix(fields[0], "ssh-") {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil
	}
	return b
}

// SealPart encrypts a part to a recipient: age1…, age1pq1… (post-quantum), or an
// ssh-ed25519 or ssh-rsa public key line. It writes an armored age file. The
// error wraps ErrFormat, for recipients that only a device opens too.
func SealPart(recipient string, p *Part) ([]byte, error) {
	r, err := parseRecipient(recipient)
	if err != nil {
		return nil, err
	}
	return sealPart(r, p)
}

// SealPartPassword encrypts a part under a password (scrypt, 2^18). An empty one
// is refused with ErrWeakPassword; for the rest see CheckPassword. age keeps the
// password as a string that cannot be cleared.
func SealPartPassword(password []byte, p *Part) ([]byte, error) {
	if len(password) == 0 {
		return nil, fail(ErrWeakPassword, "the password is empty")
	}
	r, err := age.NewScryptRecipient(string(password))
	if err != nil {
		return nil, fail(ErrFormat, "sealing a part: %v", err)
	}
	return sealPart(r, p)
}

func sealPart(r age.Recipient, p *Part) ([]byte, error) {
	text := p.Text()
	defer clear(text)
	if len(text) == 0 {
		return nil, errWiped
	}
	var out bytes.Buffer
	wrapped := armor.NewWriter(&out)
	w, err := age.Encrypt(wrapped, r)
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = wrapped.Close()
	}
	if err != nil {
		return nil, fail(ErrFormat, "sealing a part: %v", err)
	}
	return out.Bytes(), nil
}

// IsAge tells an age file, armored or binary, by its beginning.
func IsAge(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return bytes.HasPrefix(b, []byte(armor.Header)) || bytes.HasPrefix(b, ageMagic)
}

// plainAge takes the armor off.
func plainAge(b []byte) ([]byte, error) {
	b = bytes.TrimLeft(b, " \t\r\n")
	if !bytes.HasPrefix(b, []byte(armor.Header)) {
		return b, nil
	}
	out, err := io.ReadAll(armor.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fail(ErrFormat, "age file: its armor is damaged or cut off")
	}
	return out, nil
}

// AgeNeedsPassword tells whether an age file opens with a password rather than
// with an identity.
func AgeNeedsPassword(b []byte) bool {
	plain, err := plainAge(b)
	return err == nil && bytes.HasPrefix(plain, append(bytes.Clone(ageMagic), "-> scrypt "...))
}

// OpenAge decrypts an age file; the caller clears the result. It takes the
// content of an identity file (AGE-SECRET-KEY-…, or an unencrypted OpenSSH
// private key), or, for a file under a password, that. The error wraps
// ErrWrongPassword for what does not open it, ErrTampered for a file that was
// altered or cut off, and ErrFormat for the rest. Errors repeat nothing of what
// was given.
func OpenAge(file, identity, password []byte) ([]byte, error) {
	sealed, err := plainAge(file)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(sealed, ageMagic) {
		return nil, fail(ErrFormat, "age file: does not begin as one does")
	}
	var with []age.Identity
	if AgeNeedsPassword(file) {
		if len(password) == 0 {
			return nil, fail(ErrWrongPassword, "age file: it opens with a password, and none was given")
		}
		id, err := age.NewScryptIdentity(string(password))
		if err != nil {
			return nil, fail(ErrWrongPassword, "age file: it opens with a password, and none was given")
		}
		with = append(with, id)
	} else if with, err = parseIdentities(identity); err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), with...)
	if other := new(age.NoIdentityMatchError); errors.As(err, &other) {
		if AgeNeedsPassword(file) {
			return nil, fail(ErrWrongPassword, "age file: wrong password")
		}
		return nil, fail(ErrWrongPassword, "age file: not sealed to this identity, or its header was altered")
	}
	if err != nil {
		return nil, fail(ErrTampered, "age file: its header was altered or cut off, or the password is wrong")
	}
	// Large enough at once, so that no copy stays behind in an old array.
	plain := bytes.NewBuffer(make([]byte, 0, len(sealed)+bytes.MinRead))
	if _, err := plain.ReadFrom(r); err != nil {
		clear(plain.Bytes())
		return nil, fail(ErrTampered, "age file: altered, cut off or longer than it was")
	}
	return plain.Bytes(), nil
}

// parseIdentities reads an identity file. age's own messages may hold its lines.
func parseIdentities(file []byte) ([]age.Identity, error) {
	if len(bytes.TrimSpace(file)) == 0 {
		return nil, fail(ErrWrongPassword, "age file: it is sealed to a recipient: the identity that opens it is missing")
	}
	if bytes.Contains(file, []byte("-----BEGIN")) {
		id, err := agessh.ParseIdentity(file)
		if err != nil {
			return nil, fail(ErrFormat, "identity file: not an SSH private key that age can use, or one under a passphrase: decrypt the part with age -d and give that")
		}
		return []age.Identity{id}, nil
	}
	ids, err := age.ParseIdentities(bytes.NewReader(file))
	if err != nil || len(ids) == 0 {
		return nil, fail(ErrFormat, "identity file: no identity of age in it (AGE-SECRET-KEY-…)")
	}
	return ids, nil
}
