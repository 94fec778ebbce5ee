package dkek

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"hsmbackup/internal/secret"
)

// pick gives the sheets with these IDs.
func pick(t testing.TB, all []*Sheet, ids ...int) []*Sheet {
	t.Helper()
	var chosen []*Sheet
	for _, id := range ids {
		chosen = append(chosen, all[id-1])
		if all[id-1].ID != id {
			t.Fatalf("sheet %d has ID %d", id, all[id-1].ID)
		}
	}
	return chosen
}

func passwordsOf(t testing.TB, sheets []*Sheet) []string {
	t.Helper()
	list, err := RecoverPassword(sheets)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		got = append(got, hex.EncodeToString(p.Bytes()))
	}
	return got
}

// Each pair and the whole set give the password that sc-hsm-tool used.
func TestRecoverPasswordGolden(t *testing.T) {
	for _, c := range []struct {
		file string
		want string
	}{
		{"thr.create.txt", "5ba5292303aebb5f"},
		{"thr11.create.txt", "10918115c752e5d8"},
		{"thr-zero.txt", "00667b1349ad131c 667b1349ad131c"},
	} {
		all := parseSheets(t, string(vector(t, c.file)))
		if got := strings.Join(passwordsOf(t, all), " "); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s", c.file, got)
		}
		for i := range all {
			for j := range all {
				if i == j {
					continue
				}
				if got := strings.Join(passwordsOf(t, []*Sheet{all[i], all[j]}), " "); !strings.HasPrefix(got, c.want) {
					t.Errorf("%s: sheets %d and %d give %s", c.file, i+1, j+1, got)
				}
			}
		}
	}
}

// The golden sets open at full cost, those included that sc-hsm-tool cannot:
// IDs from 10 on as they are printed, and a password with a leading zero. Under
// -short it is the one set whose password TestGoldenShares does not have.
func TestOpenThresholdGolden(t *testing.T) {
	var wait sync.WaitGroup
	for _, c := range []struct {
		file, sheets, kcv string
		ids               []int
	}{
		{"thr.pbe", "thr.create.txt", "8CA99AAD4BFF69E5", []int{1, 2, 3}},
		{"thr11.pbe", "thr11.create.txt", "85F9092C49C913AF", []int{10, 11}},
		{"thr-zero.pbe", "thr-zero.txt", "7980E3DE1B42EC75", []int{3, 1}},
	} {
		if testing.Short() && c.file != "thr11.pbe" {
			continue
		}
		sheets := pick(t, parseSheets(t, string(vector(t, c.sheets))), c.ids...)
		file := vector(t, c.file)
		wait.Go(func() {
			s, err := OpenThresholdPBE(context.Background(), file, sheets, nil)
			if err != nil {
				t.Errorf("%s: %v", c.file, err)
				return
			}
			k, err := Combine(s)
			if err != nil || k.KCV().String() != c.kcv {
				t.Errorf("%s: KCV %s, %v", c.file, k.KCV(), err)
			}
		})
	}
	wait.Wait()
}

// dealt is a set of sheets, made with math/big as sc-hsm-tool makes it.
type dealt struct {
	prime    *big.Int
	password []byte
	values   []*big.Int // of ID 1, 2, …
}

func deal(prime, s uint64, threshold, total int) dealt {
	p := new(big.Int).SetUint64(prime)
	polynomial := []*big.Int{new(big.Int).SetUint64(s)}
	for len(polynomial) < threshold {
		a, err := rand.Int(rand.Reader, p)
		if err != nil {
			panic(err)
		}
		polynomial = append(polynomial, a)
	}
	d := dealt{prime: p, password: binary.BigEndian.AppendUint64(nil, s)}
	for id := range total {
		y := new(big.Int)
		for i, a := range polynomial {
			power := new(big.Int).Exp(big.NewInt(int64(id+1)), big.NewInt(int64(i)), p)
			y.Add(y, power.Mul(power, a))
		}
		d.values = append(d.values, y.Mod(y, p))
	}
	return d
}

// text writes sheets as sc-hsm-tool prints them; wrong is added to the values
// of the IDs that it has.
func (d dealt) text(idFormat string, wrong map[int]int64, ids ...int) string {
	pairs := func(v *big.Int) string {
		b := v.Bytes() // without leading zeros
		if len(b) == 0 {
			b = []byte{0}
		}
		return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":")
	}
	var out strings.Builder
	for _, id := range ids {
		y := new(big.Int).Add(d.values[id-1], big.NewInt(wrong[id]))
		fmt.Fprintf(&out, "Prime       : %s\nShare ID    : "+idFormat+"\nShare value : %s\n", pairs(d.prime), id, pairs(y.Mod(y, d.prime)))
	}
	return out.String()
}

func (d dealt) seal(t testing.TB) (*Share, []byte) {
	t.Helper()
	s := NewShare()
	file, err := SealPBE(context.Background(), s, d.password, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, file
}

// nextPrime gives the smallest prime from v on.
func nextPrime(v uint64) uint64 {
	for v |= 1; !new(big.Int).SetUint64(v).ProbablyPrime(0); v += 2 {
	}
	return v
}

const (
	maxPrime = 1<<64 - 59 // the largest below 2^64
	minPrime = 3<<62 + 5  // nextPrime makes it one; the tool sets the top two bits
)

// Any set opens with any sheets from the threshold on, in any order, in any of
// the ways to write them, with any leading zeros, of any version of the tool.
// One sheet less does not open it.
func TestOpenThresholdProperty(t *testing.T) {
	cheap(t, 2)
	rapid.Check(t, func(t *rapid.T) {
		prime := rapid.OneOf(
			rapid.Map(rapid.Uint64Range(minPrime, maxPrime), nextPrime),
			rapid.SampledFrom([]uint64{maxPrime, nextPrime(minPrime), 0xE1B0DB94E63EB1F7}),
		).Draw(t, "prime")
		// 8 bytes, the first bit 0 now and 1 before 2016
		s := rapid.OneOf(
			rapid.Uint64Range(1, 1<<63-1),
			rapid.Custom(func(t *rapid.T) uint64 {
				return rapid.Uint64Range(1, 1<<63-1).Draw(t, "s")>>rapid.IntRange(0, 62).Draw(t, "zero bits") | 1
			}),
			rapid.Uint64Range(1<<63, 1<<64-1),
			rapid.Uint64Range(prime, 1<<64-1),
		).Draw(t, "password")
		total := rapid.IntRange(3, 20).Draw(t, "total")
		threshold := rapid.IntRange(2, total).Draw(t, "threshold")
		d := deal(prime, s, threshold, total)
		share := NewShare()
		file, err := SealPBE(context.Background(), share, d.password, nil)
		if err != nil {
			t.Fatal(err)
		}

		ids := make([]int, total)
		for i := range ids {
			ids[i] = i + 1
		}
		ids = rapid.Permutation(ids).Draw(t, "order")[:rapid.IntRange(threshold, total).Draw(t, "given")]
		format := rapid.SampledFrom([]string{"%d", "%x", "%02X", "0x%x"}).Draw(t, "ID format")
		text := d.text(format, nil, ids...)
		if rapid.Bool().Draw(t, "without colons") {
			head, tail, _ := strings.Cut(strings.ReplaceAll(text, " : ", " = "), "\n")
			text = strings.ReplaceAll(strings.ReplaceAll(head+"\n"+tail, ":", ""), " = ", " : ")
		}
		if rapid.Bool().Draw(t, "one prime") {
			head, tail, _ := strings.Cut(text, "\n")
			for _, l := range strings.SplitAfter(tail, "\n") {
				if !strings.HasPrefix(l, "Prime") {
					head += "\n" + strings.TrimSpace(l)
				}
			}
			text = head
		}
		sheets, err := ParseSheets([]byte(text))
		if err != nil || len(sheets) != len(ids) {
			t.Fatalf("%d sheets, %v:\n%s", len(sheets), err, text)
		}
		got, err := OpenThresholdPBE(context.Background(), file, sheets, nil)
		if err != nil || !got.Equal(share) {
			t.Fatalf("does not open: %v\n%s", err, text)
		}
		_, err = OpenThresholdPBE(context.Background(), file, sheets[:threshold-1], nil)
		if !errors.Is(err, ErrWrongPassword) {
			t.Fatalf("%d of %d sheets: %v", threshold-1, threshold, err)
		}
	})
}

// A file whose password is without the leading zeros opens too.
func TestOpenThresholdMinimal(t *testing.T) {
	cheap(t, 2)
	for _, s := range []uint64{0x00FF000000000001, 0x0000000000000001, 0x0000AB0000000000} {
		d := deal(0xE1B0DB94E63EB1F7, s, 2, 3)
		d.password = bytes.TrimLeft(d.password, "\x00")
		share, file := d.seal(t)
		if got, err := OpenThresholdPBE(context.Background(), file, parseSheets(t, d.text("%d", nil, 2, 3)), nil); err != nil || !got.Equal(share) {
			t.Errorf("%016x: %v", s, err)
		}
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct {
		s, p uint64
		want string
	}{
		{0x5BA5292303AEBB5F, 0xE1B0DB94E63EB1F7, "5ba5292303aebb5f"},
		{0x00667B1349AD131C, 0xE6F3E06AFA4044C1, "00667b1349ad131c 667b1349ad131c e75a5b7e43ed57dd"},
		{1, maxPrime, "0000000000000001 01 ffffffffffffffc6"},
		{58, maxPrime, "000000000000003a 3a ffffffffffffffff"},
		{59, maxPrime, "000000000000003b 3b"},
		{0, maxPrime, "0000000000000000 ffffffffffffffc5"},
	} {
		var got []string
		for _, b := range candidates(c.s, c.p) {
			got = append(got, hex.EncodeToString(b.Bytes()))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%x: %v, want %s", c.s, got, c.want)
		}
	}
}

// IDs as people wrote them down: in decimal, in hex, mixed, and such that each
// reading makes another set.
func TestOpenThresholdIDs(t *testing.T) {
	cheap(t, 2)
	d := deal(0xC0DBEA296605824B, 0x5BA5292303AEBB5F, 3, 20)
	share, file := d.seal(t)
	for _, c := range []struct {
		name string
		ids  []string // as written
		are  []int
	}{
		{"as printed", []string{"10", "11", "20"}, []int{10, 11, 20}},
		{"as typed", []string{"0a", "0b", "14"}, []int{10, 11, 20}},
		{"as typed, digits only", []string{"10", "11", "14"}, []int{16, 17, 20}},
		{"as typed, 10 and 0a", []string{"10", "0a", "3"}, []int{16, 10, 3}},
		{"mixed", []string{"10", "0b", "3"}, []int{10, 11, 3}},
		{"one of them twice", []string{"10", "0a", "3", "20"}, []int{10, 10, 3, 20}},
		{"more than needed, as typed", []string{"9", "10", "11", "12", "13", "14"}, []int{9, 16, 17, 18, 19, 20}},
		{"more than needed, as printed", []string{"9", "10", "11", "12", "13", "14"}, []int{9, 10, 11, 12, 13, 14}},
	} {
		var sheets []*Sheet
		for i, written := range c.ids {
			text := d.text("%d", nil, c.are[i])
			sheets = append(sheets, parseSheets(t, strings.Replace(text, fmt.Sprintf("ID    : %d\n", c.are[i]), "ID    : "+written+"\n", 1))...)
		}
		if got, err := OpenThresholdPBE(context.Background(), file, sheets, nil); err != nil || !got.Equal(share) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// What can be known before the file is opened is known then, and what cannot
// is explained.
func TestOpenThresholdReject(t *testing.T) {
	cheap(t, 2)
	d := deal(0xC0DBEA296605824B, 0x5BA5292303AEBB5F, 3, 20)
	_, file := d.seal(t)
	_, otherFile := deal(0xC0DBEA296605824B, 0x5BA5292303AEBB5E, 3, 3).seal(t)
	otherSet := deal(0xE1B0DB94E63EB1F7, 0x5BA5292303AEBB5F, 3, 3)
	all := func(texts ...string) (sheets []*Sheet) {
		for _, x := range texts {
			sheets = append(sheets, parseSheets(t, x)...)
		}
		return sheets
	}
	noPrime := func(text string) string {
		_, rest, _ := strings.Cut(text, "\n")
		return rest
	}
	wiped := all(d.text("%d", nil, 1, 2, 3))
	wiped[1].Wipe()
	for _, c := range []struct {
		name   string
		file   []byte
		sheets []*Sheet
		kind   error
		says   string
	}{
		{"none", file, nil, ErrWrongPassword, "no sheet given"},
		{"one", file, all(d.text("%d", nil, 7)), ErrWrongPassword, "only the sheet with ID 7"},
		{"one, twice", file, all(d.text("%d", nil, 7), d.text("%d", nil, 7)), ErrWrongPassword, "only the sheet with ID 7"},
		{"too few", file, all(d.text("%d", nil, 1, 2)), ErrWrongPassword, "of these 2 sheets: more sheets may be needed"},
		{"one wrong, just enough", file, all(d.text("%d", map[int]int64{2: 1}, 1, 2, 3)), ErrWrongPassword, "of these 3 sheets: more sheets may be needed"},
		{"one wrong, one more", file, all(d.text("%d", map[int]int64{2: 1}, 1, 2, 3, 4)), ErrWrongPassword, "leave out one sheet after the other"},
		{"one wrong, two more", file, all(d.text("%d", map[int]int64{2: 1}, 1, 2, 3, 4, 5)), ErrMismatch, "ID 2 does not agree with the other 4"},
		{"one wrong, many more", file, all(d.text("%d", map[int]int64{17: -1}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17)), ErrMismatch, "ID 17 does not agree with the other 10"},
		{"a wrong ID", file, all(d.text("%d", nil, 1, 2, 3, 4), strings.Replace(d.text("%d", nil, 5), ": 5\n", ": 6\n", 1)), ErrMismatch, "ID 6 does not agree"},
		{"two wrong", file, all(d.text("%d", map[int]int64{2: 1, 3: 5}, 1, 2, 3, 4, 5)), ErrWrongPassword, "of these 5 sheets"},
		{"another file", otherFile, all(d.text("%d", nil, 1, 2, 3, 4)), ErrWrongPassword, "the 4 sheets agree with each other"},
		{"another file, in hex", otherFile, all(strings.ReplaceAll(d.text("%x", nil, 16, 17, 18, 19), "0x", "")), ErrWrongPassword, "the 4 sheets agree with each other"},
		{"two sets", file, all(d.text("%d", nil, 1, 2), otherSet.text("%d", nil, 3)), ErrMismatch, "ID 3 has another prime than that with ID 1"},
		{"no prime", file, all(noPrime(d.text("%d", nil, 1)), noPrime(d.text("%d", nil, 2))), ErrFormat, "the prime is on none of the sheets"},
		{"above the prime of another sheet", file, all("Share ID: 2\nShare value: ff:ff:ff:ff:ff:ff:ff:ff\n", d.text("%d", nil, 1)), ErrMismatch, "ID 2 is not below the prime"},
		{"one ID, two values", file, all(d.text("%d", nil, 1, 2), d.text("%d", map[int]int64{2: 1}, 2)), ErrMismatch, "two sheets with ID 2 have different values"},
		{"one value, two IDs", file, all(d.text("%d", nil, 1, 2), strings.Replace(d.text("%d", nil, 2), ": 2\n", ": 3\n", 1)), ErrMismatch, "ID 2 and ID 3 have the same value"},
		{"wiped", file, wiped, ErrFormat, "sheet 2 is no longer in memory"},
		{"nil", file, []*Sheet{nil}, ErrFormat, "sheet 1 is no longer in memory"},
		{"no share file", file[1:], all(d.text("%d", nil, 1, 2, 3)), ErrFormat, "does not begin with \"Salted__\""},
		{"cut file", file[:60], all(d.text("%d", nil, 1, 2, 3)), ErrFormat, "60 bytes"},
	} {
		s, err := OpenThresholdPBE(context.Background(), c.file, c.sheets, nil)
		if s != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		} else if hexRun.MatchString(err.Error()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the message is more than it should be: %v", c.name, err)
		}
	}
}

// No wrong digit passes: not with just enough sheets, and with two more the
// sheet is named.
func TestOpenThresholdWrongDigit(t *testing.T) {
	cheap(t, 2)
	d := deal(0xE1B0DB94E63EB1F7, 0x5BA5292303AEBB5F, 2, 4)
	_, file := d.seal(t)
	good := d.text("%d", nil, 1, 2, 3)
	bad := d.text("%d", nil, 4)
	at := strings.Index(bad, "value : ") + len("value : ")
	tried := 0
	for i := at; i < len(bad)-1; i++ {
		if bad[i] == ':' {
			continue
		}
		digit := byte('0')
		if bad[i] == '0' {
			digit = '1'
		}
		wrong := bad[:i] + string(digit) + bad[i+1:]
		last := parseSheets(t, wrong)
		if _, err := OpenThresholdPBE(context.Background(), file, append(parseSheets(t, d.text("%d", nil, 1)), last...), nil); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("digit at %d: %v", i, err)
		}
		if _, err := OpenThresholdPBE(context.Background(), file, append(parseSheets(t, good), last...), nil); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "ID 4 ") {
			t.Errorf("digit at %d, with two more: %v", i, err)
		}
		tried++
	}
	if tried < 14 {
		t.Errorf("only %d digits tried", tried)
	}
}

// The arithmetic against math/big, at the edges of 64 bits.
func TestPrimeField(t *testing.T) {
	for _, p := range []uint64{maxPrime, nextPrime(1 << 63), 0xE1B0DB94E63EB1F7} {
		f := newPrimeField(p)
		modulus := new(big.Int).SetUint64(p)
		edges := []uint64{0, 1, 2, 255, 1 << 32, p / 2, p/2 + 1, p - 255, p - 2, p - 1}
		for _, a := range edges {
			for _, b := range edges {
				x, y := new(big.Int).SetUint64(a), new(big.Int).SetUint64(b)
				for name, c := range map[string]struct {
					got  uint64
					want *big.Int
				}{
					"+": {f.add(a, b), new(big.Int).Add(x, y)},
					"-": {f.sub(a, b), new(big.Int).Sub(x, y)},
					"*": {f.mul(a, b), new(big.Int).Mul(x, y)},
				} {
					if c.got != c.want.Mod(c.want, modulus).Uint64() {
						t.Errorf("%d %s %d mod %d = %d", a, name, b, p, c.got)
					}
				}
			}
		}
		for i := uint64(1); i <= maxSheetID; i++ {
			if f.mul(i, f.inverse[i]) != 1 {
				t.Errorf("1/%d mod %d is wrong", i, p)
			}
		}
	}
}

// As many sheets as there can be, one of them wrong.
func TestOutlierOfMany(t *testing.T) {
	d := deal(maxPrime, 0x5BA5292303AEBB5F, 2, maxSheetID)
	ids := make([]int, maxSheetID)
	for i := range ids {
		ids[i] = i + 1
	}
	if _, err := RecoverPassword(parseSheets(t, d.text("%x", map[int]int64{255: 1}, ids...))); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "ID 255 does not agree with the other 254") {
		t.Error(err)
	}
	for name, threshold := range map[string]int{"two of them": 2, "all of them": maxSheetID} {
		d := deal(maxPrime, 0x5BA5292303AEBB5F, threshold, maxSheetID)
		if got := passwordsOf(t, parseSheets(t, d.text("%x", nil, ids...))); got[0] != "5ba5292303aebb5f" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOpenThresholdProgress(t *testing.T) {
	cheap(t, 40_000)
	d := deal(0xE1B0DB94E63EB1F7, 0x00A5292303AEBB5F, 2, 3) // three passwords to try
	share, file := d.seal(t)
	sheets := parseSheets(t, d.text("%d", nil, 1, 2))
	var last, total uint64
	got, err := OpenThresholdPBE(context.Background(), file, sheets, func(done, of uint64) {
		if done < last {
			t.Errorf("progress goes from %d to %d", last, done)
		}
		last, total = done, of
	})
	if err != nil || !got.Equal(share) || last != total || total != 3*3*iterations {
		t.Errorf("progress %d of %d, %v", last, total, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := OpenThresholdPBE(ctx, file, sheets, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("goes on: %v", err)
	}
}

// What is recovered is the caller's to wipe, and the sheets stay as they are.
func TestRecoverPasswordKeepsSheets(t *testing.T) {
	sheets := parseSheets(t, string(vector(t, "thr.create.txt")))
	var before []*secret.Bytes
	for _, s := range sheets {
		before = append(before, s.value.Clone())
	}
	for range 2 {
		list, err := RecoverPassword(sheets)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			p.Wipe()
		}
	}
	for i, s := range sheets {
		if !s.value.Equal(before[i]) {
			t.Errorf("sheet %d has changed", i+1)
		}
	}
}
