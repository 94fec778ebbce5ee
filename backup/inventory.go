package backup

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/tlv"
	"hsmbackup/store"
)

// Inventory is everything that a token shows without a PIN.
type Inventory struct {
	Serial, Label, Firmware string
	// Software: the token says of itself that it is software.
	Software, Initialised bool
	Options               schsm.Options
	PIN, SOPIN            schsm.PINStatus
	Domains               []schsm.Domain
	// FreeMemory is in bytes, -1 if the token does not tell.
	FreeMemory int
	// Certificate is EF 2F02, Chain what it says (nil if it does not parse).
	Certificate []byte
	Chain       *cvc.Chain
	// TokenInfo is EF 2F03, nil if there is none.
	TokenInfo []byte
	// Keys are in the order of their references.
	Keys []Key
	// Files are all others that can be read, in the order of their numbers:
	// certificates without a key, public data, descriptions, and what belongs
	// to no key.
	Files []File
	// Unread are files that a PIN protects; they are not read here.
	Unread []schsm.FID
	// Anchor is the catalog's anchor that the token carries, which is none of the
	// Files; nil without one. TornAnchor: something has its description, and is none.
	Anchor     *TokenAnchor
	TornAnchor bool
	// PKA is public key authentication, nil where it is not set up.
	PKA *schsm.PKA
}

// File is an elementary file.
type File struct {
	FID     schsm.FID
	Content []byte
}

// Key is one key as the token shows it.
type Key struct {
	Reference byte
	// Label, ID and Usage are those of the description; empty without one.
	Label string
	ID    []byte
	Usage pkcs15.Usage
	// Kind and Type are as good as is known: from the public key, else from the
	// description, else empty.
	Kind pkcs15.Kind
	Type string
	Bits int
	Info schsm.KeyInfo
	// Public is nil where the token holds neither request nor certificate for
	// the key; PublicFrom says which of the two it is from.
	Public     *pubkey.Key
	PublicFrom string
	// Description is the content of C4xx, Certificate that of CExx, cut to
	// their TLV if they are one; nil if there is none.
	Description, Certificate []byte
	// KCV of the key domain; empty if it has no complete DKEK.
	KCV string
	// NotExportable says why the key cannot leave, as far as that shows
	// without trying.
	NotExportable string
}

// Where a public key is known from.
const (
	fromRequest     = "request"
	fromCertificate = "certificate"
)

// Name is how a key is spoken of: its label and reference.
func (k Key) Name() string { return keyName(k.Label, int(k.Reference)) }

func keyName(label string, reference int) string {
	switch {
	case reference == 0: // adopted, and not known
		return fmt.Sprintf("key %q", label)
	case label == "":
		return fmt.Sprintf("key %d", reference)
	}
	return fmt.Sprintf("%q (key %d)", label, reference)
}

// SSH is the public key as a line of authorized_keys that ends in the label;
// empty if it is not known or SSH does not know the type.
func (k Key) SSH() string {
	if k.Public == nil {
		return ""
	}
	return k.Public.SSH(k.Label)
}

// Take reads the inventory. It changes nothing and needs no PIN.
func Take(ctx context.Context, card *schsm.Card) (*Inventory, error) {
	inv := &Inventory{FreeMemory: -1}
	if err := card.Confirm(ctx); err != nil { // selects, if another program was here
		return nil, err
	}
	inv.Serial, inv.Certificate, inv.Chain = card.Serial(), card.Certificate(), card.Chain()
	inv.Firmware, inv.Options, inv.Software = card.Version().String(), card.Options(), card.Software()
	var err error
	if inv.PIN, err = card.PIN(ctx); err != nil {
		return nil, err
	}
	if inv.SOPIN, err = card.SOPIN(ctx); err != nil {
		return nil, err
	}
	inv.Initialised = !inv.PIN.Missing
	if inv.Domains, err = card.Domains(ctx); err != nil {
		return nil, err
	}
	if n, err := card.Memory(ctx); err == nil {
		inv.FreeMemory = n
	} else if isTransport(err) {
		return nil, err
	}
	if pka, configured, err := card.PKA(ctx); isTransport(err) {
		return nil, err
	} else if configured {
		inv.PKA = &pka
	}
	if err := inv.readFiles(ctx, card); err != nil {
		return nil, err
	}
	return inv, nil
}

// isTransport tells a broken connection, or a run that was ended, from what a
// token answered and what its answers were found to be.
func isTransport(err error) bool {
	var status *apdu.StatusError
	if err == nil || errors.As(err, &status) {
		return false
	}
	var untried *untriedError
	if errors.As(err, &untried) {
		return false
	}
	for _, e := range []error{schsm.ErrUnwrapRefused, errAnswer, errNoWay, errNothingKnown, errOtherContent, errNoWarrant} {
		if errors.Is(err, e) {
			return false
		}
	}
	return true
}

func (inv *Inventory) readFiles(ctx context.Context, card *schsm.Card) error {
	fids, err := card.Enumerate(ctx)
	if err != nil {
		return err
	}
	slices.Sort(fids)
	fids = slices.Compact(fids)
	keys := map[byte]*Key{}
	for _, f := range fids {
		if f.Prefix() == schsm.PrefixKey && f.Index() != 0 { // CC00 is the device key
			keys[f.Index()] = &Key{Reference: f.Index()}
		}
	}
	for _, f := range fids {
		if f.Prefix() == schsm.PrefixKey || f == schsm.FIDDeviceCertificate {
			continue
		}
		if f.Prefix() == schsm.PrefixProtectedData { // not even when logged in
			inv.Unread = append(inv.Unread, f)
			continue
		}
		content, err := card.ReadFile(ctx, f)
		switch {
		case errors.Is(err, apdu.ErrNotFound):
			continue // gone since the list was made
		case err != nil:
			return err
		}
		key := keys[f.Index()]
		switch {
		case f == schsm.FIDTokenInfo:
			inv.TokenInfo = content
			if label, err := pkcs15.ParseTokenInfo(content); err == nil {
				inv.Label = label
			}
		case f.Prefix() == schsm.PrefixDescription && key != nil:
			key.Description = content
		case f.Prefix() == schsm.PrefixKeyCertificate && key != nil:
			key.Certificate = content
		case f.Index() == 0 && (f.Prefix() == schsm.PrefixDescription || f.Prefix() == schsm.PrefixKeyCertificate):
			// the imitation's description and request of its device key
		default:
			inv.Files = append(inv.Files, File{f, content})
		}
	}
	for _, f := range fids {
		if key := keys[f.Index()]; f.Prefix() == schsm.PrefixKey && key != nil {
			if key.Info, err = card.Key(ctx, key.Reference); err != nil {
				return err
			}
			key.describe()
			key.exportable(inv.Domains)
			inv.Keys = append(inv.Keys, *key)
		}
	}
	inv.findAnchor()
	return nil
}

// describe works out what description and certificate say.
func (k *Key) describe() {
	if d, err := pkcs15.ParseKey(k.Description); err == nil {
		k.Label, k.ID, k.Usage = d.Label, d.ID, d.Usage
		k.describedAs(d)
	}
	if k.Public, k.PublicFrom = publicKey(k.Certificate); k.Public != nil {
		k.Type, k.Bits = k.Public.Type(), k.Public.Bits()
		k.Kind = pkcs15.EC
		if k.Public.RSA != nil {
			k.Kind = pkcs15.RSA
		}
	}
}

// describedAs takes kind and size from a description.
func (k *Key) describedAs(d *pkcs15.KeyDescription) {
	k.Kind, k.Bits = d.Kind, d.Bits
	switch d.Kind {
	case pkcs15.RSA:
		k.Type = pubkey.RSAType(d.Bits)
	case pkcs15.AES:
		k.Type = pubkey.AESType(d.Bits)
	case pkcs15.EC:
		k.Type = fmt.Sprintf("EC-%d", d.Bits)
	}
}

// disown forgets a public key that turned out to be another key's: somebody
// stored a certificate under the wrong ID. What is left is the kind that the
// blob tells, and the description if it says the same.
func (k *Key) disown(kind pkcs15.Kind) {
	k.Public, k.PublicFrom, k.Type, k.Kind, k.Bits = nil, "", "", kind, 0
	if d, err := pkcs15.ParseKey(k.Description); err == nil && d.Kind == kind {
		k.describedAs(d)
	}
}

// publicKey reads the public key out of what stands in CExx.
func publicKey(certificate []byte) (*pubkey.Key, string) {
	if r, err := cvc.ParseRequest(certificate); err == nil {
		if key, err := r.PublicKey(); err == nil {
			return key, fromRequest
		}
		return nil, ""
	}
	if c, err := cvc.Parse(certificate); err == nil {
		if key, err := c.PublicKey(nil); err == nil {
			return key, fromCertificate
		}
		return nil, ""
	}
	if key, err := pubkey.FromCertificate(trim(certificate)); err == nil {
		return key, fromCertificate
	}
	return nil, ""
}

// Reasons why a key cannot be exported, as they are shown.
const (
	reasonNoDKEK     = "no DKEK: the token was initialised without one"
	reasonIncomplete = "DKEK incomplete: shares are missing"
	reasonList       = "its list of allowed algorithms lacks export (92)"
	reasonNoDomain   = "key domain without DKEK"
	reasonZero       = "recovery key of zeros: shares cancelled each other, and whatever is wrapped under it is open to everyone; initialise the token anew"
	reasonXKEK       = "XKEK: the key domain's key is agreed between tokens and has no shares"
)

// shown are the reasons that exportable finds, so that it is known without
// trying whether they still hold.
var shown = []string{reasonNoDKEK, reasonIncomplete, reasonList, reasonNoDomain, reasonZero, reasonXKEK}

// exportable sets KCV and NotExportable from the key domains.
func (k *Key) exportable(domains []schsm.Domain) {
	for _, d := range domains {
		if d.Number != k.Info.Domain {
			continue
		}
		switch {
		case d.Empty:
			k.NotExportable = reasonNoDomain
		case len(d.UID) > 0:
			k.NotExportable = reasonXKEK
		case !d.Ready():
			k.NotExportable = reasonIncomplete
		case dkek.KCV(d.KCV).IsZeroKey():
			k.NotExportable = reasonZero
		case !k.Info.Allows(schsm.WrapKey):
			k.NotExportable = reasonList
		}
		if kcv := dkek.KCV(d.KCV); d.Ready() && !kcv.IsZero() {
			k.KCV = kcv.String()
		}
		return
	}
	k.NotExportable = reasonNoDKEK
	if len(domains) > 0 {
		k.NotExportable = reasonNoDomain
	}
}

// HoldsAnything tells whether a wipe takes leave: what an interrupted look at the
// device key left behind may go.
func (inv *Inventory) HoldsAnything() bool { return inv.needsWarrant() }

// token is the inventory's part of a snapshot that is about the device.
func (inv *Inventory) token() store.Token {
	t := store.Token{
		Serial: inv.Serial, Label: inv.Label, Firmware: inv.Firmware, Software: inv.Software,
		Options: fmt.Sprintf("%04x", uint16(inv.Options)), PINTries: inv.PIN.Tries, SOPINTries: inv.SOPIN.Tries,
		Certificate: inv.Certificate, TokenInfo: inv.TokenInfo, FreeMemory: inv.FreeMemory,
	}
	if inv.Chain != nil {
		t.Issuer = inv.Chain.Device.CAR
		t.ValidFrom, t.ValidTo = inv.Chain.Device.From.Format("2006-01-02"), inv.Chain.Device.To.Format("2006-01-02")
	}
	for _, d := range inv.Domains { // empty slots too: their number is part of the set-up
		sd := store.Domain{Number: d.Number, Shares: d.Shares, Outstanding: d.Outstanding, UID: d.UID}
		if d.Ready() && len(d.UID) == 0 {
			sd.KCV = dkek.KCV(d.KCV).String()
		}
		t.Domains = append(t.Domains, sd)
	}
	return t
}

// same tells whether two inventories of one token list the same keys and
// files with the same contents.
func (inv *Inventory) same(o *Inventory) bool {
	return slices.EqualFunc(inv.Keys, o.Keys, func(a, b Key) bool {
		return a.Reference == b.Reference && bytes.Equal(a.Description, b.Description) && bytes.Equal(a.Certificate, b.Certificate)
	}) && slices.EqualFunc(inv.Files, o.Files, func(a, b File) bool { return a.FID == b.FID && bytes.Equal(a.Content, b.Content) }) &&
		slices.Equal(inv.Unread, o.Unread)
}

// FindKey finds a key by what people call it: its reference, its ID in hex, its
// label or the SHA-256 of its public key. Two that fit are an error, with the
// references to choose from.
func (inv *Inventory) FindKey(which string) (Key, error) {
	var found []Key
	for _, k := range inv.Keys {
		print := ""
		if k.Public != nil {
			sum := k.Public.Fingerprint()
			print = hex.EncodeToString(sum[:])
		}
		if which == fmt.Sprint(k.Reference) || which == hex.EncodeToString(k.ID) || which == k.Label || which == print {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Key{}, fail.Failf("no-such-key", "`hsmbackup status` lists the keys with reference, ID and label", "no key on this token has the reference, ID or label %q", which)
	}
	var references []string
	for _, k := range found {
		references = append(references, fmt.Sprint(k.Reference))
	}
	return Key{}, fail.Failf("ambiguous-key", "name it by its reference", "%q fits several keys: references %s", which, strings.Join(references, ", "))
}

// trim cuts what a file holds to its first TLV; what is no TLV stays as it is.
func trim(b []byte) []byte {
	if cut, err := tlv.Trim(b); err == nil {
		return cut
	}
	return b
}
