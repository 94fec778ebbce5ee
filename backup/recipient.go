package backup

import (
	"fmt"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// What data is sealed to must be the recovery key's own. The catalog says what
// that is, and so does whoever writes the catalog: it counts once this computer
// has derived it from the shares, or somebody typed it from the sheet.

// Recipient is what was typed of one: all of it, or the beginning of
// RecipientHash in Bits bits.
type Recipient struct {
	Text   string // age1…
	Prefix []byte
	Bits   int
}

func (r Recipient) isZero() bool { return r.Text == "" && r.Bits == 0 }

func (r Recipient) is(recipient string) bool {
	if r.Text != "" {
		return recipient == r.Text
	}
	sum := RecipientHash(recipient)
	return recipient != "" && store.SamePrefix(sum[:], r.Prefix, r.Bits)
}

// RecipientHash is what the six words on a sheet begin: SHA-256 of "hsmbackup
// recipient v1\n" and the recipient.
func RecipientHash(recipient string) store.Hash {
	return store.HashOf([]byte("hsmbackup recipient v1\n" + recipient))
}

// recipientOf gives what data of a token is sealed to: the recipient of one of
// its DKEKs, as this computer knows it, or as typed. why says why there is none.
func recipientOf(inv *Inventory, cat *store.Catalog, typed Recipient) (recipient, why string, err error) {
	state, err := cat.Read()
	if err != nil {
		return "", "", err
	}
	why = "there is no recovery key yet to seal it under: show its shares once (`hsmbackup dkek check SHARE…`) and back up again"
	var kcvs []store.KCV
	for _, d := range inv.token().Domains {
		if d.KCV != "" {
			kcvs = append(kcvs, d.KCV)
		}
	}
	if !typed.isZero() {
		return takeTyped(kcvs, cat, state, typed)
	}
	for _, kcv := range kcvs {
		known, ok, err := cat.Machine().Recipient(kcv)
		if err != nil {
			return "", "what this computer keeps of recovery keys cannot be read: " + err.Error(), nil
		}
		if ok {
			return known.Recipient, "", nil
		}
		if state.Shares[kcv].Recipient != "" {
			why = fmt.Sprintf("this computer has not seen the recovery key %s, and what only the catalog says of it may be somebody else's: "+
				"show its shares here once (`hsmbackup dkek check SHARE…`) and back up again, or `hsmbackup backup --recipient \"WORDS\"` with the six words from the sheet", kcv)
		}
	}
	return "", why, nil
}

// takeTyped looks for the DKEK that a typed recipient is of, and keeps it.
func takeTyped(kcvs []store.KCV, cat *store.Catalog, state *store.State, typed Recipient) (string, string, error) {
	keep := func(kcv store.KCV, recipient string) (string, string, error) {
		err := cat.Machine().Keep(kcv, store.Known{Recipient: recipient, Time: cat.Now(), Typed: true})
		return recipient, "", err
	}
	for _, kcv := range kcvs {
		if recipient := state.Shares[kcv].Recipient; typed.is(recipient) {
			return keep(kcv, recipient)
		}
	}
	if typed.Text != "" && len(kcvs) == 1 {
		if state.Shares[kcvs[0]].Recipient != "" {
			cat.Tell(true, "the catalog names another recipient of the recovery key %s than the one typed: it was changed, or that is from another sheet", kcvs[0])
		}
		return keep(kcvs[0], typed.Text)
	}
	return "", "", fail.Refusef("recipient", "the sheet has the words and the recipient of its recovery key; `hsmbackup dkek check SHARE…` shows them",
		"--recipient is of no recovery key of this token that the catalog knows; nothing was backed up")
}

// checkRecipient compares what the catalog says data is to be sealed to with
// the DKEK's own recipient.
func (v *Verification) checkRecipient(h *history, key *dkek.Key) error {
	kcv := key.KCV().String()
	own, err := key.Recipient()
	if err != nil {
		return err
	}
	if named := h.Shares[kcv].Recipient; named != "" && named != own {
		v.Findings = append(v.Findings, store.Finding{Where: "recipient of " + kcv,
			What: "the catalog names somebody else than the recovery key as the one that data is sealed to: it was changed, and what a program sealed by it may be in other hands"})
	}
	return nil
}

// keepRecipient notes on this computer the recipient of a DKEK that is at hand.
func keepRecipient(cat *store.Catalog, kcv store.KCV, recipient string) {
	was, ok, err := cat.Machine().Recipient(kcv)
	if err == nil && ok && was.Recipient != recipient {
		cat.Tell(true, "on %s this computer was told another recipient of the recovery key %s: what was backed up since is sealed to somebody else", stamp(was.Time), kcv)
	}
	if err := cat.Machine().Keep(kcv, store.Known{Recipient: recipient, Time: cat.Now()}); err != nil {
		cat.Tell(false, "this computer cannot keep what data is sealed to under the recovery key %s, so that a backup will ask again: %v", kcv, err)
	}
}
