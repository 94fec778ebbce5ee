package dkek

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/big"
	"regexp"

	"hsmbackup/internal/secret"
)

// maxSheetID is the highest share ID: sc-hsm-tool counts its sheets in a byte.
const maxSheetID = 255

// Sheet is one of the sheets on which sc-hsm-tool --pwd-shares-threshold hands
// out the password of a share file: a point of a polynomial over a prime field
// (fact sheet §6.3).
type Sheet struct {
	// Prime of the field, public and the same on all sheets of a set; 0 if there
	// was none before the sheet, since sc-hsm-tool asks only the first custodian
	// for it.
	Prime uint64
	// ID is the share ID, 1 to 255: decimal, as sc-hsm-tool prints it, or hex if
	// it has a letter.
	ID int
	// Line of the share ID in the text, from 1.
	Line int

	hexID int           // the ID if its digits are hex, as sc-hsm-tool reads them
	value *secret.Bytes // 8 bytes, big-endian
}

// Wipe clears the share value. It may be called again, and on nil.
func (s *Sheet) Wipe() {
	if s != nil {
		s.value.Wipe()
	}
}

// Format never gives the secret.
func (s Sheet) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// labels begin what is read of a line. Whatever stands before one is passed
// over: the tool does not end the lines of its prompts.
var labels = regexp.MustCompile(`(?i)(?:(prime)|(share[ \t]+id)|(share[ \t]+value))[ \t]*:`)

// The groups of labels.
const (
	labelPrime = 1 + iota
	labelID
	labelValue
)

// IsSheets tells a text with sheets in it by their labels; whether they are
// whole is for ParseSheets to say.
func IsSheets(text []byte) bool {
	if IsPBE(text) {
		return false
	}
	id := false
	for _, m := range labels.FindAllSubmatchIndex(text, -1) {
		switch {
		case m[2*labelID] >= 0:
			id = true
		case m[2*labelValue] >= 0 && id:
			return true
		}
	}
	return false
}

// ParseSheets finds the sheets in a text: sc-hsm-tool's own output, one sheet
// copied from paper, or several, also below one Prime line. A sheet is a share
// ID and the share value after it:
//
//	Prime       : e1:b0:db:94:e6:3e:b1:f7
//	Share ID    : 1
//	Share value : 0b:e3:8d:40:d2:17:80:a7
//
// Hex may be of either case, with colons, blanks or nothing between the pairs;
// the tool drops leading zero bytes. A sheet that comes twice is given once.
// Errors name the line and wrap ErrFormat for what cannot be read, ErrMismatch
// for sheets that cannot belong together. The text holds secrets, and clearing
// it is up to the caller.
func ParseSheets(text []byte) (sheets []*Sheet, err error) {
	defer func() {
		if err != nil {
			wipeSheets(sheets)
			sheets = nil
		}
	}()
	var (
		prime     uint64
		primeLine int
		open      *Sheet // has its ID, lacks its value
	)
	matches := labels.FindAllSubmatchIndex(text, -1)
	line, counted := 1, 0
	for i, m := range matches {
		line += bytes.Count(text[counted:m[0]], []byte{'\n'})
		counted = m[0]
		end := len(text)
		if i+1 < len(matches) {
			end = matches[i+1][0]
		}
		field, _, _ := bytes.Cut(text[m[1]:end], []byte{'\n'})
		field = bytes.TrimSpace(field)
		if open != nil && m[2*labelValue] < 0 {
			return sheets, fail(ErrFormat, "line %d: share ID without a share value after it", open.Line)
		}
		switch {
		case m[2*labelPrime] >= 0:
			p, err := parsePrime(field)
			if err != nil {
				return sheets, fail(ErrFormat, "line %d: prime: %v", line, err)
			}
			if prime != 0 && p != prime {
				return sheets, fail(ErrMismatch, "line %d: another prime than in line %d: sheets of two sets are mixed, or one of the two is mistyped", line, primeLine)
			}
			prime, primeLine = p, line
		case m[2*labelID] >= 0:
			open = &Sheet{Prime: prime, Line: line}
			if open.ID, open.hexID, err = parseSheetID(field); err != nil {
				return sheets, fail(ErrFormat, "line %d: share ID: %v", line, err)
			}
		case open == nil:
			return sheets, fail(ErrFormat, "line %d: share value without a share ID before it", line)
		default:
			v, err := parseHex64(field)
			if err != nil {
				return sheets, fail(ErrFormat, "line %d: share value: %v", line, err)
			}
			if prime != 0 && v >= prime {
				return sheets, fail(ErrFormat, "line %d: share value: not below the prime: one of the two is mistyped", line)
			}
			open.value = secret.New(binary.BigEndian.AppendUint64(nil, v))
			again, err := repeats(sheets, open)
			if err != nil || again {
				open.Wipe()
			} else {
				sheets = append(sheets, open)
			}
			if err != nil {
				return sheets, err
			}
			open = nil
		}
	}
	switch {
	case open != nil:
		return sheets, fail(ErrFormat, "line %d: share ID without a share value after it", open.Line)
	case len(sheets) == 0:
		return sheets, fail(ErrFormat, "no sheet of sc-hsm-tool: \"Share ID\" and \"Share value\" are not there")
	}
	return sheets, nil
}

// repeats tells whether a sheet is there already.
func repeats(sheets []*Sheet, s *Sheet) (bool, error) {
	for _, o := range sheets {
		if o.ID != s.ID || o.hexID != s.hexID {
			continue
		}
		if !o.value.Equal(s.value) {
			return false, fail(ErrMismatch, "line %d: share ID %d again, with another value than in line %d: sheets of two sets are mixed, or one of the two is mistyped", s.Line, s.ID, o.Line)
		}
		return true, nil
	}
	return false, nil
}

func wipeSheets(sheets []*Sheet) {
	for _, s := range sheets {
		s.Wipe()
	}
}

// parsePrime reads a prime of exactly 64 bits, as every version of sc-hsm-tool
// makes it.
func parsePrime(field []byte) (uint64, error) {
	p, err := parseHex64(field)
	if err != nil {
		return 0, err
	}
	n := new(big.Int).SetUint64(p)
	if n.BitLen() != 64 {
		return 0, fmt.Errorf("number of %d bits, 64 expected: a digit is missing or mistyped", n.BitLen())
	}
	if !n.ProbablyPrime(0) { // exact below 2^64
		return 0, fmt.Errorf("not a prime number: a digit is mistyped")
	}
	return p, nil
}

// parseHex64 reads pairs of hex digits, at most eight. Its errors tell
// positions, nothing of the number.
func parseHex64(field []byte) (uint64, error) {
	if len(field) == 0 {
		return 0, fmt.Errorf("nothing there")
	}
	var v uint64
	digits := 0
	for i, c := range field {
		d, ok := hexDigit(c)
		switch {
		case ok:
			if digits++; digits > 16 {
				return 0, fmt.Errorf("more than 16 hex digits")
			}
			v = v<<4 | uint64(d)
		case c != ':' && c != ' ' && c != '\t':
			return 0, fmt.Errorf("character %d is no hex digit", i+1)
		case digits%2 != 0:
			return 0, fmt.Errorf("character %d should be a hex digit: they come in pairs", i+1)
		}
	}
	if digits == 0 || digits%2 != 0 {
		return 0, fmt.Errorf("%d hex digits: they come in pairs, so one is missing or too many", digits)
	}
	return v, nil
}

func hexDigit(c byte) (int, bool) {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0'), true
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10, true
	}
	return 0, false
}

// parseSheetID reads an ID both as printed and as hex. People who typed 0a for
// 10 at sc-hsm-tool's prompt, where it reads hex, may have written that down.
// Where only one reading is possible, both results have it.
func parseSheetID(field []byte) (id, hexID int, err error) {
	digits := field
	prefixed := len(field) > 2 && field[0] == '0' && field[1]|0x20 == 'x'
	if prefixed {
		digits = field[2:]
	}
	decimal := !prefixed
	for _, c := range digits {
		d, ok := hexDigit(c)
		if !ok {
			return 0, 0, fmt.Errorf("no number")
		}
		decimal = decimal && d < 10
		// stays above the limit once it is
		id, hexID = min(10*id+d, maxSheetID+1), min(16*hexID+d, maxSheetID+1)
	}
	if !decimal {
		id = hexID
	} else if hexID > maxSheetID {
		hexID = id
	}
	if id < 1 || id > maxSheetID {
		return 0, 0, fmt.Errorf("not a number from 1 to %d", maxSheetID)
	}
	return id, hexID, nil
}
