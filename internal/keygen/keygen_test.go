package keygen

import (
	"testing"

	"hsmbackup/internal/pkcs15"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text string
		of   pkcs15.Kind
		bits int
	}{
		{"rsa:1024", pkcs15.RSA, 1024}, {"rsa:4096", pkcs15.RSA, 4096}, {"aes:192", pkcs15.AES, 192},
		{"ec:prime256v1", pkcs15.EC, 256}, {"ec:secp521r1", pkcs15.EC, 521}, {"ec:brainpoolP384r1", pkcs15.EC, 384},
	} {
		if k, err := Parse(c.text); err != nil || k.Of != c.of || k.Bits != c.bits {
			t.Errorf("%s: %+v, %v", c.text, k, err)
		}
	}
	for _, text := range []string{"", "rsa", "rsa:", "rsa:512", "rsa:2047", "rsa:0x800", "aes:64", "ec:", "ec:p999", "dsa:2048"} {
		if k, err := Parse(text); err == nil {
			t.Errorf("%q is taken: %+v", text, k)
		}
	}
}
