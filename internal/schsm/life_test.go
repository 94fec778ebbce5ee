package schsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/cmac"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// newToken makes a software token in memory and opens it.
func newToken(t testing.TB, o softtoken.Options) (*softtoken.Token, *Card) {
	t.Helper()
	token, err := softtoken.New(o)
	if err != nil {
		t.Fatal(err)
	}
	card, err := Open(context.Background(), token)
	if err != nil {
		t.Fatal(err)
	}
	return token, card
}

func testShare() []byte { return bytes.Repeat([]byte{0xA5}, 32) }

// setUp initialises a token and loads its only share.
func setUp(t testing.TB, card *Card) Domain {
	t.Helper()
	ctx := context.Background()
	if err := card.Initialise(ctx, Initialisation{Options: OptionUnblock, PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1}); err != nil {
		t.Fatal(err)
	}
	d, err := card.LoadShare(ctx, 0, testShare())
	if err != nil || !d.Ready() {
		t.Fatalf("%+v, %v", d, err)
	}
	return d
}

// tries gives the tries of the PIN as the token has them, not as it shows them
// to somebody who is logged in.
func tries(t testing.TB, token *softtoken.Token) int {
	t.Helper()
	card, err := Open(context.Background(), token)
	if err != nil {
		t.Fatal(err)
	}
	s, err := card.PIN(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.Tries
}

// count counts commands of an instruction that carry data, or do not.
func count(token *softtoken.Token, ins byte, data bool) *int {
	n := new(int)
	token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		if s == softtoken.Before && c.INS == ins && (len(c.Data) > 0) == data {
			*n++
		}
		return 0, nil
	})
	return n
}

func specFor(c *Card, algorithms ...byte) cvc.KeySpec {
	return cvc.KeySpec{CAR: "UTCA00001", CHR: c.Serial() + "00001", Algorithms: algorithms}
}

func TestWholeLife(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{Firmware: "3.5", Serial: "SOFT0200007"})
	if card.Serial() != "SOFT0200007" || card.Version() != (Version{3, 5}) || !card.Software() || len(card.Certificate()) == 0 {
		t.Fatalf("opened as %s, %s, software %v", card.Serial(), card.Version(), card.Software())
	}
	if ok, err := card.Initialised(ctx); ok || err != nil {
		t.Fatalf("a new token says initialised: %v, %v", ok, err)
	}
	if d, err := card.Domains(ctx); err != nil || len(d) != 0 {
		t.Fatalf("a new token has domains: %+v, %v", d, err)
	}
	if err := card.Login(ctx, testPIN(), true); !errors.Is(err, apdu.ErrNotFound) {
		t.Fatalf("login to a new token: %v", err)
	}
	err := card.Initialise(ctx, Initialisation{Options: OptionUnblock, PIN: testPIN(), SOPIN: testSOPIN(), Shares: 2, Label: "SSH «ü»"})
	if err != nil {
		t.Fatal(err)
	}
	if card.Options() != OptionUnblock {
		t.Errorf("options %04X after the initialisation", card.Options())
	}
	info, err := card.ReadFile(ctx, FIDTokenInfo)
	if err != nil {
		t.Fatal(err)
	}
	if label, err := pkcs15.ParseTokenInfo(info); err != nil || label != "SSH «ü»" {
		t.Errorf("label %q, %v", label, err)
	}
	if _, err := card.Generate(ctx, 1, cvc.KeySpec{RSABits: 1024, RSAExponent: 65537}); !errors.Is(err, apdu.ErrConditions) {
		t.Errorf("a key is made while shares are missing: %v", err)
	}
	// The shares and the KCV of the fact sheet (§6.1).
	if d, err := card.LoadShare(ctx, 0, testShare()); err != nil || d.Outstanding != 1 || d.Shares != 2 || d.Ready() {
		t.Fatalf("first share: %+v, %v", d, err)
	}
	d, err := card.LoadShare(ctx, 0, bytes.Repeat([]byte{0xE1}, 32))
	if err != nil || !d.Ready() || fmt.Sprintf("%X", d.KCV) != "BB391415C05E39D7" {
		t.Fatalf("second share: %+v, %v", d, err)
	}
	if _, err := card.LoadShare(ctx, 0, testShare()); !errors.Is(err, apdu.ErrConditions) {
		t.Errorf("a third share: %v", err)
	}
	list, err := card.Domains(ctx)
	if err != nil || len(list) != 1 || list[0].KCV != d.KCV {
		t.Errorf("domains %+v, %v", list, err)
	}
	if n, err := card.PINSetUp(ctx); n != 3 || err != nil {
		t.Errorf("set up with %d tries, %v", n, err)
	}
	free, err := card.Memory(ctx)
	if err != nil || free < 70000 {
		t.Errorf("%d bytes free, %v", free, err)
	}
	if _, err := card.Generate(ctx, 1, func() cvc.KeySpec { s := specFor(card); s.Curve = curve.ByName("P-256"); return s }()); err != nil {
		t.Fatal(err)
	}
	fids, err := card.Enumerate(ctx)
	if err != nil || !slices.Equal(fids, []FID{FIDDeviceCertificate, FIDTokenInfo, CertificateFile(1), KeyFile(0), KeyFile(1)}) {
		t.Errorf("files %v, %v", fids, err)
	}
	// The right SO-PIN wipes it; nothing but the certificate stays.
	if err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), NoDKEK: true}); err != nil {
		t.Fatal(err)
	}
	fids, err = card.Enumerate(ctx)
	if err != nil || !slices.Equal(fids, []FID{FIDDeviceCertificate, KeyFile(0)}) {
		t.Errorf("files after a wipe: %v, %v", fids, err)
	}
	if list, err := card.Domains(ctx); err != nil || len(list) != 0 {
		t.Errorf("domains without DKEK: %+v, %v", list, err)
	}
	if _, err := card.Wrap(ctx, 1); !errors.Is(err, apdu.ErrNotSelected) {
		t.Errorf("WRAP without DKEK: %v", err)
	}
	card.Close()
	if n := tries(t, token); n != 3 {
		t.Errorf("%d tries at the end", n)
	}
}

func TestKeyDomains(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, softtoken.Options{Firmware: "3.5"})
	if err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Domains: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := card.CreateDomain(ctx, 1, 1); err != nil {
		t.Fatal(err)
	}
	if d, err := card.LoadShare(ctx, 1, testShare()); err != nil || !d.Ready() || d.Number != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	list, err := card.Domains(ctx)
	if err != nil || len(list) != 3 || !list[0].Empty || list[1].Empty || !list[1].Ready() || !list[2].Empty || list[2].Ready() {
		t.Errorf("%+v, %v", list, err)
	}
	n := byte(1)
	spec := specFor(card)
	spec.Curve, spec.Domain = curve.ByName("P-256"), &n
	if _, err := card.Generate(ctx, 9, spec); err != nil {
		t.Fatal(err)
	}
	if k, err := card.Key(ctx, 9); err != nil || k.Domain != 1 {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestWrongSOPIN(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	sent := count(token, 0x50, true)
	for want := 14; want >= 0; want-- {
		*sent = 0
		err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: secret.New([]byte("57621881")), Shares: 1})
		var pin *PINError
		if !errors.As(err, &pin) || pin.Name != "SO-PIN" || pin.Tries != want || !errors.Is(err, apdu.ErrWrongPIN) {
			t.Fatalf("%v, want tries left: %d", err, want)
		}
		if *sent != 1 {
			t.Fatalf("INITIALIZE was sent %d times", *sent)
		}
		if _, err := card.Enumerate(ctx); err != nil {
			t.Fatalf("the session afterwards: %v", err)
		}
	}
	*sent = 0
	err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1})
	if !errors.Is(err, ErrSOPINBlocked) || errors.Is(err, apdu.ErrBlocked) || *sent != 0 {
		t.Errorf("a blocked SO-PIN: %v, sent %d times", err, *sent)
	}
	if s, err := card.SOPIN(ctx); err != nil || !s.Blocked || s.Tries != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := card.PIN(ctx); err != nil || s.Blocked {
		t.Errorf("the PIN: %+v, %v", s, err)
	}
}

// 6A84 at INITIALIZE is garbage collection: the command is repeated once. For
// no other reason is it ever sent twice.
func TestInitialiseIsNotRepeated(t *testing.T) {
	ctx := context.Background()
	errNoAnswer := errors.New("no answer")
	for _, c := range []struct {
		name  string
		stage softtoken.Stage
		times int
		sw    apdu.SW
		fault error
		sent  int
		want  error
	}{
		{"garbage once", softtoken.Before, 1, apdu.NoMemory, nil, 2, nil},
		{"garbage three times", softtoken.Before, 3, apdu.NoMemory, nil, 4, nil},
		{"garbage for ever", softtoken.Before, 99, apdu.NoMemory, nil, 4, apdu.ErrNoMemory},
		{"internal error", softtoken.Before, 1, apdu.Internal, nil, 1, apdu.ErrInternal},
		{"conditions", softtoken.Before, 1, apdu.Conditions, nil, 1, apdu.ErrConditions},
		{"reset", softtoken.Before, 1, 0, apdu.ErrReset, 1, apdu.ErrReset},
		{"lost before", softtoken.Before, 1, 0, apdu.ErrGone, 1, ErrNotCarriedOut},
		{"lost after", softtoken.After, 1, 0, apdu.ErrGone, 1, nil},
		{"no answer, not done", softtoken.Before, 1, 0, errNoAnswer, 1, ErrNotCarriedOut},
		{"no answer, done", softtoken.After, 1, 0, errNoAnswer, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, card := newToken(t, softtoken.Options{})
			setUp(t, card)
			sent, left := 0, c.times
			token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
				if cmd.INS != 0x50 || len(cmd.Data) == 0 {
					return 0, nil
				}
				if s == softtoken.Before {
					sent++
				}
				if s == c.stage && left > 0 {
					left--
					return c.sw, c.fault
				}
				return 0, nil
			})
			err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if sent != c.sent {
				t.Errorf("INITIALIZE was sent %d times, want %d", sent, c.sent)
			}
			token.SetFault(nil)
			if s, err := card.SOPIN(ctx); err != nil || s.Tries != 15 {
				t.Errorf("SO-PIN: %+v, %v", s, err)
			}
		})
	}
	t.Run("a try is lost with 6A84", func(t *testing.T) {
		token, card := newToken(t, softtoken.Options{})
		setUp(t, card)
		sent := 0
		token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
			if cmd.INS != 0x50 || len(cmd.Data) == 0 {
				return 0, nil
			}
			if s == softtoken.Before {
				sent++
				return 0, nil
			}
			return apdu.NoMemory, nil
		})
		err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: secret.New([]byte("00000000")), Shares: 1})
		var pin *PINError
		if !errors.As(err, &pin) || pin.Tries != 14 || sent != 1 {
			t.Errorf("%v, sent %d times", err, sent)
		}
	})
	t.Run("pulled behind it", func(t *testing.T) {
		token, card := newToken(t, softtoken.Options{})
		done := false
		token.SetFault(func(s softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
			if done && s == softtoken.Before {
				return 0, apdu.ErrGone
			}
			done = done || cmd.INS == 0x50 && s == softtoken.After
			return 0, nil
		})
		err := card.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN()})
		if !errors.Is(err, ErrUnsettled) || !errors.Is(err, apdu.ErrGone) {
			t.Error(err)
		}
	})
}

func TestTransportPIN(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	if err := card.Initialise(ctx, Initialisation{Options: OptionTransportPIN, PIN: testPIN(), SOPIN: testSOPIN()}); err != nil {
		t.Fatal(err)
	}
	if s, err := card.PIN(ctx); err != nil || !s.Transport || s.Missing {
		t.Errorf("%+v, %v", s, err)
	}
	sent := count(token, 0x20, true)
	if err := card.Login(ctx, testPIN(), true); !errors.Is(err, apdu.ErrNotUsable) || *sent != 0 {
		t.Errorf("%v, sent %d times", err, *sent)
	}
}

// Every type of key: made, used, exported, deleted, imported under another
// reference, used again with the same result.
func TestEveryType(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, softtoken.Options{Firmware: "3.5"})
	setUp(t, card)
	reimport := func(t *testing.T, from byte) byte {
		t.Helper()
		blob, err := card.Wrap(ctx, from)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []FID{KeyFile(from), CertificateFile(from)} {
			if err := card.DeleteFileIfThere(ctx, f); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := card.Key(ctx, from); !errors.Is(err, apdu.ErrNotFound) {
			t.Errorf("a deleted key: %v", err)
		}
		if err := card.Unwrap(ctx, from+100, blob); err != nil {
			t.Fatal(err)
		}
		if _, err := card.ReadFile(ctx, CertificateFile(from+100)); !errors.Is(err, apdu.ErrNotFound) {
			t.Errorf("UNWRAP made a certificate: %v", err)
		}
		return from + 100
	}
	for i, c := range curve.All() {
		t.Run(c.Name, func(t *testing.T) {
			reference := byte(1 + i)
			spec := specFor(card)
			spec.Curve = c
			raw, err := card.Generate(ctx, reference, spec)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := card.ReadFile(ctx, CertificateFile(reference))
			if err != nil || !bytes.Equal(kept, raw) {
				t.Errorf("the request in CE differs from the answer: %v", err)
			}
			request, err := cvc.ParseRequest(raw)
			if err != nil {
				t.Fatal(err)
			}
			public, err := request.PublicKey()
			if err != nil || public.Curve != c {
				t.Fatalf("%v, %v", public, err)
			}
			digest := sha256.Sum256([]byte("message"))
			hash := digest[:min(32, c.FieldBytes())]
			use := func(reference byte) []byte {
				t.Helper()
				sig, err := card.Sign(ctx, reference, ECDSA, hash)
				if err != nil {
					t.Fatal(err)
				}
				if err := public.Verify(crypto.SHA256, hash, sig); err != nil {
					t.Fatal(err)
				}
				d, x, y, err := c.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				shared, err := card.Decipher(ctx, reference, ECDH, c.Marshal(x, y))
				if err != nil {
					t.Fatal(err)
				}
				if want := c.Marshal(c.ScalarMult(public.X, public.Y, d)); !bytes.Equal(shared, want) {
					t.Errorf("ECDH gives %x, want %x", shared, want)
				}
				return shared
			}
			use(reference)
			use(reimport(t, reference))
		})
	}
	for i, bits := range []int{1024, 2048} {
		t.Run(fmt.Sprint("RSA-", bits), func(t *testing.T) {
			reference := byte(40 + i)
			spec := specFor(card)
			spec.RSABits, spec.RSAExponent = bits, 65537
			raw, err := card.Generate(ctx, reference, spec)
			if err != nil {
				t.Fatal(err)
			}
			request, err := cvc.ParseRequest(raw)
			if err != nil {
				t.Fatal(err)
			}
			public, err := request.PublicKey()
			if err != nil {
				t.Fatal(err)
			}
			useRSA(t, card, reference, public.RSA)
			useRSA(t, card, reimport(t, reference), public.RSA)
		})
	}
	for i, bits := range []int{128, 192, 256} {
		t.Run(fmt.Sprint("AES-", bits), func(t *testing.T) {
			reference := byte(50 + i)
			if err := card.GenerateAES(ctx, reference, bits, aesSpec); err != nil {
				t.Fatal(err)
			}
			k, err := card.Key(ctx, reference)
			if err != nil || !bytes.Equal(k.Algorithms, aesSpec) || !k.Allows(WrapKey) || k.Allows(ECDSA) {
				t.Errorf("%+v, %v", k, err)
			}
			block := bytes.Repeat([]byte("0123456789abcdef"), 3)
			use := func(reference byte) []byte {
				t.Helper()
				secret, err := card.Symmetric(ctx, reference, AESEncrypt, block)
				if err != nil {
					t.Fatal(err)
				}
				back, err := card.Symmetric(ctx, reference, AESDecrypt, secret)
				if err != nil || !bytes.Equal(back, block) {
					t.Errorf("decrypted: %x, %v", back, err)
				}
				if mac, err := card.Symmetric(ctx, reference, AESCMAC, []byte("any length")); err != nil || len(mac) != 16 {
					t.Errorf("CMAC: %x, %v", mac, err)
				}
				return secret
			}
			first := use(reference)
			if second := use(reimport(t, reference)); !bytes.Equal(first, second) {
				t.Error("another key came back")
			}
		})
	}
}

func useRSA(t *testing.T, card *Card, reference byte, public *rsa.PublicKey) {
	t.Helper()
	ctx := context.Background()
	block := make([]byte, public.Size())
	_, _ = rand.Read(block[1:])
	want := new(big.Int).SetBytes(block)
	for name, use := range map[string]func(context.Context, byte, Algorithm, []byte) ([]byte, error){"SIGN": card.Sign, "DECIPHER": card.Decipher} {
		a := RSARaw
		if name == "DECIPHER" {
			a = RSADecrypt
		}
		answer, err := use(ctx, reference, a, block)
		if err != nil {
			t.Fatal(err)
		}
		if back := new(big.Int).Exp(new(big.Int).SetBytes(answer), big.NewInt(int64(public.E)), public.N); back.Cmp(want) != 0 {
			t.Errorf("%s: another key answered", name)
		}
	}
}

func rsa4096(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	file, err := os.ReadFile("testdata/rsa4096.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(file)
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sealed gives a blob of the RSA-4096 key under the DKEK of setUp.
func sealed(t *testing.T, share []byte, o dkek.SealOptions) []byte {
	t.Helper()
	kek, err := dkek.KeyFromBytes(share)
	if err != nil {
		t.Fatal(err)
	}
	key, err := dkek.NewRSA(rsa4096(t))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := kek.Seal(key, o)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// RSA-4096 comes back on a token of 1232 bytes, through a reader that cuts at
// 1014, and as type 06, which no command holds.
func TestRSA4096(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name    string
		options softtoken.Options
		crt     bool
		size    int
	}{
		{"1232 bytes", softtoken.Options{Firmware: "3.5"}, false, 1099},
		{"a reader that cuts at 1014", softtoken.Options{Firmware: "3.5", ReaderCut: 1014}, false, 1099},
		{"type 06", softtoken.Options{Firmware: "3.5"}, true, 1867},
		{"type 06, cut at 1014", softtoken.Options{Firmware: "4.1", ReaderCut: 1014}, true, 1867},
		{"a small reader", softtoken.Options{Firmware: "4.1", ReaderCut: 600}, false, 1099},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, card := newToken(t, c.options)
			setUp(t, card)
			longest := 0
			token.SetFault(func(_ softtoken.Stage, _ int, cmd apdu.Command) (apdu.SW, error) {
				b, err := cmd.Bytes()
				longest = max(longest, len(b))
				return 0, err
			})
			blob := sealed(t, testShare(), dkek.SealOptions{CRT: c.crt})
			if len(blob) != c.size {
				t.Fatalf("the blob has %d bytes", len(blob))
			}
			// What a longer blob left behind must not matter.
			if err := card.WriteFile(ctx, fidScratch, make([]byte, 2000)); err != nil {
				t.Fatal(err)
			}
			if err := card.Unwrap(ctx, 7, blob); err != nil {
				t.Fatal(err)
			}
			useRSA(t, card, 7, &rsa4096(t).PublicKey)
			again, err := card.Wrap(ctx, 7)
			if err != nil {
				t.Fatal(err)
			}
			if err := card.Unwrap(ctx, 8, again); err != nil {
				t.Fatal(err)
			}
			useRSA(t, card, 8, &rsa4096(t).PublicKey)
			if longest > 1000 {
				t.Errorf("a command of %d bytes was sent", longest)
			}
			fids, err := card.Enumerate(ctx)
			if err != nil || slices.Contains(fids, fidScratch) {
				t.Errorf("left behind: %v, %v", fids, err)
			}
		})
	}
	t.Run("another DKEK", func(t *testing.T) {
		_, card := newToken(t, softtoken.Options{Firmware: "3.5"})
		setUp(t, card)
		blob := sealed(t, bytes.Repeat([]byte{1}, 32), dkek.SealOptions{})
		if err := card.Unwrap(ctx, 7, blob); !errors.Is(err, ErrUnwrapRefused) {
			t.Error(err)
		}
		blob = sealed(t, testShare(), dkek.SealOptions{})
		blob[500] ^= 1
		if err := card.Unwrap(ctx, 7, blob); !errors.Is(err, ErrUnwrapRefused) {
			t.Error(err)
		}
		if _, err := card.Key(ctx, 7); !errors.Is(err, apdu.ErrNotFound) {
			t.Errorf("a key is there all the same: %v", err)
		}
	})
	t.Run("full", func(t *testing.T) {
		_, card := newToken(t, softtoken.Options{Firmware: "3.5", Memory: 4096})
		setUp(t, card)
		if err := card.WriteFile(ctx, CertificateFile(1), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if err := card.Unwrap(ctx, 7, sealed(t, testShare(), dkek.SealOptions{})); !errors.Is(err, apdu.ErrNoMemory) {
			t.Error(err)
		}
	})
}

func TestFiles(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, softtoken.Options{Firmware: "3.5"})
	setUp(t, card)
	for _, f := range []FID{CertificateFile(9), 0xCD01, 0xCF02} {
		for _, n := range []int{0, 1, 127, 128, 247, 248, 249, 255, 256, 257, 496, 512, 1188, 4096} {
			want := make([]byte, n)
			_, _ = rand.Read(want)
			if err := card.WriteFile(ctx, f, want); err != nil {
				t.Fatalf("%s, %d bytes: %v", f, n, err)
			}
			got, err := card.ReadFile(ctx, f)
			if err != nil || got == nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %d bytes: %d read, %v", f, n, len(got), err)
			}
			if n > 256 { // a shorter rewrite keeps the tail
				if err := card.WriteFile(ctx, f, []byte{1, 2}); err != nil {
					t.Fatal(err)
				}
				if got, err := card.ReadFile(ctx, f); err != nil || len(got) != n || got[0] != 1 || got[2] != want[2] {
					t.Errorf("%s: rewritten: %d bytes, %v", f, len(got), err)
				}
			}
			if err := card.DeleteFile(ctx, f); err != nil {
				t.Fatal(err)
			}
			if _, err := card.ReadFile(ctx, f); !errors.Is(err, apdu.ErrNotFound) {
				t.Errorf("%s is there after its deletion: %v", f, err)
			}
		}
	}
	if err := card.DeleteFile(ctx, 0xCF02); !errors.Is(err, apdu.ErrNotFound) {
		t.Errorf("deletion of nothing: %v", err)
	}
	if err := card.DeleteFileIfThere(ctx, 0xCF02); err != nil {
		t.Error(err)
	}
	if err := card.WriteFile(ctx, FIDDeviceCertificate, []byte{1}); !errors.Is(err, apdu.ErrNotAuthorised) {
		t.Errorf("the device certificate can be written: %v", err)
	}
	if _, err := card.ReadFile(ctx, KeyFile(0)); !errors.Is(err, apdu.ErrNotAuthorised) {
		t.Errorf("a key can be read: %v", err)
	}
}

// A use counter counts uses, whatever happens on the way.
func TestUseCounter(t *testing.T) {
	ctx := context.Background()
	token, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	left := uint32(3)
	spec := specFor(card)
	spec.Curve, spec.Counter = curve.ByName("P-256"), &left
	if _, err := card.Generate(ctx, 1, spec); err != nil {
		t.Fatal(err)
	}
	sent := count(token, 0x68, true)
	for want := 2; want >= 0; want-- {
		if _, err := card.Sign(ctx, 1, ECDSA, make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
		if k, err := card.Key(ctx, 1); err != nil || k.Counter == nil || int(*k.Counter) != want {
			t.Fatalf("%+v, %v, want %d", k, err, want)
		}
	}
	if _, err := card.Sign(ctx, 1, ECDSA, make([]byte, 32)); !errors.Is(err, apdu.ErrNotUsable) {
		t.Errorf("a used-up key: %v", err)
	}
	if *sent != 4 {
		t.Errorf("SIGN was sent %d times for 4 uses", *sent)
	}
	// An answer that never came may have been a use: it is not repeated.
	if err := card.DeleteFile(ctx, KeyFile(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := card.Generate(ctx, 1, spec); err != nil {
		t.Fatal(err)
	}
	signs := 0
	token.SetFault(func(s softtoken.Stage, _ int, c apdu.Command) (apdu.SW, error) {
		if c.INS == 0x68 && s == softtoken.After {
			signs++
			return 0, errors.New("no answer")
		}
		return 0, nil
	})
	if _, err := card.Sign(ctx, 1, ECDSA, make([]byte, 32)); err == nil || signs != 1 {
		t.Errorf("%v, %d uses", err, signs)
	}
	token.SetFault(nil)
	if k, err := card.Key(ctx, 1); err != nil || *k.Counter != 2 {
		t.Errorf("%+v, %v", k, err)
	}
}

// The list of a key decides what it may do.
func TestAlgorithmList(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	spec := specFor(card, byte(ECDSA))
	spec.Curve = curve.ByName("P-256")
	if _, err := card.Generate(ctx, 1, spec); err != nil {
		t.Fatal(err)
	}
	k, err := card.Key(ctx, 1)
	if err != nil || !k.Allows(ECDSA) || k.Allows(WrapKey) || k.Counter != nil {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := card.Decipher(ctx, 1, ECDH, make([]byte, 65)); !errors.Is(err, apdu.ErrAlgorithm) {
		t.Errorf("ECDH: %v", err)
	}
	if _, err := card.Wrap(ctx, 1); !errors.Is(err, apdu.ErrConditions) {
		t.Errorf("WRAP: %v", err)
	}
	if (KeyInfo{}).Allows(WrapKey) != true {
		t.Error("an empty list allows nothing")
	}
}

// The block that the token encrypts is what AES makes of it, and CMAC is that
// of the standard: proofs rest on both.
func TestAESIsStandard(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, softtoken.Options{})
	setUp(t, card)
	kek, err := dkek.KeyFromBytes(testShare())
	if err != nil {
		t.Fatal(err)
	}
	raw := bytes.Repeat([]byte{0x42}, 32)
	private, err := dkek.NewAES(bytes.Clone(raw))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := kek.Seal(private, dkek.SealOptions{Algorithms: aesSpec})
	if err != nil {
		t.Fatal(err)
	}
	if err := card.Unwrap(ctx, 3, blob); err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		t.Fatal(err)
	}
	input := make([]byte, 32)
	want := make([]byte, 32)
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(want, input)
	if got, err := card.Symmetric(ctx, 3, AESEncrypt, input); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}
	mac, err := cmac.Sum(raw, []byte("abc"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := card.Symmetric(ctx, 3, AESCMAC, []byte("abc")); err != nil || !bytes.Equal(got, mac[:]) {
		t.Errorf("%x, %v", got, err)
	}
}

// Random numbers come without a login, as many as were asked for, and never
// twice the same.
func TestRandom(t *testing.T) {
	ctx := context.Background()
	_, card := newToken(t, softtoken.Options{})
	for _, n := range []int{1, 32, MaxRandom} {
		a, err := card.Random(ctx, n)
		if err != nil || len(a) != n {
			t.Fatalf("%d bytes: %d, %v", n, len(a), err)
		}
		if b, err := card.Random(ctx, n); err != nil || n > 1 && bytes.Equal(a, b) {
			t.Errorf("%d bytes again: the same, %v", n, err)
		}
	}
	for _, n := range []int{-1, 0, MaxRandom + 1} {
		if b, err := card.Random(ctx, n); err == nil {
			t.Errorf("%d bytes asked for, %d came", n, len(b))
		}
	}
}
