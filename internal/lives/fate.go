package lives

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// newToken gives a token that was not used yet a firmware.
func (w *World) newToken(t *Token, s Step) error {
	if was := w.truth(t); was.Initialised || len(t.serials) > 1 {
		return nil
	}
	w.makeToken(s.Token, s.How)
	w.tell("token %s has firmware %s", w.tokens[s.Token].serial(), s.How)
	return nil
}

// vendor is the vendor's firmware update, which takes only a token that holds
// nothing.
func (w *World) vendor(t *Token, s Step) error {
	if !w.truth(t).empty() {
		return nil
	}
	updates := len(t.serials)
	w.must("vendor", os.WriteFile(t.file, blank(w, t.physical, t.made, updates, s.How), 0o600))
	w.tell("vendor %s is %s now, firmware %s", t.serial(), serialOf(t.physical, updates), s.How)
	t.serials, t.known = append(t.serials, serialOf(t.physical, updates)), nil
	return nil
}

func (w *World) copyCatalog(_ *Token, s Step) error {
	c := w.catalogs[s.Catalog]
	if b, err := os.ReadFile(c.path); err == nil && c.whole == nil {
		c.old, c.begunOld = b, clones(c.begun)
		w.tell("copy catalog %s", c.name())
	}
	return nil
}

// oldCatalog puts a copy back, or what was there before the damage.
func (w *World) oldCatalog(_ *Token, s Step) error {
	c := w.catalogs[s.Catalog]
	b := c.old
	if c.whole != nil {
		b = c.whole
	} else if b != nil {
		c.begun = clones(c.begunOld)
	}
	if b == nil {
		return nil
	}
	w.must("catalog", os.WriteFile(c.path, b, 0o600))
	c.known, c.whole = nil, nil
	w.tell("old catalog %s: the copy is put back", c.name())
	return nil
}

// damageCatalog alters one byte that is not of a page that is free, as far as can
// be told: of a text.
func (w *World) damageCatalog(_ *Token, s Step) error {
	c := w.catalogs[s.Catalog]
	b, err := os.ReadFile(c.path)
	if err != nil || c.whole != nil {
		return nil
	}
	at := len(b) * (s.N%64*7 + s.Key + 1) / (64*7 + 256)
	if next := bytes.Index(b[at:], []byte(`":"`)); next >= 0 {
		at += next + 3
	}
	if at >= len(b) {
		return nil
	}
	c.whole, c.known = bytes.Clone(b), nil
	b[at] ^= 1
	w.must("catalog", os.WriteFile(c.path, b, 0o600))
	w.tell("damage catalog %s: one bit of byte %d", c.name(), at)
	return nil
}

// jump lets the clock jump by days.
func (w *World) jump(_ *Token, s Step) error {
	days, err := strconv.Atoi(s.How)
	w.must("clock", err)
	w.clock += time.Duration(days) * 24 * time.Hour
	w.tell("clock %+d days", days)
	return nil
}
