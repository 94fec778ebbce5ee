package softtoken

import (
	"slices"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/tlv"
)

// Files (fact sheet §3).
const (
	prefixKey       = 0xCC
	prefixProtected = 0xCD
	prefixRequest   = 0xCE

	fidDevice    = 0x2F02
	fidTokenInfo = 0x2F03
	fidScratch   = 0x2F10

	maxFile      = 0x7FFF
	fileOverhead = 16 // an assumption; no source tells
)

func prefix(fid uint16) byte { return byte(fid >> 8) }

// writable are the prefixes that a host may write.
var writable = []byte{0xC4, 0xC8, 0xC9, 0xCA, 0xCB, prefixProtected, prefixRequest, 0xCF}

func canWrite(fid uint16) bool {
	return fid == fidTokenInfo || fid == fidScratch || slices.Contains(writable, prefix(fid))
}

// content gives a file; the scratch EF is one that no list shows.
func (s *state) content(fid uint16) ([]byte, bool) {
	if fid == fidDevice {
		return s.DeviceCertificates, true
	}
	b, found := s.Files[fid]
	return b, found
}

// used is the memory in use.
func (s *state) used() int {
	n := 0
	for _, b := range s.Files {
		n += len(b) + fileOverhead
	}
	for _, k := range s.Keys {
		n += k.size()
	}
	return n
}

func (s *state) free() int { return max(0, s.Memory-s.used()) }

// selectFile selects an EF or key; unlike SELECT by AID it leaves the login.
func (t *Token) selectFile(c apdu.Command) answer {
	switch {
	case c.P1 != 0: // EF.DIR by path and the like
		return status(apdu.WrongParameters)
	case c.P2 != 0 && c.P2 != 4 && c.P2 != 0x0C:
		return status(apdu.WrongParameters)
	case len(c.Data) != 2, c.P2 == 0x0C && c.Le != apdu.NoLe, c.P2 != 0x0C && !isShortLe(c):
		return status(apdu.WrongLength)
	}
	fid := uint16(c.Data[0])<<8 | uint16(c.Data[1])
	var size int
	var proprietary []byte
	if prefix(fid) == prefixKey {
		k := t.state.Keys[byte(fid)]
		if k == nil && byte(fid) != 0 {
			return status(apdu.FileNotFound)
		}
		if k != nil {
			proprietary = k.proprietary()
		}
	} else {
		b, found := t.state.content(fid)
		if !found {
			return status(apdu.FileNotFound)
		}
		size = len(b)
	}
	t.current = fid
	if c.P2 == 0x0C {
		return ok()
	}
	fcp := tlv.Encode(0x81, []byte{byte(size >> 8), byte(size)})
	fcp = tlv.Append(fcp, 0x82, []byte{1})
	fcp = tlv.Append(fcp, 0x83, c.Data)
	fcp = tlv.Append(fcp, 0x8A, []byte{5})
	if len(proprietary) > 0 {
		fcp = tlv.Append(fcp, 0xA5, proprietary)
	}
	return ok(tlv.Encode(0x62, fcp)...)
}

// target gives the file that P1P2 names, 0000 being the current one.
func (t *Token) target(c apdu.Command) uint16 {
	if fid := uint16(c.P1)<<8 | uint16(c.P2); fid != 0 {
		return fid
	}
	return t.current
}

// offset reads 54 02 hi lo.
func offset(e tlv.Element) (int, bool) {
	if e.Tag != 0x54 || len(e.Value) != 2 {
		return 0, false
	}
	return int(e.Value[0])<<8 | int(e.Value[1]), true
}

// read is READ BINARY with odd INS. As with update, a file named in P1P2 is
// the current one from then on (ISO 7816-4).
func (t *Token) read(c apdu.Command) answer {
	list, err := tlv.ParseAll(c.Data)
	if err != nil || len(list) != 1 {
		return status(apdu.WrongData)
	}
	from, fine := offset(list[0])
	switch {
	case !fine:
		return status(apdu.WrongData)
	case c.Le == apdu.NoLe:
		return status(apdu.WrongLength)
	}
	fid := t.target(c)
	b, found := t.state.content(fid)
	switch {
	case prefix(fid) == prefixKey, prefix(fid) == prefixProtected && !t.loggedIn, fid == fidScratch:
		return status(apdu.NotAuthorised)
	case !found:
		return status(apdu.FileNotFound)
	}
	t.current = fid
	if from > len(b) { // at the very end OpenSC 0.23 needs 6282: it asks until there is no more
		return status(apdu.OffsetPastEnd)
	}
	if rest := b[from:]; c.Le > len(rest) {
		return answer{rest, apdu.EndOfFile}
	}
	return ok(b[from : from+c.Le]...)
}

// update writes 54 02 offset, 53 data: it makes the file and enlarges it, and
// never shrinks one, but for the scratch EF, which begins anew at offset 0:
// OpenSC writes one blob after the other and deletes none.
func (t *Token) update(c apdu.Command) answer {
	list, err := tlv.ParseAll(c.Data)
	if err != nil || len(list) != 2 || list[1].Tag != 0x53 {
		return status(apdu.WrongData)
	}
	at, fine := offset(list[0])
	data := list[1].Value
	fid := t.target(c)
	switch {
	case !fine:
		return status(apdu.WrongData)
	case !t.loggedIn:
		return status(apdu.NotAuthorised)
	case fid == 0: // no file is current
		return status(apdu.FileNotFound)
	case !canWrite(fid):
		return status(apdu.NotAuthorised)
	}
	old, there := t.state.Files[fid]
	keep := old
	if fid == fidScratch && at == 0 {
		keep = nil
	}
	end := max(at+len(data), len(keep))
	grown := end - len(old)
	if !there {
		grown += fileOverhead
	}
	switch {
	case at > len(keep):
		return status(apdu.OffsetPastEnd)
	case t.state.MaxFile > 0 && end > t.state.MaxFile && fid != fidScratch:
		return status(apdu.WrongLength)
	case end > maxFile, grown > 0 && grown > t.state.free():
		return status(apdu.NoMemory)
	}
	next := make([]byte, end)
	copy(next, keep)
	copy(next[at:], data)
	t.state.Files[fid] = next
	a := t.commit(ok())
	if !a.refused() {
		t.current = fid // OpenSC makes a file by its number and then fills the one selected
	}
	return a
}

// remove is DELETE FILE. Of a key it deletes the key alone.
func (t *Token) remove(c apdu.Command) answer {
	switch {
	case c.P1 != 2 || c.P2 != 0 && c.P2 != 0x80:
		return status(apdu.WrongParameters)
	case len(c.Data) != 2:
		return status(apdu.WrongLength)
	case !t.loggedIn:
		return status(apdu.NotAuthorised)
	}
	fid := uint16(c.Data[0])<<8 | uint16(c.Data[1])
	switch {
	case prefix(fid) == prefixKey && byte(fid) != 0:
		k := t.state.Keys[byte(fid)]
		if k == nil {
			return status(apdu.FileNotFound)
		}
		clear(k.Private)
		delete(t.state.Keys, byte(fid))
	case !canWrite(fid):
		return status(apdu.NotAuthorised)
	default:
		if _, found := t.state.Files[fid]; !found {
			return status(apdu.FileNotFound)
		}
		delete(t.state.Files, fid)
	}
	a := t.commit(ok())
	if !a.refused() && fid == t.current {
		t.current = 0
	}
	return a
}

// enumerate lists files, keys last, as real tokens do (fact sheet §2.5).
func (t *Token) enumerate(c apdu.Command) answer {
	switch {
	case c.P1 != 0 || c.P2 != 0:
		return status(apdu.WrongParameters)
	case len(c.Data) != 0 || !isExtendedLe(c):
		return status(apdu.WrongLength)
	}
	fids := []uint16{fidDevice}
	for fid := range t.state.Files {
		if fid != fidScratch {
			fids = append(fids, fid)
		}
	}
	slices.Sort(fids)
	keys := []uint16{prefixKey << 8}
	for n := range t.state.Keys {
		keys = append(keys, prefixKey<<8|uint16(n))
	}
	slices.Sort(keys)
	var out []byte
	for _, fid := range append(fids, keys...) {
		out = append(out, byte(fid>>8), byte(fid))
	}
	return ok(out...)
}
