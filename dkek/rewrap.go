package dkek

import (
	"crypto/subtle"

	"hsmbackup/internal/pkcs15"
)

// Rewrap opens a key blob under one DKEK and seals its key under another, in
// the same form and with the same list of allowed algorithms, and opens what it
// sealed again: both must hold the same key. The private key is in memory
// meanwhile. Errors are those of Open, Check and Seal; ErrFormat for fields that
// no token seen writes and that a new blob would lose.
func Rewrap(from, to *Key, blob []byte) ([]byte, error) {
	old, err := ParseBlob(blob)
	if err != nil {
		return nil, err
	}
	if len(old.AccessConditions) > 0 || len(old.KeyOID) > 0 {
		return nil, fail(ErrFormat, "blob has access conditions or an object identifier of its own, which a new one would lose")
	}
	p, err := from.Open(old)
	if err != nil {
		return nil, err
	}
	defer p.Wipe()
	if err := p.Check(); err != nil {
		return nil, err
	}
	sealed, err := to.Seal(p, SealOptions{Algorithms: old.Algorithms, CRT: old.Type == BlobRSACRT})
	if err != nil {
		return nil, err
	}
	again, err := ParseBlob(sealed)
	if err != nil {
		return nil, err
	}
	q, err := to.Open(again)
	if err != nil {
		return nil, err
	}
	defer q.Wipe()
	if again.Type != old.Type || string(again.Algorithms) != string(old.Algorithms) || !p.same(q) {
		return nil, fail(ErrMismatch, "what was sealed anew opens to another key: do not trust this computer")
	}
	return sealed, nil
}

// same tells whether two private keys are the same one.
func (p *PrivateKey) same(o *PrivateKey) bool {
	if p.kind != o.kind {
		return false
	}
	switch p.kind {
	case pkcs15.RSA:
		a, err := p.RSA()
		if err != nil {
			return false
		}
		b, err := o.RSA()
		return err == nil && a.Equal(b)
	case pkcs15.EC:
		return p.curve == o.curve && subtle.ConstantTimeCompare(p.scalar.Bytes(), o.scalar.Bytes()) == 1
	}
	return subtle.ConstantTimeCompare(p.key.Bytes(), o.key.Bytes()) == 1
}
