package store

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kinds of log entries, with the types of their bodies.
const (
	KindCreated   = "created"    // Created; the first entry and no other
	KindSnapshot  = "snapshot"   // SnapshotAdded, by AddSnapshot
	KindProof     = "proof"      // by RecordProofs
	KindShareSeen = "share-seen" // ShareSeen
	KindAccepted  = "accepted"   // Accepted
	KindCheck     = "check"      // Checked
	KindRestore   = "restore"    // Restored
	KindExport    = "export"     // Exported
	KindSuccessor = "successor"  // Successor

	KindPartSet        = "part-set"         // PartSet
	KindPartSetRetired = "part-set-retired" // RetiredSet
	KindRollCall       = "roll-call"        // RollCall
	KindCeremony       = "ceremony"         // Ceremony
	KindCopy           = "copy"             // Copy
	KindDrill          = "drill"            // Drilled
	KindUse            = "use"              // Use
	KindOldToken       = "old-token"        // OldToken
	KindRotation       = "rotation"         // Succession
	KindUpdate         = "firmware-update"  // UpdateStep
	KindMended         = "head-mended"      // Mended, by Append
	KindAsked          = "asked"            // Asked
	KindSharesChecked  = "shares-checked"   // SharesChecked
	KindClock          = "clock"            // ClockAccepted
	KindTokenAnchor    = "token-anchor"     // TokenAnchor
)

// Created is the body of the first entry.
type Created struct {
	Format int `json:"format"`
	// Random is 16 bytes, so that no two catalogs begin alike; older ones have
	// none.
	Random hexBytes `json:"random,omitempty"`
}

func (Created) kind() string        { return KindCreated }
func (Created) check() error        { return nil }
func (Created) tell(*State, *Entry) {}

// SnapshotAdded is the body of an entry that records a snapshot.
type SnapshotAdded struct {
	ID     string `json:"id"`
	Hash   Hash   `json:"hash"`
	Serial string `json:"serial"`
}

func (SnapshotAdded) kind() string { return KindSnapshot }
func (a SnapshotAdded) check() error {
	if a.Hash.IsZero() || a.ID != snapshotID(a.Hash) {
		return fmt.Errorf("id %q is not the beginning of hash %s", a.ID, a.Hash)
	}
	return maybe("serial number", a.Serial, IsSerial)
}
func (a SnapshotAdded) tell(s *State, e *Entry) {
	s.added = append(s.added, addedAt{a, e.Seq})
}

// Kinds of proofs, weakest first.
const (
	ProofIntact    = "intact"
	ProofRoundTrip = "round-trip"
	ProofOpened    = "opened"
	ProofDrilled   = "drilled"
	ProofRestored  = "restored"
)

// ShowsReturn tells whether a proof of this kind, if it is good, shows that a
// stored key comes back. One that is not known here, as a later version may
// write it, shows nothing.
func ShowsReturn(kind string) bool {
	switch kind {
	case ProofRoundTrip, ProofOpened, ProofDrilled, ProofRestored:
		return true
	}
	return false
}

// Proof is one attempt to show that a stored key comes back.
type Proof struct {
	Time      time.Time `json:"-"`        // of the entry
	Seq       uint64    `json:"-"`        // of the entry
	Snapshot  string    `json:"snapshot"` // ID
	Reference int       `json:"reference"`
	Blob      Hash      `json:"blob"` // SHA-256 of the key blob that was proven
	Kind      string    `json:"kind"` // ProofRoundTrip, …
	OK        bool      `json:"ok"`
	Reason    string    `json:"reason,omitempty"`  // why not
	Untried   bool      `json:"untried,omitempty"` // not OK, and nothing was found against the blob either
	Matched   string    `json:"matched,omitempty"` // what an opened key was compared with
	Token     string    `json:"token,omitempty"`   // serial of the token it happened on
	At        int       `json:"at,omitempty"`      // where it was restored to on that token, if not to Reference
}

type proofs struct {
	Proofs []Proof `json:"proofs"`
}

func (proofs) kind() string { return KindProof }
func (l proofs) check() error {
	for _, p := range l.Proofs {
		if p.Blob.IsZero() || p.Reference < 0 || p.Reference > 255 {
			return fmt.Errorf("a proof of key reference %d names no key blob", p.Reference)
		}
		if err := first(maybe("snapshot", p.Snapshot, IsSnapshotID), maybe("kind of proof", p.Kind, isWord), maybe("match", p.Matched, isWord),
			maybe("serial number", p.Token, IsSerial), references(p.At)); err != nil {
			return err
		}
	}
	return nil
}
func (l proofs) tell(s *State, e *Entry) {
	for _, p := range l.Proofs {
		p.Time, p.Seq = e.dated(), e.Seq
		s.Proofs = append(s.Proofs, p)
	}
}

// RecordProofs logs proofs as one entry; without any it does nothing.
func (c *Catalog) RecordProofs(p []Proof) error {
	if len(p) == 0 {
		return nil
	}
	return c.Append(proofs{Proofs: p})
}

// Use says that keys on a token were used through a PKCS#11 module, as other
// programs use them. It is no Proof: it shows that the token serves its keys,
// and nothing of what is stored of them.
type Use struct {
	Snapshot string    `json:"snapshot"` // ID; what the answers were checked against
	Token    string    `json:"token"`    // serial
	Module   string    `json:"module"`   // its path
	Keys     []UsedKey `json:"keys"`
}

// UsedKey is one key of a Use.
type UsedKey struct {
	Reference int    `json:"reference"`  // in the snapshot
	PublicKey Hash   `json:"public_key"` // SHA-256 of its SPKI
	OK        bool   `json:"ok"`
	Mechanism string `json:"mechanism,omitempty"`
	Reason    string `json:"reason,omitempty"` // why not
}

func (Use) kind() string { return KindUse }
func (u Use) check() error {
	if len(u.Keys) == 0 {
		return errors.New("it names no key")
	}
	errs := []error{maybe("snapshot", u.Snapshot, IsSnapshotID), maybe("serial number", u.Token, IsSerial)}
	for _, k := range u.Keys {
		errs = append(errs, references(k.Reference))
	}
	return first(errs...)
}
func (Use) tell(*State, *Entry) {}

// ShareSeen says that shares which give a KCV were at hand.
type ShareSeen struct {
	Time time.Time `json:"-"` // of the entry
	KCV  KCV       `json:"kcv"`
	// Software: the token they were loaded to was a software token, or they
	// were not loaded.
	Software bool   `json:"software"`
	Origin   string `json:"origin"` // the job: "init", "dkek load", "verify"
	Random   bool   `json:"random"` // no shares exist: the token made the DKEK up
	// Recipient is what files are sealed to that only the DKEK opens; empty
	// where it was not at hand.
	Recipient string `json:"recipient,omitempty"`
}

// originTyped is what older programs wrote of shares that nobody had shown them:
// a KCV was typed. It counted for the job of then.
const originTyped = "checked on another computer, as typed"

func (ShareSeen) kind() string { return KindShareSeen }
func (r ShareSeen) check() error {
	if !isHex(r.KCV, 16) {
		return fmt.Errorf("share seen: KCV %q is not 16 hex digits", r.KCV)
	}
	return maybe("recipient", r.Recipient, isRecipient)
}

// tell keeps the latest record of each KCV, but for two things: Software is
// false once a KCV was loaded to hardware, whatever happened later, since it is
// what keeps these shares off software tokens; and a Recipient stays known.
func (r ShareSeen) tell(s *State, e *Entry) {
	if r.Origin == originTyped {
		return
	}
	r.Time, r.KCV = e.dated(), strings.ToUpper(r.KCV)
	if before, ok := s.Shares[r.KCV]; ok {
		r.Software = r.Software && before.Software
		if r.Recipient == "" {
			r.Recipient = before.Recipient
		}
	}
	s.Shares[r.KCV] = r
}

// Accepted says that someone knows that a key cannot be exported.
type Accepted struct {
	Time      time.Time `json:"-"` // of the entry
	Serial    string    `json:"serial"`
	Reference int       `json:"reference"`
	PublicKey Hash      `json:"public_key,omitzero"` // SHA-256 of its SPKI; zero: not known
	Label     string    `json:"label"`
	Reason    string    `json:"reason"`
}

func (Accepted) kind() string { return KindAccepted }
func (a Accepted) check() error {
	if a.Reference < 1 || a.Reference > 255 {
		return fmt.Errorf("key reference %d is not within 1 to 255", a.Reference)
	}
	return maybe("serial number", a.Serial, IsSerial)
}
func (a Accepted) tell(s *State, e *Entry) {
	a.Time = e.Time
	s.Accepted = append(s.Accepted, a)
}
