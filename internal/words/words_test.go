package words

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/tyler-smith/go-bip39/wordlists"
	"pgregory.net/rapid"
)

// The entropy of BIP-39's own test vectors gives all words but the last, of
// which the checksum is part (github.com/trezor/python-mnemonic vectors.json).
func TestEncodeVectors(t *testing.T) {
	for _, c := range []struct{ entropy, want string }{
		{"00000000000000000000000000000000", "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon"},
		{"7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f", "legal winner thank year wave sausage worth useful legal winner thank"},
		{"80808080808080808080808080808080", "letter advice cage absurd amount doctor acoustic avoid letter advice cage"},
		{"ffffffffffffffffffffffffffffffff", "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo"},
	} {
		b, _ := hex.DecodeString(c.entropy)
		if got := strings.Join(Encode(b, 11), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.entropy, got, c.want)
		}
	}
}

func TestDecodeReturnsWhatWasEncoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 2, 40).Draw(t, "bytes")
		n := rapid.IntRange(1, 8*len(b)/Bits).Draw(t, "words")
		list := Encode(b, n)
		prefix, bits, err := Decode(list)
		if err != nil || bits != n*Bits {
			t.Fatalf("%d bits, %v", bits, err)
		}
		if len(prefix) != (bits+7)/8 || !slices.Equal(Encode(append(prefix, 0, 0), n), list) {
			t.Fatalf("%x gives %x", b, prefix)
		}
		whole := bits / 8
		if !bytes.Equal(prefix[:whole], b[:whole]) {
			t.Fatalf("%x begins otherwise than %x", prefix, b)
		}
		if rest := bits % 8; rest != 0 && prefix[whole] != b[whole]&^(0xFF>>rest) {
			t.Fatalf("last byte %02x of %02x, %d bits", prefix[whole], b[whole], rest)
		}
	})
}

func TestDecodeForms(t *testing.T) {
	want, bits, err := Decode([]string{"legal", "winner", "thank"})
	if err != nil || bits != 33 {
		t.Fatal(bits, err)
	}
	for _, form := range [][]string{
		{"legal winner thank"}, {"Legal-Winner-THANK"}, {" legal ", "winner  - thank\r\n"}, {"legal-winner", "\tthank"},
	} {
		got, n, err := Decode(form)
		if err != nil || n != bits || !bytes.Equal(got, want) {
			t.Errorf("%q: %x, %d, %v", form, got, n, err)
		}
	}
}

func TestDecodeReject(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, "no words"},
		{[]string{" - "}, "no words"},
		{[]string{"legal", "winnr"}, `word 2, "winnr", is not on the list: did you mean "winner"?`},
		{[]string{"lgeal"}, `did you mean "legal"?`},
		{[]string{"zooo"}, `did you mean "zoo"?`},
		{[]string{"legal thnk-year"}, `word 2, "thnk"`},
		{[]string{"xxxxxxxxxxxxx"}, `word 1, "xxxxxxxxxxxxx", is not on the list`},
		{[]string{strings.Repeat("a", 10000)}, "word 1"},
		{[]string{"ábandon"}, "word 1"},
	} {
		b, bits, err := Decode(c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) || b != nil || bits != 0 {
			t.Errorf("%.40q: %x, %d, %v", c.in, b, bits, err)
		}
	}
	if _, _, err := Decode([]string{"xxxxxxxxxxxxx"}); strings.Contains(err.Error(), "mean") {
		t.Errorf("suggests a word that is far away: %v", err)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "ab", 1},
		{"abc", "xabc", 1}, {"abc", "acb", 1}, {"kitten", "sitting", 3}, {"legal", "lgela", 2},
	} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("%q %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestRandom(t *testing.T) {
	seen := map[string]bool{}
	used := map[string]bool{}
	for range 400 {
		phrase, err := Random(7)
		if err != nil {
			t.Fatal(err)
		}
		list := strings.Split(string(phrase), " ")
		if _, bits, err := Decode(list); err != nil || bits != 77 || len(list) != 7 {
			t.Fatalf("%q: %d bits, %v", phrase, bits, err)
		}
		if seen[string(phrase)] {
			t.Fatalf("%q twice", phrase)
		}
		seen[string(phrase)] = true
		for _, w := range list {
			used[w] = true
		}
	}
	// 2800 draws of 2048 words: 1526 different ones are expected, σ is 18.
	if len(used) < 1400 || len(used) > 1650 {
		t.Errorf("%d different words in 2800", len(used))
	}
	for _, n := range []int{0, -1} {
		if _, err := Random(n); err == nil {
			t.Errorf("%d words: no error", n)
		}
	}
}

// What Random allocates must hold the longest phrase, or append would leave a
// copy of a password behind.
func TestLongest(t *testing.T) {
	if len(wordlists.English) != 2048 || longest != 8 {
		t.Errorf("%d words of up to %d letters", len(wordlists.English), longest)
	}
}

func TestEncodeTooFew(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("12 bits from one byte")
		}
	}()
	Encode([]byte{1}, 1)
}

func FuzzDecode(f *testing.F) {
	f.Add("legal winner thank")
	f.Add("Zoo-zoo")
	f.Add("winer")
	f.Fuzz(func(t *testing.T, s string) {
		prefix, bits, err := Decode([]string{s})
		if err != nil {
			return
		}
		again, n, err := Decode(Encode(append(prefix, 0), bits/Bits))
		if err != nil || n != bits || !bytes.Equal(again, prefix) {
			t.Fatalf("%q: %x, then %x, %v", s, prefix, again, err)
		}
	})
}
