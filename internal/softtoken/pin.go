package softtoken

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/tlv"
)

// References of PINs, and bits of the options (fact sheet §1.3, §2.2).
const (
	pinUser = 0x81
	pinSO   = 0x88

	optionUnblock     = 0x0001
	optionTransport   = 0x0002
	optionUnblockOnly = 0x0020
	// The others stand for a session PIN, public key authentication and more
	// that is not imitated; they are refused rather than taken and ignored.
	optionsKnown = optionUnblock | optionTransport | optionUnblockOnly

	soTries    = 15
	maxDomains = 16
)

// pin is a PIN that can be compared, with its retry counter. It is not kept in
// clear, though whoever has the file can try all PINs in no time: the keys
// beside it are in clear anyway.
type pin struct {
	Length     int
	Salt, Hash []byte
	// Tries are left of Set.
	Tries, Set int
}

func (p *pin) clone() *pin {
	if p == nil {
		return nil
	}
	c := *p
	c.Salt, c.Hash = bytes.Clone(p.Salt), bytes.Clone(p.Hash)
	return &c
}

func newPIN(value []byte, tries int) *pin {
	p := &pin{Length: len(value), Salt: random(16), Tries: tries, Set: tries}
	p.Hash = p.hash(value)
	return p
}

func (p *pin) hash(value []byte) []byte {
	h := hmac.New(sha256.New, p.Salt)
	_, _ = h.Write(value) // a hash never fails
	return h.Sum(nil)
}

func (p *pin) is(value []byte) bool { return hmac.Equal(p.hash(value), p.Hash) }

func (p *pin) valid() bool {
	return p.Length >= 6 && p.Length <= 16 && p.Set >= 1 && p.Set <= soTries && p.Tries >= 0 && p.Tries <= p.Set
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// compare takes a try, stores that, and only then looks: a power cut cannot
// win a try back. A right value gives all tries back; the caller stores that
// with whatever else it does.
func (t *Token) compare(p *pin, value []byte) answer {
	if p.Tries == 0 {
		return status(apdu.Blocked)
	}
	p.Tries--
	if a := t.commit(ok()); a.refused() {
		return a
	}
	if !p.is(value) {
		if p.Tries == 0 {
			return status(apdu.Blocked)
		}
		return status(apdu.WrongPIN | apdu.SW(p.Tries))
	}
	p.Tries = p.Set
	return ok()
}

func (t *Token) verify(c apdu.Command) answer {
	if c.P1 != 0 {
		return status(apdu.WrongParameters)
	}
	s := t.state
	switch c.P2 {
	case pinUser, pinSO:
	default: // 85 and 86: no biometric templates, so no PIN pad
		return status(apdu.NotFound)
	}
	p := s.PIN
	if c.P2 == pinSO {
		p = s.SO
	}
	if !s.Initialised || p == nil {
		return status(apdu.NotFound)
	}
	if len(c.Data) == 0 {
		switch {
		case c.Le != apdu.NoLe:
			return status(apdu.WrongLength)
		case c.P2 == pinUser && t.loggedIn:
			return ok()
		case p.Tries == 0:
			return status(apdu.Blocked)
		case c.P2 == pinUser && s.Transport:
			return status(apdu.NotUsable)
		}
		return status(apdu.WrongPIN | apdu.SW(p.Tries))
	}
	switch {
	case c.P2 == pinSO: // the SO-PIN is no login
		return status(apdu.WrongParameters)
	case len(c.Data) < 6 || len(c.Data) > 16:
		return status(apdu.WrongData)
	case s.Transport:
		return status(apdu.NotUsable)
	}
	t.loggedIn = false
	a := t.compare(p, c.Data)
	if !a.refused() {
		a = t.commit(a)
	}
	t.loggedIn = !a.refused()
	return a
}

// changePIN is CHANGE REFERENCE DATA: old ‖ new, and the token knows how long
// the old one is. A wrong old PIN ends the login, a right one does not log in.
func (t *Token) changePIN(c apdu.Command) answer {
	s := t.state
	p, least, most := s.PIN, 6, 16
	if c.P2 == pinSO {
		p, least, most = s.SO, 8, 8
	}
	switch {
	case c.P1 != 0 || c.P2 != pinUser && c.P2 != pinSO:
		return status(apdu.WrongParameters)
	case !s.Initialised || p == nil:
		return status(apdu.NotFound)
	case len(c.Data) < p.Length+least || len(c.Data) > p.Length+most:
		return status(apdu.WrongLength)
	}
	if a := t.compare(p, c.Data[:p.Length]); a.refused() {
		if c.P2 == pinUser && a.sw != apdu.MemoryFailure {
			t.loggedIn = false
		}
		return a
	}
	next := newPIN(c.Data[p.Length:], p.Set)
	if c.P2 == pinSO {
		s.SO = next
	} else {
		s.PIN, s.Transport = next, false
	}
	return t.commit(ok())
}

// unblock is RESET RETRY COUNTER: SO-PIN ‖ new PIN, or with P1=01 the SO-PIN
// alone. It ends the login.
func (t *Token) unblock(c apdu.Command) answer {
	s := t.state
	switch {
	case c.P2 != pinUser || c.P1 > 1:
		return status(apdu.WrongParameters)
	case !s.Initialised:
		return status(apdu.NotFound)
	case s.Options&optionUnblock == 0, c.P1 == 0 && s.Options&optionUnblockOnly != 0:
		return status(apdu.Conditions)
	case c.P1 == 0 && (len(c.Data) < 8+6 || len(c.Data) > 8+16), c.P1 == 1 && len(c.Data) != 8:
		return status(apdu.WrongLength)
	}
	if a := t.compare(s.SO, c.Data[:8]); a.refused() {
		return a
	}
	t.loggedIn = false
	if c.P1 == 0 {
		s.PIN, s.Transport = newPIN(c.Data[8:], s.PIN.Set), false
	}
	s.PIN.Tries = s.PIN.Set
	return t.commit(ok())
}

// initialise is INITIALIZE DEVICE (fact sheet §2.4).
func (t *Token) initialise(c apdu.Command) answer {
	if c.P1 != 0 || c.P2 != 0 {
		return status(apdu.WrongParameters)
	}
	list, err := tlv.ParseAll(c.Data)
	if err != nil {
		return status(apdu.WrongData)
	}
	seen := map[uint16]bool{}
	for _, e := range list {
		switch e.Tag {
		case 0x80, 0x81, 0x82, 0x91, 0x92, 0x97:
		default: // public key authentication, biometric servers: not imitated
			return status(apdu.WrongData)
		}
		if seen[e.Tag] {
			return status(apdu.WrongData)
		}
		seen[e.Tag] = true
	}
	value := func(tag uint16, least, most int) ([]byte, bool) {
		e, found := list.Find(tag)
		return e.Value, !found || len(e.Value) >= least && len(e.Value) <= most
	}
	options, ok1 := value(0x80, 2, 2)
	userPIN, ok2 := value(0x81, 6, 16)
	soPIN, ok3 := value(0x82, 8, 8)
	retries, ok4 := value(0x91, 1, 1)
	shares, ok5 := value(0x92, 1, 1)
	slots, ok6 := value(0x97, 1, 1)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 || userPIN == nil || soPIN == nil || shares != nil && slots != nil {
		return status(apdu.WrongData)
	}
	if slots != nil && (t.state.Major < 3 || slots[0] < 1 || slots[0] > maxDomains) {
		return status(apdu.WrongData)
	}
	var bits uint16
	if options != nil {
		bits = uint16(options[0])<<8 | uint16(options[1])
	}
	if bits&^optionsKnown != 0 {
		return status(apdu.WrongData)
	}
	tries := 3
	if retries != nil {
		tries = int(retries[0])
	}
	if most := maxTries(len(userPIN)); tries < 1 || tries > most {
		return status(apdu.WrongData)
	}
	if t.state.SO != nil {
		switch a := t.compare(t.state.SO, soPIN); {
		case a.sw == apdu.Blocked, a.sw == apdu.MemoryFailure:
			return a
		case a.refused():
			return status(apdu.NotAllowed)
		}
	}
	s := t.state
	s.wipeContents()
	s.forget()
	s.PIN = newPIN(userPIN, tries)
	if s.SO == nil {
		s.SO = newPIN(soPIN, soTries)
	}
	s.Initialised, s.Options, s.Transport = true, bits, bits&optionTransport != 0
	switch {
	case shares != nil:
		s.Classic = true
		s.Domains = []domain{newDomain(int(shares[0]))}
	case slots != nil:
		s.Domains = make([]domain, slots[0])
	}
	t.loggedIn, t.current = false, 0
	return t.commit(ok())
}

// maxTries is the highest retry counter for a PIN of n bytes.
func maxTries(n int) int {
	switch n {
	case 6:
		return 3
	case 7:
		return 5
	}
	return 10
}
