package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hsmbackup/internal/build"
	"hsmbackup/internal/console"
)

// groups are those of commands in the help text, in this order.
var groups = []*cobra.Group{
	{ID: "job", Title: "Tokens"},
	{ID: "catalog", Title: "The catalog"},
	{ID: "dkek", Title: "The recovery key (DKEK)"},
	{ID: "soft", Title: "Software tokens"},
}

// newRoot puts the command line together. Every verb is listed here.
func newRoot(a *app) *cobra.Command {
	root := newStatusCommand(a)
	root.Use = "hsmbackup"
	root.GroupID = ""
	root.Short = "back up and restore SmartCard-HSM tokens"
	root.Long = `Backs up the keys of a SmartCard-HSM (Nitrokey HSM 2) into a catalog, proves
that they come back, and restores them. Keys leave a token only wrapped under
its recovery key (DKEK).

Without a command it shows what is attached, and the next command.`
	root.Example = `  hsmbackup                                   what is attached, and what to do next
  hsmbackup setup                             a fresh token: PIN, SO-PIN, recovery key, a sheet
  hsmbackup backup                            exports every key and proves that it comes back
  hsmbackup firmware-update --copy-to PLACE   through the vendor's update and back
  hsmbackup restore --init --share share1.pbe --from SERIAL     onto a new token`
	root.Version = build.Version()
	root.SetVersionTemplate("hsmbackup {{.Version}}\n")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SuggestionsMinimumDistance = 2
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := seeHelp(cmd)
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			hint = "did you mean `hsmbackup " + s[0] + "`?"
		}
		return console.Usagef(hint, "there is no command %q", args[0])
	}
	a.addShared(root.PersistentFlags())
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.checkShared(cmd) }
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return console.Usagef(seeHelp(cmd), "%s", flagError(err)) })
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		// Help for a command that does not exist is no help.
		if rest := cmd.Flags().Args(); cmd.HasSubCommands() && len(rest) > 0 {
			a.Helpless = cmd.Args(cmd, rest)
			return
		}
		help(cmd)
	})
	root.SetHelpCommand(newHelpCommand())
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetIn(a.Stdin)
	root.AddGroup(groups...)
	root.SetHelpCommandGroupID("")
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("job",
		newStatusCommand(a),
		newDoctorCommand(a),
		newSetupCommand(a),
		newInitCommand(a),
		newBackupCommand(a),
		newVerifyCommand(a),
		newPlanCommand(a),
		newRestoreCommand(a),
		newFirmwareUpdateCommand(a),
		newCloneCommand(a),
		newAcceptCommand(a),
		newRotateCommand(a),
	)
	add("catalog",
		newCheckCommand(a),
		newDrillCommand(a),
		newListCommand(a),
		newShowCommand(a),
		newDiffCommand(a),
		newLogCommand(a),
		newExportCommand(a),
		newAdoptCommand(a),
	)
	add("dkek", newDKEKCommand(a))
	add("soft", newSoftCommand(a))
	return root
}

// flagError is a flag's error without the flag's value, which may be a secret
// at the wrong place.
func flagError(err error) string {
	if bad, ok := err.(*pflag.InvalidValueError); ok {
		return fmt.Sprintf("--%s does not take this value", bad.GetFlag().Name)
	}
	return err.Error()
}

// parent makes a command that only has commands beneath it.
func parent(use, short, long, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Example: example}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := seeHelp(cmd)
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), s[0])
		}
		return console.Usagef(hint, "%s has no command %q", verb(cmd), args[0])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		return console.Usagef(seeHelp(cmd), "%s needs a command: %s", verb(cmd), strings.Join(names, ", "))
	}
	uses(cmd)
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(commands...)
	return cmd
}

// newHelpCommand is `help COMMAND`, which is `COMMAND --help`.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "help about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 && found.HasSubCommands() {
				err = found.Args(found, rest)
			}
			if err != nil {
				return err
			}
			help(found)
			return nil
		},
	}
}

// help writes a command's help to stdout: examples first, exit codes last.
func help(cmd *cobra.Command) {
	w := cmd.OutOrStdout()
	section := func(title, text string) {
		if text = strings.Trim(text, "\n"); text != "" {
			fmt.Fprintf(w, "%s\n%s\n\n", title, text)
		}
	}
	fmt.Fprintf(w, "%s: %s\n\n", cmd.CommandPath(), cmd.Short)
	section("EXAMPLES", cmd.Example)
	if cmd.Runnable() {
		section("USAGE", "  "+cmd.UseLine())
	}
	section("DESCRIPTION", indent(cmd.Long))
	commands(w, cmd)
	section("FLAGS", cmd.LocalNonPersistentFlags().FlagUsages())
	section("SHARED FLAGS", sharedUsages(cmd))
	if cmd.Runnable() || cmd.HasSubCommands() {
		fmt.Fprint(w, console.ExitStatus)
	}
}

// sharedUsages describes the shared flags that a command uses.
func sharedUsages(cmd *cobra.Command) string {
	used := pflag.NewFlagSet("", pflag.ContinueOnError)
	if !hasSharedFlags(cmd) {
		return ""
	}
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if isUsed(cmd, f.Name) {
			used.AddFlag(f)
		}
	})
	return used.FlagUsages()
}

func commands(w io.Writer, cmd *cobra.Command) {
	list := func(title, group string) {
		width, any := 0, false
		for _, c := range cmd.Commands() {
			width = max(width, len(c.Name()))
		}
		for _, c := range cmd.Commands() {
			if c.GroupID != group || !c.IsAvailableCommand() {
				continue
			}
			if !any {
				fmt.Fprintln(w, title)
				any = true
			}
			fmt.Fprintf(w, "  %-*s  %s\n", width, c.Name(), c.Short)
		}
		if any {
			fmt.Fprintln(w)
		}
	}
	if !cmd.HasAvailableSubCommands() {
		return
	}
	for _, g := range cmd.Groups() {
		list(strings.ToUpper(g.Title), g.ID)
	}
	title := "COMMANDS"
	if len(cmd.Groups()) > 0 {
		title = "OTHER"
	}
	list(title, "")
}

func indent(text string) string {
	if text == "" {
		return ""
	}
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = "  " + l
		}
	}
	return strings.Join(lines, "\n")
}
