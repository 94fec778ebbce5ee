package dkek

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
)

// A part comes through what scanners, mail, viewers and people put around it.
func TestDecoratedParts(t *testing.T) {
	want := randomPart(t)
	text := string(want.CheckedText())
	lines := strings.Split(strings.TrimSpace(text), "\n")
	each := func(f func(i int, line string) string) string {
		var out []string
		for i, l := range lines {
			out = append(out, f(i, l))
		}
		return strings.Join(out, "\n")
	}
	wide := func(little bool) string {
		var b bytes.Buffer
		for _, u := range utf16.Encode([]rune("\ufeff" + text)) {
			if little {
				b.Write([]byte{byte(u), byte(u >> 8)})
			} else {
				b.Write([]byte{byte(u >> 8), byte(u)})
			}
		}
		return b.String()
	}
	for name, decorated := range map[string]string{
		"as it is":            text,
		"byte order mark":     "\ufeff" + text,
		"UTF-16":              wide(true),
		"UTF-16, big-endian":  wide(false),
		"a scanner":           "QR-Code:" + strings.ToUpper(string(want.Compact())) + "\n",
		"quoted":              each(func(_ int, l string) string { return "> > " + l }),
		"numbered":            each(func(i int, l string) string { return fmt.Sprintf("%d. %s", i+1, l) }),
		"numbered and quoted": each(func(i int, l string) string { return fmt.Sprintf("> %2d) %s", i+1, l) }),
		"dashes":              each(func(_ int, l string) string { return strings.Replace(l, " ", "-", 3) }),
		"long dashes":         each(func(_ int, l string) string { return strings.Replace(l, " ", "–", 3) }),
		"no-break blanks":     strings.ReplaceAll(text, " ", "\u00a0"),
		"zero-width":          strings.ReplaceAll(text, " ", "\u200b"),
		"an l for the 1":      strings.Replace(text, "hsmpart1", "hsmpartl", 1),
		"an I for the 1":      strings.Replace(strings.ToUpper(text), "HSMPART1", "HSMPARTI", 1),
	} {
		if !IsPart([]byte(decorated)) {
			t.Errorf("%s: not taken for a part", name)
		}
		if p, err := ParsePart([]byte(decorated)); err != nil || !p.Equal(want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, no := range map[string]string{"a number alone": "1. ", "quoting alone": "> > >\n> |", "half of UTF-16": "\xff\xfeh"} {
		if IsPart([]byte(no)) {
			t.Errorf("%s is taken for a part", name)
		}
	}
}
