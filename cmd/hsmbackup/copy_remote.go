package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/store"
)

// remotePlace splits HOST:FOLDER, as scp takes it. A colon behind a slash, or
// behind the letter of a Windows drive, is none of it.
func remotePlace(to string) (host, folder string, ok bool) {
	host, folder, ok = strings.Cut(to, ":")
	if !ok || host == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(host, `/\`) || runtime.GOOS == "windows" && len(host) == 1 {
		return "", "", false
	}
	return host, folder, true
}

// checkCopyPlace refuses a place that cannot take the copy, as far as that shows
// before the copy is made.
func checkCopyPlace(cat *store.Catalog, to string, sameDisk bool) error {
	if _, _, ok := remotePlace(to); ok {
		if _, err := exec.LookPath("scp"); err != nil {
			return failf("no-scp", "install OpenSSH's client, or name a folder that is mounted here", "a copy to another host is made with scp, which is not there")
		}
		return nil
	}
	return backup.CheckCopyPlace(cat, to, sameDisk)
}

// copyCatalog copies the catalog to another disk, or with scp to another host
// and back, and checks what came out.
func (a *app) copyCatalog(ctx context.Context, cat *store.Catalog, to string, sameDisk bool) (store.Copy, store.Entry, error) {
	host, folder, ok := remotePlace(to)
	if !ok {
		return backup.CopyCatalog(cat, to, sameDisk)
	}
	fail := func(err error) (store.Copy, store.Entry, error) { return store.Copy{}, store.Entry{}, err }
	dir, err := os.MkdirTemp("", "hsmbackup-copy-")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	there, back := filepath.Join(dir, "there.db"), filepath.Join(dir, "back.db")
	head, err := cat.CopyTo(there)
	if err != nil {
		return fail(err)
	}
	// A name that only this state of the catalog has: nothing else is replaced.
	remote := host + ":" + path.Join(folder, backup.CopyName(head))
	a.progress.Close()
	if err := a.scp(ctx, there, remote); err != nil {
		return fail(err)
	}
	if err := a.scp(ctx, remote, back); err != nil {
		return fail(err)
	}
	if err := store.CheckCopy(back, head); err != nil {
		return fail(&failure{Exit: exitDamaged, Code: "copy-damaged", Message: fmt.Sprintf("%s came back different from what was sent: %v", remote, err), Err: err})
	}
	c := store.Copy{Path: remote, Seq: head.Seq, Head: head.Hash}
	return c, head, cat.Append(c)
}

// scp copies a file from or to another host. It asks at the terminal itself, and
// without one asks nothing.
func (a *app) scp(ctx context.Context, from, to string) error {
	args := []string{"-q"}
	if !a.tty.Available() {
		args = append(args, "-B")
	}
	cmd := exec.CommandContext(ctx, "scp", append(args, "--", from, to)...)
	cmd.Env = a.secrets.Environ()
	cmd.Stderr = a.Stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return failf("copy-failed", "try it by hand: scp FILE "+to, "scp ended with exit code %d: the catalog was not copied, nothing was deleted", exit.ExitCode())
		}
		return failf("copy-failed", "", "scp cannot be run: %v", err)
	}
	return nil
}
