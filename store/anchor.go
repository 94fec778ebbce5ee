package store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// anchorPrefix separates the MAC from anything else under the same key.
const anchorPrefix = "hsmbackup anchor v1\n"

// Anchor pins the log up to an entry by a MAC under a key that whoever can
// write the file does not have.
type Anchor struct {
	KCV  KCV
	Seq  uint64
	Hash Hash
	Time time.Time // not covered by the MAC
}

type anchorRecord struct {
	Seq  uint64    `json:"seq"`
	Hash Hash      `json:"hash"`
	Time time.Time `json:"time"`
	MAC  hexBytes  `json:"mac"`
}

// anchorMAC is HMAC-SHA256(key, prefix ‖ seq, 8 bytes big-endian ‖ hash).
func anchorMAC(key []byte, seq uint64, h Hash) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(anchorPrefix))
	mac.Write(binary.BigEndian.AppendUint64(nil, seq))
	mac.Write(h[:])
	return mac.Sum(nil)
}

// SetAnchor anchors the present head under a key that the caller derived from
// the DKEK with this KCV, in place of the one before. The log must be whole:
// an anchor upon damage would hide it.
func (c *Catalog) SetAnchor(kcv KCV, key []byte) error {
	kcv, err := anchorName(kcv, key)
	if err != nil {
		return err
	}
	return c.update(func(tx *bolt.Tx) error {
		entries, found := readLog(tx)
		if err := found.err(); err != nil {
			return err
		}
		head := entries[len(entries)-1]
		b, err := bucket(tx, bucketAnchors)
		if err != nil {
			return err
		}
		return putChecked(b, bucketAnchors, kcv, anchorRecord{
			Seq: head.Seq, Hash: head.Hash, Time: seconds(c.now()), MAC: anchorMAC(key, head.Seq, head.Hash),
		})
	})
}

// CheckAnchor checks the anchor of a KCV: its MAC, and that the log still has
// the entry it was made upon. Entries after it are chained to it, not covered.
// Errors: ErrNoAnchor, ErrDamaged.
func (c *Catalog) CheckAnchor(kcv KCV, key []byte) (Anchor, error) {
	kcv, err := anchorName(kcv, key)
	if err != nil {
		return Anchor{}, err
	}
	var a Anchor
	err = c.view(func(tx *bolt.Tx) error {
		b, err := bucket(tx, bucketAnchors)
		if err != nil {
			return err
		}
		var r anchorRecord
		found, err := getChecked(b, bucketAnchors, kcv, &r)
		switch {
		case err != nil:
			return fmt.Errorf("%w: anchor %s: %v", ErrDamaged, kcv, err)
		case !found:
			return fmt.Errorf("%w under KCV %s", ErrNoAnchor, kcv)
		case !hmac.Equal(r.MAC, anchorMAC(key, r.Seq, r.Hash)):
			return fmt.Errorf("%w: anchor %s: it was not made with this recovery key", ErrDamaged, kcv)
		}
		entries, damage := readLog(tx)
		if err := damage.err(); err != nil {
			return err
		}
		if err := r.fits(entries); err != nil {
			return fmt.Errorf("%w: anchor %s: %v", ErrDamaged, kcv, err)
		}
		a = Anchor{KCV: kcv, Seq: r.Seq, Hash: r.Hash, Time: r.Time.UTC()}
		return nil
	})
	return a, err
}

// fits looks for the anchored entry; this needs no key.
func (r anchorRecord) fits(entries []Entry) error {
	for _, e := range entries {
		if e.Seq != r.Seq {
			continue
		}
		if e.Hash != r.Hash {
			return fmt.Errorf("log entry %d is not the one that was anchored", r.Seq)
		}
		return nil
	}
	return fmt.Errorf("log entry %d, which was anchored, is missing", r.Seq)
}

func anchorName(kcv KCV, key []byte) (KCV, error) {
	if kcv == "" {
		return "", errors.New("anchor: no KCV")
	}
	if err := checkKCV(kcv); err != nil {
		return "", fmt.Errorf("anchor: %v", err)
	}
	if len(key) == 0 {
		return "", errors.New("anchor: no key")
	}
	return strings.ToUpper(kcv), nil
}
