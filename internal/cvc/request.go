package cvc

import (
	"crypto"
	"crypto/sha256"
	"fmt"
	"math/big"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/tlv"
)

// Request is an authenticated request: 67 { 7F21 inner, 42 outer CAR, 5F37
// outer signature }. The key signs the inner part, the device the whole.
type Request struct {
	// Raw is the request cut to its outer TLV.
	Raw   []byte
	Inner *Certificate
	// OuterCAR names the device key that vouches for the request.
	OuterCAR string

	signed, signature []byte
}

// ParseRequest reads a request; trailing bytes are ignored. Errors wrap
// ErrFormat.
func ParseRequest(b []byte) (*Request, error) {
	outer, _, err := tlv.Parse(b)
	if err != nil || outer.Tag != tagRequest {
		return nil, fmt.Errorf("%w: no 67", ErrFormat)
	}
	inner, rest, err := parseFirst(outer.Value)
	if err != nil {
		return nil, err
	}
	list, err := tlv.ParseAll(rest)
	if err != nil {
		return nil, fmt.Errorf("%w: request does not parse", ErrFormat)
	}
	car, ok := list.Find(tagCAR)
	sig, ok2 := list.Find(tagSignature)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%w: request without outer signature", ErrFormat)
	}
	return &Request{
		Raw: outer.Raw, Inner: inner, OuterCAR: printable(car.Value),
		signed: append(append([]byte(nil), inner.Raw...), car.Raw...), signature: sig.Value,
	}, nil
}

// PublicKey is the key that the request is for.
func (r *Request) PublicKey() (*pubkey.Key, error) { return r.Inner.PublicKey(nil) }

// VerifyInner checks that the key signed its own request. The error wraps
// ErrUntrusted.
func (r *Request) VerifyInner() error {
	key, err := r.PublicKey()
	if err != nil {
		return err
	}
	return r.Inner.Verify(key)
}

// VerifyOuter checks the device's signature. The error wraps ErrUntrusted.
func (r *Request) VerifyOuter(device *pubkey.Key) error {
	digest := sha256.Sum256(r.signed)
	if err := device.Verify(crypto.SHA256, digest[:], r.signature); err != nil {
		return fmt.Errorf("%w: request of %s, signed as %s: %w", ErrUntrusted, r.Inner.CHR, r.OuterCAR, err)
	}
	return nil
}

// BuildRequest makes a request around a certificate made by Build; sign is the
// device's and is given TLV(7F21) ‖ TLV(42).
func BuildRequest(inner []byte, outerCAR string, sign func(message []byte) ([]byte, error)) ([]byte, error) {
	message := tlv.Append(append([]byte(nil), inner...), tagCAR, []byte(outerCAR))
	sig, err := sign(message)
	if err != nil {
		return nil, err
	}
	return tlv.Encode(tagRequest, message, tlv.Encode(tagSignature, sig)), nil
}

// KeySpec is what GENERATE ASYMMETRIC KEY PAIR is given: the content of a
// certificate body (fact sheet §2.7).
type KeySpec struct {
	CAR, CHR, OuterCAR string
	// Curve is set for EC; RSABits (modulus) and RSAExponent for RSA.
	Curve                *curve.Curve
	RSABits, RSAExponent int
	// Counter limits the number of uses; nil is no limit.
	Counter *uint32
	// Algorithms is the list of allowed algorithm bytes; empty is all.
	Algorithms []byte
	// Domain is the key domain; nil is not sent.
	Domain *byte
}

// Encode gives the data field of the command.
func (s KeySpec) Encode() []byte {
	out := tlv.Encode(tagProfile, []byte{0})
	out = tlv.Append(out, tagCAR, []byte(s.CAR))
	var key []byte
	if s.Curve != nil {
		key = tlv.Append(encodeDomain(s.Curve), 0x87, []byte{1})
	} else {
		key = tlv.Encode(tagOID, oidRSA)
		key = tlv.Append(key, 0x82, big.NewInt(int64(s.RSAExponent)).FillBytes(make([]byte, 3)))
		key = tlv.Append(key, 0x02, []byte{byte(s.RSABits >> 8), byte(s.RSABits)})
	}
	out = tlv.Append(out, tagPublicKey, key)
	out = tlv.Append(out, tagCHR, []byte(s.CHR))
	if s.OuterCAR != "" {
		out = tlv.Append(out, 0x45, []byte(s.OuterCAR))
	}
	if s.Counter != nil {
		c := *s.Counter
		out = tlv.Append(out, 0x90, []byte{byte(c >> 24), byte(c >> 16), byte(c >> 8), byte(c)})
	}
	if len(s.Algorithms) > 0 {
		out = tlv.Append(out, 0x91, s.Algorithms)
	}
	if s.Domain != nil {
		out = tlv.Append(out, 0x92, []byte{*s.Domain})
	}
	return out
}

// ParseKeySpec is the token's side of Encode. Errors wrap ErrFormat.
func ParseKeySpec(data []byte) (KeySpec, error) {
	var s KeySpec
	list, err := tlv.ParseAll(data)
	if err != nil {
		return s, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	for _, e := range list {
		switch e.Tag {
		case tagCAR:
			s.CAR = printable(e.Value)
		case tagCHR:
			s.CHR = printable(e.Value)
		case 0x45:
			s.OuterCAR = printable(e.Value)
		case 0x90:
			if len(e.Value) != 4 {
				return s, fmt.Errorf("%w: use counter of %d bytes", ErrFormat, len(e.Value))
			}
			c := uint32(e.Value[0])<<24 | uint32(e.Value[1])<<16 | uint32(e.Value[2])<<8 | uint32(e.Value[3])
			s.Counter = &c
		case 0x91:
			if len(e.Value) > 16 {
				return s, fmt.Errorf("%w: %d algorithms", ErrFormat, len(e.Value))
			}
			s.Algorithms = e.Value
		case 0x92:
			if len(e.Value) != 1 {
				return s, fmt.Errorf("%w: key domain of %d bytes", ErrFormat, len(e.Value))
			}
			s.Domain = &e.Value[0]
		}
	}
	if len(s.CHR) > 16 || len(s.CAR) > 16 {
		return s, fmt.Errorf("%w: reference longer than 16 characters", ErrFormat)
	}
	key, ok := list.Find(tagPublicKey)
	if !ok {
		return s, fmt.Errorf("%w: no public key template", ErrFormat)
	}
	fields, err := key.Children()
	if err != nil {
		return s, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if bits, ok := fields.Find(0x02); ok && len(bits.Value) == 2 {
		s.RSABits = int(bits.Value[0])<<8 | int(bits.Value[1])
		s.RSAExponent = 65537
		if e, ok := fields.Find(0x82); ok && len(e.Value) <= 4 {
			s.RSAExponent = int(new(big.Int).SetBytes(e.Value).Int64())
		}
		return s, nil
	}
	if s.Curve, err = parseDomain(fields); err != nil {
		return s, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return s, nil
}
