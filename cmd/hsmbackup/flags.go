package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	from "hsmbackup/internal/source"
)

// Names of the shared flags that a verb lists when it uses them. The flags for
// secrets are taken by every verb, which reads only what it needs, so that a
// script can give the same ones everywhere; --json every verb has as well.
const (
	useCatalog   = "catalog"
	useToken     = "token"
	useShare     = "share"
	useConfirm   = "confirm"
	useIdentity  = "identity" // goes with --share
	useUntrusted = "untrusted-token"
	useYes       = "yes"
	useTokenPIN  = "token-pin"
	useChecked   = "shares-checked"
	useSpend     = "spend"
	useWho       = "who"
)

// everywhere lists the flags that need no naming.
var everywhere = []string{"pin", "so-pin", "password", "json", "help"}

// annotation is where a command keeps the shared flags that it uses.
const annotation = "flags"

// uses notes which shared flags a verb uses. Others are refused, not ignored.
func uses(cmd *cobra.Command, flags ...string) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	if slices.Contains(flags, useShare) {
		flags = append(flags, useIdentity)
	}
	cmd.Annotations[annotation] = strings.Join(flags, " ")
}

func isUsed(cmd *cobra.Command, flag string) bool {
	return slices.Contains(everywhere, flag) || slices.Contains(strings.Fields(cmd.Annotations[annotation]), flag)
}

// addShared defines the shared flags on the root command.
func (a *app) addShared(f *pflag.FlagSet) {
	f.StringVar(&a.Flags.Catalog, useCatalog, "", "the catalog `FILE` (default $HSMBACKUP_CATALOG, else hsmbackup/catalog.db in the user's data directory)")
	f.StringVar(&a.Flags.Token, useToken, "", "`WHICH` token: its serial, its label, or soft:FILE (default: the only one attached)")
	f.StringVar(&a.Flags.PIN.Text, "pin", "", "`SOURCE` of the PIN: "+from.Kinds)
	f.StringVar(&a.Flags.SOPIN.Text, "so-pin", "", "`SOURCE` of the SO-PIN, 16 hex digits")
	f.StringVar(&a.Flags.TokenPIN.Text, useTokenPIN, "", "`SOURCE` of the PIN that the token has now, where it holds anything; --pin is the new one")
	f.StringVar(&a.Flags.Checked, useChecked, "", "the `KCV` that `hsmbackup dkek check` showed where the shares are, in place of --share; it counts for this run")
	f.StringArrayVar(&a.Flags.Spend, useSpend, nil, "a proof may spend one use of this `KEY`, which has a use counter: reference, ID or label; repeat for each")
	f.StringVar(&a.Flags.Password.Text, "password", "", "`SOURCE` of the password of share files")
	f.StringArrayVar(&a.Flags.Shares, useShare, nil, "`FILE[,password=SOURCE]` with a share of the recovery key (DKEK), or a custodian's part of one; repeat for each, and for the sheets of a threshold .pbe after it; prompt: parts are typed")
	f.StringArrayVar(&a.Flags.Identities, useIdentity, nil, "`FILE` with the key that opens parts sealed with age: an identity of age, or an OpenSSH private key; repeat for each")
	f.StringVar(&a.Flags.Confirm, useConfirm, "", "the `SERIAL` of the token, in place of typing it")
	f.StringVar(&a.Flags.Untrusted, useUntrusted, "", "send shares to the token with this `SERIAL` although it could not be shown to be genuine")
	f.StringVar(&a.Flags.Who, useWho, "", "`NAME` of who does this, for the log: a claim")
	f.BoolVar(&a.Yes, useYes, false, "answer every question with yes, but for secrets and serials")
	f.BoolVar(&a.JSON, "json", false, "print one JSON document")
}

// checkShared is called before each verb: it refuses flags that the verb does
// not use, reads the sources, and takes secrets out of the environment.
func (a *app) checkShared(cmd *cobra.Command) error {
	a.Flags.Yes, a.Flags.JSON = a.Yes, a.JSON
	var unused string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if unused == "" && cmd.InheritedFlags().Lookup(f.Name) != nil && !isUsed(cmd, f.Name) {
			unused = f.Name
		}
	})
	if err := refuseEmpty(cmd); err != nil {
		return err
	}
	if unused != "" && hasSharedFlags(cmd) {
		return console.Usagef("", "`%s` has no use for --%s", cmd.CommandPath(), unused)
	}
	for flag, s := range map[string]*cli.SourceFlag{"--pin": &a.Flags.PIN, "--so-pin": &a.Flags.SOPIN, "--token-pin": &a.Flags.TokenPIN, "--password": &a.Flags.Password} {
		var err error
		if s.Source, err = from.Parse(flag, s.Text); err != nil {
			return err
		}
	}
	a.Secrets.DropEnvironment(a.Flags.PIN.Source, a.Flags.SOPIN.Source, a.Flags.TokenPIN.Source, a.Flags.Password.Source)
	var err error
	a.Flags.ShareArgs, err = a.ParseShares("--share", a.Flags.Shares)
	return err
}

// refuseEmpty refuses flags that were given with nothing in them, such as a
// variable of a script that is not set: they would mean the default. Only a
// label may be empty.
func refuseEmpty(cmd *cobra.Command) error {
	var empty string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok && slices.Contains(list.GetSlice(), "") || f.Value.Type() == "string" && value == "" {
			empty = f.Name
		}
	})
	if empty == "" || empty == "label" {
		return nil
	}
	return console.Usagef("give it a value or leave it out", "--%s is given, but empty", empty)
}

// hasSharedFlags tells our verbs from those that come with cobra.
func hasSharedFlags(cmd *cobra.Command) bool { _, ok := cmd.Annotations[annotation]; return ok }

// arguments checks the number of arguments; what names them for people.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return console.Usagef(seeHelp(cmd), "%s needs %s", verb(cmd), what)
		case most >= 0 && len(args) > most && most == 0:
			return console.Usagef(seeHelp(cmd), "%s takes no arguments", verb(cmd))
		case most >= 0 && len(args) > most:
			return console.Usagef(seeHelp(cmd), "%s takes %s and nothing else", verb(cmd), what)
		}
		return nil
	}
}

// verb is a command as it is spoken of behind the program's name.
func verb(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

func seeHelp(cmd *cobra.Command) string { return fmt.Sprintf("see `%s --help`", cmd.CommandPath()) }
