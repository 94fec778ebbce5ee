package backup

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// clocked is a token with two keys and a catalog under a clock that is set, as a
// later run opens it.
func clocked(t *testing.T) (now *time.Time, card *schsm.Card, cat *store.Catalog, key *dkek.Key) {
	t.Helper()
	dir := scratch(t)
	now = new(time.Time)
	*now = time.Now().Add(-100 * 24 * time.Hour)
	options := []store.Option{store.Clock(func() time.Time { return *now }), store.OnMachine(store.MachineAt(filepath.Join(dir, "recipients.json")))}
	made, err := store.Create(filepath.Join(dir, "c.db"), options...)
	if err != nil {
		t.Fatal(err)
	}
	_, card = newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, made, share)
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	if cat, err = store.Open(made.Path(), true, options...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cat.Close() })
	generate(t, card, 1, "P-256", "one", []byte{1})
	generate(t, card, 2, "P-256", "two", []byte{2})
	return now, card, cat, keyOf(t, share)
}

// Under a clock that ran ahead nothing has an age that can be told, not even once
// the clock has got there; check and verify say so until somebody says why.
func TestFault12ClockRanAhead(t *testing.T) {
	ctx := context.Background()
	now, card, cat, key := clocked(t)
	right := *now
	*now = now.Add(365 * 24 * time.Hour)
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	if v, err := VerifyOffline(ctx, cat, latest(t, cat), key, Options{}); err != nil || !v.OK() {
		t.Fatalf("%+v, %v", v, err)
	}
	ages := func() Ages { t.Helper(); return TakeAges(read(t, cat), *now)[0] }
	ahead := read(t, cat).Head.Seq
	*now = right.Add(time.Hour)
	if _, err := cat.Reread(); err != nil {
		t.Fatal(err)
	}
	unknown := func(when string) {
		t.Helper()
		a := ages()
		for what, at := range map[string]time.Time{"backup": a.Backup, "proof": a.Proof, "shares": a.ShareSeen} {
			if !at.Equal(store.UnknownTime) {
				t.Errorf("%s: %s: %v", when, what, at)
			}
		}
	}
	unknown("before anything follows")
	doubted := func(when string, want int) {
		t.Helper()
		v, err := Check(cat, nil, 0)
		if err != nil || len(v.Doubts) != want || v.Damaged() {
			t.Errorf("%s: %+v, %v", when, v, err)
		}
		if trip, err := VerifyRoundTrip(ctx, card, cat, nil, Options{}); err != nil || len(trip.Doubts) != want {
			t.Errorf("%s: %+v, %v", when, trip, err)
		}
		if want > 0 && !strings.Contains(v.Doubts[0].Do, "accept --clock") {
			t.Errorf("%+v", v.Doubts)
		}
	}
	doubted("at once", 1)
	if last := ages().Check; !last.IsZero() {
		t.Errorf("a check that was doubtful counts as good: %v", last)
	}
	doubted("when something follows", 1)
	unknown("when something follows")

	// Time passes; what was dated ahead looks like yesterday, and is not.
	*now = right.Add(366 * 24 * time.Hour)
	unknown("a year later")
	if err := AcceptClock(cat, ahead+7, "wrong"); fail.ClassOf(err) != fail.Failed {
		t.Errorf("of another entry: %v", err)
	}
	if err := AcceptClock(cat, ahead, "the battery was empty"); err != nil {
		t.Fatal(err)
	}
	if err := AcceptClock(cat, ahead, "again"); err == nil {
		t.Error("accepted twice")
	}
	doubted("accepted", 0)
	unknown("accepted")
	if v, err := VerifyRoundTrip(ctx, card, cat, latest(t, cat), Options{}); err != nil || !v.OK() {
		t.Fatalf("%+v, %v", v, err)
	}
	if a := ages(); !a.Proof.Equal(now.UTC().Truncate(time.Second)) || !a.Backup.Equal(store.UnknownTime) {
		t.Errorf("proven anew: %+v", a)
	}
}

// A later anchor settles it, and somebody has to agree.
func TestFault12AnchorCoversTheJump(t *testing.T) {
	ctx := context.Background()
	now, card, cat, key := clocked(t)
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(48 * time.Hour)
	if _, err := Check(cat, nil, 0); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(-48 * time.Hour)
	if _, err := Check(cat, nil, 0); err != nil {
		t.Fatal(err)
	}
	if v, err := VerifyOffline(ctx, cat, latest(t, cat), key, Options{}); err != nil || len(v.Doubts) != 1 || v.NewAnchor != 0 || v.Unmoved == "" {
		t.Errorf("nobody agreed: %+v, %v", v, err)
	}
	asked := false
	v, err := VerifyOffline(ctx, cat, latest(t, cat), key, Options{Confirm: func(s Since) (bool, error) {
		asked = len(s.Jumps) == 1
		return true, nil
	}})
	if err != nil || !asked || len(v.Doubts) != 0 || v.NewAnchor == 0 {
		t.Errorf("asked %v: %+v, %v", asked, v, err)
	}
	if v, err := Check(cat, nil, 0); err != nil || len(v.Doubts) != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// Two computers that are some minutes apart are no jump.
func TestClocksApart(t *testing.T) {
	now, _, cat, _ := clocked(t)
	for _, d := range []time.Duration{9 * time.Minute, -9 * time.Minute, 9 * time.Minute} {
		*now = now.Add(d)
		if v, err := Check(cat, nil, 0); err != nil || len(v.Doubts) != 0 {
			t.Errorf("%+v, %v", v, err)
		}
	}
}
