package dkek

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
)

// keeper is someone that a part can be sealed to.
type keeper struct {
	name, recipient string
	identity        []byte // content of the file
	postQuantum     bool
}

func sshKeeper(t testing.TB, name string, public, private any) keeper {
	t.Helper()
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "alice@example")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + " alice@example"
	return keeper{name, line, pem.EncodeToMemory(block), false}
}

func keepers(t testing.TB) []keeper {
	t.Helper()
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaPrivate, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return []keeper{
		{"X25519", x.Recipient().String(), []byte("# created: 2026\n# public key: " + x.Recipient().String() + "\n" + x.String() + "\n"), false},
		{"hybrid", pq.Recipient().String(), []byte(pq.String()), true},
		sshKeeper(t, "ssh-ed25519", edPublic, edPrivate),
		sshKeeper(t, "ssh-rsa", rsaPrivate.Public(), rsaPrivate),
	}
}

// A part sealed to a keeper opens with the keeper's identity, and no other.
func TestSealPart(t *testing.T) {
	p := randomPart(t)
	all := append(keepers(t), keepers(t)[0])
	for i, k := range all {
		sealed, err := SealPart(k.recipient, p)
		if err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		if !IsAge(sealed) || !bytes.HasPrefix(sealed, []byte(armor.Header)) || AgeNeedsPassword(sealed) || PostQuantum(k.recipient) != k.postQuantum {
			t.Errorf("%s: not an armored age file to a recipient", k.name)
		}
		if err := sealedIn(sealed, p); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		binary, err := plainAge(sealed)
		if err != nil || !IsAge(binary) || IsPart(binary) {
			t.Fatalf("%s: %v", k.name, err)
		}
		for _, file := range [][]byte{sealed, binary, append([]byte("\n \n"), sealed...), bytes.ReplaceAll(sealed, []byte("\n"), []byte("\r\n"))} {
			for j, o := range all {
				plain, err := OpenAge(file, o.identity, nil)
				if i != j {
					if plain != nil || !errors.Is(err, ErrWrongPassword) {
						t.Errorf("%s opens with %s: %v", k.name, o.name, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", k.name, err)
					continue
				}
				q, err := ParsePart(plain)
				if err != nil || !q.Equal(p) {
					t.Errorf("%s: opens to another part: %v", k.name, err)
				}
				q.Wipe()
			}
		}
		again, err := SealPart(" "+k.recipient+"\n", p)
		if err != nil || bytes.Equal(again, sealed) {
			t.Errorf("%s: sealed twice to the same, %v", k.name, err)
		}
	}
	// A file of several identities opens what is for any of them.
	sealed, err := SealPart(all[0].recipient, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAge(sealed, append(bytes.Clone(all[4].identity), all[0].identity...), nil); err != nil {
		t.Errorf("several identities: %v", err)
	}
	p.Wipe()
	if _, err := SealPart(all[0].recipient, p); !errors.Is(err, ErrFormat) {
		t.Errorf("a wiped part: %v", err)
	}
}

// sealedIn tells whether a sealed file has the part in clear.
func sealedIn(sealed []byte, p *Part) error {
	for _, clear := range [][]byte{p.Compact()[8:20], p.y.Bytes()[:8]} {
		if bytes.Contains(sealed, clear) {
			return errors.New("in clear")
		}
	}
	return nil
}

// Any age opens what is sealed here, and what it sealed opens here.
func TestSealPartIsAge(t *testing.T) {
	p := randomPart(t)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := SealPart(id.Recipient().String(), p)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), id)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(r); err != nil || !bytes.Equal(plain, p.Text()) {
		t.Errorf("%v", err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(p.CheckedText()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := OpenAge(out.Bytes(), []byte(id.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if q, err := ParsePart(plain); err != nil || !q.Equal(p) {
		t.Errorf("%v", err)
	}
}

// Under a password: age's own cost, so it is done few times.
func TestSealPartPassword(t *testing.T) {
	p := randomPart(t)
	password := []byte("ordinary trumpet grit clinic")
	sealed, err := SealPartPassword(password, p)
	if err != nil {
		t.Fatal(err)
	}
	if !IsAge(sealed) || !AgeNeedsPassword(sealed) {
		t.Error("not an age file under a password")
	}
	if err := sealedIn(sealed, p); err != nil {
		t.Error(err)
	}
	plain, err := OpenAge(sealed, nil, password)
	if err != nil {
		t.Fatal(err)
	}
	if q, err := ParsePart(plain); err != nil || !q.Equal(p) {
		t.Errorf("%v", err)
	}
	for name, wrong := range map[string][]byte{"another": []byte("ordinary trumpet grit clinic "), "none": nil} {
		plain, err := OpenAge(sealed, nil, wrong)
		if plain != nil || !errors.Is(err, ErrWrongPassword) || strings.Contains(err.Error(), "trumpet") {
			t.Errorf("%s password: %v", name, err)
		}
	}
	if _, err := SealPartPassword(nil, p); !errors.Is(err, ErrWeakPassword) {
		t.Errorf("an empty password: %v", err)
	}
	if string(password) != "ordinary trumpet grit clinic" {
		t.Error("the password was changed")
	}
}

// Recipients that only a device opens, that are secret, or that are mistyped.
func TestRecipientRefused(t *testing.T) {
	p := randomPart(t)
	all := keepers(t)
	x, pq, ed, rsaKey := all[0].recipient, all[1].recipient, all[2].recipient, all[3].recipient
	secretKey := strings.Fields(string(all[0].identity))
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecPublic, err := ssh.NewPublicKey(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	flip := func(s string, at int) string {
		c := byte('q')
		if s[at] == c {
			c = 'p'
		}
		return s[:at] + string(c) + s[at+1:]
	}
	for _, c := range []struct{ name, recipient, says string }{
		{"nothing", "", "not a recipient"},
		{"blanks", " \n", "not a recipient"},
		{"a name", "alice", "not a recipient"},
		{"age plugin", "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "plugin"},
		{"age plugin, upper case", strings.ToUpper("age1tpm1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"), "plugin"},
		{"security key, Ed25519", "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIA", "security key"},
		{"security key, ECDSA", "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20", "security key"},
		{"ECDSA", string(ssh.MarshalAuthorizedKey(ecPublic)), "ECDSA"},
		{"DSA", "ssh-dss AAAAB3NzaC1kc3MAAACBAP", "SSH public key"},
		{"SSH, cut", ed[:40], "SSH public key"},
		{"RSA, cut", rsaKey[:100], "SSH public key"},
		{"secret key of age", secretKey[len(secretKey)-1], "secret key"},
		{"secret key of age, lower case", strings.ToLower(secretKey[len(secretKey)-1]), "secret key"},
		{"post-quantum secret key", string(all[1].identity), "secret key"},
		{"SSH private key", string(all[2].identity), "secret key"},
		{"X25519, mistyped", flip(x, 30), "character"},
		{"X25519, cut", x[:len(x)-1], "character"},
		{"hybrid, mistyped", flip(pq, 900), "character"},
		{"hybrid, cut", pq[:len(pq)-2], "character"},
		{"tag recipient", "age1tag1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "plugin"},
		{"part", string(p.Compact()), "not a recipient"},
		{"two", x + "\n" + ed, ""},
	} {
		sealed, err := SealPart(c.recipient, p)
		if sealed != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		noSecret(t, c.name, err, []*Part{p}, p.y.Bytes())
		for i := 0; i+16 <= len(c.recipient); i += 8 { // it may be a secret
			if strings.Contains(err.Error(), c.recipient[i:i+16]) {
				t.Errorf("%s: the message repeats it: %v", c.name, err)
			}
		}
	}
}

// Identities that do not do, and files that were altered. Nothing opens to
// another part, and messages repeat nothing.
func TestOpenAgeReject(t *testing.T) {
	p := randomPart(t)
	k := keepers(t)
	sealed, err := SealPart(k[0].recipient, p)
	if err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	secretKey := string(k[0].identity[bytes.Index(k[0].identity, []byte("AGE-SECRET")):])
	for _, c := range []struct {
		name     string
		file     []byte
		identity string
		is       error
	}{
		{"no identity", sealed, "", ErrWrongPassword},
		{"comments for an identity", sealed, "# nothing\n", ErrFormat},
		{"recipient for an identity", sealed, k[0].recipient, ErrFormat},
		{"identity, mistyped", sealed, strings.Replace(secretKey, "AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1Q", 1), ErrFormat},
		{"identity under a passphrase", sealed, string(pem.EncodeToMemory(locked)), ErrFormat},
		{"plugin identity", sealed, "AGE-PLUGIN-YUBIKEY-1QQQQQQQQQQQQQ", ErrFormat},
		{"part in place of the identity", sealed, string(p.Text()), ErrFormat},
		{"no age file", p.Text(), secretKey, ErrFormat},
		{"nothing", nil, secretKey, ErrFormat},
		{"armor only", []byte(armor.Header + "\n" + armor.Footer + "\n"), secretKey, ErrFormat},
		{"magic only", ageMagic, secretKey, ErrTampered},
	} {
		plain, err := OpenAge(c.file, []byte(c.identity), nil)
		if plain != nil || !errors.Is(err, c.is) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		noSecret(t, c.name, err, []*Part{p}, p.y.Bytes())
		for i := 0; i+16 <= len(c.identity); i += 8 {
			if strings.Contains(err.Error(), c.identity[i:i+16]) {
				t.Errorf("%s: the message repeats it: %v", c.name, err)
			}
		}
	}
	for name, file := range map[string][]byte{"armored": sealed, "binary": mustPlainAge(t, sealed)} {
		for n := range file {
			if plain, err := OpenAge(file[:n], k[0].identity, nil); err == nil && n < len(bytes.TrimSpace(file)) || plain != nil && err != nil {
				t.Fatalf("%s, cut to %d of %d bytes: %v", name, n, len(file), err)
			}
		}
		for i := range file {
			flips := []byte{0x01, 0x80}
			if testing.Short() {
				flips = flips[i%2:][:1]
			}
			for _, flip := range flips {
				bad := bytes.Clone(file)
				bad[i] ^= flip
				plain, err := OpenAge(bad, k[0].identity, nil)
				if err == nil {
					// Armor has characters that do not count; the part is the same.
					if q, err := ParsePart(plain); err != nil || !q.Equal(p) || name == "binary" {
						t.Fatalf("%s, byte %d: passes", name, i)
					}
					continue
				}
				if plain != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTampered) && !errors.Is(err, ErrWrongPassword) {
					t.Fatalf("%s, byte %d: %v", name, i, err)
				}
			}
		}
	}
	if plain, err := OpenAge(append(mustPlainAge(t, sealed), 0), k[0].identity, nil); plain != nil || !errors.Is(err, ErrTampered) {
		t.Errorf("a byte more: %v", err)
	}
}

func mustPlainAge(t testing.TB, sealed []byte) []byte {
	t.Helper()
	b, err := plainAge(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b)
}

// A recipient that is an SSH key gives its blob, so that the catalog can be
// asked whether it knows it.
func TestRecipientKey(t *testing.T) {
	for _, k := range keepers(t) {
		got := RecipientKey(k.recipient)
		if !strings.HasPrefix(k.recipient, "ssh-") {
			if got != nil {
				t.Errorf("%s: %x", k.name, got)
			}
			continue
		}
		want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.recipient))
		if err != nil || !bytes.Equal(got, want.Marshal()) {
			t.Errorf("%s: %x, %v", k.name, got, err)
		}
	}
	for _, none := range []string{"", "ssh-ed25519", "ssh-ed25519 !!!", "age1x", "from=\"x\" ssh-rsa AAAA"} {
		if got := RecipientKey(none); got != nil {
			t.Errorf("%q: %x", none, got)
		}
	}
}

func TestIsAge(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "age": false, "age-encryption.org/v1\n": true, "age-encryption.org/v2\n": false,
		armor.Header: true, "\r\n " + armor.Header: true, "x" + armor.Header: false, "Salted__": false, "hsmpart1": false,
	} {
		if IsAge([]byte(text)) != want {
			t.Errorf("%q", text)
		}
		if AgeNeedsPassword([]byte(text)) {
			t.Errorf("%q needs a password", text)
		}
	}
}

func FuzzOpenAge(f *testing.F) {
	id, err := age.ParseX25519Identity(identityOf44)
	if err != nil {
		f.Fatal(err)
	}
	p := fixedPart(f)
	sealed, err := SealPart(id.Recipient().String(), p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(mustPlainAge(f, sealed))
	f.Add([]byte(armor.Header + "\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if AgeNeedsPassword(file) {
			return // at a cost that the file chooses
		}
		plain, err := OpenAge(file, []byte(identityOf44), nil)
		if err != nil && (plain != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTampered) && !errors.Is(err, ErrWrongPassword)) {
			t.Fatal(err)
		}
	})
}
