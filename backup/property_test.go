package backup

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/tokentest"
	"hsmbackup/store"
)

// Tokens of every kind, filled at random, are backed up, wiped and restored, to
// themselves after a firmware update or to another one. Afterwards every file
// is byte for byte what it was, and every key answers as it did; whatever is
// not, the backup or the plan has named before.
func TestProperty(t *testing.T) {
	if seed := tokentest.Seed(); seed != 0 {
		runProperty(t, seed)
		return
	}
	span := tokentest.Span()
	if testing.Short() {
		span /= 5
	}
	var sum tokentest.Tally
	for start := time.Now(); time.Since(start) < span && !t.Failed(); {
		sum.Add(runProperty(t, rand.Uint64()|1))
	}
	t.Logf("%s", sum)
}

// property is one run of TestProperty.
type property struct {
	*tokentest.Model
	t     testing.TB
	ctx   context.Context
	cat   *store.Catalog
	token *softtoken.Token
	// shares are those of all its key domains.
	shares []*dkek.Share
}

// runProperty does it for one token.
func runProperty(t testing.TB, seed uint64) tokentest.Tally {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("seed %d", seed)
			panic(p)
		}
	}()
	m := &property{Model: tokentest.New(t, seed), t: t, ctx: context.Background(), cat: newCatalog(t)}
	m.token = m.Token()
	m.Card = openCard(t, m.token)
	m.initialise()
	m.Fill()
	r := m.backup()
	if v, err := Check(m.cat, nil, 0); err != nil || !v.OK() && !v.Empty() {
		m.Errorf("check: %+v, %v", v, err)
	}
	m.offline(r.Snapshot)
	r.Keys = coverageOf(t, m.Card, m.cat)
	if err := guardWipe(t, m.Card, m.cat, m.shares...); (err != nil) == r.Complete() && len(m.Keys)+len(m.Files) > 0 && !(err != nil && len(r.Snapshot.Missing) > 0) {
		m.Errorf("complete: %v, and a wipe is refused: %v", r.Complete(), err)
	}
	plan, report := m.restore(r.Snapshot)
	return m.Compare(outcome(r, plan, report))
}

// initialise sets the token up as the model chooses.
func (m *property) initialise() {
	m.t.Helper()
	chosen := m.SetUp(m.Card.Version())
	s := SetUp{Initialisation: chosen.Initialisation, Trust: Trust{SoftFile: true}, Origin: "init"}
	for _, set := range chosen.Sets {
		s.Sets = append(s.Sets, DomainSet{Number: set.Number, Shares: len(set.Load), Load: set.Load})
		m.shares = append(m.shares, set.Load...)
	}
	cat := m.cat
	if m.Chance(20) {
		cat = nil // nobody is told that the shares were seen
	}
	_, _, err := Initialise(m.ctx, m.Card, cat, s)
	m.Must("initialise", err)
}

// backup runs a backup, which must leave the token as it is.
func (m *property) backup() *Report {
	m.t.Helper()
	before := m.Uses()
	spent := map[byte]uint32{}
	var spend func(Key) bool
	if m.Chance(50) {
		spend = func(k Key) bool { spent[k.Reference]++; return true }
	}
	r, err := Run(m.ctx, m.Card, m.cat, Options{SpendUse: spend, NoProof: m.Chance(10)})
	m.Must("backup", err)
	if m.Chance(30) { // again: nothing may have changed
		cleaned := r.Cleaned
		r, err = Run(m.ctx, m.Card, m.cat, Options{SpendUse: spend})
		m.Must("second backup", err)
		r.Cleaned = append(cleaned, r.Cleaned...)
	}
	if got := m.Read(); !tokentest.SameFiles(got, m.Files) {
		m.Errorf("the backup changed files")
	}
	for n, left := range m.Uses() {
		if used := before[n] - left; used > spent[n] {
			m.Errorf("key %d lost %d uses, %d were granted", n, used, spent[n])
		}
	}
	return r
}

// offline opens all blobs. Damage it may find only where nothing but the
// opened key could show that a certificate is another's.
func (m *property) offline(s *store.Snapshot) {
	m.t.Helper()
	for n, key := range m.DKEKs {
		v, err := VerifyOffline(m.ctx, m.cat, []*store.Snapshot{s}, key, Options{})
		m.Must("offline", err)
		for _, f := range v.Findings {
			if !m.foreignBefore(s, f) {
				m.Errorf("offline, domain %d: %s", n, f)
			}
		}
		for _, k := range v.Snapshots[0].Keys {
			if k.Damage && !m.Keys[byte(k.Reference)].Foreign {
				m.Errorf("offline, domain %d, key %d: %s", n, k.Reference, k.Reason)
			}
		}
	}
}

// foreignBefore tells a finding in a snapshot before s that is no more than what
// Damage may be in s: it was taken without proofs, and knew no public key yet.
func (m *property) foreignBefore(s *store.Snapshot, f store.Finding) bool {
	for reference, k := range m.Keys {
		if k.Foreign && strings.HasPrefix(f.Where, "snapshot ") && !strings.HasPrefix(f.Where, "snapshot "+s.ID) &&
			(strings.HasSuffix(f.Where, fmt.Sprintf("(key %d)", reference)) || strings.HasSuffix(f.Where, fmt.Sprintf(" key %d", reference))) {
			return true
		}
	}
	return false
}

// restore wipes the token as a firmware update does, or takes another one, sets
// it up as it was and restores. Without a report there was no restore, as the
// plan has problems.
func (m *property) restore(s *store.Snapshot) (*Plan, *RestoreReport) {
	m.t.Helper()
	m.token = m.Replace(m.token)
	m.Card = openCard(m.t, m.token)
	set := SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), PINTries: s.Token.PINTries, Domains: Slots(s)}, Trust: Trust{SoftFile: true}, Origin: "restore"}
	all := m.AllShares()
	switch {
	case len(all) == 0:
		set.Initialisation.Domains, set.Initialisation.NoDKEK = 0, true
	case set.Initialisation.Domains > 0:
		var err error
		set.Sets, err = SetsFor(s, all)
		m.Must("sets", err)
	default:
		set.Sets = []DomainSet{{Shares: len(all), Load: all}}
	}
	_, _, err := Initialise(m.ctx, m.Card, m.cat, set)
	m.Must("initialise for the restore", err)
	o := RestoreOptions{Journal: m.cat.Journal(), OpenData: m.openData}
	p, err := MakePlan(m.ctx, m.Card, s, o)
	m.Must("plan", err)
	if len(p.Problems) > 0 {
		if len(m.DKEKs) > 0 && slices.ContainsFunc(p.Items, func(i Item) bool { return m.DKEKs[i.Key.Domain] != nil && i.Action.Done() }) {
			m.Errorf("problems: %+v", p.Problems)
		}
		return p, nil
	}
	report, err := Restore(m.ctx, m.Card, m.cat, p, o)
	m.Must("restore", err)
	again, err := MakePlan(m.ctx, m.Card, s, o)
	m.Must("plan", err)
	for _, i := range again.Items {
		if i.Action == New {
			if k := slices.IndexFunc(report.Keys, func(k KeyProof) bool { return k.Reference == int(i.Reference) }); k < 0 || report.Keys[k].OK {
				m.Errorf("key %d is new to a second restore", i.Reference)
			}
		}
	}
	return p, report
}

func (m *property) openData(sealed []byte) ([]byte, error) {
	err := fmt.Errorf("no share")
	for _, k := range m.DKEKs {
		var out []byte
		if out, err = k.OpenData(sealed); err == nil {
			return out, nil
		}
	}
	return nil, err
}

// outcome is what backup, plan and restore said.
func outcome(r *Report, plan *Plan, report *RestoreReport) tokentest.Outcome {
	o := tokentest.Outcome{Restored: report != nil, NamedKeys: map[byte]bool{}, NamedFiles: map[string]bool{}, Cleaned: map[byte]bool{}, Proven: map[byte]bool{}, Why: map[byte]string{}}
	for _, gap := range r.Snapshot.Missing {
		o.NamedFiles[strings.ToUpper(strings.TrimPrefix(gap.What, "data object "))] = true
	}
	for _, c := range r.Cleaned {
		var n byte
		if _, err := fmt.Sscanf(c, "key %d,", &n); err == nil {
			o.Cleaned[n] = true
		}
	}
	for _, k := range r.Keys {
		n := k.Key.Reference
		o.NamedKeys[n] = k.Coverage != Covered || len(plan.Problems) > 0
		o.Why[n] = "no restore"
	}
	for i, item := range plan.Items {
		n := byte(item.Key.Reference)
		o.NamedKeys[n] = o.NamedKeys[n] || !item.Action.Done() || len(plan.Problems) > 0
		if report != nil {
			proof := report.Keys[i]
			o.Why[n] = fmt.Sprintf("%s %s; %+v", item.Action, item.Reason, proof)
			o.Proven[n] = o.Proven[n] || proof.OK
		}
	}
	for _, f := range plan.Files {
		o.NamedFiles[f.FID.String()] = o.NamedFiles[f.FID.String()] || !f.Action.Done()
	}
	if report != nil {
		o.Complete = report.Complete()
	}
	return o
}
