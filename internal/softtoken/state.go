package softtoken

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pubkey"
)

// formatVersion of the file.
const formatVersion = 1

// state is all that survives a power cycle. The file is a JSON document of two
// fields, the SHA-256 of the state's JSON and that JSON.
type state struct {
	Version      int
	Serial       string
	Major, Minor int
	APDULimit    int
	ReaderCut    int `json:",omitempty"`
	Memory       int

	// RootKey and DeviceKey are scalars on brainpoolP256r1.
	RootKey, DeviceKey []byte
	// DeviceCertificates is EF 2F02.
	DeviceCertificates []byte

	Initialised bool
	Options     uint16
	PIN         *pin `json:",omitempty"`
	// Transport: the PIN must be changed before use.
	Transport bool `json:",omitempty"`
	SO        *pin `json:",omitempty"`
	// Classic: one DKEK, set up by tag 92, as domain 0.
	Classic bool `json:",omitempty"`
	Domains []domain
	Keys    map[byte]*key
	Files   map[uint16][]byte
}

// pin is a PIN that can be compared, with its retry counter.
type pin struct {
	Length     int
	Salt, Hash []byte
	Tries, Set int
}

// domain is a key domain slot.
type domain struct {
	Created             bool
	Shares, Outstanding int
	DKEK                []byte
}

func (d domain) ready() bool { return d.Created && d.Outstanding == 0 }

const pinIterations = 1000 // the file holds the keys in clear anyway

func newPIN(value []byte, tries int) (*pin, error) {
	p := &pin{Length: len(value), Salt: make([]byte, 16), Tries: tries, Set: tries}
	_, _ = rand.Read(p.Salt) // never fails
	var err error
	p.Hash, err = pbkdf2.Key(sha256.New, string(value), p.Salt, pinIterations, 32)
	return p, err
}

func (p *pin) is(value []byte) bool {
	hash, err := pbkdf2.Key(sha256.New, string(value), p.Salt, pinIterations, 32)
	return err == nil && subtle.ConstantTimeCompare(hash, p.Hash) == 1
}

func newState(o Options) (*state, error) {
	if o.Firmware == "" {
		o.Firmware = "3.6"
	}
	s := &state{Version: formatVersion, Serial: o.Serial, APDULimit: o.APDULimit, ReaderCut: o.ReaderCut, Memory: o.Memory}
	var err error
	if s.Major, s.Minor, err = parseFirmware(o.Firmware); err != nil {
		return nil, err
	}
	if s.Serial == "" {
		if s.Serial, err = randomSerial(); err != nil {
			return nil, err
		}
	}
	if !validSerial.MatchString(s.Serial) {
		return nil, serialError(s.Serial)
	}
	if s.APDULimit == 0 {
		s.APDULimit = defaultLimit(s.Major)
	}
	if s.APDULimit < 261 || s.APDULimit > 65544 {
		return nil, fmt.Errorf("%w: an APDU limit of %d bytes (261 to 65544)", ErrOption, s.APDULimit)
	}
	if s.ReaderCut != 0 && s.ReaderCut < 261 {
		return nil, fmt.Errorf("%w: a reader that cuts at %d bytes (261 at least)", ErrOption, s.ReaderCut)
	}
	if s.Memory == 0 {
		s.Memory = 76 * 1024
	}
	if s.Memory < 1024 {
		return nil, fmt.Errorf("%w: a memory of %d bytes (1024 at least)", ErrOption, s.Memory)
	}
	if s.RootKey, _, _, err = deviceCurve.GenerateKey(rand.Reader); err != nil {
		return nil, err
	}
	s.forget()
	return s, s.certify()
}

// forget is what INITIALIZE and a firmware update do to the contents.
func (s *state) forget() {
	s.Initialised, s.Options, s.PIN, s.Transport = false, 0, nil, false
	s.Classic, s.Domains = false, nil
	s.Keys, s.Files = map[byte]*key{}, map[uint16][]byte{}
}

func (s *state) holdsObjects() bool {
	for fid := range s.Files {
		if fid != fidTokenInfo && fid != fidScratch {
			return true
		}
	}
	return len(s.Keys) > 0
}

// wipe clears the secrets.
func (s *state) wipe() {
	clear(s.DeviceKey)
	clear(s.RootKey)
	for _, d := range s.Domains {
		clear(d.DKEK)
	}
	for _, k := range s.Keys {
		clear(k.Private)
	}
}

// Names of the certificate chain. The root's begins like no vendor's.
const rootCHR = "SOFTROOT00001"

// issuerCHR carries the serial's number as the vendor's does (DENK02… is issued
// by DEDINK02…).
func (s *state) issuerCHR() string { return "SOFTCA" + s.Serial[4:6] + "00001" }

func (s *state) deviceCHR() string { return s.Serial + "00000" }

// certify makes a device key and EF 2F02: device certificate and issuer's.
func (s *state) certify() error {
	issuer, ix, iy, err := deviceCurve.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	defer clear(issuer)
	d, x, y, err := deviceCurve.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	from := time.Now().UTC()
	ca, err := cvc.Build(cvc.Template{CAR: rootCHR, CHR: s.issuerCHR(), Key: &pubkey.Key{Curve: deviceCurve, X: ix, Y: iy},
		Inherited: true, Role: cvc.RoleIssuer, From: from, To: from.AddDate(10, 0, 0)}, plainSigner(deviceCurve, s.RootKey))
	if err != nil {
		return err
	}
	device, err := cvc.Build(cvc.Template{CAR: s.issuerCHR(), CHR: s.deviceCHR(), Key: &pubkey.Key{Curve: deviceCurve, X: x, Y: y},
		Inherited: true, Role: cvc.RoleDevice, From: from, To: from.AddDate(5, 0, 0)}, plainSigner(deviceCurve, issuer))
	if err != nil {
		return err
	}
	s.DeviceKey, s.DeviceCertificates = d, append(device, ca...)
	return nil
}

// document is the file.
type document struct {
	Comment string
	SHA256  string
	State   json.RawMessage
}

const comment = "hsmbackup software token: private keys in clear, for tests and demonstrations only"

func (t *Token) acquire() error {
	t.lock = flock.New(t.path + ".lock")
	ok, err := t.lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock of software token %s: %w", t.path, err)
	}
	if !ok {
		return fmt.Errorf("%w: %s", ErrInUse, t.path)
	}
	return nil
}

func (t *Token) release() {
	if t.lock != nil {
		// Removed while it is still held: who waits for it takes a new file.
		_ = os.Remove(t.lock.Path())
		_ = t.lock.Unlock()
		t.lock = nil
	}
}

func (t *Token) load() error {
	raw, err := os.ReadFile(t.path)
	if err != nil {
		return err
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("%w: %s", ErrNotToken, t.path)
	}
	var version struct{ Version int }
	if json.Unmarshal(doc.State, &version) == nil && version.Version > formatVersion {
		return fmt.Errorf("%w: %s is of version %d, this program knows %d", ErrNewer, t.path, version.Version, formatVersion)
	}
	sum := sha256.Sum256(doc.State)
	if doc.SHA256 != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%w: the checksum of %s is wrong, it was changed or cut", ErrNotToken, t.path)
	}
	t.saved = doc.State
	return t.revert()
}

// revert goes back to the state as it was saved last.
func (t *Token) revert() error {
	s := &state{}
	if err := json.Unmarshal(t.saved, s); err != nil || len(s.Serial) != 11 {
		return fmt.Errorf("%w: %s", ErrNotToken, t.path)
	}
	if s.Keys == nil {
		s.Keys = map[byte]*key{}
	}
	if s.Files == nil {
		s.Files = map[uint16][]byte{}
	}
	t.state = s
	return nil
}

// create writes the first state to a file that must not exist.
func (t *Token) create() error {
	if _, err := os.Lstat(t.path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return fmt.Errorf("software token %s: %w", t.path, err)
	}
	return t.save()
}

// save makes the state durable before an answer leaves: a temporary file,
// synced, renamed, the folder synced. When that fails the token goes back to
// what is on the disk.
func (t *Token) save() error {
	if t.path == "" {
		return nil
	}
	err := t.write()
	if err != nil && t.saved != nil {
		if back := t.revert(); back != nil {
			err = errors.Join(err, back)
		}
	}
	return err
}

func (t *Token) write() error {
	body, err := json.Marshal(t.state)
	if err != nil {
		return err
	}
	if bytes.Equal(body, t.saved) {
		return nil
	}
	sum := sha256.Sum256(body)
	raw, err := json.Marshal(document{comment, hex.EncodeToString(sum[:]), body})
	if err != nil {
		return err
	}
	defer clear(raw)
	dir := filepath.Dir(t.path)
	f, err := os.CreateTemp(dir, ".softtoken-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), t.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // not every system can sync a folder
		_ = d.Close()
	}
	clear(t.saved)
	t.saved = body
	return nil
}
