package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/tokentest"
)

// hunt looks for secrets in all that a command leaves behind: the memory of its
// process, what the terminal shows, and every file within reach.
type hunt struct {
	*stage
	picture string
	// secrets are hunted everywhere; numbers in memory only, where a secret may
	// stand in the words of a math/big number.
	hunted, numbers map[string][]byte
	files           tokentest.Searcher
	// at are the files where a secret was asked for.
	at map[string]string
}

func newHunt(t *testing.T) *hunt {
	t.Helper()
	h := &hunt{stage: newStage(t), hunted: map[string][]byte{}, numbers: map[string][]byte{}, at: map[string]string{}}
	h.picture = filepath.Join(t.TempDir(), "memory") // apart from what is searched
	temporary := filepath.Join(h.dir, "tmp")
	if err := os.Mkdir(temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	h.env = append(slices.DeleteFunc(h.env, func(v string) bool { return strings.HasPrefix(v, "PCSCLITE_CSOCK_NAME=") }),
		memoryFile+"="+h.picture, "TMPDIR="+temporary, "GODEBUG=asyncpreemptoff=1") // see TestMemory
	// Everything is typed here.
	for _, name := range []string{"PIN", "SO", "PW"} {
		if err := os.Remove(filepath.Join(h.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"PIN", "SO-PIN", "password"} {
		h.hide(name, []byte(h.values[name]))
	}
	so, err := hex.DecodeString(h.values["SO-PIN"])
	if err != nil {
		t.Fatal(err)
	}
	h.hide("SO-PIN as bytes", so)
	return h
}

// hide has a secret hunted from now on.
func (h *hunt) hide(name string, value []byte) {
	h.hunted[name] = value
	h.files.Add(name, value)
}

// hideKeys hides what is secret of keys; names that end in "as a number" are
// for memory only.
func (h *hunt) hideKeys(keys map[string][]byte) {
	for name, value := range keys {
		if strings.HasSuffix(name, "as a number") {
			h.numbers[name] = value
			continue
		}
		h.hide(name, value)
	}
}

// hideShare hides a share, which makes a recovery key alone, and what is derived
// from that; it gives the key.
func (h *hunt) hideShare(name string, share *dkek.Share) *dkek.Key {
	h.t.Helper()
	h.hide(name+" and DKEK", bytes.Clone(share.Bytes()))
	for i, derived := range []string{"key that encrypts blobs", "key that authenticates blobs"} {
		sum := sha256.Sum256(append(bytes.Clone(share.Bytes()), 0, 0, 0, byte(i+1)))
		h.hide(derived+" of "+name, sum[:])
	}
	key, err := dkek.Combine(share)
	if err != nil {
		h.t.Fatal(err)
	}
	return key
}

// look runs a command at the terminal and looks for what it left. With opened
// the command has keys open on the host, of which Go's packages keep copies
// (docs/threat-model.md).
func (h *hunt) look(c *command, opened bool) {
	h.t.Helper()
	// What stands on the screen is looked for by the stage.
	for name, value := range h.hunted {
		for name, form := range map[string]string{name: string(value), name + " in hex": hex.EncodeToString(value)} {
			h.values[name], h.stage.secrets[name] = form, true
		}
	}
	line := c.line
	c.line = "hsmbackup-remembered " + line
	h.run(c)
	h.scan(line, opened)
}

// scan looks through what the last command left once more, for what is hidden
// since.
func (h *hunt) scan(line string, opened bool) {
	h.t.Helper()
	for _, trace := range h.traces(opened) {
		h.t.Errorf("hsmbackup %s: %s", line, trace)
	}
}

// traces names what is found of secrets, and where.
func (h *hunt) traces(opened bool) []string {
	h.t.Helper()
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	memory, err := os.ReadFile(h.picture)
	if err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Contains(memory, []byte("hsmbackup-remembered")) {
		h.t.Fatal("the picture does not even hold the command line")
	}
	all := maps.Clone(h.hunted)
	maps.Copy(all, h.numbers)
	for name, value := range all {
		copied := opened && slices.ContainsFunc(copiedByGo, func(c string) bool { return strings.HasPrefix(name, c) })
		if bytes.Contains(memory, value) && !copied {
			add("its memory holds the %s", name)
		}
	}
	for _, dir := range []string{h.dir, h.values["STICK"]} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			for _, name := range h.files.Find(b) {
				if wanted := h.at[filepath.Base(path)]; wanted == "" || !strings.HasPrefix(name, wanted) {
					add("%s holds the %s", path, name)
				}
			}
			return err
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(h.dir, "tmp"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range left {
		add("%s is left of its temporary files", f.Name())
	}
	return list
}

// TestMemoryOfTheJob is the job of four commands on tokens behind pcscd: during
// all of it no private key is in this computer's memory, and after each command
// no PIN, password, share or recovery key either, nor anywhere else.
func TestMemoryOfTheJob(t *testing.T) {
	d := pcsctest.Start(t)
	h := newHunt(t)
	look := func(line string, answers ...answer) {
		t.Helper()
		h.look(&command{line: line, answers: answers}, false)
	}
	const old, successor, spare = "SOFT0200041", "SOFT0400041", "SOFT0400042"
	token := plug(t, d, 0, old)
	password := answer{"password of share1.pbe:", "«password made»"}
	fresh := func(serial string, first answer) []answer {
		return []answer{first,
			{"SO-PIN of " + serial + ", 16 hex digits:", "«SO-PIN»"}, {"16 hex digits again:", "«SO-PIN»"},
			{"new PIN of " + serial + ", 6 to 15 characters:", "«PIN»"}, {"6 to 15 characters again:", "«PIN»"},
			password,
		}
	}
	setup := &command{line: "setup --label ssh --untrusted-token " + old, answers: []answer{
		{"new PIN of " + old + ", 6 to 15 characters:", "«PIN»"}, {"6 to 15 characters again:", "«PIN»"},
		{"Press Enter when it is written down, and it goes off the screen.", ""},
		{"Type the SO-PIN from what you have written down, to see that it is right:", "«SO-PIN made»"},
		{"Forbid that the SO-PIN unblocks the PIN? [y/N]", "n"},
		{"Press Enter when it is written down, and it goes off the screen.", ""},
		{"Type the password from what you have written down, to see that it is right:", "«password made»"},
		{"Initialise " + old + "? [y/N]", "y"},
	}, finds: []find{
		{"SO-PIN made", true, regexp.MustCompile(`(\d{4} \d{4} \d{4} \d{4})`)},
		{"password made", true, regexp.MustCompile(`(?m)^ *│? *((?:[a-z]{3,8} ){6}[a-z]{3,8})$`)},
	}}
	h.look(setup, false)
	h.hide("SO-PIN made", []byte(strings.ReplaceAll(h.values["SO-PIN made"], " ", "")))
	h.hide("SO-PIN made, in groups", []byte(h.values["SO-PIN made"]))
	h.hide("password made", []byte(h.values["password made"]))
	file, err := os.ReadFile(filepath.Join(h.dir, "share1.pbe"))
	if err != nil {
		t.Fatal(err)
	}
	share, err := dkek.OpenPBE(t.Context(), file, []byte(h.values["password made"]), nil)
	if err != nil {
		t.Fatal(err)
	}
	key := h.hideShare("share", share)
	h.scan("setup", false)
	d.Unplug(t, 0)
	h.hideKeys(makeKeys(t, token, key))
	d.Plug(t, 0, token)
	pin := answer{"PIN of " + old + " (tries left: 3):", "«PIN»"}
	look("backup", pin)
	look("verify --pkcs11", pin)
	look("firmware-update --copy-to «STICK» --shares-checked "+key.KCV().String(),
		answer{"nothing is deleted before you say yes. [y/N]", "y"}, pin, answer{"Type its serial, " + old + ", to go on:", old})
	d.Unplug(t, 0)
	if err := token.Update("3.6", successor); err != nil {
		t.Fatal(err)
	}
	d.Plug(t, 0, token)
	look("firmware-update --share share1.pbe --untrusted-token "+successor, fresh(successor, answer{"Type its serial, " + successor + ", to go on:", successor})...)
	d.Unplug(t, 0)
	plug(t, d, 0, spare)
	look("restore --from "+successor+" --init --share share1.pbe --untrusted-token "+spare, append(fresh(spare, answer{"Initialise " + spare + "? [y/N]", "y"}), becameOf(successor))...)
	look("export out")
	d.Unplug(t, 0)
}

// hidePart hides a part. Its end is the secret; the beginning names the set, and
// all parts have it.
func (h *hunt) hidePart(what string, part *dkek.Part) {
	compact := part.Compact()
	h.hide(what, compact[len(compact)-60:len(compact)-16])
	lines := bytes.Split(bytes.TrimSpace(part.Text()), []byte("\n"))
	h.hide(what+", as it is written", lines[len(lines)-2])
}

// hideParts hides the parts in a folder, which may stand in their own files.
func (h *hunt) hideParts(dir string, names ...string) []*dkek.Part {
	h.t.Helper()
	var list []*dkek.Part
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(h.dir, dir, name+".txt"))
		if err != nil {
			h.t.Fatal(err)
		}
		part, err := dkek.ParsePart(text)
		if err != nil {
			h.t.Fatal(err)
		}
		h.hidePart(fmt.Sprintf("part of %s in %s", name, dir), part)
		h.at[name+".txt"] = "part of " + name
		list = append(list, part)
	}
	return list
}

// TestMemoryOfCustodians is the life of a recovery key in parts: after each
// command none of them is in this computer's memory, nor anywhere but in the
// files that were asked for.
func TestMemoryOfCustodians(t *testing.T) {
	d := pcsctest.Start(t)
	h := newHunt(t)
	look := func(line string, answers ...answer) {
		t.Helper()
		h.look(&command{line: line, answers: answers}, false)
	}
	const serial = "SOFT0200043"
	const create = "dkek create --split 2/3 --custodian alice --custodian bob --custodian carol --out parts"
	look(create)
	parts := h.hideParts("parts", "alice", "bob", "carol")
	share, err := dkek.CombineParts(parts[:2])
	if err != nil {
		t.Fatal(err)
	}
	h.hideShare("share", share)
	h.scan(create, false)
	two := "--share parts/alice.txt --share parts/carol.txt"
	look("dkek check parts/alice.txt parts/carol.txt")
	look("dkek rollcall --custodian bob --share parts/bob.txt")
	look("dkek combine "+two+" --out one.pbe --password prompt",
		answer{"password of the new share:", "«password»"}, answer{"password of the new share again:", "«password»"})
	look("dkek resplit " + two + " --split 2/2 --custodian dave --custodian erin --out new")
	h.hideParts("new", "dave", "erin")
	h.scan("dkek resplit", false)
	plug(t, d, 0, serial)
	look("init --share new/dave.txt --share new/erin.txt --untrusted-token "+serial,
		answer{"Initialise " + serial + "? [y/N]", "y"},
		answer{"SO-PIN of " + serial + ", 16 hex digits:", "«SO-PIN»"}, answer{"16 hex digits again:", "«SO-PIN»"},
		answer{"new PIN of " + serial + ", 6 to 15 characters:", "«PIN»"}, answer{"6 to 15 characters again:", "«PIN»"})
	look("log --export record.txt")
	d.Unplug(t, 0)
}

// TestHunt finds a secret wherever it is left.
func TestHunt(t *testing.T) {
	h := newHunt(t)
	h.hide("part of bob", []byte("qpzry9x8gf2tvdw0s3jn"))
	h.at["bob.txt"] = "part of bob"
	key, err := dkek.ShareFromBytes(bytes.Repeat([]byte("key!"), 8))
	if err != nil {
		t.Fatal(err)
	}
	h.hideShare("share", key)
	h.hideKeys(map[string][]byte{"RSA prime": []byte("a prime number"), "RSA prime as a number": []byte("rebmun emirp a")})
	plant := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const line = "hsmbackup-remembered backup"
	plant(filepath.Join(h.dir, "bob.txt"), "# bob\nqpzry9x8gf2tvdw0s3jn\n") // asked for there
	plant(h.picture, line)
	if got := h.traces(false); len(got) > 0 {
		t.Errorf("nothing was left: %q", got)
	}
	for _, c := range []struct{ path, content, want string }{
		{h.picture, line + h.values["PIN"], "its memory holds the PIN"},
		{h.picture, line + "rebmun emirp a", "its memory holds the RSA prime as a number"},
		{filepath.Join(h.dir, "c.db"), "x" + strings.Repeat("key!", 8), "c.db holds the share and DKEK"},
		{filepath.Join(h.dir, "alice.txt"), "qpzry9x8gf2tvdw0s3jn", "alice.txt holds the part of bob"},
		{filepath.Join(h.dir, "bob.txt"), fmt.Sprintf("%x", h.values["password"]), "bob.txt holds the password in hex"},
		{filepath.Join(h.values["STICK"], "copy.db"), h.values["SO-PIN"], "copy.db holds the SO-PIN"},
		{filepath.Join(h.dir, "tmp", "x"), "", "x is left of its temporary files"},
	} {
		before, readErr := os.ReadFile(c.path)
		plant(c.path, c.content)
		if got := h.traces(false); !slices.ContainsFunc(got, func(trace string) bool { return strings.HasSuffix(trace, c.want) }) {
			t.Errorf("%s: %q", c.want, got)
		}
		if readErr == nil {
			plant(c.path, string(before))
		} else if err := os.Remove(c.path); err != nil {
			t.Fatal(err)
		}
	}
	// What Go's packages copy is let pass where keys were opened, and there only.
	plant(h.picture, line+"a prime number")
	if got := h.traces(true); len(got) > 0 {
		t.Errorf("opened: %q", got)
	}
	if got := h.traces(false); len(got) != 1 {
		t.Errorf("not opened: %q", got)
	}
}
