package softtoken

import (
	"bytes"
	"context"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/channel"
	"hsmbackup/internal/tlv"
)

// answer is what a command gives.
type answer struct {
	data []byte
	sw   apdu.SW
}

func ok(data ...byte) answer   { return answer{data, apdu.OK} }
func status(sw apdu.SW) answer { return answer{nil, sw} }

func (a answer) refused() bool { return a.sw != apdu.OK }

// Transmit carries one command out. Its error is that of a fault; whatever a
// token can answer is in the answer.
func (t *Token) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return nil, errClosed
	}
	if cut := t.state.ReaderCut; cut > 0 && len(command) > cut {
		command = command[:cut]
	}
	t.count++
	n := t.count
	c, err := apdu.Parse(command)
	if t.fault != nil {
		if sw, err := t.fault(Before, n, c); err != nil || sw != 0 {
			return t.fail(sw, err)
		}
	}
	var a answer
	switch {
	case err != nil, len(command) > t.state.APDULimit:
		a = status(apdu.WrongLength)
	default:
		a = t.process(c)
	}
	if t.fault != nil {
		if sw, err := t.fault(After, n, c); err != nil || sw != 0 {
			return t.fail(sw, err)
		}
	}
	return apdu.Response{Data: a.data, SW: a.sw}.Bytes(), nil
}

func (t *Token) fail(sw apdu.SW, err error) ([]byte, error) {
	if err != nil {
		t.reset() // pulled, or reset by another program
		return nil, err
	}
	return apdu.Response{SW: sw}.Bytes(), nil
}

// commit saves the state and gives the answer, or 6581 if that failed: nothing
// is answered that a power cut could undo.
func (t *Token) commit(a answer) answer {
	if err := t.save(); err != nil {
		return status(apdu.MemoryFailure)
	}
	return a
}

// process dispatches by class and instruction (fact sheet §2.0).
func (t *Token) process(c apdu.Command) answer {
	if channel.IsSecured(c) {
		return t.secured(c)
	}
	if c.CLA != 0x00 && c.CLA != 0x80 {
		return status(apdu.UnknownCLA) // no chaining
	}
	if c.CLA == 0 && c.INS == 0xA4 && c.P1 == 4 {
		return t.selectAID(c)
	}
	if !t.selected {
		return status(apdu.UnknownINS)
	}
	switch uint16(c.CLA)<<8 | uint16(c.INS) {
	case 0x00A4:
		return t.selectFile(c)
	case 0x0020:
		return t.verify(c)
	case 0x0024:
		return t.changePIN(c)
	case 0x002C:
		return t.unblock(c)
	case 0x0084:
		return t.challenge(c)
	case 0x00B1:
		return t.read(c)
	case 0x00D7:
		return t.update(c)
	case 0x00E4:
		return t.remove(c)
	case 0x0046:
		return t.generate(c)
	case 0x0022:
		return t.securityEnvironment(c)
	case 0x0086:
		return t.authenticateChip(c)
	case 0x8050:
		if len(c.Data) == 0 {
			return t.info(c)
		}
		return t.initialise(c)
	case 0x8052:
		return t.keyDomain(c)
	case 0x8058:
		return t.enumerate(c)
	case 0x8048:
		return t.generateAES(c)
	case 0x8068:
		return t.sign(c)
	case 0x8062:
		return t.decipher(c)
	case 0x8078:
		return t.symmetric(c)
	case 0x8072:
		return t.wrap(c)
	case 0x8074:
		return t.unwrap(c)
	case 0x8054: // public key authentication was not configured
		return status(apdu.NotFound)
	}
	return status(apdu.UnknownINS)
}

// isShortLe tells whether Le is exactly 00 in the short form, which the token
// insists on for several commands.
func isShortLe(c apdu.Command) bool { return !c.Extended && c.Le == apdu.LeShort }

// isExtendedLe: exactly 0000 in the extended form.
func isExtendedLe(c apdu.Command) bool { return c.Extended && c.Le == apdu.LeExtended }

var aid = []byte{0xE8, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x02, 0x01}

func (t *Token) selectAID(c apdu.Command) answer {
	if !bytes.Equal(c.Data, aid) {
		return status(apdu.FileNotFound)
	}
	switch {
	case c.P2 == 0x0C && c.Le == apdu.NoLe:
	case (c.P2 == 0 || c.P2 == 4) && isShortLe(c):
	case c.P2 != 0 && c.P2 != 4 && c.P2 != 0x0C:
		return status(apdu.WrongParameters)
	default:
		return status(apdu.WrongLength)
	}
	t.reset()
	t.selected = true
	if c.P2 == 0x0C {
		return ok()
	}
	s := t.state
	return ok(tlv.Encode(0x62,
		tlv.Encode(0x84, aid),
		tlv.Encode(0x85, []byte{byte(s.Options >> 8), byte(s.Options), 0, byte(s.Major), byte(s.Minor)}))...)
}

// challenge is GET CHALLENGE, up to 1024 bytes.
func (t *Token) challenge(c apdu.Command) answer {
	switch {
	case c.P1 != 0 || c.P2 != 0:
		return status(apdu.WrongParameters)
	case len(c.Data) > 0 || c.Le < 1 || c.Le > 1024:
		return status(apdu.WrongLength)
	}
	return ok(random(c.Le)...)
}

// info is device information: free memory ‖ 00 ‖ version (fact sheet §1.2).
func (t *Token) info(c apdu.Command) answer {
	switch {
	case c.P1 != 0 || c.P2 != 0:
		return status(apdu.WrongParameters)
	case !isShortLe(c):
		return status(apdu.WrongLength)
	}
	free := t.state.free()
	return ok(byte(free>>24), byte(free>>16), byte(free>>8), byte(free), 0, byte(t.state.Major), byte(t.state.Minor))
}
