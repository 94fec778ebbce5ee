package dkek

import "strings"

// Libraries for bech32 take and give strings, which cannot be cleared. Here the
// digits are bytes.

// bech32Alphabet has the character of each five-bit digit (BIP 173).
const bech32Alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

// What the checksum comes out as: BIP 173 for age's own keys, BIP 350 for all
// that is typed, because it also finds a character put in or left out before a
// "p" at the end.
const (
	bech32Sum  = 1
	bech32mSum = 0x2BC830A3
)

// bech32Checksum is the number of digits of the checksum.
const bech32Checksum = 6

// bech32State is the remainder of the digits so far by the generator of BIP 173.
type bech32State uint32

// bech32Start has taken in the prefix, which is in lower case.
func bech32Start(prefix string) bech32State {
	s := bech32State(1)
	for i := range len(prefix) {
		s.feed(prefix[i] >> 5)
	}
	s.feed(0)
	for i := range len(prefix) {
		s.feed(prefix[i] & 31)
	}
	return s
}

func (s *bech32State) feed(digit byte) {
	top := *s >> 25
	next := *s&0x1FFFFFF<<5 ^ bech32State(digit)
	for i, g := range [...]bech32State{0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3} {
		next ^= g & -(top >> i & 1)
	}
	*s = next
}

// bech32Digits gives bytes as digits, zero bits at the end; the caller clears
// them.
func bech32Digits(data []byte) []byte {
	digits := make([]byte, 0, (8*len(data)+4)/5+bech32Checksum)
	pending, n := uint32(0), 0
	for _, b := range data {
		for pending, n = pending<<8|uint32(b), n+8; n >= 5; {
			n -= 5
			digits = append(digits, byte(pending>>n&31))
		}
	}
	if n > 0 {
		digits = append(digits, byte(pending<<(5-n)&31))
	}
	return digits
}

// bech32Bytes undoes bech32Digits; it tells whether the bits left over at the
// end are fewer than five and zeros, as they must be.
func bech32Bytes(digits []byte) (data []byte, ok bool) {
	data = make([]byte, 0, len(digits)*5/8)
	pending, n := uint32(0), 0
	for _, d := range digits {
		if pending, n = pending<<5|uint32(d), n+5; n >= 8 {
			n -= 8
			data = append(data, byte(pending>>n))
		}
	}
	return data, n < 5 && pending&(1<<n-1) == 0
}

// encodeBech32 writes data in lower case; the caller clears the text.
func encodeBech32(prefix string, data []byte, sum bech32State) []byte {
	digits := bech32Digits(data)
	state := bech32Start(prefix)
	for _, d := range digits {
		state.feed(d)
	}
	for range bech32Checksum {
		state.feed(0)
	}
	state ^= sum
	for i := range bech32Checksum {
		digits = append(digits, byte(state>>(5*(bech32Checksum-1-i))&31)) // has room
	}
	text := make([]byte, 0, len(prefix)+1+len(digits))
	text = append(append(text, prefix...), '1')
	for _, d := range digits {
		text = append(text, bech32Alphabet[d])
	}
	clear(digits)
	return text
}

// bech32 encodes in upper case with the checksum of BIP 173, as age writes its
// secret keys.
func bech32(prefix string, data []byte) []byte {
	text := encodeBech32(strings.ToLower(prefix), data, bech32Sum)
	for i, c := range text {
		if 'a' <= c && c <= 'z' {
			text[i] = c - 'a' + 'A'
		}
	}
	return text
}

// bech32Digit is the digit of a lower-case character, and whether it is one.
func bech32Digit(c byte) (byte, bool) {
	i := strings.IndexByte(bech32Alphabet, c)
	return byte(i), i >= 0
}
