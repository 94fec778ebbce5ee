package apdu

import (
	"errors"
	"fmt"
)

// SW is a status word. The meanings are those of the SmartCard-HSM's applet
// (fact sheet §2.1).
type SW uint16

// Status words that the applet is known to send.
const (
	OK              SW = 0x9000
	EndOfFile       SW = 0x6282 // data is present and valid
	AuthFailed      SW = 0x6300
	WrongPIN        SW = 0x63C0 // low nibble: tries left
	ExecutionError  SW = 0x6400
	MemoryFailure   SW = 0x6581
	WrongLength     SW = 0x6700
	NotSelected     SW = 0x6900
	NotAuthorised   SW = 0x6982
	Blocked         SW = 0x6983
	NotUsable       SW = 0x6984 // transport PIN, never initialised (1.x), counter used up
	Conditions      SW = 0x6985
	NotAllowed      SW = 0x6986
	NotSecured      SW = 0x6988 // secure messaging: it does not authenticate
	WrongData       SW = 0x6A80
	NotSupported    SW = 0x6A81
	FileNotFound    SW = 0x6A82
	NoMemory        SW = 0x6A84
	WrongParameters SW = 0x6A86
	NotFound        SW = 0x6A88
	OffsetPastEnd   SW = 0x6B00
	UnknownINS      SW = 0x6D00
	UnknownCLA      SW = 0x6E00
	Internal        SW = 0x6F00
)

// TriesLeft gives x of 63Cx, the tries that are left after a refused PIN.
func (sw SW) TriesLeft() (n int, ok bool) {
	if sw&0xFFF0 == WrongPIN {
		return int(sw & 0x0F), true
	}
	return 0, false
}

// HasData tells whether the data beside this status word counts: 9000, and
// 6282, which only says that a read reached the end of the file.
func (sw SW) HasData() bool { return sw == OK || sw == EndOfFile }

// Refusal tells whether a command that was answered so was turned away before it
// did anything: 6400 and the checking errors 67xx to 6Exx (ISO 7816-4, 5.6). What
// is left of the others is known by a look only; 6F00 is what an applet answers
// whatever it stumbled upon.
func (sw SW) Refusal() bool {
	return sw == ExecutionError || sw>>8 >= 0x67 && sw>>8 <= 0x6E
}

// Sentinels for errors.Is on a *StatusError. Several status words share one
// where a caller would treat them alike.
var (
	ErrNotFound      = errors.New("not found on the token")                     // 6A82, 6A88
	ErrWrongPIN      = errors.New("PIN refused")                                // 63Cx
	ErrBlocked       = errors.New("PIN blocked")                                // 6983
	ErrNotAuthorised = errors.New("not logged in")                              // 6982
	ErrConditions    = errors.New("conditions of use not satisfied")            // 6985, 6986
	ErrWrongData     = errors.New("data refused")                               // 6A80
	ErrNoMemory      = errors.New("not enough memory on the token")             // 6A84
	ErrParameters    = errors.New("wrong parameters")                           // 6A86
	ErrWrongLength   = errors.New("wrong length")                               // 6700
	ErrNotSelected   = errors.New("applet not selected or command not known")   // 6900, 6D00, 6E00
	ErrAlgorithm     = errors.New("algorithm not allowed for this key")         // 6A81
	ErrNotUsable     = errors.New("reference data not usable")                  // 6984
	ErrInternal      = errors.New("the token reports an internal error")        // 6F00, 6400, 6581
	ErrOffset        = errors.New("offset past the end of the file")            // 6B00
	ErrAuthFailed    = errors.New("authentication failed, no counter reported") // 6300
)

func (sw SW) sentinel() error {
	switch sw {
	case FileNotFound, NotFound:
		return ErrNotFound
	case Blocked:
		return ErrBlocked
	case NotAuthorised:
		return ErrNotAuthorised
	case Conditions, NotAllowed:
		return ErrConditions
	case WrongData:
		return ErrWrongData
	case NoMemory:
		return ErrNoMemory
	case WrongParameters:
		return ErrParameters
	case WrongLength:
		return ErrWrongLength
	case NotSelected, UnknownINS, UnknownCLA:
		return ErrNotSelected
	case NotSupported:
		return ErrAlgorithm
	case NotUsable:
		return ErrNotUsable
	case Internal, ExecutionError, MemoryFailure:
		return ErrInternal
	case OffsetPastEnd:
		return ErrOffset
	case AuthFailed:
		return ErrAuthFailed
	}
	if _, ok := sw.TriesLeft(); ok {
		return ErrWrongPIN
	}
	return nil
}

// String gives the four digits and, where known, what they mean.
func (sw SW) String() string {
	if sw == OK {
		return "9000"
	}
	if n, ok := sw.TriesLeft(); ok {
		return fmt.Sprintf("%04X, PIN refused, tries left: %d", uint16(sw), n)
	}
	if err := sw.sentinel(); err != nil {
		return fmt.Sprintf("%04X, %v", uint16(sw), err)
	}
	return fmt.Sprintf("%04X", uint16(sw))
}

// StatusError is an answer other than the one a command needs. It names the
// command, never its data: data may be a PIN or a share.
type StatusError struct {
	// Command says what was asked, such as "WRAP of key 3".
	Command string
	SW      SW
	// Doubt: the command changes the token, and neither the answer nor a look
	// shows that it did not.
	Doubt bool
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s: the token answered %s", e.Command, e.SW)
	if e.Doubt {
		text += "; it may have been carried out all the same"
	}
	return text
}

// Is matches the sentinels of this package.
func (e *StatusError) Is(target error) bool {
	s := e.SW.sentinel()
	return s != nil && s == target
}
