// Package harmless makes text that came from a token or a file fit for where it
// goes: the one way out for labels, serials, reasons, names and paths. What is
// shown must neither move the cursor of whoever looks at it nor look like what it
// is not; what a shell, ssh or Markdown reads must be one word, value or span of
// it and nothing more. Nothing here decides whether a value is right: that is
// done where it is read.
package harmless

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// unseen are control characters and those that are not seen, such as marks that
// turn the direction of writing, and the ends of lines that Unicode adds.
func unseen(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Text is a text for one line of a terminal or a file. What is not seen, a line's
// end too, becomes U+FFFD, and so does what is no UTF-8.
func Text(s string) string {
	return strings.Map(func(r rune) rune {
		if unseen(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}

// Lines is Text for a text of several lines that this program has put together:
// their ends stay.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = Text(lines[i])
	}
	return strings.Join(lines, "\n")
}

// Sprintf is fmt.Sprintf with whatever text the arguments give made harmless; the
// format is this program's own. Errors that were joined, a line for each, are put
// into one with "; ".
func Sprintf(format string, args ...any) string {
	clean := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case string:
			clean[i] = Text(v)
		case error:
			clean[i] = Text(strings.ReplaceAll(v.Error(), "\n", "; "))
		case bool, int, int64, uint16, uint32, uint64, byte, rune, float64, []byte:
			clean[i] = v
		default: // a type of its own, a list, a struct
			clean[i] = text{v}
		}
	}
	return fmt.Sprintf(format, clean...)
}

// text formats a value of any other type as its verb says, and makes that
// harmless.
type text struct{ v any }

func (t text) Format(f fmt.State, verb rune) {
	_, _ = f.Write([]byte(Text(fmt.Sprintf(fmt.FormatString(f, verb), t.v))))
}

// Blank is Text with a blank in place of each such character, for what is copied
// and not only looked at: the comment of a key, a shell's word.
func Blank(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}

// Quoted is a text as one word of a POSIX shell, in quotes.
func Quoted(s string) string {
	return "'" + strings.ReplaceAll(Blank(s), "'", `'\''`) + "'"
}

// Word is Quoted where that is needed.
func Word(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_@%+:,./-", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return Quoted(s)
}

// Code is a text as a Markdown code span, in which nothing has a meaning but a run
// of backticks as long as the one it began with.
func Code(s string) string {
	s = Blank(s)
	longest, run := 0, 0
	for _, r := range s {
		if run++; r != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	fence := strings.Repeat("`", longest+1)
	if s == "" {
		return "(empty)"
	}
	if strings.Trim(s, " ") == "" || strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		s = " " + s + " " // Markdown takes one blank off each end
	}
	return fence + s + fence
}

// maxName keeps names of files readable and below every file system's limit.
const maxName = 40

// Name makes a label fit for a part of a file's name: ASCII letters, digits, _ and
// single hyphens. It may be empty.
func Name(label string) string {
	var out strings.Builder
	for _, r := range label {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			out.WriteRune(r)
		case !strings.HasSuffix(out.String(), "-"):
			out.WriteByte('-')
		}
	}
	s := strings.Trim(out.String(), "-")
	return strings.Trim(s[:min(len(s), maxName)], "-")
}

// JSON is a document of JSON with \u escapes for what is not seen, which mean the
// same to whoever reads it. It leaves the ends of lines between values.
func JSON(doc []byte) []byte {
	out := make([]byte, 0, len(doc))
	for len(doc) > 0 {
		r, n := utf8.DecodeRune(doc)
		switch {
		case r == '\n' || !unseen(r):
			out = append(out, doc[:n]...)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		doc = doc[n:]
	}
	return out
}
