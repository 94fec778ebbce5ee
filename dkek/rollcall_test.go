package dkek

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// p0 is a day.
var p0 = time.Date(2027, 2, 11, 23, 59, 59, 0, time.UTC)

// fixedAnswer is to fixedChallenge with the fixed part, oldAnswer to one of the
// first version, worked out by a script of its own after docs/format.md; all must
// be read for ever.
const (
	fixedChallenge = "hsmcall215zs69gay5kn2029f4246etdw4uqqq5tuqqqqqqqqqqzd9sxpctpuf3wxclyvnjktenxuan7s68fd84x46mta3kw6m0wdmhklldqvrd"
	fixedAnswer    = "hsmansw1pgdjc0gz9w2zwtq2j80k7z0d79v3thqtmv69h6kvthkmvf2xjcyxsuazqmwttpa9aztmz06wzt40dvgulzp9qvc4cyrhpk0vuvtyk84rsjnjkrgh3eacl"

	oldChallenge = "hsmcall15zs69gay5kn2029f4246etdw4uqqq5tuprmdpz"
	oldAnswer    = "hsmansw1pgdjc0gzdppzfaqjdphs68sj3sf47jcpjv247qqnxunlhfkwhqdv39ydk77eldm5peztwez2pcfnceck7famlrwyd5flpz8mxzgvrcdqjtk6vzgt5rr9j"
)

func aChallenge(t testing.TB) *Challenge {
	t.Helper()
	c, err := NewChallenge(p0, 1234, [32]byte{0xC0, 31: 0xDF})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRollCallGolden(t *testing.T) {
	var head [32]byte
	for i := range head {
		head[i] = 0xC0 + byte(i)
	}
	for _, v := range []struct {
		challenge, answer string
		entry             uint64
		head              [32]byte
	}{{fixedChallenge, fixedAnswer, 1234, head}, {oldChallenge, oldAnswer, 0, [32]byte{}}} {
		c, err := ParseChallenge([]byte(v.challenge))
		if err != nil {
			t.Fatal(err)
		}
		p := fixedPart(t)
		defer p.Wipe()
		if c.Text() != v.challenge || !c.Day.Equal(time.Date(2027, 2, 11, 0, 0, 0, 0, time.UTC)) || c.Entry != v.entry || c.Head != v.head {
			t.Errorf("%s of %s, entry %d, head %x", c.Text(), c.Day, c.Entry, c.Head)
		}
		if got := p.Answer(c).Text(); got != v.answer {
			t.Errorf("answer %s", got)
		}
		a, err := ParseAnswer([]byte(v.answer))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Check(c, unhex(t, fixedCommitment)); err != nil || a.Set != p.Set || a.Index != p.Index {
			t.Errorf("part %d of set %s: %v", a.Index, a.Set, err)
		}
	}
}

// Every part answers for itself, and for no other part and no other challenge.
func TestRollCall(t *testing.T) {
	parts := splitOf(t, secrets()[6], SplitOptions{Needed: 2, Total: 4})
	other := splitOf(t, secrets()[6], SplitOptions{Needed: 2, Total: 4})
	first, second := aChallenge(t), aChallenge(t)
	if first.Text() == second.Text() {
		t.Fatal("the same challenge twice")
	}
	for _, c := range []*Challenge{first, second} {
		read, err := ParseChallenge([]byte(strings.ToUpper(c.Text()[:20]) + "\n# tonight\n " + strings.ToUpper(c.Text()[20:])))
		if err != nil || read.Text() != c.Text() || !read.Day.Equal(c.Day) || !c.Day.Equal(time.Date(2027, 2, 11, 0, 0, 0, 0, time.UTC)) {
			t.Fatalf("%s: %v", c.Day, err)
		}
	}
	for i, p := range parts {
		answer, err := ParseAnswer([]byte(p.Answer(first).Text()))
		if err != nil || answer.Set != p.Set || answer.Index != i+1 || !IsAnswer([]byte(answer.Text())) || IsPart([]byte(answer.Text())) {
			t.Fatalf("part %d: %v", i+1, err)
		}
		if again := p.Answer(first).Text(); again != answer.Text() {
			t.Error("another answer to the same challenge")
		}
		for j, o := range append(parts, other...) {
			err := answer.Check(first, o.Commitment())
			if (err == nil) != (i == j) {
				t.Errorf("the answer of part %d for part %d: %v", i+1, j+1, err)
			}
			if err != nil && (!errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), p.Set)) {
				t.Error(err)
			}
		}
		if err := answer.Check(second, p.Commitment()); !errors.Is(err, ErrMismatch) {
			t.Errorf("an answer to another challenge: %v", err)
		}
		for _, commitment := range [][]byte{nil, {}, make([]byte, 31), make([]byte, 32), make([]byte, 33), bytes.Repeat([]byte{0xFF}, 32)} {
			if err := answer.Check(first, commitment); !errors.Is(err, ErrMismatch) {
				t.Errorf("commitment of %d bytes: %v", len(commitment), err)
			}
		}
		if strings.Contains(answer.Text(), string(p.Compact()[40:60])) {
			t.Error("the answer has a piece of the part")
		}
	}
}

// Not a bit of an answer or a challenge can be changed, with its checksum made
// anew.
func TestRollCallAltered(t *testing.T) {
	p := randomPart(t)
	c := aChallenge(t)
	answer, commitment := p.Answer(c), p.Commitment()
	for bit := range 8 * answerSize {
		b := answer.payload
		b[bit/8] ^= 1 << (bit % 8)
		a, err := ParseAnswer(answerText.encode(b[:]))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Check(c, commitment); !errors.Is(err, ErrMismatch) {
			t.Fatalf("bit %d of the answer: %v", bit, err)
		}
	}
	for bit := range 8 * challengeSize {
		b := bytes.Clone(c.payload)
		b[bit/8] ^= 1 << (bit % 8)
		changed, err := ParseChallenge(challengeText.encode(b))
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Check(changed, commitment); !errors.Is(err, ErrMismatch) {
			t.Fatalf("bit %d of the challenge: %v", bit, err)
		}
	}
	// A part that was altered, or is of the set after a resplit, does not answer
	// for the one that was given out.
	bad := altered(p, func(b []byte) { b[partSize-1] ^= 1 })
	defer bad.Wipe()
	if err := bad.Answer(c).Check(c, commitment); !errors.Is(err, ErrMismatch) {
		t.Errorf("an altered part: %v", err)
	}
	p.Wipe()
	if p.Answer(c) != nil {
		t.Error("a wiped part answers")
	}
}

// Mistyped, they are refused with the place.
func TestRollCallMistyped(t *testing.T) {
	p := randomPart(t)
	c := aChallenge(t)
	for name, kind := range map[string]struct {
		coded coded
		text  string
		read  func([]byte) error
	}{
		"challenge": {challengeText, c.Text(), func(b []byte) error { _, err := ParseChallenge(b); return err }},
		"answer":    {answerText, p.Answer(c).Text(), func(b []byte) error { _, err := ParseAnswer(b); return err }},
	} {
		for i := range kind.text {
			for _, wrong := range []byte("qz7b") {
				bad := []byte(kind.text)
				if bad[i] == wrong {
					continue
				}
				bad[i] = wrong
				if err := kind.read(bad); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), kind.coded.place(i)) || !strings.HasPrefix(err.Error(), name) {
					t.Fatalf("%s, character %d: %v", name, i, err)
				}
			}
			if err := kind.read([]byte(kind.text[:i])); err == nil {
				t.Fatalf("%s of %d characters passes", name, i)
			}
		}
		for _, other := range []string{c.Text(), p.Answer(c).Text(), string(p.Compact()), "", "hello"} {
			if err := kind.read([]byte(other)); (err == nil) != (other == kind.text) || err != nil && !errors.Is(err, ErrFormat) {
				t.Errorf("%s: %.8s: %v", name, other, err)
			}
		}
	}
}

// The day that a challenge carries is the one in UTC, also before 1970 and far
// away.
func TestChallengeDay(t *testing.T) {
	zone := time.FixedZone("", -11*3600)
	for _, now := range []time.Time{p0, p0.Add(time.Second), time.Date(2027, 2, 11, 13, 0, 0, 0, zone), time.Unix(0, 0), time.Date(2999, 12, 31, 0, 0, 0, 0, time.UTC)} {
		c, err := NewChallenge(now, 1, [32]byte{})
		if err != nil {
			t.Fatal(err)
		}
		if want := now.UTC().Truncate(24 * time.Hour); !c.Day.Equal(want) {
			t.Errorf("%s is made on %s", c.Day, now)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(fixedAnswer))
	f.Add([]byte(strings.ToUpper(fixedAnswer)))
	f.Add(groups([]byte(fixedAnswer), true))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAnswer(text)
		if err != nil {
			if a != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTampered) {
				t.Fatal(err)
			}
			return
		}
		compact, _ := joined(text)
		if a.Text() != string(bytes.ToLower(compact)) {
			t.Fatalf("%s is written as %s", compact, a.Text())
		}
	})
}

func FuzzParseChallenge(f *testing.F) {
	f.Add([]byte(fixedChallenge))
	f.Add([]byte(oldChallenge))
	f.Add(groups([]byte(fixedChallenge), true))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseChallenge(text)
		if err != nil {
			if c != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTampered) {
				t.Fatal(err)
			}
			return
		}
		compact, _ := joined(text)
		if c.Text() != string(bytes.ToLower(compact)) {
			t.Fatalf("%s is written as %s", compact, c.Text())
		}
	})
}
