package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/p11"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/report"
	"hsmbackup/store"
)

// usedThrough is what a PKCS#11 module made of the keys of a snapshot.
type usedThrough struct {
	Module string
	// Keys are those that were asked for; their Proof is proofPKCS11.
	Keys []backup.KeyProof
	// Note says why nothing was tried.
	Note string
	// NotRecorded says why the result is not in the log.
	NotRecorded string
}

// proofPKCS11 is the kind of proof that --json names.
const proofPKCS11 = "pkcs11"

// used counts the keys that were used and those that could have been.
func (u *usedThrough) used() (good, of int) {
	for _, k := range u.Keys {
		if k.Unchecked {
			continue
		}
		of++
		if k.OK {
			good++
		}
	}
	return good, of
}

// bad lists what went wrong, for the line on stderr.
func (u *usedThrough) bad() []string {
	var list []string
	for _, k := range u.Keys {
		if !k.OK && !k.Unchecked {
			list = append(list, fmt.Sprintf("key %s %s, through PKCS#11: %s", report.Reference(k.Reference), console.Quoted(k.Label), k.Reason))
		}
	}
	return list
}

// Why a stored key is not looked for.
const (
	uncheckedAES     = "OpenSC shows no AES keys"
	uncheckedID      = "it has no ID, so that no other program finds it"
	uncheckedPublic  = "no public key of it is known to compare with"
	uncheckedCounter = "it has a use counter, and a use would be spent"
)

// unchecked says why a stored key cannot be judged through PKCS#11.
func unchecked(k *store.Key, public *pubkey.Key) string {
	switch {
	case isAES(k):
		return uncheckedAES
	case len(k.ID) == 0:
		return uncheckedID
	case public == nil:
		return uncheckedPublic
	case k.Counter != nil:
		return uncheckedCounter
	}
	return ""
}

func isAES(k *store.Key) bool {
	d, err := pkcs15.ParseKey(k.Description)
	return strings.HasPrefix(k.Type, "AES") || err == nil && d.Kind == pkcs15.AES
}

// throughPKCS11 uses keys of a snapshot on a token through a module, and
// records how it went; cat may be nil, or closed for writing. The token's login
// must have been accepted before: the module sends the same PIN, once. Whatever
// other programs do to the token's session meanwhile is made up for by the next
// command to it, so that this comes after what must not be cut off.
func (a *app) throughPKCS11(ctx context.Context, t *cli.Token, cat *store.Catalog, s *store.Snapshot, keys []store.Key, module string) (*usedThrough, error) {
	u := &usedThrough{Module: module}
	var wanted []p11.Key
	var tried []int
	for i := range keys {
		k := &keys[i]
		proof := backup.KeyProof{Reference: k.Reference, Label: k.Label, ID: k.ID, Type: k.Type, Proof: proofPKCS11}
		public, err := pubkey.ParseSPKI(k.PublicKey)
		if err != nil {
			public = nil
		}
		if proof.Reason = unchecked(k, public); proof.Reason != "" {
			proof.Unchecked = true
		} else {
			wanted = append(wanted, p11.Key{ID: k.ID, Public: public})
			tried = append(tried, i)
		}
		u.Keys = append(u.Keys, proof)
	}
	if len(tried) == 0 {
		return u, nil
	}
	pin := t.Card.AcceptedPIN()
	defer pin.Wipe()
	if pin.Len() == 0 {
		return nil, fmt.Errorf("%w: the token has taken no PIN here", p11.ErrPIN)
	}
	a.Steps("using keys through PKCS#11", 0, len(tried))
	results, err := p11.UseInChild(ctx, module, t.Serial, pin, wanted)
	a.Progress.Close()
	if err != nil {
		return nil, err
	}
	record := store.Use{Snapshot: s.ID, Token: t.Serial, Module: module}
	for n, i := range tried {
		k, r := &u.Keys[i], results[n]
		k.OK, k.Reason, k.Mechanism = r.Reason == "", harmless.Text(r.Reason), harmless.Text(r.Way)
		record.Keys = append(record.Keys, store.UsedKey{
			Reference: k.Reference, PublicKey: store.HashOf(wanted[n].Public.SPKI()), OK: k.OK, Mechanism: k.Mechanism, Reason: k.Reason,
		})
	}
	if cat == nil || len(record.Keys) == 0 {
		return u, nil
	}
	if err := cat.Append(record); err != nil {
		u.NotRecorded = cli.Describe(err, false).Message
	}
	return u, nil
}

// findModule finds this computer's module; a test has none.
var findModule = p11.Find

// usedAfter is throughPKCS11 at the end of a job that put keys onto a token,
// with the module of this computer. For a token that no module can see it is
// empty. That there is no module is a note, no failure; keys that could not be
// used are among what bad gives.
func (a *app) usedAfter(ctx context.Context, t *cli.Token, cat *store.Catalog, s *store.Snapshot, keys []store.Key) *usedThrough {
	if t.SoftFile || len(keys) == 0 {
		return &usedThrough{}
	}
	module, err := findModule()
	if err != nil {
		return &usedThrough{Note: err.Error()}
	}
	if cat != nil && !cat.Writable() {
		cat = nil
	}
	u, err := a.throughPKCS11(ctx, t, cat, s, keys, module)
	if err == nil {
		return u
	}
	if ctx.Err() != nil {
		return &usedThrough{Module: module, Note: "interrupted"}
	}
	u = &usedThrough{Module: module}
	for _, k := range keys {
		u.Keys = append(u.Keys, backup.KeyProof{Reference: k.Reference, Label: k.Label, ID: k.ID, Type: k.Type, Proof: proofPKCS11, Unchecked: isAES(&k), Reason: err.Error()})
	}
	return u
}

// printUsed says how usedAfter went; with --json that is in the document.
func (a *app) printUsed(u *usedThrough) {
	if u.Note != "" {
		a.Note("not used through PKCS#11: %s", u.Note)
	}
	if u.NotRecorded != "" {
		a.Note("the use through PKCS#11 was not recorded: %s", u.NotRecorded)
	}
	if a.Flags.JSON {
		return
	}
	if good, of := u.used(); of > 0 {
		a.Printf("used through PKCS#11: %d of %d", good, of)
	}
	for _, k := range u.Keys {
		if k.Unchecked {
			a.Printf("  not checked through PKCS#11: key %s %s: %s", report.Reference(k.Reference), console.Quoted(k.Label), k.Reason)
		}
	}
}

// jsonUsed is usedThrough in the document of restore.
type jsonUsed struct {
	Module string         `json:"module"`
	Used   int            `json:"used"`
	Of     int            `json:"of"`
	Keys   []jsonKeyProof `json:"keys"`
	Note   string         `json:"note,omitempty"`
}

func (u *usedThrough) document() *jsonUsed {
	if u.Module == "" && u.Note == "" {
		return nil
	}
	good, of := u.used()
	return &jsonUsed{u.Module, good, of, keyProofs(u.Keys), u.Note}
}

// verifyPKCS11 is `verify --pkcs11`.
func (a *app) verifyPKCS11(ctx context.Context, names []string, module string) error {
	if strings.HasPrefix(a.Flags.Token, cli.SoftPrefix) {
		return console.Usagef("`hsmbackup soft serve FILE` plugs it into pcscd, where every program sees it", "--pkcs11 needs a token in a reader: no other program sees one that is opened from its file")
	}
	var err error
	if module == "" {
		module, err = findModule()
	} else if err = p11.Check(module); err == nil {
		// A bare name would be looked for among the system's libraries.
		module, err = filepath.Abs(module)
	}
	if err != nil {
		return err
	}
	cat, why, err := a.RecordingCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	list, err := a.snapshotsOf(cat, t, names)
	if err != nil {
		return err
	}
	v := &backup.Verification{Proof: proofPKCS11, Anchored: backup.NotAnchored}
	if v.Findings, err = cat.Verify(); err != nil {
		return err
	}
	if why == "" && len(v.Findings) > 0 {
		why = "the catalog is damaged"
	}
	record := cat
	if why != "" {
		record = nil
	}
	if err := a.Login(ctx, t); err != nil {
		return err
	}
	for _, s := range list {
		u, err := a.throughPKCS11(ctx, t, record, s, s.Keys, module)
		if err != nil {
			return err
		}
		if u.NotRecorded != "" {
			v.NotRecorded = u.NotRecorded
		}
		v.Snapshots = append(v.Snapshots, backup.SnapshotProof{ID: s.ID, Token: s.Token.Serial, Keys: u.Keys, Missing: s.Missing})
	}
	return a.printVerification(v, fmt.Sprintf("proof: used on %s through PKCS#11, by %s", t.Name(), harmless.Text(module)), why, nil)
}
