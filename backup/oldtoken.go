package backup

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/store"
)

// KindOldToken is the kind of log entry that says what became of a token after
// its keys were restored onto another; its body is an OldToken.
const KindOldToken = "old-token"

// Fate is what became of a token.
type Fate string

// The fates.
const (
	Broken Fate = "broken"
	Lost   Fate = "lost"
	Stolen Fate = "stolen"
	// Wiped: it holds nothing any more.
	Wiped Fate = "wiped"
)

// ParseFate reads one of the words.
func ParseFate(word string) (Fate, error) {
	f := Fate(strings.ToLower(strings.TrimSpace(word)))
	if !slices.Contains([]Fate{Broken, Lost, Stolen, Wiped}, f) {
		return "", failf("no-such-fate", "broken, lost, stolen or wiped", "%q is not what a token can have become", word)
	}
	return f, nil
}

// OldToken says what became of a token.
type OldToken struct {
	Serial string `json:"serial"`
	Fate   Fate   `json:"fate"`
	// Token has its keys now.
	Token string `json:"token"`
}

// RecordOldToken logs what became of a token.
func RecordOldToken(cat *store.Catalog, o OldToken) error {
	_, err := cat.Append(KindOldToken, o)
	return err
}

// Fates gives the last word on each old token.
func Fates(cat *store.Catalog) (map[string]Fate, error) {
	fates := map[string]Fate{}
	entries, err := cat.Log()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var o OldToken
		if e.Kind == KindOldToken && json.Unmarshal(e.Body, &o) == nil {
			fates[o.Serial] = o.Fate
		}
	}
	return fates, nil
}

// FollowUp says what has to be done about a token, and about the SSH keys that
// it holds, by what became of it. Lines are commands or lines of files where
// that is possible.
func FollowUp(o OldToken, ssh []string) []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	switch o.Fate {
	case Broken:
		add("%s is broken: nothing is to be revoked, if nobody else can get at it. Destroy it: its keys are the ones in use.", o.Serial)
		return list
	case Wiped:
		add("%s is wiped: nothing is to be revoked.", o.Serial)
		return list
	case Lost:
		add("%s is lost: whoever finds it needs its PIN, and has few tries. Replace its keys as soon as you can, and at once if the PIN may be known.", o.Serial)
	case Stolen:
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
