// Hsmbackup backs up and restores SmartCard-HSM tokens.
//
// This package is the command line: flags, prompts, tables, exit codes, and
// which transport, catalog and software token belong together. The jobs are
// in package backup.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"hsmbackup/internal/console"
	"hsmbackup/internal/p11"
	"hsmbackup/internal/secret"
)

func main() { os.Exit(run()) }

// run is main with an exit code, so that deferred calls are made.
func run() int {
	secret.Harden()
	if len(os.Args) == 2 && os.Args[1] == p11.ChildArgument {
		if p11.Child(os.Stdin, os.Stdout) != nil {
			return console.ExitFailed
		}
		return console.ExitOK
	}
	// The first of these ends the work at the next safe place and takes a secret
	// off the screen, the second ends the program: stop gives the signals their
	// usual meaning back. Under nohup SIGHUP has none.
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT}
	if !signal.Ignored(syscall.SIGHUP) {
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop)
	return newApp().run(ctx, os.Args[1:])
}

// run carries out one command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	return a.Finish(ctx, root.ExecuteContext(ctx), args)
}
