package backup

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// sha256sum as people have it accepts the folder, and finds every file in which
// one bit is turned.
func TestExportSums(t *testing.T) {
	dir, r := mustExport(t, exampleSnapshot(t), ExportOptions{})
	check := func() error {
		cmd := exec.Command("sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS")
		cmd.Dir = dir
		return cmd.Run()
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(readExport(t, dir, "SHA256SUMS")), "\n"), "\n")
	var names []string
	for _, line := range lines {
		names = append(names, line[66:])
	}
	if want := slices.DeleteFunc(slices.Clone(r.Files), func(s string) bool { return s == "SHA256SUMS" }); !slices.Equal(names, want) {
		t.Errorf("summed %q, want %q", names, want)
	}
	for _, name := range r.Files {
		path := filepath.Join(dir, name)
		b := readExport(t, dir, name)
		if len(b) == 0 {
			continue
		}
		at := len(b) / 2
		if name == "SHA256SUMS" {
			at = 3 // a digit, so that the line stays one
		}
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if check() == nil {
			t.Errorf("%s: a turned bit was not noticed", name)
		}
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

var shBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// asScript is how RESTORE.md says to run its blocks.
const asScript = "sed -n '/^```sh$/,/^```$/{/^```/d;p;}' RESTORE.md | sh"

// script takes the sh blocks out of RESTORE.md with the command that stands in
// it.
func script(t testing.TB, dir string) string {
	t.Helper()
	cmd := exec.Command("sed", "-n", "/^```sh$/,/^```$/{/^```/d;p;}", "RESTORE.md")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var blocks strings.Builder
	for _, m := range shBlock.FindAllStringSubmatch(string(readExport(t, dir, "RESTORE.md")), -1) {
		blocks.WriteString(m[1])
	}
	if string(out) != blocks.String() {
		t.Fatalf("sed takes\n%s\nthe blocks are\n%s", out, blocks.String())
	}
	if len(out) > 0 && !strings.Contains(string(readExport(t, dir, "RESTORE.md")), "\n"+asScript+"\n") {
		t.Error("another sed command in RESTORE.md")
	}
	return string(out)
}

// tools stand in for OpenSC, openssl and ssh-keygen: they print what the real
// ones do, exit codes that lie included, and note how they were called. FAULT
// says what goes wrong.
var tools = map[string]string{
	"sc-hsm-tool": `
[ "$FAULT" = nocard ] && { echo "Failed to connect to card: Success" >&2; exit 0; }
case $* in
*--initialize*) [ "$FAULT" = init ] && { echo "sc_card_ctl(*, SC_CARDCTL_SC_HSM_INITIALIZE, *) failed with Card command failed" >&2; exit 0; }
  echo 2 > "$STATE/missing" ;;
*--import-dkek-share*) [ "$FAULT" = password ] && { echo "Error decrypting DKEK share. Password correct ?"; exit 1; }
  echo $(($(cat "$STATE/missing") - 1)) > "$STATE/missing"; echo "DKEK share imported" ;;
*--unwrap-key*) [ "$FAULT" = unwrap ] && { echo "Wrapped key does not match DKEK" >&2; exit 0; }
  echo "$6" >> "$STATE/keys"; echo "Key successfully imported" ;;
*) n=$(cat "$STATE/missing"); echo "DKEK shares          : 2"
  if [ "$n" -gt 0 ]; then echo "DKEK import pending, $n share(s) still missing"
  elif [ "$FAULT" = kcv ]; then echo "DKEK key check value : 66687AADF862BD77"
  else echo "DKEK key check value : $KCV"; fi ;;
esac
`,
	"pkcs15-tool": `
[ "$FAULT" = serial ] && { echo "	Serial number  : SOFT0200002"; exit 0; }
echo "	Serial number  : SOFT0400001"
[ "$FAULT" = full ] && { echo "Private RSA Key [mine]"; exit 0; }
if [ -e "$STATE/keys" ]; then while read -r n; do
  [ "$FAULT" = hidden ] && [ "$n" = 2 ] || echo "	Key ref        : $n (0x00)"
done < "$STATE/keys"; fi
`,
	"pkcs11-tool": `
[ "$FAULT" = write ] && case $* in *--write-object*) echo "error: PKCS11 function C_CreateObject failed: rv = CKR_DEVICE_MEMORY (0x31)"; exit 1 ;; esac
case $* in *"--type cert"*) echo "Created certificate:" ;; *"--type data"*) echo "Created Data Object:" ;; esac
`,
	"openssl": `
case $1 in
rand) head -c 32 /dev/zero > "$3" ;;
*) if [ "$FAULT" = signature ]; then echo "Verification failure"; exit 1; fi; echo "Verified OK"; echo "Signature Verified Successfully" ;;
esac
`,
	"ssh-keygen": `
[ "$FAULT" = ssh ] && { echo "ssh-rsa AAAAB3NzaC1yc2E other"; exit 0; }
cat *.ssh.pub
`,
}

// follow runs the blocks of an export with the stand-ins.
func follow(t testing.TB, dir, kcv, fault string, env ...string) (out, state string, err error) {
	t.Helper()
	bin, state := t.TempDir(), t.TempDir()
	for name, text := range tools {
		head := "#!/bin/sh\nprintf '%s\\000' " + name + " \"$@\" >> \"$STATE/calls\"; printf '\\n\\000' >> \"$STATE/calls\"\n"
		if err := os.WriteFile(filepath.Join(bin, name), []byte(head+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	script(t, dir)
	cmd := exec.Command("sh", "-c", asScript)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "STATE=" + state, "TMPDIR=" + state, "FAULT=" + fault, "KCV=" + kcv,
		"READER=1", "SERIAL=SOFT0400001", "PIN=648219", "SO_PIN=3537363231383830", "MODULE=/opensc-pkcs11.so",
		"SHARE_1=/shares/one 1.pbe", "PASSWORD_1=correct horse", "SHARE_2=/shares/two.pbe", "PASSWORD_2=battery staple"}, env...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err = cmd.Run()
	return b.String(), state, err
}

// calls gives the noted calls, each a list of its words.
func calls(t testing.TB, state string) [][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(state, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	var list [][]string
	for call := range strings.SplitSeq(strings.TrimSuffix(string(b), "\x00\n\x00"), "\x00\n\x00") {
		list = append(list, strings.Split(call, "\x00"))
	}
	return list
}

func TestRestoreGuide(t *testing.T) {
	s := exampleSnapshot(t)
	kcv := s.Keys[0].KCV
	dir, _ := mustExport(t, s, ExportOptions{Program: "hsmbackup test"})
	out, state, err := follow(t, dir, kcv, "")
	if err != nil || !strings.Contains(out, "DONE: 10 keys, 1 certificates and 1 data objects are on SOFT0400001") {
		t.Fatalf("%v\n%s", err, out)
	}
	list := calls(t, state)
	has := func(want ...string) {
		t.Helper()
		if !slices.ContainsFunc(list, func(c []string) bool { return slices.Equal(c, want) }) {
			t.Errorf("not called: %q", want)
		}
	}
	label := strings.ReplaceAll(labelBad, "\n", " ")
	has("sc-hsm-tool", "--reader", "1", "--initialize", "--so-pin", "env:SO_PIN", "--pin", "env:PIN", "--dkek-shares", "2", "--label", label)
	has("sc-hsm-tool", "--reader", "1", "--import-dkek-share", "/shares/one 1.pbe", "--password", "env:PASSWORD_1")
	has("sc-hsm-tool", "--reader", "1", "--import-dkek-share", "/shares/two.pbe", "--password", "env:PASSWORD_2")
	has("sc-hsm-tool", "--reader", "1", "--unwrap-key", "key-001-SSH-CA.bin", "--key-reference", "1", "--pin", "env:PIN")
	has("sc-hsm-tool", "--reader", "1", "--unwrap-key", "key-010-tail.bin", "--key-reference", "10", "--pin", "env:PIN")
	p11 := []string{"pkcs11-tool", "--module", "/opensc-pkcs11.so", "--slot-index", "1", "--login", "--pin", "env:PIN"}
	has(append(slices.Clone(p11), "--write-object", "cert-CA00-Test-CA-s-Schl-ssel-f-r-M-nchen.der", "--type", "cert", "--id", "aa", "--label", "Test CA's "+labelCity)...)
	has(append(slices.Clone(p11), "--write-object", "file-CF03.bin", "--type", "data", "--label", labelBad[:20], "--application-label", "app")...)
	var signed []string
	for _, c := range list {
		if slices.Contains(c, "--force") || slices.Contains(c, "key-020-elsewhere.bin") {
			t.Errorf("called: %q", c)
		}
		if i := slices.Index(c, "--id"); i > 0 && slices.Contains(c, "--sign") {
			signed = append(signed, c[i+1])
		}
		for _, secret := range []string{"648219", "3537363231383830", "horse", "battery"} {
			if strings.Contains(strings.Join(c, " "), secret) {
				t.Errorf("a secret in an argument: %q", c)
			}
		}
	}
	if want := []string{"01", "02", "03ab", "04", "05", "07", "0a"}; !slices.Equal(signed, want) { // 8 may only derive
		t.Errorf("signed with %q, want %q", signed, want)
	}
	for _, secret := range []string{"648219", "3537363231383830", "horse", "battery"} {
		if strings.Contains(out, secret) {
			t.Errorf("%q was printed", secret)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(state, "tmp.*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "PWNED")); len(found) > 0 {
		t.Error("a label was run as a command")
	}
}

// Each thing that goes wrong stops the script, whatever the exit codes say.
func TestRestoreGuideStops(t *testing.T) {
	s := exampleSnapshot(t)
	dir, _ := mustExport(t, s, ExportOptions{})
	kcv := s.Keys[0].KCV
	for _, c := range []struct {
		fault, want string
		env         []string
		last        string // a word of the last call that may have been made
	}{
		{"nocard", "STOP: see above", nil, "--initialize"},
		{"init", "STOP: see above", nil, "--initialize"},
		{"password", "STOP: exit code 1", nil, "--import-dkek-share"},
		{"kcv", "STOP: this did not print \"DKEK key check value : " + kcv, nil, "sc-hsm-tool"},
		{"unwrap", "STOP: this did not print \"Key successfully imported\"", nil, "--unwrap-key"},
		{"write", "STOP: exit code 1", nil, "--write-object"},
		{"hidden", "STOP: key 2 does not show", nil, "pkcs15-tool"},
		{"signature", "STOP: exit code 1", nil, "openssl"},
		{"ssh", "STOP: SSH does not find key 1", nil, "ssh-keygen"},
		{"serial", "STOP: the token in reader 1 is not SOFT0400001", nil, "pkcs15-tool"},
		{"full", "STOP: this token holds something", nil, "pkcs15-tool"},
		{"full", "STOP: this token holds something", []string{"WIPE=other"}, "pkcs15-tool"},
		{"", "READER", []string{"READER="}, ""},
		{"", "PASSWORD_2", []string{"PASSWORD_2="}, ""},
		{"", "STOP: SO_PIN has other characters", []string{"SO_PIN=35373632313838ZZ"}, ""},
		{"", "STOP: SO_PIN has not 16 digits", []string{"SO_PIN=57621880"}, ""},
		{"", "STOP: PIN has not 6 to 15", []string{"PIN=12345"}, ""},
	} {
		out, state, err := follow(t, dir, kcv, c.fault, c.env...)
		if err == nil || strings.Contains(out, "DONE") || !strings.Contains(out, c.want) {
			t.Errorf("%s %v: %v\n%s", c.fault, c.env, err, out)
		}
		if c.last == "" {
			if b, err := os.ReadFile(filepath.Join(state, "calls")); err == nil {
				t.Errorf("%s %v: called %q", c.fault, c.env, b)
			}
			continue
		}
		if list := calls(t, state); !slices.Contains(list[len(list)-1], c.last) {
			t.Errorf("%s: went on to %q", c.fault, list[len(list)-1])
		}
	}
	if out, _, err := follow(t, dir, kcv, "", "WIPE=SOFT0400001"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	name := filepath.Join(dir, "key-004.bin")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, err := follow(t, dir, kcv, ""); err == nil || !strings.Contains(out, "key-004.bin: FAILED") {
		t.Errorf("a turned bit: %v\n%s", err, out)
	}
}

// Other snapshots: shares not known, other PIN tries, an RSA key that may only
// decrypt, nothing at all.
func TestRestoreGuideVariants(t *testing.T) {
	d := dkekOf(t, 0x11)
	kcv := d.KCV().String()
	decrypts := exampleKey(t, d, 1, "", "RSA-2048", 1)
	description, err := pkcs15.ParseKey(decrypts.Description)
	if err != nil {
		t.Fatal(err)
	}
	description.Usage = pkcs15.Decrypt
	decrypts.Usage, decrypts.Description = uint32(pkcs15.Decrypt), description.Encode()
	twin := exampleKey(t, d, 2, "one ID", "P-256", 9)
	twin2 := exampleKey(t, d, 3, "one ID", "P-256", 9)
	s := &store.Snapshot{Token: store.Token{PINTries: 10, Domains: []store.Domain{{KCV: kcv}}}, Keys: []store.Key{decrypts, twin, twin2}}
	dir, _ := mustExport(t, s, ExportOptions{})
	text := string(readExport(t, dir, "RESTORE.md"))
	for _, want := range []string{"--pin-retry 10", "PIN has not 8 to 15", "--decrypt --mechanism RSA-PKCS --id 01", "- key 2, `one ID`\n- key 3, `one ID`\n", "made the recovery key up by itself"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if out, _, err := follow(t, dir, kcv, ""); err == nil || !strings.Contains(out, "SHARES") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, _, err := follow(t, dir, kcv, "", "PIN=64821900", "SHARES=0"); err == nil || !strings.Contains(out, "STOP: a recovery key has at least one share") {
		t.Errorf("%v\n%s", err, out)
	}
	// The stand-in decrypts nothing, so that is where it ends.
	out, state, err := follow(t, dir, kcv, "", "PIN=64821900", "SHARES=2")
	if err == nil || !strings.Contains(out, "STOP: key 1 is not the one that was stored") {
		t.Errorf("%v\n%s", err, out)
	}
	loaded := 0
	for _, c := range calls(t, state) {
		if slices.Contains(c, "--import-dkek-share") && slices.Contains(c, "env:PASSWORD_N") {
			loaded++
		}
	}
	if loaded != 2 {
		t.Errorf("%d shares loaded", loaded)
	}
	dir, r := mustExport(t, &store.Snapshot{}, ExportOptions{})
	if text := string(readExport(t, dir, "RESTORE.md")); script(t, dir) != "" || !strings.Contains(text, "nothing that OpenSC could restore") || len(r.Files) != 3 {
		t.Errorf("%q\n%s", r.Files, text)
	}
}
