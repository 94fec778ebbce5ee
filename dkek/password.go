package dkek

import (
	"bytes"
	"slices"
	"unicode"
	"unicode/utf8"
)

// minPasswordBits is what CheckPassword asks for. The derivation costs an
// attacker who has the file about 0.12 s per guess and core, so a thousand
// cores need 2^60 guesses for four million years, but 2^40 for four years.
const minPasswordBits = 60

// CheckPassword judges a password for a share file. The estimate is on the low
// side: it takes what looks like a word for a word out of a list, and repeats,
// runs and years for next to nothing. The error wraps ErrWeakPassword and says
// what to do; it holds nothing of the password. A caller may insist.
func CheckPassword(pw []byte) error {
	runes := decode(pw)
	defer clear(runes)
	if len(runes) == 0 {
		return fail(ErrWeakPassword, "the password is empty")
	}
	if slices.ContainsFunc(runes, unicode.IsControl) {
		return fail(ErrWeakPassword, "the password has a control character (a line end, perhaps), which nobody can type at sc-hsm-tool's prompt")
	}
	if slices.ContainsFunc(runes, invisible) || unicode.IsSpace(runes[0]) || unicode.IsSpace(runes[len(runes)-1]) {
		return fail(ErrWeakPassword, "the password has a character that nobody sees, or a blank at one of its ends: whoever types it from paper types another one")
	}
	if bits := passwordBits(runes); bits < minPasswordBits {
		return fail(ErrWeakPassword, "the password is too weak: worth about %d bits, %d are needed, because whoever finds the share file can try passwords at leisure; use seven random words, or have one generated", int(bits), minPasswordBits)
	}
	return nil
}

// invisible tells characters that look like a blank or like nothing.
func invisible(r rune) bool { return unicode.IsSpace(r) && r != ' ' || unicode.Is(unicode.Cf, r) }

// WithoutBlanks is a password less what looks like a blank, or like nothing, at its
// end: an editor or a paste has put it there. It is a part of pw.
func WithoutBlanks(pw []byte) []byte {
	return bytes.TrimRightFunc(pw, func(r rune) bool { return unicode.IsSpace(r) || invisible(r) })
}

// decode gives the characters; what is no UTF-8 goes byte by byte. The array
// is made large enough at once, so that one clear gets all of it.
func decode(pw []byte) []rune {
	runes := make([]rune, 0, len(pw))
	for len(pw) > 0 {
		r, n := utf8.DecodeRune(pw)
		if r == utf8.RuneError && n == 1 {
			r = rune(pw[0]) | 0x100 // a letter-like stranger, never a control
		}
		runes = append(runes, r)
		pw = pw[n:]
	}
	return runes
}

// What parts of a password are taken to be worth, in bits.
const (
	wordBits   = 10   // a word of up to eight letters: one of a thousand
	letterBits = 1.2  // each further letter of a word or of words run together
	rareBits   = 3.5  // two letters that do not follow each other in words
	randomBits = 4.7  // at most: a random letter
	capBits    = 1    // a capital
	shortBits  = 5    // a word of up to three letters that stands alone
	digitBits  = 3.3  // a digit
	yearBits   = 7    // 19xx, 20xx
	dateBits   = 15   // at most: up to eight digits, which may be a date or a telephone number
	symbolBits = 5    // a symbol that is new
	againBits  = 0.5  // one that was there before, or separates words
	repeatBits = 4    // four or more characters that were there before
	maxRunes   = 1000 // more is not looked at
)

func passwordBits(runes []rune) float64 {
	runes = runes[:min(len(runes), maxRunes)]
	folded := make([]rune, len(runes))
	defer clear(folded)
	for i, r := range runes {
		folded[i] = unicode.ToLower(r)
	}
	bits := 0.0
	for i := 0; i < len(folded); {
		if n := repeated(folded, i); n > 0 {
			bits += repeatBits
			i += n
			continue
		}
		end := i + 1
		switch class := classOf(folded[i]); class {
		case letter, digit:
			for end < len(folded) && classOf(folded[end]) == class && repeated(folded, end) == 0 {
				end++
			}
			if class == letter {
				alone := (i == 0 || classOf(folded[i-1]) == other) && (end == len(folded) || classOf(folded[end]) == other)
				bits += lettersBits(runes[i:end], folded[i:end], alone)
			} else {
				bits += digitsBits(folded[i:end])
			}
		default:
			if slices.Contains(folded[:i], folded[i]) || separator(folded[i]) {
				bits += againBits
			} else {
				bits += symbolBits
			}
		}
		i = end
	}
	return bits
}

type class int

const (
	other class = iota
	letter
	digit
)

// separator tells what stands between words.
func separator(r rune) bool { return r == ' ' || r == '-' || r == '_' || r == '.' || r == ',' }

// classOf takes the letters of scripts without spaces between words (from
// U+2E80 on) for symbols, which each of them nearly is.
func classOf(r rune) class {
	switch {
	case r >= '0' && r <= '9':
		return digit
	case unicode.IsLetter(r) && r < 0x2E80:
		return letter
	}
	return other
}

// repeated gives the length of the longest stretch from i on, of at least
// four, that also begins earlier.
func repeated(s []rune, i int) int {
	best := 0
	for j := range i {
		n := 0
		for i+n < len(s) && s[j+n] == s[i+n] {
			n++
		}
		best = max(best, n)
	}
	if best < 4 {
		return 0
	}
	return best
}

// keyRows are rows of keyboards; runs along them are guessed first.
var keyRows = []string{"qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "qsdfghjklm", "zxcvbnm", "yxcvbnm", "wxcvbn"}

// adjacent tells whether b follows a in the alphabet, in counting or on a
// keyboard, in either direction, or equals it.
func adjacent(a, b rune) bool {
	if d := b - a; d >= -1 && d <= 1 {
		return true
	}
	for _, row := range keyRows {
		for i := range len(row) - 1 {
			if x, y := rune(row[i]), rune(row[i+1]); a == x && b == y || a == y && b == x {
				return true
			}
		}
	}
	return false
}

// effective counts the characters that do not just continue a run of three or
// more adjacent ones.
func effective(s []rune) float64 {
	n := 0
	for i := range s {
		if i < 2 || !adjacent(s[i-2], s[i-1]) || !adjacent(s[i-1], s[i]) {
			n++
		}
	}
	return float64(n)
}

func lettersBits(shown, folded []rune, alone bool) float64 {
	n := effective(folded)
	bits := wordBits + letterBits*max(0, n-8)
	if alone && len(folded) <= 3 {
		bits = shortBits
	}
	rares := 0
	for i := 1; i < len(folded); i++ {
		if rare(folded[i-1], folded[i]) {
			rares++
		}
	}
	if alone { // every tenth word has one
		rares = max(0, rares-1)
	}
	bits += rareBits * float64(rares)
	bits = min(bits, randomBits*n)
	for i := range shown {
		if shown[i] != folded[i] && (i == 0 || shown[i-1] == folded[i-1]) {
			bits += capBits
		}
	}
	return bits
}

func digitsBits(s []rune) float64 {
	if len(s) == 4 && (s[0] == '1' && s[1] == '9' || s[0] == '2' && s[1] == '0') {
		return yearBits
	}
	bits := digitBits * effective(s)
	if len(s) <= 8 {
		bits = min(bits, dateBits)
	}
	return bits
}

// followers are the letters that follow a to z within words of English,
// Spanish, French, Italian and German often enough to be no surprise (once in
// a thousand pairs in one of the BIP-39 lists).
var followers = [26]string{
	"bcdfghijklmnprstuvwyz", "abeiloru", "acehiklortu", "adeilortu", "abcdefghijlmnoprstuvxyz",
	"aefilorstu", "aeghilnoru", "aegilorstu", "abcdefglmnopqrstvz", "aeou",
	"aeil", "acdeilostuy", "abeimopu", "acdefgiknostuwz", "abcdgijlmnoprstuvwyz",
	"aefhiloprtu", "u", "abcdeghiklmnorstuy", "abcefhiklmopstuvw", "acehiorstuyz",
	"abcdegilmnoprstvx", "aeior", "aeino", "ei", "e", "aeiowz",
}

// rare tells whether b seldom follows a in words. Letters beyond a to z are
// given the benefit of no surprise.
func rare(a, b rune) bool {
	if a < 'a' || a > 'z' || b < 'a' || b > 'z' || a == b {
		return false
	}
	for _, f := range followers[a-'a'] {
		if f == b {
			return false
		}
	}
	return true
}
