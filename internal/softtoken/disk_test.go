package softtoken

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
)

// childEnv makes the test binary a second process that holds a token: it opens
// the file, spends a PIN try, says so, and waits to be killed.
const childEnv = "SOFTTOKEN_TEST_CHILD"

func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	token, err := Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, command := range [][]byte{
		{0, 0xA4, 4, 0, 11, 0xE8, 0x2B, 6, 1, 4, 1, 0x81, 0xC3, 0x1F, 2, 1, 0},
		{0, 0x20, 0, 0x81, 6, '0', '0', '0', '0', '0', '0'},
	} {
		if _, err := token.Transmit(context.Background(), command); err != nil {
			os.Exit(1)
		}
	}
	fmt.Println("open")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tok")
	c := create(t, path, Options{Serial: "SOFT0200001"})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	c.initialise("920102")
	c.ok("80520000 20 %s 00", shareA)
	c.ok("80520000 20 %s 00", shareB)
	c.login()
	s := samples(t)
	for i, name := range []string{"RSA-1024", "P-384", "AES-256"} {
		c.unwrap(byte(i+1), s[name].blob)
	}
	counter := uint32(7)
	k := spec(s["P-256"].public.Curve, 0)
	k.Counter, k.Algorithms = &counter, []byte{0x73}
	c.generate(9, k)
	c.write(0xC401, []byte("description"))
	c.ok("00D7CF01 06 540200005300")
	before, raw := c.snapshot(), readFile(t, path)
	if !bytes.Contains(raw, []byte("private keys in clear")) || bytes.Contains(raw, []byte("648219")) {
		t.Error("the file does not warn, or holds the PIN")
	}

	c = c.reopen()
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("reopened, the state is another")
	}
	c.want(apdu.UnknownINS, "00200081") // selection and login are not kept
	c.login()
	for i, name := range []string{"RSA-1024", "P-384", "AES-256"} {
		c.verifySample(byte(i+1), s[name])
	}
	c.run([]step{{"an empty file", "00B1CF01 04 54020000 00", 0x6282, ""}})
	if !bytes.Equal(raw, readFile(t, path)) {
		t.Error("looking and signing changed the file")
	}
	info, err = os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	c.ok("00D7C401 06 54020000 5300") // nor does a change that is none
	if again, err := os.Stat(path); err != nil || !os.SameFile(info, again) {
		t.Error("the file was replaced for nothing")
	}
	c.do(apdu.OK, useCommand(0x68, 9, 0x73, message)) // but a counted use does
	c = c.reopen()
	if got := *c.state.Keys[9].Counter; got != 6 {
		t.Errorf("%d uses left", got)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCreateReject(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tok")
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if got := readFile(t, path); string(got) != "something else" {
		t.Errorf("overwritten: %q", got)
	}
	if _, err := Create(filepath.Join(dir, "none", "a.tok"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no folder: %v", err)
	}
	if _, err := Create(filepath.Join(dir, "b.tok"), Options{Serial: "x"}); !errors.Is(err, ErrOption) {
		t.Errorf("bad option: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "a.tok"), filepath.Join(dir, "link.tok")
	c := create(t, path, Options{})
	c.initialise("")
	if err := os.Symlink(path, link); err != nil {
		t.Logf("no links here: %v", err)
		link = path
	}
	for _, p := range []string{path, link} {
		if _, err := Open(p); !errors.Is(err, ErrInUse) {
			t.Errorf("second Open of %s: %v", filepath.Base(p), err)
		}
	}
	if _, err := Create(path, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("Create over an open token: %v", err)
	}
	c.ok(verifyPIN) // the first is none the worse
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	d := openCard(t, link)
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Errorf("Open beside the link: %v", err)
	}
	d.login()
	d.write(fidTokenInfo, []byte("x"))
	if info, err := os.Lstat(link); err != nil || link != path && info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info.Mode(), err)
	}
}

// Another process keeps this one out. Killed, it leaves a token that opens,
// with the try gone that it spent.
func TestSecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tok")
	c := create(t, path, Options{})
	c.initialise("")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Errorf("beside another process: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	c = openCard(t, path)
	c.ok(selectAID)
	c.want(0x63C2, "00200081")
}

func TestOpenReject(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tok")
	c := create(t, path, Options{})
	c.initialise("920100")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	good := readFile(t, path)
	rejected := func(name string, content []byte, want error) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if !bytes.Equal(readFile(t, path), content) {
			t.Errorf("%s: Open changed the file", name)
		}
	}
	for i := range len(good) {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 7)
		if _, err := decode(bad); !errors.Is(err, ErrNotToken) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := decode(good[:i]); !errors.Is(err, ErrNotToken) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	rejected("empty", nil, ErrNotToken)
	rejected("cut", good[:len(good)-1], ErrNotToken)
	rejected("changed", append([]byte("{ "), good[1:]...), ErrNotToken)
	rejected("something behind it", append(bytes.Clone(good), '\n'), ErrNotToken)
	rejected("no JSON", []byte("PNG"), ErrNotToken)
	rejected("other JSON", []byte("{}"), ErrNotToken)

	var doc document
	if err := json.Unmarshal(good, &doc); err != nil {
		t.Fatal(err)
	}
	change := func(from, to string) []byte {
		t.Helper()
		if !bytes.Contains(doc.State, []byte(from)) {
			t.Fatalf("no %s in the state", from)
		}
		raw, err := encode(bytes.Replace(doc.State, []byte(from), []byte(to), 1))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	rejected("a newer version", change(`"Version":1`, `"Version":2`), ErrNewer)
	rejected("version 0", change(`"Version":1`, `"Version":0`), ErrNotToken)
	// With the right checksum, and still no token: nothing of it may panic.
	for _, x := range [][2]string{
		{`"Major":3`, `"Major":9`}, {`"Serial":"`, `"Serial":"X`}, {`"Keys":{}`, `"Keys":{"1":null}`}, {`"Keys":{}`, `"Keys":null`},
		{`"Keys":{}`, `"Keys":{"0":{"Kind":3,"Bits":128,"Private":"AAAAAAAAAAAAAAAAAAAAAA==","Domain":0}}`},
		{`"Keys":{}`, `"Keys":{"1":{"Kind":3,"Bits":128,"Private":"AAAAAAAAAAAAAAAAAAAAAA==","Domain":1}}`},
		{`"Keys":{}`, `"Keys":{"1":{"Kind":3,"Bits":128,"Private":"AAAA","Domain":0}}`},
		{`"Keys":{}`, `"Keys":{"1":{"Kind":2,"Bits":256,"Curve":"none","Private":"AAAA","Domain":0}}`},
		{`"Keys":{}`, `"Keys":{"1":{"Kind":1,"Bits":1024,"Private":"AAAA","Domain":0}}`},
		{`"Keys":{}`, `"Keys":{"1":{"Kind":0,"Private":"AAAA","Domain":0}}`},
		{`"Files":{}`, `"Files":null`}, {`"APDULimit":1232`, `"APDULimit":0`}, {`"Memory":77824`, `"Memory":-1`},
		{`"RootKey":"`, `"RootKey":"AAAA`}, {`"DeviceKey":"`, `"DeviceKey":"AAAA`}, {`"Outstanding":0`, `"Outstanding":1`},
		{`"DKEK":"`, `"DKEK":"AAAA`}, {`"PIN":{`, `"PI":{`}, {`"SO":{`, `"S":{`}, {`"Length":6`, `"Length":600`},
		{`"Tries":3`, `"Tries":-3`}, {`"Tries":3`, `"Tries":4`}, {`"Issuer":1`, `"Issuer":-1`}, {`"Serial"`, `"X"`}, {`"DeviceCertificates"`, `"X"`},
		{`"Options":1`, `"Options":-1`}, {`"Major":3`, `"Major":"3"`},
	} {
		rejected(strings.Join(x[:], " to "), change(x[0], x[1]), ErrNotToken)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	openCard(t, path).login() // what all this was made of is fine
	if _, err := Open(filepath.Join(dir, "none.tok")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("a folder opens as a token")
	}
}

// Where nothing can be stored nothing is answered as done, and nothing is done:
// no login, no key, no try given back.
func TestSaveFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a.tok")
	c := create(t, path, Options{})
	c.initialise("920102")
	c.ok("80520000 20 %s 00", shareA)
	c.ok("80520000 20 %s 00", shareB)
	c.login()
	c.unwrap(1, samples(t)["P-256"].blob)
	c.write(0xC401, []byte("description"))
	one := uint32(1)
	k := spec(samples(t)["P-256"].public.Curve, 0)
	k.Counter = &one
	c.generate(2, k)
	before := c.snapshot()
	// Not even root can write into a folder that is not there.
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	changing := map[string][]byte{
		"GENERATE":     mustBytes(t, generateCommand(3, spec(k.Curve, 0))),
		"AES":          unhex(t, "804803B0 00"),
		"UNWRAP":       mustBytes(t, unwrapCommand(3, samples(t)["P-256"].blob)),
		"UPDATE":       unhex(t, "00D7C401 07 540200005301AA"),
		"create":       unhex(t, "00D7CF01 06 540200005300"),
		"DELETE":       unhex(t, "00E40200 02 C401"),
		"DELETE key":   unhex(t, "00E40200 02 CC01"),
		"counted use":  mustBytes(t, useCommand(0x68, 2, 0x73, message)),
		"change PIN":   unhex(t, "00240081 0C "+testPIN+otherPIN),
		"unblock":      unhex(t, "002C0181 08"+testSOPIN),
		"INITIALIZE":   unhex(t, fmt.Sprintf("80500000 15 8106%s 8208%s 910103", testPIN, testSOPIN)),
		"wrong SO-PIN": unhex(t, fmt.Sprintf("80500000 15 8106%s 8208%s 910103", testPIN, "3030303030303030")),
	}
	for name, command := range changing {
		if data, sw := c.transmit(command); sw != apdu.MemoryFailure || len(data) > 0 {
			t.Errorf("%s: %X %04X", name, data, uint16(sw))
		}
		if !bytes.Equal(before, c.snapshot()) {
			t.Fatalf("%s changed the token", name)
		}
	}
	c.want(apdu.OK, "00200081") // the login is as it was
	for _, name := range []string{"a use", "WRAP", "READ"} {
		command := map[string][]byte{"a use": mustBytes(t, useCommand(0x68, 1, 0x73, message)), "WRAP": unhex(t, "80720192000000"), "READ": unhex(t, "00B1C401 04 54020000 05")}[name]
		if _, sw := c.transmit(command); sw != apdu.OK {
			t.Errorf("%s: %04X", name, uint16(sw))
		}
	}
	if err := c.Update("3.6", ""); !errors.Is(err, ErrHoldsObjects) {
		t.Error(err)
	}
	c.want(apdu.MemoryFailure, verifyPIN)
	c.want(0x63C3, "00200081") // a PIN that could not be compared is no login
	c.want(apdu.MemoryFailure, wrongPIN)
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("VERIFY changed the token")
	}
	if err := os.Rename(dir+"2", dir); err != nil {
		t.Fatal(err)
	}
	c.ok(verifyPIN)
	for name, command := range changing {
		if _, sw := c.clone().transmit(command); sw == apdu.MemoryFailure {
			t.Errorf("%s: %04X again", name, uint16(sw))
		}
	}
	c.transmit(changing["DELETE"])
	if c = c.reopen(); c.state.Files[0xC401] != nil {
		t.Error("C401 is still there")
	}

	// A share that cannot be stored is not loaded.
	d := create(t, filepath.Join(dir, "b.tok"), Options{})
	d.initialise("920101")
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	d.want(apdu.MemoryFailure, "80520000 20 %s 00", shareA)
	if got := d.ok("80520000 00"); !bytes.Equal(got, unhex(t, "0101 0000000000000000")) {
		t.Errorf("DKEK status %X", got)
	}
	if err := os.Rename(dir+"2", dir); err != nil {
		t.Fatal(err)
	}

	// An update that cannot be stored has not happened.
	c.login()
	for _, fid := range []string{"CC01", "CC02", "CE02"} {
		c.ok("00E40200 02 %s", fid)
	}
	before = c.snapshot()
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	if err := c.Update("4.1", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("update: %v", err)
	}
	if !bytes.Equal(before, c.snapshot()) {
		t.Error("an update that was not stored changed the token")
	}
	if err := os.Rename(dir+"2", dir); err != nil {
		t.Fatal(err)
	}
}
