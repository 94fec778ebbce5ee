package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hsmbackup/internal/words"
)

// update writes the sessions into the pages instead of comparing them.
var update = flag.Bool("update", false, "write the transcripts of docs/ anew")

// A session is what stands in testdata/transcript/NAME.txt for docs/NAME.md: a
// person at a terminal, line by line.
//
//	# a comment
//	[step]                  a block of the page begins, marked there <!-- transcript: step -->
//	$ hsmbackup backup      a command, run by a shell and shown
//	- hsmbackup soft new …  the same, but not shown
//	? PIN of X: | «PIN»     when a line ends with this, that is typed
//	exit 3                  the command's exit code, if it is not 0
//	secret NAME REGEXP      what the first group finds on the screen is called «NAME» from now on, and never shown
//	note NAME REGEXP        the same for what is no secret: it is shown
//	frames N                only the first N alternate screens are shown
//
// A secret of several lines is a custodian's part: «NAME» types it in one go, as
// a scanner does, «NAME, line 1» the first of its lines. An _ in a name is a
// blank.
//
// Lines behind a command belong to it. «PIN», «SO-PIN» and «password» are there
// from the start, and in the files PIN, SO and PW for commands that are not
// shown; «STICK» is a folder on another file system, shown as /media/stick.
type session struct {
	name  string
	steps []*step
}

type step struct {
	name     string
	commands []*command
}

type command struct {
	line    string
	shown   bool
	exit    int
	frames  int
	answers []answer
	finds   []find
}

type answer struct{ prompt, typed string }

type find struct {
	name   string
	secret bool
	re     *regexp.Regexp
}

func parseSession(name, text string) (*session, error) {
	s := &session{name: name}
	var c *command
	for i, line := range strings.Split(text, "\n") {
		key, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || key == "#":
			continue
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			s.steps = append(s.steps, &step{name: strings.Trim(line, "[]")})
			c = nil
			continue
		case (key == "$" || key == "-") && len(s.steps) > 0:
			c = &command{line: rest, shown: key == "$", frames: math.MaxInt}
			at := s.steps[len(s.steps)-1]
			at.commands = append(at.commands, c)
			continue
		case c == nil:
			return nil, fmt.Errorf("%s.txt, line %d: %q stands behind no command", name, i+1, line)
		}
		var err error
		switch key {
		case "?":
			prompt, typed, ok := strings.Cut(rest, " |")
			if !ok {
				err = fmt.Errorf("no | between prompt and answer")
			}
			c.answers = append(c.answers, answer{prompt, strings.TrimPrefix(typed, " ")})
		case "exit":
			c.exit, err = strconv.Atoi(rest)
		case "frames":
			c.frames, err = strconv.Atoi(rest)
		case "secret", "note":
			var f find
			f.secret = key == "secret"
			var pattern string
			f.name, pattern, _ = strings.Cut(rest, " ")
			f.name = strings.ReplaceAll(f.name, "_", " ")
			f.re, err = regexp.Compile(pattern)
			c.finds = append(c.finds, f)
		default:
			err = fmt.Errorf("no such line")
		}
		if err != nil {
			return nil, fmt.Errorf("%s.txt, line %d: %v", name, i+1, err)
		}
	}
	return s, nil
}

// stage is where a session is played.
type stage struct {
	t       *testing.T
	dir     string
	env     []string
	values  map[string]string // of «NAME»
	secrets map[string]bool   // names of the values that are
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, dir: t.TempDir(),
		values:  map[string]string{"PIN": "648219", "SO-PIN": "3537363231383830", "password": "ordinary trumpet grit clinic permit joke abandon"},
		secrets: map[string]bool{"PIN": true, "SO-PIN": true, "password": true},
	}
	data, err := filepath.Abs(filepath.Join("..", "..", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	stick, err := os.MkdirTemp("/dev/shm", "hsmbackup")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(stick) })
	s.values["STICK"] = stick
	s.env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH"), "TERM=xterm", "LC_ALL=C.UTF-8", "DATA=" + data, "PCSCLITE_CSOCK_NAME=" + filepath.Join(s.dir, "no-pcscd")}
	for file, name := range map[string]string{"PIN": "PIN", "SO": "SO-PIN", "PW": "password"} {
		if err := os.WriteFile(filepath.Join(s.dir, file), []byte(s.values[name]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

var valueName = regexp.MustCompile(`«([^»]+)»`)

// fill puts values in the place of «NAME».
func (s *stage) fill(text string) string {
	s.t.Helper()
	return valueName.ReplaceAllStringFunc(text, func(name string) string {
		value, ok := s.values[strings.Trim(name, "«»")]
		if !ok {
			s.t.Fatalf("nothing was found that is called %s", name)
		}
		return value
	})
}

// run plays a command and gives what was seen, secrets by their names.
func (s *stage) run(c *command) string {
	t := s.t
	t.Helper()
	r := startOnTerminal(t, s.fill(c.line), s.dir, s.env)
	from, found := -1, map[string]bool{}
	for _, a := range c.answers {
		r.await(a.prompt, from)
		s.find(c, newScreen(r.output()), found)
		from = len(r.output())
		var hidden string
		if m := valueName.FindString(a.typed); m != "" && m == a.typed && newScreen(r.output()).covered == nil {
			hidden = m
		}
		r.typeLine(s.fill(a.typed), hidden)
	}
	code := r.end()
	seen := newScreen(r.output())
	s.find(c, seen, found)
	if code != c.exit {
		t.Fatalf("%s: exit code %d, want %d\n%s", c.line, code, c.exit, seen.text())
	}
	for _, f := range c.finds {
		if !found[f.name] {
			t.Fatalf("%s: no %s is seen\n%s", c.line, f.name, seen.text())
		}
	}
	s.leaks(c.line, r.output())
	text := memoryNote.ReplaceAllString(fold(seen.text(), c.frames), "")
	for _, name := range s.longestFirst() {
		if s.secrets[name] {
			text = strings.ReplaceAll(text, s.values[name], "«"+name+"»")
		}
	}
	return text
}

// memoryNote is said of a copy in memory, which the stick of these sessions is.
var memoryNote = regexp.MustCompile("(?m)^hsmbackup: that copy is in this computer's memory.*\n")

var frame = regexp.MustCompile("(?m)^┌───\n(?:│.*\n)*└───\n")

// fold leaves out alternate screens behind the first n.
func fold(text string, n int) string {
	return frame.ReplaceAllStringFunc(text, func(f string) string {
		if n--; n < 0 {
			return ""
		}
		return f
	})
}

// find looks for what the session wants to have named, on the screen that is
// seen. What was found stays.
func (s *stage) find(c *command, seen *screen, found map[string]bool) {
	for _, f := range c.finds {
		m := f.re.FindStringSubmatch(seen.text())
		if m == nil || found[f.name] {
			continue
		}
		if len(m) != 2 {
			s.t.Fatalf("%s %s: one group is wanted", f.name, f.re)
		}
		found[f.name] = true
		s.values[f.name], s.secrets[f.name] = m[1], f.secret
		lines := strings.Split(m[1], "\n")
		if len(lines) == 1 {
			continue
		}
		whole := ""
		for i, line := range lines {
			line = strings.TrimSpace(line)
			name := fmt.Sprintf("%s, line %d", f.name, i+1)
			s.values[name], s.secrets[name] = line, f.secret
			digits, _, _ := strings.Cut(line, "=")
			whole += strings.ReplaceAll(digits, " ", "")
		}
		s.values[f.name] = whole
	}
}

// leaks fails if a secret stood anywhere but on the alternate screen.
func (s *stage) leaks(line string, output []byte) {
	s.t.Helper()
	main := regexp.MustCompile(`(?s)\x1b\[\?1049h.*?\x1b\[\?1049l`).ReplaceAll(output, nil)
	for name := range s.secrets {
		if s.secrets[name] && strings.Contains(string(main), s.values[name]) {
			s.t.Errorf("%s: the terminal shows the %s", line, name)
		}
	}
}

func (s *stage) longestFirst() []string {
	return slices.SortedFunc(maps.Keys(s.values), func(a, b string) int {
		if d := len(s.values[b]) - len(s.values[a]); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
}

// play runs a whole session and gives the text of each step that shows
// something.
func play(t *testing.T, s *session) map[string]string {
	t.Helper()
	at := newStage(t)
	steady := newSteady(at)
	blocks := map[string]string{}
	for _, step := range s.steps {
		var b strings.Builder
		for _, c := range step.commands {
			text := at.run(c)
			if !c.shown {
				continue
			}
			line := c.line
			for name, value := range at.values {
				if !at.secrets[name] {
					line = strings.ReplaceAll(line, "«"+name+"»", value)
				}
			}
			fmt.Fprintf(&b, "$ %s\n%s", line, text)
			if c.exit != 0 {
				fmt.Fprintf(&b, "(exit code %d)\n", c.exit)
			}
		}
		if b.Len() == 0 {
			continue
		}
		if _, twice := blocks[step.name]; twice {
			t.Fatalf("%s.txt has two steps called %s", s.name, step.name)
		}
		blocks[step.name] = steady.text(b.String())
	}
	return blocks
}

// steady gives what changes from run to run a value that does not: the same
// for the same, and one that looks like it.
type steady struct {
	places *strings.Replacer
	values map[string]string
	counts map[string]int
}

func newSteady(s *stage) *steady {
	return &steady{strings.NewReplacer(s.dir, "/home/admin", s.values["STICK"], "/media/stick"), map[string]string{}, map[string]int{}}
}

var (
	softSerial  = regexp.MustCompile(`(--(?:from|to) )soft:(SOFT\d+)\.tok`)
	softToken   = regexp.MustCompile(` --token soft:[^\s` + "`" + `]+`)
	sshKey      = regexp.MustCompile(`AAAA[0-9A-Za-z+/]{40,}=*`)
	called      = regexp.MustCompile(`\bhsm(call2|answ)1[0-9a-z]+`)
	keyCheck    = regexp.MustCompile(`\b[0-9A-F]{16}\b`)
	hexNumber   = regexp.MustCompile(`\b[0-9a-f]{8,}\b`)
	sixWords    = regexp.MustCompile(`((?:head(?:, to note down)?|[Ww]ords of the set|in words|entry \d+):? "?)((?:[a-z]{3,8} ){5}[a-z]{3,8})\b`)
	recipient   = regexp.MustCompile(`\bage1[0-9a-z]{50,}`)
	clock       = regexp.MustCompile(`([T ])\d\d:\d\d(:\d\d)?`)
	day         = regexp.MustCompile(`\b20\d\d-\d\d-\d\d`)
	lately      = regexp.MustCompile(`\b\d+ (second|minute)s? ago`)
	took        = regexp.MustCompile(`\b\d+(\.\d)? s\b|("seconds":)[\d.]+`)
	freeMemory  = regexp.MustCompile(`(free memory +)\d+`)
	ageSeconds  = regexp.MustCompile(`(_age_seconds\{[^}]*\} )\d+`)
	madeOn, now = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC), time.Now().UTC()
)

func (s *steady) text(text string) string {
	text = s.places.Replace(text)
	text = softSerial.ReplaceAllString(text, "$1$2")
	text = softToken.ReplaceAllString(text, "")
	text = s.each(text, sshKey, "ssh", func(seed [32]byte, old string) string {
		return old[:24] + "…" + base64.RawStdEncoding.EncodeToString(seed[:6])
	})
	text = s.each(text, called, "roll-call", func(seed [32]byte, old string) string {
		n := strings.Index(old, "1") + 1
		return old[:n] + strings.Repeat(noDigits(seed), 2)[:len(old)-n]
	})
	text = s.each(text, keyCheck, "kcv", func(seed [32]byte, old string) string { return strings.ToUpper(hex.EncodeToString(seed[:8])) })
	text = s.each(text, recipient, "recipient", func(seed [32]byte, old string) string {
		return "age1" + noDigits(seed)[:len(old)-4]
	})
	text = s.each(text, hexNumber, "hex", func(seed [32]byte, old string) string { return hex.EncodeToString(seed[:]) })
	text = sixWords.ReplaceAllStringFunc(text, func(all string) string {
		m := sixWords.FindStringSubmatch(all)
		return m[1] + s.value("head", m[2], func(seed [32]byte, _ string) string {
			return strings.Join(words.Encode(seed[:], 6), " ")
		})
	})
	text = day.ReplaceAllStringFunc(text, func(old string) string {
		at, err := time.Parse(time.DateOnly, old)
		if err != nil {
			return old
		}
		// The same distance in years and days.
		years := at.Year() - now.Year()
		days := int(math.Round(at.Sub(now.Truncate(24*time.Hour).AddDate(years, 0, 0)).Hours() / 24))
		if days >= -1 && days <= 1 {
			days = 0 // midnight may have passed meanwhile
		}
		return madeOn.AddDate(years, 0, days).Format(time.DateOnly)
	})
	text = clock.ReplaceAllStringFunc(text, func(old string) string { return old[:1] + "10:20:30"[:len(old)-1] })
	text = lately.ReplaceAllString(text, "just now")
	text = took.ReplaceAllStringFunc(text, func(old string) string {
		if strings.HasPrefix(old, `"`) {
			return `"seconds":3.1`
		}
		return "3.1 s"
	})
	text = ageSeconds.ReplaceAllString(text, "${1}3")
	return freeMemory.ReplaceAllString(text, "${1}74172")
}

// noDigits gives 64 letters and digits that no other pattern takes for a number
// in hex.
func noDigits(seed [32]byte) string {
	return strings.NewReplacer("0", "q", "1", "p", "a", "x", "b", "z", "c", "m", "d", "n", "e", "u", "f", "w").Replace(hex.EncodeToString(seed[:]))
}

// each replaces all that a pattern finds.
func (s *steady) each(text string, re *regexp.Regexp, kind string, make func(seed [32]byte, old string) string) string {
	return re.ReplaceAllStringFunc(text, func(old string) string { return s.value(kind, old, make) })
}

// value gives the same value for the same, and for the beginning of it: a
// snapshot is named by the first digits of its hash.
func (s *steady) value(kind, old string, make func(seed [32]byte, old string) string) string {
	key := kind + " " + old
	if kind == "hex" {
		key = kind + " " + old[:8]
	}
	if s.values[key] == "" {
		s.counts[kind]++
		s.values[key] = make(sha256.Sum256(fmt.Appendf(nil, "%s %d", kind, s.counts[kind])), old)
	}
	if kind == "hex" {
		return strings.Repeat(s.values[key], 1+len(old)/64)[:len(old)]
	}
	return s.values[key]
}

// block is a transcript on a page.
var block = regexp.MustCompile("(?ms)^<!-- transcript: (\\S+) -->\n```console\n(.*?)^```$")

// TestTranscripts plays the session of each page of docs/ on a terminal; the
// page shows what was seen then. `go test ./cmd/hsmbackup -run Transcript
// -update` writes the pages anew.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "transcript", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := parseSession(name, string(text))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("..", "..", "docs", name+".md")
			page, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			blocks := play(t, s)
			got := block.ReplaceAllStringFunc(string(page), func(old string) string {
				m := block.FindStringSubmatch(old)
				text, ok := blocks[m[1]]
				if !ok {
					t.Errorf("%s shows the step %s, which its session does not have, or shows it twice", path, m[1])
					return old
				}
				delete(blocks, m[1])
				return fmt.Sprintf("<!-- transcript: %s -->\n```console\n%s```", m[1], text)
			})
			for left := range blocks {
				t.Errorf("%s does not show the step %s", path, left)
			}
			if n := strings.Count(got, "```console\n"); n != len(block.FindAllString(got, -1)) {
				t.Errorf("%s: a console block is no transcript", path)
			}
			if *update && !t.Failed() {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(strings.Split(string(page), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("%s is not what the program does (-page +program); see it, then run this test with -update\n%s", path, diff)
			}
		})
	}
}
