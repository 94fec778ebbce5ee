package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hsmbackup/dkek"
	"hsmbackup/internal/console"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

// person sits at a terminal. They are shown a text and asked something; what
// they type is shown on the screen.
type operator struct {
	t      *testing.T
	answer func(text, prompt string) string
	// end is what the terminal does in the end: an interrupt, or no more input.
	end error
}

var errLeaves = "\x03"

func (p *operator) Available() bool { return true }

func (p *operator) ReadLine(_ context.Context, prompt string) (string, error) {
	typed := p.answer("", prompt)
	if typed == errLeaves {
		return "", p.end
	}
	return typed, nil
}

func (p *operator) Screen(_ context.Context, text []byte, prompt string) (*secret.Bytes, error) {
	typed := p.answer(string(text), prompt)
	if typed == errLeaves {
		return nil, p.end
	}
	return secret.New([]byte(typed)), nil
}

func (p *operator) ReadSecret(_ context.Context, prompt string) (*secret.Bytes, error) {
	p.t.Fatalf("asked for a secret: %s", prompt)
	return nil, nil
}

func (p *operator) Ask(_ context.Context, question string) (bool, error) {
	p.t.Fatalf("asked: %s", question)
	return false, nil
}

func (p *operator) TypeBack(_ context.Context, prompt, _ string) error {
	p.t.Fatalf("asked to type: %s", prompt)
	return nil
}

// at runs a command line with a person at the terminal.
func (p *operator) at(ctx context.Context, args ...string) (exit int, stdout, stderr string) {
	var out, errs bytes.Buffer
	a := newApp()
	a.redirect(&out, &errs, p)
	exit = a.run(ctx, args)
	return exit, out.String(), errs.String()
}

// workIn makes an empty folder the working folder, without readers.
func workIn(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HSMBACKUP_CATALOG", "c.db")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
}

var (
	shownTo   = regexp.MustCompile(`^(\S+): part (\d+) of (\d+);`)
	shownLine = regexp.MustCompile(`(?m)^    (.*  =..)$`)
	asksLine  = regexp.MustCompile(`^Line (\d) of 5:$`)
)

// paper is what custodians have written down: five lines each.
type paper map[string][]string

// note writes down what is shown.
func (p paper) note(t *testing.T, text string) {
	t.Helper()
	m := shownTo.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no part is shown:\n%s", text)
	}
	var lines []string
	for _, l := range shownLine.FindAllStringSubmatch(text, -1) {
		lines = append(lines, l[1])
	}
	if len(lines) != dkek.PartLines {
		t.Fatalf("%d lines are shown:\n%s", len(lines), text)
	}
	p[m[1]] = lines
}

// bare is a line without its check and without blanks.
func bare(line string) string {
	line, _, _ = strings.Cut(line, "=")
	return strings.ReplaceAll(line, " ", "")
}

// other replaces a character by another one that parts are made of.
func other(line string, at int) string {
	c := "q"
	if line[at] == 'q' {
		c = "p"
	}
	return line[:at] + c + line[at+1:]
}

func openCatalog(t *testing.T) *store.Catalog {
	t.Helper()
	cat, err := store.Open("c.db", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	return cat
}

// handOutOnScreen makes a set on the terminal, with careful custodians.
func handOutOnScreen(t *testing.T, args ...string) paper {
	t.Helper()
	papers := paper{}
	now := ""
	p := &operator{t: t, answer: func(text, prompt string) string {
		switch {
		case strings.HasSuffix(prompt, "Enter shows it:"):
			return ""
		case strings.HasPrefix(prompt, "Press Enter"):
			papers.note(t, text)
			now = shownTo.FindStringSubmatch(text)[1]
			return ""
		}
		m := asksLine.FindStringSubmatch(prompt)
		if m == nil {
			t.Fatalf("asked %q below\n%s", prompt, text)
		}
		return papers[now][m[1][0]-'1']
	}}
	if exit, stdout, stderr := p.at(context.Background(), args...); exit != 0 {
		t.Fatalf("%q: exit %d\n%s%s", args, exit, stdout, stderr)
	}
	return papers
}

// Each part is shown to one custodian, who types it back before the next one
// gets theirs. Mistakes are placed, and nobody else sees a part.
func TestHandOutOnTerminal(t *testing.T) {
	workIn(t)
	papers := paper{}
	var asked []string // who was asked for which line
	now := ""
	did := map[string]bool{}
	once := func(what string) bool {
		was := did[what]
		did[what] = true
		return !was
	}
	p := &operator{t: t, answer: func(text, prompt string) string {
		switch {
		case strings.HasSuffix(prompt, "Enter shows it:"):
			return ""
		case strings.HasPrefix(prompt, "Press Enter"):
			papers.note(t, text)
			now = shownTo.FindStringSubmatch(text)[1]
			asked = append(asked, now+" sees it")
			return ""
		}
		if !strings.HasPrefix(text, now+", type your part back") {
			t.Fatalf("%s is asked by\n%s", now, text)
		}
		for who, lines := range papers {
			if who != now && strings.Contains(text, bare(lines[3])) {
				t.Errorf("%s sees what %s typed", now, who)
			}
		}
		m := asksLine.FindStringSubmatch(prompt)
		if m == nil {
			t.Fatalf("asked %q below\n%s", prompt, text)
		}
		n := int(m[1][0] - '1')
		asked = append(asked, fmt.Sprintf("%s types %d", now, n+1))
		line := papers[now][n]
		switch {
		case now == "alice" && n == 1 && once("slip"):
			return other(line, 2)
		case now == "alice" && n == 1:
			if !strings.Contains(text, "a wrong character: line 2, group 1, character 3") {
				t.Errorf("the slip is not placed:\n%s", text)
			}
			return bare(line)
		case now == "alice" && n == 3 && once("short"):
			return bare(line)[1:]
		case now == "alice" && n == 3 && !strings.Contains(text, "line 4 has 19 characters, 20 expected"):
			t.Errorf("the missing character is not told:\n%s", text)
		case now == "bob" && n == 0 && once("again"):
			return ""
		case now == "bob":
			return bare(strings.Join(papers[now], " ")[:len(line)]) + bare(papers[now][1]) + bare(papers[now][2]) + bare(papers[now][3]) + bare(papers[now][4])
		case now == "carol":
			return strings.ToUpper(line)
		}
		return line
	}}
	exit, stdout, stderr := p.at(context.Background(), "dkek", "create", "--split", "2/3", "--custodian", "alice", "--custodian", "bob", "--custodian", "carol")
	if exit != 0 {
		t.Fatalf("exit %d\n%s%s", exit, stdout, stderr)
	}
	want := []string{
		"alice sees it", "alice types 1", "alice types 2", "alice types 2", "alice types 3", "alice types 4", "alice types 4", "alice types 5",
		"bob sees it", "bob types 1", "bob sees it", "bob types 1",
		"carol sees it", "carol types 1", "carol types 2", "carol types 3", "carol types 4", "carol types 5",
	}
	if d := cmp.Diff(want, asked); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	for _, lines := range papers {
		for _, l := range lines {
			if strings.Contains(stdout+stderr, bare(l)) {
				t.Errorf("a part is in the output")
			}
		}
	}
	cat := openCatalog(t)
	sets := read(t, cat).PartSets
	if len(sets) != 1 || sets[0].Needed != 2 || len(sets[0].Custodians) != 3 {
		t.Fatalf("%+v", sets)
	}
	calls := read(t, cat).RollCalls
	if len(calls) != 3 || calls[2].Index != 3 || calls[2].Origin != "hand-out" {
		t.Errorf("%+v", calls)
	}
	if notes, err := cat.Journal().Keys(""); err != nil || len(notes) != 0 {
		t.Errorf("left in the journal: %q, %v", notes, err)
	}
	if b, err := os.ReadFile("c.db"); err != nil || bytes.Contains(b, []byte(bare(papers["alice"][3]))) {
		t.Errorf("a part is in the catalog, or %v", err)
	}
}

// Parts are typed one at a time, each checked before anyone else is asked.
func TestTypedParts(t *testing.T) {
	workIn(t)
	names := []string{"--custodian", "alice", "--custodian", "bob", "--custodian", "carol"}
	papers := handOutOnScreen(t, append([]string{"dkek", "create", "--split", "2/3"}, names...)...)
	strange := handOutOnScreen(t, append([]string{"dkek", "create", "--split", "2/3"}, names...)...)
	// The first line of a part that is whole, typed at once.
	whole := func(lines []string) string {
		var b strings.Builder
		for _, l := range lines {
			b.WriteString(bare(l))
		}
		return b.String()
	}
	wrong := whole(papers["alice"])
	type step struct{ asks, shows, typed string }
	for name, c := range map[string]struct {
		steps []step
		exit  int
		says  string
	}{
		"two parts": {[]step{
			{"Line 1 of 5:", "A custodian's part of the recovery key.", whole(papers["carol"])},
			{"Line 1 of 5:", "any 2 of 3, order does not matter; carol is here, one more of alice, bob.", papers["alice"][0]},
			{"Line 2 of 5:", "  1  ", papers["alice"][1]},
			{"Line 3 of 5:", "", strings.ToUpper(papers["alice"][2])},
			{"Line 4 of 5:", "", papers["alice"][3]},
			{"Line 5 of 5:", "", papers["alice"][4]},
		}, 0, `"complete":true`},
		"a wrong character, without checks": {[]step{
			{"Line 1 of 5:", "", other(wrong, 47)},
			{"Number of the line to type again (1 to 5):", "one character is wrong: line 3, group 2, character 3", "3"},
			{"Line 3 of 5:", "", bare(papers["alice"][2])},
			{"Line 1 of 5:", "alice is here", whole(papers["bob"])},
		}, 0, `"complete":true`},
		"a wrong character, with its check": {[]step{
			{"Line 1 of 5:", "", papers["bob"][0]},
			{"Line 2 of 5:", "", other(papers["bob"][1], 0)},
			{"Line 2 of 5:", "line 2", papers["bob"][1]},
			{"Line 3 of 5:", "", papers["bob"][2]},
			{"Line 4 of 5:", "", papers["bob"][3]},
			{"Line 5 of 5:", "", papers["bob"][4]},
			{"Line 1 of 5:", "bob is here, one more of alice, carol", whole(papers["carol"])},
		}, 0, `"complete":true`},
		"the same part, and one of another set": {[]step{
			{"Line 1 of 5:", "", whole(papers["bob"])},
			{"Line 1 of 5:", "", whole(papers["bob"])},
			{"Line 1 of 5:", "hold the same part: part 2 of 3 of set", whole(strange["alice"])},
			{"Line 1 of 5:", "a part of another set than", whole(papers["alice"])},
		}, 0, `"complete":true`},
		"one only": {[]step{
			{"Line 1 of 5:", "", whole(papers["bob"])},
			{"Line 1 of 5:", "Enter alone ends it", ""},
		}, 0, `"complete":false`},
		"nothing": {[]step{{"Line 1 of 5:", "", ""}}, 1, "no part was typed"},
	} {
		t.Run(name, func(t *testing.T) {
			steps := c.steps
			p := &operator{t: t, answer: func(text, prompt string) string {
				if len(steps) == 0 {
					t.Fatalf("asked %q below\n%s", prompt, text)
				}
				s := steps[0]
				steps = steps[1:]
				if prompt != s.asks || !strings.Contains(text, s.shows) {
					t.Errorf("asked %q, want %q, below %q:\n%s", prompt, s.asks, s.shows, text)
				}
				return s.typed
			}}
			exit, stdout, stderr := p.at(context.Background(), "dkek", "check", "--share", "prompt", "--json")
			if exit != c.exit || !strings.Contains(stdout, c.says) || len(steps) > 0 {
				t.Errorf("exit %d, %d steps left\n%s%s", exit, len(steps), stdout, stderr)
			}
		})
	}
}

// A hand-out that ends in the middle leaves no set and no file; whoever saw a
// part of it is told so, and the next run ends well.
func TestHandOutInterrupted(t *testing.T) {
	names := []string{"--custodian", "alice", "--custodian", "bob", "--custodian", "carol"}
	onScreen := append([]string{"dkek", "create", "--split", "2/3"}, names...)
	for stop := 1; ; stop++ {
		ended := false
		t.Run(fmt.Sprint("question ", stop), func(t *testing.T) {
			workIn(t)
			ctx, interrupt := context.WithCancel(context.Background())
			defer interrupt()
			papers := paper{}
			now, n := "", 0
			p := &operator{t: t, end: context.Canceled}
			p.answer = func(text, prompt string) string {
				if n++; n == stop {
					interrupt()
					return errLeaves
				}
				if strings.HasPrefix(prompt, "Press Enter") {
					papers.note(t, text)
					now = shownTo.FindStringSubmatch(text)[1]
				}
				if m := asksLine.FindStringSubmatch(prompt); m != nil {
					return papers[now][m[1][0]-'1']
				}
				return ""
			}
			exit, _, stderr := p.at(ctx, onScreen...)
			if n < stop {
				ended = true
				return
			}
			if exit != console.ExitInterrupted {
				t.Errorf("exit %d\n%s", exit, stderr)
			}
			if said := strings.Contains(stderr, "whatever alice"); said != (stop > 1) {
				t.Errorf("whoever saw a part is to hear of it, and nobody else:\n%s", stderr)
			}
			cat := openCatalog(t)
			if sets := read(t, cat).PartSets; len(sets) != 0 {
				t.Errorf("%+v", sets)
			}
			if notes, err := cat.Journal().Keys(""); err != nil || len(notes) != 0 {
				t.Errorf("left in the journal: %q, %v", notes, err)
			}
			cat.Close()
			handOutOnScreen(t, onScreen...)
		})
		if ended || t.Failed() {
			break
		}
	}
}

func rewrite(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A sealed part is opened by its custodian, who answers for it at the terminal.
func TestSealedPartAnswered(t *testing.T) {
	workIn(t)
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, "key.txt", []byte(id.String()+"\n"))
	asked := 0
	p := &operator{t: t, answer: func(text, prompt string) string {
		challenge, _, ok := strings.Cut(strings.TrimPrefix(prompt, "Answer of bob to challenge "), " ")
		if !ok || text != "" {
			t.Fatalf("asked %q below\n%s", prompt, text)
		}
		switch asked++; asked {
		case 1:
			return "hsmansw1qqq"
		case 2: // with alice's part
			exit, stdout, stderr := runIn(t, "dkek", "rollcall", "--answer", challenge, "--share", "parts/alice.txt")
			if exit != 0 {
				t.Fatalf("exit %d\n%s%s", exit, stdout, stderr)
			}
			return stdout
		}
		exit, stdout, stderr := runIn(t, "dkek", "rollcall", "--answer", challenge, "--share", "parts/bob.txt.age", "--identity", "key.txt")
		if exit != 0 {
			t.Fatalf("exit %d\n%s%s", exit, stdout, stderr)
		}
		return strings.TrimSpace(stdout)
	}}
	exit, stdout, stderr := p.at(context.Background(), "dkek", "create", "--split", "2/2", "--custodian", "alice", "--custodian", "bob", "--recipient", "bob="+id.Recipient().String(), "--out", "parts", "--json")
	if exit != 0 || asked != 3 || !strings.Contains(stdout, `{"name":"alice","index":1,"file":"parts/alice.txt","confirmed":false},{"name":"bob","index":2,"file":"parts/bob.txt.age","confirmed":true}`) {
		t.Fatalf("asked %d times, exit %d\n%s%s", asked, exit, stdout, stderr)
	}
	cat := openCatalog(t)
	calls := read(t, cat).RollCalls
	if len(calls) != 1 || calls[0].Index != 2 || calls[0].Origin != "hand-out" {
		t.Errorf("%+v, %v", calls, err)
	}
}

// rig is a recovery key whose shares are all in parts, in files of their own.
type rig struct {
	kcv    dkek.KCV
	shares []rigShare
}

type rigShare struct {
	needed int
	files  []string
}

// wrapPart writes a part in one of the ways that --share takes.
func wrapPart(t *rapid.T, path string, p *dkek.Part, recipient string) string {
	var content []byte
	var err error
	switch rapid.IntRange(0, 4).Draw(t, "wrapping") {
	case 0:
		content = p.CheckedText()
	case 1:
		content = bytes.ToUpper(p.Compact())
	case 2:
		content = append([]byte("# for somebody\n#\n"), p.CheckedText()...)
	case 3:
		content = append([]byte("\r\n# a line for people\r\n"), bytes.ReplaceAll(p.Text(), []byte("\n"), []byte("\r\n"))...)
	case 4:
		path += ".age"
		content, err = dkek.SealPart(recipient, p)
	}
	if err == nil {
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func newRig(t *rapid.T, dir, recipient string) rig {
	n := rapid.IntRange(1, 3).Draw(t, "shares")
	var shares []*dkek.Share
	for range n {
		shares = append(shares, dkek.NewShare())
	}
	key, err := dkek.Combine(shares...)
	if err != nil {
		t.Fatal(err)
	}
	r := rig{kcv: key.KCV()}
	for i, s := range shares {
		needed := rapid.IntRange(2, 4).Draw(t, "K")
		total := rapid.IntRange(needed, 5).Draw(t, "N")
		parts, err := dkek.Split(s, dkek.SplitOptions{Needed: needed, Total: total, Share: i + 1, Shares: n, KCV: r.kcv})
		if err != nil {
			t.Fatal(err)
		}
		rs := rigShare{needed: needed}
		for _, p := range parts {
			rs.files = append(rs.files, wrapPart(t, filepath.Join(dir, fmt.Sprintf("%d-%d", i+1, p.Index)), p, recipient))
		}
		r.shares = append(r.shares, rs)
	}
	return r
}

// Whatever parts are given, in whatever order and wrapping: enough of each share
// give the recovery key, and too few of any give none.
func TestPartsMixed(t *testing.T) {
	workIn(t)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, "key.txt", []byte(id.String()))
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(rt, dir, id.Recipient().String())
		short := rapid.IntRange(-1, len(r.shares)-1).Draw(rt, "the share that lacks a part")
		var given []string
		for i, s := range r.shares {
			n := rapid.IntRange(s.needed, len(s.files)).Draw(rt, "parts")
			if i == short {
				n = s.needed - 1
			}
			given = append(given, rapid.Permutation(s.files).Draw(rt, "which")[:n]...)
		}
		given = rapid.Permutation(given).Draw(rt, "order")
		exit, stdout, stderr := runIn(t, append([]string{"dkek", "check", "--json", "--identity", "key.txt"}, given...)...)
		var doc struct {
			KCV      string
			Complete bool
			Shares   []struct{ OK bool }
			Sets     []struct{ More int }
		}
		if err := json.Unmarshal([]byte(stdout), &doc); err != nil || exit != 0 || len(doc.Shares) != len(given) {
			rt.Fatalf("exit %d, %v\n%s%s", exit, err, stdout, stderr)
		}
		if whole := short < 0; doc.Complete != whole || whole && doc.KCV != r.kcv.String() || !whole && doc.KCV != "" {
			rt.Fatalf("lacking %d, want %s:\n%s", short, r.kcv, stdout)
		}
	})
}

// A share in the place of another: every part has passed, and it is said what
// that means.
func TestPartsOfOtherKey(t *testing.T) {
	workIn(t)
	var files []string
	for i := range 2 {
		share := dkek.NewShare()
		parts, err := dkek.Split(share, dkek.SplitOptions{Needed: 2, Total: 2, Share: i + 1, Shares: 2, KCV: dkek.KCV{1}})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			files = append(files, fmt.Sprintf("%d-%d", i, p.Index))
			rewrite(t, files[len(files)-1], p.Text())
		}
	}
	exit, stdout, stderr := runIn(t, append([]string{"dkek", "check", "--json"}, files...)...)
	if exit != console.ExitFailed || !strings.Contains(stdout, `"code":"kcv-mismatch"`) || !strings.Contains(stderr, "every part passed, but together they give the recovery key") {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
}

// A part that is not the one that its custodian got is named before anything is
// brought together, by its commitment.
func TestForgedPart(t *testing.T) {
	workIn(t)
	rewrite(t, "PW", []byte("ordinary trumpet grit walnut harbour\n"))
	parts, err := dkek.Split(dkek.NewShare(), dkek.SplitOptions{Needed: 2, Total: 3})
	if err != nil {
		t.Fatal(err)
	}
	set := store.PartSet{Set: parts[0].Set, Share: 1, Shares: 1, Needed: 2}
	for i, name := range []string{"alice", "bob", "carol"} {
		rewrite(t, name+".txt", parts[i].Text())
		set.Custodians = append(set.Custodians, store.Custodian{Index: i + 1, Name: name, Commitment: parts[i].Commitment()})
	}
	set.Custodians[1].Commitment = bytes.Repeat([]byte{7}, 32) // bob got another one
	cat, err := store.Create("c.db")
	if err == nil {
		err = cat.Append(set)
	}
	if err != nil {
		t.Fatal(err)
	}
	cat.Close()
	damaged := "DAMAGED: part set " + set.Set + ": the commitment that the catalog has of part 2 of 3 of set " + set.Set + " (bob) is another's"
	exit, stdout, stderr := runIn(t, "dkek", "check", "alice.txt", "bob.txt", "--json")
	if exit != console.ExitDamaged || !strings.Contains(stdout, `"complete":true`) || !strings.Contains(stderr, damaged) {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
	if exit, stdout, stderr = runIn(t, "dkek", "combine", "--share", "alice.txt", "--share", "bob.txt", "--out", "s.pbe", "--password", "file:PW", "--weak-password"); exit != console.ExitDamaged || !strings.Contains(stderr, damaged) || !strings.Contains(stdout, "share written, read back and opened") {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
	if exit, stdout, stderr = runIn(t, "dkek", "check", "bob.txt"); exit != console.ExitDamaged || !strings.Contains(stdout, "good") || !strings.Contains(stderr, "this part or the catalog was changed; enough parts together tell which") {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
	if exit, stdout, stderr = runIn(t, "dkek", "check", "alice.txt", "carol.txt", "--json"); exit != 0 || !strings.Contains(stdout, `"complete":true`) {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
}

// A part may be under a password of age's.
func TestPartUnderPassword(t *testing.T) {
	workIn(t)
	share := dkek.NewShare()
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: 2, Total: 2})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := dkek.SealPartPassword([]byte("ordinary trumpet grit"), parts[0])
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, "a.age", sealed)
	rewrite(t, "b.txt", parts[1].Text())
	rewrite(t, "PW", []byte("ordinary trumpet grit\n"))
	rewrite(t, "NO", []byte("another\n"))
	if exit, stdout, stderr := runIn(t, "dkek", "check", "a.age,password=file:PW", "b.txt", "--json"); exit != 0 || !strings.Contains(stdout, `"complete":true`) {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
	if exit, stdout, stderr := runIn(t, "dkek", "check", "a.age,password=file:NO", "b.txt", "--json"); exit != 1 || !strings.Contains(stdout, `"code":"wrong-password"`) {
		t.Errorf("exit %d\n%s%s", exit, stdout, stderr)
	}
}

// read gives what a catalog says.
func read(t testing.TB, cat *store.Catalog) *store.State {
	t.Helper()
	s, err := cat.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}
