// Package source is where secrets come from: a prompt, the environment, a file,
// a descriptor, a command. A literal is refused.
package source

import (
	"fmt"
	"strconv"
	"strings"

	"hsmbackup/internal/console"
)

// Source says where a secret is read: prompt, env:NAME, file:PATH, fd:N or
// cmd:COMMAND. The zero value is none: Parse makes one.
type Source struct {
	Flag string // whose value it is, for messages: "--pin"
	Kind string
	Arg  string
}

// Kinds is the list for messages.
const Kinds = "prompt, env:NAME, file:PATH, fd:N or cmd:COMMAND"

// Parse reads the value of a flag; an empty one is prompt. A value that is none
// of the sources is taken for the secret itself and refused; it is not repeated.
func Parse(flag, value string) (Source, error) {
	s := Source{Flag: flag, Kind: "prompt"}
	kind, arg, colon := strings.Cut(value, ":")
	switch {
	case value == "", value == "prompt":
		return s, nil
	case colon && arg != "" && (kind == "env" || kind == "file" || kind == "cmd"):
		s.Kind, s.Arg = kind, arg
		return s, nil
	case colon && kind == "fd":
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 {
			return s, console.Usagef("", "%s fd:N takes the number of an open file descriptor", flag)
		}
		s.Kind, s.Arg = kind, arg
		return s, nil
	}
	return s, console.Usagef("give "+Kinds, "%s says where to read the secret, not the secret itself: "+
		"arguments are seen by everyone on this computer and stay in the shell's history", flag)
}

// Typed tells that a person types it.
func (s Source) Typed() bool { return s.Kind == "prompt" }

// Name is the source without what a command line may hold.
func (s Source) Name() string {
	if s.Kind == "cmd" {
		return s.Flag + " cmd:…"
	}
	return fmt.Sprintf("%s %s:%s", s.Flag, s.Kind, s.Arg)
}

// key is what the source is kept under.
func (s Source) key() string { return s.Kind + ":" + s.Arg }
