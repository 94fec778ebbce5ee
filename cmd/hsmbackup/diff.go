package main

import (
	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
)

func newDiffCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff SNAPSHOT SNAPSHOT",
		Short: "show what differs between two snapshots",
		Long: `Shows what differs between an older and a newer snapshot: keys that came, went or
changed, other files, and the token itself.`,
		Example: `  hsmbackup diff 2b0327ceee61 latest
  hsmbackup diff DENK0404144 DENK0404145`,
		Args: arguments(2, 2, "two SNAPSHOTs"),
		RunE: func(_ *cobra.Command, args []string) error { return a.diff(args[0], args[1]) },
	}
	uses(cmd, useCatalog)
	return cmd
}

type jsonDifference struct {
	What   string `json:"what"`
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
}

func (a *app) diff(older, newer string) error {
	cat, err := a.NeedCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	pair, err := a.snapshots(cat, []string{older, newer})
	if err != nil {
		return err
	}
	list := backup.Diff(pair[0], pair[1])
	if a.Flags.JSON {
		doc := struct {
			From        string           `json:"from"`
			To          string           `json:"to"`
			Differences []jsonDifference `json:"differences"`
		}{pair[0].ID, pair[1].ID, []jsonDifference{}}
		for _, d := range list {
			doc.Differences = append(doc.Differences, jsonDifference{d.What, d.Kind, d.Detail})
		}
		return a.Document(doc)
	}
	var rows [][]string
	for _, d := range list {
		rows = append(rows, []string{d.Kind, d.What, d.Detail})
	}
	a.Table(rows)
	if len(list) == 0 {
		a.Printf("no differences")
	}
	return nil
}
