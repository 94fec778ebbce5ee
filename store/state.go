package store

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// State is what a catalog says, read once: the twin of a token's inventory. What
// hashes right is in it; what does not is named in Damage and left out, and
// takes nothing else with it. It is shared and must not be changed.
type State struct {
	// Head is what the next entry follows; only Seq and Hash of one that is
	// damaged.
	Head Entry
	// Entries are the whole ones of the log, oldest first.
	Entries []Entry
	// Snapshots are those whose manifest is whole, oldest first; what was made of
	// one by re-keying stands right behind it, since it is no younger. Bodies that
	// do not check out are nil, and the Damage of key or file says so.
	Snapshots []*Snapshot
	// Lost are snapshots that the log names and of which nothing can be read.
	Lost []LostSnapshot
	// Damage is what does not check out of log, manifests and records.
	Damage []Finding

	Proofs      []Proof
	Shares      map[KCV]ShareSeen
	Accepted    []Accepted
	PartSets    []PartSet
	RollCalls   []RollCall
	Copies      []Copy
	Restores    []Restored
	Successions []Succession
	Updates     []UpdateStep
	Fates       map[string]OldToken // by serial
	Asked       map[Place]AskedKey  // the last time each key was asked
	Checked     time.Time           // of the last check without findings
	// TokenAnchors are those that were written onto tokens, by serial, as the log
	// has it.
	TokenAnchors map[string]TokenAnchor

	added      []addedAt
	successors []Successor
	lost       int // log entries that are damaged or missing
	format     int // the version of the file
	anchors    map[KCV]anchorRecord
	jumps      []Jump
	// clockAccepted are the entries of jumps that somebody knows of.
	clockAccepted []uint64
}

type addedAt struct {
	SnapshotAdded
	seq uint64
}

// LostSnapshot is one whose manifest is damaged or missing.
type LostSnapshot struct {
	ID, Serial string
	Seq        uint64 // of its log entry
	Why        string
}

func newState() *State {
	return &State{Shares: map[KCV]ShareSeen{}, Fates: map[string]OldToken{}, Asked: map[Place]AskedKey{}, TokenAnchors: map[string]TokenAnchor{}, anchors: map[KCV]anchorRecord{}}
}

// Read gives what the catalog says. The file is read at the first call, and again
// after damage or when snapshots were added; what this Catalog appends is added
// to what was read. A nil catalog says nothing. The error is for what kept it
// from looking.
func (c *Catalog) Read() (*State, error) {
	if c == nil {
		return newState(), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != nil {
		return c.state, nil
	}
	s, err := c.readAll()
	if err == nil {
		c.state = s
	}
	return s, err
}

// Reread is Read of the file as it lies there now, whatever was read before.
func (c *Catalog) Reread() (*State, error) {
	c.forget()
	return c.Read()
}

func (c *Catalog) readAll() (*State, error) {
	s := newState()
	err := c.view(func(tx *bolt.Tx) error {
		s.read(tx, c.now())
		return nil
	})
	return s, err
}

// read is the one read and the one fold.
func (s *State) read(tx *bolt.Tx, now time.Time) {
	s.format = fileFormat(tx)
	log, found := readLog(tx)
	s.Head, s.Entries, s.lost = log.head, log.entries, log.lost
	s.jumps = lookAtClock(s.Entries, now)
	for i := range s.Entries {
		if e := &s.Entries[i]; e.says != nil {
			e.says.tell(s, e)
		}
	}
	found = append(found, s.readSnapshots(tx)...)
	s.Damage = append(found, s.readAnchors(tx)...)
}

// forget has the next Read look at the file.
func (c *Catalog) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = nil
}

// extend adds an entry that was just written, with its snapshot if it is of one.
// States that were handed out stay as they are.
func (c *Catalog) extend(e *Entry, snap *Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == nil {
		return
	}
	back := c.state.Head.Time.After(e.Time) // which may change what is known of others
	if len(c.state.Damage) > 0 || e.Seq != c.state.Head.Seq+1 || back {
		c.state = nil
		return
	}
	s := *c.state
	s.Shares, s.Fates, s.TokenAnchors = maps.Clone(s.Shares), maps.Clone(s.Fates), maps.Clone(s.TokenAnchors)
	s.PartSets, s.Asked = slices.Clone(s.PartSets), maps.Clone(s.Asked)
	s.Head, s.Entries = *e, append(s.Entries, *e)
	s.format = max(s.format, formatOf(e.says))
	e.says.tell(&s, e)
	if snap != nil {
		s.Snapshots = byAge(append(slices.Clone(s.Snapshots), snap))
	}
	c.state = &s
}

// Newest is the newest snapshot of the token with this very serial; nil if there
// is none.
func (s *State) Newest(serial string) *Snapshot {
	for _, snap := range slices.Backward(s.Snapshots) {
		if serial != "" && snap.Token.Serial == serial && !snap.Unlogged {
			return snap
		}
	}
	return nil
}

// Line gives the serials that a token has had, oldest first, by any of them:
// those before and after firmware updates, and of tokens whose keys went on onto
// another one. Serials that were never succeeded are a line of their own.
func (s *State) Line(serial string) []string {
	next := s.next()
	before := map[string]string{}
	for _, old := range slices.Sorted(maps.Keys(next)) {
		before[next[old]] = old
	}
	line := []string{serial}
	for at, ok := before[serial]; ok && !slices.Contains(line, at); at, ok = before[at] {
		line = slices.Insert(line, 0, at)
	}
	for at, ok := next[serial]; ok && !slices.Contains(line, at); at, ok = next[at] {
		line = append(line, at)
	}
	return line
}

// Succeeded tells the serial under which a token goes on, empty if it does not
// go on under another one.
func (s *State) Succeeded(serial string) string { return s.next()[serial] }

// Predecessor is the serial that a token had before, empty if none is known.
func (s *State) Predecessor(serial string) string {
	line := s.Line(serial)
	if i := slices.Index(line, serial); i > 0 {
		return line[i-1]
	}
	return ""
}

// next gives each serial's successor: as the log has it, after a firmware update
// or after its keys went onto another token that was backed up since; as the
// manifests have it where entries of the log are lost. A serial that was backed up
// again since then goes on by itself.
func (s *State) next() map[string]string {
	next := map[string]string{}
	if s.lost > 0 {
		for _, snap := range s.Snapshots {
			if old := snap.Token.SuccessorOf; old != "" && old != snap.Token.Serial {
				next[old] = snap.Token.Serial
			}
		}
	}
	last := map[string]uint64{}
	for _, a := range s.added {
		last[a.Serial] = a.seq
	}
	for serial, old := range s.Fates {
		if old.Token != serial && last[old.Token] > old.Seq && last[serial] < old.Seq {
			next[serial] = old.Token
		}
	}
	for _, r := range s.successors {
		if last[r.SuccessorOf] < r.Seq {
			next[r.SuccessorOf] = r.Serial
		}
	}
	return next
}

// Now is the newest snapshot of a token's line, by any serial that it had; nil if
// there is none.
func (s *State) Now(serial string) *Snapshot {
	for _, at := range slices.Backward(s.Line(serial)) {
		if snap := s.Newest(at); snap != nil {
			return snap
		}
	}
	return nil
}

// Latest gives the newest snapshot of each serial, oldest first, and each adopted
// one, which is of no token, unless another was made of it by re-keying.
func (s *State) Latest() []*Snapshot {
	newest, rekeyed := map[string]*Snapshot{}, map[Hash]bool{}
	for _, snap := range s.Snapshots {
		if !snap.Unlogged {
			newest[snap.Token.Serial] = snap
		}
		if snap.Rekeyed != nil {
			rekeyed[snap.Rekeyed.From] = true
		}
	}
	var list []*Snapshot
	for _, snap := range s.Snapshots {
		if snap.Adopted && !rekeyed[snap.Hash] || !snap.Adopted && newest[snap.Token.Serial] == snap {
			list = append(list, snap)
		}
	}
	return list
}

// Source gives what a re-keyed snapshot was made from, nil for others and where
// it is not there.
func (s *State) Source(snap *Snapshot) *Snapshot {
	if snap.Rekeyed == nil {
		return nil
	}
	for _, from := range s.Snapshots {
		if from.Hash == snap.Rekeyed.From {
			return from
		}
	}
	return nil
}

// Find finds one snapshot: "latest" is the newest of all, a token's serial the
// newest of its line, anything else an ID or the beginning of one or of a hash,
// at least 4 hex digits.
//
// Errors: ErrNoSnapshot, ErrAmbiguous; ErrDamaged for one that is in the log and
// of which nothing can be read, and where damage may hide the only one.
func (s *State) Find(name string) (*Snapshot, error) {
	byID := s.byPrefix(name)
	var named *Snapshot
	if name == latest {
		for _, snap := range s.Snapshots {
			if !snap.Unlogged {
				named = snap
			}
		}
	} else {
		named = s.Now(name)
	}
	switch {
	case len(byID) > 1, len(byID) == 1 && named != nil && byID[0] != named:
		return nil, fmt.Errorf("%w: %q fits more than one snapshot: give more of the id", ErrAmbiguous, name)
	case len(byID) == 1:
		return byID[0], nil
	case named != nil:
		return named, nil
	case name == latest && len(s.Lost) == 0 && len(s.Damage) > 0:
		return nil, s.Err() // what cannot be read may be a snapshot
	case name == latest && len(s.Lost) == 0:
		return nil, fmt.Errorf("%w: the catalog has none yet: run a backup", ErrNoSnapshot)
	}
	for _, l := range s.Lost {
		if name == latest || name == l.Serial || len(name) >= 4 && strings.HasPrefix(l.ID, strings.ToLower(name)) {
			return nil, fmt.Errorf("%w: snapshot %s (token %s): %s", ErrDamaged, l.ID, l.Serial, l.Why)
		}
	}
	return nil, fmt.Errorf("%w: %q is neither an id, at least 4 digits of it, nor a token's serial", ErrNoSnapshot, name)
}

// latest names the newest snapshot of all.
const latest = "latest"

func (s *State) byPrefix(prefix string) []*Snapshot {
	prefix = strings.ToLower(prefix)
	if len(prefix) < 4 || len(prefix) > 2*len(Hash{}) {
		return nil
	}
	if _, err := hex.DecodeString(prefix[:len(prefix)&^1]); err != nil {
		return nil
	}
	var list []*Snapshot
	for _, snap := range s.Snapshots {
		if strings.HasPrefix(snap.Hash.String(), prefix) {
			list = append(list, snap)
		}
	}
	return list
}

// last is the hash of the snapshot that the next one follows; zero for none.
func (s *State) last() Hash {
	if n := len(s.added); n > 0 {
		return s.added[n-1].Hash
	}
	return Hash{}
}

// LostSince names the snapshots of a token's line that are younger than one of it
// and cannot be read: what is restored from that one is not the newest state.
func (s *State) LostSince(snap *Snapshot) []LostSnapshot {
	line := s.Line(snap.Token.Serial)
	at := s.SeqOf(snap)
	var list []LostSnapshot
	for _, l := range s.Lost {
		if l.Seq > at && slices.Contains(line, l.Serial) {
			list = append(list, l)
		}
	}
	return list
}

// SeqOf is the number of the log entry that added a snapshot, 0 where that entry
// is lost.
func (s *State) SeqOf(snap *Snapshot) uint64 {
	for _, a := range s.added {
		if a.Hash == snap.Hash {
			return a.seq
		}
	}
	return 0
}

// EntryByHashPrefix finds the entry whose hash begins with the first bits of
// prefix: the head words of an earlier day, 11 bits each. found is false when
// there is none: the catalog is another one, older than the words, or changed.
// Several that fit are ErrAmbiguous.
func (s *State) EntryByHashPrefix(prefix []byte, bits int) (e Entry, found bool, err error) {
	if bits < 1 || bits > 8*len(Hash{}) || len(prefix)*8 < bits {
		return e, false, fmt.Errorf("hash prefix of %d bits in %d bytes", bits, len(prefix))
	}
	for _, candidate := range s.Entries {
		if !SamePrefix(candidate.Hash[:], prefix, bits) {
			continue
		}
		if found {
			return Entry{}, false, fmt.Errorf("%w: log entries %d and %d both begin with these %d bits", ErrAmbiguous, e.Seq, candidate.Seq, bits)
		}
		e, found = candidate, true
	}
	return e, found, nil
}

// Err is nil for a whole catalog, else ErrDamaged with the first finding.
func (s *State) Err() error { return findings(s.Damage).err() }

// readSnapshots reads all manifests and puts them in the order of the log.
func (s *State) readSnapshots(tx *bolt.Tx) findings {
	var found findings
	byHash := map[Hash]*Snapshot{}
	logged := map[Hash]bool{}
	var previous Hash
	for _, a := range s.added {
		where := fmt.Sprintf("snapshot %s (token %s)", a.ID, a.Serial)
		if logged[a.Hash] {
			found.add(where, "log entry %d records it a second time", a.seq)
			continue
		}
		logged[a.Hash] = true
		snap, damage := readSnapshot(tx, a.Hash)
		found = append(found, damage...)
		if snap == nil {
			s.Lost = append(s.Lost, LostSnapshot{a.ID, a.Serial, a.seq, damage[0].What})
			previous = a.Hash
			continue
		}
		if snap.Previous != previous && s.lost == 0 {
			found.add(where, "it names %s as the snapshot before it, the log says %s", snap.Previous.String()[:12], previous.String()[:12])
		}
		if snap.Token.Serial != a.Serial {
			found.add(where, "it is of token %q", snap.Token.Serial)
		}
		previous = a.Hash
		byHash[a.Hash] = snap
		s.Snapshots = append(s.Snapshots, snap)
	}
	strays, damage := s.strays(tx, logged)
	found = append(found, damage...)
	for _, snap := range strays {
		s.insert(snap)
	}
	s.Snapshots = byAge(s.Snapshots)
	return found
}

// strays are manifests that no whole log entry names. While no more of them are
// there than log entries are lost, those have named them; else nobody has.
func (s *State) strays(tx *bolt.Tx, logged map[Hash]bool) ([]*Snapshot, findings) {
	var list []*Snapshot
	var found findings
	b, err := bucket(tx, bucketManifests)
	if err != nil {
		found.add("snapshots", "their bucket is missing")
		return nil, found
	}
	unread := 0
	for k, v := range all(b) {
		switch {
		case len(k) != len(Hash{}):
			found.add("snapshots", "a name of %d bytes is no hash", len(k))
			continue
		case v == nil:
			found.add("snapshot "+snapshotID(Hash(k)), "a bucket stands in its place")
			continue
		case logged[Hash(k)]:
			continue
		}
		snap, damage := readSnapshot(tx, Hash(k))
		found = append(found, damage...)
		if snap == nil {
			unread++
			continue
		}
		list = append(list, snap)
	}
	for _, snap := range list {
		if snap.Unlogged = len(list)+unread > s.lost; snap.Unlogged {
			found.add("snapshot "+snap.ID, "the log does not know it")
		}
	}
	slices.SortStableFunc(list, func(a, b *Snapshot) int { return cmp.Compare(a.Taken.Unix(), b.Taken.Unix()) })
	return list, found
}

// insert puts a stray behind the snapshot that it names as the one before it,
// else before the one that names it; one without either comes first.
func (s *State) insert(snap *Snapshot) {
	at := 0
	for i, other := range s.Snapshots {
		switch {
		case other.Hash == snap.Previous:
			at = i + 1
		case other.Previous == snap.Hash:
			at = i
		default:
			continue
		}
		break
	}
	s.Snapshots = slices.Insert(s.Snapshots, at, snap)
}

// byAge puts re-keyed snapshots behind their sources.
func byAge(list []*Snapshot) []*Snapshot {
	known := map[Hash]bool{}
	made := map[Hash][]*Snapshot{}
	for _, s := range list {
		known[s.Hash] = true
	}
	for _, s := range list {
		if s.Rekeyed != nil && known[s.Rekeyed.From] {
			made[s.Rekeyed.From] = append(made[s.Rekeyed.From], s)
		}
	}
	out := make([]*Snapshot, 0, len(list))
	var add func(s *Snapshot)
	add = func(s *Snapshot) {
		out = append(out, s)
		for _, m := range made[s.Hash] {
			add(m)
		}
	}
	for _, s := range list {
		if s.Rekeyed == nil || !known[s.Rekeyed.From] {
			add(s)
		}
	}
	return out
}
