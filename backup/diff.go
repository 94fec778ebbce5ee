package backup

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// The kinds of a Difference.
const (
	DiffAdded   = "added"
	DiffRemoved = "removed"
	DiffChanged = "changed"
)

// Difference is one thing in which two snapshots differ.
type Difference struct {
	// What is the thing: `key 1 "SSH CA"`, "file CA00", "token".
	What string
	// Kind is one of the Diff constants.
	Kind string
	// Detail says how, on one line. Labels of strangers are quoted.
	Detail string
}

// Diff says what changed from snapshot a to b: of the token first, then keys by
// their references in b (those that are gone last), then files, then
// attachments, then what was left out of the snapshots. A key is recognised by its public key wherever it
// is, one without by its check value, else by its reference. A blob that was
// exported anew is no difference by itself: each is random.
func Diff(a, b *store.Snapshot) []Difference {
	var d differences
	d.token(&a.Token, &b.Token)
	d.keys(a.Keys, b.Keys)
	d.files(a.Files, b.Files)
	d.attachments(a.Attachments, b.Attachments)
	d.gaps(a.Missing, b.Missing)
	return d
}

type differences []Difference

func (d *differences) add(what, kind, format string, args ...any) {
	*d = append(*d, Difference{what, kind, fmt.Sprintf(format, args...)})
}

// change notes a field that has another value.
func change[T comparable](list *[]string, name string, a, b T) {
	if a != b {
		*list = append(*list, fmt.Sprintf("%s from %s to %s", name, show(a), show(b)))
	}
}

// show quotes text, which may be a stranger's.
func show(v any) string {
	if s, ok := v.(string); ok {
		if s == "" {
			return "none"
		}
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(v)
}

func (d *differences) token(a, b *store.Token) {
	var list []string
	change(&list, "serial", a.Serial, b.Serial)
	change(&list, "firmware", a.Firmware, b.Firmware)
	change(&list, "label", a.Label, b.Label)
	change(&list, "options", strings.ToLower(a.Options), strings.ToLower(b.Options))
	change(&list, "software", a.Software, b.Software)
	change(&list, "PIN tries", a.PINTries, b.PINTries)
	change(&list, "issuer", a.Issuer, b.Issuer)
	if a.Serial == b.Serial && !bytes.Equal(a.Certificate, b.Certificate) {
		list = append(list, "another device certificate")
	}
	domains := map[int][2]string{}
	var numbers []int
	for i, t := range []*store.Token{a, b} {
		for _, domain := range t.Domains {
			pair, known := domains[domain.Number]
			if !known {
				numbers = append(numbers, domain.Number)
			}
			pair[i] = describeDomain(domain)
			domains[domain.Number] = pair
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		name := "recovery key"
		if len(numbers) > 1 || n > 0 {
			name = fmt.Sprintf("recovery key of domain %d", n)
		}
		if pair := domains[n]; pair[0] != pair[1] {
			list = append(list, fmt.Sprintf("%s from %s to %s", name, orNone(pair[0]), orNone(pair[1])))
		}
	}
	for _, detail := range list {
		d.add("token", DiffChanged, "%s", detail)
	}
}

func describeDomain(d store.Domain) string {
	s := fmt.Sprintf("%s (%d shares", orNone(strings.ToUpper(d.KCV)), d.Shares)
	if d.Outstanding > 0 {
		s += fmt.Sprintf(", %d missing", d.Outstanding)
	}
	if len(d.UID) > 0 {
		s += ", XKEK " + hex.EncodeToString(d.UID)
	}
	return s + ")"
}

// storedName names a stored key at the reference it has.
func storedName(k *store.Key) string {
	switch {
	case k.Reference == 0:
		return fmt.Sprintf("key %q", k.Label)
	case k.Label == "":
		return fmt.Sprintf("key %d", k.Reference)
	}
	return fmt.Sprintf("key %d %q", k.Reference, k.Label)
}

// keys pairs the keys in rounds, the surest way first, so that copies of one
// key and keys that changed places find their own.
func (d *differences) keys(a, b []store.Key) {
	pair := make([]*store.Key, len(b)) // of a, by position in b
	used := make([]bool, len(a))
	for _, same := range []func(x, y *store.Key) bool{
		func(x, y *store.Key) bool { return x.Reference == y.Reference && samePublic(x, y) },
		func(x, y *store.Key) bool { return x.Reference == y.Reference && sameAnswer(x, y) },
		samePublic,
		sameAnswer,
		maybeSame,
	} {
		for j := range b {
			for i := range a {
				if pair[j] == nil && !used[i] && same(&a[i], &b[j]) {
					pair[j], used[i] = &a[i], true
				}
			}
		}
	}
	order := make([]int, len(b))
	for j := range order {
		order[j] = j
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(b[x].Reference, b[y].Reference) })
	for _, j := range order {
		if pair[j] == nil {
			d.add(storedName(&b[j]), DiffAdded, "%s", aboutKey(&b[j]))
			continue
		}
		for _, detail := range keyChanges(pair[j], &b[j]) {
			d.add(storedName(&b[j]), DiffChanged, "%s", detail)
		}
	}
	for i := range a {
		if !used[i] {
			d.add(storedName(&a[i]), DiffRemoved, "%s", aboutKey(&a[i]))
		}
	}
}

func samePublic(a, b *store.Key) bool {
	return len(a.PublicKey) > 0 && bytes.Equal(a.PublicKey, b.PublicKey)
}

func sameAnswer(a, b *store.Key) bool {
	return len(a.CheckValue) > 0 && bytes.Equal(a.CheckValue, b.CheckValue)
}

// maybeSame: at one reference, and nothing that is known of both differs.
func maybeSame(a, b *store.Key) bool {
	kindA, _ := kindAndBits(*a)
	kindB, _ := kindAndBits(*b)
	known := func(x, y []byte) bool { return len(x) > 0 && len(y) > 0 }
	switch {
	case a.Reference != b.Reference:
		return false
	case known(a.PublicKey, b.PublicKey), known(a.CheckValue, b.CheckValue):
		return false // they differ, or an earlier round had them
	case kindA != 0 && kindB != 0 && kindA != kindB:
		return false
	}
	return a.Reference != 0 || a.Label == b.Label
}

func aboutKey(k *store.Key) string {
	s := k.Type
	if s == "" {
		s = "unknown type"
	}
	if len(k.ID) > 0 {
		s += ", ID " + hex.EncodeToString(k.ID)
	}
	if len(k.Blob) == 0 {
		s += ", not exported: " + orNone(k.Reason)
	}
	return s
}

func keyChanges(a, b *store.Key) []string {
	var list []string
	if a.Reference != b.Reference {
		list = append(list, fmt.Sprintf("moved from reference %d to %d", a.Reference, b.Reference))
	}
	change(&list, "label", a.Label, b.Label)
	change(&list, "ID", hex.EncodeToString(a.ID), hex.EncodeToString(b.ID))
	change(&list, "type", a.Type, b.Type)
	change(&list, "usage", pkcs15.Usage(a.Usage).String(), pkcs15.Usage(b.Usage).String())
	change(&list, "allowed algorithms", hex.EncodeToString(a.Algorithms), hex.EncodeToString(b.Algorithms))
	change(&list, "use counter", counter(a), counter(b))
	change(&list, "key domain", a.Domain, b.Domain)
	change(&list, "recovery key", strings.ToUpper(a.KCV), strings.ToUpper(b.KCV))
	if len(a.PublicKey) == 0 != (len(b.PublicKey) == 0) {
		list = append(list, []string{"its public key is no longer known", "its public key is known now"}[boolInt(len(a.PublicKey) == 0)])
	}
	if before := len(list); !bytes.Equal(a.Description, b.Description) && before == 0 {
		list = append(list, "another description, which says the same")
	}
	if detail := certificateChange(a.Certificate, b.Certificate); detail != "" {
		list = append(list, detail)
	}
	switch {
	case len(a.Blob) > 0 && len(b.Blob) == 0:
		list = append(list, "no longer exported: "+orNone(b.Reason))
	case len(a.Blob) == 0 && len(b.Blob) > 0:
		list = append(list, "exported now; before: "+orNone(a.Reason))
	case a.Reason != b.Reason:
		list = append(list, fmt.Sprintf("not exported: %s; before: %s", orNone(b.Reason), orNone(a.Reason)))
	}
	return list
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func counter(k *store.Key) string {
	if k.Counter == nil {
		return ""
	}
	return fmt.Sprint(*k.Counter)
}

// certificateChange names what stands in CExx before and after.
func certificateChange(a, b []byte) string {
	switch {
	case bytes.Equal(a, b):
		return ""
	case len(a) == 0:
		return "a " + certificateKind(b) + " was added"
	case len(b) == 0:
		return "its " + certificateKind(a) + " is gone"
	}
	x, y := certificateKind(a), certificateKind(b)
	if x == y {
		return "another " + y
	}
	return fmt.Sprintf("a %s in place of the %s", y, x)
}

func certificateKind(b []byte) string {
	switch der := trim(b); {
	case isX509(der):
		return "certificate"
	case isCVRequest(der):
		return "request"
	case isCVC(der):
		return "card-verifiable certificate"
	}
	return "file of unknown kind"
}

func (d *differences) files(a, b []store.File) {
	type pair struct{ a, b *store.File }
	pairs := map[string]*pair{}
	var names []string
	at := func(f *store.File) *pair {
		name := strings.ToUpper(f.FID)
		if pairs[name] == nil {
			pairs[name] = &pair{}
			names = append(names, name)
		}
		return pairs[name]
	}
	for i := range a {
		at(&a[i]).a = &a[i]
	}
	for i := range b {
		at(&b[i]).b = &b[i]
	}
	slices.Sort(names)
	for _, name := range names {
		what, p := "file "+name, pairs[name]
		switch {
		case p.a == nil:
			d.add(what, DiffAdded, "%d bytes", len(p.b.Content))
		case p.b == nil:
			d.add(what, DiffRemoved, "%d bytes", len(p.a.Content))
		case p.a.Sealed != p.b.Sealed:
			d.add(what, DiffChanged, "%s", []string{"now kept in clear", "now sealed under the recovery key"}[boolInt(p.b.Sealed)])
		case !bytes.Equal(p.a.Content, p.b.Content):
			d.add(what, DiffChanged, "another content of %d bytes, before %d", len(p.b.Content), len(p.a.Content))
		}
	}
}

func (d *differences) attachments(a, b []store.Attachment) {
	in := func(list []store.Attachment, name string) int {
		return slices.IndexFunc(list, func(at store.Attachment) bool { return at.Name == name })
	}
	for _, at := range b {
		switch i := in(a, at.Name); {
		case i < 0:
			d.add("attachment "+at.Name, DiffAdded, "%d bytes", len(at.Content))
		case !bytes.Equal(a[i].Content, at.Content):
			d.add("attachment "+at.Name, DiffChanged, "another content of %d bytes, before %d", len(at.Content), len(a[i].Content))
		}
	}
	for _, at := range a {
		if in(b, at.Name) < 0 {
			d.add("attachment "+at.Name, DiffRemoved, "%d bytes", len(at.Content))
		}
	}
}

// gaps compares what the snapshots could not keep.
func (d *differences) gaps(a, b []store.Gap) {
	in := func(list []store.Gap, what string) int {
		return slices.IndexFunc(list, func(g store.Gap) bool { return g.What == what })
	}
	for _, g := range b {
		switch i := in(a, g.What); {
		case i < 0:
			d.add(g.What, DiffAdded, "not in the snapshot: %s", g.Reason)
		case a[i].Reason != g.Reason:
			d.add(g.What, DiffChanged, "not in the snapshot: %s; before: %s", g.Reason, a[i].Reason)
		}
	}
	for _, g := range a {
		if in(b, g.What) < 0 {
			d.add(g.What, DiffRemoved, "it was not in the snapshot either: %s", g.Reason)
		}
	}
}
