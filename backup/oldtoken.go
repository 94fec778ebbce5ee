package backup

import (
	"fmt"
	"slices"
	"strings"

	"hsmbackup/internal/fail"
	"hsmbackup/store"
)

// ParseFate reads one of the words.
func ParseFate(word string) (store.Fate, error) {
	f := store.Fate(strings.ToLower(strings.TrimSpace(word)))
	if !slices.Contains([]store.Fate{store.Broken, store.Lost, store.Stolen, store.Wiped}, f) {
		return "", fail.Failf("no-such-fate", "broken, lost, stolen or wiped", "%q is not what a token can have become", word)
	}
	return f, nil
}

// FollowUp says what has to be done about a token, and about the SSH keys that
// it holds, by what became of it. Lines are commands or lines of files where
// that is possible.
func FollowUp(o store.OldToken, ssh []string) []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	switch o.Fate {
	case store.Broken:
		add("%s is broken: nothing is to be revoked, if nobody else can get at it. Destroy it: its keys are the ones in use.", o.Serial)
		return list
	case store.Wiped:
		add("%s is wiped: nothing is to be revoked.", o.Serial)
		return list
	case store.Lost:
		add("%s is lost: whoever finds it needs its PIN, and has few tries. Replace its keys as soon as you can, and at once if the PIN may be known.", o.Serial)
	case store.Stolen:
		add("%s is stolen: its keys are to be replaced, all of them. The restored ones are the same keys: they bridge the time until then.", o.Serial)
	}
	add("1. Make new keys on %s (pkcs11-tool --keypairgen), back them up (hsmbackup backup), and let them be trusted beside the old ones.", o.Token)
	for _, line := range ssh {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		name := strings.Join(fields[2:], " ")
		if name == "" {
			name = fields[0]
		}
		add("2. For %q, once the new key is trusted:", name)
		add("   where people log in with it, take it out of authorized_keys:  sed -i '\\#%s#d' ~/.ssh/authorized_keys", fields[1])
		add("   and revoke it, on each host (sshd_config: RevokedKeys /etc/ssh/revoked_keys):")
		add("     echo '%s' > old.pub && ssh-keygen -k -u -f /etc/ssh/revoked_keys old.pub     (the first time without -u)", strings.ReplaceAll(line, "'", ""))
		add("   where it signs certificates (an SSH CA): sign every certificate anew with the new CA, take its line out of")
		add("   TrustedUserCAKeys, and in known_hosts of clients put in place of its @cert-authority line:")
		add("     @revoked * %s %s", fields[0], fields[1])
	}
	add("3. Everything else that trusts these keys (TLS, code signing, what is encrypted for them) needs the same.")
	return list
}
