package main

import (
	"testing"

	"hsmbackup/internal/doctor"
)

// What stands in the way of a backup stands in the way of a wipe.
func TestMachineVerdict(t *testing.T) {
	blocks := doctor.Finding{Severity: doctor.Blocks, Code: "catalog-network", What: "the catalog is far away", Do: "move it"}
	warns := doctor.Finding{Severity: doctor.Warning, Code: "clock", What: "the clock is behind", Do: "set it"}
	notes := doctor.Finding{Severity: doctor.Note, Code: "no-opensc", What: "OpenSC was not found", Do: "install it"}
	if list, err := machineVerdict([]doctor.Finding{warns, notes}); err != nil || len(list) != 1 || list[0] != "the clock is behind: set it" {
		t.Errorf("%q, %v", list, err)
	}
	_, err := machineVerdict([]doctor.Finding{blocks, warns})
	if f := describe(err, false); f.Exit != exitRefused || f.Message != "this computer is not fit for it: the catalog is far away; nothing was changed" || f.Hints[0] != "move it" {
		t.Errorf("%+v", f)
	}
}
