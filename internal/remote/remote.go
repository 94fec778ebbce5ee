// Package remote keeps copies of the catalog on other hosts, with scp.
package remote

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
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/store"
)

// Place splits HOST:FOLDER, as scp takes it. A colon behind a slash, or behind the
// letter of a Windows drive, is none of it.
func Place(to string) (host, folder string, ok bool) {
	host, folder, ok = strings.Cut(to, ":")
	if !ok || host == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(host, `/\`) || runtime.GOOS == "windows" && len(host) == 1 {
		return "", "", false
	}
	return host, folder, true
}

// Check tells whether there is an scp.
func Check() error {
	if _, err := exec.LookPath("scp"); err != nil {
		return console.Failf("no-scp", "install OpenSSH's client, or name a folder that is mounted here",
			"a copy to another host is made with scp, which is not there")
	}
	return nil
}

// CopyCatalog copies the catalog to a folder of another host and back, and checks
// what came out.
func CopyCatalog(ctx context.Context, c *console.Console, environment []string, cat *store.Catalog,
	host, folder string) (store.Copy, store.Entry, error) {
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
	c.Progress.Close()
	if err := scp(ctx, c, environment, there, remote); err != nil {
		return fail(err)
	}
	if err := scp(ctx, c, environment, remote, back); err != nil {
		return fail(err)
	}
	if err := store.CheckCopy(back, head); err != nil {
		return fail(&console.Failure{Exit: console.ExitDamaged, Code: "copy-damaged", Err: err,
			Message: fmt.Sprintf("%s came back different from what was sent: %v", remote, err)})
	}
	made := store.Copy{Path: remote, Seq: head.Seq, Head: head.Hash}
	return made, head, cat.Append(made)
}

// scp copies a file from or to another host. It asks at the terminal itself, and
// without one asks nothing.
func scp(ctx context.Context, c *console.Console, environment []string, from, to string) error {
	args := []string{"-q"}
	if !c.TTY.Available() {
		args = append(args, "-B")
	}
	cmd := exec.CommandContext(ctx, "scp", append(args, "--", from, to)...)
	cmd.Env = environment
	cmd.Stderr = c.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return console.Failf("copy-failed", "try it by hand: scp FILE "+harmless.Word(to),
			"scp ended with exit code %d: the catalog was not copied, nothing was deleted", exit.ExitCode())
	}
	return console.Failf("copy-failed", "", "scp cannot be run: %v", err)
}
