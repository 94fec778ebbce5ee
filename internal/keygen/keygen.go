// Package keygen makes keys on a token with all that OpenSC writes beside them, so
// that PKCS#11 programs see them.
package keygen

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/console"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
)

// Kind is a type of key as it is asked for.
type Kind struct {
	Of    pkcs15.Kind
	Bits  int
	Curve *curve.Curve
}

// Parse reads rsa:N, ec:CURVE or aes:N. Its error says what those take.
func Parse(text string) (Kind, error) {
	kind, rest, _ := strings.Cut(text, ":")
	bits, numErr := strconv.Atoi(rest)
	switch kind {
	case "rsa":
		if numErr == nil && slices.Contains([]int{1024, 2048, 3072, 4096}, bits) {
			return Kind{Of: pkcs15.RSA, Bits: bits}, nil
		}
		return Kind{}, errors.New("rsa:N takes 1024, 2048, 3072 or 4096")
	case "aes":
		if numErr == nil && slices.Contains([]int{128, 192, 256}, bits) {
			return Kind{Of: pkcs15.AES, Bits: bits}, nil
		}
		return Kind{}, errors.New("aes:N takes 128, 192 or 256")
	case "ec":
		if c := curve.ByName(rest); c != nil {
			return Kind{Of: pkcs15.EC, Bits: c.Bits, Curve: c}, nil
		}
		var names []string
		for _, c := range curve.All() {
			names = append(names, c.Name)
		}
		return Kind{}, fmt.Errorf("ec:CURVE takes %s, also by their names in OpenSSL", strings.Join(names, ", "))
	}
	return Kind{}, errors.New("takes rsa:N, ec:CURVE or aes:N")
}

// FreeReference gives the lowest reference that has neither key, description
// nor certificate.
func FreeReference(ctx context.Context, card *schsm.Card) (byte, error) {
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
	return 0, console.Failf("token-full", "", "all 255 key references are taken")
}

// Make makes the key and writes what belongs to it. A key whose
// description cannot be written is deleted again: nobody would see it.
func Make(ctx context.Context, card *schsm.Card, kind Kind, d *pkcs15.KeyDescription) (*pubkey.Key, error) {
	var public *pubkey.Key
	made, err := backup.Making(ctx, card, byte(d.Reference), func() (err error) {
		public, err = generate(ctx, card, kind, d)
		return err
	})
	if err == nil {
		err = card.WriteFile(ctx, schsm.DescriptionFile(byte(d.Reference)), d.Encode())
	}
	if err != nil {
		return nil, errors.Join(err, made.Remove(ctx, card))
	}
	return public, nil
}

// generate makes the key, and what its description still lacks.
func generate(ctx context.Context, card *schsm.Card, kind Kind, d *pkcs15.KeyDescription) (public *pubkey.Key, err error) {
	reference := byte(d.Reference)
	if kind.Of == pkcs15.AES {
		list := []byte{byte(schsm.AESEncrypt), byte(schsm.AESDecrypt), byte(schsm.AESCMAC), byte(schsm.WrapKey)}
		if err := card.GenerateAES(ctx, reference, kind.Bits, list); err != nil {
			return nil, err
		}
		if len(d.ID) == 0 {
			d.ID = make([]byte, sha1.Size)
			_, _ = rand.Read(d.ID) // never fails
		}
	} else {
		// The names that OpenSC gives (fact sheet §2.7).
		spec := cvc.KeySpec{CAR: "UTCA00001", CHR: card.Serial() + "00001", Curve: kind.Curve}
		if kind.Of == pkcs15.RSA {
			spec.RSABits, spec.RSAExponent = kind.Bits, 65537
		}
		raw, err := card.Generate(ctx, reference, spec)
		if err != nil {
			return nil, err
		}
		if public, err = generated(ctx, card, reference, raw); err != nil {
			return nil, err
		}
		if len(d.ID) == 0 {
			d.ID = openscID(public)
		}
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
