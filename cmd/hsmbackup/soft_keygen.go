package main

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/spf13/cobra"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/console"
	"hsmbackup/internal/keygen"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
)

type softKeygen struct {
	kind  string
	label string
	id    string
}

func newSoftKeygenCommand(a *app) *cobra.Command {
	var o softKeygen
	cmd := &cobra.Command{
		Use:   "keygen FILE --type TYPE",
		Short: "make a key on a software token",
		Long: `Makes a key on a software token, with the description that OpenSC writes, so that
PKCS#11 programs see it. For other tokens: pkcs11-tool --keypairgen.

Types: rsa:1024 to rsa:4096 in steps of 1024; ec: with prime192v1, prime256v1,
secp384r1, secp521r1, secp256k1, brainpoolP256r1, brainpoolP384r1,
brainpoolP512r1; aes:128, aes:192, aes:256.`,
		Example: `  hsmbackup soft keygen old.tok --type rsa:4096 --label "SSH CA" --id 01
  hsmbackup soft keygen old.tok --type ec:prime256v1 --label "SSH HSM" --id 02 --pin file:PIN`,
		Args: arguments(1, 1, "one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.softKeygen(cmd.Context(), args[0], o) },
	}
	cmd.Flags().StringVar(&o.kind, "type", "", "`TYPE` of the key: rsa:N, ec:CURVE or aes:N")
	cmd.Flags().StringVar(&o.label, "label", "", "the key's label, `TEXT`")
	cmd.Flags().StringVar(&o.id, "id", "", "the key's ID (CKA_ID), `HEX` (default: SHA-1 of the public key, as OpenSC does)")
	uses(cmd, useConfirm)
	return cmd
}

func (a *app) softKeygen(ctx context.Context, file string, o softKeygen) error {
	if o.kind == "" {
		return console.Usagef("for example --type rsa:4096 or --type ec:prime256v1", "--type is missing")
	}
	kind, err := keygen.Parse(o.kind)
	if err != nil {
		return console.Usagef("", "--type %s", err)
	}
	id, err := hex.DecodeString(o.id)
	if err != nil {
		return console.Usagef("", "--id takes hex digits in pairs, such as 01 or 0a2f")
	}
	t, err := a.OpenSoft(ctx, file)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := a.Login(ctx, t); err != nil {
		return err
	}
	reference, err := keygen.FreeReference(ctx, t.Card)
	if err != nil {
		return err
	}
	a.Changed = true
	d := &pkcs15.KeyDescription{Kind: kind.Of, Label: o.label, ID: id, Usage: pkcs15.DefaultUsage(kind.Of), Bits: kind.Bits, Reference: int(reference)}
	public, err := keygen.Make(ctx, t.Card, kind, d)
	if err != nil {
		if errors.Is(err, apdu.ErrConditions) {
			err = console.Failf("no-dkek", "`hsmbackup dkek load` loads the shares that are missing", "%s makes no key now: are shares of its recovery key missing?", t.Name())
		}
		a.Changed = false // the token refused, or the key was taken back
		return err
	}
	line := ""
	if public != nil {
		line = public.SSH(o.label)
	}
	name := pubkey.AESType(kind.Bits)
	if public != nil {
		name = public.Type()
	}
	if a.Flags.JSON {
		return a.Document(struct {
			Reference int    `json:"reference"`
			Label     string `json:"label"`
			ID        string `json:"id"`
			Type      string `json:"type"`
			SSH       string `json:"ssh"`
		}{int(reference), o.label, hex.EncodeToString(d.ID), name, line})
	}
	a.Printf("key %d  %s  %s  ID %s", reference, name, console.Quoted(o.label), hex.EncodeToString(d.ID))
	if line != "" {
		a.Printf("%s", line)
	}
	return nil
}
