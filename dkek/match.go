package dkek

import (
	"fmt"

	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/tlv"
)

// Match says what a private key was found to agree with.
type Match string

// Its values, "matched" with --json.
const (
	// MatchCertificate: the public key of an X.509 or card-verifiable
	// certificate.
	MatchCertificate Match = "certificate"
	// MatchRequest: the public key of the request that was made with the key,
	// and the key's own signature in it.
	MatchRequest Match = "request"
	// MatchSelf: itself only, as Check does, and the description's kind and
	// size.
	MatchSelf Match = "self"
)

// MatchKey compares an opened key with itself and with what stood beside it on
// the token: the description of C4xx and the content of CExx, each nil if
// there is none. It gives the public key, nil for AES. ErrMismatch says what
// differs; ErrFormat what cannot be read.
func MatchKey(p *PrivateKey, description, certificate []byte) (Match, *pubkey.Key, error) {
	if p == nil {
		return "", nil, errKeyWiped
	}
	if err := p.Check(); err != nil {
		return "", nil, err
	}
	if len(description) > 0 {
		if err := matchDescription(p, description); err != nil {
			return "", nil, err
		}
	}
	own, err := p.Public()
	if err != nil {
		return "", nil, fail(ErrFormat, "public key: %v", err)
	}
	if len(certificate) == 0 {
		return MatchSelf, own, nil
	}
	if own == nil {
		return "", nil, fail(ErrMismatch, "the blob holds an %s key, which has no certificate, but there is one beside it", p.Type())
	}
	e, _, err := tlv.Parse(certificate)
	if err != nil {
		return "", nil, fail(ErrFormat, "certificate or request: cut off or altered")
	}
	what, err := recognise(e)
	if err != nil {
		return "", nil, fail(ErrFormat, "certificate or request: %v", err)
	}
	var (
		match = MatchCertificate
		name  = "certificate"
		other *pubkey.Key
	)
	switch what {
	case partX509:
		other, err = pubkey.FromCertificate(e.Raw)
	case partCVC:
		var c *cvc.Certificate
		if c, err = cvc.Parse(e.Raw); err == nil {
			other, err = c.PublicKey(p.curve)
		}
	case partRequest:
		match, name = MatchRequest, "request"
		var r *cvc.Request
		if r, err = cvc.ParseRequest(e.Raw); err == nil {
			if other, err = r.PublicKey(); err == nil && own.Equal(other) && r.VerifyInner() != nil {
				return "", nil, fail(ErrMismatch, "the request beside the blob is for its key, but the key's own signature in it does not verify: it was altered or damaged")
			}
		}
	default:
		return "", nil, fail(ErrMismatch, "a key description stands where a certificate or request should")
	}
	if err != nil {
		return "", nil, fail(ErrFormat, "%s: %v", name, err)
	}
	if !own.Equal(other) {
		return "", nil, fail(ErrMismatch, "the blob holds %s, but the %s beside it is for %s", nameKey(own), name, nameKey(other))
	}
	return match, own, nil
}

// nameKey names a public key for people: type and the start of its fingerprint.
func nameKey(k *pubkey.Key) string {
	sum := k.Fingerprint()
	return fmt.Sprintf("%s key %x", k.Type(), sum[:8])
}

// matchDescription compares kind and size; some descriptions have no size.
func matchDescription(p *PrivateKey, description []byte) error {
	d, err := pkcs15.ParseKey(description)
	if err != nil {
		return fail(ErrFormat, "key description: %v", err)
	}
	fits := d.Kind == p.kind
	if d.Bits != 0 {
		switch p.kind {
		case pkcs15.RSA:
			fits = fits && d.Bits == p.n.BitLen()
		case pkcs15.EC:
			// P-521 goes as 521 and as 528
			fits = fits && (d.Bits == p.curve.Bits || d.Bits == 8*p.curve.FieldBytes())
		default:
			fits = fits && d.Bits == 8*p.key.Len()
		}
	}
	if !fits {
		return fail(ErrMismatch, "the blob holds %s, but the description beside it says %s of %d bits", p.Type(), d.Kind, d.Bits)
	}
	return nil
}
