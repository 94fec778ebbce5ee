package softtoken

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pubkey"
)

// state is all that survives a power cycle.
type state struct {
	Version      int
	Serial       string
	Major, Minor int
	APDULimit    int
	ReaderCut    int `json:",omitempty"`
	Memory       int
	MaxFile      int  `json:",omitempty"`
	CRTExport    bool `json:",omitempty"`
	NoChipAuth   bool `json:",omitempty"`
	NoSecured    bool `json:",omitempty"`
	// Issuer counts the issuers that this token has had: one more with each
	// firmware update.
	Issuer int

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

// domain is a key domain slot.
type domain struct {
	Created             bool
	Shares, Outstanding int
	DKEK                []byte
}

func (d domain) ready() bool { return d.Created && d.Outstanding == 0 }

func newState(o Options) (*state, error) {
	if o.Firmware == "" {
		o.Firmware = "3.6"
	}
	s := &state{Version: formatVersion, Serial: o.Serial, APDULimit: o.APDULimit, ReaderCut: o.ReaderCut, Memory: o.Memory,
		MaxFile: o.MaxFile, CRTExport: o.CRTExport, NoChipAuth: o.NoChipAuth, NoSecured: o.NoSecured, Issuer: 1}
	var err error
	if s.Major, s.Minor, err = parseFirmware(o.Firmware); err != nil {
		return nil, err
	}
	if s.Serial == "" {
		if s.Serial, err = randomSerial(firstIssuer); err != nil {
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
	if s.ReaderCut < 0 || s.ReaderCut > 0 && s.ReaderCut < 261 {
		return nil, fmt.Errorf("%w: a reader that cuts at %d bytes (261 at least)", ErrOption, s.ReaderCut)
	}
	if s.Memory == 0 {
		s.Memory = 76 * 1024
	}
	if s.Memory < 1024 || s.Memory > maxMemory {
		return nil, fmt.Errorf("%w: a memory of %d bytes (1024 to %d)", ErrOption, s.Memory, maxMemory)
	}
	if s.MaxFile < 0 || s.MaxFile > 0 && s.MaxFile < 64 || s.MaxFile > maxFile {
		return nil, fmt.Errorf("%w: files of %d bytes (64 to %d)", ErrOption, s.MaxFile, maxFile)
	}
	if s.RootKey, _, _, err = deviceCurve.GenerateKey(rand.Reader); err != nil {
		return nil, err
	}
	s.forget()
	if err := s.certify(); err != nil {
		return nil, err
	}
	return s, nil
}

// maxMemory is beyond any token's.
const maxMemory = 1 << 24

// forget is what INITIALIZE and a firmware update do to the contents. It leaves
// what it drops as it is: an earlier state may still hold it.
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

// clone copies everything.
func (s *state) clone() *state {
	c := *s
	c.RootKey, c.DeviceKey, c.DeviceCertificates = bytes.Clone(s.RootKey), bytes.Clone(s.DeviceKey), bytes.Clone(s.DeviceCertificates)
	c.PIN, c.SO = s.PIN.clone(), s.SO.clone()
	c.Domains = slices.Clone(s.Domains)
	for i := range c.Domains {
		c.Domains[i].DKEK = bytes.Clone(c.Domains[i].DKEK)
	}
	c.Keys, c.Files = map[byte]*key{}, map[uint16][]byte{}
	for n, k := range s.Keys {
		c.Keys[n] = k.clone()
	}
	for fid, b := range s.Files {
		c.Files[fid] = bytes.Clone(b)
	}
	return &c
}

// wipe clears the secrets.
func (s *state) wipe() {
	clear(s.DeviceKey)
	clear(s.RootKey)
	s.wipeContents()
}

func (s *state) wipeContents() {
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
// by DEDINK02…), and counts on, so that no two issuers share a name.
func (s *state) issuerCHR() string {
	return fmt.Sprintf("SOFTCA%s%05d", s.Serial[4:6], s.Issuer%100000)
}

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

// check looks at what a file says: the commands rely on it. A file that was
// written by this package is always fine.
func (s *state) check() error {
	_, _, err := parseFirmware(fmt.Sprintf("%d.%d", s.Major, s.Minor))
	switch {
	case err != nil, !validSerial.MatchString(s.Serial):
		return errors.New("firmware or serial number")
	case s.APDULimit < 261 || s.ReaderCut < 0 || s.Memory < 0 || s.Memory > maxMemory || s.MaxFile < 0 || s.Issuer < 1:
		return errors.New("limits")
	case len(s.RootKey) != deviceCurve.FieldBytes() || len(s.DeviceKey) != deviceCurve.FieldBytes() || !deviceCurve.ValidScalar(s.RootKey) || !deviceCurve.ValidScalar(s.DeviceKey):
		return errors.New("root or device key")
	case len(s.DeviceCertificates) == 0:
		return errors.New("device certificates")
	case s.Initialised && (s.PIN == nil || s.SO == nil):
		return errors.New("PINs")
	case s.Keys == nil || s.Files == nil:
		return errors.New("keys or files")
	}
	for _, p := range []*pin{s.PIN, s.SO} {
		if p != nil && !p.valid() {
			return errors.New("retry counter")
		}
	}
	for _, d := range s.Domains {
		if d.Created && (len(d.DKEK) != dkek.Size || d.Outstanding < 0 || d.Outstanding > d.Shares) {
			return errors.New("key domain")
		}
	}
	for n, k := range s.Keys {
		if n == 0 || k == nil || k.Domain < 0 || k.Domain > 0 && k.Domain >= len(s.Domains) {
			return errors.New("key")
		}
		if err := k.check(); err != nil {
			return err
		}
	}
	return nil
}
