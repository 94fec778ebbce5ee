package backup

import (
	"encoding/hex"
	"time"

	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// exportFormat is the version of manifest.json that is written.
const exportFormat = 1

// Forms in which a file holds a body.
const (
	formRaw       = "raw"       // the file is the body
	formPEM       = "pem"       // its one PEM block is
	formContainer = "container" // a part of the wrapped key is (fact sheet §6.6)
)

// exportManifest is manifest.json: everything of the snapshot but the bodies,
// and where those are. docs/format.md, "Export folder".
type exportManifest struct {
	Format   int                `json:"format"`
	Program  string             `json:"program"`
	Snapshot exportSnapshot     `json:"snapshot"`
	Token    exportToken        `json:"token"`
	Keys     []exportKey        `json:"keys"`
	EFs      []exportEF         `json:"files"`
	Attached []exportAttachment `json:"attachments,omitempty"`
	Missing  []store.Gap        `json:"missing"`
	Left     []store.Gap        `json:"not_restored"`
	Files    []exportSum        `json:"sums"`
}

type exportAttachment struct {
	Name    string      `json:"name"`
	Added   string      `json:"added"`
	Content *exportBody `json:"content"`
}

type exportSnapshot struct {
	ID       string     `json:"id"`
	Hash     store.Hash `json:"hash"`
	Previous store.Hash `json:"previous"`
	Taken    string     `json:"taken"`
	Program  string     `json:"program"`
	Adopted  bool       `json:"adopted"`

	Rekeyed *store.Rekeyed `json:"rekeyed,omitempty"`
}

type exportToken struct {
	Serial      string         `json:"serial"`
	Label       string         `json:"label"`
	Firmware    string         `json:"firmware"`
	Software    bool           `json:"software"`
	Options     string         `json:"options"`
	PINTries    int            `json:"pin_tries"`
	SOPINTries  int            `json:"so_pin_tries"`
	SuccessorOf string         `json:"successor_of,omitempty"`
	Issuer      string         `json:"issuer"`
	ValidFrom   string         `json:"valid_from"`
	ValidTo     string         `json:"valid_to"`
	FreeMemory  int            `json:"free_memory"`
	Domains     []exportDomain `json:"domains"`
	Certificate *exportBody    `json:"certificate,omitempty"`
	TokenInfo   *exportBody    `json:"token_info,omitempty"`
}

type exportDomain struct {
	Number      int       `json:"number"`
	Shares      int       `json:"shares"`
	Outstanding int       `json:"outstanding"`
	KCV         store.KCV `json:"kcv"`
	UID         string    `json:"uid,omitempty"`
}

type exportKey struct {
	Reference       int          `json:"reference"`
	ID              string       `json:"id"`
	Label           string       `json:"label"`
	Type            string       `json:"type"`
	Usage           uint32       `json:"usage"`
	UsageNames      string       `json:"usage_names"`
	Algorithms      string       `json:"algorithms"`
	Counter         *uint32      `json:"counter,omitempty"`
	Domain          int          `json:"domain"`
	KCV             store.KCV    `json:"kcv"`
	PublicFrom      string       `json:"public_from,omitempty"`
	PEM             string       `json:"public_key_pem,omitempty"`
	SSH             string       `json:"ssh,omitempty"`
	SSHFile         string       `json:"ssh_file,omitempty"`
	CheckValue      string       `json:"check_value,omitempty"`
	Reason          string       `json:"reason,omitempty"`
	PublicKey       *exportBody  `json:"public_key,omitempty"`
	Blob            *exportBody  `json:"blob,omitempty"`
	Description     *exportBody  `json:"description,omitempty"`
	Certificate     *exportBody  `json:"certificate,omitempty"`
	CertificateKind string       `json:"certificate_kind,omitempty"`
	Proof           *exportProof `json:"proof,omitempty"`
}

type exportProof struct {
	Kind    string `json:"kind"`
	OK      bool   `json:"ok"`
	Time    string `json:"time"`
	Token   string `json:"token,omitempty"`
	Matched string `json:"matched,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

type exportEF struct {
	FID             string      `json:"fid"`
	Label           string      `json:"label,omitempty"`
	Sealed          bool        `json:"sealed"`
	Content         *exportBody `json:"content"`
	CertificateFile string      `json:"certificate_file,omitempty"`
}

// exportBody is a body of the snapshot: its own hash and size, and the file
// that holds it in one of the forms.
type exportBody struct {
	SHA256 store.Hash `json:"sha256"`
	Size   int        `json:"size"`
	File   string     `json:"file"`
	Form   string     `json:"form"`
}

// exportSum is a file of the folder.
type exportSum struct {
	Name   string     `json:"name"`
	Size   int        `json:"size"`
	SHA256 store.Hash `json:"sha256"`
}

// describe begins the manifest with what is known of snapshot and token, and
// adds the token's own files.
func (b *bundle) describe(s *store.Snapshot, o ExportOptions) {
	t := &s.Token
	m := &b.manifest
	m.Format, m.Program = exportFormat, o.Program
	m.Snapshot = exportSnapshot{ID: s.ID, Hash: s.Hash, Previous: s.Previous, Taken: s.Taken.UTC().Format(time.RFC3339), Program: s.Program, Adopted: s.Adopted, Rekeyed: s.Rekeyed}
	m.Token = exportToken{
		Serial: t.Serial, Label: t.Label, Firmware: t.Firmware, Software: t.Software, Options: t.Options,
		PINTries: t.PINTries, SOPINTries: t.SOPINTries, SuccessorOf: t.SuccessorOf,
		Issuer: t.Issuer, ValidFrom: t.ValidFrom, ValidTo: t.ValidTo, FreeMemory: t.FreeMemory,
		Domains: []exportDomain{},
	}
	for _, d := range t.Domains {
		m.Token.Domains = append(m.Token.Domains, exportDomain{Number: d.Number, Shares: d.Shares, Outstanding: d.Outstanding, KCV: d.KCV, UID: hex.EncodeToString(d.UID)})
	}
	if t.Certificate != nil {
		m.Token.Certificate = b.body(tokenFile(schsm.FIDDeviceCertificate), t.Certificate)
	}
	if t.TokenInfo != nil {
		m.Token.TokenInfo = b.body(tokenFile(schsm.FIDTokenInfo), t.TokenInfo)
	}
	m.Keys, m.EFs, m.Missing = []exportKey{}, []exportEF{}, append([]store.Gap{}, s.Missing...)
}
