package dkek

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// checksumOf takes a text apart and gives what its checksum comes out as; not
// ok if a character is no digit or there are too few.
func checksumOf(text string) (sum bech32State, digits []byte, prefix string, ok bool) {
	text = strings.ToLower(text)
	i := strings.LastIndexByte(text, '1')
	if i < 1 || len(text)-i-1 < bech32Checksum {
		return 0, nil, "", false
	}
	state := bech32Start(text[:i])
	for _, c := range []byte(text[i+1:]) {
		d, ok := bech32Digit(c)
		if !ok {
			return 0, nil, "", false
		}
		state.feed(d)
		digits = append(digits, d)
	}
	return state, digits[:len(digits)-bech32Checksum], text[:i], true
}

// The vectors of BIP 173 and BIP 350: the checksum of each valid one is that of
// its kind, and what decodes to bytes encodes to the same text.
func TestBech32Vectors(t *testing.T) {
	for _, c := range []struct {
		sum   bech32State
		texts []string
	}{
		{bech32Sum, []string{
			"A12UEL5L", "a12uel5l",
			"an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
			"abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
			"11qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqc8247j",
			"split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w", "?1ezyfcl",
		}},
		{bech32mSum, []string{
			"A1LQFN3A", "a1lqfn3a",
			"an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
			"abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
			"11llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllludsr8",
			"split1checkupstagehandshakeupstreamerranterredcaperredlc445v", "?1v759aa",
		}},
	} {
		for _, text := range c.texts {
			sum, digits, prefix, ok := checksumOf(text)
			if !ok || sum != c.sum {
				t.Errorf("%s: comes out as %x, want %x", text, sum, c.sum)
				continue
			}
			if data, ok := bech32Bytes(digits); ok {
				if got := string(encodeBech32(prefix, data, c.sum)); got != strings.ToLower(text) {
					t.Errorf("%s: encodes to %s", text, got)
				}
			}
		}
	}
	for text, sum := range map[string]bech32State{
		// of the other kind
		"A1LQFN3A": bech32Sum, "A12UEL5L": bech32mSum,
		// BIP 350: invalid checksum, or calculated with the prefix in upper case
		"M1VUXWEZ": bech32mSum, "lt1igcx5c0": bech32mSum, "mm1crxm3i": bech32mSum, "au1s5cgom": bech32mSum, "y1b0jsk6g": bech32mSum, "in1muywd": bech32mSum, "16plkw9": bech32mSum, "1p2gdwpf": bech32mSum,
		// BIP 173
		"A1G7SGD8": bech32Sum, "x1b4n0q5v": bech32Sum, "li1dgmt3": bech32Sum, "10a06t8": bech32Sum, "1qzzfhee": bech32Sum,
	} {
		if got, _, _, ok := checksumOf(text); ok && got == sum {
			t.Errorf("%s passes", text)
		}
	}
}

func TestBech32Bits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		digits := bech32Digits(data)
		for _, d := range digits {
			if d > 31 {
				t.Fatalf("digit %d", d)
			}
		}
		back, ok := bech32Bytes(digits)
		if !ok || !bytes.Equal(back, data) {
			t.Fatalf("%x gives %x, %v", data, back, ok)
		}
		if spare := 5*len(digits) - 8*len(data); spare > 0 { // bits left over must be zeros
			digits[len(digits)-1] |= 1 << rapid.IntRange(0, spare-1).Draw(t, "bit")
			if _, ok := bech32Bytes(digits); ok {
				t.Fatal("bits left over pass")
			}
			digits[len(digits)-1] &^= 31 >> (5 - spare)
		}
		if _, ok := bech32Bytes(append(digits, 0)); ok && len(data)%5 != 0 && 5*(len(digits)+1)-8*len(data) >= 5 && 5*(len(digits)+1)-8*len(data) < 8 {
			t.Fatal("a digit too many passes")
		}
	})
}

// BIP 350: with bech32m a q put in or left out before a p at the end is found,
// which it is not with bech32.
func TestBech32mFindsLength(t *testing.T) {
	found := 0
	for i := range 4096 {
		text := string(encodeBech32("hsmpart", []byte{byte(i), byte(i >> 8), 3, 4, 5}, bech32mSum))
		if !strings.HasSuffix(text, "p") {
			continue
		}
		found++
		for _, changed := range []string{text[:len(text)-1] + "qp", text[:len(text)-1] + "qqp"} {
			if sum, _, _, ok := checksumOf(changed); !ok || sum == bech32mSum {
				t.Errorf("%s passes", changed)
			}
		}
	}
	if found < 50 {
		t.Errorf("%d texts tried", found)
	}
}
