package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Evidence is what this run saw of one token: what each key answered, which
// stored blobs give those keys, what the PIN protects, and which recovery keys
// were put together. Ask makes it; nothing that a catalog says gets into it. nil
// is a run that has seen nothing, as a look without a login.
type Evidence struct {
	serial  string
	answers map[byte]answer
	// unable says why keys were not asked.
	unable map[byte]string
	// blobs were shown to give a key.
	blobs map[store.Hash]given
	// protected is the SHA-256 of each file that the PIN protects, sealed that of
	// what a stored file, by the hash of that, was sealed from or opened to.
	protected map[schsm.FID]store.Hash
	sealed    map[store.Hash]store.Hash
	recovery  map[store.KCV]recovery
	spent     []Spent
}

// answer is what a key was found to be; empty if it is not what stands beside
// it and gives no other answer to tell it by.
type answer struct {
	public []byte // SPKI that it answered as
	value  []byte // else its check value
}

// given is what a blob was seen to give.
type given struct {
	of     byte // the key at this reference, by round trip; 0 is none
	record bool // what its record says: that public key, or that check value
}

// recovery is how this run knows of a recovery key.
type recovery string

const (
	putTogether recovery = "put together from its shares" // here
	typedKCV    recovery = "typed"                        // after a check elsewhere
)

// Spent is the use of a key that has a use counter.
type Spent struct {
	Key           Key
	Before, After uint32
}

func newEvidence(inv *Inventory) *Evidence {
	return &Evidence{
		serial: inv.Serial, answers: map[byte]answer{}, unable: map[byte]string{}, blobs: map[store.Hash]given{},
		protected: map[schsm.FID]store.Hash{}, sealed: map[store.Hash]store.Hash{}, recovery: map[store.KCV]recovery{},
	}
}

// Ask has each key of a token that is logged in answer once, and reads what the
// PIN protects. A key with a use counter is asked if o.SpendUse says so. Where
// the key itself does not say what it is, the keys that the catalog has from its
// place are tried.
func Ask(ctx context.Context, card *schsm.Card, inv *Inventory, s *store.State, o Options) (*Evidence, error) {
	e := newEvidence(inv)
	newest := s.Now(inv.Serial)
	for i, k := range inv.Keys {
		o.progress("asking "+k.Name(), i, len(inv.Keys))
		if err := e.ask(ctx, card, k, newest, o.SpendUse); err != nil {
			return nil, err
		}
	}
	o.progress("asked", len(inv.Keys), len(inv.Keys))
	for _, f := range inv.Unread {
		content, err := card.ReadFile(ctx, f)
		if isTransport(err) {
			return nil, err
		}
		if err == nil {
			e.protected[f] = store.HashOf(content)
		}
		clear(content)
	}
	return e, nil
}

// ask has one key answer, and counts what that costs.
func (e *Evidence) ask(ctx context.Context, card *schsm.Card, k Key, newest *store.Snapshot, spend func(Key) bool) error {
	before := k.Info.Counter
	if before != nil && (spend == nil || !spend(k)) {
		e.unable[k.Reference] = fmt.Sprintf("asking it would spend one of the %d uses that it has left", *before)
		return nil
	}
	a, err := askKey(ctx, card, k, candidates(k, newest))
	if isTransport(err) {
		return err
	}
	if before != nil {
		now, err := card.Key(ctx, k.Reference)
		if err != nil {
			return err
		}
		if now.Counter != nil && *now.Counter != *before {
			e.spent = append(e.spent, Spent{k, *before, *now.Counter})
		}
	}
	if err != nil {
		e.unable[k.Reference] = err.Error()
		return nil
	}
	e.answers[k.Reference] = a
	return nil
}

// candidates are the public keys that a key may have, by what stands beside it
// and by what was backed up from its place. One with a use counter gets one try.
func candidates(k Key, newest *store.Snapshot) []*pubkey.Key {
	var list []*pubkey.Key
	if k.Public != nil {
		list = append(list, k.Public)
	}
	if stored := keyAt(newest, k.Reference); stored != nil && (k.Info.Counter == nil || len(list) == 0) {
		if public, err := pubkey.ParseSPKI(stored.PublicKey); err == nil && (k.Public == nil || !public.Equal(k.Public)) {
			list = append(list, public)
		}
	}
	return list
}

// keyAt finds the stored key of a reference, nil without one.
func keyAt(s *store.Snapshot, reference byte) *store.Key {
	if s == nil {
		return nil
	}
	for i := range s.Keys {
		if s.Keys[i].Reference == int(reference) {
			return &s.Keys[i]
		}
	}
	return nil
}

// askKey uses a key: against each public key that it may have, else with the
// fixed challenge. The error is for a key that cannot be asked.
func askKey(ctx context.Context, card *schsm.Card, k Key, publics []*pubkey.Key) (answer, error) {
	refuted := false
	for _, public := range publics {
		s := subject{kind: kindOfPublic(public), public: public, allows: k.Info.Allows}
		err := proveUse(ctx, card, k.Reference, s)
		switch {
		case err == nil:
			return answer{public: public.SPKI()}, nil
		case isTransport(err):
			return answer{}, err
		}
		refuted = refuted || errors.Is(err, errAnswer) || notThisWay(err)
		if k.Info.Counter != nil {
			return answer{}, refutation(refuted, err)
		}
	}
	s := k.subject()
	s.public = nil
	if refuted {
		s.kind, s.bits = 0, 0 // of any kind
	}
	value, err := checkValue(ctx, card, k.Reference, s)
	if err != nil {
		return answer{}, refutation(refuted, err)
	}
	return answer{value: value}, nil
}

// refutation is nil for a key that was asked and is not what it claims: then it
// is no stored key.
func refutation(refuted bool, err error) error {
	if refuted && !isTransport(err) {
		return nil
	}
	return err
}

func kindOfPublic(public *pubkey.Key) pkcs15.Kind {
	if public.RSA != nil {
		return pkcs15.RSA
	}
	return pkcs15.EC
}

// asked tells whether a key gave an answer, or was found not to be what stands
// beside it.
func (e *Evidence) asked(reference byte) bool {
	if e == nil {
		return false
	}
	_, ok := e.answers[reference]
	return ok
}

// is tells whether the key at a reference answered as a stored one.
func (e *Evidence) is(reference byte, stored *store.Key) bool {
	if e == nil {
		return false
	}
	a, ok := e.answers[reference]
	switch {
	case !ok:
		return false
	case len(stored.PublicKey) > 0:
		return bytes.Equal(a.public, stored.PublicKey)
	case len(stored.CheckValue) > 0:
		return bytes.Equal(a.value, stored.CheckValue)
	}
	return len(stored.Blob) > 0 && e.blobs[store.HashOf(stored.Blob)].of == reference
}

// isPublic tells whether a key answered as the public key that stands beside it.
func (e *Evidence) isPublic(k Key) bool {
	return e != nil && k.Public != nil && bytes.Equal(e.answers[k.Reference].public, k.Public.SPKI())
}

// show notes what a blob was seen to give.
func (e *Evidence) show(blob []byte, s given) {
	if e == nil {
		return
	}
	was := e.blobs[store.HashOf(blob)]
	if s.of == 0 {
		s.of = was.of
	}
	s.record = s.record || was.record
	e.blobs[store.HashOf(blob)] = s
}

// gives tells whether this run saw a stored blob give the key at a reference. A
// key that was not asked is taken by its record, which whoever destroys it says.
func (e *Evidence) gives(stored *store.Key, reference byte) bool {
	if e == nil || len(stored.Blob) == 0 {
		return false
	}
	s := e.blobs[store.HashOf(stored.Blob)]
	return s.of == reference || s.record && (e.is(reference, stored) || e.unable[reference] != "")
}

// combine notes the recovery keys that shares at hand give, of those that a
// token has, and opens what was sealed under them.
func (e *Evidence) combine(domains []store.Domain, shares []*dkek.Share, s *store.Snapshot) {
	sets, _ := AssignShares(domains, shares)
	for _, set := range sets {
		if len(set.Load) == 0 {
			continue
		}
		key, err := dkek.Combine(set.Load...)
		if err != nil {
			continue
		}
		e.recovery[key.KCV().String()] = putTogether
		e.open(s, key)
		key.Wipe()
	}
}

// open opens the blobs and sealed files of a snapshot.
func (e *Evidence) open(s *store.Snapshot, key *dkek.Key) {
	if s == nil {
		return
	}
	for i := range s.Keys {
		if p := openStored(&s.Keys[i], key); p.OK {
			e.show(s.Keys[i].Blob, given{record: true})
		}
	}
	for _, f := range s.Files {
		if !f.Sealed {
			continue
		}
		if content, err := key.OpenData(f.Content); err == nil {
			e.sealed[store.HashOf(f.Content)] = store.HashOf(content)
			clear(content)
		}
	}
}

// prove has the blobs that a restore would take come back beside the keys that
// they should give, those at some references or, of nil, all, and records what
// came of it.
func (e *Evidence) prove(ctx context.Context, card *schsm.Card, cat *store.Catalog, inv *Inventory, only []byte, o Options) error {
	state, err := cat.Read()
	if err != nil {
		return err
	}
	s := state.Now(inv.Serial)
	trip := &roundTrip{card: card, serial: inv.Serial, journal: cat.Journal(), seen: e}
	for i, k := range inv.Keys {
		if only != nil && !slices.Contains(only, k.Reference) {
			continue
		}
		h := newHistory(state)
		h.seen = e
		stored, _ := h.match(inv, k)
		if stored == nil || len(stored.Blob) == 0 || e.blobs[store.HashOf(stored.Blob)].of == k.Reference {
			continue
		}
		o.progress("proving "+k.Name(), i, len(inv.Keys))
		p, err := trip.proveStored(ctx, inv, s, stored)
		if err != nil {
			return err
		}
		if cat.Writable() {
			if err := cat.RecordProofs([]store.Proof{p}); err != nil {
				return err
			}
		}
	}
	o.progress("proven", len(inv.Keys), len(inv.Keys))
	return nil
}

// typeKCV notes that the shares of a recovery key were checked on another
// computer, as somebody typed in this run. It must be one of the token's, and not
// one that the token made up: nobody has shares of that.
func (e *Evidence) typeKCV(inv *Inventory, state *store.State, kcv string) error {
	if err := CheckTypedKCV(inv, state, kcv); err != nil {
		return err
	}
	if kcv = strings.ToUpper(kcv); e.recovery[kcv] == "" {
		e.recovery[kcv] = typedKCV
	}
	return nil
}

// CheckTypedKCV refuses a KCV that cannot be that of shares of a token's.
func CheckTypedKCV(inv *Inventory, state *store.State, kcv string) error {
	for _, d := range inv.token().Domains {
		if d.KCV == "" || !strings.EqualFold(d.KCV, kcv) {
			continue
		}
		if state.Shares[d.KCV].Random || d.Shares == 0 {
			return fail.Refusef("random-key", "`hsmbackup status` says what can be done",
				"the recovery key %s is random: the token made it up, and there are no shares that could have been checked", d.KCV)
		}
		return nil
	}
	return fail.Refusef("kcv-mismatch", "those shares are of another recovery key",
		"%q is the KCV of no recovery key of this token, which has %s", kcv, inv.recoveryKeys())
}

// readable is the hash of all that a key shows without a login, and that does
// not change by its use.
func readable(k Key) store.Hash {
	h := sha256.New()
	put := func(b []byte, there bool) {
		var n [9]byte
		if there {
			n[0] = 1
		}
		binary.BigEndian.PutUint64(n[1:], uint64(len(b)))
		_, _ = h.Write(n[:]) // a hash never fails
		_, _ = h.Write(b)
	}
	put(k.Description, k.Description != nil)
	put(k.Certificate, k.Certificate != nil)
	put(k.Info.Algorithms, true)
	put([]byte{byte(k.Info.Domain)}, k.Info.Counter != nil)
	put([]byte(k.KCV), true)
	return store.Hash(h.Sum(nil))
}

// record is what a run that was logged in leaves for looks without a login.
func (h *history) record(inv *Inventory) store.Asked {
	a := store.Asked{Serial: inv.Serial}
	for _, k := range inv.Keys {
		if !h.seen.asked(k.Reference) {
			continue
		}
		found := store.AskedKey{Reference: int(k.Reference), Readable: readable(k)}
		stored, reason := h.match(inv, k)
		switch {
		case stored != nil:
			found.Blob, found.OK = store.HashOf(stored.Blob), true
		case reason == "":
			continue // in no snapshot: there is nothing to compare it with
		default:
			found.Reason = reason
		}
		a.Keys = append(a.Keys, found)
	}
	return a
}
