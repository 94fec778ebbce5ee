package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// A key that cannot leave its token cannot be backed up. What can be done is a
// successor: a new key of the same type, label, ID and usage on a token that
// has a DKEK, and a time in which both are trusted.

// RotationItem is the plan for one key that cannot leave its token.
type RotationItem struct {
	Old Key
	// Why it cannot leave.
	Why string
	// At is the reference of the successor.
	At byte
	// Action is New; Same if it has its successor; Repair if an earlier run was
	// cut off after the key was made; Conflict or DoesNotFit if there can be
	// none.
	Action Action
	Reason string
}

// Rotation is what a rotation would do.
type Rotation struct {
	From, To string
	Items    []RotationItem
	// Domain is the key domain of the successors, KCV that of its DKEK.
	Domain int
	KCV    dkek.KCV

	slots bool
}

// RotateOptions are what PlanRotation and Rotate are told.
type RotateOptions struct {
	// Keys are references on the old token; nil is every key that cannot leave
	// it, but for those that were accepted.
	Keys []byte
	// Progress is told what is being done; nil is silence.
	Progress func(what string, done, total int)
}

// rotateNote is what the journal says before a successor is made.
type rotateNote struct {
	At byte `json:"at"`
}

func rotateNotes(from, to string, reference byte) string {
	return fmt.Sprintf("rotate/%s/%s/%d", from, to, reference)
}

// PlanRotation finds the keys on one token that cannot leave it, and places for
// their successors on another. Both are only looked at; neither needs a login.
func PlanRotation(from, to *Inventory, cat *store.Catalog, o RotateOptions) (*Rotation, error) {
	switch {
	case from.Serial == "" || to.Serial == "":
		return nil, fail.Failf("no-serial", "only tokens with a device certificate can be told apart", "one of the tokens shows no serial number")
	case from.Serial == to.Serial:
		return nil, fail.Refusef("same-token", "name two tokens with --from and --to", "both are %s: a successor on the same token can leave it as little", from.Serial)
	case !to.Initialised:
		return nil, fail.Failf("not-initialised", "`hsmbackup init --share FILE` sets it up with a recovery key", "%s is not initialised", to.Serial)
	}
	r := &Rotation{From: from.Serial, To: to.Serial}
	if err := r.chooseDomain(to); err != nil {
		return nil, err
	}
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	keys := Cover(from, state, nil)
	for _, n := range o.Keys {
		if !slices.ContainsFunc(keys, func(k KeyCoverage) bool { return k.Key.Reference == n }) {
			return nil, fail.Failf("no-such-key", "`hsmbackup status` lists the keys", "%s has no key %d", from.Serial, n)
		}
	}
	taken := to.references()
	for _, k := range keys {
		why := stays(from, k)
		if o.Keys == nil && (why == "" || k.Coverage == Accepted) || o.Keys != nil && !slices.Contains(o.Keys, k.Key.Reference) {
			continue
		}
		item := RotationItem{Old: k.Key, Why: why}
		if err := r.place(&item, to, cat, state.Successions, taken); err != nil {
			return nil, err
		}
		r.Items = append(r.Items, item)
	}
	return r, nil
}

// stays says why a key cannot leave its token in a way that helps somebody;
// empty if it can.
func stays(inv *Inventory, k KeyCoverage) string {
	if k.Coverage == NotExportable || k.Coverage == Accepted {
		if k.Key.NotExportable != "" {
			return k.Key.NotExportable
		}
		return k.Reason
	}
	for _, d := range inv.Domains {
		if d.Number == k.Key.Info.Domain && d.Ready() && d.Shares == 0 && len(d.UID) == 0 {
			return "the token made its DKEK up, and nobody has shares of it"
		}
	}
	return ""
}

// chooseDomain takes the first key domain with a DKEK that somebody has shares
// of.
func (r *Rotation) chooseDomain(to *Inventory) error {
	for _, d := range to.Domains {
		if d.Ready() && d.Shares > 0 && len(d.UID) == 0 {
			r.Domain, r.KCV, r.slots = d.Number, dkek.KCV(d.KCV), len(to.Domains) > 1
			return nil
		}
	}
	return fail.Refusef("no-dkek", "set it up with `hsmbackup init --share FILE`, or load the missing shares with `hsmbackup dkek load`",
		"%s has %s: successors on it could not be backed up either", to.Serial, to.dkekText())
}

// dkekText says what a token has in place of a DKEK of shares.
func (inv *Inventory) dkekText() string {
	for _, d := range inv.Domains {
		switch {
		case d.Outstanding > 0:
			return "an incomplete recovery key"
		case d.Ready() && d.Shares == 0 && len(d.UID) == 0:
			return "a recovery key that it made up itself"
		}
	}
	return "no recovery key"
}

// references are those that have a key, a description or a certificate.
func (inv *Inventory) references() map[byte]bool {
	taken := map[byte]bool{0: true}
	for _, k := range inv.Keys {
		taken[k.Reference] = true
	}
	for _, f := range inv.Files {
		if p := f.FID.Prefix(); p == schsm.PrefixDescription || p == schsm.PrefixKeyCertificate {
			taken[f.FID.Index()] = true
		}
	}
	return taken
}

// place decides about one key.
func (r *Rotation) place(item *RotationItem, to *Inventory, cat *store.Catalog, done []store.Succession, taken map[byte]bool) error {
	old := item.Old
	want := successor(old, 0)
	if s := successionOf(done, r, old); s != nil {
		if here := to.at(byte(s.At)).key; here != nil && publicHash(here.Public) == s.New {
			item.At, item.Action, item.Reason = byte(s.At), Same, fmt.Sprintf("its successor is key %d of %s", s.At, r.To)
			return nil
		}
	}
	why := cannotMake(to, old)
	if why == "" && old.Kind == pkcs15.AES && r.Domain != 0 {
		why = fmt.Sprintf("AES keys are made in key domain 0, and the recovery key of %s is in domain %d", r.To, r.Domain)
	}
	if why != "" {
		item.Action, item.Reason = DoesNotFit, why
		return nil
	}
	if cat != nil {
		var n rotateNote
		found, err := cat.Journal().Get(rotateNotes(r.From, r.To, old.Reference), &n)
		if err != nil {
			return err
		}
		if found {
			item.At, item.Action = n.At, Repair
			here := to.at(n.At)
			if here.key == nil && here.description == nil {
				item.Action = New // it was not made; what lies there is its request at most
			}
			taken[n.At] = true
			return nil
		}
	}
	for _, k := range to.Keys {
		if d, err := pkcs15.ParseKey(k.Description); err == nil && len(d.ID) > 0 && d.Label == want.Label && bytes.Equal(d.ID, want.ID) {
			item.At, item.Action, item.Reason = k.Reference, Conflict, fmt.Sprintf("key %d of %s has this label and ID already, and was not made as its successor", k.Reference, r.To)
			return nil
		}
	}
	item.At = old.Reference
	for n := 1; taken[item.At] && n <= 255; n++ {
		item.At = byte(n)
	}
	if taken[item.At] {
		item.At, item.Action, item.Reason = 0, DoesNotFit, "no free reference"
		return nil
	}
	taken[item.At] = true
	item.Action = New
	return nil
}

// cannotMake says why a token cannot make a key like this one.
func cannotMake(to *Inventory, old Key) string {
	v := to.version()
	switch {
	case old.Kind == 0 || old.Kind == pkcs15.EC && old.Public == nil || old.Bits == 0:
		return "its type is not known: neither public key nor description tells"
	case v.Before(3, 0) && old.Kind == pkcs15.RSA && old.Bits > 2048:
		return fmt.Sprintf("firmware %s makes RSA keys of up to 2048 bits", to.Firmware)
	case v.Before(3, 0) && old.Kind == pkcs15.AES:
		return fmt.Sprintf("firmware %s has no AES keys", to.Firmware)
	case len(Notes(old.Kind, to.Firmware)) > 0:
		return fmt.Sprintf("firmware %s makes weak AES keys", to.Firmware)
	case len(old.Info.Algorithms) > 0 && faults.FindFault(faults.FaultLists).In(to.Firmware):
		return cannotTakeLists(to.Firmware)
	}
	return ""
}

// successor describes the new key: like the old one.
func successor(old Key, at byte) pkcs15.KeyDescription {
	d := pkcs15.KeyDescription{Kind: old.Kind, Label: old.Label, ID: old.ID, Usage: old.Usage, Bits: old.Bits, Reference: int(at)}
	if _, err := pkcs15.ParseKey(old.Description); err != nil {
		d.ID, d.Usage = []byte{old.Reference}, pkcs15.DefaultUsage(old.Kind)
	}
	return d
}

// successionOf finds the latest successor of a key on a token.
func successionOf(done []store.Succession, r *Rotation, old Key) *store.Succession {
	for i := len(done) - 1; i >= 0; i-- {
		s := &done[i]
		if s.From == r.From && s.To == r.To && s.Reference == int(old.Reference) && s.Old == publicHash(old.Public) {
			return s
		}
	}
	return nil
}

// RotationResult is what came of one key.
type RotationResult struct {
	RotationItem
	// New is the public key of the successor, nil for AES.
	New *pubkey.Key
	OK  bool
}

// Rotate makes the successors on the new token, which is logged in, uses each,
// and records it in the catalog's log. The old token is not needed for it. An
// error of class Changed leaves a token that the next run goes on with.
func Rotate(ctx context.Context, to *schsm.Card, cat *store.Catalog, r *Rotation, o RotateOptions) ([]RotationResult, error) {
	if to.Serial() != r.To {
		return nil, fail.Refusef("wrong-token", "plan the rotation again", "the rotation is to %s, this token is %s", r.To, orNone(to.Serial()))
	}
	var results []RotationResult
	touched := false
	for i, item := range r.Items {
		Options{Progress: o.Progress}.progress("making a successor of "+item.Old.Name(), i, len(r.Items))
		touched = touched || item.Action == New || item.Action == Repair
		result, err := r.makeSuccessor(ctx, to, cat, item)
		if err != nil {
			if touched {
				err = fail.After(err)
			}
			return results, err
		}
		results = append(results, result)
	}
	Options{Progress: o.Progress}.progress("made", len(r.Items), len(r.Items))
	return results, nil
}

// makeSuccessor makes one key: intent into the journal, the key, its
// description, a use of it, the log.
func (r *Rotation) makeSuccessor(ctx context.Context, to *schsm.Card, cat *store.Catalog, item RotationItem) (RotationResult, error) {
	result := RotationResult{RotationItem: item}
	if !item.Action.Done() {
		return result, nil
	}
	certificate, err := readIfThere(ctx, to, schsm.CertificateFile(item.At))
	if err != nil {
		return result, err
	}
	if item.Action == Same {
		result.New, _ = publicKey(certificate)
		result.OK = true
		return result, nil
	}
	if err := to.Confirm(ctx); err != nil {
		return result, err
	}
	note := rotateNotes(r.From, r.To, item.Old.Reference)
	if err := cat.Journal().Put(note, rotateNote{item.At}); err != nil {
		return result, err
	}
	d := successor(item.Old, item.At)
	have, err := r.begun(ctx, to, item.At, d, certificate)
	if err != nil {
		return result, err
	}
	var made Made
	if !have {
		made, err = Making(ctx, to, item.At, func() (err error) {
			certificate, err = r.generate(ctx, to, item)
			return err
		})
		if errors.Is(err, apdu.ErrNoMemory) || errors.Is(err, apdu.ErrAlgorithm) || errors.Is(err, apdu.ErrWrongData) {
			result.Action, result.Reason = DoesNotFit, err.Error()
			return result, cat.Journal().Delete(note)
		} else if err != nil {
			return result, err
		}
	}
	w := &restorer{card: to, serial: r.To}
	if err := w.put(ctx, schsm.DescriptionFile(item.At), d.Encode(), made.came(schsm.DescriptionFile(item.At))); err != nil {
		return result, err
	}
	if certificate != nil {
		if err := w.put(ctx, schsm.CertificateFile(item.At), certificate, made.came(schsm.CertificateFile(item.At))); err != nil {
			return result, err
		}
		result.New, _ = publicKey(certificate)
	}
	info, err := to.Key(ctx, item.At)
	if err != nil {
		return result, err
	}
	if err := r.proveNew(ctx, to, item, result.New, info); err != nil {
		if isTransport(err) {
			return result, err
		}
		result.Reason = fmt.Sprintf("it was made, but does not work: %v", err)
		return result, nil
	}
	s := store.Succession{From: r.From, Reference: int(item.Old.Reference), To: r.To, At: int(item.At), Label: item.Old.Label, Type: item.Old.Type, Old: publicHash(item.Old.Public), New: publicHash(result.New)}
	if err := cat.Append(s); err != nil {
		return result, err
	}
	result.OK = true
	return result, cat.Journal().Delete(note)
}

func readIfThere(ctx context.Context, card *schsm.Card, f schsm.FID) ([]byte, error) {
	content, err := card.ReadFile(ctx, f)
	if errors.Is(err, apdu.ErrNotFound) {
		return nil, nil
	}
	return content, err
}

// begun tells whether a run that was cut off has made the key already. Of what
// that left a request is cleared away whose key is not there; a key that shows no
// request may be somebody's, and stays.
func (r *Rotation) begun(ctx context.Context, to *schsm.Card, at byte, d pkcs15.KeyDescription, certificate []byte) (bool, error) {
	_, err := to.Key(ctx, at)
	there := err == nil
	if err != nil && !errors.Is(err, apdu.ErrNotFound) {
		return false, err
	}
	description, err := readIfThere(ctx, to, schsm.DescriptionFile(at))
	if err != nil {
		return false, err
	}
	if !begun(description, d.Encode()) {
		return false, fail.Refusef("conflict", "look at it with `hsmbackup status`; the successor was to go there", "key %d of %s is not what the interrupted run began: it has another description", at, r.To)
	}
	public, from := publicKey(certificate)
	switch {
	case there && (d.Kind == pkcs15.AES || public != nil && from == fromRequest):
		return true, nil
	case there:
		return false, fail.Refusef("conflict", "look at it with `hsmbackup status`; if nobody needs it, delete it", "key %d of %s has no request that tells whether the interrupted run made it; it was left alone", at, r.To)
	}
	return false, removeRest(ctx, to, schsm.CertificateFile(at), nil, func(content []byte) bool {
		return len(content) == 0 || content[0] == tagRequest
	})
}

// tagRequest begins an authenticated request, also one that was cut off.
const tagRequest = 0x67

// generate makes the key, with the list of the old one and leave to be
// exported, and gives its request, nil for AES.
func (r *Rotation) generate(ctx context.Context, to *schsm.Card, item RotationItem) ([]byte, error) {
	old := item.Old
	list := bytes.Clone(old.Info.Algorithms)
	if len(list) > 0 && !old.Info.Allows(schsm.WrapKey) {
		list = append(list, byte(schsm.WrapKey))
	}
	if old.Kind == pkcs15.AES {
		if len(list) == 0 {
			list = []byte{byte(schsm.AESEncrypt), byte(schsm.AESDecrypt), byte(schsm.AESCMAC), byte(schsm.WrapKey)}
		}
		return nil, to.GenerateAES(ctx, item.At, old.Bits, list)
	}
	spec := cvc.KeySpec{CAR: "UTCA00001", CHR: to.Serial() + "00001", Algorithms: list} // the names that OpenSC gives
	if old.Kind == pkcs15.RSA {
		spec.RSABits, spec.RSAExponent = old.Bits, 65537
	} else {
		spec.Curve = curve.ByName(old.Public.Curve.Name)
	}
	if r.slots {
		domain := byte(r.Domain)
		spec.Domain = &domain
	}
	raw, err := to.Generate(ctx, item.At, spec)
	if err != nil {
		return nil, err
	}
	request, err := cvc.ParseRequest(raw)
	if err == nil {
		err = request.VerifyInner()
	}
	if err != nil {
		return nil, fmt.Errorf("the request of the new key %d: %w", item.At, err)
	}
	return request.Raw, nil
}

// proveNew uses the new key: against its public key, or, of AES, once at all.
func (r *Rotation) proveNew(ctx context.Context, to *schsm.Card, item RotationItem, public *pubkey.Key, info schsm.KeyInfo) error {
	s := subject{kind: item.Old.Kind, bits: item.Old.Bits, public: public, allows: info.Allows}
	var err error
	if public != nil {
		err = proveUse(ctx, to, item.At, s)
	} else {
		_, err = checkValue(ctx, to, item.At, s)
	}
	if errors.Is(err, errNoWay) {
		return nil // its list leaves no use that shows something; as of the old one
	}
	return err
}
