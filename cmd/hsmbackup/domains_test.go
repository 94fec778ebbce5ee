package main

import (
	"context"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// onSoft opens a software token for a script's command.
func onSoft(ts *testscript.TestScript, file string, f func(context.Context, *schsm.Card) error) {
	soft, err := softtoken.Open(ts.MkAbs(file))
	ts.Check(err)
	defer soft.Close()
	card, err := schsm.Open(context.Background(), soft)
	ts.Check(err)
	ts.Check(f(context.Background(), card))
}

// slots FILE SHARES... initialises a software token with a key domain slot for
// each number of shares; 0 leaves the slot empty.
func slots(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: slots FILE SHARES...")
	}
	onSoft(ts, args[0], func(ctx context.Context, card *schsm.Card) error {
		err := card.Initialise(ctx, schsm.Initialisation{PIN: secret.New([]byte("648219")), SOPIN: secret.New([]byte("57621880")), Domains: len(args) - 1})
		for n, text := range args[1:] {
			shares, _ := strconv.Atoi(text)
			if err == nil && shares > 0 {
				_, err = card.CreateDomain(ctx, n, shares)
			}
		}
		return err
	})
}

// keyIn FILE REFERENCE DOMAIN LABEL makes a P-256 key in a key domain.
func keyIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: keyin FILE REFERENCE DOMAIN LABEL")
	}
	reference, _ := strconv.Atoi(args[1])
	number, _ := strconv.Atoi(args[2])
	domain := byte(number)
	onSoft(ts, args[0], func(ctx context.Context, card *schsm.Card) error {
		if err := card.Login(ctx, secret.New([]byte("648219")), false); err != nil {
			return err
		}
		spec := cvc.KeySpec{CAR: "UTCA00001", CHR: card.Serial() + "00001", Curve: curve.ByName("P-256"), Domain: &domain}
		if _, err := card.Generate(ctx, byte(reference), spec); err != nil {
			return err
		}
		d := pkcs15.KeyDescription{Kind: pkcs15.EC, Bits: 256, Label: args[3], ID: []byte{byte(reference)}, Reference: reference, Usage: pkcs15.DefaultUsage(pkcs15.EC)}
		return card.WriteFile(ctx, schsm.DescriptionFile(byte(reference)), d.Encode())
	})
}

// hide FILE TEXT puts a data object that the PIN protects on a software token.
func hide(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hide FILE TEXT")
	}
	onSoft(ts, args[0], func(ctx context.Context, card *schsm.Card) error {
		if err := card.Login(ctx, secret.New([]byte("648219")), false); err != nil {
			return err
		}
		return card.WriteFile(ctx, 0xCD01, []byte(args[1]))
	})
}
