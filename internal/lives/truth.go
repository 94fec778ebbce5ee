package lives

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
)

// object is a key as it matters: the private key, and what stands beside it.
type object struct{ private, description, certificate string }

// bare: nothing stands beside it, as beside a copy that a proof left behind.
func (o object) bare() bool { return o.description == "" && o.certificate == "" }

func (o object) String() string {
	short := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:2])
	}
	return fmt.Sprintf("%s/%s/%s", o.private, short(o.description), short(o.certificate))
}

// truth is what is really on a token, read from its file.
type truth struct {
	Serial       string
	Major, Minor int
	Initialised  bool
	Domains      []truthDomain
	Keys         map[byte]*truthKey
	Files        map[uint16][]byte

	// objects are the keys by reference, files all else that is not the device's.
	objects map[byte]object
	files   map[uint16]string
}

type truthDomain struct {
	Created             bool
	Shares, Outstanding int
	DKEK                []byte
}

type truthKey struct {
	Kind       pkcs15.Kind
	Bits       int
	Curve      string
	Private    []byte
	Counter    *uint32
	Algorithms []byte
	Domain     int
	KEK        []byte
}

// kcv is empty while shares are missing.
func (d truthDomain) kcv() string {
	if !d.Created || d.Outstanding > 0 || len(d.DKEK) == 0 {
		return ""
	}
	sum := sha256.Sum256(d.DKEK)
	return strings.ToUpper(hex.EncodeToString(sum[:8]))
}

// truth reads the token's file; softtoken's documentation has its format.
func (w *World) truth(t *Token) *truth {
	if t.known != nil {
		return t.known
	}
	raw, err := os.ReadFile(t.file)
	w.must("token file", err)
	var document struct{ State json.RawMessage }
	w.must("token file", json.Unmarshal(raw, &document))
	s := &truth{objects: map[byte]object{}, files: map[uint16]string{}}
	w.must("token file", json.Unmarshal(document.State, s))
	for n, k := range s.Keys {
		description, certificate := s.Files[0xC400|uint16(n)], s.Files[0xCE00|uint16(n)]
		s.objects[n] = object{w.name(k), string(description), string(certificate)}
	}
	for f, b := range s.Files {
		beside := (f>>8 == 0xC4 || f>>8 == 0xCE) && s.Keys[byte(f)] != nil
		if f>>8 != 0x2F && !beside {
			s.files[f] = string(b)
		}
	}
	for _, d := range s.Domains {
		if kcv := d.kcv(); kcv != "" && w.recovery(kcv) == nil {
			share, err := dkek.ShareFromBytes(bytes.Clone(d.DKEK))
			w.must("share", err)
			w.madeUp[kcv], err = dkek.Combine(share)
			w.must("combine", err)
		}
	}
	t.known = s
	return s
}

// name tells private keys apart.
func (w *World) name(k *truthKey) string {
	kind, secret := "aes", k.Private
	switch k.Kind {
	case pkcs15.RSA:
		kind = "rsa"
		if name, known := w.rsaNames[string(secret)]; known {
			return name
		}
		r, err := x509.ParsePKCS1PrivateKey(secret)
		w.must("RSA", err)
		sum := sha256.Sum256(r.D.Bytes())
		w.rsaNames[string(secret)] = fmt.Sprintf("rsa:%x", sum[:6])
		return w.rsaNames[string(secret)]
	case pkcs15.EC:
		kind, secret = k.Curve, bytes.TrimLeft(secret, "\x00")
	}
	sum := sha256.Sum256(secret)
	return fmt.Sprintf("%s:%x", kind, sum[:6])
}

func (s *truth) references() []byte { return slices.Sorted(maps.Keys(s.objects)) }

func (s *truth) numbers() []uint16 { return slices.Sorted(maps.Keys(s.files)) }

func (s *truth) empty() bool { return len(s.objects)+len(s.files) == 0 }

// differs says what two looks at a token do not agree on; empty is nothing.
func (s *truth) differs(o *truth) string {
	if s == o {
		return ""
	}
	for _, n := range s.references() {
		if o.objects[n] != s.objects[n] {
			return fmt.Sprintf("key %d is %s, was %s", n, o.objects[n], s.objects[n])
		}
	}
	for _, n := range o.references() {
		if _, was := s.objects[n]; !was {
			return fmt.Sprintf("key %d is new (%s)", n, o.objects[n])
		}
	}
	for _, f := range s.numbers() {
		if is, there := o.files[f]; !there || is != s.files[f] {
			return fmt.Sprintf("file %04x changed or gone", f)
		}
	}
	for _, f := range o.numbers() {
		if _, was := s.files[f]; !was {
			return fmt.Sprintf("file %04x is new", f)
		}
	}
	return ""
}

// without is what is on a token but for undescribed keys that the program made.
func (s *truth) without(copies map[string]bool) *truth {
	rest := &truth{objects: map[byte]object{}, files: s.files}
	for n, o := range s.objects {
		if !o.bare() || !copies[o.private] {
			rest.objects[n] = o
		}
	}
	return rest
}

// exportable tells whether a key can really leave, and under which recovery key.
func (s *truth) exportable(n byte) (kcv string, can bool) {
	k := s.Keys[n]
	if k.Domain >= len(s.Domains) {
		return "", false
	}
	kcv = s.Domains[k.Domain].kcv()
	allowed := len(k.Algorithms) == 0 || bytes.IndexByte(k.Algorithms, 0x92) >= 0
	return kcv, allowed && kcv != "" && strings.EqualFold(hex.EncodeToString(k.KEK), kcv)
}

// public gives the public key that belongs to a private one; of AES there is none.
func (k *truthKey) public() *pubkey.Key {
	switch k.Kind {
	case pkcs15.RSA:
		if r, err := x509.ParsePKCS1PrivateKey(k.Private); err == nil {
			return &pubkey.Key{RSA: &r.PublicKey}
		}
	case pkcs15.EC:
		c := curve.ByName(k.Curve)
		x, y := c.ScalarBaseMult(k.Private)
		return &pubkey.Key{Curve: c, X: x, Y: y}
	}
	return nil
}

// shows tells whether a public key stands beside a key, and whether it is its own.
func (s *truth) shows(n byte) (any, own bool) {
	beside := []byte(s.objects[n].certificate)
	var public *pubkey.Key
	if r, err := cvc.ParseRequest(beside); err == nil {
		public, _ = r.PublicKey()
	} else if p, err := pubkey.FromCertificate(beside); err == nil {
		public = p
	}
	if public == nil {
		return false, false
	}
	mine := s.Keys[n].public()
	return true, mine != nil && bytes.Equal(mine.SPKI(), public.SPKI())
}
