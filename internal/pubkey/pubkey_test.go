package pubkey

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hsmbackup/internal/curve"
)

func samples(t testing.TB) map[string]*Key {
	t.Helper()
	keys := map[string]*Key{}
	priv, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	keys["RSA-1024"] = &Key{RSA: &priv.PublicKey}
	for _, c := range curve.All() {
		_, x, y, err := c.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[c.Name] = &Key{Curve: c, X: x, Y: y}
	}
	return keys
}

func TestSPKI(t *testing.T) {
	keys := samples(t)
	for name, k := range keys {
		if k.Type() != name {
			t.Errorf("%s calls itself %s", name, k.Type())
		}
		back, err := ParseSPKI(k.SPKI())
		if err != nil || !back.Equal(k) {
			t.Errorf("%s: %v", name, err)
		}
		// openssl is the judge of the bytes.
		cmd := exec.Command("openssl", "pkey", "-pubin", "-inform", "DER", "-pubout", "-outform", "DER")
		cmd.Stdin = bytes.NewReader(k.SPKI())
		if out, err := cmd.Output(); err != nil || !bytes.Equal(out, k.SPKI()) {
			t.Errorf("%s: openssl writes it differently (%v)", name, err)
		}
		for other, o := range keys {
			if (other == name) != k.Equal(o) {
				t.Errorf("%s equals %s: %v", name, other, k.Equal(o))
			}
		}
	}
}

func TestSSH(t *testing.T) {
	dir := t.TempDir()
	for name, k := range samples(t) {
		line := k.SSH("my label")
		switch name {
		case "RSA-1024", "P-256", "P-384", "P-521":
			if !strings.HasSuffix(line, " my label") {
				t.Fatalf("%s: %q", name, line)
			}
			pemFile := filepath.Join(dir, name)
			if err := os.WriteFile(pemFile, k.PEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("ssh-keygen", "-i", "-m", "PKCS8", "-f", pemFile).Output()
			if err != nil || strings.TrimSpace(string(out)) != strings.TrimSuffix(line, " my label") {
				t.Errorf("%s: ssh-keygen says %s (%v), we say %s", name, out, err, line)
			}
		default:
			if line != "" {
				t.Errorf("%s: SSH does not know it, got %s", name, line)
			}
		}
	}
	k := samples(t)["P-256"]
	if strings.ContainsAny(k.SSH("a\nb"), "\r\n") || strings.HasSuffix(k.SSH(""), " ") {
		t.Error("label breaks the line")
	}
}

func TestVerify(t *testing.T) {
	digest := sha256.Sum256([]byte("hello"))
	for _, c := range curve.All() {
		d, x, y, _ := c.GenerateKey(rand.Reader)
		r, s, err := c.Sign(rand.Reader, d, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		k := &Key{Curve: c, X: x, Y: y}
		der, _ := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		n := (c.N.BitLen() + 7) / 8
		plain := append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
		padded, _ := asn1.Marshal([]asn1.RawValue{{Tag: 2, Bytes: append([]byte{0, 0}, r.Bytes()...)}, {Tag: 2, Bytes: append([]byte{0}, s.Bytes()...)}})
		for form, sig := range map[string][]byte{"DER": der, "plain": plain, "DER with superfluous zeros": padded} {
			if err := k.Verify(crypto.SHA256, digest[:], sig); err != nil {
				t.Errorf("%s, %s: %v", c.Name, form, err)
			}
			sig = bytes.Clone(sig)
			sig[len(sig)-1] ^= 1
			if err := k.Verify(crypto.SHA256, digest[:], sig); !errors.Is(err, ErrSignature) {
				t.Errorf("%s, %s: a changed signature gives %v", c.Name, form, err)
			}
		}
	}
	priv, _ := rsa.GenerateKey(rand.Reader, 1024)
	sig, _ := rsa.SignPKCS1v15(nil, priv, crypto.SHA256, digest[:])
	k := &Key{RSA: &priv.PublicKey}
	if err := k.Verify(crypto.SHA256, digest[:], sig); err != nil {
		t.Error(err)
	}
	if err := k.Verify(crypto.SHA256, digest[:], sig[1:]); !errors.Is(err, ErrSignature) {
		t.Errorf("a cut signature gives %v", err)
	}
}

func TestFromCertificate(t *testing.T) {
	dir := t.TempDir()
	for _, alg := range [][]string{{"rsa:1024"}, {"ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"}, {"ec", "-pkeyopt", "ec_paramgen_curve:P-384"}} {
		key, crt := filepath.Join(dir, "k.pem"), filepath.Join(dir, "c.der")
		args := append([]string{"req", "-x509", "-nodes", "-subj", "/CN=test", "-keyout", key, "-outform", "DER", "-out", crt, "-newkey"}, alg...)
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
		want, err := exec.Command("openssl", "pkey", "-in", key, "-pubout", "-outform", "DER").Output()
		if err != nil {
			t.Fatal(err)
		}
		der, err := os.ReadFile(crt)
		if err != nil {
			t.Fatal(err)
		}
		k, err := FromCertificate(der)
		if err != nil || !bytes.Equal(k.SPKI(), want) {
			t.Errorf("%v: %v", alg, err)
		}
		if _, err := FromCertificate(der[:len(der)-1]); !errors.Is(err, ErrFormat) {
			t.Errorf("a cut certificate gives %v", err)
		}
	}
}

func TestReject(t *testing.T) {
	if _, err := NewRSA(big.NewInt(15), 3); !errors.Is(err, ErrFormat) {
		t.Error("takes a tiny modulus")
	}
	if _, err := NewRSA(new(big.Int).Lsh(big.NewInt(1), 2047), 65537); !errors.Is(err, ErrFormat) {
		t.Error("takes an even modulus")
	}
	if _, err := NewEC(curve.ByName("P-256"), big.NewInt(1), big.NewInt(1)); !errors.Is(err, ErrFormat) {
		t.Error("takes a point off the curve")
	}
	if _, err := NewEC(nil, big.NewInt(1), big.NewInt(1)); err == nil {
		t.Error("takes no curve")
	}
	edwards, _ := asn1.Marshal(spki{Key: asn1.BitString{Bytes: []byte{1}, BitLength: 8}})
	for _, b := range [][]byte{nil, {0x30, 0}, edwards} {
		if _, err := ParseSPKI(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%X: %v", b, err)
		}
	}
	var none *Key
	if none.Equal(none) {
		t.Error("nil equals nil")
	}
}

func FuzzParseSPKI(f *testing.F) {
	for _, k := range samples(f) {
		f.Add(k.SPKI())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseSPKI(b)
		if err != nil {
			return
		}
		if again, err := ParseSPKI(k.SPKI()); err != nil || !again.Equal(k) {
			t.Fatal("does not survive")
		}
		_ = k.SSH("x")
		if std, err := x509.ParsePKIXPublicKey(b); err == nil && std == nil {
			t.Fatal("crypto/x509 gives nothing")
		}
	})
}
