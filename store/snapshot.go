package store

import "time"

// KCV is a key check value: the first 8 bytes of SHA-256(DKEK) as 16
// upper-case hex digits (fact sheet §6.1).
type KCV = string

// Snapshot is everything one token held at one time. Once recorded it never
// changes. Bodies ([]byte fields) that are nil were absent on the token; an
// empty one was there and empty.
//
// Strings are kept as valid UTF-8: other bytes become U+FFFD. The exact bytes
// of a label are in the key's Description.
type Snapshot struct {
	// ID is the first 12 hex digits of Hash. Set by AddSnapshot; not stored.
	ID string
	// Hash is the SHA-256 of the manifest. Set by AddSnapshot; not stored
	// within it.
	Hash Hash
	// Previous is the Hash of the snapshot before it in this catalog, of
	// whichever token; zero for the first. Set by AddSnapshot.
	Previous Hash
	Taken    time.Time // UTC, whole seconds; now if zero
	Program  string    // name and version that took it; this program if empty
	Adopted  bool      // made from loose files, of no token (docs/format.md)
	Token    Token
	Keys     []Key
	Files    []File
	Missing  []Gap
	// Attachments belong to the keys and were never on the token.
	Attachments []Attachment
	// Rekeyed is set where the snapshot was made from another one of the
	// catalog; Taken is still when the token was read.
	Rekeyed *Rekeyed
	// Unlogged: no log entry names it, and none that could have is lost. It is
	// shown, and never the newest. Not stored.
	Unlogged bool
}

// Rekeyed says that the blobs of a snapshot were sealed anew on a computer: the
// token had them under another recovery key.
type Rekeyed struct {
	Time   time.Time `json:"time"`    // when; UTC, whole seconds
	From   Hash      `json:"from"`    // the snapshot it was made from
	OldKCV KCV       `json:"old_kcv"` // what was under this recovery key …
	KCV    KCV       `json:"kcv"`     // … is under this one
}

// Token describes the device a snapshot was taken of.
type Token struct {
	Serial      string // from the device certificate; empty if adopted
	Label       string
	Firmware    string // "3.5"
	Software    bool   // a software token
	Options     string // configuration options, 4 hex digits
	PINTries    int    // retry counter set-up of the PIN
	SOPINTries  int    // of the SO-PIN
	SuccessorOf string // serial before a firmware update changed it
	Issuer      string // of the device certificate
	ValidFrom   string // as the device certificate has it
	ValidTo     string
	Certificate []byte // EF 2F02: device certificate and its chain
	TokenInfo   []byte // EF 2F03
	Domains     []Domain
	FreeMemory  int // bytes, as the token reports it
}

// Domain is a key domain, each with a DKEK of its own. A token without key
// domains has only number 0.
type Domain struct {
	Number      int
	Shares      int // DKEK shares it was set up for
	Outstanding int // of these not yet loaded
	KCV         KCV // empty: not known
	UID         []byte
}

// Key is one key of a token.
type Key struct {
	Reference   int    // 1..255; 0 in an adopted snapshot: not known
	ID          []byte // CKA_ID
	Label       string // CKA_LABEL
	Type        string // "RSA-4096", "P-256", "AES-128", …
	Usage       uint32 // PKCS#15 key usage flags, bit 0 = encrypt
	Algorithms  []byte // list of algorithms the key may be used with
	Counter     *uint32
	Domain      int
	KCV         KCV
	PublicKey   []byte // SubjectPublicKeyInfo, DER
	PublicFrom  string // where it is known from: request, certificate, blob
	CheckValue  []byte // answer to a fixed challenge, to recognise the key by (docs/format.md)
	Reason      string // why there is no blob; empty if there is one
	Blob        []byte // what WRAP returned
	Description []byte // content of EF C4xx
	Certificate []byte // content of EF CExx
	// Damage says what of the bodies did not check out when it was read; those
	// are nil. Not stored.
	Damage string
}

// File is any other elementary file.
type File struct {
	FID     string // 4 hex digits
	Content []byte
	Sealed  bool   // Content is encrypted to the DKEK's age recipient
	Damage  string // as of a Key
}

// Gap names something that a snapshot could not keep.
type Gap struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
}

// Bounds of attachments.
const (
	MaxAttachment  = 1 << 20 // bytes of one
	MaxAttachments = 32      // of a snapshot
)

// Attachment is a file of somebody's that is kept with a snapshot, such as a
// revocation list of a CA. It is in clear: no place for a secret.
type Attachment struct {
	Name    string    // as IsAttachmentName says; each once, whatever the case
	Added   time.Time // UTC, whole seconds
	Content []byte
	Damage  string // as of a Key
}
