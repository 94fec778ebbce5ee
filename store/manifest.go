package store

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The manifest is the JSON form of a snapshot: short values in place, bodies
// by hash and size. docs/format.md, "Snapshots".
type manifest struct {
	Previous Hash          `json:"previous"`
	Taken    time.Time     `json:"taken"`
	Program  string        `json:"program"`
	Adopted  bool          `json:"adopted"`
	Token    manifestToken `json:"token"`
	Keys     []manifestKey `json:"keys"`
	Files    []manifestEF  `json:"files"`
	Missing  []Gap         `json:"missing"`
	Rekeyed  *Rekeyed      `json:"rekeyed,omitempty"`

	Attachments []manifestAttachment `json:"attachments,omitempty"`
}

type manifestToken struct {
	Serial      string           `json:"serial"`
	Label       string           `json:"label"`
	Firmware    string           `json:"firmware"`
	Software    bool             `json:"software"`
	Options     string           `json:"options"`
	PINTries    int              `json:"pin_tries"`
	SOPINTries  int              `json:"so_pin_tries"`
	SuccessorOf string           `json:"successor_of,omitempty"`
	Issuer      string           `json:"issuer"`
	ValidFrom   string           `json:"valid_from"`
	ValidTo     string           `json:"valid_to"`
	Certificate *reference       `json:"certificate,omitempty"`
	TokenInfo   *reference       `json:"token_info,omitempty"`
	Domains     []manifestDomain `json:"domains"`
	FreeMemory  int              `json:"free_memory"`
}

type manifestDomain struct {
	Number      int      `json:"number"`
	Shares      int      `json:"shares"`
	Outstanding int      `json:"outstanding"`
	KCV         KCV      `json:"kcv"`
	UID         hexBytes `json:"uid,omitzero"`
}

type manifestKey struct {
	Reference   int        `json:"reference"`
	ID          hexBytes   `json:"id,omitzero"`
	Label       string     `json:"label"`
	Type        string     `json:"type"`
	Usage       uint32     `json:"usage"`
	Algorithms  hexBytes   `json:"algorithms,omitzero"`
	Counter     *uint32    `json:"counter,omitempty"`
	Domain      int        `json:"domain"`
	KCV         KCV        `json:"kcv"`
	PublicKey   *reference `json:"public_key,omitempty"`
	PublicFrom  string     `json:"public_from,omitempty"`
	CheckValue  hexBytes   `json:"check_value,omitzero"`
	Reason      string     `json:"reason,omitempty"`
	Blob        *reference `json:"blob,omitempty"`
	Description *reference `json:"description,omitempty"`
	Certificate *reference `json:"certificate,omitempty"`
}

type manifestEF struct {
	FID     string     `json:"fid"`
	Content *reference `json:"content"`
	Sealed  bool       `json:"sealed"`
}

type manifestAttachment struct {
	Name    string     `json:"name"`
	Added   time.Time  `json:"added"`
	Content *reference `json:"content"`
}

// reference points to a record.
type reference struct {
	SHA256 Hash `json:"sha256"`
	Size   int  `json:"size"`
}

// slot is one body: where it stands in the snapshot and in the manifest.
type slot struct {
	where  string
	body   *[]byte
	ref    **reference
	damage *string // of its key or file; nil for the token
}

// slots pairs the bodies of a snapshot with the references of its manifest;
// both have the same numbers of keys, files and attachments.
func slots(s *Snapshot, m *manifest) []slot {
	list := []slot{
		{"device certificate", &s.Token.Certificate, &m.Token.Certificate, nil},
		{"token information", &s.Token.TokenInfo, &m.Token.TokenInfo, nil},
	}
	for i := range s.Keys {
		k, w := &s.Keys[i], &m.Keys[i]
		name := fmt.Sprintf("key %d", k.Reference)
		if k.Reference == 0 {
			name = fmt.Sprintf("key %q", k.Label)
		}
		list = append(list,
			slot{name + ", public key", &k.PublicKey, &w.PublicKey, &k.Damage},
			slot{name + ", blob", &k.Blob, &w.Blob, &k.Damage},
			slot{name + ", description", &k.Description, &w.Description, &k.Damage},
			slot{name + ", certificate", &k.Certificate, &w.Certificate, &k.Damage})
	}
	for i := range s.Files {
		list = append(list, slot{"file " + s.Files[i].FID, &s.Files[i].Content, &m.Files[i].Content, &s.Files[i].Damage})
	}
	for i := range s.Attachments {
		at, w := &s.Attachments[i], &m.Attachments[i]
		list = append(list, slot{"attachment " + at.Name, &at.Content, &w.Content, &at.Damage})
	}
	return list
}

// newManifest gives the manifest of a snapshot and the bodies to be recorded.
func newManifest(s *Snapshot) (*manifest, map[Hash][]byte, error) {
	if err := s.validate(); err != nil {
		return nil, nil, err
	}
	t := &s.Token
	m := &manifest{
		Previous: s.Previous,
		Taken:    s.Taken,
		Program:  s.Program,
		Adopted:  s.Adopted,
		Token: manifestToken{
			Serial: t.Serial, Label: t.Label, Firmware: t.Firmware, Software: t.Software,
			Options: strings.ToLower(t.Options), PINTries: t.PINTries, SOPINTries: t.SOPINTries,
			SuccessorOf: t.SuccessorOf, Issuer: t.Issuer, ValidFrom: t.ValidFrom, ValidTo: t.ValidTo,
			Domains: make([]manifestDomain, len(t.Domains)), FreeMemory: t.FreeMemory,
		},
		Keys:    make([]manifestKey, len(s.Keys)),
		Files:   make([]manifestEF, len(s.Files)),
		Missing: append([]Gap{}, s.Missing...),
	}
	if r := s.Rekeyed; r != nil {
		m.Rekeyed = &Rekeyed{Time: seconds(r.Time), From: r.From, OldKCV: strings.ToUpper(r.OldKCV), KCV: strings.ToUpper(r.KCV)}
	}
	for i, d := range t.Domains {
		m.Token.Domains[i] = manifestDomain{
			Number: d.Number, Shares: d.Shares, Outstanding: d.Outstanding,
			KCV: strings.ToUpper(d.KCV), UID: d.UID,
		}
	}
	for i, k := range s.Keys {
		m.Keys[i] = manifestKey{
			Reference: k.Reference, ID: k.ID, Label: k.Label, Type: k.Type, Usage: k.Usage,
			Algorithms: k.Algorithms, Counter: k.Counter, Domain: k.Domain, KCV: strings.ToUpper(k.KCV),
			PublicFrom: k.PublicFrom, CheckValue: k.CheckValue, Reason: k.Reason,
		}
	}
	for i, f := range s.Files {
		m.Files[i] = manifestEF{FID: strings.ToLower(f.FID), Sealed: f.Sealed}
	}
	for _, at := range s.Attachments {
		m.Attachments = append(m.Attachments, manifestAttachment{Name: at.Name, Added: seconds(at.Added)})
	}
	records := map[Hash][]byte{}
	for _, sl := range slots(s, m) {
		if *sl.body == nil {
			continue
		}
		h := HashOf(*sl.body)
		records[h] = *sl.body
		*sl.ref = &reference{SHA256: h, Size: len(*sl.body)}
	}
	// A file that is listed exists: nil content is empty content.
	exists := func(content **reference) {
		if *content == nil {
			h := HashOf(nil)
			records[h] = []byte{}
			*content = &reference{SHA256: h}
		}
	}
	for i := range m.Files {
		exists(&m.Files[i].Content)
	}
	for i := range m.Attachments {
		exists(&m.Attachments[i].Content)
	}
	return m, records, nil
}

// checkKCV takes 16 hex digits or nothing.
func checkKCV(kcv KCV) error {
	if kcv != "" && !isHex(kcv, 16) {
		return fmt.Errorf("KCV %q is not 16 hex digits", kcv)
	}
	return nil
}

func isHex(s string, n int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == n
}

// snapshot is the inverse of newManifest, without the bodies.
func (m *manifest) snapshot(h Hash) *Snapshot {
	t := &m.Token
	s := &Snapshot{
		ID: snapshotID(h), Hash: h,
		Previous: m.Previous, Taken: m.Taken.UTC(), Program: m.Program, Adopted: m.Adopted,
		Token: Token{
			Serial: t.Serial, Label: t.Label, Firmware: t.Firmware, Software: t.Software,
			Options: t.Options, PINTries: t.PINTries, SOPINTries: t.SOPINTries,
			SuccessorOf: t.SuccessorOf, Issuer: t.Issuer, ValidFrom: t.ValidFrom, ValidTo: t.ValidTo,
			FreeMemory: t.FreeMemory,
		},
	}
	if len(m.Missing) > 0 {
		s.Missing = m.Missing
	}
	if r := m.Rekeyed; r != nil {
		s.Rekeyed = &Rekeyed{Time: r.Time.UTC(), From: r.From, OldKCV: r.OldKCV, KCV: r.KCV}
	}
	for _, d := range t.Domains {
		s.Token.Domains = append(s.Token.Domains, Domain{
			Number: d.Number, Shares: d.Shares, Outstanding: d.Outstanding, KCV: d.KCV, UID: d.UID,
		})
	}
	for _, k := range m.Keys {
		s.Keys = append(s.Keys, Key{
			Reference: k.Reference, ID: k.ID, Label: k.Label, Type: k.Type, Usage: k.Usage,
			Algorithms: k.Algorithms, Counter: k.Counter, Domain: k.Domain, KCV: k.KCV,
			PublicFrom: k.PublicFrom, CheckValue: k.CheckValue, Reason: k.Reason,
		})
	}
	for _, f := range m.Files {
		s.Files = append(s.Files, File{FID: f.FID, Sealed: f.Sealed})
	}
	for _, at := range m.Attachments {
		s.Attachments = append(s.Attachments, Attachment{Name: at.Name, Added: at.Added.UTC()})
	}
	return s
}

// encode gives the bytes that are stored. Strings that are no valid UTF-8 are
// made so by going through JSON once: it writes U+FFFD for a bad byte in
// another way than for U+FFFD itself.
func (m *manifest) encode() ([]byte, error) {
	first, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %v", err)
	}
	var clean manifest
	if err := json.Unmarshal(first, &clean); err != nil {
		return nil, fmt.Errorf("snapshot: %v", err)
	}
	return encode(clean)
}

func snapshotID(h Hash) string { return h.String()[:12] }

// encode is the one JSON form that is written: fields in the order of the
// structs, no blanks, no HTML escapes.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ManifestHash is the hash that a snapshot has with the Previous that it names;
// what is wrong within it is an error.
func (s *Snapshot) ManifestHash() (Hash, error) {
	m, _, err := newManifest(s)
	if err != nil {
		return Hash{}, err
	}
	value, err := m.encode()
	return HashOf(value), err
}
