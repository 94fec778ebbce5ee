// Package softtoken is a SmartCard-HSM in software, as strict as a real one:
// it speaks APDUs, keeps retry counters, refuses what a token refuses, and
// signs its certificates with a root of its own that says SOFTWARE. It is for
// demonstrations, drills and tests.
//
// It is no place for keys that matter: a token file holds private keys and the
// DKEK in clear, protected by nothing but its mode (0600). What is known of
// real tokens is in the fact sheet; where that is silent the choice made here
// is listed in docs/hardware.md.
//
// A token file is one line of JSON: Comment, SHA256 (hex, of the state as it
// stands in the file) and State, whose first field is the version of the
// format. It is replaced as a whole, by a new file that is synced first, with
// each change and before the answer to the command leaves: what a host was told
// has happened survives any crash, and a PIN try is stored as spent before the
// PIN is looked at. A lock file beside it, NAME.lock, keeps other processes off
// while the token is open.
package softtoken

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"github.com/gofrs/flock"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/channel"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pubkey"
)

// Errors to match on.
var (
	// ErrInUse: another process has the token file open.
	ErrInUse = errors.New("the software token is in use by another process")
	// ErrNotToken: the file is no token file, or damaged.
	ErrNotToken = errors.New("not a software token file")
	// ErrNewer: the file is of a later version of this program.
	ErrNewer = errors.New("software token file of a newer format")
	// ErrHoldsObjects: a firmware update is refused while anything is on the
	// token.
	ErrHoldsObjects = errors.New("the token holds keys, descriptions, certificates or data")
	// ErrOption: an option that no token could have.
	ErrOption = errors.New("not possible for a software token")
)

// Options are what a new token is like.
type Options struct {
	// Firmware is major.minor, such as 3.5; empty takes 3.6.
	Firmware string
	// Serial has 11 characters, such as SOFT0200001; empty takes a random one.
	Serial string
	// APDULimit is the longest command in bytes; 0 goes by the firmware: 1232
	// for 3.x, 1454 for others.
	APDULimit int
	// ReaderCut puts the token into a reader that cuts longer commands at that
	// many bytes and says nothing; 0 is an honest reader.
	ReaderCut int
	// Memory is in bytes; 0 takes 76 KB.
	Memory int
	// MaxFile is the longest file in bytes that a host may write; 0 is no limit
	// but that of the format.
	MaxFile int
	// CRTExport wraps RSA keys as type 06, as firmware before 3.0 does anyway
	// (fact sheet §6.5).
	CRTExport bool
	// NoChipAuth: the token knows no chip authentication.
	NoChipAuth bool
	// NoSecured: it takes no command under the session keys of one.
	NoSecured bool
}

// Token is one software token. Its methods may be called by several
// goroutines.
type Token struct {
	mu    sync.Mutex
	state *state
	saved []byte // the state as it is on the disk
	path  string // empty: in memory
	lock  *flock.Flock

	// What a reset forgets.
	selected, loggedIn bool
	current            uint16           // EF selected last
	chipAuth           bool             // MANAGE SECURITY ENVIRONMENT was given
	channel            *channel.Session // of the last chip authentication

	fault Fault
	count int

	// testOnlySaved is called after each change of the file.
	testOnlySaved func()
}

// New makes a token in memory.
func New(o Options) (*Token, error) {
	s, err := newState(o)
	if err != nil {
		return nil, err
	}
	return &Token{state: s}, nil
}

// Create makes a token in a new file of mode 0600; a file that exists is left
// alone (fs.ErrExist).
func Create(path string, o Options) (*Token, error) {
	s, err := newState(o)
	if err != nil {
		return nil, err
	}
	t := &Token{state: s, path: path}
	if err := t.acquire(); err != nil {
		return nil, err
	}
	if err := t.create(); err != nil {
		t.release()
		return nil, err
	}
	return t, nil
}

// Open opens a token file. Errors wrap ErrInUse, ErrNotToken, ErrNewer or those
// of the file system.
func Open(path string) (*Token, error) {
	// The file itself, not a link to it, is what is locked and replaced.
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("software token: %w", err)
	}
	t := &Token{path: path}
	if err := t.acquire(); err != nil {
		return nil, err
	}
	if err := t.load(); err != nil {
		t.release()
		return nil, err
	}
	return t, nil
}

// Clone gives an equal token in memory, in the same session and without a
// fault: a test prepares one and pulls a copy of it at each command.
func (t *Token) Clone() *Token {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Token{selected: t.selected, loggedIn: t.loggedIn, current: t.current, chipAuth: t.chipAuth}
	if t.channel != nil {
		session := *t.channel
		c.channel = &session
	}
	if t.state != nil {
		c.state = t.state.clone()
	}
	return c
}

// Close lets go of the file and wipes what is in memory. The token is gone
// then: Transmit gives apdu.ErrGone, Serial and Firmware are empty. It may be
// called again.
func (t *Token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset()
	t.release()
	if t.state != nil {
		t.state.wipe()
		t.state = nil
	}
	clear(t.saved)
	t.saved = nil
	return nil
}

// Serial is the token's serial number.
func (t *Token) Serial() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return ""
	}
	return t.state.Serial
}

// Firmware is the version of the applet, major.minor.
func (t *Token) Firmware() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return ""
	}
	return fmt.Sprintf("%d.%d", t.state.Major, t.state.Minor)
}

// Roots gives the root that this token's certificates lead to.
func (t *Token) Roots() []cvc.Root {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return nil
	}
	x, y := deviceCurve.ScalarBaseMult(t.state.RootKey)
	return []cvc.Root{{CHR: rootCHR, Kind: cvc.RootSoftware, Key: &pubkey.Key{Curve: deviceCurve, X: x, Y: y}}}
}

// ATR is that of the JCOP 3/4 USB tokens, whatever the firmware (fact sheet
// §1.1): it never changes, and never waits for a command.
func (t *Token) ATR() []byte {
	return []byte{0x3B, 0xDE, 0x96, 0xFF, 0x81, 0x91, 0xFE, 0x1F, 0xC3, 0x80, 0x31, 0x81, 0x54, 0x48, 0x53, 0x4D, 0x31, 0x73, 0x80, 0x21, 0x40, 0x81, 0x07, 0x92}
}

// Reset is a power cycle: selection and login are gone.
func (t *Token) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset()
}

func (t *Token) reset() {
	t.selected, t.loggedIn, t.chipAuth, t.channel, t.current = false, false, false, nil, 0
}

// Begin and End do nothing: nobody else talks to a token in process.
func (t *Token) Begin(context.Context) error { return nil }

// End does nothing.
func (t *Token) End() error { return nil }

// MaxCommand does not tell, as most readers do not.
func (t *Token) MaxCommand() int { return 0 }

// Update is a firmware update: it is refused with ErrHoldsObjects while
// anything but the label is on the token, and leaves it uninitialised, with a
// new serial number, a new device key and certificates of a new issuer, and no
// memory of PIN and SO-PIN. An empty serial takes one of the next issuer. Other
// errors wrap ErrOption, apdu.ErrGone after Close, or are those of the file
// system; then nothing has changed.
func (t *Token) Update(firmware, serial string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return errClosed
	}
	if t.state.holdsObjects() {
		return ErrHoldsObjects
	}
	major, minor, err := parseFirmware(firmware)
	if err != nil {
		return err
	}
	if serial == "" {
		if serial, err = nextSerial(t.state.Serial); err != nil {
			return err
		}
	}
	if !validSerial.MatchString(serial) {
		return serialError(serial)
	}
	if serial == t.state.Serial {
		return fmt.Errorf("%w: an update gives a new serial number, %s is the old one", ErrOption, serial)
	}
	next := *t.state
	next.Major, next.Minor, next.Serial = major, minor, serial
	if t.state.APDULimit == defaultLimit(t.state.Major) {
		next.APDULimit = defaultLimit(major)
	}
	next.forget()
	next.SO = nil
	next.Issuer++
	if err := next.certify(); err != nil {
		return err
	}
	t.reset()
	old := t.state
	t.state = &next
	if err := t.save(); err != nil {
		return err
	}
	clear(old.DeviceKey)
	old.wipeContents()
	return nil
}

var errClosed = fmt.Errorf("%w: the software token is closed", apdu.ErrGone)

var (
	validSerial   = regexp.MustCompile(`^[A-Z0-9]{11}$`)
	validFirmware = regexp.MustCompile(`^([0-9])\.([0-9]{1,2})$`)
)

func serialError(serial string) error {
	return fmt.Errorf("%w: a serial number has 11 capital letters and digits, such as SOFT0200001, not %q", ErrOption, serial)
}

func parseFirmware(s string) (major, minor int, err error) {
	m := validFirmware.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, fmt.Errorf("%w: a firmware version is like 3.5, not %q", ErrOption, s)
	}
	major, _ = strconv.Atoi(m[1])
	minor, _ = strconv.Atoi(m[2])
	if major < 2 || major > 4 {
		return 0, 0, fmt.Errorf("%w: firmware 2 to 4 is imitated, not %s", ErrOption, s)
	}
	return major, minor, nil
}

// firstIssuer is the number in a serial that carries the issuer's, as the
// vendor's do: DENK02… comes from DEDINK02… (fact sheet §9, 7).
const firstIssuer = 2

func randomSerial(issuer int) (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(100000))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("SOFT%02d%05d", issuer, n), nil
}

// nextSerial gives a serial number of the issuer after the old one's.
func nextSerial(old string) (string, error) {
	issuer, err := strconv.Atoi(old[4:6])
	if err != nil { // letters: somebody's own choice
		issuer = firstIssuer - 1
	}
	return randomSerial((issuer + 1) % 100)
}

func defaultLimit(major int) int {
	if major == 3 {
		return 1232
	}
	return 1454
}

// Stage says when a fault is asked for.
type Stage int

// A fault is asked before a command is carried out and once more before its
// answer leaves.
const (
	Before Stage = iota
	After
)

// Fault is put between token and reader in tests and drills. n counts the
// commands from 1. An error is what Transmit gives; a status word other than 0
// is answered in place of the token's; of Before, both leave the command
// undone. An error is also a reset: selection and login are gone. A Fault must
// not call the token's methods.
type Fault func(stage Stage, n int, c apdu.Command) (apdu.SW, error)

// SetFault installs a fault, nil none, and begins to count anew.
func (t *Token) SetFault(f Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fault, t.count = f, 0
}

var deviceCurve = curve.ByName("brainpoolP256r1")
