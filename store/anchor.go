package store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

var errOtherAnchor = errors.New("it was not made with this recovery key")

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

	damage error // what does not check out of it
}

// anchorMAC is HMAC-SHA256(key, prefix ‖ seq, 8 bytes big-endian ‖ hash).
func anchorMAC(key []byte, seq uint64, h Hash) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(anchorPrefix))
	mac.Write(binary.BigEndian.AppendUint64(nil, seq))
	mac.Write(h[:])
	return mac.Sum(nil)
}

// TokenAnchor says that the object which pins the log up to an entry was written
// onto a token, or with Seq 0 that it was deleted from it.
type TokenAnchor struct {
	Serial string `json:"serial"`
	Seq    uint64 `json:"seq"`
	Hash   Hash   `json:"hash"`
}

func (TokenAnchor) kind() string { return KindTokenAnchor }
func (a TokenAnchor) check() error {
	if a.Serial == "" || (a.Seq == 0) != a.Hash.IsZero() {
		return errors.New("it names no token or no entry")
	}
	return maybe("serial number", a.Serial, IsSerial)
}
func (a TokenAnchor) tell(s *State, _ *Entry) { s.TokenAnchors[a.Serial] = a }

// SetAnchor anchors the present head under a key that the caller derived from
// the DKEK with this KCV, in place of the one before, which must hold: an anchor
// moves only forward. The catalog must be whole: an anchor upon damage would hide
// it. Nothing but package backup's moveAnchor may call it.
func (c *Catalog) SetAnchor(kcv KCV, key []byte) error {
	kcv, err := anchorName(kcv, key)
	if err != nil {
		return err
	}
	defer c.forget()
	return c.update(func(tx *bolt.Tx) error {
		log, damage := readLog(tx)
		if err := damage.err(); err != nil {
			return err
		}
		b, err := bucket(tx, bucketAnchors)
		if err != nil {
			return err
		}
		var old anchorRecord
		found, err := getChecked(b, bucketAnchors, kcv, &old)
		if err == nil && found {
			if err = old.fits(log.entries); err == nil && !hmac.Equal(old.MAC, anchorMAC(key, old.Seq, old.Hash)) {
				err = errOtherAnchor
			}
		}
		if err != nil {
			return fmt.Errorf("%w: anchor %s: %v", ErrDamaged, kcv, err)
		}
		return putChecked(b, bucketAnchors, kcv, anchorRecord{
			Seq: log.head.Seq, Hash: log.head.Hash, Time: seconds(c.now()), MAC: anchorMAC(key, log.head.Seq, log.head.Hash),
		})
	})
}

// CheckAnchor checks the anchor of a KCV: its MAC, and that the log still has
// the entry it was made upon. Entries after it are chained to it, not covered.
// Errors: ErrNoAnchor, ErrDamaged.
func (s *State) CheckAnchor(kcv KCV, key []byte) (Anchor, error) {
	kcv, err := anchorName(kcv, key)
	if err != nil {
		return Anchor{}, err
	}
	r, found := s.anchors[kcv]
	switch {
	case !found:
		return Anchor{}, fmt.Errorf("%w under KCV %s", ErrNoAnchor, kcv)
	case r.damage != nil:
		return Anchor{}, fmt.Errorf("%w: anchor %s: %v", ErrDamaged, kcv, r.damage)
	case !hmac.Equal(r.MAC, anchorMAC(key, r.Seq, r.Hash)):
		return Anchor{}, fmt.Errorf("%w: anchor %s: %v", ErrDamaged, kcv, errOtherAnchor)
	}
	return Anchor{KCV: kcv, Seq: r.Seq, Hash: r.Hash, Time: r.Time.UTC()}, nil
}

// readAnchors reads all anchors and looks for the entries that they were made
// upon.
func (s *State) readAnchors(tx *bolt.Tx) findings {
	var found findings
	b, err := bucket(tx, bucketAnchors)
	if err != nil {
		found.add("anchors", "their bucket is missing")
		return found
	}
	for k, v := range all(b) {
		var r anchorRecord
		if r.damage = openChecked(bucketAnchors, string(k), v, &r); r.damage == nil {
			r.damage = r.fits(s.Entries)
		}
		if r.damage != nil {
			found.add("anchor "+strconv.QuoteToASCII(string(k)), "%v", r.damage)
		}
		s.anchors[string(k)] = r
	}
	return found
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
