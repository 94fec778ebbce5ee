package lives

import (
	"fmt"
	"slices"
	"strings"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// proven: the last proof of a blob that showed its return was a good one.
func (r *record) proven(blob []byte) bool {
	return len(blob) > 0 && r.proofs[store.HashOf(blob)].OK
}

// refuted: the last proof of a blob failed, on this token or on none.
func (r *record) refuted(blob []byte, serial string) bool {
	p, tried := r.proofs[store.HashOf(blob)]
	return tried && !p.OK && (p.Token == "" || p.Token == serial)
}

// judgeBackup: complete is complete, incomplete has a reason, and what is called
// covered comes back.
func judgeBackup(j *judgement) {
	if j.r.exit != 0 && j.r.exit != 3 {
		return
	}
	w, is := j.w, j.is()
	snap, _ := j.r.out["snapshot"].(map[string]any)
	s := w.record(j.cmd.c).snapshot(text(snap, "id"))
	if s == nil {
		j.bad("backup without a snapshot", "snapshot %q is not in the catalog", text(snap, "id"))
		return
	}
	if j.r.exit == 0 && j.emptied() {
		j.bad("backup of an emptied token",
			"%s was emptied for an update and holds nothing; its backup ends with 0", is.Serial)
	}
	j.coverage(j.cmd.t, is, j.cmd.c, j.r.list("keys"))
	j.attachments(s)
	var reasons []string
	for _, n := range is.references() {
		if why := j.reason(n); why != "" {
			reasons = append(reasons, why)
		}
		if kcv, exportable := is.exportable(n); !exportable || w.recovery(kcv) == nil {
			continue
		}
		kept := slices.ContainsFunc(s.Keys, func(k store.Key) bool {
			name, _ := w.private(k.Blob)
			return byte(k.Reference) == n && name == is.objects[n].private
		})
		if !kept && j.r.exit == 0 {
			j.bad("backup lacks a key", "exit 0, but key %d is not in snapshot %s", n, s.ID)
		}
	}
	if len(s.Missing) > 0 {
		reasons = append(reasons, "something is missing")
		if j.r.exit == 0 {
			j.bad("backup lacks something", "exit 0, but %v", s.Missing)
		}
	}
	rekeyed := func(s *store.Snapshot) bool { return s.Rekeyed != nil }
	if slices.ContainsFunc(w.record(j.cmd.c).snapshots, rekeyed) || j.s.has("no proof") ||
		j.cmd.c.whole != nil || j.cmd.t.away != nil {
		return
	}
	if j.r.exit == 3 && len(reasons) == 0 {
		j.bad("backup incomplete needlessly", "%s", j.r.line())
	}
}

// attachments go with the next snapshot of a token until they are taken off.
func (j *judgement) attachments(s *store.Snapshot) {
	taken := slices.Contains(j.cmd.args, "--detach")
	want := slices.Contains(j.cmd.args, "--attach")
	if before := j.kept; before != nil && !taken {
		want = want || len(before.Attachments) > 0
	}
	has := slices.ContainsFunc(s.Attachments, func(a store.Attachment) bool {
		return a.Name == attachment && string(a.Content) == attached
	})
	if want && !has || taken && has { // it may come with keys of another token
		j.bad("attachment", "%s: it should be there: %v, it is: %v", s.ID, want, has)
	}
}

// emptied: a firmware update emptied the token, and the catalog has what was on it.
func (j *judgement) emptied() bool {
	t := j.cmd.t
	full := func(s *store.Snapshot) bool {
		return slices.Contains(t.serials, s.Token.Serial) && len(s.Keys) > 0
	}
	same := t.away != nil && t.away.Serial == t.serial()
	return same && j.is().empty() && slices.ContainsFunc(j.w.record(j.cmd.c).snapshots, full)
}

// reason is why a key may not be covered after a backup.
func (j *judgement) reason(n byte) string {
	is := j.is()
	kcv, exportable := is.exportable(n)
	any, own := is.shows(n)
	switch k := is.Keys[n]; {
	case !exportable:
		return "cannot be exported"
	case j.w.recovery(kcv) == nil:
		return "under a recovery key that a token made up"
	case !j.w.record(j.cmd.c).seen[kcv]:
		return "shares not seen"
	case any && !own, is.objects[n].bare(), !any && k.Kind != pkcs15.AES:
		return "no public key of its own"
	case k.Counter != nil:
		return "uses are counted"
	case is.Major == 3 && is.Minor == 1 && len(k.Algorithms) > 0:
		return "firmware 3.1 takes no list"
	}
	return ""
}

// coverage holds a program to what it says of the keys of a token.
func (j *judgement) coverage(t *Token, is *truth, c *Catalog, keys []map[string]any) {
	w, r := j.w, j.w.record(c)
	last := r.newest(r.line(is.Serial)...)
	for _, k := range keys {
		n := reference(k, "reference")
		o := is.objects[n]
		kcv, exportable := is.exportable(n)
		which := fmt.Sprintf("key %d (%s) of %s", n, o, is.Serial)
		switch said := text(k, "coverage"); said {
		case "covered":
			private, whole, newest := w.kept(c, is.Serial, o)
			switch {
			case !private:
				w.bad("covered, in no snapshot", "%s", which)
			case !whole:
				w.bad("covered, described otherwise",
					"%s: no snapshot has this description and certificate", which)
			case !r.seen[kcv]:
				w.bad("covered, no share seen", "%s: nobody showed shares of %s", which, kcv)
			case last != nil && !newest && !j.rekeyed(r, o):
				w.bad("covered, not in the newest",
					"%s: the newest snapshot, %s, lacks it", which, last.ID)
			case last != nil && slices.ContainsFunc(last.Keys, func(k store.Key) bool {
				name, _ := w.private(k.Blob)
				return byte(k.Reference) == n && name == o.private && r.refuted(k.Blob, is.Serial)
			}):
				w.bad("covered, proof failed", "%s: the last proof failed", which)
			}
		case "unasked":
			if last == nil || !slices.ContainsFunc(last.Keys, o.described) {
				w.bad("unasked, not in the newest",
					"%s: the newest snapshot of the token shows no such key", which)
			}
		case "missing", "stale":
			if last != nil && slices.ContainsFunc(last.Keys, func(k store.Key) bool {
				name, under := w.private(k.Blob)
				same := name == o.private && under == kcv && o.described(k)
				return byte(k.Reference) == n && same && !r.refuted(k.Blob, is.Serial)
			}) {
				any, own := is.shows(n)
				rule := "called " + said
				if !any || !own {
					rule += " without a public key"
				}
				w.bad(rule,
					"%s is %s (%s), but %s has it just so", which, said, text(k, "reason"), last.ID)
			}
		case "not-exportable", "accepted":
			why := text(k, "reason")
			if exportable && said == "not-exportable" && !strings.Contains(why, "internal error") {
				w.bad("called not exportable", "%s (%s) can be exported", which, why)
			}
		}
	}
}

// judgeProofs: what is called proven is so: by round trip, that the token has this
// key; otherwise that the blob opens.
func judgeProofs(j *judgement) {
	for _, shown := range j.r.list("snapshots") {
		s := j.w.record(j.cmd.c).snapshot(text(shown, "id"))
		if s == nil {
			continue
		}
		for _, k := range list(shown, "keys") {
			if ok, _ := k["ok"].(bool); !ok {
				continue
			}
			at := slices.IndexFunc(s.Keys, func(x store.Key) bool {
				return byte(x.Reference) == reference(k, "reference")
			})
			if at < 0 || s.Adopted {
				continue
			}
			name, _ := j.w.private(s.Keys[at].Blob)
			switch proof := text(k, "proof"); {
			case proof == "round-trip" && j.s.Do == "verify" && !j.is().holds(name):
				j.bad("proven, not on the token", "key %d of %s (%s)", s.Keys[at].Reference, s.ID, name)
			case proof == "opened" && name == "?":
				j.bad("opened, but does not open", "key %d of %s", s.Keys[at].Reference, s.ID)
			}
		}
	}
}

// judgeCheck: where nothing is amiss, each key of the token shows in its newest
// snapshot.
func judgeCheck(j *judgement) {
	if j.r.exit != 0 {
		return
	}
	is, r := j.is(), j.w.record(j.cmd.c)
	for _, n := range is.references() {
		o := is.objects[n]
		shows := func(s *store.Snapshot) bool {
			return r.stands(s, is.Serial) && slices.ContainsFunc(s.Keys, o.described)
		}
		if !o.bare() && !slices.ContainsFunc(r.snapshots, shows) && !j.accepted(n) {
			j.bad("check 0", "key %d (%s) of %s is not in its newest snapshot", n, o, is.Serial)
		}
	}
}

// accepted: the key cannot be exported, and somebody may have said that it is meant
// to be so.
func (j *judgement) accepted(n byte) bool {
	_, exportable := j.is().exportable(n)
	return !exportable
}

// described: a key of a snapshot has this description and certificate.
func (o object) described(k store.Key) bool {
	return string(k.Description) == o.description && string(k.Certificate) == o.certificate
}

// rekeyed: the key is in a snapshot that was re-keyed, or that one was made of.
func (j *judgement) rekeyed(r *record, o object) bool {
	return slices.ContainsFunc(r.snapshots, func(s *store.Snapshot) bool {
		return s.Rekeyed != nil && slices.ContainsFunc(s.Keys, func(k store.Key) bool {
			name, _ := j.w.private(k.Blob)
			return name == o.private
		})
	})
}

// look asks for the status of a token, if it or the catalog is not as it was when
// that was asked last, and for a plan.
func (w *World) look(t *Token, c *Catalog) {
	is := w.truth(t)
	r := w.record(c)
	if !is.Initialised || len(is.objects) == 0 || len(r.snapshots) == 0 {
		return
	}
	j := &judgement{w: w}
	status := w.run(Cut{}, false, at(t, "status", "--catalog", c.path, "--json"))
	tokens := status.list("tokens")
	switch {
	case status.panic != "":
		w.bad("panic", "status: %s", status.panic)
		return
	case status.exit != 0 && status.exit != 3 && c.whole == nil:
		w.bad(fmt.Sprintf("status %d", status.exit), "%s", status.line())
		return
	case len(tokens) != 1 && c.whole == nil:
		w.bad("status shows no token", "%s", status.said)
		return
	case len(tokens) != 1:
		return
	}
	keys := list(tokens[0], "keys")
	if len(keys) != len(is.objects) {
		w.bad("status shows other keys", "%d keys shown, %d are there", len(keys), len(is.objects))
	}
	j.coverage(t, w.truth(t), c, keys)
	done := !slices.ContainsFunc(keys, func(k map[string]any) bool {
		return !slices.Contains([]string{"covered", "accepted", "unasked"}, text(k, "coverage"))
	})
	if !done && status.exit == 0 {
		w.bad("status 0", "exit 0, though not all keys are covered")
	}
	w.plan(t, c)
}

// plan: what the newest snapshot has just so is the same to a restore.
func (w *World) plan(t *Token, c *Catalog) {
	is, r := w.truth(t), w.record(c)
	last := r.newest(t.serial())
	if last == nil || w.step%3 > 0 || w.compare(last, is) != "" {
		return
	}
	p := w.run(Cut{}, false, at(t, "plan", "--from", last.ID, "--catalog", c.path, "--json"))
	if p.exit != 0 && p.exit != 3 && c.whole == nil {
		w.bad(fmt.Sprintf("plan %d %s", p.exit, p.code()), "%s", p.line())
	}
	for _, k := range p.list("keys") {
		n, action := reference(k, "reference"), text(k, "action")
		if action == "same" && reference(k, "at") == n || action == "not-in-backup" {
			continue
		}
		rule := "plan: " + action
		if any, own := is.shows(n); !any || !own {
			rule += " without a public key"
		}
		w.bad(rule,
			"key %d of %s is %s at %d (%s) to a restore of %s, which has it just so",
			n, t.serial(), action, reference(k, "at"), text(k, "reason"), last.ID)
	}
	for _, f := range p.list("files") {
		if action := text(f, "action"); !slices.Contains([]string{"same", "needs-share", "repair"}, action) {
			w.bad("plan for a file: "+action, "file %s (%s)", text(f, "file"), text(f, "reason"))
		}
	}
}
