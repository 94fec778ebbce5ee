package softtoken

import (
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
	// Curve names that of an EC key.
	Curve string `json:",omitempty"`
	// Private is PKCS#1 DER for RSA, the scalar for EC, the key itself for AES.
	Private    []byte
	Counter    *uint32 `json:",omitempty"`
	Algorithms []byte  `json:",omitempty"`
	Domain     int
	// Exportable: a DKEK was configured when the key was made.
	Exportable bool
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
func (k *key) size() int { return k.bits() }

func (k *key) bits() int {
	switch k.Kind {
	case pkcs15.RSA:
		if r, err := k.rsa(); err == nil {
			return r.N.BitLen()
		}
	case pkcs15.EC:
		return curve.ByName(k.Curve).Bits
	case pkcs15.AES:
		return len(k.Private) * 8
	}
	return 0
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
		k.Private = x509.MarshalPKCS1PrivateKey(r)
	case pkcs15.EC:
		if err := p.Check(); err != nil {
			return nil, err
		}
		c, d, _, _ := p.EC()
		k.Curve, k.Private = c.Name, append([]byte(nil), d...)
	default:
		k.Private = append([]byte(nil), p.AES()...)
	}
	return k, nil
}

// allows looks at the list; an empty one allows all.
func (k *key) allows(algorithm byte) bool {
	if len(k.Algorithms) == 0 {
		return true
	}
	for _, a := range k.Algorithms {
		if a == algorithm {
			return true
		}
	}
	return false
}

// usable gives the key that a command wants to use, or the refusal. The use is
// counted, and stored, before it happens.
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
	case len(c.Data) == 0:
		return nil, status(apdu.WrongLength)
	case k.Counter == nil:
		return k, answer{}
	case *k.Counter == 0:
		return nil, status(apdu.NotUsable)
	}
	left := *k.Counter - 1
	k.Counter = &left
	if a := t.commit(ok()); a.sw != apdu.OK {
		return nil, a
	}
	return t.state.Keys[c.P1], answer{}
}
