package dkek

import (
	"bytes"
	"fmt"

	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/tlv"
)

const (
	tagSequence = 0x30
	tagOctets   = 0x04
	tagOID      = 0x06
	tagInteger  = 0x02
	tagBits     = 0x03
	tagContext0 = 0xA0
	tagSKD      = 0xA8
	tagRequest  = 0x67
	tagCVC      = 0x7F21
)

// Container is a wrapped key as sc-hsm-tool --wrap-key and the Key Manager
// write it (.bin, .wky): 30 { 04 { blob } [description] [certificate or
// request] } (fact sheet §6.6). Only the blob is authenticated; whoever can
// write the file can change the rest (MatchKey tells).
type Container struct {
	// Blob is the answer of WRAP.
	Blob []byte
	// Description is the PRKD or SKD of C4xx, nil if it was missing.
	Description []byte
	// Certificate is what stood in CExx: X.509, a request (67), or a CVC (7F21);
	// nil if nothing did.
	Certificate []byte
	// Trailing is whatever follows the container in the file. No tool writes
	// any.
	Trailing []byte
	// Misplaced: there is no description, so the certificate stands in its
	// place, and sc-hsm-tool would write it into C4xx.
	Misplaced bool
}

// ParseContainer reads a wrapped-key file, each part known by what is in it
// and not by where it stands. A file that is a bare blob is taken too. Parts
// are copies. The error wraps ErrFormat.
func ParseContainer(file []byte) (*Container, error) {
	if IsPBE(file) {
		return nil, fail(ErrFormat, "this is a share file, not a wrapped key")
	}
	outer, trailing, err := tlv.Parse(file)
	isContainer := err == nil && outer.Tag == tagSequence
	if isContainer {
		c, err := parseContainer(outer.Value)
		if err == nil {
			c.Trailing = clone(trailing)
			return c, nil
		}
		if len(trailing) == 0 {
			return nil, err
		}
		// A bare blob can begin with 30: its KCV is random.
	}
	if _, err := ParseBlob(file); err == nil {
		return &Container{Blob: clone(file)}, nil
	}
	switch {
	case isContainer:
		return nil, fail(ErrFormat, "wrapped key: parts do not parse, and %d bytes follow the last", len(trailing))
	case len(file) > 0 && file[0] == tagSequence:
		return nil, fail(ErrFormat, "wrapped key: cut off, only %d bytes are there", len(file))
	default:
		return nil, fail(ErrFormat, "neither a wrapped key as sc-hsm-tool writes it nor a key blob")
	}
}

func parseContainer(value []byte) (*Container, error) {
	parts, err := tlv.ParseAll(value)
	if err != nil {
		return nil, fail(ErrFormat, "wrapped key: its parts do not add up: cut off or altered")
	}
	if len(parts) == 0 || parts[0].Tag != tagOctets {
		return nil, fail(ErrFormat, "wrapped key: does not begin with a key blob")
	}
	if _, err := ParseBlob(parts[0].Value); err != nil {
		return nil, err
	}
	c := &Container{Blob: clone(parts[0].Value)}
	for i, part := range parts[1:] {
		field, name := &c.Description, "key description"
		switch what, err := recognise(part); {
		case err != nil:
			return nil, fail(ErrFormat, "wrapped key: part %d: %v", i+2, err)
		case what != partDescription:
			field, name = &c.Certificate, "certificate or request"
		}
		if *field != nil {
			return nil, fail(ErrFormat, "wrapped key: part %d is a second %s", i+2, name)
		}
		*field = clone(part.Raw)
	}
	c.Misplaced = c.Description == nil && c.Certificate != nil
	return c, nil
}

// clone copies; empty is nil.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}

// part is what an element beside a blob can be.
type part int

const (
	partDescription part = iota + 1
	partX509
	partRequest
	partCVC
)

// recognise tells what an element is by what is inside. An RSA description and
// an X.509 certificate share the tag 30.
func recognise(e tlv.Element) (part, error) {
	switch e.Tag {
	case tagSequence:
		if isX509(e) {
			return partX509, nil
		}
		if _, err := pkcs15.ParseKey(e.Raw); err != nil {
			return 0, fmt.Errorf("neither an X.509 certificate nor a description of an RSA key")
		}
		return partDescription, nil
	case tagContext0, tagSKD:
		if _, err := pkcs15.ParseKey(e.Raw); err != nil {
			return 0, fmt.Errorf("key description: %v", err)
		}
		return partDescription, nil
	case tagRequest:
		if _, err := cvc.ParseRequest(e.Raw); err != nil {
			return 0, fmt.Errorf("request: %v", err)
		}
		return partRequest, nil
	case tagCVC:
		if _, err := cvc.Parse(e.Raw); err != nil {
			return 0, fmt.Errorf("certificate: %v", err)
		}
		return partCVC, nil
	}
	return 0, fmt.Errorf("nothing that belongs to a key (tag %02X)", e.Tag)
}

// isX509 looks for 30 { 30 { [A0 version] 02 serial … } 30 { 06 … } 03
// signature }.
func isX509(e tlv.Element) bool {
	l, err := e.Children()
	if err != nil || len(l) != 3 || l[0].Tag != tagSequence || l[1].Tag != tagSequence || l[2].Tag != tagBits {
		return false
	}
	tbs, err := l[0].Children()
	if err != nil || len(tbs) < 6 || tbs[0].Tag != tagContext0 && tbs[0].Tag != tagInteger {
		return false
	}
	algorithm, err := l[1].Children()
	return err == nil && len(algorithm) > 0 && algorithm[0].Tag == tagOID
}

// Encode writes the container as sc-hsm-tool does. Description and certificate
// are cut to their first TLV, since files on a token keep an old tail; empty
// ones are left out.
func (c *Container) Encode() []byte {
	parts := [][]byte{tlv.Encode(tagOctets, c.Blob)}
	for _, p := range [][]byte{c.Description, c.Certificate} {
		if cut, err := tlv.Trim(p); err == nil {
			p = cut
		}
		parts = append(parts, p)
	}
	return tlv.Encode(tagSequence, parts...)
}
