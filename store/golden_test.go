package store

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var writeGolden = flag.Bool("write-golden", false, "make the golden catalogs that are not there")

const goldenDir = "../testdata/catalog"

// golden are the catalogs of each format version, and what makes them.
var golden = map[string]func(t testing.TB) (path string){"v1": filled, "v2": filledWithAttachments, "v3": filledByCustodians}

// A catalog of each format version is read for ever, byte for byte the same.
func TestGolden(t *testing.T) {
	for version, filled := range golden {
		t.Run(version, func(t *testing.T) { testGolden(t, version, filled) })
	}
}

func testGolden(t *testing.T, version string, filled func(testing.TB) string) {
	path := filepath.Join(goldenDir, version+".db")
	if _, err := os.Stat(path); *writeGolden && errors.Is(err, fs.ErrNotExist) {
		made := filled(t)
		b, err := os.ReadFile(made)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(goldenDir, version+".txt"), []byte(dump(t, made)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := fileHash(t, path)
	c := reopen(t, path, false)
	requireClean(t, c)
	got := mustState(t, c)
	if after := fileHash(t, path); after != before {
		t.Error("looking changed the file")
	}

	// What it holds is what this code writes today from the same input.
	same := reopen(t, filled(t), false)
	requireSame(t, got, mustState(t, same))

	// And the stored bytes are those of the description, dumped when the file
	// was made.
	want, err := os.ReadFile(filepath.Join(goldenDir, version+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), dump(t, copyTo(t, path))); d != "" {
		t.Errorf("stored values (- dumped, + read):\n%s", d)
	}
	if d := cmp.Diff(string(want), dump(t, copyTo(t, same.Path()))); d != "" {
		t.Errorf("stored values (- dumped, + written today):\n%s", d)
	}
}

// An old catalog can be written to.
func TestGoldenGoesOn(t *testing.T) {
	c := reopen(t, copyTo(t, filepath.Join(goldenDir, "v1.db")), true)
	if err := c.Append(Checked{OK: true}); err != nil {
		t.Fatal(err)
	}
	requireClean(t, c)
	a, err := read(t, c).CheckAnchor(sampleKCV, sampleKey)
	if err != nil || a.Seq != 6 {
		t.Errorf("%+v, %v", a, err)
	}
}

// dump shows every stored value: bucket, key, value. Binary keys are hex; a
// value that begins with a checksum shows it in hex.
func dump(t *testing.T, path string) string {
	var b bytes.Buffer
	for _, p := range pairs(t, path) {
		key, value := fmt.Sprintf("%x", p.key), strconv.QuoteToASCII(string(p.value))
		switch p.bucket {
		case bucketLog, bucketManifests:
			value = string(p.value)
		case bucketFormat, bucketHead, bucketAnchors, bucketJournal:
			key, value = string(p.key), fmt.Sprintf("%x %s", p.value[:32], p.value[32:])
		}
		fmt.Fprintf(&b, "%s\n  %s\n  %s\n", p.bucket, key, value)
	}
	return b.String()
}

// What needs a newer format raises it, and that is told before; nothing else does.
func TestRaisesFormat(t *testing.T) {
	c := newCatalog(t)
	fill(t, c)
	set := PartSet{Set: "00c0ffee", Share: 1, Shares: 1, Needed: 2}
	for i, name := range []string{"alice", "bob"} {
		set.Custodians = append(set.Custodians, Custodian{Index: i + 1, Name: name, Commitment: bytes.Repeat([]byte{byte(i)}, 32)})
	}
	vouched := set
	vouched.Set, vouched.MAC = "00c0ffef", bytes.Repeat([]byte{9}, 32)
	for _, step := range []struct {
		body    Body
		raises  bool
		version int
	}{
		{set, false, 1},
		{RollCall{Set: set.Set, Index: 1, Origin: "roll-call"}, false, 1},
		{RollCall{Set: set.Set, Index: 1, Origin: "roll-call", Challenge: "hsmcall21q", Answer: "hsmansw1q"}, true, 3},
		{vouched, false, 3},
		{set, false, 3},
	} {
		if got := read(t, c).Raises(step.body); got != step.raises {
			t.Errorf("%+v: raises %v", step.body, got)
		}
		if err := c.Append(step.body); err != nil {
			t.Fatal(err)
		}
		if got := read(t, c).format; got != step.version {
			t.Errorf("%+v: format %d", step.body, got)
		}
		again, err := c.Reread()
		if err != nil || again.format != step.version {
			t.Errorf("%+v: format %d in the file, %v", step.body, again.format, err)
		}
	}
	for name, bad := range map[string]Body{
		"a challenge alone": RollCall{Set: set.Set, Index: 1, Origin: "roll-call", Challenge: "hsmcall21q"},
		"an answer alone":   RollCall{Set: set.Set, Index: 1, Origin: "roll-call", Answer: "hsmansw1q"},
		"control":           RollCall{Set: set.Set, Index: 1, Origin: "roll-call", Challenge: "hsmcall21q\n", Answer: "hsmansw1q"},
		"too long":          RollCall{Set: set.Set, Index: 1, Origin: "roll-call", Challenge: strings.Repeat("q", 1000), Answer: "hsmansw1q"},
		"a short MAC":       PartSet{Set: set.Set, Share: 1, Shares: 1, Needed: 2, Custodians: set.Custodians, MAC: []byte{1}},
	} {
		if err := c.Append(bad); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}
