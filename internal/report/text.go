// Package report is how results are shown: the documents of --json, tables and
// lines. It decides nothing; what is said of an error is the console's business.
package report

import (
	"fmt"
	"strconv"
	"strings"

	"hsmbackup/internal/words"
	"hsmbackup/store"
)

// Reference is a stored key's reference as it is shown; that of an adopted key
// may not be known.
func Reference(n int) string {
	if n == 0 {
		return "?"
	}
	return strconv.Itoa(n)
}

// TakenOf names the token of a snapshot; an adopted one has none.
func TakenOf(serial string) string {
	if serial == "" {
		return "adopted files"
	}
	return serial
}

// Entries is a number of entries of the log.
func Entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

// HeadWords is how many words name the head of the log: 66 bits, which nobody
// finds a second entry for by trying.
const HeadWords = 6

// Head is an entry's hash as words.
func Head(e store.Entry) string { return strings.Join(words.Encode(e.Hash[:], HeadWords), " ") }
