package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/report"
	"hsmbackup/store"
)

func newAdoptCommand(a *app) *cobra.Command {
	var noBackup bool
	cmd := &cobra.Command{
		Use:   "adopt FILE...",
		Short: "take wrapped keys of sc-hsm-tool and the Key Manager into the catalog",
		Long: `Takes wrapped keys (.bin, .wky), or all that lie in a folder, into one snapshot
that is marked as adopted. What a file holds is known by its content: it may lack
the description or have the certificate in its place. It says of each which
recovery key (KCV) it is under, which token made the key, and which tokens can
take it back. An unreadable file is named, and the others go on.

With --share the keys are opened on this computer, and each is compared with what
lies beside it. Without, they are taken unproven.

With a token attached it says which of its keys have a file and which have none,
and takes the first snapshot of it, for which the PIN is needed; --no-backup
leaves that out. An adopted snapshot is never the newest of a token: it is
restored by its ID.`,
		Example: `  hsmbackup adopt ssh-ca.bin web.wky
  hsmbackup adopt old-backup/ --share share1.pbe
  hsmbackup adopt old-backup/ --no-backup --token DENK0404144`,
		Args: arguments(1, -1, "a wrapped key or a folder of them"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.adopt(cmd.Context(), args, noBackup) },
	}
	cmd.Flags().BoolVar(&noBackup, "no-backup", false, "compare with the attached token, but take no snapshot of it")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useYes, useSpend)
	return cmd
}

func (a *app) adopt(ctx context.Context, args []string, noBackup bool) error {
	files, unread, passedOver, err := wrappedFiles(args)
	if err != nil {
		return err
	}
	for _, arg := range args {
		if backup.ExportedFiles(arg) != nil {
			a.Note("%s was written by `hsmbackup export`: `hsmbackup restore --from-export %s` brings back all of it, not its keys alone", arg, harmless.Word(arg))
		}
	}
	if len(files) == 0 {
		if len(unread) > 0 {
			return unread[0].err
		}
		return console.Failf("nothing-to-adopt", "wrapped keys are made by `sc-hsm-tool --wrap-key FILE`", "%s: no wrapped key there", strings.Join(args, ", "))
	}
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	defer func() { cli.CloseCatalog(cat) }()
	t, err := a.tokenIfAny(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	options := backup.AdoptOptions{Progress: a.Steps, Program: build.Program()}
	first := false
	if t != nil {
		if options.Inventory, err = backup.Take(ctx, t.Card); err != nil {
			return err
		}
		if first, err = firstBackup(cat, options.Inventory); err != nil {
			return err
		}
		first = first && !noBackup
	}
	// Whatever has to be typed, or turns out wrong, comes before any change.
	if len(a.Flags.ShareArgs) > 0 {
		a.Note("private keys are open in this computer's memory while they are compared")
		key, shares, err := a.OpenKey(ctx, cat)
		if err != nil {
			return err
		}
		defer key.Wipe()
		dkek.WipeShares(shares)
		options.Key = key
	}
	if first {
		if err := a.Login(ctx, t); err != nil {
			return err
		}
	}
	if cat == nil && (first || slices.ContainsFunc(files, readable)) {
		if cat, err = a.MakeCatalog(); err != nil {
			return err
		}
	}
	r, err := backup.Adopt(ctx, cat, files, options)
	a.Progress.Close()
	if err != nil {
		return err
	}
	a.Changed = a.Changed || r.Snapshot != nil && !r.Existing
	for _, u := range unread {
		r.Files = append(r.Files, backup.AdoptedFile{Name: u.name, Reason: cli.Describe(u.err, false).Message})
	}
	done := report.Adopted{AdoptReport: r, PassedOver: passedOver}
	if first {
		done.Taken, err = backup.Run(ctx, t.Card, cat, a.proving(ctx))
		a.Progress.Close()
		if err != nil {
			return err
		}
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	if t != nil {
		done.Serial = t.Serial
		done.Keys = backup.Cover(options.Inventory, state, nil)
		if done.Taken != nil {
			done.Keys = done.Taken.Keys
		}
	}
	if cat != nil {
		done.Head = report.Head(state.Head)
	}
	if a.Flags.JSON {
		if err := a.Document(done.Document()); err != nil {
			return err
		}
	} else {
		done.Print(a.Console)
	}
	return done.Outcome()
}

// readable tells whether a file holds a wrapped key.
func readable(f backup.AdoptFile) bool {
	_, err := dkek.ParseContainer(f.Content)
	return err == nil
}

// tokenIfAny is the token named, or the only one attached; nil without one.
func (a *app) tokenIfAny(ctx context.Context) (*cli.Token, error) {
	t, err := a.OpenToken(ctx)
	var f *console.Failure
	switch {
	case err == nil:
		return t, nil
	case a.Flags.Token == "" && (withoutPCSC(err) || errors.As(err, &f) && f.Code == "no-token"):
		return nil, nil
	}
	return nil, err
}

// firstBackup tells whether the token holds keys and no snapshot was taken of
// it yet.
func firstBackup(cat *store.Catalog, inv *backup.Inventory) (bool, error) {
	if !inv.Initialised || inv.Serial == "" || len(inv.Keys) == 0 {
		return false, nil
	}
	if cat == nil {
		return true, nil
	}
	state, err := cat.Read()
	return err == nil && state.Newest(inv.Serial) == nil, err
}

// unreadFile is a file that could not be read at all.
type unreadFile struct {
	name string
	err  error
}

// wrappedFiles reads the files named, and of a folder those that are wrapped
// keys by name or content; the others there are counted.
func wrappedFiles(args []string) (files []backup.AdoptFile, unread []unreadFile, passedOver int, err error) {
	seen, exported := map[string]bool{}, map[string]map[string]string{}
	read := func(path string, inFolder bool) {
		if clean := filepath.Clean(path); seen[clean] {
			return
		} else {
			seen[clean] = true
		}
		content, err := custody.ReadFile(path)
		dir, name := filepath.Split(path)
		names, known := exported[dir]
		if !known {
			names = backup.ExportedFiles(filepath.Clean(dir))
			exported[dir] = names
		}
		what := names[name]
		if err == nil && readable(backup.AdoptFile{Content: content}) {
			what = ""
		}
		if inFolder && (what != "" || !isWrapped(path, content, err)) {
			passedOver++
			return
		}
		if what != "" {
			err = fmt.Errorf("%s: it is no wrapped key but %s, by the manifest.json beside it", path, what)
		}
		if err != nil {
			unread = append(unread, unreadFile{path, err})
			return
		}
		files = append(files, backup.AdoptFile{Name: path, Content: content})
	}
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil || !info.IsDir() {
			read(arg, false)
			continue
		}
		entries, err := os.ReadDir(arg)
		if err != nil {
			return nil, nil, 0, err
		}
		for _, e := range entries {
			path := filepath.Join(arg, e.Name())
			if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
				continue
			}
			read(path, true)
		}
	}
	return files, unread, passedOver, nil
}

// isWrapped tells which files of a folder were meant: those that parse, and
// those that have the name or the beginning of one, so that a damaged file is
// not passed over.
func isWrapped(path string, content []byte, err error) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".bin", ".wky":
		return true
	}
	if err != nil || dkek.IsPBE(content) || dkek.IsSheets(content) {
		return false
	}
	return readable(backup.AdoptFile{Content: content}) || bytes.HasPrefix(content, []byte{0x30, 0x82}) && len(content) > 4 && content[4] == 0x04
}
