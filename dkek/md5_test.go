package dkek

import (
	"crypto/md5"
	"os"
	"os/exec"
	"testing"
	"time"
)

// md5Loop is the reference: n times crypto/md5.
func md5Loop(d [16]byte, n uint64) [16]byte {
	for ; n > 0; n-- {
		d = md5.Sum(d[:])
	}
	return d
}

func checkChains(t *testing.T, a, b, c [16]byte, n uint64) {
	t.Helper()
	want := [3][16]byte{md5Loop(a, n), md5Loop(b, n), md5Loop(c, n)}
	in := [3]md5State{newMD5State(a), newMD5State(b), newMD5State(c)}
	s := in
	chain1(&s[0], n)
	if s[0].digest() != want[0] {
		t.Fatalf("one chain of %d from %x: %x, want %x", n, a, s[0].digest(), want[0])
	}
	s = in
	chain2(&s[0], &s[1], n)
	for i := range 2 {
		if s[i].digest() != want[i] {
			t.Fatalf("chain %d of two: %x, want %x", i, s[i].digest(), want[i])
		}
	}
	s = in
	chain3(&s[0], &s[1], &s[2], n)
	for i := range 3 {
		if s[i].digest() != want[i] {
			t.Fatalf("chain %d of three: %x, want %x", i, s[i].digest(), want[i])
		}
	}
}

func TestChains(t *testing.T) {
	ones := [16]byte{}
	for i := range ones {
		ones[i] = 0xFF
	}
	for _, n := range []uint64{0, 1, 2, 3, 1000} {
		checkChains(t, [16]byte{}, ones, [16]byte{1, 2, 3}, n)
		checkChains(t, ones, [16]byte{0: 0x80, 15: 1}, [16]byte{}, n)
	}
}

func FuzzChains(f *testing.F) {
	f.Add(make([]byte, 48), uint8(1))
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz!#$%&/()=?__"), uint8(5))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		var in [48]byte
		copy(in[:], b)
		checkChains(t, [16]byte(in[:16]), [16]byte(in[16:32]), [16]byte(in[32:]), uint64(n))
	})
}

// The checked-in code is what the generator writes.
func TestGenerated(t *testing.T) {
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal("the go command is needed: ", err)
	}
	source, err := os.ReadFile("md5gen.go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/md5gen.go", source, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "run", "md5gen.go")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want, err := os.ReadFile(dir + "/md5chain.go")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("md5chain.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("md5chain.go is not what md5gen.go writes: run go generate")
	}
}

// BenchmarkChain compares the derivation with a plain loop over crypto/md5:
// the ratio is time per MD5 and share over the loop's.
func BenchmarkChain(b *testing.B) {
	const steps = 200_000
	var d [16]byte
	start := time.Now()
	d = md5Loop(d, steps)
	loop := float64(time.Since(start)) / steps
	s := [3]md5State{newMD5State(d), {1}, {2}}
	for _, c := range []struct {
		name  string
		lanes int
		run   func()
	}{
		{"one", 1, func() { chain1(&s[0], steps) }},
		{"two", 2, func() { chain2(&s[0], &s[1], steps) }},
		{"three", 3, func() { chain3(&s[0], &s[1], &s[2], steps) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				c.run()
			}
			each := float64(b.Elapsed()) / float64(b.N) / float64(steps*c.lanes)
			b.ReportMetric(each, "ns/md5")
			b.ReportMetric(each/loop, "of-crypto/md5")
		})
	}
}
