package backup

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/softtoken"
	"hsmbackup/internal/tlv"
	"hsmbackup/store"
)

// golden reads files of testdata, as they were given to Adopt.
func golden(t testing.TB, names ...string) []AdoptFile {
	t.Helper()
	var list []AdoptFile
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join("..", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, AdoptFile{name, b})
	}
	return list
}

// goldenShares opens the share files of testdata once: each takes seconds.
var goldenShares = sync.OnceValues(func() (map[string][]byte, error) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "testdata", name))
		if err != nil {
			panic(err)
		}
		return b
	}
	names := []string{"a.pbe", "b1.pbe", "b2.pbe", "thr.pbe"}
	passwords := [][]byte{[]byte("testpw-1"), []byte("correct horse"), []byte("battery staple 9"), {0x5B, 0xA5, 0x29, 0x23, 0x03, 0xAE, 0xBB, 0x5F}}
	var files [][]byte
	for _, n := range names {
		files = append(files, read(n))
	}
	shares, errs := dkek.OpenPBEs(context.Background(), files, passwords, nil)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for set, parts := range map[string][]*dkek.Share{"a": shares[:1], "b": shares[1:3], "c": shares[3:]} {
		key, err := dkek.Combine(parts...)
		if err != nil {
			return nil, err
		}
		out[set] = key.Bytes()
	}
	return out, nil
})

func goldenKey(t testing.TB, set string) *dkek.Key {
	t.Helper()
	keys, err := goldenShares()
	if err != nil {
		t.Fatal(err)
	}
	key, err := dkek.KeyFromBytes(bytes.Clone(keys[set]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

func adopt(t testing.TB, cat *store.Catalog, files []AdoptFile, o AdoptOptions) *AdoptReport {
	t.Helper()
	r, err := Adopt(context.Background(), cat, files, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Files {
		if f.OK && (f.Damage || f.Reason != "") || f.Damage && f.Reason == "" || f.Kept && f.SameAs != "" {
			t.Errorf("%s contradicts itself: %+v", f.Name, f)
		}
	}
	if r.Snapshot == nil {
		return r
	}
	s, err := read(t, cat).Find(r.Snapshot.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Adopted || s.Token.Serial != "" {
		t.Errorf("the snapshot is of token %q, adopted: %v", s.Token.Serial, s.Adopted)
	}
	for i := range s.Keys {
		if err := intact(&s.Keys[i]); err != nil {
			t.Errorf("key %q: %v", s.Keys[i].Label, err)
		}
	}
	return r
}

func goldenPublic(t testing.TB, name string) *pubkey.Key {
	t.Helper()
	b := golden(t, name)[0].Content
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is no PEM", name)
	}
	key, err := pubkey.ParseSPKI(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// All golden files, under three recovery keys: each is adopted, opened with its
// own and matched, and is the key that its public key says.
func TestAdoptGolden(t *testing.T) {
	all := golden(t, "a-rsa2048.bin", "a-p256.bin", "a-p256.again.bin", "a-utf8.bin", "a-withcert.bin", "a-aes128.bin", "b-p256.bin", "c-rsa2048.bin")
	publics := map[string]string{
		"a-rsa2048.bin": "rsa2048.pub.pem", "a-p256.bin": "p256.pub.pem", "a-p256.again.bin": "p256.pub.pem", "a-utf8.bin": "utf8.pub.pem",
		"a-withcert.bin": "withcert.pub.pem", "b-p256.bin": "b-p256.pub.pem", "c-rsa2048.bin": "c-rsa2048.pub.pem",
	}
	matched := map[string]string{"a-withcert.bin": "certificate", "a-aes128.bin": "self"}
	cat := newCatalog(t)
	opened := map[string]bool{}
	for _, set := range []string{"a", "b", "c"} {
		key := goldenKey(t, set)
		r := adopt(t, cat, all, AdoptOptions{Key: key})
		if r.Existing != (set != "a") || len(r.Snapshot.Keys) != 7 || r.Damaged() {
			t.Fatalf("%s: %d keys, %+v", set, len(r.Snapshot.Keys), r.Files)
		}
		for _, f := range r.Files {
			ours := strings.HasPrefix(f.Name, set+"-")
			if f.SameAs != "" && (f.SameAs != "a-p256.bin" || f.Name != "a-p256.again.bin") || f.Kept == (f.SameAs != "") {
				t.Errorf("%s: same as %q, kept %v", f.Name, f.SameAs, f.Kept)
			}
			// what an earlier round opened stays proven
			if want := ours || opened[f.Name]; f.OK != want || !want && !strings.Contains(f.Reason, "bring the shares of "+f.KCV) {
				t.Errorf("%s with the shares of %s: %v, %s", f.Name, set, f.OK, f.Reason)
			}
			if !ours {
				continue
			}
			opened[f.Name] = true
			want := matched[f.Name]
			if want == "" {
				want = "request"
			}
			if f.Proof != store.ProofOpened || f.Matched != want || f.KCV != key.KCV().String() || !f.ShareSeen {
				t.Errorf("%s: %+v", f.Name, f)
			}
			if name := publics[f.Name]; name != "" && !f.Public.Equal(goldenPublic(t, name)) {
				t.Errorf("%s: another public key", f.Name)
			}
		}
		// b-p256 and c-rsa2048 both say 1.
		var refs []int
		for _, k := range r.Snapshot.Keys {
			refs = append(refs, k.Reference)
		}
		if want := []int{2, 5, 13, 14, 0, 0, 0}; !slices.Equal(refs, want) {
			t.Errorf("references %v, want %v", refs, want)
		}
		v, err := VerifyOffline(context.Background(), cat, []*store.Snapshot{r.Snapshot}, key, Options{})
		if err != nil || v.Damaged() {
			t.Fatalf("%+v, %v", v, err)
		}
		for _, k := range v.Snapshots[0].Keys {
			if k.OK != (k.Matched != "") || k.OK == strings.Contains(k.Reason, "bring the shares") {
				t.Errorf("%+v", k)
			}
		}
		if again := adopt(t, cat, all, AdoptOptions{}); !again.Existing || again.Snapshot.ID != r.Snapshot.ID {
			t.Errorf("the same files again made snapshot %s beside %s", again.Snapshot.ID, r.Snapshot.ID)
		}
	}
	f := adopt(t, cat, golden(t, "a-rsa2048.bin"), AdoptOptions{}).Files[0]
	if list := read(t, cat).Latest(); len(list) != 2 {
		t.Errorf("of adopted snapshots none takes the place of another, but %d are newest", len(list))
	}
	if f.MadeOn != "ESPICOHSM01" || f.Vouched {
		t.Errorf("made on %q, vouched %v", f.MadeOn, f.Vouched)
	}
}

// parts takes a golden container apart.
func parts(t testing.TB, file []byte) (blob, description, certificate []byte) {
	t.Helper()
	c, err := dkek.ParseContainer(file)
	if err != nil {
		t.Fatal(err)
	}
	return c.Blob, c.Description, c.Certificate
}

func wrapped(blob []byte, rest ...[]byte) []byte {
	return tlv.Encode(0x30, append([][]byte{tlv.Encode(0x04, blob)}, rest...)...)
}

// What real files lack or have too much of.
func TestAdoptOddFiles(t *testing.T) {
	key := goldenKey(t, "a")
	rsa, ec := golden(t, "a-rsa2048.bin")[0].Content, golden(t, "a-p256.bin")[0].Content
	x509, aes := golden(t, "a-withcert.bin")[0].Content, golden(t, "a-aes128.bin")[0].Content
	rb, rd, rr := parts(t, rsa)
	eb, ed, er := parts(t, ec)
	xb, xd, xc := parts(t, x509)
	ab, _, _ := parts(t, aes)
	for _, test := range []struct {
		name             string
		content          []byte
		noKey            bool
		kept, ok, damage bool
		label, typ, says string
	}{
		{name: "certificate in the place of the description", content: wrapped(xb, xc), kept: true, ok: true, label: "certificate in the place of the description", typ: "RSA-2048", says: "one was made"},
		{name: "request there", content: wrapped(eb, er), noKey: true, kept: true, label: "request there", typ: "P-256", says: "no shares"},
		{name: "no certificate", content: wrapped(rb, rd), kept: true, ok: true, label: "rsa 2048 key", typ: "RSA-2048"},
		{name: "no certificate, no shares", content: wrapped(rb, rd), noKey: true, kept: true, label: "rsa 2048 key", typ: "RSA-2048", says: "no shares"},
		{name: "blob.alone", content: eb, kept: true, ok: true, label: "blob", typ: "P-256", says: "one was made"},
		{name: "blob alone, no shares", content: eb, noKey: true, kept: true, typ: "EC", says: "PKCS#11 will not show"},
		{name: "aes alone", content: wrapped(ab), kept: true, ok: true, label: "aes alone", typ: "AES-128", says: "one was made"},
		{name: "trailing", content: append(bytes.Clone(rsa), 0, 0, 0), kept: true, ok: true, label: "rsa 2048 key", typ: "RSA-2048", says: "3 bytes"},
		{name: "other order", content: wrapped(rb, rr, rd), kept: true, ok: true, label: "rsa 2048 key", typ: "RSA-2048"},
		{name: "another key's request", content: wrapped(rb, rd, xc), kept: true, damage: true, label: "rsa 2048 key", typ: "RSA-2048", says: "left out"},
		{name: "another kind's description", content: wrapped(rb, ed, rr), kept: true, damage: true, label: "another kind's description", typ: "RSA-2048", says: "left out"},
		{name: "another kind's description, no shares", content: wrapped(rb, ed, rr), noKey: true, damage: true, typ: "RSA", says: "EC"},
		{name: "another kind's request, no shares", content: wrapped(eb, ed, rr), noKey: true, damage: true, typ: "EC", says: "RSA"},
		{name: "a certificate for AES, no shares", content: wrapped(ab, xd, xc), noKey: true, damage: true, typ: "AES"},
		{name: "text", content: []byte("nothing of the kind"), damage: true},
		{name: "empty", damage: true},
		{name: "a share", content: golden(t, "a.pbe")[0].Content, damage: true, says: "share file"},
	} {
		o := AdoptOptions{Key: key}
		if test.noKey {
			o.Key = nil
		}
		r := adopt(t, newCatalog(t), []AdoptFile{{test.name, test.content}}, o)
		f := r.Files[0]
		if f.Kept != test.kept || f.OK != test.ok || f.Damage != test.damage || f.Label != test.label || f.Type != test.typ {
			t.Errorf("%s: %+v", test.name, f)
		}
		if said := f.Reason + strings.Join(f.Notes, "; "); !strings.Contains(said, test.says) {
			t.Errorf("%s: %s", test.name, said)
		}
		if (r.Snapshot != nil) != test.kept {
			t.Errorf("%s: snapshot %v", test.name, r.Snapshot)
		}
	}
}

// One bad file does not keep the others out.
func TestAdoptGoesOn(t *testing.T) {
	files := golden(t, "a-rsa2048.bin", "a.pbe", "a-p256.bin")
	files = append(files, AdoptFile{"a-p256.bin", files[2].Content}) // the same name, too
	r := adopt(t, newCatalog(t), files, AdoptOptions{Key: goldenKey(t, "a")})
	if len(r.Snapshot.Keys) != 2 || !r.Files[0].OK || r.Files[1].OK || !r.Files[2].OK || !r.Files[3].OK || !r.Damaged() || r.Files[3].SameAs != "a-p256.bin" {
		t.Errorf("%+v", r.Files)
	}
}

// What was proven once is remembered, and a file that contradicts it is none.
func TestAdoptRemembers(t *testing.T) {
	cat := newCatalog(t)
	rsa := golden(t, "a-rsa2048.bin")[0]
	blob, d, _ := parts(t, rsa.Content)
	_, _, other := parts(t, golden(t, "a-withcert.bin")[0].Content)
	mixed := AdoptFile{"mixed.bin", wrapped(blob, d, other)}
	if f := adopt(t, newCatalog(t), []AdoptFile{mixed}, AdoptOptions{}).Files[0]; f.OK || f.Damage {
		t.Errorf("without shares it cannot be told, and nothing is proven: %+v", f)
	}
	adopt(t, cat, []AdoptFile{rsa}, AdoptOptions{Key: goldenKey(t, "a")})
	r := adopt(t, cat, []AdoptFile{mixed, {"alone.bin", wrapped(blob, d)}}, AdoptOptions{})
	if f := r.Files[0]; f.Kept || !f.Damage || !strings.Contains(f.Reason, "of another key") {
		t.Errorf("%+v", f)
	}
	if f := r.Files[1]; !f.OK || f.Proof != store.ProofOpened || !f.Public.Equal(goldenPublic(t, "rsa2048.pub.pem")) {
		t.Errorf("%+v", f)
	}
}

// Of one key under two recovery keys the export is kept that opens, and the
// other is named.
func TestAdoptTwoRecoveryKeys(t *testing.T) {
	a, b := goldenKey(t, "a"), goldenKey(t, "b")
	file := golden(t, "a-p256.bin")[0]
	blob, d, req := parts(t, file.Content)
	parsed, err := dkek.ParseBlob(blob)
	if err != nil {
		t.Fatal(err)
	}
	private, err := a.Open(parsed)
	if err != nil {
		t.Fatal(err)
	}
	defer private.Wipe()
	under, err := b.Seal(private, dkek.SealOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := adopt(t, newCatalog(t), []AdoptFile{file, {"under-b.bin", wrapped(under, d, req)}}, AdoptOptions{Key: b})
	if len(r.Snapshot.Keys) != 1 || r.Snapshot.Keys[0].KCV != b.KCV().String() {
		t.Fatalf("%+v", r.Snapshot.Keys)
	}
	if f := r.Files[0]; f.Kept || f.OK || f.Damage || !strings.Contains(f.Reason, "another recovery key: not kept") {
		t.Errorf("%+v", f)
	}
	if f := r.Files[1]; !f.OK || f.Matched != "request" {
		t.Errorf("%+v", f)
	}
}

// Mutated files are never taken for something else: whatever is adopted as
// opened is one of the true keys, with nothing beside it that is another's.
func TestAdoptMutated(t *testing.T) {
	names := []string{"a-rsa2048.bin", "a-p256.bin", "a-withcert.bin", "a-aes128.bin", "a-utf8.bin"}
	files := golden(t, names...)
	key := goldenKey(t, "a")
	keys := map[string]string{} // blob → what the key is
	for _, f := range files {
		blob, _, c := parts(t, f.Content)
		keys[string(blob)] = identityOf(c)
	}
	var mutants []AdoptFile
	add := func(what string, i int, content []byte) {
		mutants = append(mutants, AdoptFile{fmt.Sprintf("%s of %s", what, names[i]), content})
	}
	for i, f := range files {
		blob, d, c := parts(t, f.Content)
		elements := [][]byte{tlv.Encode(0x04, blob), d}
		if c != nil {
			elements = append(elements, c)
		}
		for j := range elements {
			dropped := slices.Delete(slices.Clone(elements), j, j+1)
			add(fmt.Sprintf("element %d dropped", j), i, tlv.Encode(0x30, dropped...))
			for k, other := range files {
				ob, od, oc := parts(t, other.Content)
				swap := [][]byte{tlv.Encode(0x04, ob), od, oc}[j]
				if k != i && swap != nil {
					swapped := slices.Clone(elements)
					swapped[j] = swap
					add(fmt.Sprintf("element %d swapped with %s", j, names[k]), i, tlv.Encode(0x30, swapped...))
				}
			}
			for _, tag := range []byte{0x04, 0x30, 0xA0, 0xA8, 0x67, 0x31, 0x02} {
				retagged := slices.Clone(elements)
				retagged[j] = bytes.Clone(elements[j])
				retagged[j][0] = tag
				add(fmt.Sprintf("element %d as %02X", j, tag), i, tlv.Encode(0x30, retagged...))
			}
			cut := slices.Clone(elements)
			cut[j] = elements[j][:len(elements[j])-1]
			add(fmt.Sprintf("element %d cut", j), i, tlv.Encode(0x30, cut...))
			grown := slices.Clone(elements)
			grown[j] = append(bytes.Clone(elements[j]), 0)
			add(fmt.Sprintf("element %d grown", j), i, tlv.Encode(0x30, grown...))
		}
		twice := append(slices.Clone(elements), elements[len(elements)-1])
		add("last element twice", i, tlv.Encode(0x30, twice...))
		for n := 0; n < len(f.Content); n += 1 + len(f.Content)/60 {
			add(fmt.Sprintf("first %d bytes", n), i, f.Content[:n])
			flipped := bytes.Clone(f.Content)
			flipped[n] ^= 0x10
			add(fmt.Sprintf("byte %d flipped", n), i, flipped)
		}
	}
	cat := newCatalog(t)
	for _, o := range []AdoptOptions{{Key: key}, {}} {
		whole := 0
		a := &adoption{h: newHistory(read(t, nil)), o: o, devices: map[string]*pubkey.Key{}}
		var sound []AdoptFile
		for _, m := range mutants {
			var report AdoptedFile
			k := a.read(m, &report)
			if k == nil {
				if !report.Damage || report.Reason == "" {
					t.Errorf("%s: left out, and nothing said: %+v", m.Name, report)
				}
				continue
			}
			sound = append(sound, m)
			if !k.opened {
				if report.Proof != "" {
					t.Errorf("%s: %s without having been opened", m.Name, report.Proof)
				}
				continue
			}
			whole++
			id, known := keys[string(k.key.Blob)]
			if !known {
				t.Errorf("%s: a blob was opened that no token wrote", m.Name)
				continue
			}
			if public, _ := publicKey(k.key.Certificate); public != nil && "public "+string(public.SPKI()) != id {
				t.Errorf("%s: another key's certificate stays beside it", m.Name)
			}
			if k.public != nil && "public "+string(k.public.SPKI()) != id {
				t.Errorf("%s: taken for another key", m.Name)
			}
		}
		if o.Key != nil && whole == 0 {
			t.Error("no mutant opens: the test mutates too much")
		}
		adopt(t, cat, sound, o) // what can be read together is recorded and intact
	}
}

// identityOf is what tells a golden key from others.
func identityOf(certificate []byte) string {
	if public, _ := publicKey(certificate); public != nil {
		return "public " + string(public.SPKI())
	}
	return "secret"
}

// FuzzAdopt: no file makes it panic, contradict itself, or record what does not
// check out.
func FuzzAdopt(f *testing.F) {
	for _, g := range golden(f, "a-rsa2048.bin", "a-withcert.bin", "a-aes128.bin", "a-utf8.bin") {
		f.Add(g.Content)
	}
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, content []byte) {
		a := &adoption{h: newHistory(read(t, nil)), devices: map[string]*pubkey.Key{}}
		report := AdoptedFile{Name: "fuzz.bin"}
		k := a.read(AdoptFile{report.Name, content}, &report)
		if (k == nil) != report.Damage {
			t.Fatalf("%+v", report)
		}
		if k == nil {
			return
		}
		a.list = []*adoptee{k}
		a.merge()
		a.place()
		a.describe()
		if err := intact(&k.key); err != nil {
			t.Fatal(err)
		}
	})
}

// wrapOn exports a key of a token the way sc-hsm-tool does.
func wrapOn(t testing.TB, card *schsm.Card, reference byte) AdoptFile {
	t.Helper()
	ctx := context.Background()
	blob, err := card.Wrap(ctx, reference)
	if err != nil {
		t.Fatal(err)
	}
	c := dkek.Container{Blob: blob}
	if c.Description, err = card.ReadFile(ctx, schsm.DescriptionFile(reference)); err != nil {
		t.Fatal(err)
	}
	if c.Certificate, err = card.ReadFile(ctx, schsm.CertificateFile(reference)); err != nil {
		c.Certificate = nil // AES
	}
	return AdoptFile{fmt.Sprintf("key%d.bin", reference), c.Encode()}
}

// generateAES makes an AES-256 key with its description.
func generateAES(t testing.TB, card *schsm.Card, reference byte, label string) {
	t.Helper()
	ctx := context.Background()
	if err := card.GenerateAES(ctx, reference, 256, []byte{0x10, 0x11, 0x18, 0x92}); err != nil {
		t.Fatal(err)
	}
	d := pkcs15.KeyDescription{Kind: pkcs15.AES, Label: label, ID: []byte{reference}, Usage: pkcs15.DefaultUsage(pkcs15.AES), Bits: 256, Reference: -1}
	if err := card.WriteFile(ctx, schsm.DescriptionFile(reference), d.Encode()); err != nil {
		t.Fatal(err)
	}
}

// With a token attached files and keys are compared, places come from there,
// and what was read from a token counts before files.
func TestAdoptWithToken(t *testing.T) {
	ctx := context.Background()
	cat := newCatalog(t)
	_, card := newToken(t, "3.6", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, card, nil, share)
	generate(t, card, 1, "P-256", "one", []byte{1})
	generate(t, card, 2, "RSA-1024", "two", []byte{2})
	generate(t, card, 3, "P-384", "three", []byte{3})
	generateAES(t, card, 4, "four")
	files := []AdoptFile{wrapOn(t, card, 1), wrapOn(t, card, 2), wrapOn(t, card, 4)}
	// Of the first the description got lost; the second says another reference.
	blob, _, request := parts(t, files[0].Content)
	files[0].Content = wrapped(blob, request)
	blob, d, request := parts(t, files[1].Content)
	says, err := pkcs15.ParseKey(d)
	if err != nil {
		t.Fatal(err)
	}
	says.Reference, says.Label = 9, "as it was called then"
	files[1].Content = wrapped(blob, says.Encode(), request)
	files = append(files, golden(t, "a-p256.bin")...)

	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	r := adopt(t, cat, files, AdoptOptions{Key: key, Inventory: inv})
	for i, want := range []int{1, 2, 4, 5} {
		f := r.Files[i]
		if f.Reference != want || (f.On != nil) != (i < 3) || f.OK != (i < 3) || i < 3 && int(f.On.Reference) != want {
			t.Errorf("%s: %+v", f.Name, f)
		}
		if onToken := i < 3; onToken != slices.Contains(f.Tokens, "SOFT0200001") {
			t.Errorf("%s can go to %v", f.Name, f.Tokens)
		}
	}
	if f := r.Files[0]; f.MadeOn != "SOFT0200001" || !f.Vouched || f.Label != "one" || !strings.Contains(f.Notes[len(f.Notes)-1], "that on the token was taken") {
		t.Errorf("%+v", f)
	}
	if len(r.WithoutFile) != 1 || r.WithoutFile[0].Label != "three" {
		t.Errorf("without a file: %+v", r.WithoutFile)
	}
	h := newHistory(read(t, cat))
	coverage := func(label string) Coverage {
		for _, k := range inv.Keys {
			if k.Label == label {
				return h.cover(inv, k).Coverage
			}
		}
		return ""
	}
	if a, b, c := coverage("one"), coverage("two"), coverage("three"); a != Missing || b != Missing || c != Missing {
		t.Errorf("files are no snapshot of the token: %s, %s, %s", a, b, c)
	}
	// The first real snapshot, and then the old files once more.
	report, err := Run(ctx, card, cat, Options{})
	if err != nil || !report.Complete() {
		t.Fatalf("%+v, %v", report, err)
	}
	if again := adopt(t, cat, files[1:2], AdoptOptions{}); again.Existing || !slices.Contains(again.Files[0].InSnapshots, "SOFT0200001") || !again.Files[0].OK || !again.Files[0].Vouched {
		t.Errorf("%+v", again.Files[0])
	}
	covered := coverageOf(t, card, cat)
	if !Complete(covered) {
		t.Errorf("old files hide a backup: %+v, %v", covered, err)
	}
	if s, err := read(t, cat).Find("SOFT0200001"); err != nil || s.Adopted {
		t.Errorf("the newest snapshot of the token is %+v, %v", s, err)
	}
}

// An adopted snapshot restores: keys without a reference go to a free one, stay
// there on a second run, and go on after a cut.
func TestAdoptRestore(t *testing.T) {
	ctx := context.Background()
	_, old := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, old, nil, share)
	generate(t, old, 1, "P-256", "one", []byte{1})
	generate(t, old, 2, "RSA-1024", "two", []byte{2})
	generateAES(t, old, 3, "three")
	var files []AdoptFile
	for _, reference := range []byte{1, 2, 3} {
		f := wrapOn(t, old, reference)
		if reference != 2 {
			blob, _, request := parts(t, f.Content)
			f.Content = wrapped(blob, request)
		}
		files = append(files, f)
	}
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	cat := newCatalog(t)
	s := adopt(t, cat, files, AdoptOptions{Key: key}).Snapshot
	token, card := newToken(t, "4.1", "SOFT0400001")
	initToken(t, card, cat, share)
	generate(t, card, 1, "P-521", "mine", []byte{9})
	o := RestoreOptions{Journal: cat.Journal()}
	p, err := MakePlan(ctx, card, s, o)
	if err != nil || !p.Fits() {
		t.Fatalf("%+v, %v", p, err)
	}
	for i, want := range []byte{3, 2, 4} {
		if p.Items[i].Reference != want || p.Items[i].Action != New || (want != 2) != strings.Contains(p.Items[i].Reason, "is free") {
			t.Errorf("%+v", p.Items[i])
		}
	}
	// Cut off after the first UNWRAP: the next run goes on with the same places.
	pulled := false
	token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		if pulled = pulled || s == softtoken.After && c.INS == 0x74; pulled {
			return 0, apdu.ErrGone
		}
		return 0, nil
	})
	if _, err := Restore(ctx, card, cat, p, o); fail.ClassOf(err) != fail.Changed {
		t.Fatalf("cut off: %v", err)
	}
	card = login(t, token)
	r := restoreAll(t, card, cat, s)
	if !r.Complete() || r.Plan.Items[0].Action != Repair || r.Plan.Items[0].Reference != 3 {
		t.Errorf("%+v, %+v", r.Plan.Items, r.Keys)
	}
	for range 2 {
		r = restoreAll(t, card, cat, s)
		for i, item := range r.Plan.Items {
			if item.Action != Same || !r.Keys[i].OK {
				t.Errorf("a second run: %s %s %s", item.Key.Label, item.Action, r.Keys[i].Reason)
			}
		}
	}
	inv, err := Take(ctx, card)
	if err != nil || len(inv.Keys) != 4 {
		t.Fatalf("%d keys, %v", len(inv.Keys), err)
	}

	// One of them alone, at a place of choice.
	_, spare := newToken(t, "4.1", "SOFT0400002")
	initToken(t, spare, cat, share)
	one := store.HashOf(s.Keys[0].Blob)
	o = RestoreOptions{Blobs: []store.Hash{one}, AtBlob: map[store.Hash]byte{one: 77}, Journal: cat.Journal()}
	if p, err = MakePlan(ctx, spare, s, o); err != nil || len(p.Items) != 1 || p.Items[0].Reference != 77 {
		t.Fatalf("%+v, %v", p, err)
	}
	if r, err := Restore(ctx, spare, cat, p, o); err != nil || !r.Complete() {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := MakePlan(ctx, spare, s, RestoreOptions{Blobs: []store.Hash{{1}}}); err == nil {
		t.Error("a blob that is not there is planned")
	}
}

// Without shares an AES key, or one with nothing beside it, cannot be shown to
// be itself after a restore, and this is said.
func TestAdoptRestoreUnknown(t *testing.T) {
	_, old := newToken(t, "3.5", "SOFT0200001")
	share := newShare(t, 1)
	initToken(t, old, nil, share)
	generateAES(t, old, 3, "three")
	cat := newCatalog(t)
	s := adopt(t, cat, []AdoptFile{wrapOn(t, old, 3)}, AdoptOptions{}).Snapshot
	_, card := newToken(t, "4.1", "SOFT0400001")
	initToken(t, card, cat, share)
	for range 2 { // and no second copy is made
		r := restoreAll(t, card, cat, s)
		if r.Complete() || !strings.Contains(r.Keys[0].Reason, "neither its public key") || r.Keys[0].Reference != 1 {
			t.Errorf("%+v", r.Keys)
		}
	}
}

// The check value that is worked out on the host is what a token answers.
func TestCheckValueOf(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, "4.1", "SOFT0400001")
	share := newShare(t, 1)
	initToken(t, card, nil, share)
	key, err := dkek.Combine(share)
	if err != nil {
		t.Fatal(err)
	}
	for i, list := range [][]byte{{0x10, 0x11, 0x18, 0x92}, {0x11, 0x18, 0x92}, {0x18, 0x92}, {0x99, 0x92}} {
		reference := byte(i + 1)
		if err := card.GenerateAES(ctx, reference, 128<<(i%2), list); err != nil {
			t.Fatal(err)
		}
		blob, err := card.Wrap(ctx, reference)
		if err != nil {
			t.Fatal(err)
		}
		b, err := dkek.ParseBlob(blob)
		if err != nil {
			t.Fatal(err)
		}
		private, err := key.Open(b)
		if err != nil {
			t.Fatal(err)
		}
		want, err := checkValue(ctx, card, reference, subject{kind: pkcs15.AES, allows: schsm.KeyInfo{Algorithms: list}.Allows})
		if (err != nil) != (i == 3) {
			t.Fatal(err)
		}
		if got := checkValueOf(private, b.Algorithms); !bytes.Equal(got, want) {
			t.Errorf("list %x: %x, the token answers %x", list, got, want)
		}
		private.Wipe()
	}
}

// A request whose device signature was changed is not vouched for, and its key
// is adopted all the same: the key's own signature holds.
func TestAdoptForgedOrigin(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, "3.6", "SOFT0200001")
	initToken(t, card, nil, newShare(t, 1))
	generate(t, card, 1, "P-256", "one", []byte{1})
	inv, err := Take(ctx, card)
	if err != nil {
		t.Fatal(err)
	}
	blob, d, request := parts(t, wrapOn(t, card, 1).Content)
	forged := bytes.Clone(request)
	forged[len(forged)-1] ^= 1
	if _, err := cvc.ParseRequest(forged); err != nil {
		t.Fatal(err)
	}
	f := adopt(t, newCatalog(t), []AdoptFile{{"f.bin", wrapped(blob, d, forged)}}, AdoptOptions{Inventory: inv}).Files[0]
	if !f.Kept || f.Vouched || f.MadeOn != "SOFT0200001" || len(f.Notes) != 1 || !strings.Contains(f.Notes[0], "does not verify") {
		t.Errorf("%+v", f)
	}
}
