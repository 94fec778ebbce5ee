package lives

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/tokentest"
	"hsmbackup/store"
)

// World is where one history takes place: tokens, catalogs, a clock.
type World struct {
	t       testing.TB
	program Program
	ctx     context.Context
	dir     string
	beside  *tokentest.Model // makes certificates

	tokens   map[int]*Token
	catalogs [2]*Catalog
	clock    time.Duration

	step  int
	story []string
	wrong []Violation
	tally *Tally
	// over: nothing that follows would tell anything.
	over bool
	// previous is the command before.
	previous attempt

	madeUp   map[string]*dkek.Key // recovery keys that tokens made up, by KCV
	rsaNames map[string]string
	blobs    map[store.Hash]string
}

// attempt is a command line that was run.
type attempt struct {
	step int
	line string
	r    result
}

// Violation is something that the oracle found wrong. Rule is the same however
// keys and serials are called.
type Violation struct {
	Rule, Text string
	Step       int
}

// Token is one token, through all its firmware updates.
type Token struct {
	file     string
	physical int
	made     string // its first firmware
	serials  []string
	known    *truth
	// copies are undescribed keys that the program made, by the private key.
	copies map[string]bool
	// away is what a firmware update deleted, until it is back or given up.
	away *truth
}

func (t *Token) serial() string { return t.serials[len(t.serials)-1] }
func (t *Token) soft() string   { return "soft:" + t.file }

// Catalog is one catalog file, and what befell it.
type Catalog struct {
	path  string
	known *record
	// old is the file as it was copied, for somebody to put back.
	old []byte
	// whole is the file before it was damaged.
	whole []byte
	// begun are the firmware updates that were begun with it, by the old serial.
	begun, begunOld map[string]*begun
}

// begun is what was on a token when its update began, and what may be lost.
type begun struct {
	was       *truth
	discarded map[string]bool // private keys
}

func (c *Catalog) exists() bool {
	_, err := os.Stat(c.path)
	return err == nil
}

func (c *Catalog) name() string { return strings.TrimSuffix(filepath.Base(c.path), ".db") }

const (
	pin   = "648219"
	soPIN = "57621880"

	attachment = "note.txt"
	attached   = "kept with the keys"
)

func newWorld(t testing.TB, program Program, tally *Tally) *World {
	dir, err := os.MkdirTemp(memory(), "lives-")
	w := &World{
		t: t, program: program, ctx: context.Background(), dir: dir,
		beside: tokentest.New(t, 1), tokens: map[int]*Token{}, tally: tally,
		madeUp: map[string]*dkek.Key{}, rsaNames: map[string]string{}, blobs: map[store.Hash]string{},
	}
	w.must("folder", err)
	put := func(name string, content []byte) {
		w.must("file", os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	put("PIN", []byte(pin+"\n"))
	put("SO", fmt.Appendf(nil, "%X\n", soPIN))
	put(attachment, []byte(attached))
	for _, r := range recoveries() {
		for name, text := range r.parts {
			put(name, text)
		}
	}
	for i := range w.catalogs {
		name := string(rune('a' + i))
		w.must("folder", os.MkdirAll(filepath.Join(dir, "copies", name), 0o700))
		w.catalogs[i] = &Catalog{path: filepath.Join(dir, name+".db"), begun: map[string]*begun{}}
	}
	return w
}

// memory is a folder that is not on a disk, where there is one: what is synced is
// not what is tried here.
func memory() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func (w *World) close() { _ = os.RemoveAll(w.dir) }

func (w *World) now() time.Time { return time.Now().Add(w.clock) }

// must ends the test: what fails here is no fault of the program.
func (w *World) must(what string, err error) {
	if err != nil {
		panic(fmt.Sprintf("step %d, %s: %v\n%s", w.step, what, err, strings.Join(w.story, "\n")))
	}
}

func (w *World) tell(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), w.dir+"/", "")
	w.story = append(w.story, fmt.Sprintf("%2d %s", w.step, line))
}

// bad notes a violation; the history ends with the step.
func (w *World) bad(rule, format string, args ...any) {
	v := Violation{rule, fmt.Sprintf(format, args...), w.step}
	w.wrong = append(w.wrong, v)
	w.tell("   *** %s: %s", v.Rule, v.Text)
}

// play plays a history, to the first violation or to its end.
func (w *World) play(h []Step) {
	for i, s := range h {
		w.step = i
		w.do(s)
		if len(w.wrong) > 0 || w.over {
			return
		}
	}
	w.step = len(h)
	w.last()
}

func (w *World) do(s Step) {
	k := kinds[s.Do]
	t := w.token(s.Token)
	w.tally.step(s)
	if k.command == nil {
		if err := k.hand(w, t, s); err != nil {
			w.tell("   (%s: %v)", s.Do, err)
		}
		return
	}
	c := w.catalogs[s.Catalog%len(w.catalogs)]
	if cmd := k.command(w, t, c, s); cmd != nil {
		w.carryOut(s, cmd)
	}
}

// token gives a token, which is new the first time.
func (w *World) token(n int) *Token {
	if w.tokens[n] == nil {
		w.makeToken(n, "3.5")
	}
	return w.tokens[n]
}

func (w *World) makeToken(n int, firmware string) {
	w.tokens[n] = w.blankToken(n, firmware)
}

// blankToken is a token that was never initialised.
func (w *World) blankToken(n int, firmware string) *Token {
	t := &Token{
		file: filepath.Join(w.dir, fmt.Sprintf("t%d.tok", n)), physical: n, made: firmware,
		serials: []string{serialOf(n, 0)}, copies: map[string]bool{},
	}
	w.must("token", os.WriteFile(t.file, blank(w, n, firmware, 0, firmware), 0o600))
	return t
}

func serialOf(physical, updates int) string {
	return fmt.Sprintf("SOFT%02d%05d", updates+2, physical+1)
}

// blanks are the files of tokens that were never initialised: their certificates
// take a while, and are made once.
var blanks = map[string][]byte{}

// blank is a token that began with one firmware and has another after so many
// updates.
func blank(w *World, physical int, made string, updates int, firmware string) []byte {
	key := fmt.Sprint(physical, made, updates, firmware)
	if blanks[key] != nil {
		return blanks[key]
	}
	path := filepath.Join(w.dir, "blank.tok")
	defer os.Remove(path)
	var soft *softtoken.Token
	var err error
	if updates == 0 {
		o := softtoken.Options{Firmware: made, Serial: serialOf(physical, 0)}
		soft, err = softtoken.Create(path, o)
	} else {
		w.must("blank", os.WriteFile(path, blank(w, physical, made, updates-1, made), 0o600))
		if soft, err = softtoken.Open(path); err == nil {
			err = soft.Update(firmware, serialOf(physical, updates))
		}
	}
	w.must("blank", err)
	w.must("blank", soft.Close())
	blanks[key], err = os.ReadFile(path)
	w.must("blank", err)
	return blanks[key]
}

// recovery is a recovery key of which people have the shares.
type recovery struct {
	name  string
	key   *dkek.Key
	kcv   string
	share []*dkek.Share
	parts map[string][]byte // files: parts cost no key derivation
}

// recoveries are made once.
var recoveries = sync.OnceValue(func() []*recovery {
	fine := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var list []*recovery
	for i, n := range []int{1, 2, 1} {
		r := &recovery{name: fmt.Sprintf("R%d", i), parts: map[string][]byte{}}
		for range n {
			r.share = append(r.share, dkek.NewShare())
		}
		var err error
		r.key, err = dkek.Combine(r.share...)
		fine(err)
		r.kcv = r.key.KCV().String()
		for j, s := range r.share {
			o := dkek.SplitOptions{Needed: 2, Total: 2, Share: j + 1, Shares: n, KCV: r.key.KCV()}
			parts, err := dkek.Split(s, o)
			fine(err)
			for k, p := range parts {
				r.parts[fmt.Sprintf("%s-%d-%d.txt", r.name, j+1, k+1)] = p.Text()
			}
		}
		list = append(list, r)
	}
	return list
})

// files are those that bring the shares of a recovery key.
func (w *World) files(r *recovery) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(r.parts)) {
		list = append(list, filepath.Join(w.dir, name))
	}
	return list
}

func (w *World) recovery(kcv string) *recovery {
	for _, r := range recoveries() {
		if r.kcv == kcv && kcv != "" {
			return r
		}
	}
	return nil
}

// rsaKeys are made once: making one takes long.
var rsaKeys = sync.OnceValue(func() (list []*rsa.PrivateKey) {
	for range 4 {
		k, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			panic(err)
		}
		list = append(list, k)
	}
	return list
})

// recoveriesOf are those that a token has, or had when a snapshot was taken.
func (w *World) recoveriesOf(kcvs ...string) (list []*recovery) {
	taken := map[string]bool{}
	for _, kcv := range kcvs {
		if r := w.recovery(kcv); r != nil && !taken[kcv] {
			taken[kcv] = true
			list = append(list, r)
		}
	}
	return list
}

func (s *truth) kcvs() (list []string) {
	for _, d := range s.Domains {
		list = append(list, d.kcv())
	}
	return list
}

func kcvsOf(s *store.Snapshot) (list []string) {
	for _, d := range s.Token.Domains {
		if d.Shares > 0 {
			list = append(list, d.KCV)
		}
	}
	return list
}

// save keeps all files, and gives what puts them back as they were.
func (w *World) save() (putBack func()) {
	files := map[string][]byte{}
	each := func(do func(path string)) {
		_ = filepath.Walk(w.dir, func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				do(path)
			}
			return nil
		})
	}
	each(func(path string) {
		b, err := os.ReadFile(path)
		w.must("save", err)
		files[path] = b
	})
	return func() {
		each(func(path string) {
			if files[path] == nil {
				w.must("put back", os.Remove(path))
			}
		})
		for path, b := range files {
			w.must("put back", os.WriteFile(path, b, 0o600))
		}
		w.lookAgain()
	}
}

// lookAgain forgets what was read: files have changed.
func (w *World) lookAgain() {
	for _, t := range w.tokens {
		t.known = nil
	}
	for _, c := range w.catalogs {
		c.known = nil
	}
}

// truths is what is on all tokens.
func (w *World) truths() map[*Token]*truth {
	all := map[*Token]*truth{}
	for _, t := range w.tokens {
		all[t] = w.truth(t)
	}
	return all
}

func clones(m map[string]*begun) map[string]*begun {
	all := map[string]*begun{}
	for serial, b := range m {
		all[serial] = &begun{b.was, maps.Clone(b.discarded)}
	}
	return all
}
