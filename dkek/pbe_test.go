package dkek

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// cheap lowers the cost of derivations for one test.
func cheap(t testing.TB, n uint64) {
	t.Helper()
	before := iterations
	iterations = n
	t.Cleanup(func() { iterations = before })
}

// reference is the derivation in its plainest form (fact sheet §6.2).
func reference(password, salt []byte) (key, iv []byte) {
	var d [16]byte
	var out []byte
	for round := range 3 {
		in := append(append([]byte(nil), password...), salt...)
		if round > 0 {
			in = append(d[:], in...)
		}
		d = md5Loop(md5.Sum(in), iterations-1)
		out = append(out, d[:]...)
	}
	return out[:32], out[32:]
}

// sealPlain writes a share file around any 48 bytes of plaintext.
func sealPlain(t testing.TB, password, plain []byte) []byte {
	t.Helper()
	salt := []byte("saltsalt")
	key, iv := reference(password, salt)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(out, plain)
	return append([]byte("Salted__saltsalt"), out...)
}

// A share sealed at full cost opens again; progress is exact. The golden
// share files are opened at full cost too.
func TestPBEFullCost(t *testing.T) {
	s := NewShare()
	var told []uint64
	file, err := SealPBE(context.Background(), s, []byte("testpw-1"), func(done, total uint64) {
		if total != 30_000_000 {
			t.Errorf("total %d", total)
		}
		told = append(told, done)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(told) < 95 || len(told) > 105 || told[len(told)-1] != 30_000_000 {
		t.Errorf("%d progress calls up to %d", len(told), told[len(told)-1])
	}
	for i := 1; i < len(told); i++ {
		if told[i] <= told[i-1] {
			t.Errorf("progress goes from %d to %d", told[i-1], told[i])
		}
	}
	if len(file) != PBESize || !IsPBE(file) {
		t.Fatalf("file of %d bytes", len(file))
	}
	got, errs := OpenPBEs(context.Background(), [][]byte{file, file}, [][]byte{[]byte("testpw-1"), []byte("testpw-2")}, nil)
	if errs[0] != nil || !got[0].Equal(s) {
		t.Errorf("does not open: %v", errs[0])
	}
	if !errors.Is(errs[1], ErrWrongPassword) || got[1] != nil {
		t.Errorf("wrong password: %v", errs[1])
	}
}

func TestPBERoundTrip(t *testing.T) {
	cheap(t, batch+1000) // more than one batch
	rapid.Check(t, func(t *rapid.T) {
		password := rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "password")
		s := NewShare()
		file, err := SealPBE(context.Background(), s, password, nil)
		if err != nil {
			t.Fatal(err)
		}
		key, iv := reference(password, file[8:16])
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		plain := make([]byte, 48)
		cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, file[16:])
		if !bytes.Equal(plain, append(bytes.Clone(s.Bytes()), padding...)) {
			t.Fatal("the plain derivation opens it to something else")
		}
		got, err := OpenPBE(context.Background(), file, password, nil)
		if err != nil || !got.Equal(s) {
			t.Fatalf("does not open: %v", err)
		}
		if _, err := OpenPBE(context.Background(), file, append(password, 0), nil); !errors.Is(err, ErrWrongPassword) {
			t.Fatalf("another password: %v", err)
		}
	})
}

func TestSealPBESalt(t *testing.T) {
	cheap(t, 1)
	s := NewShare()
	a, err1 := SealPBE(context.Background(), s, []byte("x"), nil)
	b, err2 := SealPBE(context.Background(), s, []byte("x"), nil)
	if err1 != nil || err2 != nil || bytes.Equal(a[8:16], b[8:16]) {
		t.Error("the salt is not random")
	}
}

// All 16 bytes of the padding count, as sc-hsm-tool's check of one does not.
func TestOpenPBEPadding(t *testing.T) {
	cheap(t, 3)
	password := []byte("pw")
	content := bytes.Repeat([]byte{7}, 32)
	good := sealPlain(t, password, append(bytes.Clone(content), padding...))
	if s, err := OpenPBE(context.Background(), good, password, nil); err != nil || !bytes.Equal(s.Bytes(), content) {
		t.Fatalf("the plain form does not open: %v", err)
	}
	for i := range 16 {
		pad := bytes.Clone(padding)
		pad[i] ^= 1
		if _, err := OpenPBE(context.Background(), sealPlain(t, password, append(bytes.Clone(content), pad...)), password, nil); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("padding byte %d may be wrong: %v", i, err)
		}
	}
	// valid PKCS#7 of other lengths, which sc-hsm-tool takes for a share
	for n := 1; n < 16; n++ {
		plain := append(bytes.Repeat([]byte{7}, 48-n), bytes.Repeat([]byte{byte(n)}, n)...)
		if _, err := OpenPBE(context.Background(), sealPlain(t, password, plain), password, nil); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("padding of %d: %v", n, err)
		}
	}
	zero := sealPlain(t, password, append(make([]byte, 32), padding...))
	if _, err := OpenPBE(context.Background(), zero, password, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("a share of zeros: %v", err)
	}
}

func TestOpenPBEReject(t *testing.T) {
	cheap(t, 3)
	file := vector(t, "a.pbe")
	for name, b := range map[string][]byte{
		"nothing":      nil,
		"magic only":   file[:8],
		"one less":     file[:63],
		"one more":     append(bytes.Clone(file), '\n'),
		"other magic":  append([]byte("salted__"), file[8:]...),
		"key blob":     parts(t, vector(t, "a-p256.bin"))[0],
		"base64 of it": []byte("U2FsdGVkX18AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
	} {
		if s, err := OpenPBE(context.Background(), b, []byte("testpw-1"), nil); s != nil || !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !IsPBE(file) || !IsPBE(file[:20]) || IsPBE(nil) || IsPBE(file[1:]) {
		t.Error("IsPBE")
	}
	if _, err := OpenPBE(context.Background(), file, nil, nil); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("no password: %v", err)
	}
	if _, err := SealPBE(context.Background(), NewShare(), nil, nil); !errors.Is(err, ErrWeakPassword) {
		t.Errorf("sealed without password: %v", err)
	}
	if _, err := SealPBE(context.Background(), nil, []byte("x"), nil); !errors.Is(err, ErrFormat) {
		t.Errorf("sealed without share: %v", err)
	}
}

// Several at once, good and bad mixed, on one processor and on all: each gets
// its own answer, and progress adds up.
func TestOpenPBEs(t *testing.T) {
	cheap(t, 20_000)
	for _, procs := range []int{1, runtime.GOMAXPROCS(0)} {
		for count := range 9 {
			t.Run(fmt.Sprintf("%d on %d", count, procs), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				var files, passwords [][]byte
				var want []*Share
				valid := uint64(0)
				for i := range count {
					s, pw := NewShare(), fmt.Appendf(nil, "password %d", i)
					file, err := SealPBE(context.Background(), s, pw, nil)
					if err != nil {
						t.Fatal(err)
					}
					switch i % 4 {
					case 1:
						pw[0] ^= 1
						s = nil
						valid++
					case 2:
						file = file[:50]
						s = nil
					default:
						valid++
					}
					files, passwords, want = append(files, file), append(passwords, pw), append(want, s)
				}
				var last, wanted uint64
				got, errs := OpenPBEs(context.Background(), files, passwords, func(done, total uint64) {
					if done < last || done > total {
						t.Errorf("progress %d after %d of %d", done, last, total)
					}
					last, wanted = done, total
				})
				if len(got) != count || len(errs) != count || last != wanted || last != valid*3*iterations {
					t.Fatalf("%d shares, %d errors, progress %d of %d", len(got), len(errs), last, wanted)
				}
				for i := range count {
					switch i % 4 {
					case 1:
						if got[i] != nil || !errors.Is(errs[i], ErrWrongPassword) {
							t.Errorf("wrong password %d: %v", i, errs[i])
						}
					case 2:
						if got[i] != nil || !errors.Is(errs[i], ErrFormat) {
							t.Errorf("cut file %d: %v", i, errs[i])
						}
					default:
						if errs[i] != nil || !got[i].Equal(want[i]) {
							t.Errorf("file %d: %v", i, errs[i])
						}
					}
				}
			})
		}
	}
	if _, errs := OpenPBEs(context.Background(), [][]byte{vector(t, "a.pbe")}, nil, nil); !errors.Is(errs[0], ErrWrongPassword) {
		t.Errorf("no passwords: %v", errs[0])
	}
}

// memory is a TestOnlyMemory that counts.
type memory struct {
	known       map[string][]byte
	found, kept int
}

func (m *memory) Find(passSalt []byte) []byte {
	known := m.known[string(passSalt)]
	if known != nil {
		m.found++
	}
	return known
}

func (m *memory) Keep(passSalt, result []byte) {
	m.known[string(passSalt)] = result
	m.kept++
}

func (m *memory) Salt(password []byte) []byte {
	for passSalt, result := range m.known {
		if salt, found := strings.CutPrefix(passSalt, string(password)); found && len(result) == 48 {
			return []byte(salt)
		}
	}
	return nil
}

// What is remembered gives what a derivation gives, a wrong password and an
// altered file included.
func TestOnlyRememberGivesTheSame(t *testing.T) {
	cheap(t, 3)
	m := &memory{known: map[string][]byte{}}
	TestOnlyRemember(m)
	t.Cleanup(func() { TestOnlyRemember(nil) })
	share, password := NewShare(), []byte("ordinary trumpet")
	file, err := SealPBE(context.Background(), share, password, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		last := uint64(0)
		if got, err := OpenPBE(context.Background(), file, password, func(done, _ uint64) { last = done }); err != nil || !got.Equal(share) || last != 9 {
			t.Errorf("%v, progress %d", err, last)
		}
		if _, err := OpenPBE(context.Background(), file, []byte("wrong"), nil); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("wrong password: %v", err)
		}
		altered := bytes.Clone(file)
		altered[len(altered)-1] ^= 1
		if _, err := OpenPBE(context.Background(), altered, password, nil); !errors.Is(err, ErrWrongPassword) {
			t.Errorf("altered: %v", err)
		}
	}
	again, err := SealPBE(context.Background(), NewShare(), password, nil)
	if err != nil || !bytes.Equal(again[:16], file[:16]) || bytes.Equal(again, file) {
		t.Errorf("another share under the same password: %x, was %x, %v", again, file, err)
	}
	if m.kept != 2 || m.found != 6 {
		t.Errorf("%d kept, %d found", m.kept, m.found)
	}
}

func TestPBECancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	calls := 0
	_, err := OpenPBE(ctx, vector(t, "a.pbe"), []byte("testpw-1"), func(done, _ uint64) {
		if calls++; calls == 3 {
			cancel()
		}
	})
	// the callback runs between two batches, so the next never begins
	if !errors.Is(err, context.Canceled) || calls != 3 {
		t.Fatalf("goes on to call %d: %v", calls, err)
	}
	if _, err := SealPBE(ctx, NewShare(), []byte("x"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("sealing goes on: %v", err)
	}
}

// With GODEBUG=fips140=only Go's MD5 panics. That is said, not suffered.
func TestFIPS(t *testing.T) {
	if os.Getenv("DKEK_TEST_FIPS") != "" {
		_, err := OpenPBE(context.Background(), make([]byte, PBESize), []byte("x"), nil)
		_, err2 := SealPBE(context.Background(), NewShare(), []byte("x"), nil)
		fmt.Println("open:", err, "seal:", err2)
		if !errors.Is(err, ErrMD5Forbidden) || !errors.Is(err2, ErrMD5Forbidden) {
			t.Error("MD5 is not refused")
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestFIPS$", "-test.v")
	cmd.Env = append(os.Environ(), "DKEK_TEST_FIPS=1", "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "start without that setting") {
		t.Errorf("%v: %s", err, out)
	}
}

func FuzzOpenPBE(f *testing.F) {
	before := iterations
	iterations = 2
	f.Cleanup(func() { iterations = before })
	f.Add([]byte("Salted__"), []byte("x"))
	f.Add(vector(f, "a.pbe"), []byte("testpw-1"))
	f.Fuzz(func(t *testing.T, file, password []byte) {
		s, err := OpenPBE(context.Background(), file, password, nil)
		if err == nil && (len(file) != PBESize || len(s.Bytes()) != Size) {
			t.Fatal("opens to something else")
		}
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrWrongPassword) {
			t.Fatal(err)
		}
		if IsPBE(file) != bytes.HasPrefix(file, []byte("Salted__")) {
			t.Fatal("IsPBE")
		}
	})
}

// BenchmarkShare opens one share at full cost.
func BenchmarkShare(b *testing.B) {
	file := vector(b, "a.pbe")
	for b.Loop() {
		if _, err := OpenPBE(context.Background(), file, []byte("testpw-1"), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/30e6, "ns/md5")
}
