package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

// sharing is the share of a set-up while it is brought.
type sharing struct {
	*setter
	job *backup.SetUpJob
	r   *backup.SetUpReport

	share *dkek.Share
	kcv   dkek.KCV
}

// Share brings the share of --share, takes up the share file, or makes a new
// share, in a file or in parts.
func (s *setter) Share(ctx context.Context, job *backup.SetUpJob, r *backup.SetUpReport) (*dkek.Share, error) {
	j := &sharing{setter: s, job: job, r: r}
	if err := j.bring(ctx); err != nil {
		j.share.Wipe()
		return nil, err
	}
	return j.share, nil
}

// keep notes how far it has come.
func (j *sharing) keep() error { return j.r.Note.Put(j.job.Catalog, j.job.Serial()) }

func (j *sharing) bring(ctx context.Context) error {
	switch {
	case j.Given():
		return j.givenShare(ctx)
	case j.o.split != "":
		return j.handOut(ctx)
	}
	path, err := filepath.Abs(j.o.out)
	if err != nil {
		return err
	}
	if j.r.Note.Share != "" && j.r.Note.Share != path {
		if _, err := os.Lstat(j.r.Note.Share); err == nil {
			return console.Failf("other-share", "give --out "+harmless.Word(j.r.Note.Share)+", or move that file away to begin with another recovery key", "the set-up of %s was begun with the share file %s", j.Name(), j.r.Note.Share)
		}
	}
	info, err := os.Stat(j.o.out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.Size() == 0: // begun, and cut off before anything was in it
		if err := os.Remove(j.o.out); err != nil {
			return err
		}
	default:
		return j.takeUp(ctx, path)
	}
	if j.r.Stage == backup.ToCheck {
		return console.Failf("no-share-file", "bring it back, or name its place with --out; without it, `hsmbackup init` begins anew", "%s has the recovery key %s, and its share file is not at %s", j.Name(), j.r.Note.KCV, j.o.out)
	}
	j.Tell("The recovery key (DKEK) is what keys leave the token under, and the only thing that opens their backup: without it no backup is worth anything. A new one is made now. It goes into the file %s, under a password.", harmless.Text(j.o.out))
	password, err := j.sharePassword(ctx)
	if err != nil {
		return err
	}
	defer password.Wipe()
	if err := j.step(ctx, "share"); err != nil {
		return err
	}
	j.r.Note.Share, j.r.Note.KCV = path, ""
	if err := j.keep(); err != nil {
		return err
	}
	if j.share, err = j.makeShare(ctx); err != nil {
		return err
	}
	if j.kcv, err = custody.WriteShare(ctx, j.app.Desk(), j.o.out, j.share, password); err != nil {
		return err
	}
	j.job.Changed = true
	if j.file, err = os.ReadFile(j.o.out); err != nil {
		return err
	}
	return j.knowKCV()
}

// makeShare makes a share of the random numbers of this computer and of the
// token.
func (j *sharing) makeShare(ctx context.Context) (*dkek.Share, error) {
	extra, err := j.t.Card.Random(ctx, dkek.Size)
	switch {
	case err == nil:
		return dkek.NewMixedShare(extra), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	j.Note("without random numbers of %s: %s", j.Name(), cli.Describe(err, false).Message)
	return dkek.NewShare(), nil
}

// givenShare opens what --share brings. It must be all of a recovery key.
func (j *sharing) givenShare(ctx context.Context) error {
	shares, err := j.OpenShares(ctx, j.job.Catalog)
	if err != nil {
		return err
	}
	if len(shares) != 1 {
		dkek.WipeShares(shares)
		return console.Usagef("`hsmbackup init` sets a token up for several", "setup takes a recovery key of one share, %d are given", len(shares))
	}
	j.share = shares[0]
	return j.taken()
}

// taken compares the share with the recovery key that the set-up was begun with.
func (j *sharing) taken() error {
	kcv, err := custody.ShareKCV(j.share)
	if err != nil {
		return err
	}
	j.kcv = kcv
	if j.r.Note.KCV != "" && j.r.Note.KCV != kcv.String() {
		return console.Failf("kcv-mismatch", "bring back the share of "+j.r.Note.KCV+", or wipe the token with `hsmbackup init`", "this share gives the recovery key %s; the set-up of %s was begun with %s", kcv, j.Name(), j.r.Note.KCV)
	}
	return j.knowKCV()
}

// handOut makes a share and hands its parts out. Those that an earlier run
// handed out come back from their files, or are typed.
func (j *sharing) handOut(ctx context.Context) error {
	h, err := j.o.plan("create", j.Flags.Who)
	if err != nil {
		return err
	}
	done, err := setHandedOut(j.job, j.r)
	if err != nil {
		return err
	}
	if done != nil {
		return j.partsBack(ctx, h, done.Set, done.Needed)
	}
	if err := h.Begin(j.app.Desk(), j.job.Catalog); err != nil {
		return err
	}
	if err := h.GuardRecipients(j.job.Catalog, func() ([]*pubkey.Key, error) { return j.keysAtHand(ctx) }); err != nil {
		return err
	}
	j.Tell("The recovery key (DKEK) is what keys leave the token under, and the only thing that opens their backup: without it no backup is worth anything. A new one is made now, and handed out in parts: any %d of the %d custodians bring it together, fewer know nothing.", h.Needed, len(h.Receivers))
	if err := j.step(ctx, "share"); err != nil {
		return err
	}
	if j.share, err = j.makeShare(ctx); err != nil {
		return err
	}
	if h.KCV, err = custody.ShareKCV(j.share); err != nil {
		return err
	}
	j.r.Note.KCV = h.KCV.String()
	if err := j.keep(); err != nil {
		return err
	}
	r, err := h.Run(ctx, j.app.Desk(), j.job.Catalog, j.share, j.Now())
	j.job.Changed = j.job.Changed || h.Changed
	if err != nil {
		return err
	}
	if r.KCV != j.r.Note.KCV { // one that an earlier run had handed out, but for its record
		j.share.Wipe()
		j.r.Note.KCV = r.KCV
		return j.partsBack(ctx, h, r.Set, r.Needed)
	}
	j.kcv = h.KCV
	return j.knowKCV()
}

// setHandedOut gives the set of parts that an earlier run handed out.
func setHandedOut(j *backup.SetUpJob, r *backup.SetUpReport) (*store.PartSet, error) {
	state, err := j.Catalog.Read()
	if err != nil || r.Note.KCV == "" {
		return nil, err
	}
	for i, s := range state.PartSets {
		if s.KCV == r.Note.KCV && s.Retired.IsZero() {
			return &state.PartSets[i], nil
		}
	}
	return nil, nil
}

// partsBack brings parts together that were handed out: from the files that
// anyone can read, else as their custodians type them.
func (j *sharing) partsBack(ctx context.Context, h *custody.HandOut, set string, needed int) error {
	j.Note("the parts of set %s were handed out by an earlier run: %d of them bring the recovery key back", set, needed)
	args := h.PartsBack(needed)
	if len(args) < needed {
		if !j.TTY.Available() {
			return console.Failf("parts-needed", "give them with --share FILE, or --share prompt at a terminal", "set %s was handed out: %d of its parts are needed to load the recovery key into %s", set, needed, j.Name())
		}
		args = []custody.Given{{File: custody.TypedPart, Typed: true}}
	}
	j.Flags.ShareArgs = args
	return j.givenShare(ctx)
}

// inFile tells whether the share is in a file of this set-up.
func (s *setter) inFile(r *backup.SetUpReport) bool {
	return s.o.split == "" && !s.Given() && r.Note.Share != ""
}

// files is how many files bring the share.
func (s *setter) files() int {
	if needed, _, err := parsePair("--split", s.o.split); err == nil {
		return needed
	}
	return max(1, len(s.Flags.ShareArgs))
}

// where says where the share is, for the sheet.
func (s *setter) where(r *backup.SetUpReport) []string {
	switch {
	case s.inFile(r):
		return []string{r.Note.Share}
	case s.o.split != "":
		return []string{fmt.Sprintf("in parts (%s of them needed), with %s", s.o.split, strings.Join(s.o.custodians, ", "))}
	}
	var list []string
	for _, given := range s.Flags.ShareArgs {
		list = append(list, given.File)
	}
	return list
}

// knowKCV notes which recovery key it is.
func (j *sharing) knowKCV() error {
	j.r.Note.KCV = j.kcv.String()
	if err := j.keep(); err != nil {
		return err
	}
	text := "The recovery key is at hand."
	if j.inFile(j.r) {
		text = "The share file is written, was read back, and opens."
	}
	j.Tell("%s It is known by its check value (KCV): %s.", text, j.kcv)
	return nil
}

// sharePassword reads the password of a new share, or makes one, shows it, and
// has it typed back.
func (j *sharing) sharePassword(ctx context.Context) (password *secret.Bytes, err error) {
	if j.Flags.Password.Text != "" {
		err = j.patiently(ctx, j.Flags.Password.Kind == "prompt", func() error {
			password, err = j.newPassword(ctx, j.o.weak)
			return err
		})
		return password, err
	}
	if password, err = custody.RandomPassword(j.app.Desk()); err != nil {
		return nil, err
	}
	screen := custody.PasswordScreen(password)
	defer clear(screen)
	if err := j.shown(ctx, screen, "password", password); err != nil {
		password.Wipe()
		return nil, err
	}
	return password, nil
}

// takeUp opens a share file that is there already.
func (j *sharing) takeUp(ctx context.Context, path string) error {
	arg := custody.Given{File: j.o.out, Password: j.PasswordFrom(j.Flags.Password.Source)}
	content, err := arg.Read()
	if err != nil {
		return err
	}
	if !dkek.IsPBE(content) {
		return console.Failf("exists", "name another file with --out", "%s exists already and is no share file; nothing is ever overwritten", j.o.out)
	}
	j.Note("%s exists already: its recovery key is taken up, and the file stays as it is", j.o.out)
	j.Tell("It opens with the password that was written down when it was made. If nobody has that, move the file away and run this again.")
	if j.share, err = j.Opener().OpenFile(ctx, arg); err != nil {
		return err
	}
	j.file, j.r.Note.Share = content, path
	return j.taken()
}
