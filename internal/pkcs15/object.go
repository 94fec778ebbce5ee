package pkcs15

import (
	"encoding/binary"
	"fmt"

	"hsmbackup/internal/tlv"
)

// ObjectDescription is a CD (certificate without key, C8xx) or a DCOD (data
// object, C9xx).
type ObjectDescription struct {
	Label string
	// ID is the CKA_ID of a certificate; nil for data.
	ID []byte
	// Application is the CKA_APPLICATION of a data object.
	Application string
	// Path is the EF that holds the body: CAxx, CFxx or CDxx (PIN-protected).
	Path uint16
}

// ParseCertificateDescription reads the content of C8xx. Errors wrap
// ErrFormat.
func ParseCertificateDescription(b []byte) (*ObjectDescription, error) {
	d, second, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	if len(second) > 0 && second[0].Tag == tagOctets {
		d.ID = second[0].Value
	}
	return d, nil
}

// ParseDataDescription reads the content of C9xx. Errors wrap ErrFormat.
func ParseDataDescription(b []byte) (*ObjectDescription, error) {
	d, second, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	if app, ok := second.Find(tagUTF8); ok {
		d.Application = text(app.Value)
	}
	return d, nil
}

func parseObject(b []byte) (*ObjectDescription, tlv.List, error) {
	_, list, err := elements(b, tagSequence)
	if err != nil {
		return nil, nil, err
	}
	d := &ObjectDescription{}
	label, second, err := common(list)
	if err != nil {
		return nil, nil, err
	}
	d.Label = label
	attributes, ok := list.Find(tagContext1)
	if !ok {
		return nil, nil, fmt.Errorf("%w: no path", ErrFormat)
	}
	if d.Path, ok = findPath(attributes.Value, 4); !ok {
		return nil, nil, fmt.Errorf("%w: no path", ErrFormat)
	}
	return d, second, nil
}

// findPath gives the first OCTET STRING of two bytes: A1 { [30 {] 30 { 04 02
// fid } [}] }, as deep as the writers of CD and DCOD differ.
func findPath(b []byte, depth int) (uint16, bool) {
	list, err := tlv.ParseAll(b)
	if err != nil || depth == 0 {
		return 0, false
	}
	for _, e := range list {
		if e.Tag == tagOctets && len(e.Value) == 2 {
			return binary.BigEndian.Uint16(e.Value), true
		}
		if e.Tag == tagSequence {
			if fid, ok := findPath(e.Value, depth-1); ok {
				return fid, true
			}
		}
	}
	return 0, false
}

// ParseTokenInfo reads the label out of EF 2F03: 30 { 02 version, 80 label, 03
// flags }. Errors wrap ErrFormat.
func ParseTokenInfo(b []byte) (label string, err error) {
	_, list, err := elements(b, tagSequence)
	if err != nil {
		return "", err
	}
	e, ok := list.Find(tagTokenLabel)
	if !ok {
		return "", fmt.Errorf("%w: no label", ErrFormat)
	}
	return text(e.Value), nil
}

// EncodeTokenInfo writes EF 2F03 as OpenSC does, byte for byte.
func EncodeTokenInfo(label string) []byte {
	return sequence(tlv.Encode(tagInteger, []byte{0}), tlv.Encode(tagTokenLabel, []byte(label)), tlv.Encode(tagBits, []byte{5, 0x20}))
}

// EncodeData writes the DCOD of a data object that everybody may read, as OpenSC
// does, byte for byte.
func (d *ObjectDescription) EncodeData() []byte {
	path := binary.BigEndian.AppendUint16(nil, d.Path)
	return sequence(
		sequence(tlv.Encode(tagUTF8, []byte(d.Label)), tlv.Encode(tagBits, []byte{6, 0x40})), // modifiable
		sequence(tlv.Encode(tagUTF8, []byte(d.Application))),
		tlv.Encode(tagContext1, sequence(tlv.Encode(tagOctets, path))))
}
