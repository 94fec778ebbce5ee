package backup

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// FindUpdate gives the firmware update that an attached token belongs to, nil
// if there is none: the one of its own serial, the one that it was found to be
// the successor of, or the one whose token is away at the vendor's while a token
// is attached that can be it. stranger says why a token is not the one that is
// awaited: the catalog knew it by its serial before, or it holds something of its
// own. of, if given, is the old serial.
func FindUpdate(cat *store.Catalog, inv *Inventory, of string) (u *Update, stranger string, err error) {
	list, err := Updates(cat)
	if err != nil {
		return nil, "", err
	}
	var away []*Update
	for _, u := range list {
		if u.Serial == inv.Serial || u.Successor != "" && u.Successor == inv.Serial {
			return u, "", nil
		}
		if u.Phase == UpdateEmptied && (of == "" || u.Serial == of) {
			away = append(away, u)
		}
	}
	if of != "" && len(away) == 0 {
		return nil, "", fail.Failf("no-such-update", "`hsmbackup status` says what is under way", "no token of serial %s waits for its successor", of)
	}
	var fits []*Update
	for _, u := range away {
		why, err := u.isStranger(cat, inv)
		if err != nil {
			return nil, "", err
		}
		if why == "" && of == "" { // whoever names the old one has seen to that
			if why, err = ofItsOwn(cat, inv, u); err != nil {
				return nil, "", err
			}
		}
		if why == "" {
			fits = append(fits, u)
			continue
		}
		stranger = fmt.Sprintf("%s is not the successor of %s: %s", inv.Serial, u.Serial, why)
	}
	switch {
	case len(fits) > 1:
		var names []string
		for _, u := range fits {
			names = append(names, u.Serial)
		}
		return nil, "", fail.Refusef("ambiguous-update", "name the token that it was with --successor-of SERIAL", "%d tokens wait for their successors: %s", len(fits), strings.Join(names, ", "))
	case len(fits) == 1:
		return fits[0], "", nil
	}
	return nil, stranger, nil
}

// isStranger says why a token cannot be the one that is awaited.
func (u *Update) isStranger(cat *store.Catalog, inv *Inventory) (string, error) {
	before, err := seenBefore(cat, inv.Serial, u.Seq)
	if err != nil {
		return "", err
	}
	if before {
		return "the catalog knew it under its own serial before that update", nil
	}
	s, err := u.snapshot(cat)
	if err != nil {
		return "", err
	}
	if strange := foreign(inv, s); len(strange) > 0 {
		return "a token comes back from its update empty, and this one holds " + strings.Join(strange, "; "), nil
	}
	return otherKey(inv, s), nil
}

// otherKey says that a token has another recovery key than the one in a snapshot.
func otherKey(inv *Inventory, s *store.Snapshot) string {
	for _, is := range inv.token().Domains {
		for _, was := range s.Token.Domains {
			if is.Number == was.Number && is.KCV != "" && was.KCV != "" && is.KCV != was.KCV {
				return fmt.Sprintf("it has the recovery key %s, and %s had %s", is.KCV, s.Token.Serial, was.KCV)
			}
		}
	}
	return ""
}

// ofItsOwn says that a token was backed up as one of its own.
func ofItsOwn(cat *store.Catalog, inv *Inventory, u *Update) (string, error) {
	state, err := cat.Read()
	if err != nil {
		return "", err
	}
	s := state.Newest(inv.Serial)
	if s == nil || s.Token.SuccessorOf == u.Serial {
		return "", nil
	}
	return "it was backed up as a token of its own; if it is its successor, give --successor-of " + u.Serial, nil
}

// Updated tells whether the token shows a firmware update: it has a new serial,
// or another firmware under the old one.
func (u *Update) Updated(inv *Inventory) bool {
	return inv.Serial != u.Serial || inv.Firmware != u.Firmware
}

// Succeed notes that a token is the successor.
func Succeed(cat *store.Catalog, u *Update, inv *Inventory) error {
	if u.Phase == UpdateRestoring && u.Successor == inv.Serial {
		return nil // half of it may be there
	}
	why, err := u.isStranger(cat, inv)
	if err != nil {
		return err
	}
	if why != "" && inv.Serial != u.Serial {
		return fail.Refusef("stranger", "plug in the token that came back from the vendor", "%s is not the successor of %s: %s", inv.Serial, u.Serial, why)
	}
	u.Phase, u.Successor = UpdateRestoring, inv.Serial
	return u.put(cat)
}

// PutBack ends an update after everything was restored onto the token that was
// emptied, or had never been emptied; without one it does nothing.
func PutBack(cat *store.Catalog, serial string) error {
	list, err := Updates(cat)
	if err != nil {
		return err
	}
	for _, u := range list {
		if u.Serial != serial || u.Phase == UpdateRestoring {
			continue
		}
		if err := u.log(cat, store.UpdatePutBack); err != nil {
			return err
		}
		if err := u.forget(cat); err != nil {
			return err
		}
	}
	return nil
}

// Settle ends the update of the token that had a serial as it is: its successor
// cannot take everything, or is lost. Nothing is deleted; what has not come back
// stays in the update's snapshot.
func Settle(cat *store.Catalog, serial string) (*Update, error) {
	list, err := Updates(cat)
	if err != nil {
		return nil, err
	}
	for _, u := range list {
		if u.Serial != serial {
			continue
		}
		if err := u.log(cat, store.UpdateSettled); err != nil {
			return nil, err
		}
		state, err := cat.Read()
		if err != nil {
			return nil, fail.After(err)
		}
		if now := state.Newest(serial); now != nil { // the note may name one of before
			u.Snapshot, u.Hash = now.ID, now.Hash
		}
		return u, u.forget(cat)
	}
	return nil, noSuchUpdate(serial)
}

func noSuchUpdate(serial string) error {
	return fail.Failf("no-such-update", "`hsmbackup status` says what is under way", "no firmware update of %s is under way", serial)
}

func (u *Update) forget(cat *store.Catalog) error {
	if err := cat.Journal().Delete(updateNotes + u.Serial); err != nil {
		return fail.After(err)
	}
	return nil
}

// FinishUpdate records that the successor has taken the old token's place, and
// forgets the update. Everything was restored and is in a snapshot of the
// successor.
func FinishUpdate(cat *store.Catalog, u *Update) error {
	if u.Successor != u.Serial {
		state, err := cat.Read()
		if err != nil {
			return err
		}
		if state.Succeeded(u.Serial) != u.Successor {
			if err := cat.Append(store.Successor{Serial: u.Successor, SuccessorOf: u.Serial}); err != nil {
				return fail.After(err)
			}
		}
	}
	if err := u.log(cat, store.UpdateFinished); err != nil {
		return err
	}
	return u.forget(cat)
}

// FaultsFor are the known faults that a token in a reader may meet: those of its
// firmware that concern a key on it, and those of the reader.
func FaultsFor(inv *Inventory, reader string) []faults.Fault {
	aes, listed := false, false
	for _, k := range inv.Keys {
		aes = aes || k.Kind == pkcs15.AES
		listed = listed || len(k.Info.Algorithms) > 0
	}
	var list []faults.Fault
	for _, f := range faults.FirmwareFaults(inv.Firmware) {
		if f.Code == faults.FaultWeakAES && !aes || f.Code == faults.FaultLists && !listed {
			continue
		}
		list = append(list, f)
	}
	return append(list, faults.ReaderFaults(reader)...)
}

// AfterUpdate are the known faults that a restore right after a firmware update
// may meet.
func AfterUpdate() []faults.Fault {
	return slices.DeleteFunc(faults.UpdateFaults(), func(f faults.Fault) bool { return f.Code != faults.FaultFullToken && f.Code != "update-slow-init" })
}

// Changes is what others must know of a token that was updated.
type Changes struct {
	OldSerial, NewSerial     string
	OldFirmware, NewFirmware string
	OldIssuer, NewIssuer     string
	// ValidTo is that of the new device certificate.
	ValidTo string
	// PKA: public key authentication was set up, and must be set up anew.
	PKA bool
	// Gained and Lost are what the new firmware can do and the old could not,
	// and the other way round, as far as is known.
	Gained, Lost []string
	// SSH are the lines of the keys that SSH knows, which are what they were.
	SSH []string
	// Different names keys that are not what they were: there should be none.
	Different []string
}

// CompareSuccessor compares the snapshots of a token before and after its
// update.
func CompareSuccessor(old, now *store.Snapshot) Changes {
	c := Changes{
		OldSerial: old.Token.Serial, NewSerial: now.Token.Serial,
		OldFirmware: old.Token.Firmware, NewFirmware: now.Token.Firmware,
		OldIssuer: old.Token.Issuer, NewIssuer: now.Token.Issuer, ValidTo: now.Token.ValidTo,
		PKA: slices.ContainsFunc(old.Missing, func(g store.Gap) bool { return g.What == gapPKA }),
	}
	for _, a := range abilities {
		had, has := a.with(version(old.Token.Firmware)), a.with(version(now.Token.Firmware))
		switch {
		case has && !had:
			c.Gained = append(c.Gained, a.what)
		case had && !has:
			c.Lost = append(c.Lost, a.what)
		}
	}
	for i := range now.Keys {
		k := &now.Keys[i]
		j := slices.IndexFunc(old.Keys, func(o store.Key) bool { return o.Reference == k.Reference })
		if j < 0 {
			continue
		}
		before := &old.Keys[j]
		if !bytes.Equal(before.PublicKey, k.PublicKey) || !bytes.Equal(before.Description, k.Description) {
			c.Different = append(c.Different, keyName(k.Label, k.Reference))
			continue
		}
		if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil {
			if line := public.SSH(k.Label); line != "" {
				c.SSH = append(c.SSH, line)
			}
		}
	}
	return c
}

// ability is something that tokens can do from one firmware on (fact sheet
// §2.4, §2.7, §7.2, §9).
type ability struct {
	what string
	with func(schsm.Version) bool
}

func since(major, minor int) func(schsm.Version) bool {
	return func(v schsm.Version) bool { return !v.Before(major, minor) }
}

var abilities = []ability{
	{"RSA keys of 3072 and 4096 bits", since(3, 0)},
	{"AES keys", since(3, 0)},
	{"key domains", since(3, 0)},
	{"taking back keys that have a list of allowed algorithms", func(v schsm.Version) bool { return v != schsm.Version{Major: 3, Minor: 1} }},
	{"making AES keys that are not weak", func(v schsm.Version) bool {
		return !v.Before(3, 0) && v != schsm.Version{Major: 3, Minor: 1} && v != schsm.Version{Major: 3, Minor: 2}
	}},
	{"telling its free memory", since(2, 4)},
}

// Holders says where a key is besides: the serials of the tokens, attached or
// known from their newest snapshots, that hold the same public key.
func Holders(state *store.State, attached []*Inventory) func(serial string, k Key) []string {
	held := map[store.Hash][]string{}
	add := func(public []byte, serial string) {
		if h := store.HashOf(public); len(public) > 0 && serial != "" && !slices.Contains(held[h], serial) {
			held[h] = append(held[h], serial)
		}
	}
	for _, inv := range attached {
		for _, k := range inv.Keys {
			if k.Public != nil {
				add(k.Public.SPKI(), inv.Serial)
			}
		}
	}
	for _, s := range state.Latest() {
		here := slices.ContainsFunc(attached, func(inv *Inventory) bool { return inv.Serial == s.Token.Serial })
		if s.Adopted || state.Succeeded(s.Token.Serial) != "" || here { // the token itself knows better
			continue
		}
		for i := range s.Keys {
			add(s.Keys[i].PublicKey, s.Token.Serial)
		}
	}
	return func(serial string, k Key) []string {
		if k.Public == nil {
			return nil
		}
		var others []string
		for _, other := range held[store.HashOf(k.Public.SPKI())] {
			if other != serial {
				others = append(others, other)
			}
		}
		return others
	}
}

// TakeSuccessor takes the snapshot of the successor.
func (u *Update) TakeSuccessor(ctx context.Context, card *schsm.Card, cat *store.Catalog, o Options) (*Report, error) {
	if u.Successor != u.Serial {
		o.SuccessorOf = u.Serial
	}
	r, err := Run(ctx, card, cat, o)
	if err != nil {
		return nil, fail.After(err)
	}
	if r.Snapshot.Token.Serial != u.Successor {
		return nil, &fail.Error{Class: fail.Changed, Code: "wrong-token", Message: fmt.Sprintf("the token is %s, the successor is %s", r.Snapshot.Token.Serial, u.Successor)}
	}
	return r, nil
}
