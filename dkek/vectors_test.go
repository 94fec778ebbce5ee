package dkek

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hsmbackup/internal/pubkey"
)

// vector reads a golden file; testdata/README.md says where it is from.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var goldenShares = sync.OnceValues(func() (map[string]*Share, error) {
	names := []string{"a.pbe", "b1.pbe", "b2.pbe", "thr.pbe", "thr-zero.pbe"}
	passwords := [][]byte{[]byte("testpw-1"), []byte("correct horse"), []byte("battery staple 9"),
		{0x5B, 0xA5, 0x29, 0x23, 0x03, 0xAE, 0xBB, 0x5F}, {0x00, 0x66, 0x7B, 0x13, 0x49, 0xAD, 0x13, 0x1C}}
	files := make([][]byte, len(names))
	for i, n := range names {
		var err error
		if files[i], err = os.ReadFile(filepath.Join("..", "testdata", n)); err != nil {
			return nil, err
		}
	}
	defer func(n uint64) { iterations = n }(iterations)
	iterations = 10_000_000
	shares, errs := OpenPBEs(context.Background(), files, passwords, nil)
	all := map[string]*Share{}
	for i, n := range names {
		if errs[i] != nil {
			return nil, fmt.Errorf("%s: %w", n, errs[i])
		}
		all[n] = shares[i]
	}
	return all, nil
})

// golden gives the DKEK of shares made by sc-hsm-tool, opened at full cost.
func golden(t testing.TB, names ...string) *Key {
	t.Helper()
	all, err := goldenShares()
	if err != nil {
		t.Fatal(err)
	}
	var shares []*Share
	for _, n := range names {
		shares = append(shares, all[n])
	}
	k, err := Combine(shares...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestGoldenShares(t *testing.T) {
	for _, c := range []struct {
		kcv   string
		names []string
	}{
		{"19471B8FFE18014C", []string{"a.pbe"}},
		{"59437087AD23F75C", []string{"b1.pbe", "b2.pbe"}},
		{"59437087AD23F75C", []string{"b2.pbe", "b1.pbe"}},
		{"8CA99AAD4BFF69E5", []string{"thr.pbe"}},
		{"7980E3DE1B42EC75", []string{"thr-zero.pbe"}},
	} {
		if got := golden(t, c.names...).KCV().String(); got != c.kcv {
			t.Errorf("%v: KCV %s, want %s", c.names, got, c.kcv)
		}
	}
}

func pemKey(t testing.TB, name string) *pubkey.Key {
	t.Helper()
	block, _ := pem.Decode(vector(t, name))
	if block == nil {
		t.Fatalf("%s: no PEM", name)
	}
	k, err := pubkey.ParseSPKI(block.Bytes)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return k
}

type goldenKey struct {
	file   string
	shares []string
	typ    string
	pem    string
	sig    string
	match  Match
}

var goldenKeys = []goldenKey{
	{"a-rsa2048.bin", []string{"a.pbe"}, "RSA-2048", "rsa2048.pub.pem", "rsa2048.sig", MatchRequest},
	{"a-p256.bin", []string{"a.pbe"}, "P-256", "p256.pub.pem", "p256.sig", MatchRequest},
	{"a-p256.again.bin", []string{"a.pbe"}, "P-256", "p256.pub.pem", "p256.sig", MatchRequest},
	{"a-utf8.bin", []string{"a.pbe"}, "P-256", "utf8.pub.pem", "utf8.sig", MatchRequest},
	{"a-withcert.bin", []string{"a.pbe"}, "RSA-2048", "withcert.pub.pem", "withcert.sig", MatchCertificate},
	{"a-aes128.bin", []string{"a.pbe"}, "AES-128", "", "", MatchSelf},
	{"b-p256.bin", []string{"b1.pbe", "b2.pbe"}, "P-256", "b-p256.pub.pem", "", MatchRequest},
	{"c-rsa2048.bin", []string{"thr.pbe"}, "RSA-2048", "c-rsa2048.pub.pem", "", MatchRequest},
}

func openGolden(t testing.TB, g goldenKey) (*Container, *Blob, *PrivateKey) {
	t.Helper()
	c, err := ParseContainer(vector(t, g.file))
	if err != nil {
		t.Fatalf("%s: %v", g.file, err)
	}
	b, err := ParseBlob(c.Blob)
	if err != nil {
		t.Fatalf("%s: %v", g.file, err)
	}
	p, err := golden(t, g.shares...).Open(b)
	if err != nil {
		t.Fatalf("%s: %v", g.file, err)
	}
	return c, b, p
}

// What sc-hsm-tool wrote opens, matches its public key, and is written again
// byte for byte.
func TestGoldenKeys(t *testing.T) {
	for _, g := range goldenKeys {
		t.Run(g.file, func(t *testing.T) {
			c, b, p := openGolden(t, g)
			if p.Type() != g.typ {
				t.Errorf("type %s, want %s", p.Type(), g.typ)
			}
			if !bytes.Equal(c.Encode(), vector(t, g.file)) || c.Misplaced || c.Trailing != nil {
				t.Error("the container is not written as it was read")
			}
			match, pub, err := MatchKey(p, c.Description, c.Certificate)
			if err != nil || match != g.match {
				t.Fatalf("matched %q, want %q: %v", match, g.match, err)
			}
			if g.pem == "" {
				if pub != nil {
					t.Error("an AES key with a public key")
				}
				want := vector(t, "aes128.cbc.bin")
				block, err := aes.NewCipher(p.AES())
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 16)
				cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(got, []byte("0123456789abcdef"))
				if !bytes.Equal(got, want) {
					t.Errorf("encrypts to %x, the token to %x", got, want)
				}
				if !bytes.Equal(b.Algorithms, []byte{0x10, 0x11, 0x18, 0x99, 0x92}) {
					t.Errorf("algorithm list %x", b.Algorithms)
				}
				return
			}
			if !pub.Equal(pemKey(t, g.pem)) {
				t.Error("the public key is not that of the PEM file")
			}
			if b.Algorithms != nil {
				t.Errorf("algorithm list %x", b.Algorithms)
			}
			if g.sig != "" {
				digest := sha256.Sum256(vector(t, "msg.txt"))
				if err := pub.Verify(crypto.SHA256, digest[:], vector(t, g.sig)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The certificate file is the one in the container.
func TestGoldenCertificate(t *testing.T) {
	c, err := ParseContainer(vector(t, "a-withcert.bin"))
	if err != nil || !bytes.Equal(c.Certificate, vector(t, "withcert.crt.der")) {
		t.Errorf("certificate differs: %v", err)
	}
}

// No golden file is forgotten: each share and each wrapped key is opened by a
// test.
func TestAllVectorsAreOpened(t *testing.T) {
	opened := map[string]bool{"thr11.pbe": true} // TestOpenThresholdGolden
	for _, g := range goldenKeys {
		opened[g.file] = true
	}
	shares, err := goldenShares()
	if err != nil {
		t.Fatal(err)
	}
	for name := range shares {
		opened[name] = true
	}
	var files []string
	for _, kind := range []string{"*.pbe", "*.bin", "*.wky"} {
		found, err := filepath.Glob(filepath.Join("..", "testdata", kind))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < len(opened) {
		t.Errorf("only %d files", len(files))
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".cbc.bin") { // what a key encrypts to
			continue
		}
		if !opened[filepath.Base(f)] {
			t.Errorf("%s is opened by no test", f)
		}
	}
}
