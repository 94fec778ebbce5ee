package dkek

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// coded is a kind of text that people type or send: a prefix, "1", and a
// payload of fixed size as bech32m digits (BIP 350). At these lengths the
// checksum finds every error in up to three characters, and any other but one
// in 2^30.
type coded struct {
	name   string // for messages: "part"
	prefix string
	size   int // of the payload, in bytes
	// grouped: it is written in groups and lines, for paper; else in one piece.
	grouped bool
}

// partText is how parts are written.
var partText = coded{"part", partPrefix, partSize, true}

const partPrefix = "hsmpart"

// The shape of a part on paper: groups of 5 characters, 4 to a line.
const (
	groupSize     = 5
	groupsPerLine = 4
	lineSize      = groupSize * groupsPerLine

	// PartLength is the number of characters of a part, without blanks and the
	// checks of lines; on paper they take PartLines lines of PartLine characters.
	PartLength = len(partPrefix) + 1 + (8*partSize+4)/5 + bech32Checksum
	PartLine   = lineSize
	PartLines  = (PartLength + PartLine - 1) / PartLine
)

func (c coded) encode(payload []byte) []byte { return encodeBech32(c.prefix, payload, bech32mSum) }

// length is that of the text without blanks.
func (c coded) length() int { return len(c.prefix) + 1 + (8*c.size+4)/5 + bech32Checksum }

// is tells by its beginning whether a text, comments left out, is of this kind.
func (c coded) is(text []byte) bool {
	compact, _ := joined(text)
	defer clear(compact)
	prefix := []byte(c.prefix + "1")
	c.mendSeparator(compact)
	return len(compact) >= len(prefix) && bytes.EqualFold(compact[:len(prefix)], prefix)
}

// joined gives the characters of a text that count: lines that begin with # are
// for people, and so are blanks. The checks at the ends of lines come apart, by
// the number of characters before them. The caller clears the first.
func joined(text []byte) (compact []byte, checks map[int][]byte) {
	text = undecorated(text)
	defer clear(text)
	compact, checks = make([]byte, 0, len(text)), map[int][]byte{}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("#")) {
			continue
		}
		if i := bytes.IndexByte(line, '='); i >= 0 {
			line, checks[len(compact)+count(line[:i])] = line[:i], bytes.Clone(bytes.TrimSpace(line[i+1:]))
		}
		for _, c := range line {
			if !isBlank(c) {
				compact = append(compact, c) // has room
			}
		}
	}
	return compact, checks
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func count(line []byte) (n int) {
	for _, c := range line {
		if !isBlank(c) {
			n++
		}
	}
	return n
}

// place names a character for people who look at paper, or at a line.
func (c coded) place(at int) string {
	if !c.grouped {
		return fmt.Sprintf("character %d", at+1)
	}
	return fmt.Sprintf("line %d, group %d, character %d", at/lineSize+1, at%lineSize/groupSize+1, at%groupSize+1)
}

// decode reads a text of this kind; the caller clears the payload. The error
// wraps ErrFormat for what cannot be one, ErrTampered for one with errors, and
// says where, as far as the code tells. It repeats nothing of the text.
func (c coded) decode(text []byte) ([]byte, error) {
	compact, checks := joined(text)
	defer clear(compact)
	if len(compact) == 0 {
		return nil, fail(ErrFormat, "%s: nothing but comments and blanks", c.name)
	}
	caseErr := c.oneCase(compact)
	c.mendSeparator(compact)
	prefix := c.prefix + "1"
	if wrong := differences(compact, prefix); len(wrong) == 1 && len(compact) == c.length() {
		return nil, fail(ErrTampered, "%s: a wrong character at its beginning, which is %s: %s", c.name, prefix, c.place(wrong[0]))
	} else if len(wrong) > 0 {
		return nil, fail(ErrFormat, "%s: does not begin with %s", c.name, prefix)
	}
	if caseErr != nil {
		return nil, caseErr
	}
	digits := make([]byte, 0, len(compact))
	defer func() { clear(digits[:cap(digits)]) }()
	for i := len(prefix); i < len(compact); i++ {
		d, ok := bech32Digit(compact[i])
		if !ok {
			return nil, fail(ErrTampered, "%s: a character that is never used (1, b, i, o and signs are not): %s", c.name, c.place(i))
		}
		digits = append(digits, d)
	}
	// The check of a line tells the line, the whole text perhaps the character.
	lineErr := c.checkLines(compact, checks)
	if err := c.checkLength(len(compact)); err != nil {
		return nil, cmp.Or(lineErr, err)
	}
	if c.remainder(digits) != bech32mSum {
		if err := c.locate(digits); err != nil {
			return nil, err
		}
		next := "compare it group by group"
		if !c.grouped {
			next = "copy it again"
		}
		return nil, cmp.Or(lineErr, fail(ErrTampered, "%s: more than one character is wrong: %s", c.name, next))
	}
	if lineErr != nil {
		return nil, lineErr
	}
	data, ok := bech32Bytes(digits[:len(digits)-bech32Checksum])
	if !ok || len(data) != c.size {
		clear(data)
		return nil, fail(ErrFormat, "%s: of another version than this program knows", c.name)
	}
	return data, nil
}

// mendSeparator puts a 1 behind the prefix where an l or I was read for it: none of
// the digits is a 1, and nothing else can stand there.
func (c coded) mendSeparator(compact []byte) {
	if at := len(c.prefix); at < len(compact) && bytes.IndexByte([]byte("lLiI"), compact[at]) >= 0 && bytes.EqualFold(compact[:at], []byte(c.prefix)) {
		compact[at] = '1'
	}
}

// oneCase brings a text to lower case; mixed cases come of misreading.
func (c coded) oneCase(compact []byte) error {
	lower, upper := -1, -1
	for i, b := range compact {
		switch {
		case 'a' <= b && b <= 'z':
			lower = i
		case 'A' <= b && b <= 'Z':
			upper = i
			compact[i] = b - 'A' + 'a'
		}
	}
	if lower >= 0 && upper >= 0 {
		return fail(ErrTampered, "%s: upper and lower case are mixed, which is never written: %s or %s", c.name, c.place(lower), c.place(upper))
	}
	return nil
}

func differences(compact []byte, prefix string) (at []int) {
	for i := range len(prefix) {
		if i >= len(compact) || compact[i] != prefix[i] {
			at = append(at, i)
		}
	}
	return at
}

func (c coded) checkLength(n int) error {
	want := c.length()
	switch missing := want - n; {
	case missing == 0:
		return nil
	case missing == groupSize && c.grouped:
		return fail(ErrTampered, "%s: %d characters, %d expected: a group is missing", c.name, n, want)
	case missing > 0:
		return fail(ErrTampered, "%s: %d characters, %d expected: it is cut off, or %d are missing", c.name, n, want, missing)
	case missing == -groupSize && c.grouped:
		return fail(ErrTampered, "%s: %d characters, %d expected: a group is there twice", c.name, n, want)
	}
	return fail(ErrTampered, "%s: %d characters, %d expected: there is too much", c.name, n, want)
}

func (c coded) remainder(digits []byte) bech32State {
	state := bech32Start(c.prefix)
	for _, d := range digits {
		state.feed(d)
	}
	return state
}

// locate says where the error is, if one wrong character or two swapped groups
// explain it and nothing else does.
func (c coded) locate(digits []byte) error {
	offset := len(c.prefix) + 1
	// The code is linear: what a wrong digit adds to the remainder depends on
	// what is added to it and on its distance from the end.
	added := c.remainder(digits) ^ bech32mSum
	var places []int
	for delta := bech32State(1); delta < 32; delta++ {
		state := delta
		for i := len(digits) - 1; i >= 0; i-- {
			if state == added {
				places = append(places, i)
			}
			state.feed(0)
		}
	}
	if len(places) == 1 {
		return fail(ErrTampered, "%s: one character is wrong: %s", c.name, c.place(places[0]+offset))
	}
	if !c.grouped {
		return nil
	}
	var pairs [][2]int
	first := (offset + groupSize - 1) / groupSize // the first group without the prefix
	groups := (offset + len(digits)) / groupSize
	swap := func(a, b int) {
		for i := range groupSize {
			x, y := a*groupSize+i-offset, b*groupSize+i-offset
			digits[x], digits[y] = digits[y], digits[x]
		}
	}
	for a := first; a < groups; a++ {
		for b := a + 1; b < groups; b++ {
			swap(a, b)
			if c.remainder(digits) == bech32mSum {
				pairs = append(pairs, [2]int{a, b})
			}
			swap(a, b)
		}
	}
	if len(pairs) == 1 {
		a, b := pairs[0][0], pairs[0][1]
		return fail(ErrTampered, "%s: two groups are swapped: group %d of line %d and group %d of line %d", c.name,
			a%groupsPerLine+1, a/groupsPerLine+1, b%groupsPerLine+1, b/groupsPerLine+1)
	}
	return nil
}

// checkLines compares the checks at the ends of lines, where there are any.
func (c coded) checkLines(compact []byte, checks map[int][]byte) error {
	ends := make([]int, 0, len(checks))
	for end := range checks {
		ends = append(ends, end)
	}
	slices.Sort(ends)
	start := 0
	for n, end := range ends {
		if end > len(compact) || start%lineSize != 0 || end-start > lineSize {
			return fail(ErrTampered, "%s: line %d is not of %d groups, as its check says: a group is missing or there twice", c.name, n+1, groupsPerLine)
		}
		want := lineCheck(start/lineSize, compact[start:end])
		if !strings.EqualFold(string(want[:]), string(checks[end])) {
			return fail(ErrTampered, "%s: line %d does not agree with its check: compare it character by character", c.name, start/lineSize+1)
		}
		start = end
	}
	return nil
}

// lineCheck is two characters that go with a line: over GF(32) with the
// polynomial x^5+x^3+1, the sum of the digits and the sum of each times a power
// of x, the line's number added to both. It finds any two wrong characters of a
// line, and a line in the place of another.
func lineCheck(number int, line []byte) [2]byte {
	sum, weighted, power := byte(number&31), byte(number&31), byte(1)
	times := func(a, b byte) (p byte) {
		for ; b != 0; b >>= 1 {
			if b&1 != 0 {
				p ^= a
			}
			if a <<= 1; a&32 != 0 {
				a ^= 0b101001
			}
		}
		return p
	}
	for _, c := range line {
		power = times(power, 2)
		d, ok := bech32Digit(c)
		if !ok {
			continue // the 1 behind the prefix
		}
		sum ^= d
		weighted ^= times(d, power)
	}
	return [2]byte{bech32Alphabet[sum], bech32Alphabet[weighted]}
}

// groups breaks a text into groups and lines, with the check of each line or
// without.
func groups(compact []byte, checked bool) []byte {
	out := make([]byte, 0, 2*len(compact)) // never grows: no copies are left behind
	for start := 0; start < len(compact); start += lineSize {
		line := compact[start:min(start+lineSize, len(compact))]
		for i, c := range line {
			if i > 0 && i%groupSize == 0 {
				out = append(out, ' ')
			}
			out = append(out, c)
		}
		if checked {
			check := lineCheck(start/lineSize, line)
			out = append(append(out, "  ="...), check[:]...)
		}
		out = append(out, '\n')
	}
	return out
}

// IsPart tells a part by its beginning, whatever case it is in; whether it is
// whole is for ParsePart to say.
func IsPart(text []byte) bool { return partText.is(text) }

// ParsePart reads a part: a file, a sheet, or what was typed. Lines that begin
// with # are for people, blanks and line ends do not count, and neither does
// the case. The error wraps ErrFormat for what is no part, ErrTampered for one
// with errors in it, whose place it names as far as the code tells. The text is
// the caller's to clear.
func ParsePart(text []byte) (*Part, error) {
	payload, err := partText.decode(text)
	if err != nil {
		return nil, err
	}
	return newPart(payload)
}

// CheckPartLine looks at one line of a part as it is typed, numbered from 1: how
// many characters there are, whether each can be one, and whether they agree
// with the check of the line, if that was typed with it. Errors are those of
// ParsePart. The line is the caller's to clear.
func CheckPartLine(number int, line []byte) error {
	compact, checks, err := partLine(number, line)
	defer clear(compact)
	if err != nil {
		return err
	}
	prefix := partPrefix + "1"
	for i, c := range compact {
		if at := (number-1)*lineSize + i; at < len(prefix) && c != prefix[at] {
			return fail(ErrTampered, "a part begins with %s: %s is something else", prefix, partText.place(at))
		} else if _, ok := bech32Digit(c); at >= len(prefix) && !ok {
			return fail(ErrTampered, "a character that is never used (1, b, i, o and signs are not): %s", partText.place(at))
		}
	}
	return checkTyped(number, compact, checks)
}

// CompareLine is CheckPartLine for a line of this part: it says which character
// is another one. The error wraps ErrTampered.
func (p *Part) CompareLine(number int, line []byte) error {
	typed, checks, err := partLine(number, line)
	defer clear(typed)
	if err != nil {
		return err
	}
	compact := p.Compact()
	defer clear(compact)
	if len(compact) == 0 {
		return errWiped
	}
	for i, c := range typed {
		if at := (number-1)*lineSize + i; c != compact[at] {
			return fail(ErrTampered, "a wrong character: %s", partText.place(at))
		}
	}
	return checkTyped(number, typed, checks)
}

// partLine gives the characters of a typed line in lower case, and the checks
// typed with it; the caller clears the first.
func partLine(number int, line []byte) ([]byte, map[int][]byte, error) {
	compact, checks := joined(line)
	if n, want := len(compact), min(lineSize, PartLength-(number-1)*lineSize); n != want {
		return compact, nil, fail(ErrTampered, "line %d has %d characters, %d expected", number, n, want)
	}
	return compact, checks, partText.oneCase(compact)
}

func checkTyped(number int, compact []byte, checks map[int][]byte) error {
	want := lineCheck(number-1, compact)
	for _, check := range checks {
		if !strings.EqualFold(string(want[:]), string(check)) {
			return fail(ErrTampered, "line %d does not agree with its check: compare it character by character", number)
		}
	}
	return nil
}
