package store

import (
	"errors"
	"fmt"
	"time"
)

// Checked is the result of a check of the whole catalog.
type Checked struct {
	Proof    string `json:"proof"` // ProofIntact
	OK       bool   `json:"ok"`
	Anchored string `json:"anchored"`
}

func (Checked) kind() string { return KindCheck }
func (c Checked) check() error {
	return first(maybe("proof", c.Proof, isWord), maybe("anchor", c.Anchored, isWord))
}
func (c Checked) tell(s *State, e *Entry) {
	if c.OK && c.Proof == ProofIntact {
		s.Checked = e.dated()
	}
}

// Drilled is the result of a drill.
type Drilled struct {
	Snapshots []string `json:"snapshots"`
	KCVs      []string `json:"kcvs"`
	OK        bool     `json:"ok"`
	// Seconds from the first share to the last key used.
	Seconds float64 `json:"seconds"`
}

func (Drilled) kind() string { return KindDrill }
func (d Drilled) check() error {
	return first(each("snapshot", d.Snapshots, IsSnapshotID), each("KCV", d.KCVs, IsKCV))
}
func (Drilled) tell(*State, *Entry) {}

func (Exported) kind() string        { return KindExport }
func (e Exported) check() error      { return maybe("snapshot", e.Snapshot, IsSnapshotID) }
func (Exported) tell(*State, *Entry) {}

// Exported says that a snapshot was written as plain files.
type Exported struct {
	Snapshot string `json:"snapshot"`
	Hash     Hash   `json:"hash"`
}

// Restored is what a restore did.
type Restored struct {
	Snapshot string `json:"snapshot"`
	// From is the serial of the token that the snapshot is of, empty if adopted.
	From     string         `json:"from"`
	Token    string         `json:"token"`
	Complete bool           `json:"complete"`
	Keys     []RestoredKey  `json:"keys"`
	Files    []RestoredFile `json:"files"`
	// Missing is what the snapshot itself could not keep.
	Missing []Gap `json:"missing"`
}

// RestoredKey is what came of one key.
type RestoredKey struct {
	Reference int    `json:"reference"` // in the snapshot
	At        int    `json:"at"`        // on the token
	Label     string `json:"label"`
	ID        string `json:"id"`
	Type      string `json:"type"`
	// PublicKey is the SHA-256 of the public key as SPKI, zero if there is none.
	PublicKey Hash   `json:"public_key,omitzero"`
	Action    string `json:"action"` // what the plan said
	// OK: it was used on the token and answered as this key.
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// RestoredFile is what came of one file that is no key.
type RestoredFile struct {
	FID    string `json:"fid"`
	Action string `json:"action"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

func (Restored) kind() string { return KindRestore }
func (r Restored) check() error {
	if r.Token == "" {
		return errors.New("it names no token")
	}
	errs := []error{
		maybe("snapshot", r.Snapshot, IsSnapshotID), maybe("serial number", r.From, IsSerial), maybe("serial number", r.Token, IsSerial),
	}
	for _, k := range r.Keys {
		errs = append(errs, references(k.Reference, k.At), maybe("ID", k.ID, isHexText), maybe("type", k.Type, isType), maybe("action", k.Action, isWord))
	}
	for _, f := range r.Files {
		errs = append(errs, maybe("file id", f.FID, func(s string) bool { return isHex(s, 4) }), maybe("action", f.Action, isWord))
	}
	return first(errs...)
}
func (r Restored) tell(s *State, _ *Entry) { s.Restores = append(s.Restores, r) }

// Successor says that a token goes on under another serial, as after a
// firmware update.
type Successor struct {
	Seq         uint64 `json:"-"` // of the entry
	Serial      string `json:"serial"`
	SuccessorOf string `json:"successor_of"`
}

func (Successor) kind() string { return KindSuccessor }
func (r Successor) check() error {
	if r.Serial == "" || r.SuccessorOf == "" {
		return fmt.Errorf("%q succeeds %q", r.Serial, r.SuccessorOf)
	}
	return first(maybe("serial number", r.Serial, IsSerial), maybe("serial number", r.SuccessorOf, IsSerial))
}
func (r Successor) tell(s *State, e *Entry) {
	if r.Seq = e.Seq; r.Serial != r.SuccessorOf {
		s.successors = append(s.successors, r)
	}
}

// Fate is what became of a token.
type Fate string

// The fates.
const (
	Broken Fate = "broken"
	Lost   Fate = "lost"
	Stolen Fate = "stolen"
	// Wiped: it holds nothing any more.
	Wiped Fate = "wiped"
)

// OldToken says what became of a token after its keys were restored onto
// another.
type OldToken struct {
	Serial string `json:"serial"`
	Fate   Fate   `json:"fate"`
	// Token has its keys now.
	Token string `json:"token"`
	Seq   uint64 `json:"-"` // of the entry
}

func (OldToken) kind() string { return KindOldToken }
func (o OldToken) check() error {
	switch o.Fate {
	case Broken, Lost, Stolen, Wiped:
		return first(maybe("serial number", o.Serial, IsSerial), maybe("serial number", o.Token, IsSerial))
	}
	return fmt.Errorf("fate %q", o.Fate)
}
func (o OldToken) tell(s *State, e *Entry) {
	o.Seq = e.Seq
	s.Fates[o.Serial] = o
}

// Succession is a key that cannot leave its token, and the key made in its
// place on another one.
type Succession struct {
	// From and To are the serials of the tokens, Reference and At the key
	// references on them.
	From      string `json:"from"`
	Reference int    `json:"reference"`
	To        string `json:"to"`
	At        int    `json:"at"`
	Label     string `json:"label"`
	Type      string `json:"type"`
	// Old and New are the SHA-256 of the public keys as SPKI; zero where there
	// is none.
	Old Hash `json:"old,omitzero"`
	New Hash `json:"new,omitzero"`
}

func (Succession) kind() string { return KindRotation }
func (r Succession) check() error {
	return first(maybe("serial number", r.From, IsSerial), maybe("serial number", r.To, IsSerial), references(r.Reference, r.At), maybe("type", r.Type, isType))
}
func (r Succession) tell(s *State, _ *Entry) { s.Successions = append(s.Successions, r) }

// UpdateStep says how far the firmware update of a token has got.
type UpdateStep struct {
	Time      time.Time `json:"-"` // of the entry
	Serial    string    `json:"serial"`
	Firmware  string    `json:"firmware"`
	Snapshot  string    `json:"snapshot"` // ID
	Step      string    `json:"step"`     // UpdateEmptied, …
	Successor string    `json:"successor,omitempty"`
	// Discarded are references of keys that went for good, as was typed.
	Discarded []int `json:"discarded,omitempty"`
}

// Steps of a firmware update.
const (
	UpdateEmptied  = "emptied"
	UpdatePutBack  = "put-back" // everything is on the token again, and no update was made
	UpdateFinished = "finished"
	UpdateSettled  = "settled" // left as it is, as was typed
)

func (UpdateStep) kind() string { return KindUpdate }
func (u UpdateStep) check() error {
	if u.Serial == "" || u.Step == "" {
		return errors.New("it names no token or no step")
	}
	return first(maybe("serial number", u.Serial, IsSerial), maybe("serial number", u.Successor, IsSerial), maybe("firmware", u.Firmware, IsFirmware),
		maybe("snapshot", u.Snapshot, IsSnapshotID), maybe("step", u.Step, isWord), references(u.Discarded...))
}
func (u UpdateStep) tell(s *State, e *Entry) {
	u.Time = e.Time
	s.Updates = append(s.Updates, u)
}

// Mended says that the head of the log was made anew from the last entry,
// because its own record was damaged.
type Mended struct {
	What string `json:"what"`
}

func (Mended) kind() string        { return KindMended }
func (Mended) check() error        { return nil }
func (Mended) tell(*State, *Entry) {}
