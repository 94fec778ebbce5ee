package pkcs15

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// The worked examples of fact sheet §4, as different programs wrote them.
var examples = []struct {
	name string
	raw  []byte
	want KeyDescription
	same bool // Encode gives these very bytes
}{
	{"RSA by scsh", unhex("301E 3007 0C05 4B65793031 3007 040101 03020274 A10A 3008 3002 0400 02020800"),
		KeyDescription{Kind: RSA, Label: "Key01", ID: []byte{1}, Usage: Decrypt | Sign | SignRecover | UnwrapKeys, Bits: 2048, Reference: -1}, false},
	{"EC by OpenSC on a real card", unhex("A03F 3011 0C08 6274632D74657374 030206C0 040101 301E 0414 4D8B45C6B9E00AEE9C677B595E7B7B72572035ED 0303073080 020101 A10A 3008 3002 0400 02020100"),
		KeyDescription{Kind: EC, Label: "btc-test", ID: unhex("4D8B45C6B9E00AEE9C677B595E7B7B72572035ED"), Usage: Sign | SignRecover | Derive, Bits: 256, Reference: 1}, true},
	{"EC by OpenSC 0.23", unhex("A031 3016 0C0D" + hex.EncodeToString([]byte("nist p256 key")) + "030206C0 040101 300B 040120 0303073080 020105 A10A 3008 3002 0400 02020100"),
		KeyDescription{Kind: EC, Label: "nist p256 key", ID: []byte{0x20}, Usage: Sign | SignRecover | Derive, Bits: 256, Reference: 5}, true},
	{"RSA with a certificate", unhex("3051 3013 0C0A" + hex.EncodeToString([]byte("web server")) + "030206C0 040101 300E 04012B 03020470 030203B8 02010E A01E 301C 301A 3118 3016 0603550403 0C0F" + hex.EncodeToString([]byte("www.example.org")) + "A10A 3008 3002 0400 02020800"),
		KeyDescription{Kind: RSA, Label: "web server", ID: []byte{0x2B}, Usage: Decrypt | Sign | SignRecover, Bits: 2048, Reference: 14}, false},
	{"AES by sc-hsm-embedded", unhex("A821 300D 0C0B" + hex.EncodeToString([]byte("aes 128 key")) + "3008 040130 030306C000 A006 3004 02020080"),
		KeyDescription{Kind: AES, Label: "aes 128 key", ID: []byte{0x30}, Usage: Encrypt | Decrypt, Bits: 128, Reference: -1}, false},
	{"AES, bits without a leading zero, old form", unhex("A81A 3006 0C04 6B657931 3008 040131 030307C010 A003 020180"),
		KeyDescription{Kind: AES, Label: "key1", ID: []byte{0x31}, Usage: Encrypt | Decrypt | 1<<11, Bits: 128, Reference: -1}, false},
}

func TestParseKey(t *testing.T) {
	for _, c := range examples {
		if c.name == "AES, bits without a leading zero, old form" {
			c.raw[1] = byte(len(c.raw) - 2)
		}
		d, err := ParseKey(append(bytes.Clone(c.raw), 0xDE, 0xAD))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !bytes.Equal(d.Raw, c.raw) {
			t.Errorf("%s: not cut to the outer TLV", c.name)
		}
		if !d.Same(&c.want) || d.Reference != c.want.Reference {
			t.Errorf("%s: %+v", c.name, d)
		}
		if c.same && !bytes.Equal(c.want.Encode(), c.raw) {
			t.Errorf("%s: encodes to %X", c.name, c.want.Encode())
		}
		back, err := ParseKey(d.Encode())
		if err != nil || !back.Same(d) {
			t.Errorf("%s: does not survive: %+v, %v", c.name, back, err)
		}
	}
}

func TestParseKeyReject(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"a certificate": unhex("300C 3005 A003020102 3003 020101"),
		"a request":     unhex("6700"),
		"one sequence":  unhex("3004 3002 0C00"),
		"no id":         unhex("300A 3002 0C00 3004 03020204"),
		"cut":           examples[1].raw[:20],
		"a data object": unhex("3021 300E 0C08 6161616161616161 03020640 3007 0C05 6262626262 A106 3004 0402 CF00"),
	} {
		if d, err := ParseKey(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s is taken as %+v (%v)", name, d, err)
		}
	}
}

// An X.509 certificate starts with 30 30 like a PRKD; a description put in its
// place must be told apart.
func TestCertificateIsNoDescription(t *testing.T) {
	der, err := os.ReadFile(filepath.Join("..", "..", "testdata", "withcert.crt.der"))
	if err != nil {
		t.Fatal(err)
	}
	if d, err := ParseKey(der); !errors.Is(err, ErrFormat) {
		t.Errorf("taken as %+v", d)
	}
}

// Traced from OpenSC 0.23 (fact sheet §4).
func TestObjects(t *testing.T) {
	label, app := hex.EncodeToString([]byte("my data1")), hex.EncodeToString([]byte("myapp"))
	d, err := ParseDataDescription(unhex("3021 300E 0C08" + label + "03020640 3007 0C05" + app + "A106 3004 0402 CF00"))
	if err != nil || d.Label != "my data1" || d.Application != "myapp" || d.Path != 0xCF00 {
		t.Errorf("public data: %+v, %v", d, err)
	}
	d, err = ParseDataDescription(unhex("3024 3011 0C08" + label + "030206C0 040101 3007 0C05" + app + "A106 3004 0402 CD01"))
	if err != nil || d.Path != 0xCD01 {
		t.Errorf("private data: %+v, %v", d, err)
	}
	d, err = ParseCertificateDescription(unhex("301C 300B 0C05" + app + "03020640 3003 0401AA A108 3006 3004 0402 CA00"))
	if err != nil || d.Label != "myapp" || !bytes.Equal(d.ID, []byte{0xAA}) || d.Path != 0xCA00 {
		t.Errorf("certificate: %+v, %v", d, err)
	}
	for _, b := range [][]byte{nil, unhex("3000"), unhex("300B 3002 0C00 3000 A103 040102")} {
		if _, err := ParseCertificateDescription(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%X is taken", b)
		}
	}
}

func TestTokenInfo(t *testing.T) {
	if got := EncodeTokenInfo("src"); !bytes.Equal(got, unhex("300C 020100 8003 737263 03020520")) {
		t.Errorf("%X", got)
	}
	if l, err := ParseTokenInfo(EncodeTokenInfo("Schlüssel 🔑")); err != nil || l != "Schlüssel 🔑" {
		t.Errorf("%q, %v", l, err)
	}
	if _, err := ParseTokenInfo(unhex("3003 020100")); !errors.Is(err, ErrFormat) {
		t.Errorf("no label: %v", err)
	}
	if l, _ := ParseTokenInfo(unhex("3004 8002 41FF")); l != "Aÿ" {
		t.Errorf("not UTF-8: %q", l)
	}
}

func TestUsageNames(t *testing.T) {
	if s := DefaultUsage(EC).String(); s != "sign, signRecover, derive" {
		t.Error(s)
	}
	if b := Usage(0).bits(); !bytes.Equal(b, []byte{0}) {
		t.Errorf("%X", b)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range examples {
		f.Add(c.raw)
	}
	f.Add(EncodeTokenInfo("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseKey(b); err == nil {
			d.Usage &= NonRepudiation<<1 - 1
			again, err := ParseKey(d.Encode())
			if err != nil || !again.Same(d) {
				t.Fatalf("%+v becomes %+v (%v)", d, again, err)
			}
		}
		_, _ = ParseCertificateDescription(b)
		_, _ = ParseDataDescription(b)
		_, _ = ParseTokenInfo(b)
	})
}
