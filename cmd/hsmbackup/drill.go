package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/softtoken"
)

func newDrillCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill [SNAPSHOT...]",
		Short: "rehearse a whole restore onto a software token in memory",
		Long: `Plays the disaster: opens the shares, sets up a fresh software token in memory
with them, restores the newest snapshot of each token, or the ones named, uses
every key there against what is known of it, and throws the token away. It says
how long the recovery took on this computer; a real token is slower with keys,
and people take longer to find their shares.

Nothing but the log entry is written. Private keys and the recovery key are in
this computer's memory meanwhile; no token is needed.`,
		Example: `  hsmbackup drill --share share1.pbe
  hsmbackup drill DENK0404144 --share alice.txt --share carol.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(a.Flags.ShareArgs) == 0 {
				return console.Usagef("", "a drill needs the shares of the recovery key: --share FILE")
			}
			return a.drill(cmd.Context(), args)
		},
	}
	uses(cmd, useCatalog, useShare)
	return cmd
}

func (a *app) drill(ctx context.Context, names []string) error {
	cat, why, err := a.RecordingCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	list, err := a.snapshots(cat, names)
	if err != nil {
		return err
	}
	a.Note("private keys are in this computer's memory while they are tried on a software token")
	started := a.Now()
	shares, err := a.OpenShares(ctx, cat)
	if err != nil {
		return err
	}
	defer dkek.WipeShares(shares)
	v, err := backup.Drill(ctx, cat, list, shares, backup.DrillOptions{NewToken: memoryToken, Progress: a.Steps, Started: started})
	a.Progress.Close()
	if err != nil {
		return err
	}
	return a.printVerification(v, fmt.Sprintf("proof: drilled in %.1f s: restored onto a software token in memory, and used there", v.Took.Seconds()), why, nil)
}

// memoryToken makes a software token for a drill; Close wipes it.
func memoryToken() (apdu.Transmitter, func() error, error) {
	t, err := softtoken.New(softtoken.Options{})
	if err != nil {
		return nil, nil, err
	}
	return t, t.Close, nil
}
