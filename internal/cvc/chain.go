package cvc

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	"hsmbackup/internal/curve"
	"hsmbackup/internal/pubkey"
)

// Chain is the content of EF 2F02: the device's certificate and that of the
// issuer it names, which some tokens leave out.
type Chain struct {
	Device *Certificate
	Issuer *Certificate
}

// ParseChain reads EF 2F02. The imitation puts a request in the device
// certificate's place; its inner part then serves as the device's. Errors wrap
// ErrFormat.
func ParseChain(ef []byte) (*Chain, error) {
	var chain Chain
	if r, err := ParseRequest(ef); err == nil {
		chain.Device = r.Inner
		if issuer, err := Parse(ef[len(r.Raw):]); err == nil {
			chain.Issuer = issuer
		}
	} else {
		device, rest, err := parseFirst(ef)
		if err != nil {
			return nil, err
		}
		chain.Device = device
		if issuer, err := Parse(rest); err == nil {
			chain.Issuer = issuer
		}
	}
	if len(chain.Device.CHR) < 8 {
		return nil, fmt.Errorf("%w: device reference %q is too short to hold a serial number", ErrFormat, chain.Device.CHR)
	}
	return &chain, nil
}

// Serial is the token's serial number: the device's CHR less its last five
// characters (DENK040414400000 is DENK0404144). It is empty where that is no name
// that may stand in a path or a command line: ASCII letters and digits, and "-",
// "_", "." behind the first.
func (c *Chain) Serial() string {
	chr := c.Device.CHR
	serial := strings.TrimRight(chr[:len(chr)-5], " ")
	if !plainSerial.MatchString(serial) {
		return ""
	}
	return serial
}

var plainSerial = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// deviceCurve is what device certificates inherit from every known root.
var deviceCurve = curve.ByName("brainpoolP256r1")

// DeviceKey is the public half of the device key.
func (c *Chain) DeviceKey() (*pubkey.Key, error) { return c.Device.PublicKey(deviceCurve) }

// Root is a trust anchor.
type Root struct {
	CHR string
	Key *pubkey.Key
	// Kind says whose root it is: RootProduction and so on.
	Kind string
}

// Kinds of roots.
const (
	RootProduction  = "production"
	RootTest        = "test"
	RootDevelopment = "development"
	RootSoftware    = "software"
)

// vendorRoots are pinned (fact sheet §5.4).
var vendorRoots = []Root{
	pin("DESRCACC100001", RootProduction, "046D025A8026CDBA245F10DF1B72E9880FFF746DAB40A43A3D5C6BEBF27707C30F6DEA72430EE3287B0665C1EAA6EAA4FA26C46303001983F82BD1AA31E03DA062"),
	pin("UTSRCACC100001", RootTest, "04A041FEB2FD116B2AD19CA6B7EACD71C9892F941BB88D67DCEEC92501F070011957E22122BA6C2CF5FF02936F482E35A6129CCBBA8E9383836D3106879C408EF0"),
	pin("DECA00001", RootDevelopment, "044C01EA36C5065FF47E8F0676A77CDCED6C8F745E6784F7807F5520124F81ED054112DCE471CA003442830A10C75B31F9BFADD60628F47131628C7254AD8B956A"),
}

func pin(chr, kind, point string) Root {
	b, err := hex.DecodeString(point)
	if err != nil {
		panic("cvc: pinned root " + chr + " does not decode")
	}
	x, y, err := deviceCurve.Unmarshal(b)
	if err != nil {
		panic("cvc: pinned root " + chr + " is no point")
	}
	return Root{CHR: chr, Kind: kind, Key: &pubkey.Key{Curve: deviceCurve, X: x, Y: y}}
}

// VendorRoots gives the pinned roots of CardContact.
func VendorRoots() []Root { return append([]Root(nil), vendorRoots...) }

// Verify follows the chain up to one of the roots: names and signatures must
// fit at each step, and roles (C0, 80, 00). Validity periods are left to the
// caller: issuer certificates expire while the tokens stay what they are (fact
// sheet §9, 37). Errors wrap ErrUntrusted.
func (c *Chain) Verify(roots []Root) (Root, error) {
	if c.Issuer == nil {
		return Root{}, fmt.Errorf("%w: the token shows no issuer certificate", ErrUntrusted)
	}
	if c.Device.CAR != c.Issuer.CHR {
		return Root{}, fmt.Errorf("%w: device certificate names issuer %s, the certificate beside it is of %s", ErrUntrusted, c.Device.CAR, c.Issuer.CHR)
	}
	if c.Issuer.Role != RoleIssuer || c.Device.Role != RoleDevice {
		return Root{}, fmt.Errorf("%w: roles %02X and %02X are not those of issuer and device", ErrUntrusted, c.Issuer.Role, c.Device.Role)
	}
	for _, root := range roots {
		if root.CHR != c.Issuer.CAR {
			continue
		}
		if err := c.Issuer.Verify(root.Key); err != nil {
			return Root{}, err
		}
		issuer, err := c.Issuer.PublicKey(root.Key.Curve)
		if err != nil {
			return Root{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
		}
		if err := c.Device.Verify(issuer); err != nil {
			return Root{}, err
		}
		return root, nil
	}
	return Root{}, fmt.Errorf("%w: root %s is none that is known", ErrUntrusted, c.Issuer.CAR)
}

// Maker says whose device a token seems to be, by the names in its certificates
// (fact sheet §5.1, §5.4); empty if they tell nothing. Anyone can write names:
// it is a help for people, and no proof.
func (c *Chain) Maker() string {
	issuer, root := c.Device.CAR, ""
	if c.Issuer != nil {
		issuer, root = c.Issuer.CHR, c.Issuer.CAR
	}
	for _, m := range []struct{ name, prefix, maker string }{
		{root, "SOFTROOT", MakerSoftware},
		{root, "UTSRCACC", "a test device of CardContact"},
		{root, "DECA0", "a development card of CardContact"},
		{c.Device.CHR, "ESPICOHSM", picoHSM},
		{issuer, "ESPICOHSM", picoHSM},
		{root, "ESPICOHSM", picoHSM},
		{issuer, "DEDINK", "a Nitrokey HSM (CardContact)"},
		{root, "DESRCACC", "a SmartCard-HSM of CardContact"},
	} {
		if strings.HasPrefix(m.name, m.prefix) {
			return m.maker
		}
	}
	return ""
}

// MakerSoftware is what Maker says of our own software tokens.
const MakerSoftware = "a software token of hsmbackup"

// picoHSM is open firmware for a board that anyone can buy: its root vouches
// for nothing.
const picoHSM = "a pico-hsm (open firmware that imitates the card)"

// Expired gives the certificates of the chain whose time is over: the last day
// counts. It is no reason to refuse a token: issuer certificates expire while
// the tokens stay what they are (fact sheet §9, 37).
func (c *Chain) Expired(now time.Time) []*Certificate {
	var list []*Certificate
	for _, cert := range []*Certificate{c.Device, c.Issuer} {
		if cert != nil && !cert.To.IsZero() && !now.Before(cert.To.AddDate(0, 0, 1)) {
			list = append(list, cert)
		}
	}
	return list
}

// Roles of certificate holders.
const (
	RoleRoot   = 0xC0
	RoleIssuer = 0x80
	RoleDevice = 0x00
)
