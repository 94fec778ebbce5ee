//go:build cgo

package p11

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/secret"
)

// object is a private key of a fake module.
type object struct {
	id    string
	rsa   *rsa.PrivateKey
	curve *curve.Curve
	d     []byte
	// can are the attributes that are true.
	can []uint
	// wrong: it answers, but not as this key would.
	wrong bool
}

// fake is a module with one token.
type fake struct {
	serial     string
	flags      uint
	pin        string
	mechanisms []uint
	objects    []object
	// refuses are mechanisms that are offered but fail.
	refuses []uint

	pins              []string // that were sent
	open, started     int
	search            []pkcs11.ObjectHandle
	mechanism         uint
	key               pkcs11.ObjectHandle
	derived           []byte
	startErr, slotErr error
}

func (f *fake) Initialize(...pkcs11.InitializeOption) error {
	if f.startErr == nil {
		f.started++
	}
	return f.startErr
}
func (f *fake) Finalize() error                   { f.started--; return nil }
func (f *fake) Destroy()                          {}
func (f *fake) GetSlotList(bool) ([]uint, error)  { return []uint{7, 8, 9}, f.slotErr }
func (f *fake) Logout(pkcs11.SessionHandle) error { return nil }
func (f *fake) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	switch slot {
	case 7:
		return pkcs11.TokenInfo{}, pkcs11.Error(pkcs11.CKR_TOKEN_NOT_RECOGNIZED)
	case 8:
		return pkcs11.TokenInfo{SerialNumber: "DENK0000001     ", Flags: pkcs11.CKF_USER_PIN_INITIALIZED}, nil
	}
	return pkcs11.TokenInfo{SerialNumber: f.serial, Flags: f.flags}, nil
}
func (f *fake) GetMechanismList(uint) ([]*pkcs11.Mechanism, error) {
	var list []*pkcs11.Mechanism
	for _, m := range f.mechanisms {
		list = append(list, pkcs11.NewMechanism(m, nil))
	}
	return list, nil
}
func (f *fake) OpenSession(slot uint, _ uint) (pkcs11.SessionHandle, error) {
	if slot != 9 {
		return 0, errors.New("the session is not with the token")
	}
	f.open++
	return 1, nil
}
func (f *fake) CloseSession(pkcs11.SessionHandle) error { f.open--; return nil }
func (f *fake) Login(_ pkcs11.SessionHandle, user uint, pin string) error {
	f.pins = append(f.pins, pin)
	if user != pkcs11.CKU_USER || pin != f.pin {
		return pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)
	}
	return nil
}
func (f *fake) FindObjectsInit(_ pkcs11.SessionHandle, template []*pkcs11.Attribute) error {
	f.search = nil
	for i, o := range f.objects {
		if bytes.Equal(template[1].Value, []byte(o.id)) {
			f.search = append(f.search, pkcs11.ObjectHandle(i))
		}
	}
	return nil
}
func (f *fake) FindObjects(pkcs11.SessionHandle, int) ([]pkcs11.ObjectHandle, bool, error) {
	return f.search, false, nil
}
func (f *fake) FindObjectsFinal(pkcs11.SessionHandle) error { return nil }
func (f *fake) GetAttributeValue(_ pkcs11.SessionHandle, o pkcs11.ObjectHandle, want []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	if want[0].Type == pkcs11.CKA_VALUE {
		return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, f.derived)}, nil
	}
	can := false
	for _, c := range f.objects[o].can {
		can = can || c == want[0].Type
	}
	return []*pkcs11.Attribute{pkcs11.NewAttribute(want[0].Type, can)}, nil
}

func (f *fake) begin(m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	f.mechanism, f.key = m[0].Mechanism, key
	for _, r := range f.refuses {
		if r == f.mechanism {
			return pkcs11.Error(pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED)
		}
	}
	return nil
}
func (f *fake) SignInit(_ pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	return f.begin(m, key)
}
func (f *fake) DecryptInit(_ pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	return f.begin(m, key)
}
func (f *fake) spoil(answer []byte) []byte {
	if f.objects[f.key].wrong {
		answer[len(answer)-1] ^= 1
	}
	return answer
}

func (f *fake) Sign(_ pkcs11.SessionHandle, data []byte) ([]byte, error) {
	o := f.objects[f.key]
	switch f.mechanism {
	case pkcs11.CKM_SHA256_RSA_PKCS:
		digest := sha256.Sum256(data)
		s, err := rsa.SignPKCS1v15(nil, o.rsa, crypto.SHA256, digest[:])
		return f.spoil(s), err
	case pkcs11.CKM_RSA_PKCS:
		s, err := rsa.SignPKCS1v15(nil, o.rsa, 0, data)
		return f.spoil(s), err
	case pkcs11.CKM_ECDSA:
		r, s, err := o.curve.Sign(rand.Reader, o.d, data)
		if err != nil {
			return nil, err
		}
		n := (o.curve.N.BitLen() + 7) / 8
		return f.spoil(append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)), nil
	}
	return nil, pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)
}

func (f *fake) Decrypt(_ pkcs11.SessionHandle, sealed []byte) ([]byte, error) {
	k := f.objects[f.key].rsa
	m := new(big.Int).Exp(new(big.Int).SetBytes(sealed), k.D, k.N)
	return f.spoil(m.FillBytes(make([]byte, k.Size()))), nil
}

func (f *fake) DeriveKey(_ pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle, _ []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if err := f.begin(m, key); err != nil {
		return 0, err
	}
	o := f.objects[key]
	x, y, err := o.curve.Unmarshal(f.peer(m))
	if err != nil {
		return 0, err
	}
	x, _ = o.curve.ScalarMult(x, y, o.d)
	f.derived = f.spoil(x.FillBytes(make([]byte, o.curve.FieldBytes())))
	return 99, nil
}

// peer is the point that derive sent. The library keeps the parameters of a
// mechanism to itself.
func (f *fake) peer(m []*pkcs11.Mechanism) []byte {
	return reflect.ValueOf(m[0]).Elem().FieldByName("generator").Elem().Elem().FieldByName("PublicKeyData").Bytes()
}

const good = pkcs11.CKF_USER_PIN_INITIALIZED | pkcs11.CKF_LOGIN_REQUIRED | pkcs11.CKF_TOKEN_INITIALIZED

var everything = []uint{pkcs11.CKM_SHA256_RSA_PKCS, pkcs11.CKM_RSA_PKCS, pkcs11.CKM_RSA_X_509, pkcs11.CKM_ECDSA, pkcs11.CKM_ECDH1_DERIVE}

func newFake(objects ...object) *fake {
	return &fake{serial: "SOFT0200001     ", flags: good, pin: "648219", mechanisms: everything, objects: objects}
}

func rsaObject(t *testing.T, id string, can ...uint) (object, Key) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	public, err := pubkey.NewRSA(k.N, k.E)
	if err != nil {
		t.Fatal(err)
	}
	return object{id: id, rsa: k, can: can}, Key{[]byte(id), public}
}

func ecObject(t *testing.T, id, name string, can ...uint) (object, Key) {
	t.Helper()
	c := curve.ByName(name)
	d, x, y, err := c.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := pubkey.NewEC(c, x, y)
	if err != nil {
		t.Fatal(err)
	}
	return object{id: id, curve: c, d: d, can: can}, Key{[]byte(id), public}
}

func run(t *testing.T, f *fake, keys ...Key) []Result {
	t.Helper()
	results, err := use(f, "m.so", "SOFT0200001", secret.New([]byte("648219")), keys)
	if err != nil {
		t.Fatal(err)
	}
	if f.open != 0 || f.started != 0 {
		t.Errorf("%d sessions and %d starts are left", f.open, f.started)
	}
	if len(f.pins) != 1 {
		t.Errorf("%d PINs were sent", len(f.pins))
	}
	return results
}

// Keys of each kind are used in the way that their attributes and the module
// allow.
func TestWays(t *testing.T) {
	sign, dec, der := uint(pkcs11.CKA_SIGN), uint(pkcs11.CKA_DECRYPT), uint(pkcs11.CKA_DERIVE)
	type way struct {
		name       string
		curve      string // RSA if empty
		can        []uint
		mechanisms []uint
		refuses    []uint
		want       string
	}
	for _, c := range []way{
		{"RSA", "", []uint{sign, dec}, everything, nil, "SHA256-RSA-PKCS"},
		{"a module that does not hash", "", []uint{sign, dec}, []uint{pkcs11.CKM_RSA_PKCS}, nil, "RSA-PKCS"},
		{"a key that must not hash", "", []uint{sign}, everything, []uint{pkcs11.CKM_SHA256_RSA_PKCS}, "RSA-PKCS"},
		{"a key that decrypts only", "", []uint{dec}, everything, nil, "RSA-X-509"},
		{"P-256", "P-256", []uint{sign, der}, everything, nil, "ECDSA"},
		{"a digest longer than the order", "P-192", []uint{sign}, everything, nil, "ECDSA"},
		{"a digest shorter than the order", "P-521", []uint{sign}, everything, nil, "ECDSA"},
		{"brainpool", "brainpoolP256r1", []uint{sign}, everything, nil, "ECDSA"},
		{"a key that derives only", "P-256", []uint{der}, everything, nil, "ECDH1-DERIVE"},
		{"a module that knows cofactors only", "P-384", []uint{der}, []uint{pkcs11.CKM_ECDH1_COFACTOR_DERIVE}, nil, "ECDH1-COFACTOR-DERIVE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o object
			var k Key
			if c.curve == "" {
				o, k = rsaObject(t, "\x23", c.can...)
			} else {
				o, k = ecObject(t, "\x23", c.curve, c.can...)
			}
			f := newFake(o)
			f.mechanisms, f.refuses = c.mechanisms, c.refuses
			if r := run(t, f, k)[0]; r.Way != c.want || r.Reason != "" {
				t.Errorf("%+v", r)
			}
			f.objects[0].wrong = true
			f.pins = nil
			if r := run(t, f, k)[0]; r.Way != "" || !strings.Contains(r.Reason, "not that of the key in the catalog") {
				t.Errorf("a wrong answer is %+v", r)
			}
		})
	}
}

// Of each key that is not found or not used the reason is given, and the
// others are used all the same.
func TestReasons(t *testing.T) {
	sign := uint(pkcs11.CKA_SIGN)
	first, a := ecObject(t, "\x01", "P-256", sign)
	other, _ := ecObject(t, "\x02", "P-256", sign)
	second, b := ecObject(t, "\x02", "P-256", sign)
	third, c := ecObject(t, "\x03", "P-256") // no usage
	_, missing := ecObject(t, "\x04", "P-256", sign)
	_, nameless := ecObject(t, "", "P-256", sign)
	for i, r := range run(t, newFake(first, other, second, third), a, b, c, missing, nameless) {
		want := []string{"", "", "no way to use it", "no private key with the ID 04", "no ID to be found by"}[i]
		if want == "" && r != (Result{Way: "ECDSA"}) || !strings.Contains(r.Reason, want) {
			t.Errorf("key %d: %+v, want %q", i, r, want)
		}
	}
	f := newFake(first)
	f.refuses = []uint{pkcs11.CKM_ECDSA}
	if r := run(t, f, a)[0]; r.Reason != "ECDSA: CKR_KEY_FUNCTION_NOT_PERMITTED" {
		t.Errorf("%+v", r)
	}
	// Another key under the ID is not the one of the catalog.
	if r := run(t, newFake(other), b)[0]; !strings.Contains(r.Reason, "not that of the key") {
		t.Errorf("%+v", r)
	}
}

// What keeps all keys from being used; the PIN goes out only where it may.
func TestUseReject(t *testing.T) {
	o, k := ecObject(t, "\x01", "P-256", pkcs11.CKA_SIGN)
	for _, c := range []struct {
		name   string
		change func(*fake)
		want   error
		says   string
		pins   int
	}{
		{"the token is not there", func(f *fake) { f.serial = "SOFT0200002     " }, ErrNoToken, "only DENK0000001, SOFT0200002", 0},
		{"a longer serial", func(f *fake) { f.serial = "SOFT02000011" }, ErrNoToken, "SOFT02000011", 0},
		{"no PIN yet", func(f *fake) { f.flags = 0 }, ErrPIN, "no PIN yet", 0},
		{"a PIN pad", func(f *fake) { f.flags |= pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH }, ErrPIN, "typed at the reader", 0},
		{"blocked", func(f *fake) { f.flags |= pkcs11.CKF_USER_PIN_LOCKED }, ErrPIN, "blocked", 0},
		{"the last try", func(f *fake) { f.flags |= pkcs11.CKF_USER_PIN_FINAL_TRY }, ErrPIN, "one PIN try is left", 0},
		{"refused", func(f *fake) { f.pin = "other1" }, ErrPIN, "CKR_PIN_INCORRECT", 1},
		{"does not start", func(f *fake) { f.startErr = pkcs11.Error(pkcs11.CKR_GENERAL_ERROR) }, ErrModule, "m.so does not start: CKR_GENERAL_ERROR", 0},
		{"no slots", func(f *fake) { f.slotErr = pkcs11.Error(0xDEAD) }, ErrModule, "CKR 0xdead", 0},
	} {
		f := newFake(o)
		c.change(f)
		_, err := use(f, "m.so", "SOFT0200001", secret.New([]byte("648219")), []Key{k})
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "648219") {
			t.Errorf("%s: the PIN is in %v", c.name, err)
		}
		if len(f.pins) != c.pins || f.open != 0 || f.started != 0 {
			t.Errorf("%s: %d PINs sent, %d sessions and %d starts left", c.name, len(f.pins), f.open, f.started)
		}
	}
	// Zeros behind a serial are the reader's.
	f := newFake(o)
	f.serial = "SOFT02000010000 "
	run(t, f, k)
}

// A file that cannot be a module is refused before it is loaded, one that
// cannot be loaded with a reason.
func TestModuleReject(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, says := range map[string]string{
		filepath.Join(dir, "none.so"):    "no such file",
		dir:                              "is not a file",
		write("empty.so", ""):            "is empty",
		write("text.so", "no library\n"): "cannot be loaded",
	} {
		if _, err := Use(path, "SOFT0200001", secret.New([]byte("648219")), nil); !errors.Is(err, ErrModule) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// An ECDSA signature as DER, which some modules give, is taken as well.
func TestDER(t *testing.T) {
	o, k := ecObject(t, "\x01", "P-256", pkcs11.CKA_SIGN)
	f := newFake(o)
	der := &derSigner{f}
	results, err := use(der, "m.so", "SOFT0200001", secret.New([]byte("648219")), []Key{k})
	if err != nil || results[0].Reason != "" {
		t.Errorf("%+v, %v", results, err)
	}
}

type derSigner struct{ *fake }

func (d *derSigner) Sign(s pkcs11.SessionHandle, data []byte) ([]byte, error) {
	plain, err := d.fake.Sign(s, data)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(plain[:len(plain)/2]), new(big.Int).SetBytes(plain[len(plain)/2:])})
}
