package main

import (
	"hsmbackup/internal/custody"
	"hsmbackup/internal/report"
)

// The documents of --json. Hex is upper case for KCVs and lower case for
// everything else; times are RFC 3339 in UTC.

type jsonStatus struct {
	Tokens []report.Token `json:"tokens"`
	// PartSets are those in use.
	PartSets []custody.PartSet `json:"part_sets,omitempty"`
	// Updates say where firmware updates stand that are under way.
	Updates []string `json:"firmware_updates,omitempty"`
}

type jsonVerification struct {
	Proof     string              `json:"proof"`
	OK        bool                `json:"ok"`
	Anchored  string              `json:"anchored"`
	Snapshots []jsonSnapshotProof `json:"snapshots"`
	// Findings are damage in the catalog itself, Uncovered keys of an attached
	// token that are in no snapshot.
	Findings    []jsonFinding `json:"findings"`
	Uncovered   []report.Key  `json:"uncovered"`
	NotRecorded string        `json:"not_recorded"`
	// Doubts keep it from being good although nothing is damaged; AnchoredUpTo is
	// the entry that verify --offline anchored.
	Doubts       []string `json:"doubts,omitempty"`
	AnchoredUpTo uint64   `json:"anchored_up_to,omitempty"`
	// Copies are those of the catalog that a check looked at.
	Copies []jsonCopy `json:"copies,omitempty"`
	// Signed is what enough custodians of a set signed of the log, a line for each.
	Signed []string `json:"signed,omitempty"`
	// Seconds is how long a drill took.
	Seconds float64 `json:"seconds,omitempty"`
	// PartSets are those in use, of a check.
	PartSets []custody.PartSet `json:"part_sets,omitempty"`
}

type jsonSnapshotProof struct {
	ID    string         `json:"id"`
	Token string         `json:"token"`
	Keys  []jsonKeyProof `json:"keys"`
	// Left is what a drill did not bring back, besides keys.
	Left []string `json:"left,omitempty"`
}

type jsonKeyProof struct {
	Reference int    `json:"reference"`
	Label     string `json:"label"`
	ID        string `json:"id"`
	Type      string `json:"type"`
	Proof     string `json:"proof"`
	Matched   string `json:"matched"`
	OK        bool   `json:"ok"`
	Reason    string `json:"reason"`
	// Unchecked: this proof says nothing of the key, for the reason given.
	Unchecked bool `json:"unchecked,omitempty"`
	// Mechanism is the way it was used through PKCS#11.
	Mechanism string `json:"mechanism,omitempty"`
}

// jsonCopy is a copy of the catalog: when it was made, whether it could be
// looked at, and how many entries it lacks.
type jsonCopy struct {
	Path    string `json:"path"`
	Made    string `json:"made"`
	Reached bool   `json:"reached"`
	Behind  int    `json:"behind"`
	Damage  string `json:"damage"`
}

type jsonFinding struct {
	Where string `json:"where"`
	What  string `json:"what"`
}
