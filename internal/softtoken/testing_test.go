package softtoken

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pubkey"
)

// Secrets of the tests, as sc-hsm-tool's manual has them.
const (
	testPIN   = "363438323139"     // 648219
	testSOPIN = "3537363231383830" // 57621880
	otherPIN  = "313131313131"
	verifyPIN = "00 20 00 81 06 " + testPIN
	selectAID = "00 A4 04 00 0B E82B0601040181C31F0201 00"
)

// shareA and shareB are those of the fact sheet's vector (§6.1).
var (
	shareA = strings.Repeat("A5", 32)
	shareB = strings.Repeat("E1", 32)
)

const kcvAB = "BB391415C05E39D7"

// unhex takes hex with blanks.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// card is a token with a short way to talk to it.
type card struct {
	testing.TB
	*Token
}

func newCard(t testing.TB, o Options) card {
	t.Helper()
	token, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return card{t, token}
}

// send transmits hex, formatted like Printf.
func (c card) send(format string, args ...any) ([]byte, apdu.SW) {
	c.Helper()
	return c.transmit(unhex(c, fmt.Sprintf(format, args...)))
}

func (c card) transmit(command []byte) ([]byte, apdu.SW) {
	c.Helper()
	raw, err := c.Transmit(context.Background(), command)
	if err != nil {
		c.Fatalf("%.20X: %v", command, err)
	}
	r, err := apdu.ParseResponse(raw)
	if err != nil {
		c.Fatalf("%.20X: %v", command, err)
	}
	return r.Data, r.SW
}

// want is send that insists on a status word.
func (c card) want(sw apdu.SW, format string, args ...any) []byte {
	c.Helper()
	data, got := c.send(format, args...)
	if got != sw {
		c.Fatalf("%.60s: %04X, want %04X", fmt.Sprintf(format, args...), uint16(got), uint16(sw))
	}
	return data
}

func (c card) ok(format string, args ...any) []byte {
	c.Helper()
	return c.want(apdu.OK, format, args...)
}

// do is want for commands that are built.
func (c card) do(sw apdu.SW, cmd apdu.Command) []byte {
	c.Helper()
	raw, err := cmd.Bytes()
	if err != nil {
		c.Fatal(err)
	}
	data, got := c.transmit(raw)
	if got != sw {
		c.Fatalf("%02X %02X %02X %02X: %04X, want %04X", cmd.CLA, cmd.INS, cmd.P1, cmd.P2, uint16(got), uint16(sw))
	}
	return data
}

// initialise sets the token up with the given further TLVs, such as 920101.
func (c card) initialise(tlvs string) {
	c.Helper()
	c.ok(selectAID)
	data := "80020001 8106" + testPIN + "8208" + testSOPIN + "910103" + tlvs
	c.ok("80 50 00 00 %02X %s", len(unhex(c, data)), data)
}

func (c card) login() {
	c.Helper()
	c.ok(selectAID)
	c.ok(verifyPIN)
}

// ready is a logged-in token with the DKEK of the fact sheet's vector.
func ready(t testing.TB, o Options) card {
	t.Helper()
	c := newCard(t, o)
	c.initialise("920102")
	c.ok("80 52 00 00 20 %s 00", shareA)
	c.ok("80 52 00 00 20 %s 00", shareB)
	c.login()
	return c
}

// step is one command of a table. data is the expected answer in hex, "*" any.
type step struct {
	name, apdu string
	sw         apdu.SW
	data       string
}

func (c card) run(steps []step) {
	c.Helper()
	for _, s := range steps {
		data, sw := c.send("%s", s.apdu)
		if sw != s.sw {
			c.Errorf("%s (%s): %04X, want %04X", s.name, s.apdu, uint16(sw), uint16(s.sw))
		}
		if s.data != "*" && !bytes.Equal(data, unhex(c, s.data)) {
			c.Errorf("%s (%s): %X, want %s", s.name, s.apdu, data, s.data)
		}
	}
}

// snapshot is everything that survives a power cycle.
func (t *Token) snapshot() []byte {
	b, err := json.Marshal(t.state)
	if err != nil {
		panic(err) // it is made of numbers, texts and bytes
	}
	return b
}

func (c card) clone() card { return card{c.TB, c.Token.Clone()} }

// read gives a whole file.
func (c card) read(fid uint16) []byte {
	c.Helper()
	var out []byte
	for {
		data, sw := c.send("00 B1 %04X 04 5402%04X 00", fid, len(out))
		out = append(out, data...)
		if sw == apdu.EndOfFile {
			return out
		}
		if sw != apdu.OK {
			c.Fatalf("read of %04X: %04X", fid, uint16(sw))
		}
	}
}

// write replaces a file from the start, in short commands.
func (c card) write(fid uint16, data []byte) {
	c.Helper()
	for at := 0; at == 0 || at < len(data); at += 240 {
		part := data[at:min(at+240, len(data))]
		c.ok("00 D7 %04X %02X 5402%04X 5381%02X%X", fid, 7+len(part), at, len(part), part)
	}
}

func spec(c *curve.Curve, bits int) cvc.KeySpec {
	s := cvc.KeySpec{CAR: "UTCA00001", CHR: "SOFT020000100001", Curve: c}
	if c == nil {
		s.RSABits, s.RSAExponent = bits, 65537
	}
	return s
}

func generateCommand(reference byte, s cvc.KeySpec) apdu.Command {
	return apdu.Command{INS: 0x46, P1: reference, Data: s.Encode(), Extended: true, Le: apdu.LeExtended}
}

// generate makes a key and checks the request: signed by the key, by the device,
// and that by the token's root; CExx holds it.
func (c card) generate(reference byte, s cvc.KeySpec) *pubkey.Key {
	c.Helper()
	answer := c.do(apdu.OK, generateCommand(reference, s))
	return c.checkRequest(reference, answer, s)
}

func (c card) checkRequest(reference byte, answer []byte, s cvc.KeySpec) *pubkey.Key {
	c.Helper()
	if !bytes.Equal(c.read(prefixRequest<<8|uint16(reference)), answer) {
		c.Fatal("CExx is not the answer")
	}
	r, err := cvc.ParseRequest(answer)
	if err != nil || len(r.Raw) != len(answer) {
		c.Fatalf("request: %v", err)
	}
	chain, err := cvc.ParseChain(c.read(fidDevice))
	if err != nil {
		c.Fatal(err)
	}
	root, err := chain.Verify(c.Roots())
	if err != nil {
		c.Fatal(err)
	}
	if root.Kind != cvc.RootSoftware || !strings.HasPrefix(root.CHR, "SOFTROOT") || chain.Serial() != c.Serial() {
		c.Errorf("root %+v, serial %s", root, chain.Serial())
	}
	device, err := chain.DeviceKey()
	if err != nil {
		c.Fatal(err)
	}
	if err := r.VerifyInner(); err != nil {
		c.Error(err)
	}
	if err := r.VerifyOuter(device); err != nil {
		c.Error(err)
	}
	if r.OuterCAR != c.Serial()+"00000" || r.Inner.CHR != s.CHR || r.Inner.CAR != s.CAR {
		c.Errorf("names: outer CAR %s, CHR %s, CAR %s", r.OuterCAR, r.Inner.CHR, r.Inner.CAR)
	}
	k, err := r.PublicKey()
	if err != nil {
		c.Fatal(err)
	}
	return k
}

// sample is one key, as a blob under the vector's DKEK.
type sample struct {
	name   string
	blob   []byte
	public *pubkey.Key // nil for AES
	aes    []byte
}

// fleet is one key of each type, made once by a token: the large ones take
// seconds.
var fleet = sync.OnceValues(func() ([]sample, error) {
	var list []sample
	var t fleetTB
	c := ready(&t, Options{Serial: "SOFT0200001", Memory: 1 << 20})
	ref := byte(1)
	for _, bits := range []int{1024, 2048, 3072, 4096} {
		list = append(list, sample{name: fmt.Sprintf("RSA-%d", bits), public: c.generate(ref, spec(nil, bits))})
		ref++
	}
	for _, cv := range curve.All() {
		list = append(list, sample{name: cv.Name, public: c.generate(ref, spec(cv, 0))})
		ref++
	}
	for n := range 3 {
		c.ok("80 48 %02X %02X 07 9105 1011189992", ref, 0xB0+n)
		list = append(list, sample{name: fmt.Sprintf("AES-%d", 128+64*n), aes: slices.Clone(c.state.Keys[ref].Private)})
		ref++
	}
	for i := range list {
		list[i].blob = c.ok("80 72 %02X 92 00 00 00", i+1)
	}
	return list, t.err
})

// fleetTB stands in for a test where there is none.
type fleetTB struct {
	testing.TB
	err error
}

func (t *fleetTB) Helper() {}
func (t *fleetTB) Fatal(a ...any) {
	panic(fmt.Sprint(a...))
}
func (t *fleetTB) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (t *fleetTB) Error(a ...any)            { t.err = fmt.Errorf("%s", fmt.Sprint(a...)) }
func (t *fleetTB) Errorf(f string, a ...any) { t.err = fmt.Errorf(f, a...) }

func samples(t testing.TB) map[string]sample {
	t.Helper()
	list, err := fleet()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]sample{}
	for _, s := range list {
		m[s.name] = s
	}
	return m
}

func sortedNames(m map[string]sample) []string { return slices.Sorted(maps.Keys(m)) }

// unwrap imports a blob in one command.
func (c card) unwrap(reference byte, blob []byte) {
	c.Helper()
	c.do(apdu.OK, unwrapCommand(reference, blob))
}

func unwrapCommand(reference byte, blob []byte) apdu.Command {
	return apdu.Command{CLA: 0x80, INS: 0x74, P1: reference, P2: 0x93, Data: blob, Extended: true}
}

func useCommand(ins, reference, algorithm byte, input []byte) apdu.Command {
	return apdu.Command{CLA: 0x80, INS: ins, P1: reference, P2: algorithm, Data: input, Extended: true, Le: 512}
}

func rsaPublic(k *pubkey.Key) *rsa.PublicKey { return k.RSA }
