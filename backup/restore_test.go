package backup

import (
	"context"
	"errors"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/softtoken"
)

// A token that changed since the plan was made gets nothing: somebody agreed to
// something else.
func TestRestoreOfAnOldPlan(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	_, card := newToken(t, "3.6", "SOFT0400001")
	initToken(t, card, cat, newShare(t, 1))
	p, err := MakePlan(ctx, card, s, RestoreOptions{})
	if err != nil || !p.Fits() {
		t.Fatalf("%+v, %v", p, err)
	}
	generate(t, card, 2, "P-256", "came since", []byte{9})
	var job *fail.Error
	if _, err := Restore(ctx, card, cat, p, RestoreOptions{}); !errors.As(err, &job) || job.Code != "token-changed" {
		t.Errorf("%v", err)
	}
	if inv, err := Take(ctx, card); err != nil || len(inv.Keys) != 1 {
		t.Errorf("%+v, %v", inv.Keys, err)
	}
}

// cutting is a reader that takes the last byte off what is written to a file,
// and says nothing.
type cutting struct {
	*softtoken.Token
	file byte
}

func (c cutting) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	cmd, err := apdu.Parse(command)
	if err == nil && cmd.INS == 0xD7 && cmd.P1 == c.file {
		data := append([]byte(nil), cmd.Data[:len(cmd.Data)-1]...)
		data[5]-- // 54 02 offset, 53 length
		cmd.Data = data
		if command, err = cmd.Bytes(); err != nil {
			return nil, err
		}
	}
	return c.Token.Transmit(ctx, command)
}

// What a reader or the token cut is noticed, whatever the answer was.
func TestRestoreReadsBack(t *testing.T) {
	ctx := context.Background()
	cat, s, _ := twoKeys(t)
	token, card := newToken(t, "3.6", "SOFT0400001")
	initToken(t, card, cat, newShare(t, 1))
	card = openWay(t, cutting{token, 0xC4})
	if err := card.Login(ctx, userPIN(), false); err != nil {
		t.Fatal(err)
	}
	p, err := MakePlan(ctx, card, s, RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Restore(ctx, card, cat, p, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "reads back") || r.Keys[0].OK {
		t.Errorf("%+v, %v", r, err)
	}
}

// Nothing is written over: a file with another content stays, and two keys do
// not go to one place. What the token has no room for is said before.
func TestPlanLeavesWhatIsThere(t *testing.T) {
	ctx := context.Background()
	token, card, cat, _ := readyForUpdate(t)
	if _, err := Run(ctx, card, cat, Options{}); err != nil {
		t.Fatal(err)
	}
	s := mustSnapshot(t, cat, "latest")
	if err := card.DeleteFile(ctx, 0xCA01); err != nil {
		t.Fatal(err)
	}
	if err := card.WriteFile(ctx, 0xCA01, []byte("somebody's")); err != nil {
		t.Fatal(err)
	}
	r := restoreAll(t, login(t, token), cat, s)
	if b, err := card.ReadFile(ctx, 0xCA01); err != nil || string(b) != "somebody's" || r.Complete() {
		t.Errorf("%q, %v, complete: %v", b, err, r.Complete())
	}

	_, spare := newToken(t, "3.6", "SOFT0400001")
	initToken(t, spare, cat, newShare(t, 1))
	p, err := MakePlan(ctx, spare, s, RestoreOptions{At: map[byte]byte{1: 7}})
	if err != nil || p.Items[0].Action != New || p.Items[1].Action != Conflict {
		t.Errorf("two at one reference: %+v, %v", p.Items, err)
	}
	_, small := newTokenWith(t, softtoken.Options{Serial: "SOFT0400002", Memory: 1024})
	initToken(t, small, cat, newShare(t, 1))
	if p, err = MakePlan(ctx, small, s, RestoreOptions{}); err != nil || p.Items[0].Action != New || p.Items[1].Action != DoesNotFit {
		t.Errorf("a small token: %+v, %v", p.Items, err)
	}
}
