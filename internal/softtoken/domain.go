package softtoken

import (
	"crypto/subtle"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
)

// newDomain waits for shares; of none it makes a random DKEK, which never
// leaves.
func newDomain(shares int) domain {
	d := domain{Created: true, Shares: shares, Outstanding: shares, DKEK: make([]byte, dkek.Size)}
	if shares == 0 {
		d.DKEK = random(dkek.Size)
	}
	return d
}

// key gives the DKEK of a domain that is ready.
func (d domain) key() (*dkek.Key, error) {
	return dkek.KeyFromBytes(append([]byte(nil), d.DKEK...))
}

func (d domain) kcv() dkek.KCV {
	var v dkek.KCV
	if !d.ready() {
		return v
	}
	if k, err := d.key(); err == nil {
		v = k.KCV()
		k.Wipe()
	}
	return v
}

// keyDomain is 80 52 (fact sheet §2.6). The KCV shows without login, as on the
// real token.
func (t *Token) keyDomain(c apdu.Command) answer {
	s := t.state
	n := int(c.P2)
	switch {
	case len(s.Domains) == 0: // not initialised, or initialised without DKEK
		return status(apdu.UnknownINS)
	case n >= len(s.Domains):
		return status(apdu.WrongParameters)
	case c.P1 == 2 || c.P1 > 4: // XKEK domains are not imitated
		return status(apdu.WrongParameters)
	case !isShortLe(c):
		return status(apdu.WrongLength)
	}
	d := &s.Domains[n]
	if c.P1 != 0 && !t.loggedIn {
		return status(apdu.NotAuthorised)
	}
	switch c.P1 {
	case 0: // query, or import of a share
		switch {
		case !d.Created:
			return status(apdu.NotFound)
		case len(c.Data) == 0:
			return t.domainStatus(n)
		case len(c.Data) != dkek.Size:
			return status(apdu.WrongLength)
		case d.Outstanding == 0:
			return status(apdu.Conditions)
		}
		d.DKEK = append([]byte(nil), d.DKEK...)
		subtle.XORBytes(d.DKEK, d.DKEK, c.Data)
		d.Outstanding--
	case 1: // create
		switch {
		case len(c.Data) != 1:
			return status(apdu.WrongLength)
		case d.Created: // that of a classic token always is
			return status(apdu.Conditions)
		}
		*d = newDomain(int(c.Data[0]))
	case 3, 4: // delete the domain; or its key alone
		switch {
		case len(c.Data) != 0:
			return status(apdu.WrongLength)
		case !d.Created:
			return status(apdu.NotFound)
		case s.Classic, c.P1 == 3 && s.domainUsed(n):
			return status(apdu.Conditions)
		}
		clear(d.DKEK)
		if c.P1 == 3 {
			*d = domain{}
			return t.commit(ok())
		}
		*d = newDomain(max(d.Shares, 1)) // a random DKEK makes way for one share
	}
	if a := t.commit(ok()); a.sw != apdu.OK {
		return a
	}
	return t.domainStatus(n)
}

func (t *Token) domainStatus(n int) answer {
	d := t.state.Domains[n]
	kcv := d.kcv()
	return ok(append([]byte{byte(d.Shares), byte(d.Outstanding)}, kcv[:]...)...)
}

func (s *state) domainUsed(n int) bool {
	for _, k := range s.Keys {
		if k.Domain == n {
			return true
		}
	}
	return false
}
