package dkek

import (
	"bytes"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// undecorated takes off a text what scanners, mail, viewers and people put around
// a part: a byte order mark, UTF-16, quoting and numbers before lines, the word
// that a scanner begins with, dashes between groups, blanks of every kind. None of
// it is a character of a part. The caller clears what it gets.
func undecorated(text []byte) []byte {
	text = bytes.TrimPrefix(fromUTF16(text), []byte("\ufeff"))
	out := make([]byte, 0, 2*len(text)+1) // never grows: no copies are left behind
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		for {
			rest := bytes.TrimSpace(bytes.TrimLeft(line, ">|"))
			rest = bytes.TrimSpace(afterScanner(afterNumber(rest)))
			if len(rest) == len(line) {
				break
			}
			line = rest
		}
		for len(line) > 0 {
			r, n := utf8.DecodeRune(line)
			switch {
			case bytes.HasPrefix(line, []byte("#")): // for people, to the line's end
				n = len(line)
				out = append(out, line...)
			case unicode.IsSpace(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Pd, r):
				out = append(out, ' ')
			default:
				out = append(out, line[:n]...)
			}
			line = line[n:]
		}
		out = append(out, '\n')
	}
	return out
}

// afterNumber is a line without the number that people put before it: "1." or "1)".
func afterNumber(line []byte) []byte {
	rest := bytes.TrimLeft(line, "0123456789")
	if digits := len(line) - len(rest); digits < 1 || digits > 2 || len(rest) < 2 || (rest[0] != '.' && rest[0] != ')') || !isBlank(rest[1]) {
		return line
	}
	return rest[2:]
}

// afterScanner is a line without the kind of code that zbarimg puts before it.
func afterScanner(line []byte) []byte {
	const kind = "QR-Code:"
	if len(line) >= len(kind) && bytes.EqualFold(line[:len(kind)], []byte(kind)) {
		return line[len(kind):]
	}
	return line
}

// fromUTF16 decodes a text that begins with the byte order mark of UTF-16.
func fromUTF16(text []byte) []byte {
	little := bytes.HasPrefix(text, []byte{0xFF, 0xFE})
	if !little && !bytes.HasPrefix(text, []byte{0xFE, 0xFF}) {
		return text
	}
	units := make([]uint16, 0, len(text)/2)
	defer func() { clear(units[:cap(units)]) }()
	for i := 2; i+1 < len(text); i += 2 {
		high, low := text[i], text[i+1]
		if little {
			high, low = low, high
		}
		units = append(units, uint16(high)<<8|uint16(low))
	}
	out := make([]byte, 0, 3*len(units))
	for len(units) > 0 {
		r, n := rune(units[0]), 1
		if utf16.IsSurrogate(r) && len(units) > 1 {
			r, n = utf16.DecodeRune(r, rune(units[1])), 2
		}
		out, units = utf8.AppendRune(out, r), units[n:]
	}
	return out
}
