// Package pkcs15 reads and writes the PKCS#15 descriptions that a SmartCard-HSM
// keeps beside its objects: PRKD and SKD in C4xx, CD in C8xx, DCOD in C9xx, and
// the TokenInfo in EF 2F03 (fact sheet §3.3, §4; PKCS#15 v1.1).
//
// Reading is tolerant, because several writers disagree and one sets bits
// where none are: a description is somebody's label, not a proof of anything.
package pkcs15

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"hsmbackup/internal/tlv"
)

// ErrFormat is wrapped when bytes are no description of the wanted kind.
var ErrFormat = errors.New("not a PKCS#15 description")

// Tags of ASN.1 and of the choices in PKCS#15.
const (
	tagBool       = 0x01
	tagInteger    = 0x02
	tagBits       = 0x03
	tagOctets     = 0x04
	tagOID        = 0x06
	tagUTF8       = 0x0C
	tagSequence   = 0x30
	tagContext0   = 0xA0 // subclass attributes; as the outer tag: EC key
	tagContext1   = 0xA1 // type attributes
	tagSecretKey  = 0xA8 // as the outer tag: AES key
	tagTokenLabel = 0x80 // [0] in TokenInfo
)

// privateModifiable are the flags of CommonObjectAttributes that keys have, as
// the content of their BIT STRING.
var privateModifiable = []byte{0x06, 0xC0}

// elements checks the outer tag and gives the children of the first element.
func elements(b []byte, tags ...uint16) (tlv.Element, tlv.List, error) {
	outer, _, err := tlv.Parse(b)
	if err != nil {
		return outer, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	for _, tag := range tags {
		if outer.Tag == tag {
			list, err := outer.Children()
			if err != nil {
				return outer, nil, fmt.Errorf("%w: %w", ErrFormat, err)
			}
			return outer, list, nil
		}
	}
	return outer, nil, fmt.Errorf("%w: tag %X", ErrFormat, outer.Tag)
}

// common reads a label out of CommonObjectAttributes.
func common(list tlv.List) (string, tlv.List, error) {
	if len(list) < 2 || list[0].Tag != tagSequence || list[1].Tag != tagSequence {
		return "", nil, fmt.Errorf("%w: attributes missing", ErrFormat)
	}
	attributes, err := list[0].Children()
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	// A certificate starts with two sequences as well: its first holds no
	// label but a version, a serial number and names.
	for _, a := range attributes {
		switch a.Tag {
		case tagUTF8, tagBits, tagOctets, tagInteger, tagSequence:
		default:
			return "", nil, fmt.Errorf("%w: tag %X among the object attributes", ErrFormat, a.Tag)
		}
	}
	label := ""
	if len(attributes) > 0 && attributes[0].Tag == tagUTF8 {
		label = text(attributes[0].Value)
	} else if len(attributes) > 0 && attributes[0].Tag != tagBits && attributes[0].Tag != tagOctets {
		return "", nil, fmt.Errorf("%w: tag %X in place of a label", ErrFormat, attributes[0].Tag)
	}
	second, err := list[1].Children()
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return label, second, nil
}

// text takes a label as it is if it is UTF-8, else byte by byte as Latin-1, so
// that nothing unprintable reaches a terminal as it stands.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}

// integer reads a small unsigned INTEGER; writers leave out the leading 00.
func integer(b []byte) (int, bool) {
	n := 0
	if len(b) == 0 || len(b) > 4 {
		return 0, false
	}
	for _, c := range b {
		n = n<<8 | int(c)
	}
	return n, n >= 0
}

func encodeInteger(n int) []byte {
	b := []byte{byte(n)}
	for n >>= 8; n > 0; n >>= 8 {
		b = append([]byte{byte(n)}, b...)
	}
	if b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return tlv.Encode(tagInteger, b)
}

// sequence joins parts under the SEQUENCE tag.
func sequence(parts ...[]byte) []byte { return tlv.Encode(tagSequence, parts...) }
