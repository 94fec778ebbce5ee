package report

import (
	"fmt"

	"hsmbackup/internal/console"
	"hsmbackup/internal/doctor"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/harmless"
)

// Doctor is the document of doctor --json.
type Doctor struct {
	OK       bool             `json:"ok"`
	System   string           `json:"system"`
	PCSC     doctor.PCSC      `json:"pcsc"`
	OpenSC   string           `json:"opensc"`
	Readers  []doctor.Reader  `json:"readers"`
	Findings []doctor.Finding `json:"findings"`

	facts *doctor.Facts
}

// NewDoctor judges what was seen.
func NewDoctor(f *doctor.Facts) *Doctor {
	findings := append(doctor.Examine(f), knownFaults(f)...)
	doctor.Sort(findings)
	return &Doctor{OK: !doctor.InTheWay(findings), System: f.System(), PCSC: f.PCSC, OpenSC: f.OpenSC(),
		Readers: append([]doctor.Reader{}, f.Readers...), Findings: append([]doctor.Finding{}, findings...), facts: f}
}

// Outcome carries the exit code.
func (d *Doctor) Outcome() error {
	if d.OK {
		return nil
	}
	blocks := 0
	for _, found := range d.Findings {
		if found.Severity == doctor.Blocks {
			blocks++
		}
	}
	stand := "things stand"
	if blocks == 1 {
		stand = "thing stands"
	}
	return &console.Outcome{Exit: console.ExitIncomplete, Message: fmt.Sprintf("%d %s in the way of a backup", blocks, stand)}
}

// Print writes it for people.
func (d *Doctor) Print(c *console.Console) {
	f := d.facts
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
	c.Table(rows)
	for _, found := range d.Findings {
		severity := string(found.Severity)
		if found.Severity == doctor.Blocks {
			severity = "BLOCKS"
		}
		c.Printf("")
		c.Printf("%s: %s", severity, harmless.Text(found.What))
		c.Printf("  -> %s", harmless.Text(found.Do))
		if found.Source != "" {
			c.Printf("     see %s", found.Source)
		}
	}
	if d.OK {
		c.Printf("")
		c.Printf("nothing stands in the way of a backup")
	}
}

// knownFaults are the faults on the list that what was seen has.
func knownFaults(f *doctor.Facts) []doctor.Finding {
	var list []doctor.Finding
	add := func(severity doctor.Severity, where string, faults []faults.Fault) {
		for _, fault := range faults {
			list = append(list, doctor.Finding{Severity: severity, Code: fault.Code, What: where + ": " + fault.What, Do: fault.Do, Source: fault.Source})
		}
	}
	if v := f.OpenSC(); v != "" {
		add(doctor.Warning, "OpenSC "+v, faults.OpenSCFaults(v))
	}
	for _, r := range f.Readers {
		add(doctor.Note, r.Name, faults.ReaderFaults(r.Name))
		if r.State == doctor.HasToken {
			name := r.Serial
			if name == "" {
				name = r.Name
			}
			add(doctor.Warning, fmt.Sprintf("%s has firmware %s", name, r.Firmware), faults.FirmwareFaults(r.Firmware))
		}
	}
	return list
}
