// Package channel is secure messaging under the session keys of chip
// authentication, with AES-128 (ISO 7816-4; BSI TR-03110-3, F.2; fact sheet
// §2.11): what is sent is encrypted and authenticated, and so is the answer. Both
// sides of the wire use it.
package channel

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha1"
	"crypto/subtle"
	"errors"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/tlv"
)

// ErrBroken: what came is not what the other side sent under these keys.
var ErrBroken = errors.New("secure messaging: it does not authenticate")

// secured is what the class of a command has that is sent so: with the header
// authenticated.
const secured = 0x0C

const (
	tagData   = 0x87 // padding indicator 01 ‖ cryptogram
	tagLe     = 0x97
	tagStatus = 0x99
	tagMAC    = 0x8E
	macSize   = 8
)

// Session is one side of a channel. Each command and each answer must pass
// through it once and in order.
type Session struct {
	enc, mac [16]byte
	counter  [aes.BlockSize]byte
}

// New derives the session keys from the x coordinate of the shared point, in the
// length of the field, and the token's nonce. The caller clears what it gave.
func New(sharedX, nonce []byte) *Session {
	s := &Session{}
	for i, key := range [][]byte{s.enc[:], s.mac[:]} {
		input := bytes.Join([][]byte{sharedX, nonce, {0, 0, 0, byte(i + 1)}}, nil)
		sum := sha1.Sum(input)
		copy(key, sum[:])
		clear(input)
		clear(sum[:])
	}
	return s
}

// Wipe clears the keys; nil has none.
func (s *Session) Wipe() {
	if s != nil {
		*s = Session{}
	}
}

// Token is what the token shows to have the keys by: 8 bytes of the MAC over data.
func (s *Session) Token(data []byte) []byte {
	mac, _ := cmac.Sum(s.mac[:], data) // a key of 16 bytes is never refused
	return mac[:macSize]
}

// Command secures a command.
func (s *Session) Command(c apdu.Command) apdu.Command {
	s.step()
	var objects []byte
	if len(c.Data) > 0 {
		plain := pad(c.Data)
		objects = tlv.Encode(tagData, append([]byte{1}, s.crypt(plain, cipher.NewCBCEncrypter)...))
		clear(plain)
	}
	switch {
	case c.Le == apdu.NoLe:
	case c.IsExtended():
		objects = append(objects, tlv.Encode(tagLe, []byte{byte(c.Le >> 8), byte(c.Le)})...)
	default:
		objects = append(objects, tlv.Encode(tagLe, []byte{byte(c.Le)})...)
	}
	out := apdu.Command{CLA: c.CLA | secured, INS: c.INS, P1: c.P1, P2: c.P2, Extended: c.Extended, Le: apdu.LeShort}
	if c.IsExtended() {
		out.Le = apdu.LeExtended
	}
	out.Data = append(objects, tlv.Encode(tagMAC, s.authenticate(header(out), objects))...)
	return out
}

// IsSecured tells whether a command claims to be secured.
func IsSecured(c apdu.Command) bool { return c.CLA&secured == secured }

// OpenCommand is the token's side of Command.
func (s *Session) OpenCommand(c apdu.Command) (apdu.Command, error) {
	s.step()
	data, le, _, err := s.open(c.Data, header(c))
	if err != nil {
		return apdu.Command{}, err
	}
	out := apdu.Command{CLA: c.CLA &^ secured, INS: c.INS, P1: c.P1, P2: c.P2, Data: data}
	switch len(le) {
	case 0:
	case 1:
		out.Le = (int(le[0])-1)&0xFF + 1
	case 2:
		out.Extended, out.Le = true, (int(le[0])<<8|int(le[1])-1)&0xFFFF+1
	default:
		return apdu.Command{}, ErrBroken
	}
	return out, nil
}

// Answer secures an answer: its status word stands within, and 9000 behind it.
func (s *Session) Answer(r apdu.Response) apdu.Response {
	s.step()
	var objects []byte
	if len(r.Data) > 0 {
		objects = tlv.Encode(tagData, append([]byte{1}, s.crypt(pad(r.Data), cipher.NewCBCEncrypter)...))
	}
	objects = append(objects, tlv.Encode(tagStatus, []byte{byte(r.SW >> 8), byte(r.SW)})...)
	return apdu.Response{Data: append(objects, tlv.Encode(tagMAC, s.authenticate(nil, objects))...), SW: apdu.OK}
}

// OpenAnswer is the other side of Answer. What does not authenticate is ErrBroken,
// whatever its status word says.
func (s *Session) OpenAnswer(r apdu.Response) (apdu.Response, error) {
	s.step()
	data, _, status, err := s.open(r.Data, nil)
	if err != nil || len(status) != 2 {
		return apdu.Response{}, ErrBroken
	}
	return apdu.Response{Data: data, SW: apdu.SW(status[0])<<8 | apdu.SW(status[1])}, nil
}

// open authenticates and decrypts.
func (s *Session) open(body, header []byte) (data, le, status []byte, err error) {
	list, err := tlv.ParseAll(body)
	if err != nil || len(list) == 0 || list[len(list)-1].Tag != tagMAC {
		return nil, nil, nil, ErrBroken
	}
	mac := list[len(list)-1].Value
	objects := body[:len(body)-len(tlv.Encode(tagMAC, mac))]
	if subtle.ConstantTimeCompare(mac, s.authenticate(header, objects)) != 1 {
		return nil, nil, nil, ErrBroken
	}
	for _, o := range list[:len(list)-1] {
		switch o.Tag {
		case tagData:
			n := len(o.Value) - 1
			if n < aes.BlockSize || n%aes.BlockSize != 0 || o.Value[0] != 1 {
				return nil, nil, nil, ErrBroken
			}
			if data, err = unpad(s.crypt(o.Value[1:], cipher.NewCBCDecrypter)); err != nil {
				return nil, nil, nil, err
			}
		case tagLe:
			le = o.Value
		case tagStatus:
			status = o.Value
		default:
			return nil, nil, nil, ErrBroken
		}
	}
	return data, le, status, nil
}

// step counts, most significant byte first.
func (s *Session) step() {
	for i := len(s.counter) - 1; i >= 0; i-- {
		if s.counter[i]++; s.counter[i] != 0 {
			return
		}
	}
}

// crypt is CBC from the encrypted counter on. The input is left as it is.
func (s *Session) crypt(b []byte, mode func(cipher.Block, []byte) cipher.BlockMode) []byte {
	block, _ := aes.NewCipher(s.enc[:])
	iv := make([]byte, aes.BlockSize)
	block.Encrypt(iv, s.counter[:])
	out := make([]byte, len(b))
	mode(block, iv).CryptBlocks(out, b)
	return out
}

// authenticate is the MAC over counter, header and objects, each part padded.
func (s *Session) authenticate(header, objects []byte) []byte {
	input := bytes.Clone(s.counter[:])
	if header != nil {
		input = append(input, pad(header)...)
	}
	if len(objects) > 0 {
		input = append(input, pad(objects)...)
	}
	return s.Token(input)
}

func header(c apdu.Command) []byte { return []byte{c.CLA, c.INS, c.P1, c.P2} }

// pad is ISO 9797-1, method 2.
func pad(b []byte) []byte {
	out := append(bytes.Clone(b), 0x80)
	for len(out)%aes.BlockSize != 0 {
		out = append(out, 0)
	}
	return out
}

func unpad(b []byte) ([]byte, error) {
	end := bytes.TrimRight(b, "\x00")
	if len(end) == 0 || end[len(end)-1] != 0x80 || len(b)-len(end) >= aes.BlockSize {
		return nil, ErrBroken
	}
	return end[: len(end)-1 : len(end)-1], nil
}
