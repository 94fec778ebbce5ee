package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/doctor"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/report"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

func newDoctorCommand(a *app) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "what stands between this computer and a backup",
		Long: `Looks at the PC/SC service and who may use it, at readers and how long a command
they carry, at programs that hold the token, at OpenSC and the faults that are
known of it, of firmware and of readers, at the place of the catalog, at swap and
hibernation, and at the clock. Each finding comes with a line to type.

It changes nothing, asks for no PIN and spends no try. It exits with 3 if
something stands in the way of a backup.

--report writes what was seen to a file, for whoever is asked for help: versions,
readers, findings, and the headers of the commands that were sent, without what
was in them.`,
		Example: `  hsmbackup doctor
  hsmbackup doctor --report report.txt
  hsmbackup doctor --token soft:old.tok      a software token, without PC/SC`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), out) },
	}
	cmd.Flags().StringVar(&out, "report", "", "write what was seen to a new `FILE`")
	uses(cmd, useCatalog, useToken)
	return cmd
}

func (a *app) doctor(ctx context.Context, out string) error {
	if out != "" {
		if _, err := os.Lstat(out); err == nil {
			return console.Failf("exists", "", "%s exists already, and nothing is ever overwritten", out)
		}
	}
	file, soft := strings.CutPrefix(a.Flags.Token, cli.SoftPrefix)
	if a.Flags.Token != "" && !soft {
		return console.Usagef("leave --token out, or name a software token: --token soft:FILE", "doctor looks at every reader")
	}
	f := doctor.Gather(ctx, a.Now(), build.Time())
	f.Catalog = a.catalogFacts()
	var trace []string
	var err error
	if soft {
		f.PCSC = doctor.PCSCNotAsked
		f.Readers, trace, err = softFacts(ctx, file)
	} else {
		trace = f.LookAtReaders(ctx)
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	doc := report.NewDoctor(f)
	if out != "" {
		if err := newfile.Write(out, f.Report(build.Program(), doc.Findings, trace)); err != nil {
			return err
		}
		a.Note("%s is written: it names readers, serials and programs of this computer, so look through it before you hand it on", out)
	}
	if a.Flags.JSON {
		if err := a.Document(doc); err != nil {
			return err
		}
	} else {
		doc.Print(a.Console)
	}
	return doc.Outcome()
}

// softFacts looks at a software token in this process.
func softFacts(ctx context.Context, file string) ([]doctor.Reader, []string, error) {
	soft, err := softtoken.Open(file)
	if err != nil {
		return nil, nil, cli.SoftError(file, err)
	}
	defer soft.Close()
	fact := doctor.Reader{Name: cli.SoftPrefix + file}
	trace := fact.Examine(ctx, soft)
	return []doctor.Reader{fact}, trace, ctx.Err()
}

// catalogPlace looks at the catalog's place alone; without one it is empty.
func (a *app) catalogPlace() doctor.Catalog {
	path, err := a.CatalogPath()
	if err != nil {
		return doctor.Catalog{}
	}
	return doctor.Place(path)
}

// catalogFacts looks at the catalog's place, and at the catalog if there is one.
func (a *app) catalogFacts() doctor.Catalog {
	c := a.catalogPlace()
	if c.Path == "" {
		return c
	}
	cat, err := a.LookCatalog()
	switch {
	case err != nil && errors.Is(err, store.ErrLocked):
		return c // another hsmbackup is at work
	case err != nil:
		f := cli.Describe(err, false)
		c.Exists, c.Problem, c.Remedy = true, f.Message, strings.Join(f.Hints, "; ")
	case cat != nil:
		defer cli.CloseCatalog(cat)
		c.Exists, c.Newest = true, newestTaken(cat)
	}
	return c
}

// newestTaken is when the newest snapshot was taken, as far as it can be read.
func newestTaken(cat *store.Catalog) (newest time.Time) {
	state, err := cat.Read()
	if err != nil {
		return newest
	}
	for _, s := range state.Snapshots {
		if s.Taken.After(newest) {
			newest = s.Taken
		}
	}
	return newest
}

// checkMachine looks for what doctor would find on this computer, but for the
// readers and what is in memory. What stands in the way is an error, the rest
// of what may go wrong is noted.
func (a *app) checkMachine(ctx context.Context, cat *store.Catalog, reader string) error {
	f := doctor.Gather(ctx, a.Now(), build.Time())
	f.PCSC, f.Readers = doctor.PCSCNotAsked, []doctor.Reader{{Name: reader, State: doctor.HasToken}}
	f.Catalog = a.catalogPlace()
	if cat != nil {
		f.Catalog.Exists, f.Catalog.Newest = true, newestTaken(cat)
	}
	blocks, notes := doctor.Fit(doctor.Examine(f))
	if blocks != nil {
		return console.Refusef("machine", blocks.Do, "this computer is not fit for it: %s; nothing was changed", blocks.What)
	}
	for _, n := range notes {
		a.Note("%s", n)
	}
	return nil
}
