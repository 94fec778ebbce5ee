package source

import (
	"errors"
	"io"
	"strings"
	"testing"

	"hsmbackup/internal/console"
)

func TestParseSource(t *testing.T) {
	for _, c := range []struct{ text, kind, arg string }{
		{"", "prompt", ""},
		{"prompt", "prompt", ""},
		{"env:PIN", "env", "PIN"},
		{"file:C:\\pin", "file", "C:\\pin"},
		{"fd:3", "fd", "3"},
		{"cmd:pass show a:b", "cmd", "pass show a:b"},
	} {
		s, err := Parse("--pin", c.text)
		if err != nil || s.Kind != c.kind || s.Arg != c.arg {
			t.Errorf("%q: %+v, %v", c.text, s, err)
		}
	}
}

func TestParseSourceReject(t *testing.T) {
	for _, text := range []string{"648219", "hunter2", "env:", "file:", "cmd:", "fd:", "fd:-1", "fd:secret", "pass:hunter2", ":hunter2", "ENV:hunter2", "prompt:hunter2"} {
		_, err := Parse("--pin", text)
		var f *console.Failure
		if !errors.As(err, &f) || f.Exit != console.ExitUsage {
			t.Errorf("%q is taken: %v", text, err)
			continue
		}
		if len(text) > 6 && strings.Contains(err.Error()+strings.Join(f.Hints, ""), text[strings.Index(text, ":")+1:]) {
			t.Errorf("%q is repeated: %v", text, err)
		}
	}
}

// slow gives one byte at a time, and then an error that is no end.
type slow struct {
	r   io.Reader
	err error
}

func (s slow) Read(b []byte) (int, error) {
	n, err := s.r.Read(b[:1])
	if errors.Is(err, io.EOF) && s.err != nil {
		err = s.err
	}
	return n, err
}

func TestFirstLine(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"648219\n", "648219"},
		{"648219\r\nmore\n", "648219"},
		{"648219", "648219"},
		{"", ""},
		{"\nsecond", ""},
		{" blanks stay \n", " blanks stay "},
		{"a\rb\n", "a\rb"},
		{"\xef\xbb\xbf648219\r\n", "648219"},
		{strings.Repeat("x", maxSecret-1) + "\n", strings.Repeat("x", maxSecret-1)},
	} {
		b, err := firstLine(slow{r: strings.NewReader(c.in)}, Source{})
		if err != nil || string(b.Bytes()) != c.want {
			t.Errorf("%.20q: %q, %v", c.in, b.Bytes(), err)
		}
	}
	if _, err := firstLine(strings.NewReader(strings.Repeat("x", maxSecret+1)), Source{}); err == nil {
		t.Error("a line without end is taken")
	}
	for _, text := range []string{"\xff\xfe6\x004\x00\n\x00", "\xfe\xff\x006\x004\x00\n", "6\x004\x00\n\x00"} {
		if _, err := firstLine(strings.NewReader(text), Source{}); err == nil || !strings.Contains(err.Error(), "UTF-16") {
			t.Errorf("%q: %v", text, err)
		}
	}
	broken := errors.New("broken")
	if _, err := firstLine(slow{strings.NewReader("648"), broken}, Source{}); !errors.Is(err, broken) {
		t.Errorf("half a secret: %v", err)
	}
	// What follows the line is left to others.
	r := strings.NewReader("first\nsecond\n")
	for _, want := range []string{"first", "second"} {
		if b, err := firstLine(r, Source{}); err != nil || string(b.Bytes()) != want {
			t.Errorf("%q, %v, want %q", b.Bytes(), err, want)
		}
	}
}

// A secret in the environment is dropped there, and a descriptor is read once.
func TestSourcesAreReadOnce(t *testing.T) {
	environment := map[string]string{"PIN": "648219"}
	c := console.New(nil)
	c.Stdin = strings.NewReader("from stdin\n")
	r := NewReader(c)
	r.LookupEnv = func(name string) (string, bool) { v, ok := environment[name]; return v, ok }
	r.UnsetEnv = func(name string) error { delete(environment, name); return nil }
	defer r.Wipe()
	env, fd := Source{"--pin", "env", "PIN"}, Source{"--password", "fd", "0"}
	r.DropEnvironment(env, fd)
	if len(environment) != 0 {
		t.Error("the secret is still in the environment")
	}
	for _, c := range []struct {
		s    Source
		want string
	}{{env, "648219"}, {env, "648219"}, {fd, "from stdin"}, {fd, "from stdin"}} {
		b, err := r.Read(t.Context(), c.s, "secret", true, nil)
		if err != nil || string(b.Bytes()) != c.want {
			t.Errorf("%s: %q, %v", c.s.Kind, b.Bytes(), err)
		}
		b.Wipe()
	}
}
