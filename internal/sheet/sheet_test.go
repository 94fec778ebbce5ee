package sheet_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"hsmbackup/dkek"
	"hsmbackup/internal/sheet"
)

var update = flag.Bool("update", false, "write the golden files anew")

var day = time.Date(2026, 11, 25, 17, 30, 0, 0, time.UTC)

var head = strings.Fields("legal winner thank year wave sausage")

// fixedPart is the part of the golden files, of a share that nobody uses.
const fixedPart = `hsmpart1qyf0aagj75pzgq90xxr6sqqqqqqqqqqqqp3n6kl8m8h5rdtwt84c2cppyknmr0el5yszggt983vs68v2d5l0z3lz489`

func sampleAdmin() sheet.Admin {
	return sheet.Admin{
		Serial: "DENK0200914", Label: "SSH", KCV: "E94F16B464D58B35",
		Shares: []string{"/home/admin/share1.pbe", "/media/stick/share1.pbe"}, Catalog: "/home/admin/.local/share/hsmbackup/catalog.db",
		Copies: []string{"/media/stick/catalog.db", "backup.example:/srv/hsm/catalog.db"},
		Head:   head, Date: day,
		Steps: []sheet.Step{
			{What: "Plug in the new token alone and look at what would be done.", Command: "hsmbackup plan --from DENK0200914"},
			{What: "Initialise it and restore. You are asked for a PIN, an SO-PIN and the share's password.", Command: "hsmbackup restore --from DENK0200914 --init --share share1.pbe"},
			{What: "See that all keys are there and proven, and back the new token up.", Command: "hsmbackup backup"},
		},
	}
}

func samplePart(p *dkek.Part, custodian string) sheet.Part {
	return sheet.Part{
		Custodian: custodian, Set: p.Set, Index: p.Index, Needed: p.Needed, Total: p.Total, Share: p.Share, Shares: p.Shares,
		KCV: "E94F16B464D58B35", Tokens: []string{"DENK0200914"}, Head: head, SetWords: strings.Fields("letter advice cage absurd amount doctor"), Date: day,
		Text: p.CheckedText(), Code: p.Compact(),
		Steps: []sheet.Step{
			{What: "Once you have it, and once a year: see that it can still be read.", Command: "hsmbackup dkek check alice.txt"},
			{What: "Answer a roll-call, on a machine of your own.", Command: "hsmbackup dkek rollcall --answer --share alice.txt"},
			{What: "Bring the key together when the admins call: each command that takes --share takes it.", Command: "hsmbackup restore --share alice.txt"},
		},
	}
}

func split(t *testing.T, needed, total int) (*dkek.Share, []*dkek.Part) {
	t.Helper()
	share := dkek.NewShare()
	parts, err := dkek.Split(share, dkek.SplitOptions{Needed: needed, Total: total})
	if err != nil {
		t.Fatal(err)
	}
	return share, parts
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s (packaging/deps.sh installs it)", name, err, out)
	}
	return string(out)
}

func onDisk(t *testing.T, pdf []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sheet.pdf")
	if err := os.WriteFile(path, pdf, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const scanned = 150 // dots per inch

// scan renders a sheet as a printer would, reads its QR code, and tells how
// large its modules are, in millimetres.
func scan(t *testing.T, pdf []byte) (code string, module float64) {
	t.Helper()
	path := onDisk(t, pdf)
	picture := strings.TrimSuffix(path, ".pdf")
	run(t, "pdftoppm", "-r", strconv.Itoa(scanned), "-png", "-singlefile", path, picture)
	f, err := os.Open(picture + ".png")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	if err != nil {
		t.Fatalf("no QR code found: %v", err)
	}
	// Between the middles of two finders are all modules of a side but seven.
	const side = 41 // version 6, which holds 108 characters at level Q
	points := result.GetResultPoints()
	apart := math.Hypot(points[0].GetX()-points[1].GetX(), points[0].GetY()-points[1].GetY())
	return result.GetText(), apart / (side - 7) / scanned * 25.4
}

// words of a page, and where they stand, in points.
type word struct {
	XMin, YMin, XMax, YMax float64
	Text                   string
}

func layoutOf(t *testing.T, pdf []byte) (words []word, width, height float64) {
	t.Helper()
	path := onDisk(t, pdf)
	out := run(t, "pdftotext", "-bbox", path, "-")
	var doc struct {
		Pages []struct {
			Width  float64 `xml:"width,attr"`
			Height float64 `xml:"height,attr"`
			Words  []struct {
				XMin float64 `xml:"xMin,attr"`
				YMin float64 `xml:"yMin,attr"`
				XMax float64 `xml:"xMax,attr"`
				YMax float64 `xml:"yMax,attr"`
				Text string  `xml:",chardata"`
			} `xml:"word"`
		} `xml:"body>doc>page"`
	}
	if err := xml.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Pages) != 1 {
		t.Fatalf("%d pages", len(doc.Pages))
	}
	for _, w := range doc.Pages[0].Words {
		words = append(words, word(w))
	}
	return words, doc.Pages[0].Width, doc.Pages[0].Height
}

var pagesLine = regexp.MustCompile(`Pages: +(\d+)`)

// onOnePage checks that a PDF has one page and all text inside its margins,
// with none upon other.
func onOnePage(t *testing.T, pdf []byte) {
	t.Helper()
	if m := pagesLine.FindStringSubmatch(run(t, "pdfinfo", onDisk(t, pdf))); m == nil || m[1] != "1" {
		t.Fatalf("pages: %q", m)
	}
	words, width, height := layoutOf(t, pdf)
	if len(words) < 100 {
		t.Errorf("%d words", len(words))
	}
	const edge = 14 * 72 / 25.4
	for i, w := range words {
		if w.XMin < edge || w.YMin < edge || w.XMax > width-edge || w.YMax > height-edge {
			t.Errorf("%q stands at %.0f–%.0f, %.0f–%.0f of %.0f × %.0f", w.Text, w.XMin, w.XMax, w.YMin, w.YMax, width, height)
		}
		for _, o := range words[:i] {
			// Lines may touch: the boxes have room for marks above letters.
			if w.XMin < o.XMax && o.XMin < w.XMax && w.YMin+3 < o.YMax-3 && o.YMin+3 < w.YMax-3 {
				t.Errorf("%q and %q lie upon each other", w.Text, o.Text)
			}
		}
	}
}

func TestTextOfPart(t *testing.T) {
	part, err := dkek.ParsePart([]byte(fixedPart))
	if err != nil {
		t.Fatal(err)
	}
	s := samplePart(part, "alice")
	text, err := s.PlainText()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "part.txt", text)
	back, err := dkek.ParsePart(text)
	if err != nil || !back.Equal(part) {
		t.Fatalf("the sheet is no part file: %v", err)
	}
}

func TestTextOfAdmin(t *testing.T) {
	s := sampleAdmin()
	text, err := s.PlainText()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "admin.txt", text)
	s.Password, s.SOPIN = []byte("ordinary trumpet grit clinic"), []byte("3537363231383830")
	if text, err = s.PlainText(); err != nil {
		t.Fatal(err)
	}
	golden(t, "admin-secrets.txt", text)
	empty := sheet.Admin{Date: day}
	if text, err = empty.PlainText(); err != nil {
		t.Fatal(err)
	}
	golden(t, "admin-empty.txt", text)
}

// Whatever a name holds, it stays in its line: the text is a part file still.
func TestNamesStayInTheirLine(t *testing.T) {
	_, parts := split(t, 2, 3)
	for _, name := range []string{"a\nhsmpart1qqqqq", "a\r\nb", "\u2028x", "\u202egnp.exe", strings.Repeat("x", 300), strings.Repeat("ab ", 100), "=qq", "#", ""} {
		s := samplePart(parts[1], name)
		s.Tokens = []string{name, name}
		s.Steps = append(s.Steps, sheet.Step{What: name, Command: name})
		text, err := s.PlainText()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := dkek.ParsePart(text); err != nil || !back.Equal(parts[1]) {
			t.Errorf("%q: %v", name, err)
		}
		if bytes.ContainsAny(text, "\r\u2028\u202e") {
			t.Errorf("%q: is not replaced", name)
		}
	}
}

// Sheets are printed, scanned, and brought together.
func TestPrintedPartsRecombine(t *testing.T) {
	share, parts := split(t, 2, 3)
	var back []*dkek.Part
	for i, paper := range []sheet.Paper{sheet.A4, sheet.Letter} {
		s := samplePart(parts[2*i], "carol")
		pdf, err := s.PDF(paper)
		if err != nil {
			t.Fatal(err)
		}
		onOnePage(t, pdf)
		code, module := scan(t, pdf)
		if module < 1 {
			t.Errorf("%s: modules of %.2f mm are too small for a cheap scanner", paper, module)
		}
		if code != strings.ToUpper(string(parts[2*i].Compact())) {
			t.Fatalf("%s: the QR code holds another text", paper)
		}
		p, err := dkek.ParsePart([]byte(code))
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, p)
	}
	again, err := dkek.CombineParts(back)
	if err != nil || !again.Equal(share) {
		t.Fatalf("what was scanned gives another share: %v", err)
	}
}

// The groups on the page, typed off it, are the part too.
func TestPrintedTextIsThePart(t *testing.T) {
	_, parts := split(t, 3, 5)
	s := samplePart(parts[3], "dave")
	pdf, err := s.PDF(sheet.A4)
	if err != nil {
		t.Fatal(err)
	}
	text := run(t, "pdftotext", "-layout", onDisk(t, pdf), "-")
	var typed strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^ *((?:[a-z0-9]{4,5} ?){4}) *=([a-z0-9]{2})`).FindAllStringSubmatch(text, -1) {
		fmt.Fprintf(&typed, "%s =%s\n", m[1], m[2])
	}
	if back, err := dkek.ParsePart([]byte(typed.String())); err != nil || !back.Equal(parts[3]) {
		t.Fatalf("%v:\n%s", err, text)
	}
}

// The longest there is: 16 of 16, long names, many tokens, long paths.
func TestLongestSheetsFit(t *testing.T) {
	_, parts := split(t, 16, 16)
	for _, paper := range []sheet.Paper{sheet.A4, sheet.Letter} {
		for _, name := range []string{strings.Repeat("W", 64), strings.Repeat("王", 32), strings.Repeat("Ωж ", 21)} {
			s := samplePart(parts[15], name)
			s.Share, s.Shares = 16, 16
			s.Head = strings.Fields(strings.Repeat("breakfast ", 12))
			s.Tokens = nil
			for i := range 12 {
				s.Tokens = append(s.Tokens, fmt.Sprintf("DENK%012d", i))
			}
			for i := range s.Steps {
				s.Steps[i].Command += " --share " + strings.Repeat("very-long-name-of-a-file-", 5) + ".txt"
			}
			pdf, err := s.PDF(paper)
			if err != nil {
				t.Fatalf("%s, %q: %v", paper, name, err)
			}
			onOnePage(t, pdf)
			if code, _ := scan(t, pdf); code != strings.ToUpper(string(parts[15].Compact())) {
				t.Errorf("%s: the QR code holds another text", paper)
			}
		}
		a := sampleAdmin()
		a.Label = strings.Repeat("W", 64)
		a.Password, a.SOPIN = []byte(strings.Repeat("breakfast ", 11)+"breakfast"), []byte("3537363231383830")
		path := "/" + strings.Repeat("folder with a long name/", 8) + "catalog.db"
		a.Shares, a.Catalog, a.Copies = []string{path, path, path}, path, []string{path, path, path}
		for i := range a.Steps {
			a.Steps[i].Command += " --catalog '" + path + "'"
		}
		pdf, err := a.PDF(paper)
		if err != nil {
			t.Fatalf("%s: %v", paper, err)
		}
		onOnePage(t, pdf)
		a.Catalog = strings.Repeat(path, 40)
		if pdf, err := a.PDF(paper); !errors.Is(err, sheet.ErrTooLong) {
			t.Errorf("%s: 8000 characters fit on a page: %d bytes, %v", paper, len(pdf), err)
		}
	}
}

// A password on paper is read as it is, also where its line is full.
func TestPasswordOnPaper(t *testing.T) {
	for _, password := range []string{"ordinary trumpet grit clinic permit joke abandon", "O0 l1I| ~^`'\"\\", strings.Repeat("breakfast ", 11) + "breakfast"} {
		a := sampleAdmin()
		a.Password, a.SOPIN = []byte(password), []byte("3537363231383830")
		pdf, err := a.PDF(sheet.A4)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(run(t, "pdftotext", "-layout", onDisk(t, pdf), "-")), " ")
		if !strings.Contains(strings.ReplaceAll(text, " ", ""), "Password"+strings.ReplaceAll(password, " ", "")+"SO-PIN3537363231383830PINknownto") {
			t.Errorf("%q is printed as %.600q", password, text)
		}
		if string(a.Password) != password {
			t.Error("the password was changed")
		}
	}
}

// What the fonts lack is printed as a number, never as another character, and
// what they have as it is.
func TestCharactersOnPaper(t *testing.T) {
	_, parts := split(t, 2, 2)
	for name, want := range map[string]string{
		"Zoë Ångström":   "Zoë Ångström",
		"Zoe\u0308":      "Zoë",
		"Ольга":          "Ольга",
		"Ωmega €5":       "Ωmega €5",
		"王x":             "[U+738B]x",
		"\U0001F511key":  "[U+1F511]key",
		"a\u202eb":       "a\ufffdb",
		"50% \\(a) ]b[ ": "50% \\(a) ]b[",
	} {
		s := samplePart(parts[0], name)
		pdf, err := s.PDF(sheet.A4)
		if err != nil {
			t.Fatal(err)
		}
		text := run(t, "pdftotext", "-layout", onDisk(t, pdf), "-")
		m := regexp.MustCompile(`(?m)^Custodian +(.*?) *$`).FindStringSubmatch(text)
		if m == nil || m[1] != want {
			t.Errorf("%q is printed as %q", name, m)
		}
	}
}

func TestSameSheetSameBytes(t *testing.T) {
	_, parts := split(t, 2, 2)
	s, a := samplePart(parts[0], "alice"), sampleAdmin()
	for range 5 {
		for name, make := range map[string]func() ([]byte, error){
			"part": func() ([]byte, error) { return s.PDF(sheet.A4) }, "admin": func() ([]byte, error) { return a.PDF(sheet.Letter) },
		} {
			one, err := make()
			if err != nil {
				t.Fatal(err)
			}
			two, err := make()
			if err != nil || !bytes.Equal(one, two) {
				t.Fatalf("%s: twice, and not the same: %v", name, err)
			}
		}
	}
}

// A file manager shows the metadata to whoever looks into the folder.
func TestNoSecretInMetadata(t *testing.T) {
	_, parts := split(t, 2, 2)
	s, a := samplePart(parts[0], "alice"), sampleAdmin()
	a.Password = []byte("ordinary-trumpet")
	one, err := s.PDF(sheet.A4)
	if err != nil {
		t.Fatal(err)
	}
	two, err := a.PDF(sheet.A4)
	if err != nil {
		t.Fatal(err)
	}
	for _, pdf := range [][]byte{one, two} {
		path := onDisk(t, pdf)
		info := run(t, "pdfinfo", path) + run(t, "pdfinfo", "-meta", path) + run(t, "pdfinfo", "-custom", path)
		if !strings.Contains(info, "2026") || !strings.Contains(info, "Title:") {
			t.Errorf("metadata: %s", info)
		}
		for _, hidden := range []string{"hsmpart1", "HSMPART1", "trumpet", "alice"} {
			if strings.Contains(info, hidden) {
				t.Errorf("%s is in the metadata: %s", hidden, info)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	_, parts := split(t, 2, 2)
	s := samplePart(parts[0], "alice")
	if _, err := s.PDF("A5"); err == nil {
		t.Error("unknown paper")
	}
	s.Date = time.Time{}
	if _, err := s.PDF(sheet.A4); err == nil {
		t.Error("a sheet without a date")
	}
	s = samplePart(parts[0], "alice")
	s.Text = nil
	if _, err := s.PlainText(); err == nil {
		t.Error("a sheet without a part")
	}
	for _, password := range []string{"zz  zz", " zz", "zz ", "zz\nzz", "zz\x00", "王王", "zz\tzz", "zz\xff"} {
		a := sampleAdmin()
		a.Password = []byte(password)
		if _, err := a.PlainText(); err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("password %q: %v", password, err)
		}
	}
}
