package backup

import (
	"context"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// rehearse drills snapshots on tokens in memory; faults go to each of them.
func rehearse(t testing.TB, cat *store.Catalog, fault softtoken.Fault, list []*store.Snapshot, shares ...*dkek.Share) (*Verification, error) {
	t.Helper()
	return Drill(context.Background(), cat, list, shares, DrillOptions{Started: time.Now(), NewToken: func() (apdu.Transmitter, func() error, error) {
		token, err := softtoken.New(softtoken.Options{})
		if err != nil {
			return nil, nil, err
		}
		token.SetFault(fault)
		return token, token.Close, nil
	}})
}

func TestDrill(t *testing.T) {
	cat, s, key := twoKeys(t)
	v, err := rehearse(t, cat, nil, []*store.Snapshot{s}, newShare(t, 1))
	if err != nil || !v.OK() || len(v.Snapshots[0].Keys) != 2 || v.NotRecorded != "" || v.Took <= 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	drilled := 0
	proofs := read(t, cat).Proofs
	for _, p := range proofs {
		if p.Kind == store.ProofDrilled && p.OK && p.Snapshot == s.ID {
			drilled++
		}
	}
	seen := read(t, cat).Shares
	if drilled != 2 || seen[key.KCV().String()].Origin != "drill" {
		t.Errorf("%d proofs, %+v", drilled, seen)
	}
	// The next one finds the anchor that this one set.
	if v, err = rehearse(t, cat, nil, []*store.Snapshot{s}, newShare(t, 1)); err != nil || v.Anchored != AnchoredDKEK {
		t.Errorf("anchored %q, %v", v.Anchored, err)
	}
}

// Shares of hardware go to no software token but the one of a drill.
func TestDrillOfHardware(t *testing.T) {
	cat, s, key := twoKeys(t)
	if err := cat.Append(store.ShareSeen{KCV: key.KCV().String(), Origin: "init"}); err != nil {
		t.Fatal(err)
	}
	if v, err := rehearse(t, cat, nil, []*store.Snapshot{s}, newShare(t, 1)); err != nil || !v.OK() {
		t.Fatalf("%+v, %v", v, err)
	}
	seen := read(t, cat).Shares
	if seen[key.KCV().String()].Software {
		t.Errorf("the drill made them shares of software: %+v", seen)
	}
}

func TestDrillReject(t *testing.T) {
	cat, good, key := twoKeys(t)
	for name, change := range map[string]func(s *store.Snapshot){
		"a blob of another key":              func(s *store.Snapshot) { s.Keys[0].Blob = s.Keys[1].Blob },
		"a changed byte in the ciphertext":   func(s *store.Snapshot) { s.Keys[0].Blob[100] ^= 1 },
		"a public key of another key":        func(s *store.Snapshot) { s.Keys[0].PublicKey = s.Keys[1].PublicKey },
		"a blob that never left its token":   func(s *store.Snapshot) { s.Keys[0].Blob, s.Keys[0].Reason = nil, "no DKEK" },
		"a blob that is damaged in the file": func(s *store.Snapshot) { s.Keys[0].Blob, s.Keys[0].Damage = nil, "its blob is damaged" },
	} {
		s := cloneKeys(good)
		change(s)
		v, err := rehearse(t, cat, nil, []*store.Snapshot{s}, newShare(t, 1))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if v.OK() || v.Snapshots[0].Keys[0].OK || v.Snapshots[0].Keys[0].Reason == "" || !v.Snapshots[0].Keys[1].OK {
			t.Errorf("%s: %+v", name, v.Snapshots[0].Keys)
		}
	}
	// Other shares say nothing of the keys, and are no damage.
	v, err := rehearse(t, cat, nil, []*store.Snapshot{good}, newShare(t, 40))
	if err != nil || v.OK() || v.Damaged() || !strings.Contains(v.Snapshots[0].Keys[0].Reason, key.KCV().String()) {
		t.Errorf("other shares: %+v, %v", v, err)
	}
	// A key that merely was imported is not one that was used.
	v, err = rehearse(t, cat, func(stage softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		if stage == softtoken.Before && (c.INS == 0x62 || c.INS == 0x68) {
			return apdu.SW(0x6F00), nil
		}
		return 0, nil
	}, []*store.Snapshot{good}, newShare(t, 1))
	if err == nil && v.OK() {
		t.Error("keys that could not be used were drilled")
	}
}
