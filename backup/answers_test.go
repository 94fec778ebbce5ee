package backup

import (
	"context"
	"errors"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
)

// lies answers the next command of an instruction with 6F00, before or after the
// work.
func lies(token *softtoken.Token, when softtoken.Stage, ins byte) {
	done := false
	token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		if s != when || c.INS != ins || len(c.Data) == 0 || done {
			return 0, nil
		}
		done = true
		return apdu.Internal, nil
	})
}

// setUpSSH is an initialisation with one share.
func setUpSSH(share *dkek.Share) SetUp {
	return SetUp{
		Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PIN: userPIN(), SOPIN: soPIN(), Label: "ssh"},
		Sets:           []DomainSet{{Shares: 1, Load: []*dkek.Share{share}}}, Trust: Trust{SoftFile: true}, Origin: "init", MinSOTries: DefaultSOFloor,
	}
}

// What was carried out counts as that, whatever the answer was; and what was not,
// as that.
func TestFault24AnswersAfterTheWork(t *testing.T) {
	ctx := context.Background()
	share := newShare(t, 1)
	for name, ins := range map[string]byte{"INITIALIZE": 0x50, "a share": 0x52, "the label": 0xD7} {
		t.Run(name, func(t *testing.T) {
			token, card := newToken(t, "3.5", "SOFT0200001")
			lies(token, softtoken.After, ins)
			kcvs, _, err := Initialise(ctx, card, nil, setUpSSH(share))
			if err != nil || len(kcvs) != 1 || kcvs[0].IsZero() {
				t.Fatalf("carried out and answered 6F00: %v, %v", kcvs, err)
			}
			if inv, err := Take(ctx, card); err != nil || inv.Label != "ssh" {
				t.Errorf("label %q, %v", inv.Label, err)
			}
		})
	}
	t.Run("INITIALIZE that was not", func(t *testing.T) {
		token, card := newToken(t, "3.5", "SOFT0200001")
		lies(token, softtoken.Before, 0x50)
		_, _, err := Initialise(ctx, card, nil, setUpSSH(share))
		if !errors.Is(err, apdu.ErrInternal) || fail.ClassOf(err) != fail.Failed || schsm.InDoubt(err) {
			t.Errorf("class %d, in doubt %v: %v", fail.ClassOf(err), schsm.InDoubt(err), err)
		}
	})
	t.Run("INITIALIZE of an empty token", func(t *testing.T) {
		for _, when := range []softtoken.Stage{softtoken.Before, softtoken.After} {
			token, card := newToken(t, "3.5", "SOFT0200001")
			set := setUpSSH(share)
			set.Initialisation.NoDKEK, set.Sets, set.Initialisation.Label = true, nil, ""
			if _, _, err := Initialise(ctx, card, nil, set); err != nil {
				t.Fatal(err)
			}
			lies(token, when, 0x50)
			// It looks the same whether it was done or not.
			if _, _, err := Initialise(ctx, card, nil, set); !errors.Is(err, schsm.ErrMaybeInitialised) || fail.ClassOf(err) != fail.Changed {
				t.Errorf("class %d: %v", fail.ClassOf(err), err)
			}
			if s, err := card.PIN(ctx); err != nil || s.Tries >= 0 && s.Tries != 3 {
				t.Errorf("a try of the PIN was spent: %+v, %v", s, err)
			}
		}
	})
}

// Keys and files on a token: what was made, written or deleted is found by a look.
func TestFault24KeysAndFiles(t *testing.T) {
	ctx := context.Background()
	for _, when := range []softtoken.Stage{softtoken.Before, softtoken.After} {
		cat, s, _ := twoKeys(t)
		token, card := newToken(t, "3.6", "SOFT0400001")
		initToken(t, card, nil, newShare(t, 1))
		for _, ins := range []byte{0x74, 0xD7} {
			lies(token, when, ins)
			o := RestoreOptions{Journal: cat.Journal()}
			p, err := MakePlan(ctx, card, s, o)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Restore(ctx, card, cat, p, o)
			if done := err == nil && r.Complete(); done != (when == softtoken.After) {
				t.Errorf("instruction %02X, stage %d: complete %v, %v", ins, when, done, err)
			}
			token.SetFault(nil)
			if r := restoreAll(t, card, cat, s); !r.Complete() {
				t.Fatalf("instruction %02X: the next run: %+v", ins, r.Keys)
			}
			lies(token, when, 0xE4)
			for _, n := range []byte{1, 2} {
				for _, f := range []schsm.FID{schsm.KeyFile(n), schsm.DescriptionFile(n), schsm.CertificateFile(n)} {
					err := card.DeleteFile(ctx, f)
					if first := n == 1 && f.Prefix() == schsm.PrefixKey; (err != nil) != (first && when == softtoken.Before) {
						t.Errorf("deletion of %s: %v", f, err)
					} else if err != nil {
						if err := card.DeleteFile(ctx, f); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			token.SetFault(nil)
		}
	}
	token, card := newToken(t, "3.6", "SOFT0400001")
	initToken(t, card, nil, newShare(t, 1))
	lies(token, softtoken.After, 0x46)
	generate(t, card, 1, "P-256", "one", []byte{1})
	lies(token, softtoken.After, 0x48)
	generateAES(t, card, 2, "two")
	if inv, err := Take(ctx, card); err != nil || len(inv.Keys) != 2 || inv.Keys[0].Public == nil {
		t.Errorf("made and answered 6F00: %+v, %v", inv.Keys, err)
	}
}
