package main

import (
	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/store"
)

func newExportCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export DIR [SNAPSHOT]",
		Short: "write a snapshot as plain files that OpenSC restores without us",
		Long: `Writes a snapshot as plain files into a new or empty folder: wrapped keys (.bin)
that sc-hsm-tool restores, public keys, certificates, manifest.json, SHA256SUMS,
and RESTORE.md with the commands for these very keys. The keys stay wrapped
under the recovery key. This is the form for archives.`,
		Example: `  hsmbackup export out/
  hsmbackup export out/ DENK0404144
  (cd out && sha256sum -c SHA256SUMS)`,
		Args: arguments(1, 2, "a DIR, and perhaps a SNAPSHOT"),
		RunE: func(_ *cobra.Command, args []string) error {
			name := ""
			if len(args) > 1 {
				name = args[1]
			}
			return a.export(args[0], name)
		},
	}
	uses(cmd, useCatalog)
	return cmd
}

func (a *app) export(dir, name string) error {
	cat, why, err := a.RecordingCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	s, err := a.chooseSnapshot(cat, name, "")
	if err != nil {
		return err
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	r, err := backup.Export(dir, s, backup.ExportOptions{Program: build.Program(), Proofs: state.Proofs})
	if err != nil {
		return err
	}
	a.Changed = true
	if why == "" {
		if err := cat.Append(store.Exported{Snapshot: s.ID, Hash: s.Hash}); err != nil {
			why = cli.Describe(err, false).Message
		}
	}
	if why != "" {
		a.Note("the export was not recorded: %s", why)
	}
	if a.Flags.JSON {
		err := a.Document(struct {
			Snapshot string      `json:"snapshot"`
			Dir      string      `json:"dir"`
			Files    []string    `json:"files"`
			Left     []store.Gap `json:"left"`
		}{s.ID, dir, append([]string{}, r.Files...), append([]store.Gap{}, r.Left...)})
		if err != nil {
			return err
		}
	} else {
		a.Printf("snapshot %s of %s: %s in %s", s.ID, s.Token.Serial, console.Count(len(r.Files), "file"), dir)
		for _, l := range r.Left {
			a.Printf("  not brought back by it: %s: %s", l.What, l.Reason)
		}
	}
	exits := console.Exits{}
	if !r.Complete() {
		exits.Add(console.ExitIncomplete)
	}
	return exits.Outcome("RESTORE.md does not bring back everything of the snapshot")
}
