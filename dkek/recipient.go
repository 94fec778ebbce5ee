package dkek

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"filippo.io/age"
)

// ageMagic is the first line of an age file.
var ageMagic = []byte("age-encryption.org/v1\n")

// Recipient is the public half of the key that opens sealed data: an X25519
// recipient of age ("age1" and 58 more characters). Its secret half is derived
// from the DKEK: HMAC-SHA256 under the DKEK of the text "hsmbackup data
// identity v1". Whoever has the recipient can seal, but neither open nor learn
// anything of the DKEK. ErrFormat after Wipe.
func (k *Key) Recipient() (string, error) {
	id, err := k.identity()
	if err != nil {
		return "", err
	}
	return id.Recipient().String(), nil
}

// SealData encrypts to a recipient of Key.Recipient; the DKEK is not needed. It
// writes a binary age file, another one each time. Nothing in it tells who
// sealed it, so what it stands for must be authenticated by other means. The
// error wraps ErrFormat if the recipient is none.
func SealData(recipient string, plain []byte) ([]byte, error) {
	// age's own message would hold a secret key given by mistake.
	r, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fail(ErrFormat, "recipient of sealed data: not an X25519 recipient of age (age1…)")
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil, fail(ErrFormat, "recipient of sealed data: nothing can be sealed to it: %v", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fail(ErrFormat, "sealing data: %v", err)
	}
	if err := w.Close(); err != nil {
		return nil, fail(ErrFormat, "sealing data: %v", err)
	}
	return out.Bytes(), nil
}

// OpenData decrypts what SealData wrote to this key's recipient; the caller
// clears the result. The error wraps ErrFormat for what is no age file,
// ErrTampered for one that was altered or cut off, and ErrOtherKey for one that
// is not to this key: a file does not say whose it is, so that damage to the
// part that is meant for the key shows as ErrOtherKey too.
func (k *Key) OpenData(sealed []byte) ([]byte, error) {
	id, err := k.identity()
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(sealed, ageMagic) {
		return nil, fail(ErrFormat, "sealed data: does not begin as an age file does")
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), id)
	if other := new(age.NoIdentityMatchError); errors.As(err, &other) {
		return nil, fail(ErrOtherKey, "sealed data: not sealed to the recovery key with KCV %s, or its header was altered: bring the shares of the right one", k.KCV())
	}
	if err != nil {
		return nil, fail(ErrTampered, "sealed data: its header was altered or cut off")
	}
	// large enough at once, so that no copy stays behind in an old array
	plain := bytes.NewBuffer(make([]byte, 0, len(sealed)+bytes.MinRead))
	if _, err := plain.ReadFrom(r); err != nil {
		clear(plain.Bytes())
		return nil, fail(ErrTampered, "sealed data: altered, cut off or longer than it was")
	}
	return plain.Bytes(), nil
}

// identity derives the secret half. age takes it as text only, and neither that
// nor its own copy can be cleared.
func (k *Key) identity() (*age.X25519Identity, error) {
	if len(k.Bytes()) != Size {
		return nil, errWiped
	}
	h := hmac.New(sha256.New, k.Bytes())
	h.Write([]byte("hsmbackup data identity v1"))
	scalar := h.Sum(nil)
	defer clear(scalar)
	text := bech32("AGE-SECRET-KEY-", scalar)
	defer clear(text)
	id, err := age.ParseX25519Identity(string(text))
	if err != nil {
		return nil, fail(ErrFormat, "recovery key: no key for sealed data can be derived: do not trust this computer")
	}
	return id, nil
}
