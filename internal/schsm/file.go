package schsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/tlv"
)

// FID is a file identifier: a prefix that says what it is and, for keys, the
// key reference (fact sheet §3).
type FID uint16

// Prefixes of files, the high byte of a FID.
const (
	PrefixKey             = 0xCC // key object, nothing to read
	PrefixDescription     = 0xC4 // PRKD or SKD
	PrefixKeyCertificate  = 0xCE // request or certificate of a key
	PrefixCertDescription = 0xC8 // CD
	PrefixDataDescription = 0xC9 // DCOD
	PrefixCertificate     = 0xCA // certificate without key
	PrefixProtectedData   = 0xCD // readable with the PIN only
	PrefixPublicData      = 0xCF
)

// Files with a number of their own.
const (
	FIDDeviceCertificate FID = 0x2F02
	FIDTokenInfo         FID = 0x2F03
	fidScratch           FID = 0x2F10 // input of UNWRAP that is too long for one command
)

// Prefix is the high byte.
func (f FID) Prefix() byte { return byte(f >> 8) }

// Index is the low byte; of keys, descriptions and key certificates it is the
// key reference.
func (f FID) Index() byte { return byte(f) }

func (f FID) String() string { return fmt.Sprintf("%04X", uint16(f)) }

// KeyFile, DescriptionFile and CertificateFile name the three files of a key.
func KeyFile(reference byte) FID         { return PrefixKey<<8 | FID(reference) }
func DescriptionFile(reference byte) FID { return PrefixDescription<<8 | FID(reference) }
func CertificateFile(reference byte) FID { return PrefixKeyCertificate<<8 | FID(reference) }

// Enumerate lists the files of the token, in the token's order. The command is
// extended: 6700 is the answer to what a reader made of it that carries none.
func (c *Card) Enumerate(ctx context.Context) ([]FID, error) {
	data, err := c.call(ctx, "ENUMERATE", apdu.Command{CLA: 0x80, INS: 0x58, Le: apdu.LeExtended})
	if errors.Is(err, apdu.ErrWrongLength) {
		return nil, fmt.Errorf("%w (ENUMERATE was answered %s)", ErrNoExtended, apdu.WrongLength)
	}
	if err != nil {
		return nil, err
	}
	if len(data)%2 != 0 {
		return nil, fmt.Errorf("ENUMERATE: answer of %d bytes", len(data))
	}
	var list []FID
	for i := 0; i < len(data); i += 2 {
		if f := FID(data[i])<<8 | FID(data[i+1]); f != 0 { // the imitation fills up with 0000
			list = append(list, f)
		}
	}
	return list, nil
}

// readChunk and writeChunk stay within short commands, which every reader
// carries; longer ones gain little beside the token's own speed.
const (
	readChunk  = 256
	writeChunk = 255 - 4 - 3 // 54 02 offset, 53 81 length
)

// ReadFile reads a whole file. One that does not exist is apdu.ErrNotFound.
func (c *Card) ReadFile(ctx context.Context, f FID) ([]byte, error) {
	var out []byte
	err := c.Transaction(ctx, func() error {
		var err error
		out, err = readFile(ctx, f, c.send)
		return err
	})
	return out, err
}

// readFile reads by a way to send commands: send, which recovers from what
// other programs do, or transmit, which does not.
func readFile(ctx context.Context, f FID, send func(context.Context, string, apdu.Command) (apdu.Response, error)) ([]byte, error) {
	name := "read of " + f.String()
	out := []byte{}
	for {
		n := len(out)
		if n > 0xFFFF {
			return nil, fmt.Errorf("%s: it does not end", name)
		}
		r, err := send(ctx, name, apdu.Command{INS: 0xB1, P1: f.Prefix(), P2: f.Index(), Data: []byte{0x54, 2, byte(n >> 8), byte(n)}, Le: readChunk})
		// 6282 and 61xx come with data that counts (fact sheet §2.1). Less data
		// than asked for is not the end unless the token says so: what a
		// reader carries may be less. At the end tokens differ (§2.5).
		switch {
		case err != nil:
			return nil, err
		case r.SW == apdu.EndOfFile:
			return append(out, r.Data...), nil
		case r.SW == apdu.OffsetPastEnd, r.SW == apdu.OK && len(r.Data) == 0:
			return out, nil
		case r.SW == apdu.OK, r.SW>>8 == 0x61 && len(r.Data) > 0:
			out = append(out, r.Data...)
		default:
			return nil, &apdu.StatusError{Command: name, SW: r.SW}
		}
	}
}

// WriteFile writes data from the start of a file, making it if need be. A file
// that was longer keeps its tail: the token cannot shrink one.
func (c *Card) WriteFile(ctx context.Context, f FID, data []byte) error {
	name := "write of " + f.String()
	if len(data) > 0xFFFF {
		return fmt.Errorf("%s: %d bytes, a file holds 65535 at most", name, len(data))
	}
	return c.Transaction(ctx, func() error {
		for offset := 0; offset == 0 || offset < len(data); offset += writeChunk {
			part := data[offset:min(offset+writeChunk, len(data))]
			field := append([]byte{0x54, 2, byte(offset >> 8), byte(offset)}, tlv.Encode(0x53, part)...)
			_, err := c.callPatiently(ctx, name, apdu.Command{INS: 0xD7, P1: f.Prefix(), P2: f.Index(), Data: field})
			if err != nil && !c.wrote(ctx, err, f, data[:offset+len(part)]) {
				return begun(err, offset)
			}
		}
		return nil
	})
}

// wrote tells whether a write that was answered with an error took place: the file
// begins with what was written of it so far.
func (c *Card) wrote(ctx context.Context, answer error, f FID, data []byte) bool {
	if !InDoubt(answer) {
		return false
	}
	now, err := readFile(ctx, f, c.send)
	return err == nil && bytes.HasPrefix(now, data)
}

// begun is the error of a write at an offset: what went before it is written.
func begun(err error, offset int) error {
	var s *apdu.StatusError
	if offset > 0 && errors.As(err, &s) {
		return &apdu.StatusError{Command: s.Command, SW: s.SW, Doubt: true}
	}
	return err
}

// exists tells whether there is a file.
func (c *Card) exists(ctx context.Context, f FID) (bool, error) {
	_, err := c.selectFile(ctx, f)
	if errors.Is(err, apdu.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// DeleteFile deletes a file. Of a key it deletes the key alone: description
// and certificate are files of their own. The device key is never asked for.
func (c *Card) DeleteFile(ctx context.Context, f FID) error {
	if f == KeyFile(0) {
		return errDeviceKey
	}
	_, err := c.call(ctx, "deletion of "+f.String(), apdu.Command{INS: 0xE4, P1: 2, Data: []byte{f.Prefix(), f.Index()}})
	err = settled(err, func() (bool, error) {
		there, err := c.exists(ctx, f)
		return !there, err
	})
	if err == nil {
		c.full = false
	}
	return err
}

// DeleteFileIfThere is DeleteFile that does not mind a missing file.
func (c *Card) DeleteFileIfThere(ctx context.Context, f FID) error {
	if err := c.DeleteFile(ctx, f); err != nil && !errors.Is(err, apdu.ErrNotFound) {
		return err
	}
	return nil
}

// selectFile selects a file and gives the content of its FCP, which may be
// empty.
func (c *Card) selectFile(ctx context.Context, f FID) (tlv.List, error) {
	data, err := c.call(ctx, "SELECT of "+f.String(), apdu.Command{INS: 0xA4, Data: []byte{f.Prefix(), f.Index()}, Le: apdu.LeShort})
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, nil
	}
	outer, _, err := tlv.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("SELECT of %s: %w", f, err)
	}
	return outer.Children()
}
