package console

import (
	"errors"
	"strings"
)

// Outcome is a job that was done and whose result was printed, but that is
// incomplete or has found damage.
type Outcome struct {
	Exit    int
	Message string
	Hints   []string
}

func (o *Outcome) Error() string { return o.Message }

// AmidDamage is how a job ends that went on with what is whole of something
// damaged: damage goes before what is incomplete, and after everything else.
func AmidDamage(err, damage error, hint string) error {
	var done *Outcome
	switch {
	case err == nil:
		return &Outcome{Exit: ExitDamaged, Message: damage.Error(), Hints: []string{hint}}
	case errors.As(err, &done) && done.Exit == ExitIncomplete:
		return &Outcome{Exit: ExitDamaged, Message: done.Message + "; " + damage.Error(), Hints: append(done.Hints, hint)}
	}
	return err
}

// IsOutcome tells an Outcome from errors of other kinds.
func IsOutcome(err error) bool {
	var o *Outcome
	return errors.As(err, &o)
}

// Exits collects what several parts of a job came to.
type Exits map[int]bool

// Add takes a part in.
func (e Exits) Add(exit int) { e[exit] = true }

// Worst is the one that counts: 6, 4, 5, 3, then 1.
func (e Exits) Worst() int {
	for _, exit := range []int{ExitRefused, ExitChanged, ExitDamaged, ExitIncomplete, ExitFailed} {
		if e[exit] {
			return exit
		}
	}
	return ExitOK
}

// Outcome is nil if all is well, else an error that carries the code. The
// result itself was printed.
func (e Exits) Outcome(message string, hints ...string) error {
	if exit := e.Worst(); exit != ExitOK {
		return &Outcome{Exit: exit, Message: message, Hints: hints}
	}
	return nil
}

// Outcomes is how a job ended that looked at several things.
func Outcomes(list ...error) error {
	exits := Exits{}
	var messages, hints []string
	for _, err := range list {
		var o *Outcome
		switch {
		case err == nil:
		case errors.As(err, &o):
			exits.Add(o.Exit)
			messages, hints = append(messages, o.Message), append(hints, o.Hints...)
		default:
			return err
		}
	}
	return exits.Outcome(strings.Join(messages, "; "), hints...)
}
