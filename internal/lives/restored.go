package lives

import (
	"fmt"
	"reflect"
	"slices"

	"hsmbackup/store"
)

// judgeRestore: nothing is lost, what is reported is there, and it was the right
// snapshot.
func judgeRestore(j *judgement) {
	was, is := j.was(), j.is()
	init := slices.Contains(j.cmd.args, "--init") && was.Initialised && !was.empty()
	if init && !reflect.DeepEqual(was.Domains, is.Domains) {
		j.comesBack("restore --init", was, nil)
	} else {
		j.nothingLost(j.cmd.t)
	}
	if j.r.exit != 0 && j.r.exit != 3 {
		return
	}
	s := j.w.record(j.cmd.c).snapshot(j.r.text("snapshot"))
	if s == nil {
		j.bad("restore of no snapshot", "%q is not in the catalog", j.r.text("snapshot"))
		return
	}
	if complete, _ := j.r.out["complete"].(bool); j.r.exit == 0 && !complete {
		j.bad("restore: complete and exit", "complete is %v, exit %d", complete, j.r.exit)
	}
	j.leftBehind(s)
	j.there(s)
	j.right(s)
}

// leftBehind: a copy without a description is no work that is done.
func (j *judgement) leftBehind(s *store.Snapshot) {
	was, is := j.was(), j.is()
	for _, n := range is.references() {
		o := is.objects[n]
		if _, before := was.objects[n]; before || !o.bare() {
			continue
		}
		if !slices.ContainsFunc(s.Keys, func(k store.Key) bool {
			name, _ := j.w.private(k.Blob)
			return name == o.private && len(k.Description) == 0
		}) {
			j.bad("restore left a copy", "key %d (%s) has no description", n, o)
		}
	}
}

// there: what is called restored is on the token as it was.
func (j *judgement) there(s *store.Snapshot) {
	was, is := j.was(), j.is()
	at := map[int]int{}
	only := 0
	for i, a := range j.cmd.args {
		switch a {
		case "--at":
			var from, to int
			if n, _ := fmt.Sscanf(j.cmd.args[i+1], "%d=%d", &from, &to); n == 2 {
				at[from] = to
			}
		case "--key":
			_, _ = fmt.Sscan(j.cmd.args[i+1], &only)
		}
	}
	fine := map[byte]bool{}
	for _, k := range j.r.list("keys") {
		if ok, _ := k["ok"].(bool); ok {
			fine[reference(k, "reference")] = true
		}
	}
	for _, k := range s.Keys {
		if k.Reference == 0 || only > 0 && k.Reference != only {
			continue
		}
		to := byte(k.Reference)
		if at[k.Reference] > 0 {
			to = byte(at[k.Reference])
		}
		name, _ := j.w.private(k.Blob)
		want := object{name, string(k.Description), string(k.Certificate)}
		found := false
		for n, o := range is.objects {
			found = found || o == want && (n == to || was.objects[n] == want)
		}
		if !found && (j.r.exit == 0 || fine[to]) {
			j.bad("restored key is not there",
				"exit %d, ok %v, but key %d (%s) of %s is not on the token: there is %s",
				j.r.exit, fine[to], to, want, s.ID, is.objects[to])
		}
	}
	if j.r.exit != 0 || only > 0 {
		return
	}
	for _, f := range s.Files {
		n := number(f.FID)
		content, opened := j.w.content(f)
		if !opened || is.files[n] != content && string(is.Files[n]) != content {
			j.bad("restored file is not there",
				"exit 0, but file %s of %s is not on the token as it was", f.FID, s.ID)
		}
	}
}

// right: it was the snapshot that was meant.
func (j *judgement) right(s *store.Snapshot) {
	if j.cmd.named == "export" { // one that has the same will do
		if len(s.Keys) != len(j.cmd.want.Keys) || s.Token.Serial != j.cmd.want.Token.Serial {
			j.bad("restored another snapshot: export", "restored %s; %s was exported", s.ID, j.cmd.want.ID)
		}
		return
	}
	if j.cmd.named != "any" {
		if s.ID != j.cmd.want.ID {
			j.bad("restored another snapshot: "+j.cmd.named,
				"restored %s of %s; what was meant is %s of %s",
				s.ID, s.Token.Serial, j.cmd.want.ID, j.cmd.want.Token.Serial)
		}
		return
	}
	tokens := map[string]bool{}
	for _, x := range j.then.snapshots {
		if x.Token.Serial != "" {
			line := j.then.line(x.Token.Serial)
			tokens[slices.Min(line)] = true
		}
	}
	if len(tokens) > 1 {
		j.bad("restored any token's",
			"restored %s onto a token that the catalog does not know, though it has %d", s.ID, len(tokens))
	}
	if s.Token.Serial != "" {
		if last := j.then.newest(j.then.line(s.Token.Serial)...); last.ID != s.ID {
			j.bad("restored another snapshot: any",
				"restored %s of %s, the newest is %s", s.ID, s.Token.Serial, last.ID)
		}
	}
}
