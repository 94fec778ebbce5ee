package dkek

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/tlv"
)

// Each golden key against everything that stood beside the others.
func TestMatchKeyMatrix(t *testing.T) {
	type opened struct {
		goldenKey
		c *Container
		p *PrivateKey
	}
	var all []opened
	for _, g := range goldenKeys {
		c, _, p := openGolden(t, g)
		all = append(all, opened{g, c, p})
	}
	for _, k := range all {
		for _, beside := range all {
			_, _, err := MatchKey(k.p, k.c.Description, beside.c.Certificate)
			fits := beside.c.Certificate == nil || k.pem == beside.pem && k.pem != ""
			if fits != (err == nil) || err != nil && !errors.Is(err, ErrMismatch) {
				t.Errorf("key of %s with the certificate of %s: %v", k.file, beside.file, err)
			}
			_, _, err = MatchKey(k.p, beside.c.Description, nil)
			if (k.typ == beside.typ) != (err == nil) || err != nil && !errors.Is(err, ErrMismatch) {
				t.Errorf("key of %s with the description of %s: %v", k.file, beside.file, err)
			}
		}
	}
}

func TestMatchKeyReject(t *testing.T) {
	c, _, p := openGolden(t, goldenKeys[1])
	rsa, _, _ := openGolden(t, goldenKeys[0])
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	inner, _, err := tlv.Parse(c.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	request, err := cvc.ParseRequest(c.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	chr := bytes.Index(c.Certificate, []byte(request.Inner.CHR))
	if chr < 0 || len(inner.Value) == 0 {
		t.Fatal("no CHR in the request")
	}
	describe := func(kind pkcs15.Kind, bits int) []byte {
		d := pkcs15.KeyDescription{Kind: kind, Label: "x", ID: []byte{1}, Usage: pkcs15.DefaultUsage(kind), Bits: bits, Reference: 1}
		return d.Encode()
	}
	for _, x := range []struct {
		name                     string
		description, certificate []byte
		want                     error
		says                     string
	}{
		{"holder of the request changed", c.Description, flip(c.Certificate, chr), ErrMismatch, "signature"},
		{"request of RSA", c.Description, rsa.Certificate, ErrMismatch, "RSA-2048"},
		{"description as certificate", c.Description, c.Description, ErrMismatch, "description"},
		{"certificate as description", c.Certificate, nil, ErrFormat, "description"},
		{"certificate cut", c.Description, c.Certificate[:100], ErrFormat, "cut off"},
		{"certificate of a strange tag", nil, []byte{0x53, 1, 0}, ErrFormat, "53"},
		{"description cut", c.Description[:10], c.Certificate, ErrFormat, "description"},
		{"description of P-384", describe(pkcs15.EC, 384), nil, ErrMismatch, "384"},
		{"description of RSA-256", describe(pkcs15.RSA, 256), nil, ErrMismatch, "RSA"},
		{"description of AES-256", describe(pkcs15.AES, 256), nil, ErrMismatch, "AES"},
	} {
		match, pub, err := MatchKey(p, x.description, x.certificate)
		if match != "" || pub != nil || !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %q, %v", x.name, match, err)
		}
	}
	if _, _, err := MatchKey(nil, nil, nil); err == nil {
		t.Error("no key matches")
	}
}

// Tails that files on a token keep do not matter; P-521 is described as 521
// and as 528; a description without a size fits; a CVC in CExx counts as a
// certificate.
func TestMatchKeyTolerates(t *testing.T) {
	c, _, p := openGolden(t, goldenKeys[1])
	match, _, err := MatchKey(p, append(bytes.Clone(c.Description), 0, 0), append(bytes.Clone(c.Certificate), 0xFF, 0xFF))
	if err != nil || match != MatchRequest {
		t.Errorf("tails: %s, %v", match, err)
	}
	outer, _, _ := tlv.Parse(c.Certificate)
	cv, err := tlv.Trim(outer.Value)
	if err != nil {
		t.Fatal(err)
	}
	if match, _, err := MatchKey(p, nil, cv); err != nil || match != MatchCertificate {
		t.Errorf("CVC: %s, %v", match, err)
	}
	for _, x := range []struct {
		key  *PrivateKey
		kind pkcs15.Kind
		bits []int
	}{
		{ecKey(t, curve.ByName("P-521")), pkcs15.EC, []int{521, 528, 0}},
		{aesKey(t, 24), pkcs15.AES, []int{192}},
		{rsaKeys(t)[2], pkcs15.RSA, []int{3072, 0}},
	} {
		for _, bits := range x.bits {
			d := pkcs15.KeyDescription{Kind: x.kind, ID: []byte{1}, Bits: bits}
			if _, _, err := MatchKey(x.key, d.Encode(), nil); err != nil {
				t.Errorf("%s described as %d bits: %v", x.key.Type(), bits, err)
			}
		}
	}
}
