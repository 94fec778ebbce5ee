package schsm

import (
	"context"
	"errors"
	"fmt"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/tlv"
)

// Algorithm is a byte of fact sheet §2.9: P2 of a use of a key, and an element
// of a key's list of allowed algorithms.
type Algorithm byte

// The algorithms that backups and proofs need.
const (
	AESEncrypt Algorithm = 0x10 // CBC, IV 0
	AESDecrypt Algorithm = 0x11
	AESCMAC    Algorithm = 0x18
	RSARaw     Algorithm = 0x20 // raw signature: a whole block
	RSADecrypt Algorithm = 0x21 // raw decryption: a whole block
	RSAPKCS1   Algorithm = 0x30 // PKCS#1 v1.5 of a DigestInfo
	ECDSA      Algorithm = 0x70 // over a given hash
	ECDH       Algorithm = 0x80
	WrapKey    Algorithm = 0x92 // the key may be exported

	RSAPKCS1SHA256 Algorithm = 0x33 // PKCS#1 v1.5, the token hashes
)

// KeyInfo is what a token tells of a key without using it.
type KeyInfo struct {
	// Counter is the number of uses left; nil is no limit.
	Counter *uint32
	// Algorithms is the list of allowed ones; empty is all.
	Algorithms []byte
	// Domain is the key domain.
	Domain int
}

// Allows tells whether the list permits an algorithm.
func (k KeyInfo) Allows(a Algorithm) bool {
	if len(k.Algorithms) == 0 {
		return true
	}
	for _, b := range k.Algorithms {
		if Algorithm(b) == a {
			return true
		}
	}
	return false
}

// Key asks for what a key's file says of it: A5 { 90 counter, 91 list, 92
// domain }. A key that does not exist is apdu.ErrNotFound.
func (c *Card) Key(ctx context.Context, reference byte) (KeyInfo, error) {
	var info KeyInfo
	fcp, err := c.selectFile(ctx, KeyFile(reference))
	if err != nil {
		return info, err
	}
	a5, ok := fcp.Find(0xA5)
	if !ok {
		return info, nil
	}
	list, err := a5.Children()
	if err != nil {
		return info, nil // proprietary data of another kind
	}
	if e, ok := list.Find(0x90); ok && len(e.Value) == 4 {
		n := uint32(e.Value[0])<<24 | uint32(e.Value[1])<<16 | uint32(e.Value[2])<<8 | uint32(e.Value[3])
		info.Counter = &n
	}
	if e, ok := list.Find(0x91); ok && len(e.Value) > 0 {
		info.Algorithms = e.Value
	}
	if e, ok := list.Find(0x92); ok && len(e.Value) == 1 {
		info.Domain = int(e.Value[0])
	}
	return info, nil
}

// errDeviceKey: reference 0 belongs to the token itself.
var errDeviceKey = errors.New("key 0 is the token's own device key")

// Generate makes an RSA or EC key at a free reference and gives its
// authenticated request. It writes no description: without one the key is
// invisible to PKCS#11.
func (c *Card) Generate(ctx context.Context, reference byte, spec cvc.KeySpec) ([]byte, error) {
	if reference == 0 {
		return nil, errDeviceKey
	}
	name := fmt.Sprintf("GENERATE of key %d", reference)
	data, err := c.callPatiently(ctx, name, apdu.Command{INS: 0x46, P1: reference, Data: spec.Encode(), Extended: true, Le: apdu.LeExtended})
	if err = settled(err, c.made(ctx, reference)); err != nil {
		return nil, err
	}
	if _, _, err := tlv.Parse(data); err != nil { // a reader that cut the answer: the token kept it too
		return c.ReadFile(ctx, CertificateFile(reference))
	}
	return data, nil
}

// GenerateAES makes an AES key of 128, 192 or 256 bits at a free reference.
// The list must contain WrapKey if the key is ever to be exported.
func (c *Card) GenerateAES(ctx context.Context, reference byte, bits int, algorithms []byte) error {
	if reference == 0 {
		return errDeviceKey
	}
	p2, ok := map[int]byte{128: 0xB0, 192: 0xB1, 256: 0xB2}[bits]
	if !ok {
		return fmt.Errorf("AES keys have 128, 192 or 256 bits, not %d", bits)
	}
	if len(algorithms) > 16 {
		return fmt.Errorf("a list of allowed algorithms has 16 at most, not %d", len(algorithms))
	}
	field := tlv.Encode(0x91, algorithms)
	_, err := c.callPatiently(ctx, fmt.Sprintf("GENERATE SYMMETRIC of key %d", reference), apdu.Command{CLA: 0x80, INS: 0x48, P1: reference, P2: p2, Data: field})
	return settled(err, c.made(ctx, reference))
}

// made looks whether a key is there at a reference that was free.
func (c *Card) made(ctx context.Context, reference byte) func() (bool, error) {
	return func() (bool, error) { return c.exists(ctx, KeyFile(reference)) }
}

// Sign uses a private key: RSARaw over a whole block, ECDSA over a hash. The
// answer is the block, or a DER signature.
func (c *Card) Sign(ctx context.Context, reference byte, a Algorithm, input []byte) ([]byte, error) {
	return c.use(ctx, 0x68, "SIGN", reference, a, input)
}

// Decipher uses a private key: RSADecrypt of a whole block, ECDH with a point
// 04 ‖ x ‖ y. The answer of ECDH is 04 ‖ x ‖ y, of the imitation 04 ‖ x.
func (c *Card) Decipher(ctx context.Context, reference byte, a Algorithm, input []byte) ([]byte, error) {
	return c.use(ctx, 0x62, "DECIPHER", reference, a, input)
}

// Symmetric uses an AES key.
func (c *Card) Symmetric(ctx context.Context, reference byte, a Algorithm, input []byte) ([]byte, error) {
	return c.use(ctx, 0x78, "use of AES", reference, a, input)
}

func (c *Card) use(ctx context.Context, ins byte, name string, reference byte, a Algorithm, input []byte) ([]byte, error) {
	return c.call(ctx, fmt.Sprintf("%s with key %d", name, reference),
		apdu.Command{CLA: 0x80, INS: ins, P1: reference, P2: byte(a), Data: input, Extended: true, Le: apdu.LeExtended})
}

// Wrap exports a key as a key blob under the DKEK of its domain.
func (c *Card) Wrap(ctx context.Context, reference byte) ([]byte, error) {
	return c.call(ctx, fmt.Sprintf("WRAP of key %d", reference), apdu.Command{CLA: 0x80, INS: 0x72, P1: reference, P2: byte(WrapKey), Le: apdu.LeExtended})
}

// ErrUnwrapRefused: the token does not take the blob. It answers the same
// whether the blob is under another DKEK or damaged.
var ErrUnwrapRefused = errors.New("the token does not take this key blob: it is under another DKEK or damaged")

// directUnwrap is the longest UNWRAP that is sent as one command. Some readers
// cut longer ones at 1014 bytes and say nothing (fact sheet §2.12).
const directUnwrap = 1000

// Unwrap imports a key blob at a free reference. Only the key comes back: its
// description and certificate are the caller's to write. What does not fit
// into one command on every reader goes through EF 2F10; where the token does
// not know that way, it goes in one command if token and reader carry it.
func (c *Card) Unwrap(ctx context.Context, reference byte, blob []byte) error {
	if reference == 0 {
		return errDeviceKey
	}
	if len(blob) == 0 { // the token would take what lies in EF 2F10
		return errors.New("the key blob is empty")
	}
	const overhead = 4 + 3 // header, extended Lc
	length := overhead + len(blob)
	if length <= min(directUnwrap, c.limit()) {
		err := c.unwrapDirect(ctx, reference, blob)
		if errors.Is(err, apdu.ErrWrongLength) {
			err = c.unwrapByFile(ctx, reference, blob)
		}
		return err
	}
	err := c.unwrapByFile(ctx, reference, blob)
	if !unknownWay(err) || length > c.limit() {
		return err
	}
	direct := c.unwrapDirect(ctx, reference, blob)
	if errors.Is(direct, apdu.ErrWrongLength) { // cut on its way: it says nothing of the blob
		return err
	}
	return direct
}

// unknownWay tells whether a token that lacks UNWRAP through EF 2F10 might
// have answered so: to the file, or to an UNWRAP without a blob.
func unknownWay(err error) bool {
	for _, e := range []error{apdu.ErrNotFound, apdu.ErrParameters, apdu.ErrWrongLength, apdu.ErrConditions, apdu.ErrNotAuthorised, ErrUnwrapRefused} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (c *Card) unwrapDirect(ctx context.Context, reference byte, blob []byte) error {
	return c.unwrap(ctx, fmt.Sprintf("UNWRAP to key %d", reference), apdu.Command{CLA: 0x80, INS: 0x74, P1: reference, P2: 0x93, Data: blob, Extended: true})
}

func (c *Card) unwrapByFile(ctx context.Context, reference byte, blob []byte) error {
	return c.Transaction(ctx, func() error {
		// A longer blob that was there before would leave its tail behind. A
		// token that does not let the file be deleted may cut it by itself.
		if err := c.DeleteFile(ctx, fidScratch); err != nil && !isAnswer(err) {
			return err
		}
		if err := c.WriteFile(ctx, fidScratch, blob); err != nil {
			return err
		}
		err := c.unwrap(ctx, fmt.Sprintf("UNWRAP from %s to key %d", fidScratch, reference), apdu.Command{CLA: 0x80, INS: 0x74, P1: reference, P2: 0x93})
		// What is left behind is only the blob; the next one overwrites it.
		_ = c.DeleteFile(ctx, fidScratch)
		return err
	})
}

// unwrap sends UNWRAP. 6A80 is the answer of the real token to a blob it does
// not take, 6400 that of the imitation.
func (c *Card) unwrap(ctx context.Context, name string, cmd apdu.Command) error {
	_, err := c.callPatiently(ctx, name, cmd)
	err = settled(err, c.made(ctx, cmd.P1))
	var s *apdu.StatusError
	if errors.As(err, &s) && (s.SW == apdu.WrongData || s.SW == apdu.ExecutionError) {
		return fmt.Errorf("%s: %w (%s)", name, ErrUnwrapRefused, s.SW)
	}
	return err
}

// isAnswer tells what the token answered from what kept the answer away.
func isAnswer(err error) bool {
	var s *apdu.StatusError
	return errors.As(err, &s)
}
