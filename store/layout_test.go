package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every length up to a few pages, then steps: never a crash, always an error.
func TestTruncated(t *testing.T) {
	path := filled(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := readMetas(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	used := int(m.pages) * pageSize
	cut := filepath.Join(t.TempDir(), "cut.db")
	for size := 0; size < used; size++ {
		if size > 200 && size%pageSize > 1 && size%997 != 0 {
			continue
		}
		if err := os.WriteFile(cut, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		for _, writable := range []bool{false, true} {
			c, err := Open(cut, writable)
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("%d of %d bytes: %v", size, used, err)
			}
		}
		if info, _ := os.Stat(cut); info.Size() != int64(size) {
			t.Fatalf("%d bytes became %d", size, info.Size())
		}
	}
	// What lies behind the pages in use is room to grow.
	if err := os.WriteFile(cut, whole[:used], 0o600); err != nil {
		t.Fatal(err)
	}
	c := reopen(t, cut, true)
	requireClean(t, c)
	if err := c.AddSnapshot(context.Background(), sampleSnapshot("A", strings.Repeat("x", 100000))); err != nil {
		t.Fatal(err)
	}
	requireClean(t, c)
}

// Bits flipped anywhere in the file, page headers and free pages included:
// never a crash; either it is found, or what is read is exactly what was
// written.
func TestFlippedInFile(t *testing.T) {
	t.Parallel()
	path := filled(t)
	want := mustState(t, reopen(t, path, false))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := readMetas(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	flipped := filepath.Join(t.TempDir(), "flipped.db")
	found, harmless := 0, 0
	try := func(bit int) {
		changed := bytes.Clone(whole)
		changed[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(flipped, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Open(flipped, false)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("bit %d: %v", bit, err)
			}
			found++
			return
		}
		defer c.Close()
		list, err := c.Verify()
		got, readErr := readState(c)
		switch {
		case err != nil || len(list) > 0:
			found++
		case readErr != nil:
			t.Fatalf("bit %d: verified, but %v", bit, readErr)
		case !cmp.Equal(got, want, cmp.AllowUnexported(Entry{})):
			t.Fatalf("bit %d: verified, but differs:\n%s", bit, cmp.Diff(want, got))
		default:
			harmless++
		}
	}
	// Headers of all pages completely, the rest in steps of a prime.
	for page := range int(m.pages) {
		for bit := range 8 * (pageHeaderSize + metaSize) {
			if page < 2 || bit%7 == 0 {
				try(page*pageSize*8 + bit)
			}
		}
	}
	for bit := 0; bit < int(m.pages)*pageSize*8; bit += 601 {
		try(bit)
	}
	if found < 1000 || harmless == 0 {
		t.Errorf("%d found, %d harmless", found, harmless)
	}
}

// A write that was cut short within the meta page: the state before it
// counts, Verify says so, and the next write repairs it.
func TestSpoiltMeta(t *testing.T) {
	c := newCatalog(t)
	path := c.Path()
	if err := c.Append(Checked{}); err != nil {
		t.Fatal(err)
	}
	before := mustLog(t, c)
	if err := c.Append(Checked{}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newest := 0
	first, _ := parseMeta(whole)
	second, _ := parseMeta(whole[pageSize:])
	if second.txid > first.txid {
		newest = 1
	}
	clear(whole[newest*pageSize : newest*pageSize+512])
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	c = reopen(t, path, true)
	requireSame(t, mustLog(t, c), before)
	found, err := c.Verify()
	if err != nil || len(found) != 1 || !strings.Contains(found[0].What, "meta pages") {
		t.Fatalf("%v, %v", found, err)
	}
	if err := c.Append(Checked{}); err != nil {
		t.Fatal(err)
	}
	requireClean(t, c)
}

// Structures that would send bbolt astray.
func TestLayoutReject(t *testing.T) {
	c := newCatalog(t)
	// Enough for branch pages and an overflow page.
	for i := range 60 {
		s := sampleSnapshot(fmt.Sprintf("DENK%07d", i), strings.Repeat(fmt.Sprint(i), 300))
		if i == 0 {
			s.Files = append(s.Files, File{FID: "ca77", Content: bytes.Repeat([]byte("long"), 3000)})
		}
		if err := c.AddSnapshot(context.Background(), s); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	whole, err := os.ReadFile(c.Path())
	if err != nil {
		t.Fatal(err)
	}
	if spoilt, err := checkLayout(bytes.NewReader(whole), int64(len(whole))); err != nil || spoilt {
		t.Fatal(spoilt, err)
	}
	m, _, err := readMetas(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	// Pages in use, by kind.
	w := &walker{r: bytes.NewReader(whole), meta: m, used: make([]bool, m.pages)}
	if err := w.tree(m.root, nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	kinds := map[uint16]int{}
	for id := 2; id < int(m.pages); id++ {
		p := whole[id*pageSize:]
		if w.used[id] && native.Uint64(p) == uint64(id) {
			kinds[native.Uint16(p[8:])] = id * pageSize
		}
	}
	branch, leaf, free := kinds[flagBranch], kinds[flagLeaf], int(m.freelist)*pageSize
	if branch == 0 || leaf == 0 || free == 0 {
		t.Fatal("the sample has no branch page", kinds)
	}
	// sign renews the checksums of both meta pages.
	sign := func(b []byte) {
		for _, at := range []int{0, pageSize} {
			sum := fnv.New64a()
			sum.Write(b[at+16 : at+72])
			native.PutUint64(b[at+72:], sum.Sum64())
		}
	}
	bothMetas := func(offset int, v uint64) func([]byte) {
		return func(b []byte) {
			native.PutUint64(b[offset:], v)
			native.PutUint64(b[pageSize+offset:], v)
			sign(b)
		}
	}
	for _, k := range []struct {
		name   string
		change func(b []byte)
		want   string
	}{
		{"page size", func(b []byte) {
			for _, at := range []int{24, pageSize + 24} {
				native.PutUint32(b[at:], 1<<31)
			}
			sign(b)
		}, "page size"},
		{"odd page size", func(b []byte) { native.PutUint32(b[24:], 4097); sign(b); clear(b[pageSize : pageSize+100]) }, "page size"},
		{"page sizes differ", func(b []byte) {
			native.PutUint32(b[24:], 8192)
			sign(b)
			copy(b[8192:], b[pageSize:pageSize+100])
		}, "disagree"},
		{"moved meta", func(b []byte) { copy(b[2048:], b[pageSize:pageSize+100]); clear(b[:100]) }, "page size is not where"},
		{"high water", bothMetas(16+40, 1<<40), "cut short"},
		{"low water", bothMetas(16+40, 3), "at least 4"},
		{"root beyond", bothMetas(16+16, m.pages), fmt.Sprintf("page %d of", m.pages)},
		{"root is a meta page", bothMetas(16+16, 1), "page 1 of"},
		{"root is the free list", bothMetas(16+16, m.freelist), "kind 0x10"},
		{"free list is the root", bothMetas(16+32, m.root), "used twice"},
		{"free list beyond", bothMetas(16+32, m.pages+7), "list of free pages"},
		{"page with another number", func(b []byte) { native.PutUint64(b[leaf:], 2) }, "calls itself page 2"},
		{"page kind", func(b []byte) { native.PutUint16(b[leaf+8:], 3) }, "kind 0x3"},
		{"leaf count", func(b []byte) { native.PutUint16(b[leaf+10:], 0xFFFF) }, "page"},
		{"leaf overflow", func(b []byte) { native.PutUint32(b[leaf+12:], 0xFFFFFFFF) }, "runs over the end"},
		{"leaf position", func(b []byte) { native.PutUint32(b[leaf+16+4:], 0xFFFFFFF0) }, "outside"},
		{"leaf position in the header", func(b []byte) { native.PutUint32(b[leaf+16+4:], 0) }, "outside"},
		{"leaf key size", func(b []byte) { native.PutUint32(b[leaf+16+8:], 0xFFFFFFFF) }, "outside"},
		{"leaf key empty", func(b []byte) { native.PutUint32(b[leaf+16+8:], 0) }, "key is empty"},
		{"leaf value size", func(b []byte) { native.PutUint32(b[leaf+16+12:], 0x7FFFFFFF) }, "outside"},
		{"leaf element flags", func(b []byte) { native.PutUint32(b[leaf+16:], 2) }, "flags 0x2"},
		{"leaf element as a bucket", func(b []byte) { native.PutUint32(b[leaf+16:], flagBucket) }, "bucket"},
		{"branch to itself", func(b []byte) { native.PutUint64(b[branch+16+8:], native.Uint64(b[branch:])) }, "used twice"},
		{"branch to a sibling", func(b []byte) { copy(b[branch+16+8:branch+32], b[branch+32+8:branch+48]) }, "page"},
		{"branch beyond", func(b []byte) { native.PutUint64(b[branch+16+8:], 1<<63) }, "page"},
		{"branch without children", func(b []byte) { native.PutUint16(b[branch+10:], 0) }, "without children"},
		{"branch with too many", func(b []byte) { native.PutUint16(b[branch+10:], 0xFFFF) }, "page"},
		{"branch position", func(b []byte) { native.PutUint32(b[branch+16:], 0xFFFFFF00) }, "outside"},
		{"free list count", func(b []byte) { native.PutUint16(b[free+10:], 0xFFFE) }, "do not fit"},
		{"free list long count", func(b []byte) { native.PutUint16(b[free+10:], 0xFFFF); native.PutUint64(b[free+16:], 1<<60) }, "do not fit"},
		{"free page in use", func(b []byte) { native.PutUint64(b[free+16:], uint64(leaf/pageSize)) }, "in use"},
		{"free page twice", func(b []byte) { copy(b[free+24:free+32], b[free+16:free+24]) }, "listed twice"},
		{"free meta page", func(b []byte) { native.PutUint64(b[free+16:], 0) }, "in use"},
		{"free list kind", func(b []byte) { native.PutUint16(b[free+8:], flagLeaf) }, "is of kind"},
	} {
		t.Run(k.name, func(t *testing.T) {
			changed := bytes.Clone(whole)
			k.change(changed)
			_, err := checkLayout(bytes.NewReader(changed), int64(len(changed)))
			if err == nil || !strings.Contains(err.Error(), k.want) {
				t.Errorf("layout: %v, want %q", err, k.want)
			}
			path := filepath.Join(t.TempDir(), "changed.db")
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, writable := range []bool{false, true} {
				c, err := Open(path, writable)
				if err == nil {
					c.Close()
				}
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("writable %v: %v", writable, err)
				}
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(after, changed) {
				t.Error("the file changed")
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	whole, err := os.ReadFile(filled(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{})
	f.Add(uint32(5*pageSize), []byte{1, 2, 3})
	f.Add(uint32(16), []byte{0xED, 0xDA, 0x0C, 0xED})
	// A patch somewhere in a good file gets deeper than random bytes do; the
	// meta pages are signed again.
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(whole)
		if len(patch) > 0 {
			copy(b[int(at)%len(b):], patch)
		}
		for _, page := range []int{0, pageSize} {
			sum := fnv.New64a()
			sum.Write(b[page+16 : page+72])
			native.PutUint64(b[page+72:], sum.Sum64())
		}
		path := filepath.Join(t.TempDir(), "f.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Open(path, false)
		if err != nil {
			return
		}
		defer c.Close()
		found, err := c.Verify()
		if _, readErr := readState(c); err == nil && len(found) == 0 && readErr != nil {
			t.Fatalf("verified, but %v", readErr)
		}
	})
}
