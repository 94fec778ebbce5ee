package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/build"
	"hsmbackup/internal/doctor"
	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/report"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// shortReader carries no extended APDUs: the token behind it answers what comes
// of them with 6700.
type shortReader struct{ *softtoken.Token }

func (r shortReader) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if c, err := apdu.Parse(command); err != nil || c.Extended {
		return []byte{0x67, 0x00}, nil
	}
	return r.Token.Transmit(ctx, command)
}

// diagnose runs doctor --json.
func diagnose(t *testing.T, exit int, args ...string) report.Doctor {
	t.Helper()
	got, stdout, stderr := runIn(t, append([]string{"doctor", "--json"}, args...)...)
	if got != exit {
		t.Fatalf("exit %d, want %d:\n%s%s", got, exit, stdout, stderr)
	}
	var doc report.Doctor
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if doc.OK != (exit == 0) {
		t.Errorf("ok %v with exit %d", doc.OK, exit)
	}
	return doc
}

func found(doc report.Doctor, code string) bool {
	return slices.ContainsFunc(doc.Findings, func(f doctor.Finding) bool { return f.Code == code && f.Do != "" })
}

// A real pcscd: with a token, with readers of all kinds, with a token that
// another program holds, without readers, and none at all.
func TestDoctorInReaders(t *testing.T) {
	d := pcsctest.Start(t)
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("HSMBACKUP_CATALOG", filepath.Join(dir, "c.db"))
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	token := func(o softtoken.Options) *softtoken.Token {
		t.Helper()
		soft, err := softtoken.New(o)
		if err != nil {
			t.Fatal(err)
		}
		return soft
	}

	if doc := diagnose(t, 3); !found(doc, "no-token") || doc.PCSC != doctor.PCSCFine || len(doc.Readers) != pcsctest.Slots || doc.Readers[0].State != doctor.Empty {
		t.Errorf("empty readers: %+v", doc)
	}

	// A token of the right kind in an honest reader: nothing is in the way. Its
	// tries are what they were.
	plain := token(softtoken.Options{Serial: "SOFT0200001", Firmware: "3.6"})
	initialiseSoft(t, plain)
	d.Plug(t, 0, plain)
	doc := diagnose(t, 0, "--report", "report.txt")
	if r := doc.Readers[0]; r.State != doctor.HasToken || r.Serial != "SOFT0200001" || r.Firmware != "3.6" || r.Reach == nil || *r.Reach != (doctor.Reach{Longest: 1232, Whole: true}) || !r.Software {
		t.Errorf("a token: %+v %+v", r, r.Reach)
	}
	if exit, stdout, _ := runIn(t, "status", "--json"); exit != 0 || !strings.Contains(stdout, `"pin_tries":3,"so_pin_tries":15`) {
		t.Errorf("doctor spent a try: %s", stdout)
	}
	if info, err := os.Stat("report.txt"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the report: %v %v", info, err)
	}
	report, err := os.ReadFile("report.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"in " + d.ReaderName(0), "00 A4 04 00 ", "80 58 00 00  extended Le 65536", "malformed, 300 bytes", `"serial": "SOFT0200001"`, "libccid", build.Version()} {
		if !strings.Contains(string(report), want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
	if exit, _, stderr := runIn(t, "doctor", "--report", "report.txt"); exit != 1 || !strings.Contains(stderr, "nothing is ever overwritten") {
		t.Errorf("the report was overwritten: %s", stderr)
	}

	// A reader that cuts at 1014 bytes and says nothing, beside a card of
	// another kind, with a firmware that has known faults.
	d.Plug(t, 1, token(softtoken.Options{Serial: "SOFT0200002", Firmware: "3.1", ReaderCut: 1014}))
	if doc := diagnose(t, 0); !found(doc, "reader-cuts") || !found(doc, "firmware-lists") || !found(doc, "firmware-weak-aes") || *doc.Readers[1].Reach != (doctor.Reach{Longest: 1014, Cut: true}) {
		t.Errorf("a reader that cuts: %+v", doc)
	}
	d.Unplug(t, 1)
	d.Plug(t, 1, otherCard{})
	if doc := diagnose(t, 0); !found(doc, "other-card") || doc.Readers[1].State != doctor.OtherCard {
		t.Errorf("another card: %+v", doc)
	}
	d.Unplug(t, 1)

	// Held in a transaction.
	conn, err := pcsc.Connect(t.Context(), d.ReaderName(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	doctor.TestOnlyReaderTime = 500 * time.Millisecond
	doc = diagnose(t, 3)
	doctor.TestOnlyReaderTime = 5 * time.Second
	if !found(doc, "token-held") || doc.Readers[0].State != doctor.Held {
		t.Errorf("a token that is held: %+v", doc)
	}
	if err := conn.End(); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	diagnose(t, 0)
	d.Unplug(t, 0)

	d.Plug(t, 0, shortReader{token(softtoken.Options{Serial: "SOFT0200001"})})
	if doc := diagnose(t, 3); !found(doc, "no-extended") || doc.Readers[0].State != doctor.NoExtended {
		t.Errorf("a reader without extended APDUs: %+v", doc)
	}
	d.Unplug(t, 0)

	d.Stop(t)
	for _, path := range []string{"/run/pcscd/pcscd.comm", "/run/pcscd/pcscd.pid"} {
		_ = os.Remove(path)
	}
	if doc := diagnose(t, 3); doc.PCSC != doctor.PCSCNone || !found(doc, "pcscd-stopped") && !found(doc, "in-container") || len(doc.Readers) != 0 {
		t.Errorf("no pcscd: %+v", doc)
	}
	if exit, _, stderr := runIn(t, "backup"); exit != 1 || !strings.Contains(stderr, "hint: `hsmbackup doctor`") {
		t.Errorf("no pcscd: %s", stderr)
	}

	startBare(t)
	if doc := diagnose(t, 3); doc.PCSC != doctor.PCSCFine || len(doc.Readers) != 0 || !slices.ContainsFunc(doc.Findings, func(f doctor.Finding) bool {
		return f.Severity == doctor.Blocks && slices.Contains([]string{"no-reader", "in-container", "no-usb", "reader-unseen", "ccid-unknown", "ccid-missing"}, f.Code)
	}) {
		t.Errorf("no reader: %+v", doc)
	}
}

// startBare starts a pcscd that has no readers at all.
func startBare(t *testing.T) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "reader.conf")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const program = "/usr/sbin/pcscd"
	args := []string{"-f", "-c", config}
	if help, _ := exec.Command(program, "--help").CombinedOutput(); strings.Contains(string(help), "--disable-polkit") {
		args = append(args, "--disable-polkit")
	}
	cmd := exec.Command(program, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for range 500 {
		if _, err := pcsc.Readers(t.Context()); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("pcscd does not come up")
}

// initialiseSoft gives a token PIN and SO-PIN.
func initialiseSoft(t *testing.T, token *softtoken.Token) {
	t.Helper()
	card, err := schsm.Open(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	if err := card.Initialise(t.Context(), schsm.Initialisation{Options: schsm.OptionUnblock, PIN: secret.New([]byte("648219")), SOPIN: secret.New([]byte("57621880")), Shares: 1}); err != nil {
		t.Fatal(err)
	}
}
