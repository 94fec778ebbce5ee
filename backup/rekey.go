package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// RekeyOptions are what Rekey is told.
type RekeyOptions struct {
	// Shares is how many shares make up the new recovery key, for key domains
	// that are to be made anew; 0 is 1.
	Shares int
	// Why is kept with the sets of parts that are retired.
	Why string
	// Program is recorded with the snapshots.
	Program string
	// Progress is told what is being done; nil is silence.
	Progress func(what string, done, total int)
}

// RekeyReport is what a re-keying did.
type RekeyReport struct {
	OldKCV, KCV store.KCV
	Snapshots   []RekeyedSnapshot
	// Retired are the sets of parts of the old recovery key that are not needed
	// any more: all that was under it is under the new one, and no token has it.
	// Kept are those that are not retired, because of what Holders say.
	Retired, Kept []string
	// Holders are the tokens that still have the old recovery key: the next key that
	// they make goes out under it.
	Holders []Holder
	// Head is the last log entry.
	Head store.Entry
}

// RekeyedSnapshot is what came of one snapshot.
type RekeyedSnapshot struct {
	// From is the snapshot that was to be re-keyed, New what was made of it: nil
	// where nothing of it was under the old recovery key.
	From, New *store.Snapshot
	// Before: New was made by an earlier run.
	Before bool
	// Keys are proofs of kind opened, under the new recovery key, in the order of
	// the snapshot's keys; the reason says why one was not re-keyed.
	Keys []KeyProof
	// Left is what was not re-keyed, besides keys.
	Left []store.Gap
}

// Done tells whether all of a snapshot is under the new recovery key.
func (r RekeyedSnapshot) Done() bool {
	return r.New != nil && len(r.Left) == 0 && !slices.ContainsFunc(r.Keys, func(k KeyProof) bool { return !k.OK && !k.Accepted })
}

// Left names all that was not re-keyed.
func (r *RekeyReport) Left() []string {
	var list []string
	for _, s := range r.Snapshots {
		for _, k := range s.Keys {
			if !k.OK && !k.Accepted {
				list = append(list, fmt.Sprintf("%s of snapshot %s: %s", keyName(k.Label, k.Reference), s.From.ID, k.Reason))
			}
		}
		for _, l := range s.Left {
			list = append(list, fmt.Sprintf("%s of snapshot %s: %s", l.What, s.From.ID, l.Reason))
		}
	}
	return list
}

// Any tells whether anything at all was or had been re-keyed.
func (r *RekeyReport) Any() bool {
	return slices.ContainsFunc(r.Snapshots, func(s RekeyedSnapshot) bool { return s.New != nil })
}

// DoneBefore tells that an earlier run had done all of it, and this one looked at
// the sets of parts.
func (r *RekeyReport) DoneBefore() bool { return !r.Any() && len(r.Retired)+len(r.Kept) > 0 }

// Rekey seals what is in snapshots under one recovery key anew under another,
// on this computer, where private keys are open meanwhile. Each new blob is
// opened again and its key matched with all that is known of it, for all
// snapshots before the first is recorded; then one new snapshot is added for
// each, whole or not at all. The old ones stay. What cannot be re-keyed is in
// the report with its reason, and out of the new snapshot where it was under the
// old recovery key; what is under a third one stays as it is. Run again it finds
// what an earlier run has done and goes on with the rest.
//
// An error of class Failed left everything as it was; after Changed some of the
// new snapshots are recorded.
func Rekey(ctx context.Context, cat *store.Catalog, snapshots []*store.Snapshot, from, to *dkek.Key, o RekeyOptions) (*RekeyReport, error) {
	r := &RekeyReport{OldKCV: from.KCV().String(), KCV: to.KCV().String()}
	if r.OldKCV == r.KCV {
		return nil, fail.Failf("same-key", "make the shares of a new one: `hsmbackup dkek create`", "old and new shares give the same recovery key, %s", r.KCV)
	}
	if !cat.Writable() {
		return nil, fail.Failf("catalog-read-only", "", "the catalog cannot be written, and the new snapshots belong in it")
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	for _, key := range []*dkek.Key{from, to} {
		if err := anchorHolds(state, key); err != nil {
			return nil, err
		}
	}
	h := newHistory(state)
	j := rekeying{from: from, to: to, oldKCV: r.OldKCV, kcv: r.KCV, o: o, now: cat.Now()}
	for _, s := range snapshots {
		done, err := j.snapshot(ctx, h, s)
		if err != nil {
			return nil, err
		}
		again := func(o RekeyedSnapshot) bool { return o.From.Hash == s.Hash || done.Before && o.New == done.New }
		if !slices.ContainsFunc(r.Snapshots, again) { // named twice
			r.Snapshots = append(r.Snapshots, done)
		}
	}
	if !r.Any() {
		// An earlier run may have done all but to retire sets that tokens needed.
		if slices.ContainsFunc(state.Snapshots, func(s *store.Snapshot) bool {
			return s.Rekeyed != nil && s.Rekeyed.OldKCV == r.OldKCV && s.Rekeyed.KCV == r.KCV
		}) {
			err = r.retireSets(cat, j)
		}
		r.Head = state.Head
		return r, err
	}
	if err := r.record(ctx, cat, h, j); err != nil {
		return nil, err
	}
	return r, nil
}

// anchorHolds refuses to build upon a catalog that was changed since a recovery
// key anchored it.
func anchorHolds(s *store.State, key *dkek.Key) error {
	a, err := lookAtAnchor(s, key)
	if err != nil || a.damage == "" {
		return err
	}
	return &fail.Error{Class: fail.Damaged, Code: "catalog-damaged", Message: fmt.Sprintf("the catalog is not what the recovery key %s anchored: %s", a.kcv, a.damage),
		Hint: "`hsmbackup check` lists all that does not check out; go on with a copy that is whole"}
}

// rekeying is one run.
type rekeying struct {
	from, to    *dkek.Key
	oldKCV, kcv store.KCV
	o           RekeyOptions
	now         time.Time
}

// snapshot makes the new snapshot of one, in memory, or finds the one that an
// earlier run made.
func (j *rekeying) snapshot(ctx context.Context, h *history, s *store.Snapshot) (RekeyedSnapshot, error) {
	r := RekeyedSnapshot{From: s}
	if made := j.made(h.Snapshots, s); made != nil {
		r.New, r.Before = made, true
		return r, j.again(ctx, h, &r)
	}
	next := j.copy(s)
	any := false
	for i := range s.Keys {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		j.progress("sealing anew "+keyName(s.Keys[i].Label, s.Keys[i].Reference), i, len(s.Keys))
		key, proof := j.key(s, s.Keys[i])
		next.Keys = append(next.Keys, key)
		r.Keys = append(r.Keys, proof)
		any = any || proof.OK
	}
	j.progress("sealed anew", len(s.Keys), len(s.Keys))
	for _, f := range s.Files {
		file, left := j.file(f)
		switch {
		case left == "":
			any = any || f.Sealed
		case file == nil:
			next.Missing = append(next.Missing, store.Gap{What: "data object " + f.FID, Reason: left})
			fallthrough
		default:
			r.Left = append(r.Left, store.Gap{What: "data object " + f.FID, Reason: left})
		}
		if file != nil {
			next.Files = append(next.Files, *file)
		}
	}
	h.markAccepted(s, &SnapshotProof{Keys: r.Keys})
	if any {
		r.New = next
	}
	return r, nil
}

// made finds what an earlier run made of a snapshot: another one, or itself. One
// that is damaged since does not count.
func (j *rekeying) made(all []*store.Snapshot, s *store.Snapshot) *store.Snapshot {
	for i := len(all) - 1; i >= 0; i-- {
		r := all[i].Rekeyed
		if r == nil || r.OldKCV != j.oldKCV || r.KCV != j.kcv || r.From != s.Hash && all[i].Hash != s.Hash {
			continue
		}
		if !slices.ContainsFunc(all[i].Keys, func(k store.Key) bool { return k.Damage != "" }) {
			return all[i]
		}
	}
	return nil
}

func (j *rekeying) progress(what string, done, total int) {
	Options{Progress: j.o.Progress}.progress(what, done, total)
}

// copy begins the new snapshot: all of the old one but keys and files.
func (j *rekeying) copy(s *store.Snapshot) *store.Snapshot {
	next := &store.Snapshot{
		Taken: s.Taken, Program: j.o.Program, Adopted: s.Adopted, Token: s.Token, Missing: slices.Clone(s.Missing),
		Rekeyed: &store.Rekeyed{Time: j.now, From: s.Hash, OldKCV: j.oldKCV, KCV: j.kcv},
	}
	var lost []store.Gap
	next.Attachments, lost = whole(s.Attachments)
	next.Missing = append(next.Missing, lost...)
	next.Token.Domains = slices.Clone(s.Token.Domains)
	for i := range next.Token.Domains {
		if d := &next.Token.Domains[i]; d.KCV == j.oldKCV {
			d.KCV, d.Shares, d.Outstanding = j.kcv, max(1, j.o.Shares), 0
		}
	}
	return next
}

// again proves what an earlier run made, as if this one had.
func (j *rekeying) again(ctx context.Context, h *history, r *RekeyedSnapshot) error {
	for i := range r.New.Keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := &r.New.Keys[i]
		j.progress("opening "+keyName(k.Label, k.Reference), i, len(r.New.Keys))
		r.Keys = append(r.Keys, openStored(k, j.to))
	}
	j.progress("opened", len(r.New.Keys), len(r.New.Keys))
	h.markAccepted(r.New, &SnapshotProof{Keys: r.Keys})
	return nil
}

// key seals one key anew and proves it. One that was under the old recovery key
// and cannot be sealed anew is left without a blob, with the reason.
func (j *rekeying) key(s *store.Snapshot, k store.Key) (store.Key, KeyProof) {
	p := proofOf(&k, store.ProofOpened)
	left := func(reason string) (store.Key, KeyProof) {
		p.Reason = reason
		if k.KCV == j.oldKCV {
			k.KCV = j.kcv // what its key domain is under
		}
		if k.Reason == "" {
			k.Blob, k.Reason = nil, fmt.Sprintf("not re-keyed from snapshot %s, which has it under the recovery key %s: %s", s.ID, j.oldKCV, reason)
		}
		k.Damage = ""
		return k, p
	}
	note, usable := mend(&k)
	switch {
	case !usable:
		p.Damage = true
		return left(note)
	case k.Reason != "":
		key, _ := left("not exported: " + k.Reason)
		return key, p
	case k.KCV != j.oldKCV:
		p.Reason = fmt.Sprintf("under the recovery key %s, not %s: it stays as it is", orNone(k.KCV), j.oldKCV)
		return k, p
	}
	j.makeUp(&k)
	if old := openStored(&k, j.from); !old.OK {
		p.Damage = old.Damage
		return left(old.Reason)
	}
	blob, err := dkek.Rewrap(j.from, j.to, k.Blob)
	if err != nil {
		return left(err.Error())
	}
	next := k
	next.Blob, next.KCV = blob, j.kcv
	if p = openStored(&next, j.to); !p.OK {
		return left("what was sealed anew does not open to it: " + p.Reason)
	}
	return next, p
}

// makeUp takes the public key of a key that is damaged in the catalog from
// where it still is: the certificate, or the blob.
func (j *rekeying) makeUp(k *store.Key) {
	if k.Damage == "" {
		return
	}
	k.Damage = ""
	if here, from := publicKey(k.Certificate); here != nil && k.PublicFrom != "" {
		k.PublicKey, k.PublicFrom = here.SPKI(), from
		return
	}
	k.PublicFrom = ""
	if public := j.public(k.Blob); public != nil {
		k.PublicKey, k.PublicFrom = public.SPKI(), "blob"
	}
}

// public opens a blob for its public key; nil if there is none.
func (j *rekeying) public(blob []byte) *pubkey.Key {
	b, err := dkek.ParseBlob(blob)
	if err != nil {
		return nil
	}
	private, err := j.from.Open(b)
	if err != nil {
		return nil
	}
	defer private.Wipe()
	public, err := private.Public()
	if err != nil {
		return nil
	}
	return public
}

// file seals a file anew that was sealed under the old recovery key. What was
// not is kept as it is; left says what could not be done, and a nil file that it
// is lost.
func (j *rekeying) file(f store.File) (file *store.File, left string) {
	switch {
	case f.Damage != "":
		return nil, "damaged in the catalog: " + f.Damage
	case !f.Sealed:
		return &f, ""
	}
	content, err := j.from.OpenData(f.Content)
	defer clear(content)
	if errors.Is(err, dkek.ErrOtherKey) {
		return &f, "sealed under another recovery key than " + j.oldKCV + ": it stays as it is"
	}
	if err != nil {
		return nil, err.Error()
	}
	recipient, err := j.to.Recipient()
	if err != nil {
		return nil, err.Error()
	}
	sealed, err := dkek.SealData(recipient, content)
	if err != nil {
		return nil, err.Error()
	}
	again, err := j.to.OpenData(sealed)
	defer clear(again)
	if err != nil || !bytes.Equal(again, content) {
		return nil, "what was sealed anew does not open to it: do not trust this computer"
	}
	f.Content = sealed
	return &f, ""
}

// record adds the new snapshots with their proofs, notes that both recovery keys
// were at hand, and retires the sets of the old one once nothing needs it.
func (r *RekeyReport) record(ctx context.Context, cat *store.Catalog, h *history, j rekeying) error {
	touched := false
	fail := func(err error) error {
		if touched {
			return fail.After(err)
		}
		return err
	}
	for _, s := range r.Snapshots {
		if s.New == nil {
			continue
		}
		if !s.Before {
			if err := cat.AddSnapshot(ctx, s.New); err != nil {
				return fail(err)
			}
			touched = true
		}
		var proofs []store.Proof
		for i := range s.New.Keys {
			k := &s.New.Keys[i]
			p := s.Keys[i]
			if _, known := h.proofs[store.HashOf(k.Blob)]; len(k.Blob) > 0 && p.OK && !known {
				proofs = append(proofs, store.Proof{Snapshot: s.New.ID, Reference: k.Reference, Blob: store.HashOf(k.Blob), Kind: store.ProofOpened, OK: true, Matched: p.Matched})
			}
		}
		if err := cat.RecordProofs(proofs); err != nil {
			return fail(err)
		}
		touched = touched || len(proofs) > 0
	}
	for _, key := range []*dkek.Key{j.from, j.to} {
		if err := RecordShares(cat, key, true, "dkek rekey"); err != nil {
			return fail(err)
		}
		touched = true
	}
	if err := r.retireSets(cat, j); err != nil {
		return fail(err)
	}
	state, err := cat.Read()
	if err != nil {
		return fail(err)
	}
	r.Head = state.Head
	return nil
}

// retireSets retires the sets of the old recovery key, once all that the newest
// snapshots had under it is under another and no token has it any more.
func (r *RekeyReport) retireSets(cat *store.Catalog, j rekeying) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	r.Holders = stillHave(state, j.oldKCV)
	needed := len(r.Holders) > 0
	for _, s := range state.Latest() {
		needed = needed || needs(state, s, j.oldKCV)
	}
	for _, old := range state.PartSets {
		if old.KCV != j.oldKCV || !old.Retired.IsZero() {
			continue
		}
		if needed {
			r.Kept = append(r.Kept, old.Set)
			continue
		}
		if err := cat.Append(j.retired(old, state.PartSets)); err != nil {
			return err
		}
		r.Retired = append(r.Retired, old.Set)
	}
	return nil
}

// retired is the record of a set that another one of the new recovery key, if
// there is one only, takes the place of.
func (j rekeying) retired(old store.PartSet, sets []store.PartSet) store.RetiredSet {
	var by []string
	for _, next := range sets {
		if next.KCV == j.kcv && next.Retired.IsZero() && next.Share == old.Share {
			by = append(by, next.Set)
		}
	}
	r := store.RetiredSet{Set: old.Set, Reason: "re-keyed to " + j.kcv}
	if len(by) == 1 {
		r.By = by[0]
	}
	if j.o.Why != "" {
		r.Reason += ": " + j.o.Why
	}
	return r
}

// Holder is a token that has a recovery key, or of which nobody can tell.
type Holder struct {
	Serial string
	// Why is what that is known from.
	Why string
}

func (h Holder) String() string { return h.Serial + ": " + h.Why }

// stillHave gives the tokens that have a recovery key as the newest state of each
// line of tokens tells: its last snapshot, or what was set up since. Re-keying a
// backup changes no token: what counts is what the token was backed up with.
func stillHave(state *store.State, kcv store.KCV) (list []Holder) {
	add := func(serial, format string, args ...any) {
		if state.Succeeded(serial) == "" {
			list = append(list, Holder{serial, fmt.Sprintf(format, args...)})
		}
	}
	seen, setUp, since := map[string]bool{}, lastSetUps(state), map[string]uint64{}
	for i := range state.Entries {
		if added, ok := state.Entries[i].Says().(store.SnapshotAdded); ok {
			since[added.Serial] = state.Entries[i].Seq
		}
	}
	for serial, u := range setUp {
		if u.seq > since[serial] {
			seen[serial] = true
		}
	}
	for _, serial := range slices.Sorted(maps.Keys(setUp)) {
		switch u := setUp[serial]; {
		case !seen[serial]:
		case u.kcv == kcv:
			add(serial, "got it on %s, and was not backed up since", u.day)
		case u.kcv == "" && u.waits:
			add(serial, "was set up on %s and waits for shares, nobody can tell of which recovery key", u.day)
		}
	}
	for _, s := range state.Latest() {
		serial := s.Token.Serial
		if s.Adopted || serial == "" || seen[serial] {
			continue
		}
		seen[serial] = true
		from := s
		for from != nil && from.Rekeyed != nil {
			from = state.Source(from)
		}
		day := s.Taken.Format(time.DateOnly)
		switch lost := lostSince(state, s); {
		case lost != "":
			add(serial, "its newest snapshot, %s, cannot be read, so that nobody can tell which recovery key it has", lost)
		case from == nil:
			add(serial, "the snapshot of %s that was re-keyed cannot be read, so that nobody can tell which recovery key it has", day)
		case slices.ContainsFunc(from.Token.Domains, func(d store.Domain) bool { return d.KCV == kcv }):
			add(serial, "had it when it was last backed up, on %s", day)
		case slices.ContainsFunc(from.Token.Domains, func(d store.Domain) bool { return d.KCV == "" && d.Outstanding > 0 }):
			add(serial, "waited for shares when it was last backed up, on %s, nobody can tell of which recovery key", day)
		}
	}
	for _, l := range state.Lost {
		if l.Serial != "" && !seen[l.Serial] {
			seen[l.Serial] = true
			add(l.Serial, "no snapshot of it can be read, so that nobody can tell which recovery key it has")
		}
	}
	return list
}

// setUpAt is what a token was last set up with. waits: for shares.
type setUpAt struct {
	seq   uint64
	kcv   store.KCV
	waits bool
	day   string
}

func lastSetUps(state *store.State) map[string]setUpAt {
	last := map[string]setUpAt{}
	for i := range state.Entries {
		e := &state.Entries[i]
		if c, ok := e.Says().(store.Ceremony); ok && c.Token != "" {
			last[c.Token] = setUpAt{e.Seq, c.KCV, strings.Contains(c.Outcome, "missing"), e.Time.Format(time.DateOnly)}
		}
	}
	return last
}

// lostSince names the last snapshot that the log has of a token after one that can
// be read; empty: there is none.
func lostSince(state *store.State, s *store.Snapshot) (id string) {
	var at uint64
	for i := range state.Entries {
		if added, ok := state.Entries[i].Says().(store.SnapshotAdded); ok && added.Hash == s.Hash {
			at = state.Entries[i].Seq
		}
	}
	for _, l := range state.Lost {
		if l.Serial == s.Token.Serial && l.Seq > at {
			id = l.ID
		}
	}
	return id
}

// needs tells whether a recovery key opens something of a snapshot, or of what
// it was made from, that nothing else does.
func needs(state *store.State, s *store.Snapshot, kcv store.KCV) bool {
	for from := s; from != nil; from = state.Source(from) {
		for i := range from.Keys {
			if k := &from.Keys[i]; len(k.Blob) > 0 && k.KCV == kcv && (from == s || i >= len(s.Keys) || len(s.Keys[i].Blob) == 0) {
				return true
			}
		}
	}
	return false
}

// has tells whether a token has a recovery key.
func (inv *Inventory) has(kcv store.KCV) bool {
	return slices.ContainsFunc(inv.token().Domains, func(d store.Domain) bool { return d.KCV != "" && d.KCV == kcv })
}

// rekeyedSince says of a key that was re-keyed why a token which still has the
// old recovery key cannot show anything of it; empty for others.
func (inv *Inventory) rekeyedSince(s *store.Snapshot, k *store.Key) string {
	r := s.Rekeyed
	if r == nil || k.KCV != r.KCV || inv.has(r.KCV) || !inv.has(r.OldKCV) {
		return ""
	}
	return fmt.Sprintf("re-keyed on %s to the recovery key %s, which this token does not have: `hsmbackup verify --offline` proves it, and snapshot %s is what the token can prove",
		r.Time.Format(time.DateOnly), r.KCV, r.From.String()[:12])
}

// AsBackedUp gives, for a snapshot that was re-keyed while its token still has
// the old recovery key, the one that it was made from; else the snapshot itself.
func AsBackedUp(state *store.State, inv *Inventory, s *store.Snapshot) *store.Snapshot {
	for s.Rekeyed != nil && !inv.has(s.Rekeyed.KCV) {
		from := state.Source(s)
		if from == nil {
			break
		}
		s = from
	}
	return s
}

// Behind is a token whose backup was re-keyed and that has not got the new
// recovery key yet.
type Behind struct {
	store.Rekeyed
	// Snapshot is the re-keyed one.
	Snapshot *store.Snapshot
	// Newest tells whether it is the token's newest. Else a backup was taken
	// since, which is under the old recovery key again.
	Newest bool
}

func (b Behind) String() string {
	text := fmt.Sprintf("its backup was re-keyed on %s to the recovery key %s, and this token still has the old one, %s", b.Time.Format(time.DateOnly), b.KCV, b.OldKCV)
	if !b.Newest {
		text += ", under which it was backed up since"
	}
	return text
}

// BehindRekey tells whether a token still has a recovery key that was taken out
// of use by re-keying its backup; nil if not.
func BehindRekey(inv *Inventory, state *store.State) *Behind {
	newest := true
	for _, s := range slices.Backward(state.Snapshots) {
		if s.Adopted || s.Token.Serial != inv.Serial {
			continue
		}
		switch r := s.Rekeyed; {
		case r != nil && inv.has(r.KCV):
			return nil
		case r != nil && inv.has(r.OldKCV):
			return &Behind{*r, s, newest}
		}
		newest = false
	}
	return nil
}

// Under finds the newest snapshot of a token that has keys under a recovery key;
// nil if there is none.
func Under(state *store.State, serial string, kcv store.KCV) *store.Snapshot {
	for _, s := range slices.Backward(state.Snapshots) {
		if s.Token.Serial == serial && slices.ContainsFunc(s.Keys, func(k store.Key) bool { return len(k.Blob) > 0 && k.KCV == kcv }) {
			return s
		}
	}
	return nil
}
