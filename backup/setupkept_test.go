package backup

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
)

// pka is a token with public key authentication: three of four keys are
// registered.
type pka struct{ *softtoken.Token }

func (p pka) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	c, err := apdu.Parse(command)
	if err != nil || c.CLA != 0x80 || c.INS != 0x54 {
		return p.Token.Transmit(ctx, command)
	}
	switch {
	case c.P1 == 0:
		return []byte{4, 1, 2, 0, 0x90, 0x00}, nil
	case c.P1 == 2 && c.P2 < 2:
		return append([]byte("DENK020000"+string('1'+rune(c.P2))+"00001"), 0x90, 0x00), nil
	}
	return []byte{0x6A, 0x88}, nil
}

// Registrations for login by keys are on no other token: the backup names them,
// and so does every plan made with it.
func TestRegistrationsNamed(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	share := newShare(t, 1)
	token, _ := newToken(t, "3.5", "SOFT0200001")
	card := openWay(t, pka{token})
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || r.Complete() || !Complete(r.Keys) || len(r.Snapshot.Missing) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, says := range []string{"3 of 4 keys", "DENK0200001", "DENK0200002", "2 must log in together", "registered anew"} {
		if gap := r.Snapshot.Missing[0]; gap.What != "public key authentication" || !strings.Contains(gap.Reason, says) {
			t.Errorf("%q is not in %+v", says, gap)
		}
	}
	// It keeps no token from a wipe that all keys survive: it was named.
	if err := guardWipe(t, card, cat, share); err != nil {
		t.Error(err)
	}
	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, share)
	if report := restoreAll(t, spare, cat, r.Snapshot); report.Plan.Fits() || report.Complete() || !report.Keys[0].OK {
		t.Errorf("%+v", report)
	}
}

// TokenInfo comes back byte for byte where the token has none, and where it has
// one of its own this is said; a tail and an odd form change nothing.
func TestTokenInfoKept(t *testing.T) {
	ctx := context.Background()
	cat, share, card := initialised(t)
	info := append([]byte{0x30, 0x0C, 2, 1, 0, 0x80, 3, 's', 'r', 'c', 3, 2, 5, 0x20}, "a tail"...)
	if err := card.DeleteFile(ctx, schsm.FIDTokenInfo); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, schsm.FIDTokenInfo, info); err != nil {
		t.Fatal(err)
	}
	generate(t, card, 1, "P-256", "one", []byte{1})
	r, err := Run(ctx, card, cat, Options{})
	if err != nil || !bytes.Equal(r.Snapshot.Token.TokenInfo, info) || r.Snapshot.Token.PINTries != 3 || r.Snapshot.Token.Options != "0001" {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, own := range []bool{false, true} {
		_, spare := newToken(t, "3.6", "SOFT0400001")
		initToken(t, spare, cat, share)
		if !own {
			if err := spare.DeleteFile(ctx, schsm.FIDTokenInfo); err != nil {
				t.Fatal(err)
			}
		}
		report := restoreAll(t, spare, cat, r.Snapshot)
		got, err := spare.ReadFile(ctx, schsm.FIDTokenInfo)
		if err != nil || !report.Complete() || bytes.Equal(got, info) == own || (report.LabelKept == "ssh") != own {
			t.Errorf("own label: %v; kept %q, is %q, %v", own, report.LabelKept, got, err)
		}
	}
}

// Options and the tries of the PIN are as the old token's were, or it is said
// that they are not.
func TestSetUpCompared(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	share := newShare(t, 1)
	_, card := newToken(t, "3.5", "SOFT0200001")
	set := func(options schsm.Options, tries int) SetUp {
		return SetUp{Initialisation: schsm.Initialisation{Options: options, PIN: userPIN(), SOPIN: soPIN(), PINTries: tries},
			Sets: []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}}
	}
	if _, _, err := Initialise(ctx, card, cat, set(0, 2)); err != nil {
		t.Fatal(err)
	}
	generate(t, card, 1, "P-256", "one", []byte{1})
	r, err := Run(ctx, card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		options schsm.Options
		tries   int
		says    string
	}{
		{0, 2, ""},
		{schsm.OptionUnblock, 3, "its options are 0001, those of the backup 0000; its PIN was set up with 3 tries, that of the backup with 2"},
		{schsm.OptionUnblock, 2, "its options are 0001, those of the backup 0000"},
		{0, 1, "its PIN was set up with 1 tries, that of the backup with 2"},
	} {
		token, spare := newToken(t, "3.6", "SOFT0400001")
		if _, _, err := Initialise(ctx, spare, cat, set(c.options, c.tries)); err != nil {
			t.Fatal(err)
		}
		report := restoreAll(t, spare, cat, r.Snapshot)
		if says := strings.Join(report.SetUp, "; "); says != c.says || !report.Complete() {
			t.Errorf("%+v: %q", c, says)
		}
		token.Reset()
		if s, err := openCard(t, token).PIN(ctx); err != nil || s.Tries != c.tries {
			t.Errorf("%+v: %+v, %v", c, s, err)
		}
	}
}
