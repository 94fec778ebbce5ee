//go:build cgo || windows

package pcsc

import "encoding/binary"

// PC/SC part 10 §2: what a reader tells about itself.
const (
	featureRequest       = 3400 // CM_IOCTL_GET_FEATURE_REQUEST, to be made an ioctl by CtlCode
	featureTLVProperties = 0x12 // FEATURE_GET_TLV_PROPERTIES
	propertyMaxAPDUData  = 0x0A // dwMaxAPDUDataSize
)

// shortCommand is the longest short APDU: header, Lc, 255 bytes, Le.
const shortCommand = 4 + 1 + 255 + 1

// simpleTLV finds a tag in a list of one-byte tag, one-byte length, value.
// That is no BER: a length of 80 and above means itself.
func simpleTLV(b []byte, tag byte) ([]byte, bool) {
	for len(b) >= 2 {
		n := int(b[1])
		if len(b) < 2+n {
			break
		}
		if b[0] == tag {
			return b[2 : 2+n], true
		}
		b = b[2+n:]
	}
	return nil, false
}

// propertiesIoctl finds the control code that gives the properties in the
// answer to featureRequest. The codes in there are big-endian everywhere.
func propertiesIoctl(features []byte) (uint32, bool) {
	v, ok := simpleTLV(features, featureTLVProperties)
	if !ok || len(v) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(v), true
}

// maxCommand is the longest command APDU in bytes by the reader's properties,
// 0 if they do not say. The property counts data, little-endian; 0 is how the
// CCID driver says that the reader takes short APDUs only. Up to nine bytes of
// header are left out of the sum on purpose: there are readers that cut longer
// APDUs without a word (fact sheet §2.12), so nothing hangs on the last byte.
func maxCommand(properties []byte) int {
	v, ok := simpleTLV(properties, propertyMaxAPDUData)
	if !ok || len(v) != 4 {
		return 0
	}
	n := binary.LittleEndian.Uint32(v)
	switch {
	case n == 0 || n == 256:
		return shortCommand
	case n > 65536:
		return 65536
	default:
		return int(n)
	}
}
