package pkcs15

import (
	"bytes"
	"fmt"
	"strings"

	"hsmbackup/internal/tlv"
)

// Kind says what sort of key a description is for.
type Kind int

// The kinds, by the outer tag: 30, A0, A8.
const (
	RSA Kind = iota + 1
	EC
	AES
)

func (k Kind) String() string {
	switch k {
	case RSA:
		return "RSA"
	case EC:
		return "EC"
	case AES:
		return "AES"
	}
	return "unknown"
}

// Usage is the key usage with bit 0 of the BIT STRING as the lowest bit.
type Usage uint16

// The bits of Usage.
const (
	Encrypt Usage = 1 << iota
	Decrypt
	Sign
	SignRecover
	WrapKeys
	UnwrapKeys
	Verify
	VerifyRecover
	Derive
	NonRepudiation
)

var usageNames = []string{"encrypt", "decrypt", "sign", "signRecover", "wrap", "unwrap", "verify", "verifyRecover", "derive", "nonRepudiation"}

// String lists the names as pkcs15-tool does.
func (u Usage) String() string {
	var names []string
	for i, name := range usageNames {
		if u&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// KeyDescription is a PRKD (RSA, EC) or SKD (AES), the content of C4xx.
type KeyDescription struct {
	Kind  Kind
	Label string
	// ID is the CKA_ID, of any length; it is not the key reference.
	ID    []byte
	Usage Usage
	// Bits is the size of modulus, field or key; 0 if the description has
	// none. For P-521 some writers put 528; it is given as it stands.
	Bits int
	// Reference is what the description says the key reference is, -1 if it
	// says nothing. After a restore to another reference it is stale, and
	// everyone goes by the file's number instead.
	Reference int
	// Raw is the description cut to its outer TLV.
	Raw []byte
}

// ParseKey reads a description. Trailing bytes are ignored: files keep an old
// tail. Errors wrap ErrFormat.
func ParseKey(b []byte) (*KeyDescription, error) {
	outer, list, err := elements(b, tagSequence, tagContext0, tagSecretKey)
	if err != nil {
		return nil, err
	}
	d := &KeyDescription{Reference: -1, Raw: outer.Raw}
	switch outer.Tag {
	case tagSequence:
		d.Kind = RSA
	case tagContext0:
		d.Kind = EC
	case tagSecretKey:
		d.Kind = AES
	}
	var attributes tlv.List
	if d.Label, attributes, err = common(list); err != nil {
		return nil, err
	}
	// CommonKeyAttributes: 04 id, 03 usage, [01 native], [03 accessFlags], [02 reference]
	if len(attributes) < 2 || attributes[0].Tag != tagOctets || attributes[1].Tag != tagBits {
		return nil, fmt.Errorf("%w: key attributes missing", ErrFormat)
	}
	d.ID = attributes[0].Value
	d.Usage = parseUsage(attributes[1].Value)
	for _, a := range attributes[2:] {
		if n, ok := integer(a.Value); ok && a.Tag == tagInteger {
			d.Reference = n
		}
	}
	for _, e := range list[2:] {
		switch {
		case e.Tag == tagContext1 && d.Kind != AES:
			// A1 { 30 { 30 { 04 00 }, 02 bits } }
			d.Bits = findInteger(e.Value, 2)
		case e.Tag == tagContext0 && d.Kind == AES:
			// A0 { 30 { 02 bits } }, in old files A0 { 02 bits }
			d.Bits = findInteger(e.Value, 2)
		}
	}
	return d, nil
}

// findInteger gives the first INTEGER at most depth levels down, 0 if none.
func findInteger(b []byte, depth int) int {
	list, err := tlv.ParseAll(b)
	if err != nil || depth == 0 {
		return 0
	}
	for _, e := range list {
		if n, ok := integer(e.Value); ok && e.Tag == tagInteger {
			return n
		}
		if e.Tag == tagSequence {
			if n := findInteger(e.Value, depth-1); n > 0 {
				return n
			}
		}
	}
	return 0
}

// parseUsage reads the bits wherever they are, even in the part that the first
// byte calls unused (the imitation's 03 03 07 C0 10).
func parseUsage(b []byte) Usage {
	var u Usage
	if len(b) < 2 {
		return 0
	}
	for i, c := range b[1:] {
		for bit := range 8 {
			if c&(0x80>>bit) != 0 && i*8+bit < 16 {
				u |= 1 << (i*8 + bit)
			}
		}
	}
	return u
}

// bits gives the content of the BIT STRING in its shortest form (DER).
func (u Usage) bits() []byte {
	var b [2]byte
	highest := -1
	for i := range 16 {
		if u&(1<<i) != 0 {
			b[i/8] |= 0x80 >> (i % 8)
			highest = i
		}
	}
	n := highest/8 + 1
	if highest < 0 {
		n = 0
	}
	unused := byte(0)
	if highest >= 0 {
		unused = byte(7 - highest%8)
	}
	return append([]byte{unused}, b[:n]...)
}

// DefaultUsage is what OpenSC writes for a key it generates (fact sheet §4),
// and for AES what CardContact's module does.
func DefaultUsage(k Kind) Usage {
	switch k {
	case RSA:
		return Decrypt | Sign | SignRecover
	case EC:
		return Sign | SignRecover | Derive
	case AES:
		return Encrypt | Decrypt
	}
	return 0
}

// Encode writes a description the way OpenSC 0.23 does, byte for byte for RSA
// and EC, and the way CardContact's module does for AES, which OpenSC lacks.
func (d *KeyDescription) Encode() []byte {
	object := [][]byte{tlv.Encode(tagUTF8, []byte(d.Label)), tlv.Encode(tagBits, privateModifiable), tlv.Encode(tagOctets, []byte{1})}
	key := [][]byte{tlv.Encode(tagOctets, d.ID), tlv.Encode(tagBits, d.Usage.bits())}
	if d.Kind == AES {
		return tlv.Encode(tagSecretKey, sequence(object[0]), sequence(key...),
			tlv.Encode(tagContext0, sequence(encodeInteger(d.Bits))))
	}
	if d.Reference >= 0 {
		key = append(key, encodeInteger(d.Reference))
	}
	outer := uint16(tagSequence)
	if d.Kind == EC {
		outer = tagContext0
	}
	path := sequence(tlv.Encode(tagOctets))
	return tlv.Encode(outer, sequence(object...), sequence(key...),
		tlv.Encode(tagContext1, sequence(path, encodeInteger(d.Bits))))
}

// Same tells whether two descriptions say the same of a key. The reference is
// left out, since it goes stale.
func (d *KeyDescription) Same(o *KeyDescription) bool {
	return d.Kind == o.Kind && d.Label == o.Label && bytes.Equal(d.ID, o.ID) && d.Usage == o.Usage && d.Bits == o.Bits
}
