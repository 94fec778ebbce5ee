package lives

import (
	"fmt"
	"slices"
)

// updates follows the firmware updates of a token: what was on it when one began,
// and that it is back when none is under way any more.
func (j *judgement) updates() {
	c, t := j.cmd.c, j.cmd.t
	now := j.w.record(c)
	if now.unread || j.then.unread {
		return
	}
	was, is := j.then.update(t), now.update(t)
	if was != nil && (is == nil || is.Serial != was.Serial || is.Seq != was.Seq) {
		if b := c.begun[was.Serial]; b != nil && j.s.Do != "settle" {
			there := j.is()
			if j.s.Do == "update" && is != nil { // and another one has begun since
				there = j.was()
			}
			j.back("update over without ", b, there)
		}
		delete(c.begun, was.Serial)
		t.away = nil
	}
	if j.s.Do == "update" && is != nil && is.Serial == j.was().Serial && c.begun[is.Serial] == nil {
		b := &begun{was: j.was(), discarded: map[string]bool{}}
		for _, n := range j.cmd.discards {
			b.discarded[b.was.objects[n].private] = true
		}
		c.begun[is.Serial], t.away = b, b.was
	}
	j.then.updates = now.updates
}

// back: what was on a token when its update began is on it.
func (j *judgement) back(rule string, b *begun, is *truth) {
	for _, n := range b.was.references() {
		o := b.was.objects[n]
		if !b.discarded[o.private] && !o.bare() && !is.holds(o.private) {
			j.bad(rule+"a key", "key %d (%s) is not back: %s", n, o, j.r.line())
		}
	}
	for _, f := range b.was.numbers() {
		if is.files[f] != b.was.files[f] {
			j.bad(fmt.Sprintf("%sa file: %02x", rule, f>>8),
				"file %04x is not back: %s", f, j.r.line())
		}
	}
}

// judgeEmptied: what the first half of an update deletes would come back.
func judgeEmptied(j *judgement) {
	was, is := j.was(), j.is()
	j.empty()
	key := func(n byte) bool { return is.objects[n] != was.objects[n] && !was.objects[n].bare() }
	file := func(f uint16) bool { return is.files[f] != was.files[f] }
	if !slices.ContainsFunc(was.references(), key) && !slices.ContainsFunc(was.numbers(), file) {
		if j.r.exit == 6 && (j.r.code() == "not-covered" || j.r.code() == "not-proven") {
			j.needless("update")
		}
		return
	}
	b := j.cmd.c.begun[was.Serial]
	if b == nil {
		j.bad("emptied without a note",
			"%s lost what was on it, and no update of it is under way", was.Serial)
		return
	}
	for _, n := range j.cmd.discards {
		b.discarded[was.objects[n].private] = true
	}
	j.comesBack("update", b.was, b.discarded)
	// What was there before this very run, and not when the update began.
	since := &truth{Serial: was.Serial, objects: map[byte]object{}, files: map[uint16]string{}}
	for n, o := range was.objects {
		if is.objects[n] != o && b.was.objects[n] != o {
			since.objects[n] = o
		}
	}
	for f, content := range was.files {
		beside := f>>8 == 0xC4 || f>>8 == 0xCE // of a key that went before
		if old, there := b.was.files[f]; is.files[f] != content && (!there || old != content) && !beside {
			since.files[f] = content
		}
	}
	j.comesBack("update that goes on", since, b.discarded)
}

// empty: a token that is called empty is.
func (j *judgement) empty() {
	if j.r.exit == 0 && j.r.text("phase") == "emptied" && !j.is().empty() {
		j.bad("called empty",
			"%d keys and %d files are on %s", len(j.is().objects), len(j.is().files), j.is().Serial)
	}
}

// judgeBack: an update that is finished, or was called off, has brought all of it
// back.
func judgeBack(j *judgement) {
	if b := j.cmd.c.begun[j.was().Serial]; b == nil || j.then.update(j.cmd.t) == nil {
		j.nothingLost(j.cmd.t)
	} else {
		judgeEmptied(j) // deletions that were cut off go on
	}
	j.empty()
}
