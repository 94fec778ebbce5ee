package softtoken

import (
	"slices"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/pkcs15"
)

const (
	// algorithmWrap in a key's list lets it be exported.
	algorithmWrap = 0x92
	maxAlgorithms = 16
)

// wrap is WRAP KEY (fact sheet §2.10).
func (t *Token) wrap(c apdu.Command) answer {
	s := t.state
	switch {
	case c.P2 != algorithmWrap:
		return status(apdu.WrongParameters)
	case len(c.Data) != 0 || !isExtendedLe(c):
		return status(apdu.WrongLength)
	case !t.loggedIn:
		return status(apdu.NotAuthorised)
	case len(s.Domains) == 0:
		return status(apdu.UnknownINS)
	}
	k := s.Keys[c.P1]
	if k == nil {
		return status(apdu.FileNotFound)
	}
	d := s.Domains[k.Domain]
	if !k.exportable(d) {
		return status(apdu.Conditions)
	}
	kek, err := d.key()
	if err != nil {
		return status(apdu.Internal)
	}
	defer kek.Wipe()
	p, err := k.private()
	if err != nil {
		return status(apdu.Internal)
	}
	defer p.Wipe()
	// Before 3.x RSA goes out with its CRT numbers (fact sheet §6.5).
	blob, err := kek.Seal(p, dkek.SealOptions{Algorithms: k.Algorithms, CRT: s.CRTExport || s.Major < 3})
	if err != nil {
		return status(apdu.Internal)
	}
	return ok(blob...)
}

// unwrap is UNWRAP KEY with the blob in the command or in EF 2F10. Whatever is
// wrong with a blob, the answer is the same. It makes the key object alone: no
// description, no certificate, no use counter.
func (t *Token) unwrap(c apdu.Command) answer {
	if c.P2 != 0x93 {
		return status(apdu.WrongParameters)
	}
	if a, may := t.mayMake(c.P1); !may {
		return a
	}
	s := t.state
	switch {
	case len(s.Domains) == 0:
		return status(apdu.UnknownINS)
	case !slices.ContainsFunc(s.Domains, domain.ready):
		return status(apdu.Conditions)
	}
	blob := c.Data
	if len(blob) == 0 {
		if blob = s.Files[fidScratch]; len(blob) == 0 {
			return status(apdu.FileNotFound)
		}
	}
	b, err := dkek.ParseBlob(blob)
	if err != nil || len(b.Algorithms) > maxAlgorithms {
		return status(apdu.WrongData)
	}
	for n, d := range s.Domains {
		if !d.ready() || d.kcv() != b.KCV {
			continue
		}
		k, err := open(d, b)
		if err != nil {
			return status(apdu.WrongData)
		}
		switch {
		case s.Major == 3 && s.Minor == 1 && len(b.Algorithms) > 0:
			return status(apdu.Internal) // that firmware's fault (fact sheet §9, 9)
		case k.Kind == pkcs15.RSA && !s.takesRSA(k.Bits), k.Kind == pkcs15.AES && s.Major < 3:
			return status(apdu.NotSupported)
		case k.size() > s.free():
			return status(apdu.NoMemory)
		}
		k.Domain, k.KEK, k.Algorithms = n, b.KCV[:], b.Algorithms
		s.Keys[c.P1] = k
		return t.commit(ok())
	}
	return status(apdu.WrongData)
}

func open(d domain, b *dkek.Blob) (*key, error) {
	kek, err := d.key()
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	p, err := kek.Open(b)
	if err != nil {
		return nil, err
	}
	defer p.Wipe()
	return fromPrivate(p)
}
