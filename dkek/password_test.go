package dkek

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCheckPassword(t *testing.T) {
	for _, pw := range []string{
		"abandon rocket velvet oyster lamp quarter mushroom",
		"abandonrocketvelvetoysterlampquartermushroom",
		"rocket-velvet-oyster-lamp-quarter-mushroom",
		"Xk9fQ2mPz7LwR4tB",
		"zqkxwvjhtgbpmdlcrfns",
		"f3a9b1c07d5e42886ab0c93d1e7f5a24",
		"8213057964021375846098",
		"正確馬電池釘書針山川海空風雲",
	} {
		if err := CheckPassword([]byte(pw)); err != nil {
			t.Errorf("%q is refused: %v", pw, err)
		}
	}
}

func TestCheckPasswordReject(t *testing.T) {
	for _, pw := range []string{
		"",
		"a",
		"password",
		"Password123!",
		"P@ssw0rd!2024",
		"testpw-1",
		"correct horse",
		"battery staple 9",
		"correct horse battery staple",
		"correcthorsebatterystaple",
		"648219",
		"3537363231383830",
		"Sommer2024!Winter2025?",
		"DENK0404144",
		"qwertzuiopasdfghjklyxcvbnm",
		"abcdefghijklmnopqrstuvwxyz0123456789",
		"98765432109876543210",
		strings.Repeat("a", 200),
		strings.Repeat("correct horse ", 20),
		strings.Repeat("Xk9fQ2mP", 8),
		"to be or not to be",
		"Nitrokey HSM 2 Backup",
		"abandon rocket velvet oyster lamp",
		"abandon rocket velvet oyster lamp quarter mushroom\n",
		"abandon rocket velvet oyster lamp quarter mushroom\x00",
	} {
		err := CheckPassword([]byte(pw))
		if !errors.Is(err, ErrWeakPassword) {
			t.Errorf("%q is taken: %v", pw, err)
			continue
		}
		if pw != "a" && pw != "" && strings.Contains(err.Error(), pw) && pw != "password" {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

// Random passwords are worth no more than they are, and long ones are taken.
func TestPasswordBitsOfRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		alphabet    string
		length      int
		true, least float64
	}{
		{"abcdefghijklmnopqrstuvwxyz", 24, 112.8, 60},
		{"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 20, 119.1, 60},
		{"0123456789abcdef", 32, 128, 60},
		{"0123456789", 24, 79.7, 60},
	} {
		taken := 0
		sum := 0.0
		const n = 300
		for range n {
			pw := make([]rune, c.length)
			for i := range pw {
				pw[i] = rune(c.alphabet[r.IntN(len(c.alphabet))])
			}
			bits := passwordBits(pw)
			sum += bits
			if bits >= c.least {
				taken++
			}
		}
		if sum/n > c.true {
			t.Errorf("%d of %s: %.0f bits on average, they have %.0f", c.length, c.alphabet, sum/n, c.true)
		}
		if taken < n*8/10 {
			t.Errorf("%d of %s: only %d of %d taken, %.0f bits on average", c.length, c.alphabet, taken, n, sum/n)
		}
	}
}

func FuzzCheckPassword(f *testing.F) {
	f.Add([]byte("correct horse"))
	f.Add([]byte{0xFF, 0x80, 0})
	f.Fuzz(func(t *testing.T, pw []byte) {
		before := fmt.Sprintf("%x", pw)
		err := CheckPassword(pw)
		if len(pw) < 8 && err == nil {
			t.Errorf("%q is taken", pw)
		}
		if fmt.Sprintf("%x", pw) != before {
			t.Error("the password was changed")
		}
	})
}
