package lives

import (
	"fmt"
	"slices"

	"hsmbackup/store"
)

// comesBack: all that was on a token which was wiped would come back by a restore
// of its newest snapshot.
func (j *judgement) comesBack(what string, was *truth, discarded map[string]bool) {
	w := j.w
	for _, n := range was.references() {
		o := was.objects[n]
		if discarded[o.private] {
			continue
		}
		private, whole, newest := w.kept(j.cmd.c, was.Serial, o)
		switch {
		case !private:
			j.bad("lost key: "+what,
				"key %d (%s) of %s was wiped and no snapshot has it", n, o, was.Serial)
		case o.bare():
		case !whole:
			j.bad("lost description: "+what,
				"key %d (%s) of %s was wiped; the catalog has it, not with this description and certificate",
				n, o, was.Serial)
		case !newest:
			j.bad("lost from newest: "+what,
				"key %d (%s) of %s was wiped; the newest snapshot of that token lacks it", n, o, was.Serial)
		}
	}
	for _, f := range was.numbers() {
		whole, newest := w.keptFile(j.cmd.c, was.Serial, f, was.files[f])
		switch kind := fmt.Sprintf(" %02x", f>>8); {
		case !whole:
			j.bad("lost file: "+what+kind,
				"file %04x of %s was wiped and no snapshot has it with this content", f, was.Serial)
		case !newest:
			j.bad("lost file from newest: "+what+kind,
				"file %04x of %s was wiped; the newest snapshot of that token lacks it", f, was.Serial)
		}
	}
}

// nothingLost: what a token had before a command that writes to it is there, or in
// a snapshot.
func (j *judgement) nothingLost(t *Token) {
	w, was, is := j.w, j.before[t], j.after[t]
	for _, n := range was.references() {
		o := was.objects[n]
		if is.objects[n] == o || t == j.cmd.t && slices.Contains(j.cmd.discards, n) {
			continue
		}
		private, whole, _ := w.kept(j.cmd.c, was.Serial, o)
		now := is.objects[n]
		switch {
		case now.private == o.private && now.description != o.description && o.description != "" && !whole:
			j.bad("description lost: "+j.s.Do,
				"key %d of %s was %s, is %s, and no snapshot has the old description", n, was.Serial, o, now)
		case now.private == o.private || is.holds(o.private):
		case o.bare() && private:
		case !private:
			j.bad("key lost: "+j.s.Do,
				"key %d (%s) of %s is gone and no snapshot has it", n, o, was.Serial)
		}
	}
	for _, f := range was.numbers() {
		if content, there := is.files[f]; there && content == was.files[f] {
			continue
		}
		if f>>8 == 0xC4 || f>>8 == 0xCE {
			continue // what was left of a deleted key
		}
		if whole, _ := w.keptFile(j.cmd.c, was.Serial, f, was.files[f]); !whole {
			j.bad(fmt.Sprintf("file lost: %s %02x", j.s.Do, f>>8),
				"file %04x of %s is not what it was and no snapshot has it", f, was.Serial)
		}
	}
}

// needless: a wipe that is refused lacks something that a snapshot just taken
// would not have kept as it is now.
func (j *judgement) needless(what string) {
	w, was := j.w, j.was()
	r := w.record(j.cmd.c)
	last := r.newest(r.line(was.Serial)...)
	if last == nil || len(last.Missing) > 0 || w.compare(last, was) != "" {
		return
	}
	if slices.ContainsFunc(last.Files, func(f store.File) bool { return f.Sealed }) {
		return // whether it is the same shows only with the shares
	}
	for _, n := range was.references() {
		kcv, exportable := was.exportable(n)
		any, own := was.shows(n)
		known := w.recovery(kcv) != nil && r.seen[kcv] && any && own
		if was.objects[n].bare() || !exportable || !known || was.Keys[n].Counter != nil {
			return
		}
	}
	for _, k := range last.Keys {
		if !slices.Contains(was.references(), byte(k.Reference)) || !r.proven(k.Blob) {
			return
		}
		if kcv, _ := was.exportable(byte(k.Reference)); kcv != k.KCV { // it was re-keyed since
			return
		}
	}
	j.bad("refused needlessly: "+what, "%s, though snapshot %s has all of it", j.r.line(), last.ID)
}
