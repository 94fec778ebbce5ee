package dkek

import "encoding/binary"

//go:generate go run md5gen.go

// md5State is an MD5 digest as its four little-endian words. The chain of a
// share file feeds each digest back as the next message (fact sheet §6.2), so
// it never needs to leave this form.
type md5State [4]uint32

func newMD5State(digest [16]byte) (s md5State) {
	for i := range s {
		s[i] = binary.LittleEndian.Uint32(digest[4*i:])
	}
	return s
}

func (s md5State) digest() (d [16]byte) {
	for i, w := range s {
		binary.LittleEndian.PutUint32(d[4*i:], w)
	}
	return d
}
