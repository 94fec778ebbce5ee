//go:build cgo

package p11

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/secret"
)

// built: modules can be loaded.
const built = true

// cryptoki is what this package needs of a *pkcs11.Ctx.
type cryptoki interface {
	Initialize(...pkcs11.InitializeOption) error
	Finalize() error
	Destroy()
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	GetMechanismList(slot uint) ([]*pkcs11.Mechanism, error)
	OpenSession(slot uint, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(pkcs11.SessionHandle) error
	Login(s pkcs11.SessionHandle, user uint, pin string) error
	Logout(pkcs11.SessionHandle) error
	FindObjectsInit(pkcs11.SessionHandle, []*pkcs11.Attribute) error
	FindObjects(s pkcs11.SessionHandle, max int) ([]pkcs11.ObjectHandle, bool, error)
	FindObjectsFinal(pkcs11.SessionHandle) error
	GetAttributeValue(pkcs11.SessionHandle, pkcs11.ObjectHandle, []*pkcs11.Attribute) ([]*pkcs11.Attribute, error)
	SignInit(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error)
	DecryptInit(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
	Decrypt(s pkcs11.SessionHandle, cipher []byte) ([]byte, error)
	DeriveKey(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle, []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)
}

// Use loads a module, logs in to the token of that serial number with its PIN,
// finds each key by its ID, uses it, and checks its answer against the public
// key. Results are in the order of keys; that one fails does not keep the
// others from being used. An error is for what kept all of them from it: it
// wraps ErrModule, ErrNoToken or ErrPIN.
//
// The PIN is sent once. It must be one that the token has just taken: where
// the module says that one try is left, it is not sent at all.
func Use(module, serial string, pin *secret.Bytes, keys []Key) ([]Result, error) {
	if err := Check(module); err != nil {
		return nil, err
	}
	ctx := pkcs11.New(module)
	if ctx == nil {
		return nil, fmt.Errorf("%w: %s cannot be loaded: it is no PKCS#11 module, or made for another kind of computer", ErrModule, module)
	}
	defer ctx.Destroy()
	return use(ctx, module, serial, pin, keys)
}

func use(c cryptoki, module, serial string, pin *secret.Bytes, keys []Key) ([]Result, error) {
	if err := c.Initialize(); err != nil {
		return nil, fmt.Errorf("%w: %s does not start: %s", ErrModule, module, code(err))
	}
	defer c.Finalize()
	slot, err := slotOf(c, serial)
	if err != nil {
		return nil, err
	}
	s, err := login(c, slot, pin)
	if err != nil {
		return nil, err
	}
	defer c.CloseSession(s.handle)
	defer c.Logout(s.handle)
	results := make([]Result, len(keys))
	for i, k := range keys {
		results[i] = s.use(k)
	}
	return results, nil
}

// slotOf finds the slot of a token.
func slotOf(c cryptoki, serial string) (uint, error) {
	slots, err := c.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("%w: it lists no slots: %s", ErrModule, code(err))
	}
	var others []string
	var refused error
	for _, slot := range slots {
		info, err := c.GetTokenInfo(slot)
		if err != nil {
			continue // another card, which the module does not know
		}
		if !isSerial(info.SerialNumber, serial) {
			others = append(others, strings.TrimRight(info.SerialNumber, " \x00"))
			continue
		}
		// A token may have a slot for each of its PINs.
		if refused = refusal(info.Flags); refused == nil {
			return slot, nil
		}
	}
	switch {
	case refused != nil:
		return 0, refused
	case len(others) > 0:
		return 0, fmt.Errorf("%w %s, only %s", ErrNoToken, serial, strings.Join(others, ", "))
	}
	return 0, fmt.Errorf("%w %s", ErrNoToken, serial)
}

// isSerial compares what a module shows, padded with blanks, with a serial
// number. Some readers' names put zeros behind it, and so may a module.
func isSerial(shown, serial string) bool {
	shown = strings.TrimRight(shown, " \x00")
	return serial != "" && (shown == serial || shown == serial+"0000" || shown == serial+"00000")
}

// refusal says why the PIN is not given to a token with these flags.
func refusal(flags uint) error {
	switch {
	case flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return fmt.Errorf("%w: it says that the token has no PIN yet", ErrPIN)
	case flags&pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH != 0:
		return fmt.Errorf("%w: it wants the PIN typed at the reader", ErrPIN)
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: it says that the PIN is blocked", ErrPIN)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: it says that one PIN try is left, and that is not spent", ErrPIN)
	}
	return nil
}

// session is a login.
type session struct {
	c          cryptoki
	handle     pkcs11.SessionHandle
	mechanisms []uint
}

func login(c cryptoki, slot uint, pin *secret.Bytes) (*session, error) {
	s := &session{c: c}
	list, err := c.GetMechanismList(slot)
	if err != nil {
		return nil, fmt.Errorf("%w: it lists no mechanisms: %s", ErrModule, code(err))
	}
	for _, m := range list {
		s.mechanisms = append(s.mechanisms, m.Mechanism)
	}
	if s.handle, err = c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION); err != nil {
		return nil, fmt.Errorf("%w: it opens no session: %s", ErrModule, code(err))
	}
	if err := c.Login(s.handle, pkcs11.CKU_USER, string(pin.Bytes())); err != nil {
		_ = c.CloseSession(s.handle)
		return nil, fmt.Errorf("%w: %s", ErrPIN, code(err))
	}
	return s, nil
}

func (s *session) offers(mechanism uint) bool { return slices.Contains(s.mechanisms, mechanism) }

// use finds a key and uses it. Where several have the ID, one of them must
// answer rightly.
func (s *session) use(k Key) Result {
	if len(k.ID) == 0 {
		return Result{Reason: "it has no ID to be found by"}
	}
	found, err := s.find(k.ID)
	switch {
	case err != nil:
		return Result{Reason: "the search for its ID failed: " + code(err)}
	case len(found) == 0:
		return Result{Reason: fmt.Sprintf("the module shows no private key with the ID %s", hex.EncodeToString(k.ID))}
	}
	var r Result
	for _, key := range found {
		if r = s.useObject(key, k.Public); r.Reason == "" {
			break
		}
	}
	return r
}

func (s *session) find(id []byte) ([]pkcs11.ObjectHandle, error) {
	err := s.c.FindObjectsInit(s.handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
	})
	if err != nil {
		return nil, err
	}
	const several = 16
	list, _, err := s.c.FindObjects(s.handle, several)
	return list, errors.Join(err, s.c.FindObjectsFinal(s.handle))
}

// useObject uses a key in the ways that its attributes allow, the ones that
// programs prefer first. A refusal leads to the next way, a wrong answer does
// not.
func (s *session) useObject(key pkcs11.ObjectHandle, public *pubkey.Key) Result {
	r := Result{Reason: "the module offers no way to use it"}
	for _, w := range ways(public) {
		if !s.offers(w.mechanism) || !s.allows(key, w.attribute) {
			continue
		}
		right, err := w.try(s, key, public)
		switch {
		case err != nil:
			r = Result{Reason: fmt.Sprintf("%s: %s", w.name, code(err))}
		case !right:
			return Result{Reason: fmt.Sprintf("its answer (%s) is not that of the key in the catalog", w.name)}
		default:
			return Result{Way: w.name}
		}
	}
	return r
}

// allows tells whether a boolean attribute of a key is true; one that a module
// does not tell is taken for true.
func (s *session) allows(key pkcs11.ObjectHandle, attribute uint) bool {
	list, err := s.c.GetAttributeValue(s.handle, key, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if err != nil || len(list) != 1 || len(list[0].Value) == 0 {
		return true
	}
	return slices.ContainsFunc(list[0].Value, func(b byte) bool { return b != 0 })
}

// way is one way to use a key; try tells whether the answer was right, the
// error that there was none.
type way struct {
	name      string
	mechanism uint
	attribute uint
	try       func(*session, pkcs11.ObjectHandle, *pubkey.Key) (bool, error)
}

func ways(public *pubkey.Key) []way {
	if public.RSA != nil {
		return []way{
			{"SHA256-RSA-PKCS", pkcs11.CKM_SHA256_RSA_PKCS, pkcs11.CKA_SIGN, signMessage},
			{"RSA-PKCS", pkcs11.CKM_RSA_PKCS, pkcs11.CKA_SIGN, signDigestInfo},
			{"RSA-X-509", pkcs11.CKM_RSA_X_509, pkcs11.CKA_DECRYPT, decrypt},
		}
	}
	return []way{
		{"ECDSA", pkcs11.CKM_ECDSA, pkcs11.CKA_SIGN, signDigest},
		{"ECDH1-DERIVE", pkcs11.CKM_ECDH1_DERIVE, pkcs11.CKA_DERIVE, derive},
		{"ECDH1-COFACTOR-DERIVE", pkcs11.CKM_ECDH1_COFACTOR_DERIVE, pkcs11.CKA_DERIVE, derive},
	}
}

// message is what is signed: random, behind a text that says what for, so that
// the signature is of use for nothing else.
func message() []byte {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails: it crashes the program instead
	return append([]byte("hsmbackup proof of a key: "), random...)
}

func (s *session) sign(mechanism uint, key pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	if err := s.c.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, key); err != nil {
		return nil, err
	}
	return s.c.Sign(s.handle, data)
}

func signMessage(s *session, key pkcs11.ObjectHandle, public *pubkey.Key) (bool, error) {
	m := message()
	signature, err := s.sign(pkcs11.CKM_SHA256_RSA_PKCS, key, m)
	digest := sha256.Sum256(m)
	return err == nil && public.Verify(crypto.SHA256, digest[:], signature) == nil, err
}

// digestInfo is the beginning of DigestInfo for SHA-256 (RFC 8017, section 9.2,
// note 1).
var digestInfo = []byte{0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}

func signDigestInfo(s *session, key pkcs11.ObjectHandle, public *pubkey.Key) (bool, error) {
	digest := sha256.Sum256(message())
	signature, err := s.sign(pkcs11.CKM_RSA_PKCS, key, slices.Concat(digestInfo, digest[:]))
	return err == nil && public.Verify(crypto.SHA256, digest[:], signature) == nil, err
}

// decrypt has the key undo what the public key did to a random number.
func decrypt(s *session, key pkcs11.ObjectHandle, public *pubkey.Key) (bool, error) {
	m, err := rand.Int(rand.Reader, public.RSA.N)
	if err != nil {
		return false, err
	}
	size := (public.RSA.N.BitLen() + 7) / 8
	sealed := new(big.Int).Exp(m, big.NewInt(int64(public.RSA.E)), public.RSA.N).FillBytes(make([]byte, size))
	if err := s.c.DecryptInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)}, key); err != nil {
		return false, err
	}
	opened, err := s.c.Decrypt(s.handle, sealed)
	return err == nil && m.Cmp(new(big.Int).SetBytes(opened)) == 0, err
}

// signDigest signs a digest that is no longer than the order of the curve:
// ECDSA would cut it, and modules differ in who does.
func signDigest(s *session, key pkcs11.ObjectHandle, public *pubkey.Key) (bool, error) {
	sum := sha256.Sum256(message())
	digest := sum[:min(len(sum), public.Curve.N.BitLen()/8)]
	signature, err := s.sign(pkcs11.CKM_ECDSA, key, digest)
	return err == nil && public.Verify(crypto.SHA256, digest, signature) == nil, err
}

// derive agrees with the key on a secret, as the owner of another key would.
func derive(s *session, key pkcs11.ObjectHandle, public *pubkey.Key) (bool, error) {
	d, x, y, err := public.Curve.GenerateKey(rand.Reader)
	if err != nil {
		return false, err
	}
	want, _ := public.Curve.ScalarMult(public.X, public.Y, d)
	size := public.Curve.FieldBytes()
	mechanism := uint(pkcs11.CKM_ECDH1_DERIVE)
	if !s.offers(mechanism) {
		mechanism = pkcs11.CKM_ECDH1_COFACTOR_DERIVE // of these curves the cofactor is 1
	}
	shared, err := s.c.DeriveKey(s.handle,
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, public.Curve.Marshal(x, y)))}, key,
		[]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, size),
		})
	if err != nil {
		return false, err
	}
	list, err := s.c.GetAttributeValue(s.handle, shared, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if err != nil {
		return false, err
	}
	return len(list) == 1 && bytes.Equal(list[0].Value, want.FillBytes(make([]byte, size))), nil
}

// code names an error of a module: CKR_PIN_INCORRECT.
func code(err error) string {
	var e pkcs11.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	// The text is "pkcs11: 0xA0: CKR_PIN_INCORRECT"; of codes that the library
	// does not know the name is missing.
	if text := e.Error(); strings.Contains(text, "CKR_") {
		return text[strings.Index(text, "CKR_"):]
	}
	return fmt.Sprintf("CKR %#x", uint(e))
}
