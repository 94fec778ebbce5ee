// Package pubkey has one public-key type for everything a token can hold: RSA
// and every curve. It is what a stored key, a certificate, a request and an
// SSH line are compared by.
package pubkey

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/crypto/ssh"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/harmless"
)

// Errors to match on.
var (
	// ErrSignature: a signature does not verify under the key.
	ErrSignature = errors.New("signature does not verify")
	// ErrFormat: bytes that are no public key this package knows.
	ErrFormat = errors.New("not a public key of a known kind")
)

// Key is a public key: either RSA is set, or Curve, X and Y are.
type Key struct {
	RSA   *rsa.PublicKey
	Curve *curve.Curve
	X, Y  *big.Int
}

// NewRSA checks that the numbers can be a public key: an odd modulus of 512 to
// 8192 bits, an odd exponent of at least 3.
func NewRSA(n *big.Int, e int) (*Key, error) {
	if n == nil || n.Sign() <= 0 || n.Bit(0) == 0 || n.BitLen() < 512 || n.BitLen() > 8192 {
		return nil, fmt.Errorf("%w: RSA modulus out of range", ErrFormat)
	}
	if e < 3 || e&1 == 0 {
		return nil, fmt.Errorf("%w: RSA exponent %d", ErrFormat, e)
	}
	return &Key{RSA: &rsa.PublicKey{N: n, E: e}}, nil
}

// NewEC checks that the point is on the curve.
func NewEC(c *curve.Curve, x, y *big.Int) (*Key, error) {
	if c == nil || !c.IsOnCurve(x, y) {
		return nil, fmt.Errorf("%w: %w", ErrFormat, curve.ErrPoint)
	}
	return &Key{Curve: c, X: x, Y: y}, nil
}

// Type names the kind as the product prints it: RSA-2048, P-256,
// brainpoolP256r1, secp256k1.
func (k *Key) Type() string {
	if k.RSA != nil {
		return RSAType(k.RSA.N.BitLen())
	}
	return k.Curve.Name
}

// RSAType names RSA keys of a size.
func RSAType(bits int) string { return fmt.Sprintf("RSA-%d", bits) }

// AESType names AES keys of a size; they have no public half.
func AESType(bits int) string { return fmt.Sprintf("AES-%d", bits) }

// Bits is the size of the modulus or of the field.
func (k *Key) Bits() int {
	if k.RSA != nil {
		return k.RSA.N.BitLen()
	}
	return k.Curve.Bits
}

// Equal compares the keys themselves; nil equals nothing.
func (k *Key) Equal(o *Key) bool {
	switch {
	case k == nil || o == nil:
		return false
	case k.RSA != nil:
		return o.RSA != nil && k.RSA.E == o.RSA.E && k.RSA.N.Cmp(o.RSA.N) == 0
	default:
		return o.Curve == k.Curve && k.X.Cmp(o.X) == 0 && k.Y.Cmp(o.Y) == 0
	}
}

var (
	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEC  = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

type spki struct {
	Algorithm pkix.AlgorithmIdentifier
	Key       asn1.BitString
}

// SPKI is the DER SubjectPublicKeyInfo (RFC 5280, RFC 5480), with a named
// curve. crypto/x509 does the same for fewer curves.
func (k *Key) SPKI() []byte {
	var info spki
	if k.RSA != nil {
		der, err := asn1.Marshal(struct {
			N *big.Int
			E int
		}{k.RSA.N, k.RSA.E})
		if err != nil {
			return nil
		}
		info.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue}
		info.Key = asn1.BitString{Bytes: der, BitLength: len(der) * 8}
	} else {
		oid, err := asn1.Marshal(k.Curve.OID)
		if err != nil {
			return nil
		}
		point := k.Curve.Marshal(k.X, k.Y)
		info.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidEC, Parameters: asn1.RawValue{FullBytes: oid}}
		info.Key = asn1.BitString{Bytes: point, BitLength: len(point) * 8}
	}
	der, err := asn1.Marshal(info)
	if err != nil {
		return nil
	}
	return der
}

// ParseSPKI reads a DER SubjectPublicKeyInfo. Errors wrap ErrFormat.
func ParseSPKI(der []byte) (*Key, error) {
	var info spki
	rest, err := asn1.Unmarshal(der, &info)
	if err != nil || len(rest) != 0 || info.Key.BitLength%8 != 0 {
		return nil, fmt.Errorf("%w: SubjectPublicKeyInfo does not parse", ErrFormat)
	}
	switch {
	case info.Algorithm.Algorithm.Equal(oidRSA):
		var pub struct {
			N *big.Int
			E int
		}
		if rest, err := asn1.Unmarshal(info.Key.Bytes, &pub); err != nil || len(rest) != 0 {
			return nil, fmt.Errorf("%w: RSA numbers do not parse", ErrFormat)
		}
		return NewRSA(pub.N, pub.E)
	case info.Algorithm.Algorithm.Equal(oidEC):
		var oid asn1.ObjectIdentifier
		if rest, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &oid); err != nil || len(rest) != 0 {
			return nil, fmt.Errorf("%w: no named curve", ErrFormat)
		}
		c := curve.ByOID(oid)
		if c == nil {
			return nil, fmt.Errorf("%w: curve %s", ErrFormat, oid)
		}
		x, y, err := c.Unmarshal(info.Key.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return NewEC(c, x, y)
	}
	return nil, fmt.Errorf("%w: algorithm %s", ErrFormat, info.Algorithm.Algorithm)
}

// FromCertificate takes the public key out of an X.509 certificate. It reads
// the SubjectPublicKeyInfo itself, since crypto/x509 knows only four curves.
func FromCertificate(der []byte) (*Key, error) {
	var cert struct {
		TBS struct {
			Version    int `asn1:"optional,explicit,default:0,tag:0"`
			Serial     *big.Int
			Algorithm  pkix.AlgorithmIdentifier
			Issuer     asn1.RawValue
			Validity   asn1.RawValue
			Subject    asn1.RawValue
			PublicKey  asn1.RawValue
			UniqueID   asn1.BitString   `asn1:"optional,tag:1"`
			SubjectID  asn1.BitString   `asn1:"optional,tag:2"`
			Extensions []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	rest, err := asn1.Unmarshal(der, &cert)
	if err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("%w: X.509 certificate does not parse", ErrFormat)
	}
	return ParseSPKI(cert.TBS.PublicKey.FullBytes)
}

// PEM is the SPKI as a PUBLIC KEY block.
func (k *Key) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.SPKI()})
}

// Fingerprint is the SHA-256 of the SPKI.
func (k *Key) Fingerprint() [sha256.Size]byte { return sha256.Sum256(k.SPKI()) }

// SSH is the key as a line of authorized_keys that ends in the label, as
// ssh-keygen -D prints it; empty for the curves that SSH does not know. What is
// not seen in the label, line ends first of all, becomes blanks.
func (k *Key) SSH(label string) string {
	var pub any
	switch {
	case k.RSA != nil:
		pub = k.RSA
	case k.Curve.Name == "P-256" || k.Curve.Name == "P-384" || k.Curve.Name == "P-521":
		p, err := x509.ParsePKIXPublicKey(k.SPKI())
		if err != nil {
			return ""
		}
		pub = p
	default:
		return ""
	}
	s, err := ssh.NewPublicKey(pub)
	if err != nil {
		return ""
	}
	line := string(bytes.TrimRight(ssh.MarshalAuthorizedKey(s), "\n"))
	label = strings.TrimSpace(harmless.Blank(label))
	if label == "" {
		return line
	}
	return line + " " + label
}

// Verify checks a signature of a digest: PKCS#1 v1.5 for RSA, ECDSA for the
// rest, as DER or as plain r ‖ s. A superfluous 00 before r or s, which real
// cards may send (fact sheet §2.9), is taken. The error wraps ErrSignature.
func (k *Key) Verify(hash crypto.Hash, digest, sig []byte) error {
	if k.RSA != nil {
		if err := rsa.VerifyPKCS1v15(k.RSA, hash, digest, sig); err != nil {
			return fmt.Errorf("%w under this %s key", ErrSignature, k.Type())
		}
		return nil
	}
	r, s, ok := splitECDSA(sig, (k.Curve.N.BitLen()+7)/8)
	if !ok || !k.Curve.Verify(k.X, k.Y, digest, r, s) {
		return fmt.Errorf("%w under this %s key", ErrSignature, k.Type())
	}
	return nil
}

// splitECDSA reads plain r ‖ s of n bytes each, or DER. Which one it is shows
// by the length: DER of the same length would need r and s far too short.
func splitECDSA(sig []byte, n int) (r, s *big.Int, ok bool) {
	if len(sig) == 2*n {
		return new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]), true
	}
	var seq asn1.RawValue
	rest, err := asn1.Unmarshal(sig, &seq)
	if err != nil || len(rest) != 0 || seq.Tag != asn1.TagSequence || !seq.IsCompound {
		return nil, nil, false
	}
	var numbers [2]*big.Int
	body := seq.Bytes
	for i := range numbers {
		var v asn1.RawValue
		if body, err = asn1.Unmarshal(body, &v); err != nil || v.Tag != asn1.TagInteger || len(v.Bytes) == 0 {
			return nil, nil, false
		}
		numbers[i] = new(big.Int).SetBytes(v.Bytes)
	}
	return numbers[0], numbers[1], len(body) == 0
}
