package main

import (
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/report"
)

func newListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the snapshots",
		Long:  `Lists all snapshots in the catalog, the oldest first.`,
		Example: `  hsmbackup list
  hsmbackup list --json`,
		Args: arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error { return a.list() },
	}
	uses(cmd, useCatalog)
	return cmd
}

func (a *app) list() error {
	cat, err := a.NeedCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	state, err := cat.Read()
	if err != nil {
		return err
	}
	all := state.Snapshots
	if a.Flags.JSON {
		doc := struct {
			Snapshots []report.Snapshot `json:"snapshots"`
		}{[]report.Snapshot{}}
		for _, s := range all {
			doc.Snapshots = append(doc.Snapshots, report.NewSnapshot(s))
		}
		return a.Document(doc)
	}
	var rows [][]string
	for _, s := range all {
		rows = append(rows, []string{s.ID, report.TakenOf(s.Token.Serial), console.Quoted(s.Token.Label), s.Taken.Format(time.RFC3339), report.StoredKeys(s), "KCV " + report.SnapshotKCV(s), report.RekeyedFrom(s)})
	}
	a.Table(rows)
	if len(all) == 0 && len(state.Damage) == 0 {
		a.Printf("no snapshots yet")
	}
	return nil
}

func newShowCommand(a *app) *cobra.Command {
	var o showOptions
	cmd := &cobra.Command{
		Use:   "show [SNAPSHOT...]",
		Short: "show what a snapshot holds",
		Long: `Shows the token and the keys of a snapshot: named by its ID or the beginning of
it, by a token's serial (its newest), or "latest". Without one, the newest of
each token.

With --ssh it prints lines for OpenSSH and nothing else: public keys as for
authorized_keys, with --ssh=ca those that make a key a certificate authority for
hosts and users, with --ssh=config those that make ssh look on the token. SSH
knows RSA keys and those on P-256, P-384 and P-521.`,
		Example: `  hsmbackup show
  hsmbackup show latest --ssh          the SSH public key lines
  hsmbackup show latest --ssh=ca --key 'SSH CA'
  hsmbackup show latest --ssh=config
  hsmbackup show DENK0404144`,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return err
			}
			return a.show(args, o)
		},
	}
	cmd.Flags().StringVar(&o.ssh, "ssh", "", "print `lines` for OpenSSH and nothing else: public keys, with =ca for a certificate authority, with =config for ssh_config")
	cmd.Flags().Lookup("ssh").NoOptDefVal = sshKeys
	cmd.Flags().StringArrayVar(&o.keys, "key", nil, "with --ssh: only this `KEY`, by its reference, ID or label; repeat for several")
	cmd.Flags().StringVar(&o.module, "module", "", "with --ssh=config: the `PATH` of the PKCS#11 module (default: OpenSC's, where its packages put it)")
	uses(cmd, useCatalog)
	return cmd
}

func (a *app) show(names []string, o showOptions) error {
	cat, err := a.NeedCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	list, err := a.snapshots(cat, names)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return console.Failf("no-such-snapshot", "`hsmbackup backup` takes one", "there is no snapshot in the catalog")
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	doc := struct {
		Snapshots []report.Shown `json:"snapshots"`
	}{[]report.Shown{}}
	for _, s := range list {
		doc.Snapshots = append(doc.Snapshots, report.NewShown(s, backup.Origins(state, s)))
	}
	switch {
	case a.Flags.JSON:
		return a.Document(doc)
	case o.ssh != sshNothing:
		return a.printSSH(o, doc.Snapshots)
	default:
		for _, s := range doc.Snapshots {
			s.Print(a.Console)
		}
	}
	return nil
}
