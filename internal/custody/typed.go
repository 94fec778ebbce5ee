package custody

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"

	"hsmbackup/dkek"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/secret"
)

// Parts are typed on the alternate screen, where the person sees what is typed,
// and it is wiped when the part is whole: 99 characters cannot be typed blind.

// typeSet has parts typed until a set is complete: the first one of which parts
// are missing, else a new one. Where some are enough, an empty line ends it after
// the first.
func (m *Material) typeSet(ctx context.Context, some bool) error {
	desk := m.opener.Desk
	at := slices.IndexFunc(m.Sets, func(s *AtHand) bool { return s.Missing() > 0 })
	if at < 0 {
		at = len(m.Sets)
	}
	problem, ends := "", false
	for at >= len(m.Sets) || m.Sets[at].Missing() > 0 {
		title := "A custodian's part of the recovery key."
		if at < len(m.Sets) {
			title = fmt.Sprintf("A custodian's part of %s:\n%s.", m.Sets[at].Describe(), m.Sets[at].State())
		}
		if ends {
			title += " Enter alone ends it."
		}
		p, err := TypePart(ctx, desk, title, problem, nil)
		if err != nil {
			return err
		}
		if p == nil && ends {
			return nil
		}
		if p == nil {
			return failf("no-part", "", "no part was typed")
		}
		problem = ""
		if err := m.typed(p, at); err != nil {
			problem = err.Error()
			continue
		}
		ends = some
		s := m.Sets[at]
		desk.Note("%s is good: %s", partName(p, s.known), s.State())
	}
	return nil
}

// typed takes a part in that was typed for a set.
func (m *Material) typed(p *dkek.Part, at int) error {
	if at < len(m.Sets) && p.Set != m.Sets[at].Set {
		defer p.Wipe()
		return fmt.Errorf("that is %s, a part of another set than %s", partName(p, findSet(m.registered, p.Set)), m.Sets[at].Set)
	}
	return m.add(p, TypedPart)
}

// TypePart has a part typed, line by line, and gives it when it is whole; nil if
// nothing is typed. A line that has a mistake is asked for again at once, as far
// as its check, if that is typed with it, or the known part tells. problem is
// said at first.
func TypePart(ctx context.Context, desk Desk, title, problem string, known *dkek.Part) (*dkek.Part, error) {
	if !desk.Available() {
		return nil, usagef("", "there is no terminal to type a part at")
	}
	lines := make([]*secret.Bytes, dkek.PartLines)
	defer func() {
		for _, l := range lines {
			l.Wipe()
		}
	}()
	for {
		n := slices.IndexFunc(lines, func(l *secret.Bytes) bool { return l.Len() == 0 })
		prompt := fmt.Sprintf("Line %d of %d:", n+1, len(lines))
		if n < 0 {
			prompt = fmt.Sprintf("Number of the line to type again (1 to %d):", len(lines))
		}
		text := typingScreen(title, problem, lines)
		typed, err := desk.Screen(ctx, text, prompt)
		clear(text)
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(typed.Bytes())) == 0 {
			return nil, nil
		}
		problem = ""
		if n < 0 { // the whole has a mistake
			if number, err := strconv.Atoi(string(bytes.TrimSpace(typed.Bytes()))); err == nil && number >= 1 && number <= len(lines) {
				lines[number-1].Wipe()
			}
			typed.Wipe()
			continue
		}
		err = takeLines(lines, n, typed, known)
		typed.Wipe()
		if err != nil {
			problem = err.Error()
			continue
		}
		if slices.ContainsFunc(lines, func(l *secret.Bytes) bool { return l.Len() == 0 }) {
			continue
		}
		p, err := parseLines(lines)
		if err == nil {
			return p, nil
		}
		problem = err.Error()
	}
}

// takeLines puts what was typed in its place: a line, or a whole part in one go,
// as a scanner types it.
func takeLines(lines []*secret.Bytes, n int, typed *secret.Bytes, known *dkek.Part) error {
	check := func(number int, line []byte) error {
		if known != nil {
			return known.CompareLine(number, line)
		}
		return dkek.CheckPartLine(number, line)
	}
	compact := make([]byte, 0, typed.Len()) // never grows: no copies are left behind
	defer func() { clear(compact[:cap(compact)]) }()
	for _, c := range typed.Bytes() {
		if c != ' ' && c != '\t' {
			compact = append(compact, c)
		}
	}
	lower := func(line []byte) *secret.Bytes { return secret.New(bytes.ToLower(line)) } // lines may differ in case
	if n > 0 || len(compact) != dkek.PartLength {
		if err := check(n+1, typed.Bytes()); err != nil {
			return err
		}
		bare, _, _ := bytes.Cut(compact, []byte{'='}) // its check was looked at
		lines[n] = lower(bare)
		return nil
	}
	line := func(i int) []byte { return compact[i*dkek.PartLine : min((i+1)*dkek.PartLine, len(compact))] }
	for i := range lines {
		if err := check(i+1, line(i)); err != nil {
			return err
		}
	}
	for i := range lines {
		lines[i] = lower(line(i))
	}
	return nil
}

func parseLines(lines []*secret.Bytes) (*dkek.Part, error) {
	text := make([]byte, 0, 4*dkek.PartLength)
	defer func() { clear(text[:cap(text)]) }()
	for _, l := range lines {
		text = append(append(text, l.Bytes()...), '\n')
	}
	return dkek.ParsePart(text)
}

// typingScreen is what stands above the line that is typed; the caller clears
// it.
func typingScreen(title, problem string, lines []*secret.Bytes) []byte {
	text := make([]byte, 0, 2048+2*len(title)+2*len(problem))
	text = append(text, harmless.Lines(title)...)
	text = append(text, "\n\nType it line by line, as it stands on paper; blanks and case do not matter.\nTyped with its check (=xy), a line that has a mistake is found at once.\n\n"...)
	for i, l := range lines {
		if l.Len() > 0 {
			text = append(fmt.Appendf(text, "  %d  ", i+1), l.Bytes()...)
			text = append(text, '\n')
		}
	}
	if problem != "" {
		text = fmt.Appendf(text, "\n%s\n", harmless.Text(problem))
	}
	return text
}
