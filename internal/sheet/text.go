package sheet

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"hsmbackup/internal/harmless"
)

// The shape of a sheet as text, in characters.
const (
	textWidth = 78
	nameWidth = 26
	blank     = "________________________________________________"
)

// PlainText is the sheet as text, a part file. The caller clears it.
func (p *Part) PlainText() ([]byte, error) {
	page, err := p.page()
	if err != nil {
		return nil, err
	}
	return page.plain(), nil
}

// PlainText is the sheet as text. The caller clears it.
func (s *Admin) PlainText() ([]byte, error) {
	page, err := s.page()
	if err != nil {
		return nil, err
	}
	return page.plain(), nil
}

// writer collects lines with secrets among them: what it outgrows is cleared.
type writer struct {
	b      []byte
	prefix string // of lines for people
}

func (w *writer) add(b []byte) {
	if len(w.b)+len(b) > cap(w.b) {
		grown := make([]byte, len(w.b), 2*(len(w.b)+len(b)))
		copy(grown, w.b)
		clear(w.b)
		w.b = grown
	}
	w.b = append(w.b, b...)
}

// line is one for people.
func (w *writer) line(s string) {
	w.add([]byte(strings.TrimRight(w.prefix+s, " ") + "\n"))
}

// wrapped has first in front of its first line, and blanks as wide in front of
// the others.
func (w *writer) wrapped(first, s string) {
	indent := utf8.RuneCountInString(first)
	width := float64(textWidth - len(w.prefix) - indent)
	for _, l := range wrap(harmless.Text(s), width, func(s string) float64 { return float64(utf8.RuneCountInString(s)) }) {
		w.line(first + l)
		first = strings.Repeat(" ", indent)
	}
}

func (p *page) plain() []byte {
	w := &writer{b: make([]byte, 0, 8192)}
	if p.comments {
		w.prefix = "# "
	}
	w.line(p.title)
	w.line(strings.Repeat("=", utf8.RuneCountInString(p.title)))
	for _, s := range p.sections {
		w.line("")
		if s.heading != "" {
			w.line(s.heading)
			w.line(strings.Repeat("-", utf8.RuneCountInString(s.heading)))
		}
		for _, f := range s.fields {
			name := fmt.Sprintf("%-*s", nameWidth, f.name)
			for range f.blanks {
				w.line(name + blank)
			}
			if len(f.secret) > 0 {
				w.add([]byte(w.prefix + name))
				w.add(f.secret)
				w.add([]byte("\n"))
			}
			w.wrapped(name, f.value)
		}
		w.add(s.text)
		if len(s.text) > 0 && !bytes.HasSuffix(s.text, []byte("\n")) {
			w.add([]byte("\n"))
		}
		for _, i := range s.items {
			w.wrapped("- ", i)
		}
		for i, step := range s.steps {
			w.wrapped(fmt.Sprintf("%d. ", i+1), step.What)
			if step.Command != "" { // whole, to be copied
				w.line("     " + harmless.Text(step.Command))
			}
		}
	}
	return w.b
}
