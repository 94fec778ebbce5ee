package harmless

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const hostile = "a\x1b]0;x\x07\x1b[2J\u009b31m\u202e\r\nb\xff\u2028c"

type named string

// Whatever the arguments are, no text of theirs keeps what is not seen.
func TestSprintf(t *testing.T) {
	type pair struct{ A, B string }
	for _, arg := range []any{hostile, errors.New(hostile), named(hostile), []string{hostile, hostile}, pair{hostile, "x"}, &pair{"x", hostile}, map[string]int{hostile: 1}} {
		for _, format := range []string{"%s", "%v", "%+v", "%-20v|", "%q"} {
			got := Sprintf(format+"\n", arg)
			if strings.Count(got, "\n") != 1 || Text(got[:len(got)-1]) != got[:len(got)-1] {
				t.Errorf("%s of %T: %q", format, arg, got)
			}
		}
	}
	if got := Sprintf("%d of %03x, %t, %5.1f, %c, %x, %-4s|%4s|%q", 3, 10, true, 2.25, 'x', []byte{0xAB}, "a", named("b"), "c"); got != `3 of 00a, true,   2.2, x, ab, a   |   b|"c"` {
		t.Errorf("what is harmless: %q", got)
	}
	if got := Sprintf("%v", errors.Join(errors.New("one"), errors.New("two"))); got != "one; two" {
		t.Errorf("joined: %q", got)
	}
	if got := Lines("one\ntwo\x1b\n"); got != "one\ntwo\uFFFD\n" {
		t.Errorf("lines: %q", got)
	}
}

func TestWord(t *testing.T) {
	for s, want := range map[string]string{
		"": "''", "a'b": `'a'\''b'`, "$(x)`y`\n\"": `'$(x)` + "`y`" + ` "'`, "-x": "-x", "/a/b-c.d": "/a/b-c.d", "a b": "'a b'", "a\nb": "'a b'", "~x": "'~x'", "a=b": "'a=b'", "é": "'é'", hostile: "'a ]0;x  [2J 31m   b\uFFFD c'",
	} {
		if got := Word(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestCode(t *testing.T) {
	for s, want := range map[string]string{
		"": "(empty)", "SSH CA": "`SSH CA`", "a`b": "``a`b``", "`": "`` ` ``", "``x": "``` ``x ```", "a\n```\nb": "````a ``` b````", " ": "`   `",
		"<script>*x*": "`<script>*x*`", "\u202Eevil\x1b[2J": "` evil [2J`", "\xff": "`\uFFFD`",
	} {
		if got := Code(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestName(t *testing.T) {
	for label, want := range map[string]string{
		"": "", "SSH CA": "SSH-CA", "..": "", "../../etc": "etc", "a.b": "a-b", "Schlüssel für München 🔑": "Schl-ssel-f-r-M-nchen",
		"-rf": "rf", "a\x00\xffb": "a-b", "日本": "", "under_score": "under_score",
		strings.Repeat("long label ", 18) + "==": "long-label-long-label-long-label-long-la",
	} {
		if got := Name(label); got != want {
			t.Errorf("%q: %q", label, got)
		}
	}
}

// A document means the same, and holds nothing that a terminal acts upon.
func TestJSON(t *testing.T) {
	in := map[string]string{"a": hostile, "b": "\U000E0041\u061c\x7f"}
	doc, err := json.MarshalIndent(in, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	out := JSON(append(doc, '\n'))
	var back map[string]string
	if err := json.Unmarshal(out, &back); err != nil {
		t.Fatal(err)
	}
	if back["b"] != in["b"] || back["a"] != strings.ToValidUTF8(in["a"], "\uFFFD") {
		t.Errorf("%q", back)
	}
	if bytes.ContainsFunc(out, func(r rune) bool { return r != '\n' && unseen(r) }) {
		t.Errorf("%q", out)
	}
}
