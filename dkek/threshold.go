package dkek

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"

	"hsmbackup/internal/secret"
)

// RecoverPassword puts the password of a share file together again, from as
// many sheets as the threshold says or more, in any order. The threshold is on
// no sheet, and sheets carry no checksum, so that a result is only known to be
// right when the file opens with it (OpenThresholdPBE). It gives the passwords
// to try, the likeliest first; the caller wipes them:
//
//   - the number at 0 of the polynomial through all sheets, as 8 bytes;
//   - without its leading zero bytes, if it has any: this is what sc-hsm-tool
//     derives from, and why it cannot open a file that it made with 8 bytes;
//   - plus the prime, as far as that has 8 bytes: before February 2016 the
//     prime could be smaller than the password, and the sheets give no more than
//     the remainder.
//
// IDs from 10 on are read in decimal first, as they are printed, and then in
// hex, as sc-hsm-tool reads them and some therefore wrote them down.
//
// Sheets beyond the threshold must agree with the others: with one more than
// needed, a reading of the IDs under which they do is the only one tried; with
// two more, ErrMismatch names a single one that does not. ErrMismatch is also
// for sheets that cannot be of one set, ErrWrongPassword for a single sheet,
// ErrFormat for sheets without a prime or no longer in memory.
func RecoverPassword(sheets []*Sheet) ([]*secret.Bytes, error) {
	passwords, _, err := recoverPassword(sheets)
	return passwords, err
}

// agreement is what is known of sheets before the file is opened.
type agreement struct {
	sheets int // that differ
	agree  bool
}

func recoverPassword(sheets []*Sheet) ([]*secret.Bytes, agreement, error) {
	p, err := commonPrime(sheets)
	if err != nil {
		return nil, agreement{}, err
	}
	readings, err := readIDs(sheets)
	defer func() {
		for _, r := range readings {
			clear(r)
		}
	}()
	if err != nil {
		return nil, agreement{}, err
	}
	f := newPrimeField(p)
	state := agreement{sheets: len(readings[0])}
	secrets := make([]uint64, 0, len(readings))
	defer func() { clear(secrets) }()
	for _, r := range readings {
		s, degree := f.interpolate(r)
		if degree < len(r)-1 {
			// By chance once in 2^64: these are the right IDs and values.
			state = agreement{sheets: len(r), agree: true}
			secrets = append(secrets[:0], s)
			break
		}
		secrets = append(secrets, s)
	}
	if !state.agree {
		for _, r := range readings {
			if id := f.outlier(r); id != 0 {
				return nil, state, fail(ErrMismatch, "the sheet with ID %d does not agree with the other %d, which agree with each other: correct its ID or value, or leave it out", id, len(r)-1)
			}
		}
	}
	var passwords []*secret.Bytes
	for _, s := range secrets {
		passwords = append(passwords, candidates(s, p)...)
	}
	return passwords, state, nil
}

// commonPrime gives the prime of the sheets and checks all values against it.
func commonPrime(sheets []*Sheet) (uint64, error) {
	var first *Sheet
	for i, s := range sheets {
		if s == nil || s.value.Len() != 8 {
			return 0, fail(ErrFormat, "sheet %d is no longer in memory", i+1)
		}
		switch {
		case s.Prime == 0:
		case first == nil:
			first = s
		case s.Prime != first.Prime:
			return 0, fail(ErrMismatch, "the sheet with ID %d has another prime than that with ID %d: sheets of two sets are mixed, or one of the primes is mistyped", s.ID, first.ID)
		}
	}
	if len(sheets) == 0 {
		return 0, fail(ErrWrongPassword, "no sheet given, at least 2 are needed")
	}
	if first == nil {
		return 0, fail(ErrFormat, "the prime is on none of the sheets: it belongs on each")
	}
	for _, s := range sheets {
		if binary.BigEndian.Uint64(s.value.Bytes()) >= first.Prime {
			return 0, fail(ErrMismatch, "the share value of the sheet with ID %d is not below the prime: one of the two is mistyped, or it is of another set", s.ID)
		}
	}
	return first.Prime, nil
}

// point is a sheet under one reading of its ID.
type point struct{ x, y uint64 }

// readIDs gives the points as printed and, if that differs, with all IDs in
// hex, in order of x; only those readings under which each ID has one value. If
// none does, the error is that of the first.
func readIDs(sheets []*Sheet) (readings [][]point, err error) {
	printed, err := readSheets(sheets, func(s *Sheet) int { return s.ID })
	if err == nil {
		readings = append(readings, printed)
	}
	if slices.ContainsFunc(sheets, func(s *Sheet) bool { return s.ID != s.hexID }) {
		if inHex, err := readSheets(sheets, func(s *Sheet) int { return s.hexID }); err == nil {
			readings = append(readings, inHex)
		}
	}
	if len(readings) == 0 {
		return nil, err
	}
	return readings, nil
}

func readSheets(sheets []*Sheet, id func(*Sheet) int) (_ []point, err error) {
	points := make([]point, 0, len(sheets))
	defer func() {
		if err != nil {
			clear(points)
		}
	}()
	for _, s := range sheets {
		n := point{uint64(id(s)), binary.BigEndian.Uint64(s.value.Bytes())}
		again := false
		for _, o := range points {
			switch {
			case o.x == n.x && o.y != n.y:
				return nil, fail(ErrMismatch, "two sheets with ID %d have different values: sheets of two sets are mixed, or one is mistyped", n.x)
			case o.x != n.x && o.y == n.y:
				return nil, fail(ErrMismatch, "the sheets with ID %d and ID %d have the same value: one of them was copied wrong", o.x, n.x)
			case o == n:
				again = true
			}
		}
		if !again {
			points = append(points, n)
		}
	}
	if len(points) < 2 {
		return nil, fail(ErrWrongPassword, "only the sheet with ID %d is there, at least 2 are needed", points[0].x)
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
	return points, nil
}

// candidates are the passwords that a number can stand for.
func candidates(s, p uint64) []*secret.Bytes {
	full := secret.New(binary.BigEndian.AppendUint64(nil, s))
	list := []*secret.Bytes{full}
	if short := bytes.TrimLeft(full.Bytes(), "\x00"); len(short) > 0 && len(short) < full.Len() {
		list = append(list, secret.New(bytes.Clone(short)))
	}
	if sum, carry := bits.Add64(s, p, 0); carry == 0 {
		list = append(list, secret.New(binary.BigEndian.AppendUint64(nil, sum)))
	}
	return list
}

// primeField is the arithmetic modulo a prime of 64 bits.
type primeField struct {
	p       uint64
	inverse [maxSheetID + 1]uint64 // of 1 to 255
}

func newPrimeField(p uint64) *primeField {
	f := &primeField{p: p}
	f.inverse[1] = 1
	for i := uint64(2); i <= maxSheetID; i++ {
		// p = q·i + r, so 1/i = -q/r
		f.inverse[i] = f.mul(f.sub(0, p/i), f.inverse[p%i])
	}
	return f
}

func (f *primeField) add(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 || sum >= f.p {
		sum -= f.p
	}
	return sum
}

func (f *primeField) sub(a, b uint64) uint64 {
	d, borrow := bits.Sub64(a, b, 0)
	if borrow != 0 {
		d += f.p
	}
	return d
}

func (f *primeField) mul(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return bits.Rem64(hi, lo, f.p)
}

// interpolate gives the value at 0 of the polynomial through the points, which
// are in order of x, and its degree: Newton's form, by divided differences.
func (f *primeField) interpolate(points []point) (atZero uint64, degree int) {
	c := make([]uint64, len(points))
	defer clear(c)
	for i, n := range points {
		c[i] = n.y
	}
	for j := 1; j < len(c); j++ {
		for i := len(c) - 1; i >= j; i-- {
			c[i] = f.mul(f.sub(c[i], c[i-1]), f.inverse[points[i].x-points[i-j].x])
		}
	}
	for i := len(c) - 1; i >= 0; i-- {
		if degree == 0 && c[i] != 0 {
			degree = i
		}
		atZero = f.add(f.mul(atZero, f.sub(0, points[i].x)), c[i])
	}
	return atZero, degree
}

// outlier gives the ID of the one sheet without which the others agree, 0 if
// there is none or it cannot be told.
func (f *primeField) outlier(points []point) uint64 {
	// Of three, any two are left; those agree only if their values are equal,
	// which readSheets does not let through.
	for i := range points {
		others := slices.Delete(slices.Clone(points), i, i+1)
		_, degree := f.interpolate(others)
		agree := degree < len(others)-1
		clear(others)
		if agree {
			return points[i].x
		}
	}
	return 0
}

// OpenThresholdPBE opens a share file with sheets. It tries what
// RecoverPassword gives, side by side: nearly always one or two passwords, at
// the cost of OpenPBE each; progress counts all of them. Errors are those of
// RecoverPassword, before any derivation, and of OpenPBE. Which sheets to leave
// out if one of them is wrong is not tried: people know better whom to ask.
func OpenThresholdPBE(ctx context.Context, file []byte, sheets []*Sheet, progress Progress) (*Share, error) {
	secrets, state, err := recoverPassword(sheets)
	if err != nil {
		return nil, err
	}
	files, passwords := make([][]byte, len(secrets)), make([][]byte, len(secrets))
	for i, s := range secrets {
		defer s.Wipe()
		files[i], passwords[i] = file, s.Bytes()
	}
	shares, errs := OpenPBEs(ctx, files, passwords, progress)
	for i, err := range errs {
		if err == nil {
			for _, s := range shares[i+1:] {
				s.Wipe()
			}
			return shares[i], nil
		}
	}
	for _, err := range errs {
		if !errors.Is(err, ErrWrongPassword) {
			return nil, err
		}
	}
	return nil, state.failure()
}

// failure says what it can mean that no password opens the file.
func (a agreement) failure() error {
	switch {
	case a.agree:
		return fail(ErrWrongPassword, "the %d sheets agree with each other, but this share file does not open with their password: it belongs to other sheets, or was damaged", a.sheets)
	case a.sheets == 2:
		return fail(ErrWrongPassword, "this share file does not open with the password of these 2 sheets: more sheets may be needed, a prime, ID or value may be mistyped, or the file belongs to other sheets")
	}
	return fail(ErrWrongPassword, "this share file does not open with the password of these %d sheets: more sheets may be needed, a prime, ID or value may be mistyped (leave out one sheet after the other, or bring more: with two more than needed a wrong one is named), or the file belongs to other sheets", a.sheets)
}
