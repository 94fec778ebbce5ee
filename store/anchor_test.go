package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func TestAnchor(t *testing.T) {
	c := newCatalog(t)
	if _, err := read(t, c).CheckAnchor(sampleKCV, sampleKey); !errors.Is(err, ErrNoAnchor) {
		t.Errorf("error %v", err)
	}
	fill(t, c)
	a, err := read(t, c).CheckAnchor(strings.ToLower(sampleKCV), sampleKey)
	if err != nil || a.KCV != sampleKCV || a.Seq != 6 || a.Time.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
	if e := mustLog(t, c)[5]; e.Hash != a.Hash {
		t.Errorf("anchored %v, entry is %v", a.Hash, e.Hash)
	}
	if _, err := read(t, c).CheckAnchor(sampleOther, sampleKey); !errors.Is(err, ErrNoAnchor) {
		t.Errorf("other KCV: %v", err)
	}
	if _, err := read(t, c).CheckAnchor(sampleKCV, []byte("another key")); !errors.Is(err, ErrDamaged) {
		t.Errorf("other key: %v", err)
	}
	if err := c.SetAnchor(sampleKCV, sampleKey); err != nil {
		t.Fatal(err)
	}
	if a, err := read(t, c).CheckAnchor(sampleKCV, sampleKey); err != nil || a.Seq != 7 {
		t.Errorf("renewed: %+v, %v", a, err)
	}
	for _, err := range []error{
		c.SetAnchor("", sampleKey), c.SetAnchor("01", sampleKey), c.SetAnchor(sampleKCV, nil),
		errOf(read(t, c).CheckAnchor("", sampleKey)), errOf(read(t, c).CheckAnchor(sampleKCV, nil)),
	} {
		if err == nil {
			t.Error("accepted")
		}
	}
	requireClean(t, c)
}

// The MAC as docs/format.md spells it out.
func TestAnchorMAC(t *testing.T) {
	h := HashOf([]byte("x"))
	m := hmac.New(sha256.New, sampleKey)
	m.Write([]byte("hsmbackup anchor v1\n\x00\x00\x00\x00\x00\x00\x01\x02"))
	m.Write(h[:])
	if !hmac.Equal(m.Sum(nil), anchorMAC(sampleKey, 0x102, h)) {
		t.Error("differs")
	}
}

// Someone who can write the file, and knows how, builds a chain of their own
// upon an older state. Without the key the anchor gives it away.
func TestAnchorFindsForgery(t *testing.T) {
	c := newCatalog(t)
	fill(t, c)
	path := c.Path()
	c.Close()
	raw(t, path, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketLog))
		for seq := uint64(5); seq <= 7; seq++ {
			if err := b.Delete(logKey(seq)); err != nil {
				return err
			}
		}
		return putChecked(tx.Bucket([]byte(bucketHead)), bucketHead, keyHead, headRecord{4, HashOf(b.Get(logKey(4)))})
	})
	c = reopen(t, path, true)
	if entries := mustLog(t, c); len(entries) != 4 {
		t.Fatal(len(entries))
	}
	missing := func(what string) {
		t.Helper()
		if _, err := read(t, c).CheckAnchor(sampleKCV, sampleKey); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), what) {
			t.Errorf("anchor: %v", err)
		}
		found, err := c.Verify()
		if err != nil || len(found) != 1 || !strings.Contains(found[0].What, what) {
			t.Errorf("verify: %v, %v", found, err)
		}
	}
	missing("entry 6, which was anchored, is missing")
	for range 3 {
		if err := c.Append(Checked{}); err != nil {
			t.Fatal(err)
		}
	}
	missing("entry 6 is not the one that was anchored")
	if err := c.AddSnapshot(context.Background(), sampleSnapshot("A", "")); err != nil {
		t.Fatal(err)
	}
	// An anchor made up without the key.
	c.Close()
	raw(t, path, func(tx *bolt.Tx) error {
		h := HashOf(tx.Bucket([]byte(bucketLog)).Get(logKey(6)))
		return putChecked(tx.Bucket([]byte(bucketAnchors)), bucketAnchors, sampleKCV, anchorRecord{Seq: 6, Hash: h, MAC: anchorMAC([]byte("guess"), 6, h)})
	})
	c = reopen(t, path, false)
	if _, err := read(t, c).CheckAnchor(sampleKCV, sampleKey); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "not made with this recovery key") {
		t.Errorf("anchor: %v", err)
	}
}
