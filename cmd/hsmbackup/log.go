package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/newfile"
	"hsmbackup/internal/report"
	"hsmbackup/store"
)

func newLogCommand(a *app) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "log",
		Short: "show everything that happened to the catalog",
		Long: `Shows the log of the catalog, the oldest entry first. Entries are chained: each
holds the hash of the one before.

With --export it is written to a new file, with the six words of its last entry
at the end, which pin all of it: the record of a ceremony to be signed and filed.
It holds no secret. With --json the file is one JSON document.`,
		Example: `  hsmbackup log
  hsmbackup log --export ceremony-2026.txt
  hsmbackup log --json`,
		Args: arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error { return a.log(out) },
	}
	cmd.Flags().StringVar(&out, "export", "", "write it to a new `FILE`; one that exists is never overwritten")
	uses(cmd, useCatalog)
	return cmd
}

func (a *app) log(out string) error {
	cat, err := a.NeedCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	state, err := cat.Read()
	if err != nil {
		return err
	}
	all := state.Entries
	list := []report.Entry{}
	for _, e := range all {
		list = append(list, report.NewEntry(e))
	}
	switch {
	case out != "":
		return a.exportLog(out, all, list)
	case a.Flags.JSON:
		return a.Document(struct {
			Entries []report.Entry `json:"entries"`
		}{list})
	}
	texts := report.EntryTexts(all)
	var rows [][]string
	for i, e := range all {
		rows = append(rows, []string{fmt.Sprint(e.Seq), e.Time.UTC().Format(time.RFC3339), e.Kind, e.Hash.String()[:12], texts[i]})
	}
	a.Table(rows)
	return nil
}

// exportLog writes the log for people who have neither program nor catalog at
// hand. Like all of `log` it leaves no entry.
func (a *app) exportLog(path string, all []store.Entry, list []report.Entry) error {
	last := all[len(all)-1] // there is one: a catalog begins with an entry
	exported := a.Now().UTC().Format(time.RFC3339)
	var content bytes.Buffer
	if a.Flags.JSON {
		e := json.NewEncoder(&content)
		e.SetEscapeHTML(false)
		if err := e.Encode(struct {
			Exported string         `json:"exported"`
			Program  string         `json:"program"`
			Head     string         `json:"head"`
			Entries  []report.Entry `json:"entries"`
		}{exported, build.Program(), report.Head(last), list}); err != nil {
			return err
		}
		text := harmless.JSON(content.Bytes())
		content.Reset()
		content.Write(text)
	} else {
		content.Write(report.LogText(all, exported, build.Program()))
	}
	if err := newfile.Write(path, content.Bytes()); err != nil {
		return err
	}
	if a.Flags.JSON {
		return a.Document(struct {
			File    string `json:"file"`
			Entries int    `json:"entries"`
			Head    string `json:"head"`
		}{path, len(all), report.Head(last)})
	}
	a.Printf("%s: %s written", path, report.Entries(len(all)))
	a.Printf("head: %s", report.Head(last))
	return nil
}
