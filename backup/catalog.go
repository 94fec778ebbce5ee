package backup

import (
	"fmt"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// mend makes up for damage that leaves a key restorable: a description is
// written anew from what the manifest says, a certificate is left out. It tells
// what it did; the key blob cannot be made up for.
func mend(k *store.Key) (note string, usable bool) {
	if k.Damage == "" {
		return "", true
	}
	if len(k.Blob) == 0 && k.Reason == "" {
		return "damaged in the catalog: " + k.Damage, false
	}
	if kind, bits := kindAndBits(*k); len(k.Description) == 0 && (k.Label != "" || len(k.ID) > 0) {
		k.Description = (&pkcs15.KeyDescription{Kind: kind, Label: k.Label, ID: k.ID, Usage: pkcs15.Usage(k.Usage), Bits: bits, Reference: k.Reference}).Encode()
	}
	return fmt.Sprintf("damaged in the catalog: %s; the key itself is whole", k.Damage), true
}
