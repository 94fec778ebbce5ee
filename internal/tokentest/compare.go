package tokentest

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"hsmbackup/dkek"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
)

// Outcome is what the program under test did and said.
type Outcome struct {
	// Restored: a restore was carried out, onto the token that Card reaches.
	Restored bool
	// NamedKeys, by reference, and NamedFiles, by number as FID prints it, are
	// those of which it was said, by the backup or the plan, that they would not
	// come back.
	NamedKeys  map[byte]bool
	NamedFiles map[string]bool
	// Cleaned are keys that the backup removed, as it took them for what an
	// interrupted proof had left behind.
	Cleaned map[byte]bool
	// Proven are the keys that the restore used; Why says of any what became of
	// it.
	Proven map[byte]bool
	Why    map[byte]string
	// Complete is what the restore says of itself.
	Complete bool
}

// Tally counts what a property test has seen.
type Tally struct{ Tokens, Keys, Restored, Files, Gaps, Complete int }

// Add adds another.
func (a *Tally) Add(b Tally) {
	a.Tokens, a.Keys, a.Restored, a.Files = a.Tokens+b.Tokens, a.Keys+b.Keys, a.Restored+b.Restored, a.Files+b.Files
	a.Gaps, a.Complete = a.Gaps+b.Gaps, a.Complete+b.Complete
}

func (a Tally) String() string {
	return fmt.Sprintf("%d tokens (%d complete), %d keys (%d restored), %d files compared, %d things named as not restorable", a.Tokens, a.Complete, a.Keys, a.Restored, a.Files, a.Gaps)
}

// SameFiles compares what two calls of Read gave.
func SameFiles(a, b map[schsm.FID][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return bytes.Equal(x, y) })
}

// Compare looks for everything that was on the token: it is there and the same,
// or it was named.
func (m *Model) Compare(o Outcome) Tally {
	m.t.Helper()
	sum := Tally{Tokens: 1, Keys: len(m.Keys), Files: len(m.Files)}
	after := map[schsm.FID][]byte{}
	if o.Restored {
		after = m.Read()
	}
	complete := true
	for _, n := range slices.Sorted(maps.Keys(m.Keys)) {
		if m.compareKey(o, n, after) {
			sum.Restored++
		}
		if o.NamedKeys[n] {
			complete = false
			sum.Gaps++
		}
	}
	if !o.Restored {
		return sum
	}
	for f, content := range m.Files {
		if m.Keys[f.Index()] != nil && (f.Prefix() == schsm.PrefixDescription || f.Prefix() == schsm.PrefixKeyCertificate) {
			continue
		}
		got, here := after[f]
		switch {
		case here && bytes.Equal(got, content):
		case o.NamedFiles[f.String()]:
			sum.Gaps++
			complete = false
		default:
			m.Errorf("file %s: %d bytes (%x), was %d (%x)", f, len(got), sha256.Sum256(got), len(content), sha256.Sum256(content))
		}
	}
	for f := range after {
		if _, was := m.Files[f]; !was {
			m.Errorf("file %s was not there before", f)
		}
	}
	if complete && !o.Complete {
		m.Errorf("everything is there, but the restore says that it is not complete")
	}
	if complete {
		sum.Complete++
	}
	return sum
}

// compareKey tells whether a key is there again.
func (m *Model) compareKey(o Outcome, n byte, after map[schsm.FID][]byte) bool {
	m.t.Helper()
	k := m.Keys[n]
	_, err := m.Card.Key(m.ctx, n)
	here := err == nil && o.Restored
	switch {
	case here && k.Private != nil:
		if now := m.open(n, k); !samePrivate(now, k.Private) {
			m.Errorf("key %d is another key now", n)
		}
		m.answers(n, k)
	case here:
		m.Errorf("key %d is there although it could never leave the token", n)
	case o.Cleaned[n]:
	case !o.NamedKeys[n]:
		m.Errorf("key %d is gone, and nobody had said so (%s)", n, o.Why[n])
	}
	if here && !o.NamedKeys[n] {
		for _, f := range []schsm.FID{schsm.DescriptionFile(n), schsm.CertificateFile(n)} {
			if !bytes.Equal(after[f], m.Files[f]) || (after[f] == nil) != (m.Files[f] == nil) {
				m.Errorf("%s: %x, was %x (%s)", f, after[f], m.Files[f], o.Why[n])
			}
		}
		if !o.Proven[n] {
			m.Errorf("key %d was covered but not proven after the restore (%s)", n, o.Why[n])
		}
	}
	return here && k.Private != nil
}

// answers checks that the key at a reference does what the private key does.
func (m *Model) answers(reference byte, k *Key) {
	m.t.Helper()
	allows := schsm.KeyInfo{Algorithms: k.Algorithms}.Allows
	name := fmt.Sprintf("key %d (%s)", reference, k.Private.Type())
	var got, want []byte
	var err error
	switch k.Private.Kind() {
	case pkcs15.AES:
		if !allows(schsm.AESEncrypt) {
			return
		}
		block, cerr := aes.NewCipher(k.Private.AES())
		m.Must("AES", cerr)
		in := m.bytes(16)
		want = make([]byte, 16)
		block.Encrypt(want, in)
		got, err = m.Card.Symmetric(m.ctx, reference, schsm.AESEncrypt, in)
	case pkcs15.RSA:
		if !allows(schsm.RSARaw) {
			return
		}
		r, rerr := k.Private.RSA()
		m.Must("RSA", rerr)
		in := m.bytes((r.N.BitLen() + 7) / 8)
		in[0] = 0
		want = new(big.Int).Exp(new(big.Int).SetBytes(in), r.D, r.N).FillBytes(make([]byte, len(in)))
		got, err = m.Card.Sign(m.ctx, reference, schsm.RSARaw, in)
	default:
		c, d, _, _ := k.Private.EC()
		if !allows(schsm.ECDH) {
			return
		}
		_, x, y, gerr := c.GenerateKey(rand.Reader)
		m.Must("generate", gerr)
		want = c.Marshal(c.ScalarMult(x, y, d))
		got, err = m.Card.Decipher(m.ctx, reference, schsm.ECDH, c.Marshal(x, y))
	}
	if err != nil || !bytes.Equal(got, want) {
		m.Errorf("%s does not answer as it did: %v", name, err)
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
