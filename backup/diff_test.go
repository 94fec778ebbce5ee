package backup

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hsmbackup/store"
)

func TestDiffSame(t *testing.T) {
	s := exampleSnapshot(t)
	again := cloneKeys(s)
	again.ID, again.Taken, again.Token.FreeMemory, again.Token.SOPINTries = "another", s.Taken.Add(time.Hour), 1, 9
	for i := range again.Keys { // each export of a key is another blob
		if len(again.Keys[i].Blob) > 0 {
			again.Keys[i].Blob = append(again.Keys[i].Blob[:9:9], "exported anew"...)
		}
	}
	if d := Diff(s, again); len(d) > 0 {
		t.Errorf("%+v", d)
	}
	if d := Diff(&store.Snapshot{}, &store.Snapshot{}); len(d) > 0 {
		t.Errorf("%+v", d)
	}
}

func TestDiff(t *testing.T) {
	s := exampleSnapshot(t)
	for _, c := range []struct {
		name   string
		change func(b *store.Snapshot)
		want   []Difference
	}{
		{"token", func(b *store.Snapshot) {
			b.Token.Serial, b.Token.Firmware, b.Token.Label, b.Token.Options, b.Token.PINTries = "SOFT0400001", "3.6", "", "0003", 5
			b.Token.Domains = []store.Domain{{Shares: 1, Outstanding: 1}}
		}, []Difference{
			{"token", DiffChanged, `serial from "SOFT0200001" to "SOFT0400001"`},
			{"token", DiffChanged, `firmware from "3.5" to "3.6"`},
			{"token", DiffChanged, "label from \"a'b\\\"c$(touch PWNED)`touch PWNED`\\n```\\ntouch PWNED\\n```\\n; touch PWNED\" to none"},
			{"token", DiffChanged, `options from "0001" to "0003"`},
			{"token", DiffChanged, `PIN tries from 3 to 5`},
			{"token", DiffChanged, `recovery key of domain 0 from ` + s.Token.Domains[0].KCV + ` (2 shares) to none (1 shares, 1 missing)`},
			{"token", DiffChanged, `recovery key of domain 1 from ` + s.Token.Domains[1].KCV + ` (1 shares) to none`},
		}},
		{"device certificate", func(b *store.Snapshot) { b.Token.Certificate = []byte("new") }, []Difference{{"token", DiffChanged, "another device certificate"}}},
		{"moved and relabelled", func(b *store.Snapshot) { b.Keys[0].Reference, b.Keys[0].Label = 40, "new\n" }, []Difference{
			{`key 40 "new\n"`, DiffChanged, "moved from reference 1 to 40"},
			{`key 40 "new\n"`, DiffChanged, `label from "SSH CA" to "new\n"`},
		}},
		{"changed places", func(b *store.Snapshot) { b.Keys[0].Reference, b.Keys[3].Reference = 4, 1 }, []Difference{
			{"key 1", DiffChanged, "moved from reference 4 to 1"},
			{`key 4 "SSH CA"`, DiffChanged, "moved from reference 1 to 4"},
		}},
		{"another key at the reference", func(b *store.Snapshot) { b.Keys[0] = exampleKey(t, dkekOf(t, 0x11), 1, "SSH CA", "P-256", 1) }, []Difference{
			{`key 1 "SSH CA"`, DiffAdded, "P-256, ID 01"},
			{`key 1 "SSH CA"`, DiffRemoved, "RSA-2048, ID 01"},
		}},
		{"a copy", func(b *store.Snapshot) {
			k := b.Keys[0]
			k.Reference = 50
			b.Keys = append([]store.Key{k}, b.Keys...)
		}, []Difference{{`key 50 "SSH CA"`, DiffAdded, "RSA-2048, ID 01"}}},
		{"AES moved", func(b *store.Snapshot) { b.Keys[5].Reference = 60 }, []Difference{{`key 60 "AES"`, DiffChanged, "moved from reference 6 to 60"}}},
		{"AES made anew", func(b *store.Snapshot) { b.Keys[5].CheckValue = []byte{0x10, 9} }, []Difference{
			{`key 6 "AES"`, DiffAdded, "AES-128, ID 06"}, {`key 6 "AES"`, DiffRemoved, "AES-128, ID 06"},
		}},
		{"request lost", func(b *store.Snapshot) { b.Keys[0].PublicKey, b.Keys[0].Certificate = nil, nil }, []Difference{
			{`key 1 "SSH CA"`, DiffChanged, "its public key is no longer known"}, {`key 1 "SSH CA"`, DiffChanged, "its request is gone"},
		}},
		{"certificates", func(b *store.Snapshot) {
			b.Keys[0].Certificate, b.Keys[6].Certificate, b.Keys[5].Certificate = exampleCertificate(t, "x"), exampleCertificate(t, "y"), []byte("?")
		}, []Difference{
			{`key 1 "SSH CA"`, DiffChanged, "a certificate in place of the request"},
			{`key 6 "AES"`, DiffChanged, "a file of unknown kind was added"},
			{`key 7 "same"`, DiffChanged, "another certificate"},
		}},
		{"other fields", func(b *store.Snapshot) {
			k := &b.Keys[7]
			k.ID, k.Usage, k.Algorithms, k.Counter, k.Domain, k.KCV = []byte{0x88}, 4, nil, nil, 1, "0011223344556677"
		}, []Difference{
			{`key 8 "same"`, DiffChanged, `ID from "08" to "88"`},
			{`key 8 "same"`, DiffChanged, `usage from "sign, signRecover, derive" to "sign"`},
			{`key 8 "same"`, DiffChanged, `allowed algorithms from "8092" to none`},
			{`key 8 "same"`, DiffChanged, `use counter from "41" to none`},
			{`key 8 "same"`, DiffChanged, `key domain from 0 to 1`},
			{`key 8 "same"`, DiffChanged, `recovery key from "` + s.Keys[7].KCV + `" to "0011223344556677"`},
		}},
		{"description of other bytes", func(b *store.Snapshot) { b.Keys[0].Description = []byte{1} }, []Difference{{`key 1 "SSH CA"`, DiffChanged, "another description, which says the same"}}},
		{"no longer exported", func(b *store.Snapshot) {
			b.Keys[0].Blob, b.Keys[0].Reason = nil, "no DKEK"
			b.Keys[11].Reason = "XKEK"
		}, []Difference{
			{`key 1 "SSH CA"`, DiffChanged, "no longer exported: no DKEK"},
			{`key 21 "stays"`, DiffChanged, "not exported: XKEK; before: no DKEK: the token was initialised without one"},
		}},
		{"gone", func(b *store.Snapshot) { b.Keys = b.Keys[:11] }, []Difference{{`key 21 "stays"`, DiffRemoved, "P-256, ID 15, not exported: no DKEK: the token was initialised without one"}}},
		{"files", func(b *store.Snapshot) {
			b.Files = []store.File{{FID: "CA00", Content: []byte("x")}, {FID: "ca09", Content: []byte("12")}, s.Files[1], s.Files[2], s.Files[3], s.Files[4], s.Files[5], s.Files[6], {FID: "cd05"}}
			b.Files[8].Content = s.Files[8].Content
			b.Missing = []store.Gap{{What: "data object CD03", Reason: "PIN"}}
		}, []Difference{
			{"file CA00", DiffChanged, "another content of 1 bytes, before " + strconv.Itoa(len(s.Files[0].Content))},
			{"file CA09", DiffAdded, "2 bytes"},
			{"file CB00", DiffRemoved, "0 bytes"},
			{"file CD05", DiffChanged, "now kept in clear"},
			{"data object CD03", DiffAdded, "not in the snapshot: PIN"},
			{"data object CD02", DiffRemoved, "it was not in the snapshot either: protected by the PIN"},
		}},
	} {
		b := cloneKeys(s)
		c.change(b)
		if diff := cmp.Diff(c.want, Diff(s, b)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
