package backup

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// twoKeys backs up a token with two P-256 keys and gives its snapshot.
func twoKeys(t testing.TB) (*store.Catalog, *store.Snapshot, *dkek.Key) {
	t.Helper()
	cat, share, card := initialised(t)
	generate(t, card, 1, "P-256", "one", []byte{1})
	generate(t, card, 2, "P-256", "two", []byte{2})
	r, err := Run(context.Background(), card, cat, Options{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	return cat, r.Snapshot, key
}

// cloneKeys copies a snapshot deep enough to be changed.
func cloneKeys(s *store.Snapshot) *store.Snapshot {
	c := *s
	c.Keys = slices.Clone(s.Keys)
	for i := range c.Keys {
		k := &c.Keys[i]
		k.Blob, k.Description, k.Certificate, k.PublicKey = bytes.Clone(k.Blob), bytes.Clone(k.Description), bytes.Clone(k.Certificate), bytes.Clone(k.PublicKey)
	}
	return &c
}

// What hashes cannot find, because whoever wrote it computed them: things of
// one key under the name of another.
func TestOfflineFindsWhatDoesNotBelong(t *testing.T) {
	cat, good, key := twoKeys(t)
	other, err := dkek.Combine(newShare(t, 77))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(s *store.Snapshot){
		"a blob of another key":               func(s *store.Snapshot) { s.Keys[0].Blob = s.Keys[1].Blob },
		"a description of another key":        func(s *store.Snapshot) { s.Keys[0].Description = s.Keys[1].Description },
		"a certificate of another key":        func(s *store.Snapshot) { s.Keys[0].Certificate = s.Keys[1].Certificate },
		"a public key of another key":         func(s *store.Snapshot) { s.Keys[0].PublicKey = s.Keys[1].PublicKey },
		"blob and public key of another key":  func(s *store.Snapshot) { s.Keys[0].Blob, s.Keys[0].PublicKey = s.Keys[1].Blob, s.Keys[1].PublicKey },
		"no blob and no reason":               func(s *store.Snapshot) { s.Keys[0].Blob = nil },
		"a changed byte in the blob's header": func(s *store.Snapshot) { s.Keys[0].Blob[0] ^= 1 },
		"a changed byte in the ciphertext":    func(s *store.Snapshot) { s.Keys[0].Blob[100] ^= 1 },
		"a changed label":                     func(s *store.Snapshot) { s.Keys[0].Label = "three" },
		"a blob cut short":                    func(s *store.Snapshot) { s.Keys[0].Blob = s.Keys[0].Blob[:200] },
		"a blob under another DKEK that says so": func(s *store.Snapshot) {
			p := openBlob(t, key, s.Keys[0].Blob)
			s.Keys[0].Blob = seal(t, other, p)
		},
		"another list in the record": func(s *store.Snapshot) { s.Keys[0].Algorithms = []byte{0x70} },
	} {
		s := cloneKeys(good)
		change(s)
		v, err := VerifyOffline(context.Background(), cat, []*store.Snapshot{s}, key, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if v.OK() || !v.Damaged() || v.Snapshots[0].Keys[0].Reason == "" {
			t.Errorf("%s is not found: %+v", name, v.Snapshots[0].Keys[0])
		}
		if !v.Snapshots[0].Keys[1].OK {
			t.Errorf("%s: the other key is blamed too: %s", name, v.Snapshots[0].Keys[1].Reason)
		}
	}
	// A blob under a DKEK that is simply another one is no damage: other
	// shares may open it.
	s := cloneKeys(good)
	s.Keys[0].Blob = seal(t, other, openBlob(t, key, s.Keys[0].Blob))
	s.Keys[0].KCV = other.KCV().String()
	v, err := VerifyOffline(context.Background(), cat, []*store.Snapshot{s}, key, Options{})
	if err != nil || v.OK() || v.Damaged() || !strings.Contains(v.Snapshots[0].Keys[0].Reason, other.KCV().String()) {
		t.Errorf("a blob under another DKEK: %+v, %v", v.Snapshots[0].Keys[0], err)
	}
}

func openBlob(t testing.TB, key *dkek.Key, blob []byte) *dkek.PrivateKey {
	t.Helper()
	b, err := dkek.ParseBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	p, err := key.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func seal(t testing.TB, key *dkek.Key, p *dkek.PrivateKey) []byte {
	t.Helper()
	blob, err := key.Seal(p, dkek.SealOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// Every flipped bit of what is stored with a key is found offline, if not by
// its hash then by its meaning; here the hashes are computed anew.
func TestOfflineEveryFlippedByteOfABlob(t *testing.T) {
	_, good, key := twoKeys(t)
	k := good.Keys[0]
	for i := range k.Blob {
		changed := k
		changed.Blob = bytes.Clone(k.Blob)
		changed.Blob[i] ^= 1 << (i % 8)
		if p := openStored(&changed, key); p.OK {
			t.Errorf("byte %d of the blob changed is not found", i)
		}
	}
	if p := openStored(&k, key); !p.OK || p.Matched != "request" {
		t.Errorf("%+v", p)
	}
}

func TestCheckFindsDamageAndOldCopies(t *testing.T) {
	cat, _, _ := twoKeys(t)
	v, err := Check(cat, nil, 0)
	if err != nil || !v.OK() || v.Anchored != NotAnchored {
		t.Fatalf("%+v, %v", v, err)
	}
	v, err = Check(cat, make([]byte, 32), 66)
	if err != nil || v.OK() || len(v.Findings) != 1 || v.Anchored != NotAnchored {
		t.Errorf("words of another catalog: %+v, %v", v, err)
	}
}

// A key without its request: its public key is known to nobody, and it is
// proven and restored all the same, by its check value.
func TestKeyWithoutPublicKey(t *testing.T) {
	ctx := context.Background()
	for _, typ := range []string{"RSA-1024", "P-256", "brainpoolP384r1"} {
		cat := newCatalog(t)
		_, card := newToken(t, "3.5", "SOFT0200001")
		share := newShare(t, 1)
		initToken(t, card, cat, share)
		generate(t, card, 3, typ, "no request", []byte{3})
		if err := card.DeleteFile(ctx, 0xCE03); err != nil {
			t.Fatal(err)
		}
		r, err := Run(ctx, card, cat, Options{})
		if err != nil || !r.Complete() {
			t.Fatalf("%s: %v, %+v", typ, err, r)
		}
		if k := r.Snapshot.Keys[0]; len(k.PublicKey) != 0 || len(k.CheckValue) == 0 {
			t.Errorf("%s: public key of %d bytes, check value of %d", typ, len(k.PublicKey), len(k.CheckValue))
		}
		_, spare := newToken(t, "4.1", "SOFT0400002")
		initToken(t, spare, cat, share)
		if r := restoreAll(t, spare, cat, r.Snapshot); !r.Complete() {
			t.Errorf("%s: %+v", typ, r.Keys)
		}
		s := cloneKeys(r.Snapshot)
		s.Keys[0].CheckValue = bytes.Clone(s.Keys[0].CheckValue)
		s.Keys[0].CheckValue[5] ^= 1
		_, third := newToken(t, "4.1", "SOFT0400003")
		initToken(t, third, cat, share)
		if r := restoreAll(t, third, cat, s); r.Complete() || r.Keys[0].OK || !r.Keys[0].Damage {
			t.Errorf("%s: another check value is not noticed: %+v", typ, r.Keys)
		}
		if inv, err := Take(ctx, third); err != nil || len(inv.Keys) != 0 {
			t.Errorf("%s: what is not the key stays on the token", typ)
		}
	}
}

func TestIntactOfDescriptions(t *testing.T) {
	d := &pkcs15.KeyDescription{Kind: pkcs15.EC, Bits: 528}
	_, s, _ := twoKeys(t)
	public, err := pubkey.ParseSPKI(s.Keys[0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if describes(d, public) {
		t.Error("528 bits describe a P-256 key")
	}
	d.Bits = 256
	if !describes(d, public) {
		t.Error("256 bits do not describe a P-256 key")
	}
}

// onOtherCurve makes of a blob with a P-256 key, under a DKEK of these bytes, an
// authentic one on a curve that nobody knows (fact sheet §6.1, §6.5).
func onOtherCurve(t testing.TB, blob, key []byte) []byte {
	t.Helper()
	derive := func(n byte) []byte {
		k := sha256.Sum256(append(bytes.Clone(key), 0, 0, 0, n))
		return k[:]
	}
	b, err := dkek.ParseBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(derive(1))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, len(b.Ciphertext))
	cipher.NewCBCDecrypter(block, make([]byte, 16)).CryptBlocks(plain, b.Ciphertext)
	prime := curve.ByName("P-256").P.Bytes()
	at := bytes.Index(plain, prime)
	if at < 0 {
		t.Fatal("no prime in the blob")
	}
	plain[at+len(prime)-1] ^= 4
	sealed := make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(sealed, plain)
	out := append(bytes.Clone(blob[:len(blob)-16-len(plain)]), sealed...)
	mac, err := cmac.Sum(derive(2), out)
	if err != nil {
		t.Fatal(err)
	}
	return append(out, mac[:]...)
}

// A token may know more curves than this program: a key on one of those is
// named as what it is, not proven and not called damaged. Its description says
// how large it is.
func TestUnknownCurve(t *testing.T) {
	ctx := context.Background()
	cat, good, key := twoKeys(t)
	share := newShare(t, 1)
	strange := cloneKeys(good)
	k := &strange.Keys[0]
	k.Blob, k.PublicKey, k.PublicFrom, k.Certificate = onOtherCurve(t, k.Blob, share.Bytes()), nil, "", nil
	k.Description = (&pkcs15.KeyDescription{Kind: pkcs15.EC, Label: "one", ID: []byte{1}, Bits: 320, Usage: pkcs15.Usage(k.Usage)}).Encode()
	k.Type = "EC-320"
	if err := cat.AddSnapshot(ctx, strange); err != nil {
		t.Fatal(err)
	}
	v, err := VerifyOffline(ctx, cat, []*store.Snapshot{strange}, key, Options{})
	if err != nil || v.OK() || v.Damaged() || !strings.Contains(v.Snapshots[0].Keys[0].Reason, "curve that is not known here") || !v.Snapshots[0].Keys[1].OK {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := Check(cat, nil, 0); err != nil || v.Damaged() {
		t.Errorf("%+v, %v", v, err)
	}
	r := adopt(t, newCatalog(t), []AdoptFile{{"strange.bin", (&dkek.Container{Blob: k.Blob, Description: k.Description}).Encode()}}, AdoptOptions{Key: key})
	if f := r.Files[0]; f.Damage || !f.Kept || f.Proof == store.ProofOpened || !strings.Contains(strings.Join(f.Notes, " "), "curve that is not known here") {
		t.Errorf("%+v", f)
	}
}

// A proof puts its copy where nothing at all is: what is left of a deleted key
// would stand beside it, and go with it.
func TestFreeReference(t *testing.T) {
	ctx := context.Background()
	_, card, _ := oneKey(t)
	free := func(want byte) {
		t.Helper()
		if n, err := freeReference(ctx, card); err != nil || n != want {
			t.Errorf("%d is free, want %d (%v)", n, want, err)
		}
	}
	free(255)
	for _, f := range []schsm.FID{schsm.CertificateFile(255), schsm.DescriptionFile(254)} {
		if err := card.WriteFile(ctx, f, []byte("left")); err != nil {
			t.Fatal(err)
		}
	}
	free(253)
	if err := card.GenerateAES(ctx, 253, 128, nil); err != nil { // a key and no more
		t.Fatal(err)
	}
	free(252)
}
