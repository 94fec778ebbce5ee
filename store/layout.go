package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// The page structure of a bbolt file, as bbolt v1.5.0 internal/common has it
// (meta.go, page.go, inode.go, bucket.go). bbolt follows page numbers, offsets
// and counts without a look at bounds: a bad one is a fault, endless recursion
// or a huge allocation. Hence checkLayout before bbolt reads a file.
//
// Numbers are in the byte order of the machine, like bbolt's.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeaderSize = 16 // id u64, flags u16, count u16, overflow u32
	elementSize    = 16 // leaf: flags, pos, ksize, vsize u32; branch: pos, ksize u32, page u64
	metaSize       = 64
	bucketHeader   = 16 // root page u64, sequence u64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf element

	noFreelist = math.MaxUint64

	minPageSize = 1 << 10
	maxPageSize = 1 << 16
	maxDepth    = 64
)

var native = binary.NativeEndian

// meta is what a valid meta page says.
type meta struct {
	pageSize int64
	root     uint64
	freelist uint64
	pages    uint64 // high-water mark: pages in use are below it
	txid     uint64
}

// parseMeta reads the meta page that starts with page; ok is false for
// anything that bbolt would not take.
func parseMeta(page []byte) (m meta, ok bool) {
	if len(page) < pageHeaderSize+metaSize {
		return m, false
	}
	b := page[pageHeaderSize:]
	if native.Uint32(b) != boltMagic || native.Uint32(b[4:]) != boltVersion {
		return m, false
	}
	sum := fnv.New64a()
	sum.Write(b[:56])
	if native.Uint64(b[56:]) != sum.Sum64() {
		return m, false
	}
	// b[12:16] are flags, b[24:32] the sequence of the root bucket: unused.
	return meta{
		pageSize: int64(native.Uint32(b[8:])),
		root:     native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]),
		pages:    native.Uint64(b[40:]),
		txid:     native.Uint64(b[48:]),
	}, true
}

// readMetas finds the meta page that counts, the valid one with the highest
// transaction number, as bbolt does. spoilt tells that the other one is not
// valid: a write was cut short there, or it was damaged.
func readMetas(r io.ReaderAt, size int64) (m meta, spoilt bool, err error) {
	if size == 0 {
		return m, false, errors.New("the file is empty")
	}
	at := func(offset int64) (meta, bool) {
		page := make([]byte, pageHeaderSize+metaSize)
		if _, err := r.ReadAt(page, offset); err != nil {
			return meta{}, false
		}
		return parseMeta(page)
	}
	first, firstOK := at(0)
	second, secondOK := meta{}, false
	if firstOK {
		second, secondOK = at(first.pageSize)
	} else {
		for offset := int64(minPageSize); offset <= maxPageSize && !secondOK; offset *= 2 {
			second, secondOK = at(offset)
			if secondOK && second.pageSize != offset {
				return m, false, errors.New("its page size is not where it says")
			}
		}
	}
	switch {
	case firstOK && secondOK:
		if first.pageSize != second.pageSize {
			return m, false, errors.New("its two meta pages disagree about the page size")
		}
		m = first
		if second.txid > first.txid {
			m = second
		}
	case firstOK:
		m = first
	case secondOK:
		m = second
	default:
		return m, false, errors.New("this is not a catalog, or its beginning is destroyed")
	}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0 {
		return m, false, fmt.Errorf("page size of %d bytes", m.pageSize)
	}
	// bbolt may fall back to either: none may reach beyond the end.
	for _, c := range []struct {
		meta
		ok bool
	}{{first, firstOK}, {second, secondOK}} {
		if c.ok && c.pages > uint64(size/c.pageSize) {
			return m, false, fmt.Errorf("the file is cut short: %d bytes where %d pages of %d are in use", size, c.pages, c.pageSize)
		}
	}
	if m.pages < 4 {
		return m, false, fmt.Errorf("%d pages in use, a catalog has at least 4", m.pages)
	}
	return m, !firstOK || !secondOK, nil
}

// checkLayout walks all pages in use: each is within the file, of the right
// kind, used once, its elements are within it, and keys are in order. spoilt
// is as in readMetas.
func checkLayout(r io.ReaderAt, size int64) (spoilt bool, err error) {
	m, spoilt, err := readMetas(r, size)
	if err != nil {
		return false, err
	}
	w := &walker{r: r, meta: m, used: make([]bool, m.pages)}
	w.used[0], w.used[1] = true, true
	if err := w.tree(m.root, nil, nil, 0); err != nil {
		return spoilt, err
	}
	return spoilt, w.freelist()
}

type walker struct {
	r    io.ReaderAt
	meta meta
	used []bool
}

// page reads a page with its overflow and marks it as used.
func (w *walker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= w.meta.pages {
		return nil, fmt.Errorf("page %d of %d", id, w.meta.pages)
	}
	header := make([]byte, pageHeaderSize)
	if _, err := w.r.ReadAt(header, int64(id)*w.meta.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if got := native.Uint64(header); got != id {
		return nil, fmt.Errorf("page %d calls itself page %d", id, got)
	}
	n := uint64(native.Uint32(header[12:])) + 1
	if n > w.meta.pages-id {
		return nil, fmt.Errorf("page %d runs over the end", id)
	}
	for i := id; i < id+n; i++ {
		if w.used[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		w.used[i] = true
	}
	page := make([]byte, int64(n)*w.meta.pageSize)
	if _, err := w.r.ReadAt(page, int64(id)*w.meta.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return page, nil
}

// tree walks from a page down. Keys are from low (inclusive) up to high
// (exclusive); nil is no bound.
func (w *walker) tree(id uint64, low, high []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d: more than %d levels", id, maxDepth)
	}
	page, err := w.page(id)
	if err != nil {
		return err
	}
	switch flags := native.Uint16(page[8:]); flags {
	case flagLeaf:
		if err := w.leaf(page, low, high, depth); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	case flagBranch:
		return w.branch(id, page, low, high, depth)
	default:
		return fmt.Errorf("page %d: kind %#x", id, flags)
	}
}

func (w *walker) branch(id uint64, page, low, high []byte, depth int) error {
	count := int(native.Uint16(page[10:]))
	if count == 0 {
		return fmt.Errorf("page %d: a branch without children", id)
	}
	keys := make([][]byte, count)
	children := make([]uint64, count)
	for i := range count {
		at := pageHeaderSize + i*elementSize
		if at+elementSize > len(page) {
			return fmt.Errorf("page %d: %d elements do not fit", id, count)
		}
		e := page[at:]
		key, _, err := span(page, at, native.Uint32(e), native.Uint32(e[4:]), 0)
		if err != nil {
			return fmt.Errorf("page %d: element %d: %w", id, i, err)
		}
		keys[i], children[i] = key, native.Uint64(e[8:])
	}
	if err := inOrder(keys, low, high); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	for i := range count {
		bound := high
		if i+1 < count {
			bound = keys[i+1]
		}
		if err := w.tree(children[i], keys[i], bound, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks a leaf page, which may be the inline page of a small bucket.
func (w *walker) leaf(page, low, high []byte, depth int) error {
	count := int(native.Uint16(page[10:]))
	keys := make([][]byte, count)
	for i := range count {
		at := pageHeaderSize + i*elementSize
		if at+elementSize > len(page) {
			return fmt.Errorf("%d elements do not fit", count)
		}
		e := page[at:]
		flags := native.Uint32(e)
		key, value, err := span(page, at, native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:]))
		if err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		keys[i] = key
		switch flags {
		case 0:
		case flagBucket:
			if err := w.bucket(value, depth); err != nil {
				return fmt.Errorf("bucket %q: %w", key, err)
			}
		default:
			return fmt.Errorf("element %d: flags %#x", i, flags)
		}
	}
	return inOrder(keys, low, high)
}

func (w *walker) bucket(value []byte, depth int) error {
	if len(value) < bucketHeader {
		return errors.New("no header")
	}
	if root := native.Uint64(value); root != 0 {
		return w.tree(root, nil, nil, depth+1)
	}
	if depth > maxDepth {
		return fmt.Errorf("more than %d levels", maxDepth)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeaderSize || native.Uint16(inline[8:]) != flagLeaf || native.Uint64(inline) != 0 {
		return errors.New("no inline page")
	}
	return w.leaf(inline, nil, nil, depth+1)
}

// span gives the key and value of the element at offset at; pos counts from
// there.
func span(page []byte, at int, pos, keySize, valueSize uint32) (key, value []byte, err error) {
	start := uint64(at) + uint64(pos)
	mid := start + uint64(keySize)
	end := mid + uint64(valueSize)
	if pos < elementSize || end > uint64(len(page)) {
		return nil, nil, errors.New("it lies outside of its page")
	}
	if keySize == 0 {
		return nil, nil, errors.New("its key is empty")
	}
	return page[start:mid], page[mid:end], nil
}

func inOrder(keys [][]byte, low, high []byte) error {
	for i, k := range keys {
		switch {
		case i == 0 && low != nil && bytes.Compare(k, low) < 0,
			i > 0 && bytes.Compare(keys[i-1], k) >= 0,
			high != nil && bytes.Compare(k, high) >= 0:
			return fmt.Errorf("key of element %d is out of order", i)
		}
	}
	return nil
}

// freelist checks that no page is both free and in use: the next write would
// overwrite it. It goes last, when all pages in use are known.
func (w *walker) freelist() error {
	if w.meta.freelist == noFreelist {
		return nil
	}
	page, err := w.page(w.meta.freelist)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	if flags := native.Uint16(page[8:]); flags != flagFreelist {
		return fmt.Errorf("list of free pages: page %d is of kind %#x", w.meta.freelist, flags)
	}
	count, ids := uint64(native.Uint16(page[10:])), page[pageHeaderSize:]
	if count == 0xFFFF { // too many for 16 bits: the number comes first
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("list of free pages: %d do not fit", count)
	}
	for i := range count {
		id := native.Uint64(ids[8*i:])
		if id < 2 || id >= w.meta.pages || w.used[id] {
			return fmt.Errorf("list of free pages: page %d is in use, listed twice or not there", id)
		}
		w.used[id] = true
	}
	return nil
}
