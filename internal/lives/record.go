package lives

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/store"
)

// record is what is really in a catalog.
type record struct {
	snapshots []*store.Snapshot          // in the order in which they came
	updates   []*backup.Update           // under way
	seen      map[string]bool            // recovery keys whose shares were shown, not made up by a token
	proofs    map[store.Hash]store.Proof // the last that showed its return, or not
	damage    error
	unread    bool // not even what is under way
}

// record reads a catalog; one that is not there is empty.
func (w *World) record(c *Catalog) *record {
	if c.known != nil {
		return c.known
	}
	c.known = &record{seen: map[string]bool{}, proofs: map[store.Hash]store.Proof{}}
	if c.exists() {
		c.known.unread = true
		c.known.damage = c.known.read(c.path)
	}
	return c.known
}

// free tells whether a catalog can be opened. In one process its lock can outlive a
// program that was killed; then the history is over.
func (w *World) free(c *Catalog) bool {
	cat, err := store.Open(c.path, true)
	if err == nil {
		cat.Close()
	}
	w.over = errors.Is(err, store.ErrLocked)
	return !w.over
}

func (r *record) read(path string) error {
	cat, err := store.Open(path, false)
	if err != nil {
		return err
	}
	defer cat.Close()
	s, err := cat.Read()
	if err != nil {
		return err
	}
	r.snapshots = s.Snapshots
	for kcv, seen := range s.Shares {
		r.seen[kcv] = !seen.Random
	}
	for _, p := range s.Proofs {
		if store.ShowsReturn(p.Kind) && !p.Untried {
			r.proofs[p.Blob] = p
		}
	}
	if r.updates, err = backup.Updates(cat); err != nil {
		return err
	}
	r.unread = false
	return s.Err()
}

func (r *record) snapshot(id string) *store.Snapshot {
	for _, s := range r.snapshots {
		if s.ID == id {
			return s
		}
	}
	return nil
}

// update is the one under way of a token.
func (r *record) update(t *Token) *backup.Update {
	for _, u := range r.updates {
		if slices.Contains(t.serials, u.Serial) {
			return u
		}
	}
	return nil
}

// newest is the last snapshot of a line of tokens. What was re-keyed stands for
// what it was made of.
func (r *record) newest(serials ...string) *store.Snapshot {
	var found *store.Snapshot
	best, place := -1, map[store.Hash]int{}
	for i, s := range r.snapshots {
		at := i * len(r.snapshots)
		if s.Rekeyed != nil {
			if from, known := place[s.Rekeyed.From]; known {
				at = from + 1
			}
		}
		place[s.Hash] = at
		if s.Token.Serial != "" && slices.Contains(serials, s.Token.Serial) && at > best {
			best, found = at, s
		}
	}
	return found
}

// stands: a restore of a token is one of this snapshot, unless another is named.
func (r *record) stands(s *store.Snapshot, serial string) bool {
	if last := r.newest(r.line(serial)...); last != nil {
		return s == last
	}
	return s.Adopted || s == r.newest(r.line(s.Token.Serial)...)
}

// line gives all serials that this catalog knows to be one token.
func (r *record) line(serial string) []string {
	list := []string{serial}
	for again := true; again; {
		again = false
		for _, s := range r.snapshots {
			old, now := s.Token.SuccessorOf, s.Token.Serial
			if old == "" || slices.Contains(list, old) == slices.Contains(list, now) {
				continue
			}
			again = true
			if slices.Contains(list, old) {
				list = append(list, now)
			} else {
				list = append(list, old)
			}
		}
	}
	return list
}

// private opens a blob with whatever recovery key there ever was, and names the
// key in it. Empty is no blob, "?" one that does not open.
func (w *World) private(blob []byte) (name, kcv string) {
	if len(blob) == 0 {
		return "", ""
	}
	b, err := dkek.ParseBlob(blob)
	if err != nil {
		return "?", ""
	}
	kcv = b.KCV.String()
	h := store.HashOf(blob)
	if name, known := w.blobs[h]; known {
		return name, kcv
	}
	key := w.madeUp[kcv]
	if r := w.recovery(kcv); r != nil {
		key = r.key
	}
	if key == nil {
		return "?", kcv
	}
	p, err := key.Open(b)
	if err != nil {
		return "?", kcv
	}
	k := &truthKey{Kind: p.Kind()}
	switch p.Kind() {
	case pkcs15.RSA:
		r, err := p.RSA()
		w.must("RSA", err)
		k.Private = x509.MarshalPKCS1PrivateKey(r)
	case pkcs15.EC:
		c, d, _, _ := p.EC()
		k.Curve, k.Private = c.Name, bytes.Clone(d)
	default:
		k.Private = bytes.Clone(p.AES())
	}
	w.blobs[h] = w.name(k)
	return w.blobs[h], kcv
}

// content opens what is sealed.
func (w *World) content(f store.File) (string, bool) {
	if !f.Sealed {
		return string(f.Content), true
	}
	for _, r := range recoveries() {
		if b, err := r.key.OpenData(f.Content); err == nil {
			return string(b), true
		}
	}
	return "", false
}

func number(fid string) (n uint16) {
	_, _ = fmt.Sscanf(fid, "%04x", &n)
	return n
}

// kept says how a catalog keeps a key: its private key at all, with this
// description and certificate, and so in the newest snapshot of the token's line or,
// where that has none, of another's. Only recovery keys that people have shares of count.
func (w *World) kept(c *Catalog, serial string, o object) (private, whole, newest bool) {
	r := w.record(c)
	for _, s := range r.snapshots {
		for _, k := range s.Keys {
			name, kcv := w.private(k.Blob)
			if name != o.private || w.recovery(kcv) == nil {
				continue
			}
			private = true
			if o.described(k) {
				whole = true
				newest = newest || r.stands(s, serial)
			}
		}
	}
	return private, whole, newest
}

// keptFile is kept for a file.
func (w *World) keptFile(c *Catalog, serial string, f uint16, content string) (whole, newest bool) {
	r := w.record(c)
	for _, s := range r.snapshots {
		for _, file := range s.Files {
			if is, opened := w.content(file); number(file.FID) == f && opened && is == content {
				whole = true
				newest = newest || r.stands(s, serial)
			}
		}
	}
	return whole, newest
}

// names: a file is said to be missing.
func names(gaps []store.Gap, f uint16) bool {
	return slices.ContainsFunc(gaps, func(g store.Gap) bool {
		return strings.Contains(strings.ToLower(g.What), fmt.Sprintf("%04x", f))
	})
}

// compare says how a snapshot differs from a token; empty is not at all.
func (w *World) compare(s *store.Snapshot, is *truth) string {
	refs := map[byte]bool{}
	for _, k := range s.Keys {
		n := byte(k.Reference)
		refs[n] = true
		o, there := is.objects[n]
		switch {
		case !there:
			return fmt.Sprintf("key %d is not on the token", n)
		case o.description != string(k.Description) || o.certificate != string(k.Certificate):
			return fmt.Sprintf("key %d has another description or certificate on the token", n)
		}
		if name, _ := w.private(k.Blob); name != "" && name != o.private {
			return fmt.Sprintf("the blob of key %d is of %s, the token has %s", n, name, o.private)
		}
	}
	for _, n := range is.references() {
		if !refs[n] && !is.objects[n].bare() { // a copy that a proof left is cleaned
			return fmt.Sprintf("key %d is not in the snapshot", n)
		}
	}
	files := map[uint16]string{}
	for _, f := range s.Files {
		content, opened := w.content(f)
		if !opened {
			return "file " + f.FID + " cannot be opened"
		}
		files[number(f.FID)] = content
	}
	for _, f := range is.numbers() {
		switch content, kept := files[f]; {
		case kept && content != is.files[f]:
			return fmt.Sprintf("file %04x has another content on the token", f)
		case !kept && !names(s.Missing, f):
			return fmt.Sprintf("file %04x is not in the snapshot", f)
		}
	}
	for f := range files {
		if _, there := is.files[f]; !there {
			return fmt.Sprintf("file %04x is not on the token", f)
		}
	}
	return ""
}
