package dkek

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"pgregory.net/rapid"
)

// For the DKEK of 32 bytes 44: worked out by a script of its own, after
// docs/format.md, RFC 7748 and BIP 173.
const (
	recipientOf44 = "age1c299hvqkfnv6ykmgzzuyka60vdt0yqq039znq7sruwzy3e544vmsp629mz"
	identityOf44  = "AGE-SECRET-KEY-1EC9J3CXQ86KWAKY664E04DSKM9US0ATYHS0FRJN0DUE8QGDSRT8SMH9KTX"
)

// sealedV1 is "what only the PIN shows", sealed to recipientOf44 by the first
// version of this code: it must be readable for ever.
const sealedV1 = "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBLUWNHczVIRzR3cEhMcU1YbW5seXpCZDN5WHFQbzNoajhTcXlocG9mU2swCkpnZHph" +
	"d2NCSEVsTUxyK2M2eDlHTHp3cFFicDdmbWVuZm9LS2IzMkZMcTAKLS0tIEc1NkJrcXRGdmtmb2VJMnVIOTNENXpkQmJzMis1ZlhIOUdFQTVkcXhTd0EK" +
	"HbJx7nSF7li6sZ2Z+bKq2o2bNo14f5dRYtA6wF+jHWp7hdRYV+yvZJEdk8gNBuP1gEza9peWPQ=="

func seal(t testing.TB, recipient string, plain []byte) []byte {
	t.Helper()
	sealed, err := SealData(recipient, plain)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestRecipientGolden(t *testing.T) {
	k := testKey(t)
	if got, err := k.Recipient(); err != nil || got != recipientOf44 {
		t.Errorf("recipient %s, %v", got, err)
	}
	id, err := k.identity()
	if err != nil || id.String() != identityOf44 {
		t.Errorf("identity %s, %v", id, err)
	}
	sealed, err := base64.StdEncoding.DecodeString(sealedV1)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := k.OpenData(sealed); err != nil || string(plain) != "what only the PIN shows" {
		t.Errorf("opens to %q, %v", plain, err)
	}
}

// Whoever has the identity opens sealed data with any age.
func TestSealDataIsAge(t *testing.T) {
	id, err := age.ParseX25519Identity(identityOf44)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(seal(t, recipientOf44, []byte("content"))), id)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(r); err != nil || string(plain) != "content" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestBech32(t *testing.T) {
	for range 100 {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		// age's own encoding, decoded digit by digit
		const alphabet = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
		text := id.String()
		digits := text[len("AGE-SECRET-KEY-1") : len(text)-6]
		var scalar []byte
		bits, n := 0, 0
		for _, c := range digits {
			bits, n = bits<<5|strings.IndexRune(alphabet, c), n+5
			if n >= 8 {
				n -= 8
				scalar = append(scalar, byte(bits>>n))
				bits &= 1<<n - 1
			}
		}
		if got := string(bech32("AGE-SECRET-KEY-", scalar)); got != text {
			t.Fatalf("%s, age has %s", got, text)
		}
	}
	// BIP 173's own examples, in upper case
	if got := string(bech32("A", nil)); got != "A12UEL5L" {
		t.Error(got)
	}
	if got := string(bech32("ABCDEF", unhex(t, "00443214C74254B635CF84653A56D7C675BE77DF"))); got != "ABCDEF1QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7LMQQQXW" {
		t.Error(got)
	}
}

func TestSealData(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, err := KeyFromBytes(rapid.SliceOfN(rapid.Byte(), Size, Size).Draw(t, "key"))
		if err != nil {
			t.Fatal(err)
		}
		recipient, err := k.Recipient()
		if err != nil {
			t.Fatal(err)
		}
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		sealed, err := SealData(recipient, plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > 8 && bytes.Contains(sealed, plain) {
			t.Fatal("in clear")
		}
		if got, err := k.OpenData(sealed); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("opens to %x, %v", got, err)
		}
		again, err := SealData(recipient, plain)
		if err != nil || bytes.Equal(again, sealed) {
			t.Fatalf("sealed twice to the same, %v", err)
		}
		other, err := KeyFromBytes(rapid.SliceOfN(rapid.Byte(), Size, Size).Draw(t, "other key"))
		if err != nil {
			t.Fatal(err)
		}
		if other.KCV() == k.KCV() {
			t.Skip("the same key")
		}
		if got, err := other.OpenData(sealed); got != nil || !errors.Is(err, ErrOtherKey) || !strings.Contains(err.Error(), other.KCV().String()) {
			t.Fatalf("under another key: %v", err)
		}
	})
}

func TestSealDataReject(t *testing.T) {
	for name, r := range map[string]string{
		"nothing":       "",
		"secret half":   identityOf44,
		"one less":      recipientOf44[:61],
		"one more":      recipientOf44 + "q",
		"other letter":  strings.Replace(recipientOf44, "c299", "c288", 1),
		"with a line":   recipientOf44 + "\n",
		"SSH key":       "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE0Qd0nqUAHfBhJlqaUvS8cBAcIAJuzQ4Gm1qvzHWk0W",
		"point of zero": strings.ToLower(string(bech32("age", make([]byte, 32)))),
	} {
		sealed, err := SealData(r, []byte("content"))
		if sealed != nil || !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(strings.ToUpper(err.Error()), "EC9J3CXQ86") {
			t.Errorf("%s: the message has the secret: %v", name, err)
		}
	}
}

// No byte can be changed, no length either; what is found after the part for
// the key is never taken for another key's.
func TestOpenDataReject(t *testing.T) {
	k := testKey(t)
	sealed := seal(t, recipientOf44, []byte("what only the PIN shows"))
	stanza := bytes.Index(sealed, []byte("\n-> ")) + 1
	mac := bytes.Index(sealed, []byte("\n--- ")) + 1
	for i := range sealed {
		for _, flip := range []byte{0x01, 0x20, 0x80} {
			bad := bytes.Clone(sealed)
			bad[i] ^= flip
			got, err := k.OpenData(bad)
			want := []error{ErrTampered}
			switch {
			case i < len(ageMagic):
				want = []error{ErrFormat}
			case i >= stanza && i < mac:
				want = append(want, ErrOtherKey)
			}
			if got != nil || !errors.Is(err, want[0]) && !errors.Is(err, want[len(want)-1]) {
				t.Errorf("byte %d ^ %02x: %v", i, flip, err)
			}
		}
	}
	for n := range sealed {
		if got, err := k.OpenData(sealed[:n]); got != nil || !errors.Is(err, ErrTampered) && !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := k.OpenData(append(bytes.Clone(sealed), 0)); !errors.Is(err, ErrTampered) {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := k.OpenData(vector(t, "a.pbe")); !errors.Is(err, ErrFormat) {
		t.Errorf("a share file: %v", err)
	}
}

// Content of several chunks of age, also cut where one ends.
func TestOpenDataLarge(t *testing.T) {
	k := testKey(t)
	const chunk = 64 << 10
	for _, n := range []int{chunk - 1, chunk, chunk + 1, 2 * chunk} {
		plain := make([]byte, n)
		_, _ = rand.Read(plain)
		sealed := seal(t, recipientOf44, plain)
		if got, err := k.OpenData(sealed); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: %v", n, err)
		}
		overhead := len(sealed) - n - 16*((n+chunk-1)/chunk)
		for _, cut := range []int{overhead, overhead + chunk + 16, len(sealed) - 1} {
			if cut >= len(sealed) {
				continue
			}
			if got, err := k.OpenData(sealed[:cut]); got != nil || !errors.Is(err, ErrTampered) {
				t.Errorf("%d bytes, cut at %d: %v", n, cut, err)
			}
		}
	}
}

func TestRecipientWiped(t *testing.T) {
	k := testKey(t)
	sealed := seal(t, recipientOf44, nil)
	if plain, err := k.OpenData(sealed); err != nil || len(plain) != 0 {
		t.Errorf("empty content: %q, %v", plain, err)
	}
	k.Wipe()
	for _, k := range []*Key{k, nil} {
		if r, err := k.Recipient(); r != "" || !errors.Is(err, ErrFormat) {
			t.Errorf("recipient %q, %v", r, err)
		}
		if plain, err := k.OpenData(sealed); plain != nil || !errors.Is(err, ErrFormat) {
			t.Errorf("opens to %q, %v", plain, err)
		}
	}
}

func FuzzOpenData(f *testing.F) {
	sealed, err := base64.StdEncoding.DecodeString(sealedV1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(ageMagic)
	f.Add(fmt.Appendf(nil, "%s-> X25519 AAAA\n\n--- AAAA\n", ageMagic))
	k := testKey(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := k.OpenData(b)
		switch {
		case err == nil && len(plain) >= len(b):
			t.Fatal("opens to more than there is")
		case err != nil && (plain != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTampered) && !errors.Is(err, ErrOtherKey)):
			t.Fatal(err)
		}
	})
}
