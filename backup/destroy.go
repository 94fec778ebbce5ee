package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Whatever destroys something on a token does so here: a test finds the calls of
// the token's deletion and of INITIALIZE, and there is one of each. What has no
// other copy goes by a Warrant, which only evidence of this run gives. What this
// run made, what was shown to be a second copy, and what is no more than the
// beginning of what is written in its place have narrow ways of their own.

// Warrant is leave to destroy what a token holds. Its zero value is none.
type Warrant struct{ *leave }

type leave struct {
	seen *Evidence
	cat  *store.Catalog
	inv  *Inventory
	// only are references of the keys that it is for; nil is all of the token.
	only []byte
	// gone are keys and files that a person gave up, one by one.
	goneKeys  map[byte]bool
	goneFiles map[schsm.FID]bool
	looked    bool // at the token, in the transaction of the first command
}

// unasked is leave to wipe a token that nothing can make answer: each key and file
// was typed by a person.
func (e *Evidence) unasked(inv *Inventory, cat *store.Catalog, keys map[byte]bool, files map[schsm.FID]bool) Warrant {
	return Warrant{&leave{seen: e, cat: cat, inv: inv, goneKeys: keys, goneFiles: files}}
}

// Consent is how a person gives something up that would not come back, or that
// could not be asked whether it is what would.
type Consent struct {
	// Discard is asked of each key that would not come back; nil is no.
	Discard func(KeyCoverage) (bool, error)
	// TypeBack has a word typed on a terminal; nil: nobody is there to type.
	TypeBack func(ctx context.Context, what, word string) error
}

// warrant judges what a token holds, or the keys at some references. lost names
// what would not come back: with any, there is no warrant. needs are the recovery
// keys that this run has seen nothing of. gone are the keys given up.
func (e *Evidence) warrant(ctx context.Context, inv *Inventory, cat *store.Catalog, only []byte, c Consent) (w Warrant, lost []string, gone []KeyCoverage, err error) {
	state, err := cat.Reread()
	if err != nil {
		return w, nil, nil, err
	}
	h := newHistory(state)
	h.seen = e
	l := &leave{seen: e, cat: cat, inv: inv, only: only, goneKeys: map[byte]bool{}, goneFiles: map[schsm.FID]bool{}}
	var needs []store.KCV
	for _, k := range inv.Keys {
		if only != nil && !slices.Contains(only, k.Reference) || e.isProofKey(k) {
			continue
		}
		kc := h.cover(inv, k)
		why := e.wouldLose(kc)
		if kc.stored != nil && !e.hasKey(kc) && !slices.Contains(needs, kc.stored.KCV) {
			needs = append(needs, kc.stored.KCV)
		}
		if why != "" && c.Discard != nil {
			yes, err := c.Discard(kc)
			if err != nil {
				return w, nil, nil, err
			}
			if yes {
				gone, l.goneKeys[k.Reference] = append(gone, kc), true
				continue
			}
		}
		if kc.Coverage != Covered && kc.stored != nil && e.gives(kc.stored, k.Reference) && c.TypeBack != nil {
			word := orReference(k)
			if err := c.TypeBack(ctx, fmt.Sprintf("%s was not asked whether it is the key that was backed up (%s).", k.Name(), kc.Reason), word); err != nil {
				return w, nil, nil, err
			}
			l.goneKeys[k.Reference], why = true, ""
		}
		if why != "" {
			lost = append(lost, why)
		}
	}
	if only == nil {
		lost = append(lost, e.lostFiles(inv, h.Now(inv.Serial))...)
	}
	if len(lost) > 0 {
		return w, lost, gone, nil
	}
	if len(needs) > 0 {
		return w, nil, nil, sharesNotSeen(needs...)
	}
	return Warrant{l}, nil, gone, nil
}

// orReference is what has to be typed for a key: its label, where it has one.
func orReference(k Key) string {
	if k.Label == "" {
		return fmt.Sprintf("key %d", k.Reference)
	}
	return k.Label
}

// wouldLose says why a key would be lost, empty if this run saw that it comes
// back.
func (e *Evidence) wouldLose(k KeyCoverage) string {
	switch {
	case k.Coverage == Covered && e.gives(k.stored, k.Key.Reference):
		return ""
	case k.Coverage == Covered:
		return fmt.Sprintf("%s: its key blob was not proven in this run", k.Key.Name())
	case k.Coverage == Accepted && k.stored == nil:
		return fmt.Sprintf("%s: accepted as not exportable, it would be lost for good; delete it yourself (pkcs11-tool --delete-object) if it may go", k.Key.Name())
	case k.stored != nil: // unasked
		return fmt.Sprintf("%s: %s: %s", k.Key.Name(), Unasked, orNone(e.unable[k.Key.Reference]))
	}
	return fmt.Sprintf("%s: %s", k.Key.Name(), k.Coverage)
}

// hasKey tells whether this run has the recovery key under which a key comes back:
// the token's, or the one that took its place and was seen to give this key.
func (e *Evidence) hasKey(k KeyCoverage) bool {
	return e.recovery[k.stored.KCV] != "" || k.rekeyed != nil && e.recovery[k.rekeyed.KCV] != "" && e.gives(k.rekeyed, k.Key.Reference)
}

// isProofKey tells a key that byRequest made and an interruption left: it
// answered as what its request says, and of that nobody has any use.
func (e *Evidence) isProofKey(k Key) bool { return isProofKey(k) && e.isPublic(k) }

// lostFiles names the files that a snapshot does not hold as they are.
func (e *Evidence) lostFiles(inv *Inventory, s *store.Snapshot) []string {
	var lost []string
	for _, f := range inv.Files {
		if why := keptFile(s, f); why != "" && !isProofFile(f) {
			lost = append(lost, why)
		}
	}
	for _, f := range inv.Unread {
		if why := e.keptSealed(s, f); why != "" {
			lost = append(lost, why)
		}
	}
	return lost
}

func keptFile(s *store.Snapshot, f File) string {
	content, sealed, found := holds(s, f.FID)
	switch {
	case !found:
		return fmt.Sprintf("file %s: in no snapshot", f.FID)
	case sealed || !bytes.Equal(content, f.Content):
		return fmt.Sprintf("file %s: the newest snapshot has another content", f.FID)
	}
	return ""
}

// keptSealed compares what the PIN protects with what this run sealed or opened.
func (e *Evidence) keptSealed(s *store.Snapshot, f schsm.FID) string {
	content, sealed, found := holds(s, f)
	switch here, read := e.protected[f]; {
	case !found || !sealed:
		return fmt.Sprintf("data object %s: protected by the PIN, in no snapshot", f)
	case !read:
		return fmt.Sprintf("data object %s: protected by the PIN, and it could not be read", f)
	case e.sealed[store.HashOf(content)] == store.Hash{}:
		return fmt.Sprintf("data object %s: sealed in the snapshot, and not opened in this run to be compared: give the shares with --share", f)
	case e.sealed[store.HashOf(content)] != here:
		return fmt.Sprintf("data object %s: the newest snapshot has another content", f)
	}
	return ""
}

var errNoWarrant = errors.New("nothing is destroyed without proofs of this run")

// within runs f in a transaction in which the token was seen to be what the
// warrant was given for; at its first command all of it is looked at again, and
// the catalog read anew.
func (w Warrant) within(ctx context.Context, card *schsm.Card, f func(h *history) error) error {
	if w.leave == nil || w.seen == nil {
		return errNoWarrant
	}
	return card.Transaction(ctx, func() error {
		if err := card.Confirm(ctx); err != nil {
			return err
		}
		read := w.cat.Read
		if !w.looked {
			if err := w.look(ctx, card); err != nil {
				return err
			}
			read = w.cat.Reread
		}
		state, err := read()
		if err != nil {
			return err
		}
		h := newHistory(state)
		h.seen = w.seen
		if err := f(h); err != nil || w.looked {
			return err
		}
		w.looked = true
		return w.noteTyped()
	})
}

// noteTyped records what was destroyed on somebody's word.
func (w Warrant) noteTyped() error {
	if !w.cat.Writable() {
		return nil
	}
	for kcv, how := range w.seen.recovery {
		if how != typedKCV {
			continue
		}
		if err := w.cat.Append(store.SharesChecked{KCV: kcv, Serial: w.seen.serial}); err != nil {
			return err
		}
	}
	return nil
}

func (w Warrant) look(ctx context.Context, card *schsm.Card) error {
	now, err := Take(ctx, card)
	if err != nil {
		return err
	}
	if !w.inv.same(now) || now.Serial != w.inv.Serial {
		return fail.Refusef("token-changed", "let the other program finish and run again", "the token changed since it was proven; nothing was deleted")
	}
	return nil
}

// remove deletes a file that the warrant is for. Right before, in the same
// transaction, a key is asked once more, and a file compared.
func (w Warrant) remove(ctx context.Context, card *schsm.Card, f schsm.FID) error {
	return w.within(ctx, card, func(h *history) error {
		if err := w.mayGo(ctx, card, h, f); err != nil {
			return err
		}
		return erase(ctx, card, f)
	})
}

func (w Warrant) mayGo(ctx context.Context, card *schsm.Card, h *history, f schsm.FID) error {
	changed := func(what string) error {
		return fail.Refusef("token-changed", "`hsmbackup status` says what is on the token", "%s is not what this run has proven to come back; it was left alone", what)
	}
	if w.only != nil && !slices.Contains(w.only, f.Index()) {
		return errNoWarrant
	}
	prefix := f.Prefix()
	ofKey := prefix == schsm.PrefixKey || prefix == schsm.PrefixDescription || prefix == schsm.PrefixKeyCertificate
	if ofKey && w.goneKeys[f.Index()] || w.goneFiles[f] {
		return nil
	}
	s := h.Now(w.inv.Serial)
	switch {
	case prefix == schsm.PrefixKey:
		return w.keyMayGo(ctx, card, h, f.Index(), changed)
	case prefix == schsm.PrefixProtectedData:
		content, err := readIfThere(ctx, card, f)
		defer clear(content)
		if err != nil || content == nil {
			return err
		}
		if store.HashOf(content) != w.seen.protected[f] || w.seen.keptSealed(s, f) != "" {
			return changed("data object " + f.String())
		}
		return nil
	}
	content, err := readIfThere(ctx, card, f)
	if err != nil || content == nil {
		return err
	}
	here := File{f, content}
	if k := w.inv.at(f.Index()).key; k != nil && ofKey && w.seen.isProofKey(*k) || isProofFile(here) {
		return nil
	}
	if keptFile(s, here) != "" {
		return changed("file " + f.String())
	}
	return nil
}

// keyMayGo has a key answer once more, if it may be used.
func (w Warrant) keyMayGo(ctx context.Context, card *schsm.Card, h *history, reference byte, changed func(string) error) error {
	i := slices.IndexFunc(w.inv.Keys, func(k Key) bool { return k.Reference == reference })
	if i < 0 {
		return changed(fmt.Sprintf("key %d", reference))
	}
	k := w.inv.Keys[i]
	if w.seen.isProofKey(k) {
		return nil
	}
	kc := h.cover(w.inv, k)
	if kc.stored == nil || w.seen.wouldLose(kc) != "" || !w.seen.hasKey(kc) {
		return changed(k.Name())
	}
	for f, want := range map[schsm.FID][]byte{schsm.DescriptionFile(reference): k.Description, schsm.CertificateFile(reference): k.Certificate} {
		if now, err := readIfThere(ctx, card, f); err != nil {
			return err
		} else if now != nil && !bytes.Equal(now, want) {
			return changed("file " + f.String())
		}
	}
	if _, err := card.Key(ctx, reference); errors.Is(err, apdu.ErrNotFound) || k.Info.Counter != nil {
		return nil
	}
	if err := proveRecord(ctx, card, reference, kc.stored); err != nil {
		if isTransport(err) {
			return err
		}
		return changed(k.Name())
	}
	return nil
}

// wipe sends INITIALIZE. A token that holds anything wants a warrant for all of
// it; keys that answer to nothing but a fixed block, and what the PIN protects,
// are compared once more in the same transaction.
func wipe(ctx context.Context, card *schsm.Card, w Warrant, i schsm.Initialisation) error {
	return card.Transaction(ctx, func() error {
		if err := card.Confirm(ctx); err != nil {
			return err
		}
		inv, err := Take(ctx, card)
		if err != nil {
			return err
		}
		if inv.needsWarrant() {
			if err := w.allOf(ctx, card); err != nil {
				return err
			}
		}
		return card.Initialise(ctx, i)
	})
}

// needsWarrant tells whether a wipe would lose something: all but keys of
// byRequest, whose requests nobody writes who has not got the PIN.
func (inv *Inventory) needsWarrant() bool {
	return len(inv.Unread) > 0 || slices.ContainsFunc(inv.Keys, func(k Key) bool { return !isProofKey(k) }) ||
		slices.ContainsFunc(inv.Files, func(f File) bool { return !isProofFile(f) })
}

// allOf judges everything on the token once more.
func (w Warrant) allOf(ctx context.Context, card *schsm.Card) error {
	return w.within(ctx, card, func(h *history) error {
		if w.only != nil {
			return errNoWarrant
		}
		for _, f := range w.inv.files() {
			k := w.inv.at(f.Index()).key
			if f.Prefix() == schsm.PrefixKey && k.Public != nil && !w.goneKeys[k.Reference] && w.seen.wouldLose(h.cover(w.inv, *k)) == "" {
				continue // answered as its public half, which was looked at again
			}
			if err := w.mayGo(ctx, card, h, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// Made is a key that this run has made where there was none: it may be deleted
// again.
type Made struct {
	reference byte
	files     []schsm.FID
}

// Making has a key made at a reference that has none, and says what came to be
// there. After an error of the connection that is not known.
func Making(ctx context.Context, card *schsm.Card, reference byte, do func() error) (m Made, err error) {
	err = card.Transaction(ctx, func() error {
		if err := card.Confirm(ctx); err != nil {
			return err
		}
		fids, err := card.Enumerate(ctx)
		if err != nil {
			return err
		}
		if slices.Contains(fids, schsm.KeyFile(reference)) {
			return fail.Failf("reference-taken", "run again", "a key came to reference %d meanwhile; it was left alone", reference)
		}
		for _, f := range []schsm.FID{schsm.KeyFile(reference), schsm.DescriptionFile(reference), schsm.CertificateFile(reference)} {
			if !slices.Contains(fids, f) {
				m.files = append(m.files, f)
			}
		}
		m.reference = reference
		if err = do(); err == nil || isTransport(err) {
			return err
		}
		if _, there := card.Key(ctx, reference); errors.Is(there, apdu.ErrNotFound) {
			m = Made{} // refused: what comes there later is not of this run
		}
		return err
	})
	return m, err
}

// unwrapNew is Making for a key blob.
func unwrapNew(ctx context.Context, card *schsm.Card, reference byte, blob []byte) (Made, error) {
	return Making(ctx, card, reference, func() error { return card.Unwrap(ctx, reference, blob) })
}

// made tells whether a file came with the key.
func (m Made) made(f schsm.FID) bool { return slices.Contains(m.files, f) }

// came is made, for removeRest.
func (m Made) came(f schsm.FID) func([]byte) bool {
	return func([]byte) bool { return m.made(f) }
}

// Remove deletes what was made.
func (m Made) Remove(ctx context.Context, card *schsm.Card) error {
	if m.reference == 0 {
		return nil
	}
	if err := card.Confirm(ctx); err != nil {
		return err
	}
	if err := erase(ctx, card, schsm.KeyFile(m.reference)); err != nil {
		return err
	}
	fids, err := card.Enumerate(ctx)
	if err != nil {
		return err
	}
	for _, f := range m.files {
		if !slices.Contains(fids, f) {
			continue
		}
		if err := erase(ctx, card, f); err != nil {
			return err
		}
	}
	return nil
}

// removeTwin deletes a key without description and certificate that is the same
// as another one on the token, which stays.
func removeTwin(ctx context.Context, card *schsm.Card, original, twin Key) error {
	if twin.Description != nil || twin.Certificate != nil || twin.Info.Counter != nil || original.Reference == twin.Reference {
		return errNoWarrant
	}
	return card.Transaction(ctx, func() error {
		if err := card.Confirm(ctx); err != nil {
			return err
		}
		if err := proveTwins(ctx, card, original, twin); err != nil {
			return err
		}
		return erase(ctx, card, schsm.KeyFile(twin.Reference))
	})
}

// removeRest deletes a file that holds no more than the beginning of what is to
// be there, or what else is known to be worth nothing.
func removeRest(ctx context.Context, card *schsm.Card, f schsm.FID, want []byte, worthless func(content []byte) bool) error {
	return card.Transaction(ctx, func() error {
		if err := card.Confirm(ctx); err != nil {
			return err
		}
		now, err := readIfThere(ctx, card, f)
		if err != nil || now == nil {
			return err
		}
		if !begun(now, want) && (worthless == nil || !worthless(now)) {
			return errOtherContent
		}
		return erase(ctx, card, f)
	})
}

// removeProofKey deletes a key that byRequest made: it answers as its request,
// whose name no other program gives. The request goes last: as long as it is
// there, a later run knows what is left.
func removeProofKey(ctx context.Context, card *schsm.Card, k Key) error {
	return card.Transaction(ctx, func() error {
		if err := card.Confirm(ctx); err != nil {
			return err
		}
		certificate, err := readIfThere(ctx, card, schsm.CertificateFile(k.Reference))
		if err != nil {
			return err
		}
		if !schsm.IsProofRequest(certificate) || k.Description != nil {
			return errNoWarrant
		}
		_, err = card.Key(ctx, k.Reference)
		if err != nil && !errors.Is(err, apdu.ErrNotFound) {
			return err
		}
		if err == nil {
			s := k.subject()
			if s.public, _ = publicKey(certificate); s.public == nil {
				return errNoWarrant
			}
			if err := proveUse(ctx, card, k.Reference, s); err != nil {
				return err
			}
			if err := erase(ctx, card, schsm.KeyFile(k.Reference)); err != nil {
				return err
			}
		}
		return erase(ctx, card, schsm.CertificateFile(k.Reference))
	})
}

// erase deletes a file, which may be gone.
func erase(ctx context.Context, card *schsm.Card, f schsm.FID) error {
	return card.DeleteFileIfThere(ctx, f)
}
