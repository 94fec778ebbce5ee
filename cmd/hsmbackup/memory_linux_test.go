package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hsmbackup/dkek"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

func init() { programs["hsmbackup-remembered"] = remembered }

// memoryFile names the file that remembered writes.
const memoryFile = "HSMBACKUP_TEST_MEMORY"

// remembered is main, and a picture of all memory that the process can write
// to, taken when the work is done.
func remembered() {
	code := run()
	if err := photograph(os.Getenv(memoryFile)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 99
	}
	os.Exit(code)
}

func photograph(path string) error {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	buffer := make([]byte, 1<<20)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		for at := from; at < to; {
			n := min(len(buffer), int(to-at))
			local := []unix.Iovec{{Base: &buffer[0], Len: uint64(n)}}
			got, err := unix.ProcessVMReadv(os.Getpid(), local, []unix.RemoteIovec{{Base: at, Len: n}}, 0)
			if err != nil || got == 0 {
				break // a page that nobody may read
			}
			if _, err := out.Write(buffer[:got]); err != nil {
				return err
			}
			at += uintptr(got)
		}
	}
	return out.Close()
}

// copiedByGo is what Go's crypto packages keep of keys that are open on the
// host: schedules of AES begin with the key itself, and numbers of RSA are in
// several forms (docs/threat-model.md).
var copiedByGo = []string{"key that encrypts blobs", "key that authenticates blobs", "RSA prime", "RSA prime as a number", "RSA exponent", "RSA exponent as a number"}

// TestMemory looks through the memory of the program after each command of a
// job, with secrets typed at a terminal and tokens behind pcscd: nothing of them
// is left, but for what Go's own packages copy when keys are opened on the host.
func TestMemory(t *testing.T) {
	d := pcsctest.Start(t)
	s := newStage(t)
	picture := filepath.Join(s.dir, "memory")
	// A goroutine that is interrupted while it copies a secret leaves vector
	// registers on the stack of the signal: rare, and docs/threat-model.md says so.
	// Here it would make a test that fails now and then.
	s.env = append(slices.DeleteFunc(s.env, func(v string) bool { return strings.HasPrefix(v, "PCSCLITE_CSOCK_NAME=") }), memoryFile+"="+picture, "GODEBUG=asyncpreemptoff=1")
	hunted := map[string][]byte{"PIN": []byte(s.values["PIN"]), "SO-PIN": []byte(s.values["SO-PIN"])}
	so, err := hex.DecodeString(s.values["SO-PIN"])
	if err != nil {
		t.Fatal(err)
	}
	hunted["SO-PIN as bytes"] = so
	look := func(line string, answers ...answer) {
		t.Helper()
		c := &command{line: "hsmbackup-remembered " + line, answers: answers}
		if strings.HasPrefix(line, "dkek create") {
			c.finds = []find{{"password", true, regexp.MustCompile(`\n    (\S+(?: \S+){6})\n`)}}
		}
		s.run(c)
		hunted["password"] = []byte(s.values["password"])
		memory, err := os.ReadFile(picture)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(memory, []byte("hsmbackup-remembered")) {
			t.Fatal("the picture does not even hold the command line")
		}
		opened := strings.HasPrefix(line, "verify --offline") || strings.HasPrefix(line, "drill") || strings.HasPrefix(line, "dkek rekey")
		for name, value := range hunted {
			if bytes.Contains(memory, value) && !(opened && slices.Contains(copiedByGo, name)) {
				t.Errorf("hsmbackup %s leaves the %s in memory", line, name)
			}
		}
	}
	pin := answer{"PIN of SOFT0200001 (tries left: 3):", "«PIN»"}
	token := plug(t, d, 0, "SOFT0200001")
	look("dkek create --out share1.pbe", answer{"Press Enter when it is written down, and it goes off the screen.", ""})
	file, err := os.ReadFile(filepath.Join(s.dir, "share1.pbe"))
	if err != nil {
		t.Fatal(err)
	}
	share, err := dkek.OpenPBE(t.Context(), file, []byte(s.values["password"]), nil)
	if err != nil {
		t.Fatal(err)
	}
	hunted["share and DKEK"] = bytes.Clone(share.Bytes())
	set := func(serial string) []answer {
		return []answer{
			{"Initialise " + serial + "? [y/N]", "y"},
			{"SO-PIN of " + serial + ", 16 hex digits:", "«SO-PIN»"}, {"16 hex digits again:", "«SO-PIN»"},
			{"new PIN of " + serial + ", 6 to 15 characters:", "«PIN»"}, {"6 to 15 characters again:", "«PIN»"},
			{"password of share1.pbe:", "«password»"},
		}
	}
	look("init --share share1.pbe --untrusted-token SOFT0200001", set("SOFT0200001")...)
	d.Unplug(t, 0)
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"key that encrypts blobs", "key that authenticates blobs"} {
		sum := sha256.Sum256(append(bytes.Clone(share.Bytes()), 0, 0, 0, byte(i+1)))
		hunted[name] = sum[:]
	}
	maps.Copy(hunted, makeKeys(t, token, key))
	d.Plug(t, 0, token)
	look("backup", pin)
	look("verify", pin)
	look("verify --offline --share share1.pbe", answer{"password of share1.pbe:", "«password»"})
	look("drill --share share1.pbe", answer{"password of share1.pbe:", "«password»"})
	// The backup under another recovery key and back again, by its parts.
	other := dkek.NewShare()
	hunted["other share and DKEK"] = bytes.Clone(other.Bytes())
	if _, err := splitShare(filepath.Join(s.dir, ".local", "share", "hsmbackup", "catalog.db"), filepath.Join(s.dir, "parts"), other, 2, "dora", "emil"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dora", "emil"} {
		text, err := os.ReadFile(filepath.Join(s.dir, "parts", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		hunted["part of "+name] = text[:40]
		part, err := dkek.ParsePart(text)
		if err != nil {
			t.Fatal(err)
		}
		hunted["part of "+name+" in one piece"] = part.Compact()[20:60]
	}
	look("dkek rollcall --custodian dora --share parts/dora.txt")
	parts := "parts/dora.txt --SHARE parts/emil.txt"
	look("dkek rekey --why routine --share share1.pbe --new-share "+strings.ReplaceAll(parts, "SHARE", "new-share"), answer{"password of share1.pbe:", "«password»"})
	look("dkek rekey --why routine --new-share share1.pbe --share "+strings.ReplaceAll(parts, "SHARE", "share"), answer{"password of share1.pbe:", "«password»"})
	d.Unplug(t, 0)
	plug(t, d, 0, "SOFT0200002")
	look("restore --from SOFT0200001 --init --share share1.pbe --untrusted-token SOFT0200002", append(set("SOFT0200002"), becameOf("SOFT0200001"))...)
	d.Unplug(t, 0)

	// A second token, which gets the recovery key by itself, and the keys of the
	// first.
	plug(t, d, 0, "SOFT0200003")
	look("init --shares 1", set("SOFT0200003")[:5]...)
	look("dkek load --share share1.pbe --untrusted-token SOFT0200003", answer{"password of share1.pbe:", "«password»"})
	d.Plug(t, 1, token)
	look("clone --from SOFT0200001 --to SOFT0200003", pin, answer{"Restore this onto SOFT0200003? [y/N]", "y"}, answer{"PIN of SOFT0200003 (tries left: 3):", "«PIN»"})
	d.Unplug(t, 1)
	d.Unplug(t, 0)
	look("dkek split share1.pbe --split 2/2 --custodian fay --custodian gus --out more", answer{"password of share1.pbe:", "«password»"})
}

// becameOf answers what a restore asks about the token that its keys came from.
func becameOf(serial string) answer {
	return answer{"What became of " + serial + ": broken, lost, stolen, wiped? (empty: say nothing)", "broken"}
}

// makeKeys makes an EC and an RSA key on a token, and gives what is secret of
// them, as it stands in bytes and in the words of a math/big number.
func makeKeys(t *testing.T, token *softtoken.Token, key *dkek.Key) map[string][]byte {
	t.Helper()
	card, err := schsm.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	if err := card.Login(t.Context(), secret.New([]byte("648219")), false); err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	add := func(name string, big []byte) {
		little := bytes.Clone(big)
		slices.Reverse(little)
		found[name], found[name+" as a number"] = big, little
	}
	for reference, k := range map[byte]struct {
		spec        cvc.KeySpec
		description pkcs15.KeyDescription
	}{
		1: {cvc.KeySpec{Curve: curve.ByName("P-256")}, pkcs15.KeyDescription{Kind: pkcs15.EC, Bits: 256, Label: "SSH HSM"}},
		2: {cvc.KeySpec{RSABits: 2048, RSAExponent: 65537}, pkcs15.KeyDescription{Kind: pkcs15.RSA, Bits: 2048, Label: "SSH CA"}},
	} {
		k.spec.CAR, k.spec.CHR = "UTCA00001", card.Serial()+"00001"
		if _, err := card.Generate(t.Context(), reference, k.spec); err != nil {
			t.Fatal(err)
		}
		d := k.description
		d.ID, d.Reference, d.Usage = []byte{reference}, int(reference), pkcs15.DefaultUsage(d.Kind)
		if err := card.WriteFile(t.Context(), schsm.DescriptionFile(reference), d.Encode()); err != nil {
			t.Fatal(err)
		}
		wrapped, err := card.Wrap(t.Context(), reference)
		if err != nil {
			t.Fatal(err)
		}
		blob, err := dkek.ParseBlob(wrapped)
		if err != nil {
			t.Fatal(err)
		}
		private, err := key.Open(blob)
		if err != nil {
			t.Fatal(err)
		}
		if d.Kind == pkcs15.EC {
			_, scalar, _, _ := private.EC()
			add("EC key", bytes.Clone(scalar))
			continue
		}
		rsa, err := private.RSA()
		if err != nil {
			t.Fatal(err)
		}
		add("RSA prime", rsa.Primes[0].Bytes())
		add("RSA exponent", rsa.D.Bytes())
	}
	return found
}
