package dkek

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

func parseSheets(t testing.TB, text string) []*Sheet {
	t.Helper()
	sheets, err := ParseSheets([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sheets
}

// What sc-hsm-tool printed, prompts and all, and one Prime line above several
// sheets.
func TestParseSheetsGolden(t *testing.T) {
	for _, c := range []struct {
		file   string
		prime  uint64
		values []string
	}{
		{"thr.create.txt", 0xE1B0DB94E63EB1F7, []string{"0BE38D40D21780A7", "9DD2CCF386BEF7E6", "4E1131115527BD2E"}},
		{"thr11.create.txt", 0xC0DBEA296605824B, []string{"38D23B73C1D82E45", "6112F5D1BC5D76B2", "8953B02FB6E2BF1F",
			"B1946A8DB168078C", "18F93AC245E7CDAE", "4139F520406D161B", "697AAF7E3AF25E88", "91BB69DC3577A6F5",
			"B9FC243A2FFCEF62", "2160F46EC47CB584", "49A1AECCBF01FDF1"}},
		{"thr-zero.txt", 0xE6F3E06AFA4044C1, []string{"30F29A2C58892B3B", "617EB9456765435A", "920AD85E76415B79"}},
	} {
		text := vector(t, c.file)
		if !IsSheets(text) {
			t.Errorf("%s: not taken for sheets", c.file)
		}
		sheets, err := ParseSheets(text)
		if err != nil || len(sheets) != len(c.values) {
			t.Fatalf("%s: %d sheets, %v", c.file, len(sheets), err)
		}
		lines := strings.Split(string(text), "\n")
		for i, s := range sheets {
			if s.ID != i+1 || s.Prime != c.prime || !bytes.Equal(s.value.Bytes(), unhex(t, c.values[i])) {
				t.Errorf("%s: sheet %d is ID %d, prime %X", c.file, i+1, s.ID, s.Prime)
			}
			if !strings.HasPrefix(lines[s.Line-1], "Share ID") {
				t.Errorf("%s: sheet %d is said to be in line %d: %s", c.file, i+1, s.Line, lines[s.Line-1])
			}
		}
	}
}

const (
	primeLine = "Prime       : e1:b0:db:94:e6:3e:b1:f7\n"
	oneSheet  = primeLine + "Share ID    : 1\nShare value : 0b:e3:8d:40:d2:17:80:a7\n"
)

func TestParseSheetsForms(t *testing.T) {
	type sheet struct {
		prime     bool
		id, hexID int
		value     string
	}
	one := []sheet{{true, 1, 1, "0BE38D40D21780A7"}}
	for _, c := range []struct {
		name, text string
		want       []sheet
	}{
		{"as printed", oneSheet, one},
		{"line ends of Windows", strings.ReplaceAll(oneSheet, "\n", "\r\n"), one},
		{"no line end at the end", strings.TrimSpace(oneSheet), one},
		{"upper case", strings.ToUpper(oneSheet), one},
		{"lower case", strings.ToLower(oneSheet), one},
		{"no colons", "Prime: E1B0DB94E63EB1F7\nShare ID: 1\nShare value: 0BE38D40D21780A7\n", one},
		{"blanks", "Prime: E1 B0 DB 94 E6 3E B1 F7\nShare  ID :1\nShare\tvalue:0B E3 8D 40  D2 17 80 A7 \n", one},
		{"prompts in front", "Press <enter> to continuePress <enter> to display key share 1 of 3" + strings.ReplaceAll(oneSheet, "Share v", "and so onShare v"), one},
		{"clearing of the screen in front", "\x1b[H\x1b[2J" + strings.ReplaceAll(oneSheet, "\n", "\n\x1b[H\x1b[2J\x1b[3J"), one},
		{"all in one line", strings.ReplaceAll(oneSheet, "\n", " "), one},
		{"no prime", "Share ID: 1\nShare value: 0be38d40d21780a7", []sheet{{false, 1, 1, "0BE38D40D21780A7"}}},
		{"prime afterwards", "Share ID: 1\nShare value: 0be38d40d21780a7\n" + primeLine, []sheet{{false, 1, 1, "0BE38D40D21780A7"}}},
		{"seven bytes", primeLine + "Share ID: 1\nShare value: e3:8d:40:d2:17:80:a7", []sheet{{true, 1, 1, "00E38D40D21780A7"}}},
		{"one byte", primeLine + "Share ID: 1\nShare value: a7", []sheet{{true, 1, 1, "00000000000000A7"}}},
		{"eight bytes with a zero", primeLine + "Share ID: 1\nShare value: 00:e3:8d:40:d2:17:80:a7", []sheet{{true, 1, 1, "00E38D40D21780A7"}}},
		{"twice", oneSheet + oneSheet, one},
		{"IDs", primeLine + "Share ID: 9\nShare value: 01\nShare ID: 10\nShare value: 02\nShare ID: 0a\nShare value: 03\nShare ID: B\nShare value: 04\n" +
			"Share ID: 0x0c\nShare value: 05\nShare ID: 0X11\nShare value: 06\nShare ID: 007\nShare value: 07\nShare ID: 255\nShare value: 08\nShare ID: fE\nShare value: 09\nShare ID: 99\nShare value: 0a\nShare ID: 100\nShare value: 0b",
			[]sheet{{true, 9, 9, "01"}, {true, 10, 16, "02"}, {true, 10, 10, "03"}, {true, 11, 11, "04"}, {true, 12, 12, "05"}, {true, 17, 17, "06"},
				{true, 7, 7, "07"}, {true, 255, 255, "08"}, {true, 254, 254, "09"}, {true, 99, 153, "0A"}, {true, 100, 100, "0B"}}},
	} {
		sheets, err := ParseSheets([]byte(c.text))
		if err != nil || len(sheets) != len(c.want) {
			t.Errorf("%s: %d sheets, %v", c.name, len(sheets), err)
			continue
		}
		if !IsSheets([]byte(c.text)) {
			t.Errorf("%s: not taken for sheets", c.name)
		}
		for i, w := range c.want {
			s := sheets[i]
			value := unhex(t, strings.Repeat("0", 16-len(w.value))+w.value)
			if s.ID != w.id || s.hexID != w.hexID || (s.Prime == 0xE1B0DB94E63EB1F7) != w.prime || !bytes.Equal(s.value.Bytes(), value) {
				t.Errorf("%s: sheet %d: ID %d or %d, prime %X", c.name, i+1, s.ID, s.hexID, s.Prime)
			}
		}
	}
}

// hexRun is what no error may have: a stretch of hex as long as four bytes.
var hexRun = regexp.MustCompile(`(?i)([0-9a-f]{2}[: ]?){4}`)

func TestParseSheetsReject(t *testing.T) {
	const value = "Share value : 0b:e3:8d:40:d2:17:80:a7\n"
	for _, c := range []struct {
		name, text string
		kind       error
		says       string
	}{
		{"nothing", "", ErrFormat, "no sheet"},
		{"other text", "Dear Alice,\nyour share is in the envelope.\n", ErrFormat, "no sheet"},
		{"prime only", primeLine, ErrFormat, "no sheet"},
		{"ID only", primeLine + "Share ID: 1\n", ErrFormat, "line 2: share ID without a share value"},
		{"two IDs", primeLine + "Share ID: 1\nShare ID: 2\n" + value, ErrFormat, "line 2: share ID without a share value"},
		{"prime between", "Share ID: 1\n" + primeLine + value, ErrFormat, "line 1: share ID without a share value"},
		{"value only", primeLine + value, ErrFormat, "line 2: share value without a share ID"},
		{"two values", oneSheet + value, ErrFormat, "line 4: share value without a share ID"},
		{"two values in a line", strings.TrimSpace(oneSheet) + " " + value, ErrFormat, "line 3: share value without a share ID"},
		{"short prime", strings.Replace(oneSheet, ":f7", "", 1), ErrFormat, "line 1: prime: number of 56 bits, 64 expected"},
		{"long prime", strings.Replace(oneSheet, ":f7", ":f7:00", 1), ErrFormat, "line 1: prime: more than 16"},
		{"63 bits", strings.Replace(oneSheet, "e1:b0:db:94:e6:3e:b1:f7", "7f:ff:ff:ff:ff:ff:ff:e7", 1), ErrFormat, "line 1: prime: number of 63 bits"},
		{"no prime number", strings.Replace(oneSheet, ":f7", ":f9", 1), ErrFormat, "line 1: prime: not a prime number"},
		{"even number", strings.Replace(oneSheet, ":f7", ":f6", 1), ErrFormat, "line 1: prime: not a prime number"},
		{"two primes", oneSheet + "Prime: c0:db:ea:29:66:05:82:4b\nShare ID: 2\nShare value: 01\n", ErrMismatch, "line 4: another prime than in line 1"},
		{"empty prime", strings.Replace(oneSheet, "e1:b0:db:94:e6:3e:b1:f7", "", 1), ErrFormat, "line 1: prime: nothing there"},
		{"ID 0", strings.Replace(oneSheet, ": 1", ": 0", 1), ErrFormat, "line 2: share ID: not a number from 1 to 255"},
		{"ID 256", strings.Replace(oneSheet, ": 1", ": 256", 1), ErrFormat, "line 2: share ID: not a number from 1 to 255"},
		{"ID of many digits", strings.Replace(oneSheet, ": 1", ": 99999999999999999999999999999999999", 1), ErrFormat, "line 2: share ID: not a number from 1 to 255"},
		{"hex ID 100", strings.Replace(oneSheet, ": 1", ": 0x100", 1), ErrFormat, "line 2: share ID: not a number from 1 to 255"},
		{"ID -1", strings.Replace(oneSheet, ": 1", ": -1", 1), ErrFormat, "line 2: share ID: no number"},
		{"ID with a name", strings.Replace(oneSheet, ": 1", ": 1 (Alice)", 1), ErrFormat, "line 2: share ID: no number"},
		{"ID 0x", strings.Replace(oneSheet, ": 1", ": 0x", 1), ErrFormat, "line 2: share ID: no number"},
		{"empty ID", strings.Replace(oneSheet, ": 1", ":", 1), ErrFormat, "line 2: share ID: not a number"},
		{"value for ID", strings.Replace(oneSheet, ": 1", ": 0b:e3:8d:40:d2:17:80:a7", 1), ErrFormat, "line 2: share ID: no number"},
		{"empty value", strings.Replace(oneSheet, "0b:e3:8d:40:d2:17:80:a7", "", 1), ErrFormat, "line 3: share value: nothing there"},
		{"colons only", strings.Replace(oneSheet, "0b:e3:8d:40:d2:17:80:a7", ":::", 1), ErrFormat, "line 3: share value: 0 hex digits"},
		{"nine bytes", strings.Replace(oneSheet, ":a7", ":a7:a7", 1), ErrFormat, "line 3: share value: more than 16"},
		{"a digit missing at the end", strings.Replace(oneSheet, ":a7", ":a", 1), ErrFormat, "line 3: share value: 15 hex digits"},
		{"a digit missing within", strings.Replace(oneSheet, ":8d", ":8", 1), ErrFormat, "line 3: share value: character 8 should be a hex digit"},
		{"a digit missing, no colons", "Prime: E1B0DB94E63EB1F7\nShare ID: 1\nShare value: 0BE38D40D21780A\n", ErrFormat, "line 3: share value: 15 hex digits"},
		{"letter O", strings.Replace(oneSheet, ":80:", ":8O:", 1), ErrFormat, "line 3: share value: character 20 is no hex digit"},
		{"not below the prime", strings.Replace(oneSheet, "0b:e3", "fb:e3", 1), ErrFormat, "line 3: share value: not below the prime"},
		{"the prime itself", strings.Replace(oneSheet, "0b:e3:8d:40:d2:17:80:a7", "e1:b0:db:94:e6:3e:b1:f7", 1), ErrFormat, "line 3: share value: not below the prime"},
		{"same ID, other value", oneSheet + "Share ID: 1\nShare value: 0b:e3:8d:40:d2:17:80:a6\n", ErrMismatch, "line 4: share ID 1 again, with another value than in line 2"},
		{"same ID in other digits, other value", primeLine + "Share ID: 0a\nShare value: 01\n\nShare ID: A\nShare value: 02\n", ErrMismatch, "line 5: share ID 10 again"},
	} {
		sheets, err := ParseSheets([]byte(c.text))
		if sheets != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		} else if hexRun.MatchString(err.Error()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the message is more than it should be: %v", c.name, err)
		}
	}
}

func TestIsSheets(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"share file":      vector(t, "thr.pbe"),
		"wrapped key":     vector(t, "a-rsa2048.bin"),
		"other output":    vector(t, "a.sc-hsm-tool.txt"),
		"prime only":      []byte(primeLine),
		"value before ID": []byte("Share value: 01\nShare ID: 1\n"),
		"share file with the labels": append(append([]byte{}, vector(t, "thr.pbe")...),
			[]byte(oneSheet)...),
	} {
		if IsSheets(b) {
			t.Errorf("%s is taken for sheets", name)
		}
	}
	if !IsSheets([]byte("Share ID: ?\nShare value: ?\n")) {
		t.Error("sheets that cannot be read are not taken for sheets")
	}
}

// A transcript that ends anywhere gives whole sheets or an error; what is cut
// within a value shows, except between two pairs.
func TestParseSheetsCut(t *testing.T) {
	whole := parseSheets(t, string(vector(t, "thr.create.txt")))
	for n, text := 0, vector(t, "thr.create.txt"); n < len(text); n++ {
		sheets, err := ParseSheets(text[:n])
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		for i := range sheets {
			if i < len(sheets)-1 && !sheets[i].value.Equal(whole[i].value) {
				t.Errorf("%d bytes: sheet %d differs", n, i+1)
			}
		}
	}
}

// Sheets neither print nor survive Wipe.
func TestSheetSecret(t *testing.T) {
	s := parseSheets(t, oneSheet)[0]
	for _, v := range []any{s, *s, []*Sheet{s}[0]} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if got := fmt.Sprintf(verb, v); got != redacted {
				t.Errorf("%T prints with %s as %s", v, verb, got)
			}
		}
	}
	if b, err := json.Marshal(s); err != nil || string(b) != `{"Prime":16262739686999372279,"ID":1,"Line":2}` {
		t.Errorf("in JSON: %s, %v", b, err)
	}
	view := s.value.Bytes()
	if len(view) != 8 {
		t.Fatal("no value")
	}
	for range 2 {
		s.Wipe()
	}
	if s.value.Len() != 0 {
		t.Error("something is left after Wipe")
	}
	var none *Sheet
	none.Wipe()
}

func FuzzParseSheets(f *testing.F) {
	for _, name := range []string{"thr.create.txt", "thr11.create.txt", "thr-zero.txt", "a.sc-hsm-tool.txt", "thr.pbe"} {
		f.Add(vector(f, name))
	}
	f.Add([]byte(oneSheet))
	f.Add([]byte("Share ID:0xa Share value:a7 Share ID:10 share value:A8 prime:e1b0db94e63eb1f7"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		sheets, err := ParseSheets(text)
		if !bytes.Equal(text, before) {
			t.Fatal("the text was changed")
		}
		if err != nil {
			if sheets != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrMismatch) {
				t.Fatal(err)
			}
			if strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 200 {
				t.Fatalf("message: %q", err)
			}
			return
		}
		if len(sheets) == 0 || !IsPBE(text) && !IsSheets(text) {
			t.Fatal("read what IsSheets does not see")
		}
		for _, s := range sheets {
			if s.ID < 1 || s.ID > 255 || s.hexID < 1 || s.hexID > 255 || s.Line < 1 || s.value.Len() != 8 || s.Prime != 0 && s.Prime>>63 == 0 {
				t.Fatalf("ID %d or %d, line %d, prime %X", s.ID, s.hexID, s.Line, s.Prime)
			}
		}
		passwords, err := RecoverPassword(sheets)
		if (err == nil) != (len(passwords) > 0) {
			t.Fatalf("%d passwords, %v", len(passwords), err)
		}
		for _, p := range passwords {
			if p.Len() == 0 || p.Len() > 8 {
				t.Fatalf("password of %d bytes", p.Len())
			}
			p.Wipe()
		}
		wipeSheets(sheets)
	})
}
