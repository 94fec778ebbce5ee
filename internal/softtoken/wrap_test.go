package softtoken

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/pubkey"
)

func TestWrapForms(t *testing.T) {
	c := ready(t, Options{})
	c.unwrap(5, samples(t)["P-256"].blob)
	c.run([]step{
		{"as OpenSC sends it", "80720592 000000", 0x9000, "*"},
		{"short Le", "80720592 00", 0x6700, ""},
		{"no Le", "80720592", 0x6700, ""},
		{"another extended Le", "80720592 000400", 0x6700, ""},
		{"data", "80720592 000001 00 0000", 0x6700, ""},
		{"P2", "80720593 000000", 0x6A86, ""},
		{"no such key", "80720692 000000", 0x6A82, ""},
		{"the device key stays", "80720092 000000", 0x6A82, ""},
		{"UNWRAP, P2", "80740692", 0x6A86, ""},
		{"UNWRAP to the device key", "80740093", 0x6A86, ""},
		{"UNWRAP to a taken reference", "80740593", 0x6985, ""},
		{"UNWRAP without blob", "80740693", 0x6A82, ""},
		{"logged out", selectAID, 0x9000, "*"},
		{"WRAP", "80720592 000000", 0x6982, ""},
		{"UNWRAP", "80740693", 0x6982, ""},
	})
}

// Both variants, from one token to another of the same DKEK, to another
// reference.
func TestUnwrapVariants(t *testing.T) {
	for _, name := range []string{"RSA-4096", "RSA-1024", "P-521", "brainpoolP512r1", "AES-192"} {
		s := samples(t)[name]
		c := ready(t, Options{Serial: "SOFT0200009"})
		c.unwrap(0x20, s.blob)
		c.write(fidScratch, s.blob)
		c.ok("80742193")
		c.verifySample(0x21, s)
		c.run([]step{
			{"only key objects", "80580000 000000", 0x9000, "2F02 CC00 CC20 CC21"},
			{"no description", "00A40000 02 C420 00", 0x6A82, ""},
			{"no request", "00A40000 02 CE21 00", 0x6A82, ""},
		})
	}
}

// Firmware before 3.0, and a token told so, write type 06 (fact sheet §6.5);
// every token reads both.
func TestRSABlobTypes(t *testing.T) {
	s := samples(t)
	for _, x := range []struct {
		o    Options
		name string
		kind dkek.BlobType
		size int
	}{
		{Options{Firmware: "2.6"}, "RSA-1024", dkek.BlobRSACRT, 523},
		{Options{Firmware: "2.6"}, "RSA-2048", dkek.BlobRSACRT, 971},
		{Options{Firmware: "3.5"}, "RSA-2048", dkek.BlobRSA, 587},
		{Options{Firmware: "3.5", CRTExport: true}, "RSA-4096", dkek.BlobRSACRT, 1867},
	} {
		c := ready(t, x.o)
		c.unwrap(1, s[x.name].blob)
		blob := c.ok("80720192 000000")
		b, err := dkek.ParseBlob(blob)
		if err != nil || b.Type != x.kind || len(blob) != x.size {
			t.Errorf("%s of %s: type %v, %d bytes, %v", x.name, x.o.Firmware, b.Type, len(blob), err)
		}
		d := ready(t, Options{Firmware: "4.1"})
		d.write(fidScratch, blob)
		d.ok("80740793")
		digest := sha256.Sum256(message)
		if err := s[x.name].public.Verify(crypto.SHA256, digest[:], d.do(apdu.OK, useCommand(0x68, 7, 0x33, message))); err != nil {
			t.Errorf("%s of %s, imported: %v", x.name, x.o.Firmware, err)
		}
	}
	old := ready(t, Options{Firmware: "2.6"})
	old.do(apdu.NotSupported, unwrapCommand(1, s["RSA-4096"].blob))
	old.do(apdu.NotSupported, unwrapCommand(1, s["AES-128"].blob))
	if len(old.state.Keys) != 0 {
		t.Error("a refused blob made a key")
	}
}

// Whatever is wrong with a blob the answer is 6A80, and nothing changes: no
// key, no counter, no file.
func TestUnwrapUniform(t *testing.T) {
	s := samples(t)
	for _, name := range []string{"P-256", "RSA-1024", "AES-128"} {
		blob := s[name].blob
		c := ready(t, Options{})
		before := c.snapshot()
		for i := range blob {
			bad := bytes.Clone(blob)
			bad[i] ^= 1 << (i % 8)
			if data, sw := c.transmit(mustBytes(t, unwrapCommand(9, bad))); sw != apdu.WrongData || len(data) > 0 {
				t.Errorf("%s, byte %d changed: %04X", name, i, uint16(sw))
			}
		}
		for _, bad := range [][]byte{blob[:8], blob[:9], blob[:30], blob[:len(blob)-1], blob[:len(blob)-16], append(bytes.Clone(blob), 0), append(bytes.Clone(blob), make([]byte, 16)...), {0}} {
			c.do(apdu.WrongData, unwrapCommand(9, bad))
		}
		if !bytes.Equal(before, c.snapshot()) {
			t.Errorf("%s: a refused blob changed the token", name)
		}
		c.unwrap(9, blob) // as it was, it is taken

		other := newCard(t, Options{})
		other.initialise("920101")
		other.ok("80520000 20 %s 00", shareA)
		other.login()
		before = other.snapshot()
		other.do(apdu.WrongData, unwrapCommand(9, blob))
		// Its own KCV on another's blob: the authentication code is what tells.
		other.do(apdu.WrongData, unwrapCommand(9, append(other.ok("80520000 00")[2:], blob[8:]...)))
		if !bytes.Equal(before, other.snapshot()) {
			t.Errorf("%s: a blob under another DKEK changed the token", name)
		}
		other.write(fidScratch, blob)
		other.want(apdu.WrongData, "80740993")
		if len(other.state.Keys) != 0 {
			t.Errorf("%s: a blob under another DKEK made a key", name)
		}
	}
}

// rewrap opens a blob under the vector's DKEK by hand (fact sheet §6.1, §6.5),
// has header and plaintext changed, and seals it again.
func rewrap(t testing.TB, blob []byte, change func(header, plain []byte) ([]byte, []byte)) []byte {
	t.Helper()
	derive := func(n byte) []byte {
		k := sha256.Sum256(append(bytes.Repeat([]byte{0x44}, 32), 0, 0, 0, n))
		return k[:]
	}
	b, err := dkek.ParseBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(derive(1))
	if err != nil {
		t.Fatal(err)
	}
	header := bytes.Clone(blob[:len(blob)-16-len(b.Ciphertext)])
	plain := make([]byte, len(b.Ciphertext))
	cipher.NewCBCDecrypter(block, make([]byte, 16)).CryptBlocks(plain, b.Ciphertext)
	header, plain = change(header, plain)
	sealed := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(sealed, plain)
	out := append(header, sealed...)
	mac, err := cmac.Sum(derive(2), out)
	if err != nil {
		t.Fatal(err)
	}
	return append(out, mac[:]...)
}

// An authentic blob can be nonsense too; it makes no key.
func TestUnwrapAuthenticNonsense(t *testing.T) {
	s := samples(t)
	keep := func(h, p []byte) ([]byte, []byte) { return h, p }
	for _, x := range []struct {
		name, blob string
		change     func(header, plain []byte) ([]byte, []byte)
		sw         apdu.SW
	}{
		{"unchanged", "P-256", keep, apdu.OK},
		{"unchanged", "AES-128", keep, apdu.OK},
		{"16 algorithms", "P-256", withList(16), apdu.OK},
		{"17 algorithms", "P-256", withList(17), apdu.WrongData},
		{"another point", "P-256", func(h, p []byte) ([]byte, []byte) {
			p[bytes.LastIndexByte(p, 0x80)-1] ^= 1 // the last byte before the padding
			return h, p
		}, apdu.WrongData},
		{"another private number", "P-256", flip(230), apdu.WrongData}, // behind 8 random bytes, size, a, b, p, n, G
		{"another size", "RSA-1024", flip(9), apdu.WrongData},
		{"another d", "RSA-1024", flip(60), apdu.WrongData},
		{"AES of 15 bytes", "AES-128", flip(9), apdu.WrongData},
		{"another type", "P-256", func(h, p []byte) ([]byte, []byte) { h[8] = 5; return h, p }, apdu.WrongData},
		{"an unknown type", "P-256", func(h, p []byte) ([]byte, []byte) { h[8] = 9; return h, p }, apdu.WrongData},
		{"RSA-512", "RSA-1024", func(h, _ []byte) ([]byte, []byte) {
			p := append(make([]byte, 8), 2, 0)
			for _, v := range [][]byte{make([]byte, 64), bytes.Repeat([]byte{0xFF}, 64), {1, 0, 1}} {
				p = append(append(p, 0, byte(len(v))), v...)
			}
			return h, append(p, make([]byte, 16-len(p)%16)...)
		}, apdu.WrongData},
	} {
		c := ready(t, Options{})
		if _, sw := c.transmit(mustBytes(t, unwrapCommand(1, rewrap(t, s[x.blob].blob, x.change)))); sw != x.sw {
			t.Errorf("%s, %s: %04X, want %04X", x.blob, x.name, uint16(sw), uint16(x.sw))
		}
		if made := len(c.state.Keys) > 0; made != (x.sw == apdu.OK) {
			t.Errorf("%s, %s: key made: %v", x.blob, x.name, made)
		}
	}
}

// flip changes one bit of the plaintext.
func flip(i int) func(header, plain []byte) ([]byte, []byte) {
	return func(h, p []byte) ([]byte, []byte) {
		p[i] ^= 1
		return h, p
	}
}

// withList puts a list of n algorithms into a header whose list is empty.
func withList(n int) func(header, plain []byte) ([]byte, []byte) {
	return func(h, p []byte) ([]byte, []byte) {
		at := 9 + 2 + int(h[10])
		out := append(bytes.Clone(h[:at]), 0, byte(n))
		out = append(out, bytes.Repeat([]byte{0x92}, n)...)
		return append(out, h[at+2:]...), p
	}
}

// Exportable is a key made under a DKEK whose list is empty or contains 92.
func TestExportable(t *testing.T) {
	c := ready(t, Options{})
	for i, x := range []struct {
		list []byte
		sw   apdu.SW
	}{{nil, apdu.OK}, {[]byte{0x70, 0x92}, apdu.OK}, {[]byte{0x92}, apdu.OK}, {[]byte{0x70}, apdu.Conditions}} {
		s := spec(curve.ByName("P-256"), 0)
		s.Algorithms = x.list
		c.generate(byte(i+1), s)
		blob := c.want(x.sw, "8072%02X92 000000", i+1)
		if x.sw != apdu.OK {
			continue
		}
		if b, err := dkek.ParseBlob(blob); err != nil || !bytes.Equal(b.Algorithms, x.list) {
			t.Errorf("list %X in the blob %X, %v", x.list, b.Algorithms, err)
		}
	}
}

// Firmware 3.1 exports keys with an algorithm list and cannot take them back
// (fact sheet §9, 9).
func TestFirmware31(t *testing.T) {
	s := samples(t)
	for _, firmware := range []string{"3.0", "3.1", "3.2"} {
		c := ready(t, Options{Firmware: firmware})
		c.unwrap(1, s["P-256"].blob) // no list
		want := apdu.OK
		if firmware == "3.1" {
			want = apdu.Internal
		}
		c.ok("804802B0 06 9104 10111892")
		blob := c.ok("80720292 000000")
		c.do(want, unwrapCommand(3, blob))
		if made := c.state.Keys[3] != nil; made != (want == apdu.OK) {
			t.Errorf("%s: key made: %v", firmware, made)
		}
		bad := bytes.Clone(blob)
		bad[len(bad)-1] ^= 1
		c.do(apdu.WrongData, unwrapCommand(4, bad)) // authenticity comes first
	}
}

// Longer commands than the buffer are refused and change nothing.
func TestAPDULimit(t *testing.T) {
	for _, x := range []struct {
		o     Options
		limit int
	}{{Options{Firmware: "2.6"}, 1454}, {Options{Firmware: "3.5"}, 1232}, {Options{Firmware: "4.1"}, 1454}, {Options{Firmware: "4.1", APDULimit: 500}, 500}} {
		c := ready(t, x.o)
		write := func(total int) []byte {
			data := strings.Repeat("AB", total-7-8)
			return unhex(t, fmt.Sprintf("00D7CF01 00%04X 54020000 5382%04X %s", total-7, total-7-8, data))
		}
		before := c.snapshot()
		if _, sw := c.transmit(write(x.limit + 1)); sw != apdu.WrongLength {
			t.Errorf("%+v: %d bytes: %04X", x.o, x.limit+1, uint16(sw))
		}
		if !bytes.Equal(before, c.snapshot()) {
			t.Errorf("%+v: too long a command changed the token", x.o)
		}
		if _, sw := c.transmit(write(x.limit)); sw != apdu.OK {
			t.Errorf("%+v: %d bytes: %04X", x.o, x.limit, uint16(sw))
		}
	}
	// RSA-4096 in one command fits 1232 bytes, its type 06 fits nowhere.
	c := ready(t, Options{Firmware: "3.5"})
	c.unwrap(1, samples(t)["RSA-4096"].blob)
	c.do(apdu.WrongLength, unwrapCommand(2, make([]byte, 1867)))
}

// A reader that cuts at 1014 bytes in silence: the token sees a command whose
// lengths do not add up. Through EF 2F10 the same key goes in.
func TestReaderCut(t *testing.T) {
	c := ready(t, Options{ReaderCut: 1014})
	blob := samples(t)["RSA-4096"].blob
	before := c.snapshot()
	c.do(apdu.WrongLength, unwrapCommand(1, blob))
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("a cut command changed the token")
	}
	c.write(fidScratch, blob)
	c.ok("80740193")
	c.unwrap(2, samples(t)["RSA-3072"].blob) // 843 + 7 bytes are not cut
}

// Blobs that another implementation wrote, in its own shapes, are taken and
// the keys in them work (fact sheet §6.9; ../../testdata/README.md).
func TestUnwrapOfOthers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "testdata")
	file := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	share, err := dkek.OpenPBE(context.Background(), file("a.pbe"), []byte("testpw-1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newCard(t, Options{})
	c.initialise("920101")
	if got := c.ok("80520000 20 %X 00", share.Bytes()); !bytes.Equal(got, unhex(t, "0100 19471B8FFE18014C")) {
		t.Fatalf("import answered %X", got)
	}
	c.login()
	for i, x := range []struct{ blob, public string }{
		{"a-rsa2048.bin", "rsa2048.pub.pem"}, {"a-p256.bin", "p256.pub.pem"}, {"a-p256.again.bin", "p256.pub.pem"},
		{"a-utf8.bin", "utf8.pub.pem"}, {"a-withcert.bin", "withcert.pub.pem"},
	} {
		container, err := dkek.ParseContainer(file(x.blob))
		if err != nil {
			t.Fatal(err)
		}
		c.unwrap(byte(i+1), container.Blob)
		block, _ := pem.Decode(file(x.public))
		k, err := pubkey.ParseSPKI(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		c.verifySample(byte(i+1), sample{public: k})
	}
	container, err := dkek.ParseContainer(file("a-aes128.bin"))
	if err != nil {
		t.Fatal(err)
	}
	c.unwrap(0x30, container.Blob)
	want := file("aes128.cbc.bin")
	if got := c.do(apdu.OK, useCommand(0x78, 0x30, 0x10, []byte("0123456789abcdef"))); !bytes.Equal(got, want) {
		t.Errorf("AES: %X, want %X", got, want)
	}
	for i, name := range []string{"b-p256.bin", "c-rsa2048.bin"} {
		container, err := dkek.ParseContainer(file(name))
		if err != nil {
			t.Fatal(err)
		}
		c.do(apdu.WrongData, unwrapCommand(byte(0x40+i), container.Blob))
	}
}

func mustBytes(t testing.TB, c apdu.Command) []byte {
	t.Helper()
	b, err := c.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
