package lives

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"hsmbackup/store"
)

// judgement is a command that was carried out, with what was before and after.
type judgement struct {
	w             *World
	s             Step
	cmd           *command
	r             result
	then          *record
	kept          *store.Snapshot // the newest of the token before
	before, after map[*Token]*truth
}

func (j *judgement) bad(rule, format string, args ...any) { j.w.bad(rule, format, args...) }

// was and is are the token that the command is about.
func (j *judgement) was() *truth { return j.before[j.cmd.t] }
func (j *judgement) is() *truth  { return j.after[j.cmd.t] }

// carryOut runs a command, cut off if the step says so and then again, and judges.
func (w *World) carryOut(s Step, cmd *command) {
	args := cmd.line(w)
	j := &judgement{w: w, s: s, cmd: cmd, then: w.record(cmd.c), before: w.truths()}
	j.kept = j.then.newest(j.then.line(cmd.t.serial())...)
	var whole *judgement
	cut := s.Cut
	if s.Cut.How != "" { // what it would be without the cut
		putBack := w.save()
		whole = &judgement{w: w, r: w.run(Cut{On: cut.On}, cmd.readOnly, args), after: w.truths()}
		putBack()
		cut = cut.within(whole.r)
	}
	j.r = w.run(cut, cmd.readOnly, args)
	j.after = w.truths()
	w.tell("%s -> %d %s", cmd.short(), j.r.exit, j.r.line())
	if j.r.panic != "" {
		j.bad("panic", "%s", j.r.panic)
		return
	}
	if !j.r.cut {
		j.all()
		return
	}
	w.tell("   (%s at %d %s)", cut.How, cut.At, cut.On)
	j.interrupted()
	if j.r.killed && !w.free(cmd.c) {
		return
	}
	j.updates()
	j.learned()
	j.copies()
	if j.r.exit == whole.r.exit {
		j.all()
		return
	}
	j.nothingLost(cmd.target())
	if s.Cut.Left {
		w.tell("   left as it is")
		return
	}
	j.again(whole, args)
}

// again runs the command once more, and compares with what an uninterrupted run
// gives.
func (j *judgement) again(whole *judgement, args []string) {
	w := j.w
	first := j.r
	j.r = w.run(Cut{}, j.cmd.readOnly, args)
	j.after = w.truths()
	w.tell("   again -> %d %s", j.r.exit, j.r.line())
	if j.r.panic != "" {
		j.bad("panic", "%s", j.r.panic)
		return
	}
	if j.s.Do != "rotate" { // which makes new keys, other ones each time
		for t, is := range j.after {
			if d := whole.after[t].differs(is); d != "" {
				j.bad("rerun differs: "+j.s.Do,
					"%s: cut off with exit %d, then exit %d: %s; without the cut it would have been so, exit %d (%s)",
					t.serial(), first.exit, j.r.exit, d, whole.r.exit, whole.r.line())
			}
		}
	}
	if j.r.exit != whole.r.exit && !j.nothingLeft(first) && j.cmd.c.whole == nil {
		j.bad(fmt.Sprintf("rerun exit: %s %d not %d %s", j.s.Do, j.r.exit, whole.r.exit, j.r.code()),
			"cut off with exit %d; again %d (%s); without the cut %d (%s)",
			first.exit, j.r.exit, j.r.line(), whole.r.exit, whole.r.line())
	}
	j.all()
}

// nothingLeft: the program was killed when all was done but the answer; there is
// no such update any more.
func (j *judgement) nothingLeft(first result) bool {
	return first.killed && (j.r.code() == "no-such-update" || j.s.Do == "go on" && j.r.exit == 2)
}

// all is what every command is held to, and what this one is.
func (j *judgement) all() {
	j.updates()
	j.learned()
	j.exits()
	j.printed()
	j.bystanders()
	j.twice()
	j.copies()
	if j.cmd.looks {
		j.looked()
	}
	if j.cmd.idle {
		j.spent()
	}
	if j.cmd.judge != nil {
		j.cmd.judge(j)
	}
	j.w.look(j.cmd.t, j.cmd.c)
}

// interrupted holds an interrupted command to its exit code.
func (j *judgement) interrupted() {
	if j.r.killed || j.r.exit != 1 && j.r.exit != 130 {
		return
	}
	if changed := j.changed(); changed != "" {
		j.bad(fmt.Sprintf("exit %d but changed: %s %s", j.r.exit, j.s.Do, j.s.Cut.How),
			"exit %d (%s) says that nothing was changed: %s", j.r.exit, j.r.line(), changed)
	}
}

// changed says what is not as it was.
func (j *judgement) changed() string {
	for t, was := range j.before {
		is := j.after[t]
		if d := was.differs(is); d != "" {
			return t.serial() + ": " + d
		}
		if was.Initialised != is.Initialised {
			return t.serial() + " was initialised"
		}
	}
	if n := len(j.w.record(j.cmd.c).snapshots) - len(j.then.snapshots); n > 0 {
		return fmt.Sprintf("%d new snapshots", n)
	}
	return ""
}

// exits holds an uninterrupted command to its exit code.
func (j *judgement) exits() {
	damaged := j.cmd.c.whole != nil
	switch j.r.exit {
	case 0, 2, 3, 6:
	case 1, 130:
		if j.s.Cut.How == "" {
			if changed := j.changed(); changed != "" {
				j.bad(fmt.Sprintf("exit %d but changed: %s %s", j.r.exit, j.s.Do, j.r.code()),
					"%s: %s", j.r.line(), changed)
			}
		}
	case 4:
		if damaged {
			return
		}
		j.bad("exit 4: "+j.s.Do+" "+j.r.code(), "%s", j.r.line())
	case 5:
		// What contradicts its key is damage, as far as shows without using the key.
		contradicts := strings.Contains(j.r.said, "but the certificate beside it is for") ||
			strings.Contains(j.r.said, "left out what is not its key's") ||
			strings.Contains(j.r.said, "has no certificate, but there is one beside it")
		if !damaged && !contradicts {
			j.bad("exit 5: "+j.s.Do+" "+j.r.code(), "%s", j.r.line())
		}
	default:
		j.bad(fmt.Sprintf("exit %d: %s", j.r.exit, j.s.Do), "%s", j.r.line())
	}
}

// printed: with --json there is one document, the result or the error, and a word
// on the terminal wherever all is not well.
func (j *judgement) printed() {
	_, failed := j.r.out["error"]
	result := j.r.exit == 0 || j.r.exit == 3 || j.r.exit == 5
	switch {
	case j.r.out == nil || failed == result && j.r.exit != 5:
		j.bad(fmt.Sprintf("document of exit %d: %s", j.r.exit, j.s.Do), "%v", j.r.out)
	case failed && j.r.code() == "":
		j.bad("error without a code: "+j.s.Do, "%s", j.r.line())
	case j.r.exit != 0 && j.r.said == "":
		j.bad("not a word: "+j.s.Do, "exit %d", j.r.exit)
	}
}

// bystanders are tokens that the command is not about.
func (j *judgement) bystanders() {
	for t, was := range j.before {
		if t != j.cmd.target() && t != j.cmd.t {
			if d := was.differs(j.after[t]); d != "" {
				j.bad("bystander changed: "+j.s.Do, "%s: %s", t.serial(), d)
			}
		}
	}
	if j.cmd.to != nil {
		gone := maps.Clone(j.cmd.t.copies)
		for n, o := range j.was().objects { // what is spoken of may go too
			if _, there := j.is().objects[n]; !there && strings.Contains(j.r.said, "left behind") {
				gone[o.private] = true
			}
		}
		if d := j.was().without(gone).differs(j.is().without(gone)); d != "" {
			j.bad("source changed: "+j.s.Do, "%s: %s", j.cmd.t.serial(), d)
		}
	}
}

// twice: what is refused stays refused when nothing has happened since.
func (j *judgement) twice() {
	w := j.w
	line := strings.Join(j.cmd.line(w), " ")
	before := w.previous
	w.previous = attempt{w.step, line, j.r}
	if before.step != w.step-1 || before.line != line || before.r.cut || j.r.cut {
		return
	}
	if before.r.exit == 6 && j.r.exit == 0 {
		j.bad("refused once: "+j.s.Do, "it was refused before: %s", before.r.line())
	}
}

// copies: an undescribed key goes without a word only with all the rest, or if a
// job that goes on now had made it.
func (j *judgement) copies() {
	t := j.cmd.target()
	was, is := j.before[t], j.after[t]
	for _, n := range is.references() {
		if o := is.objects[n]; was.objects[n] != o && o.bare() {
			t.copies[o.private] = true
			if j.cmd.looks && (j.r.exit == 0 || j.r.exit == 3) {
				j.bad("copy left: "+j.s.Do, "key %d (%s) of %s, exit %d", n, o, was.Serial, j.r.exit)
			}
		}
	}
	wiped := is.empty() || slices.Contains(j.cmd.args, "--init")
	if wiped || strings.Contains(j.r.said, "left behind") {
		return
	}
	for _, n := range was.references() {
		o := was.objects[n]
		if _, there := is.objects[n]; !there && o.bare() && (j.cmd.looks || !t.copies[o.private]) {
			j.bad("copy gone without a word: "+j.s.Do, "key %d (%s) of %s", n, o, was.Serial)
		}
	}
}

// looked: a command that only looks leaves the token as it was, but for copies
// that an interrupted proof left behind.
func (j *judgement) looked() {
	was, is := j.was(), j.is()
	rest := &truth{objects: map[byte]object{}, files: was.files}
	for n, o := range was.objects {
		if _, there := is.objects[n]; there || !o.bare() {
			rest.objects[n] = o
		}
	}
	if d := rest.differs(is); d != "" {
		j.bad("changed by looking: "+j.s.Do, "%s: %s (%s)", j.cmd.t.serial(), d, j.r.line())
	}
}

// spent: only what proves with the token spends uses of keys that count them.
func (j *judgement) spent() {
	for t, was := range j.before {
		for n, k := range was.Keys {
			now := j.after[t].Keys[n]
			if k.Counter != nil && now != nil && now.Counter != nil && *now.Counter < *k.Counter {
				j.bad("use spent: "+j.s.Do, "key %d of %s: %d uses were left, %d are", n, was.Serial, *k.Counter, *now.Counter)
			}
		}
	}
}

// learned compares each new snapshot with the token that it is of, and each that
// was re-keyed with what it was made of.
func (j *judgement) learned() {
	now := j.w.record(j.cmd.c)
	if now.damage != nil || j.then.damage != nil {
		return
	}
	known := map[store.Hash]*store.Snapshot{}
	for _, s := range j.then.snapshots {
		known[s.Hash] = s
	}
	for _, s := range now.snapshots {
		if known[s.Hash] != nil {
			continue
		}
		known[s.Hash] = s
		j.successor(s)
		switch {
		case s.Rekeyed != nil:
			j.sameRekeyed(known[s.Rekeyed.From], s)
		case !s.Adopted:
			j.faithful(s)
		}
	}
	j.then = now
}

// successor: what was known as a token of its own is no other's successor.
func (j *judgement) successor(s *store.Snapshot) {
	if s.Token.SuccessorOf == "" || j.then.newest(s.Token.Serial) == nil {
		return // one that is new here may be anybody's
	}
	for _, t := range j.w.tokens {
		if slices.Contains(t.serials, s.Token.Serial) && !slices.Contains(t.serials, s.Token.SuccessorOf) {
			j.bad("wrong successor", "%s is called the successor of %s", s.Token.Serial, s.Token.SuccessorOf)
		}
	}
}

// faithful: a snapshot has what its token had, before or after the command.
func (j *judgement) faithful(s *store.Snapshot) {
	var why []string
	for t, was := range j.before {
		for _, look := range []*truth{was, j.after[t]} {
			if look.Serial == s.Token.Serial {
				d := j.w.compare(s, look)
				if d == "" {
					return
				}
				why = append(why, d)
			}
		}
	}
	j.bad("snapshot unfaithful", "%s of %s: %s", s.ID, s.Token.Serial, strings.Join(why, " / "))
}

func (j *judgement) sameRekeyed(from, s *store.Snapshot) {
	if from == nil {
		j.bad("re-keyed from nothing", "%s", s.ID)
		return
	}
	for _, k := range s.Keys {
		for _, o := range from.Keys {
			if o.Reference != k.Reference || o.Reference == 0 {
				continue
			}
			was, _ := j.w.private(o.Blob)
			is, _ := j.w.private(k.Blob)
			beside := object{description: string(o.Description), certificate: string(o.Certificate)}
			if is != "" && was != is || !beside.described(k) {
				j.bad("re-keying differs",
					"key %d of %s is not that of %s", k.Reference, s.ID, from.ID)
			}
		}
	}
}

func judgeInit(j *judgement) {
	was, is := j.was(), j.is()
	if was.Initialised && was.differs(is) != "" {
		j.comesBack("init", was, nil)
	}
	if j.r.exit == 6 && j.r.code() == "not-covered" {
		j.needless("init")
	}
}

func judgeRotate(j *judgement) { j.nothingLost(j.cmd.to) }

func judgeClone(j *judgement) {
	j.nothingLost(j.cmd.to)
	if j.r.exit != 0 {
		return
	}
	from, to := j.is(), j.after[j.cmd.to]
	for _, n := range from.references() {
		if !to.has(from.objects[n]) {
			j.bad("clone lacks a key",
				"exit 0, but key %d (%s) is not on %s", n, from.objects[n], j.cmd.to.serial())
		}
	}
	for _, f := range from.numbers() {
		if to.files[f] != from.files[f] {
			j.bad("clone lacks a file", "exit 0, but file %04x is not on %s", f, j.cmd.to.serial())
		}
	}
}

func (s *truth) has(o object) bool {
	for _, x := range s.objects {
		if x == o {
			return true
		}
	}
	return false
}

// holds tells whether a private key is there, however it is described.
func (s *truth) holds(private string) bool {
	for _, x := range s.objects {
		if x.private == private {
			return true
		}
	}
	return false
}
