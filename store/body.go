package store

import (
	"encoding/json"
	"fmt"
)

// Body is what a log entry of one kind says. All kinds are declared in this
// package: what is written, what is taken for damage when it is read, and what
// it adds to a State stand in one place for each.
type Body interface {
	kind() string
	// check refuses what must not be written, and is damage where it is read.
	check() error
	// tell adds to the state what the entry says.
	tell(s *State, e *Entry)
}

// kinds reads the bodies of the kinds that this program knows. Entries of any
// other kind are a later program's: they are kept in the chain and say nothing.
var kinds = map[string]func(json.RawMessage) (Body, error){
	KindCreated:        bodyOf[Created],
	KindSnapshot:       bodyOf[SnapshotAdded],
	KindProof:          bodyOf[proofs],
	KindShareSeen:      bodyOf[ShareSeen],
	KindAccepted:       bodyOf[Accepted],
	KindCheck:          bodyOf[Checked],
	KindRestore:        bodyOf[Restored],
	KindExport:         bodyOf[Exported],
	KindSuccessor:      bodyOf[Successor],
	KindPartSet:        bodyOf[PartSet],
	KindPartSetRetired: bodyOf[RetiredSet],
	KindRollCall:       bodyOf[RollCall],
	KindCeremony:       bodyOf[Ceremony],
	KindCopy:           bodyOf[Copy],
	KindDrill:          bodyOf[Drilled],
	KindUse:            bodyOf[Use],
	KindOldToken:       bodyOf[OldToken],
	KindRotation:       bodyOf[Succession],
	KindUpdate:         bodyOf[UpdateStep],
	KindMended:         bodyOf[Mended],
	KindAsked:          bodyOf[Asked],
	KindSharesChecked:  bodyOf[SharesChecked],
	KindClock:          bodyOf[ClockAccepted],
	KindTokenAnchor:    bodyOf[TokenAnchor],
}

// bodyOf parses a body of a kind.
func bodyOf[T Body](raw json.RawMessage) (Body, error) {
	var b T
	if err := json.Unmarshal(raw, &b); err != nil {
		return nil, err
	}
	return b, b.check()
}

// parseBody reads what an entry says; nil for a kind that is not known here.
func parseBody(e *Entry) (Body, error) {
	parse, known := kinds[e.Kind]
	if !known {
		return nil, nil
	}
	b, err := parse(e.Body)
	if err != nil {
		return nil, fmt.Errorf("not readable as %q: %v", e.Kind, err)
	}
	return b, nil
}

// formatOf is the version of the format that a body needs.
func formatOf(b Body) int {
	if b, ok := b.(interface{ format() int }); ok {
		return b.format()
	}
	return formatVersion
}

// Raises tells whether older programs do not open the catalog any more once the
// body is in it: that is to be said before.
func (s *State) Raises(b Body) bool { return formatOf(b) > s.format }
