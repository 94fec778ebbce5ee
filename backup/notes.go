package backup

import (
	"fmt"

	"hsmbackup/internal/faults"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// noteWeakAES is the vendor's word on AES keys of some versions.
func noteWeakAES() string {
	f := faults.FindFault(faults.FaultWeakAES)
	return f.What + ": " + f.Do
}

// Notes are what must be known of a key for its kind and the firmware of a
// token that it was on, major.minor; most often nothing. A key carries a
// weakness wherever it is restored.
func Notes(kind pkcs15.Kind, firmware string) []string {
	if kind == pkcs15.AES && faults.FindFault(faults.FaultWeakAES).In(firmware) {
		return []string{noteWeakAES()}
	}
	return nil
}

// StoredNotes are the notes on a key of a snapshot.
func StoredNotes(s *store.Snapshot, k *store.Key) []string {
	kind, _ := kindAndBits(*k)
	return append(Notes(kind, s.Token.Firmware), counterNote(k.Counter)...)
}

// counterNote is about a use counter, nil for none: UNWRAP makes a key without
// one (fact sheet §7.4).
func counterNote(uses *uint32) []string {
	if uses == nil {
		return nil
	}
	return []string{fmt.Sprintf("it has a use counter (%d uses left), which does not come back: restored, it can be used without limit", *uses)}
}

// notes are those on a key of a token, by its firmware and by that of every
// token that the catalog has seen the key on.
func (h *history) notes(inv *Inventory, k Key) []string {
	list := Notes(k.Kind, inv.Firmware)
	for _, s := range h.Snapshots {
		for i := range s.Keys {
			stored := &s.Keys[i]
			if len(list) == 0 && h.isSame(k, stored, h.place(inv, s, stored, k)) {
				kind, _ := kindAndBits(*stored)
				list = Notes(kind, s.Token.Firmware)
			}
		}
	}
	return append(list, counterNote(k.Info.Counter)...)
}
