package dkek

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"runtime"
	"slices"
	"sync"
)

// PBESize is the length of a share file: "Salted__" ‖ salt(8) ‖ AES-256-CBC of
// the share and 16 bytes of padding (fact sheet §6.2).
const PBESize = 64

const (
	saltSize = 8
	// rounds of the key derivation; the key is the result of the first two, the
	// initial vector that of the third.
	rounds = 3
)

var magic = []byte("Salted__")

// iterations is the number of MD5 in a round: ten million, fixed by
// sc-hsm-tool. Tests lower it.
var iterations uint64 = 10_000_000

// batch is how many MD5 are done between looks at the context: about 2 ms.
const batch = 1 << 14

// IsPBE tells a share file by its first eight bytes. Its length is for OpenPBE
// to look at, so that a file cut short is still called what it is.
func IsPBE(b []byte) bool { return bytes.HasPrefix(b, magic) }

// Progress is told how many of the MD5 steps of a derivation are done, about
// once per percent and at the end, never by two goroutines at once. A share
// takes 30,000,000.
type Progress = func(done, total uint64)

// OpenPBE decrypts a share file. All 16 bytes of the padding must be right,
// which a wrong password gives once in 2^128 (sc-hsm-tool: once in 257 tries);
// whether it is the right share only the KCV tells. The error wraps
// ErrWrongPassword, ErrFormat, ErrMD5Forbidden, or is the context's. It takes
// seconds, on a wrong password two thirds of them. progress may be nil.
func OpenPBE(ctx context.Context, file, password []byte, progress Progress) (*Share, error) {
	shares, errs := OpenPBEs(ctx, [][]byte{file}, [][]byte{password}, progress)
	return shares[0], errs[0]
}

// OpenPBEs is OpenPBE for several files, each with the password of the same
// index. They run side by side on all processors, and up to three on one at
// less than the time of two. Share and error of each file have its index; one
// of the two is nil. progress counts all files together.
func OpenPBEs(ctx context.Context, files, passwords [][]byte, progress Progress) ([]*Share, []error) {
	shares, errs := make([]*Share, len(files)), make([]error, len(files))
	var lanes []*lane
	defer func() {
		for _, l := range lanes {
			l.wipe()
		}
	}()
	for i, file := range files {
		switch {
		case fips140.Enforced():
			errs[i] = errMD5
		case !IsPBE(file):
			errs[i] = fail(ErrFormat, "share file: does not begin with \"Salted__\", so it is none that sc-hsm-tool wrote")
		case len(file) != PBESize:
			errs[i] = fail(ErrFormat, "share file: %d bytes, %d expected: it was cut off or something was attached", len(file), PBESize)
		case i >= len(passwords):
			errs[i] = fail(ErrWrongPassword, "share file: no password given")
		default:
			salt := file[len(magic) : len(magic)+saltSize]
			lanes = append(lanes, newLane(i, passwords[i], salt, file[len(magic)+saltSize:]))
		}
	}
	run(ctx, lanes, progress)
	for _, l := range lanes {
		shares[l.index], errs[l.index] = l.share, l.err
	}
	return shares, errs
}

var errMD5 = fail(ErrMD5Forbidden, "share files need MD5, which this run forbids (GODEBUG=fips140=only): start without that setting")

// SealPBE writes a share file with a random salt; sc-hsm-tool reads it. It
// decrypts what it wrote and compares. An empty password is refused with
// ErrWeakPassword; for the rest see CheckPassword. Other errors are as with
// OpenPBE.
func SealPBE(ctx context.Context, share *Share, password []byte, progress Progress) ([]byte, error) {
	if fips140.Enforced() {
		return nil, errMD5
	}
	if len(share.Bytes()) != Size {
		return nil, fail(ErrFormat, "the share is no longer in memory")
	}
	if len(password) == 0 {
		return nil, fail(ErrWeakPassword, "the password is empty")
	}
	file := make([]byte, len(magic)+saltSize, PBESize)
	copy(file, magic)
	salt := file[len(magic):]
	_, _ = rand.Read(salt) // never fails since Go 1.24
	if testOnlyMemory != nil {
		copy(salt, testOnlyMemory.Salt(password))
	}
	l := newLane(0, password, salt, nil)
	defer l.wipe()
	run(ctx, []*lane{l}, progress)
	if l.err != nil {
		return nil, l.err
	}
	block, err := aes.NewCipher(l.key[:])
	if err != nil {
		return nil, fail(ErrFormat, "share file: %v", err)
	}
	plain := slices.Concat(share.Bytes(), padding) // one piece: append would leave a copy
	defer clear(plain)
	sealed := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, l.iv[:]).CryptBlocks(sealed, plain)
	again := make([]byte, len(sealed))
	defer clear(again)
	cipher.NewCBCDecrypter(block, l.iv[:]).CryptBlocks(again, sealed)
	if subtle.ConstantTimeCompare(plain, again) != 1 {
		return nil, fail(ErrFormat, "share file: what was written does not read back: do not trust this computer")
	}
	return append(file, sealed...), nil
}

// padding is PKCS#7 for 32 bytes of content.
var padding = bytes.Repeat([]byte{aes.BlockSize}, aes.BlockSize)

// lane is one derivation. A nil ciphertext stops it at key and iv.
type lane struct {
	index      int
	passSalt   []byte // password ‖ salt
	ciphertext []byte
	state      md5State
	key        [32]byte
	iv         [16]byte

	share *Share
	err   error
	done  bool
}

func newLane(index int, password, salt, ciphertext []byte) *lane {
	passSalt := make([]byte, 0, len(password)+len(salt))
	passSalt = append(append(passSalt, password...), salt...)
	return &lane{index: index, passSalt: passSalt, ciphertext: bytes.Clone(ciphertext)}
}

func (l *lane) wipe() {
	clear(l.passSalt)
	clear(l.key[:])
	clear(l.iv[:])
	l.state = md5State{}
}

// start does the first MD5 of a round: over the result of the round before it,
// if any, password and salt.
func (l *lane) start(round int) {
	in := make([]byte, 0, md5.Size+len(l.passSalt))
	if round > 0 {
		before := l.state.digest()
		in = append(in, before[:]...)
		clear(before[:])
	}
	in = append(in, l.passSalt...)
	l.state = newMD5State(md5.Sum(in))
	clear(in)
	_ = md5.Sum(in) // it keeps its last block on the stack: this takes the place of that
}

// finish takes the result of a round. The last block of a file opens without
// the initial vector, so a wrong password shows after the second.
func (l *lane) finish(round int) {
	d := l.state.digest()
	defer clear(d[:])
	if round < rounds-1 {
		copy(l.key[md5.Size*round:], d[:])
	} else {
		l.iv = d
	}
	if round > 0 {
		l.open(round)
	}
}

// open looks at the ciphertext with what is there after a round.
func (l *lane) open(round int) {
	if l.ciphertext == nil {
		return
	}
	block, err := aes.NewCipher(l.key[:])
	if err != nil {
		l.err, l.done = fail(ErrFormat, "share file: %v", err), true
		return
	}
	if round == 1 {
		previous, last := l.ciphertext[aes.BlockSize:2*aes.BlockSize], l.ciphertext[2*aes.BlockSize:]
		plain := make([]byte, aes.BlockSize)
		cipher.NewCBCDecrypter(block, previous).CryptBlocks(plain, last)
		if subtle.ConstantTimeCompare(plain, padding) != 1 {
			l.err, l.done = fail(ErrWrongPassword, "wrong password for this share file"), true
		}
		clear(plain)
		return
	}
	plain := make([]byte, len(l.ciphertext))
	cipher.NewCBCDecrypter(block, l.iv[:]).CryptBlocks(plain, l.ciphertext)
	l.share, l.err = ShareFromBytes(plain[:Size])
	clear(plain)
}

// run derives all lanes on all processors.
func run(ctx context.Context, lanes []*lane, progress Progress) {
	if len(lanes) == 0 {
		return
	}
	report := newReporter(uint64(len(lanes))*rounds*iterations, progress)
	lanes = slices.DeleteFunc(slices.Clone(lanes), (*lane).remembered)
	workers := min(len(lanes), runtime.GOMAXPROCS(0))
	var wait sync.WaitGroup
	for w := range workers {
		from, to := w*len(lanes)/workers, (w+1)*len(lanes)/workers
		wait.Go(func() {
			for ; from < to; from += 3 {
				runGroup(ctx, lanes[from:min(from+3, to)], report)
			}
		})
	}
	wait.Wait()
	if ctx.Err() == nil {
		report.finish()
	}
}

// runGroup derives up to three lanes in lockstep.
func runGroup(ctx context.Context, lanes []*lane, report *reporter) {
	if stop(ctx, lanes) {
		return
	}
	for round := range rounds {
		var active []*lane
		for _, l := range lanes {
			if !l.done {
				l.start(round)
				active = append(active, l)
			}
		}
		report.add(uint64(len(lanes)))
		for left := iterations - 1; left > 0; {
			if stop(ctx, active) {
				return
			}
			n := min(left, batch)
			switch len(active) {
			case 1:
				chain1(&active[0].state, n)
			case 2:
				chain2(&active[0].state, &active[1].state, n)
			case 3:
				chain3(&active[0].state, &active[1].state, &active[2].state, n)
			}
			left -= n
			// lanes that stopped early count as if they went on
			report.add(n * uint64(len(lanes)))
		}
		for _, l := range active {
			l.finish(round)
		}
	}
	for _, l := range lanes {
		if testOnlyMemory != nil && l.err == nil {
			testOnlyMemory.Keep(l.passSalt, slices.Concat(l.key[:], l.iv[:]))
		} else if testOnlyMemory != nil && errors.Is(l.err, ErrWrongPassword) {
			testOnlyMemory.Keep(l.passSalt, bytes.Clone(l.key[:]))
		}
	}
}

// TestOnlyMemory knows what derivations give by password and salt: key and
// initial vector, 48 bytes, of a wrong password the key alone. Nil is not known.
// Salt gives one with which a password was used before, or nil. Its methods are
// called by several goroutines at once.
type TestOnlyMemory interface {
	Find(passSalt []byte) []byte
	Keep(passSalt, result []byte)
	Salt(password []byte) []byte
}

var testOnlyMemory TestOnlyMemory

// TestOnlyRemember has each derivation made once: tests of the whole program
// open the same files again and again, at two seconds each.
func TestOnlyRemember(m TestOnlyMemory) { testOnlyMemory = m }

// remembered finishes a lane without a derivation, if its result is known.
func (l *lane) remembered() bool {
	if testOnlyMemory == nil {
		return false
	}
	known := testOnlyMemory.Find(l.passSalt)
	if copy(l.key[:], known) < len(l.key) {
		return false
	}
	l.open(1)
	if l.done || copy(l.iv[:], known[len(l.key):]) < len(l.iv) {
		return l.done
	}
	l.open(2)
	return true
}

// stop ends the lanes if the context has.
func stop(ctx context.Context, lanes []*lane) bool {
	err := ctx.Err()
	if err == nil {
		return false
	}
	for _, l := range lanes {
		l.err, l.done = err, true
	}
	return true
}

// reporter thins progress out to once per percent.
type reporter struct {
	mu                sync.Mutex
	done, total, next uint64
	tell              Progress
}

func newReporter(total uint64, tell Progress) *reporter {
	return &reporter{total: total, next: total / 100, tell: tell}
}

func (r *reporter) add(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += n
	if r.tell == nil || r.done < r.next || r.done >= r.total {
		return
	}
	r.next = (r.done*100/r.total + 1) * r.total / 100
	r.tell(r.done, r.total)
}

// finish reports the end.
func (r *reporter) finish() {
	if r.tell != nil {
		r.tell(r.total, r.total)
	}
}
