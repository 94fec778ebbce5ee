package softtoken

import (
	"bytes"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/channel"
	"hsmbackup/internal/tlv"
)

// chipAuthAES128 is 0.4.0.127.0.7.2.2.3.2.2.
var chipAuthAES128 = []byte{0x04, 0x00, 0x7F, 0x00, 0x07, 0x02, 0x02, 0x03, 0x02, 0x02}

// securityEnvironment is MANAGE SECURITY ENVIRONMENT for chip authentication
// with AES-128; nothing else is imitated.
func (t *Token) securityEnvironment(c apdu.Command) answer {
	switch {
	case c.P1 == 0x81 && (c.P2 == 0xB6 || c.P2 == 0xA4):
		return status(apdu.NotFound) // the public keys of others are not known here
	case c.P1 != 0x41 || c.P2 != 0xA4:
		return status(apdu.WrongParameters)
	case t.state.NoChipAuth:
		return status(apdu.NotFound)
	}
	t.chipAuth = false
	list, err := tlv.ParseAll(c.Data)
	if err != nil || len(list) != 1 || list[0].Tag != 0x80 || !bytes.Equal(list[0].Value, chipAuthAES128) {
		return status(apdu.WrongData)
	}
	t.chipAuth = true
	return ok()
}

// authenticateChip is GENERAL AUTHENTICATE, EAC chip authentication version 2
// (fact sheet §2.11): it shows that the token holds the device key.
func (t *Token) authenticateChip(c apdu.Command) answer {
	switch {
	case t.state.NoChipAuth:
		return status(apdu.UnknownINS)
	case c.P1 != 0 || c.P2 != 0:
		return status(apdu.WrongParameters)
	case !isShortLe(c):
		return status(apdu.WrongLength)
	case !t.chipAuth:
		return status(apdu.Conditions)
	}
	t.chipAuth = false
	outer, rest, err := tlv.Parse(c.Data)
	if err != nil || outer.Tag != 0x7C || len(rest) != 0 {
		return status(apdu.WrongData)
	}
	point, rest, err := tlv.Parse(outer.Value)
	if err != nil || point.Tag != 0x80 || len(rest) != 0 {
		return status(apdu.WrongData)
	}
	x, y, err := deviceCurve.Unmarshal(point.Value)
	if err != nil {
		return status(apdu.WrongData)
	}
	shared, _ := deviceCurve.ScalarMult(x, y, t.state.DeviceKey)
	nonce := random(8)
	t.channel = channel.New(fill(shared, deviceCurve.FieldBytes()), nonce)
	proof := t.channel.Token(tlv.Encode(0x7F49, tlv.Encode(0x06, chipAuthAES128), tlv.Encode(0x86, point.Value)))
	return ok(tlv.Encode(0x7C, tlv.Encode(0x81, nonce), tlv.Encode(0x82, proof))...)
}

// secured carries a command out that came under the keys of the last chip
// authentication. One that does not authenticate ends them.
func (t *Token) secured(c apdu.Command) answer {
	if t.channel == nil || t.state.NoSecured {
		return status(apdu.UnknownCLA)
	}
	plain, err := t.channel.OpenCommand(c)
	if err != nil {
		t.channel = nil
		return status(apdu.NotSecured)
	}
	defer clear(plain.Data)
	session := t.channel
	a := t.process(plain)
	r := session.Answer(apdu.Response{Data: a.data, SW: a.sw})
	return answer{data: r.Data, sw: r.SW}
}
