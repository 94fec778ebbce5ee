//go:build cgo || windows

package pcsc

import "testing"

func TestMaxCommand(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		want int
	}{
		{"CCID, extended", "\x0A\x04\x00\x00\x01\x00", 65536},
		{"CCID, short only", "\x0A\x04\x00\x00\x00\x00", shortCommand},
		{"short, said otherwise", "\x0A\x04\x00\x01\x00\x00", shortCommand},
		{"behind other properties", "\x09\x01\x03\x0B\x02\xE6\x20\x0A\x04\xF6\x03\x00\x00", 1014},
		{"more than an APDU can have", "\x0A\x04\xFF\xFF\xFF\xFF", 65536},
		{"not said", "\x09\x01\x03", 0},
		{"nothing", "", 0},
		{"wrong length", "\x0A\x02\x00\x01", 0},
		{"cut off", "\x0A\x04\x00\x00\x01", 0},
		{"cut off before it", "\x09\x81\x03\x0A\x04\x00\x00\x01\x00", 0},
	} {
		if got := maxCommand([]byte(c.in)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestPropertiesIoctl(t *testing.T) {
	if n, ok := propertiesIoctl([]byte("\x06\x04\x42\x33\x00\x06\x12\x04\x42\x33\x00\x12")); !ok || n != 0x42330012 {
		t.Errorf("%08X, %v", n, ok)
	}
	for _, in := range []string{"", "\x12", "\x12\x04\x42\x33\x00", "\x12\x02\x42\x33", "\x06\x04\x42\x33\x00\x06"} {
		if n, ok := propertiesIoctl([]byte(in)); ok {
			t.Errorf("%X is taken as %08X", in, n)
		}
	}
}

func FuzzProperties(f *testing.F) {
	f.Add([]byte("\x12\x04\x42\x33\x00\x12\x0A\x04\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		propertiesIoctl(b)
		if n := maxCommand(b); n < 0 || n > 65536 {
			t.Errorf("%d", n)
		}
	})
}
