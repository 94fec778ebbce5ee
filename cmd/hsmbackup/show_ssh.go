package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hsmbackup/internal/p11"
	"hsmbackup/internal/terminal"
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
		return usagef("", "--ssh=%s: it is --ssh, --ssh=ca or --ssh=config", o.ssh)
	}
	for _, arg := range args {
		if o.ssh != sshNothing && (arg == sshCA || arg == sshConfig) {
			return usagef("", "write --ssh=%s in one word; as it is, %s is taken for a SNAPSHOT", arg, arg)
		}
	}
	if len(o.keys) > 0 && o.ssh == sshNothing {
		return usagef("", "--key is for --ssh")
	}
	if o.module != "" && o.ssh != sshConfig {
		return usagef("", "--module is for --ssh=config")
	}
	return nil
}

// sshContents are the keys to print: those that SSH knows, or of
// these the ones of --key.
func (o *showOptions) sshContents(list []jsonShown) ([]jsonShownKey, error) {
	var all []jsonShownKey
	for _, s := range list {
		for _, k := range s.Contents {
			if k.SSH != "" {
				all = append(all, k)
			}
		}
	}
	if len(o.keys) == 0 {
		return all, nil
	}
	var chosen []jsonShownKey
	for _, name := range o.keys {
		n := len(chosen)
		for _, k := range all {
			if name == strconv.Itoa(k.Reference) || name == k.Label || k.ID != "" && strings.EqualFold(name, k.ID) {
				chosen = append(chosen, k)
			}
		}
		if n == len(chosen) {
			return nil, failf("no-such-key", "`hsmbackup show` lists them; SSH knows RSA, P-256, P-384 and P-521", "no key that SSH knows has the reference, ID or label %q", name)
		}
	}
	return chosen, nil
}

// printSSH prints the lines of --ssh.
func (a *app) printSSH(o showOptions, list []jsonShown) error {
	keys, err := o.sshContents(list)
	if err != nil {
		return err
	}
	switch o.ssh {
	case sshCA:
		return a.printSSHCA(keys)
	case sshConfig:
		a.printSSHConfig(keys, o.module)
		return nil
	}
	for _, k := range keys {
		a.printf("%s", terminal.Printable(k.SSH))
	}
	return nil
}

// printSSHCA prints what makes hosts and users trust a CA. Which key is one
// only its owner knows, and a line too many hands out logins.
func (a *app) printSSHCA(keys []jsonShownKey) error {
	different := map[string]bool{} // one key may be in the snapshots of several tokens
	var hints []string
	keys = slices.DeleteFunc(keys, func(k jsonShownKey) bool {
		seen := different[k.PublicKey]
		different[k.PublicKey] = true
		return seen
	})
	if len(keys) > 1 {
		for _, k := range keys {
			hints = append(hints, fmt.Sprintf("--key %d  %s  %s", k.Reference, k.Type, quoted(k.Label)))
		}
		return &failure{Exit: exitUsage, Code: "usage", Message: fmt.Sprintf("--ssh=ca: name the CA with --key KEY: which of %d keys it is, the catalog does not know", len(keys)), Hints: hints}
	}
	for _, k := range keys {
		line := terminal.Printable(k.SSH)
		a.printf("# known_hosts: hosts with a certificate of this CA are trusted; put your domain in place of *")
		a.printf("@cert-authority * %s", line)
		a.printf("# authorized_keys: users with a certificate of this CA may log in; principals=\"NAME\" behind the first word says which")
		a.printf("cert-authority %s", line)
	}
	return nil
}

// printSSHConfig prints what makes ssh look for keys on the token.
func (a *app) printSSHConfig(keys []jsonShownKey, module string) {
	if module == "" {
		var err error
		if module, err = p11.Find(); err != nil {
			module = "opensc-pkcs11.so"
			a.note("%s; %s has to be put there in full", err, module)
		}
	}
	if strings.ContainsAny(module, " \t") {
		module = `"` + module + `"`
	}
	a.printf("# ssh_config: put the hosts in place of * that take one of these keys")
	for _, k := range keys {
		a.printf("#   key %s %s %s", reference(k.Reference), k.Type, quoted(k.Label))
	}
	a.printf("Host *")
	a.printf("    PKCS11Provider %s", terminal.Printable(module))
}
