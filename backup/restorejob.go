package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// RestoreJob restores a snapshot onto a token.
type RestoreJob struct {
	Bring
	Asker FateAsker
	// Fate is what became of the token that the keys came from, as was said.
	Fate store.Fate
	// Damaged: what it is restored from does not check out in all of its parts.
	Damaged bool
}

// FateAsker is a Person who can be asked what became of a token. An empty answer
// says nothing.
type FateAsker interface {
	Became(ctx context.Context, serial string) (string, error)
}

// Outcome is what a restore ends with.
type Outcome struct {
	*RestoreReport
	fail.Verdict
	// Fate is what became of the old token, FollowUp what has to be done about it.
	Fate     store.Fate
	FollowUp []string
}

// Run does the job.
func (j *RestoreJob) Run(ctx context.Context) (*Outcome, error) {
	if j.Person.Given() && !j.Init && !HasSealed(j.Snapshot) && len(j.Options.Replace)+len(j.Options.ReplaceBlobs) == 0 {
		return nil, fail.Usagef("`hsmbackup dkek load` loads shares into a token that is initialised", "--share is for --init, for --replace, and for snapshots with sealed data, which this one has not")
	}
	r, err := j.Bring.Run(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.endUpdate(r); err != nil {
		return nil, err
	}
	out := &Outcome{RestoreReport: r, Verdict: r.verdict()}
	for _, m := range r.Plan.Snapshot.Missing {
		out.Add(m.What + " is not in the backup")
	}
	out.Damaged = out.Damaged || j.Damaged
	state, err := j.Catalog.Read()
	if err != nil {
		return nil, err
	}
	short := Short(state, r.Plan.Snapshot)
	out.Add(short.Left...)
	out.Damaged = out.Damaged || short.Damaged
	return out, j.fate(ctx, out)
}

// verdict names what is not on the token.
func (r *RestoreReport) verdict() (v fail.Verdict) {
	for _, k := range r.Keys {
		if !k.OK {
			v.Add(fmt.Sprintf("key %d %q: %s", k.Reference, k.Label, k.Reason))
			v.Damaged = v.Damaged || k.Damage
		}
	}
	for _, f := range r.Files {
		if !f.OK {
			v.Add(fmt.Sprintf("file %s: %s", f.FID, f.Reason))
		}
	}
	return v
}

// Short tells what a snapshot lacks of what the catalog was to bring back of its
// token: one that is younger and damaged; keys, where it holds none and one before
// it does.
func Short(state *store.State, s *store.Snapshot) (v fail.Verdict) {
	for _, l := range state.LostSince(s) {
		v.Add(fmt.Sprintf("snapshot %s of %s is younger than %s, and damaged (%s): what it held besides is not restored", l.ID, l.Serial, s.ID, l.Why))
		v.Damaged = true
	}
	if len(s.Keys) > 0 || s.Adopted {
		return v
	}
	if before := withKeys(state, s); before != nil {
		v.Add(fmt.Sprintf("snapshot %s holds no key, and %s, of the same token before, holds %s: --from %s restores those", s.ID, before.ID, count(len(before.Keys), "key"), before.ID))
	}
	return v
}

// withKeys is the newest snapshot of a token's line that holds a key, taken before
// s.
func withKeys(state *store.State, s *store.Snapshot) *store.Snapshot {
	line, at := state.Line(s.Token.Serial), state.SeqOf(s)
	var found *store.Snapshot
	for _, other := range state.Snapshots {
		if slices.Contains(line, other.Token.Serial) && len(other.Keys) > 0 && state.SeqOf(other) < at {
			found = other
		}
	}
	return found
}

// endUpdate ends a firmware update whose token got back, by this very restore, all
// that it was emptied of; every key was used.
func (j *RestoreJob) endUpdate(r *RestoreReport) error {
	cat := j.record()
	if cat == nil || !j.Options.all() {
		return nil
	}
	list, err := Updates(cat)
	if err != nil {
		return err
	}
	for _, u := range list {
		if u.Serial == r.Plan.Serial && u.Phase != UpdateRestoring && u.Hash == r.Plan.Snapshot.Hash && u.broughtBack(r) {
			j.Person.Note("the firmware update of %s is given up: everything is on it again", u.Serial)
			return PutBack(cat, u.Serial)
		}
	}
	return nil
}

// broughtBack tells whether all that the update was to bring back is there, by a
// restore of its snapshot that has just been done.
func (u *Update) broughtBack(r *RestoreReport) bool {
	for i, k := range r.Keys {
		item := &r.Plan.Items[i]
		if !k.OK && (item.comesBack() || !slices.Contains(u.Discarded, item.Key.Reference)) {
			return false
		}
	}
	return len(r.Keys) == len(r.Plan.Items) && len(r.Files) == len(r.Plan.Files) &&
		!slices.ContainsFunc(r.Files, func(f FileResult) bool { return !f.OK })
}

// fate finds out what became of the token whose keys were restored onto another
// one, unless somebody has said so before.
func (j *RestoreJob) fate(ctx context.Context, out *Outcome) error {
	old := out.Plan.Snapshot.Token.Serial
	if old == "" || old == out.Plan.Serial || !slices.ContainsFunc(out.Keys, func(k KeyProof) bool { return k.OK }) {
		if j.Fate != "" {
			j.Person.Note("--old-token is about another token that the keys came from, and there is none: it was not recorded")
		}
		return nil
	}
	out.Fate = j.Fate
	if out.Fate == "" {
		state, err := j.Catalog.Read()
		if err != nil || state.Fates[old].Fate != "" || state.Succeeded(old) != "" || j.Asker == nil {
			return err
		}
		answer, err := j.Asker.Became(ctx, old)
		if err != nil || strings.TrimSpace(answer) == "" {
			return err
		}
		if out.Fate, err = ParseFate(answer); err != nil {
			j.Person.Note("%v: `hsmbackup restore --old-token WHAT`, run once more, takes broken, lost, stolen or wiped", err)
			return nil
		}
	}
	o := store.OldToken{Serial: old, Fate: out.Fate, Token: out.Plan.Serial}
	if cat := j.record(); cat != nil {
		if err := cat.Append(o); err != nil {
			return err
		}
	}
	out.FollowUp = FollowUp(o, out.SSH())
	return nil
}

// SSH are the lines of the keys that were restored.
func (r *RestoreReport) SSH() []string {
	lines := []string{}
	for i, item := range r.Plan.Items {
		if public, err := pubkey.ParseSPKI(item.Key.PublicKey); err == nil && r.Keys[i].OK {
			if line := public.SSH(item.Key.Label); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// There are the stored keys that were restored and used.
func (r *RestoreReport) There() []store.Key {
	var list []store.Key
	for i, item := range r.Plan.Items {
		if r.Keys[i].OK {
			list = append(list, item.Key)
		}
	}
	return list
}

// RestoredFile is what came of a file, for --json.
type RestoredFile struct {
	File   string `json:"file"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
}

// RestoreDocument is what restore --json prints.
type RestoreDocument struct {
	Snapshot string         `json:"snapshot"`
	Token    string         `json:"token"`
	Complete bool           `json:"complete"`
	Keys     []KeyProof     `json:"keys"`
	Files    []RestoredFile `json:"files"`
	SSH      []string       `json:"ssh"`
	// SetUp is what of the token's set-up is not as the old one's.
	SetUp    []string   `json:"set_up,omitempty"`
	OldToken store.Fate `json:"old_token,omitempty"`
	FollowUp []string   `json:"follow_up,omitempty"`
}

// Document puts the outcome into the form of --json.
func (out *Outcome) Document() RestoreDocument {
	files := []RestoredFile{}
	for _, f := range out.Files {
		files = append(files, RestoredFile{f.FID.String(), f.OK, f.Reason})
	}
	return RestoreDocument{out.Plan.Snapshot.ID, out.Plan.Serial, out.Complete(), append([]KeyProof{}, out.Keys...), files, out.SSH(), out.SetUp, out.Fate, out.FollowUp}
}
