package backup

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// An anchor pins the catalog's log up to an entry by a MAC under a key from the
// DKEK. It says "the recovery key saw this", so it moves only where all that the
// key can tell was looked at: in moveAnchor, and nowhere else.

// Since is what came into a catalog after its anchor and no key vouches for: what
// somebody only said, and the places where time runs backwards. Whoever can write
// the file can write such entries.
type Since struct {
	Anchor  uint64 // the entry up to which it is vouched for
	Entries []store.Entry
	Jumps   []store.Jump
}

// saidKinds are the kinds of entries that nothing else in the catalog bears out.
var saidKinds = []string{store.KindAccepted, store.KindSuccessor, store.KindPartSet, store.KindOldToken, store.KindUpdate, store.KindClock}

func sayingsSince(s *store.State, seq uint64, vouched []string) Since {
	list := Since{Anchor: seq}
	for _, e := range s.Entries {
		set, isSet := e.Says().(store.PartSet)
		if e.Seq > seq && slices.Contains(saidKinds, e.Kind) && !(isSet && slices.Contains(vouched, set.Set)) {
			list.Entries = append(list.Entries, e)
		}
	}
	for _, j := range s.Jumps() {
		if j.Seq >= seq {
			list.Jumps = append(list.Jumps, j)
		}
	}
	return list
}

// anchorState is how a catalog compares with the anchor under a DKEK.
type anchorState struct {
	kcv    store.KCV
	seq    uint64 // 0: none holds
	since  uint64 // entries after it
	damage string // why it does not hold; empty if it does, or if there is none
}

func lookAtAnchor(s *store.State, key *dkek.Key) (anchorState, error) {
	secret, kcv := key.AnchorKey(), key.KCV().String()
	defer clear(secret)
	a, err := s.CheckAnchor(kcv, secret)
	switch {
	case errors.Is(err, store.ErrNoAnchor):
		return anchorState{kcv: kcv}, nil
	case errors.Is(err, store.ErrDamaged):
		return anchorState{kcv: kcv, damage: err.Error()}, nil
	case err != nil:
		return anchorState{}, err
	}
	return anchorState{kcv: kcv, seq: a.Seq, since: s.Head.Seq - a.Seq}, nil
}

// tell says of a job that has the shares for something else how the catalog
// compares; that job sets no anchor.
func (a anchorState) tell(cat *store.Catalog) {
	switch {
	case a.damage != "":
		cat.Tell(true, "the catalog is not what the recovery key %s anchored: %s", a.kcv, a.damage)
	case a.seq == 0:
		cat.Tell(false, "the catalog has no anchor under the recovery key %s: `hsmbackup verify --offline` says how it gets one", a.kcv)
	default:
		cat.Tell(false, "the catalog holds what the recovery key %s anchored, up to entry %d%s", a.kcv, a.seq, sinceThen(a.since))
	}
}

func sinceThen(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; what came since (%s) is chained to it, not covered", entries(n))
}

func entries(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// anchoring is what a run knows when it is about to move an anchor.
type anchoring struct {
	was anchorState
	// words is the entry that the words from the sheet name; 0 without any.
	words uint64
	// opened are the blobs that this run opened and found good.
	opened map[store.Hash]bool
	// vouched are sets of parts that the DKEK vouches for.
	vouched []string
	// confirm is asked about what no key vouches for; nil is no.
	confirm func(Since) (bool, error)
}

// moveAnchor anchors the head of a catalog under a DKEK: only forward; only if the
// anchor before it holds, or this run made the catalog, or the head words of the
// sheet are in the chain; only if every key blob under this DKEK was opened in this
// run; and only after somebody agreed to what no key vouches for. why says what
// kept it from moving.
func moveAnchor(cat *store.Catalog, key *dkek.Key, o anchoring) (seq uint64, why string, err error) {
	state, err := cat.Read()
	if err != nil {
		return 0, "", err
	}
	switch {
	case o.was.damage != "":
		return 0, o.was.damage, nil
	case state.Err() != nil:
		return 0, "the catalog is damaged", nil
	case o.was.seq == 0 && o.words == 0 && !cat.Made():
		return 0, "there was none, and nothing else that says so was given", nil
	}
	if left := unopened(state, o.was.kcv, o.opened); left != "" {
		return 0, left + " was not opened in this run", nil
	}
	if !cat.Made() {
		if since := sayingsSince(state, max(o.was.seq, o.words), o.vouched); len(since.Entries)+len(since.Jumps) > 0 {
			yes := false
			if o.confirm != nil {
				if yes, err = o.confirm(since); err != nil {
					return 0, "", err
				}
			}
			if !yes {
				return 0, fmt.Sprintf("nobody agreed to what came after entry %d and no key vouches for", since.Anchor), nil
			}
		}
	}
	secret := key.AnchorKey()
	defer clear(secret)
	return state.Head.Seq, "", cat.SetAnchor(o.was.kcv, secret)
}

// unopened names a key of which a blob under a DKEK was not opened; empty if all
// were.
func unopened(s *store.State, kcv store.KCV, opened map[store.Hash]bool) string {
	for _, snap := range s.Snapshots {
		for i := range snap.Keys {
			k := &snap.Keys[i]
			if k.KCV == kcv && (k.Damage != "" || len(k.Blob) > 0 && !opened[store.HashOf(k.Blob)]) {
				return fmt.Sprintf("snapshot %s, %s", snap.ID, keyName(k.Label, k.Reference))
			}
		}
	}
	return ""
}

// AcceptClock records that somebody knows why time runs backwards after an entry
// of the log.
func AcceptClock(cat *store.Catalog, seq uint64, reason string) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(state.Jumps(), func(j store.Jump) bool { return j.Seq == seq }) {
		return fail.Failf("no-such-jump", "`hsmbackup check` names the entries where it does", "time does not run backwards after entry %d, or that was accepted already", seq)
	}
	return cat.Append(store.ClockAccepted{Seq: seq, Reason: reason})
}

// Doubt is what keeps a check from ending well although nothing is damaged.
type Doubt struct {
	What string
	Do   string // what to type, or to do
}

// doubtsOf are those about the times in the log.
func doubtsOf(s *store.State) []Doubt {
	var list []Doubt
	for _, j := range s.Jumps() {
		what := fmt.Sprintf("log entry %d is dated %s, and now it is %s", j.Seq, stamp(j.Time), stamp(j.Then))
		if j.Seq != s.Head.Seq {
			what = fmt.Sprintf("log entry %d is dated %s, what follows it %s", j.Seq, stamp(j.Time), stamp(j.Then))
		}
		list = append(list, Doubt{what + ": a clock was wrong, and how old a proof is cannot be told",
			fmt.Sprintf("if you know why: `hsmbackup accept --clock %d --reason TEXT`; new proofs get ages again", j.Seq)})
	}
	return list
}
