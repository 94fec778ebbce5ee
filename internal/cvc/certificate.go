// Package cvc reads, checks and makes the card-verifiable certificates of the
// SmartCard-HSM: the device certificate in EF 2F02 with its chain, and the
// authenticated requests that a token answers GENERATE with and keeps in CExx
// (fact sheet §5; BSI TR-03110 part 3).
package cvc

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"time"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/tlv"
)

// Errors to match on.
var (
	// ErrFormat: bytes that are no certificate or request.
	ErrFormat = errors.New("not a card-verifiable certificate")
	// ErrUntrusted: a chain that does not lead to a pinned root, or a
	// signature in it that does not verify.
	ErrUntrusted = errors.New("certificate chain not trusted")
)

const (
	tagCertificate = 0x7F21
	tagBody        = 0x7F4E
	tagProfile     = 0x5F29
	tagCAR         = 0x42
	tagPublicKey   = 0x7F49
	tagCHR         = 0x5F20
	tagHolderAuth  = 0x7F4C
	tagFrom        = 0x5F25
	tagTo          = 0x5F24
	tagExtensions  = 0x65
	tagSignature   = 0x5F37
	tagRequest     = 0x67
	tagOID         = 0x06
	tagRole        = 0x53
)

// Certificate is one 7F21. Dates and role are absent in requests.
type Certificate struct {
	// Raw is the whole TLV, Body the TLV 7F4E that is signed.
	Raw, Body []byte
	// CAR names the issuer's key, CHR the holder's; 8 to 16 characters.
	CAR, CHR string
	// Role is the last byte of 7F4C: C0 root, 80 device issuer, 00 device.
	Role byte
	// From and To bound the validity, zero where there are no dates.
	From, To time.Time
	// Signature is plain r ‖ s, or as long as an RSA modulus.
	Signature []byte

	publicKey tlv.List
}

// Parse reads the first 7F21 of b. Errors wrap ErrFormat.
func Parse(b []byte) (*Certificate, error) {
	c, _, err := parseFirst(b)
	return c, err
}

func parseFirst(b []byte) (c *Certificate, rest []byte, err error) {
	fail := func(what string) (*Certificate, []byte, error) {
		return nil, nil, fmt.Errorf("%w: %s", ErrFormat, what)
	}
	outer, rest, err := tlv.Parse(b)
	if err != nil || outer.Tag != tagCertificate {
		return fail("no 7F21")
	}
	parts, err := outer.Children()
	if err != nil {
		return fail("7F21 does not parse")
	}
	body, ok := parts.Find(tagBody)
	if !ok {
		return fail("no body")
	}
	sig, ok := parts.Find(tagSignature)
	if !ok {
		return fail("no signature")
	}
	fields, err := body.Children()
	if err != nil {
		return fail("body does not parse")
	}
	c = &Certificate{Raw: outer.Raw, Body: body.Raw, Signature: sig.Value}
	if e, ok := fields.Find(tagCAR); ok {
		c.CAR = printable(e.Value)
	}
	chr, ok := fields.Find(tagCHR)
	if !ok {
		return fail("no holder reference")
	}
	c.CHR = printable(chr.Value)
	key, ok := fields.Find(tagPublicKey)
	if !ok {
		return fail("no public key")
	}
	if c.publicKey, err = key.Children(); err != nil {
		return fail("public key does not parse")
	}
	if e, ok := fields.Find(tagHolderAuth); ok {
		list, err := e.Children()
		if err != nil {
			return fail("holder authorisation does not parse")
		}
		if r, ok := list.Find(tagRole); ok && len(r.Value) > 0 {
			c.Role = r.Value[len(r.Value)-1]
		}
	}
	for tag, date := range map[uint16]*time.Time{tagFrom: &c.From, tagTo: &c.To} {
		if e, ok := fields.Find(tag); ok {
			if *date, ok = parseDate(e.Value); !ok {
				return fail("a date does not parse")
			}
		}
	}
	return c, rest, nil
}

// printable replaces what is not plain ASCII: references are shown to people.
func printable(b []byte) string {
	out := []byte(string(b))
	for i, c := range out {
		if c < 0x20 || c > 0x7E {
			out[i] = '?'
		}
	}
	return string(out)
}

// parseDate reads six bytes, one decimal digit each: YYMMDD.
func parseDate(b []byte) (time.Time, bool) {
	if len(b) != 6 {
		return time.Time{}, false
	}
	for _, d := range b {
		if d > 9 {
			return time.Time{}, false
		}
	}
	t := time.Date(2000+int(b[0])*10+int(b[1]), time.Month(b[2]*10+b[3]), int(b[4]*10+b[5]), 0, 0, 0, 0, time.UTC)
	if int(t.Month()) != int(b[2]*10+b[3]) { // month 13, or 31 February
		return time.Time{}, false
	}
	return t, true
}

func encodeDate(t time.Time) []byte {
	y, m, d := t.Date()
	y %= 100
	return []byte{byte(y / 10), byte(y % 10), byte(m / 10), byte(m % 10), byte(d / 10), byte(d % 10)}
}

// PublicKey gives the key. Certificates of devices leave the domain parameters
// out and inherit them from their root: they need inherit, others ignore it.
func (c *Certificate) PublicKey(inherit *curve.Curve) (*pubkey.Key, error) {
	key, err := parsePublicKey(c.publicKey, inherit)
	if err != nil {
		return nil, fmt.Errorf("%w: public key of %s: %w", ErrFormat, c.CHR, err)
	}
	return key, nil
}

// parsePublicKey reads the content of 7F49: RSA 81 n, 82 e; EC 81 p, 82 a, 83
// b, 84 G, 85 n, 86 Q, 87 h. The imitation shortens a and b, so numbers are
// compared, not bytes.
func parsePublicKey(list tlv.List, inherit *curve.Curve) (*pubkey.Key, error) {
	number := func(tag uint16) *big.Int {
		if e, ok := list.Find(tag); ok {
			return new(big.Int).SetBytes(e.Value)
		}
		return nil
	}
	if point, ok := list.Find(0x86); ok {
		c := inherit
		if p := number(0x81); p != nil {
			var err error
			if c, err = parseDomain(list); err != nil {
				return nil, err
			}
		}
		if c == nil {
			return nil, errors.New("domain parameters missing")
		}
		x, y, err := c.Unmarshal(point.Value)
		if err != nil {
			return nil, err
		}
		return pubkey.NewEC(c, x, y)
	}
	n, e := number(0x81), number(0x82)
	if n == nil || e == nil || e.BitLen() > 31 {
		return nil, errors.New("neither RSA nor EC")
	}
	return pubkey.NewRSA(n, int(e.Int64()))
}

// parseDomain finds the named curve that domain parameters describe. All of
// them must agree: a key on a curve of somebody's own making is nobody's.
func parseDomain(list tlv.List) (*curve.Curve, error) {
	get := func(tag uint16) *big.Int {
		if e, ok := list.Find(tag); ok {
			return new(big.Int).SetBytes(e.Value)
		}
		return nil
	}
	p := get(0x81)
	if p == nil {
		return nil, errors.New("domain parameters missing")
	}
	c := curve.ByDomain(p, get(0x82))
	if c == nil {
		return nil, errors.New("domain parameters of no known curve")
	}
	if b := get(0x83); b != nil && b.Cmp(c.B) != 0 {
		return nil, errors.New("domain parameter b of another curve")
	}
	if n := get(0x85); n != nil && n.Cmp(c.N) != 0 {
		return nil, errors.New("order of another curve")
	}
	if g, ok := list.Find(0x84); ok {
		if x, y, err := c.Unmarshal(g.Value); err != nil || x.Cmp(c.Gx) != 0 || y.Cmp(c.Gy) != 0 {
			return nil, errors.New("base point of another curve")
		}
	}
	return c, nil
}

// Verify checks the signature with the issuer's key. The digest is SHA-256 for
// keys of every size (fact sheet §5.2). The error wraps ErrUntrusted.
func (c *Certificate) Verify(issuer *pubkey.Key) error {
	digest := sha256.Sum256(c.Body)
	if err := issuer.Verify(crypto.SHA256, digest[:], c.Signature); err != nil {
		return fmt.Errorf("%w: certificate of %s: %w", ErrUntrusted, c.CHR, err)
	}
	return nil
}

// Template is what a new certificate says. A zero From leaves out role and
// dates, as requests do.
type Template struct {
	CAR, CHR string
	Key      *pubkey.Key
	// Inherited leaves out the domain parameters.
	Inherited bool
	Role      byte
	From, To  time.Time
}

// roleOID is 1.3.6.1.4.1.24991.3.1.1.
var roleOID = []byte{0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x03, 0x01, 0x01}

// Build makes a certificate; sign is given the TLV 7F4E and answers with the
// signature in plain form.
func Build(t Template, sign func(body []byte) ([]byte, error)) ([]byte, error) {
	parts := [][]byte{
		tlv.Encode(tagProfile, []byte{0}),
		tlv.Encode(tagCAR, []byte(t.CAR)),
		tlv.Encode(tagPublicKey, encodePublicKey(t.Key, t.Inherited)),
		tlv.Encode(tagCHR, []byte(t.CHR)),
	}
	if !t.From.IsZero() {
		parts = append(parts,
			tlv.Encode(tagHolderAuth, tlv.Encode(tagOID, roleOID), tlv.Encode(tagRole, []byte{t.Role})),
			tlv.Encode(tagFrom, encodeDate(t.From)), tlv.Encode(tagTo, encodeDate(t.To)))
	}
	body := tlv.Encode(tagBody, parts...)
	sig, err := sign(body)
	if err != nil {
		return nil, err
	}
	return tlv.Encode(tagCertificate, body, tlv.Encode(tagSignature, sig)), nil
}

var (
	oidRSA   = []byte{0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x01, 0x02}
	oidECDSA = []byte{0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x02, 0x02, 0x03}
)

func encodePublicKey(k *pubkey.Key, inherited bool) []byte {
	if k.RSA != nil {
		out := tlv.Encode(tagOID, oidRSA)
		out = tlv.Append(out, 0x81, k.RSA.N.Bytes())
		return tlv.Append(out, 0x82, big.NewInt(int64(k.RSA.E)).Bytes())
	}
	point := k.Curve.Marshal(k.X, k.Y)
	if inherited {
		return tlv.Append(tlv.Encode(tagOID, oidECDSA), 0x86, point)
	}
	out := encodeDomain(k.Curve)
	out = tlv.Append(out, 0x86, point)
	return tlv.Append(out, 0x87, []byte{1})
}

// encodeDomain writes OID, p, a, b, G, n; a and b at full length, since OpenSC
// compares the bytes of a.
func encodeDomain(c *curve.Curve) []byte {
	field := func(v *big.Int) []byte { return v.FillBytes(make([]byte, c.FieldBytes())) }
	out := tlv.Encode(tagOID, oidECDSA)
	out = tlv.Append(out, 0x81, field(c.P))
	out = tlv.Append(out, 0x82, field(c.A))
	out = tlv.Append(out, 0x83, field(c.B))
	out = tlv.Append(out, 0x84, c.Marshal(c.Gx, c.Gy))
	return tlv.Append(out, 0x85, field(c.N))
}
