package sheet

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/text/unicode/norm"
	"rsc.io/qr"

	"hsmbackup/internal/harmless"
)

// Paper is a size of paper.
type Paper string

// The sizes that printers have.
const (
	A4     Paper = "A4"
	Letter Paper = "Letter"
)

// ErrTooLong is a sheet that does not fit on one page however small it is set:
// a path or a name is very long.
var ErrTooLong = errors.New("does not fit on one page")

// Measures in millimetres, of type in points.
const (
	margin     = 15.0
	indent     = 5.0
	nameColumn = 40.0
	writing    = 7.5  // height of a line to write on
	qrSide     = 60.0 // with the quiet zone of 4 modules
	partType   = 12.0
	point      = 25.4 / 72
	leading    = 1.25

	largest, smallest, finer = 10.0, 7.0, 0.5
)

// The faces of a sheet.
const (
	roman = "roman"
	bold  = "bold"
	mono  = "mono"
)

// PDF is the sheet as a PDF of one page. The caller clears it. The error wraps
// ErrTooLong if it cannot be.
func (p *Part) PDF(paper Paper) ([]byte, error) {
	page, err := p.page()
	if err != nil {
		return nil, err
	}
	return page.pdf(paper)
}

// PDF is the sheet as a PDF of one page. The caller clears it. The error wraps
// ErrTooLong if it cannot be.
func (s *Admin) PDF(paper Paper) ([]byte, error) {
	page, err := s.page()
	if err != nil {
		return nil, err
	}
	return page.pdf(paper)
}

// pdf sets the page as large as it fits.
func (p *page) pdf(paper Paper) ([]byte, error) {
	if paper != A4 && paper != Letter {
		return nil, fmt.Errorf("sheet: paper %q is neither %s nor %s", paper, A4, Letter)
	}
	for size := largest; size >= smallest; size -= finer {
		l := newLayout(p, paper, size)
		if err := l.set(p); err != nil {
			return nil, err
		}
		if l.y > l.bottom {
			continue
		}
		var out bytes.Buffer
		if err := l.Output(&out); err != nil { // one Write, so out grows once
			return nil, fmt.Errorf("sheet: %w", err)
		}
		return out.Bytes(), nil
	}
	return nil, fmt.Errorf("sheet %w: shorten the longest of what is named on it", ErrTooLong)
}

// layout is a page that is being set, from top to bottom.
type layout struct {
	*fpdf.Fpdf
	size          float64 // of type
	y, bottom     float64
	left, measure float64 // where lines begin, and how long they are
}

func newLayout(p *page, paper Paper, size float64) *layout {
	f := fpdf.New("P", "mm", string(paper), "")
	f.SetAutoPageBreak(false, 0)
	f.SetCatalogSort(true)
	f.SetCreationDate(p.date.UTC())
	f.SetModificationDate(p.date.UTC())
	f.SetProducer("hsmbackup", false)
	f.SetTitle(p.title, true)
	// Each gets its own copy: fpdf writes into it.
	f.AddUTF8FontFromBytes(roman, "", bytes.Clone(goregular.TTF))
	f.AddUTF8FontFromBytes(bold, "", bytes.Clone(gobold.TTF))
	f.AddUTF8FontFromBytes(mono, "", bytes.Clone(gomono.TTF))
	f.AddPage()
	f.SetLineWidth(0.15)
	width, height := f.GetPageSize()
	return &layout{Fpdf: f, size: size, y: margin, bottom: height - margin, left: margin, measure: width - 2*margin}
}

func (l *layout) set(p *page) error {
	l.line(bold, l.size*1.6, l.left, p.title)
	for _, s := range p.sections {
		l.y += l.size * point * 0.6
		if s.heading != "" {
			l.line(bold, l.size*1.1, l.left, s.heading)
		}
		for _, f := range s.fields {
			l.field(f)
		}
		if len(s.code) > 0 {
			if err := l.part(s.text, s.code); err != nil {
				return err
			}
		}
		for _, i := range s.items {
			l.hanging("•", roman, i)
		}
		for i, step := range s.steps {
			l.hanging(fmt.Sprintf("%d.", i+1), roman, step.What)
			l.hanging("", mono, step.Command)
		}
	}
	return l.Error()
}

// line sets one line of text and goes to the next.
func (l *layout) line(face string, size, x float64, s string) {
	l.SetFont(face, "", size)
	l.y += size * point * leading
	l.Text(x, l.y, s)
}

// block sets a text in as many lines as it takes.
func (l *layout) block(face string, x float64, s string) {
	l.SetFont(face, "", l.size)
	for _, s := range wrap(printed(s), l.left+l.measure-x, l.GetStringWidth) {
		l.line(face, l.size, x, s)
	}
}

// hanging sets a text with a mark in front of its first line.
func (l *layout) hanging(mark, face, s string) {
	top := l.y
	l.block(face, l.left+indent, s)
	end := l.y
	l.y = top
	l.line(roman, l.size, l.left+1, mark)
	l.y = end
}

func (l *layout) field(f field) {
	x := l.left + nameColumn
	top := l.y
	switch {
	case f.blanks > 0:
		for range f.blanks {
			l.y += writing
			l.Line(x, l.y+0.5, l.left+l.measure, l.y+0.5)
		}
		top = l.y - l.size*point*leading
	case len(f.secret) > 0:
		l.secret(x, string(f.secret))
	default:
		l.block(roman, x, f.value)
	}
	end := l.y
	l.y = top
	l.line(roman, l.size, l.left, f.name)
	l.y = max(end, l.y)
}

// secret sets a text in which every blank counts.
func (l *layout) secret(x float64, s string) {
	l.SetFont(mono, "", l.size)
	line := ""
	for _, r := range s {
		if l.GetStringWidth(line+string(r)) > l.left+l.measure-x {
			l.line(mono, l.size, x, line)
			line = ""
		}
		line += string(r)
	}
	l.line(mono, l.size, x, line)
}

// part sets the part as text, and as a QR code of black squares to its right.
func (l *layout) part(text, code []byte) error {
	c, err := qr.Encode(string(bytes.ToUpper(code)), qr.Q)
	if err != nil {
		return fmt.Errorf("sheet: QR code: %w", err)
	}
	top := l.y
	l.y += partType * point
	for line := range bytes.Lines(text) {
		l.y += partType * point * (leading - 1)
		l.line(mono, partType, l.left, strings.TrimRight(string(line), "\r\n"))
	}
	const quiet = 4
	module := qrSide / float64(c.Size+2*quiet)
	x, y := l.left+l.measure-qrSide+quiet*module, top+quiet*module
	// One path for all of it: shapes that are filled one by one show hairlines
	// where they meet.
	for row := range c.Size {
		for col := 0; col < c.Size; col++ {
			from := col
			for col < c.Size && c.Black(col, row) {
				col++
			}
			if col > from {
				left, right := x+float64(from)*module, x+float64(col)*module
				upper, lower := y+float64(row)*module, y+float64(row+1)*module
				l.MoveTo(left, upper)
				l.LineTo(right, upper)
				l.LineTo(right, lower)
				l.LineTo(left, lower)
				l.ClosePath()
			}
		}
	}
	l.DrawPath("F")
	clear(c.Bitmap)
	l.y = max(l.y, top+qrSide)
	return nil
}

// face is what tells which characters the fonts have; the three have the same.
var face = sync.OnceValues(func() (*sfnt.Font, error) { return sfnt.Parse(goregular.TTF) })

// printed gives a text as the fonts can show it.
func printed(s string) string {
	var out strings.Builder
	for _, r := range norm.NFC.String(harmless.Text(s)) {
		if hasGlyph(r) {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, "[U+%04X]", r)
		}
	}
	return out.String()
}

// hasGlyph tells whether the fonts have a character.
func hasGlyph(r rune) bool {
	f, err := face()
	if err != nil {
		panic("sheet: " + err.Error()) // the font is the program's own
	}
	glyph, err := f.GlyphIndex(nil, r)
	return err == nil && glyph != 0
}
