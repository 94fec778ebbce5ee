package dkek

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"hsmbackup/internal/secret"
)

// secrets are shares at the edges and random ones.
func secrets() [][]byte {
	list := [][]byte{
		make([]byte, Size),
		bytes.Repeat([]byte{0xFF}, Size),
		append(make([]byte, Size-1), 1),
		append([]byte{1}, make([]byte, Size-1)...),
		append(make([]byte, 16), bytes.Repeat([]byte{0xFF}, 16)...),
	}
	for i := range 4 {
		b := secret.Random(Size)
		plain := bytes.Clone(b.Bytes())
		b.Wipe()
		clear(plain[:i]) // 00-led, but for the first
		list = append(list, plain)
	}
	return list
}

// splitOf makes parts that are wiped when the test ends: each has pages of its
// own, and there are not many to be had.
func splitOf(t testing.TB, plain []byte, o SplitOptions) []*Part {
	t.Helper()
	parts, err := split(plain, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wipeParts(parts) })
	return parts
}

func wipeParts(parts []*Part) {
	for _, p := range parts {
		p.Wipe()
	}
}

// reread gives parts as people bring them: as text.
func reread(t testing.TB, parts []*Part) []*Part {
	t.Helper()
	var list []*Part
	for _, p := range parts {
		q, err := ParsePart(p.Text())
		if err != nil {
			t.Fatal(err)
		}
		if !q.Equal(p) {
			t.Fatal("another part")
		}
		list = append(list, q)
	}
	t.Cleanup(func() { wipeParts(list) })
	return list
}

// combined checks that parts give the share, in whatever order.
func combined(t rapid.TB, parts []*Part, plain []byte) {
	t.Helper()
	if bytes.Equal(plain, make([]byte, Size)) { // which no share may be, but parts must not lose
		got, err := join(parts)
		if err != nil || !bytes.Equal(got, plain) || !parts[0].fits(got) {
			t.Fatalf("zeros give %x, %v", got, err)
		}
		if _, err := CombineParts(parts); !errors.Is(err, ErrFormat) {
			t.Fatalf("a share of zeros: %v", err)
		}
		return
	}
	share, err := CombineParts(parts)
	if err != nil {
		t.Fatal(err)
	}
	defer share.Wipe()
	if !bytes.Equal(share.Bytes(), plain) {
		t.Fatal("parts give another share")
	}
}

// tooFew checks that parts of which one is missing do not pass, and do not give
// the share either.
func tooFew(t rapid.TB, parts []*Part, plain []byte) {
	t.Helper()
	_, err := CombineParts(parts)
	var missing *MissingPartsError
	if !errors.As(err, &missing) || missing.Needed-len(missing.Have) != 1 {
		t.Fatalf("%d of %d: %v", len(parts), parts[0].Needed, err)
	}
	for _, p := range parts {
		if bytes.Equal(p.y.Bytes(), plain) {
			t.Fatal("a part is the share")
		}
	}
	if len(parts) < 2 {
		return
	}
	got, err := join(parts)
	if err != nil || bytes.Equal(got, plain) || parts[0].fits(got) {
		t.Fatalf("%d of %d parts give the share: %v", len(parts), parts[0].Needed, err)
	}
}

// Every choice of K parts gives the share again, for all K and N up to 8, and no
// choice of K-1 does.
func TestEverySubset(t *testing.T) {
	tried := 0
	for total := 2; total <= 8; total++ {
		for needed := 2; needed <= total; needed++ {
			for _, plain := range secrets() {
				parts := reread(t, splitOf(t, plain, SplitOptions{Needed: needed, Total: total}))
				_ = subsets(parts, needed, func(chosen []*Part) error {
					chosen = slices.Clone(chosen)
					rand.Shuffle(needed, func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
					combined(t, chosen, plain)
					tried++
					return nil
				})
				_ = subsets(parts, needed-1, func(chosen []*Part) error {
					tooFew(t, chosen, plain)
					tried++
					return nil
				})
				combined(t, parts, plain) // all of them, too
				wipeParts(parts)
			}
		}
	}
	t.Logf("%d choices", tried)
}

// The same for samples up to 16.
func TestSubsetsOfMany(t *testing.T) {
	all := secrets()
	for n, c := range []struct{ needed, total int }{{2, 9}, {5, 9}, {9, 9}, {3, 12}, {7, 13}, {2, 16}, {8, 16}, {15, 16}, {16, 16}} {
		for i := range 3 {
			plain := all[(3*n+i)%len(all)]
			parts := reread(t, splitOf(t, plain, SplitOptions{Needed: c.needed, Total: c.total, Share: 16, Shares: 16}))
			for range 10 {
				rand.Shuffle(c.total, func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
				combined(t, slices.Clone(parts[:c.needed]), plain)
				tooFew(t, slices.Clone(parts[:c.needed-1]), plain)
			}
			wipeParts(parts)
			if testing.Short() {
				break
			}
		}
	}
}

// 100,000 splits lose none. Each is recombined by split itself, and by chance
// once more here.
// Before anybody gets a part, what was split is compared with what comes
// together again.
func TestRecombine(t *testing.T) {
	share := NewShare()
	parts, err := Split(share, SplitOptions{Needed: 2, Total: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := recombine(share.Bytes(), parts, 2); err != nil {
		t.Error(err)
	}
	other := slices.Clone(share.Bytes())
	other[0] ^= 1
	if recombine(other, parts, 2) == nil {
		t.Error("another share comes together, and nothing is said")
	}
}

func TestManySplits(t *testing.T) {
	splits := 100_000
	if testing.Short() {
		splits = 2_000
	}
	const workers = 2
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for i := w; i < splits; i += workers {
				o := SplitOptions{Needed: 2, Total: 2}
				switch {
				case i%500 == 0:
					o = SplitOptions{Needed: 2 + rand.IntN(7), Total: 8}
				case i%50 == 0:
					o = SplitOptions{Needed: 3, Total: 5}
				case i%4 == 0:
					o = SplitOptions{Needed: 2 + rand.IntN(2), Total: 3}
				}
				plain := make([]byte, Size)
				for j := range plain {
					plain[j] = byte(rand.Uint32())
				}
				parts, err := split(plain, o)
				if err != nil {
					t.Errorf("%d of %d: %v", o.Needed, o.Total, err)
					return
				}
				var chosen []*Part
				for _, j := range rand.Perm(o.Total)[:o.Needed] {
					chosen = append(chosen, parts[j])
				}
				share, err := CombineParts(chosen)
				if err != nil || !bytes.Equal(share.Bytes(), plain) {
					t.Errorf("%x, %d of %d, is lost: %v", plain, o.Needed, o.Total, err)
					return
				}
				share.Wipe()
				wipeParts(parts)
			}
		})
	}
	wait.Wait()
}

func TestSplitOptions(t *testing.T) {
	share := NewShare()
	defer share.Wipe()
	for _, o := range []SplitOptions{
		{}, {Needed: 1, Total: 3}, {Needed: 3, Total: 2}, {Needed: 2, Total: 17}, {Needed: 17, Total: 17}, {Needed: -1, Total: 3}, {Needed: 0, Total: 2},
		{Needed: 2, Total: 3, Share: 3, Shares: 2}, {Needed: 2, Total: 3, Share: 1, Shares: 17}, {Needed: 2, Total: 3, Share: 0, Shares: 1}, {Needed: 2, Total: 3, Share: -1, Shares: 1}, {Needed: 2, Total: 3, Share: 1},
	} {
		if parts, err := Split(share, o); !errors.Is(err, ErrFormat) || parts != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	kcv := KCV{1, 2, 3, 4, 5, 6, 7, 8}
	parts, err := Split(share, SplitOptions{Needed: 3, Total: 5, Share: 2, Shares: 4, KCV: kcv})
	if err != nil {
		t.Fatal(err)
	}
	defer wipeParts(parts)
	for i, p := range parts {
		if p.Index != i+1 || p.Needed != 3 || p.Total != 5 || p.Share != 2 || p.Shares != 4 || p.KCV != kcv || p.Set != parts[0].Set || len(p.Set) != 8 {
			t.Errorf("part %d says %s, %d of %d, share %d of %d, KCV %s", i+1, p.Name(), p.Needed, p.Total, p.Share, p.Shares, p.KCV)
		}
	}
	again, err := Split(share, SplitOptions{Needed: 3, Total: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer wipeParts(again)
	if again[0].Set == parts[0].Set || again[0].Share != 1 || again[0].Shares != 1 || !again[0].KCV.IsZero() {
		t.Errorf("a second split: %s, share %d of %d, KCV %s", again[0].Name(), again[0].Share, again[0].Shares, again[0].KCV)
	}
	share.Wipe()
	if _, err := Split(share, SplitOptions{Needed: 2, Total: 2}); !errors.Is(err, ErrFormat) {
		t.Errorf("a wiped share: %v", err)
	}
	if _, err := Split(nil, SplitOptions{Needed: 2, Total: 2}); !errors.Is(err, ErrFormat) {
		t.Errorf("no share: %v", err)
	}
}

// altered gives a part with one change to its payload and a new checksum: what
// someone makes on purpose. Nil if it is no part any more.
func altered(p *Part, change func(payload []byte)) *Part {
	payload := p.payload()
	change(payload)
	text := partText.encode(payload)
	q, err := ParsePart(text)
	if err != nil {
		return nil
	}
	return q
}

// Parts that do not belong together are named as what they are.
func TestCombineRefuses(t *testing.T) {
	plain := secrets()[5]
	a := splitOf(t, plain, SplitOptions{Needed: 3, Total: 5})
	b := splitOf(t, plain, SplitOptions{Needed: 3, Total: 5}) // the same share, resplit
	y := func(at int) func([]byte) { return func(b []byte) { b[partHeader+at] ^= 0x10 } }
	otherIndex := altered(a[1], func(b []byte) { b[atIndex] = 5 })
	for _, c := range []struct {
		name  string
		parts []*Part
		is    error
		says  []string
	}{
		{"none", nil, ErrFormat, []string{"no part"}},
		{"two sets", []*Part{a[0], a[1], b[2]}, ErrMismatch, []string{"part 1 is of set " + a[0].Set, "part 3 of set " + b[0].Set}},
		{"two sets, one too many", []*Part{a[0], a[1], a[2], b[2]}, ErrMismatch, []string{b[0].Set}},
		{"the same twice", []*Part{a[0], a[1], a[0]}, ErrDuplicateShare, []string{"part 1", a[0].Set, "twice"}},
		{"the same twice, read twice", append(reread(t, a[3:4]), a[3], a[0]), ErrDuplicateShare, []string{"part 4", "twice"}},
		{"K altered", []*Part{a[0], a[1], altered(a[2], func(b []byte) { b[atKN] = 1<<4 | 4 })}, ErrMismatch, []string{"contradict", "1 and 3"}},
		{"N altered", []*Part{a[0], altered(a[1], func(b []byte) { b[atKN] = 2<<4 | 6 }), a[2]}, ErrMismatch, []string{"contradict", "1 and 2"}},
		{"KCV altered", []*Part{a[0], altered(a[1], func(b []byte) { b[atKCV] = 9 }), a[2]}, ErrMismatch, []string{"contradict", "1 and 2"}},
		{"share altered", []*Part{a[0], a[1], altered(a[4], func(b []byte) { b[atShares] = 0x01 })}, ErrMismatch, []string{"contradict", "1 and 5"}},
		{"check altered", []*Part{a[0], a[1], altered(a[4], func(b []byte) { b[atCheck+3] ^= 1 })}, ErrMismatch, []string{"contradict", "1 and 5"}},
		{"index of another", []*Part{otherIndex, a[4], a[2]}, ErrMismatch, []string{"two different parts", "part 5"}},
		{"altered, just enough", []*Part{a[0], altered(a[1], y(0)), a[2]}, ErrTampered, []string{"every part passed", a[0].Set, "one more part"}},
		{"altered, two of five", []*Part{a[0], altered(a[1], y(0)), a[2], altered(a[3], y(31))}, ErrTampered, []string{"every part passed"}},
		{"altered, one more", []*Part{a[0], altered(a[1], y(31)), a[2], a[3]}, ErrMismatch, []string{"part 2 ", "leave it out"}},
		{"altered, the last of all", []*Part{a[0], a[1], a[2], a[3], altered(a[4], y(7))}, ErrMismatch, []string{"part 5 ", "leave it out"}},
		{"altered, the first of all", []*Part{altered(a[0], y(7)), a[1], a[2], a[3], a[4]}, ErrMismatch, []string{"part 1 ", "leave it out"}},
		{"x altered", []*Part{a[0], a[1], a[2], altered(a[3], func(b []byte) {
			for b[atX]++; b[atX] == 0 || slices.ContainsFunc(a, func(p *Part) bool { return p.header[atX] == b[atX] }); b[atX]++ {
			}
		})}, ErrMismatch, []string{"part 4 "}},
		{"x of another", []*Part{a[0], a[1], a[2], altered(a[3], func(b []byte) { b[atX] = a[0].header[atX] })}, ErrMismatch, []string{"part 4 "}},
		{"x of another, just enough", []*Part{a[0], a[1], altered(a[3], func(b []byte) { b[atX] = a[0].header[atX] })}, ErrTampered, []string{"every part passed"}},
	} {
		share, err := CombineParts(c.parts)
		if share != nil || !errors.Is(err, c.is) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q lacks %q", c.name, err, s)
			}
		}
		noSecret(t, c.name, err, append(slices.Clone(a), b...), plain)
	}
	if altered(a[1], func(b []byte) { b[atX] = 0 }) != nil {
		t.Error("a part with x = 0, which is the share itself, is read")
	}
	combined(t, []*Part{a[0], a[4], a[2]}, plain)
}

// noSecret checks that a message repeats nothing of parts or share.
func noSecret(t testing.TB, name string, err error, parts []*Part, plain []byte) {
	t.Helper()
	said := strings.ToLower(fmt.Sprintf("%v %+v %#v", err, err, err))
	for _, p := range parts {
		body := p.Compact()[30:]
		for i := 0; i+8 <= len(body); i++ {
			if strings.Contains(said, string(body[i:i+8])) {
				t.Fatalf("%s: the message has a piece of %s: %v", name, p.Name(), err)
			}
		}
		if strings.Contains(said, hex.EncodeToString(p.y.Bytes()[:6])) {
			t.Fatalf("%s: the message has a piece of %s: %v", name, p.Name(), err)
		}
	}
	if strings.Contains(said, hex.EncodeToString(plain[:6])) {
		t.Fatalf("%s: the message has a piece of the share: %v", name, err)
	}
}

// Any bit of any part that is altered on purpose is found: with one part more
// than needed the part is named.
func TestAlteredPartIsNamed(t *testing.T) {
	plain := secrets()[6]
	parts := splitOf(t, plain, SplitOptions{Needed: 2, Total: 3})
	for bit := range 8 * partSize {
		bad := altered(parts[1], func(b []byte) { b[bit/8] ^= 1 << (bit % 8) })
		if bad == nil {
			continue // a header that no set has
		}
		for _, chosen := range [][]*Part{{parts[0], bad, parts[2]}, {bad, parts[0], parts[2]}, {parts[2], parts[0], bad}} {
			share, err := CombineParts(chosen)
			if share != nil || err == nil {
				t.Fatalf("bit %d: passes", bit)
			}
			if bit >= 8*partHeader && (!errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "part 2 of")) {
				t.Fatalf("bit %d: %v", bit, err)
			}
		}
		// The index is a name only: what counts is x.
		if share, err := CombineParts([]*Part{bad, parts[0]}); bit/8 != atIndex && (share != nil || err == nil) {
			t.Fatalf("bit %d: passes with just enough parts", bit)
		}
		bad.Wipe()
	}
}

func TestMissingParts(t *testing.T) {
	parts := splitOf(t, secrets()[7], SplitOptions{Needed: 3, Total: 5})
	_, err := CombineParts([]*Part{parts[4], parts[1]})
	var missing *MissingPartsError
	if !errors.As(err, &missing) || missing.Set != parts[0].Set || missing.Needed != 3 || missing.Total != 5 || !slices.Equal(missing.Have, []int{2, 5}) {
		t.Fatalf("%v", err)
	}
	if want := "set " + parts[0].Set + ": any 3 of 5 parts bring the share together, order does not matter; parts 2, 5 are here, 1 more needed"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestGroupParts(t *testing.T) {
	a := splitOf(t, secrets()[6], SplitOptions{Needed: 2, Total: 3, Share: 1, Shares: 2, KCV: KCV{1}})
	b := splitOf(t, secrets()[7], SplitOptions{Needed: 3, Total: 4, Share: 2, Shares: 2, KCV: KCV{1}})
	groups := GroupParts(append(reread(t, a[1:2]), b[0], a[1], a[0], b[3]))
	if len(groups) != 2 {
		t.Fatalf("%d groups", len(groups))
	}
	if g := groups[0]; g.Set != a[0].Set || len(g.Parts) != 2 || g.Missing() != 0 || g.Share != 1 || g.Shares != 2 {
		t.Errorf("%s: %d parts, %d missing", g.Set, len(g.Parts), g.Missing())
	}
	if g := groups[1]; g.Set != b[0].Set || len(g.Parts) != 2 || g.Missing() != 1 || g.Share != 2 || g.Needed != 3 || g.Total != 4 {
		t.Errorf("%s: %d parts, %d missing", g.Set, len(g.Parts), g.Missing())
	}
	if GroupParts(nil) != nil {
		t.Error("groups of nothing")
	}
}

func TestCheckPartsKCV(t *testing.T) {
	share := NewShare()
	defer share.Wipe()
	key, err := Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	for _, c := range []struct {
		kcv  KCV
		good bool
	}{{key.KCV(), true}, {KCV{}, true}, {KCV{1}, false}} {
		groups := GroupParts(splitOf(t, share.Bytes(), SplitOptions{Needed: 2, Total: 2, KCV: c.kcv}))
		err := CheckPartsKCV(groups, key)
		if (err == nil) != c.good {
			t.Errorf("KCV %s: %v", c.kcv, err)
		}
		if !c.good && (!errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), key.KCV().String()) || !strings.Contains(err.Error(), groups[0].Set)) {
			t.Errorf("KCV %s: %v", c.kcv, err)
		}
	}
}

// Without the token's numbers a share is random, with them too, and they are
// cleared.
func TestMixedShare(t *testing.T) {
	seen := map[string]bool{}
	for _, extra := range [][]byte{nil, {}, {1}, bytes.Repeat([]byte{7}, 64), bytes.Repeat([]byte{7}, 64)} {
		s := NewMixedShare(extra)
		if len(s.Bytes()) != Size || seen[string(s.Bytes())] || bytes.ContainsAny(extra, "\x01\x07") {
			t.Errorf("%d bytes; extra %x", len(s.Bytes()), extra)
		}
		seen[string(s.Bytes())] = true
		s.Wipe()
	}
}

// Any split comes together from any choice, in text of any shape.
func TestSplitProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(2, 9).Draw(t, "total")
		o := SplitOptions{Needed: rapid.IntRange(2, min(total, 6)).Draw(t, "needed"), Total: total}
		o.Shares = rapid.IntRange(1, 16).Draw(t, "shares")
		o.Share = rapid.IntRange(1, o.Shares).Draw(t, "share")
		copy(o.KCV[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "KCV"))
		plain := rapid.SliceOfN(rapid.Byte(), Size, Size).Draw(t, "secret")
		parts, err := split(plain, o)
		if err != nil {
			t.Fatal(err)
		}
		defer wipeParts(parts)
		var chosen []*Part
		for _, i := range rapid.Permutation(rand.Perm(total)).Draw(t, "order")[:rapid.IntRange(o.Needed, total).Draw(t, "given")] {
			text := rapid.SampledFrom([][]byte{parts[i].Text(), parts[i].Compact(), bytes.ToUpper(parts[i].Compact()), parts[i].CheckedText()}).Draw(t, "text")
			p, err := ParsePart(text)
			if err != nil {
				t.Fatal(err)
			}
			chosen = append(chosen, p)
		}
		defer wipeParts(chosen)
		combined(t, chosen, plain)
	})
}
