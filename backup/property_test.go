package backup

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"flag"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	crand "crypto/rand"

	"hsmbackup/dkek"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/tlv"
	"hsmbackup/store"
)

var propertySeed = flag.Uint64("property.seed", 0, "seed of one token of TestProperty; 0 makes up new ones")

// Tokens of every kind, filled at random, are backed up, wiped and restored, to
// themselves after a firmware update or to another one. Afterwards every file
// is byte for byte what it was, and every key answers as it did; whatever is
// not, the backup or the plan has named before.
func TestProperty(t *testing.T) {
	seed := *propertySeed
	if seed != 0 {
		runProperty(t, seed)
		return
	}
	span := 10 * time.Second
	if testing.Short() {
		span = 2 * time.Second
	}
	var sum tally
	for start := time.Now(); time.Since(start) < span && !t.Failed(); {
		sum.add(runProperty(t, rand.Uint64()|1))
	}
	t.Logf("%s", sum)
}

// tally counts what the property test has seen.
type tally struct{ tokens, keys, restored, files, gaps, complete int }

func (a *tally) add(b tally) {
	a.tokens, a.keys, a.restored, a.files = a.tokens+b.tokens, a.keys+b.keys, a.restored+b.restored, a.files+b.files
	a.gaps, a.complete = a.gaps+b.gaps, a.complete+b.complete
}

func (a tally) String() string {
	return fmt.Sprintf("%d tokens (%d complete), %d keys (%d restored), %d files compared, %d things named as not restorable", a.tokens, a.complete, a.keys, a.restored, a.files, a.gaps)
}

// model is what a token is filled with, and what is known of it beyond what
// the program under test finds out.
type model struct {
	t     testing.TB
	r     *rand.Rand
	seed  uint64
	ctx   context.Context
	token *softtoken.Token
	card  *schsm.Card
	// shares by domain; dkeks are nil where the token has none or a random one.
	shares map[int][]*dkek.Share
	dkeks  map[int]*dkek.Key
	slots  int
	keys   map[byte]*modelKey
	files  map[schsm.FID][]byte // as the token holds them
	// plan and report of the restore; no report if the plan has problems.
	plan   *Plan
	report *RestoreReport
}

// modelKey is a key and its private half, as far as it is known.
type modelKey struct {
	domain     int
	algorithms []byte
	counter    *uint32
	private    *dkek.PrivateKey // nil: it can not be exported, so it stays
	// foreign: the certificate beside it is of another key.
	foreign bool
}

func (m *model) fatal(what string, err error) {
	m.t.Helper()
	m.t.Fatalf("seed %d: %s: %v", m.seed, what, err)
}

func (m *model) must(what string, err error) {
	m.t.Helper()
	if err != nil {
		m.fatal(what, err)
	}
}

func (m *model) errorf(format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("seed %d: "+format, append([]any{m.seed}, args...)...)
}

func (m *model) chance(percent int) bool { return m.r.IntN(100) < percent }

func (m *model) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.r.Uint32())
	}
	return b
}

func pick[T any](m *model, list ...T) T { return list[m.r.IntN(len(list))] }

func (m *model) label() string {
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

func (m *model) algorithms(kind pkcs15.Kind) []byte {
	if m.chance(60) {
		return nil
	}
	all := map[pkcs15.Kind][]byte{
		pkcs15.RSA: {0x20, 0x21, 0x30, 0x33, 0x43}, pkcs15.EC: {0x70, 0x73, 0x80}, pkcs15.AES: {0x10, 0x11, 0x18},
	}[kind]
	m.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	list := all[:m.r.IntN(len(all)+1)]
	if m.chance(85) || len(list) == 0 {
		list = append(list, 0x92)
	}
	return list
}

// pool are RSA keys that cost no time.
var pool = sync.OnceValue(func() []*rsa.PrivateKey {
	var list []*rsa.PrivateKey
	for _, bits := range []int{1024, 1024, 2048} {
		k, err := rsa.GenerateKey(crand.Reader, bits)
		if err != nil {
			panic(err)
		}
		list = append(list, k)
	}
	return list
})

// description writes what stands in C4xx: nil for nothing at all.
func (m *model) description(kind pkcs15.Kind, bits int, reference byte) []byte {
	d := pkcs15.KeyDescription{Kind: kind, Label: m.label(), ID: m.bytes(pick(m, 0, 1, 1, 2, 16, 20, 32, 40)), Usage: pkcs15.Usage(m.r.IntN(1024)), Bits: bits, Reference: int(reference)}
	seq := func(parts ...[]byte) []byte { return tlv.Encode(0x30, parts...) }
	outer := map[pkcs15.Kind]uint16{pkcs15.RSA: 0x30, pkcs15.EC: 0xA0, pkcs15.AES: 0xA8}[kind]
	size := tlv.Encode(0x02, []byte{byte(bits >> 8), byte(bits)})
	end := tlv.Encode(0xA1, seq(seq(tlv.Encode(0x04)), size))
	if kind == pkcs15.AES {
		end = tlv.Encode(0xA0, seq(size))
	}
	switch m.r.IntN(12) {
	case 0:
		return nil
	case 1: // scsh: a label and no more, no reference
		return tlv.Encode(outer, seq(tlv.Encode(0x0C, []byte(d.Label))), seq(tlv.Encode(0x04, d.ID), tlv.Encode(0x03, []byte{2, 0x74})), end)
	case 2: // sc-hsm-embedded: usage of two bytes, always
		return tlv.Encode(outer, seq(tlv.Encode(0x0C, []byte(d.Label))), seq(tlv.Encode(0x04, d.ID), tlv.Encode(0x03, []byte{6, 0xC0, 0x00})), end)
	case 3: // OpenSC, after a certificate was stored: access flags and the subject's name
		return tlv.Encode(outer, seq(tlv.Encode(0x0C, []byte(d.Label)), tlv.Encode(0x03, []byte{6, 0xC0}), tlv.Encode(0x04, []byte{1})),
			seq(tlv.Encode(0x04, d.ID), tlv.Encode(0x03, []byte{4, 0x70}), tlv.Encode(0x03, []byte{3, 0xB8}), tlv.Encode(0x02, []byte{reference})),
			tlv.Encode(0xA0, seq(seq())), end)
	case 4: // with the tail of an older, longer one
		return append(d.Encode(), m.bytes(1+m.r.IntN(40))...)
	case 5: // malformed
		return m.bytes(m.r.IntN(60))
	case 6: // cut off
		whole := d.Encode()
		return whole[:m.r.IntN(len(whole))]
	case 7: // without its size
		d.Bits = 0
	case 8: // of a key of another kind
		d.Kind = pkcs15.Kind(1 + m.r.IntN(3))
	}
	return d.Encode()
}

// certificate makes an X.509 certificate that nobody signed; x509 knows few of
// the curves.
func (m *model) certificate(k *pubkey.Key) []byte {
	der := func(v any) asn1.RawValue {
		b, err := asn1.Marshal(v)
		m.must("certificate", err)
		return asn1.RawValue{FullBytes: b}
	}
	name := der([]asn1.RawValue{})
	algorithm := der(struct{ OID asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}})
	tbs := der(struct {
		Serial                      int64
		Algorithm, Issuer, Validity asn1.RawValue
		Subject, Key                asn1.RawValue
	}{int64(m.r.Uint32()), algorithm, name, der(struct{ From, To time.Time }{time.Unix(1800000000, 0).UTC(), time.Unix(1900000000, 0).UTC()}), name, asn1.RawValue{FullBytes: k.SPKI()}})
	return der(struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}{tbs, algorithm, asn1.BitString{Bytes: m.bytes(8 + m.r.IntN(600)), BitLength: 64}}).FullBytes
}

// beside chooses what stands in CExx; keep leaves what is there.
func (m *model) beside(public, other *pubkey.Key) (content []byte, keep bool) {
	if public == nil { // AES
		return nil, true
	}
	switch m.r.IntN(9) {
	case 0, 1:
		return m.certificate(public), false
	case 2:
		return append(m.certificate(public), m.bytes(m.r.IntN(30))...), false
	case 3:
		return nil, false
	case 4:
		return m.bytes(m.r.IntN(100)), false
	case 5:
		return m.certificate(other), false
	}
	return nil, true
}

// offline opens all blobs. Damage it may find only where nothing but the
// opened key could show that a certificate is another's.
func (m *model) offline(cat *store.Catalog, s *store.Snapshot) {
	m.t.Helper()
	for n, key := range m.dkeks {
		v, err := VerifyOffline(m.ctx, cat, []*store.Snapshot{s}, key, Options{})
		m.must("offline", err)
		for _, f := range v.Findings {
			m.errorf("offline, domain %d: %s", n, f)
		}
		for _, k := range v.Snapshots[0].Keys {
			if k.Damage && !m.keys[byte(k.Reference)].foreign {
				m.errorf("offline, domain %d, key %d: %s", n, k.Reference, k.Reason)
			}
		}
	}
}

func (m *model) share() *dkek.Share {
	s, err := dkek.ShareFromBytes(m.bytes(32))
	m.must("share", err)
	return s
}

// fill initialises the token and puts things onto it.
func (m *model) fill(cat *store.Catalog) {
	m.initialise(cat)
	for range m.r.IntN(7) {
		m.addKey(byte(1 + m.r.IntN(250)))
	}
	for range m.r.IntN(5) {
		f := schsm.FID(pick(m, 0xCA, 0xC8, 0xC9, 0xCF, 0xCD, 0xCB))<<8 | schsm.FID(m.r.IntN(40))
		content := m.bytes(pick(m, 0, 1, 100, 255, 256, 257, 512, 900, 2300))
		switch f.Prefix() {
		case 0xC9, 0xC8:
			content = tlv.Encode(0x30, tlv.Encode(0x30, tlv.Encode(0x0C, []byte(m.label()))), tlv.Encode(0x30), tlv.Encode(0xA1, tlv.Encode(0x30, tlv.Encode(0x04, []byte{0xCF, f.Index()}))))
		}
		m.write(f, content)
	}
	if m.chance(20) { // belongs to nothing
		n := byte(1 + m.r.IntN(255))
		if m.keys[n] == nil {
			m.write(schsm.DescriptionFile(n), m.description(pkcs15.RSA, 2048, n))
			if m.chance(50) {
				m.write(schsm.CertificateFile(n), m.bytes(300))
			}
		}
	}
	if m.chance(70) {
		info := pkcs15.EncodeTokenInfo(m.label())
		if m.chance(20) {
			info = m.bytes(m.r.IntN(300))
		}
		m.write(schsm.FIDTokenInfo, info)
	}
	m.files = m.read()
}

// write writes a file anew; nil is none.
func (m *model) write(f schsm.FID, content []byte) {
	m.must("delete "+f.String(), m.card.DeleteFileIfThere(m.ctx, f))
	if content != nil {
		m.must("write "+f.String(), m.card.WriteFile(m.ctx, f, content))
	}
}

// read gives all files, keys and the device's own aside.
func (m *model) read() map[schsm.FID][]byte {
	m.t.Helper()
	fids, err := m.card.Enumerate(m.ctx)
	m.must("enumerate", err)
	files := map[schsm.FID][]byte{}
	for _, f := range fids {
		if f.Prefix() == schsm.PrefixKey || f == schsm.FIDDeviceCertificate {
			continue
		}
		files[f], err = m.card.ReadFile(m.ctx, f)
		m.must("read "+f.String(), err)
	}
	return files
}

// initialise chooses a DKEK of one or more shares, a random one, none, or key
// domains.
func (m *model) initialise(cat *store.Catalog) {
	s := SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), PINTries: 1 + m.r.IntN(3), Options: pick(m, schsm.Options(0), schsm.OptionUnblock, schsm.OptionUnblock|schsm.OptionUnblockOnly)},
		Trust: Trust{SoftFile: true}, Origin: "init"}
	m.shares, m.dkeks = map[int][]*dkek.Share{}, map[int]*dkek.Key{}
	set := func(n int) DomainSet {
		for range 1 + m.r.IntN(3) {
			m.shares[n] = append(m.shares[n], m.share())
		}
		key, err := dkek.Combine(m.shares[n]...)
		m.must("combine", err)
		m.dkeks[n] = key
		return DomainSet{Number: n, Shares: len(m.shares[n]), Load: m.shares[n]}
	}
	switch what := m.r.IntN(10); {
	case what == 0:
		s.Initialisation.NoDKEK = true
	case what == 1:
		s.Sets = []DomainSet{{}} // made up by the token
	case what < 5 && !m.card.Version().Before(3, 0):
		m.slots = 2 + m.r.IntN(3)
		s.Initialisation.Domains = m.slots
		for n := range m.slots {
			if m.chance(70) {
				s.Sets = append(s.Sets, set(n))
			}
		}
	default:
		s.Sets = []DomainSet{set(0)}
	}
	if m.chance(20) {
		cat = nil // nobody is told that the shares were seen
	}
	_, _, err := Initialise(m.ctx, m.card, cat, s)
	m.must("initialise", err)
}

// addKey puts one key onto the token: generated by it, or imported.
func (m *model) addKey(reference byte) {
	if m.keys[reference] != nil {
		return
	}
	k := &modelKey{}
	if m.slots > 0 {
		k.domain = m.r.IntN(m.slots)
	}
	key := m.dkeks[k.domain]
	var public *pubkey.Key
	kind, bits := pkcs15.EC, 0
	_, otherX, otherY, err := curve.ByName("P-256").GenerateKey(crand.Reader)
	m.must("generate", err)
	other := &pubkey.Key{Curve: curve.ByName("P-256"), X: otherX, Y: otherY}
	v := m.card.Version()
	switch what := m.r.IntN(10); {
	case what < 3 && key != nil: // imported RSA; some twice
		r := pick(m, pool()...)
		kind, bits, public = pkcs15.RSA, r.N.BitLen(), &pubkey.Key{RSA: &r.PublicKey}
		k.private, err = dkek.NewRSA(r)
		m.must("RSA", err)
	case what < 5 && key != nil: // imported EC
		c := pick(m, curve.All()...)
		d, x, y, err := c.GenerateKey(crand.Reader)
		m.must("generate", err)
		bits, public = c.Bits, &pubkey.Key{Curve: c, X: x, Y: y}
		k.private, err = dkek.NewEC(c, d)
		m.must("EC", err)
	case what < 7 && !v.Before(3, 0) && k.domain == 0:
		kind, bits = pkcs15.AES, pick(m, 128, 192, 256)
		k.algorithms = m.algorithms(kind)
		m.must("AES", m.card.GenerateAES(m.ctx, reference, bits, k.algorithms))
	default:
		c := pick(m, curve.All()...)
		k.algorithms = m.algorithms(kind)
		spec := cvc.KeySpec{CAR: "UTCA00001", CHR: m.card.Serial() + "00001", Curve: c, Algorithms: k.algorithms}
		if m.chance(15) {
			n := uint32(1 + m.r.IntN(5))
			k.counter, spec.Counter = &n, &n
		}
		if m.slots > 0 {
			n := byte(k.domain)
			spec.Domain = &n
		}
		raw, err := m.card.Generate(m.ctx, reference, spec)
		m.must("generate "+c.Name, err)
		request, err := cvc.ParseRequest(raw)
		m.must("request", err)
		public, err = request.PublicKey()
		m.must("request", err)
		bits = c.Bits
	}
	if k.private != nil {
		k.algorithms = m.algorithms(kind)
		if v.Major == 3 && v.Minor == 1 {
			k.algorithms = nil
		}
		blob, err := key.Seal(k.private, dkek.SealOptions{Algorithms: k.algorithms})
		m.must("seal", err)
		m.must("import", m.card.Unwrap(m.ctx, reference, blob))
	}
	k.private = m.open(reference, k)
	m.keys[reference] = k
	if content, keep := m.beside(public, other); !keep {
		from, _ := publicKey(content)
		k.foreign = from != nil && from.Equal(other)
		m.write(schsm.CertificateFile(reference), content)
	}
	m.write(schsm.DescriptionFile(reference), m.description(kind, bits, reference))
}

// open exports a key and opens it, where that is possible.
func (m *model) open(reference byte, k *modelKey) *dkek.PrivateKey {
	m.t.Helper()
	key := m.dkeks[k.domain]
	blob, err := m.card.Wrap(m.ctx, reference)
	if err != nil || key == nil {
		return nil
	}
	b, err := dkek.ParseBlob(blob)
	m.must("blob", err)
	p, err := key.Open(b)
	m.must("open", err)
	return p
}

// answers checks that the key at a reference does what the private key does.
func (m *model) answers(reference byte, k *modelKey) {
	m.t.Helper()
	allows := schsm.KeyInfo{Algorithms: k.algorithms}.Allows
	name := fmt.Sprintf("key %d (%s)", reference, k.private.Type())
	var got, want []byte
	var err error
	switch k.private.Kind() {
	case pkcs15.AES:
		if !allows(schsm.AESEncrypt) {
			return
		}
		block, cerr := aes.NewCipher(k.private.AES())
		m.must("AES", cerr)
		in := m.bytes(16)
		want = make([]byte, 16)
		block.Encrypt(want, in)
		got, err = m.card.Symmetric(m.ctx, reference, schsm.AESEncrypt, in)
	case pkcs15.RSA:
		if !allows(schsm.RSARaw) {
			return
		}
		r, rerr := k.private.RSA()
		m.must("RSA", rerr)
		in := m.bytes((r.N.BitLen() + 7) / 8)
		in[0] = 0
		want = new(big.Int).Exp(new(big.Int).SetBytes(in), r.D, r.N).FillBytes(make([]byte, len(in)))
		got, err = m.card.Sign(m.ctx, reference, schsm.RSARaw, in)
	default:
		c, d, _, _ := k.private.EC()
		if !allows(schsm.ECDH) {
			return
		}
		_, x, y, gerr := c.GenerateKey(crand.Reader)
		m.must("generate", gerr)
		want = c.Marshal(c.ScalarMult(x, y, d))
		got, err = m.card.Decipher(m.ctx, reference, schsm.ECDH, c.Marshal(x, y))
	}
	if err != nil || !bytes.Equal(got, want) {
		m.errorf("%s does not answer as it did: %v", name, err)
	}
}

// samePrivate compares private keys.
func samePrivate(a, b *dkek.PrivateKey) bool {
	if a == nil || b == nil || a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case pkcs15.RSA:
		x, err1 := a.RSA()
		y, err2 := b.RSA()
		return err1 == nil && err2 == nil && x.Equal(y)
	case pkcs15.EC:
		_, x, _, _ := a.EC()
		_, y, _, _ := b.EC()
		return bytes.Equal(x, y)
	}
	return bytes.Equal(a.AES(), b.AES())
}

// uses gives what is left of each use counter.
func (m *model) uses() map[byte]uint32 {
	left := map[byte]uint32{}
	for n, k := range m.keys {
		if k.counter != nil {
			info, err := m.card.Key(m.ctx, n)
			m.must("key", err)
			left[n] = *info.Counter
		}
	}
	return left
}

var propertyFirmware = []string{"2.6", "3.1", "3.2", "3.4", "3.5", "3.6", "4.1"}

// runProperty does it for one token.
func runProperty(t testing.TB, seed uint64) tally {
	t.Helper()
	m := &model{t: t, seed: seed, r: newRand(seed), ctx: context.Background(), keys: map[byte]*modelKey{}}
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("seed %d", seed)
			panic(p)
		}
	}()
	cat := newCatalog(t)
	var err error
	m.token, err = softtoken.New(softtoken.Options{Firmware: pick(m, propertyFirmware...), Serial: "SOFT0200001", CRTExport: m.chance(30), Memory: pick(m, 0, 0, 0, 12*1024)})
	m.must("token", err)
	m.card = openCard(t, m.token)
	m.fill(cat)
	before := m.uses()
	spent := map[byte]uint32{}
	ask := m.chance(50)
	var spend func(Key) bool
	if ask {
		spend = func(k Key) bool { spent[k.Reference]++; return true }
	}
	o := Options{SpendUse: spend, NoProof: m.chance(10)}
	r, err := Run(m.ctx, m.card, cat, o)
	m.must("backup", err)
	if m.chance(30) { // again: nothing may have changed
		r, err = Run(m.ctx, m.card, cat, Options{SpendUse: spend})
		m.must("second backup", err)
	}
	if got := m.read(); !sameFiles(got, m.files) {
		m.errorf("the backup changed files")
	}
	for n, left := range m.uses() {
		if used := before[n] - left; used > spent[n] {
			m.errorf("key %d lost %d uses, %d were granted", n, used, spent[n])
		}
	}
	if v, err := Check(cat, nil, 0); err != nil || !v.OK() && !v.Empty() {
		m.errorf("check: %+v, %v", v, err)
	}
	m.offline(cat, r.Snapshot)
	inv, err := Take(m.ctx, m.card)
	m.must("inventory", err)
	r.Keys, err = Cover(inv, cat)
	m.must("coverage", err)
	if guarded := GuardWipe(inv, cat) != nil; guarded == r.Complete() && len(m.keys)+len(m.files) > 0 && !(guarded && len(r.Snapshot.Missing) > 0) {
		m.errorf("complete: %v, and a wipe is refused: %v", r.Complete(), GuardWipe(inv, cat))
	}
	m.wipeAndRestore(cat, r)
	sum := tally{tokens: 1, keys: len(m.keys), files: len(m.files)}
	m.compare(r, &sum)
	return sum
}

// wipeAndRestore wipes the token as a firmware update does, or takes another
// one, sets it up as it was and restores.
func (m *model) wipeAndRestore(cat *store.Catalog, r *Report) {
	m.t.Helper()
	to := pick(m, propertyFirmware[1:]...)
	if m.chance(60) {
		fids, err := m.card.Enumerate(m.ctx)
		m.must("enumerate", err)
		for _, f := range fids {
			if f != schsm.FIDDeviceCertificate && f != schsm.KeyFile(0) {
				m.must("delete "+f.String(), m.card.DeleteFile(m.ctx, f))
			}
		}
		m.must("update", m.token.Update(to, "SOFT0400001"))
	} else {
		var err error
		m.token, err = softtoken.New(softtoken.Options{Firmware: to, Serial: "SOFT0400001"})
		m.must("token", err)
	}
	m.card = openCard(m.t, m.token)
	s := SetUp{Initialisation: schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), PINTries: r.Snapshot.Token.PINTries, Domains: Slots(r.Snapshot)}, Trust: Trust{SoftFile: true}, Origin: "restore"}
	var all []*dkek.Share
	for _, n := range slices.Sorted(maps.Keys(m.shares)) {
		all = append(all, m.shares[n]...)
	}
	m.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	switch {
	case len(all) == 0:
		s.Initialisation.Domains, s.Initialisation.NoDKEK = 0, true
	case s.Initialisation.Domains > 0:
		var err error
		s.Sets, err = SetsFor(r.Snapshot, all)
		m.must("sets", err)
	default:
		s.Sets = []DomainSet{{Shares: len(all), Load: all}}
	}
	_, _, err := Initialise(m.ctx, m.card, cat, s)
	m.must("initialise for the restore", err)
	o := RestoreOptions{Journal: cat.Journal(), OpenData: func(sealed []byte) ([]byte, error) {
		err := fmt.Errorf("no share")
		for _, k := range m.dkeks {
			var out []byte
			if out, err = k.OpenData(sealed); err == nil {
				return out, nil
			}
		}
		return nil, err
	}}
	p, err := MakePlan(m.ctx, m.card, r.Snapshot, o)
	m.must("plan", err)
	m.plan = p
	if len(p.Problems) > 0 {
		if len(m.dkeks) > 0 && slices.ContainsFunc(p.Items, func(i Item) bool { return m.dkeks[i.Key.Domain] != nil && i.Action.Done() }) {
			m.errorf("problems: %+v", p.Problems)
		}
		return
	}
	if m.report, err = Restore(m.ctx, m.card, cat, p, o); err != nil {
		m.fatal("restore", err)
	}
	again, err := MakePlan(m.ctx, m.card, r.Snapshot, o)
	m.must("plan", err)
	for _, i := range again.Items {
		if i.Action == New {
			if k := slices.IndexFunc(m.report.Keys, func(k KeyProof) bool { return k.Reference == int(i.Reference) }); k < 0 || m.report.Keys[k].OK {
				m.errorf("key %d is new to a second restore", i.Reference)
			}
		}
	}
}

func sameFiles(a, b map[schsm.FID][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return bytes.Equal(x, y) })
}

// compare looks for everything that was on the token: it is there and the
// same, or it was named.
func (m *model) compare(r *Report, sum *tally) {
	m.t.Helper()
	named := map[string]bool{}
	for _, gap := range r.Snapshot.Missing {
		named[strings.ToUpper(strings.TrimPrefix(gap.What, "data object "))] = true
	}
	cleaned := strings.Join(r.Cleaned, "; ")
	keyNamed := map[byte]bool{}
	for _, k := range r.Keys {
		keyNamed[k.Key.Reference] = k.Coverage != Covered
	}
	plan, report := m.plan, m.report
	for _, i := range plan.Items {
		keyNamed[byte(i.Key.Reference)] = keyNamed[byte(i.Key.Reference)] || !i.Action.Done()
	}
	for _, f := range plan.Files {
		named[f.FID.String()] = named[f.FID.String()] || !f.Action.Done()
	}
	for n := range m.keys {
		keyNamed[n] = keyNamed[n] || len(plan.Problems) > 0
	}
	after := map[schsm.FID][]byte{}
	if report != nil {
		after = m.read()
	}
	complete := true
	for n, k := range m.keys {
		why := func() string {
			if report == nil {
				return "no restore"
			}
			for i, item := range plan.Items {
				if item.Key.Reference == int(n) {
					return fmt.Sprintf("%s %s; %+v", item.Action, item.Reason, report.Keys[i])
				}
			}
			return "not in the plan"
		}
		_, err := m.card.Key(m.ctx, n)
		here := err == nil && report != nil
		switch {
		case here && k.private != nil:
			if now := m.open(n, k); !samePrivate(now, k.private) {
				m.errorf("key %d is another key now", n)
			}
			m.answers(n, k)
			sum.restored++
		case here:
			m.errorf("key %d is there although it could never leave the token", n)
		case strings.Contains(cleaned, fmt.Sprintf("key %d,", n)):
		case !keyNamed[n]:
			m.errorf("key %d is gone, and nobody had said so (%s)", n, why())
		}
		if here && !keyNamed[n] {
			for _, f := range []schsm.FID{schsm.DescriptionFile(n), schsm.CertificateFile(n)} {
				if !bytes.Equal(after[f], m.files[f]) || (after[f] == nil) != (m.files[f] == nil) {
					m.errorf("%s: %x, was %x (%s)", f, after[f], m.files[f], why())
				}
			}
			if i := slices.IndexFunc(report.Keys, func(p KeyProof) bool { return p.Reference == int(n) }); i < 0 || !report.Keys[i].OK {
				m.errorf("key %d was covered but not proven after the restore (%s)", n, why())
			}
		}
		if keyNamed[n] {
			complete = false
			sum.gaps++
		}
	}
	if report == nil {
		return
	}
	for f, content := range m.files {
		if m.keys[f.Index()] != nil && (f.Prefix() == schsm.PrefixDescription || f.Prefix() == schsm.PrefixKeyCertificate) {
			continue
		}
		got, here := after[f]
		switch {
		case here && bytes.Equal(got, content):
		case named[f.String()]:
			sum.gaps++
			complete = false
		default:
			m.errorf("file %s: %d bytes (%x), was %d (%x)", f, len(got), sha256.Sum256(got), len(content), sha256.Sum256(content))
		}
	}
	for f := range after {
		if _, was := m.files[f]; !was {
			m.errorf("file %s was not there before", f)
		}
	}
	if complete && !report.Complete() {
		m.errorf("everything is there, but the report says that it is not complete")
	}
	if complete {
		sum.complete++
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }
