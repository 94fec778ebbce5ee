package backup

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Action is what a restore would do with one key or file.
type Action string

// The actions.
const (
	// New: it is written to a free place.
	New Action = "new"
	// Same: it is there already.
	Same Action = "same"
	// Repair: part of it is there, from a restore that was cut off.
	Repair Action = "repair"
	// WouldReplace: something else is in its place, is covered by a backup, and
	// goes once the key is proven beside it.
	WouldReplace Action = "would-replace"
	// Conflict: something else is in its place, and is left there.
	Conflict Action = "conflict"
	// NotInBackup: the snapshot has no blob of it.
	NotInBackup Action = "not-in-backup"
	// NeedsShare: it is sealed under the DKEK, and the shares are not at hand.
	NeedsShare Action = "needs-share"
	// DoesNotFit: this token cannot take it.
	DoesNotFit Action = "does-not-fit"
)

// Done tells whether the action leads to a token that has the thing.
func (a Action) Done() bool { return a == Same || a.Writes() }

// Writes tells whether it leads there by writing to the token.
func (a Action) Writes() bool { return a == New || a == Repair || a == WouldReplace }

// Item is the plan for one key.
type Item struct {
	Key store.Key
	// Reference is where it goes; where it is, if it is there already.
	Reference byte
	Action    Action
	Reason    string
	// Notes are what must be known of the key besides (see Notes).
	Notes []string
}

// FileItem is the plan for one other file.
type FileItem struct {
	FID     schsm.FID
	Content []byte
	// Sealed: Content is encrypted, and the PIN protects the file.
	Sealed bool
	Action Action
	Reason string
}

// Plan is what a restore would do to a token.
type Plan struct {
	Snapshot *store.Snapshot
	// Serial is that of the token the plan was made for.
	Serial string
	Items  []Item
	Files  []FileItem
	// Problems stand in the way of all of it.
	Problems []Problem
	// Resumed: an earlier restore to this token was cut off.
	Resumed bool
	// SetUp says what of the token's set-up is not as the old one's was, and
	// stays so: only an initialisation changes it.
	SetUp []string
}

// Problem is something that must be settled before a restore.
type Problem struct{ Code, Message, Hint string }

// Fits tells whether everything of the snapshot would be on the token.
func (p *Plan) Fits() bool {
	if len(p.Problems) > 0 || len(p.Snapshot.Missing) > 0 {
		return false
	}
	for _, i := range p.Items {
		if !i.Action.Done() {
			return false
		}
	}
	for _, f := range p.Files {
		if !f.Action.Done() {
			return false
		}
	}
	return true
}

// Replacing is what the deletion of a key takes besides that it was backed up.
type Replacing struct {
	// Shares are those of the recovery key that the backup is under, or
	// SharesChecked its KCV, typed after `dkek check` on another computer.
	Shares        []*dkek.Share
	SharesChecked string
	SpendUse      func(Key) bool
	Consent       Consent
}

// RestoreOptions choose what is restored, and where.
type RestoreOptions struct {
	// Keys are references in the snapshot; nil is all keys, and all files.
	Keys []byte
	// At gives keys another reference than they had.
	At map[byte]byte
	// Blobs and AtBlob are Keys and At for keys of an adopted snapshot whose
	// reference is not known: by the hashes of their blobs.
	Blobs  []store.Hash
	AtBlob map[store.Hash]byte
	// Replace are references in the snapshot of keys that may take the place of
	// others, and ReplaceBlobs the same for adopted keys. It needs Catalog, where
	// what is in the way must be covered, and Journal.
	Replace      []byte
	ReplaceBlobs []store.Hash
	Replacing    Replacing
	Catalog      *store.Catalog
	// Without are references in the snapshot of keys that were given up: those
	// that cannot come back are left out of the plan.
	Without []int
	// OpenData opens what is sealed under the DKEK; nil without shares.
	OpenData func(sealed []byte) ([]byte, error)
	// Journal keeps track of work under way; nil reads all of it off the token.
	Journal *store.Journal
	// Progress is told what is being done; nil is silence.
	Progress func(what string, done, total int)
}

// MakePlan compares a snapshot with a token. It changes nothing and needs no
// PIN.
func MakePlan(ctx context.Context, card *schsm.Card, s *store.Snapshot, o RestoreOptions) (*Plan, error) {
	inv, err := Take(ctx, card)
	if err != nil {
		return nil, err
	}
	p := &Plan{Snapshot: s, Serial: inv.Serial}
	if o.Journal != nil {
		notes, err := o.Journal.Keys(restoreNotes(inv.Serial))
		if err != nil {
			return nil, err
		}
		p.Resumed = len(notes) > 0
	}
	free := newPlaces(inv, s, o)
	for _, k := range s.Keys {
		switch {
		case !o.all() && !o.chooses(k):
		case k.Reference == 0:
			item, err := free.planKey(k)
			if err != nil {
				return nil, err
			}
			p.Items = append(p.Items, item)
		default:
			item := planKey(inv, k, o.At, s.Keys...)
			if item.comesBack() || !slices.Contains(o.Without, k.Reference) {
				p.Items = append(p.Items, item)
			}
		}
	}
	if !o.all() && len(p.Items) < distinct(o.Keys)+distinct(o.Blobs) {
		return nil, fail.Failf("no-such-key", "`hsmbackup show` lists the keys of a snapshot", "snapshot %s has no key at one of the references %v", s.ID, o.Keys)
	}
	for i := range p.Items {
		p.Items[i].Notes = StoredNotes(s, &p.Items[i].Key)
	}
	if err := p.replace(inv, o); err != nil {
		return nil, err
	}
	p.twice()
	if o.all() {
		p.Files = planFiles(inv, s, o.OpenData != nil, p.Items)
	}
	p.compareSetUp(inv)
	p.tooLong(inv)
	p.capacity(inv)
	p.problems(inv)
	return p, nil
}

// comesBack tells whether a restore brings the key back. That a key was given up
// is a note, which never keeps one away that the snapshot can bring back.
func (i *Item) comesBack() bool { return i.Action != NotInBackup && i.Action != DoesNotFit }

// distinct counts what is in a list, each once.
func distinct[T comparable](list []T) int {
	seen := map[T]bool{}
	for _, x := range list {
		seen[x] = true
	}
	return len(seen)
}

// planKey decides about one key; others are the keys that are restored with it,
// itself included.
func planKey(inv *Inventory, k store.Key, at map[byte]byte, others ...store.Key) Item {
	item := Item{Key: k, Reference: byte(k.Reference)}
	if to, ok := at[item.Reference]; ok {
		item.Reference = to
	}
	decide := func(a Action, format string, args ...any) Item {
		item.Action = a
		if reason := fmt.Sprintf(format, args...); reason != "" {
			item.Reason = strings.TrimPrefix(item.Reason+"; ", "; ") + reason
		}
		return item
	}
	note, usable := mend(&k)
	if !usable {
		return decide(NotInBackup, "%s", note)
	}
	item.Key, item.Reason = k, note
	if len(k.Blob) == 0 {
		return decide(NotInBackup, "%s", orNone(k.Reason))
	}
	fresh := func(reason string) Item { // what is there already has been taken
		if why := cannotTake(inv, k); why != "" {
			return decide(DoesNotFit, "%s", why)
		}
		return decide(New, "%s", reason)
	}
	here := inv.at(item.Reference)
	if other, ok := moved(inv, k, item.Reference, others); ok {
		if !bytes.Equal(other.Description, k.Description) || !bytes.Equal(other.Certificate, k.Certificate) {
			return decide(Conflict, "this key is there as key %d with another description or certificate", other.Reference)
		}
		item.Reference = other.Reference
		return decide(Same, "already on the token as key %d", other.Reference)
	}
	switch {
	case here.key == nil && here.free():
		return fresh("")
	case here.key == nil && ((begun(here.description, k.Description) || misplaced(here.description, k)) && (begun(here.certificate, k.Certificate) || isRequest(here.certificate))):
		return fresh("what a deleted key left at this reference is replaced")
	case here.key == nil:
		return decide(Conflict, "a description or certificate without key is at reference %d", item.Reference)
	}
	same := here.key.Public != nil && bytes.Equal(here.key.Public.SPKI(), k.PublicKey)
	switch {
	case bytes.Equal(here.description, k.Description) && bytes.Equal(here.certificate, k.Certificate) && (same || len(k.PublicKey) == 0):
		return decide(Same, "")
	case here.key.Public != nil && !same:
		return decide(Conflict, "another key (%s) is at reference %d", here.key.Name(), item.Reference)
	case misplaced(here.description, k) && begun(here.certificate, k.Certificate):
		return decide(Repair, "its certificate stands in the description's place, as another tool writes it; it must answer like this one")
	case begun(here.description, k.Description) && begun(here.certificate, k.Certificate):
		return decide(Repair, "a key is there without all of its description and certificate; it must answer like this one")
	case same:
		return decide(Conflict, "this key is there with another description or certificate")
	}
	return decide(Conflict, "another key (%s) is at reference %d", here.key.Name(), item.Reference)
}

// moved finds a key on the token at another reference than the one it goes to:
// unless it is at that one too, or what is at the other is a second copy that
// the snapshot has, there or elsewhere.
func moved(inv *Inventory, k store.Key, goes byte, others []store.Key) (*Key, bool) {
	is := func(here *Key) bool { return here.Public != nil && bytes.Equal(here.Public.SPKI(), k.PublicKey) }
	if here := inv.at(goes).key; here != nil && is(here) {
		return nil, false
	}
	// Of several copies in the snapshot, a key on the token is the one at its
	// reference, else the one that is described like it, else the first that is
	// not where it was.
	ranks := func(here *Key, c store.Key) int {
		its := inv.at(byte(c.Reference)).key
		switch {
		case !bytes.Equal(c.PublicKey, k.PublicKey):
			return 0
		case c.Reference == int(here.Reference):
			return 3
		case its != nil && is(its):
			return 0
		case bytes.Equal(c.Description, here.Description):
			return 2
		}
		return 1
	}
	for i := range inv.Keys {
		here := &inv.Keys[i]
		if !is(here) || here.Description == nil {
			continue
		}
		which, rank := k.Reference, 0
		for _, c := range others {
			if n := ranks(here, c); n > rank {
				which, rank = c.Reference, n
			}
		}
		if which == k.Reference {
			return here, true
		}
	}
	return nil, false
}

// begun tells whether what is in a file is the beginning of what should be
// there, nothing at all included: a write that was cut off.
func begun(is, want []byte) bool { return bytes.HasPrefix(want, is) }

// isRequest tells whether a file holds a request: without its key it is worth
// nothing, and OpenSC leaves it behind when it deletes a key.
func isRequest(b []byte) bool {
	_, from := publicKey(b)
	return from == fromRequest
}

// place is what is at a reference.
type place struct {
	key                      *Key
	description, certificate []byte
}

func (p place) free() bool { return p.description == nil && p.certificate == nil }

func (inv *Inventory) at(reference byte) place {
	for i := range inv.Keys {
		if k := &inv.Keys[i]; k.Reference == reference {
			return place{k, k.Description, k.Certificate}
		}
	}
	var p place
	for _, f := range inv.Files {
		switch f.FID {
		case schsm.DescriptionFile(reference):
			p.description = f.Content
		case schsm.CertificateFile(reference):
			p.certificate = f.Content
		}
	}
	return p
}

// cannotTake says why a token of this firmware cannot hold a key.
func cannotTake(inv *Inventory, k store.Key) string {
	version := inv.version()
	kind, bits := kindAndBits(k)
	switch {
	case version.Before(3, 0) && kind == pkcs15.RSA && bits > 2048:
		return fmt.Sprintf("firmware %s takes RSA keys of up to 2048 bits", inv.Firmware)
	case version.Before(3, 0) && kind == pkcs15.AES:
		return fmt.Sprintf("firmware %s has no AES keys", inv.Firmware)
	case len(k.Algorithms) > 0 && faults.FindFault(faults.FaultLists).In(inv.Firmware):
		return cannotTakeLists(inv.Firmware)
	}
	return ""
}

func cannotTakeLists(firmware string) string {
	return fmt.Sprintf("firmware %s cannot take back keys that have a list of allowed algorithms", firmware)
}

func (inv *Inventory) version() schsm.Version { return version(inv.Firmware) }

func version(firmware string) schsm.Version {
	var v schsm.Version
	_, _ = fmt.Sscanf(firmware, "%d.%d", &v.Major, &v.Minor)
	return v
}

// kindAndBits gives the kind and size of a stored key, as good as is known.
func kindAndBits(k store.Key) (pkcs15.Kind, int) {
	if public, err := pubkey.ParseSPKI(k.PublicKey); err == nil {
		if public.RSA != nil {
			return pkcs15.RSA, public.Bits()
		}
		return pkcs15.EC, public.Bits()
	}
	kind := kindOf(k.Blob)
	if d, err := pkcs15.ParseKey(k.Description); err == nil && d.Kind == kind {
		return kind, d.Bits
	}
	return kind, 0
}

// twice finds two keys that would go to one reference.
func (p *Plan) twice() {
	taken := map[byte]int{}
	for i := range p.Items {
		item := &p.Items[i]
		if !item.Action.Done() || item.Action == Same {
			continue
		}
		if j, ok := taken[item.Reference]; ok {
			item.Action, item.Reason = Conflict, fmt.Sprintf("%s goes to reference %d too", keyName(p.Items[j].Key.Label, p.Items[j].Key.Reference), item.Reference)
			continue
		}
		taken[item.Reference] = i
	}
}

// planFiles decides about everything that is no key. items are the keys that are
// restored with it: a description or certificate that belonged to none does not
// come beside one.
func planFiles(inv *Inventory, s *store.Snapshot, canOpen bool, items []Item) []FileItem {
	here := map[schsm.FID][]byte{}
	for _, f := range inv.Files {
		here[f.FID] = f.Content
	}
	keys := map[schsm.FID]byte{}
	takes := func(reference byte) {
		keys[schsm.DescriptionFile(reference)], keys[schsm.CertificateFile(reference)] = reference, reference
	}
	for _, k := range inv.Keys {
		takes(k.Reference)
	}
	for _, i := range items {
		if i.Action.Done() {
			takes(i.Reference)
		}
	}
	var list []FileItem
	for _, f := range s.Files {
		n, err := strconv.ParseUint(f.FID, 16, 16)
		if err != nil {
			list = append(list, FileItem{Action: NotInBackup, Reason: fmt.Sprintf("%q is no file number", f.FID)})
			continue
		}
		item := FileItem{FID: schsm.FID(n), Content: f.Content, Sealed: f.Sealed, Action: New}
		if f.Damage != "" {
			item.Action, item.Reason = NotInBackup, "damaged in the catalog: "+f.Damage
			list = append(list, item)
			continue
		}
		switch {
		case f.Sealed && !canOpen:
			item.Action, item.Reason = NeedsShare, "it is sealed under the recovery key: give the shares with --share"
		case f.Sealed && slices.Contains(inv.Unread, item.FID):
			item.Action, item.Reason = Repair, "it is there; it is compared once the PIN is given"
		}
		if n, ok := keys[item.FID]; ok {
			item.Action, item.Reason = Conflict, fmt.Sprintf("it belongs to no key in the backup, and key %d is there", n)
		} else if now, ok := here[item.FID]; ok {
			switch {
			case bytes.Equal(now, f.Content):
				item.Action = Same
			case begun(now, f.Content):
				item.Action, item.Reason = Repair, "it is there in part"
			default:
				item.Action, item.Reason = Conflict, "another content is there"
			}
		}
		list = append(list, item)
	}
	return list
}

// compareSetUp looks at the options. How many tries the PIN was set up with a
// token tells after a login only.
func (p *Plan) compareSetUp(inv *Inventory) {
	was, err := strconv.ParseUint(p.Snapshot.Token.Options, 16, 16)
	if err != nil || !inv.Initialised {
		return
	}
	is := inv.Options &^ schsm.OptionTransportPIN
	if was := schsm.Options(was) &^ schsm.OptionTransportPIN; is != was {
		p.SetUp = append(p.SetUp, fmt.Sprintf("its options are %04x, those of the backup %04x", uint16(is), uint16(was)))
	}
}

// oldFile is the longest file in bytes that firmware before 3.0 is said to take.
// It was not confirmed, and such tokens write longer requests themselves.
const oldFile = 256

// tooLong marks what has a file that is too long for the token. What comes from
// a token as old was on one, so it is tried.
func (p *Plan) tooLong(inv *Inventory) {
	from := version(p.Snapshot.Token.Firmware)
	if !inv.version().Before(3, 0) || from != (schsm.Version{}) && from.Before(3, 0) {
		return
	}
	why := func(what string, n int) string {
		return fmt.Sprintf("%s has %d bytes, and firmware %s is not known to take files of more than %d", what, n, inv.Firmware, oldFile)
	}
	for i := range p.Items {
		item := &p.Items[i]
		d, c := len(item.Key.Description), len(item.Key.Certificate)
		switch {
		case item.Action != New && item.Action != Repair:
		case d > oldFile:
			item.Action, item.Reason = DoesNotFit, why("its description", d)
		case c > oldFile:
			item.Action, item.Reason = DoesNotFit, why("its certificate or request", c)
		}
	}
	for i := range p.Files {
		f := &p.Files[i]
		// How long sealed data is shows when it is opened.
		if n := len(f.Content); (f.Action == New || f.Action == Repair) && !f.Sealed && n > oldFile {
			f.Action, f.Reason = DoesNotFit, why("it", n)
		}
	}
}

// capacity marks the keys that the free memory does not hold. A key takes about
// as many bytes as it has bits, by the vendor's numbers (fact sheet §9, 30).
func (p *Plan) capacity(inv *Inventory) {
	free := inv.FreeMemory
	if free < 0 || !inv.Initialised {
		return
	}
	for i := range p.Items {
		item := &p.Items[i]
		if item.Action != New && item.Action != WouldReplace { // which is there twice for a while
			continue
		}
		_, bits := kindAndBits(item.Key)
		need := bits + len(item.Key.Description) + len(item.Key.Certificate)
		if need > free {
			item.Action, item.Reason = DoesNotFit, fmt.Sprintf("about %d bytes are needed, about %d are left", need, free)
			continue
		}
		free -= need
	}
}

// problems finds what stands in the way of all keys.
func (p *Plan) problems(inv *Inventory) {
	if !inv.Initialised {
		p.Problems = append(p.Problems, Problem{"not-initialised", "the token is not initialised", "`hsmbackup restore --init --share FILE …` sets it up and restores"})
		return
	}
	ready := map[string]bool{}
	for _, d := range inv.token().Domains {
		if d.KCV != "" {
			ready[d.KCV] = true
		}
	}
	// Of several key domains, those that have their DKEK go ahead.
	some := slices.ContainsFunc(p.Items, func(i Item) bool { return i.Action.Done() && ready[i.Key.KCV] })
	wrong := map[string]bool{}
	for n := range p.Items {
		i := &p.Items[n]
		kcv := i.Key.KCV
		switch {
		case i.Action != New && i.Action != WouldReplace || ready[kcv]:
		case some:
			i.Action, i.Reason = NeedsShare, fmt.Sprintf("it is under the recovery key %s, which no key domain of the token has; `hsmbackup dkek load --domain N` loads its shares", kcv)
		case !wrong[kcv]:
			wrong[kcv] = true
			x := Problem{"kcv-mismatch", fmt.Sprintf("the keys are under the recovery key %s, the token has %s", kcv, inv.recoveryKeys()),
				"`hsmbackup dkek load --share FILE …` if shares are missing; else initialise the token and load the shares of that recovery key"}
			if r := p.Snapshot.Rekeyed; r != nil && r.KCV == kcv && ready[r.OldKCV] {
				x.Message = fmt.Sprintf("the backup was re-keyed on %s: its keys are under the recovery key %s, the token still has the old one, %s", r.Time.Format(time.DateOnly), kcv, r.OldKCV)
				x.Hint = fmt.Sprintf("initialise the token with the shares of the new one (`hsmbackup restore --init`), or restore what the old one opens: --from %s", r.From.String()[:12])
			}
			p.Problems = append(p.Problems, x)
		}
	}
}

// recoveryKeys names the DKEKs of a token for a message.
func (inv *Inventory) recoveryKeys() string {
	out := ""
	for _, d := range inv.token().Domains {
		switch {
		case d.Outstanding > 0:
			out += fmt.Sprintf(" an incomplete one (%d of %d shares missing)", d.Outstanding, d.Shares)
		case d.KCV != "":
			out += " " + d.KCV
		}
	}
	if out == "" {
		return "none"
	}
	return out[1:]
}
