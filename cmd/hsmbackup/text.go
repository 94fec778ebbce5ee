package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// count is a number with its noun: 1 key, 2 keys.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// copies is how many copies of the catalog there are.
func copies(n int) string {
	switch n {
	case 0:
		return "no copy"
	case 1:
		return "1 copy"
	}
	return fmt.Sprintf("%d copies", n)
}

// quoted is a label as it is shown: in quotes, and nothing if there is none.
func quoted(label string) string {
	if label == "" {
		return ""
	}
	return strconv.Quote(label)
}

// countOf is a part of a number with its noun: 1 of 1 key is, 2 of 3 keys are.
func countOf(part, n int, noun string) string {
	verb := "are"
	if n == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%d of %s %s", part, count(n, noun), verb)
}

// brief is a list for one line: all of a short one, else the first and how many
// more there are; the result itself names them all.
func brief(list []string) string {
	if len(list) <= 2 {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s; and %d more", list[0], len(list)-1)
}

// exitSet collects what several parts of a job came to.
type exitSet map[int]bool

func (e exitSet) add(exit int) { e[exit] = true }

// worst is the one that counts, by the precedence of cli.md.
func (e exitSet) worst() int {
	for _, exit := range []int{exitRefused, exitChanged, exitDamaged, exitIncomplete, exitFailed} {
		if e[exit] {
			return exit
		}
	}
	return exitOK
}

// outcome is nil if all is well, else an error that carries the code. The
// result itself was printed.
func (e exitSet) outcome(message string, hints ...string) error {
	if exit := e.worst(); exit != exitOK {
		return &outcome{exit: exit, message: message, hints: hints}
	}
	return nil
}

// outcomes is how a job ended that looked at several things.
func outcomes(list ...error) error {
	exits := exitSet{}
	var messages, hints []string
	for _, err := range list {
		var o *outcome
		switch {
		case err == nil:
		case errors.As(err, &o):
			exits.add(o.exit)
			messages, hints = append(messages, o.message), append(hints, o.hints...)
		default:
			return err
		}
	}
	return exits.outcome(strings.Join(messages, "; "), hints...)
}

// reference is a stored key's reference as it is shown; that of an adopted key
// may not be known.
func reference(n int) string {
	if n == 0 {
		return "?"
	}
	return strconv.Itoa(n)
}

// takenOf names the token of a snapshot; an adopted one has none.
func takenOf(serial string) string {
	if serial == "" {
		return "adopted files"
	}
	return serial
}

// wrapped breaks a text at blanks into lines of at most width characters.
func wrapped(text string, width int) string {
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

// areKeys is a number of keys with its verb: 1 key is, 2 keys are.
func areKeys(n int) string {
	if n == 1 {
		return "1 key is"
	}
	return fmt.Sprintf("%d keys are", n)
}
