package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/p11"
)

// SSHKeys are the keys that SSH knows, or of these the ones that are named by
// reference, ID or label.
func SSHKeys(list []Shown, names []string) ([]ShownKey, error) {
	var all []ShownKey
	for _, s := range list {
		for _, k := range s.Contents {
			if k.SSH != "" {
				all = append(all, k)
			}
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	var chosen []ShownKey
	for _, name := range names {
		n := len(chosen)
		for _, k := range all {
			if name == strconv.Itoa(k.Reference) || name == k.Label || k.ID != "" && strings.EqualFold(name, k.ID) {
				chosen = append(chosen, k)
			}
		}
		if n == len(chosen) {
			return nil, console.Failf("no-such-key", "`hsmbackup show` lists them; SSH knows RSA, P-256, P-384 and P-521", "no key that SSH knows has the reference, ID or label %q", name)
		}
	}
	return chosen, nil
}

// PrintSSH prints public keys as for authorized_keys.
func PrintSSH(c *console.Console, keys []ShownKey) {
	for _, k := range keys {
		c.Printf("%s", harmless.Text(k.SSH))
	}
}

// PrintSSHCA prints what makes hosts and users trust a CA. Which key is one
// only its owner knows, and a line too many hands out logins.
func PrintSSHCA(c *console.Console, keys []ShownKey) error {
	different := map[string]bool{} // one key may be in the snapshots of several tokens
	var hints []string
	keys = slices.DeleteFunc(keys, func(k ShownKey) bool {
		seen := different[k.PublicKey]
		different[k.PublicKey] = true
		return seen
	})
	if len(keys) > 1 {
		for _, k := range keys {
			hints = append(hints, fmt.Sprintf("--key %d  %s  %s", k.Reference, k.Type, console.Quoted(k.Label)))
		}
		return &console.Failure{Exit: console.ExitUsage, Code: "usage",
			Message: fmt.Sprintf("--ssh=ca: name the CA with --key KEY: which of %d keys it is, the catalog does not know", len(keys)), Hints: hints}
	}
	for _, k := range keys {
		line := harmless.Text(k.SSH)
		c.Printf("# known_hosts: hosts with a certificate of this CA are trusted; put your domain in place of *")
		c.Printf("@cert-authority * %s", line)
		c.Printf("# authorized_keys: users with a certificate of this CA may log in; principals=\"NAME\" behind the first word says which")
		c.Printf("cert-authority %s", line)
	}
	return nil
}

// PrintSSHConfig prints what makes ssh look for keys on the token.
func PrintSSHConfig(c *console.Console, keys []ShownKey, module string) {
	if module == "" {
		var err error
		if module, err = p11.Find(); err != nil {
			module = "opensc-pkcs11.so"
			c.Note("%s; %s has to be put there in full", err, module)
		}
	}
	if strings.ContainsAny(module, " \t") {
		module = `"` + module + `"`
	}
	c.Printf("# ssh_config: put the hosts in place of * that take one of these keys")
	for _, k := range keys {
		c.Printf("#   key %s %s %s", Reference(k.Reference), k.Type, console.Quoted(k.Label))
	}
	c.Printf("Host *")
	c.Printf("    PKCS11Provider %s", harmless.Text(module))
}
