// Package tokentest fills tokens at random, with everything that real ones were
// seen to hold and with what none should, and compares what became of it. It is
// for property tests: of the backup in process, and of the whole program with a
// real pcscd in between. A seed repeats the choices; the keys themselves are
// made anew each time.
package tokentest

import (
	"bytes"
	"context"
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

var (
	seedFlag = flag.Uint64("property.seed", 0, "seed of one token of a property test; 0 makes up new ones")
	spanFlag = flag.Duration("property.span", 10*time.Second, "how long a property test makes up new ones")
)

// Seed is that of -property.seed, for a test of one token only, else 0.
func Seed() uint64 { return *seedFlag }

// Span is that of -property.span, for tests that make up new tokens.
func Span() time.Duration { return *spanFlag }

// Serials of the tokens: Source before, Target after.
const (
	Source = "SOFT0200001"
	Target = "SOFT0400001"
)

// PIN and SOPIN are those of every token, SOPIN as its 8 bytes.
const (
	PIN   = "648219"
	SOPIN = "57621880"
)

// Model is what a token is filled with, and what is known of it beyond what the
// program under test finds out. A failure names the seed.
type Model struct {
	t    testing.TB
	r    *rand.Rand
	seed uint64
	ctx  context.Context

	// Card reaches the token: the one to fill or, for Compare, the one that it
	// was restored to. It is logged in.
	Card *schsm.Card
	// Shares by key domain, and the DKEK that they make. A domain whose DKEK
	// the token made up, or that has none, is in neither.
	Shares map[int][]*dkek.Share
	DKEKs  map[int]*dkek.Key
	// Keys by reference, and all other files but the device's own, as the token
	// held them after Fill.
	Keys  map[byte]*Key
	Files map[schsm.FID][]byte

	slots int
}

// Key is a key on the token and its private half, as far as it is known.
type Key struct {
	Domain     int
	Algorithms []byte
	// Counter is the number of uses that it was made with; nil is no limit.
	Counter *uint32
	// Private is nil for a key that cannot be exported, so it stays behind.
	Private *dkek.PrivateKey
	// Foreign: the certificate beside it is of another key.
	Foreign bool
}

// New makes the choices of a seed.
func New(t testing.TB, seed uint64) *Model {
	return &Model{t: t, r: rand.New(rand.NewPCG(seed, 0)), seed: seed, ctx: context.Background(), Keys: map[byte]*Key{}}
}

// Must fails the test on an error.
func (m *Model) Must(what string, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("seed %d: %s: %v", m.seed, what, err)
	}
}

// Errorf reports an error of this seed.
func (m *Model) Errorf(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("seed %d: "+format, append([]any{m.seed}, args...)...)
}

// Chance is true that many times in a hundred.
func (m *Model) Chance(percent int) bool { return m.r.IntN(100) < percent }

func (m *Model) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.r.Uint32())
	}
	return b
}

func pick[T any](m *Model, list ...T) T { return list[m.r.IntN(len(list))] }

func (m *Model) label() string {
	switch m.r.IntN(6) {
	case 0:
		return pick(m, "", "SSH CA", "ключ", "密钥 三", "مفتاح", "clé\tà\n", "🔑", "a\x1b[31mred", "key\x00zero", "\u202Ertl", strings.Repeat("long ", 30))
	case 1:
		return string(m.bytes(m.r.IntN(20))) // most often no UTF-8
	}
	var b strings.Builder
	for range m.r.IntN(24) {
		b.WriteRune(rune(pick(m, 'a', 0x3B1, 0x416, 0x5D0, 0x4E00, 0xAC00, 0x1F600, '0') + rune(m.r.IntN(10))))
	}
	return b.String()
}

var firmware = []string{"2.6", "3.1", "3.2", "3.4", "3.5", "3.6", "4.1"}

// Token makes the token to fill, in memory.
func (m *Model) Token() *softtoken.Token {
	m.t.Helper()
	token, err := softtoken.New(softtoken.Options{Firmware: pick(m, firmware...), Serial: Source, CRTExport: m.Chance(30), Memory: pick(m, 0, 0, 0, 12*1024)})
	m.Must("token", err)
	m.t.Cleanup(func() { token.Close() })
	return token
}

// Replace gives the token to restore to, never initialised: the same one wiped
// file by file and updated, or another. Card reaches the filled one still.
func (m *Model) Replace(token *softtoken.Token) *softtoken.Token {
	m.t.Helper()
	to := pick(m, firmware[1:]...)
	if m.Chance(60) {
		fids, err := m.Card.Enumerate(m.ctx)
		m.Must("enumerate", err)
		for _, f := range fids {
			if f != schsm.FIDDeviceCertificate && f != schsm.KeyFile(0) {
				m.Must("delete "+f.String(), m.Card.DeleteFile(m.ctx, f))
			}
		}
		m.Must("update", token.Update(to, Target))
		return token
	}
	token, err := softtoken.New(softtoken.Options{Firmware: to, Serial: Target})
	m.Must("token", err)
	m.t.Cleanup(func() { token.Close() })
	return token
}

// SetUp is how a token is to be initialised.
type SetUp struct {
	Initialisation schsm.Initialisation
	Sets           []Set
}

// Set is the DKEK of a key domain: of those shares, or made up by the token if
// there are none.
type Set struct {
	Number int
	Load   []*dkek.Share
}

// SetUp chooses a DKEK of one or more shares, a random one, none, or key
// domains.
func (m *Model) SetUp(v schsm.Version) SetUp {
	m.t.Helper()
	s := SetUp{Initialisation: schsm.Initialisation{PIN: secret.New([]byte(PIN)), SOPIN: secret.New([]byte(SOPIN)), PINTries: 1 + m.r.IntN(3),
		Options: pick(m, schsm.Options(0), schsm.OptionUnblock, schsm.OptionUnblock|schsm.OptionUnblockOnly)}}
	m.Shares, m.DKEKs = map[int][]*dkek.Share{}, map[int]*dkek.Key{}
	switch what := m.r.IntN(10); {
	case what == 0:
		s.Initialisation.NoDKEK = true
	case what == 1:
		s.Sets = []Set{{}}
	case what < 5 && !v.Before(3, 0):
		m.slots = 2 + m.r.IntN(3)
		s.Initialisation.Domains = m.slots
		for n := range m.slots {
			if m.Chance(70) {
				s.Sets = append(s.Sets, m.set(n)...)
			}
		}
	default:
		s.Sets = m.set(0)
	}
	return s
}

// Initialise carries a set-up out on the token that Card reaches, past the
// program under test. Card is logged in afterwards.
func (m *Model) Initialise(s SetUp) {
	m.t.Helper()
	if s.Initialisation.Domains == 0 && len(s.Sets) > 0 {
		s.Initialisation.Shares = len(s.Sets[0].Load)
	}
	m.Must("initialise", m.Card.Initialise(m.ctx, s.Initialisation))
	for _, set := range s.Sets {
		if s.Initialisation.Domains > 0 {
			_, err := m.Card.CreateDomain(m.ctx, set.Number, len(set.Load))
			m.Must("domain", err)
		}
		for _, share := range set.Load {
			_, err := m.Card.LoadShare(m.ctx, set.Number, bytes.Clone(share.Bytes()))
			m.Must("share", err)
		}
	}
}

// set makes the shares of a domain.
func (m *Model) set(n int) []Set {
	m.t.Helper()
	for range 1 + m.r.IntN(3) {
		share, err := dkek.ShareFromBytes(m.bytes(dkek.Size))
		m.Must("share", err)
		m.Shares[n] = append(m.Shares[n], share)
	}
	key, err := dkek.Combine(m.Shares[n]...)
	m.Must("combine", err)
	m.DKEKs[n] = key
	return []Set{{n, m.Shares[n]}}
}

// AllShares are those of all domains, in any order.
func (m *Model) AllShares() []*dkek.Share {
	var all []*dkek.Share
	for _, n := range slices.Sorted(maps.Keys(m.Shares)) {
		all = append(all, m.Shares[n]...)
	}
	m.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Read gives all files, keys and the device's own aside.
func (m *Model) Read() map[schsm.FID][]byte {
	m.t.Helper()
	fids, err := m.Card.Enumerate(m.ctx)
	m.Must("enumerate", err)
	files := map[schsm.FID][]byte{}
	for _, f := range fids {
		if f.Prefix() == schsm.PrefixKey || f == schsm.FIDDeviceCertificate {
			continue
		}
		files[f], err = m.Card.ReadFile(m.ctx, f)
		m.Must("read "+f.String(), err)
	}
	return files
}

// Uses gives what is left of each use counter.
func (m *Model) Uses() map[byte]uint32 {
	m.t.Helper()
	left := map[byte]uint32{}
	for n, k := range m.Keys {
		if k.Counter != nil {
			info, err := m.Card.Key(m.ctx, n)
			m.Must("key", err)
			left[n] = *info.Counter
		}
	}
	return left
}
