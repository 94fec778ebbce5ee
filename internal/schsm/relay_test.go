package schsm

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/softtoken"
)

// relay is a fake token that passes every command on to a genuine one and keeps
// what it saw.
type relay struct {
	apdu.Transmitter
	seen []byte
	// refuse: what comes under session keys is not passed on.
	refuse bool
}

func (r *relay) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	r.seen = append(r.seen, command...)
	if r.refuse && command[0]&0x0C != 0 {
		return []byte{0x6E, 0x00}, nil
	}
	return r.Transmitter.Transmit(ctx, command)
}

// A relay passes as the genuine token behind it: nothing that is asked of a token
// can tell. What it does not get is a share that goes under session keys, unless
// the token takes none so, or the relay says that it does not; then it is said.
func TestFault26Relay(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		options softtoken.Options
		refuse  bool
		clear   bool
	}{
		"a token that takes it":         {},
		"a token that does not":         {options: softtoken.Options{NoSecured: true}, clear: true},
		"a relay that says it does not": {refuse: true, clear: true},
	} {
		t.Run(name, func(t *testing.T) {
			token, card := newToken(t, c.options)
			if err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1}); err != nil {
				t.Fatal(err)
			}
			between := &relay{Transmitter: token, refuse: c.refuse}
			card, err := Open(ctx, between)
			if err != nil {
				t.Fatal(err)
			}
			if err := card.Login(ctx, testPIN(), false); err != nil {
				t.Fatal(err)
			}
			if _, err := card.Genuine(ctx, token.Roots()); err != nil {
				t.Fatalf("a relay is told from the token behind it: %v", err)
			}
			d, err := card.LoadShare(ctx, 0, testShare())
			if err != nil || !d.Ready() {
				t.Fatalf("%+v, %v", d, err)
			}
			if got := bytes.Contains(between.seen, testShare()); got != c.clear {
				t.Errorf("the relay has the share: %v", got)
			}
			if said := strings.Contains(card.InClear(), "under session keys (it answered 6E00"); said != c.clear {
				t.Errorf("said: %q", card.InClear())
			}
			if err := card.WriteFile(ctx, 0xCF01, []byte{1}); err != nil {
				t.Errorf("the session afterwards: %v", err)
			}
		})
	}
}
