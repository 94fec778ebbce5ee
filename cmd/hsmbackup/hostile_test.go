package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/forge"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// evil moves the cursor, ends lines, quotes, turns the direction of writing and
// leads out of folders.
const evil = "E\x1b]0;pwned\x07\x1b[2J\u009b31m\u202e\r\nProxyCommand touch PWNED\n../../x/y'\"`$(touch PWNED)\\\u2028\u200b|"

// texts are the members that may be any text: whatever is in them comes out.
var texts = []string{
	"label", "program", "reason", "what", "who", "why", "outcome", "path", "module", "mechanism", "matched", "origin", "name",
}

// twoParts open the recovery key.
const twoParts = " --share parts/alice.txt --share parts/carol.txt"

// doLine runs a command line in the working folder and gives what it said.
func doLine(t *testing.T, want int, line string) (stdout, stderr string) {
	t.Helper()
	exit, stdout, stderr := runIn(t, strings.Fields(line)...)
	if want >= 0 && exit != want {
		t.Fatalf("%s: exit %d, want %d\n%s%s", line, exit, want, stdout, stderr)
	}
	return stdout, stderr
}

// requireHarmless fails for what a terminal acts upon.
func requireHarmless(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool {
			return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
		}); i >= 0 {
			t.Errorf("%s: %q", what, line)
		}
	}
}

// hostileCatalog has one of most things, made by the program, in the working
// folder: two tokens, a set of parts, a restore, a copy, a firmware update.
func hostileCatalog(t *testing.T) {
	t.Helper()
	workIn(t)
	for name, secret := range map[string]string{"PIN": "648219\n", "SO": "3537363231383830\n"} {
		if err := os.WriteFile(name, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const s = " --pin file:PIN --so-pin file:SO"
	for _, line := range []string{
		"soft new old.tok --firmware 3.5 --serial SOFT0200001",
		"dkek create --split 2/3 --custodian alice --custodian bob --custodian carol --out parts",
		"dkek rollcall --custodian bob --share parts/bob.txt",
		"init --token soft:old.tok" + twoParts + " --label ssh --confirm SOFT0200001" + s,
		"soft keygen old.tok --type ec:prime256v1 --label ca --id 01 --pin file:PIN",
		"soft keygen old.tok --type rsa:1024 --label hsm --id 02 --pin file:PIN",
		"backup --token soft:old.tok --pin file:PIN",
		"soft new n.tok --firmware 3.5 --serial SOFT0200002",
		"init --token soft:n.tok --no-dkek --yes" + s,
		"soft keygen n.tok --type ec:prime256v1 --label throwaway --id 03 --pin file:PIN",
	} {
		doLine(t, 0, line)
	}
	doLine(t, 3, "backup --token soft:n.tok --pin file:PIN")
	for _, line := range []string{
		"accept throwaway --reason disposable --token soft:n.tok",
		"verify --offline" + twoParts + " SOFT0200001",
		"soft new spare.tok --firmware 4.1 --serial SOFT0400002",
		"restore --from SOFT0200001 --token soft:spare.tok --init" + twoParts + " --confirm SOFT0400002 --yes" + s,
		"backup --token soft:spare.tok --pin file:PIN",
		"check",
	} {
		doLine(t, 0, line)
	}
}

// bytesOrTimes are members in hex or times: with anything else in one of them a manifest
// or an entry cannot be read at all.
var bytesOrTimes = []string{
	"sha256", "hash", "taken", "previous", "id", "algorithms", "check_value", "uid", "added", "time", "from", "blob", "head",
	"public_key", "commitment", "old", "new",
}

// spoil gives every text of a catalog an evil end; all strings, if every is set.
func spoil(c *forge.Catalog, every bool) {
	change := func(name, s string) string {
		last := name[strings.LastIndex(name, ".")+1:]
		if every && !slices.Contains(bytesOrTimes, last) || slices.Contains(texts, last) {
			return s + evil
		}
		return s
	}
	c.Anchors = nil
	newest := c.Newest()
	var serial any
	for _, m := range c.Snapshots {
		token := m.Object["token"].(forge.Object)
		serial = token["serial"]
		forge.Strings(m.Object, change)
		token["serial"] = serial // with another it is no snapshot at all
	}
	newest["missing"] = []any{forge.Object{"what": "w" + evil, "reason": "r" + evil}}
	now := time.Now()
	id := c.Snapshots[0].Old[:12]
	c.Append("ceremony", now, forge.Object{"job": "split", "who": "w" + evil, "why": "y" + evil, "outcome": "o" + evil})
	c.Append("copy", now, forge.Object{"path": "/tmp/x" + evil, "seq": 1, "head": strings.Repeat("1", 64)})
	c.Append("use", now, forge.Object{"snapshot": id, "token": serial, "module": "m" + evil, "keys": []any{forge.Object{"reference": 1, "public_key": strings.Repeat("2", 64), "ok": false, "mechanism": "m" + evil, "reason": "r" + evil}}})
	c.Append("accepted", now, forge.Object{"serial": serial, "reference": 1, "label": "l" + evil, "reason": "r" + evil})
	for _, e := range c.Log {
		if e.Program += evil; e.Kind == "created" || e.Kind == "snapshot" {
			continue
		}
		forge.Strings(e.Body, change)
	}
	if every {
		c.Append("odd"+evil, now, forge.Object{"a": "b" + evil})
	}
	for _, n := range c.Journal {
		forge.Strings(n, change)
	}
}

// Whatever a catalog says, nothing of it reaches the terminal that a terminal acts
// upon, and every line of what ssh, a shell or a person with RESTORE.md reads is
// one that the program has meant.
func TestFault17HostileCatalog(t *testing.T) {
	hostileCatalog(t)
	for name, every := range map[string]bool{"texts": false, "all strings": true} {
		t.Run(name, func(t *testing.T) {
			path := forge.Copy(t, "c.db", func(c *forge.Catalog) { spoil(c, every) })
			t.Setenv("HSMBACKUP_CATALOG", path)
			t.Setenv("XDG_DATA_HOME", t.TempDir())
			for _, line := range []string{
				"", "status", "status --token soft:old.tok", "list", "show", "show latest", "show --ssh", "show --ssh=config", "show --ssh=ca --key 1",
				"diff", "log", "check", "verify --offline" + twoParts, "drill" + twoParts,
				"plan --from SOFT0200001 --token soft:spare.tok", "backup --token soft:spare.tok --pin file:PIN", "dkek rollcall",
				"verify --token soft:spare.tok --pin file:PIN", "doctor", "show nosuch", "restore --from nosuch --token soft:spare.tok",
			} {
				for _, flag := range []string{"", " --json"} {
					stdout, stderr := doLine(t, -1, line+flag)
					requireHarmless(t, line+flag+", result", stdout)
					requireHarmless(t, line+flag+", stderr", stderr)
					if flag != "" && line != "" && !json.Valid([]byte(stdout)) {
						t.Errorf("%s: no JSON: %s", line, stdout)
					}
				}
			}
			t.Run("ssh", func(t *testing.T) { sshLinesOf(t) })
			t.Run("files", func(t *testing.T) { filesOf(t) })
		})
	}
}

// sshLinesOf looks at each line that is meant to be put into a file of ssh's.
func sshLinesOf(t *testing.T) {
	begins := func(form string, starts ...string) {
		t.Helper()
		stdout, _ := doLine(t, -1, "show SOFT0200001 "+form)
		for line := range strings.Lines(stdout) {
			if !slices.ContainsFunc(starts, func(s string) bool { return strings.HasPrefix(line, s) }) {
				t.Errorf("%s: %q", form, line)
			}
		}
		if stdout == "" {
			t.Errorf("%s: nothing", form)
		}
	}
	begins("--ssh", "ssh-rsa A", "ecdsa-sha2-nistp256 A")
	begins("--ssh=config", "# ", "Host *\n", "    PKCS11Provider ")
	begins("--ssh=ca --key 1", "# ", "@cert-authority * ecdsa", "cert-authority ecdsa")
	stdout, _ := doLine(t, -1, "show SOFT0200001 --json")
	var doc struct {
		Snapshots []struct{ Contents []struct{ SSH string } }
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || len(doc.Snapshots) == 0 {
		t.Fatalf("%v: %s", err, stdout)
	}
	for _, k := range doc.Snapshots[0].Contents {
		requireHarmless(t, "ssh in JSON", k.SSH)
	}
}

// filesOf looks at what is written.
func filesOf(t *testing.T) {
	out := filepath.Join(t.TempDir(), "a", "out")
	if err := os.Mkdir(filepath.Dir(out), 0o700); err != nil {
		t.Fatal(err)
	}
	doLine(t, -1, "export "+out+" SOFT0200001")
	log := filepath.Join(t.TempDir(), "log.txt")
	doLine(t, -1, "log --export "+log)
	metrics := filepath.Join(t.TempDir(), "m.prom")
	doLine(t, -1, "check --metrics "+metrics)
	for _, path := range []string{filepath.Join(out, "RESTORE.md"), filepath.Join(out, "manifest.json"), filepath.Join(out, "SHA256SUMS"), log, metrics} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		requireHarmless(t, filepath.Base(path), string(content))
		for line := range strings.Lines(string(content)) {
			if strings.HasPrefix(strings.TrimSpace(line), "ProxyCommand") || strings.HasPrefix(line, "touch") {
				t.Errorf("%s: %q", path, line)
			}
		}
	}
	for line := range strings.Lines(string(must(os.ReadFile(metrics)))) {
		if fields := strings.Fields(line); !strings.HasPrefix(line, "#") && len(fields) == 2 {
			if _, err := strconv.ParseFloat(fields[1], 64); err != nil {
				t.Errorf("metrics: %q", line)
			}
		} else if !strings.HasPrefix(line, "# ") {
			t.Errorf("metrics: %q", line)
		}
	}
	if list, err := os.ReadDir(filepath.Dir(out)); err != nil || len(list) != 1 {
		t.Errorf("beside the folder: %v, %v", list, err)
	}
	if _, err := os.Stat("PWNED"); err == nil {
		t.Error("something was run")
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A token may say anything too: its labels, those of its keys and objects.
func TestFault17HostileToken(t *testing.T) {
	hostileCatalog(t)
	ctx := context.Background()
	soft, err := softtoken.Open("old.tok")
	if err != nil {
		t.Fatal(err)
	}
	card, err := schsm.Open(ctx, soft)
	if err != nil {
		t.Fatal(err)
	}
	ec := pkcs15.KeyDescription{Kind: pkcs15.EC, Bits: 256, Label: "k" + evil[:60], ID: []byte{1}, Reference: 1, Usage: pkcs15.DefaultUsage(pkcs15.EC)}
	steps := []error{
		card.Login(ctx, secret.New([]byte("648219")), false),
		card.WriteLabel(ctx, "t"+evil[:60]),
		card.WriteFile(ctx, schsm.DescriptionFile(1), ec.Encode()),
		card.WriteFile(ctx, 0xCF03, []byte(evil)),
		card.WriteFile(ctx, 0xC903, []byte("\x30\x1a\x30\x0a\x0c\x08o\x1b[2J\r\nx\x30\x04\x0c\x02a\nA\x06\x30\x04\x04\x02\xcf\x03")),
		soft.Close(),
	}
	for i, err := range steps {
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	for _, line := range []string{
		"status --token soft:old.tok", "diff --token soft:old.tok", "backup --token soft:old.tok --pin file:PIN", "check", "list", "show SOFT0200001",
		"show SOFT0200001 --ssh", "show SOFT0200001 --ssh=config", "verify --token soft:old.tok --pin file:PIN", "plan --from SOFT0200001 --token soft:spare.tok",
		"restore --from SOFT0200001 --token soft:spare.tok --pin file:PIN --yes --report report.json", "log", "export " + out + " SOFT0200001",
		"accept k --reason r --token soft:old.tok", "verify --token soft:spare.tok --pin file:PIN",
	} {
		for _, flag := range []string{"", " --json"} {
			stdout, stderr := doLine(t, -1, line+flag)
			requireHarmless(t, line+flag+", result", stdout)
			requireHarmless(t, line+flag+", stderr", stderr)
			if flag != "" && !json.Valid([]byte(stdout)) {
				t.Errorf("%s: no JSON: %s", line, stdout)
			}
		}
	}
	for _, path := range []string{"report.json", filepath.Join(out, "RESTORE.md")} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		requireHarmless(t, path, string(content))
	}
}

// impostor reads as another token: its device certificate names a holder that
// would be a path, or a command.
type impostor struct{ apdu.Transmitter }

const impostorSerial = "$(x)/../a;b"

func (i impostor) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	answer, err := i.Transmitter.Transmit(ctx, command)
	return bytes.ReplaceAll(answer, []byte("SOFT0200001"), []byte(impostorSerial)), err
}

// A serial number that could not stand in a command line is none.
func TestFault17HostileSerial(t *testing.T) {
	hostileCatalog(t)
	for _, line := range []string{"status --token soft:old.tok", "backup --token soft:old.tok --pin file:PIN"} {
		a := newApp()
		open := a.OpenCard
		a.OpenCard = func(ctx context.Context, way apdu.Transmitter) (*schsm.Card, error) { return open(ctx, impostor{way}) }
		exit, stdout, stderr := runApp(t, a, strings.Fields(line)...)
		if strings.Contains(stdout+stderr, impostorSerial) {
			t.Errorf("%s: %s%s", line, stdout, stderr)
		}
		if strings.HasPrefix(line, "backup") && (exit != 1 || !strings.Contains(stderr, "serial")) {
			t.Errorf("%s: exit %d: %s", line, exit, stderr)
		}
	}
}
