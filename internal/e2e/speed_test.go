//go:build linux && cgo

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/softtoken"
)

// BenchmarkShare opens one share file in this program and with sc-hsm-tool, on
// the same machine in the same run. The first is meant to take at most 0.35 of
// the second.
func BenchmarkShare(b *testing.B) {
	file, err := os.ReadFile(filepath.Join("..", "..", "testdata", "a.pbe"))
	if err != nil {
		b.Fatal(err)
	}
	token := newToken(b, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200020"})
	r := plugged(b, 0, token)
	r.write("a.pbe", file)
	var ours, theirs time.Duration
	for b.Loop() {
		begin := time.Now()
		share, err := dkek.OpenPBE(b.Context(), file, []byte("testpw-1"), nil)
		if err != nil {
			b.Fatal(err)
		}
		ours += time.Since(begin)
		share.Wipe()

		good(b, r.scHSM("--initialize", "--so-pin", "env:TOKEN_SO_PIN", "--pin", "env:TOKEN_PIN", "--dkek-shares", "1"))
		begin = time.Now()
		good(b, r.scHSM("--import-dkek-share", "a.pbe", "--password", "testpw-1"), "DKEK key check value : 19471B8FFE18014C")
		theirs += time.Since(begin)
	}
	b.ReportMetric(ours.Seconds()/float64(b.N), "s/share")
	b.ReportMetric(theirs.Seconds()/float64(b.N), "s/sc-hsm-tool")
	b.ReportMetric(ours.Seconds()/theirs.Seconds(), "ratio")
}
