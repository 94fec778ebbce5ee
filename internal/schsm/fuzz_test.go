package schsm

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"hsmbackup/internal/apdu"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/softtoken"
)

// tape gives answers from a tape: a byte of length, then that many bytes. At
// its end the token is gone. A length of 255 is a reset.
type tape struct{ left []byte }

func (p *tape) Transmit(context.Context, []byte) ([]byte, error) {
	if len(p.left) == 0 {
		return nil, apdu.ErrGone
	}
	n := int(p.left[0])
	if n == 255 {
		p.left = p.left[1:]
		return nil, apdu.ErrReset
	}
	n = min(n, len(p.left)-1)
	answer := p.left[1 : 1+n]
	p.left = p.left[1+n:]
	return bytes.Clone(answer), nil
}

func (p *tape) Begin(context.Context) error {
	if len(p.left) > 0 && p.left[0] == 254 {
		p.left = p.left[1:]
		return apdu.ErrReset
	}
	return nil
}
func (*tape) End() error      { return nil }
func (*tape) MaxCommand() int { return 0 }

// record makes a tape of what a software token answers.
type record struct {
	*softtoken.Token
	tape []byte
}

func (r *record) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	answer, err := r.Token.Transmit(ctx, command)
	if err == nil && len(answer) < 254 {
		r.tape = append(append(r.tape, byte(len(answer))), answer...)
	}
	return answer, err
}

// everything calls every method. What comes out does not matter here.
func everything(t testing.TB, ctx context.Context, c *Card, token *softtoken.Token) {
	roots := token.Roots()
	if c.Login(ctx, testPIN(), false) == nil && c.pin.Len() != 6 {
		t.Error("logged in without a PIN")
	}
	_ = c.Initialise(ctx, Initialisation{PIN: testPIN(), SOPIN: testSOPIN(), Shares: 1, Label: "x"})
	_, _ = c.Domains(ctx)
	_, _ = c.CreateDomain(ctx, 1, 1)
	_, _ = c.LoadShare(ctx, 0, testShare())
	_, _ = c.Genuine(ctx, roots)
	_, _ = c.PINSetUp(ctx)
	_, _ = c.Memory(ctx)
	_, _ = c.Enumerate(ctx)
	_, _ = c.SOPIN(ctx)
	_, _ = c.Initialised(ctx)
	_ = c.Confirm(ctx)
	_, _ = c.Key(ctx, 1)
	spec := specFor(c)
	spec.Curve = curve.ByName("P-256")
	_, _ = c.Generate(ctx, 1, spec)
	_ = c.GenerateAES(ctx, 2, 128, aesSpec)
	_, _ = c.Sign(ctx, 1, ECDSA, make([]byte, 32))
	_, _ = c.Decipher(ctx, 1, ECDH, make([]byte, 65))
	_, _ = c.Symmetric(ctx, 2, AESEncrypt, make([]byte, 16))
	_, _ = c.Wrap(ctx, 1)
	_ = c.Unwrap(ctx, 3, make([]byte, 363))
	_ = c.Unwrap(ctx, 3, make([]byte, 1099))
	_ = c.WriteFile(ctx, 0xCF01, make([]byte, 300))
	_, _ = c.ReadFile(ctx, 0xCF01)
	_ = c.DeleteFileIfThere(ctx, 0xCF01)
	_, _, _, _ = c.Serial(), c.Version(), c.Options(), c.Software()
	c.Close()
}

// seed is the tape of a whole life.
func seed(t testing.TB) (*softtoken.Token, []byte) {
	t.Helper()
	ctx := context.Background()
	token, err := softtoken.New(softtoken.Options{Serial: "SOFT0200001"})
	if err != nil {
		t.Fatal(err)
	}
	r := &record{Token: token}
	c, err := Open(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	everything(t, ctx, c, token)
	return token, r.tape
}

func play(t testing.TB, token *softtoken.Token, answers []byte) {
	ctx := context.Background()
	c, err := Open(ctx, &tape{answers})
	if err != nil {
		// A card that cannot be opened from this tape is opened from a token,
		// so that the tape reaches the other methods.
		token.Reset()
		if c, err = Open(ctx, token); err != nil {
			t.Fatal(err)
		}
		c.t = &tape{answers}
	}
	everything(t, ctx, c, token)
}

// Whatever a token answers, no method panics or hangs.
func FuzzAnswers(f *testing.F) {
	token, life := seed(f)
	f.Add(life)
	f.Add([]byte{2, 0x90, 0})
	f.Add([]byte{255, 254, 0, 1, 0x90})
	f.Fuzz(func(t *testing.T, answers []byte) { play(t, token, answers) })
}

// The same without the fuzzer, on mutations of a life, in every run.
func TestRandomAnswers(t *testing.T) {
	token, life := seed(t)
	words := [][]byte{{2, 0x90, 0}, {2, 0x69, 0x82}, {2, 0x6A, 0x84}, {2, 0x6D, 0}, {2, 0x63, 0xC1}, {2, 0x67, 0}, {2, 0x62, 0x82}, {2, 0x61, 0}, {0}, {1, 0x90}, {255}, {254}, {255, 255, 255}}
	random := rand.New(rand.NewPCG(1, 2))
	for range 120 {
		answers := bytes.Clone(life)
		for range 1 + random.IntN(6) {
			at := random.IntN(len(answers))
			switch random.IntN(4) {
			case 0:
				answers[at] = byte(random.Uint32())
			case 1:
				answers = answers[:at+1]
			case 2:
				w := words[random.IntN(len(words))]
				answers = append(answers[:at:at], append(bytes.Clone(w), answers[at:]...)...)
			default:
				answers = append(answers[:at:at], answers[min(at+random.IntN(30), len(answers)-1):]...)
			}
		}
		play(t, token, answers)
	}
	for range 120 { // nothing but status words
		var answers []byte
		for range 200 {
			answers = append(answers, words[random.IntN(len(words))]...)
		}
		play(t, token, answers)
	}
}
