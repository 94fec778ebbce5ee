package backup

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // tokens hash with it; nothing rests on that here
	"crypto/sha256"
	_ "crypto/sha512" // likewise
	"errors"
	"fmt"
	"math/big"
	"slices"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// challenge is one way to use a key whose answer shows which key it is.
type challenge struct {
	algorithm schsm.Algorithm
	input     []byte
	// use sends it.
	use func(ctx context.Context, reference byte, a schsm.Algorithm, input []byte) ([]byte, error)
	// normal brings an answer into a form that can be compared; nil where two
	// answers of one key differ (ECDSA).
	normal func(answer []byte) ([]byte, error)
	// check compares an answer with the public key; nil where that is not
	// known or there is none.
	check func(answer []byte) error
}

// errAnswer: a key answered, but not as the one it should be.
var errAnswer = errors.New("it answers like another key")

// errNoWay: the list of allowed algorithms leaves no use that tells keys apart.
var errNoWay = errors.New("its list of allowed algorithms leaves no way to use it for a proof")

// subject is what is known of a key that is to be challenged.
type subject struct {
	kind   pkcs15.Kind
	bits   int         // of RSA, if a description is right; 0 not known
	public *pubkey.Key // nil not known
	allows func(schsm.Algorithm) bool
}

func (k Key) subject() subject {
	return subject{kind: k.Kind, bits: k.Bits, public: k.Public, allows: k.Info.Allows}
}

// source gives the n bytes that an input is made of. A fixed one gives the same
// for the same name.
type source func(name string, n int) []byte

// challenges lists the ways to use a key, the best first.
func challenges(card *schsm.Card, s subject, from source) []challenge {
	var list []challenge
	if s.kind == pkcs15.RSA || s.kind == 0 {
		for _, bits := range sizes(s) {
			list = append(list, rsaChallenges(card, s, bits, from)...)
		}
		list = append(list, rsaHashChallenges(card, s, from)...)
	}
	if s.kind == pkcs15.EC || s.kind == 0 {
		for _, c := range curves(s) {
			list = append(list, ecChallenges(card, s, c, from)...)
		}
	}
	if s.kind == pkcs15.AES || s.kind == 0 {
		list = append(list, aesChallenges(card, s, from)...)
	}
	return list
}

// sizes gives the moduli to try: the one that is known, else all.
func sizes(s subject) []int {
	switch {
	case s.public != nil && s.public.RSA != nil:
		return []int{s.public.Bits()}
	}
	all := []int{4096, 3072, 2048, 1024, 1536}
	if s.kind == pkcs15.RSA && s.bits > 0 { // a description says so
		all = slices.DeleteFunc(all, func(n int) bool { return n == s.bits })
		all = slices.Insert(all, 0, s.bits)
	}
	return all
}

func curves(s subject) []*curve.Curve {
	if s.public != nil && s.public.Curve != nil {
		return []*curve.Curve{s.public.Curve}
	}
	return curve.All()
}

// identity is normal for answers that are already of one form.
func identity(answer []byte) ([]byte, error) { return answer, nil }

// rsaChallenges: raw RSA of a block below the modulus. Signing and deciphering
// are the same operation; a list may allow only one.
func rsaChallenges(card *schsm.Card, s subject, bits int, from source) []challenge {
	block := from(pubkey.RSAType(bits), bits/8)
	block[0] = 0 // below any modulus of this size
	// A random block is no padded message, so the answer is no signature of
	// anything.
	check := func(answer []byte) error {
		n, e := s.public.RSA.N, big.NewInt(int64(s.public.RSA.E))
		back := new(big.Int).Exp(new(big.Int).SetBytes(answer), e, n)
		if len(answer) != (n.BitLen()+7)/8 || back.Cmp(new(big.Int).SetBytes(block)) != 0 {
			return errAnswer
		}
		return nil
	}
	if s.public == nil {
		check = nil
	}
	var list []challenge
	if s.allows(schsm.RSARaw) {
		list = append(list, challenge{schsm.RSARaw, block, card.Sign, identity, check})
	}
	if s.allows(schsm.RSADecrypt) {
		list = append(list, challenge{schsm.RSADecrypt, block, card.Decipher, identity, check})
	}
	// PKCS#1 v1.5 signatures are deterministic too. The message says what it is.
	message := append([]byte("hsmbackup proof of a key: "), from(pubkey.RSAType(bits)+" message", 32)...)
	digest := sha256.Sum256(message)
	if s.allows(schsm.RSAPKCS1) {
		list = append(list, challenge{schsm.RSAPKCS1, append(bytes.Clone(digestInfoSHA256), digest[:]...), card.Sign, identity, verifier(s, digest[:])})
	}
	if s.allows(schsm.RSAPKCS1SHA256) {
		list = append(list, challenge{schsm.RSAPKCS1SHA256, message, card.Sign, identity, verifier(s, digest[:])})
	}
	return list
}

// rsaHashChallenges are signatures of a message that the token hashes, for keys
// whose list allows nothing better. They are of no size.
func rsaHashChallenges(card *schsm.Card, s subject, from source) []challenge {
	message := append([]byte("hsmbackup proof of a key: "), from("RSA message", 32)...)
	var list []challenge
	for _, h := range tokenHashes[1:] { // not SHA-256, which has gone before
		if a := rsaPKCS1Hashed | h.digit; s.allows(a) {
			list = append(list, challenge{a, message, card.Sign, identity, verifierOf(s, h.hash, message)})
		}
	}
	for _, h := range tokenHashes {
		if a := rsaPSSHashed | h.digit; s.allows(a) && s.public != nil {
			list = append(list, challenge{a, message, card.Sign, nil, func(answer []byte) error {
				if rsa.VerifyPSS(s.public.RSA, h.hash, h.sum(message), answer, nil) != nil {
					return errAnswer
				}
				return nil
			}})
		}
	}
	return list
}

// Algorithms for which the token hashes the message itself, without the digit
// that says by which hash (fact sheet §2.9).
const (
	rsaPKCS1Hashed schsm.Algorithm = 0x30
	rsaPSSHashed   schsm.Algorithm = 0x40
	ecdsaHashed    schsm.Algorithm = 0x70
)

// tokenHash is a hash that tokens compute, and its digit.
type tokenHash struct {
	digit schsm.Algorithm
	hash  crypto.Hash
}

var tokenHashes = []tokenHash{{3, crypto.SHA256}, {4, crypto.SHA384}, {5, crypto.SHA512}, {2, crypto.SHA224}, {1, crypto.SHA1}}

func (h tokenHash) sum(message []byte) []byte {
	w := h.hash.New()
	_, _ = w.Write(message) // a hash never fails
	return w.Sum(nil)
}

// verifierOf is verifier for a message that the token hashes.
func verifierOf(s subject, h crypto.Hash, message []byte) func([]byte) error {
	if s.public == nil {
		return nil
	}
	digest := tokenHash{hash: h}.sum(message)
	return func(answer []byte) error {
		if s.public.Verify(h, digest, answer) != nil {
			return errAnswer
		}
		return nil
	}
}

// digestInfoSHA256 stands before the digest in PKCS#1 v1.5 (RFC 8017 §9.2).
var digestInfoSHA256 = []byte{0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

func verifier(s subject, digest []byte) func([]byte) error {
	if s.public == nil {
		return nil
	}
	return func(answer []byte) error {
		if s.public.Verify(crypto.SHA256, digest, answer) != nil {
			return errAnswer
		}
		return nil
	}
}

// ecChallenges: ECDH with a point whose scalar is known, else ECDSA.
func ecChallenges(card *schsm.Card, s subject, c *curve.Curve, from source) []challenge {
	var list []challenge
	if s.allows(schsm.ECDH) {
		d := scalar(c, from)
		x, y := c.ScalarBaseMult(d)
		// Real tokens answer 04 ‖ x ‖ y, the imitation 04 ‖ x.
		normal := func(answer []byte) ([]byte, error) {
			if n := c.FieldBytes(); len(answer) == 1+n || len(answer) == 1+2*n {
				return answer[1 : 1+n], nil
			}
			return nil, fmt.Errorf("ECDH: answer of %d bytes", len(answer))
		}
		var check func([]byte) error
		if s.public != nil {
			check = func(answer []byte) error {
				got, err := normal(answer)
				if err != nil {
					return err
				}
				want, _ := c.ScalarMult(s.public.X, s.public.Y, d)
				if !bytes.Equal(got, want.FillBytes(make([]byte, c.FieldBytes()))) {
					return errAnswer
				}
				return nil
			}
		}
		list = append(list, challenge{schsm.ECDH, c.Marshal(x, y), card.Decipher, normal, check})
	}
	if s.public == nil {
		return list // two signatures of one key differ
	}
	message := append([]byte("hsmbackup proof of a key: "), from(c.Name+" message", 32)...)
	if s.allows(schsm.ECDSA) {
		// Cut to what fits the smallest field; the token would refuse more.
		digest := sha256.Sum256(message)
		input := digest[:min(len(digest), c.FieldBytes())]
		list = append(list, challenge{schsm.ECDSA, input, card.Sign, nil, verifier(s, input)})
	}
	for _, h := range tokenHashes {
		if a := ecdsaHashed | h.digit; s.allows(a) {
			list = append(list, challenge{a, message, card.Sign, nil, verifierOf(s, h.hash, message)})
		}
	}
	return list
}

// scalar takes a valid private scalar from the source.
func scalar(c *curve.Curve, from source) []byte {
	for try := 0; ; try++ {
		d := from(fmt.Sprintf("%s %d", c.Name, try), c.FieldBytes())
		if excess := len(d)*8 - c.N.BitLen(); excess > 0 {
			d[0] &= 0xFF >> excess
		}
		if c.ValidScalar(d) {
			return d
		}
	}
}

// aesChallenges: one encrypted block, else a MAC of one.
func aesChallenges(card *schsm.Card, s subject, from source) []challenge {
	block := from("AES", 16)
	var list []challenge
	for _, a := range []schsm.Algorithm{schsm.AESEncrypt, schsm.AESDecrypt, schsm.AESCMAC} {
		if s.allows(a) {
			list = append(list, challenge{a, block, card.Symmetric, identity, nil})
		}
	}
	return list
}

func randomBytes(_ string, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// fixedBytes is the source for check values: the blocks SHA-256(text ‖ name ‖
// i), so that a challenge is the same at every backup and restore, whatever
// others there are. The format is in docs/format.md.
func fixedBytes(name string, n int) []byte {
	var out []byte
	for i := byte(0); len(out) < n; i++ {
		block := sha256.Sum256(append([]byte("hsmbackup check value "+name), i))
		out = append(out, block[:]...)
	}
	return out[:n]
}

// notThisWay tells an answer that means "the key is of another size or kind,
// or this use is not for it", so that the next way is tried.
func notThisWay(err error) bool {
	for _, e := range []error{apdu.ErrWrongLength, apdu.ErrAlgorithm, apdu.ErrWrongData, apdu.ErrParameters, apdu.ErrConditions, apdu.ErrInternal} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// proveUse uses a key and checks the answer against its public key.
func proveUse(ctx context.Context, card *schsm.Card, reference byte, s subject) error {
	var last error = errNoWay
	for _, ch := range challenges(card, s, randomBytes) {
		if ch.check == nil {
			continue
		}
		answer, err := ch.use(ctx, reference, ch.algorithm, ch.input)
		if notThisWay(err) {
			last = err
			continue
		}
		if err != nil {
			return err
		}
		return ch.check(answer)
	}
	return last
}

// proveSame gives the same input to two keys and compares the answers: this
// needs no public key, so it covers every type. Where one is known the answers
// are checked against it as well.
func proveSame(ctx context.Context, card *schsm.Card, original, copied byte, s subject) error {
	var last error = errNoWay
	for _, ch := range challenges(card, s, randomBytes) {
		a, err := ch.use(ctx, original, ch.algorithm, ch.input)
		if notThisWay(err) {
			last = err
			continue
		}
		if err != nil {
			return err
		}
		b, err := ch.use(ctx, copied, ch.algorithm, ch.input)
		if notThisWay(err) {
			return errAnswer // the original could, the copy cannot
		}
		if err != nil {
			return err
		}
		if ch.check != nil {
			if err := ch.check(a); err != nil {
				return fmt.Errorf("the original does not fit its public key: %w", err)
			}
			if err := ch.check(b); err != nil {
				return err
			}
		}
		if ch.normal == nil {
			return nil // check is not nil: both fit the public key
		}
		na, err := ch.normal(a)
		if err != nil {
			return err
		}
		nb, err := ch.normal(b)
		if err != nil {
			return err
		}
		if !bytes.Equal(na, nb) {
			return errAnswer
		}
		return nil
	}
	return last
}

// checkValue is what a key that has no public half, or whose public key is not
// known, is recognised by after a restore: the algorithm byte and the answer to
// the fixed challenge.
func checkValue(ctx context.Context, card *schsm.Card, reference byte, s subject) ([]byte, error) {
	for _, ch := range challenges(card, s, fixedBytes) {
		if ch.normal == nil {
			continue
		}
		if value, err := ch.value(ctx, reference); !notThisWay(err) {
			return value, err
		}
	}
	return nil, errNoWay
}

// value is the check value that this challenge gives.
func (ch challenge) value(ctx context.Context, reference byte) ([]byte, error) {
	answer, err := ch.use(ctx, reference, ch.algorithm, ch.input)
	if err != nil {
		return nil, err
	}
	normal, err := ch.normal(answer)
	if err != nil {
		return nil, err
	}
	return append([]byte{byte(ch.algorithm)}, normal...), nil
}

// proveValue uses a key with the fixed challenge and compares the answer with the
// check value of the key that it should be: in the way in which that was taken and,
// of RSA, under the message of each size, since the size may not have been known.
func proveValue(ctx context.Context, card *schsm.Card, reference byte, s subject, want []byte) error {
	result := errNoWay
	for _, ch := range challenges(card, s, fixedBytes) {
		if ch.normal == nil || byte(ch.algorithm) != want[0] {
			continue
		}
		got, err := ch.value(ctx, reference)
		switch {
		case notThisWay(err):
			continue
		case err != nil:
			return err
		case bytes.Equal(got, want):
			return nil
		}
		result = errAnswer
	}
	return result
}

// givesCheckValue compares an opened key with the check value that was kept of it,
// if there is one. public is its public half, nil for AES.
func givesCheckValue(private *dkek.PrivateKey, public *pubkey.Key, value []byte) error {
	if len(value) == 0 {
		return nil
	}
	algorithm, answer := schsm.Algorithm(value[0]), value[1:]
	if public == nil {
		for _, way := range aesAnswers {
			if way.algorithm != algorithm {
				continue
			}
			if own, err := way.answer(private.AES(), fixedBytes("AES", 16)); err != nil || !bytes.Equal(own, answer) {
				return errCheckValue
			}
			return nil
		}
		return errCheckValue
	}
	s := subject{kind: private.Kind(), public: public, allows: func(schsm.Algorithm) bool { return true }}
	if algorithm == schsm.ECDH { // as the token gave it
		answer = append([]byte{4}, answer...)
	}
	list := challenges(nil, s, fixedBytes)
	if s.kind == pkcs15.RSA {
		// Whose size was not known was asked by the first message that fits any.
		for _, bits := range sizes(subject{}) {
			list = append(list, rsaChallenges(nil, s, bits, fixedBytes)...)
		}
	}
	for _, ch := range list {
		if ch.algorithm == algorithm && ch.normal != nil && ch.check(answer) == nil {
			return nil
		}
	}
	return errCheckValue
}

// errCheckValue: a blob opens, and its key is not the one that was backed up.
var errCheckValue = errors.New("the key in its blob does not give the answer that was kept of the key")

// provable tells whether a stored key can be shown to be itself once it is on a
// token again: by its public key and a use that its list allows, or by its
// check value.
func provable(k *store.Key) bool {
	public, err := pubkey.ParseSPKI(k.PublicKey)
	if err != nil {
		return len(k.CheckValue) > 0
	}
	s := subject{kind: pkcs15.EC, public: public, allows: schsm.KeyInfo{Algorithms: k.Algorithms}.Allows}
	if public.RSA != nil {
		s.kind = pkcs15.RSA
	}
	return slices.ContainsFunc(challenges(nil, s, fixedBytes), func(c challenge) bool { return c.check != nil })
}
