package dkek

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// anchorOf44 is HMAC-SHA256(44×32, "hsmbackup anchor key v1") by another implementation.
const anchorOf44 = "94a082976ffc338d6533a96efd05fbb184acc3d7a76e174627d4dde027d5897d"

func share(t testing.TB, fill byte) *Share {
	t.Helper()
	s, err := ShareFromBytes(bytes.Repeat([]byte{fill}, Size))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The vectors of fact sheet §6.1.
func TestDerivedKeys(t *testing.T) {
	both, err := Combine(share(t, 0xA5), share(t, 0xE1))
	if err != nil {
		t.Fatal(err)
	}
	real, err := KeyFromBytes(unhex(t, "20B3EE1CABA5ECA7ECEB6BE51F11BD9A04F5FE9A6B0A1E0A8BC13074D32CF830"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key            *Key
		kcv, enc, kmac string
	}{
		{both, "BB391415C05E39D7", "34423C9AB36899BD772D73DA3E350709F009634946C288A7B5E8A248868AE9FF", "1392790984A79DA93E797C0FD1919E16C9FE90D652A147DF16186E6840E9F2EB"},
		{real, "0FB85F69F6EBF256", "6890320D25D318530C3AB5988E29D8DF445E5F5ACE223364F41000394614B763", "BE9BA334E3A89E75E7E8308AE2C28DF3CCC4FDA8B805112E03AD0C3FD452E9A0"},
	} {
		if got := c.key.KCV().String(); got != c.kcv {
			t.Errorf("KCV %s, want %s", got, c.kcv)
		}
		if got := c.key.encryptionKey().Bytes(); !bytes.Equal(got, unhex(t, c.enc)) {
			t.Errorf("encryption key of %s: %X", c.kcv, got)
		}
		if got := c.key.authenticationKey().Bytes(); !bytes.Equal(got, unhex(t, c.kmac)) {
			t.Errorf("authentication key of %s: %X", c.kcv, got)
		}
	}
	if got := hex.EncodeToString(both.AnchorKey()); got != anchorOf44 {
		t.Errorf("anchor key %s, want %s", got, anchorOf44)
	}
}

func TestCombineReject(t *testing.T) {
	a, b, c := share(t, 1), share(t, 2), share(t, 3)
	for _, x := range []struct {
		name   string
		shares []*Share
		want   error
		says   string
	}{
		{"none", nil, ErrFormat, "no share"},
		{"nil", []*Share{a, nil}, ErrFormat, "share 2"},
		{"twice", []*Share{a, a}, ErrDuplicateShare, "1 and 2"},
		{"same bytes", []*Share{b, a, share(t, 2)}, ErrDuplicateShare, "1 and 3"},
		{"three that cancel", []*Share{a, b, c}, ErrZeroKey, "66687AADF862BD77"},
	} {
		k, err := Combine(x.shares...)
		if k != nil || !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	wiped := share(t, 9)
	wiped.Wipe()
	if _, err := Combine(wiped); !errors.Is(err, ErrFormat) {
		t.Errorf("a wiped share: %v", err)
	}
}

func TestShareFromBytesReject(t *testing.T) {
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := ShareFromBytes(bytes.Repeat([]byte{1}, n)); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := KeyFromBytes(make([]byte, n)); !errors.Is(err, ErrFormat) {
			t.Errorf("key of %d bytes: %v", n, err)
		}
	}
	if _, err := ShareFromBytes(make([]byte, Size)); !errors.Is(err, ErrFormat) {
		t.Errorf("zeros: %v", err)
	}
}

func TestKCV(t *testing.T) {
	zero, err := KeyFromBytes(make([]byte, Size))
	if err != nil {
		t.Fatal(err)
	}
	if v := zero.KCV(); v.String() != "66687AADF862BD77" || !v.IsZeroKey() || v.IsZero() {
		t.Errorf("KCV of the zero key: %s", v)
	}
	if (KCV{1}).IsZero() || !(KCV{}).IsZero() || (KCV{}).IsZeroKey() {
		t.Error("IsZero")
	}
	for _, s := range []string{"19471B8FFE18014C", "19471b8ffe18014c", "19:47:1B:8F:FE:18:01:4C", "19471B8F FE18014C"} {
		if v, err := ParseKCV(s); err != nil || v.String() != "19471B8FFE18014C" {
			t.Errorf("%q: %s, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "19471B8FFE1801", "19471B8FFE18014C00", "19471B8FFE18014G", "19471B8FFE18014"} {
		if _, err := ParseKCV(s); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Any split of a key comes together in any order, and taking one share away or
// another in gives another KCV.
func TestCombineProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfNDistinct(rapid.SliceOfN(rapid.Byte(), Size, Size), 2, 6, func(b []byte) string { return string(b) }).Draw(t, "shares")
		var shares []*Share
		var sum [Size]byte
		for _, b := range raw {
			for i := range sum {
				sum[i] ^= b[i]
			}
			s, err := ShareFromBytes(bytes.Clone(b))
			if err != nil {
				t.Skip("zero share")
			}
			shares = append(shares, s)
		}
		shares = rapid.Permutation(shares).Draw(t, "order")
		k, err := Combine(shares...)
		if sum == [Size]byte{} {
			if !errors.Is(err, ErrZeroKey) {
				t.Fatalf("zero key: %v", err)
			}
			return
		}
		if err != nil || !bytes.Equal(k.Bytes(), sum[:]) {
			t.Fatalf("combined to something else: %v", err)
		}
		if other, err := Combine(shares[1:]...); err == nil && other.KCV() == k.KCV() {
			t.Fatal("one share less gives the same KCV")
		}
	})
}

// Secrets neither print nor survive Wipe.
func TestSecretsStayInside(t *testing.T) {
	s := share(t, 0xA5)
	k, err := Combine(s, share(t, 0xE1))
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewAES(bytes.Repeat([]byte{0x5C}, 16))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{s, *s, k, *k, p, *p, rsaKeys(t)[0]} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if got := fmt.Sprintf(verb, v); got != redacted {
				t.Errorf("%T prints with %s as %s", v, verb, got)
			}
		}
		if b, err := json.Marshal(v); err == nil && string(b) != "{}" {
			t.Errorf("%T is in JSON: %s", v, b)
		}
	}
	for range 2 {
		s.Wipe()
		k.Wipe()
		p.Wipe()
	}
	if s.Bytes() != nil || k.Bytes() != nil || p.AES() != nil {
		t.Error("something is left after Wipe")
	}
	if !k.KCV().IsZero() || k.AnchorKey() != nil {
		t.Error("a wiped key still answers")
	}
	if _, err := k.Seal(rsaKeys(t)[0], SealOptions{}); !errors.Is(err, ErrFormat) {
		t.Errorf("a wiped key seals: %v", err)
	}
	var noShare *Share
	var noKey *Key
	var noPrivate *PrivateKey
	noShare.Wipe()
	noKey.Wipe()
	noPrivate.Wipe()
	if noShare.Bytes() != nil || noKey.Bytes() != nil || noShare.Equal(noShare) {
		t.Error("nil answers")
	}
}

func TestNewShare(t *testing.T) {
	a, b := NewShare(), NewShare()
	if len(a.Bytes()) != Size || a.Equal(b) || !a.Equal(a) {
		t.Error("shares are not random")
	}
}
