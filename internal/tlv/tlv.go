// Package tlv reads and writes BER-TLV as the SmartCard-HSM uses it: tags of
// one or two bytes (30, 5F37, 7F21), definite lengths, nesting by the
// constructed bit. ISO 7816-4 §5.2.2; fact sheet §2, §4 and §5.
//
// encoding/asn1 and cryptobyte stumble over two-byte tags, hence this package.
// It never copies while reading: elements are views into the input.
package tlv

import (
	"errors"
	"fmt"
)

// Errors that Parse wraps. Both mean that the input is not (whole) BER-TLV.
var (
	// ErrTruncated: the input ends within a tag, a length or a value.
	ErrTruncated = errors.New("tlv: input ends too early")
	// ErrMalformed: a form this package does not read (indefinite length, a
	// tag or length that is too long).
	ErrMalformed = errors.New("tlv: malformed")
)

// maxLength bounds a value: nothing on a token is larger than an EF of 64 KiB.
const maxLength = 1 << 24

// Element is one TLV. Raw holds tag, length and value as they stood in the
// input, so that signatures over a whole TLV can be checked.
type Element struct {
	Tag   uint16
	Value []byte
	Raw   []byte
}

// Constructed tells whether the value is itself a sequence of TLVs.
func (e Element) Constructed() bool {
	first := e.Tag
	if first > 0xFF {
		first >>= 8
	}
	return first&0x20 != 0
}

// Children parses the value as a sequence of TLVs.
func (e Element) Children() (List, error) { return ParseAll(e.Value) }

// List is a sequence of elements.
type List []Element

// Find gives the first element with the tag.
func (l List) Find(tag uint16) (Element, bool) {
	for _, e := range l {
		if e.Tag == tag {
			return e, true
		}
	}
	return Element{}, false
}

// Parse reads one element from the front of b and gives what follows it.
// Errors wrap ErrTruncated or ErrMalformed.
func Parse(b []byte) (e Element, rest []byte, err error) {
	if len(b) == 0 {
		return e, nil, ErrTruncated
	}
	n := 1
	tag := uint16(b[0])
	if b[0]&0x1F == 0x1F {
		if len(b) < 2 {
			return e, nil, ErrTruncated
		}
		if b[1]&0x80 != 0 {
			return e, nil, fmt.Errorf("%w: tag longer than two bytes", ErrMalformed)
		}
		tag = tag<<8 | uint16(b[1])
		n = 2
	}
	if len(b) <= n {
		return e, nil, ErrTruncated
	}
	length := int(b[n])
	n++
	if length >= 0x80 {
		count := length & 0x7F
		if count == 0 || count > 4 {
			return e, nil, fmt.Errorf("%w: length of %d bytes", ErrMalformed, count)
		}
		if len(b) < n+count {
			return e, nil, ErrTruncated
		}
		length = 0
		for _, c := range b[n : n+count] {
			length = length<<8 | int(c)
		}
		n += count
		if length > maxLength {
			return e, nil, fmt.Errorf("%w: value of %d bytes", ErrMalformed, length)
		}
	}
	if len(b)-n < length {
		return e, nil, ErrTruncated
	}
	end := n + length
	return Element{Tag: tag, Value: b[n:end:end], Raw: b[:end:end]}, b[end:], nil
}

// ParseAll reads elements until the input is used up.
func ParseAll(b []byte) (List, error) {
	var l List
	for len(b) > 0 {
		e, rest, err := Parse(b)
		if err != nil {
			return nil, err
		}
		l = append(l, e)
		b = rest
	}
	return l, nil
}

// Append adds one TLV whose value is the concatenation of parts. The length
// takes the shortest form.
func Append(dst []byte, tag uint16, parts ...[]byte) []byte {
	length := 0
	for _, p := range parts {
		length += len(p)
	}
	if tag > 0xFF {
		dst = append(dst, byte(tag>>8))
	}
	dst = append(dst, byte(tag))
	dst = AppendLength(dst, length)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// AppendLength adds a BER length in its shortest form.
func AppendLength(dst []byte, n int) []byte {
	switch {
	case n < 0x80:
		return append(dst, byte(n))
	case n < 0x100:
		return append(dst, 0x81, byte(n))
	case n < 0x10000:
		return append(dst, 0x82, byte(n>>8), byte(n))
	default:
		return append(dst, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
}

// Encode is Append to a new slice.
func Encode(tag uint16, parts ...[]byte) []byte { return Append(nil, tag, parts...) }

// Trim cuts b to its first element. EFs keep an old tail when a shorter value
// is written over a longer one, so every reader cuts (fact sheet §2.5).
func Trim(b []byte) ([]byte, error) {
	e, _, err := Parse(b)
	if err != nil {
		return nil, err
	}
	return e.Raw, nil
}
