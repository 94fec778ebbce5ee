package custody

import (
	"bytes"
	"context"
	"os"

	"hsmbackup/dkek"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/words"
	"hsmbackup/store"
)

// generatedWords is the length of a generated password: 77 bits.
const generatedWords = 7

// RandomPassword makes a password, where there is a desk to show it at.
func RandomPassword(desk Desk) (*secret.Bytes, error) {
	if !desk.Available() {
		return nil, usagef("give --password env:NAME, file:PATH, fd:N or cmd:COMMAND", "there is no terminal to show a generated password on")
	}
	phrase, err := words.Random(generatedWords)
	if err != nil {
		return nil, err
	}
	return secret.New(phrase), nil
}

// PasswordScreen is what shows a password; the caller clears it.
func PasswordScreen(password *secret.Bytes) []byte {
	screen := make([]byte, 0, 256)
	screen = append(screen, "The password of the new share, shown once; write it down:\n\n    "...)
	screen = append(screen, password.Bytes()...)
	return append(screen, '\n')
}

// GeneratedPassword makes a password and shows it.
func GeneratedPassword(ctx context.Context, desk Desk) (*secret.Bytes, error) {
	password, err := RandomPassword(desk)
	if err != nil {
		return nil, err
	}
	screen := PasswordScreen(password)
	typed, err := desk.Screen(ctx, screen, "Press Enter when it is written down, and it goes off the screen.")
	clear(screen)
	typed.Wipe()
	if err != nil {
		password.Wipe()
		return nil, err
	}
	return password, nil
}

// CheckPassword refuses a weak password of a new share, unless weak ones are
// wanted: then it says so.
func CheckPassword(desk Desk, password *secret.Bytes, weak bool) error {
	err := dkek.CheckPassword(password.Bytes())
	if err == nil {
		return nil
	}
	if !weak {
		return failf("weak-password", "leave --password out and seven random words are made, or insist with --weak-password", "%s", err)
	}
	desk.Note("warning: %s", err)
	return nil
}

// NotThere refuses a file that exists, before anybody is asked anything.
func NotThere(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return failf("exists", "", "%s exists already, and nothing is ever overwritten", path)
	}
	return nil
}

// WriteShare writes a share to a new file, reads it back and opens it. It gives
// the KCV that the share has by itself.
func WriteShare(ctx context.Context, desk Desk, path string, share *dkek.Share, password *secret.Bytes) (dkek.KCV, error) {
	file, err := dkek.SealPBE(ctx, share, password.Bytes(), desk.Derivation("making the share"))
	if err != nil {
		return dkek.KCV{}, err
	}
	if err := newfile.Write(path, file); err != nil {
		return dkek.KCV{}, err
	}
	kcv, err := reopen(ctx, desk, path, file, share, password)
	if err != nil {
		// Nobody has used it yet, and a share that does not open is worse than
		// none.
		_ = os.Remove(path)
	}
	return kcv, err
}

// reopen reads a share file back and opens it as its keeper will one day. It
// must give the same share and the same KCV.
func reopen(ctx context.Context, desk Desk, path string, want []byte, share *dkek.Share, password *secret.Bytes) (kcv dkek.KCV, err error) {
	got, err := os.ReadFile(path)
	if err != nil {
		return kcv, err
	}
	if !bytes.Equal(got, want) {
		return kcv, failf("not-written", "the disk may be failing", "%s does not hold what was written to it; it is deleted", path)
	}
	again, err := dkek.OpenPBE(ctx, got, password.Bytes(), desk.Derivation("opening it again"))
	desk.Derived()
	if err != nil {
		return kcv, err
	}
	defer again.Wipe()
	if kcv, err = ShareKCV(share); err != nil {
		return kcv, err
	}
	back, err := ShareKCV(again)
	if err != nil {
		return kcv, err
	}
	if !again.Equal(share) || back != kcv {
		return kcv, failf("not-written", "this computer may be failing", "%s opens to another share than was written; it is deleted", path)
	}
	return kcv, nil
}

// ShareKCV is the KCV that a share would have alone.
func ShareKCV(share *dkek.Share) (dkek.KCV, error) {
	key, err := dkek.Combine(share)
	if err != nil {
		return dkek.KCV{}, err
	}
	defer key.Wipe()
	return key.KCV(), nil
}

// Combined gives the one share that was brought together, or one that stands for
// several; and the KCV of the recovery key, if its parts tell. The caller wipes
// the share.
func (m *Material) Combined(ctx context.Context, cat *store.Catalog) (*dkek.Share, dkek.KCV, error) {
	if m.Count() == 1 {
		shares, err := m.Open(ctx, cat)
		if err != nil {
			return nil, dkek.KCV{}, err
		}
		return shares[0], m.KCV(), nil
	}
	key, shares, err := m.OpenKey(ctx, cat)
	if err != nil {
		return nil, dkek.KCV{}, err
	}
	defer key.Wipe()
	dkek.WipeShares(shares)
	one, err := dkek.ShareFromBytes(append([]byte(nil), key.Bytes()...))
	return one, key.KCV(), err
}
