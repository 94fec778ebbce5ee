package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/forge"
	"hsmbackup/store"
)

// forged is a copy of a golden catalog with a change in its newest manifest.
func forged(t *testing.T, change func(c *forge.Catalog)) *store.Catalog {
	t.Helper()
	golden := filepath.Join(t.TempDir(), "catalog.db")
	b, err := os.ReadFile("../testdata/catalog/v2.db")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(golden, b, 0o600); err != nil {
		t.Fatal(err)
	}
	forge.Rewrite(t, golden, func(c *forge.Catalog) {
		c.Anchors = nil
		change(c)
	})
	c, err := store.Open(golden, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// What cannot be in a manifest is damage of what it belongs to, and does not come
// out of the catalog; everything else does.
func TestFault17Manifests(t *testing.T) {
	token := func(m forge.Object) forge.Object { return m["token"].(forge.Object) }
	key := func(m forge.Object) forge.Object { return forge.Keys(m)[0] }
	const evil = "../x\n\x1b[2J y"
	for name, c := range map[string]struct {
		change func(m forge.Object)
		where  string // of the finding
		gone   func(s *store.Snapshot) bool
	}{
		"type":       {func(m forge.Object) { key(m)["type"] = "P-256\nProxyCommand x" }, "key 1", func(s *store.Snapshot) bool { return s.Keys[0].Type == "" && s.Keys[0].Damage != "" }},
		"KCV":        {func(m forge.Object) { key(m)["kcv"] = evil }, "key 1", func(s *store.Snapshot) bool { return s.Keys[0].KCV == "" && s.Keys[0].Damage != "" }},
		"source":     {func(m forge.Object) { key(m)["public_from"] = evil }, "key 1", func(s *store.Snapshot) bool { return s.Keys[0].PublicFrom == "" }},
		"domain":     {func(m forge.Object) { key(m)["domain"] = 4711 }, "key 1", func(s *store.Snapshot) bool { return s.Keys[0].Domain <= 255 }},
		"reference":  {func(m forge.Object) { key(m)["reference"] = -3 }, "", func(s *store.Snapshot) bool { return len(s.Keys) == 3 && s.Keys[0].Reference == 2 }},
		"twice":      {func(m forge.Object) { key(m)["reference"] = 2 }, "", func(s *store.Snapshot) bool { return len(s.Keys) == 3 }},
		"no blob":    {func(m forge.Object) { delete(key(m), "blob") }, "key 1", func(s *store.Snapshot) bool { return s.Keys[0].Damage != "" }},
		"reason":     {func(m forge.Object) { key(m)["reason"] = "x" }, "key 1", func(s *store.Snapshot) bool { return s.Keys[0].Reason == "" && s.Keys[0].Damage != "" }},
		"firmware":   {func(m forge.Object) { token(m)["firmware"] = evil }, "token", func(s *store.Snapshot) bool { return s.Token.Firmware == "" }},
		"options":    {func(m forge.Object) { token(m)["options"] = evil }, "token", func(s *store.Snapshot) bool { return s.Token.Options == "" }},
		"issuer":     {func(m forge.Object) { token(m)["issuer"] = evil }, "token", func(s *store.Snapshot) bool { return s.Token.Issuer == "" }},
		"from":       {func(m forge.Object) { token(m)["valid_from"] = evil }, "token", func(s *store.Snapshot) bool { return s.Token.ValidFrom == "" }},
		"to":         {func(m forge.Object) { token(m)["valid_to"] = evil }, "token", func(s *store.Snapshot) bool { return s.Token.ValidTo == "" }},
		"tries":      {func(m forge.Object) { token(m)["pin_tries"] = -99 }, "token", func(s *store.Snapshot) bool { return s.Token.PINTries == -1 }},
		"before":     {func(m forge.Object) { token(m)["successor_of"] = evil }, "token", func(s *store.Snapshot) bool { return s.Token.SuccessorOf == "" }},
		"a domain":   {func(m forge.Object) { token(m)["domains"].([]any)[0].(forge.Object)["number"] = 300 }, "token", func(s *store.Snapshot) bool { return len(s.Token.Domains) == 1 }},
		"its KCV":    {func(m forge.Object) { token(m)["domains"].([]any)[0].(forge.Object)["kcv"] = evil }, "key domain 0", func(s *store.Snapshot) bool { return s.Token.Domains[0].KCV == "" }},
		"file":       {func(m forge.Object) { forge.Files(m)[0]["fid"] = "/../" }, "", func(s *store.Snapshot) bool { return len(s.Files) == 1 }},
		"attachment": {func(m forge.Object) { m["attachments"].([]any)[0].(forge.Object)["name"] = "../../x/y" }, "", func(s *store.Snapshot) bool { return len(s.Attachments) == 1 }},
		"rekeyed": {func(m forge.Object) {
			m["rekeyed"] = forge.Object{"time": "2026-03-01T12:00:00Z", "from": strings.Repeat("0", 64), "old_kcv": evil, "kcv": evil}
		}, "", func(s *store.Snapshot) bool { return s.Rekeyed == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			cat := forged(t, func(f *forge.Catalog) { c.change(f.Newest()) })
			found, err := cat.Verify()
			if err != nil {
				t.Fatal(err)
			}
			list := stateOf(t, cat).Snapshots
			if len(list) != 3 || !c.gone(list[2]) {
				t.Fatalf("%d snapshots; the newest: %+v", len(list), list[len(list)-1])
			}
			of := "snapshot " + list[2].ID
			if !slices.ContainsFunc(found, func(f store.Finding) bool {
				return strings.HasPrefix(f.Where, of) && strings.HasSuffix(f.Where, c.where)
			}) {
				t.Errorf("no finding of %s, %s: %v", of, c.where, found)
			}
			for _, s := range list[:2] {
				if slices.ContainsFunc(found, func(f store.Finding) bool { return strings.Contains(f.Where, s.ID) }) {
					t.Errorf("snapshot %s: %v", s.ID, found)
				}
			}
		})
	}
	// A token without a name that could be one: nothing can be told of it.
	cat := forged(t, func(c *forge.Catalog) { token(c.Newest())["serial"] = evil })
	list := stateOf(t, cat).Snapshots
	if found, err := cat.Verify(); err != nil || len(found) == 0 || len(list) != 2 {
		t.Errorf("%d snapshots, %v, %v", len(list), found, err)
	}
}

func stateOf(t *testing.T, cat *store.Catalog) *store.State {
	t.Helper()
	s, err := cat.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An entry of the log whose values cannot be is damaged, and says nothing; what
// stands before and after it does.
func TestFault17Entries(t *testing.T) {
	const evil = "../x\n\x1b[2J y"
	zeros, id, blob := strings.Repeat("0", 64), "0123456789ab", strings.Repeat("ab", 32)
	custodian := func(n int) forge.Object {
		return forge.Object{"index": n, "name": "c", "commitment": blob}
	}
	for kind, body := range map[string]forge.Object{
		"proof":            {"proofs": []any{forge.Object{"snapshot": id, "reference": 1, "blob": blob, "kind": "opened" + evil, "ok": true}}},
		"share-seen":       {"kcv": "0123456789ABCDEF", "recipient": evil},
		"accepted":         {"serial": evil, "reference": 1, "label": "l", "reason": "r"},
		"check":            {"proof": evil, "ok": true, "anchored": "no"},
		"restore":          {"snapshot": id, "from": "A1", "token": evil, "complete": true, "keys": []any{}, "files": []any{}},
		"export":           {"snapshot": evil, "hash": zeros},
		"successor":        {"serial": evil, "successor_of": "A1"},
		"part-set":         {"set": "/../../x", "share": 1, "shares": 1, "needed": 2, "custodians": []any{custodian(1), custodian(2)}},
		"part-set-retired": {"set": evil, "reason": "r"},
		"roll-call":        {"set": evil, "index": 1, "origin": "use"},
		"ceremony":         {"job": "split", "kcv": evil, "outcome": "done"},
		"drill":            {"snapshots": []any{evil}, "kcvs": []any{}, "ok": true, "seconds": 1},
		"use":              {"snapshot": id, "token": evil, "module": "m", "keys": []any{forge.Object{"reference": 1, "public_key": blob, "ok": true}}},
		"token-anchor":     {"serial": evil, "seq": 1, "hash": blob},
		"clock":            {"seq": 0, "reason": "r"},
		"old-token":        {"serial": evil, "fate": "lost", "token": "A1"},
		"rotation":         {"from": evil, "reference": 1, "to": "A1", "at": 1, "label": "l", "type": "P-256"},
		"firmware-update":  {"serial": "A1", "firmware": evil, "snapshot": id, "step": "emptied"},
		"odd" + evil:       {"a": "b"},
	} {
		t.Run(strings.TrimSuffix(kind, evil), func(t *testing.T) {
			seq := 0
			cat := forged(t, func(c *forge.Catalog) {
				c.Append(kind, time.Now(), body)
				seq = len(c.Log)
				c.Append("ceremony", time.Now(), forge.Object{"job": "split", "who": evil, "outcome": "done"})
			})
			s, err := cat.Read()
			if err != nil {
				t.Fatal(err)
			}
			where := fmt.Sprintf("log entry %d", seq)
			if len(s.Damage) != 1 || s.Damage[0].Where != where {
				t.Errorf("%s: %v", where, s.Damage)
			}
			if len(s.Entries) != seq || len(s.Snapshots) != 3 || s.Head.Seq != uint64(seq)+1 {
				t.Errorf("%d entries, %d snapshots, head %d", len(s.Entries), len(s.Snapshots), s.Head.Seq)
			}
		})
	}
}
