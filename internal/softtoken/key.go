package softtoken

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/tlv"
)

// key is one key object, CCxx.
type key struct {
	Kind pkcs15.Kind
	Bits int // of the modulus, the field, or the AES key
	// Curve names that of an EC key.
	Curve string `json:",omitempty"`
	// Private is PKCS#1 DER for RSA, the scalar for EC, the key itself for AES.
	Private    []byte
	Counter    *uint32 `json:",omitempty"`
	Algorithms []byte  `json:",omitempty"`
	Domain     int
	// KEK is the KCV of the DKEK that was there when the key was made; a key
	// without one can never be exported.
	KEK []byte `json:",omitempty"`
}

func (k *key) clone() *key {
	c := *k
	c.Private, c.Algorithms, c.KEK = bytes.Clone(k.Private), bytes.Clone(k.Algorithms), bytes.Clone(k.KEK)
	if k.Counter != nil {
		n := *k.Counter
		c.Counter = &n
	}
	return &c
}

// exportable: under no other DKEK than the first, and only if the list lets it.
func (k *key) exportable(d domain) bool {
	kcv := d.kcv()
	return d.ready() && bytes.Equal(k.KEK, kcv[:]) && k.allows(algorithmWrap)
}

// proprietary is the content of A5 in the key's FCP.
func (k *key) proprietary() []byte {
	var b []byte
	if k.Counter != nil {
		c := *k.Counter
		b = tlv.Append(b, 0x90, []byte{byte(c >> 24), byte(c >> 16), byte(c >> 8), byte(c)})
	}
	if len(k.Algorithms) > 0 {
		b = tlv.Append(b, 0x91, k.Algorithms)
	}
	return tlv.Append(b, 0x92, []byte{byte(k.Domain)})
}

// size is what the key takes of the memory: as many bytes as it has bits, which
// gives the vendor's numbers (fact sheet §9, 30).
func (k *key) size() int { return k.Bits }

// check looks at what a file says of the key.
func (k *key) check() error {
	fine := len(k.Algorithms) <= maxAlgorithms
	switch k.Kind {
	case pkcs15.RSA:
		r, err := k.rsa()
		fine = fine && err == nil && r.N.BitLen() == k.Bits && len(r.Primes) == 2
	case pkcs15.EC:
		c := curve.ByName(k.Curve)
		fine = fine && c != nil && c.Bits == k.Bits && len(k.Private) == c.FieldBytes() && c.ValidScalar(k.Private)
	case pkcs15.AES:
		n := len(k.Private)
		fine = fine && (n == 16 || n == 24 || n == 32) && k.Bits == 8*n
	default:
		fine = false
	}
	if !fine {
		return errors.New("key")
	}
	return nil
}

func (k *key) rsa() (*rsa.PrivateKey, error) {
	if k.Kind != pkcs15.RSA {
		return nil, errors.New("no RSA key")
	}
	return x509.ParsePKCS1PrivateKey(k.Private)
}

// private gives the key to the wrapping.
func (k *key) private() (*dkek.PrivateKey, error) {
	switch k.Kind {
	case pkcs15.RSA:
		r, err := k.rsa()
		if err != nil {
			return nil, err
		}
		return dkek.NewRSA(r)
	case pkcs15.EC:
		return dkek.NewEC(curve.ByName(k.Curve), append([]byte(nil), k.Private...))
	}
	return dkek.NewAES(append([]byte(nil), k.Private...))
}

// fromPrivate is the way back.
func fromPrivate(p *dkek.PrivateKey) (*key, error) {
	k := &key{Kind: p.Kind()}
	switch k.Kind {
	case pkcs15.RSA:
		r, err := p.RSA()
		if err != nil {
			return nil, err
		}
		k.Bits, k.Private = r.N.BitLen(), x509.MarshalPKCS1PrivateKey(r)
	case pkcs15.EC:
		if err := p.Check(); err != nil {
			return nil, err
		}
		c, d, _, _ := p.EC()
		k.Bits, k.Curve, k.Private = c.Bits, c.Name, append([]byte(nil), d...)
	default:
		k.Private = append([]byte(nil), p.AES()...)
		k.Bits = 8 * len(k.Private)
	}
	return k, nil
}

// allows looks at the list; an empty one allows all.
func (k *key) allows(algorithm byte) bool {
	return len(k.Algorithms) == 0 || bytes.IndexByte(k.Algorithms, algorithm) >= 0
}

// usable gives the key that a command wants to use, or the refusal.
func (t *Token) usable(c apdu.Command) (*key, answer) {
	if !t.loggedIn {
		return nil, status(apdu.NotAuthorised)
	}
	k := t.state.Keys[c.P1]
	switch {
	case k == nil:
		return nil, status(apdu.NotFound)
	case !k.allows(c.P2):
		return nil, status(apdu.NotSupported)
	case len(c.Data) == 0 || c.Le == apdu.NoLe:
		return nil, status(apdu.WrongLength)
	case k.Counter != nil && *k.Counter == 0:
		return nil, status(apdu.NotUsable)
	}
	return k, ok()
}

// use counts the use, stores that, and only then gives the result away; what is
// refused for its input costs no use. A result longer than Le has no room.
func (t *Token) use(c apdu.Command, k *key, a answer) answer {
	switch {
	case a.refused():
		return a
	case len(a.data) > c.Le:
		return status(apdu.WrongLength)
	case k.Counter == nil:
		return a
	}
	left := *k.Counter - 1
	k.Counter = &left
	return t.commit(a)
}
