package dkek

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// fixedPart is a part that must be read for ever: its payload, its text, and
// its commitment, worked out by a script of its own after docs/format.md.
const (
	fixedPayload = "01" + "0a1b2c3d" + "c5" + "02" + "24" + "13" + "5f0e9d71" + "19471b8ffe18014c" +
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	fixedText       = "hsmpart1qy9pktpac5pzgy6lp6whzx28rw8luxqpfsqqzqsrqszsvpcgpy9qkrqdpc83qygjzv2p29shrqv35xcur50p7wkwnqz"
	fixedCommitment = "00da875b6f068fdf6819465ef31813d362a5812139418f6309cc0856850f724b"
)

func fixedPart(t testing.TB) *Part {
	t.Helper()
	p, err := newPart(unhex(t, fixedPayload))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPartGolden(t *testing.T) {
	p, err := ParsePart([]byte(fixedText))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(p.payload()); got != fixedPayload {
		t.Errorf("payload %s", got)
	}
	if got := string(p.Compact()); got != fixedText {
		t.Errorf("text %s", got)
	}
	if got := hex.EncodeToString(p.Commitment()); got != fixedCommitment {
		t.Errorf("commitment %s", got)
	}
	if p.Set != "0a1b2c3d" || p.Index != 2 || p.Needed != 3 || p.Total != 5 || p.Share != 2 || p.Shares != 4 || p.KCV.String() != "19471B8FFE18014C" {
		t.Errorf("%s, %d of %d, share %d of %d, KCV %s", p.Name(), p.Needed, p.Total, p.Share, p.Shares, p.KCV)
	}
	if p.Name() != "part 2 of 5 of set 0a1b2c3d" {
		t.Error(p.Name())
	}
	if got := string(p.CheckedText()); got != fixedChecked {
		t.Errorf("with checks:\n%s", got)
	}
}

const fixedChecked = `hsmpa rt1qy 9pktp ac5pz  =xt
gy6lp 6whzx 28rw8 luxqp  =dx
fsqqz qsrqs zsvpc gpy9q  =4j
krqdp c83qy gjzv2 p29sh  =8m
rqv35 xcur5 0p7wk wnqz  =vl
`

// randomPart is one of no set that there is.
func randomPart(t testing.TB) *Part {
	t.Helper()
	payload := make([]byte, partSize)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	payload[0], payload[atX], payload[atIndex], payload[atKN], payload[atShares] = partKind, payload[atX]|1, 3, 2<<4|6, 1<<4|2
	p, err := newPart(payload)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Wipe)
	return p
}

// A part is read in any shape that people give it.
func TestPartShapes(t *testing.T) {
	for range 50 {
		p := randomPart(t)
		text, checked, compact := string(p.Text()), string(p.CheckedText()), string(p.Compact())
		for name, shape := range map[string]string{
			"text": text, "checked": checked, "compact": compact,
			"upper": strings.ToUpper(text), "upper, checked": strings.ToUpper(checked), "QR code": strings.ToUpper(compact),
			"checks in upper case":   strings.ReplaceAll(checked, "  =", "  =\t"),
			"Windows":                strings.ReplaceAll(checked, "\n", "\r\n"),
			"old Mac":                strings.ReplaceAll(text, "\n", "\r"),
			"no blanks before check": strings.ReplaceAll(checked, "  =", "="),
			"no last line end":       strings.TrimSpace(checked),
			"comments":               "# alice\n#\n\n" + strings.ReplaceAll(checked, "\n", "\n# between\n") + "# end",
			"comments, indented":     "  # alice\n" + text,
			"one group a line":       strings.ReplaceAll(text, " ", "\n"),
			"many blanks":            "\n \t" + strings.Join(strings.Split(compact, ""), " ") + " \n",
			"some checks":            strings.Replace(checked, "  ="+strings.SplitN(checked, "=", 3)[1][:2], "", 1),
		} {
			if !IsPart([]byte(shape)) {
				t.Errorf("%s: not taken for a part", name)
			}
			q, err := ParsePart([]byte(shape))
			if name == "some checks" { // a check is for all that came since the one before
				if err == nil {
					q.Wipe()
				}
				continue
			}
			if err != nil || !q.Equal(p) {
				t.Errorf("%s: %v\n%s", name, err, shape)
			}
			q.Wipe()
		}
		for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
			if len(l) > 23 {
				t.Fatalf("%q is more than four groups", l)
			}
		}
		p.Wipe()
	}
}

const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyz"

// One wrong character anywhere: each place, each other letter or digit. It is
// refused, and its place is named; for paper with checks at least its line.
func TestPartOneWrongCharacter(t *testing.T) {
	p := randomPart(t)
	compact := p.Compact()
	checked := p.CheckedText()
	tried := 0
	for i, was := range compact {
		for _, c := range []byte(alphanumeric) {
			if c == was || i == len(partPrefix) && (c == 'l' || c == 'i') { // read for the 1
				continue
			}
			bad := bytes.Clone(compact)
			bad[i] = c
			tried++
			refusedAt(t, p, bad, partText.place(i))
			refusedAt(t, p, bytes.ToUpper(bad), partText.place(i))
		}
		for _, c := range []byte(" =#-_.\x00\xff\n") {
			bad := bytes.Clone(compact)
			bad[i] = c
			refused(t, p, bad)
		}
	}
	// The same on paper. The checks themselves are mistyped, too.
	at := 0 // characters of the part before
	for i, was := range checked {
		check := bytes.LastIndexByte(checked[:i+1], '=') > bytes.LastIndexByte(checked[:i+1], '\n')
		if isBlank(was) || was == '=' {
			continue
		}
		for _, c := range []byte(alphanumeric) {
			if c == was || !check && at == len(partPrefix) && (c == 'l' || c == 'i') {
				continue
			}
			bad := bytes.Clone(checked)
			bad[i] = c
			tried++
			if check {
				refusedAt(t, p, bad, fmt.Sprintf("line %d ", bytes.Count(checked[:i], []byte("\n"))+1))
			} else {
				refusedAt(t, p, bad, partText.place(at))
			}
		}
		if !check {
			at++
		}
	}
	t.Logf("%d wrong characters", tried)
}

// clean are messages that repeat nothing of a part.
var clean = map[string]bool{}

// refused checks that a text is not read, and that the message repeats nothing
// of it.
func refused(t testing.TB, p *Part, text []byte) error {
	t.Helper()
	q, err := ParsePart(text)
	if err == nil {
		q.Wipe()
		t.Fatalf("passes:\n%s", text)
	}
	if !errors.Is(err, ErrTampered) && !errors.Is(err, ErrFormat) {
		t.Fatalf("%v", err)
	}
	if said := err.Error(); !clean[said] { // most say the same
		noSecret(t, "refused", err, []*Part{p}, p.y.Bytes())
		clean[said] = true
	}
	return err
}

func refusedAt(t testing.TB, p *Part, text []byte, place string) {
	t.Helper()
	if err := refused(t, p, text); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), place) {
		t.Fatalf("%q does not say %s:\n%s", err, place, text)
	}
}

// layout writes groups as text, with the checks of each line of another text.
func layout(groups []string, checks []string) []byte {
	var b strings.Builder
	for i, g := range groups {
		b.WriteString(g)
		switch {
		case i%groupsPerLine != groupsPerLine-1 && i != len(groups)-1:
			b.WriteByte(' ')
		case checks != nil && i/groupsPerLine < len(checks):
			b.WriteString("  =" + checks[i/groupsPerLine] + "\n")
		default:
			b.WriteByte('\n')
		}
	}
	return []byte(b.String())
}

// Groups and lines that are swapped, left out, or written twice.
func TestPartGroups(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for range rounds {
		p := randomPart(t)
		good := strings.Fields(string(p.Text()))
		var checks, lines []string
		for _, l := range strings.Split(strings.TrimSpace(string(p.CheckedText())), "\n") {
			checks, lines = append(checks, l[strings.Index(l, "=")+1:]), append(lines, l)
		}
		plain := strings.Split(strings.TrimSpace(string(p.Text())), "\n")
		try := func(groups []string, says string) {
			t.Helper()
			if err := refused(t, p, layout(groups, nil)); !strings.Contains(err.Error(), says) {
				t.Fatalf("%q does not say %q", err, says)
			}
			refused(t, p, layout(groups, checks))
		}
		for a := range good {
			without := append(append([]string{}, good[:a]...), good[a+1:]...)
			twice := append(append([]string{}, good[:a+1]...), good[a:]...)
			switch {
			case a == 0: // what is left does not begin as a part
				try(without, "does not begin")
				try(twice, "does not begin")
			case a == 1:
				try(without, "does not begin")
				try(twice, "never used") // its 1
			case a == len(good)-1 && len(good[a]) < groupSize:
				try(without, "4 are missing")
				try(twice, "too much")
			default:
				try(without, "a group is missing")
				try(twice, "a group is there twice")
			}
			for b := a + 1; b < len(good); b++ {
				if good[a] == good[b] {
					continue
				}
				swapped := append([]string{}, good...)
				swapped[a], swapped[b] = swapped[b], swapped[a]
				says := ""
				if a > 1 && len(good[b]) == groupSize {
					says = fmt.Sprintf("group %d of line %d and group %d of line %d", a%groupsPerLine+1, a/groupsPerLine+1, b%groupsPerLine+1, b/groupsPerLine+1)
				}
				try(swapped, says)
			}
		}
		for a := range lines {
			for b := range a {
				swapped, bare := append([]string{}, lines...), append([]string{}, plain...)
				swapped[a], swapped[b] = swapped[b], swapped[a]
				bare[a], bare[b] = bare[b], bare[a]
				refused(t, p, []byte(strings.Join(swapped, "\n")))
				refused(t, p, []byte(strings.Join(bare, "\n")))
			}
			without := append(append([]string{}, lines[:a]...), lines[a+1:]...)
			twice := append(append([]string{}, lines[:a+1]...), lines[a:]...)
			refused(t, p, []byte(strings.Join(without, "\n")))
			refused(t, p, []byte(strings.Join(twice, "\n")))
		}
		p.Wipe()
	}
}

// Two and three wrong characters are always found too, and more in all but one
// of 2^30.
func TestPartMoreWrongCharacters(t *testing.T) {
	p := randomPart(t)
	compact := p.Compact()
	for i := range 4_000 {
		bad := bytes.Clone(compact)
		for range 2 + i%9 {
			bad[8+rand.IntN(len(bad)-8)] = bech32Alphabet[rand.IntN(32)]
		}
		if bytes.Equal(bad, compact) {
			continue
		}
		if q, err := ParsePart(bad); err == nil {
			q.Wipe()
			t.Fatalf("passes: %s", bad)
		}
	}
}

// What is not a part is told from one that is damaged.
func TestParsePartReject(t *testing.T) {
	p := randomPart(t)
	compact := string(p.Compact())
	header := func(at int, b byte) []byte {
		payload := p.payload()
		payload[at] = b
		return partText.encode(payload)
	}
	long := append(p.payload(), 0)
	challenge, err := NewChallenge(p0, 1, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		text []byte
		is   error
		says string
	}{
		{"nothing", nil, ErrFormat, "nothing but"},
		{"comments only", []byte("# alice\n\n  \n#hsmpart1"), ErrFormat, "nothing but"},
		{"a challenge", []byte(challenge.Text()), ErrFormat, "does not begin"},
		{"an answer", []byte(p.Answer(challenge).Text()), ErrFormat, "does not begin"},
		{"age recipient", []byte(recipientOf44), ErrFormat, "does not begin"},
		{"a wrapped key", vector(t, "a-p256.bin"), ErrFormat, "does not begin"},
		{"cut in the middle", []byte(compact[:50]), ErrTampered, "cut off"},
		{"prefix only", []byte("hsmpart1"), ErrTampered, "cut off"},
		{"half the prefix", []byte("hsmpa"), ErrFormat, "does not begin"},
		{"twice", []byte(compact + compact), ErrTampered, "1"},
		{"mixed case", []byte(strings.ToUpper(compact[:40]) + compact[40:]), ErrTampered, "upper and lower case"},
		{"a future kind", header(0, 2), ErrFormat, "newer"},
		{"x is zero", header(atX, 0), ErrFormat, "share itself"},
		{"index zero", header(atIndex, 0), ErrFormat, "part 0 of 7"},
		{"index above N", header(atIndex, 8), ErrFormat, "part 8 of 7"},
		{"K is one", header(atKN, 0x06), ErrFormat, "1 of 7"},
		{"K above N", header(atKN, 0x76), ErrFormat, "8 of 7"},
		{"share above shares", header(atShares, 0x32), ErrFormat, "share 4 of 3"},
		{"a longer payload", partText.encode(long), ErrTampered, "expected"},
		{"bech32 in place of bech32m", encodeBech32("hsmpart", p.payload(), bech32Sum), ErrTampered, "more than one"},
		{"another prefix", encodeBech32("hsmcall", p.payload(), bech32mSum), ErrFormat, "does not begin"},
	} {
		q, err := ParsePart(c.text)
		if q != nil || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		noSecret(t, c.name, err, []*Part{p}, p.y.Bytes())
	}
	// Bits behind the last byte must be zeros, or one part has several texts.
	digits := bech32Digits(p.payload())
	if len(digits)*5 == 8*partSize {
		t.Fatal("no bits are left over")
	}
	digits[len(digits)-1] |= 1
	state := bech32Start("hsmpart")
	for _, d := range digits {
		state.feed(d)
	}
	for range bech32Checksum {
		state.feed(0)
	}
	state ^= bech32mSum
	text := []byte("hsmpart1")
	for _, d := range digits {
		text = append(text, bech32Alphabet[d])
	}
	for i := range bech32Checksum {
		text = append(text, bech32Alphabet[state>>(5*(bech32Checksum-1-i))&31])
	}
	if _, err := ParsePart(text); !errors.Is(err, ErrFormat) {
		t.Errorf("bits left over: %v", err)
	}
}

// A wiped part gives nothing, and no part shows its secret.
func TestPartKeepsItsSecret(t *testing.T) {
	p := randomPart(t)
	for _, shown := range []string{fmt.Sprint(p), fmt.Sprint(*p), fmt.Sprintf("%+v %#v %x %s %q", p, p, *p, *p, *p), fmt.Sprintf("%v", []*Part{p}), fmt.Sprintf("%v", struct{ P Part }{*p})} {
		noSecret(t, "shown", errors.New(shown), []*Part{p}, p.y.Bytes())
	}
	again := reread(t, []*Part{p})[0]
	other := randomPart(t)
	if !p.Equal(again) || p.Equal(other) || p.Equal(nil) || (*Part)(nil).Equal(p) || (*Part)(nil).Equal(nil) {
		t.Error("Equal")
	}
	p.Wipe()
	p.Wipe()
	(*Part)(nil).Wipe()
	if p.Text() != nil && len(p.Text()) > 0 || p.Compact() != nil || len(p.CheckedText()) > 0 || p.Commitment() != nil || p.Equal(again) {
		t.Error("a wiped part gives something")
	}
	if _, err := CombineParts([]*Part{p, again, other}); err == nil {
		t.Error("a wiped part combines")
	}
}

func TestNewPartClears(t *testing.T) {
	payload := unhex(t, fixedPayload)
	p, err := newPart(payload)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Wipe()
	bad := unhex(t, "02"+fixedPayload[2:])
	if _, err := newPart(bad); err == nil {
		t.Fatal("kind 2")
	}
	for _, b := range [][]byte{payload, bad} {
		if !bytes.Equal(b, make([]byte, partSize)) {
			t.Error("the payload is not cleared")
		}
	}
}

// The commitment depends on every bit of the part, and tells parts apart.
func TestCommitment(t *testing.T) {
	p := fixedPart(t)
	defer p.Wipe()
	seen := map[string]int{string(p.Commitment()): -1}
	if len(p.Commitment()) != ed25519.PublicKeySize {
		t.Fatalf("%d bytes", len(p.Commitment()))
	}
	for bit := range 8 * partSize {
		q := altered(p, func(b []byte) { b[bit/8] ^= 1 << (bit % 8) })
		if q == nil {
			continue
		}
		c := string(q.Commitment())
		if before, again := seen[c]; again {
			t.Fatalf("bits %d and %d give the same commitment", before, bit)
		}
		seen[c] = bit
		q.Wipe()
	}
	if len(seen) < 8*(partSize-5) {
		t.Errorf("%d commitments", len(seen))
	}
}

// The check of a line finds any two wrong characters in it, and a line in the
// place of another.
func TestLineCheck(t *testing.T) {
	line := []byte("qpzry9x8gf2tvdw0s3jn")
	want := lineCheck(1, line)
	for i := range line {
		for j := i + 1; j < len(line); j++ {
			for a := range 32 {
				for b := range 32 {
					bad := bytes.Clone(line)
					bad[i], bad[j] = bech32Alphabet[a], bech32Alphabet[b]
					if !bytes.Equal(bad, line) && lineCheck(1, bad) == want {
						t.Fatalf("%s passes for %s", bad, line)
					}
				}
			}
		}
	}
	for n := range 32 {
		if n != 1 && lineCheck(n, line) == want {
			t.Errorf("as line %d it has the same check", n)
		}
	}
}

func FuzzParsePart(f *testing.F) {
	p := fixedPart(f)
	f.Add([]byte(fixedText))
	f.Add(p.Text())
	f.Add(p.CheckedText())
	f.Add(bytes.ToUpper(p.CheckedText()))
	f.Add([]byte("# for people\nhsmpart1 =qq\n=\n=zz"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		p, err := ParsePart(text)
		if !bytes.Equal(text, before) {
			t.Fatal("the text was changed")
		}
		if err != nil {
			if p != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTampered) {
				t.Fatal(err)
			}
			return
		}
		defer p.Wipe()
		if !IsPart(text) {
			t.Fatal("read as a part, and not taken for one")
		}
		compact, _ := joined(text)
		if !bytes.Equal(p.Compact(), bytes.ToLower(compact)) {
			t.Fatalf("%s is written as %s", compact, p.Compact())
		}
		q, err := ParsePart(p.CheckedText())
		if err != nil || !q.Equal(p) {
			t.Fatalf("what is written is not read: %v", err)
		}
		q.Wipe()
	})
}

// A line whose check is another one is named, although all of its characters are
// right: what stands on the paper is not what was printed.
func TestPartWithAnotherCheck(t *testing.T) {
	parts, err := Split(NewShare(), SplitOptions{Needed: 2, Total: 2})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(parts[0].CheckedText()), "\n")
	if _, err := ParsePart([]byte(strings.Join(lines, "\n"))); err != nil {
		t.Fatal(err)
	}
	other := "q"
	if strings.HasSuffix(lines[1], "q") {
		other = "p"
	}
	typed := lines[1][:len(lines[1])-1] + other
	if err := CheckPartLine(2, []byte(typed)); !errors.Is(err, ErrTampered) {
		t.Errorf("typed: %v", err)
	}
	lines[1] = typed
	if _, err := ParsePart([]byte(strings.Join(lines, "\n"))); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), "line 2 does not agree with its check") {
		t.Errorf("read: %v", err)
	}
}
