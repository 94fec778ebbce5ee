package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

type rollCall struct {
	custodians   []string
	answer       textFlag
	record, list bool
}

func newDKEKRollCallCommand(a *app) *cobra.Command {
	var o rollCall
	cmd := &cobra.Command{
		Use:   "rollcall [ANSWER...]",
		Short: "find out which custodians still have their parts, without collecting any",
		Long: `Gives a challenge. Each custodian answers it with their part, on any computer and
without a catalog: the answer is a signature that tells nothing of the part. Each
good answer is recorded with its date. Neither challenge nor answers are secret:
send them as you like.

At a terminal the answers are asked for, until all have answered or an empty line
ends it. Without one the challenge is printed, and --record takes the answers
later. They are taken for 30 days. With --share, here, a part that is at hand
answers at once.

A custodian signs the day and where the log of the catalog ended: the number of
its last entry and six words of its hash. Read them out, by another way than the
challenge went, and each compares them with what --answer shows. What was signed
says that this is what lay there that day, never that it is true. No challenge is
given while a check finds damage, and none is answered on another day than its
own, give or take two.

status and check warn when fewer than one custodian more than needed have
answered within a year; a set that was just made has 30 days for that. A part that
was confirmed when it was handed out, or was used, counts as well.`,
		Example: `  hsmbackup dkek rollcall                                        gives the challenge
  hsmbackup dkek rollcall --answer hsmcall2… --share bob.txt     bob, on his computer
  hsmbackup dkek rollcall --record hsmansw1… hsmansw1…           the answers that came
  hsmbackup dkek rollcall --custodian bob --share parts/bob.txt
  hsmbackup dkek rollcall --list`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.rollCall(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.custodians, "custodian", nil, "call this custodian only, by `NAME`; repeat for several")
	f.Var(&o.answer, "answer", "answer a `CHALLENGE` with the part of --share, and print the answer")
	f.Lookup("answer").NoOptDefVal = "true"
	f.BoolVar(&o.record, "record", false, "record answers to a challenge that was given before")
	f.BoolVar(&o.list, "list", false, "show who has answered when")
	uses(cmd, useCatalog, useShare, useWho)
	return cmd
}

// textFlag is a flag whose value may also follow as an argument, or be asked
// for.
type textFlag struct {
	given bool
	text  string
}

func (t *textFlag) String() string { return t.text }
func (t *textFlag) Type() string   { return "bool" } // a value behind it is an argument
func (t *textFlag) Set(text string) error {
	if t.given = true; text != "true" {
		t.text = text
	}
	return nil
}

func (a *app) rollCall(ctx context.Context, o rollCall, args []string) error {
	shares := len(a.Flags.ShareArgs) > 0
	modes := 0
	for _, on := range []bool{o.answer.given, o.record, o.list} {
		if on {
			modes++
		}
	}
	switch {
	case modes > 1:
		return console.Usagef("", "--answer, --record and --list exclude each other")
	case o.answer.given && len(o.custodians) > 0:
		return console.Usagef("", "--answer needs no --custodian: the part says whose it is")
	case o.answer.given && !shares:
		return console.Usagef("", "--answer needs the part: --share FILE")
	case (o.record || o.list) && shares:
		return console.Usagef("", "--share is for a part that answers: at once, or with --answer a challenge")
	case len(args) > 0 && !o.record && !o.answer.given:
		return console.Usagef("answers are taken with --record, a challenge with --answer", "dkek rollcall takes no arguments by itself")
	case len(args) > 0 && o.answer.given && (o.answer.text != "" || len(args) > 1):
		return console.Usagef("", "--answer takes one challenge")
	}
	if o.answer.given {
		return a.answerCall(ctx, strings.Join(append(args, o.answer.text), ""))
	}
	if o.list {
		return a.listKeepers(o)
	}
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	if cat == nil {
		return a.NoCatalog()
	}
	defer cli.CloseCatalog(cat)
	// A part or an answer says by itself which set it is of, and that may be one
	// that nobody calls any more.
	var sets []custody.KeptSet
	if len(o.custodians) > 0 || !shares && !o.record {
		if sets, err = a.called(cat, o.custodians); err != nil {
			return err
		}
	}
	switch {
	case shares:
		return a.answerHere(ctx, cat, o)
	case o.record:
		return a.recordAnswers(ctx, cat, o, args)
	}
	call, err := custody.Call(cat, a.Desk(), a.Now())
	if err != nil {
		return err
	}
	if a.Flags.JSON || !a.TTY.Available() {
		return a.giveChallenge(call, sets)
	}
	return a.callRoll(ctx, cat, call, sets, o)
}

// called gives the sets that --custodian is about.
func (a *app) called(cat *store.Catalog, names []string) ([]custody.KeptSet, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	return custody.Called(custody.Keepers(state, a.Now()), names)
}

// answerCall is the custodian's side; it needs no catalog and leaves nothing
// behind. The answer alone goes to stdout.
func (a *app) answerCall(ctx context.Context, text string) error {
	if text == "" {
		line, err := a.TTY.ReadLine(ctx, "challenge (hsmcall2…):")
		switch {
		case errors.Is(err, terminal.ErrNone):
			return console.Usagef("", "--answer CHALLENGE: the challenge is missing, and there is no terminal to ask for it")
		case err != nil:
			return err
		}
		text = line
	}
	answers, err := a.Opener().Answer(ctx, text, a.Flags.ShareArgs, a.Now())
	if err != nil {
		return err
	}
	if a.Flags.JSON {
		return a.Document(struct {
			Answers []custody.GivenAnswer `json:"answers"`
		}{answers})
	}
	for _, g := range answers {
		a.Printf("%s", g.Answer)
	}
	return nil
}

type jsonRollCall struct {
	Challenge string `json:"challenge,omitempty"`
	*custody.Place
	Good    string            `json:"good_until,omitempty"`
	Answers []custody.Came    `json:"answers"`
	Open    []jsonCall        `json:"open,omitempty"`
	Sets    []custody.PartSet `json:"part_sets"`
}

type jsonCall struct {
	Challenge string   `json:"challenge"`
	Good      string   `json:"good_until"`
	Answered  []string `json:"answered"`
}

// giveChallenge is the first step without a terminal.
func (a *app) giveChallenge(call custody.OpenCall, sets []custody.KeptSet) error {
	a.Changed = true
	if a.Flags.JSON {
		place := call.Place()
		return a.Document(jsonRollCall{Challenge: call.Challenge, Place: &place, Good: call.Good().Format(time.DateOnly), Answers: []custody.Came{}, Sets: a.partSets(sets)})
	}
	a.Printf("%s", call.Challenge)
	a.Next("read out to each, by another way: %s", call.Place())
	a.Next("each custodian: `hsmbackup dkek rollcall --answer %s --share FILE`", call.Challenge)
	a.Next("then, until %s: `hsmbackup dkek rollcall --record ANSWER…`", call.Good().Format(time.DateOnly))
	return nil
}

// recordCall leaves a ceremony behind if anybody answered.
func (a *app) recordCall(r *custody.Roll, missing []string) {
	if c, any := r.Ceremony(missing); any {
		a.Ceremony(r.Cat, c)
	}
}

func (a *app) printAnswered(got custody.Answered) {
	again := ""
	if got.Before {
		again = "; this answer was recorded before, and counts once"
	}
	a.Printf("%s has part %d of set %s%s", got.Keeper.Name, got.Keeper.Index, got.Set.Set, again)
}

func (a *app) roll(cat *store.Catalog, o rollCall) *custody.Roll {
	return &custody.Roll{Cat: cat, Only: o.custodians, Now: a.Now(), Desk: a.Desk()}
}

// answerHere has parts that are at hand answer at once.
func (a *app) answerHere(ctx context.Context, cat *store.Catalog, o rollCall) error {
	parts, err := a.Opener().OpenParts(ctx, a.Flags.ShareArgs)
	if err != nil {
		return err
	}
	r := a.roll(cat, o)
	var refused error
	for i, p := range parts {
		defer p.Wipe()
		got, bad, err := r.TakePart(p)
		if err != nil {
			return err
		}
		refused = a.answered(got, a.Flags.ShareArgs[i].File, bad, refused)
	}
	return a.closeCall(r, refused)
}

// recordAnswers is the second step without a terminal.
func (a *app) recordAnswers(ctx context.Context, cat *store.Catalog, o rollCall, texts []string) error {
	if len(texts) == 0 {
		return console.Usagef("", "--record takes the answers that came: hsmansw1…")
	}
	r := a.roll(cat, o)
	var refused error
	for i, text := range texts {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, bad, err := r.Take(text)
		if err != nil {
			return err
		}
		what := ""
		if len(texts) > 1 {
			what = fmt.Sprintf("answer %d", i+1)
		}
		refused = a.answered(got, what, bad, refused)
	}
	return a.closeCall(r, refused)
}

// answered reports one answer; a refusal is kept as the error if it is the first.
func (a *app) answered(got custody.Answered, what string, err, first error) error {
	if err == nil {
		a.Changed = true
		if !a.Flags.JSON {
			a.printAnswered(got)
		}
		return first
	}
	if what != "" {
		f := cli.Describe(err, false)
		f.Message = what + ": " + f.Message
		err = &f
	}
	if first != nil {
		a.Note("%s", err)
		return first
	}
	return err
}

// closeCall records who answered and gives how it ended: with answers that were
// refused beside good ones it is incomplete.
func (a *app) closeCall(r *custody.Roll, refused error) error {
	a.recordCall(r, nil)
	if refused != nil && len(r.Names()) == 0 {
		return refused
	}
	state, err := r.Cat.Read()
	if err != nil {
		return err
	}
	sets := custody.InUse(state, a.Now())
	if a.Flags.JSON {
		if err := a.Document(jsonRollCall{Answers: r.Came, Sets: a.partSets(sets)}); err != nil {
			return err
		}
	}
	if refused != nil {
		f := cli.Describe(refused, false)
		return &console.Outcome{Exit: console.ExitIncomplete, Message: f.Message, Hints: f.Hints}
	}
	for _, s := range sets {
		if s.AtRisk() {
			a.Next("%s", a.riskText(s))
		}
	}
	return nil
}

// callRoll asks for answers at a terminal.
func (a *app) callRoll(ctx context.Context, cat *store.Catalog, call custody.OpenCall, sets []custody.KeptSet, o rollCall) error {
	a.Changed = true
	for _, s := range sets {
		a.printKeepers(s)
	}
	a.Printf("challenge: %s", call.Challenge)
	a.Printf("read out to each, by another way: %s", call.Place())
	a.Printf("each custodian, on any computer: hsmbackup dkek rollcall --answer %s --share FILE", call.Challenge)
	r := a.roll(cat, o)
	asked, open, missing, err := r.Ask(ctx, sets, a.printAnswered)
	if err != nil {
		return err
	}
	a.recordCall(r, missing)
	a.Printf("%d of %d have answered", asked-open, asked)
	exits := console.Exits{}
	message, hints := "", []string{}
	if len(missing) > 0 {
		message = "not answered: " + strings.Join(missing, ", ")
		hints = append(hints, fmt.Sprintf("answers that come until %s: `hsmbackup dkek rollcall --record ANSWER…`", call.Good().Format(time.DateOnly)))
		if len(o.custodians) > 0 {
			exits.Add(console.ExitIncomplete)
		}
	}
	now, err := a.called(cat, o.custodians)
	if err != nil {
		return err
	}
	for _, s := range now {
		if s.AtRisk() {
			exits.Add(console.ExitIncomplete)
			hints = append(hints, a.riskText(s))
		}
	}
	if exits.Worst() == console.ExitOK && message != "" {
		a.Note("%s", message)
		a.Next("%s", hints[0])
	}
	return exits.Outcome(message, hints...)
}

// listKeepers shows all sets, the retired ones too, and changes nothing.
func (a *app) listKeepers(o rollCall) error {
	cat, err := a.NeedCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	state, err := cat.Read()
	if err != nil {
		return err
	}
	sets := custody.Keepers(state, a.Now())
	if len(o.custodians) > 0 {
		if sets, err = custody.Called(sets, o.custodians); err != nil {
			return err
		}
	}
	open, err := custody.OpenCalls(cat, a.Now())
	if err != nil {
		return err
	}
	if a.Flags.JSON {
		doc := jsonRollCall{Answers: []custody.Came{}, Sets: a.partSets(sets)}
		for _, c := range open {
			doc.Open = append(doc.Open, jsonCall{c.Challenge, c.Good().Format(time.DateOnly), append([]string{}, c.Answered...)})
		}
		if err := a.Document(doc); err != nil {
			return err
		}
		return a.stale(sets)
	}
	if len(sets) == 0 {
		a.Printf("no parts are registered")
	}
	for _, s := range sets {
		a.printKeepers(s)
	}
	for _, c := range open {
		a.Printf("challenge good until %s, %s: %s", c.Good().Format(time.DateOnly), console.Count(len(c.Answered), "answer"), c.Challenge)
	}
	return a.stale(sets)
}
