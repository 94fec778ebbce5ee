package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// The times of a roll-call.
const (
	// challengeGood is how long answers to a challenge are taken, from the day on
	// that it carries.
	challengeGood = 30 * 24 * time.Hour
	// answerGood is how long an answer shows that a part is still there.
	answerGood = 365 * 24 * time.Hour
	// handOutTime is how long the custodians of a new set have to show that they
	// got their parts, before it counts as neglected.
	handOutTime = 30 * 24 * time.Hour
	// A challenge is remembered for longer than it is good, so that a late answer
	// is told from a wrong one.
	challengeKept = 400 * 24 * time.Hour
)

// OpenCall is a challenge that was given out and that answers are awaited to.
type OpenCall struct {
	Challenge string `json:"challenge"`
	// Answered names the parts whose answers were recorded: SET/INDEX.
	Answered []string `json:"answered,omitempty"`

	challenge *dkek.Challenge
}

// Good tells until when answers are taken.
func (c OpenCall) Good() time.Time { return c.challenge.Day.Add(challengeGood) }

const callNotes = "roll-call/"

// Place is where a log ended: what custodians compare before they sign it.
type Place struct {
	Day   string `json:"day"`
	Entry uint64 `json:"entry"`
	Head  string `json:"head"` // six words; empty, and entry 0: the challenge names no place
}

func placeOf(c *dkek.Challenge) Place {
	p := Place{Day: c.Day.Format(time.DateOnly), Entry: c.Entry}
	if c.Entry != 0 {
		p.Head = strings.Join(wordsOf(c.Head), " ")
	}
	return p
}

func (p Place) String() string {
	if p.Entry == 0 {
		return p.Day + ", which names no entry of a log"
	}
	return fmt.Sprintf("%s, entry %d: %s", p.Day, p.Entry, p.Head)
}

// Place is what the lead reads out, for custodians to compare.
func (c OpenCall) Place() Place { return placeOf(c.challenge) }

// Call makes a challenge and keeps it in the catalog's journal, so that a later
// run can check the answers. Those that are long past are forgotten. There is none
// while a check of the catalog finds damage.
func Call(cat *store.Catalog, desk Desk, now time.Time) (OpenCall, error) {
	state, err := whole(cat)
	if err != nil {
		return OpenCall{}, err
	}
	announce(desk, state, store.RollCall{Challenge: "-"})
	calls, err := openCalls(cat)
	if err != nil {
		return OpenCall{}, err
	}
	for _, c := range calls {
		if now.Sub(c.challenge.Day) > challengeKept {
			if err := cat.Journal().Delete(callNotes + c.Challenge); err != nil {
				return OpenCall{}, err
			}
		}
	}
	c, err := newCall(state, now)
	if err != nil {
		return c, err
	}
	return c, cat.Journal().Put(callNotes+c.Challenge, c)
}

// newCall makes a challenge that nothing keeps.
func newCall(state *store.State, now time.Time) (OpenCall, error) {
	c, err := dkek.NewChallenge(now, state.Head.Seq, state.Head.Hash)
	if err != nil {
		return OpenCall{}, err
	}
	return OpenCall{Challenge: c.Text(), challenge: c}, nil
}

// whole reads a catalog in which a check finds no damage: custodians would sign
// that as well.
func whole(cat *store.Catalog) (*store.State, error) {
	v, err := backup.Inspect(cat)
	if err != nil {
		return nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	if Anchor(v, state, nil, nil); v.Damaged() {
		return nil, &fail.Error{Class: fail.Damaged, Code: "catalog-damaged", Message: "there is damage in the catalog or a copy of it: no roll is called that would have custodians sign it",
			Hint: "`hsmbackup check` lists all that does not check out"}
	}
	return state, nil
}

// announce says before the first such entry is written that older programs will
// not open the catalog.
func announce(desk Desk, state *store.State, b store.Body) {
	if state.Raises(b) {
		desk.Note("with this the catalog is of format version 3: older programs will not open it")
	}
}

// OpenCalls gives the challenges that answers are still taken to, the oldest
// first.
func OpenCalls(cat *store.Catalog, now time.Time) ([]OpenCall, error) {
	calls, err := openCalls(cat)
	return slices.DeleteFunc(calls, func(c OpenCall) bool { return now.After(c.Good()) }), err
}

func openCalls(cat *store.Catalog) ([]OpenCall, error) {
	names, err := cat.Journal().Keys(callNotes)
	if err != nil {
		return nil, err
	}
	var list []OpenCall
	for _, name := range names {
		var c OpenCall
		if _, err := cat.Journal().Get(name, &c); err != nil {
			return nil, err
		}
		if c.challenge, err = dkek.ParseChallenge([]byte(c.Challenge)); err != nil || callNotes+c.Challenge != name {
			return nil, fmt.Errorf("%w: journal %q: no challenge of a roll-call", store.ErrDamaged, name)
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b OpenCall) int { return a.challenge.Day.Compare(b.challenge.Day) })
	return list, nil
}

// Answered is whose answer was recorded.
type Answered struct {
	Set    KeptSet
	Keeper Keeper
	// Before: this very answer had been recorded already, and counts once.
	Before bool
}

// RecordAnswer checks an answer against the commitments and the challenges of
// the catalog and records it as given at a roll-call. only are the names of the
// custodians that it may be of; none allows all. Whatever it refuses, nothing
// was changed.
func RecordAnswer(cat *store.Catalog, answer *dkek.Answer, only []string, now time.Time) (Answered, error) {
	a, err := whose(cat, answer.Set, answer.Index, only, now)
	if err != nil {
		return a, err
	}
	calls, err := openCalls(cat)
	if err != nil {
		return a, err
	}
	for _, c := range calls {
		if answer.Check(c.challenge, a.Keeper.Commitment) != nil {
			continue
		}
		if now.After(c.Good()) {
			return a, failf("challenge-expired", "`hsmbackup dkek rollcall` gives a new one", "%s answered the challenge of %s, which was good until %s: it says nothing of today",
				a.Keeper.Name, c.challenge.Day.Format(time.DateOnly), c.Good().Format(time.DateOnly))
		}
		part := fmt.Sprintf("%s/%d", answer.Set, answer.Index)
		if slices.Contains(c.Answered, part) {
			a.Before = true
			return a, nil
		}
		call := store.RollCall{Set: answer.Set, Index: answer.Index, Origin: "roll-call", Challenge: c.Challenge, Answer: answer.Text()}
		if err := recordCall(cat, call); err != nil {
			return a, err
		}
		c.Answered = append(c.Answered, part)
		return a, cat.Journal().Put(callNotes+c.Challenge, c)
	}
	if len(calls) == 0 {
		return a, failf("no-challenge", "`hsmbackup dkek rollcall` gives one", "no challenge is waiting for answers in this catalog")
	}
	return a, failf("wrong-answer", "ask for an answer to the challenge that `hsmbackup dkek rollcall --list` shows",
		"this is part %d of set %s, of %s, but not an answer to a challenge of this catalog: it was made to another one, or with a part that does not fit the commitment in the catalog", answer.Index, answer.Set, a.Keeper.Name)
}

// recordCall records an answer, if what it signs lies in the log.
func recordCall(cat *store.Catalog, call store.RollCall) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	call.Seq = state.Head.Seq + 1
	if _, err := signed(state, &call); err != nil {
		return &fail.Error{Class: fail.Damaged, Code: "other-log", Message: "the answer is not recorded: " + err.Error(),
			Hint: "`hsmbackup check` with the head words of a backup (--head) tells whether this is an older copy of the catalog, or one that was changed", Err: store.ErrDamaged}
	}
	return cat.Append(call)
}

// AnswerWith has a part at hand answer at once, and records it. The rest is as
// of RecordAnswer.
func AnswerWith(cat *store.Catalog, part *dkek.Part, only []string, now time.Time) (Answered, error) {
	a, err := whose(cat, part.Set, part.Index, only, now)
	if err != nil {
		return a, err
	}
	state, err := cat.Read()
	if err != nil {
		return a, err
	}
	call, err := newCall(state, now)
	if err != nil {
		return a, err
	}
	answer := part.Answer(call.challenge)
	if answer == nil || !bytes.Equal(part.Commitment(), a.Keeper.Commitment) || answer.Check(call.challenge, a.Keeper.Commitment) != nil {
		return a, failf("wrong-part", "enough parts of the set together tell which of the two is wrong: `hsmbackup dkek check`; `hsmbackup dkek resplit` makes a new set of them",
			"it says that it is part %d of set %s, but it does not fit the commitment that the catalog has of the part of %s", part.Index, part.Set, a.Keeper.Name)
	}
	return a, recordCall(cat, store.RollCall{Set: part.Set, Index: part.Index, Origin: "roll-call", Challenge: call.Challenge, Answer: answer.Text()})
}

// whose finds the custodian of a part by what the part or its answer says.
func whose(cat *store.Catalog, set string, index int, only []string, now time.Time) (Answered, error) {
	state, err := cat.Read()
	if err != nil {
		return Answered{}, err
	}
	sets := Keepers(state, now)
	i := slices.IndexFunc(sets, func(s KeptSet) bool { return s.Set == set })
	if i < 0 {
		return Answered{}, failf("unknown-set", "`hsmbackup dkek rollcall --list` shows the sets that are; --catalog names another catalog",
			"it is part %d of set %s, which is not registered in this catalog", index, set)
	}
	s := sets[i]
	if index < 1 || index > len(s.Keepers) {
		return Answered{}, failf("unknown-part", "", "it says that it is part %d of set %s, which has %d parts", index, set, len(s.Keepers))
	}
	a := Answered{Set: s, Keeper: s.Keepers[index-1]}
	if !s.InUse() {
		return a, failf("retired-set", "call the custodians of the sets in use: `hsmbackup dkek rollcall --list`",
			"it is part %d of set %s, of %s; that set was retired on %s and is not called any more", index, set, a.Keeper.Name, s.Retired.UTC().Format(time.DateOnly))
	}
	if len(only) > 0 && !slices.Contains(only, a.Keeper.Name) {
		return a, failf("other-custodian", "", "it is part %d of set %s, of %s, not of %s", index, set, a.Keeper.Name, strings.Join(only, " or "))
	}
	return a, nil
}

// isRefusal tells what is wrong with an answer from a catalog that cannot be read
// or written.
func isRefusal(err error) bool {
	var e *fail.Error
	return errors.As(err, &e)
}

// mistyped is about a text with an error in it: nothing stored is damaged.
func mistyped(what string, err error) error {
	return because(failf("bad-"+what, "copy it whole, in one piece; it is no secret", "%v", err), err)
}

// OpenParts opens parts that are to answer. The caller wipes them.
func (o *Opener) OpenParts(ctx context.Context, given []Given) (list []*dkek.Part, err error) {
	for i := range given {
		p, err := o.part(ctx, &given[i], "The part that answers.", "")
		if err != nil {
			wipeParts(list)
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func wipeParts(parts []*dkek.Part) {
	for _, p := range parts {
		p.Wipe()
	}
}

// GivenAnswer is an answer that a part gave, and what it signed.
type GivenAnswer struct {
	Set    string `json:"set"`
	Index  int    `json:"index"`
	Answer string `json:"answer"`
	Place
}

// maxDaysOff is how far the day of a challenge may be from the custodian's own.
const maxDaysOff = 2

// Answer has parts answer a challenge; this is the custodians' side, and needs no
// catalog. It shows what they sign.
func (o *Opener) Answer(ctx context.Context, text string, given []Given, now time.Time) ([]GivenAnswer, error) {
	challenge, err := dkek.ParseChallenge([]byte(text))
	if err != nil {
		return nil, mistyped("challenge", err)
	}
	place := placeOf(challenge)
	if off := now.UTC().Truncate(24 * time.Hour).Sub(challenge.Day).Abs(); off > maxDaysOff*24*time.Hour {
		return nil, refusef("other-day", "look at the date of this computer; if it is right, ask for a new challenge",
			"this challenge is of %s, and here it is %s: a challenge is answered within %d days", place.Day, now.UTC().Format(time.DateOnly), maxDaysOff)
	}
	parts, err := o.OpenParts(ctx, given)
	if err != nil {
		return nil, err
	}
	defer wipeParts(parts)
	list := []GivenAnswer{}
	for _, p := range parts {
		list = append(list, GivenAnswer{p.Set, p.Index, p.Answer(challenge).Text(), place})
		o.Desk.Note("part %d of set %s answers a challenge of %s", p.Index, p.Set, place)
	}
	if place.Entry != 0 {
		o.Desk.Next("before you send it, compare set, day, entry and the six words with what the lead reads out: the answer says that this is what lay there that day")
	}
	return list, nil
}

// Roll is a roll-call under way in a catalog: what came of each answer.
type Roll struct {
	Cat *store.Catalog
	// Only are the names of the custodians whose answers are taken; none: all.
	Only []string
	Now  time.Time
	Desk Desk

	Came []Came
	// looked: a check of the catalog found no damage.
	looked bool
	sets   []string
	kcv    store.KCV
}

// Came is what came of one answer.
type Came struct {
	Set       string `json:"set"`
	Index     int    `json:"index"`
	Custodian string `json:"custodian"`
	OK        bool   `json:"ok"`
	Reason    string `json:"reason"`
}

func (r *Roll) add(got Answered, set string, index int, err error) {
	c := Came{Set: set, Index: index, Custodian: got.Keeper.Name, OK: err == nil}
	if err != nil {
		c.Reason = err.Error()
	} else if !slices.Contains(r.sets, set) {
		r.sets, r.kcv = append(r.sets, set), got.Set.KCV
	}
	r.Came = append(r.Came, c)
}

// Names gives who has answered.
func (r *Roll) Names() (list []string) {
	for _, c := range r.Came {
		if c.OK && !slices.Contains(list, c.Custodian) {
			list = append(list, c.Custodian)
		}
	}
	return list
}

// Ceremony is the record of the roll-call; false if nobody answered.
func (r *Roll) Ceremony(missing []string) (store.Ceremony, bool) {
	names := r.Names()
	c := store.Ceremony{Job: "roll-call", Sets: r.sets, Outcome: strings.Join(names, ", ") + " answered"}
	if len(r.sets) == 1 {
		c.KCV = r.kcv
	}
	if len(missing) > 0 {
		c.Outcome += "; not " + strings.Join(missing, ", ")
	}
	return c, len(names) > 0
}

// Take reads, checks and records an answer as text. refused is what is wrong with
// it, err what is wrong with the catalog.
func (r *Roll) Take(text string) (got Answered, refused, err error) {
	got, set, index, err := r.take(text)
	if err != nil && !isRefusal(err) {
		return got, nil, err
	}
	r.add(got, set, index, err)
	return got, err, nil
}

func (r *Roll) take(text string) (got Answered, set string, index int, err error) {
	answer, err := dkek.ParseAnswer([]byte(text))
	if err != nil {
		return got, "", 0, mistyped("answer", err)
	}
	got, err = RecordAnswer(r.Cat, answer, r.Only, r.Now)
	return got, answer.Set, answer.Index, err
}

// TakePart has a part answer at once, as Take does an answer.
func (r *Roll) TakePart(p *dkek.Part) (got Answered, refused, err error) {
	if !r.looked {
		state, err := whole(r.Cat)
		if err != nil {
			return got, nil, err
		}
		announce(r.Desk, state, store.RollCall{Challenge: "-"})
		r.looked = true
	}
	got, err = AnswerWith(r.Cat, p, r.Only, r.Now)
	if err != nil && !isRefusal(err) {
		return got, nil, err
	}
	r.add(got, p.Set, p.Index, err)
	return got, err, nil
}

// Ask asks at a desk for the answers of the custodians of sets, until all have
// answered or an empty line ends it. good is told of each that counts. It gives
// how many were asked for, how many of them are open, and who is missing.
func (r *Roll) Ask(ctx context.Context, sets []KeptSet, good func(Answered)) (asked, open int, missing []string, err error) {
	waiting := map[string]string{} // SET/INDEX: name
	var order []string
	for _, s := range sets {
		for _, k := range s.Keepers {
			if len(r.Only) == 0 || slices.Contains(r.Only, k.Name) {
				part := fmt.Sprintf("%s/%d", s.Set, k.Index)
				waiting[part], order = k.Name, append(order, part)
			}
		}
	}
	for len(waiting) > 0 {
		line, err := r.Desk.ReadLine(ctx, fmt.Sprintf("answer, %d still missing (Enter alone ends):", len(waiting)))
		if errors.Is(err, io.EOF) || err == nil && strings.TrimSpace(line) == "" {
			break
		}
		if err != nil {
			return 0, 0, nil, err
		}
		got, set, index, err := r.take(line)
		switch {
		case err != nil && !isRefusal(err):
			return 0, 0, nil, err
		case err != nil:
			r.Desk.Note("%s", r.Desk.Words(err))
		default:
			r.add(got, set, index, nil)
			delete(waiting, fmt.Sprintf("%s/%d", set, index))
			good(got)
		}
	}
	for _, part := range order {
		if name, ok := waiting[part]; ok && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	return len(order), len(waiting), missing, nil
}
