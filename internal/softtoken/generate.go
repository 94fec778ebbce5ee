package softtoken

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/tlv"
)

// mayMake tells why no key can be made or imported at a reference now.
func (t *Token) mayMake(reference byte) (answer, bool) {
	switch {
	case !t.loggedIn:
		return status(apdu.NotAuthorised), false
	case reference == 0:
		return status(apdu.WrongParameters), false
	case t.state.Keys[reference] != nil:
		return status(apdu.Conditions), false
	}
	return answer{}, true
}

// inDomain gives the key its domain; while a DKEK misses shares nothing can be
// made (fact sheet §9, 34).
func (t *Token) inDomain(k *key, wanted *byte) (answer, bool) {
	s := t.state
	if wanted != nil {
		k.Domain = int(*wanted)
	}
	if len(s.Domains) == 0 {
		if k.Domain != 0 {
			return status(apdu.WrongData), false
		}
		return answer{}, true
	}
	if k.Domain >= len(s.Domains) {
		return status(apdu.WrongData), false
	}
	d := s.Domains[k.Domain]
	if d.Created && !d.ready() {
		return status(apdu.Conditions), false
	}
	if d.Created {
		kcv := d.kcv()
		k.KEK = kcv[:]
	}
	return answer{}, true
}

// generate is GENERATE ASYMMETRIC KEY PAIR: it answers the authenticated
// request and keeps it in CExx (fact sheet §2.7, §5.3).
func (t *Token) generate(c apdu.Command) answer {
	if a, may := t.mayMake(c.P1); !may {
		return a
	}
	if c.P2 != 0 {
		return status(apdu.WrongParameters)
	}
	if len(c.Data) == 0 || !isExtendedLe(c) {
		return status(apdu.WrongLength)
	}
	spec, err := cvc.ParseKeySpec(c.Data)
	if err != nil || spec.Curve != nil && !wholeDomain(c.Data, spec.Curve) {
		return status(apdu.WrongData)
	}
	k := &key{Counter: spec.Counter, Algorithms: append([]byte(nil), spec.Algorithms...)}
	if a, may := t.inDomain(k, spec.Domain); !may {
		return a
	}
	var public *pubkey.Key
	var sign func([]byte) ([]byte, error)
	if spec.Curve != nil {
		public, sign, err = t.generateEC(k, spec.Curve)
	} else {
		if !t.state.takesRSA(spec.RSABits) || spec.RSAExponent != 65537 {
			return status(apdu.WrongData)
		}
		if spec.RSABits > t.state.free() { // found before the long search
			return status(apdu.NoMemory)
		}
		public, sign, err = t.generateRSA(k, spec.RSABits)
	}
	if err != nil {
		return status(apdu.Internal)
	}
	if spec.CHR == "" {
		spec.CHR = t.state.Serial + "00001"
	}
	if spec.CAR == "" {
		spec.CAR = t.state.deviceCHR()
	}
	inner, err := cvc.Build(cvc.Template{CAR: spec.CAR, CHR: spec.CHR, Key: public}, sign)
	if err != nil {
		return status(apdu.Internal)
	}
	request, err := cvc.BuildRequest(inner, t.state.deviceCHR(), plainSigner(deviceCurve, t.state.DeviceKey))
	if err != nil {
		return status(apdu.Internal)
	}
	fid := prefixRequest<<8 | uint16(c.P1)
	need := k.size() + len(request)
	if old, there := t.state.Files[fid]; there {
		need -= len(old)
	} else {
		need += fileOverhead
	}
	if need > t.state.free() {
		return status(apdu.NoMemory)
	}
	t.state.Keys[c.P1] = k
	t.state.Files[fid] = request
	return t.commit(ok(request...))
}

// wholeDomain tells whether all domain parameters are there, those that have
// one length at that length (fact sheet §2.7). That they are the curve's is
// known already.
func wholeDomain(data []byte, c *curve.Curve) bool {
	list, err := tlv.ParseAll(data)
	if err != nil {
		return false
	}
	template, found := list.Find(0x7F49)
	if !found {
		return false
	}
	fields, err := template.Children()
	if err != nil {
		return false
	}
	for tag, length := range map[uint16]int{0x81: c.FieldBytes(), 0x82: c.FieldBytes(), 0x83: 0, 0x84: 1 + 2*c.FieldBytes(), 0x85: 0} {
		e, found := fields.Find(tag)
		if !found || length > 0 && len(e.Value) != length {
			return false
		}
	}
	return true
}

// takesRSA goes by the firmware: 4096 bits came with the 4K cards.
func (s *state) takesRSA(bits int) bool {
	switch bits {
	case 1024, 1536, 2048:
		return true
	case 3072, 4096:
		return s.Major >= 3
	}
	return false
}

func (t *Token) generateEC(k *key, c *curve.Curve) (*pubkey.Key, func([]byte) ([]byte, error), error) {
	d, x, y, err := c.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	k.Kind, k.Bits, k.Curve, k.Private = pkcs15.EC, c.Bits, c.Name, d
	return &pubkey.Key{Curve: c, X: x, Y: y}, plainSigner(c, d), nil
}

func (t *Token) generateRSA(k *key, bits int) (*pubkey.Key, func([]byte) ([]byte, error), error) {
	r, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, nil, err
	}
	k.Kind, k.Bits, k.Private = pkcs15.RSA, bits, x509.MarshalPKCS1PrivateKey(r)
	return &pubkey.Key{RSA: &r.PublicKey}, func(message []byte) ([]byte, error) {
		digest := sha256.Sum256(message)
		return rsa.SignPKCS1v15(nil, r, crypto.SHA256, digest[:])
	}, nil
}

// plainSigner signs as certificates want it: r ‖ s over SHA-256.
func plainSigner(c *curve.Curve, d []byte) func([]byte) ([]byte, error) {
	return func(message []byte) ([]byte, error) {
		digest := sha256.Sum256(message)
		r, s, err := c.Sign(rand.Reader, d, digest[:])
		if err != nil {
			return nil, err
		}
		n := (c.N.BitLen() + 7) / 8
		return append(fill(r, n), fill(s, n)...), nil
	}
}

func fill(v *big.Int, n int) []byte { return v.FillBytes(make([]byte, n)) }

// generateAES is GENERATE SYMMETRIC KEY; there is no answer data.
func (t *Token) generateAES(c apdu.Command) answer {
	if t.state.Major < 3 {
		return status(apdu.UnknownINS)
	}
	if a, may := t.mayMake(c.P1); !may {
		return a
	}
	if c.P2 < 0xB0 || c.P2 > 0xB2 {
		return status(apdu.WrongParameters)
	}
	list, err := tlv.ParseAll(c.Data)
	if err != nil {
		return status(apdu.WrongData)
	}
	k := &key{Kind: pkcs15.AES}
	var wanted *byte
	for _, e := range list {
		switch {
		case e.Tag == 0x91 && len(e.Value) <= maxAlgorithms:
			k.Algorithms = append([]byte(nil), e.Value...)
		case e.Tag == 0x90 && len(e.Value) == 4:
			n := uint32(e.Value[0])<<24 | uint32(e.Value[1])<<16 | uint32(e.Value[2])<<8 | uint32(e.Value[3])
			k.Counter = &n
		case e.Tag == 0x92 && len(e.Value) == 1:
			wanted = &e.Value[0]
		default:
			return status(apdu.WrongData)
		}
	}
	if a, may := t.inDomain(k, wanted); !may {
		return a
	}
	k.Private = random(16 + 8*int(c.P2-0xB0))
	k.Bits = 8 * len(k.Private)
	if k.size() > t.state.free() {
		return status(apdu.NoMemory)
	}
	t.state.Keys[c.P1] = k
	return t.commit(ok())
}
