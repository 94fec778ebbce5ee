package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Kinds of log entries. The body is the type of that name, where there is
// one; of the others the caller decides.
const (
	KindCreated   = "created"    // Created; the first entry and no other
	KindSnapshot  = "snapshot"   // SnapshotAdded, by AddSnapshot
	KindProof     = "proof"      // by RecordProofs
	KindShareSeen = "share-seen" // ShareSeen
	KindAccepted  = "accepted"   // Accepted
	KindCheck     = "check"
	KindRestore   = "restore"
	KindExport    = "export"
	KindSuccessor = "successor" // Successor

	KindPartSet        = "part-set"         // PartSet
	KindPartSetRetired = "part-set-retired" // RetiredSet
	KindRollCall       = "roll-call"        // RollCall
	KindCeremony       = "ceremony"         // Ceremony
	KindCopy           = "copy"             // Copy
	KindDrill          = "drill"
	KindUse            = "use" // Use
)

// Created is the body of the first entry.
type Created struct {
	Format int `json:"format"`
}

// SnapshotAdded is the body of an entry that records a snapshot.
type SnapshotAdded struct {
	ID     string `json:"id"`
	Hash   Hash   `json:"hash"`
	Serial string `json:"serial"`
}

// Successor says that a token goes on under another serial, as after a
// firmware update.
type Successor struct {
	Serial      string `json:"serial"`
	SuccessorOf string `json:"successor_of"`
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
	Snapshot  string    `json:"snapshot"` // ID
	Reference int       `json:"reference"`
	Blob      Hash      `json:"blob"` // SHA-256 of the key blob that was proven
	Kind      string    `json:"kind"` // ProofRoundTrip, …
	OK        bool      `json:"ok"`
	Reason    string    `json:"reason,omitempty"`  // why not
	Matched   string    `json:"matched,omitempty"` // what an opened key was compared with
	Token     string    `json:"token,omitempty"`   // serial of the token it happened on
	At        int       `json:"at,omitempty"`      // where it was restored to on that token, if not to Reference
}

type proofs struct {
	Proofs []Proof `json:"proofs"`
}

// RecordProofs logs proofs as one entry; without any it does nothing.
func (c *Catalog) RecordProofs(p []Proof) error {
	if len(p) == 0 {
		return nil
	}
	_, err := c.Append(KindProof, proofs{Proofs: p})
	return err
}

// Proofs gives all proofs, oldest first.
func (c *Catalog) Proofs() ([]Proof, error) {
	var list []Proof
	err := c.each(KindProof, func(e Entry) error {
		var body proofs
		if err := json.Unmarshal(e.Body, &body); err != nil {
			return err
		}
		for _, p := range body.Proofs {
			p.Time = e.Time
			list = append(list, p)
		}
		return nil
	})
	return list, err
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

// RecordUse logs u; without any key it does nothing.
func (c *Catalog) RecordUse(u Use) error {
	if len(u.Keys) == 0 {
		return nil
	}
	_, err := c.Append(KindUse, u)
	return err
}

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

// RecordShareSeen logs s under its KCV.
func (c *Catalog) RecordShareSeen(s ShareSeen) error {
	if s.KCV == "" {
		return errors.New("share seen: no KCV")
	}
	if err := checkKCV(s.KCV); err != nil {
		return fmt.Errorf("share seen: %v", err)
	}
	s.KCV = strings.ToUpper(s.KCV)
	_, err := c.Append(KindShareSeen, s)
	return err
}

// SharesSeen gives the latest record of each KCV, but for two things: Software
// is false once a KCV was loaded to hardware, whatever happened later, since it
// is what keeps these shares off software tokens; and a Recipient stays known.
func (c *Catalog) SharesSeen() (map[KCV]ShareSeen, error) {
	seen := map[KCV]ShareSeen{}
	err := c.each(KindShareSeen, func(e Entry) error {
		var s ShareSeen
		if err := json.Unmarshal(e.Body, &s); err != nil {
			return err
		}
		s.Time = e.Time
		if before, ok := seen[s.KCV]; ok {
			s.Software = s.Software && before.Software
			if s.Recipient == "" {
				s.Recipient = before.Recipient
			}
		}
		seen[s.KCV] = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	return seen, nil
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

// RecordAccepted logs a.
func (c *Catalog) RecordAccepted(a Accepted) error {
	_, err := c.Append(KindAccepted, a)
	return err
}

// AcceptedKeys gives all acceptances, oldest first.
func (c *Catalog) AcceptedKeys() ([]Accepted, error) {
	var list []Accepted
	err := c.each(KindAccepted, func(e Entry) error {
		var a Accepted
		if err := json.Unmarshal(e.Body, &a); err != nil {
			return err
		}
		a.Time = e.Time
		list = append(list, a)
		return nil
	})
	return list, err
}

// each calls fn for the entries of a kind. A damaged log or a body that fn
// cannot read is ErrDamaged.
func (c *Catalog) each(kind string, fn func(e Entry) error) error {
	return c.view(func(tx *bolt.Tx) error {
		entries, found := readLog(tx)
		if err := found.err(); err != nil {
			return err
		}
		for _, e := range entries {
			if e.Kind != kind {
				continue
			}
			if err := fn(e); err != nil {
				return fmt.Errorf("%w: log entry %d: %v", ErrDamaged, e.Seq, err)
			}
		}
		return nil
	})
}
