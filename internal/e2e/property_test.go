//go:build linux && cgo

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/tokentest"
)

// propertyTokens is how many tokens TestProperty fills.
const propertyTokens = 6

// What TestProperty in package backup does in process for many tokens, the whole
// program does here for some in a reader of a real pcscd: each is filled at
// random, backed up, wiped or taken away, set up anew and restored, and every
// file is then byte for byte what it was unless it was named before.
func TestProperty(t *testing.T) {
	seeds := []uint64{tokentest.Seed()}
	if seeds[0] == 0 {
		seeds = nil
		for range propertyTokens {
			seeds = append(seeds, rand.Uint64()|1)
		}
	}
	var sum tokentest.Tally
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			p := &property{Model: tokentest.New(t, seed), r: reader{t, 0, t.TempDir()}, parts: map[*dkek.Share][]string{}, d: pcsctest.Start(t), empty: true,
				out: tokentest.Outcome{NamedKeys: map[byte]bool{}, NamedFiles: map[string]bool{}, Cleaned: map[byte]bool{}, Proven: map[byte]bool{}, Why: map[byte]string{}}}
			sum.Add(p.run())
		})
	}
	t.Logf("%s", sum)
}

// property is one token of TestProperty, and what was said of it.
type property struct {
	*tokentest.Model
	r reader
	d *pcsctest.Daemon
	// parts are the files of each share: parts cost no derivation.
	parts map[*dkek.Share][]string
	out   tokentest.Outcome
	// empty: no key was exported.
	empty bool
}

// at reaches the token in the reader through pcscd, as the program does.
func (p *property) at(login bool, do func()) {
	p.r.Helper()
	conn, err := pcsc.Connect(p.r.Context(), p.d.ReaderName(0))
	p.Must("connect", err)
	defer conn.Close()
	p.Card, err = schsm.Open(p.r.Context(), conn)
	p.Must("open", err)
	defer p.Card.Close()
	if login {
		p.Must("login", p.Card.Login(p.r.Context(), secret.New([]byte(pin)), true))
	}
	do()
}

// says runs the program, which must end with one of the codes, and reads the
// document that it gives.
func (p *property) says(document any, codes []int, args ...string) pcsctest.Result {
	p.r.Helper()
	result := p.r.hsmbackup(secrets(append(args, "--json")...)...)
	if !slices.Contains(codes, result.Code) {
		p.r.Fatalf("%v: exit code %d, want one of %v\n%s%s", args, result.Code, codes, result.Stdout, result.Stderr)
	}
	p.Must(fmt.Sprint(args), json.Unmarshal([]byte(result.Stdout), document))
	return result
}

// split writes the parts of a set of shares, for the program to read.
func (p *property) split(set tokentest.Set) {
	p.r.Helper()
	for i, share := range set.Load {
		parts, err := dkek.Split(share, dkek.SplitOptions{Needed: 2, Total: 2, Share: i + 1, Shares: len(set.Load), KCV: p.DKEKs[set.Number].KCV()})
		p.Must("split", err)
		for j, part := range parts {
			name := fmt.Sprintf("domain%d-share%d-part%d.txt", set.Number, i+1, j+1)
			p.r.write(name, part.Text())
			p.parts[share] = append(p.parts[share], name)
		}
	}
}

// give are the flags for shares.
func (p *property) give(shares []*dkek.Share) (flags []string) {
	for _, s := range shares {
		for _, name := range p.parts[s] {
			flags = append(flags, "--share", name)
		}
	}
	return flags
}

func (p *property) run() tokentest.Tally {
	p.r.Helper()
	token := p.Token()
	p.d.Plug(p.r, 0, token)
	var sets []tokentest.Set
	p.at(false, func() {
		s := p.SetUp(p.Card.Version())
		p.Initialise(s)
		p.Fill()
		sets = s.Sets
	})
	// The shares are shown once there is a catalog, so that what the PIN protects
	// can be sealed; most of the times.
	var first struct{}
	p.cleaned(p.says(&first, []int{0, 3}, "backup", "--no-proof", "--confirm", tokentest.Source))
	for _, set := range sets {
		p.split(set)
		if len(set.Load) > 0 && p.Chance(80) {
			var files []string
			for _, share := range set.Load {
				files = append(files, p.parts[share]...)
			}
			var doc struct{ Complete bool }
			if p.says(&doc, []int{0}, append([]string{"dkek", "check"}, files...)...); !doc.Complete {
				p.Errorf("shares of domain %d are not complete", set.Number)
			}
		}
	}
	p.backup()
	spare := token
	p.at(true, func() { spare = p.Replace(token) })
	p.d.Unplug(p.r, 0)
	p.d.Plug(p.r, 0, spare)
	p.restore()
	sum := tokentest.Tally{}
	p.at(true, func() { sum = p.Compare(p.out) })
	p.d.Unplug(p.r, 0)
	return sum
}

var cleanedKey = regexp.MustCompile(`had left behind: key (\d+),`)

// cleaned notes the keys that a backup took for copies left behind.
func (p *property) cleaned(said pcsctest.Result) {
	for _, m := range cleanedKey.FindAllStringSubmatch(said.Stderr, -1) {
		n, _ := strconv.Atoi(m[1])
		p.out.Cleaned[byte(n)] = true
	}
}

func (p *property) backup() {
	p.r.Helper()
	var doc struct {
		Keys []struct {
			Reference int
			Coverage  string
		}
		Missing []struct{ What string }
	}
	args := []string{"backup", "--confirm", tokentest.Source} // it may have one PIN try in all
	if p.Chance(50) {
		for n := range p.Keys { // a use of a key with a use counter may be spent
			args = append(args, "--spend", fmt.Sprint(n))
		}
	}
	p.cleaned(p.says(&doc, []int{0, 3}, args...))
	for _, m := range doc.Missing {
		p.out.NamedFiles[strings.ToUpper(strings.TrimPrefix(m.What, "data object "))] = true
	}
	for _, k := range doc.Keys {
		p.out.NamedKeys[byte(k.Reference)] = k.Coverage != "covered"
		p.empty = p.empty && k.Coverage == "not-exportable"
	}
	p.at(true, func() {
		if !tokentest.SameFiles(p.Read(), p.Files) {
			p.Errorf("the backup changed files")
		}
	})
}

// planned is what plan --json says.
type planned struct {
	Keys []struct {
		Reference      int
		Action, Reason string
	}
	Files []struct{ File, Action string }
}

// plan notes what it names as not to be restored.
func (p *property) plan() {
	p.r.Helper()
	var doc planned
	p.says(&doc, []int{0, 3}, "plan", "--from", tokentest.Source)
	for _, k := range doc.Keys {
		n := byte(k.Reference)
		p.out.NamedKeys[n] = p.out.NamedKeys[n] || k.Action == "not-in-backup" || k.Action == "does-not-fit"
		p.out.Why[n] += fmt.Sprintf("%s %s; ", k.Action, k.Reason)
	}
	for _, f := range doc.Files {
		p.out.NamedFiles[f.File] = p.out.NamedFiles[f.File] || f.Action == "not-in-backup" || f.Action == "does-not-fit"
	}
}

// restore has the program set the token up as the old one was, if there are
// shares, and restore onto it.
func (p *property) restore() {
	p.r.Helper()
	p.plan()
	to := []string{"--confirm", tokentest.Target, "--untrusted-token", tokentest.Target, "--yes"}
	args := []string{"restore", "--from", tokentest.Source, "--yes"}
	var doc struct {
		Complete bool
		Error    struct{ Code string }
		Keys     []struct {
			Reference int
			OK        bool
			Reason    string
		}
	}
	// 5: a key with a use counter and another's certificate, which a backup that
	// may not use it cannot tell, is not taken for that other one.
	restored := []int{0, 1, 3, 5}
	all := p.AllShares()
	if len(all) > 0 {
		p.says(&doc, restored, append(append(append(slices.Clone(args), "--init"), p.give(all)...), to[:4]...)...)
	}
	switch {
	case len(all) > 0 && doc.Error.Code != "nothing-to-restore":
	case len(all) > 0 && p.empty:
		doc.Error.Code = ""
		p.says(&doc, []int{0}, append(append([]string{"init"}, p.give(all)...), to...)...)
		p.says(&doc, restored, args...)
	default:
		p.says(&doc, []int{0}, append([]string{"init", "--no-dkek"}, to...)...)
		p.says(&doc, restored, args...)
	}
	if doc.Error.Code != "" {
		if doc.Error.Code != "kcv-mismatch" || len(all) > 0 {
			p.Errorf("restore: %+v", doc.Error)
		}
		for n := range p.Keys {
			p.out.NamedKeys[n] = true
		}
		return
	}
	p.out.Restored, p.out.Complete = true, doc.Complete
	for _, k := range doc.Keys {
		p.out.Proven[byte(k.Reference)] = k.OK
		p.out.Why[byte(k.Reference)] += k.Reason
	}
	p.plan()
}
