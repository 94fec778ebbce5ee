// Package fail has the failures of jobs, in words for people and in classes, and what
// is left of a job that was done. Each class has an exit code of its own.
package fail

import (
	"errors"
	"fmt"
)

// Class says what a failure left behind; each has an exit code of its own.
type Class int

// The classes.
const (
	// Failed: nothing was changed.
	Failed Class = iota
	// Refused by a guard: the job would not have been safe.
	Refused
	// Changed: a token or the catalog was changed before it failed. Running
	// again goes on from there.
	Changed
	// Damaged: something that was stored does not check out.
	Damaged
	// Misused: what was asked for cannot be; nothing was changed.
	Misused
)

// Error is a failure in words for people.
type Error struct {
	Class Class
	// Code names the failure for scripts, in lower case with hyphens.
	Code string
	// Message is one line; Hint, if any, says what to do next, one thing a line.
	Message, Hint string
	// Err is what is behind it, for errors.Is.
	Err error
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives what is behind the error.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf is the class of the outermost *Error in err, Failed without one.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Failed
}

// After marks a failure as one that left a token or the catalog changed.
func After(err error) error {
	var e *Error
	if errors.As(err, &e) {
		if e.Class != Failed {
			return err
		}
		c := *e
		c.Class = Changed
		return &c
	}
	return &Error{Class: Changed, Code: "interrupted", Message: err.Error(), Hint: "run the same command again: it goes on from here", Err: err}
}

// Refusef, Failf and Usagef give failures of the classes Refused, Failed and Misused.
func Refusef(code, hint, format string, args ...any) error {
	return &Error{Class: Refused, Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func Failf(code, hint, format string, args ...any) error {
	return &Error{Class: Failed, Code: code, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func Usagef(hint, format string, args ...any) error {
	return &Error{Class: Misused, Code: "usage", Message: fmt.Sprintf(format, args...), Hint: hint}
}
