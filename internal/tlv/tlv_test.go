package tlv

import (
	"bytes"
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name  string
		in    []byte
		tag   uint16
		value []byte
		rest  []byte
	}{
		{"one byte tag", []byte{0x04, 2, 1, 2, 9}, 0x04, []byte{1, 2}, []byte{9}},
		{"two byte tag", []byte{0x5F, 0x29, 1, 0}, 0x5F29, []byte{0}, nil},
		{"81 length", append([]byte{0x53, 0x81, 0x80}, make([]byte, 0x80)...), 0x53, make([]byte, 0x80), nil},
		{"82 length", append([]byte{0x30, 0x82, 1, 0}, make([]byte, 0x100)...), 0x30, make([]byte, 0x100), nil},
		{"empty", []byte{0x53, 0}, 0x53, nil, nil},
	} {
		e, rest, err := Parse(c.in)
		if err != nil || e.Tag != c.tag || !bytes.Equal(e.Value, c.value) || !bytes.Equal(rest, c.rest) {
			t.Errorf("%s: got %X %X rest %X, %v", c.name, e.Tag, e.Value, rest, err)
		}
		if !bytes.Equal(Encode(e.Tag, e.Value), e.Raw) {
			t.Errorf("%s: does not encode to what it was", c.name)
		}
	}
}

func TestParseReject(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, ErrTruncated},
		{"tag only", []byte{0x30}, ErrTruncated},
		{"half a tag", []byte{0x7F}, ErrTruncated},
		{"half a length", []byte{0x30, 0x82, 1}, ErrTruncated},
		{"half a value", []byte{0x30, 2, 1}, ErrTruncated},
		{"indefinite", []byte{0x30, 0x80, 0, 0}, ErrMalformed},
		{"three byte tag", []byte{0x7F, 0x81, 0x01, 0}, ErrMalformed},
		{"huge", []byte{0x30, 0x84, 0x7F, 0xFF, 0xFF, 0xFF}, ErrMalformed},
	} {
		if _, _, err := Parse(c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestFindAndChildren(t *testing.T) {
	e, _, err := Parse(Encode(0x7F21, Encode(0x7F4E, Encode(0x42, []byte("CAR"))), Encode(0x5F37, []byte{1})))
	if err != nil || !e.Constructed() {
		t.Fatal(err)
	}
	l, err := e.Children()
	if err != nil {
		t.Fatal(err)
	}
	if sig, ok := l.Find(0x5F37); !ok || len(sig.Value) != 1 || sig.Constructed() {
		t.Error("5F37 not found")
	}
	if _, ok := l.Find(0x42); ok {
		t.Error("found a tag of a deeper level")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{0x30, 3, 4, 1, 0})
	f.Add([]byte{0x7F, 0x21, 0x81, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := Parse(b)
		if err != nil {
			return
		}
		if len(e.Raw)+len(rest) != len(b) {
			t.Fatalf("%d + %d bytes of %d", len(e.Raw), len(rest), len(b))
		}
		again, _, err := Parse(Encode(e.Tag, e.Value))
		if err != nil || again.Tag != e.Tag || !bytes.Equal(again.Value, e.Value) {
			t.Fatalf("does not survive encoding: %v", err)
		}
	})
}
