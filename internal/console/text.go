package console

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Count is a number with its noun: 1 key, 2 keys.
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Copies is how many copies of the catalog there are.
func Copies(n int) string {
	switch n {
	case 0:
		return "no copy"
	case 1:
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", n)
}

// AreKeys is a number of keys with its verb: 1 key is, 2 keys are.
func AreKeys(n int) string {
	if n == 1 {
		return "1 key is"
	}
	return fmt.Sprintf("%d keys are", n)
}

// CountOf is a part of a number with its noun: 1 of 1 key is, 2 of 3 keys are.
func CountOf(part, n int, noun string) string {
	verb := "are"
	if n == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%d of %s %s", part, Count(n, noun), verb)
}

// Quoted is a label as it is shown: in quotes, and nothing if there is none.
func Quoted(label string) string {
	if label == "" {
		return ""
	}
	return strconv.Quote(label)
}

// Brief is a list for one line: all of a short one, else the first and how many
// more there are; the result itself names them all.
func Brief(list []string) string {
	if len(list) <= 2 {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s; and %d more", list[0], len(list)-1)
}

// Wrapped breaks a text at blanks into lines of at most width characters.
func Wrapped(text string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}
