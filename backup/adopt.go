package backup

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// AdoptFile is a wrapped key as sc-hsm-tool --wrap-key or the Key Manager wrote
// it (.bin, .wky; fact sheet §6.6).
type AdoptFile struct {
	Name    string
	Content []byte
}

// AdoptOptions are what Adopt is told besides the files.
type AdoptOptions struct {
	// Key is the DKEK, to open what is under it; nil without shares.
	Key *dkek.Key
	// Inventory is that of the attached token, to compare with; nil without one.
	Inventory *Inventory
	// Progress is told what is being done; nil is silence.
	Progress func(what string, done, total int)
	// Program is recorded with the snapshot.
	Program string
}

// AdoptedFile is what was found of one file.
type AdoptedFile struct {
	Name string
	// Reference, Label, ID and Type are as recorded; a reference of 0 is not
	// known. They are empty for a file that could not be read.
	Reference int
	Label     string
	ID        []byte
	Type      string
	// KCV names the recovery key that the file is under; ShareSeen tells that
	// shares which give it are known to the catalog, or were given now.
	KCV       string
	ShareSeen bool
	// Public is nil where it is not known.
	Public *pubkey.Key
	// MadeOn is the serial of the token that made the key, by the request that
	// lies beside it; Vouched tells that this token's signature on the request
	// verifies.
	MadeOn  string
	Vouched bool
	// On is the key on the attached token that this is, nil if there is none.
	On *Key
	// InSnapshots are the serials of tokens that had the key when they were
	// backed up.
	InSnapshots []string
	// Tokens are the serials of those that have the recovery key and can take
	// the file back: the attached one and all of the catalog, as last seen.
	Tokens []string
	// Kept: it is in the snapshot. SameAs is the file that is there in its
	// place.
	Kept   bool
	SameAs string
	// Proof is the strongest proof of the blob, from now or from the catalog;
	// Matched says what an opened key agreed with.
	Proof, Matched string
	// OK: its key is in the snapshot and proven. Reason says why not, Damage
	// tells what does not check out from what merely could not be shown.
	OK     bool
	Reason string
	Damage bool
	// Notes are what is unusual about the file and was dealt with.
	Notes []string
}

// AdoptReport is what an adoption did.
type AdoptReport struct {
	// Snapshot is nil if no file could be read. Existing: it was in the catalog
	// already, since the same files were adopted before.
	Snapshot *store.Snapshot
	Existing bool
	// Files are in the order given.
	Files []AdoptedFile
	// WithoutFile are the keys of the attached token that no file holds.
	WithoutFile []Key
}

// Damaged tells whether a file does not check out.
func (r *AdoptReport) Damaged() bool {
	return slices.ContainsFunc(r.Files, func(f AdoptedFile) bool { return f.Damage })
}

// Adopt takes wrapped files of other tools into one snapshot that is marked as
// adopted and belongs to no token (docs/format.md). What is in a file is known
// by its content. A file that cannot be read is reported and the others go on;
// of several exports of one key one is kept. With the DKEK each file under it
// is opened and matched, and only what proves to belong to the key is recorded;
// without, a file whose parts contradict each other is left out. An error of
// class Failed left the catalog as it was.
func Adopt(ctx context.Context, cat *store.Catalog, files []AdoptFile, o AdoptOptions) (*AdoptReport, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	h := newHistory(state)
	a := &adoption{h: h, o: o, devices: map[string]*pubkey.Key{}}
	a.knowDevices()
	r := &AdoptReport{Files: make([]AdoptedFile, len(files))}
	progress := Options{Progress: o.Progress}.progress
	for i, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		progress("reading "+filepath.Base(f.Name), i, len(files))
		r.Files[i].Name = f.Name
		if found := a.read(f, &r.Files[i]); found != nil {
			a.list = append(a.list, found)
		}
	}
	progress("read", len(files), len(files))
	a.onToken()
	a.merge()
	a.place()
	if o.Inventory != nil {
		r.WithoutFile = a.withoutFile()
	}
	if len(a.list) == 0 {
		return r, nil
	}
	a.describe()
	if err := a.record(ctx, cat, r); err != nil {
		return nil, err
	}
	return r, nil
}

// adoption is the work under way.
type adoption struct {
	h       *history
	o       AdoptOptions
	devices map[string]*pubkey.Key // by the CHR of their certificate
	all     []*adoptee             // that can be read
	list    []*adoptee             // one of each key
}

// adoptee is a key out of a file that can be read.
type adoptee struct {
	report *AdoptedFile
	key    store.Key
	says   *pkcs15.KeyDescription // nil without a description
	public *pubkey.Key
	kcv    dkek.KCV
	opened bool
	// stands is the export that is kept in place of this one.
	stands *adoptee
}

// knowDevices collects the device keys of the tokens that are known: they
// signed the requests of the keys that they made.
func (a *adoption) knowDevices() {
	learn := func(chain *cvc.Chain) {
		if chain == nil {
			return
		}
		if key, err := chain.DeviceKey(); err == nil {
			a.devices[chain.Device.CHR] = key
		}
	}
	for _, s := range a.h.Snapshots {
		if chain, err := cvc.ParseChain(s.Token.Certificate); err == nil {
			learn(chain)
		}
	}
	if a.o.Inventory != nil {
		learn(a.o.Inventory.Chain)
	}
}

// read takes a file apart; nil if nothing of it can be kept.
func (a *adoption) read(f AdoptFile, report *AdoptedFile) *adoptee {
	damage := func(format string, args ...any) *adoptee {
		report.Reason, report.Damage = fmt.Sprintf(format, args...), true
		return nil
	}
	c, err := dkek.ParseContainer(f.Content)
	if err != nil {
		return damage("%v", err)
	}
	b, err := dkek.ParseBlob(c.Blob)
	if err != nil {
		return damage("%v", err)
	}
	report.KCV, report.Type = b.KCV.String(), b.Type.Kind().String()
	if n := len(c.Trailing); n > 0 {
		report.note("%d bytes behind the wrapped key were left out", n)
	}
	found := &adoptee{report: report, kcv: b.KCV, key: store.Key{
		KCV: report.KCV, Algorithms: b.Algorithms, Blob: c.Blob, Description: c.Description, Certificate: c.Certificate,
	}}
	if a.o.Key != nil && a.o.Key.KCV() == b.KCV {
		if err := found.open(a.o.Key, b); errors.Is(err, dkek.ErrCurve) {
			report.note("%v", err)
		} else if err != nil {
			return damage("%v", err)
		}
	} else if err := found.agree(b); err != nil {
		return damage("%v; with the shares, what belongs to the key can be told from what does not", err)
	}
	if err := a.remember(found); err != nil {
		return damage("%v", err)
	}
	if c.Misplaced && len(found.key.Certificate) > 0 {
		report.note("no description: the certificate stood in its place")
	}
	found.name()
	a.origin(found)
	_, report.ShareSeen = a.h.Shares[report.KCV]
	report.ShareSeen = report.ShareSeen && !a.h.Shares[report.KCV].Random || found.opened
	return found
}

func (f *AdoptedFile) note(format string, args ...any) {
	f.Notes = append(f.Notes, fmt.Sprintf(format, args...))
}

// open proves the file under the DKEK. What lies beside the blob and is not
// its key's is left out, and called damage. The error is for a blob that gives
// no key.
func (k *adoptee) open(key *dkek.Key, b *dkek.Blob) error {
	private, err := key.Open(b)
	if err != nil {
		return err
	}
	defer private.Wipe()
	match, public, err := dkek.MatchKey(private, k.key.Description, k.key.Certificate)
	if err != nil {
		k.report.Reason, k.report.Damage = "left out what is not its key's: "+err.Error(), true
		if _, _, err := dkek.MatchKey(private, k.key.Description, nil); err != nil {
			k.key.Description = nil
		}
		if _, _, err := dkek.MatchKey(private, nil, k.key.Certificate); err != nil {
			k.key.Certificate = nil
		}
		if match, public, err = dkek.MatchKey(private, k.key.Description, k.key.Certificate); err != nil {
			return err // it does not agree with itself
		}
	}
	k.opened = true
	k.report.Proof, k.report.Matched = store.ProofOpened, string(match)
	k.key.Type = private.Type()
	if public == nil {
		k.key.CheckValue = checkValueOf(private, b.Algorithms)
		return nil
	}
	k.public = public
	k.key.PublicKey, k.key.PublicFrom = public.SPKI(), fromBlob
	if beside, from := publicKey(k.key.Certificate); beside != nil {
		k.key.PublicFrom = from
	}
	return nil
}

// fromBlob: the public key is known from an opened key blob.
const fromBlob = "blob"

// agree looks whether the parts of a file can be of one key, as far as that
// shows without the DKEK.
func (k *adoptee) agree(b *dkek.Blob) error {
	kind := b.Type.Kind()
	k.key.Type = kind.String()
	description, err := pkcs15.ParseKey(k.key.Description)
	if err != nil {
		description = nil
	}
	if description != nil && description.Kind != kind {
		return fmt.Errorf("its key blob is %s, the description beside it is of an %s key", kind, description.Kind)
	}
	if len(k.key.Certificate) > 0 && kind == pkcs15.AES {
		return errors.New("its key blob is AES, which has no certificate, but there is one beside it")
	}
	public, from := publicKey(k.key.Certificate)
	switch {
	case public == nil && description != nil && description.Bits > 0 && kind != pkcs15.EC:
		k.key.Type = fmt.Sprintf("%s-%d", kind, description.Bits)
		return nil
	case public == nil:
		return nil
	case (public.RSA != nil) != (kind == pkcs15.RSA):
		return fmt.Errorf("its key blob is %s, the %s beside it is for an %s key", kind, from, public.Type())
	case description != nil && !describes(description, public):
		return fmt.Errorf("its description is of %s-%d, the %s beside it is for an %s key", description.Kind, description.Bits, from, public.Type())
	}
	if r, err := cvc.ParseRequest(k.key.Certificate); err == nil && r.VerifyInner() != nil {
		return errors.New("the request beside its key blob was altered or damaged: the key's own signature in it does not verify")
	}
	k.public = public
	k.key.PublicKey, k.key.PublicFrom, k.key.Type = public.SPKI(), from, public.Type()
	return nil
}

// remember takes over what is known of a blob that was proven before. The error
// is for a file that contradicts it.
func (a *adoption) remember(k *adoptee) error {
	if k.opened || !a.h.proofs[store.HashOf(k.key.Blob)].OK {
		return nil
	}
	for _, s := range slices.Backward(a.h.Snapshots) {
		for i := range s.Keys {
			known := &s.Keys[i]
			if !bytes.Equal(known.Blob, k.key.Blob) {
				continue
			}
			if len(k.key.CheckValue) == 0 && len(known.CheckValue) > 0 {
				k.key.CheckValue = known.CheckValue
				if foreign := len(known.PublicKey) == 0 && bytes.Equal(known.Certificate, k.key.Certificate); foreign {
					k.public, k.key.PublicKey, k.key.PublicFrom, k.key.Type = nil, nil, "", known.Type
				}
			}
			public, err := pubkey.ParseSPKI(known.PublicKey)
			switch {
			case err != nil:
			case k.public == nil:
				k.public, k.key.PublicKey, k.key.PublicFrom, k.key.Type = public, known.PublicKey, fromBlob, known.Type
			case !k.public.Equal(public):
				return fmt.Errorf("its key blob was proven to be %s, the %s beside it is of another key", keyName(known.Label, known.Reference), k.key.PublicFrom)
			}
		}
	}
	return nil
}

// name takes over what the description says.
func (k *adoptee) name() {
	k.says = nil
	if d, err := pkcs15.ParseKey(k.key.Description); err == nil {
		k.says = d
		k.key.Label, k.key.ID, k.key.Usage = d.Label, d.ID, uint32(d.Usage)
	}
	r := k.report
	r.Label, r.ID, r.Type, r.Public = k.key.Label, k.key.ID, k.key.Type, k.public
}

// origin finds out which token made the key, which have held it, and which can
// take it back.
func (a *adoption) origin(k *adoptee) {
	if r, err := cvc.ParseRequest(k.key.Certificate); err == nil && len(r.OuterCAR) > 5 {
		k.report.MadeOn = r.OuterCAR[:len(r.OuterCAR)-5] // fact sheet §1: the CHR is the serial and five digits
		if device := a.devices[r.OuterCAR]; device != nil {
			if k.report.Vouched = r.VerifyOuter(device) == nil; !k.report.Vouched {
				k.report.note("the request names %s, but that token's signature in it does not verify", k.report.MadeOn)
			}
		}
	}
	add := func(list *[]string, serial string) {
		if serial != "" && !slices.Contains(*list, serial) {
			*list = append(*list, serial)
		}
	}
	takes := func(t store.Token) {
		for _, d := range t.Domains {
			if d.KCV == k.key.KCV {
				add(&k.report.Tokens, t.Serial)
			}
		}
	}
	if a.o.Inventory != nil {
		takes(a.o.Inventory.token())
	}
	newest := map[string]bool{}
	for _, s := range slices.Backward(a.h.Snapshots) {
		attached := a.o.Inventory != nil && a.o.Inventory.Serial == s.Token.Serial
		if !newest[s.Token.Serial] && !attached {
			takes(s.Token)
		}
		newest[s.Token.Serial] = true
		for i := range s.Keys {
			if samePublic(&s.Keys[i], &k.key) || sameAnswer(&s.Keys[i], &k.key) {
				add(&k.report.InSnapshots, s.Token.Serial)
			}
		}
	}
}

// onToken finds the keys of the attached token that the files hold: by public
// key, and those that have none by a description that only one key there has.
func (a *adoption) onToken() {
	if a.o.Inventory == nil {
		return
	}
	for _, k := range a.list {
		var fits []*Key
		for i := range a.o.Inventory.Keys {
			here := &a.o.Inventory.Keys[i]
			switch {
			case here.Public != nil && k.public != nil:
				if here.Public.Equal(k.public) {
					fits = append(fits, here)
				}
			case here.Public == nil && k.public == nil && here.Kind == pkcs15.AES && len(k.key.Description) > 0:
				if bytes.Equal(here.Description, k.key.Description) {
					fits = append(fits, here)
				}
			}
		}
		if len(fits) == 0 || len(fits) > 1 && k.public == nil {
			continue
		}
		// Of copies of one key that with the same description.
		best := fits[0]
		for _, here := range fits {
			if bytes.Equal(here.Description, k.key.Description) {
				best = here
				break
			}
		}
		k.report.On = best
	}
}

// merge keeps one export of each key.
func (a *adoption) merge() {
	var kept []*adoptee
	for _, k := range a.list {
		i := slices.IndexFunc(kept, func(o *adoptee) bool { return sameAdopted(o, k) })
		switch {
		case i < 0:
			kept = append(kept, k)
		case a.better(k, kept[i]):
			kept[i].stands, kept[i] = k, k
		default:
			k.stands = kept[i]
		}
	}
	for _, k := range a.list {
		r := k.report
		if k.stands == nil {
			r.Kept = true
			continue
		}
		for k.stands.stands != nil { // the one that is kept at last
			k.stands = k.stands.stands
		}
		r.SameAs = k.stands.report.Name
		switch {
		case r.Damage:
		case k.stands.kcv != k.kcv:
			r.Reason = fmt.Sprintf("the same key as %s, but under another recovery key: not kept; adopt it by itself to keep it as well", r.SameAs)
		default:
			r.note("another export of the same key as %s, which is kept", r.SameAs)
		}
	}
	a.all, a.list = a.list, kept
}

// sameAdopted tells whether two files hold one key.
func sameAdopted(x, y *adoptee) bool {
	return samePublic(&x.key, &y.key) || sameAnswer(&x.key, &y.key) || bytes.Equal(x.key.Blob, y.key.Blob)
}

// better tells which of two exports of one key is worth more.
func (a *adoption) better(x, y *adoptee) bool {
	score := func(k *adoptee) (n int) {
		for _, good := range []bool{
			k.opened,
			a.h.proofs[store.HashOf(k.key.Blob)].OK,
			k.report.On != nil && k.report.On.KCV == k.key.KCV,
			k.report.ShareSeen,
			!k.report.Damage,
			k.says != nil,
			len(k.key.Certificate) > 0,
		} {
			n <<= 1
			if good {
				n |= 1
			}
		}
		return n
	}
	return score(x) > score(y)
}

// place finds the references: that of the key on the attached token, else the
// one that the description names, if no other key has it. Else it is 0.
func (a *adoption) place() {
	taken := map[int]bool{}
	for _, k := range a.list {
		if on := k.report.On; on != nil && !taken[int(on.Reference)] {
			k.key.Reference, k.key.Domain = int(on.Reference), on.Info.Domain
			taken[k.key.Reference] = true
		}
	}
	claims := map[int]int{}
	claimed := func(k *adoptee) int {
		if k.key.Reference != 0 || k.says == nil || k.says.Reference < 1 || k.says.Reference > 255 {
			return 0
		}
		return k.says.Reference
	}
	for _, k := range a.list {
		claims[claimed(k)]++
	}
	for _, k := range a.list {
		switch n := claimed(k); {
		case n == 0:
		case taken[n] || claims[n] > 1:
			k.report.note("its description says reference %d, and so does another key's: the reference is not known", n)
		default:
			k.key.Reference = n
		}
	}
}

// withoutFile lists the keys of the attached token that are in no file.
func (a *adoption) withoutFile() []Key {
	var list []Key
	for i := range a.o.Inventory.Keys {
		here := &a.o.Inventory.Keys[i]
		if !slices.ContainsFunc(a.list, func(k *adoptee) bool { return k.report.On == here }) {
			list = append(list, *here)
		}
	}
	return list
}

// describe completes the records. A key without a description would come back
// unseen by PKCS#11: it gets that of the key on the attached token, else one is
// made, with the file's name as the label.
func (a *adoption) describe() {
	for _, k := range a.list {
		if k.says == nil {
			if on := k.report.On; on != nil && on.Description != nil {
				k.key.Description = on.Description
				k.report.note("no description: that on the token was taken")
			} else if d := k.made(); d != nil {
				k.key.Description = d.Encode()
				k.report.note("no description: one was made, with the label %q", d.Label)
			} else {
				k.report.note("no description: without shares nothing is known to make one of; PKCS#11 will not show the key")
			}
			k.name()
		}
		k.report.Reference = k.key.Reference
	}
}

// made is a description for a key that has none; nil if too little is known.
func (k *adoptee) made() *pkcs15.KeyDescription {
	d := &pkcs15.KeyDescription{Reference: -1}
	base := filepath.Base(strings.ReplaceAll(k.report.Name, `\`, "/"))
	d.Label = strings.ToValidUTF8(strings.TrimSuffix(base, filepath.Ext(base)), "_")
	sum := store.HashOf(k.key.Blob)
	switch {
	case k.public == nil && len(k.key.CheckValue) > 0:
		d.Kind = pkcs15.AES
		if _, err := fmt.Sscanf(k.key.Type, "AES-%d", &d.Bits); err != nil {
			return nil
		}
	case k.public == nil:
		return nil
	default:
		sum = k.public.Fingerprint()
		d.Kind, d.Bits = pkcs15.EC, k.public.Bits()
		if k.public.RSA != nil {
			d.Kind = pkcs15.RSA
		}
	}
	d.ID, d.Usage = sum[:8], pkcs15.DefaultUsage(d.Kind)
	return d
}

// record writes snapshot and proofs, unless the same was adopted before.
func (a *adoption) record(ctx context.Context, cat *store.Catalog, r *AdoptReport) error {
	s := &store.Snapshot{Program: a.o.Program, Adopted: true, Token: store.Token{FreeMemory: -1}}
	for _, k := range a.list {
		s.Keys = append(s.Keys, k.key)
	}
	for _, old := range slices.Backward(a.h.Snapshots) {
		if old.Adopted && slices.EqualFunc(old.Keys, s.Keys, sameRecord) {
			r.Snapshot, r.Existing = old, true
			break
		}
	}
	if !r.Existing {
		if err := cat.AddSnapshot(ctx, s); err != nil {
			return err
		}
		r.Snapshot = s
	}
	var proofs []store.Proof
	for _, k := range a.list {
		if k.opened {
			proofs = append(proofs, store.Proof{Snapshot: r.Snapshot.ID, Reference: k.key.Reference, Blob: store.HashOf(k.key.Blob), Kind: store.ProofOpened, OK: true, Matched: k.report.Matched})
		}
	}
	if err := cat.RecordProofs(proofs); err != nil {
		return fail.After(err)
	}
	if a.o.Key != nil {
		if err := RecordShares(cat, a.o.Key, true, "adopt"); err != nil {
			return fail.After(err)
		}
	}
	a.judge()
	return nil
}

// sameRecord tells whether two records of adopted keys say the same.
func sameRecord(x, y store.Key) bool {
	return x.Reference == y.Reference && x.Domain == y.Domain && x.PublicFrom == y.PublicFrom &&
		bytes.Equal(x.Blob, y.Blob) && bytes.Equal(x.PublicKey, y.PublicKey) && bytes.Equal(x.CheckValue, y.CheckValue) &&
		bytes.Equal(x.Description, y.Description) && bytes.Equal(x.Certificate, y.Certificate)
}

// judge says of each file whether its key is safe now.
func (a *adoption) judge() {
	for _, k := range a.list {
		f := k.report
		if p := a.h.proofs[store.HashOf(k.key.Blob)]; f.Proof == "" && p.OK {
			f.Proof, f.Matched = p.Kind, p.Matched
		}
		switch {
		case f.Damage:
		case f.Proof != "":
			f.OK = true
		case a.o.Key == nil:
			f.Reason = "not proven: no shares were given"
		default:
			f.Reason = "not proven: " + (&dkek.OtherKeyError{Blob: k.kcv, Key: a.o.Key.KCV()}).Error()
		}
	}
	for _, k := range a.all {
		if k.stands == nil {
			continue
		}
		f, stands := k.report, k.stands.report
		f.Reference = stands.Reference
		if f.Reason == "" {
			if f.OK = stands.OK; !f.OK {
				f.Reason = fmt.Sprintf("the same key as %s: %s", f.SameAs, stands.Reason)
			}
		}
	}
}

// checkValueOf is the check value that a token would give of an AES key
// (docs/format.md), worked out here.
func checkValueOf(private *dkek.PrivateKey, algorithms []byte) []byte {
	allows := schsm.KeyInfo{Algorithms: algorithms}.Allows
	for _, way := range aesAnswers {
		if allows(way.algorithm) {
			if answer, err := way.answer(private.AES(), fixedBytes("AES", 16)); err == nil {
				return append([]byte{byte(way.algorithm)}, answer...)
			}
		}
	}
	return nil
}

// aesAnswers are the AES challenges of a check value, the best first.
var aesAnswers = []struct {
	algorithm schsm.Algorithm
	answer    func(key, block []byte) ([]byte, error)
}{
	{schsm.AESEncrypt, func(key, block []byte) ([]byte, error) { return oneBlock(key, block, cipher.Block.Encrypt) }},
	{schsm.AESDecrypt, func(key, block []byte) ([]byte, error) { return oneBlock(key, block, cipher.Block.Decrypt) }},
	{schsm.AESCMAC, func(key, block []byte) ([]byte, error) {
		mac, err := cmac.Sum(key, block)
		return mac[:], err
	}},
}

// oneBlock is CBC of a single block with an initial vector of zeros.
func oneBlock(key, block []byte, do func(cipher.Block, []byte, []byte)) ([]byte, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, aes.BlockSize)
	do(c, out, block)
	return out, nil
}
