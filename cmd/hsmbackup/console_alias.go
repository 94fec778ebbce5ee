package main

import (
	"context"

	"hsmbackup/internal/build"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/report"
	"hsmbackup/internal/secret"
	from "hsmbackup/internal/source"
)

// The names that these had before they moved to internal/console and
// internal/source.

const (
	madeUpRemedy    = report.MadeUpRemedy
	sources         = from.Kinds
	exitOK          = console.ExitOK
	exitFailed      = console.ExitFailed
	exitUsage       = console.ExitUsage
	exitIncomplete  = console.ExitIncomplete
	exitChanged     = console.ExitChanged
	exitDamaged     = console.ExitDamaged
	exitRefused     = console.ExitRefused
	exitInterrupted = console.ExitInterrupted
	exitStatus      = console.ExitStatus
)

type (
	failure = console.Failure
	outcome = console.Outcome
	source  = from.Source
	exitSet map[int]bool
)

var (
	tries          = report.Tries
	options        = report.Options
	domainKCV      = report.DomainKCV
	version        = build.Version
	program        = build.Program
	incomplete     = report.Incomplete
	madeUp         = report.MadeUp
	storedKeys     = report.StoredKeys
	restorableOf   = report.Restorable
	backupDocument = report.NewBackup
	head           = report.Head
	takenOf        = report.TakenOf
	reference      = report.Reference
	entries        = report.Entries
	parseSource    = from.Parse
	usagef         = console.Usagef
	failf          = console.Failf
	refusef        = console.Refusef
	outcomes       = console.Outcomes
	count          = console.Count
	copies         = console.Copies
	areKeys        = console.AreKeys
	countOf        = console.CountOf
	quoted         = console.Quoted
	shellQuoted    = harmless.Word
	brief          = console.Brief
	wrapped        = console.Wrapped
)

func (e exitSet) add(exit int) { e[exit] = true }
func (e exitSet) worst() int   { return console.Exits(e).Worst() }
func (e exitSet) outcome(message string, hints ...string) error {
	return console.Exits(e).Outcome(message, hints...)
}

func (a *app) printf(format string, args ...any)          { a.Printf(format, args...) }
func (a *app) note(format string, args ...any)            { a.Note(format, args...) }
func (a *app) next(format string, args ...any)            { a.Next(format, args...) }
func (a *app) document(v any) error                       { return a.Document(v) }
func (a *app) table(rows [][]string)                      { a.Table(rows) }
func (a *app) steps(what string, done, total int)         { a.Steps(what, done, total) }
func (a *app) ask(ctx context.Context, what string) error { return a.Ask(ctx, what) }

func (a *app) readSecret(ctx context.Context, s source, what string, twice bool) (*secret.Bytes, error) {
	return a.secrets.Read(ctx, s, what, twice, nil)
}

func (a *app) readChecked(ctx context.Context, s source, what string, twice bool, check func(*secret.Bytes) error) (*secret.Bytes, error) {
	return a.secrets.Read(ctx, s, what, twice, check)
}

func (a *app) remedies(keys []backup.KeyCoverage) []string { return report.Remedies(keys) }

func (a *app) printKeys(keys []backup.KeyCoverage) { report.PrintKeys(a.Console, keys) }
