package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/doctor"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/terminal"
	"hsmbackup/store"
)

func newDoctorCommand(a *app) *cobra.Command {
	var report string
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
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), report) },
	}
	cmd.Flags().StringVar(&report, "report", "", "write what was seen to a new `FILE`")
	uses(cmd, useCatalog, useToken)
	return cmd
}

// jsonDoctor is the document of doctor --json.
type jsonDoctor struct {
	OK       bool             `json:"ok"`
	System   string           `json:"system"`
	PCSC     doctor.PCSC      `json:"pcsc"`
	OpenSC   string           `json:"opensc"`
	Readers  []doctor.Reader  `json:"readers"`
	Findings []doctor.Finding `json:"findings"`
}

func (a *app) doctor(ctx context.Context, report string) error {
	if report != "" {
		if _, err := os.Lstat(report); err == nil {
			return failf("exists", "", "%s exists already, and nothing is ever overwritten", report)
		}
	}
	file, soft := strings.CutPrefix(a.flags.token, softPrefix)
	if a.flags.token != "" && !soft {
		return usagef("leave --token out, or name a software token: --token soft:FILE", "doctor looks at every reader")
	}
	f := doctor.Gather(ctx, a.now(), built())
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
	findings := append(doctor.Examine(f), knownFaults(f)...)
	doctor.Sort(findings)
	doc := jsonDoctor{OK: !doctor.InTheWay(findings), System: f.System(), PCSC: f.PCSC, OpenSC: f.OpenSC(), Readers: f.Readers, Findings: findings}
	if report != "" {
		if err := newfile.Write(report, f.Report(program(), findings, trace)); err != nil {
			return err
		}
		a.note("%s is written: it names readers, serials and programs of this computer, so look through it before you hand it on", report)
	}
	if a.flags.json {
		if doc.Readers == nil {
			doc.Readers = []doctor.Reader{}
		}
		if doc.Findings == nil {
			doc.Findings = []doctor.Finding{}
		}
		if err := a.document(doc); err != nil {
			return err
		}
	} else {
		a.printDoctor(f, findings)
	}
	if doc.OK {
		return nil
	}
	blocks := 0
	for _, found := range findings {
		if found.Severity == doctor.Blocks {
			blocks++
		}
	}
	stand := "things stand"
	if blocks == 1 {
		stand = "thing stands"
	}
	return &outcome{Exit: exitIncomplete, Message: fmt.Sprintf("%d %s in the way of a backup", blocks, stand)}
}

func (a *app) printDoctor(f *doctor.Facts, findings []doctor.Finding) {
	rows := [][]string{{"system", f.System()}}
	service := string(f.PCSC)
	if v := f.CCID(); v != "" {
		service += ", libccid " + v
	}
	rows = append(rows, []string{"PC/SC", service})
	for _, r := range f.Readers {
		rows = append(rows, []string{"reader", r.Name + ": " + r.Text()})
	}
	version := f.OpenSC()
	if version == "" {
		version = "not found"
	}
	rows = append(rows, []string{"OpenSC", version}, []string{"catalog", f.Catalog.Path})
	a.table(rows)
	for _, found := range findings {
		severity := string(found.Severity)
		if found.Severity == doctor.Blocks {
			severity = "BLOCKS"
		}
		a.printf("")
		a.printf("%s: %s", severity, terminal.Printable(found.What))
		a.printf("  -> %s", terminal.Printable(found.Do))
		if found.Source != "" {
			a.printf("     see %s", found.Source)
		}
	}
	if !doctor.InTheWay(findings) {
		a.printf("")
		a.printf("nothing stands in the way of a backup")
	}
}

// built is the time of the commit that this program was built from.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return t
		}
	}
	return time.Time{}
}

// softFacts looks at a software token in this process.
func softFacts(ctx context.Context, file string) ([]doctor.Reader, []string, error) {
	soft, err := softtoken.Open(file)
	if err != nil {
		return nil, nil, softError(file, err)
	}
	defer soft.Close()
	fact := doctor.Reader{Name: softPrefix + file}
	trace := fact.Examine(ctx, soft)
	return []doctor.Reader{fact}, trace, ctx.Err()
}

// knownFaults are the faults on the list that what was seen has.
func knownFaults(f *doctor.Facts) []doctor.Finding {
	var list []doctor.Finding
	add := func(severity doctor.Severity, where string, faults []backup.Fault) {
		for _, fault := range faults {
			list = append(list, doctor.Finding{Severity: severity, Code: fault.Code, What: where + ": " + fault.What, Do: fault.Do, Source: fault.Source})
		}
	}
	if v := f.OpenSC(); v != "" {
		add(doctor.Warning, "OpenSC "+v, backup.OpenSCFaults(v))
	}
	for _, r := range f.Readers {
		add(doctor.Note, r.Name, backup.ReaderFaults(r.Name))
		if r.State == doctor.HasToken {
			name := r.Serial
			if name == "" {
				name = r.Name
			}
			add(doctor.Warning, fmt.Sprintf("%s has firmware %s", name, r.Firmware), backup.FirmwareFaults(r.Firmware))
		}
	}
	return list
}

// catalogPlace looks at the catalog's place alone; without one it is empty.
func (a *app) catalogPlace() doctor.Catalog {
	path, err := a.catalogPath()
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
	cat, err := a.lookCatalog()
	switch {
	case err != nil && errors.Is(err, store.ErrLocked):
		return c // another hsmbackup is at work
	case err != nil:
		f := describe(err, false)
		c.Exists, c.Problem, c.Remedy = true, f.Message, strings.Join(f.Hints, "; ")
	case cat != nil:
		defer closeCatalog(cat)
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
	f := doctor.Gather(ctx, a.now(), built())
	f.PCSC, f.Readers = doctor.PCSCNotAsked, []doctor.Reader{{Name: reader, State: doctor.HasToken}}
	f.Catalog = a.catalogPlace()
	if cat != nil {
		f.Catalog.Exists, f.Catalog.Newest = true, newestTaken(cat)
	}
	notes, err := machineVerdict(doctor.Examine(f))
	for _, n := range notes {
		a.note("%s", n)
	}
	return err
}

func machineVerdict(findings []doctor.Finding) (notes []string, err error) {
	for _, f := range findings {
		switch {
		case f.Severity == doctor.Blocks:
			return nil, refusef("machine", f.Do, "this computer is not fit for it: %s; nothing was changed", f.What)
		case f.Severity == doctor.Warning && f.Code != "swap" && f.Code != "disk-open": // those concern shares only
			notes = append(notes, f.What+": "+f.Do)
		}
	}
	return notes, nil
}
