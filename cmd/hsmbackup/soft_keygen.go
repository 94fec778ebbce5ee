package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/terminal"
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

// keyKind is a type of key as it is asked for.
type keyKind struct {
	kind  pkcs15.Kind
	bits  int
	curve *curve.Curve
}

// parseKeyKind reads rsa:N, ec:CURVE or aes:N.
func parseKeyKind(text string) (keyKind, error) {
	kind, rest, _ := strings.Cut(text, ":")
	bits, numErr := strconv.Atoi(rest)
	switch kind {
	case "rsa":
		if numErr == nil && slices.Contains([]int{1024, 2048, 3072, 4096}, bits) {
			return keyKind{kind: pkcs15.RSA, bits: bits}, nil
		}
		return keyKind{}, usagef("", "--type rsa:N takes 1024, 2048, 3072 or 4096")
	case "aes":
		if numErr == nil && slices.Contains([]int{128, 192, 256}, bits) {
			return keyKind{kind: pkcs15.AES, bits: bits}, nil
		}
		return keyKind{}, usagef("", "--type aes:N takes 128, 192 or 256")
	case "ec":
		if c := curve.ByName(rest); c != nil {
			return keyKind{kind: pkcs15.EC, bits: c.Bits, curve: c}, nil
		}
		var names []string
		for _, c := range curve.All() {
			names = append(names, c.Name)
		}
		return keyKind{}, usagef("", "--type ec:CURVE takes %s, also by their names in OpenSSL", strings.Join(names, ", "))
	}
	return keyKind{}, usagef("", "--type takes rsa:N, ec:CURVE or aes:N")
}

func (a *app) softKeygen(ctx context.Context, file string, o softKeygen) error {
	if o.kind == "" {
		return usagef("for example --type rsa:4096 or --type ec:prime256v1", "--type is missing")
	}
	kind, err := parseKeyKind(o.kind)
	if err != nil {
		return err
	}
	id, err := hex.DecodeString(o.id)
	if err != nil {
		return usagef("", "--id takes hex digits in pairs, such as 01 or 0a2f")
	}
	t, err := a.openSoft(ctx, file)
	if err != nil {
		return err
	}
	defer t.close()
	if err := a.login(ctx, t); err != nil {
		return err
	}
	reference, err := freeReference(ctx, t.card)
	if err != nil {
		return err
	}
	a.changed = true
	d := &pkcs15.KeyDescription{Kind: kind.kind, Label: o.label, ID: id, Usage: pkcs15.DefaultUsage(kind.kind), Bits: kind.bits, Reference: int(reference)}
	public, err := generate(ctx, t.card, kind, d)
	if err != nil {
		if errors.Is(err, apdu.ErrConditions) {
			err = failf("no-dkek", "`hsmbackup dkek load` loads the shares that are missing", "%s makes no key now: are shares of its recovery key missing?", t.name())
		}
		a.changed = false // the token refused, or the key was taken back
		return err
	}
	line := ""
	if public != nil {
		line = public.SSH(o.label)
	}
	name := pubkey.AESType(kind.bits)
	if public != nil {
		name = public.Type()
	}
	if a.flags.json {
		return a.document(struct {
			Reference int    `json:"reference"`
			Label     string `json:"label"`
			ID        string `json:"id"`
			Type      string `json:"type"`
			SSH       string `json:"ssh"`
		}{int(reference), o.label, hex.EncodeToString(d.ID), name, line})
	}
	a.printf("key %d  %s  %s  ID %s", reference, name, quoted(o.label), hex.EncodeToString(d.ID))
	if line != "" {
		a.printf("%s", terminal.Printable(line))
	}
	return nil
}

// freeReference gives the lowest reference that has neither key, description
// nor certificate.
func freeReference(ctx context.Context, card *schsm.Card) (byte, error) {
	files, err := card.Enumerate(ctx)
	if err != nil {
		return 0, err
	}
	taken := map[byte]bool{}
	for _, f := range files {
		switch f.Prefix() {
		case schsm.PrefixKey, schsm.PrefixDescription, schsm.PrefixKeyCertificate:
			taken[f.Index()] = true
		}
	}
	for n := 1; n <= 255; n++ {
		if !taken[byte(n)] {
			return byte(n), nil
		}
	}
	return 0, failf("token-full", "", "all 255 key references are taken")
}

// generate makes the key and writes what belongs to it. A key whose
// description cannot be written is deleted again: nobody would see it.
func generate(ctx context.Context, card *schsm.Card, kind keyKind, d *pkcs15.KeyDescription) (*pubkey.Key, error) {
	reference := byte(d.Reference)
	var public *pubkey.Key
	if kind.kind == pkcs15.AES {
		list := []byte{byte(schsm.AESEncrypt), byte(schsm.AESDecrypt), byte(schsm.AESCMAC), byte(schsm.WrapKey)}
		if err := card.GenerateAES(ctx, reference, kind.bits, list); err != nil {
			return nil, err
		}
		if len(d.ID) == 0 {
			d.ID = make([]byte, sha1.Size)
			_, _ = rand.Read(d.ID) // never fails
		}
	} else {
		// The names that OpenSC gives (fact sheet §2.7).
		spec := cvc.KeySpec{CAR: "UTCA00001", CHR: card.Serial() + "00001", Curve: kind.curve}
		if kind.kind == pkcs15.RSA {
			spec.RSABits, spec.RSAExponent = kind.bits, 65537
		}
		raw, err := card.Generate(ctx, reference, spec)
		if err != nil {
			return nil, err
		}
		if public, err = generated(ctx, card, reference, raw); err != nil {
			return nil, errors.Join(err, card.DeleteFileIfThere(ctx, schsm.KeyFile(reference)))
		}
		if len(d.ID) == 0 {
			d.ID = openscID(public)
		}
	}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(reference), d.Encode()); err != nil {
		for _, f := range []schsm.FID{schsm.DescriptionFile(reference), schsm.CertificateFile(reference), schsm.KeyFile(reference)} {
			err = errors.Join(err, card.DeleteFileIfThere(ctx, f))
		}
		return nil, err
	}
	return public, nil
}

// generated reads the request that GENERATE answered and makes sure that the
// token has it: a key without it has no public key.
func generated(ctx context.Context, card *schsm.Card, reference byte, raw []byte) (*pubkey.Key, error) {
	request, err := cvc.ParseRequest(raw)
	if err != nil {
		return nil, err
	}
	if err := request.VerifyInner(); err != nil {
		return nil, err
	}
	if _, err := card.ReadFile(ctx, schsm.CertificateFile(reference)); errors.Is(err, apdu.ErrNotFound) {
		err = card.WriteFile(ctx, schsm.CertificateFile(reference), request.Raw)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return request.PublicKey()
}

// openscID is the ID that OpenSC gives a key by itself: SHA-1 of the modulus,
// or of the point (pkcs15-lib.c, select_id).
func openscID(k *pubkey.Key) []byte {
	var number []byte
	if k.RSA != nil {
		number = k.RSA.N.Bytes()
	} else {
		number = k.Curve.Marshal(k.X, k.Y)
	}
	sum := sha1.Sum(number)
	return sum[:]
}
