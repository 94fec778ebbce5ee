// Package words writes bits as English words that people can read out, copy
// and type: the BIP-39 list, 2048 words, 11 bits each. It is used for the head
// of the catalog and for generated passwords. There is no BIP-39 checksum: a
// word that is not on the list is noticed, another word that is on it is not.
package words

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/tyler-smith/go-bip39/wordlists"
)

// Bits is how much one word carries.
const Bits = 11

// index gives the place of a word in the list.
var index = func() map[string]uint16 {
	m := make(map[string]uint16, len(wordlists.English))
	for i, w := range wordlists.English {
		m[w] = uint16(i)
	}
	return m
}()

// Encode gives the first n·11 bits of b as n words, the most significant bit
// of b[0] first. It panics when b has fewer bits: n and the size of b are the
// program's, never input.
func Encode(b []byte, n int) []string {
	if n < 0 || n*Bits > 8*len(b) {
		panic(fmt.Sprintf("words: %d words of %d bytes", n, len(b)))
	}
	list := make([]string, n)
	for i := range list {
		v := 0
		for bit := i * Bits; bit < (i+1)*Bits; bit++ {
			v = v<<1 | int(b[bit/8]>>(7-bit%8)&1)
		}
		list[i] = wordlists.English[v]
	}
	return list
}

// Decode is the inverse of Encode: bits is 11 for each word, and the last byte
// of prefix is filled up with zero bits. Upper and lower case are the same,
// and an item may hold several words with blanks or hyphens between them, as
// arguments of a command line do.
//
// The error names a word that is not on the list, its place from 1, and the
// word it probably was. Do not pass secrets: it repeats what was typed.
func Decode(words []string) (prefix []byte, bits int, err error) {
	var list []string
	for _, w := range words {
		list = append(list, strings.FieldsFunc(strings.ToLower(w), func(r rune) bool {
			return r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == '-'
		})...)
	}
	if len(list) == 0 {
		return nil, 0, fmt.Errorf("no words given")
	}
	bits = Bits * len(list)
	prefix = make([]byte, (bits+7)/8)
	for i, w := range list {
		v, ok := index[w]
		if !ok {
			return nil, 0, fmt.Errorf("word %d, %q, is not on the list%s", i+1, w, suggestion(w))
		}
		for j := range Bits {
			bit := i*Bits + j
			prefix[bit/8] |= byte(v>>(Bits-1-j)&1) << (7 - bit%8)
		}
	}
	return prefix, bits, nil
}

// suggestion gives the nearest word, at most two letters away.
func suggestion(typed string) string {
	best, distance := "", 3
	if len(typed) > 16 { // the longest word has 8 letters
		return ""
	}
	for _, w := range wordlists.English {
		if d := editDistance(typed, w); d < distance {
			best, distance = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// editDistance counts letters to insert, delete, replace, or swap with their
// neighbour.
func editDistance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// Random gives n random words with single blanks between them, 11 bits of
// entropy each, as bytes that the caller clears after use.
func Random(n int) ([]byte, error) {
	if n < 1 {
		return nil, fmt.Errorf("%d random words asked for", n)
	}
	raw := make([]byte, 2*n)
	defer clear(raw)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("random numbers: %v", err)
	}
	// Room for the longest words, so that append never leaves a copy behind.
	phrase := make([]byte, 0, n*(longest+1))
	for i := range n {
		if i > 0 {
			phrase = append(phrase, ' ')
		}
		// 2048 divides 65536: the low bits are uniform.
		phrase = append(phrase, wordlists.English[binary.BigEndian.Uint16(raw[2*i:])%2048]...)
	}
	return phrase, nil
}

// longest is the length of the longest word of the list.
var longest = func() int {
	n := 0
	for _, w := range wordlists.English {
		n = max(n, len(w))
	}
	return n
}()
