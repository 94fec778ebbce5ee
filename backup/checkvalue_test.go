package backup

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// The challenges of docs/format.md, "Check values": whoever changes one makes
// the check values of old snapshots worthless.
func TestCheckValueChallenges(t *testing.T) {
	doc, err := os.ReadFile("../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	all := func(schsm.Algorithm) bool { return true }
	for _, c := range []struct {
		s     subject
		index int
		want  schsm.Algorithm
	}{
		{subject{kind: pkcs15.AES, allows: all}, 0, schsm.AESEncrypt},
		{subject{kind: pkcs15.RSA, bits: 2048, allows: all}, 0, schsm.RSARaw},
		{subject{kind: pkcs15.RSA, bits: 2048, allows: all}, 1, schsm.RSADecrypt},
		{subject{kind: pkcs15.RSA, allows: all}, 8, schsm.RSARaw}, // of unknown size: the same
		{subject{kind: pkcs15.EC, allows: all}, 0, schsm.ECDH},
		{subject{kind: pkcs15.EC, allows: all}, 1, schsm.ECDH},
		{subject{kind: pkcs15.EC, allows: all}, 10, schsm.ECDH},
	} {
		ch := challenges(nil, c.s, fixedBytes)[c.index]
		got := hex.EncodeToString(ch.input)
		if len(ch.input) > 65 {
			got = store.HashOf(ch.input).String()
		}
		if ch.algorithm != c.want || !strings.Contains(string(doc), "`"+got+"`") {
			t.Errorf("%v of %d bits, challenge %d: algorithm %02X, input %s", c.s.kind, c.s.bits, c.index, byte(ch.algorithm), got)
		}
	}
}
