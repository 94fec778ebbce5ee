package lives

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// last ends each history: of every token that a backup just called complete,
// another one is made from a copy of the catalog alone.
func (w *World) last() {
	for _, n := range slices.Sorted(maps.Keys(w.tokens)) {
		t := w.tokens[n]
		for _, c := range w.catalogs {
			r := w.record(c)
			is := w.truth(t)
			if !is.Initialised || len(is.objects) == 0 || r.newest(t.serial()) == nil || c.whole != nil {
				continue
			}
			w.lose(t, c)
			if len(w.wrong) > 0 {
				return
			}
		}
	}
}

func (w *World) lose(t *Token, c *Catalog) {
	cmd := w.backup(t, c, Step{})
	j := &judgement{w: w, s: Step{Do: "backup"}, cmd: cmd, then: w.record(c), before: w.truths()}
	j.kept = j.then.newest(j.then.line(t.serial())...)
	j.r = w.run(Cut{}, false, cmd.line(w))
	j.after = w.truths()
	w.tell("%s -> %d %s", cmd.short(), j.r.exit, j.r.line())
	if j.r.panic != "" {
		j.bad("panic", "%s", j.r.panic)
		return
	}
	if j.all(); j.r.exit != 0 || len(w.wrong) > 0 {
		return
	}
	is, snap := w.truth(t), w.record(c).newest(t.serial())
	b, err := os.ReadFile(c.path)
	w.must("copy", err)
	copied := &Catalog{path: filepath.Join(w.dir, "last.db")}
	w.must("copy", os.WriteFile(copied.path, b, 0o600))
	spare := w.blankToken(9, "4.1")
	again := &command{t: spare, c: copied, given: w.recoveriesOf(kcvsOf(snap)...)}
	again.args = sure(spare, "restore", "--from", t.serial(), "--init")
	if len(again.given) == 0 {
		return
	}
	r := w.run(Cut{}, false, again.line(w))
	w.tell("%s is lost: %s -> %d %s", t.serial(), again.short(), r.exit, r.line())
	if r.panic != "" {
		w.bad("panic", "%s", r.panic)
		return
	}
	now := w.truth(spare)
	for _, n := range is.references() {
		if _, exportable := is.exportable(n); exportable && !now.has(is.objects[n]) {
			w.bad("not on the spare",
				"the backup of %s ended with 0; restored (exit %d), key %d (%s) is not there",
				t.serial(), r.exit, n, is.objects[n])
		}
	}
	for _, f := range is.numbers() {
		if now.files[f] != is.files[f] {
			w.bad("file not on the spare",
				"the backup of %s ended with 0; restored (exit %d), file %04x is not there", t.serial(), r.exit, f)
		}
	}
	stays := func(n byte) bool { _, can := is.exportable(n); return !can }
	if r.exit != 0 && !slices.ContainsFunc(is.references(), stays) {
		w.bad(fmt.Sprintf("spare: exit %d %s", r.exit, r.code()), "%s", r.line())
	}
}
