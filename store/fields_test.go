package store

import (
	"reflect"
	"slices"
	"testing"
)

// samples are bodies of each kind that can be written, with one of everything that
// they list. A kind that has none here is tried with what is empty.
var samples = map[string]Body{
	KindSnapshot:       SnapshotAdded{ID: snapshotID(hashOfAB), Hash: hashOfAB, Serial: "A1"},
	KindProof:          proofs{[]Proof{{Snapshot: "0123456789ab", Reference: 1, Blob: hashOfAB, Kind: ProofOpened}}},
	KindShareSeen:      ShareSeen{KCV: sampleKCV, Origin: "init"},
	KindAccepted:       Accepted{Serial: "A1", Reference: 1},
	KindDrill:          Drilled{Snapshots: []string{""}, KCVs: []string{""}},
	KindRestore:        Restored{Token: "A1", Keys: []RestoredKey{{}}, Files: []RestoredFile{{}}},
	KindSuccessor:      Successor{Serial: "A1", SuccessorOf: "A2"},
	KindPartSet:        PartSet{Set: "01234567", Share: 1, Shares: 1, Needed: 2, Custodians: []Custodian{{Index: 1, Name: "a", Commitment: hashOfAB[:]}, {Index: 2, Name: "b", Commitment: hashOfAB[:]}}},
	KindPartSetRetired: RetiredSet{Set: "01234567"},
	KindRollCall:       RollCall{Set: "01234567", Index: 1, Origin: "use"},
	KindCeremony:       Ceremony{Sets: []string{""}},
	KindUse:            Use{Keys: []UsedKey{{}}},
	KindOldToken:       OldToken{Serial: "A1", Fate: Lost, Token: "A2"},
	KindUpdate:         UpdateStep{Serial: "A1", Step: UpdateEmptied, Snapshot: "0123456789ab"},
}

var hashOfAB = Hash(slices.Repeat([]byte{0xAB}, len(Hash{})))

// texts are the fields that may be any text.
var texts = []string{"Label", "Reason", "Who", "Why", "Outcome", "Job", "Path", "Module", "Mechanism", "What", "Origin"}

// No string of a log entry but a text can hold what a shell, a path or a terminal
// acts upon.
func TestFault17EveryField(t *testing.T) {
	fields := 0
	for kind, parse := range kinds {
		sample := samples[kind]
		if sample == nil {
			sample, _ = parse([]byte("{}"))
		} else if err := sample.check(); err != nil {
			t.Errorf("%s: the sample: %v", kind, err)
		}
		body := reflect.New(reflect.TypeOf(sample)).Elem()
		body.Set(reflect.ValueOf(sample))
		eachString(body, kind, func(name string, field reflect.Value) {
			fields++
			was := field.String()
			field.SetString("../$(x)\n\x1b[2J")
			if body.Interface().(Body).check() == nil {
				t.Errorf("%s may be anything", name)
			}
			field.SetString(was)
		})
	}
	t.Logf("%d fields", fields)
}

// eachString calls f for each string within v that is stored and no text.
func eachString(v reflect.Value, name string, f func(name string, field reflect.Value)) {
	switch v.Kind() {
	case reflect.String:
		f(name, v)
	case reflect.Slice:
		for i := range v.Len() {
			eachString(v.Index(i), name, f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() && field.Tag.Get("json") != "-" && !slices.Contains(texts, field.Name) {
				eachString(v.Field(i), name+"."+field.Name, f)
			}
		}
	}
}
