//go:build linux && cgo

package e2e

import (
	"bytes"
	"fmt"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
)

// The largest key in use goes from token to token in readers that cut commands
// at 1014 bytes and say nothing, where the blob of RSA-4096 does not fit into
// one. The stock tool does the same beside it, and what it did and said is
// printed: it is the reason for all of this.
func TestReaderCut(t *testing.T) {
	share := dkek.NewShare()
	inReader := func(firmware, serial string) *softtoken.Token {
		token := newToken(t, softtoken.Options{Firmware: firmware, Serial: serial, ReaderCut: 1014})
		setUp(t, token, share)
		return token
	}
	source := inReader("3.5", "SOFT0200040")
	r := plugged(t, 0, source)
	k := key{"rsa:4096", "04", "SSH CA"}
	r.generate(k)
	public := r.public(k)
	good(t, r.scHSM("--wrap-key", "04.bin", "--key-reference", "1", "--pin", "env:TOKEN_PIN"))
	file, err := dkek.ParseContainer(r.read("04.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(file.Blob); n <= 1014 {
		t.Fatalf("a blob of %d bytes is no test", n)
	}
	// The backup proves the blob by its way back onto this very token.
	want(t, r.hsmbackup(secrets("backup", "--json")...), 3, `"coverage":"no-share"`)
	files := map[schsm.FID][]byte{}
	for _, f := range []schsm.FID{schsm.DescriptionFile(1), schsm.CertificateFile(1)} {
		files[f] = readFile(t, source, f)
	}
	d := pcsctest.Start(t)
	d.Unplug(t, 0)

	ours, theirs := inReader("3.6", "SOFT0400040"), inReader("3.6", "SOFT0400041")
	d.Plug(t, 0, ours)
	said := good(t, r.hsmbackup(secrets("restore", "--from", "SOFT0200040", "--yes")...), "is on SOFT0400040 and was used")
	t.Logf("hsmbackup restore, exit code 0:\n%s", said)
	for f, content := range files {
		if got := readFile(t, ours, f); !bytes.Equal(got, content) {
			t.Errorf("EF %s has %d bytes, the original %d, and they differ", f, len(got), len(content))
		}
	}
	r.use(k, public)

	d.Plug(t, 1, theirs)
	s := reader{t, 1, t.TempDir()}
	s.stock("--unwrap-key", r.path("04.bin"), "--key-reference", "1", "--pin", "env:TOKEN_PIN")
	left := ""
	for f, content := range files {
		got := tryFile(t, theirs, f)
		left += fmt.Sprintf("EF %s: %d bytes of %d, equal: %v\n", f, len(got), len(content), bytes.Equal(got, content))
	}
	s.write("message", []byte("the quick brown fox"))
	use := s.loggedIn("--sign", "--mechanism", "SHA256-RSA-PKCS", "--id", k.id, "--input-file", "message", "--output-file", "signature")
	t.Logf("what sc-hsm-tool left on the token: %v\n%suse of that key, exit code %d:\n%s%s", listFiles(t, theirs), left, use.Code, use.Stdout, use.Stderr)
}
