package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/vpcd"
)

func newSoftCommand(a *app) *cobra.Command {
	return parent("soft", "software tokens, to try and to test with",
		`A software token is a SmartCard-HSM in a file, as strict as a real one. It is no
place for keys that matter: the file holds private keys in clear.

Any command takes one with --token soft:FILE; through pcscd it looks like a real
one to other programs as well.`,
		`  hsmbackup soft new old.tok --firmware 3.5 --serial SOFT0200001
  hsmbackup init --token soft:old.tok --share share1.pbe
  hsmbackup soft keygen old.tok --type rsa:4096 --label "SSH CA" --id 01
  hsmbackup soft serve old.tok`,
		newSoftNewCommand(a), newSoftServeCommand(a), newSoftKeygenCommand(a), newSoftUpdateCommand(a))
}

func newSoftNewCommand(a *app) *cobra.Command {
	var o softtoken.Options
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "make a software token",
		Long: `Makes a software token in a new file (mode 0600), not initialised, as a real one
comes from the factory. A file that exists is never overwritten.`,
		Example: `  hsmbackup soft new old.tok --firmware 3.5 --serial SOFT0200001
  hsmbackup soft new spare.tok --firmware 4.1
  hsmbackup soft new cut.tok --reader-cut 1014      like a reader that cuts long commands
  hsmbackup soft new hsm1.tok --firmware 2.6 --max-file 256      like an HSM 1`,
		Args: arguments(1, 1, "one FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.softNew(args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Firmware, "firmware", "", "`VERSION` of the firmware, such as 3.5 or 4.1 (default 3.6)")
	f.StringVar(&o.Serial, "serial", "", "`SERIAL` of 11 characters, such as SOFT0200001 (default: random)")
	f.IntVar(&o.APDULimit, "apdu-limit", 0, "refuse commands of more than `BYTES` (default by firmware: 1232 for 3.x, else 1454)")
	f.IntVar(&o.ReaderCut, "reader-cut", 0, "cut commands at `BYTES` without a word, as some readers do (default: no)")
	f.IntVar(&o.MaxFile, "max-file", 0, "take no file of more than `BYTES`, as old tokens may do (default: no limit)")
	f.BoolVar(&o.NoChipAuth, "no-chip-auth", false, "know no chip authentication")
	uses(cmd)
	return cmd
}

func (a *app) softNew(file string, o softtoken.Options) error {
	t, err := softtoken.Create(file, o)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return console.Failf("exists", "", "%s exists already, and nothing is ever overwritten", file)
		}
		return cli.SoftError(file, err)
	}
	defer t.Close()
	a.Changed = true
	if a.Flags.JSON {
		return a.Document(softDocument(t))
	}
	a.Printf("%s: software token %s, firmware %s, not initialised", file, t.Serial(), t.Firmware())
	return nil
}

// jsonSoft is what the soft verbs say of a token file.
type jsonSoft struct {
	Serial   string `json:"serial"`
	Firmware string `json:"firmware"`
}

func softDocument(t *softtoken.Token) jsonSoft { return jsonSoft{t.Serial(), t.Firmware()} }

func newSoftServeCommand(a *app) *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "serve FILE",
		Short: "plug a software token into pcscd",
		Long: `Plugs a software token into pcscd through the virtual reader of vsmartcard
(vpcd), until it is ended with Ctrl-C or SIGTERM. Programs that use PC/SC then
take it for a real one.

The connection carries PINs in clear, so it goes to this computer only.`,
		Example: `  hsmbackup soft serve old.tok
  hsmbackup soft serve old.tok --addr 127.0.0.1:35964      the second slot`,
		Args: arguments(1, 1, "one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.softServe(cmd.Context(), args[0], addr) },
	}
	cmd.Flags().StringVar(&addr, "addr", vpcd.DefaultAddr, "`HOST:PORT` where the virtual reader listens")
	uses(cmd)
	return cmd
}

func (a *app) softServe(ctx context.Context, file, addr string) error {
	if a.Flags.JSON {
		return console.Usagef("", "soft serve has no result, so it has no --json")
	}
	t, err := softtoken.Open(file)
	if err != nil {
		return cli.SoftError(file, err)
	}
	defer t.Close()
	a.Note("%s waits for the virtual reader at %s", t.Serial(), addr)
	// Being ended is how this ends: no error.
	err = vpcd.Serve(ctx, addr, t, vpcd.OnState(func(connected bool) {
		if connected {
			a.Note("%s is plugged in", t.Serial())
		} else {
			a.Note("%s is unplugged", t.Serial())
		}
	}))
	if errors.Is(err, vpcd.ErrNotLocal) {
		return console.Refusef("not-local", "PINs would cross the network in clear", "%s", strings.TrimPrefix(err.Error(), "vpcd: "))
	}
	return err
}

type softUpdate struct{ firmware, serial string }

func newSoftUpdateCommand(a *app) *cobra.Command {
	var o softUpdate
	cmd := &cobra.Command{
		Use:   "update FILE",
		Short: "give a software token a firmware update",
		Long: `Does to a software token what a firmware update does to a real one: it is refused
while the token holds any key, description, certificate or data; afterwards the
token has a new firmware, a new serial number and certificate, and is not
initialised.`,
		Example: `  hsmbackup soft update old.tok --firmware 3.6 --serial SOFT0400001`,
		Args:    arguments(1, 1, "one FILE"),
		RunE:    func(_ *cobra.Command, args []string) error { return a.softUpdate(args[0], o) },
	}
	cmd.Flags().StringVar(&o.firmware, "firmware", "", "the new `VERSION`, such as 3.6")
	cmd.Flags().StringVar(&o.serial, "serial", "", "the new `SERIAL` of 11 characters")
	uses(cmd)
	return cmd
}

func (a *app) softUpdate(file string, o softUpdate) error {
	if o.firmware == "" || o.serial == "" {
		return console.Usagef("", "--firmware and --serial are both needed: an update gives a token a new version and a new serial")
	}
	t, err := softtoken.Open(file)
	if err != nil {
		return cli.SoftError(file, err)
	}
	defer t.Close()
	before := t.Serial()
	if err := t.Update(o.firmware, o.serial); err != nil {
		return cli.SoftError(file, err)
	}
	a.Changed = true
	if a.Flags.JSON {
		return a.Document(softDocument(t))
	}
	a.Printf("%s: %s is now %s, firmware %s, not initialised", file, before, t.Serial(), t.Firmware())
	return nil
}
