package tokentest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
)

// recorder takes what Compare finds in place of the test.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

// filled is a token that holds a key with description, a data object and a
// label, and the outcome of a restore that brought all of it back.
func filled(t *testing.T, seed uint64) (*Model, Outcome) {
	t.Helper()
	m := New(t, seed)
	var err error
	m.Card, err = schsm.Open(m.ctx, m.Token())
	m.Must("open", err)
	m.Initialise(m.SetUp(m.Card.Version()))
	m.Fill()
	o := Outcome{Restored: true, NamedKeys: map[byte]bool{}, NamedFiles: map[string]bool{}, Proven: map[byte]bool{}, Complete: true}
	for n := range m.Keys {
		o.Proven[n] = true
	}
	return m, o
}

// compared gives what Compare finds.
func compared(m *Model, o Outcome) string {
	t := m.t
	r := &recorder{TB: t}
	m.t = r
	m.Compare(o)
	m.t = t
	return strings.Join(r.said, "\n")
}

// usable finds the seed of a token whose keys can all be exported, and the
// references of one that is described.
func usable(t *testing.T) (seed uint64, reference byte, data schsm.FID) {
	t.Helper()
	for seed := uint64(1); seed < 200; seed++ {
		m, _ := filled(t, seed)
		exportable := !slices.ContainsFunc(slices.Collect(maps.Values(m.Keys)), func(k *Key) bool { return k.Private == nil })
		for n := range m.Keys {
			for f, content := range m.Files {
				if exportable && len(m.Files[schsm.DescriptionFile(n)]) > 0 && f.Prefix() == schsm.PrefixPublicData && len(content) > 0 {
					return seed, n, f
				}
			}
		}
	}
	t.Fatal("no seed fills a token with all this test needs")
	return 0, 0, 0
}

// Compare notices whatever is not as it was, unless it was named.
func TestCompareReject(t *testing.T) {
	seed, n, data := usable(t)
	ctx := context.Background()
	change := func(m *Model, f schsm.FID) {
		content := slices.Clone(m.Files[f])
		content[len(content)-1] ^= 1
		m.write(f, content)
	}
	description := schsm.DescriptionFile(n)
	for _, c := range []struct {
		name string
		do   func(m *Model, o *Outcome)
		says string // nothing if empty
	}{
		{"nothing", func(*Model, *Outcome) {}, ""},
		{"a byte of a file", func(m *Model, _ *Outcome) { change(m, data) }, "file " + data.String()},
		{"a byte of a file that was named", func(m *Model, o *Outcome) { change(m, data); o.NamedFiles[data.String()] = true }, ""},
		{"a file gone", func(m *Model, _ *Outcome) { m.write(data, nil) }, "file " + data.String()},
		{"a file more", func(m *Model, _ *Outcome) { m.write(0xCFFE, []byte("x")) }, "file CFFE was not there before"},
		{"a byte of a description", func(m *Model, _ *Outcome) { change(m, description) }, description.String() + ": "},
		{"a description gone", func(m *Model, _ *Outcome) { m.write(description, nil) }, description.String() + ": "},
		{"a key gone", func(m *Model, _ *Outcome) { m.Must("delete", m.Card.DeleteFile(ctx, schsm.KeyFile(n))) }, "is gone, and nobody had said so"},
		{"a key gone that was named", func(m *Model, o *Outcome) {
			m.Must("delete", m.Card.DeleteFile(ctx, schsm.KeyFile(n)))
			o.NamedKeys[n] = true
		}, ""},
		{"another key", func(m *Model, _ *Outcome) {
			m.Must("delete", m.Card.DeleteFile(ctx, schsm.KeyFile(n)))
			_, err := m.Card.Generate(ctx, n, cvc.KeySpec{CAR: "UTCA00001", CHR: Source + "00001", Curve: curve.ByName("P-256")})
			m.Must("generate", err)
		}, fmt.Sprintf("key %d is another key now", n)},
		{"a key that could not leave", func(m *Model, _ *Outcome) { m.Keys[n].Private = nil }, "although it could never leave the token"},
		{"no proof", func(_ *Model, o *Outcome) { delete(o.Proven, n) }, "was covered but not proven"},
		{"not complete", func(_ *Model, o *Outcome) { o.Complete = false }, "the restore says that it is not complete"},
		{"no restore", func(_ *Model, o *Outcome) { o.Restored = false }, "is gone, and nobody had said so"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, o := filled(t, seed)
			m.Must("login", m.Card.Login(ctx, secret.New([]byte(PIN)), false))
			c.do(m, &o)
			said := compared(m, o)
			if c.says == "" && said != "" || !strings.Contains(said, c.says) {
				t.Errorf("want %q, Compare says %q", c.says, said)
			}
			if said != "" && !strings.Contains(said, fmt.Sprintf("seed %d: ", seed)) {
				t.Errorf("without the seed: %q", said)
			}
		})
	}
}

// A seed makes the same choices again: what is on two tokens differs in keys
// alone.
func TestSeed(t *testing.T) {
	for seed := range uint64(20) {
		a, _ := filled(t, seed)
		b, _ := filled(t, seed)
		if !slices.Equal(slices.Sorted(maps.Keys(a.Files)), slices.Sorted(maps.Keys(b.Files))) || !slices.Equal(slices.Sorted(maps.Keys(a.Keys)), slices.Sorted(maps.Keys(b.Keys))) {
			t.Errorf("seed %d: %v and %v, keys %v and %v", seed, slices.Sorted(maps.Keys(a.Files)), slices.Sorted(maps.Keys(b.Files)), a.Keys, b.Keys)
		}
	}
}
