package main

import (
	"hsmbackup/internal/console"
	"hsmbackup/internal/report"
)

// showOptions are the flags of show.
type showOptions struct {
	ssh    string
	keys   []string
	module string
}

// What --ssh prints. true and false are what it took before it took a form.
const (
	sshNothing = ""
	sshKeys    = "keys"
	sshCA      = "ca"
	sshConfig  = "config"
)

// check gives the form of --ssh and refuses flags without it.
func (o *showOptions) check(args []string) error {
	switch o.ssh {
	case "true":
		o.ssh = sshKeys
	case "false":
		o.ssh = sshNothing
	case sshNothing, sshKeys, sshCA, sshConfig:
	default:
		return console.Usagef("", "--ssh=%s: it is --ssh, --ssh=ca or --ssh=config", o.ssh)
	}
	for _, arg := range args {
		if o.ssh != sshNothing && (arg == sshCA || arg == sshConfig) {
			return console.Usagef("", "write --ssh=%s in one word; as it is, %s is taken for a SNAPSHOT", arg, arg)
		}
	}
	if len(o.keys) > 0 && o.ssh == sshNothing {
		return console.Usagef("", "--key is for --ssh")
	}
	if o.module != "" && o.ssh != sshConfig {
		return console.Usagef("", "--module is for --ssh=config")
	}
	return nil
}

// printSSH prints the lines of --ssh.
func (a *app) printSSH(o showOptions, list []report.Shown) error {
	keys, err := report.SSHKeys(list, o.keys)
	if err != nil {
		return err
	}
	switch o.ssh {
	case sshCA:
		return report.PrintSSHCA(a.Console, keys)
	case sshConfig:
		report.PrintSSHConfig(a.Console, keys, o.module)
	default:
		report.PrintSSH(a.Console, keys)
	}
	return nil
}
