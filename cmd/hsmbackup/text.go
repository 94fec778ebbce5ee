package main

import (
	"fmt"
	"strconv"
)

// count is a number with its noun: 1 key, 2 keys.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// quoted is a label as it is shown: in quotes, and nothing if there is none.
func quoted(label string) string {
	if label == "" {
		return ""
	}
	return strconv.Quote(label)
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
