package backup

import (
	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// noteWeakAES is the vendor's word on AES keys of some versions.
func noteWeakAES() string {
	f := FindFault(FaultWeakAES)
	return f.What + ": " + f.Do
}

// Notes are what must be known of a key for its kind and the firmware of a
// token that it was on, major.minor; most often nothing. A key carries a
// weakness wherever it is restored.
func Notes(kind pkcs15.Kind, firmware string) []string {
	if kind == pkcs15.AES && FindFault(FaultWeakAES).In(firmware) {
		return []string{noteWeakAES()}
	}
	return nil
}

// StoredNotes are the notes on a key of a snapshot.
func StoredNotes(s *store.Snapshot, k *store.Key) []string {
	kind, _ := kindAndBits(*k)
	return Notes(kind, s.Token.Firmware)
}

// notes are those on a key of a token, by its firmware and by that of every
// token that the catalog has seen the key on.
func (h *history) notes(inv *Inventory, k Key) []string {
	list := Notes(k.Kind, inv.Firmware)
	for _, s := range h.snapshots {
		for i := range s.Keys {
			stored := &s.Keys[i]
			here := s.Token.Serial == inv.Serial && stored.Reference == int(k.Reference)
			if len(list) == 0 && isSame(k, stored, here || h.restored[store.HashOf(stored.Blob)][inv.Serial]) {
				list = StoredNotes(s, stored)
			}
		}
	}
	return list
}
