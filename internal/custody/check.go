package custody

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// Checked is what a check of shares, parts and wrapped keys found.
type Checked struct {
	KCV      string         `json:"kcv"`
	Complete bool           `json:"complete"`
	Shares   []CheckedShare `json:"shares"`
	// Sets are the sets that parts are of.
	Sets    []SetAtHand  `json:"sets,omitempty"`
	Wrapped []CheckedKey `json:"wrapped"`
	// Recipient is what data is sealed to under the recovery key.
	Recipient string `json:"recipient,omitempty"`

	// Material is what was given, to be wiped.
	Material *Material `json:"-"`
	// Damaged: something does not check out; Incomplete: something could not be
	// looked at.
	Damaged    bool `json:"-"`
	Incomplete bool `json:"-"`

	others []Given
	opened map[store.Hash]bool
}

// CheckedShare is a share, or a part of one.
type CheckedShare struct {
	File   string `json:"file"`
	Kind   string `json:"kind"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`

	What string `json:"-"` // for people; empty: Kind says it
}

// CheckedKey is a wrapped key.
type CheckedKey struct {
	File      string `json:"file"`
	Type      string `json:"type"`
	Label     string `json:"label"`
	ID        string `json:"id"`
	KCV       string `json:"kcv"`
	PublicKey string `json:"public_key"`
	Proof     string `json:"proof"`
	Matched   string `json:"matched"`
	OK        bool   `json:"ok"`
	Reason    string `json:"reason"`
}

type verdict int

const (
	good verdict = iota
	incomplete
	damaged
)

func (c *Checked) add(v verdict) {
	c.Damaged = c.Damaged || v == damaged
	c.Incomplete = c.Incomplete || v == incomplete
}

// Check looks at files of any kind: shares and parts, which it brings together if
// they are enough, and wrapped keys, which it opens with what comes out. The
// catalog, which may be nil, knows whose the parts are. The caller wipes the key,
// nil if there is none, and the Material.
func (o *Opener) Check(ctx context.Context, cat *store.Catalog, given []Given) (c *Checked, key *dkek.Key, err error) {
	unread := 0
	for _, g := range given {
		if g.err != nil {
			unread++
		}
	}
	if len(given) > 0 && unread == len(given) {
		return nil, nil, given[0].err
	}
	c = &Checked{Shares: []CheckedShare{}, Wrapped: []CheckedKey{}, opened: map[store.Hash]bool{}}
	c.Material = &Material{opener: o, registered: registeredSets(cat, o.Desk)}
	if err := c.sort(ctx, given); err != nil {
		return c, nil, err
	}
	if key, err = c.shares(ctx); err != nil {
		return c, nil, err
	}
	if key != nil && len(c.others) > unread {
		o.Desk.Note("private keys are open in this computer's memory while they are checked")
	}
	for _, g := range c.others {
		if err := ctx.Err(); err != nil {
			key.Wipe()
			return c, nil, err
		}
		if g.err != nil {
			c.Wrapped = append(c.Wrapped, CheckedKey{File: g.File, Proof: store.ProofIntact, Reason: o.Desk.Words(g.err)})
			c.add(incomplete)
			continue
		}
		w, how := checkWrapped(g.File, g.content, key)
		if container, err := dkek.ParseContainer(g.content); err == nil && key != nil {
			c.opened[store.HashOf(container.Blob)] = true
		}
		c.Wrapped = append(c.Wrapped, w)
		c.add(how)
	}
	return c, key, nil
}

// sort tells what the files are, and judges each part by itself. A password or
// identity that does not open a file and a part given twice end the check.
func (c *Checked) sort(ctx context.Context, given []Given) error {
	m := c.Material
	typed := 0
	for _, g := range given {
		if g.Typed {
			typed++
			continue
		}
		if g.err != nil {
			c.others = append(c.others, g)
			continue
		}
		bad := func(kind string, err error) error {
			if !errors.Is(err, dkek.ErrFormat) && !errors.Is(err, dkek.ErrTampered) && !errors.Is(err, dkek.ErrMismatch) {
				return fmt.Errorf("%s: %w", g.File, err)
			}
			c.Shares = append(c.Shares, CheckedShare{File: g.File, Kind: kind, Reason: err.Error()})
			c.add(damaged)
			return nil
		}
		g, err := m.opener.unseal(ctx, g)
		if err != nil {
			if err := bad("age", err); err != nil {
				return err
			}
			continue
		}
		kind := g.Kind()
		switch {
		case dkek.IsPBE(g.content):
			m.files = append(m.files, g)
		case dkek.IsPart(g.content):
			p, err := m.opener.partOf(g)
			if err == nil {
				err = m.add(p, g.File)
			}
			if err == nil {
				c.Shares = append(c.Shares, CheckedShare{File: g.File, Kind: kind, OK: true, What: partName(p, findSet(m.registered, p.Set))})
			} else if err := bad(kind, err); err != nil {
				return err
			}
		case g.sealed:
			clear(g.content)
			if err := bad(kind, fmt.Errorf("%w: neither a part nor a share file is in it", dkek.ErrFormat)); err != nil {
				return err
			}
		default:
			c.others = append(c.others, g)
		}
	}
	for range typed {
		if err := m.typeSet(ctx, true); err != nil {
			return err
		}
		last := m.Sets[len(m.Sets)-1]
		for _, p := range last.Parts {
			if last.files[p.Index] == TypedPart {
				c.Shares = append(c.Shares, CheckedShare{File: TypedPart, Kind: "part", OK: true, What: partName(p, last.known)})
			}
		}
	}
	return nil
}

// shares opens the shares and puts the key together; nil if that cannot be. A
// wrong password, a share given twice and a key of zeros end the check.
func (c *Checked) shares(ctx context.Context) (*dkek.Key, error) {
	m := c.Material
	if m.Count() == 0 {
		return nil, nil
	}
	// Files that are no share after all need no password.
	var files []Given
	for _, g := range m.files {
		if n := len(g.content); n != dkek.PBESize {
			c.Shares = append(c.Shares, CheckedShare{File: g.File, Kind: g.Kind(), Reason: fmt.Sprintf("cut short or grown: a share file has %d bytes, this one %d", dkek.PBESize, n)})
			c.add(damaged)
			continue
		}
		files = append(files, g)
	}
	shares, errs, err := m.opener.OpenFiles(ctx, files)
	if err != nil {
		return nil, err
	}
	defer func() { dkek.WipeShares(shares) }()
	for i, err := range errs {
		s := CheckedShare{File: files[i].File, Kind: files[i].Kind(), OK: err == nil}
		switch {
		case errors.Is(err, dkek.ErrFormat):
			s.Reason = err.Error()
			c.add(damaged)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", files[i].File, err)
		}
		c.Shares = append(c.Shares, s)
	}
	for _, s := range m.Sets {
		c.Sets = append(c.Sets, s.document())
		m.damaged(s.doubts())
		if s.Missing() > 0 {
			continue
		}
		share, err := dkek.CombineParts(s.Parts)
		if err != nil {
			return nil, err
		}
		shares = append(shares, share)
	}
	for _, s := range c.Shares {
		if !s.OK {
			return nil, nil
		}
	}
	if len(shares) < m.Count() || m.LacksShares() != nil {
		return nil, nil
	}
	if err := m.bringTogether(); err != nil {
		return nil, err
	}
	key, err := m.Key(shares)
	if err != nil {
		return nil, err
	}
	c.KCV, c.Complete = key.KCV().String(), true
	if c.Recipient, err = key.Recipient(); err != nil {
		return nil, err
	}
	return key, nil
}

// checkWrapped looks at one wrapped key and opens it if there is a key.
func checkWrapped(file string, content []byte, key *dkek.Key) (w CheckedKey, how verdict) {
	w = CheckedKey{File: file, Proof: store.ProofIntact}
	c, err := dkek.ParseContainer(content)
	if err != nil {
		w.Reason = "neither a share nor a wrapped key: " + err.Error()
		return w, damaged
	}
	b, err := dkek.ParseBlob(c.Blob)
	if err != nil {
		w.Reason = err.Error()
		return w, damaged
	}
	w.KCV, w.Type = b.KCV.String(), b.Type.Kind().String()
	if d, err := pkcs15.ParseKey(c.Description); err == nil {
		w.Label, w.ID = d.Label, hex.EncodeToString(d.ID)
		switch d.Kind {
		case pkcs15.RSA:
			w.Type = pubkey.RSAType(d.Bits)
		case pkcs15.AES:
			w.Type = pubkey.AESType(d.Bits)
		}
	}
	if len(c.Trailing) > 0 {
		w.Reason = fmt.Sprintf("%d bytes behind the wrapped key that no tool writes", len(c.Trailing))
		return w, damaged
	}
	if key == nil {
		w.OK = true
		return w, good
	}
	w.Proof = store.ProofOpened
	private, err := key.Open(b)
	if err != nil {
		w.Reason = err.Error()
		if errors.Is(err, dkek.ErrOtherKey) || errors.Is(err, dkek.ErrCurve) {
			return w, incomplete
		}
		return w, damaged
	}
	defer private.Wipe()
	w.Type = private.Type()
	match, public, err := dkek.MatchKey(private, c.Description, c.Certificate)
	if err != nil {
		w.Reason = err.Error()
		return w, damaged
	}
	if public != nil {
		w.PublicKey = string(public.PEM())
	}
	w.Matched, w.OK = string(match), true
	return w, good
}

// Summary names what is not good; empty: all is.
func (c *Checked) Summary() string {
	var bad []string
	for _, s := range c.Shares {
		if !s.OK {
			bad = append(bad, s.File)
		}
	}
	for _, w := range c.Wrapped {
		if !w.OK {
			bad = append(bad, w.File)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d files are not good: %s", len(bad), len(c.Shares)+len(c.Wrapped), strings.Join(bad, ", "))
}

// Record notes in the catalog that shares which give this key were at hand, whose
// parts, and which keys of its snapshots were open on this computer. It gives what
// could not be recorded.
func (c *Checked) Record(cat *store.Catalog, key *dkek.Key) (seen, opened error) {
	c.Material.RecordUse(cat)
	return backup.RecordShares(cat, key, true, "dkek check"), backup.RecordOpened(cat, key, c.opened)
}
