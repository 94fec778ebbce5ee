package softtoken

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha1"
	"fmt"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/tlv"
)

const mse = "002241A4 0C 800A 04007F00070202030202"

// oneMAC is AES-CMAC by hand over a message that is no multiple of 16 bytes
// (RFC 4493 §2.4).
func oneMAC(block cipher.Block, message []byte) []byte {
	k := make([]byte, 16)
	block.Encrypt(k, k)
	for range 2 { // K2: the message needs padding
		var next [16]byte
		for i := range 16 {
			next[i] = k[i] << 1
			if i < 15 {
				next[i] |= k[i+1] >> 7
			}
		}
		if k[0]&0x80 != 0 {
			next[15] ^= 0x87
		}
		k = next[:]
	}
	padded := append(bytes.Clone(message), 0x80)
	for len(padded)%16 != 0 {
		padded = append(padded, 0)
	}
	for i := range 16 {
		padded[len(padded)-16+i] ^= k[i]
	}
	out := make([]byte, len(padded))
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(out, padded)
	return out[len(out)-16:]
}

// EAC chip authentication as fact sheet §2.11 writes it down, computed without
// the package's code.
func TestChipAuthentication(t *testing.T) {
	for _, prepare := range []func(card){
		func(c card) { c.ok(selectAID) }, // a token that was never initialised shows what it is
		func(c card) { c.initialise("920101") },
		func(c card) { c.initialise(""); c.login() },
	} {
		c := newCard(t, Options{})
		prepare(c)
		chain, err := cvc.ParseChain(c.read(fidDevice))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chain.Verify(c.Roots()); err != nil {
			t.Fatal(err)
		}
		device, err := chain.DeviceKey()
		if err != nil {
			t.Fatal(err)
		}
		d, x, y, err := device.Curve.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point := append([]byte{4}, append(fill(x, 32), fill(y, 32)...)...)
		c.ok(mse)
		answer := c.ok("00860000 45 7C43 8041 %X 00", point)
		// 7C 14 { 81 08 nonce, 82 08 token }
		if len(answer) != 22 || !bytes.Equal(answer[:4], unhex(t, "7C148108")) || !bytes.Equal(answer[12:14], unhex(t, "8208")) {
			t.Fatalf("answer %X", answer)
		}
		nonce, token := answer[4:12], answer[14:]
		shared, _ := device.Curve.ScalarMult(device.X, device.Y, d)
		key := sha1.Sum(append(append(fill(shared, 32), nonce...), 0, 0, 0, 2))
		block, err := aes.NewCipher(key[:16])
		if err != nil {
			t.Fatal(err)
		}
		input := append(unhex(t, "7F49 4F 06 0A 04007F00070202030202 86 41"), point...)
		if want := oneMAC(block, input)[:8]; !bytes.Equal(token, want) {
			t.Errorf("token %X, want %X", token, want)
		}
		c.run([]step{{"MSE holds for one time", fmt.Sprintf("00860000 45 7C43 8041 %X 00", point), 0x6985, ""}})
		c.ok(mse)
		if again := c.ok("00860000 45 7C43 8041 %X 00", point); bytes.Equal(again, answer) {
			t.Error("the same nonce twice")
		}
	}
}

func TestChipAuthenticationReject(t *testing.T) {
	c := newCard(t, Options{})
	c.ok(selectAID)
	point := deviceCurve.Marshal(deviceCurve.Gx, deviceCurve.Gy)
	ga := func(data []byte, le int) apdu.Command { return apdu.Command{INS: 0x86, Data: data, Le: le} }
	good := tlv.Encode(0x7C, tlv.Encode(0x80, point))
	off := bytes.Clone(point)
	off[64] ^= 1
	c.run([]step{
		{"3DES", "002241A4 0C 800A 04007F00070202030201", 0x6A80, ""},
		{"no OID", "002241A4", 0x6A80, ""},
		{"another tag", "002241A4 0C 830A 04007F00070202030202", 0x6A80, ""},
		{"more", "002241A4 0E 800A 04007F00070202030202 8400", 0x6A80, ""},
		{"half a TLV", "002241A4 01 80", 0x6A80, ""},
		{"an issuer for certificates", "002281B6 0A 8308 4445434130303031", 0x6A88, ""},
		{"a key for authentication", "002281A4 0A 8308 4445434130303031", 0x6A88, ""},
		{"something else", "002241B6 0C 800A 04007F00070202030202", 0x6A86, ""},
	})
	c.do(apdu.Conditions, ga(good, 256)) // no MSE has worked
	for _, x := range []struct {
		name string
		cmd  apdu.Command
		sw   apdu.SW
	}{
		{"no Le", ga(good, 0), apdu.WrongLength},
		{"another Le", ga(good, 22), apdu.WrongLength},
		{"extended Le", ga(good, 65536), apdu.WrongLength},
		{"P1", apdu.Command{INS: 0x86, P1: 1, Data: good, Le: 256}, apdu.WrongParameters},
		{"no data", ga(nil, 256), apdu.WrongData},
		{"no 7C", ga(tlv.Encode(0x80, point), 256), apdu.WrongData},
		{"no point", ga(tlv.Encode(0x7C, nil), 256), apdu.WrongData},
		{"half a point", ga(tlv.Encode(0x7C, tlv.Encode(0x80, point[:33])), 256), apdu.WrongData},
		{"off the curve", ga(tlv.Encode(0x7C, tlv.Encode(0x80, off)), 256), apdu.WrongData},
		{"more behind", ga(append(bytes.Clone(good), 0, 0), 256), apdu.WrongData},
		{"more within", ga(tlv.Encode(0x7C, tlv.Encode(0x80, point), tlv.Encode(0x81, nil)), 256), apdu.WrongData},
	} {
		c.ok(mse)
		if _, sw := c.transmit(mustBytes(t, x.cmd)); sw != x.sw {
			t.Errorf("%s: %04X, want %04X", x.name, uint16(sw), uint16(x.sw))
		}
	}
	c.ok(mse)
	c.run([]step{{"a refused MSE undoes an earlier one", "002241A4 0C 800A 04007F00070202030201", 0x6A80, ""}})
	c.do(apdu.Conditions, ga(good, 256))
	c.ok(mse)
	c.ok(selectAID)
	c.do(apdu.Conditions, ga(good, 256))
}
