//go:build linux && cgo

package e2e

import (
	"crypto"
	"slices"
	"strings"
	"testing"

	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/softtoken"
)

// A backup is put under a new recovery key without its token: a fresh token with
// parts of the new one gets every key back, and OpenSC uses them; the parts of
// the old one are refused before the token is touched.
func TestRekey(t *testing.T) {
	const old, fresh = "SOFT0200041", "SOFT0400041"
	r := plugged(t, 0, newToken(t, softtoken.Options{Firmware: "3.5", Serial: old}))
	split := func(dir string, names ...string) {
		t.Helper()
		args := []string{"dkek", "create", "--split", "2/3", "--out", dir}
		for _, name := range names {
			args = append(args, "--custodian", name)
		}
		good(t, r.hsmbackup(args...))
	}
	split("old", "alice", "bob", "carol")
	oldParts := []string{"--share", "old/alice.txt", "--share", "old/carol.txt"}
	newParts := []string{"--share", "new/emil.txt", "--share", "new/dora.txt"}
	good(t, r.hsmbackup(slices.Concat(secrets("init", "--label", "ssh", "--confirm", old, "--untrusted-token", old), oldParts)...))
	oldKCV := kcv(t, good(t, r.scHSM()))
	keys := []key{everyType[1], everyType[3], everyType[4], everyType[6]}
	publics := make([]crypto.PublicKey, len(keys))
	for i, k := range keys {
		r.generate(k)
		publics[i] = r.public(k)
	}
	before := r.look()
	good(t, r.hsmbackup(secrets("backup")...), "4 of 4 keys restorable")

	// The new recovery key, and the job: no token, no PIN.
	split("new", "dora", "emil", "fritz")
	d := pcsctest.Start(t)
	d.Unplug(t, 0)
	said := good(t, r.hsmbackup(slices.Concat([]string{"dkek", "rekey", "--new-share", "new/dora.txt", "--new-share", "new/fritz.txt", "--why", "custodian-left", "--who", "emil"}, oldParts)...),
		"re-keyed, opened, matches its request", "in place of "+oldKCV, "private keys are open in this computer's memory", "all copies of the catalog stay open to the old recovery key", "stays in use")
	if n := strings.Count(said, "re-keyed, opened"); n != len(keys) {
		t.Errorf("%d keys re-keyed", n)
	}
	good(t, r.hsmbackup("log"), "rekey, recovery key ", "in place of "+oldKCV, "by emil (as typed), why: custodian-left: done")

	// A fresh token.
	s := plugged(t, 0, newToken(t, softtoken.Options{Firmware: "3.6", Serial: fresh}))
	s.dir = r.dir
	restore := secrets("restore", "--from", old, "--init", "--confirm", fresh, "--untrusted-token", fresh)
	want(t, s.hsmbackup(slices.Concat(restore, oldParts)...), 1, "these shares give the recovery key "+oldKCV, "the token was not touched", "--from ")
	good(t, s.scHSM(), "never been initialized")
	good(t, s.hsmbackup(slices.Concat(restore, newParts)...), "4 of 4 keys are on "+fresh+" and were used")
	if got := kcv(t, good(t, s.scHSM())); got == oldKCV {
		t.Errorf("the fresh token has the old recovery key %s", got)
	}
	after := s.look()
	if before != after {
		t.Errorf("before:\n%+v\nafter:\n%+v", before, after)
	}
	for i, k := range keys {
		s.use(k, publics[i])
	}
}
