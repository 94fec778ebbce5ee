package schsm

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/secret"
)

// script is a transmitter that expects exactly these commands and gives these
// answers. It is about our bytes, not about a token.
type script struct {
	t     testing.TB
	max   int
	steps []step
	sent  [][]byte // the very slices, to see what becomes of them
	held  int
}

// step is one exchange in hex with blanks. A "*" in the command stands for any
// bytes.
type step struct{ command, answer string }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func (s *script) Begin(context.Context) error {
	if s.held++; s.held > 1 {
		s.t.Error("Begin within a transaction")
	}
	return nil
}

func (s *script) End() error      { s.held--; return nil }
func (s *script) MaxCommand() int { return s.max }

func (s *script) Transmit(_ context.Context, command []byte) ([]byte, error) {
	s.t.Helper()
	if s.held != 1 {
		s.t.Errorf("% X is sent outside of a transaction", command)
	}
	s.sent = append(s.sent, command)
	if len(s.steps) == 0 {
		s.t.Errorf("% X is sent, and nothing more was expected", command)
		return nil, apdu.ErrGone
	}
	next := s.steps[0]
	s.steps = s.steps[1:]
	want := strings.ToUpper(strings.ReplaceAll(next.command, " ", ""))
	front, back, any := strings.Cut(want, "*")
	got := fmt.Sprintf("%X", command)
	if any && !(strings.HasPrefix(got, front) && strings.HasSuffix(got, back)) || !any && got != want {
		s.t.Errorf("sent\n%s, want\n%s", got, want)
	}
	return unhex(s.t, next.answer), nil
}

func (s *script) expect(steps ...step) { s.steps = append(s.steps, steps...) }

func (s *script) done() {
	s.t.Helper()
	for _, left := range s.steps {
		s.t.Errorf("%s was not sent", left.command)
	}
	if s.held != 0 {
		s.t.Errorf("%d transactions are still held", s.held)
	}
	s.steps = nil
}

const (
	selectBytes = "00 A4 04 00 0B E8 2B 06 01 04 01 81 C3 1F 02 01 00"
	statusBytes = "00 20 00 81"
	verifyBytes = "00 20 00 81 06 363438323139"
)

// fcp is an answer to SELECT by a token of a version.
func fcp(version string) string { return "62 07 85 05 0001 FF " + version + " 9000" }

// scripted opens a token of a version that has no certificate.
func scripted(t testing.TB, version string) (*script, *Card) {
	t.Helper()
	s := &script{t: t}
	s.expect(step{selectBytes, fcp(version)}, step{"00 B1 2F 02 04 54 02 00 00 00", "6A82"})
	c, err := Open(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	s.done()
	return s, c
}

func testPIN() *secret.Bytes   { return secret.New([]byte("648219")) }
func testSOPIN() *secret.Bytes { return secret.New([]byte("57621880")) }

func scriptedLogin(t testing.TB, s *script, c *Card) {
	t.Helper()
	s.expect(step{statusBytes, "63C3"}, step{verifyBytes, "9000"})
	if err := c.Login(context.Background(), testPIN(), false); err != nil {
		t.Fatal(err)
	}
	s.done()
}

var aesSpec = []byte{0x10, 0x11, 0x18, 0x99, 0x92}

// The bytes of every command are those of the fact sheet (§2, appendix B): the
// real token refuses other forms of Le.
func TestBytes(t *testing.T) {
	ctx := context.Background()
	share := bytes.Repeat([]byte{0xA5}, 32)
	blob := bytes.Repeat([]byte{0xB1}, 331)
	p256 := curve.ByName("P-256")
	domain := byte(2)
	uses := uint32(1000)
	for _, c := range []struct {
		name  string
		call  func(c *Card) (any, error)
		steps []step
		want  string // what comes out, by %v, if not empty
	}{
		{"status of the PIN", func(c *Card) (any, error) { return c.PIN(ctx) },
			[]step{{"00 20 00 81", "63C3"}}, "{3 false false false false}"},
		{"status of the SO-PIN", func(c *Card) (any, error) { return c.SOPIN(ctx) },
			[]step{{"00 20 00 88", "63CF"}}, "{15 false false false false}"},
		{"initialised", func(c *Card) (any, error) { return c.Initialised(ctx) },
			[]step{{"00 20 00 81", "6A88"}}, "false"},
		{"device info", func(c *Card) (any, error) { return c.Memory(ctx) },
			[]step{{"80 50 00 00 00", "0001 2C00 00 03 05 9000"}}, "76800"},
		{"enumerate", func(c *Card) (any, error) { return c.Enumerate(ctx) },
			[]step{{"80 58 00 00 00 00 00", "2F02 C401 CE01 CC00 CC01 0000 9000"}}, "[2F02 C401 CE01 CC00 CC01]"},
		{"key information", func(c *Card) (any, error) {
			k, err := c.Key(ctx, 5)
			if err != nil || k.Counter == nil {
				return nil, fmt.Errorf("%+v, %w", k, err)
			}
			return fmt.Sprintf("%d %X %d %v %v", *k.Counter, k.Algorithms, k.Domain, k.Allows(WrapKey), k.Allows(ECDH)), nil
		}, []step{{"00 A4 00 00 02 CC 05 00", "62 13 81 02 0000 A5 0D 90 04 000003E8 92 01 02 91 02 70 92 9000"}}, ""},
		{"domain", func(c *Card) (any, error) { return c.Domain(ctx, 3) },
			[]step{{"80 52 00 03 00", "02 01 0000000000000000 9000"}}, "{3 2 1 [0 0 0 0 0 0 0 0] [] false}"},
		{"XKEK domain", func(c *Card) (any, error) {
			d, err := c.Domain(ctx, 1)
			return len(d.UID), err
		}, []step{{"80 52 00 01 00", "01 00 1122334455667788" + strings.Repeat("0C", 32) + "9000"}}, "32"},
		{"create domain", func(c *Card) (any, error) { return c.CreateDomain(ctx, 1, 3) },
			[]step{{"80 52 01 01 01 03 00", "03 03 0000000000000000 9000"}}, "{1 3 3 [0 0 0 0 0 0 0 0] [] false}"},
		{"load share", func(c *Card) (any, error) {
			d, err := c.LoadShare(ctx, 0, share)
			return d.Ready(), err
		}, []step{{"80 52 00 00 20" + strings.Repeat("A5", 32) + "00", "01 00 1122334455667788 9000"}}, "true"},
		{"public key authentication", func(c *Card) (any, error) {
			p, configured, err := c.PKA(ctx)
			return fmt.Sprint(p, configured), err
		}, []step{{"80 54 00 00 00", "03 01 02 00 9000"}, {"80 54 02 00 00", "44454E4B3031 9000"}, {"80 54 02 01 00", "6A88"}, {"80 54 02 02 00", "44454E4B3032 9001"}},
			"{3 1 2 [DENK01 DENK02]} true"},
		{"public key authentication, names unknown", func(c *Card) (any, error) {
			p, configured, err := c.PKA(ctx)
			return fmt.Sprint(p, configured), err
		}, []step{{"80 54 00 00 00", "02 00 01 00 9000"}, {"80 54 02 00 00", "1B5B 9000"}, {"80 54 02 01 00", "6A86"}}, "{2 0 1 []} true"},
		{"no public key authentication", func(c *Card) (any, error) {
			p, configured, err := c.PKA(ctx)
			return fmt.Sprint(p, configured), err
		}, []step{{"80 54 00 00 00", "6A88"}}, "{0 0 0 []} false"},
		{"delete", func(c *Card) (any, error) { return nil, c.DeleteFile(ctx, KeyFile(5)) },
			[]step{{"00 E4 02 00 02 CC 05", "9000"}}, ""},
		{"create an empty file", func(c *Card) (any, error) { return nil, c.WriteFile(ctx, DescriptionFile(5), nil) },
			[]step{{"00 D7 C4 05 06 54 02 00 00 53 00", "9000"}}, ""},
		{"write", func(c *Card) (any, error) {
			return nil, c.WriteFile(ctx, CertificateFile(5), bytes.Repeat([]byte{7}, 300))
		},
			[]step{
				{"00 D7 CE 05 FF 54 02 00 00 53 81 F8" + strings.Repeat("07", 248), "9000"},
				{"00 D7 CE 05 3A 54 02 00 F8 53 34" + strings.Repeat("07", 52), "9000"},
			}, ""},
		{"generate RSA", func(c *Card) (any, error) {
			return c.Generate(ctx, 1, cvc.KeySpec{CAR: "UTCA00001", CHR: "ESPICOHSM0100001", RSABits: 1024, RSAExponent: 65537})
		}, []step{{"00 46 01 00 00 003A 5F29 01 00 42 09 555443413030303031 7F49 15 06 0A 04007F00070202020102 82 03 010001 02 02 0400 5F20 10 45535049434F48534D30313030303031 0000", "67 01 00 9000"}}, "[103 1 0]"},
		{"generate EC", func(c *Card) (any, error) {
			return c.Generate(ctx, 2, cvc.KeySpec{CAR: "UTCA00001", CHR: "SOFT020000100001", Curve: p256, Domain: &domain, Counter: &uses, Algorithms: []byte{0x70, 0x92}})
		}, []step{{"00 46 02 00 00 010D 5F29 01 00 42 09 555443413030303031 7F49 81 DA 06 0A 04007F00070202020203" +
			"81 20 FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF" +
			"82 20 FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFC" +
			"83 20 5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B" +
			"84 41 04 6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296 4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5" +
			"85 20 FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551" +
			"87 01 01 5F20 10 534F4654303230303030313030303031 90 04 000003E8 91 02 7092 92 01 02 0000", "67 01 00 9000"}}, ""},
		{"generate, answer cut by the reader", func(c *Card) (any, error) {
			return c.Generate(ctx, 1, cvc.KeySpec{RSABits: 1024, RSAExponent: 65537})
		}, []step{{"00 46 01 00 * 0000", "67 05 00 9000"}, {"00 B1 CE 01 04 54 02 00 00 00", "67 02 0102 6282"}}, "[103 2 1 2]"},
		{"generate AES", func(c *Card) (any, error) { return nil, c.GenerateAES(ctx, 4, 256, aesSpec) },
			[]step{{"80 48 04 B2 07 91 05 10 11 18 99 92", "9000"}}, ""},
		{"sign", func(c *Card) (any, error) { return c.Sign(ctx, 6, ECDSA, []byte{1, 2}) },
			[]step{{"80 68 06 70 00 0002 0102 0000", "AABB 9000"}}, "[170 187]"},
		{"decipher", func(c *Card) (any, error) { return c.Decipher(ctx, 6, RSADecrypt, bytes.Repeat([]byte{1}, 512)) },
			[]step{{"80 62 06 21 00 0200" + strings.Repeat("01", 512) + "0000", "AA 9000"}}, "[170]"},
		{"use of AES", func(c *Card) (any, error) { return c.Symmetric(ctx, 7, AESEncrypt, make([]byte, 16)) },
			[]step{{"80 78 07 10 00 0010 00000000000000000000000000000000 0000", "AA 9000"}}, "[170]"},
		{"wrap", func(c *Card) (any, error) { return c.Wrap(ctx, 5) },
			[]step{{"80 72 05 92 00 00 00", "AA 9000"}}, "[170]"},
		{"unwrap in one command", func(c *Card) (any, error) { return nil, c.Unwrap(ctx, 5, blob) },
			[]step{{"80 74 05 93 00 014B" + strings.Repeat("B1", 331), "9000"}}, ""},
		{"confirm", func(c *Card) (any, error) { return nil, c.Confirm(ctx) },
			[]step{{"00 20 00 81", "63C3"}, {"00 B1 2F 02 04 54 02 00 00 00", "6A82"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, card := scripted(t, "03 05")
			s.expect(c.steps...)
			got, err := c.call(card)
			s.done()
			if err != nil {
				t.Fatal(err)
			}
			if text := fmt.Sprint(got); c.want != "" && text != c.want {
				t.Errorf("gives %s, want %s", text, c.want)
			}
		})
	}
}

func TestKeyInfo(t *testing.T) {
	s, card := scripted(t, "03 05")
	for _, c := range []struct{ answer, want string }{
		{"62 13 81 02 0000 A5 0D 90 04 000003E8 92 01 02 91 02 70 92 9000", "1000 7092 2"},
		{"62 04 81 02 0000 9000", "nil  0"},
		{"9000", "nil  0"}, // a token that gives no template for keys
		{"62 06 A5 04 90 02 0001 9000", "nil  0"},
		{"62 03 A5 01 90 9000", "nil  0"},
	} {
		s.expect(step{"00 A4 00 00 02 CC 05 00", c.answer})
		k, err := card.Key(context.Background(), 5)
		counter := "nil"
		if k.Counter != nil {
			counter = fmt.Sprint(*k.Counter)
		}
		if got := fmt.Sprintf("%s %X %d", counter, k.Algorithms, k.Domain); err != nil || got != c.want {
			t.Errorf("%s: %s, %v, want %s", c.answer, got, err, c.want)
		}
	}
	s.expect(step{"00 A4 00 00 02 CC 05 00", "62 7F 81 9000"})
	if k, err := card.Key(context.Background(), 5); err == nil {
		t.Errorf("half a template gives %+v", k)
	}
	s.expect(step{"00 A4 00 00 02 CC 05 00", "6A82"})
	if _, err := card.Key(context.Background(), 5); !errors.Is(err, apdu.ErrNotFound) {
		t.Errorf("a missing key: %v", err)
	}
	s.done()
}

// SELECT tells version and options in several lengths (fact sheet §1.2).
func TestSelectAnswers(t *testing.T) {
	for _, c := range []struct {
		answer  string
		version Version
		options Options
		limit   int
	}{
		{"62 07 85 05 0121 FF 0401 9000", Version{4, 1}, 0x0121, 1454},
		{"6F 07 85 05 0001 00 0305 9000", Version{3, 5}, OptionUnblock, 1232},
		{"62 06 85 04 02 00 0206 9000", Version{2, 6}, OptionTransportPIN, 1454},
		{"62 04 85 02 0100 9000", Version{1, 0}, 0, 1454},
		{"6222 81020000 820101 83020000 840B2B0601040181C31F020130 8A0105 85050001FF0504 9000", Version{5, 4}, OptionUnblock, 1454},
		{"9000", Version{}, 0, 1232},
		{"62 03 85 01 01 9000", Version{}, 0, 1232},
		{"85 7F 9000", Version{}, 0, 1232},
	} {
		s := &script{t: t}
		s.expect(step{selectBytes, c.answer}, step{"00 B1 2F 02 04 54 02 00 00 00", "6A82"})
		card, err := Open(context.Background(), s)
		if err != nil {
			t.Fatalf("%s: %v", c.answer, err)
		}
		if card.Version() != c.version || card.Options() != c.options || card.limit() != c.limit || card.Serial() != "" || card.Chain() != nil {
			t.Errorf("%s: version %s, options %04X, limit %d", c.answer, card.Version(), card.Options(), card.limit())
		}
		s.max = 261
		if card.limit() != 261 {
			t.Errorf("a reader of 261 bytes gives a limit of %d", card.limit())
		}
		s.max = 65544
		if card.limit() != c.limit {
			t.Errorf("a reader of 65544 bytes gives a limit of %d", card.limit())
		}
		s.done()
	}
	for _, sw := range []string{"6A82", "6D00", "6E00", "6999", "6283"} {
		s := &script{t: t}
		s.expect(step{selectBytes, sw})
		_, err := Open(context.Background(), s)
		if !errors.Is(err, ErrNotSmartCardHSM) || !strings.Contains(err.Error(), sw) {
			t.Errorf("%s: %v", sw, err)
		}
		s.done()
	}
}

// What a read gives at the end differs between tokens, and a reader may give
// less than was asked for (fact sheet §2.1, §2.5, §9 23).
func TestReadEnds(t *testing.T) {
	at := func(n int) string { return fmt.Sprintf("00 B1 C4 01 04 54 02 %04X 00", n) }
	data := func(n int, sw string) string { return strings.Repeat("5A", n) + sw }
	for _, c := range []struct {
		name  string
		steps []step
		size  int
	}{
		{"6282 with data", []step{{at(0), data(33, "6282")}}, 33},
		{"6282 after a whole chunk", []step{{at(0), data(256, "9000")}, {at(256), data(44, "6282")}}, 300},
		{"empty 6282", []step{{at(0), data(256, "9000")}, {at(256), "6282"}}, 256},
		{"empty 9000", []step{{at(0), data(256, "9000")}, {at(256), "9000"}}, 256},
		{"6B00", []step{{at(0), data(256, "9000")}, {at(256), "6B00"}}, 256},
		{"short 9000, then empty", []step{{at(0), data(254, "9000")}, {at(254), data(10, "9000")}, {at(264), "9000"}}, 264},
		{"61xx with data", []step{{at(0), data(256, "6100")}, {at(256), data(256, "611E")}, {at(512), data(30, "6282")}}, 542},
		{"empty file, 6282", []step{{at(0), "6282"}}, 0},
		{"empty file, 9000", []step{{at(0), "9000"}}, 0},
		{"empty file, 6B00", []step{{at(0), "6B00"}}, 0},
	} {
		s, card := scripted(t, "03 05")
		s.expect(c.steps...)
		got, err := card.ReadFile(context.Background(), DescriptionFile(1))
		if err != nil || got == nil || !bytes.Equal(got, bytes.Repeat([]byte{0x5A}, c.size)) {
			t.Errorf("%s: %d bytes, %v, want %d", c.name, len(got), err, c.size)
		}
		s.done()
	}
	for _, c := range []struct {
		name  string
		steps []step
		want  error
	}{
		{"missing", []step{{at(0), "6A82"}}, apdu.ErrNotFound},
		{"protected", []step{{at(0), "6982"}}, apdu.ErrNotAuthorised},
		{"refused in the middle", []step{{at(0), data(256, "9000")}, {at(256), "6F00"}}, apdu.ErrInternal},
		{"61xx without data", []step{{at(0), "6110"}}, nil},
	} {
		s, card := scripted(t, "03 05")
		s.expect(c.steps...)
		got, err := card.ReadFile(context.Background(), DescriptionFile(1))
		if err == nil || got != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
		s.done()
	}
}

// A file that never ends is an error, not an endless loop.
func TestReadWithoutEnd(t *testing.T) {
	_, card := scripted(t, "03 05")
	card.t = answerAll(append(make([]byte, 256), 0x90, 0x00))
	if _, err := card.ReadFile(context.Background(), DescriptionFile(1)); err == nil {
		t.Error("no error")
	}
}

// answerAll gives one answer to everything.
type answerAll []byte

func (a answerAll) Transmit(context.Context, []byte) ([]byte, error) { return bytes.Clone(a), nil }
func (answerAll) Begin(context.Context) error                        { return nil }
func (answerAll) End() error                                         { return nil }
func (answerAll) MaxCommand() int                                    { return 0 }

func TestInitialiseBytes(t *testing.T) {
	ctx := context.Background()
	base := Initialisation{Options: OptionUnblock, PIN: testPIN(), SOPIN: testSOPIN()}
	after := []step{{selectBytes, fcp("03 05")}, {"00 B1 2F 02 04 54 02 00 00 00", "6A82"}, {verifyBytes, "9000"}}
	for _, c := range []struct {
		name   string
		change func(*Initialisation)
		bytes  string
		after  []step
	}{
		// the trace of the fact sheet (§2.4)
		{"one share", func(i *Initialisation) { i.Shares = 1 }, "80 50 00 00 1C 80 02 0001 81 06 363438323139 82 08 3537363231383830 91 01 03 92 01 01", after},
		{"random DKEK", func(*Initialisation) {}, "80 50 00 00 1C 80 02 0001 81 06 363438323139 82 08 3537363231383830 91 01 03 92 01 00", after},
		{"no DKEK", func(i *Initialisation) { i.NoDKEK, i.Shares = true, 1 }, "80 50 00 00 19 80 02 0001 81 06 363438323139 82 08 3537363231383830 91 01 03", after},
		{"key domains", func(i *Initialisation) { i.Domains, i.PINTries, i.Options = 4, 1, 0x0021 }, "80 50 00 00 1C 80 02 0021 81 06 363438323139 82 08 3537363231383830 91 01 01 97 01 04", after},
		{"transport PIN", func(i *Initialisation) { i.Options = OptionTransportPIN }, "80 50 00 00 1C 80 02 0002 81 06 363438323139 82 08 3537363231383830 91 01 03 92 01 00", after[:2]},
		{"label", func(i *Initialisation) { i.Label = "src" }, "80 50 00 00 1C 80 02 0001 81 06 363438323139 82 08 3537363231383830 91 01 03 92 01 00",
			append(after[:3:3], step{"00 D7 2F 03 14 54 02 00 00 53 0E 30 0C 02 01 00 80 03 73 72 63 03 02 05 20", "9000"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, card := scripted(t, "03 05")
			i := base
			c.change(&i)
			s.expect(step{"00 20 00 88", "6A88"}, step{"00 20 00 81", "6A88"}, step{c.bytes, "9000"})
			s.expect(c.after...)
			if err := card.Initialise(ctx, i); err != nil {
				t.Fatal(err)
			}
			s.done()
			checkWiped(t, s)
		})
	}
	for _, c := range []struct {
		name   string
		change func(*Initialisation)
	}{
		{"short PIN", func(i *Initialisation) { i.PIN = secret.New([]byte("12345")) }},
		{"long PIN", func(i *Initialisation) { i.PIN = secret.New(make([]byte, 17)) }},
		{"no PIN", func(i *Initialisation) { i.PIN = nil }},
		{"short SO-PIN", func(i *Initialisation) { i.SOPIN = secret.New(make([]byte, 7)) }},
		{"no SO-PIN", func(i *Initialisation) { i.SOPIN = nil }},
		{"4 tries for 6 characters", func(i *Initialisation) { i.PINTries = 4 }},
		{"6 tries for 7 characters", func(i *Initialisation) { i.PINTries, i.PIN = 6, secret.New([]byte("1234567")) }},
		{"11 tries", func(i *Initialisation) { i.PINTries, i.PIN = 11, secret.New([]byte("12345678")) }},
		{"negative tries", func(i *Initialisation) { i.PINTries = -1 }},
		{"256 shares", func(i *Initialisation) { i.Shares = 256 }},
		{"-1 shares", func(i *Initialisation) { i.Shares = -1 }},
		{"256 domains", func(i *Initialisation) { i.Domains = 256 }},
		{"domains and shares", func(i *Initialisation) { i.Domains, i.Shares = 1, 1 }},
		{"domains without DKEK", func(i *Initialisation) { i.Domains, i.NoDKEK = 1, true }},
		{"label and transport PIN", func(i *Initialisation) { i.Label, i.Options = "x", OptionTransportPIN }},
	} {
		s, card := scripted(t, "03 05") // expects nothing
		i := base
		c.change(&i)
		if err := card.Initialise(ctx, i); err == nil {
			t.Errorf("%s: no error", c.name)
		}
		s.done()
	}
	s, card := scripted(t, "02 06")
	i := base
	i.Domains = 1
	if err := card.Initialise(ctx, i); err == nil {
		t.Error("key domains on version 2.6: no error")
	}
	s.done()
}

// checkWiped looks at the buffers that commands were in: a PIN or a share must
// not stay behind.
func checkWiped(t *testing.T, s *script) {
	t.Helper()
	for _, b := range s.sent {
		if !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("a command stays in memory: % X", b)
		}
		if rest := b[len(b):cap(b)]; !bytes.Equal(rest, make([]byte, len(rest))) {
			t.Errorf("something stays in memory behind a command: % X", rest)
		}
	}
}

func TestSecretsAreWiped(t *testing.T) {
	ctx := context.Background()
	s, card := scripted(t, "03 05")
	scriptedLogin(t, s, card)
	s.expect(step{"80 52 00 00 20 * 00", "01 00 1122334455667788 9000"})
	share := bytes.Repeat([]byte{9}, 32)
	if _, err := card.LoadShare(ctx, 0, share); err != nil {
		t.Fatal(err)
	}
	if share[0] != 9 {
		t.Error("the caller's share was cleared")
	}
	checkWiped(t, s)
	kept := card.pin
	if kept.Len() != 6 {
		t.Fatal("the PIN is not kept")
	}
	card.Close()
	if kept.Len() != 0 || card.pin != nil || card.loggedIn {
		t.Error("Close does not forget the PIN")
	}
	for _, sw := range []string{"63C2", "6983", "6F00"} {
		s, card := scripted(t, "03 05")
		s.expect(step{statusBytes, "63C3"}, step{verifyBytes, sw})
		pin := testPIN()
		if err := card.Login(ctx, pin, false); err == nil || card.pin.Len() != 0 {
			t.Errorf("%s: %v, %d bytes of a refused PIN are kept", sw, err, card.pin.Len())
		}
		if pin.Len() != 6 {
			t.Error("the caller's PIN was cleared")
		}
		checkWiped(t, s)
	}
}

// Big blobs go through EF 2F10; tokens that lack that way get them in one
// command, if it fits (fact sheet §2.10, §2.12).
func TestUnwrapWays(t *testing.T) {
	ctx := context.Background()
	deleted, clean := step{"00 E4 02 00 02 2F 10", "6A82"}, step{"00 E4 02 00 02 2F 10", "9000"}
	file := func(n int, sw string) []step {
		var list []step
		for at := 0; at < n; at += 248 {
			list = append(list, step{fmt.Sprintf("00 D7 2F 10 * %s", strings.Repeat("B1", min(248, n-at))), sw})
			if sw != "9000" {
				break
			}
		}
		return list
	}
	byFile := func(n int, sw string) []step {
		return append(append([]step{deleted}, file(n, "9000")...), step{"80 74 05 93", sw}, clean)
	}
	// looked is what follows an answer that leaves open whether there is a key now.
	looked := func(sw string) step { return step{"00 A4 00 00 02 CC 05 00", sw} }
	direct := func(n int, sw string) step {
		return step{fmt.Sprintf("80 74 05 93 00 %04X", n) + strings.Repeat("B1", n), sw}
	}
	for _, c := range []struct {
		name    string
		version string
		max     int
		size    int
		steps   []step
		want    error
	}{
		{"the longest direct one", "03 05", 0, 993, []step{direct(993, "9000")}, nil},
		{"one more", "03 05", 0, 994, byFile(994, "9000"), nil},
		{"RSA-4096", "03 05", 0, 1099, byFile(1099, "9000"), nil},
		{"RSA-4096 as type 06", "02 06", 0, 1867, byFile(1867, "9000"), nil},
		{"a reader of 500 bytes", "04 01", 500, 587, byFile(587, "9000"), nil},
		{"a reader of 500 bytes, EC", "04 01", 500, 363, []step{direct(363, "9000")}, nil},
		{"the token wants it by file", "03 05", 0, 587, append([]step{direct(587, "6700")}, byFile(587, "9000")...), nil},
		{"no UNWRAP by file, 6700", "04 01", 0, 1099, append(byFile(1099, "6700"), direct(1099, "9000")), nil},
		{"no UNWRAP by file, 6A80", "04 01", 0, 1099, append(byFile(1099, "6A80"), direct(1099, "9000")), nil},
		{"no such file", "04 01", 0, 1099, append(append([]step{deleted}, file(1099, "6A86")...), direct(1099, "9000")), nil},
		{"the file cannot be deleted", "03 05", 0, 1099, append([]step{{deleted.command, "6986"}}, byFile(1099, "9000")[1:]...), nil},
		{"another DKEK", "03 05", 0, 363, []step{direct(363, "6A80")}, ErrUnwrapRefused},
		{"another DKEK, the imitation", "03 05", 0, 363, []step{direct(363, "6400")}, ErrUnwrapRefused},
		{"another DKEK, by file and in one", "04 01", 0, 1099, append(byFile(1099, "6A80"), direct(1099, "6A80")), ErrUnwrapRefused},
		{"another DKEK, the reader cuts", "04 01", 0, 1099, append(byFile(1099, "6A80"), direct(1099, "6700")), ErrUnwrapRefused},
		{"another DKEK, too long for one", "04 01", 0, 1867, byFile(1867, "6A80"), ErrUnwrapRefused},
		{"another DKEK, too long for the reader", "04 01", 1014, 1099, byFile(1099, "6A80"), ErrUnwrapRefused},
		{"1232 is the limit", "03 05", 0, 1226, byFile(1226, "6700"), apdu.ErrWrongLength},
		{"1232 fits", "03 05", 0, 1225, append(byFile(1225, "6700"), direct(1225, "9000")), nil},
		{"firmware 3.1", "03 01", 0, 1099, slices.Insert(byFile(1099, "6F00"), 7, looked("6A82")), apdu.ErrInternal},
		{"done, but not said", "03 05", 0, 363, []step{direct(363, "6F00"), looked("9000")}, nil},
		{"not seen whether", "03 05", 0, 363, []step{direct(363, "6581"), looked("6581")}, apdu.ErrInternal},
		{"full", "03 05", 0, 363, []step{direct(363, "6A84"), direct(363, "6A84"), direct(363, "6A84"), direct(363, "6A84")}, apdu.ErrNoMemory},
		{"garbage first", "03 05", 0, 363, []step{direct(363, "6A84"), direct(363, "6A84"), direct(363, "9000")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, card := scripted(t, c.version)
			s.max = c.max
			s.expect(c.steps...)
			err := card.Unwrap(ctx, 5, bytes.Repeat([]byte{0xB1}, c.size))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			s.done()
		})
	}
}

// Nothing longer than token or reader carry is sent.
func TestTooLong(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		version  string
		max, fit int // fit: bytes of data beside header, Lc and Le of 9 bytes
	}{
		{"03 05", 0, 1232 - 9}, {"04 01", 0, 1454 - 9}, {"02 05", 0, 1454 - 9}, {"04 01", 1014, 1014 - 9}, {"03 05", 65544, 1232 - 9},
	} {
		s, card := scripted(t, c.version)
		s.max = c.max
		s.expect(step{"80 68 01 20 * 0000", "AA 9000"})
		if _, err := card.Sign(ctx, 1, RSARaw, make([]byte, c.fit)); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		s.done()
		_, err := card.Sign(ctx, 1, RSARaw, make([]byte, c.fit+1))
		if !errors.Is(err, ErrTooLong) || !strings.Contains(err.Error(), "SIGN with key 1") {
			t.Errorf("%+v, one more: %v", c, err)
		}
		s.done()
	}
}

// Arguments that would become something else on the wire are refused before
// anything is sent.
func TestRefusedArguments(t *testing.T) {
	ctx := context.Background()
	s, c := scripted(t, "03 05")
	spec := cvc.KeySpec{RSABits: 2048, RSAExponent: 65537}
	for name, call := range map[string]func() error{
		"device key, generate":    func() error { _, err := c.Generate(ctx, 0, spec); return err },
		"device key, AES":         func() error { return c.GenerateAES(ctx, 0, 128, nil) },
		"device key, unwrap":      func() error { return c.Unwrap(ctx, 0, make([]byte, 363)) },
		"device key, delete":      func() error { return c.DeleteFile(ctx, KeyFile(0)) },
		"device key, if there":    func() error { return c.DeleteFileIfThere(ctx, KeyFile(0)) },
		"empty blob":              func() error { return c.Unwrap(ctx, 5, nil) },
		"AES of 512 bits":         func() error { return c.GenerateAES(ctx, 1, 512, nil) },
		"17 algorithms":           func() error { return c.GenerateAES(ctx, 1, 128, make([]byte, 17)) },
		"domain 256":              func() error { _, err := c.Domain(ctx, 256); return err },
		"domain -1":               func() error { _, err := c.CreateDomain(ctx, -1, 1); return err },
		"share for domain 256":    func() error { _, err := c.LoadShare(ctx, 256, make([]byte, 32)); return err },
		"domain of 0 shares":      func() error { _, err := c.CreateDomain(ctx, 0, 0); return err },
		"domain of 256 shares":    func() error { _, err := c.CreateDomain(ctx, 0, 256); return err },
		"share of 31 bytes":       func() error { _, err := c.LoadShare(ctx, 0, make([]byte, 31)); return err },
		"file of 64 KiB":          func() error { return c.WriteFile(ctx, CertificateFile(1), make([]byte, 65536)) },
		"PIN of 5":                func() error { return c.Login(ctx, secret.New([]byte("12345")), true) },
		"PIN of 17":               func() error { return c.Login(ctx, secret.New(make([]byte, 17)), true) },
		"no PIN":                  func() error { return c.Login(ctx, nil, true) },
		"set-up without login":    func() error { _, err := c.PINSetUp(ctx); return err },
		"genuine, no certificate": func() error { _, err := c.Genuine(ctx, cvc.VendorRoots()); return err },
	} {
		if call() == nil {
			t.Errorf("%s: no error", name)
		}
		s.done()
	}
}

// A token before 2.4 would take the question for its memory as INITIALIZE; one
// before 3.0 is not known to look at the number of a key domain.
func TestOldTokens(t *testing.T) {
	ctx := context.Background()
	s, c := scripted(t, "02 00")
	if _, err := c.Memory(ctx); err == nil {
		t.Error("version 2.0 is asked for its memory")
	}
	s.expect(step{"80 52 00 00 00", "01 00 1122334455667788 9000"})
	if d, err := c.Domains(ctx); err != nil || len(d) != 1 || !d[0].Ready() {
		t.Errorf("%+v, %v", d, err)
	}
	s.done()
	s, c = scripted(t, "01 02")
	s.expect(step{statusBytes, "6984"})
	if p, err := c.PIN(ctx); err != nil || !p.Missing || p.Transport {
		t.Errorf("6984 of version 1.2: %+v, %v", p, err)
	}
	s.done()
}

func TestDomains(t *testing.T) {
	ctx := context.Background()
	ask := func(n int) string { return fmt.Sprintf("80 52 00 %02X 00", n) }
	const ready = "01 00 1122334455667788 9000"
	for _, c := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"classic", []step{{ask(0), ready}, {ask(1), "6A86"}}, "0:ready"},
		{"slots", []step{{ask(0), "6A88"}, {statusBytes, "63C3"}, {ask(1), ready}, {ask(2), "6A88"}, {ask(3), "02 01 0000000000000000 9000"}, {ask(4), "6A86"}}, "0:empty 1:ready 2:empty 3:waits"},
		{"no DKEK", []step{{ask(0), "6D00"}, {statusBytes, "63C3"}}, ""},
		{"never initialised", []step{{ask(0), "6A88"}, {statusBytes, "6A88"}}, ""},
		{"never initialised, the imitation", []step{{ask(0), "6B00"}}, ""},
	} {
		s, card := scripted(t, "03 05")
		s.expect(c.steps...)
		list, err := card.Domains(ctx)
		var got []string
		for _, d := range list {
			state := "waits"
			if d.Empty {
				state = "empty"
			} else if d.Ready() {
				state = "ready"
			}
			got = append(got, fmt.Sprintf("%d:%s", d.Number, state))
		}
		if text := strings.Join(got, " "); err != nil || text != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, text, err, c.want)
		}
		s.done()
	}
	for _, answer := range []string{"01 00 11223344556677 9000", "9000", "6F00"} {
		s, card := scripted(t, "03 05")
		s.expect(step{ask(0), answer})
		if list, err := card.Domains(ctx); err == nil {
			t.Errorf("%s gives %+v", answer, list)
		}
	}
}

func TestParseSOPIN(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"3537363231383830", "57621880"}, // the vendor's default
		{"0123456789abcdEF", "\x01\x23\x45\x67\x89\xAB\xCD\xEF"},
	} {
		b, err := ParseSOPIN([]byte(c.text))
		if err != nil || string(b.Bytes()) != c.want {
			t.Errorf("%s: %x, %v", c.text, b.Bytes(), err)
		}
	}
	for _, text := range []string{"", "353736323138383", "35373632313838300", "353736323138383g", "35373632 1838300", "35373632313838é"} {
		if b, err := ParseSOPIN([]byte(text)); !errors.Is(err, ErrSOPINFormat) {
			t.Errorf("%q is taken: %v, %v", text, b, err)
		}
	}
}
